"""A container's log: from when on it counts, what of it is searched, and whether its beginning is lost."""

from __future__ import annotations

import os
import re
import time

from pantheon.looks.engine import Engine, LogLines, pairs_of
from pantheon.looks.files import read_bytes
from pantheon.looks.text import SECRET_NAME, Object, Unread, seconds, unknown, without

LOG_S = 2.0
LOG_BYTES = 8 * 1024 * 1024  # what is searched for markers
MOST_BYTES = 64 << 20
LOG_LINES = 20_000  # how far back markers are looked for
NEWEST_LINES, NEWEST_BYTES = 2000, 16 << 20  # how much is read for the last lines before a moment


def start_of_log(state: Object) -> float:
    """From when on the log belongs to the container's current start, in seconds since 1970; 0: all of it does. Docker
    notes the start a moment after the first lines were written, so a moment before it counts as well, unless the
    earlier run ended in it."""
    started, finished = seconds(state.get("StartedAt") or ""), seconds(state.get("FinishedAt") or "")
    if not started:
        return 0.0
    if finished and finished <= started:
        return started - min(0.25, (started - finished) / 2)
    return started - 0.05


def rotated_away(root: str, found: Object, since: float) -> bool:
    """Whether the part of a log that belongs to this start may be gone. Without rotation it is all there; with it, all
    is there while fewer files lie beside each other than are kept, or while the oldest still begins before `since`."""
    config = found["HostConfig"].get("LogConfig") or {}
    options = config.get("Config") or {}
    path = found.get("LogPath") or ""
    if config.get("Type") == "json-file" and path:
        if not options.get("max-size"):
            return False
        keep = options.get("max-file") or "1"
    elif config.get("Type") == "local":
        path = f"{(found.get('ResolvConfPath') or '').rpartition('/')[0]}/local-logs/container.log"
        keep = options.get("max-file") or "5"
    else:
        return True
    folder, _, name = path.rpartition("/")
    try:
        there = [entry for entry in os.listdir(root + folder) if entry == name or entry.startswith(name + ".")]
        if there and len(there) < int(keep):
            return False
        oldest = max(there, key=lambda entry: (len(entry), entry))
        data = read_bytes(f"{root}{folder}/{oldest}", 1 << 18) or b""
    except (OSError, ValueError, Unread):
        return True
    time_of_first = re.search(rb'"time":"([^"]+)"\}', data.partition(b"\n")[0])
    return not since or not time_of_first or not 0 < seconds(time_of_first[1].decode("ascii", "replace")) < since


def secrets_of(config: Object) -> list[str]:
    """The values of a container's environment that are secret by name: not to be shown, whoever prints them."""
    return [value for name, value in pairs_of(config) if len(value) >= 6 and SECRET_NAME.search(name)]


def last_lines(engine: Engine, found: Object, *, keep: int, end: float, until: float = 0) -> list[str]:
    """The last `keep` lines of the log of the container that was inspected as `found`, those before `until` (seconds
    since 1970; 0: to its end). Secrets are masked. Raises Unread and Missing."""
    lines = LogLines(tty=bool(found["Config"].get("Tty")), keep=keep, most=NEWEST_BYTES)
    engine.log(found["Id"], until=until, tail=NEWEST_LINES, end=end, lines=lines)
    lines.finish()
    secrets = secrets_of(found["Config"])
    return [without(line, secrets) for line in lines.tail]


def read_log(engine: Engine, found: Object, markers: list[str] | None, *, keep: int, end: float, root: str) -> Object:
    """facts.Container's log (the last `keep` lines), log_markers and log_complete, all since the current start of the
    container that was inspected as `found`. Values of its environment that are secret by name are masked."""
    state, config = found["State"], found["Config"]
    if not seconds(state.get("StartedAt") or ""):
        return {"log": [], "log_markers": [] if markers is not None else None, "log_complete": True}
    secrets = secrets_of(config)
    since = start_of_log(state)
    tail = max(keep, LOG_LINES) if markers else keep

    def read(lines: LogLines, tail: int, within_s: float) -> str:
        """What kept it from being read, "" for nothing."""
        try:
            last = min(end, time.monotonic() + within_s)
            engine.log(found["Id"], since=since, tail=tail, end=last, lines=lines)
        except Unread as error:
            return str(error)
        finally:
            lines.finish()
        return ""

    tty, wanted = bool(config.get("Tty")), markers or ()
    lines = LogLines(tty=tty, keep=keep, markers=wanted, most=LOG_BYTES if markers else MOST_BYTES)
    reason = read(lines, tail, LOG_S)
    if (reason or lines.cut) and markers and lines.count:
        # Cut at its older end: the newest lines are still owed
        newest = LogLines(tty=tty, keep=keep, markers=wanted, most=MOST_BYTES)
        reason = read(newest, keep, LOG_S / 2)
        lines.tail, lines.cut = newest.tail, True
        lines.found.extend(line for line in newest.found if line not in lines.found)
    if reason:
        return {"log": unknown(reason), "log_markers": unknown(reason) if markers is not None else None}
    oldest = [line for line in dict.fromkeys(lines.firsts.values()) if line not in lines.found]
    complete = not lines.cut and lines.count < tail and not rotated_away(root, found, since)
    return {
        "log": [without(line, secrets) for line in lines.tail],
        "log_markers": None if markers is None else [without(line, secrets) for line in (*oldest, *lines.found)],
        "log_complete": complete,
    }
