"""The engine restarted with another data-root, without the toolkit: the card's services stay down, and so does another
that somebody has stopped. All in one round, since each restart costs seconds."""

from __future__ import annotations

from lab import faults
from lab.breakages.docker_down import wait_healthy
from lab.machine import Lab
from lab.violations import Violation

ELSEWHERE = "/srv/docker"
KEPT = "/var/lib/lab/daemon.json.audited"
HOOK = "/usr/bin/nvidia-container-runtime-hook"
ERROR = "!! ERROR: Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0"


def plant(lab: Lab) -> None:
    """ComfyUI's log is emptied, and then says what it says of a wrong owner. data-root leads to the same files."""
    lab.sh(
        """
        log=$(docker inspect -f '{{.LogPath}}' comfy); : >"$log"
        printf '{"log":"%s\\\\n","stream":"stdout","time":"%s"}\\n' "$4" "$(date -u +%FT%T.%NZ)" >>"$log"
        docker stop -t 5 openwebui >/dev/null
        cp -a /etc/docker/daemon.json "$2"; mkdir -p "$1"; mount --bind /var/lib/docker "$1"
        mv "$3" "$3.away"
        """,
        ELSEWHERE,
        KEPT,
        HOOK,
        ERROR,
    )
    lab.sh(
        "python3 - \"$1\" <<'END'\n"
        "import json, sys\n"
        'path = "/etc/docker/daemon.json"\n'
        'config = json.load(open(path)) | {"data-root": sys.argv[1]}\n'
        'config.pop("runtimes", None)\n'
        'open(path, "w").write(json.dumps(config, indent=4) + "\\n")\n'
        "END\n"
        "systemctl reset-failed docker.service; systemctl restart docker.service",
        ELSEWHERE,
    )


def undo(lab: Lab) -> None:
    lab.sh(
        """
        [ ! -e "$2" ] || mv "$2" /etc/docker/daemon.json
        [ ! -e "$3.away" ] || mv "$3.away" "$3"
        systemctl stop docker.socket docker.service
        while mountpoint -q "$1"; do umount -l "$1"; done; rmdir "$1" 2>/dev/null || true
        """,
        ELSEWHERE,
        KEPT,
        HOOK,
    )
    faults.start_engine(lab)
    lab.sh("docker start ollama comfy openwebui >/dev/null")
    wait_healthy(lab)


NAMES = ("comfy", "ollama", "openwebui")
ROUND = "restarted"

VIOLATIONS = (
    Violation("docker.root", ELSEWHERE, plant, undo, round=ROUND),
    Violation("toolkit.hook", "without nvidia-container-runtime-hook", round=ROUND),
    Violation("toolkit.runtime", "does not know the nvidia runtime", round=ROUND),
    *(Violation(f"stack.{name}-up", f"{name} is exited", round=ROUND) for name in NAMES),
    *(Violation(f"stack.{name}-answers", f"{name} does not answer", round=ROUND) for name in NAMES),
    *(Violation(f"stack.{name}-tunnel", f"{name} does not answer", round=ROUND) for name in NAMES),
    Violation("stack.comfy-log", "owned by unexpected", round=ROUND),
    Violation("stack.comfy-started", 'does not say "Starting server"', round=ROUND),
)
