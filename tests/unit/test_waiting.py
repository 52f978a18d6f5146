"""Before ComfyUI is stopped, its queue is waited for: as long as it takes, but not for ever, and not when told so."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from pantheon import repair
from pantheon.errors import Interrupted, NotAsItShouldBe
from pantheon.evidence import Busy
from pantheon.facts import Http, Unknown
from pantheon.here import NOT_ALLOWED
from pantheon.plan import Change, Plan, SectionPlan
from pantheon.remote import forward, gather
from tests.unit.world import HOST

STOPS = Plan("h", (SectionPlan("x", (Change("recreate comfy", "", (), stops=("comfy",)),)),))
STOPS_OTHER = Plan("h", (SectionPlan("x", (Change("recreate ollama", "", (), stops=("ollama",)),)),))


class Report:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.ended = 0

    def waiting_for(self, _: Any, text: str) -> None:
        self.said.append(text)

    def settled(self) -> None:
        self.ended += 1


def left(number: object) -> Http:
    return Http("", 200, "OK", json.dumps({"exec_info": {"queue_remaining": number}}), "", 1.0)


IDLE = Busy()
REFUSED = Http("", 0, "", "", "nothing listens there (connection refused on the host)", 1.0)
SILENT = Http("", 0, "", "", "no answer within 5 s", 5000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    return now


def wait(monkeypatch: pytest.MonkeyPatch, answers: Any, plan: Plan = STOPS, on_host: Any = (IDLE,)) -> Report:
    report, come, there = Report(), iter(answers), itertools.cycle(on_host)
    monkeypatch.setattr(forward, "http_through", lambda *_, **__: next(come))
    monkeypatch.setattr(gather, "busy", lambda *_: next(there))
    try:
        repair.wait_for_jobs(None, HOST, plan, report)
    finally:
        assert report.ended == ("comfy" in plan.stops)
    return report


def test_where_sshd_does_not_forward_the_host_is_asked(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    refused = replace(REFUSED, error=NOT_ALLOWED)
    on_host = [Busy(comfy_running=1, comfy_pending=1), Unknown("a hiccup"), Busy(comfy_running=0, comfy_pending=0)]
    report = wait(monkeypatch, itertools.repeat(refused), on_host=on_host)
    assert report.said == ["comfy has 2 jobs to finish; --now does not wait"]
    assert clock[0] == 2 * repair.POLL_S


def test_it_waits_until_the_queue_is_empty(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    report = wait(monkeypatch, [left(2), left(1), SILENT, left(1), left(0)])
    assert clock[0] == 4 * repair.POLL_S
    assert report.said[0] == "comfy has 2 jobs to finish; --now does not wait"
    assert "1 job to finish" in report.said[-1]


@pytest.mark.parametrize(
    "answer",
    [
        left(0), left(-1), left("many"), left(True), left(None), REFUSED,
        Http("", 500, "", "", "", 1.0), Http("", 200, "OK", "not json", "", 1.0), Http("", 200, "OK", "[]", "", 1.0),
        Http("", 200, "OK", '{"exec_info": 3}', "", 1.0), Http("", 200, "OK", "[" * 60_000, "", 1.0),
    ],
)  # fmt: skip
def test_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch, clock: list[float], answer: Http) -> None:
    assert wait(monkeypatch, [answer]).said == []
    assert clock[0] == 0


def test_one_that_is_silent_for_good_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    wait(monkeypatch, [SILENT] * repair.SILENT)
    assert clock[0] == (repair.SILENT - 1) * repair.POLL_S


def test_a_job_that_never_ends(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    with pytest.raises(NotAsItShouldBe, match="still running after 60 minutes; nothing was changed") as error:
        wait(monkeypatch, itertools.repeat(left(1)))
    assert clock[0] <= repair.JOB_S + repair.POLL_S
    assert "--now" in error.value.next_commands[0]


def test_ctrl_c_changes_nothing(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(Interrupted, match="nothing was changed"):
        wait(monkeypatch, itertools.repeat(left(1)))
    assert clock[0] == 0


def test_what_does_not_stop_comfy_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch, [], STOPS_OTHER)
