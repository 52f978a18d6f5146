"""What the frames of a watch say of a service that does not answer at the end of a tunnel."""

from __future__ import annotations

from typing import Any

import pytest

from pantheon import stack, watched
from pantheon.watched import Published, Watched, follow, in_words, published
from tests.unit.world import HOST

H = f"--host {HOST.name}"
LOCAL = {"container_port": "8188/tcp", "address": "127.0.0.1", "port": 8188}
RUNS: dict[str, Any] = {"state": "running", "health": "healthy", "restarts": 0, "exit_code": 0, "ports": [LOCAL]}


def frame(name: str, container: dict[str, Any] | None) -> dict[str, Any]:
    return {"frame": "watch", "containers": {name: container}, "http": {}}


def runs(**changes: Any) -> dict[str, Any]:
    return {**RUNS, **changes}


DIED = "RuntimeError: CUDA error: out of memory"
WORDS: list[tuple[str, list[dict[str, Any] | None], str, str]] = [
    ("comfy", [None], "its container is missing (none is named comfy)", f"invoke comfy {H}"),
    ("comfy", [{"unknown": "Docker's socket /var/run/docker.sock: Connection refused"}],
     "the Docker engine does not answer: Docker's socket /var/run/docker.sock: Connection refused",
     f"invoke fix.docker-down {H}"),
    ("comfy", [runs(state="exited", health=None, exit_code=137)], "its container is stopped (exit code 137)",
     f"invoke diagnose {H}"),
    ("ollama", [runs(state="exited", exit_code=0, log=["Listening on [::]:11434"])],
     "its container is stopped (exit code 0)", f"invoke diagnose {H}"),
    ("ollama", [runs(state="exited", exit_code=1, log=["Error: no space left on device"])],
     "its container is stopped (exit code 1): Error: no space left on device", f"invoke fix.disk-pressure {H}"),
    ("ollama", [runs(state="exited", exit_code=128, error="could not select device driver")],
     "its container is stopped (exit code 128): could not select device driver", f"invoke fix.gpu-lost {H}"),
    ("comfy", [runs(state="paused")], "its container is paused", f"invoke diagnose {H}"),
    ("comfy", [runs(state="created", health=None)], "its container is created", f"invoke diagnose {H}"),
    ("comfy", [runs(state="restarting", restarts=1, exit_code=3)], "restarts (exit code 3)", f"invoke diagnose {H}"),
    ("comfy", [runs(state="restarting", restarts=7, exit_code=1, log=[DIED])],
     f"restarts over and over (exit code 1): {DIED}", f"invoke fix.out-of-memory {H}"),
    ("comfy", [runs(health="starting", log=["!! ERROR: Directory /comfy/mnt owned by unexpected user/group"])],
     "cannot start: Directory /comfy/mnt owned by unexpected user/group", f"invoke fix.comfy-ownership {H}"),
    ("comfy", [runs(health="starting", log=["!! ERROR: something new"])], "cannot start: something new",
     "invoke runbook comfy"),
    ("comfy", [runs(health="starting", log=["== Creating virtualenv"]),
               runs(health="starting", log=["== Pre-installing/Upgrading torch", "Downloading torch"])],
     "6/9 installing torch", ""),
    ("comfy", [runs(health="unhealthy", log=["== Pre-installing/Upgrading torch"])], "6/9 installing torch", ""),
    ("comfy", [runs(health="starting")], "starting", ""),
    ("openwebui", [runs(health="starting", log=["Waiting for application startup."])], "starting", ""),
    ("openwebui", [runs(health="unhealthy", log=["its last words"])], "runs, and is not healthy: its last words",
     f"invoke diagnose {H}"),
    ("comfy", [runs(log=["== Running ComfyUI", "To see the GUI go to: http://0.0.0.0:8188"])],
     "runs, healthy, and does not answer (busy?)", f"invoke diagnose {H}"),
    ("comfy", [runs(health=None)], "runs, and does not answer (busy?)", f"invoke diagnose {H}"),
    ("ollama", [runs(ports=[])], "runs, publishes no port, and does not answer", f"invoke diagnose {H}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "containers", "text", "mend"), WORDS, ids=[words[2][:40] for words in WORDS])
def test_in_words(name: str, containers: list[dict[str, Any] | None], text: str, mend: str) -> None:
    state = Watched()
    for container in containers:
        state = follow(name, state, frame(name, container), late=False)
    words = in_words(HOST, name, state, frame(name, containers[-1]))
    assert (words.text, words.mend) == (text, mend)


def test_nothing_is_known_before_the_container_was_asked_about() -> None:
    assert in_words(HOST, "comfy", Watched(), {"containers": {}, "http": {}}).text == ""


def at(address: str, port: int = 8189, inside: str = "8188/tcp") -> dict[str, Any]:
    return {"container_port": inside, "address": address, "port": port}


PORTS: list[tuple[list[dict[str, Any]], Published]] = [
    ([at("127.0.0.1")], Published((8189,))),
    ([at("0.0.0.0"), at("::")], Published((8189,), ("0.0.0.0:8189", "[::]:8189"))),
    ([at("")], Published((8189,), ("*:8189",))),
    ([at("10.0.99.10")], Published((), ("10.0.99.10:8189",))),
    ([at("127.0.0.1"), at("10.0.99.10", 80)], Published((8189,), ("10.0.99.10:80",))),
    ([at("127.0.0.1", 9001), at("127.0.0.1", 9000)], Published((9000, 9001))),
    ([at("127.0.0.2"), at("::1")], Published(aside=("127.0.0.2:8189", "[::1]:8189"))),
    ([at("127.0.0.1", 9000, "9000/tcp"), at("127.0.0.1", 8188, "8188/udp")], Published()),
    ([at("127.0.0.1", 0)], Published()),
    ([], Published()),
]


@pytest.mark.parametrize(("ports", "wanted"), PORTS)
def test_where_it_is_published(ports: list[dict[str, Any]], wanted: Published) -> None:
    assert published("comfy", frame("comfy", runs(ports=ports))) == wanted


@pytest.mark.parametrize(
    "container", [None, {"unknown": "x"}, runs(state="exited", ports=[at("127.0.0.1")]), {"state": "running"}]
)
def test_where_it_is_published_is_not_known(container: dict[str, Any] | None) -> None:
    assert published("comfy", frame("comfy", container)) is None


def test_the_ports_inside_are_those_of_the_stack() -> None:
    for name, inside in watched.INSIDE.items():
        assert stack.wanted(HOST, name).container_port == int(inside.partition("/")[0])
