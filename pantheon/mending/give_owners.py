"""Gives everything in a directory the owner, group and mode that keep_owners.py noted.

Arguments: {"path": absolute, "list": absolute, "uid": n, "gid": n}. What uid:gid has made since then gets the owner of
the directory that it is in, so that whoever that is can go on with it; what others have made stays as it is. What is
gone is passed over, and so is a name that is something else now. Every directory is opened below the one that holds it
and never through a link. The list is renamed LIST.given at the end; where there is none, there is nothing to do. Run
again it finds less to do. Memory is bounded by the directories on the way to where it is.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pantheon.mending.folders import DIRECTORY, Way, listing
from pantheon.mending.words import PROGRESS_S, Failed, Say, say, shown, tried

KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


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


@dataclass
class Level:
    """A directory on the way to where the list is: its place, and the names in it that the list has."""

    place: list[str]
    known: set[str]


class New:
    """What was made since, of the owner `ours`."""

    def __init__(self, way: Way, ours: tuple[int, int] | None) -> None:
        self.way, self.ours = way, ours
        self.levels: list[Level] = []
        self.changed = 0

    def met(self, names: list[str], *, is_directory: bool) -> None:
        """One that the list has. The directories that it leaves behind are done."""
        while self.levels and self.levels[-1].place != names[:-1]:
            self.leave()
        if self.levels:
            self.levels[-1].known.add(names[-1])
        if is_directory:
            self.levels.append(Level(names, set()))

    def leave(self) -> None:
        level = self.levels.pop()
        with suppress(FileNotFoundError, NotADirectoryError):
            folder = self.way.to(level.place)
            about = os.fstat(folder)
            if self.ours and (about.st_uid, about.st_gid) != self.ours:
                for entry in listing(folder):
                    if entry.name not in level.known:
                        self.own(folder, entry.name, about)

    def own(self, folder: int, name: str, like: os.stat_result) -> None:
        """It and all that is in it, on that disk."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if found.st_dev != like.st_dev:
                return
            if (found.st_uid, found.st_gid) == self.ours:
                os.chown(name, like.st_uid, like.st_gid, dir_fd=folder, follow_symlinks=False)
                self.changed += 1
            if stat.S_ISDIR(found.st_mode):
                inner = os.open(name, DIRECTORY, dir_fd=folder)
                try:
                    for entry in listing(inner):
                        self.own(inner, entry.name, like)
                finally:
                    os.close(inner)


def give(path: str, place: str, ours: tuple[int, int] | None, say: Say) -> None:
    if not os.path.lexists(place):
        say(f"no owners are noted in {shown(place)}: nothing to give back in {shown(path)}")
        return
    way, changed, count, gone = Way(os.open(path, DIRECTORY)), 0, 0, 0
    new = New(way, ours)
    last = time.monotonic()
    try:
        for uid, gid, mode, kind, name in records(place):
            count += 1
            *above, last_name = name.split("/")
            if ".." in (*above, last_name):
                raise Failed(f"{shown(place)} is no list of owners")
            new.met([] if name == "." else [*above, last_name], is_directory=kind == "d")
            try:
                changed += give_one(way.to(above), last_name, (uid, gid), mode, kind)
            except (FileNotFoundError, NotADirectoryError):
                gone += 1
            if time.monotonic() - last >= PROGRESS_S:
                last = time.monotonic()
                say(f"{count} entries, {changed} changed")
        while new.levels:
            new.leave()
    finally:
        way.close()
    os.rename(place, f"{place}.given")
    made = f", {new.changed} made since have that of their directory" if new.changed else ""
    lost = f", {gone} are gone" if gone else ""
    say(f"{shown(path)}: {count} entries, {changed} have their owner again{made}{lost}")


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


def main(arguments: str, say: Say) -> int:
    told = json.loads(arguments)
    ours = (int(told["uid"]), int(told["gid"])) if told.get("uid") is not None else None
    return tried(lambda: give(os.path.normpath(told["path"]), told["list"], ours, say), say, told["path"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
