"""The kernel's own words since the boot: what it says of the card, whom it killed for want of memory; and its memory.

The journal is asked first: it reaches back to the boot. Where it has nothing, the kernel's ring buffer is read, which
forgets. What the engine itself heard of kills (`oom` events) stands in where the kernel's log cannot be had at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable

from pantheon.looks import work
from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import read_text, which
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, masked, plain, seconds

READ_S = 4.0
LOG_BYTES = 8 << 20  # of the log, its newest end
LOG_RECORDS = 20_000
KEPT_LINES = 200
KEPT_KILLS = 50
MIB = 1024  # KiB

_READING = threading.Lock()


def log(spec: Object, root: str) -> Json:
    """evidence.Evidence.kernel_log: lines that match a clue about the kernel's words, as "TIME text", newest last."""
    clues = [clue for clue in spec.get("clues") or () if "kernel" in clue["where"]]
    wanted = [(clue["text"].lower(), re.compile(clue["pattern"], re.IGNORECASE)) for clue in clues]
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    for when, line in _lines(spec, root):
        low = line.lower()
        if any(text in low and pattern.search(line) for text, pattern in wanted):
            kept.append(f"{_iso(when)} {masked(line)}" if when else masked(line))
    return list(kept)


def killed(spec: Object, root: str) -> Json:
    """evidence.Evidence.killed: every kill for want of memory that the kernel's log tells of, oldest first."""
    try:
        found = kills(_lines(spec, root))
    except Unread as error:
        try:
            return _heard_by_the_engine(root)
        except (Unread, Missing, KeyError, TypeError, AttributeError):
            raise error from None
    names = _names(root) if any(kill["container"] for kill in found) else {}
    for kill in found:
        number = kill["container"]
        kill["container"] = names.get(number, number[:12])
    return found


