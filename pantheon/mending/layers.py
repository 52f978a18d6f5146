"""A directory inside a container, as the engine streams it, its own layer included."""

from __future__ import annotations

import http.client
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from pantheon.mending.content import BLOCK, Digest, pwrite_all
from pantheon.mending.engine import archive
from pantheon.mending.entries import NOT_OURS, Maker
from pantheon.mending.folders import DIRECTORY, Way, plain_place, remove_tree, state_of
from pantheon.mending.words import Failed, shown


class Unpack:
    """Members of one stream, made below `top` by opened directories only: no name of theirs leads anywhere else. With
    `check` they are compared with what was made before. `aside` are places that are left out."""

    def __init__(self, maker: Maker, top: int, aside: frozenset[str], *, check: bool) -> None:
        self.maker, self.progress, self.aside, self.check = maker, maker.progress, aside, check
        self.way = Way(os.dup(top))

    def stream(self, container: str, path: str) -> None:
        """All of them, from the directory of that container. Raises FileNotFoundError where it has none."""
        try:
            with archive(container, path) as body:
                with tarfile.open(fileobj=body, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
                    for member in tar:
                        tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
                        self.member(tar, member)
                        self.progress.tell()
                while body.read(BLOCK):  # a stream that was cut short says so only at its end
                    pass
        except (tarfile.TarError, http.client.HTTPException, EOFError) as error:
            about = f"{shown(path)} of container {container}"
            raise Failed(f"{about}: the engine's stream broke off: {type(error).__name__}") from None
        finally:
            self.way.close()

    def folder(self, names: list[str]) -> int:
        try:
            return self.way.to(names, make=True)
        except OSError as error:
            raise Failed(f"refused: {shown('/'.join(names))} is no directory ({error.strerror})") from None

    def member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        tally = self.progress.tally
        names = plain_place(member.name)[1:]
        rel = "/".join(names)
        if any("/".join(names[:n]) in self.aside for n in range(1, len(names) + 1)):
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
            self.maker.make_other(folder, name, member.linkname if member.issym() else "")
            self.dress(folder, name, member)
            tally.others += 1
        elif not self.check:
            tally.left_out.append(f"{shown(rel)} (a device)")

    def link(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        place = plain_place(member.linkname)[1:]
        if not place:
            raise Failed(f"refused: {shown(member.name)} is a link to {shown(member.linkname)}")
        here = os.dup(self.way.fds[0])
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
            self.progress.done += member.size
            return
        fd = self.maker.fresh()
        try:
            for at, data in self.blocks(tar, member):
                if data.count(0) != len(data):
                    pwrite_all(fd, data, at)
                self.progress.tally.written += len(data)
                self.progress.done += len(data)
                self.progress.tell()
            os.ftruncate(fd, member.size)
        finally:
            os.close(fd)
        if there is not None and not is_file:
            remove_tree(folder, name)
        self.dress(self.maker.staging, "part", member)
        os.rename("part", name, src_dir_fd=self.maker.staging, dst_dir_fd=folder)
        self.progress.tally.copied += 1

    def compare(self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
        digest = Digest()
        for at, data in self.blocks(tar, member):
            digest.feed(at, data)
        there = state_of(folder, name)
        is_same = there is not None and there.st_size == member.size
        if not is_same or digest.value() != self.maker.digest_at(folder, name):
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
        uid, gid = self.maker.owner or (member.uid, member.gid)
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
                    self.progress.tally.lost.append(attribute)
        when = time_of(member)
        os.utime(name, ns=(when, when), dir_fd=folder, follow_symlinks=False)


def time_of(member: tarfile.TarInfo) -> int:
    whole, _, part = member.pax_headers.get("mtime", "").partition(".")
    if whole.lstrip("-").isdigit() and part.isdigit():
        return int(whole) * 10**9 + int(f"{part:0<9}"[:9])
    return int(member.mtime) * 10**9
