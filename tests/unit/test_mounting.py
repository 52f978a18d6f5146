"""`invoke atlas`, and what a bring-up does about mounts: shown, asked, applied, looked at again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from pantheon import atlas, engine, mounting, procedure
from pantheon.errors import Declined, LookFailed, NotAsItShouldBe
from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.inventory import Storage
from pantheon.nfs import Atlas
from pantheon.options import Options
from pantheon.remote import gather
from tests.unit.test_atlas import BOTH, RO, RW, done, fresh, seen, tried
from tests.unit.test_attaching import N1, NVME, S1, rebuilt
from tests.unit.test_attaching import seen as disks
from tests.unit.test_engine import Recorder, World
from tests.unit.world import HOST, finished

GOOD = seen(done(RW), done(RO))
NOTHING = seen(fresh(RW), fresh(RO))
DOWN = replace(GOOD, servers={"atlas": "connection refused"}, shares=(replace(done(RW), rows=(), waits=True), done(RO)))


class Looks(World):
    """Looks at Atlas come from a list, too; the last one stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: Atlas | Unknown, facts: Facts | None = None) -> None:
        super().__init__(monkeypatch, *[facts or finished(BOTH)] * 5)
        self.atlas = list(looks)
        monkeypatch.setattr(gather, "parts", self._parts)
        monkeypatch.setattr(gather, "look_with", lambda c, h, *names: (finished(h), self._parts(c, h, *names)))

    def _parts(self, connection: object, host: object, *names: str) -> Evidence:
        assert names == ("atlas",)
        return Evidence(atlas=self.atlas.pop(0) if len(self.atlas) > 1 else self.atlas[0])


def run(report: Recorder, *, verify: bool = False, **options: Any) -> int:
    return mounting.atlas(BOTH, verify=verify, options=Options(**options), report=report)


def test_set_up_and_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = Looks(monkeypatch, NOTHING, GOOD), Recorder()
    assert run(report) == 0
    assert report.events == ["look", "shown", "Apply 3 changes to prometheus?", "applying", "done"]
    assert world.applied == [report.shown]


def test_nothing_to_do_shows_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = Looks(monkeypatch, GOOD), Recorder()
    assert run(report) == 0
    assert report.events == ["look", "mounts of Atlas"]
    assert world.applied == []


def test_a_server_that_is_down_is_not_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = Looks(monkeypatch, DOWN), Recorder()
    assert run(report) == 2
    assert report.bad == [f"atlas:{RW.mount}"]


@pytest.mark.parametrize(("found", "code"), [(NOTHING, 2), (GOOD, 0)])
def test_a_plan_changes_nothing(monkeypatch: pytest.MonkeyPatch, found: Atlas, code: int) -> None:
    world, report = Looks(monkeypatch, found), Recorder()
    assert run(report, plan_only=True) == code
    assert world.applied == []


def test_nobody_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Looks(monkeypatch, NOTHING)
    with pytest.raises(Declined):
        run(Recorder(answer=False))
    assert world.applied == []


def test_what_stands_in_the_way_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = Looks(monkeypatch, replace(NOTHING, autofs=False)), Recorder()
    assert run(report, yes=True) == 2
    assert world.applied == []


def test_what_did_not_help_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Looks(monkeypatch, NOTHING, NOTHING)
    with pytest.raises(NotAsItShouldBe, match="still something to do"):
        run(Recorder(), yes=True)


def test_attempts_come_after_the_mounts_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    after = replace(GOOD, tried=(*tried(RW, "EACCES", (1024, 1024)), *tried(RO, "EROFS", "EROFS")))
    world, report = Looks(monkeypatch, NOTHING, GOOD, after), Recorder()
    assert run(report, yes=True, verify=True) == 0
    steps = [getattr(plan.changes[-1].steps[-1], "name", "") for plan in world.applied]
    assert steps == ["atlas_mount", "atlas_verify"]
    world, report = Looks(monkeypatch, GOOD, after), Recorder()
    assert run(report, verify=True) == 0
    assert report.events == ["look", "shown", "Apply 1 change to prometheus?", "applying", "mounts of Atlas, tried"]


