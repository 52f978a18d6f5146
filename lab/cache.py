"""What the lab keeps between runs: files under the user's cache directory, and images that carry its label.

Every entry's name ends in a hash of what it was made from, so an entry is either right or not found; nothing is ever
checked for age. A second clone of the project makes the same names and finds the same entries.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lab.outer import LabError, Say, docker, silent, text

IMAGE_LABEL = "pantheon.lab.image"
IMAGES = ("pantheon-lab-*", "pantheon-lab/*")
Make = Callable[[Path], None]

KEPT = 2  # entries of one kind that survive a new one: this one and the one before, for going back and forth


def directory() -> Path:
    """The cache directory: $XDG_CACHE_HOME/pantheon, else ~/.cache/pantheon. Made if it is not there."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(root).expanduser() / "pantheon"
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: str | bytes) -> str:
    """Twelve hexadecimal digits that stand for all parts, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


def digest_files(roots: Iterable[Path]) -> str:
    """The digest of every file below the roots: name, whether executable, content. See source_files."""
    total = hashlib.sha256()
    for root in roots:
        for path in source_files(root):
            mode = "x" if path.stat().st_mode & 0o100 else "-"
            data = path.read_bytes()
            total.update(f"{path.relative_to(root.parent)}\0{mode}\0{len(data)}\0".encode() + data)
    return total.hexdigest()[:12]


def source_files(root: Path) -> list[Path]:
    """The files that make up a source folder (or the file itself), sorted. Dot files and pages to read are left out."""
    if root.is_file():
        return [root]
    found = []
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in below)
        if path.is_file() and not hidden and path.suffix != ".md":
            found.append(path)
    return found


@contextlib.contextmanager
def locked(name: str, say: Say = silent) -> Iterator[None]:
    """Hold the lock `name` among all processes that share the cache, so that two builds of one thing become one."""
    with hold(directory() / f"{name}.lock", f"the lab's {name}", say):
        yield


@contextlib.contextmanager
def hold(path: Path, what: str, say: Say = silent, *, deadline_s: float = 900) -> Iterator[None]:
    """Hold a lock file; it is free again when the process ends, however it ends. `what` is for the message."""
    end = time.monotonic() + deadline_s
    told = False
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LabError(f"another process has been busy with {what} for {deadline_s:.0f} s.") from None
            if not told:
                say(f"another process is busy with {what}; waiting for it")
                told = True
            time.sleep(0.1)
        yield


def file(kind: str, key: str, suffix: str, make: Make) -> Path:
    """The cached file of that kind and key; when there is none, `make` writes it to the path it is given.

    The entry appears under its name only when complete, so a build that was cut leaves nothing to be found.
    """
    entry = directory() / f"{kind}-{key}{suffix}"
    if not entry.exists():
        partial = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
        try:
            make(partial)
            partial.rename(entry)
        except OSError as error:
            raise LabError(f"could not write {entry}: {error.strerror}. Next: df -h {entry.parent}") from error
        finally:
            partial.unlink(missing_ok=True)
        prune(kind, suffix)
    entry.touch()
    return entry


def image_tags(repository: str) -> list[str]:
    """The engine's images of that name (a pattern), the newest first."""
    wanted = ("--filter", f"reference={repository}", "--format", "{{.Repository}}:{{.Tag}}")
    return text("image", "ls", *wanted, timeout=20).split()


def prune_images(repository: str, *, keep: int, never: Iterable[str]) -> None:
    """Drop all but the newest images of that name, and none in `never`: the builder may give a new tag an old date."""
    spared = set(never)
    for tag in image_tags(repository)[keep:]:
        if tag not in spared:
            drop_image(tag)


def drop_image(tag: str) -> None:
    """Remove an image unless a container uses it: without --force the engine refuses that."""
    docker("image", "rm", tag, timeout=60, check=False)


def prune(kind: str, suffix: str) -> None:
    """Drop all but the newest entries of a kind."""
    entries = sorted(directory().glob(f"{kind}-*{suffix}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for stale in entries[KEPT:]:
        stale.unlink(missing_ok=True)


def empty(say: Say = silent) -> None:
    """Remove everything: the files, and the lab's images that no container uses. Labs that are up stay up."""
    shutil.rmtree(directory(), ignore_errors=True)
    say(f"removed {directory()}")
    try:
        listed = [tag for repository in IMAGES for tag in image_tags(repository)]
        for tag in listed:
            drop_image(tag)
        docker("image", "prune", "--force", "--filter", f"label={IMAGE_LABEL}", timeout=120, check=False)
        say(f"removed the lab's images ({len(listed)}); those that a lab runs on stay until it is down")
    except LabError as error:
        say(f"images were not looked at: {error}")


if __name__ == "__main__":  # `python3 -m lab.cache`, for `make clean`
    empty(print)
