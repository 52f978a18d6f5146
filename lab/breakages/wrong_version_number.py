"""HTTPS spoken to a service that speaks HTTP only."""

from __future__ import annotations

from lab import webui
from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "wrong-version-number"


def https_in_the_database(lab: Lab) -> None:
    webui.setting(lab, "image_generation.comfyui.base_url", "https://comfy:8188")


def https_in_the_environment(lab: Lab) -> None:
    webui.with_other_environment(lab, OLLAMA_BASE_URL="https://ollama:11434", ENABLE_PERSISTENT_CONFIG="false")
    webui.ask_for_models(lab)


BREAKAGES = (
    Breakage(
        ENTRY,
        "database",
        "Open WebUI's settings have https for ComfyUI",
        https_in_the_database,
        Proof(("curl", "-sS", "https://127.0.0.1:8188"), "wrong version number"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "environment",
        "the container was made by hand, with https for Ollama",
        https_in_the_environment,
        Proof(("docker", "logs", "--tail", "50", "openwebui"), "wrong version number"),
    ),
)
