"""Breakages of lab/breakages, from broken to repaired: what `invoke lab.drill` does, as tests.

The gate takes those that are not slow: one or two for each entry. PANTHEON_ALL_DRILLS=1 (`make
drills`) takes all of them.
"""

from __future__ import annotations

import os

import pytest
from conftest import World

from lab import breakages, drill

SPREAD = True
DRILLS = [one for one in breakages.every() if not one.slow or os.environ.get("PANTHEON_ALL_DRILLS")]


@pytest.mark.parametrize("breakage", DRILLS, ids=lambda breakage: breakage.name)
def test_drill(breakage: breakages.Breakage, brought_up: World) -> None:
    drill.drill(brought_up.lab, breakage, brought_up.invoke)


def test_every_entry_is_drilled() -> None:
    assert {one.entry for one in DRILLS} == set(breakages.modules())
