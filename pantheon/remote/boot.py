"""Runs on the host, before anything else of pantheon does: its text travels at the head of every exec.

It imports the modules that the header names, from the root-owned cache where an apply left them or from their texts
as sent, and hands over to one of them. Standard library only, Python 3.10+; looks, never writes.
"""

from __future__ import annotations

import binascii
import hashlib
import importlib.util
import json
import os
import stat
import sys
import types
import zlib

TYPE_CHECKING = False  # importing typing takes 3 ms, and importlib.abc, for base classes that nobody asks for, 20
if TYPE_CHECKING:
    from typing import Any

LIB = "/var/lib/pantheon/lib"


def frame(name: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"frame": name, **fields}) + "\n")
    sys.stdout.flush()


def safe(path: str) -> bool:
    """Nobody but root (or ourselves) could have put this here."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o022 and found.st_uid in (0, os.geteuid())


def cached(lib: str, hashes: dict[str, str]) -> dict[str, str]:
    """The paths of the modules of which the cache has an unchanged copy, by name."""
    if not (safe(os.path.dirname(lib)) and safe(lib)):
        return {}
    return {name: path for name, digest in hashes.items() if (path := copy_of(f"{lib}/{digest}", name, digest))}


def copy_of(folder: str, name: str, digest: str) -> str | None:
    path, pyc = f"{folder}/{name.rpartition('.')[2]}.py", f"{folder}/__pycache__"
    if not (safe(folder) and safe(path)):
        return None
    if os.path.lexists(pyc) and not all(map(safe, (pyc, *(entry.path for entry in os.scandir(pyc))))):
        return None
    with open(path, "rb") as file:
        return path if hashlib.sha256(file.read()).hexdigest() == digest else None


class Sent:
    """Compiles a text only when it is imported: pynvml costs 115 ms."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def create_module(self, spec: object) -> None:
        pass

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.text, "<" + module.__name__ + ">", "exec", dont_inherit=True), module.__dict__)  # noqa: S102


class Finder:
    def __init__(self, paths: dict[str, str], sent: dict[str, bytes]) -> None:
        self.paths, self.sent = paths, sent
        self.packages = {"pantheon", *(name.rpartition(".")[0] for name in (*paths, *sent))}  # empty ones

    def find_spec(self, name: str, *_: Any) -> Any:
        if name in self.paths:
            return importlib.util.spec_from_file_location(name, self.paths[name])
        if name in self.sent:
            loader: Any = Sent(self.sent[name])
            return importlib.util.spec_from_loader(name, loader, origin="<" + name + ">")
        if name in self.packages:
            return importlib.util.spec_from_loader(name, None, is_package=True)
        return None


def sources() -> dict[str, str]:
    """The line that answers a `missing` frame; heartbeats may come before it."""
    while not (line := sys.stdin.buffer.readline()).strip():
        if not line:
            raise EOFError("the connection ended before the modules came")
    texts: dict[str, str] = json.loads(line)["sources"]
    return texts


def load(header: dict[str, Any]) -> Any:
    """Makes the header's modules importable and returns the main one. Those that the cache has not come with the header
    ("sources"), or are asked for.

    `pantheon.sent` maps the modules that had to be sent to their texts (bytes), for an apply to keep them, and
    `pantheon.hashes` all of them to the SHA-256 of their texts."""
    hashes = header["modules"]
    paths = cached(header.get("lib", LIB), hashes)
    missing = sorted(set(hashes) - set(paths))
    texts: dict[str, str] = header.get("sources") or {}
    if missing and not texts:
        frame("missing", modules=missing)
        texts = sources()
    sent = {name: zlib.decompress(binascii.a2b_base64(texts[name])) for name in missing}
    for name, text in sent.items():
        if hashlib.sha256(text).hexdigest() != hashes[name]:
            raise ValueError(name + " did not arrive whole")
    sys.meta_path.insert(0, Finder(paths, sent))
    package: Any = importlib.import_module("pantheon")
    package.sent, package.hashes = sent, hashes
    return importlib.import_module(header["main"])


def boot(header: dict[str, Any]) -> int:
    """Runs header["main"].main(spec, stdin, stdout) and returns its exit status. What it raises ends the process, with
    a traceback on stderr and a frame that says so."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    if sys.version_info < (3, 10):  # noqa: UP036
        frame("python", version=sys.version.split()[0])
        return 1
    sys.dont_write_bytecode = True
    try:
        return int(load(header).main(header["spec"], sys.stdin.buffer, sys.stdout) or 0)
    except Exception as error:
        frame("died", error=type(error).__name__ + ": " + str(error))
        raise
