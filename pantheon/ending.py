"""Ends a run of pantheon that holds the lock although nobody waits for it any more (fix.stuck-apply). Runs ON the
host, as root, before the run that was asked to do so takes the lock; standard library only.

Exactly the process that was shown is ended: its number, its start and the run that the lock names are read again, and
again before each signal.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pantheon.collecting import holder
from pantheon.collecting.holder import Process
from pantheon.looks import system
from pantheon.looks.files import read_text

STOPPED = "Tt"  # the second while it is traced
KILLED_S = 5.0  # from SIGKILL to the end of a process that can be ended at all


class Stuck(Exception):
    """It could not be ended; the arguments are lines that say why, and what to do."""


class Other(Exception):
    """Not that run, but another, holds the lock; the argument says which."""


def end_run(about: dict[str, Any], say: Callable[[str], None], root: str = "") -> tuple[dict[str, Any], bool]:
    """End the run that `about` names ("pid", "started", "run", "patience_s"). Returns what it had written into the
    lock, {} where it had ended by itself before, and whether it had to be killed. Raises Stuck and Other."""
    said = _still_there(about, root)
    if not said:
        return {}, False
    target = holder.process(root, about["pid"])
    assert target is not None
    table = holder.processes(root)
    below, above = holder.descendants(table, target), holder.ancestors(table, target)
    say(f"asking process {target.pid} to end")
    _signal(root, target, signal.SIGTERM)
    _signal(root, target, signal.SIGCONT)  # one that is stopped hears nothing else
    killed = not _gone(root, target, float(about["patience_s"]))
    if killed:
        say(f"process {target.pid} does not end: killing it")
        _signal(root, target, signal.SIGKILL)
        for one in below:
            _signal(root, one, signal.SIGKILL)
        for one in (target, *below):
            if not _gone(root, one, KILLED_S) and (one == target or one.pid in holder.openers(root)):
                raise Stuck(*_stuck(root, one))
    for one in above:
        now = holder.process(root, one.pid)
        if now and now.state in STOPPED:
            _signal(root, one, signal.SIGCONT)  # sudo stops with what it runs, and would stay so for ever
    return said, killed


def _still_there(about: dict[str, Any], root: str) -> dict[str, Any]:
    """What that run says in the lock; {} when nobody holds it."""
    held = system.lock_held(root)
    if held is None:
        return {}
    pid, text = held
    said = holder.said_in(text)
    now = holder.process(root, about["pid"])
    holds = about["pid"] == pid or about["pid"] in holder.openers(root)
    if now is None or now.started != about["started"] or not holds or holder.word(said, "run") != about["run"]:
        if system.lock_held(root) is None:
            return {}
        raise Other(f"held by process {pid}, {holder.word(said, 'what') or '?'} of {holder.word(said, 'who') or '?'}")
    return {**said, "pid": about["pid"]}


def _signal(root: str, target: Process, number: int) -> None:
    now = holder.process(root, target.pid)
    if now and now.started == target.started:
        with suppress(ProcessLookupError):
            os.kill(target.pid, number)


def _gone(root: str, target: Process, patience_s: float) -> bool:
    """Whether it ends within that time."""
    deadline = time.monotonic() + patience_s
    while True:
        now = holder.process(root, target.pid)
        if now is None or now.started != target.started:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def _stuck(root: str, target: Process) -> list[str]:
    now = holder.process(root, target.pid) or target
    where = ""
    with suppress(OSError):
        where = (read_text(f"{root}/proc/{target.pid}/wchan", 200) or "").strip("0\n ")
    why = f"it is stuck in the kernel (state {now.state}{f', {where}' if where else ''})"
    lines = [f"process {target.pid} ({target.name}) does not end, even by SIGKILL: {why}"]
    return [*lines, "what it waits for may come back (an NFS server, a disk); else only a reboot ends it: sudo reboot"]
