"""Services followed while they come up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tests.unit.looks.fakes import (
    ID,
    FakeDocker,
    FakeHost,
    Handler,
    framed,
    never,
    program,
)


class Watched:
    def __init__(self, host: FakeHost, spec: dict[str, Any]) -> None:
        asked = {"watch": spec, "root": str(host.root)}
        script = host.write("/watch.py", program(asked))
        self.process = subprocess.Popen(
            [sys.executable, "-IBS", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.frames: list[dict[str, Any]] = []

    def until(self, true_of: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            self.frames.append(json.loads(line))
            if true_of(self.frames[-1]):
                return self.frames[-1]
        raise AssertionError(f"it ended: {self.frames}")

    def close(self) -> None:
        """Hangs up, and waits for the end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.rest()

    def rest(self) -> list[dict[str, Any]]:
        assert self.process.stdin
        assert self.process.stdout
        with self.process.stdout:
            self.frames += [json.loads(line) for line in self.process.stdout]
        self.process.stdin.close()
        assert self.process.wait(5) == 0
        return self.frames


def test_watching_a_container_through_a_restart(host: FakeHost, docker: FakeDocker) -> None:
    more = threading.Event()

    def first_log(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + framed(b"== Cloning\x1b[0m ComfyUI\n"))
        more.wait(5)
        handler.wfile.write(framed(b"!! ERROR: no\n"))

    inspect = docker.container("comfy", number=ID, log=first_log)
    watched = Watched(host, {"containers": ["comfy", "nope"], "deadline_s": 20, "log": True, "http": {}})
    frame = watched.until(lambda frame: bool((frame["containers"].get("comfy") or {}).get("log")))
    state = {"state": "running", "health": "healthy", "restarts": 0, "exit_code": 0, "error": ""}
    ports = [{"container_port": "8188/tcp", "address": "127.0.0.1", "port": 8188}]
    assert frame["containers"]["comfy"] == {**state, "ports": ports, "words": [], "log": ["== Cloning ComfyUI"]}
    assert frame["containers"]["nope"] is None
    more.set()
    watched.until(lambda frame: frame["containers"]["comfy"]["log"] == ["!! ERROR: no"])
    again = {**inspect, "RestartCount": 1, "State": {**inspect["State"], "StartedAt": "2026-11-21T20:09:00Z"}}
    for key in (ID, "comfy"):
        docker.routes[f"/containers/{key}/logs"] = (200, framed(b"Starting server\n"))
        docker.routes[f"/containers/{key}/json"] = (200, again)
    watched.until(lambda frame: frame["containers"]["comfy"]["log"] == ["Starting server"])
    frame = watched.until(lambda frame: frame["containers"]["comfy"]["restarts"] == 1)
    watched.until(lambda frame: frame["t"] > 2)
    assert sum(len(frame["containers"]["comfy"]["log"]) for frame in watched.frames) == 3
    times = [frame["t"] for frame in watched.frames]
    assert all(later - earlier <= 1.2 for earlier, later in pairwise(times))
    watched.close()


def test_what_it_died_of_is_said_whatever_the_stream_has_read(host: FakeHost, docker: FakeDocker) -> None:
    """One that fails at once is between two starts, and the stream of its log is in an earlier one."""

    def log(handler: Handler) -> None:
        if "follow=1" in handler.query:
            never(handler)
        handler.reply(200, framed(b"a banner\n", b"ValueError: s3cret-of-mine\n"))

    state = {"Status": "restarting", "StartedAt": "2026-11-21T20:09:00Z", "FinishedAt": "2026-11-21T20:09:01Z"}
    inspect = docker.container("openwebui", number=ID, log=log, State=state)
    again = {**inspect, "RestartCount": 3}
    again["Config"] = {**again["Config"], "Env": ["API_SECRET=s3cret-of-mine"]}
    for key in (ID, "openwebui"):
        docker.routes[f"/containers/{key}/json"] = (200, again)
    watched = Watched(host, {"containers": ["openwebui"], "deadline_s": 20, "log": True, "http": {}})
    frame = watched.until(lambda frame: "openwebui" in frame["containers"])
    assert frame["containers"]["openwebui"]["words"] == ["a banner", "ValueError: ***"]
    # It runs again: what counts is what stood before this start.
    running = {"Status": "running", "StartedAt": "2026-11-21T20:09:05Z", "FinishedAt": "2026-11-21T20:09:01Z"}
    for key in (ID, "openwebui"):
        docker.routes[f"/containers/{key}/json"] = (200, {**again, "State": {**again["State"], **running}})
    watched.until(lambda frame: frame["containers"]["openwebui"]["state"] == "running")
    frame = watched.until(lambda frame: frame["containers"]["openwebui"]["state"] == "running")
    assert frame["containers"]["openwebui"]["words"] == ["a banner", "ValueError: ***"]
    watched.close()


