"""Something of the stack, or Docker's API, is open to the network."""

from __future__ import annotations

from lab import faults
from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "exposed-ports"
COMPOSE = "/opt/stacks/ai/compose.yaml"

# What somebody does who cannot reach ComfyUI with a browser: edits the file, and runs `up`.
EDIT = """
cd "${1%/*}"
sed -i "$2" "$1"
docker compose -p pantheon-ai -f "$1" up -d --no-deps "$3" 2>&1
"""

API = """
cp -a /etc/docker/daemon.json /var/lib/lab/daemon.json.before
python3 - <<'END'
import json
path = "/etc/docker/daemon.json"
config = json.load(open(path))
# tls false: said aloud, dockerd does not hold its start back for 15 seconds.
config |= {"hosts": ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2375"], "tls": False}
open(path, "w").write(json.dumps(config, indent=4) + "\\n")
END
mkdir -p /etc/systemd/system/docker.service.d
cat >/etc/systemd/system/docker.service.d/10-hosts.conf <<'END'
[Service]
# hosts are in daemon.json: given here too, dockerd would not start
ExecStart=
ExecStart=/usr/bin/dockerd --containerd=/run/containerd/containerd.sock
END
systemctl daemon-reload
systemctl reset-failed docker.service
systemctl restart docker.service
"""

UNIT = """
mkdir -p /etc/systemd/system/docker.service.d
cat >/etc/systemd/system/docker.service.d/tcp.conf <<'END'
[Service]
ExecStart=
ExecStart=/usr/bin/dockerd -H fd:// \\
    -H tcp://0.0.0.0:2375 --tls=false \\
    --containerd=/run/containerd/containerd.sock
END
systemctl daemon-reload
systemctl reset-failed docker.service
systemctl restart docker.service
"""

IS_CHANGED = """
ls /var/lib/lab/daemon.json.before /etc/systemd/system/docker.service.d/10-hosts.conf \\
    /etc/systemd/system/docker.service.d/tcp.conf 2>/dev/null || true
"""

AS_SHIPPED = """
if [ -e /var/lib/lab/daemon.json.before ]; then
    mv /var/lib/lab/daemon.json.before /etc/docker/daemon.json
fi
rm -f /etc/systemd/system/docker.service.d/10-hosts.conf /etc/systemd/system/docker.service.d/tcp.conf
systemctl daemon-reload
systemctl reset-failed docker.service
systemctl restart docker.socket docker.service
"""

HEALTHY = """
for name in comfy ollama openwebui; do
    for _ in $(seq 150); do
        [ "$(docker inspect -f '{{.State.Health.Status}}' "$name" 2>/dev/null)" = healthy ] && break
        sleep 0.2
    done
done
"""


def publish(lab: Lab) -> None:
    lab.sh(EDIT, COMPOSE, 's/"127.0.0.1:8188:8188"/"8188:8188"/', "comfy")
    lab.sh(HEALTHY)


def open_api(lab: Lab) -> None:
    lab.sh(API)
    lab.sh(HEALTHY)


def open_api_by_unit(lab: Lab) -> None:
    lab.sh(UNIT)
    lab.sh(HEALTHY)


def close_api(lab: Lab) -> None:
    if not lab.sh(IS_CHANGED).strip():
        return
    lab.sh(AS_SHIPPED)
    faults.start_engine(lab)
    lab.sh(HEALTHY)


BREAKAGES = (
    Breakage(
        ENTRY,
        "published",
        "comfy's port is published on every address by an edited compose.yaml",
        publish,
        Proof(("docker", "port", "comfy"), "8188/tcp -> 0.0.0.0:8188"),
    ),
    Breakage(
        ENTRY,
        "docker-api",
        "Docker's API listens on tcp://0.0.0.0:2375, told so by daemon.json",
        open_api,
        Proof(("curl", "-sS", "http://127.0.0.1:2375/version"), '"ApiVersion"'),
        heal=close_api,
        slow=True,
    ),
    Breakage(
        ENTRY,
        "docker-api-unit",
        "the same by a drop-in of docker.service, which is somebody's own file",
        open_api_by_unit,
        Proof(("curl", "-sS", "http://127.0.0.1:2375/version"), '"ApiVersion"'),
        by_hand=True,
        heal=close_api,
        slow=True,
    ),
)