def memory(spec: Object, root: str) -> Json:
    """evidence.Evidence.memory"""
    del spec
    text = read_text(f"{root}/proc/meminfo")
    if text is None:
        raise Unread("/proc/meminfo cannot be read")
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    names = {"total": "MemTotal", "available": "MemAvailable", "swap_total": "SwapTotal", "swap_free": "SwapFree"}
    missing = [name for name in names.values() if name not in rows]
    if missing:
        raise Unread(f"/proc/meminfo does not say {', '.join(missing)}")
    return {f"{key}_mib": int(rows[name]) // MIB for key, name in names.items()}


# ---- who was killed

_OOM = re.compile(r"oom-kill:constraint=(?P<constraint>\w+).*?,task_memcg=(?P<group>[^,]*),.*?pid=(?P<pid>\d+)")
_KILLED = re.compile(
    r"(?P<why>Memory cgroup out of memory|Out of memory(?: \([^)]*\))?):? Kill(?:ed)? process (?P<pid>\d+)"
    r"(?:, UID \d+,)? \((?P<name>.*)\),? (?:total-vm|score)"
)
_RSS = re.compile(r"(?:anon|file|shmem)-rss:(\d+)kB")
_ID = re.compile(r"[0-9a-f]{64}")


def kills(lines: Iterable[tuple[float, str]]) -> list[Object]:
    """evidence.Killed for each kill in these lines, `container` being an id of 64 digits, or "". The line that names
    the cgroup stands before the one that says who was killed; kernels older than 5.0 have none."""
    groups: dict[int, tuple[str, str]] = {}
    found: deque[Object] = deque(maxlen=KEPT_KILLS)
    now = time.time()
    for when, line in lines:
        if about := _OOM.search(line):
            groups[int(about["pid"])] = (about["constraint"], about["group"])
        elif about := _KILLED.search(line):
            pid = int(about["pid"])
            constraint, group = groups.pop(pid, ("", ""))
            ids = _ID.findall(group)
            limit = constraint == "CONSTRAINT_MEMCG" if constraint else about["why"].startswith("Memory cgroup")
            found.append(
                {
                    "when": _iso(when) if when else "",
                    "process": plain(about["name"])[:64],
                    "pid": pid,
                    "rss_mib": sum(int(size) for size in _RSS.findall(line)) // MIB,
                    "container": ids[-1] if ids else "",  # the innermost: a host may be a container itself
                    "limit": limit,
                    "ago_s": max(0, round(now - when)) if when else 0,
                }
            )
    return list(found)


def _names(root: str) -> dict[str, str]:
    """Names of the containers that are there, by id. {} where the engine does not say."""
    try:
        found = Engine(root).get("/containers/json?all=1", time.monotonic() + READ_S / 4)
        return {str(one["Id"]): str((one.get("Names") or ["/"])[0]).lstrip("/") for one in found}
    except (Unread, Missing, KeyError, TypeError):
        return {}


def _heard_by_the_engine(root: str) -> list[Object]:
    """The engine's own `oom` events: it keeps its last few hundred of all kinds, and only while it runs. They say that
    something in a container met the container's limit, not what."""
    now = time.time()
    asked = quoted(json.dumps({"type": ["container"], "event": ["oom"]}))
    path = f"/events?since={int(now) - 7 * 86400}&until={int(now)}&filters={asked}"
    text = Engine(root).ask("GET", path, end=time.monotonic() + READ_S / 4, limit=1 << 20).decode("utf-8", "replace")
    names = _names(root)
    found = []
    for line in text.splitlines():
        event = json.loads(line)
        number, when = str(event["Actor"]["ID"]), float(event["time"])
        about = {"when": _iso(when), "process": "", "pid": 0, "rss_mib": 0, "limit": True}
        found.append({**about, "container": names.get(number, number[:12]), "ago_s": max(0, round(now - when))})
    return found[-KEPT_KILLS:]


# ---- the log


def _lines(spec: Object, root: str) -> list[tuple[float, str]]:
    """The kernel's lines since the boot with their times (seconds since 1970, 0.0 when not known), oldest first: read
    once, for both parts that want them. Raises Unread."""
    with _READING:
        if "kernel" not in spec:
            spec["kernel"] = work.attempt(_read, root)
        found = spec["kernel"]
    if work.is_unknown(found):
        raise Unread(found["unknown"])
    return list(found)


def _read(root: str) -> list[tuple[float, str]]:
    reasons = []
    for source in (_journal, _ring) if not root else (_ring,):
        try:
            if lines := source(root):
                return lines
            reasons.append(f"{source.__name__.strip('_')}: empty")
        except Unread as error:
            reasons.append(str(error))
    raise Unread(f"the kernel's log: {'; '.join(reasons)}")


_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([+-]\d\d):?(\d\d) (?:kernel: )?")


def _journal(root: str) -> list[tuple[float, str]]:
    del root
    if not which("journalctl"):
        raise Unread("journalctl: not there")
    argv = ["journalctl", "-k", "-b", "-q", "-r", "--no-pager", "--utc", "--no-hostname", "-o", "short-iso"]
    done = work.command([*argv, "-n", str(LOG_RECORDS)], READ_S, LOG_BYTES)
    if done["status"]:
        raise Unread(f"journalctl: exit {done['status']}: {done['output'].strip()[:200]}")
    lines = []
    for line in reversed(done["output"].splitlines()):
        stamp = _STAMP.match(line)
        if stamp:
            lines.append((seconds(f"{stamp[1]}{stamp[2]}:{stamp[3]}"), line[stamp.end() :]))
    return lines


def _ring(root: str) -> list[tuple[float, str]]:
    """/dev/kmsg: a record a read, `PRIORITY,NUMBER,MICROSECONDS,-;TEXT` and lines of its own fields behind it."""
    path = f"{root}/dev/kmsg"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unread(f"{path}: {error.strerror}") from None
    lines: deque[tuple[float, str]] = deque(maxlen=LOG_RECORDS)
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    end, held = time.monotonic() + READ_S, b""
    try:
        while time.monotonic() < end:
            try:
                data = os.read(handle, 8192)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten while we read: the next read goes on behind it
                    continue
                raise Unread(f"{path}: {error.strerror}") from None
            if not data:
                break
            *whole, held = (held + data).split(b"\n")
            for raw in whole:
                record = re.match(rb"\d+,\d+,(\d+),[^;]*;", raw)
                if record:
                    text = plain(raw[record.end() :].decode("utf-8", "replace"))
                    lines.append((booted + int(record[1]) / 1e6, text))
    finally:
        os.close(handle)
    return list(lines)


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
