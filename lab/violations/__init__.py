"""For every control of the audit the thing that it forbids, done to a lab host for real: a module for each subject.

A module has VIOLATIONS, a tuple of Violation. tests/lab/test_audit.py audits a brought-up lab, plants the violations
of one `round` together, audits again, and wants every control among them to fail, each with the text of its own
violation in its evidence; then all of them are undone. What cannot be planted stands in IMPOSSIBLE, with the reason.
Nothing is simulated above the fault itself: a file is written, a service restarted, a container made.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.machine import Lab


def nothing(lab: Lab) -> None:
    """What is to be done on the host for a violation that stands in hosts.toml alone."""


@dataclass(frozen=True)
class Violation:
    """`plant` makes the host violate `control`, `undo` makes it as it was, and is run in any case. `says` must stand in
    the control's evidence then, so that no other violation of the same round is taken for it. `status` is the verdict
    that it leads to. `host`: what hosts.toml says besides, for a statement about the inventory (tables are merged, as
    World.inventory does). `round`: planted together with those of the same name; one that would hide or undo another
    has a round of its own. `also`: controls that cannot but fail with it, for people: nothing is asserted of them."""

    control: str
    says: str
    plant: Callable[[Lab], None] = nothing
    undo: Callable[[Lab], None] = nothing
    host: Mapping[str, Any] = field(default_factory=dict)
    status: str = "fail"
    round: str = "together"
    also: tuple[str, ...] = ()


# Controls of which no violation can be planted in a container, or that are not checkable anywhere: id -> why.
IMPOSSIBLE: dict[str, str] = {}

# What hosts.toml says in a baseline, so that what a control asks for is declared: tables are merged.
INVENTORY: dict[str, Any] = {}


def modules() -> list[str]:
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def every() -> list[Violation]:
    """All of them, subject by subject."""
    found: list[Violation] = []
    for name in modules():
        found += importlib.import_module(f"lab.violations.{name}").VIOLATIONS
    return found


def impossible() -> dict[str, str]:
    """IMPOSSIBLE of every module, and of this one."""
    found = dict(IMPOSSIBLE)
    for name in modules():
        found |= getattr(importlib.import_module(f"lab.violations.{name}"), "IMPOSSIBLE", {})
    return found


def rounds() -> dict[str, list[Violation]]:
    """The violations that are planted together, by round."""
    found: dict[str, list[Violation]] = {}
    for one in every():
        found.setdefault(one.round, []).append(one)
    return found


def inventory(lab: Lab) -> dict[str, Any]:
    """What hosts.toml says in a baseline: INVENTORY of this module and the others, and what their functions of that
    name find out on the lab, all merged."""
    found = dict(INVENTORY)
    for name in modules():
        module = importlib.import_module(f"lab.violations.{name}")
        found = merged(found, getattr(module, "INVENTORY", {}))
        find_out = getattr(module, "inventory", None)
        found = merged(found, find_out(lab)) if find_out else found
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables as one; of two values the second's, of two tables both."""
    out = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out
