"""Whether the last run of pantheon on this host came to its end."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from pantheon.looks import system
from pantheon.looks.files import read_text
from pantheon.looks.text import Json, Object, plain

HISTORY = "/var/log/pantheon/history.jsonl"
LOCK = "/run/pantheon/lock"
TAIL = 64 * 1024


def unfinished(spec: Object, root: str) -> Json:
    """evidence.Evidence.unfinished. A run that died wrote nothing at its end: what it put into the lock is still
    there."""
    del spec
    if system.lock(root) is not None:
        return None  # it goes on
    with suppress(ValueError, AttributeError):
        died = json.loads(read_text(root + LOCK) or "{}").get("what")
        if died:
            return plain(str(died))
    try:
        with open(root + HISTORY, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            lines = stream.read(TAIL).splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            last = json.loads(line)
            return plain(str(last.get("what") or "")) if last.get("result") != "done" else None
    return None
