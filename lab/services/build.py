"""Builds the stand-in images on the engine that `docker` talks to, and says which real names they stand in for."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.cache import IMAGE_LABEL

HERE = Path(__file__).resolve().parent
REPOSITORY = "pantheon-lab/stand-in"
COMFY = "mmartial/comfyui-nvidia-docker"
OLLAMA = "ollama/ollama"
OPENWEBUI = "ghcr.io/open-webui/open-webui"


@dataclass(frozen=True)
class Image:
    """One image to build, and the references that a registry of the lab answers with it."""

    tag: str
    target: str
    references: tuple[str, ...]
    arguments: Mapping[str, str] = field(default_factory=dict)


IMAGES = (
    Image("builder", "builder", ()),  # tagged too, so that its layers go when the lab's images go
    Image("comfy-cuda13.1", "comfy", (f"{COMFY}:ubuntu24_cuda13.1-latest",), {"CUDA": "13.1"}),
    Image("comfy-cuda13.0", "comfy", (f"{COMFY}:ubuntu24_cuda13.0-latest",), {"CUDA": "13.0"}),
    Image("comfy-cuda12.9", "comfy", (f"{COMFY}:latest",), {"CUDA": "12.9"}),
    Image("ollama", "ollama", (f"{OLLAMA}:latest", f"{OLLAMA}:0.13.5")),
    Image("openwebui", "openwebui", (f"{OPENWEBUI}:main", f"{OPENWEBUI}:v0.12.4")),
)


def inputs() -> list[Path]:
    """The files that decide what `build` makes, besides the base image."""
    return sorted(path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _stamp(base_image: str) -> str:
    """Part of the local tags, so that two versions of the project do not take each other's images."""
    digest = hashlib.sha256(base_image.encode())
    for path in inputs():
        digest.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def build(base_image: str) -> dict[str, str]:
    """{real reference: local tag}. Raises subprocess.CalledProcessError with Docker's words in its stderr."""
    stamp = _stamp(base_image)
    built: dict[str, str] = {}
    for image in IMAGES:
        tag = f"{REPOSITORY}-{image.tag}:{stamp}"
        arguments = {"BASE": base_image, **image.arguments}
        flags = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        flags += ["--label", f"{IMAGE_LABEL}=services", "--target", image.target, "--tag", tag]
        command = ["docker", "build", "--quiet", *flags, str(HERE)]
        # The legacy builder: every engine has it (docker.io of Debian 12 has no other).
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        built.update(dict.fromkeys(image.references, tag))
    return built
