"""Gives everything in a directory the owner, group and mode that keep_owners.py noted.

Arguments: {"path": absolute, "list": absolute}. What is new since then stays as it is, what is gone is passed over, and
so is a name that is something else now. Every directory is opened below the one that holds it and never through a link.
The list is renamed LIST.given at the end; where there is none, there is nothing to do. Run again it finds less to do.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PROGRESS_S = 1.0
KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


class Failed(Exception):
    """The message is for the operator."""


class Way:
    """The directory that was used last, opened name by name below the top: the next record mostly lies in it too."""

    def __init__(self, top: str) -> None:
        self.names: list[str] = []
        self.fds = [os.open(top, DIRECTORY)]

    def to(self, names: list[str]) -> int:
        while self.names != names[: len(self.names)]:
            self.names.pop()
            os.close(self.fds.pop())
        for name in names[len(self.names) :]:
            self.fds.append(os.open(name, DIRECTORY, dir_fd=self.fds[-1]))
            self.names.append(name)
        return self.fds[-1]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def records(place: str) -> Iterator[tuple[int, int, int, str, str]]:
    """uid, gid, mode, kind and name of each. Raises Failed for a list that is none."""
    rest = b""
    try:
        with gzip.open(place, "rb") as file:
            while chunk := file.read(1 << 16):
                *whole, rest = (rest + chunk).split(b"\0")
                for record in whole:
                    about, _, name = record.partition(b" ")
                    uid, gid, mode, kind = about.decode().split(":")
                    yield int(uid), int(gid), int(mode, 8), kind, os.fsdecode(name)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError):
        raise Failed(f"{shown(place)} is no list of owners") from None


def give(path: str, place: str, say: Callable[[str], None]) -> None:
    if not os.path.lexists(place):
        say(f"no owners are noted in {shown(place)}: nothing to give back in {shown(path)}")
        return
    way, changed, count, gone = Way(path), 0, 0, 0
    last = time.monotonic()
    try:
        for uid, gid, mode, kind, name in records(place):
            count += 1
            *above, last_name = name.split("/")
            if ".." in (*above, last_name):
                raise Failed(f"{shown(place)} is no list of owners")
            try:
                changed += give_one(way.to(above), last_name, (uid, gid), mode, kind)
            except (FileNotFoundError, NotADirectoryError):
                gone += 1
            if time.monotonic() - last >= PROGRESS_S:
                last = time.monotonic()
                say(f"{count} entries, {changed} changed")
    finally:
        way.close()
    os.rename(place, f"{place}.given")
    say(f"{shown(path)}: {count} entries, {changed} have their owner again" + (f", {gone} are gone" if gone else ""))


def give_one(folder: int, name: str, owner: tuple[int, int], mode: int, kind: str) -> bool:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if KINDS.get(stat.S_IFMT(found.st_mode), "f") != kind:
        raise FileNotFoundError
    changed = (found.st_uid, found.st_gid) != owner
    if changed:
        os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if kind != "l" and stat.S_IMODE(found.st_mode) != mode:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if os.fstat(fd).st_ino == found.st_ino:
                os.chmod(f"/proc/self/fd/{fd}", mode)
                changed = True
        finally:
            os.close(fd)
    return changed


def shown(name: str) -> str:
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def main(arguments: str, say: Callable[[str], None]) -> int:
    told = json.loads(arguments)
    try:
        give(os.path.normpath(told["path"]), told["list"], say)
    except Failed as failed:
        say(str(failed))
        return 1
    except OSError as error:
        say(f"{shown(str(error.filename or told['path']))}: {error.strerror or error}")
        return 1
    return 0


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], write))
