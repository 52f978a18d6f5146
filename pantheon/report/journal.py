"""The full local log of a run that changes a host, under the user's state directory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TextIO

from pantheon.places import private, state_directory
from pantheon.plan import Plan, Write
from pantheon.report.text import clean

MOST_LOG = 256 * 1024


class Journal:
    """Lines with their time, in a file of mode 0600. A journal that cannot be written never stops a run."""

    def __init__(self, host: str, what: str) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S")
        self._file: TextIO | None = None
        self.path = state_directory() / "logs" / f"{stamp}-{host}-{what.replace(' --', '-')}.log"
        try:
            private(self.path.parent)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(fd, "w", encoding="utf-8", errors="replace")
        except OSError:
            return

    def line(self, text: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(f"{time.strftime('%H:%M:%S')} {clean(text)}\n")
            self._file.flush()
        except OSError:
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def plan(self, plan: Plan) -> None:
        """What is about to be applied, with commands and differences; secrets are masked by the steps themselves."""
        self.line(f"plan {plan.hash} for {plan.host}")
        for section in plan.sections:
            for change in section.changes:
                self.line(f"{section.name}: {change.what}: {change.why}")
                for step in change.steps:
                    self.line(f"  {step.show()}")
                    for line in step.diff().splitlines() if isinstance(step, Write) else ():
                        self.line(f"    {line}")


class Log:
    """What happened to a process that has no terminal: lines with date and time in a file of mode 0600, of MOST_LOG
    bytes at most; the oldest lines go. It is put back where it has vanished, and one that cannot be written stops
    nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self._fd = path, -1

    def open(self) -> int:
        """Its descriptor. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        new = os.open(self.path, flags, 0o600)
        self.close()
        self._fd = new
        return new

    def line(self, text: str) -> None:
        if self._fd < 0 or not self._is_in_place():
            with contextlib.suppress(OSError):
                self.open()
        try:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            words = " ".join(clean(text).splitlines())  # one that has several could have a time that is not ours
            os.write(self._fd, f"{stamp} {words}\n".encode("utf-8", "replace"))
            if (size := os.fstat(self._fd).st_size) > MOST_LOG:
                kept = os.pread(self._fd, MOST_LOG // 2, size - MOST_LOG // 2)
                os.ftruncate(self._fd, 0)
                os.write(self._fd, kept.partition(b"\n")[2])
        except OSError:
            return

    def last(self, lines: int = 10) -> list[str]:
        """What it says last."""
        try:
            data = self.path.read_bytes()[-MOST_LOG:]
        except OSError:
            return []
        return [clean(line) for line in data.decode("utf-8", "replace").splitlines() if line.strip()][-lines:]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _is_in_place(self) -> bool:
        try:
            here, there = os.fstat(self._fd), os.lstat(self.path)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
