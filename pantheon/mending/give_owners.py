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
from collections.abc import Iterator

from pantheon.mending.folders import DIRECTORY, Way
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


def give(path: str, place: str, say: Say) -> None:
    if not os.path.lexists(place):
        say(f"no owners are noted in {shown(place)}: nothing to give back in {shown(path)}")
        return
    way, changed, count, gone = Way(os.open(path, DIRECTORY)), 0, 0, 0
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


def main(arguments: str, say: Say) -> int:
    told = json.loads(arguments)
    return tried(lambda: give(os.path.normpath(told["path"]), told["list"], say), say, told["path"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
