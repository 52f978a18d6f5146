"""A link of the chain from a container to a browser elsewhere is broken."""

from __future__ import annotations

from lab.breakages import Breakage, Proof
from lab.machine import Lab
from lab.outer import LabError, run

ENTRY = "browser-access"
COMPOSE = "/opt/stacks/ai/compose.yaml"
DROP_IN = "/etc/ssh/sshd_config.d/10-hardening.conf"
RELOAD = "sshd -t && systemctl reload ssh"

EDIT = """
cd "${1%/*}"
sed -i "$2" "$1"
docker compose -p pantheon-ai -f "$1" up -d --no-deps "$3" 2>&1
for _ in $(seq 150); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$3" 2>/dev/null)" = healthy ] && break
    sleep 0.2
done
"""

# What a browser sends through a tunnel when it opens the web socket of a page.
BROWSER = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    *("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Origin: http://127.0.0.1:3000"),
)


def forbid_forwarding(lab: Lab) -> None:
    """What a hardening guide says. OpenSSH's own client must meet it."""
    lab.sh(f"printf '%s\\n' 'X11Forwarding no' 'AllowTcpForwarding no' >{DROP_IN}; {RELOAD}")
    done = run(lab.ssh_argv("-W", "127.0.0.1:8188"), timeout=20)
    if b"forwarding failed" not in done.stderr:
        raise LabError(f"ssh -W to lab {lab.name} was not refused: {done.stderr.decode(errors='replace')}")


def allow_forwarding(lab: Lab) -> None:
    lab.sh(f"rm -f {DROP_IN}; {RELOAD}")


def another_origin(lab: Lab) -> None:
    lab.sh(EDIT, COMPOSE, '/ENABLE_OPENAI_API:/i\\      CORS_ALLOW_ORIGIN: "https://ai.example.org"', "openwebui")


def listen_inside_only(lab: Lab) -> None:
    lab.sh(EDIT, COMPOSE, 's/"--output-directory /"--listen 127.0.0.1 --output-directory /', "comfy")


BREAKAGES = (
    Breakage(
        ENTRY,
        "forwarding",
        "sshd forbids forwarding, so no tunnel can be opened",
        forbid_forwarding,
        Proof(("sshd", "-T"), "allowtcpforwarding no"),
        by_hand=True,
        heal=allow_forwarding,
    ),
    Breakage(
        ENTRY,
        "origin",
        "Open WebUI takes the web socket of another site's pages only: its page loads and stays dead",
        another_origin,
        Proof(
            (
                *("curl", "-sS", "-i", "--http1.1", "--max-time", "5"),
                *(word for header in BROWSER for word in ("-H", header)),
                "http://127.0.0.1:3000/ws/socket.io/?EIO=4&transport=websocket",
            ),
            "403 Forbidden",
        ),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "listen",
        "ComfyUI listens on its container's own loopback: healthy inside, and nobody answers outside",
        listen_inside_only,
        Proof(("curl", "-sS", "--max-time", "5", "http://127.0.0.1:8188/"), "Connection reset by peer"),
        slow=True,
    ),
)
