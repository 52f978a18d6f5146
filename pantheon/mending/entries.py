"""Entries of a copy that is being made: each complete before it gets its name, then with the owner, mode, times and
attributes that it should have."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from pantheon.mending.content import Digest, Moving, cloned, pieces, pwrite_all
from pantheon.mending.folders import FILE, remove_tree, state_of, without_atime
from pantheon.mending.progress import Progress
from pantheon.mending.words import Failed

NOT_OURS = ("security.selinux", "security.ima", "security.evm", "trusted.overlay.")

Owner = tuple[int, int]


class Maker:
    """Makes them below directories that are open; a file's content first beside, in the open directory `staging`."""

    def __init__(self, staging: int, owner: Owner | None, progress: Progress) -> None:
        self.staging, self.owner, self.progress = staging, owner, progress
        self.can_clone = True

    # -- a file's content

    def written(self, folder: int, name: str, target: int, as_name: str) -> None:
        """The file, copied, read back, and only then given its name. Raises Moving when it changes meanwhile."""
        for attempt in range(3):
            source = without_atime(name, FILE, folder)
            fd = -1
            try:
                before = os.fstat(source)
                if not stat.S_ISREG(before.st_mode):
                    raise Moving
                fd = self.fresh()
                self.fill(source, fd, before.st_size)
                if not unchanged(before, os.fstat(source)):
                    raise Moving
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            except Moving:
                if attempt == 2:
                    raise
                time.sleep(0.2)
                continue
            finally:
                os.close(source)
                if fd >= 0:
                    os.close(fd)
            os.rename("part", as_name, src_dir_fd=self.staging, dst_dir_fd=target)
            self.progress.tally.copied += 1
            return

    def fresh(self) -> int:
        with suppress(FileNotFoundError):
            os.unlink("part", dir_fd=self.staging)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open("part", flags, 0o600, dir_fd=self.staging)

    def clones(self, source: int, fd: int) -> bool:
        """Whether the blocks are shared, which takes neither time nor room."""
        self.can_clone = self.can_clone and cloned(source, fd)
        return self.can_clone

    def fill(self, source: int, fd: int, size: int) -> None:
        """The content: shared where the file system can, else copied, hole by hole, and compared by its hash."""
        if size and self.clones(source, fd):
            self.progress.tally.cloned += 1
            self.progress.done += size
            return
        digest = Digest()
        for at, data in pieces(source, size):
            pwrite_all(fd, data, at)
            digest.feed(at, data)
            self.progress.tally.written += len(data)
            self.progress.done += len(data)
            self.progress.tell()
        os.ftruncate(fd, size)
        if digest.value() != self.digest(fd, size):
            raise Failed("what was written reads back differently: the disk or the memory of this machine is not sound")

    def digest_at(self, folder: int, name: str) -> bytes:
        fd = without_atime(name, FILE, folder)
        try:
            return self.digest(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def digest(self, fd: int, size: int) -> bytes:
        digest = Digest()
        for at, data in pieces(fd, size):
            digest.feed(at, data)
            self.progress.tell(f"{self.progress.share}, reading back what was written")
        return digest.value()

    # -- other entries

    def make_other(self, folder: int, name: str, link: str) -> None:
        """A symbolic link to `link`, or a pipe where that is empty; one that is there already stays."""
        there = state_of(folder, name)
        if there is not None:
            is_link = stat.S_ISLNK(there.st_mode)
            if os.readlink(name, dir_fd=folder) == link if is_link else not link and stat.S_ISFIFO(there.st_mode):
                return
            remove_tree(folder, name)
        if link:
            os.symlink(link, name, dir_fd=folder)
        else:
            os.mkfifo(name, 0o600, dir_fd=folder)

    # -- what is said of an entry

    def owner_of(self, found: os.stat_result) -> Owner:
        return self.owner or (found.st_uid, found.st_gid)

    def dress(self, folder: int, name: str, found: os.stat_result, source: int, as_name: str) -> None:
        """Owner, mode, attributes and times as they should be; only what differs is touched."""
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        uid, gid = self.owner_of(found)
        is_link = stat.S_ISLNK(found.st_mode)
        if (there.st_uid, there.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not is_link and stat.S_IMODE(there.st_mode) != stat.S_IMODE(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=folder)
        self.attributes(f"/proc/self/fd/{source}/{as_name}", f"/proc/self/fd/{folder}/{name}")
        if not same_time(found.st_mtime_ns, there.st_mtime_ns) or stat.S_ISDIR(found.st_mode):
            os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=folder, follow_symlinks=False)

    def attributes(self, source: str, target: str) -> None:
        wanted, there = attributes_of(source), attributes_of(target)
        if wanted == there:
            return
        for name, value in wanted.items():
            if there.get(name) != value:
                try:
                    os.setxattr(target, name, value, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL):
                        raise
                    self.progress.tally.lost.append(name)
        for name in there.keys() - wanted.keys():
            with suppress(OSError):
                os.removexattr(target, name, follow_symlinks=False)


def attributes_of(path: str) -> dict[str, bytes]:
    """Extended attributes, access lists among them; {} where there are none to be had."""
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(NOT_OURS):
                with suppress(OSError):
                    found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def same_time(wanted: int, kept: int) -> bool:
    """Whether a file system kept a time, in ns, as exactly as it can."""
    return any(kept % unit == 0 and wanted // unit == kept // unit for unit in (1, 100, 1000, 10**9))


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    keys = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return all(getattr(before, key) == getattr(after, key) for key in keys)
