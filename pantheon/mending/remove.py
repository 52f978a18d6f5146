"""Removes what can be made again, and nothing else: exactly the paths that a plan named, each looked at once more.

Arguments: {"rule": "venv" or "partial", "root": DIRECTORY, "items": [{"path": PATH BELOW ROOT, "mtime": SECONDS}]}.
Nothing is removed that does not look as its rule says, was written to since the plan was made, is open in a process,
is or holds a mount point, or is reached through a symbolic link. What is gone already is passed over.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from contextlib import suppress

from pantheon.mending.folders import DIRECTORY, mounts

OLD_S = 3600
RULES = {
    "venv": re.compile(r"venv-[^/]+"),
    "partial": re.compile(r"models/blobs/sha256-[0-9a-f]{64}-partial(-\d+)?|(?:HF|cache)/.*\.incomplete"),
}
# What a virtual environment holds at its top; what lies beside it is somebody's (collecting/usage.py).
OF_A_VENV = {
    *("bin", "etc", "include", "lib", "lib64", "man", "share", "pyvenv.cfg"),
    *(".build_base.txt", ".gitignore", ".lock", ".testfile"),
}


class Refused(Exception):
    """One line that says why nothing was removed."""


def open_folder(path: str, start: int | None = None) -> int:
    """A directory by its path, no part of which may be a link; below `start` on the same file system."""
    parts = path.split("/")
    if start is None and (not path.startswith("/") or path != os.path.normpath(path) or len(parts) < 3):
        raise Refused(f"{path} is no place to remove anything from")
    if any(part in (".", "..") or (start is not None and not part) for part in parts):
        raise Refused(f"{path} is no plain path")
    here = os.open("/", DIRECTORY) if start is None else os.dup(start)
    device = None if start is None else os.fstat(start).st_dev
    for part in (part for part in parts if part):
        try:
            inside = os.open(part, DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = inside
        if device is not None and os.fstat(here).st_dev != device:
            os.close(here)
            raise Refused(f"{path} lies on another disk")
    return here


def in_use() -> set[tuple[int, int]]:
    """Device and inode of all that any process has open, mapped, runs, or works in."""
    found = set()
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        names = [f"/proc/{pid}/{name}" for name in ("cwd", "exe", "root")]
        with suppress(OSError):
            names += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
        for name in names:
            with suppress(OSError):
                about = os.stat(name)
                found.add((about.st_dev, about.st_ino))
        with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as stream:
            for line in stream:
                fields = line.split()
                if len(fields) > 5 and fields[4] != b"0":
                    major, minor = (int(part, 16) for part in fields[3].split(b":"))
                    found.add((os.makedev(major, minor), int(fields[4])))
    return found


def inside(folder: int) -> list[tuple[int, int]]:
    """Device and inode of everything in a directory. Raises Refused at another file system."""
    about = os.fstat(folder)
    out = [(about.st_dev, about.st_ino)]
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if found.st_dev != about.st_dev:
            raise Refused(f"{name} in it lies on another disk")
        out.append((found.st_dev, found.st_ino))
        if stat.S_ISDIR(found.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=folder)
            try:
                out += inside(below)
            finally:
                os.close(below)
    return out


def empty(folder: int, *, last: str = "") -> None:
    """Removes what is in a directory; `last` at the end, so that one that is cut short still shows what it is."""
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries), key=lambda name: name == last)
    for name in names:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=folder)
            try:
                empty(below)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def remove(rule: str, root: str, path: str, mtime: int, busy: set[tuple[int, int]], mounts: list[str]) -> str:
    """One item. Returns what became of it; raises Refused."""
    if not RULES[rule].fullmatch(path) or "\0" in path or path != os.path.normpath(path):
        raise Refused("it is not what is to be removed here")
    whole = f"{root}/{path}"
    if any(target == whole or target.startswith(whole + "/") for target in mounts):
        raise Refused("it is a mount point, or holds one")
    head, _, name = path.rpartition("/")
    top = open_folder(root)
    try:
        folder = open_folder(head, top) if head else os.dup(top)
    except FileNotFoundError:
        return "is gone already"
    finally:
        os.close(top)
    try:
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return "is gone already"
        if found.st_dev != os.fstat(folder).st_dev:
            raise Refused("it lies on another disk")
        if int(found.st_mtime) != mtime:
            raise Refused("it was written to since the plan was made")
        if rule == "venv":
            _remove_venv(folder, name, found, busy)
        else:
            if not stat.S_ISREG(found.st_mode) or found.st_mtime > time.time() - OLD_S:
                raise Refused("it is no file that was left for an hour")
            if (found.st_dev, found.st_ino) in busy:
                raise Refused("a process has it open")
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    return "removed"


def _remove_venv(folder: int, name: str, found: os.stat_result, busy: set[tuple[int, int]]) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise Refused("it is no directory")
    for one in (name, "venv"):  # what is removed is one, and another is there to be used
        try:
            mark = open_folder(one, folder)
        except OSError:
            raise Refused(f"{one} is no virtual environment") from None
        try:
            if not stat.S_ISREG(os.stat("pyvenv.cfg", dir_fd=mark, follow_symlinks=False).st_mode):
                raise Refused(f"{one} is no virtual environment")
        except FileNotFoundError:
            raise Refused(f"{one} is no virtual environment") from None
        finally:
            os.close(mark)
    below = open_folder(name, folder)
    try:
        others = sorted(set(os.listdir(below)) - OF_A_VENV)
        if others:
            raise Refused(f"{others[0]!r} in it is no part of a virtual environment")
        if busy.intersection(inside(below)):
            raise Refused("a process uses it")
        empty(below, last="pyvenv.cfg")
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=folder)


def main(arguments: dict[str, object]) -> int:
    rule, root, items = str(arguments["rule"]), str(arguments["root"]), arguments["items"]
    assert isinstance(items, list)
    busy, points, refused = in_use(), [mount.target for mount in mounts()], []
    for item in items:
        path = str(item["path"])
        try:
            print(f"{root}/{path}: {remove(rule, root, path, int(item['mtime']), busy, points)}", flush=True)
        except Refused as error:
            refused.append(f"{root}/{path}: {error}")
        except RecursionError:
            refused.append(f"{root}/{path}: too deep")
        except OSError as error:
            refused.append(f"{root}/{path}: {error.strerror or error}")
    for line in refused:
        print(f"left alone: {line}", flush=True)
    if refused and len(refused) == len(items):
        print(f"nothing could be removed: {refused[0]}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
