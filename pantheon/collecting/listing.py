"""What find(1) lists of a tree, record by record and within a deadline."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

from pantheon.looks import work


class Listing:
    """The records of one `find -P TOP .. -printf FORM`, to be gone through once. `complete` says afterwards whether
    it came to its end by `end` (on the monotonic clock) and could read everything."""

    def __init__(self, top: str, *options: str, form: str, end: float) -> None:
        self._argv = ["find", "-P", top, *options, "-printf", form + r"\0"]
        self._end = end
        self.complete = False

    def __iter__(self) -> Iterator[bytes]:
        child = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        work.RUNNING.add(child.pid)
        assert child.stdout is not None
        held = b""
        try:
            while (left := self._end - time.monotonic()) > 0 and select.select([child.stdout], [], [], left)[0]:
                data = os.read(child.stdout.fileno(), 1 << 18)
                if not data:
                    with suppress(subprocess.TimeoutExpired):
                        self.complete = child.wait(1) == 0
                    return
                *rows, held = (held + data).split(b"\0")
                yield from rows
        finally:
            work.kill_group(child.pid)
            work.RUNNING.discard(child.pid)
            child.stdout.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.05)