def test_nothing_is_written_without_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Looks(monkeypatch, NOTHING, GOOD)
    run(Recorder(), yes=True)
    names = [getattr(step, "name", "") for plan in world.applied for change in plan.changes for step in change.steps]
    assert "atlas_verify" not in names


def test_a_look_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    Looks(monkeypatch, Unknown("no answer within 5 s (atlas)"))
    with pytest.raises(LookFailed, match="no answer within 5 s"):
        run(Recorder())


# ---- a bring-up


@pytest.mark.parametrize("found", [DOWN, Unknown("no answer within 5 s (atlas)")])
def test_a_bringup_warns_and_succeeds(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    Looks(monkeypatch, found)
    report = Recorder()
    shown: list[str] = []
    monkeypatch.setattr(report, "nothing_to_do", lambda host, findings, took_s: shown.extend(f.id for f in findings))
    assert engine.bring(BOTH, procedure.ORDER, what="bringup", options=Options(), report=report) == 0
    assert "atlas.mounts" in shown


def test_one_section_does_not_ask_about_atlas(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Looks(monkeypatch, DOWN)
    monkeypatch.setattr(gather, "parts", lambda *_: pytest.fail("asked"))
    assert engine.bring(BOTH, ("ollama",), what="ollama", options=Options(), report=Recorder()) == 0
    monkeypatch.setattr(world, "looks", [finished()])
    assert engine.bring(HOST, procedure.ORDER, what="bringup", options=Options(), report=Recorder()) == 0


def test_the_look_beside_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> None:
        raise ValueError("the connection is closed")

    monkeypatch.setattr(gather, "parts", closed)
    (finding,) = mounting.Beside(object(), BOTH).warnings()
    assert finding.level == "warn"
    assert mounting.Beside(object(), HOST).warnings() == []
    assert atlas.warnings(HOST, seen()) == []


# ---- the disks of a rebuilt host

REBUILT = replace(HOST, storage=Storage(nvme_source="LABEL=nvme"))


def storage(
    monkeypatch: pytest.MonkeyPatch, *looks: Facts, evidence: Evidence, **options: Any
) -> tuple[int, World, Recorder]:
    world, report = World(monkeypatch, *looks), Recorder()
    monkeypatch.setattr(gather, "parts", lambda *_: evidence)
    code = engine.bring(REBUILT, ("storage",), what="storage", options=Options(**options), report=report)
    return code, world, report


def test_a_disk_is_mounted_before_anything_is_planned_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (rebuilt(NVME), finished(REBUILT), finished(REBUILT))
    code, world, report = storage(monkeypatch, *looks, evidence=disks(N1, S1), yes=True)
    assert code == 0
    assert [change.what for plan in world.applied for change in plan.changes] == [
        f"put {NVME} into /etc/fstab",
        f"mount LABEL=nvme (ext4, /dev/nvme0n1p1) at {NVME}",
    ]
    assert report.events == ["look", "shown", "applying", "nothing to do"]


def test_a_disk_without_a_file_system_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = disks(replace(N1, fstype="", label=""), S1)
    code, world, report = storage(monkeypatch, rebuilt(NVME), evidence=empty, yes=True)
    assert (code, world.applied) == (2, [])
    assert report.shown is not None
    assert "mkfs" in report.shown.blocked[0].mend


def test_a_plan_mounts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    code, world, _ = storage(monkeypatch, rebuilt(NVME), evidence=disks(N1, S1), plan_only=True)
    assert (code, world.applied) == (2, [])


def test_a_mount_that_did_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAsItShouldBe, match=f"{NVME} is not mounted"):
        storage(monkeypatch, rebuilt(NVME), rebuilt(NVME), evidence=disks(N1, S1), yes=True)


def test_time_is_not_taken_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "parts", lambda *_: pytest.fail("asked"))
    began = time.monotonic()
    facts = finished()
    assert mounting.disks(object(), HOST, facts, what="storage", options=Options(), report=Recorder()) == (facts, 0)
    assert time.monotonic() - began < 1
