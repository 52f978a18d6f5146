"""Who holds the host: a colleague at work is no fault, a run that nobody waits for is, and is ended only when asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pantheon.evidence import Holder
from pantheon.facts import Unknown
from pantheon.fixes import stuck_apply
from pantheon.incident import Case, Choices
from pantheon.plan import EndRun, Plan
from pantheon.remote.apply import locked
from tests.unit import world

AT_WORK = Holder(
    pid=4711,
    started="99",
    state="S",
    client=True,
    doing="docker compose --progress json pull",
    who="ana@laptop",
    what="bringup",
    since="2026-11-21T22:00:00Z",
    run="ab12",
)


def case(holder: Holder | Unknown | None, *, end: bool = False, lock: str | None = "{}") -> Case:
    facts = replace(world.finished(), lock=lock)
    return world.case(facts, holder=holder, choices=Choices(end=end))


@pytest.mark.parametrize("state", ["T", "t"])
def test_a_stopped_run(state: str) -> None:
    seen = case(replace(AT_WORK, state=state, client=False))
    (found,) = stuck_apply.diagnose(seen)
    assert found.level == "fail"
    assert "bringup of ana@laptop holds the host" in found.text
    assert "since 2026-11-21T22:00:00Z" in found.evidence
    assert "process 4711, stopped" in found.evidence
    assert "docker compose --progress json pull" in found.evidence
    assert found.mend == "invoke fix.stuck-apply --end --host prometheus"


def test_it_is_ended_only_when_asked() -> None:
    holder = replace(AT_WORK, state="T", client=False)
    plan = stuck_apply.plan(case(holder))
    assert not plan.changes
    assert "--end" in plan.blocked[0].mend
    plan = stuck_apply.plan(case(holder, end=True))
    (change,) = plan.changes
    assert change.steps == (EndRun(4711, "99", "ab12"),)
    assert Plan("h", (plan,)).ends == EndRun(4711, "99", "ab12")
    assert not change.stops


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "warn", "is changing this host"),
        ({"state": "D"}, "warn", "is changing this host"),
        ({"state": "R"}, "warn", "is changing this host"),
        ({"ending": True}, "warn", "is just being ended"),
        ({"ending": True, "gone_s": 3.0, "client": False}, "warn", "is just being ended"),
        ({"client": False}, "warn", "ends by itself within 30 s"),
        ({"gone_s": 12.0}, "warn", "ends by itself within 30 s"),
        ({"gone_s": 31.0}, "fail", "its workstation has been gone for 31 s"),
        ({"gone_s": 31.0, "ending": True}, "fail", "gone for 31 s"),
        ({"gone_s": 7200.0, "client": False, "state": "D"}, "fail", "gone for 120 min"),
        ({"state": "D", "client": False}, "fail", "stuck in the kernel"),
        ({"state": "T"}, "fail", "its process is stopped"),
        ({"state": "T", "ending": True}, "fail", "its process is stopped"),
        ({"who": "", "what": ""}, "warn", "a run of pantheon of somebody who left no name"),
    ],
)
def test_levels(changes: dict[str, object], level: str, says: str) -> None:
    seen = case(replace(AT_WORK, **changes))  # type: ignore[arg-type]
    (found,) = stuck_apply.diagnose(seen)
    assert (found.level, says in found.text) == (level, True), found
    assert bool(stuck_apply.plan(seen).blocked) == (level == "fail")


def test_a_run_at_work_is_never_ended() -> None:
    for changes in ({}, {"state": "D"}, {"ending": True, "client": False}, {"gone_s": 5.0}):
        plan = stuck_apply.plan(case(replace(AT_WORK, **changes), end=True))
        assert not plan.changes
        assert not plan.blocked


def test_one_that_has_just_lost_its_workstation_is_ended_when_asked() -> None:
    assert stuck_apply.plan(case(replace(AT_WORK, client=False), end=True)).changes


def test_nobody_holds_it() -> None:
    for seen in (case(None, lock=None), case(Unknown("denied"), lock=None)):
        assert stuck_apply.diagnose(seen) == []
        assert stuck_apply.plan(seen).is_ready


def test_what_cannot_be_told_is_unknown() -> None:
    seen = case(Unknown("/proc/locks cannot be read"))
    (found,) = stuck_apply.diagnose(seen)
    assert (found.level, found.evidence) == ("unknown", "/proc/locks cannot be read")
    assert stuck_apply.plan(seen).is_ready


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ({"who": "ana@laptop"}, "diagnose"),
        ({"who": "ana@laptop", "gone": "2026-11-21T22:00:00Z"}, "fix.stuck-apply"),
        ({"who": "ana@laptop", "gone": "2026-11-21T22:00:00Z", "ending": True}, "diagnose"),
        (None, "diagnose"),
    ],
)
def test_a_command_that_finds_the_host_held_names_the_next_one(said: dict[str, object] | None, command: str) -> None:
    assert locked(world.HOST, said).next_commands == (f"invoke {command} --host prometheus",)
