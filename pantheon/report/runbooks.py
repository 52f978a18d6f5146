"""The pages of runbooks/, in the terminal."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from pantheon.errors import UsageError
from pantheon.symptoms import SYMPTOMS

DIRECTORY = Path(__file__).resolve().parents[2] / "runbooks"
FIX = "fix."


def names() -> list[str]:
    """The pages there are: those of the procedure, then those of the fixes in the order of causes."""
    found = {path.name.removesuffix(".md") for path in DIRECTORY.glob("*.md")}
    fixes = [f"{FIX}{name}" for name in SYMPTOMS if f"{FIX}{name}" in found]
    return [*sorted(found - set(fixes)), *fixes]


def listing() -> str:
    """A line for each page: its name, and what it is about."""
    known = names()
    width = max(map(len, known), default=0)
    lines = []
    for name in known:
        about = SYMPTOMS.get(name.removeprefix(FIX)) if name.startswith(FIX) else _title(name)
        lines.append(f"{name:<{width}}  {about}".rstrip())
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    """The rest of the page's first line, which is `# name: title`."""
    with (DIRECTORY / f"{name}.md").open(encoding="utf-8") as page:
        return page.readline().partition(":")[2].strip()


def show(name: str) -> int:
    """Print a page: formatted on a terminal, as it is elsewhere. Raises UsageError for a page that is not there."""
    if name == "list":
        sys.stdout.write(listing())
        return 0
    known = names()
    if name not in known:
        asked = f"{FIX}{name}" if f"{FIX}{name}" in known else name
        near = difflib.get_close_matches(asked, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no runbook {name!r}{hint}", next_commands=["invoke runbook list"])
    text = (DIRECTORY / f"{name}.md").read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return 0
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
    return 0
