"""Who holds the lock, from a /proc made of files."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import holder
from pantheon.evidence import Holder
from pantheon.facts import decode
from pantheon.looks.text import Unread

SAID = {"who": "ana@laptop", "what": "bringup", "since": "2026-11-21T22:00:00Z", "run": "ab12", "pid": 40}


class Root:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "run/pantheon").mkdir(parents=True)
        (path / "proc").mkdir()
        self.lock = path / "run/pantheon/lock"

    def hold(self, pid: int, text: str = json.dumps(SAID)) -> None:
        self.lock.write_text(text)
        about = self.lock.stat()
        place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
        (self.path / "proc/locks").write_text(f"1: FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF\n")

    def process(self, pid: int, parent: int, name: str, state: str = "S", *argv: str, leads: bool = False) -> None:
        folder = self.path / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        rest = ["0"] * 40
        rest[0], rest[1], rest[3], rest[19] = state, str(parent), str(pid if leads else 1), f"{pid}00"
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(rest)}\n")
        (folder / "cmdline").write_text("\0".join(argv) + "\0")

    def look(self) -> Any:
        return holder.holder({}, str(self.path))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(tmp_path)
    made.process(1, 0, "systemd")
    made.process(10, 1, "sshd")
    return made


def at_work(root: Root, **more: Any) -> None:
    root.process(20, 10, "sshd-session")
    root.process(30, 20, "sudo")
    root.process(40, 30, "python3", more.get("state", "S"))
    root.process(50, 40, "docker", "S", "docker", "compose", "up", "--token", "hunter2", leads=True)


def test_nobody(root: Root) -> None:
    assert root.look() is None
    (root.path / "proc/locks").write_text("")
    root.lock.write_text("{}")
    assert root.look() is None


def test_a_run_at_work(root: Root) -> None:
    at_work(root)
    root.hold(40)
    found = root.look()
    assert decode(Holder, found, "holder") == Holder(
        40, "4000", "S", True, "docker compose up --token ***", "ana@laptop", "bringup", str(SAID["since"]), "ab12"
    )


def test_one_whose_session_is_gone(root: Root) -> None:
    root.process(30, 1, "sudo")
    root.process(40, 30, "python3", "T")
    gone = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 90))
    root.hold(40, json.dumps({**SAID, "gone": gone, "ending": True}))
    found = root.look()
    assert (found["state"], found["client"], found["doing"], found["ending"]) == ("T", False, "", True)
    assert 85 < found["gone_s"] < 100


def test_stuck_in_the_kernel_for_as_long_as_is_looked(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "APART_S", 0.0)
    at_work(root, state="D")
    root.hold(40)
    assert root.look()["state"] == "D"
    states = iter("DDS")
    real = holder.process
    monkeypatch.setattr(
        holder,
        "process",
        lambda *about: (one := real(*about)) and holder.Process(**{**vars(one), "state": next(states)}),
    )
    assert holder.lasting_state(str(root.path), holder.Process(40, "", "D", 1, 1, "4000")) == "S"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"who": 3, "run": null}', "[" * 5000, "\x00\xff"])
def test_a_lock_that_says_little(root: Root, text: str) -> None:
    at_work(root)
    root.hold(40, text)
    found = root.look()
    assert (found["pid"], found["who"], found["run"], found["gone_s"]) == (40, "", "", None)


def test_hostile_names(root: Root) -> None:
    root.process(40, 1, "a) S 1 (\x1b[2Jb")
    root.process(50, 40, "x", "S", "\x1b]0;t\x07run\n", "p" * 5000, leads=True)
    root.hold(40, json.dumps({**SAID, "who": "\x1b[31mana" + "a" * 5000, "gone": "yesterday"}))
    found = root.look()
    assert found["doing"].isprintable()
    assert len(found["doing"]) <= holder.ARGV_CHARS
    assert found["who"].isprintable()
    assert len(found["who"]) <= 200
    assert found["gone_s"] is None


def test_a_child_that_kept_the_lock_of_a_dead_run(root: Root) -> None:
    root.process(77, 1, "python3", "D")
    root.hold(40)
    (root.path / "proc/77/fd/3").symlink_to(root.lock)
    found = root.look()
    assert (found["pid"], found["started"], found["client"]) == (77, "7700", False)


def test_a_holder_that_cannot_be_seen(root: Root) -> None:
    root.hold(40)
    with pytest.raises(Unread, match="pid 40"):
        root.look()


def test_a_dead_process_is_none(root: Root) -> None:
    root.process(40, 1, "python3", "Z")
    assert holder.process(str(root.path), 40) is None
    assert holder.process(str(root.path), 41) is None


def test_parents_in_a_ring_end(root: Root) -> None:
    root.process(40, 41, "a")
    root.process(41, 40, "b")
    root.hold(40)
    assert root.look()["client"] is False
    table = holder.processes(str(root.path))
    assert len(holder.descendants(table, table[40])) == 1


def test_a_command_line_that_cannot_be_read(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work(root)
    root.hold(40)
    monkeypatch.setattr(holder, "DOING_S", 0.05)
    monkeypatch.setattr(holder, "doing", lambda *_: threading.Event().wait(1) or "late")
    assert root.look()["doing"] == ""
    monkeypatch.setattr(holder, "doing", lambda *_: 1 / 0)
    assert root.look()["doing"] == ""
