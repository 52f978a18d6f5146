"""`invoke audit` on a real host: what it says of one that is well, and that every control fails when it is violated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import FAILED, Ran, World

from lab import violations
from lab.violations import Violation
from pantheon import controls

pytestmark = pytest.mark.lab

ROUNDS = violations.rounds()


def audited(world: World, *options: str) -> Ran:
    done = world.invoke("audit", "--json", *options)
    assert done.code in (0, 2), done.seen
    return done


def by_id(document: Any) -> dict[str, Any]:
    return {one["id"]: one for one in document["controls"]}


def declare(world: World, *chosen: Violation) -> None:
    """hosts.toml as in the baseline, with what the violations say besides."""
    table = violations.inventory(world.lab)
    for one in chosen:
        table = violations.merged(table, one.host)
    world.inventory(**table)


@contextlib.contextmanager
def planted(world: World, *chosen: Violation) -> Iterator[None]:
    try:
        for one in chosen:
            one.plant(world.lab)
        declare(world, *chosen)
        yield
    finally:
        for one in reversed(chosen):
            one.undo(world.lab)
        declare(world)


@pytest.fixture
def well(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """A host that was brought up as a careful operator has it: images by their digests, everything declared."""
    if world.state != "audited":
        world.make("fresh")
        world.state = "dirty"
        declare(world)
        world.bring_up()
        violations.prepare(world.lab)
        BASELINE.clear()
    world.state = "dirty"
    declare(world)
    yield world
    if not request.node.stash.get(FAILED, False):
        world.state = "audited"


BASELINE: dict[str, Any] = {}


def baseline(world: World) -> dict[str, Any]:
    """The audit of the host before anything was planted, by control; looked at once."""
    if not BASELINE:
        BASELINE.update(by_id(audited(world).json))
    return BASELINE


class TestEveryControl:
    def test_has_a_violation_or_a_reason_why_none_can_be_planted(self) -> None:
        known = [control.id for control in controls.every()]
        covered = {one.control for one in violations.every()} | violations.impossible().keys()
        assert sorted(set(known) - covered) == []
        assert sorted(covered - set(known)) == []
        assert [name for name, why in violations.impossible().items() if not why.strip()] == []

    @pytest.mark.parametrize("name", list(ROUNDS))
    def test_fails_when_it_is_violated(self, well: World, name: str) -> None:
        chosen = ROUNDS[name]
        before = baseline(well)
        wrong = [one.control for one in chosen if before[one.control]["status"] == one.status]
        assert wrong == [], "they fail before anything is planted"
        with planted(well, *chosen):
            after = by_id(audited(well).json)
        missed = [
            f"{one.control}: {after[one.control]['status']}: {after[one.control]['evidence']!r} has no {one.says!r}"
            for one in chosen
            if after[one.control]["status"] != one.status or one.says not in after[one.control]["evidence"]
        ]
        assert missed == [], "\n".join(missed)

    def test_and_holds_again_when_that_is_undone(self, well: World) -> None:
        before = {name: one["status"] for name, one in baseline(well).items()}
        after = {name: one["status"] for name, one in by_id(audited(well).json).items()}
        assert after == before
