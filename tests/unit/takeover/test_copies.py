"""Copies of a takeover: whose they are, whether their places are free, and whether there is room."""

from __future__ import annotations

from typing import Any

import pytest

from pantheon.belongings import Belongings
from pantheon.plan import Mend
from pantheon.takeover import copies
from pantheon.takeover.copies import SPARE, Copy
from pantheon.takeover.data import COMFY, ROOT, Datum, Piece, Source
from pantheon.takeover.record import Moved
from tests.unit.takeover.olds import GIB, TARGETS, bind, comfy_source, hand_made, place, seen, taking
from tests.unit.takeover.test_undo import noted
from tests.unit.world import HOST


def datum(target: str, size: int = GIB, source: str = "/srv/x", *, may_stay: bool = False) -> Datum:
    return Datum(Piece("comfy", "/x", Source(source), target, "bind", may_stay=may_stay), "copied", size)


def copy(target: str, size: int, free: int, **more: Any) -> Copy:
    return Copy(target, (datum(target, size),), place(target, free=free, **more))


@pytest.mark.parametrize(
    ("name", "owner"),
    [("comfy", COMFY), ("outputs", COMFY), ("ollama", ROOT), ("openwebui", ROOT), ("models", None)],
)
def test_owners(name: str, owner: tuple[int, int] | None) -> None:
    assert copies.owner_of(HOST, TARGETS[name]) == owner
    assert copies.owner_of(HOST, f"{TARGETS[name]}/below") == owner
    assert copies.owner_of(HOST, f"{TARGETS[name]}-beside") is None


def test_room_leaves_some_free() -> None:
    assert copies.room([copy("/a", GIB, GIB + SPARE)])[2] == []
    assert [finding.id for finding in copies.room([copy("/a", GIB, GIB + SPARE - 1)])[2]] == ["takeover.room"]


def test_what_goes_to_one_disk_needs_room_together() -> None:
    free = 3 * GIB
    assert copies.room([copy("/a", 2 * GIB, free, disk="1"), copy("/b", 2 * GIB, free, disk="2")])[2] == []
    (finding,) = copies.room([copy("/a", 2 * GIB, free), copy("/b", 2 * GIB, free)])[2]
    assert "4.0 GiB are needed and 3.0 GiB are free" in finding.text


def test_the_largest_library_stays_where_there_is_no_room() -> None:
    there = place("/m", free=3 * GIB)
    small, large = datum("/m/a", 2 * GIB, may_stay=True), datum("/m/b", 5 * GIB, may_stay=True)
    made, stay, blocked = copies.room([Copy("/m", (small, large), there)])
    assert ([part.target for one in made for part in one.parts], [one.target for one in stay]) == (["/m/a"], ["/m/b"])
    assert blocked == []


def test_a_place_that_an_undone_takeover_filled_makes_room_but_a_disk_cannot() -> None:
    target = TARGETS["comfy"]
    it = noted(stage="undone")
    full = place(target, 5)
    made, blocked = copies.group([datum(target)], Belongings(places={target: full}), it)
    assert made[0].aside == Moved(target, f"{target}.before-pantheon")
    assert blocked == []
    disk = place(target, 5, is_mount=True)
    made, blocked = copies.group([datum(target)], Belongings(places={target: disk}), it)
    assert made[0].aside is None
    assert [finding.id for finding in blocked] == [f"takeover.target.{target}"]
    made, blocked = copies.group([datum(target)], Belongings(places={target: full}), None)
    assert (made[0].aside, len(blocked)) == (None, 1)


def test_what_was_set_aside_already_is_not_set_aside_again() -> None:
    target = TARGETS["comfy"]
    moved = Moved(target, f"{target}.before-pantheon")
    it = noted(stage="begun", aside=(moved,))
    full = place(target, 5)
    found = Belongings(places={target: full, moved.new: place(moved.new)})
    assert copies.group([datum(target)], found, it)[0][0].aside == moved
    found = Belongings(places={target: full, moved.new: place(moved.new, 5)})
    assert copies.group([datum(target)], found, it)[0][0].aside is None


def test_of_two_libraries_for_one_place_the_second_stays_where_it_is() -> None:
    libraries = [bind("/lib/one", "/models"), bind("/lib/two", "/more-models")]
    facts = seen(hand_made("comfy", bind("/srv/run", "/comfy/mnt"), *libraries))
    it = taking(facts, comfy_source("/srv/run"), place("/lib/one", GIB), place("/lib/two", GIB))
    assert not it.blocked
    (copied,) = [one.source for one in it.record.data if one.target == TARGETS["models"]]
    steps = [step for section in it.sections for change in section.changes for step in change.steps]
    made: list[Any] = [step.arguments["parts"] for step in steps if isinstance(step, Mend) and step.name == "copy_tree"]
    parts = [part for each in made for part in each]
    assert {part["source"] for part in parts if part["source"].startswith("/lib")} == {copied}, "ahead, and at the end"


@pytest.mark.parametrize(
    ("source", "real", "is_blocked"),
    [
        ("/mnt/local/nvme", "/mnt/local/nvme", True),
        ("/", "/", True),
        (f"{TARGETS['ollama']}/data", f"{TARGETS['ollama']}/data", True),
        ("/srv/link", "/mnt/local/nvme/ai", True),
        ("/mnt/local/nvme/ai/services/ollama-old", "/mnt/local/nvme/ai/services/ollama-old", False),
    ],
)
def test_what_lies_in_each_other_cannot_be_copied(source: str, real: str, is_blocked: bool) -> None:
    it = taking(seen(hand_made("ollama", bind(source, "/root/.ollama"))), place(source, GIB, real=real))
    assert bool(it.blocked) is is_blocked
    assert all("lie in each other" in finding.text for finding in it.blocked)
