"""What the programs that mend have to say, and how they end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

Say = Callable[[str], None]
PROGRESS_S = 1.0  # between two lines about how far it is


class Failed(Exception):
    """Lines for the operator: what could not be done."""


def say(line: str) -> None:
    print(line, flush=True)


def tried(work: Callable[[], object], tell: Say, place: str = "") -> int:
    """The exit status of some work, which is 1 when it could not be done; why not is told. `place` is what it was
    about, where an error names no file."""
    try:
        work()
    except Failed as failed:
        for line in failed.args:
            tell(line)
    except OSError as error:
        named = shown(str(error.filename or place))
        room = " (the disk is full)" if error.errno == errno.ENOSPC else ""
        tell(f"{named}: {error.strerror or error}{room}" if named else f"{error.strerror or error}{room}")
    else:
        return 0
    return 1


def shown(name: str) -> str:
    """A name as one line that a terminal may have."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def size_text(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def time_text(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{whole / 3600:.1f} h"
