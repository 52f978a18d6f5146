"""Containers' logs: frames, markers, starts and rotation."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from pantheon.looks.engine import LogLines
from pantheon.looks.logs import rotated_away, start_of_log
from pantheon.looks.text import CONTROLS
from tests.unit.looks.fakes import (
    SECRET,
    Answer,
    FakeDocker,
    FakeHost,
    Handler,
    cases,
    container_of,
    framed,
    unknown_reason,
)


def test_a_log_of_frames_cut_anywhere() -> None:
    data = framed(b"one\ntw", b"o\n") + framed(b"err\n", stream=2) + framed(b"last without an end")
    for size in (1, 3, 7, 8, 9, 1000):
        lines = LogLines(tty=False, keep=10, markers=["err", "nothing"])
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        lines.finish()
        assert list(lines.tail) == ["one", "two", "err", "last without an end"]
        assert list(lines.found) == ["err"]


def test_a_log_in_bounded_memory() -> None:
    lines = LogLines(tty=False, keep=3, markers=["needle"], most=200_000_000)
    chunk = framed(b"x" * 16384)
    for _ in range(600):  # a line of 10 MB
        lines.feed(chunk)
    lines.feed(framed(b"\n", b"a needle\n") * 1000)
    assert sum(len(line) for line in lines.tail) < 10_000
    assert len(lines.found) == 200
    assert not lines.cut


def test_the_oldest_line_of_each_marker_outlives_a_flood_of_another(host: FakeHost, docker: FakeDocker) -> None:
    text = b"Generating key\n" + b"".join(b"ERROR %d\n" % number for number in range(5000))
    docker.container("openwebui", log=(200, framed(text)))
    found = host.look({"log_tail": 5, "log_markers": {"openwebui": ["ERROR", "Generating", "never"]}})
    markers = container_of(found, "openwebui").log_markers
    assert isinstance(markers, tuple)
    assert markers[:3] == ("Generating key", "ERROR 0", "ERROR 4800")
    assert len(markers) == 202


def test_a_log_of_random_bytes() -> None:
    rng = random.Random(1)
    for _ in range(200):
        for tty in (False, True):
            lines = LogLines(tty=tty, keep=50)
            lines.feed(framed(rng.randbytes(200)) if rng.random() < 0.5 else rng.randbytes(200))
            lines.finish()
            assert all(line.isprintable() or "\t" in line or not CONTROLS.search(line) for line in lines.tail)


def test_what_a_log_says_since_the_start(host: FakeHost, docker: FakeDocker) -> None:
    text = b"".join(b"line %d\n" % index for index in range(100)) + f"token is {SECRET}\nStarting server\n".encode()
    docker.container("comfy", log=(200, framed(text)), Config={"Env": [f"HF_TOKEN={SECRET}"]},
                     HostConfig={"LogConfig": {"Type": "json-file", "Config": {}}})  # fmt: skip
    docker.container("tty", log=(200, b"a\r\nb\r\n"), Config={"Tty": True})
    docker.container("new", State={"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"})
    docker.container("none", log=(501, {"message": "configured logging driver does not support reading"}))
    found = host.look({"log_tail": 5, "log_markers": {"comfy": ["Starting server", "owned by"], "new": ["x"]}})
    comfy = container_of(found, "comfy")
    assert comfy.log == ("line 97", "line 98", "line 99", "token is ***", "Starting server")
    assert comfy.log_markers == ("Starting server",)
    assert comfy.log_complete
    assert container_of(found, "tty").log == ("a", "b")
    assert container_of(found, "tty").log_markers is None
    new = container_of(found, "new")
    assert (new.log, new.log_markers, new.log_complete) == ((), (), True)
    assert "does not support reading" in unknown_reason(container_of(found, "none").log)
    asked = next(line for line in docker.asked if "logs" in line)
    assert re.search(r"tail=\d+&since=1795291549\.\d+", asked)


def test_a_log_longer_than_what_is_searched_keeps_its_newest_lines(host: FakeHost, docker: FakeDocker) -> None:
    def log(handler: Handler) -> Answer:
        count = int(dict(pair.split("=") for pair in handler.query.split("&"))["tail"])
        lines = [b"line %06d\n" % index for index in range(5000)] + [b"Starting server\n"]
        return 200, framed(*lines[-count:])

    docker.container("comfy", log=log)
    found = host.look({"log_tail": 5, "log_markers": {"comfy": ["Starting server"]}}, "logs.LOG_BYTES = 20000")
    comfy = container_of(found, "comfy")
    assert isinstance(comfy.log, tuple)
    assert comfy.log[-1] == "Starting server"
    assert (comfy.log_markers, comfy.log_complete) == (("Starting server",), False)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("rotation")])
def test_whether_the_start_was_rotated_away(host: FakeHost, case: dict[str, Any]) -> None:
    line = json.dumps({"log": "x\n", "stream": "stdout", "time": "TIME"}, separators=(",", ":"))
    for name in case["files"]:
        host.write(f"/logs/{name}", line.replace("TIME", case.get("first", "2026-01-01T00:00:09Z")) + "\n")
    host.at("/logs").mkdir(exist_ok=True)
    inspect = {"LogPath": "/logs/x.log", "HostConfig": {"LogConfig": {"Type": case["type"], "Config": case["options"]}}}
    assert rotated_away(str(host.root), inspect, case["since"]) == case["lost"]


@pytest.mark.parametrize(
    ("started", "finished", "since"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:16:40Z", "0001-01-01T00:00:00Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:00:00Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:30Z", 999.75),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:39.9Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:45Z", 999.95),
    ],
)
def test_from_when_on_a_log_belongs_to_this_start(started: str, finished: str, since: float) -> None:
    assert start_of_log({"StartedAt": started, "FinishedAt": finished}) == pytest.approx(since)
