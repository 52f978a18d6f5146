"""Copies a few files to other names, such as a database before another version changes it.

Arguments: {"files": [{"from": absolute, "to": absolute}, ...]}. A file that is not there is passed over. A copy that is
there is kept: it shows how things were first. Each is written beside, read back, and renamed when it is whole; owner,
mode and times are the file's.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from contextlib import suppress

from pantheon.mending.content import BLOCK
from pantheon.mending.words import Failed, Say, say, shown, tried


def digest(fd: int) -> bytes:
    found, at = hashlib.blake2b(), 0
    while data := os.pread(fd, BLOCK, at):
        found.update(data)
        at += len(data)
    return found.digest()


def copy(old: str, new: str) -> str:
    """What became of it, as a line."""
    if os.path.lexists(new):
        return f"{shown(new)} is there already, and is kept"
    try:
        source = os.open(old, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{shown(old)} is not there: nothing to copy"
    part = f"{new}.part"
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise Failed(f"{shown(old)} is no file")
        with suppress(FileNotFoundError):
            os.unlink(part)
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            at = 0
            while data := os.pread(source, BLOCK, at):
                file.write(data)
                at += len(data)
            file.flush()
            os.fchown(fd, found.st_uid, found.st_gid)
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(fd)
            now = os.fstat(source)
            if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns) or digest(fd) != digest(source):
                raise Failed(f"{shown(old)} is being written to: no copy was made")
        os.rename(part, new)
    finally:
        os.close(source)
        with suppress(FileNotFoundError):
            os.unlink(part)
    return f"{shown(old)} is copied to {shown(new)}"


def main(arguments: str, say: Say) -> int:
    files = json.loads(arguments)["files"]

    def work() -> None:
        for file in files:
            say(copy(file["from"], file["to"]))

    return tried(work, say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
