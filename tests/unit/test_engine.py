"""The one way through: what was shown is asked about, what was agreed to is applied, the result is looked at again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pantheon import engine, memory, procedure
from pantheon.errors import ApplyError, Declined, Interrupted, Locked, NotAsItShouldBe
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.plan import Plan
from pantheon.watched import Watched, follow
from tests.unit.test_validate import OK
from tests.unit.world import HOST, container, finished, fresh, having


class Recorder:
    """A Report that remembers what it was told, and answers `answer` when asked."""

    def __init__(self, *, answer: bool = True) -> None:
        self.events: list[str] = []
        self.shown: Plan | None = None
        self.answer = answer
        self.warnings: list[Finding] = []
        self.bad: list[str] = []

    def connecting(self, host: Host, what: str) -> None:
        self.events.append("look")

    def plan(
        self, host: Host, plan: Plan, warnings: list[Finding], *, took_s: float, details: bool, final: bool
    ) -> None:
        self.events.append("shown")
        self.shown, self.warnings = plan, warnings

    def ask(self, question: str) -> bool:
        self.events.append(question)
        return self.answer

    def applying(self, host: Host, plan: Plan, what: str) -> Callable[[dict[str, Any]], None]:
        self.events.append("applying")
        return lambda frame: None

    def watching(self, host: Host, what: str, services: tuple[str, ...]) -> Callable[[dict[str, Watched]], None]:
        self.events.append("watching " + " ".join(services))
        return lambda watched: None

    def busy(self, host: Host, lines: list[str]) -> None:
        self.events += [f"running: {line}" for line in lines]

    def waiting_for(self, host: Host, text: str) -> None:
        self.events.append(text)

    def settled(self) -> None:
        pass

    def nothing_to_do(self, host: Host, findings: list[Finding], *, took_s: float) -> None:
        self.events.append("nothing to do")
        self.bad = [finding.id for finding in findings if not finding.is_good]

    def done(self, host: Host, plan: Plan, findings: list[Finding], *, took_s: float) -> None:
        self.events.append("done")
        self.bad = [finding.id for finding in findings if not finding.is_good]

    def findings(self, host: Host, title: str, findings: list[Finding], *, took_s: float) -> None:
        self.events.append(title)
        self.bad = [finding.id for finding in findings if not finding.is_good]


class World:
    """Stands in for remote/: looks come from a list, what is applied is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: Facts) -> None:
        from pantheon.remote import apply, gather

        self.looks = list(looks)
        self.applied: list[Plan] = []
        self.state: dict[str, object] = {}

        @contextlib.contextmanager
        def connected(host: Host, options: Options) -> Iterator[object]:
            yield object()

        monkeypatch.setattr(engine, "connected", connected)
        monkeypatch.setattr(engine, "look", lambda connection, host: self.looks.pop(0))
        monkeypatch.setattr(engine, "answers", lambda connection, host, services: OK)
        monkeypatch.setattr(apply, "apply", self._apply)
        monkeypatch.setattr(gather, "watch", self._watch)

    def _apply(self, connection: object, host: Host, plan: Plan, **given: Any) -> None:
        self.applied.append(plan)
        self.state = given["state"]

    def _watch(self, connection: object, services: dict[str, str], *, deadline_s: float, on_frame: Any) -> None:
        ready = {name: {"state": "running", "health": "healthy"} for name in services}
        on_frame({"frame": "watch", "containers": ready, "http": dict.fromkeys(services, 200)})


def bring(report: Recorder, **options: Any) -> int:
    return engine.bring(HOST, procedure.ORDER, what="bringup", options=Options(**options), report=report)


def test_shown_asked_applied_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, fresh(), finished()), Recorder()
    assert bring(report) == 0
    count = len(procedure.plan(HOST, fresh(), procedure.ORDER).changes)
    assert report.events == [
        "look", "shown", f"Apply {count} changes to prometheus?", "applying", "watching ollama openwebui comfy", "done",
    ]  # fmt: skip
    assert world.applied == [report.shown]
    assert world.applied[0] is report.shown  # not computed again
    assert world.state["digest"] == memory.inventory_digest(HOST)


