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
import json
import os
import stat
import sys
import time
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pantheon.mending.content import room_of
from pantheon.mending.differences import compare
from pantheon.mending.directories import History, Walk
from pantheon.mending.engine import asked
from pantheon.mending.entries import Maker, Owner
from pantheon.mending.folders import (
    DIRECTORY,
    FILE,
    allow_open_files,
    got,
    listing,
    mount_of,
    opened,
    plain_place,
    put,
    remove_tree,
    state_of,
    under,
    walked,
)
from pantheon.mending.layers import Unpack
from pantheon.mending.progress import Progress
from pantheon.mending.words import Failed, Say, say, shown, size_text, tried

RECORD = "/var/lib/pantheon/copies.json"  # what was completed, by target
SUFFIX, INSIDE = ".pantheon-copy", ".pantheon-copy"
OPEN_FILES = 16384  # three descriptors a level
MOST_LINKED = 500_000  # files with several names that are counted once
SPARE = 64 << 20  # what is left free besides


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


class Copy:
    """One run."""

    def __init__(self, told: dict[str, Any], say: Say) -> None:
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
        self.owner: Owner | None = tuple(told["owner"]) if told.get("owner") else None
        self.is_final = told.get("mode", "final") == "final"
        self.progress = Progress(say)
        self.history = History(since=time.time_ns())
        self.now = self.history.since
        self.about: dict[str, Any] = {}

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
            if self.progress.tally.entries:
                self.progress.summary()
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
                    self.progress.say(f"{part.name} is not there: nothing to copy from it")
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
        self.progress.say(f"{shown(self.target)} was copied at {record['finished']} and is complete")
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
        self.maker = Maker(self.staging, self.owner, self.progress)
        self.about = got(self.staging, "about.json")
        told = {"parts": self.identity, "owner": list(self.owner) if self.owner else None}
        if self.about:
            if {key: self.about.get(key) for key in told} != told:
                was = ", ".join(shown(str(part["source"])) for part in self.about["parts"])
                raise Failed(
                    f"{shown(self.staging_path)} is an unfinished copy of something else ({was}): move it away"
                )
            distrusts = not self.about["synced"] and self.about["boot"] != boot_id()
            self.history = History(is_again=True, since=self.about["since_ns"], distrusts=distrusts)
        elif os.fstat(self.staging).st_uid != os.geteuid() or os.listdir(self.staging) not in ([], ["about.json.part"]):
            raise Failed(f"{shown(self.staging_path)} is in the way, and not of this program's making")
        if self.is_full and not self.about.get("placing"):
            raise Failed(f"{shown(self.target)} is not empty, and nothing in it is replaced: move it away first")
        if not self.about.get("placing"):
            layers = self.about.get("layers", {})
            self.about = {**told, "since_ns": self.history.since, "boot": boot_id(), "synced": False, "layers": layers}
            put(self.staging, "about.json", self.about)
            for inner in ("tree", "links"):
                with suppress(FileExistsError):
                    os.mkdir(inner, 0o700, dir_fd=self.staging)
            self.tree = os.open("tree", DIRECTORY, dir_fd=self.staging)

    @property
    def staging_path(self) -> str:
        return f"{self.target}/{INSIDE}" if self.inside else self.target + SUFFIX

    def measure(self) -> None:
        """How much there is to copy, and whether it fits."""
        entries, first = 0, ""
        seen: set[int] = set()
        for part in self.parts:
            if part.container:
                self.progress.total += int(self.container(part, "?size=1").get("SizeRw") or 0)
                continue
            for path, found in walked(part.real, part.skip):
                entries += 1
                key = found.st_dev << 64 | found.st_ino
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if key in seen:
                        continue
                    if len(seen) < MOST_LINKED:
                        seen.add(key)
                self.progress.total += room_of(found)
                first = first or (path if room_of(found) else "")
                self.progress.tell(f"counting what there is: {entries} entries, {size_text(self.progress.total)}")
        have, have_entries = 0, 0
        if self.history.is_again:
            for _, found in walked(f"{self.staging_path}/tree", ()):
                have, have_entries = have + room_of(found), have_entries + 1
        space = os.statvfs(self.staging)
        need, free = max(0, self.progress.total - have), space.f_bavail * space.f_frsize
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
                fd = self.maker.fresh()
                try:
                    return self.maker.clones(source, fd)
                finally:
                    os.close(fd)
            finally:
                os.close(source)
        return False

    def copy_part(self, part: Part) -> None:
        inside = self.filled_by_others(part)
        aside, ways = frozenset((*part.skip, *inside)), ways_to(inside)
        if part.container:
            if not self.is_final:
                self.progress.say(f"{part.name} is copied when the container has stopped")
                return
            self.copy_layer(part, aside, ways)
            return
        source = opened(part.real)
        target = self.place_of(part, os.fstat(source))
        walk = Walk(self.maker, part.real, part.skip, aside, ways, self.history, is_final=self.is_final)
        walk.copy_directories(source, target)

    def filled_by_others(self, part: Part) -> list[str]:
        """The places in it that other parts fill."""
        others = [other.into for other in self.parts if under(other.into, part.into)]
        return [place[len(part.into) :].lstrip("/") for place in others]

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
                os.fchown(here, *self.maker.owner_of(like))
                os.fchmod(here, stat.S_IMODE(like.st_mode))
        return here

    def copy_layer(self, part: Part, aside: frozenset[str], ways: frozenset[str]) -> None:
        """A directory inside a container that has stopped, in two streams of the engine: one is written, and what was
        written is compared with the other."""
        about = self.container(part)
        state = about["State"]
        if state.get("Running"):
            raise Failed(f"container {part.container} still runs: it is copied once it has stopped")
        moment = f"{about['Id']} {state.get('StartedAt')} {state.get('FinishedAt')}"
        top = self.place_of(part, os.fstat(self.staging))
        try:
            if self.about["layers"].get(part.into) != moment:
                for entry in list(listing(top)):
                    if entry.name not in ways:
                        remove_tree(top, entry.name)
                self.about["layers"][part.into] = moment
                put(self.staging, "about.json", self.about)
            before = self.progress.tally.counted
            Unpack(self.maker, top, aside, check=False).stream(part.container, part.source)
            written = self.progress.tally.counted
            Unpack(self.maker, top, aside, check=True).stream(part.container, part.source)
            if self.progress.tally.counted != tuple(2 * now - then for now, then in zip(written, before, strict=True)):
                raise Failed(f"{part.name} changes while it is copied")
            self.progress.tally.counted = written
        except FileNotFoundError:
            if not part.optional:
                raise Failed(f"container {part.container} has no {shown(part.source)}") from None
            self.progress.say(f"{part.name} is not there: nothing to copy from it")
        finally:
            os.close(top)

    def container(self, part: Part, options: str = "") -> dict[str, Any]:
        return asked(f"/containers/{urllib.parse.quote(part.container)}/json{options}")

    def sync(self) -> None:
        """On the disk, and not only in memory: only then a copy outlives a power cut."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self.staging):
            raise Failed(f"{shown(self.staging_path)}: {os.strerror(ctypes.get_errno())}")
        self.about["synced"] = True
        put(self.staging, "about.json", self.about)

    def settle(self) -> None:
        """Compare the copy with its sources, entry by entry, and note that nothing but the rename is missing."""
        for part in self.parts:
            if not part.container:
                skip = [*part.skip, *self.filled_by_others(part)]
                base = f"{self.staging_path}/tree" + (f"/{part.into}" if part.into else "")
                compare(part.real, base, skip, ways_to(skip), self.maker.owner_of, self.progress)
        self.about["placing"] = True
        self.about["final_ns"] = self.now
        self.about["entries"] = self.progress.tally.entries
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
        self.progress.say(f"{shown(self.target)} is complete")

    def record(self, found: os.stat_result) -> None:
        known = read_record()
        known[self.target] = {
            "parts": self.identity,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "entries": self.about.get("entries", 0),
            "bytes": self.progress.total,
            "inode": found.st_ino,
            "began_ns": self.about.get("final_ns", self.now),
        }
        folder = opened(os.path.dirname(RECORD), make=True)
        try:
            put(folder, os.path.basename(RECORD), known)
        finally:
            os.close(folder)


def ways_to(places: list[str]) -> frozenset[str]:
    """Those places, and the directories that lead there."""
    return frozenset("/".join(plain_place(place)[:n]) for place in places for n in range(1, 99))


def boot_id() -> str:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def read_record() -> dict[str, Any]:
    with suppress(OSError, ValueError), open(RECORD, encoding="utf-8") as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def main(arguments: str, say: Say) -> int:
    allow_open_files(OPEN_FILES)
    return tried(lambda: Copy(json.loads(arguments), say).run(), say)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1], say))
