"""Docker's daemon.json: a new text beside the old one, and what dockerd says of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from typing import Any

from pantheon.mending.commands import run

DOCKERD_S = 30
MOST_BYTES = 1 << 20


def rendered(config: dict[str, Any], before: str) -> str:
    """Its text, indented as the one before."""
    indent = re.search(r"^([ \t]+)\"", before, re.MULTILINE)
    return json.dumps(config, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"


def staged(path: str, text: str) -> str:
    """The path of a file beside it that holds the text, with its owner and mode."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=".daemon.json.", dir=os.path.dirname(path))
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(handle, 0o644)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path)
            os.fchown(handle, found.st_uid, found.st_gid)
            os.fchmod(handle, stat.S_IMODE(found.st_mode))
        file.flush()
        os.fsync(handle)
    return beside


def refusal(path: str) -> list[str]:
    """Why dockerd does not take the file, in its own last words; [] where it does. Raises OSError and
    subprocess.TimeoutExpired."""
    done = run(["dockerd", "--validate", "--config-file", path], DOCKERD_S)
    if done.returncode == 0:
        return []
    return ((done.stderr + done.stdout).strip().splitlines() or [f"exit {done.returncode}"])[-3:]
