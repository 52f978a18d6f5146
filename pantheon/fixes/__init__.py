"""The troubleshooting: a module for each entry of symptoms.SYMPTOMS, each an incident.Entry. No I/O here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from pantheon.symptoms import SYMPTOMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pantheon.finding import Finding
    from pantheon.incident import Case, Entry


def load(name: str) -> Entry:
    """The entry of that name. Raises KeyError when there is none."""
    if name not in SYMPTOMS:
        raise KeyError(name)
    return cast("Entry", importlib.import_module(f"pantheon.fixes.{name.replace('-', '_')}"))


def entries() -> list[Entry]:
    """All of them, causes before consequences."""
    return [load(name) for name in SYMPTOMS]


def steps(entry: Entry, case: Case) -> list[Finding]:
    """What an entry looked at, in order, the good included: of those that have `steps(case)`, for a chain of which one
    link is broken. Shown by its fix, whatever that comes to."""
    made: Callable[[Case], list[Finding]] | None = getattr(entry, "steps", None)
    return made(case) if made else []
