"""Waiting for a host that was told to reboot: that it went, that it is back, and in another boot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from invoke.exceptions import CommandTimedOut

from pantheon import reboot
from pantheon.errors import ApplyError, Interrupted, LinkLost, LoginRefused, NotReached, NotTrusted
from pantheon.facts import Facts, Unknown
from pantheon.inventory import Host
from pantheon.plan import Run
from pantheon.remote import back, gather
from tests.unit.world import HOST, container, finished, having

OLD, NEW = "11111111-old", "22222222-new"
DOWN = NotReached("connection refused")


class Seen:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.settled_at_the_end = False
        self.answers = False

    def waiting_for(self, host: Host, text: str) -> None:
        assert host is HOST
        self.said.append(text)

    def settled(self) -> None:
        self.settled_at_the_end = True


class Connection:
    """Answers the question for the boot id, one after the other; the last for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.open_now = True

    def close(self) -> None:
        self.open_now = False

    def open(self) -> None:
        if isinstance(self.answers[0], Exception) and not isinstance(self.answers[0], CommandTimedOut):
            raise self._next()
        self.open_now = True

    def run(self, command: str, **options: Any) -> Any:
        assert command == back.BOOT_ID
        assert options["timeout"]
        answer = self._next()
        if isinstance(answer, BaseException):
            raise answer
        return type("Done", (), {"ok": bool(answer), "stdout": f"{answer}\n", "exited": 0 if answer else 1})()

    def _next(self) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += max(seconds, 0.01)

    monkeypatch.setattr("pantheon.reboot.time.monotonic", lambda: now[0])
    monkeypatch.setattr("pantheon.reboot.time.sleep", sleep)
    return now


def wait(monkeypatch: pytest.MonkeyPatch, *answers: Any, facts: Any = (), **options: Any) -> Seen:
    looks = list(facts) or [finished()]

    def look(connection: Any, host: Host) -> Facts:
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Facts)
        return found

    monkeypatch.setattr(gather, "look", look)
    seen = Seen()
    connection: Any = Connection(*answers)
    seen.answers = reboot.wait(connection, HOST, before=OLD, report=seen, **options)
    assert connection.open_now
    assert seen.settled_at_the_end
    return seen


def test_it_goes_down_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = LoginRefused("System is booting up")
    seen = wait(monkeypatch, OLD, OLD, DOWN, DOWN, refused, CommandTimedOut("x", 10), NEW)  # type: ignore[arg-type]
    assert seen.said == [
        "it goes down for its reboot",
        "it is down; waiting for it to come back",
        "it is back; its services start",
    ]


def test_so_quick_that_nobody_saw_it_down(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, OLD, NEW).said[-1] == "it is back; its services start"


def test_a_strange_answer_on_the_way_down_is_not_the_next_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = wait(monkeypatch, OLD, "33333333-strange", DOWN, "44444444-early", NEW)
    assert "it is down; waiting for it to come back" in seen.said


def test_an_empty_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, "", NEW).said[-1] == "it is back; its services start"


def test_it_does_not_go_down(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    with pytest.raises(ApplyError, match="has not gone down within 4 minutes") as failed:
        wait(monkeypatch, OLD)
    assert "systemd-inhibit --list" in failed.value.next_commands[0]
    assert clock[0] - 1000 < reboot.GOING_S + reboot.MOST_S + 1


def test_a_link_that_was_down_for_a_moment_is_no_reboot(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    with pytest.raises(ApplyError, match="has not gone down within 4 minutes"):
        wait(monkeypatch, OLD, DOWN, OLD)
    assert clock[0] - 1000 < reboot.GOING_S + reboot.MOST_S + 1


def test_it_does_not_come_back(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    with pytest.raises(NotReached, match="has not come back within 15 minutes") as failed:
        wait(monkeypatch, OLD, DOWN)
    assert failed.value.details == ("connection refused",)
    assert clock[0] - 1000 <= reboot.DEADLINE_S + 1


def test_another_host_that_answers_in_its_place_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotTrusted):
        wait(monkeypatch, OLD, NotTrusted("another key"))


def test_ctrl_c_ends_the_waiting_and_not_the_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="goes on with its reboot by itself"):
        wait(monkeypatch, OLD, KeyboardInterrupt())


def test_the_engine_is_waited_for(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    starting = replace(finished(), containers=Unknown("connection refused"))
    seen = wait(monkeypatch, OLD, NEW, facts=[LinkLost("x"), starting, starting, finished()])
    assert seen.said[-1] == "it is back; waiting for Docker"
    wait(monkeypatch, OLD, NEW, facts=[replace(starting, docker=None)])
    began = clock[0]
    wait(monkeypatch, OLD, NEW, facts=[starting])  # it does not come: the proof will say so
    assert clock[0] - began < reboot.ENGINE_S + 10


def test_an_engine_that_no_boot_starts_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    starting, began = replace(finished(), containers=Unknown("no such file")), clock[0]
    assert not wait(monkeypatch, OLD, NEW, facts=[starting], engine=False).answers
    assert clock[0] - began < 10
    assert not wait(monkeypatch, OLD, NEW, facts=[starting]).answers
    assert wait(monkeypatch, OLD, NEW).answers


def test_the_step_ends_in_order_before_the_host_does() -> None:
    theirs = replace(container(HOST, "ollama", labels={}), name="db")
    facts = having(finished(), db=theirs, openwebui=container(HOST, "openwebui", state="exited"))
    change = reboot.change(HOST, facts, why="because")
    assert change.stops == ("comfy", "ollama")
    [step] = change.steps
    assert isinstance(step, Run)
    assert f"--on-active={reboot.AHEAD_S}" in step.argv
    assert "--timer-property=AccuracySec=100ms" in step.argv  # a timer may be a minute late otherwise
