"""What files hold: their data between their holes, and a hash of it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator

BLOCK = 1 << 20
ZEROS = bytes(BLOCK)
FICLONE = 0x40049409
NO_CLONE = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)


class Moving(Exception):
    """A file changed while it was read."""


class Digest:
    """A hash of a file's content that is the same however its holes lie: blocks of zeros do not count."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=20)
        self.index, self.block = -1, bytearray()

    def feed(self, at: int, data: bytes) -> None:
        """Offsets only grow, and no piece crosses a block's end."""
        if at // BLOCK != self.index:
            self.flush()
            self.index = at // BLOCK
        if len(data) == BLOCK:
            self.add(data)
            return
        self.block += bytes(at % BLOCK - len(self.block)) + data

    def flush(self) -> None:
        if self.block:
            self.add(bytes(self.block))
            self.block = bytearray()

    def add(self, block: bytes) -> None:
        if block not in (ZEROS, b"") and (block := block.rstrip(b"\0")):
            self.hash.update(self.index.to_bytes(8, "big") + len(block).to_bytes(4, "big"))
            self.hash.update(block)

    def value(self) -> bytes:
        self.flush()
        return self.hash.digest()


def segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, between its holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield at, size
            return
        if start >= end:
            return
        yield start, end
        at = end


def pieces(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    for start, end in segments(fd, size):
        at = start
        while at < end:
            data = os.pread(fd, min(end - at, BLOCK - at % BLOCK), at)
            if not data:
                raise Moving
            yield at, data
            at += len(data)


def pwrite_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


def cloned(source: int, fd: int) -> bool:
    """Whether the file system lets an empty file share the blocks of another."""
    try:
        fcntl.ioctl(fd, FICLONE, source)
    except OSError as error:
        if error.errno not in NO_CLONE:
            raise
        return False
    return True


def room_of(found: os.stat_result) -> int:
    """The bytes that a file takes on the disk."""
    return min(found.st_size, found.st_blocks * 512) if stat.S_ISREG(found.st_mode) else 0
