"""What is shipped to hosts: the modules that run there, what boot.py is told of them, and a program made of them."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from pantheon import collecting, looks, mending
from pantheon.errors import LookFailed


def _all_of(package: ModuleType) -> tuple[str, ...]:
    return tuple(f"{package.__name__}.{path.stem}" for path in sorted(Path(package.__path__[0]).glob("[!_]*.py")))


LOOK = ("pynvml", *_all_of(looks), "pantheon.probe")
COLLECT = (*_all_of(looks), *_all_of(collecting), "pantheon.collect")
# An apply also carries what the next look needs: it may keep them on the host.
APPLY = (*dict.fromkeys((*LOOK, *COLLECT)), *_all_of(mending), "pantheon.writing", "pantheon.ending", "pantheon.runner")
MODULES = {"pantheon.probe": LOOK, "pantheon.collect": COLLECT, "pantheon.runner": APPLY}


@functools.cache
def source(name: str) -> bytes:
    """The text of a module that is shipped to hosts. Raises LookFailed where it is not installed."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None or not found.origin:
        raise LookFailed(f"the module {name} is not installed here", next_commands=["make setup"])
    return Path(found.origin).read_bytes()


@functools.cache
def digest(name: str) -> str:
    """SHA-256 of a shipped module's text, in hex: its name in the host's cache."""
    return hashlib.sha256(source(name)).hexdigest()


def packed(name: str) -> str:
    """A module's text as boot.py takes it."""
    return base64.b64encode(zlib.compress(source(name), 6)).decode()


def boot_text() -> str:
    return source("pantheon.remote.boot").decode()


def header(main: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What boot.py is told: the modules and what `main`.main gets."""
    return {"modules": {name: digest(name) for name in MODULES.get(main, (main,))}, "main": main, "spec": spec}


def plain_program(main: str, spec: dict[str, Any]) -> bytes:
    """A text which, fed to `python3 -I -` on standard input, prints the frames that run_module would give. Modules that
    the host's cache has come from there, the others from the text itself."""
    told = header(main, spec)
    told["sources"] = {name: packed(name) for name in told["modules"]}
    return f"{boot_text()}\n\nsys.exit(boot(json.loads({json.dumps(told)!r})))\n".encode()
