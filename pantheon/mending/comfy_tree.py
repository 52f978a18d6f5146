"""Take out of ComfyUI's way what its first run cannot get past. Nothing is deleted but an empty directory.

Arguments: {"path": comfy-mnt, "uid": n, "gid": n, "clone": "" | "empty" | "aside", "venv": "" | "aside", "modules": []}

clone    "empty": the empty ComfyUI/ goes, since the image does not clone into one that is there. "aside": a broken one
         becomes ComfyUI.broken-DATE.
venv     "aside": it becomes venv-broken-DATE; the image makes another.
modules  what Python does not find. pip's record of the package that has it is set aside inside the venv, so that pip
         installs it again; where no record explains it, the venv is set aside.

No link is followed, and nothing is done twice: what is set aside already stays where it is.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable

from pantheon.mending.folders import DIRECTORY
from pantheon.mending.words import Failed

RECORD_BYTES = 64 * 1024


class Tree:
    def __init__(self, top: int, owner: tuple[int, int], say: Callable[[str], None]) -> None:
        self.top, self.owner, self.say = top, owner, say
        self.stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())

    def remove_empty(self, name: str) -> None:
        if not there(self.top, name):
            return
        try:
            os.rmdir(name, dir_fd=self.top)
        except OSError as error:
            raise Failed(f"{name}: {error.strerror}; it was empty when this was planned") from None
        self.say(f"{name} was empty and is gone: the image clones it again")

    def aside(self, name: str, to: str) -> None:
        """Rename a directory; its new name is one that is free."""
        if not there(self.top, name):
            return
        new = next(n for n in (f"{to}-{self.stamp}{tail}" for tail in ("", "-2", "-3", "-4")) if not there(self.top, n))
        os.rename(name, new, src_dir_fd=self.top, dst_dir_fd=self.top)
        self.say(f"{name} is {new} now")

    def modules(self, names: list[str]) -> None:
        venv = open_below(self.top, "venv")
        if venv is None:
            return
        try:
            site = site_of(venv)
            lost = [name for name in names if site is None or not self.settle(venv, site, name)]
            if site is not None:
                os.close(site)
        finally:
            os.close(venv)
        if lost:
            self.say(f"no record of pip's explains why {', '.join(lost)} is missing")
            self.aside("venv", "venv-broken")

    def settle(self, venv: int, site: int, module: str) -> bool:
        """Whether pip will install it again."""
        name, dot, _ = module.partition(".")
        present = any(there(site, f"{name}{tail}") for tail in ("", ".py"))
        records = [
            info for info in sorted(os.listdir(site)) if info.endswith(".dist-info") and name in tops(site, info)
        ]
        if present and not dot and records:
            return False  # all there, and not found: another Python looks for it
        if not records:
            return not present and any(name in tops(fd, info) for fd, info in set_aside(venv))
        folder = f"set-aside-{self.stamp}"
        if not there(venv, folder):
            os.mkdir(folder, 0o755, dir_fd=venv)
            os.chown(folder, *self.owner, dir_fd=venv, follow_symlinks=False)
        to = os.open(folder, DIRECTORY, dir_fd=venv)
        try:
            for info in records:
                os.rename(info, info, src_dir_fd=site, dst_dir_fd=to)
                self.say(f"{module}: {info} set aside in venv/{folder}, pip installs it again")
        finally:
            os.close(to)
        return True


def set_aside(venv: int) -> list[tuple[int, str]]:
    """pip's records that an earlier run has set aside, with the directory that each lies in (left open: few)."""
    found = []
    for folder in sorted(name for name in os.listdir(venv) if name.startswith("set-aside-")):
        inner = open_below(venv, folder)
        if inner is not None:
            found += [(inner, info) for info in os.listdir(inner)]
    return found


def tops(site: int, info: str) -> set[str]:
    """The names under which a package is imported, by pip's own record."""
    listed = text_of(site, info, "top_level.txt").split()
    if not listed:
        firsts = [line.split(",")[0].split("/")[0] for line in text_of(site, info, "RECORD").splitlines()]
        listed = [name.partition(".")[0] if name.endswith((".py", ".so")) else name for name in firsts]
    return set(listed)


def site_of(venv: int) -> int | None:
    """site-packages of its Python, open."""
    version = re.search(r"(?m)^version(?:_info)? *= *(\d+\.\d+)", text_of(venv, "pyvenv.cfg"))
    lib = open_below(venv, "lib")
    if lib is None:
        return None
    try:
        pythons = sorted(name for name in os.listdir(lib) if re.fullmatch(r"python3\.\d+", name))
        name = f"python{version[1]}" if version else (pythons or [""])[-1]
        return open_below(lib, name, "site-packages") if name in pythons else None
    finally:
        os.close(lib)


def text_of(folder: int, *names: str) -> str:
    inside = open_below(folder, *names[:-1])
    if inside is None:
        return ""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(names[-1], flags, dir_fd=inside), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(RECORD_BYTES).decode("utf-8", "replace")
    except OSError:
        pass
    finally:
        os.close(inside)
    return ""


def open_below(folder: int, *names: str) -> int | None:
    """A directory below an open one, without following a link; None where it is none."""
    here = os.dup(folder)
    for name in names:
        try:
            below = os.open(name, DIRECTORY, dir_fd=here)
        except OSError:
            return None
        finally:
            os.close(here)
        here = below
    return here


def there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def main(arguments: str, say: Callable[[str], None]) -> int:
    given = json.loads(arguments)
    try:
        root = os.open("/", DIRECTORY)
        top = open_below(root, *[part for part in given["path"].split("/") if part])
        os.close(root)
        if top is None:
            raise Failed(f"{given['path']} is no directory of its own")
        tree = Tree(top, (int(given["uid"]), int(given["gid"])), say)
        if given.get("clone") == "empty":
            tree.remove_empty("ComfyUI")
        elif given.get("clone") == "aside":
            tree.aside("ComfyUI", "ComfyUI.broken")
        if given.get("venv") == "aside":
            tree.aside("venv", "venv-broken")
        elif given.get("modules"):
            tree.modules(list(given["modules"]))
    except (Failed, OSError) as error:
        say(str(error) if isinstance(error, Failed) else f"{error.filename or ''}: {error.strerror}".removeprefix(": "))
        return 1
    return 0


def write(line: str) -> None:
    sys.stdout.write("".join(c if c.isprintable() else "?" for c in line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], write))
