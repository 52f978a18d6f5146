"""Where this machine's user keeps what pantheon remembers."""

from __future__ import annotations

import os
from pathlib import Path

from pantheon.errors import UsageError


def private(folder: Path) -> Path:
    """That folder and the one above it, made for this user alone where they are not there. Raises OSError."""
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def state_directory() -> Path:
    """$XDG_STATE_HOME/pantheon, by default ~/.local/state/pantheon. A relative one counts for nothing, as XDG has it:
    it is another one in another directory. Raises UsageError where nobody knows a home directory."""
    try:
        root = Path(os.environ.get("XDG_STATE_HOME", "")).expanduser()
        return (root if root.is_absolute() else Path("~/.local/state").expanduser()) / "pantheon"
    except RuntimeError:
        text = f"user {os.getuid()} has no home directory that this machine knows of"
        raise UsageError(text, next_commands=["getent passwd $(id -u)", "export HOME=/path/to/it"]) from None
