"""Containers run as they should not be: by hand, in the way that people do."""

from __future__ import annotations

from typing import Any

from lab.machine import REGISTRY_STORAGE, Lab
from lab.violations import Violation

BOUNDED = ("--log-opt", "max-size=1m")
KEPT = ("--restart", "unless-stopped")
SAFE = ("--security-opt", "no-new-privileges:true")
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


def own(control: str, name: str, says: str, *options: str) -> Violation:
    """A violation by a container of its own, made with these options of `docker run`."""
    return Violation(
        f"containers.{control}",
        f"{name}: {says}",
        plant=lambda lab: run(lab, name, *options),
        undo=lambda lab: remove(lab, name),
    )


VIOLATIONS = (
    Violation(
        "containers.image-pinned",
        "ollama: ollama/ollama:latest is another image tomorrow",
        host={"ollama": {"image": "ollama/ollama:latest"}},
    ),
    own("log-rotation", "v-log", "its log may take 3000 GiB", "--log-opt", "max-size=1000g", *KEPT, *SAFE),
    own("restart", "v-restart", "restart policy no", *BOUNDED, *SAFE),
    own("privileged", "v-root", "it runs privileged", "--privileged", *BOUNDED, *KEPT, *SAFE),
    own("capabilities", "v-caps", "has SYS_PTRACE", "--cap-add", "SYS_PTRACE", *BOUNDED, *KEPT, *SAFE),
    own(
        *("docker-socket", "v-sock", "/var/run/docker.sock is mounted in it"),
        *("-v", "/var/run/docker.sock:/var/run/docker.sock:ro", *BOUNDED, *KEPT, *SAFE),
    ),
    own(
        "namespaces", "v-host", "shares the host's network, pid", "--network", "host", "--pid", "host", *BOUNDED, *KEPT
    ),
    own("new-privileges", "v-setuid", "a setuid program in it can gain privileges", *BOUNDED, *KEPT),
)
