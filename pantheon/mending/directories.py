"""Directories of the host, copied in one walk, of which only the levels on the way are held."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pantheon.mending.content import Moving, room_of
from pantheon.mending.entries import Maker, same_time
from pantheon.mending.folders import DIRECTORY, joined, listing, remove_tree, state_of, without_atime
from pantheon.mending.words import Failed, shown

RACY_NS = 2 * 10**9  # a change so shortly before a file was read may not show in its times


@dataclass(frozen=True)
class History:
    """What is known of the run before."""

    is_again: bool = False  # there was one
    since: int = 0  # when the copy was begun, in ns
    distrusts: bool = False  # the machine went down before all of it was on the disk


@dataclass
class Level:
    """A directory on the way: open on both sides, and how far it was read."""

    source: int
    target: int
    rel: str  # from the top of the part; "" is the top itself
    found: os.stat_result
    entries: Iterator[os.DirEntry[str]]


class Walk:
    """One directory, copied. `aside` are places in it that are not copied from it, of which `skip` are wanted nowhere;
    `ways` are those that lead to what another part fills."""

    def __init__(
        self, maker: Maker, top: str, skip: tuple[str, ...], aside: frozenset[str], ways: frozenset[str],
        history: History, *, is_final: bool,
    ) -> None:  # fmt: skip
        self.maker, self.progress, self.top, self.history = maker, maker.progress, top, history
        self.skip, self.aside, self.ways, self.is_final = skip, aside, ways, is_final

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
                raise Failed(f"{shown(self.top)}: directories lie {len(levels)} deep, too deep") from None
            raise
        finally:
            for level in levels:
                os.close(level.source)
                os.close(level.target)

    def leave(self, level: Level) -> None:
        """A directory is complete: what is in the copy alone goes, and it gets its times."""
        if self.history.is_again:
            self.sweep(level)
        self.maker.dress(level.target, ".", level.found, level.source, ".")
        os.close(level.source)
        os.close(level.target)
        self.progress.tally.directories += 1

    def sweep(self, level: Level) -> None:
        """Remove from the unfinished copy what is not in the source any more."""
        gone = []
        for entry in listing(level.target):
            rel = joined(level.rel, entry.name)
            kept = rel in self.ways or (rel in self.aside and rel not in self.skip)
            if not kept and (rel in self.skip or state_of(level.source, entry.name) is None):
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
                    f"{shown(joined(self.top, rel))} is being written to while it is copied: stop what uses it"
                ) from None
            self.progress.tally.moving.append(rel)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            raise Failed(f"{shown(joined(self.top, rel))}: {error.strerror or error}") from None
        self.progress.tell()
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

    def file(self, level: Level, name: str, found: os.stat_result) -> None:
        """A regular file. One with several names is kept under its number as well, until the copy is complete, so that
        each further name is made a link to it."""
        there = state_of(level.target, name)
        if found.st_nlink > 1:
            links = os.open("links", DIRECTORY, dir_fd=self.maker.staging)
            try:
                self.linked(level, name, found, there, links)
            finally:
                os.close(links)
        elif not self.is_complete(there, found, level, name, (level.target, name)):
            self.maker.written(level.source, name, level.target, name)
        else:
            self.progress.done += room_of(found)
        self.maker.dress(level.target, name, found, level.source, name)
        self.progress.tally.files += 1

    def linked(self, level: Level, name: str, found: os.stat_result, there: os.stat_result | None, links: int) -> None:
        key = f"{found.st_dev:x}-{found.st_ino:x}"
        kept = state_of(links, key)
        if not self.is_complete(kept, found, level, name, (links, key)):
            self.maker.written(level.source, name, links, key)
            kept = os.stat(key, dir_fd=links, follow_symlinks=False)
        else:
            self.progress.done += room_of(found)
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
        if found.st_ctime_ns < self.history.since - RACY_NS and not self.history.distrusts:
            return True
        return self.maker.digest_at(level.source, name) == self.maker.digest_at(*copy)

    def other(self, level: Level, name: str, rel: str, found: os.stat_result) -> None:
        """A symbolic link or a pipe. Sockets are gone with their process, and devices are no data: they are named."""
        if not (stat.S_ISLNK(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            kind = "a socket" if stat.S_ISSOCK(found.st_mode) else "a device"
            self.progress.tally.left_out.append(f"{shown(rel)} ({kind})")
            if self.history.is_again:
                remove_tree(level.target, name)
            return
        link = os.readlink(name, dir_fd=level.source) if stat.S_ISLNK(found.st_mode) else ""
        self.maker.make_other(level.target, name, link)
        self.maker.dress(level.target, name, found, level.source, name)
        self.progress.tally.others += 1
