"""Containers run as they should not be: by hand, in the way that people do."""

from __future__ import annotations

from typing import Any

from lab.machine import REGISTRY_STORAGE, Lab
from lab.violations import Violation

# One container of somebody's that does everything that is not done: each control has to find its own part of it.
NAME = "v-box"
OPTIONS = (
    *("--log-opt", "max-size=1000g", "--privileged", "--cap-add", "SYS_PTRACE", "--network", "host", "--pid", "host"),
    *("-v", "/var/run/docker.sock:/var/run/docker.sock:ro"),
)
IMAGES = {
    "comfy": ("mmartial/comfyui-nvidia-docker", "mmartial/comfyui-nvidia-docker", "ubuntu24_cuda13.1-latest"),
    "ollama": ("ollama/ollama", "ollama/ollama", "latest"),
    "openwebui": ("ghcr.io/open-webui/open-webui", "open-webui/open-webui", "main"),
}


def inventory(lab: Lab) -> dict[str, Any]:
    """hosts.toml with the images by their digests, as the lab's registry has them."""
    place = f"{REGISTRY_STORAGE}/docker/registry/v2/repositories"
    found: dict[str, Any] = {}
    for service, (name, repository, tag) in IMAGES.items():
        digest = lab.sh('cat "$1/$2/_manifests/tags/$3/current/link"', place, repository, tag).strip()
        found[service] = {"image": f"{name}:{tag}@{digest}"}
    return found


def run(lab: Lab, name: str, *options: str) -> None:
    """A container of somebody's own, which only sleeps."""
    lab.sh(
        """
        name=$1; shift
        image=$(docker inspect -f '{{.Image}}' ollama)
        docker run -d --init --name "$name" --entrypoint sleep "$@" "$image" infinity
        """,
        name,
        *options,
    )


def remove(lab: Lab, name: str) -> None:
    lab.sh('docker rm -f "$1" >/dev/null 2>&1 || true', name)


def box(lab: Lab) -> None:
    run(lab, NAME, *OPTIONS)


def no_box(lab: Lab) -> None:
    remove(lab, NAME)


VIOLATIONS = (
    Violation(
        "containers.image-pinned",
        "ollama: ollama/ollama:latest is another image tomorrow",
        host={"ollama": {"image": "ollama/ollama:latest"}},
    ),
    Violation("containers.log-rotation", f"{NAME}: its log may take 3000 GiB", box, no_box),
    Violation("containers.restart", f"{NAME}: restart policy no"),
    Violation("containers.privileged", f"{NAME}: it runs privileged"),
    Violation("containers.capabilities", f"{NAME}: has SYS_PTRACE"),
    Violation("containers.docker-socket", f"{NAME}: /var/run/docker.sock is mounted in it"),
    Violation("containers.namespaces", f"{NAME}: shares the host's network, pid"),
    Violation("containers.new-privileges", f"{NAME}: a setuid program in it can gain privileges"),
)
