"""Every breakage of lab/breakages, from broken to repaired: what `invoke lab.drill` does, as tests."""

from __future__ import annotations

import pytest
from conftest import World

from lab import breakages, drill

SPREAD = True


@pytest.mark.parametrize("breakage", breakages.every(), ids=lambda breakage: breakage.name)
def test_drill(breakage: breakages.Breakage, brought_up: World) -> None:
    drill.drill(brought_up.lab, breakage, brought_up.invoke)
