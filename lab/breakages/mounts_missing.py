"""A disk that is not mounted: under a stack that was stopped, under one that runs, and with Docker's leavings there."""

from __future__ import annotations

from functools import partial

from lab import faults
from lab.breakages import Breakage, Proof
from lab.breakages.docker_down import wait_healthy
from lab.drill import see
from lab.machine import Lab

NVME, SSD = faults.DISKS["nvme"], faults.DISKS["ssd"]
STACK = "ollama comfy openwebui"


def not_started(lab: Lab) -> None:
    """As after a boot on which the disk was late: the containers cannot be started."""
    lab.sh(f"docker stop {STACK} >/dev/null")
    faults.unmount(lab, "nvme")
    lab.sh(f"docker start {STACK} >/dev/null 2>&1 || true")


def docker_made_it(lab: Lab) -> None:
    """A container of somebody's, with a short bind, has Docker make an empty directory where the disk should be."""
    faults.unmount(lab, "ssd")
    lab.sh("docker run --rm -v /mnt/local/ssd/ai/projects/openwebui:/data --entrypoint true ollama/ollama:latest")
    lab.sh("docker restart -t 5 comfy >/dev/null 2>&1 || true")


def written_beside(lab: Lab) -> None:
    """Open WebUI is restarted on the directory that Docker made, and begins a new database there: on the root disk."""
    docker_made_it(lab)
    lab.sh("docker restart -t 5 openwebui >/dev/null")
    see(lab, Proof(("ls", "/mnt/local/ssd/ai/projects/openwebui"), "webui.db"))


def move_aside(lab: Lab) -> None:
    """What the fix tells a human to do; what was written is kept until here, and is the lab's own."""
    lab.sh(
        "mountpoint -q /mnt/local/ssd || { docker stop comfy openwebui >/dev/null; "
        "mv /mnt/local/ssd /mnt/local/ssd.on-the-root-disk; mkdir /mnt/local/ssd; }"
    )
    heal(lab, "ssd")
    lab.sh("rm -rf /mnt/local/ssd.on-the-root-disk")


def heal(lab: Lab, disk: str) -> None:
    faults.mount(lab, disk)
    lab.sh(f"for name in {STACK}; do docker start $name >/dev/null; done")
    wait_healthy(lab)


BREAKAGES = (
    Breakage(
        *("mounts-missing", "nvme", "the NVMe disk is not mounted, and the stack cannot start", not_started),
        Proof(("docker", "start", "comfy"), "bind source path does not exist: /mnt/local/nvme"),
        heal=partial(heal, disk="nvme"),
    ),
    Breakage(
        *("mounts-missing", "ssd", "the SSD is not mounted, and Docker made directories there", docker_made_it),
        Proof(("findmnt", "--noheadings", "-o", "TARGET", "-T", f"{SSD}/ai"), "/\n"),
        heal=partial(heal, disk="ssd"),
        slow=True,
    ),
    Breakage(
        *("mounts-missing", "running", "the NVMe disk is unmounted while the stack runs on it"),
        partial(faults.unmount, disk="nvme"),
        Proof(("sh", "-c", f"mountpoint {NVME}"), "is not a mountpoint"),
        heal=partial(heal, disk="nvme"),
        slow=True,
    ),
    Breakage(
        *("mounts-missing", "written", "Open WebUI began anew where the SSD should be", written_beside),
        Proof(("sh", "-c", f"mountpoint {SSD}"), "is not a mountpoint"),
        by_hand=True,
        heal=move_aside,
        slow=True,
    ),
)
