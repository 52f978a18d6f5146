"""Files, written on the host by the runner so that nobody ever sees half of one. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_file(path: str, text: str, mode: int, uid: int, gid: int, *, replace: bool = True) -> None:
    """Write beside, then rename over: no reader ever sees half a file, and no link is followed."""
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = f"{directory}/.{name}.pantheon"  # always the same: what a killed run left goes with the next
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                os.fsync(fd)
            if replace:
                os.rename(temporary, path)
            else:
                os.link(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def make_secret(step: dict[str, Any]) -> None:
    """A random key, once. An existing file keeps its content; only its owner and mode are put right."""
    path, about = step["make_secret"], (step["mode"], step["uid"], step["gid"])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        write_file(path, secrets.token_hex(step["size"]), *about, replace=False)
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if found.st_size == 0:  # no key, only the place for one
            write_file(path, secrets.token_hex(step["size"]), *about)
            return
        os.fchown(fd, step["uid"], step["gid"])
        os.fchmod(fd, step["mode"])
    finally:
        os.close(fd)
