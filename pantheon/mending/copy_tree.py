"""Copies directories to one new place, completely, verified, and never half: what is there already stays untouched.

Arguments: {"target": absolute, "parts": [PART, ...], "owner": [uid, gid] or null, "mode": "ahead" or "final"}; a PART
is {"source": absolute, "container": "" or a name, "into": place in the target, "skip": [places in the source],
"optional": bool}. With a container the source is a directory inside it, read through the engine, its own layer
included. Parts that lie in each other do not overlap: the outer one leaves out what the inner one fills.

Made beside the target, in TARGET.pantheon-copy (in TARGET/.pantheon-copy where the target is a mount point), and
renamed into place when it is complete. Killed at any moment, it goes on when it is run again. "ahead" copies while
services still write, and leaves the rest to "final", which copies what has changed since, mirrors what was deleted
(inside its own unfinished copy only), and compares every entry. Every file is read back and compared by a hash when it
is written. Symbolic links are copied as they are and never followed; hard links, holes, times, modes, owners and
extended attributes are kept. Memory is bounded by the depth of the tree. No source is ever written to.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import http.client
import itertools
import json
import os
import resource
import socket
import stat
import sys
import tarfile
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

RECORD = "/var/lib/pantheon/copies.json"  # what was completed, by target
SOCKET = "/var/run/docker.sock"
SUFFIX, INSIDE = ".pantheon-copy", ".pantheon-copy"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BLOCK = 1 << 20
ZEROS = bytes(BLOCK)
FICLONE = 0x40049409
PROGRESS_S = 1.0
ANSWER_S = 300  # the engine may have to read a large directory before its first byte
RACY_NS = 2 * 10**9  # a change so shortly before a file was read may not show in its times
MOST_LINKED = 500_000  # files with several names that are counted once
SPARE = 64 << 20  # what is left free besides
NAMED = 10
NOT_OURS = ("security.selinux", "security.ima", "security.evm", "trusted.overlay.")
NO_CLONE = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)

Times = tuple[int, int]


class Failed(Exception):
    """The message is for the operator."""


class Moving(Exception):
    """A file of the source changed while it was read."""


@dataclass
class Part:
    source: str
    container: str = ""
    into: str = ""
    skip: tuple[str, ...] = ()
    optional: bool = False
    real: str = ""  # the source with all links on the way to it resolved

    @property
    def identity(self) -> dict[str, object]:
        return {"source": self.source, "container": self.container, "into": self.into, "skip": list(self.skip)}

    @property
    def name(self) -> str:
        return f"{shown(self.source)} of container {self.container}" if self.container else shown(self.source)


@dataclass
class Level:
    """A directory on the way: open on both sides, and how far it was read."""

    source: int
    target: int
    rel: str  # from the top of the part; "" is the top itself
    found: os.stat_result
    entries: Iterator[os.DirEntry[str]]


@dataclass
class Tally:
    files: int = 0
    directories: int = 0
    others: int = 0
    written: int = 0  # bytes of this run
    copied: int = 0  # files of this run
    cloned: int = 0
    moving: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # attributes that the target does not take

    @property
    def entries(self) -> int:
        return self.files + self.directories + self.others


# ---- small things


def shown(name: str) -> str:
    """A name as one line that a terminal may have."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def size_text(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def time_text(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{whole / 3600:.1f} h"


def joined(rel: str, name: str) -> str:
    return f"{rel}/{name}" if rel else name


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


