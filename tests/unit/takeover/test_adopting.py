"""The flow of a takeover and of the way back: nothing without a word, nothing but what was shown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pantheon import engine, layout, memory, procedure
from pantheon.belongings import Belongings
from pantheon.errors import Declined, NotAsItShouldBe, UsageError
from pantheon.facts import Facts
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.remote import gather
from pantheon.takeover import moves, record
from tests.unit import world
from tests.unit.takeover.olds import bind, counted, hand_made, place, seen
from tests.unit.test_engine import Recorder, World
from tests.unit.world import HOST, finished, having

OLD = hand_made("ollama", bind("/srv/ollama", "/root/.ollama"))
KEPT = replace(OLD, name="my-ollama-before-pantheon", state="exited", restart_policy="no")


def answered(monkeypatch: pytest.MonkeyPatch, *places: Any) -> list[dict[str, Any]]:
    """The host counts; what it is asked is kept."""
    asked: list[dict[str, Any]] = []

    def belongings(connection: object, host: Host, about: dict[str, Any]) -> Belongings:
        asked.append(about)
        return counted(about, *places)

    monkeypatch.setattr(gather, "belongings", belongings)
    return asked


def bring(report: Recorder, host: Host = HOST, **options: Any) -> int:
    given = {"now": True, **options}
    return engine.bring(host, procedure.ORDER, what="bringup", options=Options(**given), report=report)


def taken() -> Facts:
    """After it: ours run, the old one is kept."""
    kept = record.Kept(OLD.id, OLD.name, KEPT.name, "ollama", True, "always")
    text = record.Record("adopt", "ready", containers=(kept,)).text()
    facts = having(finished(), my_ollama_before_pantheon=KEPT)
    return replace(facts, files={**facts.files, layout.TAKEOVER: world.text_file(layout.TAKEOVER, text, 0o600)})


def test_adopted_shown_and_what_is_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, place("/srv/ollama", 1 << 30))
    it, report = World(monkeypatch, seen(OLD), taken()), Recorder()
    told: list[str] = []
    monkeypatch.setattr(report, "done", lambda host, plan, findings, **_: told.extend(f.id for f in findings))
    assert bring(report, adopt=True) == 0
    assert it.applied == [report.shown]
    assert it.applied[0] is report.shown
    assert "takeover.kept" in told
    assert [finding.id for finding in report.warnings] == []
    assert it.state["places"] == moves.wanted(HOST)


@pytest.mark.parametrize("options", [{"yes": True}, {"plan_only": True}, {}])
def test_nothing_is_adopted_without_the_word(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    asked = answered(monkeypatch)
    it, report = World(monkeypatch, seen(OLD)), Recorder()
    assert bring(report, **options) == 2
    assert not asked
    assert not it.applied
    assert report.shown is not None
    assert "--adopt" in report.shown.blocked[0].mend


def test_no_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, place("/srv/ollama", 1 << 30))
    it = World(monkeypatch, seen(OLD))
    with pytest.raises(Declined):
        bring(Recorder(answer=False), adopt=True)
    assert not it.applied


def test_adopt_where_there_is_nothing_to_adopt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(monkeypatch)
    World(monkeypatch, finished())
    assert bring(Recorder(), adopt=True) == 0
    assert not asked


def test_taken_over_already(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(monkeypatch)
    report = Recorder()
    World(monkeypatch, taken())
    assert bring(report, adopt=True) == 0
    assert "nothing to do" in report.events
    assert not asked


def test_a_move_needs_no_word_but_is_shown_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = replace(HOST, project="house")
    answered(monkeypatch)
    it, report = World(monkeypatch, finished()), Recorder(answer=False)
    with pytest.raises(Declined):
        bring(report, host)
    assert report.shown is not None
    assert "takeover" in [section.name for section in report.shown.sections if section.changes]
    assert not it.applied


def test_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch)
    back = replace(seen(OLD), files=taken().files)
    it, report = World(monkeypatch, taken(), back), Recorder()
    assert bring(report, undo=True) == 0
    assert [section.name for section in it.applied[0].sections] == ["undo"]
    assert report.events[-1] == "done"


def test_the_way_back_of_a_move_remembers_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = taken()
    data = (record.Place("ollama", "/old/ollama", moves.wanted(HOST)["ollama"], "copied"),)
    known = record.known(facts)
    assert known is not None
    file = world.text_file(layout.TAKEOVER, replace(known, kind="move", data=data).text(), 0o600)
    facts = replace(facts, files={**facts.files, layout.TAKEOVER: file})
    answered(monkeypatch)
    it = World(monkeypatch, facts, replace(seen(OLD), files=facts.files))
    assert bring(Recorder(), undo=True) == 0
    assert it.state["places"] == {**moves.wanted(HOST), "ollama": "/old/ollama"}


def test_an_old_one_that_does_not_start_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from pantheon import adopting

    answered(monkeypatch)
    monkeypatch.setattr(adopting, "STARTED_S", 0.0)
    dead = replace(OLD, state="exited", error="port is already allocated")
    World(monkeypatch, taken(), replace(seen(dead), files=taken().files))
    with pytest.raises(NotAsItShouldBe, match="the old stack is not as it was") as caught:
        bring(Recorder(), undo=True)
    assert "my-ollama is exited port is already allocated" in caught.value.details


@pytest.mark.parametrize("now", ["restarting", "running", "exited"])
def test_one_that_ended_again_and_again_before_is_back_as_it_was(monkeypatch: pytest.MonkeyPatch, now: str) -> None:
    facts = taken()
    before = record.known(facts)
    assert before is not None
    before = replace(before, containers=(replace(before.containers[0], state="restarting"),))
    file = world.text_file(layout.TAKEOVER, before.text(), 0o600)
    facts = replace(facts, files={**facts.files, layout.TAKEOVER: file})
    answered(monkeypatch)
    World(monkeypatch, facts, replace(seen(replace(OLD, state=now)), files=facts.files))
    report = Recorder()
    told: list[str] = []
    monkeypatch.setattr(report, "done", lambda host, plan, findings, **_: told.extend(f.text for f in findings))
    assert bring(report, undo=True) == 0
    assert told == [f"my-ollama is {now}"]


def test_a_container_is_back_by_what_it_is_and_not_by_its_name() -> None:
    from pantheon import adopting

    before = record.known(taken())
    assert before is not None
    ours = replace(OLD, labels={"pantheon.project": HOST.project})
    for container, levels in (
        (ours, ["ok"]),  # of a move, and hosts.toml has the old project name again
        (replace(ours, id="f" * 64), ["fail"]),  # ours, under that name
        (replace(OLD, id="f" * 64), ["ok"]),  # made again by its file
        (KEPT, ["fail"]),
        (replace(OLD, state="exited"), ["fail"]),
    ):
        assert [found.level for found in adopting.is_back(HOST, seen(container), before)] == levels


def test_the_way_back_only_shown_or_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch)
    it = World(monkeypatch, taken(), taken(), finished())
    assert bring(Recorder(), undo=True, plan_only=True) == 2
    with pytest.raises(Declined):
        bring(Recorder(answer=False), undo=True)
    report = Recorder()
    assert bring(report, undo=True) == 0
    assert report.events[-1] == "nothing to do"
    assert not it.applied


def test_a_record_of_another_pantheon_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = finished()
    file = world.text_file(layout.TAKEOVER, '{"schema": 7}', 0o600)
    World(monkeypatch, replace(facts, files={**facts.files, layout.TAKEOVER: file}))
    report = Recorder()
    assert bring(report, undo=True) == 2
    assert report.bad == ["takeover.record"]


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_comfyui_of_somebodys_is_waited_for(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    from pantheon import repair

    old = hand_made("comfy", bind("/srv/run", "/comfy/mnt"), network_mode=network)
    old = replace(old, ports=(replace(old.ports[0], port=8288),) if network == "bridge" else ())
    answered(monkeypatch, place("/srv/run", 100, entries=("ComfyUI",)))
    asked: list[int] = []
    monkeypatch.setattr(repair, "wait_for_jobs", lambda c, host, plan, report: asked.append(host.comfy.port))
    World(monkeypatch, seen(old), finished())
    assert bring(Recorder(), adopt=True, now=False) == 0
    assert asked == [8288 if network == "bridge" else 8188]


@pytest.mark.parametrize("options", [{"adopt": True, "undo": True}, {"take": ("comfyui",)}])
def test_options_that_make_no_sense_together(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"one of them|goes with --adopt"):
        bring(Recorder(), **options)


def test_notes_stand_under_their_section(capsys: pytest.CaptureFixture[str]) -> None:
    from pantheon.plan import Plan
    from pantheon.report.console import Console
    from tests.unit.takeover.olds import taking

    it = taking(seen(OLD), place("/srv/ollama", 1 << 30))
    for details in (False, True):
        Console().plan(HOST, Plan(HOST.name, it.sections), [], took_s=1.0, details=details, final=True)
        shown = capsys.readouterr().out
        assert "    my-ollama (docker run) → ollama; kept as my-ollama-before-pantheon\n" in shown
        assert "      /srv/ollama → /mnt/local/nvme/ai/services/ollama: copied (1.0 GiB, 400.0 GiB free)\n" in shown
        assert ("docker rename" in shown) is details


def test_what_a_host_remembers_of_places() -> None:
    facts = replace(finished(), state=json.dumps({"places": {"ollama": "/a", "comfy-mnt": 3}}))
    assert memory.places(facts) == {"ollama": "/a"}
