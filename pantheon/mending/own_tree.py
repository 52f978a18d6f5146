"""Give everything in a directory one owner, in one walk.

Arguments: {"path": absolute, "uid": n, "gid": n, "usable": [names in it whose owner must be able to use them]}

Every directory is opened below the one that holds it, never by its path and never through a link, and changed by what
was opened: whoever swaps a directory for a link in the meantime gets the link changed, and nothing behind it. Only what
has another owner is touched. The walk stays on the mount on which it began. Memory and open files are bounded by the
depth of the tree, not by its size. Cut short, it is run again from the beginning, and finds less to do.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import time
from collections import deque
from contextlib import suppress

from pantheon.mending.folders import DIRECTORY, allow_open_files, listing, mount_of, mounts, opened
from pantheon.mending.words import PROGRESS_S, Failed, Say, say, shown

DEEPEST = 200  # levels walked at a stretch; what lies deeper is walked by itself afterwards
WAITING = 2000  # directories that may wait for that, each of them open
MOST_NAMES = 10_000
HOPELESS = (errno.EROFS, errno.EOPNOTSUPP, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT)
IMMUTABLE = " (by attribute, probably: `lsattr -d` shows an i or a, and `sudo chattr -ia` takes it off)"


class Walk:
    """What was seen and done. `say` gets a line about once a second."""

    def __init__(self, uid: int, gid: int, usable: tuple[str, ...], say: Say) -> None:
        self.uid, self.gid, self.usable, self.say = uid, gid, usable, say
        self.entries = self.changed = self.refused = 0
        self.first = ""  # what was refused first, and why
        self.names: dict[int, tuple[int, str]] = {}  # of changed files with hard links: names not met so far
        self.last = time.monotonic()
        self.mount = ""
        self.mounted: frozenset[str] = frozenset()
        self.deep: deque[tuple[int, str]] = deque()

    def run(self, path: str) -> None:
        top = opened(path)
        try:
            self.mount, self.mounted = mount_of(top), mounts_below(path)
            self.entries = 1
            self.own_directory(top, path, os.fstat(top))
            for name in self.usable:
                self.make_usable(top, name)
        except BaseException:
            os.close(top)
            raise
        self.deep.append((top, path))
        while self.deep:
            self.walk(*self.deep.popleft())

    def walk(self, top: int, path: str) -> None:
        """Everything below an open directory, which is closed at the end. Depth first: of each level the directory and
        how far it was read are held, and nothing else."""
        levels = [(top, path, listing(top))]
        try:
            while levels:
                folder, where, entries = levels[-1]
                entry = next(entries, None)
                if entry is None:
                    levels.pop()
                    os.close(folder)
                elif inner := self.visit(folder, where, entry):
                    if len(levels) < DEEPEST:
                        levels.append((*inner, listing(inner[0])))
                    elif len(self.deep) < WAITING:
                        self.deep.append(inner)
                    else:
                        os.close(inner[0])
                        raise Failed(f"{shown(inner[1])}: too many directories lie that deep")
        finally:
            for folder, _, _ in levels:
                os.close(folder)

    def visit(self, folder: int, where: str, entry: os.DirEntry[str]) -> tuple[int, str] | None:
        """One entry; of a directory to be walked the open descriptor and its path."""
        self.entries += 1
        if self.entries % 256 == 0:
            self.tell()
        path = f"{where}/{entry.name}" if self.mounted or entry.is_dir(follow_symlinks=False) else ""
        if path in self.mounted:
            return None
        try:
            if path and entry.is_dir(follow_symlinks=False):
                return self.enter(folder, path, entry.name)
            found = entry.stat(follow_symlinks=False)
            if (found.st_uid, found.st_gid) != (self.uid, self.gid):
                os.chown(entry.name, self.uid, self.gid, dir_fd=folder, follow_symlinks=False)
                self.changed += 1
            self.note_names(found, f"{where}/{entry.name}")
        except (FileNotFoundError, NotADirectoryError):
            pass  # gone since it was listed, or something else by now
        except OSError as error:
            if error.errno != errno.ELOOP:  # a directory that has just become a link
                self.refuse(f"{where}/{entry.name}", error)
        return None

    def enter(self, folder: int, path: str, name: str) -> tuple[int, str] | None:
        inner = os.open(name, DIRECTORY, dir_fd=folder)
        try:
            if mount_of(inner) == self.mount:
                self.own_directory(inner, path, os.fstat(inner))
                return inner, path
        except BaseException:
            os.close(inner)
            raise
        os.close(inner)
        return None

    def note_names(self, found: os.stat_result, path: str) -> None:
        """A file of several names has one owner under all of them: those that are not in this tree are to be told."""
        if found.st_nlink < 2 or stat.S_ISDIR(found.st_mode):
            return
        changed = (found.st_uid, found.st_gid) != (self.uid, self.gid)
        if found.st_ino in self.names:
            left, first = self.names.pop(found.st_ino)
            if left > 1:
                self.names[found.st_ino] = left - 1, first
        elif changed and len(self.names) < MOST_NAMES:
            self.names[found.st_ino] = found.st_nlink - 1, path

    def own_directory(self, fd: int, path: str, found: os.stat_result) -> None:
        if (found.st_uid, found.st_gid) == (self.uid, self.gid):
            return
        try:
            os.fchown(fd, self.uid, self.gid)
            self.changed += 1
        except OSError as error:
            self.refuse(path, error)

    def make_usable(self, top: int, name: str) -> None:
        """The owner of a directory right inside the tree can read, write and enter it."""
        with suppress(FileNotFoundError, NotADirectoryError):
            inner = os.open(name, DIRECTORY, dir_fd=top)
            try:
                mode = stat.S_IMODE(os.fstat(inner).st_mode)
                if mode & 0o700 != 0o700:
                    os.fchmod(inner, mode | 0o700)
                    self.changed += 1
            finally:
                os.close(inner)

    def refuse(self, path: str, error: OSError) -> None:
        """One that stays as it is: the others still get their owner, unless none of them can."""
        self.refused += 1
        why = f"{shown(path)}: {error.strerror or error}"
        why += IMMUTABLE if error.errno == errno.EPERM else ""
        self.first = self.first or why
        if error.errno in HOPELESS or (self.refused >= 100 and not self.changed):
            raise Failed(f"the owner cannot be changed here: {why}")

    def tell(self) -> None:
        now = time.monotonic()
        if now - self.last >= PROGRESS_S:
            self.last = now
            self.say(self.count)

    @property
    def count(self) -> str:
        return f"{self.entries} entries, {self.changed} changed"


def mounts_below(path: str) -> frozenset[str]:
    """Mount points inside the tree."""
    with suppress(OSError):
        return frozenset(mount.target for mount in mounts() if mount.target.startswith(f"{path}/"))
    return frozenset()


def main(arguments: str, say: Say) -> int:
    given = json.loads(arguments)
    path, uid, gid = os.path.normpath(given["path"]), int(given["uid"]), int(given["gid"])
    allow_open_files(4 * DEEPEST + WAITING)  # two descriptors a level, and those that wait
    walk = Walk(uid, gid, tuple(given.get("usable") or ()), say)
    try:
        walk.run(path)
    except (Failed, OSError) as error:
        reason = str(error) if isinstance(error, Failed) else f"{shown(path)}: {error.strerror or error}"
        say(f"{reason} ({walk.count})")
        return 1
    say(walk.count)
    if walk.names:
        first = shown(next(iter(walk.names.values()))[1])
        say(f"files changed that have a name elsewhere too (hard links): {len(walk.names)}, the first of them {first}")
    if walk.refused:
        say(f"{walk.refused} kept their owner, the first of them {walk.first}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
