"""Every breakage of lab/breakages, from broken to repaired: what `invoke lab.drill` does, as tests."""

from __future__ import annotations

import pytest

from lab import breakages, drill
from tests.lab.conftest import World

SPREAD = True


@pytest.mark.parametrize("breakage", breakages.every(), ids=lambda breakage: breakage.name)
def test_drill(breakage: breakages.Breakage, spare: World) -> None:
    drill.drill(spare.lab, breakage, spare.invoke)
