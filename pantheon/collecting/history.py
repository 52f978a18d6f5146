"""Whether the last run of pantheon on this host came to its end, and which services it would have started again."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from pantheon.looks import system
from pantheon.looks.files import read_text
from pantheon.looks.text import Json, Object, plain, shown

HISTORY = "/var/log/pantheon/history.jsonl"
LOCK = "/run/pantheon/lock"
TAIL = 64 * 1024


def unfinished(spec: Object, root: str) -> Json:
    """evidence.Evidence.unfinished"""
    del spec
    last = _broken_off(root)
    return plain(str(last.get("what") or "")) if last else None


def owed(spec: Object, root: str) -> Json:
    """evidence.Evidence.owed"""
    del spec
    names = (_broken_off(root) or {}).get("services")
    return [shown(str(name)) for name in names] if isinstance(names, list) else []


def _broken_off(root: str) -> Object | None:
    """What the last run said of itself, if it did not come to its end. One that died wrote nothing there: what it put
    into the lock is still to be read."""
    if system.lock(root) is not None:
        return None  # it goes on
    with suppress(ValueError, AttributeError):
        died = json.loads(read_text(root + LOCK) or "{}")
        if died.get("what"):
            return dict(died)
    try:
        with open(root + HISTORY, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            lines = stream.read(TAIL).splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            last = json.loads(line)
            return dict(last) if last.get("result") != "done" else None
    return None