def test_a_host_at_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = {"who": "ann@desk", "what": "bringup", "since": "2026-11-21T10:00:00Z", "pid": 77}
    world, report = World(monkeypatch, replace(fresh(), lock=json.dumps(holder))), Recorder()
    with pytest.raises(Locked, match="being changed by ann@desk: bringup, since 2026-11-21T10:00:00Z"):
        bring(report, yes=True)
    assert report.events == ["look"]
    assert not world.applied


def test_no_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, fresh()), Recorder(answer=False)
    with pytest.raises(Declined, match="nothing was changed"):
        bring(report)
    assert not world.applied


def test_ctrl_c_at_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Recorder):
        def ask(self, question: str) -> bool:
            raise KeyboardInterrupt

    world = World(monkeypatch, fresh())
    with pytest.raises(Interrupted, match="prometheus: interrupted; nothing was changed"):
        bring(Impatient())
    assert world.applied == []


def test_plan_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, fresh(), finished()), Recorder()
    assert bring(report, plan_only=True, yes=True) == 2
    assert bring(report, plan_only=True, yes=True) == 0
    assert not world.applied


def test_second_run_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, finished()), Recorder()
    assert bring(report) == 0
    assert report.events == ["look", "nothing to do"]
    assert world.looks == []


def test_nothing_to_change_is_not_the_same_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = having(finished(), comfy=container(HOST, "comfy", health="unhealthy"))
    World(monkeypatch, sick)
    report = Recorder()
    assert bring(report) == 2
    assert report.bad == ["comfy.up"]


def test_a_first_run_that_goes_on_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = having(finished(), comfy=container(HOST, "comfy", health="starting"))
    World(monkeypatch, starting, finished())
    report = Recorder()
    assert bring(report) == 0
    assert report.events[1:] == ["watching ollama openwebui comfy", "done"]


def test_blocked_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, replace(fresh(), docker=None)), Recorder()
    assert bring(report, yes=True) == 2
    assert report.events == ["look", "shown"]
    assert not world.applied


def test_what_is_still_to_do_afterwards_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, fresh(), fresh())
    with pytest.raises(NotAsItShouldBe, match="still something to do"):
        bring(Recorder(), yes=True)


def test_yes_does_not_agree_to_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    state = memory.remember(HOST, fresh(), who="you") | {"version": "99.0"}
    old = replace(fresh(), state=json.dumps(state))
    world = World(monkeypatch, old)
    with pytest.raises(Declined, match="older"):
        bring(Recorder(), yes=True)
    assert not world.applied
    world.looks = [old, finished()]
    assert bring(Recorder(), yes=True, older=True) == 0


def frame(name: str, http: int = 0, **container_facts: Any) -> dict[str, Any]:
    return {"frame": "watch", "containers": {name: container_facts}, "http": {name: http}}


