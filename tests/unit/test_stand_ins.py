"""What decides something in the stand-ins: the toolkit's requirements, ComfyUI's origin rule, session tokens."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from lab.gpu.toolkit import ctk, hook, runtime
from lab.services import build
from lab.services.stand_in import comfy, ollama, ollama_command, sockets, tokens

HAVE = {"cuda": "13.1", "driver": "590.48.01", "brand": "nvidiartx"}


@pytest.mark.parametrize(
    ("requirement", "failed"),
    [
        ("", None),
        ("cuda>=13.1", None),
        ("cuda>=13.2", "cuda>=13.2"),
        ("cuda>=9", None),
        ("cuda>13.1", "cuda>13.1"),
        ("cuda>=13.2 driver>=580,driver<591", None),  # words are alternatives
        ("cuda>=13.2 driver>=595", "cuda>=13.2"),  # the first is named
        ("cuda>=13,driver>=595", "driver>=595"),
        ("unheard_of>=1", "unheard_of>=1"),
        ("nonsense", "nonsense"),
    ],
)
def test_the_condition_that_fails_is_named(requirement: str, failed: str | None) -> None:
    assert hook.unsatisfied(requirement, HAVE) == failed


@pytest.mark.parametrize(
    ("environment", "fault", "wants"),
    [
        ({}, "", False),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "hookfail", False),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, "", False),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "", True),
        ({"NVIDIA_VISIBLE_DEVICES": "0", "NVIDIA_REQUIRE_CUDA": "cuda>=13.1"}, "lost", True),
        ({"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_REQUIRE_CUDA": "cuda>=14", "NVIDIA_DISABLE_REQUIRE": "1"}, "", True),
    ],
)
def test_who_gets_the_card(tmp_path: Path, environment: dict[str, str], fault: str, wants: bool) -> None:
    (tmp_path / "run/lab").mkdir(parents=True)
    (tmp_path / "run/lab/gpu-fault").write_text(fault)
    assert hook.check(environment, str(tmp_path)) is wants


@pytest.mark.parametrize(
    ("environment", "conf", "fault", "text"),
    [
        (
            {"NVIDIA_REQUIRE_CUDA": "cuda>=13.2"},
            "",
            "",
            "requirement error: unsatisfied condition: cuda>=13.2, please update",
        ),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=13.1"}, "cuda = 13.0", "", "unsatisfied condition: cuda>=13.1"),
        ({"NVIDIA_VISIBLE_DEVICES": "0,4"}, "", "", "device error: 4: unknown device"),
        ({}, "", "nocomm", "initialization error: nvml error: driver not loaded"),
        ({}, "", "hookfail", "load library failed: libnvidia-ml.so.1"),
    ],
)
def test_who_may_not_start(tmp_path: Path, environment: dict[str, str], conf: str, fault: str, text: str) -> None:
    (tmp_path / "run/lab").mkdir(parents=True)
    (tmp_path / "run/lab/gpu.conf").write_text(conf)
    (tmp_path / "run/lab/gpu-fault").write_text(fault)
    with pytest.raises(hook.HookError, match=text):
        hook.check({"NVIDIA_VISIBLE_DEVICES": "all", **environment}, str(tmp_path))


def test_no_path_becomes_part_of_the_mount_script(tmp_path: Path) -> None:
    hostile = tmp_path / "a b;$(touch x)"
    assert "touch" not in hook.mount_script(str(hostile), "0123abc")


def test_the_hook_speaks_to_dockerd_through_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"root": {"path": "rootfs"}, "process": {"env": ["NVIDIA_VISIBLE_DEVICES=7", "ODD"]}}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    monkeypatch.setattr(sys, "argv", ["hook", "prestart"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"id": "x", "pid": 1, "bundle": str(tmp_path)})))
    assert hook.main() == 1
    expected = "Auto-detected mode as 'legacy'\nnvidia-container-cli: device error: 7: unknown device\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(("devices", "hooks"), [("all", 1), ("void", 0), ("", 0)])
def test_the_runtime_adds_the_hook_once(tmp_path: Path, devices: str, hooks: int) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"process": {"env": [f"NVIDIA_VISIBLE_DEVICES={devices}"]}}))
    for _ in range(2):
        runtime.add_hook(str(tmp_path), "/usr/bin/nvidia-container-runtime-hook")
    assert len(json.loads(config.read_text()).get("hooks", {}).get("prestart", [])) == hooks


def test_configure_keeps_what_daemon_json_has(tmp_path: Path) -> None:
    config = tmp_path / "docker/daemon.json"
    assert ctk.configure({"config": str(config)}) == 0
    config.write_text(json.dumps({"log-driver": "local", "runtimes": {"mine": {"path": "m"}}}))
    assert ctk.configure({"config": str(config), "set-as-default": ""}) == 0
    written = json.loads(config.read_text())
    assert written["log-driver"] == "local"
    assert sorted(written["runtimes"]) == ["mine", "nvidia"]
    assert written["default-runtime"] == "nvidia"
    config.write_text("{broken")
    assert ctk.configure({"config": str(config)}) == 1
    assert config.read_text() == "{broken"


def test_cdi_devices_are_listed_as_they_were_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctk.generate({"output": str(tmp_path / "cdi/nvidia.yaml")}) == 1  # no driver is loaded
    monkeypatch.setattr(ctk, "LOADED", str(tmp_path))
    capsys.readouterr()
    ctk.generate({"output": str(tmp_path / "cdi/nvidia.yaml")})
    ctk.list_devices({"spec-dir": str(tmp_path / "cdi")})
    assert capsys.readouterr().out.splitlines() == [f"nvidia.com/gpu={name}" for name in ("0", ctk.UUID, "all")]


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8188", None, True),
        (None, "https://evil.example", True),
        ("127.0.0.1:8188", "http://127.0.0.1:8188", True),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8188", "http://127.0.0.1", True),
        ("localhost:8188", "http://127.0.0.1:8188", False),
        ("[::1]:8188", "http://evil.example:8188", False),
        ("comfy.example:8188", "https://evil.example", True),
    ],
)
def test_the_origin_rule_holds_on_loopback_only(host: str | None, origin: str | None, allowed: bool) -> None:
    assert comfy.origin_allowed(host, origin) is allowed


def test_models_are_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/a.safetensors").touch()
    (tmp_path / "shared/readme.txt").touch()
    models = tmp_path / "checkpoints"
    models.mkdir()
    (models / "shared").symlink_to(tmp_path / "shared")
    (models / "gone.ckpt").symlink_to(tmp_path / "gone.ckpt")
    assert comfy.list_models(models) == ["shared/a.safetensors"]


def test_a_token_is_worth_nothing_under_another_key() -> None:
    token = tokens.make({"id": "me"}, "one")
    assert tokens.read(token, "one") == {"id": "me"}
    assert tokens.read(token, "two") is None
    assert tokens.read("", "one") is None
    assert tokens.read("a.b.c", "one") is None


def test_a_web_socket_handshake() -> None:
    assert sockets.accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 300), (0, 0), ("0", 0), (-1, -1), ("10m", 600), ("-1m", -60), ("1h", 3600), ("odd", 300)],
)
def test_keep_alive(value: object, seconds: float) -> None:
    assert ollama.duration(value, "5m") == seconds


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (8_388_608, "8.4 MB"), (64_000_000, "64 MB"), (2_000_000_000, "2.0 GB")]
)
def test_sizes_read_as_ollama_prints_them(count: int, text: str) -> None:
    assert ollama_command.size(count) == text


def test_pulled_models_lie_where_ollama_keeps_them(tmp_path: Path) -> None:
    store = ollama.Store(tmp_path)
    assert list(store.pull("tinyllama"))[-1] == {"status": "success"}
    assert (tmp_path / "manifests/registry.ollama.ai/library/tinyllama/latest").is_file()
    assert [model["name"] for model in store.models()] == ["tinyllama:latest"]
    store.delete("tinyllama")
    assert store.models() == []
    assert list((tmp_path / "blobs").iterdir()) == []


def test_every_reference_has_one_image() -> None:
    references = [reference for image in build.IMAGES for reference in image.references]
    assert len(references) == len(set(references)) == 7
    assert all(path.is_file() for path in build.inputs())
