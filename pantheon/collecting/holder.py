"""Who holds the lock of this host (runner.LOCK), and whether anybody still waits for that run."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from pantheon.looks import system, work
from pantheon.looks.files import read_text
from pantheon.looks.text import Json, Object, Unread, masked_argv, plain, seconds

SAMPLES, APART_S = 4, 0.08  # how often, and how far apart, a process must be stuck in the kernel to count as that
ARGV_CHARS = 300
DOING_S = 1.0


@dataclass(frozen=True)
class Process:
    """A line of /proc/PID/stat. `started`: in clock ticks since the boot."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    started: str


def holder(spec: Object, root: str) -> Json:
    """evidence.Evidence.holder"""
    del spec
    held = system.lock_held(root)
    if held is None:
        return None
    pid, text = held
    table = processes(root)
    process = table.get(pid) or next((table[other] for other in openers(root) if other in table), None)
    if process is None:
        if system.lock_held(root) is None:
            return None
        raise Unread(f"the process that holds the lock (pid {pid}) cannot be seen")
    # The command line of a process that is stuck in the kernel may not be readable either.
    command = work.Part("doing", doing, root, table, process, deadline_s=DOING_S).result(time.monotonic() + DOING_S)
    said = said_in(text)
    gone = seconds(word(said, "gone"))
    return {
        "pid": process.pid,
        "started": process.started,
        "state": lasting_state(root, process),
        "client": any(above.name.startswith("sshd") for above in ancestors(table, process)),
        "doing": command if isinstance(command, str) else "",
        **{key: word(said, key) for key in ("who", "what", "since", "run")},
        "ending": said.get("ending") is True,
        "gone_s": max(0.0, round(time.time() - gone, 1)) if gone else None,
    }


def said_in(text: str) -> Object:
    """What the holder wrote into the lock."""
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def word(said: Object, key: str) -> str:
    value = said.get(key)
    return plain(value)[:200] if isinstance(value, str) else ""


def processes(root: str) -> dict[int, Process]:
    """All processes by their number."""
    found = (process(root, int(name)) for name in os.listdir(f"{root}/proc") if name.isdigit())
    return {one.pid: one for one in found if one is not None}


def process(root: str, pid: int) -> Process | None:
    """That process now; None when there is none."""
    try:
        text = read_text(f"{root}/proc/{pid}/stat", 8192)
    except OSError:
        return None
    head, _, rest = (text or "").rpartition(")")  # the name may hold anything, a bracket too
    fields = rest.split()
    if len(fields) < 20 or fields[0] == "Z":  # one that is dead holds nothing
        return None
    return Process(pid, plain(head.partition("(")[2]), fields[0], int(fields[1]), int(fields[3]), fields[19])


def lasting_state(root: str, about: Process) -> str:
    """The process's state; D only if it stays so: every read from a disk is D for a moment."""
    state = about.state
    for _ in range(SAMPLES):
        if state != "D":
            break
        time.sleep(APART_S)
        now = process(root, about.pid)
        state = now.state if now and now.started == about.started else state
    return state


def ancestors(table: dict[int, Process], about: Process) -> list[Process]:
    """The processes above it, nearest first."""
    out: list[Process] = []
    while (above := table.get(about.parent)) and above not in out:
        out.append(above)
        about = above
    return out


def descendants(table: dict[int, Process], about: Process) -> list[Process]:
    """The processes below it, parents first."""
    out = [about]
    for one in out:
        out += [other for other in table.values() if other.parent == one.pid and other not in out]
    return out[1:]


def openers(root: str) -> list[int]:
    """The processes that have the lock file open: where the one that took it is dead, a child of its that is stuck may
    have kept a copy, and the lock with it."""
    out = []
    try:
        lock = os.stat(root + system.LOCK_FILE)
    except OSError:
        return []
    for name in os.listdir(f"{root}/proc"):
        if name.isdigit():
            folder = f"{root}/proc/{name}/fd"
            with suppress(OSError):
                for fd in os.listdir(folder):
                    with suppress(OSError):
                        # Only what is called so is looked at: a stat of a file on a dead NFS server never returns.
                        if not os.readlink(f"{folder}/{fd}").endswith(system.LOCK_FILE):
                            continue
                        about = os.stat(f"{folder}/{fd}")
                        if (about.st_dev, about.st_ino) == (lock.st_dev, lock.st_ino):
                            out.append(int(name))
                            break
    return sorted(out)


def doing(root: str, table: dict[int, Process], about: Process) -> str:
    """The command that it runs now: a step leads a session of its own."""
    steps = [one for one in table.values() if one.parent == about.pid and one.session == one.pid]
    if not steps:
        return ""
    newest = max(steps, key=lambda one: int(one.started) if one.started.isdigit() else 0)
    text = read_text(f"{root}/proc/{newest.pid}/cmdline", 65536) or ""
    words = [plain(one)[:80] for one in masked_argv(text.split("\0"))]
    return " ".join(words).strip()[:ARGV_CHARS] or newest.name
