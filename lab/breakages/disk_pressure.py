"""A disk that is full: of a download that broke off, of an old virtual environment, of images that nobody uses."""

from __future__ import annotations

from functools import partial

from lab import faults
from lab.breakages import Breakage, Proof
from lab.breakages.docker_down import back, wait_healthy
from lab.machine import Lab

OLLAMA, COMFY = "/mnt/local/nvme/ai/services/ollama", "/mnt/local/nvme/ai/services/comfy-mnt"
BLOB = f"{OLLAMA}/models/blobs/sha256-{'ab' * 32}-partial"
STORE = "/var/lib/containerd"
OLD_IMAGE, OTHER_IMAGE = "lab/of-last-year:1", "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.0-latest"
IN_REGISTRY = "/var/lib/lab-registry/docker/registry/v2/repositories/lab"
VENV = f"{COMFY}/venv-ubuntu22_cuda12.4"


def move_to_small_disk(lab: Lab, path: str, service: str, mib: int = 64) -> None:
    """The service works on a disk of a few MiB that has what it had."""
    lab.sh('docker stop "$2" >/dev/null; cp -a "$1" /var/lib/lab/moved', path, service)
    faults.lay_small_disk(lab, path, mib=mib)
    lab.sh('cp -a /var/lib/lab/moved/. "$1"; rm -rf /var/lib/lab/moved; docker start "$2" >/dev/null', path, service)
    wait_healthy(lab)  # Ollama removes such leftovers itself, when it starts


def lift(lab: Lab, path: str, service: str) -> None:
    lab.sh('if mountpoint -q "$1"; then docker stop "$2" >/dev/null; fi', path, service)
    faults.lift_small_disk(lab, path)
    lab.sh('docker start "$1" >/dev/null', service)
    wait_healthy(lab)


def broken_download(lab: Lab) -> None:
    """40 MiB of a model that was never finished, from two hours ago, and no room for anything else."""
    move_to_small_disk(lab, OLLAMA, "ollama")
    lab.sh('mkdir -p "${1%/*}"; head -c 40M /dev/zero >"$1"; touch -d "2 hours ago" "$1"', BLOB)
    faults.fill(lab, OLLAMA)


def old_venv(lab: Lab) -> None:
    """What the image moves aside when it comes with another CUDA."""
    move_to_small_disk(lab, COMFY, "comfy")
    script = """
        install -d -o 1024 -g 1024 "$1/lib"
        printf 'home = /usr/bin\\n' >"$1/pyvenv.cfg"; head -c 40M /dev/zero >"$1/lib/libtorch.so"
        ln -s / "$1/lib64"; chown -Rh 1024:1024 "$1"
    """
    lab.sh(script, VENV)
    faults.fill(lab, COMFY)
    lab.exec("chown", "1024:1024", f"{COMFY}/.filled-by-the-lab")


def unused_images(lab: Lab) -> None:
    """Images and their layers lie on a small disk, which an image of last year fills up; a pull has no room then."""
    stop_all(lab)
    lab.sh('cp -a "$1" /var/lib/lab/moved', STORE)
    faults.lay_small_disk(lab, STORE, mib=256, kind="ext4")
    lab.sh('cp -a /var/lib/lab/moved/. "$1"; rm -rf /var/lib/lab/moved', STORE)
    faults.start_engine(lab)
    build = """
        folder=$(mktemp -d)
        printf 'FROM ollama/ollama:latest\nRUN head -c 30M /dev/urandom >/filler\n' >$folder/Dockerfile
        docker build -q -t "$1" $folder; rm -r $folder; docker push -q "$1"
    """
    lab.sh(build, OLD_IMAGE)
    faults.fill(lab, STORE)
    wait_healthy(lab)


def stop_all(lab: Lab) -> None:
    faults.stop_engine(lab)
    lab.sh("systemctl stop containerd")


def heal_store(lab: Lab) -> None:
    """The store is a mount of its own on a lab host: only the small disk over it, a loop device, is lifted."""
    if "/dev/loop" in lab.sh('findmnt -rno SOURCE --mountpoint "$1" | tail -1', STORE):
        stop_all(lab)
        faults.lift_small_disk(lab, STORE)
        back(lab)
    lab.sh('rm -rf "$1"', IN_REGISTRY)


def cannot_write(container: str, path: str) -> Proof:
    return Proof(("docker", "exec", container, "cp", "/bin/bash", path), "No space left on device")


BREAKAGES = (
    Breakage(
        *("disk-pressure", "partial", "Ollama's disk is full of a download that broke off", broken_download),
        cannot_write("ollama", "/root/.ollama/written"),
        heal=partial(lift, path=OLLAMA, service="ollama"),
    ),
    Breakage(
        *("disk-pressure", "venv", "ComfyUI's disk is full of an old virtual environment", old_venv),
        cannot_write("comfy", "/comfy/mnt/written"),
        heal=partial(lift, path=COMFY, service="comfy"),
        slow=True,
    ),
    Breakage(
        *("disk-pressure", "images", "no room for images: an old one fills the disk", unused_images),
        Proof(("docker", "pull", OTHER_IMAGE), "no space left on device"),
        heal=heal_store,
        slow=True,
    ),
)
