"""`invoke audit` on a real host: what it says of one that is well, and that every control fails when it is violated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import FAILED, Ran, World

from lab import browser as browsers
from lab import machine, violations
from lab.devtools import Browser
from lab.violations import Violation
from pantheon import controls

pytestmark = pytest.mark.lab

ROUNDS = violations.rounds()
BASELINE: dict[str, Any] = {}  # of the host that is up: what hosts.toml says, and its first audit


def audited(world: World, *options: str) -> Ran:
    done = world.invoke("audit", "--json", *options)
    assert done.code in (0, 2), done.seen
    return done


def by_id(document: Any) -> dict[str, Any]:
    return {one["id"]: one for one in document["controls"]}


def declare(world: World, *chosen: Violation) -> None:
    """hosts.toml as in the baseline, with what the violations say besides."""
    table = BASELINE["inventory"]
    for one in chosen:
        table = violations.merged(table, one.host)
    world.inventory(**table)


@contextlib.contextmanager
def planted(world: World, *chosen: Violation) -> Iterator[None]:
    """Every one is undone again, the last first, whatever becomes of the others."""
    with contextlib.ExitStack() as stack:
        stack.callback(declare, world)
        for one in chosen:
            stack.callback(one.undo, world.lab)
            one.plant(world.lab)
        declare(world, *chosen)
        yield


@pytest.fixture
def well(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """A host that was brought up as a careful operator has it: images by their digests, everything declared."""
    if world.state != "audited":
        world.make("fresh")
        world.state = "dirty"
        BASELINE.clear()
        BASELINE["inventory"] = violations.inventory(world.lab)
        declare(world)
        world.bring_up()
    world.state = "dirty"
    declare(world)
    yield world
    if not request.node.stash.get(FAILED, False):
        world.state = "audited"


def baseline(world: World) -> dict[str, Any]:
    """The audit of the host before anything was planted, by control; looked at once."""
    if "controls" not in BASELINE:
        BASELINE["controls"] = by_id(audited(world).json)
    found: dict[str, Any] = BASELINE["controls"]
    return found


class TestWell:
    def test_what_is_wrong_on_a_lab_that_is_well(self, well: World) -> None:
        """Nothing; and an audit ends with 0."""
        wrong = [name for name, one in baseline(well).items() if one["status"] in ("fail", "unknown")]
        assert wrong == [], [baseline(well)[name] for name in wrong]

    def test_it_reads_only(self, well: World) -> None:
        baseline(well)
        with well.unchanged():
            done = well.invoke("audit")
        assert done.code == 0, done.seen
        assert done.err == ""
        assert "AUDIT lab (ops@127.0.0.1)" in done.out
        assert done.out.count("\n✓ ") > 80, done.seen

    def test_compared_with_an_hour_ago(self, well: World) -> None:
        """Of all controls only the one that was violated differs: no evidence changes by itself."""
        old = well.directory / "an old audit.json"
        old.write_text(audited(well).out, encoding="utf-8")
        (one,) = [one for one in violations.every() if one.control == "upkeep.reboot"]
        with planted(well, one):
            done = well.invoke("audit", "--compare", str(old))
        assert done.code == 2, done.seen
        changed = done.out.partition("Changed since ")[2].partition("Not as it should be")[0]
        assert [line for line in changed.splitlines()[1:] if not line.startswith(" ")] == [
            "✗ upkeep.reboot: now failing, pass → fail"
        ], done.seen
        assert "Next: invoke reboot --host lab" in done.out, done.seen

    def test_a_host_that_is_not_there(self, well: World) -> None:
        well.inventory(port=machine.free_port())
        done = well.invoke("audit", "--json")
        assert (done.code, done.json["exit_code"], done.json["kind"]) == (3, 3, "NotReached"), done.seen

    def test_a_page_on_a_phone_and_a_file_for_ci(self, well: World, tmp_path: Path) -> None:
        """In a real browser: nothing is asked for but the page itself, and nothing is wider than the screen."""
        if not browsers.find():
            pytest.skip("NOT RUN: no browser on this machine. Next: python -m lab.browser")
        done = well.invoke("audit", "--format", "html")
        assert (done.code, done.err) == (0, ""), done.seen
        (tmp_path / "audit.html").write_text(done.out, encoding="utf-8")
        with Browser() as browser:
            page = browser.page()
            for width in (360, 1200):
                page.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=width < 600,
                )  # fmt: skip
                page.open((tmp_path / "audit.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.complaints == []
            assert {url.partition(":")[0] for url in page.requests.values()} <= {"file", "data"}
            assert page.evaluate("document.title").startswith("Audit of lab, 20")
        junit = well.invoke("audit", "--format", "junit")
        assert (junit.code, junit.err) == (0, ""), junit.seen
        cases = list(ElementTree.fromstring(junit.out.encode()).iter("testcase"))
        assert len(cases) == len(controls.every())
        key = well.sh("cat /opt/stacks/ai/secrets/webui_secret_key")
        assert [text for text in (done.out, junit.out, str(baseline(well))) if key in text] == []


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
