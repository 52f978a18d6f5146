"""Directories opened below the one that holds them, never by a path and never through a link, and what lies in them."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pantheon.mending.words import Failed, shown

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


# ---- opened


def opened(path: str, *, make: bool = False) -> int:
    """A directory, opened from the root on without following a link anywhere."""
    here = os.open("/", DIRECTORY)
    for part in [part for part in path.split("/") if part]:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, DIRECTORY, dir_fd=here)
        except OSError as error:
            what = "a link" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
            raise Failed(f"{shown(path)} is no directory of its own: {shown(part)}: {what}") from None
        finally:
            os.close(here)
        here = below
    return here


def without_atime(name: str, flags: int, folder: int) -> int:
    """Opened so that even its time of access stays, where that is allowed."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder)


class Way:
    """The directory that was used last, opened name by name below the top: the next one mostly lies near it."""

    def __init__(self, top: int) -> None:
        self.names: list[str] = []
        self.fds = [top]

    def to(self, names: list[str], *, make: bool = False) -> int:
        """The directory of that place, open as long as the way leads there."""
        while self.names != names[: len(self.names)]:
            self.names.pop()
            os.close(self.fds.pop())
        for name in names[len(self.names) :]:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self.fds[-1])
            self.fds.append(os.open(name, DIRECTORY, dir_fd=self.fds[-1]))
            self.names.append(name)
        return self.fds[-1]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def allow_open_files(wanted: int) -> None:
    """As many as that may be open at once, or as many as there may be."""
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        enough = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


# ---- what lies in them


def listing(folder: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def state_of(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def lstat(path: str) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path)
    return None


def walked(top: str, skip: list[str] | tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in a directory and the directory itself, links not followed; `skip` and what is below it left out."""
    left_out = {f"{top}/{place}" for place in skip}
    yield top, os.lstat(top)
    levels = [os.scandir(top)]
    try:
        while levels:
            try:
                entry = next(levels[-1], None)
            except OSError as error:
                raise Failed(f"{shown(top)}: {error.strerror}") from None
            if entry is None:
                levels.pop().close()
                continue
            if entry.path in left_out:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
                inner = os.scandir(entry.path) if stat.S_ISDIR(found.st_mode) else None
            except FileNotFoundError:
                continue
            yield entry.path, found
            if inner:
                levels.append(inner)
    finally:
        for level in levels:
            level.close()


def remove_tree(folder: int, name: str) -> None:
    """Something in our own unfinished copy, with all that is in it."""
    found = state_of(folder, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    inner = os.open(name, DIRECTORY, dir_fd=folder)
    try:
        os.fchmod(inner, 0o700)
        while names := [entry.name for entry in itertools.islice(listing(inner), 10_000)]:
            for one in names:
                remove_tree(inner, one)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


# ---- names


def joined(rel: str, name: str) -> str:
    return f"{rel}/{name}" if rel else name


def plain_place(place: str) -> list[str]:
    """The names on the way to a relative place. Raises Failed for one that leads out of it."""
    names = [name for name in place.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Failed(f"refused: {shown(place)} leads elsewhere")
    return names


def under(place: str, top: str) -> bool:
    return place != top and (not top or place.startswith(f"{top}/"))


# ---- mounts


class Mount(NamedTuple):
    device: str  # MAJOR:MINOR
    target: str
    kind: str
    source: str


def mounts() -> list[Mount]:
    """All of them, by the kernel's table: none is touched. Files can be mount points, too."""
    with open("/proc/self/mountinfo", "rb") as table:
        rows = [line.split() for line in table]
    cut = [(row, row.index(b"-")) for row in rows if b"-" in row]
    fields = [(row[2], row[4], *row[at + 1 : at + 3]) for row, at in cut]
    return [Mount(*(os.fsdecode(re.sub(rb"\\([0-7]{3})", byte, field)) for field in row)) for row in fields]


def byte(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8) & 255])


def mount_of(fd: int) -> str:
    """Device and mount of what is open: a bind mount of the same disk is another mount."""
    with suppress(OSError), open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return f"{os.fstat(fd).st_dev} {line.split()[1]}"
    return str(os.fstat(fd).st_dev)


# ---- small files of ours


def put(folder: int, name: str, data: object) -> None:
    """A small file of ours, whole or not at all."""
    fd = os.open(f"{name}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=folder)
    with os.fdopen(fd, "w") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(fd)
    os.rename(f"{name}.part", name, src_dir_fd=folder, dst_dir_fd=folder)


def got(folder: int, name: str) -> dict[str, Any]:
    with suppress(OSError, ValueError), os.fdopen(os.open(name, FILE, dir_fd=folder)) as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}
