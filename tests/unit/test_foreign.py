"""What is on a host and is not ours: which service it is, who holds a port of ours, and what ends that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import foreign
from pantheon.facts import Listener
from tests.unit.takeover.olds import bind, hand_made
from tests.unit.world import HOST, fresh


@pytest.mark.parametrize(
    ("holder", "who", "mend"),
    [
        (("python3", "", ""), "python3 (pid 7)", "stop what this shows: ssh"),
        (("", "", ""), "an unknown process (pid 7)", "sport = :11434"),
        (("ollama", "ollama.service", ""), "ollama (pid 7), which is ollama.service",
         "sudo systemctl disable --now ollama.service"),
        (("conmon", "", ""), "Podman (conmon, pid 7)", "sudo podman ps"),
        (("rootlessport", "", "1000"), "Podman (rootlessport, pid 7, user 1000)",
         "stop what this shows: as user 1000 on prometheus: podman ps"),
        (("rootlessport", "llm.service", "1000"), "Podman (rootlessport, pid 7, user 1000), which is llm.service",
         "as user 1000 on prometheus: systemctl --user disable --now llm.service"),
        (("rootlesskit", "docker.service", "1000"), "rootless Docker (rootlesskit, pid 7, user 1000)",
         "systemctl --user"),
        (("docker-proxy", "docker.service", ""), "docker-proxy (pid 7)", "sudo ss -ltnp"),
        (("x", "a b$(y).service", ""), "which is a b$(y).service", "disable --now"),
    ],
)  # fmt: skip
def test_who_holds_a_port_is_named_with_what_ends_it(holder: tuple[str, str, str], who: str, mend: str) -> None:
    process, unit, user = holder
    facts = replace(fresh(), listeners=(Listener("0.0.0.0", 11434, 7, process, "", unit, user),))
    finding = foreign.port_finding(HOST, facts, "ollama")
    assert finding is not None
    assert who in finding.text
    assert mend in finding.mend
    assert "ollama.port" in finding.mend
    assert "none of Docker's containers" in finding.evidence or not process


@pytest.mark.parametrize(
    ("like", "name", "label", "image", "target", "expected"),
    [
        ("openwebui", "home-webui-1", "webui", "home-webui", "/app/backend/data", "openwebui"),
        ("openwebui", "x", "x", "ghcr.io/open-webui/open-webui:cuda", "/d", "openwebui"),
        ("openwebui", "x", "x", "mirror.lan:5000/open-webui/open-webui:ollama@sha256:" + 64 * "a", "/d", "openwebui"),
        ("openwebui", "shop", "shop", "shop:1", "/data", ""),
        ("openwebui", "open-webui", "x", "a/b:1", "/data", "openwebui"),
        ("ollama", "ollama-gpu", "llm", "home/llm", "/root/.ollama", "ollama"),
        ("ollama", "llm", "llm", "home/llm", "/root", ""),
        ("comfy", "gpu-1", "gpu", "home/cui", "/comfy/mnt", "comfy"),
        ("comfy", "comfyui", "comfyui", "a/comfyui:1", "/opt/ComfyUI/output", "comfy"),
        ("comfy", "comfyui", "comfyui", "a/comfyui:1", "/root", ""),
        ("comfy", "gpu-1", "gpu", "a/comfyui:1", "/opt/ComfyUI", ""),
    ],
)
def test_which_service_a_container_is(like: str, name: str, label: str, image: str, target: str, expected: str) -> None:
    given: dict[str, Any] = {"image": image, "image_id": "sha256:x", "label": label, "compose": "/srv/a/compose.yml"}
    container = hand_made(like, bind("/srv/x", target), name=name, **given)
    assert foreign.service_of(HOST, fresh(), container) == expected