def test_who_looks_in_the_middle_of_a_start_sees_what_stood_before_it(host: FakeHost, docker: FakeDocker) -> None:
    state = {"Status": "running", "StartedAt": "2026-11-21T20:09:05Z", "FinishedAt": "2026-11-21T20:09:01Z"}
    inspect = docker.container("openwebui", number=ID, log=(200, framed(b"why\n")), State=state)
    for key in (ID, "openwebui"):
        docker.routes[f"/containers/{key}/json"] = (200, {**inspect, "RestartCount": 3})
    watched = Watched(host, {"containers": ["openwebui"], "deadline_s": 20, "log": True, "http": {}})
    frame = watched.until(lambda frame: "openwebui" in frame["containers"])
    assert frame["containers"]["openwebui"]["words"] == ["why"]
    watched.close()
    assert any("until=1795291744.7" in asked for asked in docker.asked), docker.asked


def test_the_next_start_s_first_words_are_not_the_last_ones(host: FakeHost, docker: FakeDocker) -> None:
    """It started again while its log was read."""
    state = {"Status": "restarting", "StartedAt": "2026-11-21T20:09:00Z", "FinishedAt": "2026-11-21T20:09:01Z"}
    inspect = docker.container("openwebui", number=ID, State=state)
    again = {"StartedAt": "2026-11-21T20:09:05Z", "Status": "running"}

    def log(handler: Handler) -> None:
        for key in (ID, "openwebui"):
            now = {**inspect, "RestartCount": 4, "State": {**inspect["State"], **again}}
            docker.routes[f"/containers/{key}/json"] = (200, now)
        handler.reply(200, framed(b"why\n", b"a banner\n"))

    for key in (ID, "openwebui"):
        docker.routes[f"/containers/{key}/logs"] = log
    watched = Watched(host, {"containers": ["openwebui"], "deadline_s": 20, "log": True, "http": {}})
    frame = watched.until(lambda frame: "openwebui" in frame["containers"])
    assert frame["containers"]["openwebui"]["words"] == []
    watched.close()


def test_ports_are_those_of_now(host: FakeHost, docker: FakeDocker) -> None:
    """A container that is stopped publishes nothing, whatever it would publish; one made anew may publish elsewhere."""
    inspect = docker.container("comfy", number=ID, NetworkSettings={"Ports": {}}, State={"Status": "exited"})
    watched = Watched(host, {"containers": ["comfy"], "deadline_s": 20})
    frame = watched.until(lambda frame: "comfy" in frame["containers"])
    assert frame["containers"]["comfy"]["ports"] == []
    moved = {"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9188"}], "22/tcp": None}
    again = {**inspect, "NetworkSettings": {"Ports": moved}, "State": {**inspect["State"], "Status": "running"}}
    docker.routes["/containers/comfy/json"] = (200, again)
    frame = watched.until(lambda frame: bool(frame["containers"]["comfy"]["ports"]))
    assert frame["containers"]["comfy"]["ports"] == [
        {"container_port": "8188/tcp", "address": "127.0.0.1", "port": 9188}
    ]
    watched.close()


def test_a_long_log_keeps_its_stages(host: FakeHost, docker: FakeDocker) -> None:
    """Who starts to watch in the middle of a first run must see the stage that it is in."""
    lines = ["Starting script", "== Cloning ComfyUI", *(f"Collecting package-{n}" for n in range(3000))]
    docker.container("comfy", number=ID, log=(200, framed(*(f"{line}\n".encode() for line in lines))))
    markers = {"comfy": ["Starting script", "== Cloning"]}
    watched = Watched(host, {"containers": ["comfy"], "deadline_s": 20, "log": True, "markers": markers})
    watched.until(lambda frame: "Collecting package-2999" in (frame["containers"].get("comfy") or {}).get("log", ()))
    watched.close()
    said = [line for frame in watched.frames for line in (frame["containers"].get("comfy") or {}).get("log", ())]
    assert said[:2] == lines[:2]
    assert said[-200:] == lines[-200:]
    tails = [asked for asked in docker.asked if "/logs" in asked]
    assert "tail=20000" in tails[0]


def test_without_news_it_looks_less_often(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy", number=ID)
    watched = Watched(host, {"containers": ["comfy"], "deadline_s": 2, "calm_s": 0.4})
    frames = watched.rest()
    assert len(frames) <= 2
    assert sum("/containers/comfy/json" in asked for asked in docker.asked) <= 3


def test_watching_ends_at_its_deadline_whatever_hangs(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy")
    docker.routes["/containers/comfy/json"] = never
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        watched = Watched(host, {"containers": ["comfy"], "deadline_s": 1.5, "http": {"comfy": url}})
        frames = watched.rest()
    assert 1.4 < time.monotonic() - began < 4
    assert frames
    assert frames[0]["frame"] == "watch"


def test_watching_without_an_engine_says_so(host: FakeHost) -> None:
    watched = Watched(host, {"containers": ["comfy"], "deadline_s": 5})
    frame = watched.until(lambda frame: "comfy" in frame["containers"])
    assert "docker.sock: No such file" in frame["containers"]["comfy"]["unknown"]
    watched.close()
