"""Docker's engine: stopped, with a daemon.json that it cannot read, without containerd, killed."""

from __future__ import annotations

from lab import faults
from lab.breakages import Breakage, Proof
from lab.drill import see
from lab.machine import Lab

CONFIG = "/etc/docker/daemon.json"
KEPT = "/root/daemon.json.before-the-lab-broke-it"
NO_ENGINE = Proof(("docker", "ps"), "Cannot connect to the Docker daemon")


def spoil_config(lab: Lab) -> None:
    """A comma too many, and then the restart that brings it to light."""
    lab.sh('[ -e "$2" ] || cp -p "$1" "$2"; sed -i \'0,/"10m"/s//"10m",/\' "$1"', CONFIG, KEPT)
    lab.exec("systemctl", "restart", "docker.service", check=False)
    see(lab, Proof(("systemctl", "is-active", "docker.service"), "failed"))


def mend_config(lab: Lab) -> None:
    """What the fix tells a human to do: correct the file. The engine is started as well."""
    if lab.exec("test", "-e", KEPT, check=False).returncode == 0:
        lab.sh('mv -f "$2" "$1"', CONFIG, KEPT)
        back(lab)


def back(lab: Lab) -> None:
    """Everything runs again, whatever became of the drill."""
    faults.start_engine(lab)
    lab.sh("docker start ollama comfy openwebui >/dev/null")
    wait_healthy(lab)


def wait_healthy(lab: Lab) -> None:
    for name in ("ollama", "comfy", "openwebui"):
        see(lab, Proof(("docker", "inspect", "-f", "={{.State.Health.Status}}", name), "=healthy"))


def stop_containerd(lab: Lab) -> None:
    lab.exec("systemctl", "stop", "containerd.service")


def kill(lab: Lab) -> None:
    """kill -9 of dockerd: systemd starts it again, and it ends the containers that it finds."""
    faults.kill_engine(lab)
    see(lab, Proof(("docker", "inspect", "-f", "{{.State.Status}}", "comfy"), "exited"))


def heal(lab: Lab) -> None:
    if lab.exec("docker", "images", check=False).returncode != 0:
        back(lab)


BREAKAGES = (
    Breakage("docker-down", "stopped", "Docker is stopped", faults.stop_engine, NO_ENGINE, heal=heal),
    Breakage(
        *("docker-down", "config", "a comma too many in daemon.json, and a restart", spoil_config, NO_ENGINE),
        by_hand=True,
        heal=mend_config,
    ),
    Breakage(
        *("docker-down", "containerd", "containerd is stopped under the engine", stop_containerd),
        Proof(("docker", "images"), "containerd.sock"),
        heal=heal,
        slow=True,
    ),
    Breakage(
        *("docker-down", "killed", "kill -9 of dockerd, which comes back without its containers", kill),
        Proof(("docker", "exec", "comfy", "true"), "is not running"),
        heal=back,
        slow=True,
    ),
)