WATCH: list[tuple[str, list[dict[str, Any]], bool, str]] = [
    ("ollama", [frame("ollama", 200, state="running", health="healthy")], True, ""),
    ("ollama", [frame("ollama", 200, state="running", health="starting")], False, ""),
    ("ollama", [frame("ollama", 0, state="running", health="healthy")], False, ""),
    ("ollama", [frame("ollama", 0, state="exited", exit_code=1)], False, "its container is exited, exit code 1"),
    ("ollama", [{"frame": "watch", "containers": {}, "http": {}}], False, "its container is missing"),
    ("openwebui", [frame("openwebui", 0, state="running", health="unhealthy")], False, "does not get healthy"),
    ("comfy", [frame("comfy", 0, state="running", health="unhealthy")], False, ""),  # a long first run
    ("comfy", [frame("comfy", 0, state="running", health="starting", restarts=4),
               frame("comfy", 0, state="restarting", restarts=6, exit_code=128)], False, "restarts over and over"),
    # A loop that is slow enough to be seen starting each time; the newest line is what it died of.
    ("comfy", [frame("comfy", 0, state="running", health="starting", restarts=0),
               frame("comfy", 0, state="restarting", health="unhealthy", restarts=1),
               frame("comfy", 0, state="running", health="starting", restarts=1),
               frame("comfy", 0, state="running", health="starting", restarts=1, log=["fatal", "its last words", " "]),
               frame("comfy", 0, state="restarting", health="unhealthy", restarts=2, exit_code=3)],
     False, "restarts over and over (2 times, last exit code 3): its last words"),
    ("ollama", [frame("ollama", 0, state="restarting", health="unhealthy", restarts=1)], False, ""),
    # The stream of its log is in the middle of an earlier start, and what it died of is known.
    ("openwebui", [frame("openwebui", 0, state="restarting", restarts=0, log=["a banner"]),
                   frame("openwebui", 0, state="restarting", restarts=3, exit_code=1, words=["a banner", "no port"])],
     False, "restarts over and over (3 times, last exit code 1): no port"),
    # It is not known yet; and of one that says nothing it never will be.
    ("openwebui", [frame("openwebui", 0, state="restarting", restarts=0, words=[]),
                   frame("openwebui", 0, state="restarting", restarts=3, words=[], log=["a banner"])], False, ""),
    ("openwebui", [frame("openwebui", 0, state="restarting", restarts=0, words=[]),
                   frame("openwebui", 0, state="restarting", restarts=4, exit_code=1, words=[])],
     False, "restarts over and over (4 times, last exit code 1)"),
    ("ollama", [frame("ollama", 0, state="running", restarts=0),
                frame("ollama", 0, state="running", restarts=5, exit_code=1, words=["why"], log=["up I come"])],
     False, "restarts over and over (5 times, last exit code 1): why"),
    ("comfy", [frame("comfy", 0, state="running", restarts=0),
               frame("comfy", 0, state="restarting", restarts=2, log=["Starting script"],
                     words=["!! ERROR: Directory /x owned by unexpected user"])],
     False, "Directory /x owned by unexpected user"),
    # One that has come up again is judged by what it says now.
    ("ollama", [frame("ollama", 200, state="running", health="healthy", restarts=1, words=["why"])], True, ""),
    ("ollama", [frame("ollama", 0, state="running", health="unhealthy", restarts=1, words=["why"], log=["now"])],
     False, "does not get healthy: now"),
    # The engine that does not answer for a moment says nothing about its containers.
    ("ollama", [frame("ollama", 0, unknown="Connection refused")], False, ""),
    ("comfy", [frame("comfy", 0, state="running", log=["!! ERROR: Directory /comfy/mnt owned by unexpected user"])],
     False, "Directory /comfy/mnt owned by unexpected user"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "frames", "ready", "trouble"), WATCH)
def test_following_a_service(name: str, frames: list[dict[str, Any]], ready: bool, trouble: str) -> None:
    watched = Watched()
    for one in frames:
        watched = follow(name, watched, one, late=False)
    assert watched.ready is ready
    assert trouble in watched.trouble
    assert bool(watched.trouble) is bool(trouble)


def test_trouble_is_an_error_with_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from pantheon.remote import gather

    World(monkeypatch, fresh())
    line = "!! ERROR: Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0"

    def watch(connection: object, services: dict[str, str], *, deadline_s: float, on_frame: Any) -> None:
        well = {name: {"state": "running", "health": "healthy"} for name in services}
        sick = {"state": "running", "health": "starting", "log": [line]}
        on_frame({"frame": "watch", "containers": {**well, "comfy": sick}, "http": {}})

    monkeypatch.setattr(gather, "watch", watch)
    with pytest.raises(ApplyError, match="comfy cannot start: Directory /comfy/mnt owned") as caught:
        bring(Recorder(), yes=True)
    assert caught.value.next_commands[0] == "invoke fix.comfy-ownership --host prometheus"


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (
            {"who": "ann@desk", "what": "bringup", "since": "10:00", "pid": 7},
            "ann@desk: bringup, since 10:00 (pid 7 on the host)",
        ),
        ({"pid": 7}, "somebody who left no name: the lock says no more (pid 7 on the host)"),
        ("garbage", "somebody who left no name: the lock says no more"),
    ],
)
def test_who_holds_the_lock(holder: object, text: str) -> None:
    from pantheon.remote.apply import locked

    assert locked(HOST, holder).message == f"prometheus is being changed by {text}"
