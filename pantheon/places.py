"""Where this machine's user keeps what pantheon remembers."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """$XDG_STATE_HOME/pantheon, by default ~/.local/state/pantheon."""
    root = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(root).expanduser() / "pantheon"