def listing(folder: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def state_of(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def mount_of(fd: int) -> str:
    with suppress(OSError), open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return f"{os.fstat(fd).st_dev} {line.split()[1]}"
    return str(os.fstat(fd).st_dev)


def boot_id() -> str:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def same_time(wanted: int, kept: int) -> bool:
    """Whether a file system kept a time, in ns, as exactly as it can."""
    return any(kept % unit == 0 and wanted // unit == kept // unit for unit in (1, 100, 1000, 10**9))


def room_of(found: os.stat_result) -> int:
    return min(found.st_size, found.st_blocks * 512) if stat.S_ISREG(found.st_mode) else 0


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


# ---- content


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


# ---- the copy


class Copy:
    """One run. `say` gets a line about once a second."""

    def __init__(self, told: dict[str, Any], say: Callable[[str], None]) -> None:
        self.target = os.path.normpath(str(told["target"]))
        self.parts = [
            Part(
                os.path.normpath(str(part["source"])),
                str(part.get("container") or ""),
                "/".join(plain_place(str(part.get("into") or ""))),
                tuple("/".join(plain_place(str(place))) for place in part.get("skip") or ()),
                bool(part.get("optional")),
            )
            for part in told["parts"]
        ]
        self.identity = [part.identity for part in self.parts]
        # The inner ones first: whoever leaves a directory last sets its times.
        self.parts.sort(key=lambda part: -len(plain_place(part.into)))
        self.owner: Times | None = tuple(told["owner"]) if told.get("owner") else None
        self.is_final = told.get("mode", "final") == "final"
        self.say = say
        self.tally = Tally()
        self.last = self.began = time.monotonic()
        self.recent = deque([(self.began, 0)], maxlen=20)  # when how much was written, of the last seconds
        self.total = self.done = self.before_layer = 0
        self.counted = (0, 0, 0)
        self.can_clone = True
        self.is_again = self.distrusts = False
        self.since = self.now = time.time_ns()  # begun for the first time, and this time
        self.about: dict[str, Any] = {}
        self.staging = self.tree = -1
        self.part = self.parts[0]
        self.aside: frozenset[str] = frozenset()
        self.ways: frozenset[str] = frozenset()

    # -- the way through

    def run(self) -> None:
        parent_path, self.name = os.path.split(self.target)
        if not self.name or not self.target.startswith("/"):
            raise Failed(f"{shown(self.target)} is no place for a copy")
        self.parent = opened(parent_path)
        self.check_sources()
        self.check_target()
        if self.is_done():
            return
        self.stage()
        if not self.about.get("placing"):
            self.measure()
            for part in self.parts:
                self.copy_part(part)
            self.sync()
            if self.tally.entries:
                self.summary()
            if not self.is_final:
                return
            self.settle()
        self.place()

    def check_sources(self) -> None:
        here = os.path.realpath(self.target)
        for part in list(self.parts):
            if part.container:
                continue
            real = os.path.realpath(part.source)
            if f"{here}/".startswith(f"{real}/") or f"{real}/".startswith((f"{here}/", f"{here}{SUFFIX}/")):
                raise Failed(f"{part.name} and {shown(self.target)} lie in each other: nothing is copied")
            if not os.path.isdir(real):
                if part.optional and not os.path.lexists(part.source):
                    self.say(f"{part.name} is not there: nothing to copy from it")
                    self.parts.remove(part)
                    continue
                raise Failed(f"{part.name} is no directory that could be copied")
            part.real = real
        places = [part.into for part in self.parts]
        if len(set(places)) != len(places):
            raise Failed("two sources for the same place: nothing is copied")

    def check_target(self) -> None:
        """It is not there, or empty, or what this program left. A mount point is filled from inside."""
        found = state_of(self.parent, self.name)
        self.empty: os.stat_result | None = None
        self.inside = self.is_full = False
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise Failed(f"{shown(self.target)} is there and is no directory")
        there = os.open(self.name, DIRECTORY, dir_fd=self.parent)
        try:
            self.inside = mount_of(there) != mount_of(self.parent)
            usual = {INSIDE, "lost+found"} if self.inside else set()
            self.is_full = any(entry.name not in usual for entry in listing(there))
        finally:
            os.close(there)
        self.empty = found

    def is_done(self) -> bool:
        """Whether this very copy was completed before. One whose source has changed since is not taken for it."""
        if not self.is_full:
            return False
        with suppress(FileNotFoundError):
            if os.listdir(self.staging_path):
                return False
        record = read_record().get(self.target)
        found = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        if not record or record["parts"] != self.identity or record["inode"] != found.st_ino:
            raise Failed(f"{shown(self.target)} is not empty, and nothing in it is replaced: move it away first")
        if changed := self.changed_since(record["began_ns"]):
            raise Failed(
                f"{shown(self.target)} was copied at {record['finished']}, and {shown(changed)} has changed since: "
                "move the copy away first, and it is made anew"
            )
        with suppress(FileNotFoundError):  # all that was left to do
            os.rmdir(self.staging_path)
        self.say(f"{shown(self.target)} was copied at {record['finished']} and is complete")
        return True

    def changed_since(self, began_ns: int) -> str:
        """The first file of the sources that changed after that moment; a container's are not looked at."""
        for part in self.parts:
            for path, found in walked(part.real, part.skip) if not part.container else ():
                if found.st_ctime_ns >= began_ns and not stat.S_ISDIR(found.st_mode):
                    return path
        return ""

    def stage(self) -> None:
        """The place where the copy is made, ours alone, with a note of what it is a copy of."""
        where = os.open(self.name, DIRECTORY, dir_fd=self.parent) if self.inside else self.parent
        name = INSIDE if self.inside else self.name + SUFFIX
        self.where, self.staging_name = where, name
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=where)
        try:
            self.staging = os.open(name, DIRECTORY, dir_fd=where)
        except OSError as error:
            raise Failed(f"{shown(self.staging_path)} is in the way: {error.strerror}") from None
        self.about = got(self.staging, "about.json")
        told = {"parts": self.identity, "owner": list(self.owner) if self.owner else None}
        if self.about:
            if {key: self.about.get(key) for key in told} != told:
                was = ", ".join(shown(str(part["source"])) for part in self.about["parts"])
                raise Failed(
                    f"{shown(self.staging_path)} is an unfinished copy of something else ({was}): move it away"
                )
            self.is_again, self.since = True, self.about["since_ns"]
            self.distrusts = not self.about["synced"] and self.about["boot"] != boot_id()
        elif os.fstat(self.staging).st_uid != os.geteuid() or os.listdir(self.staging) not in ([], ["about.json.part"]):
            raise Failed(f"{shown(self.staging_path)} is in the way, and not of this program's making")
        if self.is_full and not self.about.get("placing"):
            raise Failed(f"{shown(self.target)} is not empty, and nothing in it is replaced: move it away first")
        if not self.about.get("placing"):
            layers = self.about.get("layers", {})
            self.about = {**told, "since_ns": self.since, "boot": boot_id(), "synced": False, "layers": layers}
            put(self.staging, "about.json", self.about)
            for inner in ("tree", "links"):
                with suppress(FileExistsError):
                    os.mkdir(inner, 0o700, dir_fd=self.staging)
            self.tree = os.open("tree", DIRECTORY, dir_fd=self.staging)

    @property
    def staging_path(self) -> str:
        return f"{self.target}/{INSIDE}" if self.inside else self.target + SUFFIX

    # -- room

    def measure(self) -> None:
        """How much there is to copy, and whether it fits."""
        entries, first = 0, ""
        seen: set[int] = set()
        for part in self.parts:
            if part.container:
                self.total += self.layer_size(part)
                continue
            for path, found in walked(part.real, part.skip):
                entries += 1
                key = found.st_dev << 64 | found.st_ino
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if key in seen:
                        continue
                    if len(seen) < MOST_LINKED:
                        seen.add(key)
                self.total += room_of(found)
                first = first or (path if room_of(found) else "")
                self.tell(f"counting what there is: {entries} entries, {size_text(self.total)}")
        have, have_entries = 0, 0
        if self.is_again:
            for _, found in walked(f"{self.staging_path}/tree", ()):
                have, have_entries = have + room_of(found), have_entries + 1
        space = os.statvfs(self.staging)
        need, free = max(0, self.total - have), space.f_bavail * space.f_frsize
        if need + SPARE > free and not self.clones(first):
            raise Failed(
                f"no room for the copy: {size_text(need)} are needed and {size_text(SPARE)} must stay free, "
                f"{size_text(free)} are free beside {shown(self.target)}"
            )
        if space.f_files and entries - have_entries + 1000 > space.f_favail:
            raise Failed(
                f"no room for the copy: {entries - have_entries} files and directories are needed, {space.f_favail} "
                f"(inodes) are free beside {shown(self.target)}"
            )

    def clones(self, path: str) -> bool:
        """Whether the file system can share the blocks of what is copied, which then takes no room."""
        with suppress(OSError):
            source = os.open(path, FILE)
            try:
                fd = self.fresh()
                try:
                    return self.clone(source, fd)
                finally:
                    os.close(fd)
            finally:
                os.close(source)
        return False

    def tell(self, line: str = "") -> None:
        now = time.monotonic()
        if now - self.last < PROGRESS_S:
            return
        self.last = now
        if line:
            self.say(line)
            return
        self.recent.append((now, self.tally.written))
        since, before = self.recent[0]
        rate = (self.tally.written - before) / max(0.001, now - since)
        left = max(0, self.total - self.done)
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total and self.done <= self.total else ""
        eta = f", {time_text(left / rate)} left" if rate and left else ""
        self.say(
            f"{size_text(self.done)} of {size_text(max(self.total, self.done))}{share}, {self.tally.entries} entries, "
            f"{size_text(rate)}/s{eta}"
        )

    # -- a part

    def copy_part(self, part: Part) -> None:
        self.part = part
        inner = [other.into for other in self.parts if other is not part]
        inside = [place[len(part.into) :].lstrip("/") for place in inner if under(place, part.into)]
        self.aside = frozenset((*part.skip, *inside))
        self.ways = frozenset("/".join(plain_place(place)[:n]) for place in inside for n in range(1, 99))
        if part.container:
            if not self.is_final:
                self.say(f"{part.name} is copied when the container has stopped")
                return
            self.copy_layer(part)
            return
        source = opened(part.real)
        target = self.place_of(part, os.fstat(source))
        self.copy_directories(source, target)

    def place_of(self, part: Part, like: os.stat_result) -> int:
        """Its top in the copy; directories on the way to it that no other part makes are like it."""
        here = os.dup(self.tree)
        for name in plain_place(part.into):
            try:
                os.mkdir(name, 0o700, dir_fd=here)
                made = True
            except FileExistsError:
                made = False
            below = os.open(name, DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
            if made:
                os.fchown(here, *self.owner_of(like))
                os.fchmod(here, stat.S_IMODE(like.st_mode))
        return here

    def copy_directories(self, source: int, target: int) -> None:
        """Everything below two open directories, which are closed at the end."""
        levels = [Level(source, target, "", os.fstat(source), listing(source))]
        try:
            while levels:
                level = levels[-1]
                entry = next(level.entries, None)
                if entry is None:
                    levels.pop()
                    self.leave(level)
                elif inner := self.visit(level, entry.name):
                    levels.append(inner)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise Failed(f"{self.part.name}: directories lie {len(levels)} deep, too deep") from None
            raise
        finally:
            for level in levels:
                os.close(level.source)
                os.close(level.target)

    def leave(self, level: Level) -> None:
        """A directory is complete: what is in the copy alone goes, and it gets its times."""
        if self.is_again:
            self.sweep(level)
        self.dress(level.target, ".", level.found, level.source, ".")
        os.close(level.source)
        os.close(level.target)
        self.tally.directories += 1

    def sweep(self, level: Level) -> None:
        """Remove from the unfinished copy what is not in the source any more."""
        gone = []
        for entry in listing(level.target):
            rel = joined(level.rel, entry.name)
            kept = rel in self.ways or (rel in self.aside and rel not in self.part.skip)
            if not kept and (rel in self.part.skip or state_of(level.source, entry.name) is None):
                gone.append(entry.name)
        for name in gone:
            remove_tree(level.target, name)

    def visit(self, level: Level, name: str) -> Level | None:
        """One entry; of a directory what is needed to walk it."""
        rel = joined(level.rel, name)
        if rel in self.aside:
            return None
        try:
            found = os.stat(name, dir_fd=level.source, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return self.enter(level, name, rel)
            if stat.S_ISREG(found.st_mode):
                self.file(level, name, found)
            else:
                self.other(level, name, rel, found)
        except FileNotFoundError:
            if self.is_final and state_of(level.source, name) is not None:
                raise
        except Moving:
            if self.is_final:
                raise Failed(
                    f"{shown(joined(self.part.real, rel))} is being written to while it is copied: stop what uses it"
                ) from None
            self.tally.moving.append(rel)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            raise Failed(f"{shown(joined(self.part.real, rel))}: {error.strerror or error}") from None
        self.tell()
        return None

    def enter(self, level: Level, name: str, rel: str) -> Level:
        source = without_atime(name, DIRECTORY, level.source)
        try:
            there = state_of(level.target, name)
            if there is not None and not stat.S_ISDIR(there.st_mode):
                remove_tree(level.target, name)
                there = None
            if there is None:
                os.mkdir(name, 0o700, dir_fd=level.target)
            target = os.open(name, DIRECTORY, dir_fd=level.target)
        except BaseException:
            os.close(source)
            raise
        return Level(source, target, rel, os.fstat(source), listing(source))

    # -- entries

    def file(self, level: Level, name: str, found: os.stat_result) -> None:
        """A regular file. One with several names is kept under its number as well, until the copy is complete, so that
        each further name is made a link to it."""
        there = state_of(level.target, name)
        if found.st_nlink > 1:
            links = os.open("links", DIRECTORY, dir_fd=self.staging)
            try:
                self.linked(level, name, found, there, links)
            finally:
                os.close(links)
        elif not self.is_complete(there, found, level, name, (level.target, name)):
            self.written(level.source, name, level.target, name)
        else:
            self.done += room_of(found)
        self.dress(level.target, name, found, level.source, name)
        self.tally.files += 1

    def linked(self, level: Level, name: str, found: os.stat_result, there: os.stat_result | None, links: int) -> None:
        key = f"{found.st_dev:x}-{found.st_ino:x}"
        kept = state_of(links, key)
        if not self.is_complete(kept, found, level, name, (links, key)):
            self.written(level.source, name, links, key)
            kept = os.stat(key, dir_fd=links, follow_symlinks=False)
        else:
            self.done += room_of(found)
        if kept is None or there is None or there.st_ino != kept.st_ino:
            remove_tree(level.target, name)
            os.link(key, name, src_dir_fd=links, dst_dir_fd=level.target)

    def is_complete(
        self, there: os.stat_result | None, found: os.stat_result, level: Level, name: str, copy: tuple[int, str]
    ) -> bool:
        """Whether a file of the copy needs not be copied again: by size and time, and by its content where it may have
        changed since the copy was begun, or where the machine went down in the middle."""
        if there is None or not stat.S_ISREG(there.st_mode) or there.st_size != found.st_size:
            return False
        if not same_time(found.st_mtime_ns, there.st_mtime_ns):
            return False
        if found.st_ctime_ns < self.since - RACY_NS and not self.distrusts:
            return True
        return self.digest_at(level.source, name) == self.digest_at(*copy)

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
            self.tell(
                f"{size_text(self.done)} of {size_text(max(self.total, self.done))}, reading back what was written"
            )
        return digest.value()

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
            self.tally.copied += 1
            return

    def fresh(self) -> int:
        with suppress(FileNotFoundError):
            os.unlink("part", dir_fd=self.staging)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open("part", flags, 0o600, dir_fd=self.staging)

    def clone(self, source: int, fd: int) -> bool:
        if not self.can_clone:
            return False
        try:
            fcntl.ioctl(fd, FICLONE, source)
        except OSError as error:
            if error.errno not in NO_CLONE:
                raise
            self.can_clone = False
            return False
        return True

    def fill(self, source: int, fd: int, size: int) -> None:
        """The content: shared where the file system can, else copied, hole by hole, and compared by its hash."""
        if size and self.clone(source, fd):
            self.tally.cloned += 1
            self.done += size
            return
        digest = Digest()
        for at, data in pieces(source, size):
            pwrite_all(fd, data, at)
            digest.feed(at, data)
            self.tally.written += len(data)
            self.done += len(data)
            self.tell()
        os.ftruncate(fd, size)
        if digest.value() != self.digest(fd, size):
            raise Failed("what was written reads back differently: the disk or the memory of this machine is not sound")

    def other(self, level: Level, name: str, rel: str, found: os.stat_result) -> None:
        """A symbolic link or a pipe. Sockets are gone with their process, and devices are no data: they are named."""
        if not (stat.S_ISLNK(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            kind = "a socket" if stat.S_ISSOCK(found.st_mode) else "a device"
            self.tally.left_out.append(f"{shown(rel)} ({kind})")
            if self.is_again:
                remove_tree(level.target, name)
            return
        link = os.readlink(name, dir_fd=level.source) if stat.S_ISLNK(found.st_mode) else ""
        self.make_other(level.target, name, link)
        self.dress(level.target, name, found, level.source, name)
        self.tally.others += 1

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

    def owner_of(self, found: os.stat_result) -> Times:
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
                    self.tally.lost.append(name)
        for name in there.keys() - wanted.keys():
            with suppress(OSError):
                os.removexattr(target, name, follow_symlinks=False)

    # -- out of a container

    def layer_size(self, part: Part) -> int:
        about = asked(f"/containers/{urllib.parse.quote(part.container)}/json?size=1")
        return int(about.get("SizeRw") or 0)

    def copy_layer(self, part: Part) -> None:
        """A directory inside a container that has stopped, in two streams of the engine: one is written, and what was
        written is compared with the other."""
        about = asked(f"/containers/{urllib.parse.quote(part.container)}/json")
        state = about["State"]
        if state.get("Running"):
            raise Failed(f"container {part.container} still runs: it is copied once it has stopped")
        moment = f"{about['Id']} {state.get('StartedAt')} {state.get('FinishedAt')}"
        here = os.fstat(self.staging)
        top = self.place_of(part, here)
        try:
            if self.about["layers"].get(part.into) != moment:
                for entry in list(listing(top)):
                    rel = entry.name
                    if rel not in self.ways:
                        remove_tree(top, rel)
                self.about["layers"][part.into] = moment
                put(self.staging, "about.json", self.about)
            try:
                self.stream(part, top, check=False)
                before = self.tally.entries
                self.stream(part, top, check=True)
            except FileNotFoundError:
                if not part.optional:
                    raise Failed(f"container {part.container} has no {shown(part.source)}") from None
                self.say(f"{part.name} is not there: nothing to copy from it")
                return
            if self.tally.entries - before != before - self.before_layer:
                raise Failed(f"{part.name} changes while it is copied")
            self.tally.files, self.tally.directories, self.tally.others = self.counted
        finally:
            os.close(top)

    def stream(self, part: Part, top: int, *, check: bool) -> None:
        """One stream of the engine, written below `top`; with `check` compared with what lies there."""
        self.before_layer = self.tally.entries if not check else self.before_layer
        self.counted = (self.tally.files, self.tally.directories, self.tally.others)
        unpack = Unpack(self, top, check=check)
        try:
            with archive(part.container, part.source) as body:
                with tarfile.open(fileobj=body, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
                    for member in tar:
                        tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
                        unpack.member(tar, member)
                        self.tell()
                while body.read(BLOCK):  # a stream that was cut short says so only at its end
                    pass
        except (tarfile.TarError, http.client.HTTPException, EOFError) as error:
            raise Failed(f"{part.name}: the engine's stream broke off: {type(error).__name__}") from None
        finally:
            unpack.close()

    # -- the end

    def sync(self) -> None:
        """On the disk, and not only in memory: only then a copy outlives a power cut."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self.staging):
            raise Failed(f"{shown(self.staging_path)}: {os.strerror(ctypes.get_errno())}")
        self.about["synced"] = True
        put(self.staging, "about.json", self.about)

    def summary(self) -> None:
        tally = self.tally
        took = time.monotonic() - self.began
        how = f"{tally.copied} files ({size_text(tally.written)}) copied now, each read back and compared"
        if tally.cloned:
            how = f"{tally.copied} files copied now, {tally.cloned} of them sharing their blocks"
        self.say(
            f"{tally.files} files, {tally.directories} directories, {tally.others} links: {how}, {time_text(took)}"
        )
        for names, text in (
            (tally.left_out, "left out, since they are no data"),
            (tally.moving, "written to while they were copied, and copied again once the services have stopped"),
            (sorted(set(tally.lost)), "attributes that the file system does not take"),
        ):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                self.say(f"{text}: {', '.join(map(shown, names[:NAMED]))}{more}")

    def settle(self) -> None:
        """Compare the copy with its sources, entry by entry, and note that nothing but the rename is missing."""
        for part in self.parts:
            if not part.container:
                self.compare(part)
        self.about["placing"] = True
        self.about["final_ns"] = self.now
        self.about["entries"] = self.tally.entries
        top = next((part for part in self.parts if not part.into), None)
        if self.empty is not None:
            os.fchown(self.tree, self.empty.st_uid, self.empty.st_gid)
            os.fchmod(self.tree, stat.S_IMODE(self.empty.st_mode))
        elif top is None or top.container:
            os.fchown(self.tree, *(self.owner or (0, 0)))
            os.fchmod(self.tree, 0o755)
        links = os.open("links", DIRECTORY, dir_fd=self.staging)
        try:
            for entry in list(listing(links)):
                os.unlink(entry.name, dir_fd=links)
        finally:
            os.close(links)
        put(self.staging, "about.json", self.about)

    def compare(self, part: Part) -> None:
        """Every entry of the copy against the source's, and as many of them."""
        self.part, count = part, 0
        inner = [other.into for other in self.parts if other is not part and under(other.into, part.into)]
        skip = [*part.skip, *(place[len(part.into) :].lstrip("/") for place in inner)]
        self.ways = frozenset("/".join(plain_place(place)[:n]) for place in skip for n in range(1, 99))
        base = f"{self.staging_path}/tree" + (f"/{part.into}" if part.into else "")
        for path, there in walked(base, skip):
            rel = path[len(base) + 1 :]
            found = lstat(joined(part.real, rel))
            if found is None and rel in self.ways:
                continue
            count += 1
            if found is None or (wrong := self.differs(rel, found, there, path)):
                what = "is not there any more" if found is None else wrong
                raise Failed(f"{shown(joined(part.real, rel))} {what}: it changes while it is copied")
            self.tell(f"comparing: {count} of {self.tally.entries} entries")
        expected = sum(1 for _ in self.wanted(skip))
        if count != expected:
            raise Failed(f"{part.name} has {expected} entries, the copy {count}: it changes while it is copied")

    def wanted(self, skip: list[str]) -> Iterator[str]:
        for path, found in walked(self.part.real, skip):
            if not stat.S_ISSOCK(found.st_mode) and not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
                yield path

    def differs(self, rel: str, found: os.stat_result, there: os.stat_result, path: str) -> str:
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(there.st_mode):
            return "is something else now"
        is_link, is_file = stat.S_ISLNK(found.st_mode), stat.S_ISREG(found.st_mode)
        if is_file and found.st_size != there.st_size:
            return "has another size now"
        if is_link and os.readlink(path) != os.readlink(joined(self.part.real, rel)):
            return "leads elsewhere now"
        if rel in self.ways:
            return ""
        if not is_link and stat.S_IMODE(found.st_mode) != stat.S_IMODE(there.st_mode):
            return "has another mode"
        if self.owner_of(found) != (there.st_uid, there.st_gid):
            return "has another owner"
        if not same_time(found.st_mtime_ns, there.st_mtime_ns):
            return "has another time"
        return ""

    def place(self) -> None:
        """Into place, in one rename; into a mount point name by name, which is taken up again where it was left."""
        target = self.name
        if self.inside:
            with suppress(FileNotFoundError):
                tree = os.open("tree", DIRECTORY, dir_fd=self.staging)
                for name in os.listdir(tree):
                    os.rename(name, name, src_dir_fd=tree, dst_dir_fd=self.where)
                os.close(tree)
                os.rmdir("tree", dir_fd=self.staging)
        elif state_of(self.staging, "tree") is not None:
            try:
                os.rename("tree", target, src_dir_fd=self.staging, dst_dir_fd=self.parent)
            except OSError as error:
                raise Failed(f"{shown(self.target)}: the copy could not be put there: {error.strerror}") from None
        os.fsync(self.parent)
        found = os.stat(target, dir_fd=self.parent, follow_symlinks=False)
        self.record(found)
        with suppress(FileNotFoundError):
            os.rmdir("links", dir_fd=self.staging)
        for name in ("part", "about.json"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.staging)
        os.rmdir(self.staging_name, dir_fd=self.where)
        self.say(f"{shown(self.target)} is complete")

    def record(self, found: os.stat_result) -> None:
        known = read_record()
        known[self.target] = {
            "parts": self.identity,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "entries": self.about.get("entries", 0),
            "bytes": self.total,
            "inode": found.st_ino,
            "began_ns": self.about.get("final_ns", self.now),
        }
        folder = opened(os.path.dirname(RECORD), make=True)
        try:
            put(folder, os.path.basename(RECORD), known)
        finally:
            os.close(folder)


# ---- a container's directory, as the engine streams it


class Unpack:
    """Members of one stream, made below `top` by opened directories only: no name of theirs leads anywhere else."""

    def __init__(self, copy: Copy, top: int, *, check: bool) -> None:
        self.copy, self.check = copy, check
        self.names: list[str] = []
        self.fds = [os.dup(top)]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def folder(self, names: list[str]) -> int:
        """The directory of that place, opened below the top, link by link refused."""
        while self.names != names[: len(self.names)]:
            self.names.pop()
            os.close(self.fds.pop())
        for name in names[len(self.names) :]:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.fds[-1])
            try:
                self.fds.append(os.open(name, DIRECTORY, dir_fd=self.fds[-1]))
            except OSError as error:
                raise Failed(f"refused: {shown('/'.join(names))} is no directory ({error.strerror})") from None
            self.names.append(name)
        return self.fds[-1]

    def member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        copy, tally = self.copy, self.copy.tally
        names = plain_place(member.name)[1:]
        rel = "/".join(names)
        if any("/".join(names[:n]) in copy.aside for n in range(1, len(names) + 1)):
            return
        if not names or member.isdir():
            folder = self.folder(names)
            tally.directories += 1
            if self.check:
                self.dress(folder, ".", member)
            return
        folder, name = self.folder(names[:-1]), names[-1]
        if member.isreg():
            (self.compare if self.check else self.write)(tar, member, folder, name)
            tally.files += 1
        elif member.islnk():
            self.link(member, folder, name)
            tally.files += 1
        elif member.issym() or member.isfifo():
            copy.make_other(folder, name, member.linkname if member.issym() else "")
            self.dress(folder, name, member)
            tally.others += 1
        elif not self.check:
            tally.left_out.append(f"{shown(rel)} (a device)")

    def link(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        place = plain_place(member.linkname)[1:]
        if not place:
            raise Failed(f"refused: {shown(member.name)} is a link to {shown(member.linkname)}")
        here = os.dup(self.fds[0])
        try:
            for one in place[:-1]:
                below = os.open(one, DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            first, there = os.stat(place[-1], dir_fd=here, follow_symlinks=False), state_of(folder, name)
            if there is None or there.st_ino != first.st_ino:
                if self.check:
                    raise Failed(f"{shown(member.name)} is not what was copied")
                remove_tree(folder, name)
                os.link(place[-1], name, src_dir_fd=here, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise Failed(f"{shown(member.name)}: the file that it is another name of was not copied") from None
        finally:
            os.close(here)

    def write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
        there = state_of(folder, name)
        is_file = there is not None and stat.S_ISREG(there.st_mode)
        if there and is_file and there.st_size == member.size and there.st_mtime_ns == time_of(member):
            self.copy.done += member.size
            return
        fd = self.copy.fresh()
        try:
            for at, data in self.blocks(tar, member):
                if data.count(0) != len(data):
                    pwrite_all(fd, data, at)
                self.copy.tally.written += len(data)
                self.copy.done += len(data)
                self.copy.tell()
            os.ftruncate(fd, member.size)
        finally:
            os.close(fd)
        if there is not None and not is_file:
            remove_tree(folder, name)
        self.dress(self.copy.staging, "part", member)
        os.rename("part", name, src_dir_fd=self.copy.staging, dst_dir_fd=folder)
        self.copy.tally.copied += 1

    def compare(self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
        digest = Digest()
        for at, data in self.blocks(tar, member):
            digest.feed(at, data)
        there = state_of(folder, name)
        is_same = there is not None and there.st_size == member.size
        if not is_same or digest.value() != self.copy.digest_at(folder, name):
            remove_tree(folder, name)  # in our unfinished copy: the next run copies it again
            raise Failed(f"{shown(member.name)} is not what was copied; run the same command again")
        self.dress(folder, name, member)

    def blocks(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tuple[int, bytes]]:
        file: IO[bytes] | None = tar.extractfile(member)
        at = 0
        while file and at < member.size:
            data = file.read(min(BLOCK, member.size - at))
            if len(data) < min(BLOCK, member.size - at):
                raise EOFError
            yield at, data
            at += len(data)

    def dress(self, folder: int, name: str, member: tarfile.TarInfo) -> None:
        uid, gid = self.copy.owner or (member.uid, member.gid)
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & 0o7777, dir_fd=folder)
        for key, value in member.pax_headers.items():
            attribute = key.removeprefix("SCHILY.xattr.")
            if attribute != key and not attribute.startswith(NOT_OURS):
                try:
                    data = value.encode("utf-8", "surrogateescape")
                    os.setxattr(f"/proc/self/fd/{folder}/{name}", attribute, data, follow_symlinks=False)
                except OSError:
                    self.copy.tally.lost.append(attribute)
        when = time_of(member)
        os.utime(name, ns=(when, when), dir_fd=folder, follow_symlinks=False)


class Line(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(SOCKET)


@contextmanager
def answer(path: str) -> Iterator[http.client.HTTPResponse]:
    line = Line("docker")
    try:
        line.request("GET", path)
        response = line.getresponse()
        if response.status == 404:
            raise FileNotFoundError(errno.ENOENT, response.read(2000).decode("utf-8", "replace"))
        if response.status != 200:
            raise Failed(f"Docker answered {response.status}: {shown(response.read(500).decode('utf-8', 'replace'))}")
        yield response
    except TimeoutError:
        raise Failed(f"Docker gave no answer within {ANSWER_S} s") from None
    except http.client.HTTPException as error:
        raise Failed(f"Docker's answer broke off: {type(error).__name__}") from None
    finally:
        line.close()


def asked(path: str) -> dict[str, Any]:
    try:
        with answer(path) as response:
            found = json.loads(response.read())
    except FileNotFoundError:
        raise Failed(f"there is no such container: {shown(path.split('/')[2])}") from None
    except OSError as error:
        raise Failed(f"{SOCKET}: {error.strerror or error}") from None
    return found if isinstance(found, dict) else {}


@contextmanager
def archive(container: str, path: str) -> Iterator[http.client.HTTPResponse]:
    quoted = urllib.parse.quote(os.fsencode(path))
    with answer(f"/containers/{urllib.parse.quote(container)}/archive?path={quoted}") as response:
        yield response


def time_of(member: tarfile.TarInfo) -> int:
    whole, _, part = member.pax_headers.get("mtime", "").partition(".")
    if whole.lstrip("-").isdigit() and part.isdigit():
        return int(whole) * 10**9 + int(f"{part:0<9}"[:9])
    return int(member.mtime) * 10**9


# ---- reading trees


def plain_place(place: str) -> list[str]:
    """The names on the way to a relative place. Raises Failed for one that leads out of it."""
    names = [name for name in place.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Failed(f"refused: {shown(place)} leads elsewhere")
    return names


def under(place: str, top: str) -> bool:
    return place != top and (not top or place.startswith(f"{top}/"))


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    keys = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return all(getattr(before, key) == getattr(after, key) for key in keys)


def lstat(path: str) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path)
    return None


def attributes_of(path: str) -> dict[str, bytes]:
    """Extended attributes, access lists among them; {} where there are none to be had."""
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(NOT_OURS):
                with suppress(OSError):
                    found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


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


def read_record() -> dict[str, Any]:
    with suppress(OSError, ValueError), open(RECORD, encoding="utf-8") as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def main(arguments: str, say: Callable[[str], None]) -> int:
    with suppress(ValueError, OSError):  # three descriptors a level
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        enough = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    try:
        Copy(json.loads(arguments), say).run()
    except Failed as failed:
        say(str(failed))
        return 1
    except OSError as error:
        place = f"{shown(str(error.filename))}: " if error.filename else ""
        room = " (the disk is full)" if error.errno == errno.ENOSPC else ""
        say(f"{place}{error.strerror or error}{room}")
        return 1
    return 0


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1], write))
