"""Every fault that pantheon has a fix for, planted on a lab host for real: a module for each entry, of the same name.

A module has BREAKAGES, a tuple of Breakage, the first of them the one that `invoke lab.break NAME` takes. A drill
(lab/drill.py) brings the stack up, plants it, sees a vendor's own command fail with the real text, has it diagnosed,
fixed, validated, and fixed again. Nothing is simulated above the fault itself.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from lab.machine import Lab
from lab.outer import LabError


@dataclass(frozen=True)
class Proof:
    """A vendor's own command on the lab host (docker, nvidia-smi, curl, findmnt...) that says what is wrong. It is run
    until `text` stands in its output, for at most `within_s`."""

    argv: tuple[str, ...]
    text: str
    within_s: float = 30


def nothing(lab: Lab) -> None:
    """What is left to heal where the fix mends everything."""


@dataclass(frozen=True)
class Breakage:
    """`plant` breaks a host on which the stack is up. `options` are for the fix (`--reboot`). `by_hand`: the fix says
    what a human must do (exit 2), and `heal` then does exactly that. `heal` runs at the end in any case and leaves the
    host as it was. `first` is what diagnose must name first where that is not the entry itself; `also`: the causes that
    it may name besides. `slow`: left to the long round."""

    entry: str
    variant: str
    says: str  # what it does, for people
    plant: Callable[[Lab], None]
    proof: Proof
    options: tuple[str, ...] = ()
    by_hand: bool = False
    heal: Callable[[Lab], None] = nothing
    first: str = ""
    also: tuple[str, ...] = ()
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.entry}.{self.variant}"


def modules() -> list[str]:
    """The names of the entries that have breakages."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__))


def of(entry: str) -> tuple[Breakage, ...]:
    """The breakages of one entry. Raises KeyError when there are none."""
    if entry not in modules():
        raise KeyError(entry)
    found: tuple[Breakage, ...] = importlib.import_module(f"lab.breakages.{entry.replace('-', '_')}").BREAKAGES
    return found


def every() -> list[Breakage]:
    return [breakage for entry in modules() for breakage in of(entry)]


def get(name: str) -> Breakage:
    """`ENTRY` (its first) or `ENTRY.VARIANT`. Raises LabError, with the nearest name, when there is none."""
    entry, _, variant = name.strip().removeprefix("fix.").partition(".")
    if entry in modules():
        for one in of(entry):
            if not variant or one.variant == variant:
                return one
    everything = every()
    known = list(dict.fromkeys([*(one.name for one in everything), *(one.entry for one in everything)]))
    near = difflib.get_close_matches(name, known, 1, 0.4) or [one for one in known if one.startswith(f"{entry}.")]
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise LabError(f"there is no fault {name!r}{hint}. Next: invoke lab.break list")
