"""The pages of runbooks/, in the terminal."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from pantheon.errors import UsageError

DIRECTORY = Path(__file__).resolve().parents[2] / "runbooks"


def names() -> list[str]:
    """The pages there are, by name."""
    return sorted(path.stem for path in DIRECTORY.glob("*.md"))


def show(name: str) -> int:
    """Print a page: formatted on a terminal, as it is elsewhere. Raises UsageError for a page that is not there."""
    known = names()
    if name == "list":
        sys.stdout.write("\n".join(known) + "\n")
        return 0
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no runbook {name!r}{hint}: {', '.join(known)}", next_commands=["invoke runbook list"])
    text = (DIRECTORY / f"{name}.md").read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return 0
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
    return 0
