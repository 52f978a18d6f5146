"""A fix on its way: nothing there is said, what is there is shown, agreed to, applied, and proven gone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from pantheon import diagnosis, engine, fixes, layout, repair
from pantheon.errors import ApplyError, Declined, Interrupted, Locked, NotAsItShouldBe
from pantheon.evidence import Busy, Loaded, LoginKey
from pantheon.facts import Facts, Http, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, Choices
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.plan import Change, Plan, Run, SectionPlan
from pantheon.report.console import Console
from pantheon.report.data import Json
from tests.unit.test_engine import Recorder
from tests.unit.world import HOST, case, container, finished, having

NAME = "comfy-ownership"
MEND = f"invoke fix.{NAME} --host prometheus"
WRONG = Finding(f"{NAME}.owner", "fail", "comfy-mnt belongs to 0:0", "stat: 0:0", MEND)
CHANGE = Change("comfy-mnt owner 0:0 → 1024:1024", "the image demands it", (Run(("chown", "x")),), stops=("comfy",))
ROOT_CAUSE = Finding(
    "mounts-missing.nvme", "fail", "/mnt/local/nvme is not mounted", "findmnt: nothing",
    "invoke fix.mounts-missing --host prometheus", explains=(f"{NAME}.*",),
)  # fmt: skip


class Entry(SimpleNamespace):
    """An entry whose findings and plan are given for each look in turn."""

    def __init__(self, findings: list[list[Finding]], plans: list[SectionPlan] | None = None) -> None:
        super().__init__(ID=NAME, CAUSE="c", RISK="ComfyUI stops for half a minute. No file is removed.")
        self._findings, self._plans, self.at = findings, plans or [], 0

    def diagnose(self, given: Case) -> list[Finding]:
        return self._findings[min(self.at, len(self._findings) - 1)]

    def plan(self, given: Case) -> SectionPlan:
        if self._plans:
            return self._plans[min(self.at, len(self._plans) - 1)]
        todo = (CHANGE,) if any(finding.level == "fail" for finding in self.diagnose(given)) else ()
        return SectionPlan(NAME, todo, reason="comfy-mnt belongs to 1024:1024")


class Seen(Recorder):
    """A Report that remembers what an incident showed."""

    def __init__(self, *, answer: bool = True) -> None:
        super().__init__(answer=answer)
        self.entries: list[tuple[str, list[Finding], str]] = []
        self.running: list[str] = []
        self.waited: list[str] = []
        self.reason = ""
        self.found: diagnosis.Diagnosis | None = None

    def diagnosis(self, host: Host, found: diagnosis.Diagnosis, *, took_s: float) -> None:
        self.found = found

    def entry(self, host: Host, name: str, findings: list[Finding], risk: str) -> None:
        self.events.append("entry")
        self.entries.append((name, findings, risk))

    def busy(self, host: Host, lines: list[str]) -> None:
        self.events.append("busy")
        self.running = lines

    def waiting_for(self, host: Host, text: str) -> None:
        self.waited.append(text)

    def nothing_to_fix(self, host: Host, name: str, reason: str, *, took_s: float) -> None:
        self.events.append("nothing to fix")
        self.reason = reason


class World:
    """Stands in for remote/ and for the entries: what is applied is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, entry: Entry, *others: Finding, **evidence: Any) -> None:
        from pantheon.remote import apply, forward, gather

        self.applied: list[Plan] = []
        self.looks = 0
        self.watched: list[dict[str, str]] = []
        self.queue: list[int] = [0]
        self.facts: Facts = evidence.pop("facts", finished())

        @contextlib.contextmanager
        def connected(host: Host, options: Options) -> Iterator[object]:
            yield object()

        def examine(connection: object, host: Host, choices: Choices) -> Case:
            entry.at, self.looks = self.looks, self.looks + 1
            return case(self.facts, choices=choices, **evidence)

        def http_through(connection: object, url: str, **given: Any) -> Http:
            jobs = self.queue.pop(0) if len(self.queue) > 1 else self.queue[0]
            body = json.dumps({"exec_info": {"queue_remaining": jobs}})
            return Http(url, 200, "OK", body, "", 1.0)

        other = SimpleNamespace(diagnose=lambda given: list(others))
        monkeypatch.setattr(engine, "connected", connected)
        monkeypatch.setattr(repair, "examine", examine)
        monkeypatch.setattr(repair, "POLL_S", 0.0)
        monkeypatch.setattr(fixes, "load", lambda name: entry)
        monkeypatch.setattr(fixes, "entries", lambda: [entry, other])
        monkeypatch.setattr(apply, "apply", lambda connection, host, plan, **given: self.applied.append(plan))
        monkeypatch.setattr(gather, "look", lambda connection, host: self.facts)
        monkeypatch.setattr(gather, "watch", self._watch)
        monkeypatch.setattr(forward, "http_through", http_through)

    def _watch(self, connection: object, services: dict[str, str], *, deadline_s: float, on_frame: Any) -> None:
        self.watched.append(services)
        ready = {name: {"state": "running", "health": "healthy"} for name in services}
        on_frame({"frame": "watch", "containers": ready, "http": dict.fromkeys(services, 200)})


def fix(report: Any, *, choices: Choices | None = None, **options: Any) -> int:
    return repair.fix(HOST, NAME, choices or Choices(), options=Options(**options), report=report)


# ---- the flow


def with_steps(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> Finding:
    step = Finding(f"{NAME}.step", "ok", "the first link works")
    entry.steps = lambda given: [step, *entry.diagnose(given)]
    return step


def test_the_links_of_a_chain_are_shown_the_good_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, report = Entry([[WRONG]]), Seen()
    step = with_steps(monkeypatch, entry)
    World(monkeypatch, entry)
    assert fix(report, plan_only=True) == 2
    assert report.entries[0][1] == [step, WRONG]


def test_a_whole_chain_is_shown_where_nothing_is_to_be_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, report = Entry([[]]), Seen()
    step = with_steps(monkeypatch, entry)
    World(monkeypatch, entry)
    assert fix(report) == 0
    assert report.events == ["look", "entry", "nothing to fix"]
    assert report.entries == [(NAME, [step], "")]
    assert fix(Json()) == 0
    assert [finding["id"] for finding in json.loads(capsys.readouterr().out)["findings"]] == [step.id]


def test_what_is_in_the_way_is_said_without_a_finding_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain may break where another entry mends it."""
    world, report = World(monkeypatch, Entry([[]], [SectionPlan(NAME, blocked=(ROOT_CAUSE,))])), Seen()
    assert fix(report, yes=True) == 2
    assert world.applied == []


def test_what_is_not_there_is_not_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[]])), Seen()
    assert fix(report, yes=True) == 0
    assert report.events == ["look", "nothing to fix"]
    assert report.reason == "comfy-mnt belongs to 1024:1024"
    assert world.applied == []


def test_found_shown_agreed_applied_watched_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG], []])), Seen()
    assert fix(report) == 0
    assert report.events == [
        "look", "entry", "busy", "shown", "Apply 1 change to prometheus?", "applying", "watching comfy", "done",
    ]  # fmt: skip
    assert report.entries == [(NAME, [WRONG], "ComfyUI stops for half a minute. No file is removed.")]
    assert world.applied == [report.shown]
    assert world.applied[0] is report.shown  # not computed again
    assert list(world.watched[0]) == ["comfy"]
    assert report.bad == []


def test_what_would_log_everybody_out_waits_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops Open WebUI, while its server alone has the key of the sessions."""
    facts = finished()
    facts = replace(facts, files={**facts.files, layout.secret_key(HOST): None})
    for change, stops in ((replace(CHANGE, stops=("comfy", "openwebui")), True), (CHANGE, False)):
        plans = [SectionPlan(NAME, (change,)), SectionPlan(NAME)]
        world = World(
            monkeypatch, Entry([[WRONG], []], plans), facts=facts, login=LoginKey("", "2026-11-21T23:01:04Z", "other")
        )
        report = Seen()
        assert (fix(report, yes=True), world.applied == []) == ((2, True) if stops else (0, False))
        assert ("openwebui-logins.at-stake" in str(report.shown)) == stops


def test_the_plan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG]])), Seen()
    assert fix(report, plan_only=True, yes=True) == 2
    assert report.events == ["look", "entry", "shown"]
    assert world.applied == []


def test_no_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG]])), Seen(answer=False)
    with pytest.raises(Declined, match="prometheus: nothing was changed"):
        fix(report)
    assert world.applied == []


def test_a_host_at_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = replace(finished(), lock=json.dumps({"who": "ann@desk", "what": "bringup", "pid": 7}))
    world, report = World(monkeypatch, Entry([[WRONG]]), facts=busy), Seen()
    with pytest.raises(Locked, match="ann@desk"):
        fix(report, yes=True)
    assert world.applied == []


def test_a_consequence_names_its_cause_and_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong owner because the disk is not mounted: changing the owner would write into the root disk."""
    world, report = World(monkeypatch, Entry([[WRONG]]), ROOT_CAUSE), Seen()
    assert fix(report, yes=True) == 2
    assert world.applied == []
    assert report.shown is not None
    assert report.shown.changes == ()
    assert [finding.mend for finding in report.shown.blocked] == ["invoke fix.mounts-missing --host prometheus"]


def test_a_cause_of_its_own_beside_a_consequence_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Finding("exposed-ports.comfy", "fail", "comfy listens on 0.0.0.0")
    world, report = World(monkeypatch, Entry([[WRONG], []]), other), Seen()
    assert fix(report, yes=True) == 2  # mended, and something else is still wrong
    assert len(world.applied) == 1
    assert report.bad == ["exposed-ports.comfy"]


def test_what_only_a_human_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = Finding(f"{NAME}.exfat", "fail", "the disk cannot hold owners", mend="sudo mkfs is yours to do")
    plan = SectionPlan(NAME, blocked=(by_hand,))
    world, report = World(monkeypatch, Entry([[WRONG]], [plan])), Seen()
    assert fix(report, yes=True) == 2
    assert report.events == ["look", "entry", "shown"]
    assert world.applied == []


def test_a_symptom_that_stays_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG]])), Seen()
    with pytest.raises(NotAsItShouldBe, match=r"the changes were made, and .* is not gone") as failed:
        fix(report, yes=True)
    assert len(world.applied) == 1
    assert "comfy-mnt belongs to 0:0: stat: 0:0" in failed.value.details
    assert failed.value.next_commands == ("invoke diagnose --host prometheus",)


def test_a_plan_that_is_not_empty_afterwards_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SectionPlan(NAME, (CHANGE,))
    World(monkeypatch, Entry([[WRONG], []], [plan, plan]))
    with pytest.raises(NotAsItShouldBe) as failed:
        fix(Seen(), yes=True)
    assert failed.value.details == ("still to do: comfy-mnt owner 0:0 → 1024:1024",)


OTHER = Finding("exposed-ports.comfy", "fail", "comfy listens on 0.0.0.0")


def failing(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def watch(*_: Any, **__: Any) -> None:
        raise ApplyError("prometheus: comfy cannot start: its words", next_commands=["invoke fix.gpu-lost"])

    monkeypatch.setattr(engine, "watch", watch)


def test_a_service_that_another_fault_keeps_down_is_no_failure_of_this_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG], []]), OTHER), Seen()
    failing(monkeypatch, world)
    assert fix(report, yes=True) == 2
    assert report.events[-1] == "done"
    assert report.bad == ["exposed-ports.comfy"]


@pytest.mark.parametrize("entry", [Entry([[WRONG]]), Entry([[WRONG], []])], ids=["still there", "nothing else"])
def test_a_service_that_does_not_come_up_is_a_failure(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> None:
    world = World(monkeypatch, entry)
    failing(monkeypatch, world)
    with pytest.raises(ApplyError, match="comfy cannot start: its words"):
        fix(Seen(), yes=True)
    assert len(world.applied) == 1


def test_what_could_not_be_judged_is_said_and_not_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    dark = Finding(f"{NAME}.owner", "unknown", "whose comfy-mnt is: not known", "stat: permission denied")
    world, report = World(monkeypatch, Entry([[dark]])), Seen()
    assert fix(report, yes=True) == 2
    assert report.entries[0][1] == [dark]
    assert world.applied == []


def test_a_warning_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Finding(f"{NAME}.old", "warn", "an old venv lies there")
    world, report = World(monkeypatch, Entry([[seen]])), Seen()
    assert fix(report, yes=True) == 0
    assert world.applied == []


# ---- what is running is shown, and waited for


def test_a_running_job_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG], []]), busy=Busy(1, 2, ())), Seen()
    world.queue = [1, 1, 0]
    assert fix(report, yes=True) == 0
    assert report.running == ["comfy: 1 job running, 2 waiting"]
    assert report.waited == ["comfy has 1 job to finish; --now does not wait"] * 2
    assert len(world.applied) == 1


def test_now_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG], []]), busy=Busy(1, 0, ())), Seen()
    world.queue = [1]
    assert fix(report, yes=True, choices=Choices(now=True)) == 0
    assert report.waited == []
    assert len(world.applied) == 1


def test_a_job_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, Entry([[WRONG]]), busy=Busy(1, 0, ())), Seen()
    world.queue = [1]
    monkeypatch.setattr(repair, "JOB_S", 0.0)
    with pytest.raises(NotAsItShouldBe, match="still running after 0 minutes; nothing was changed") as failed:
        fix(report, yes=True)
    assert failed.value.next_commands == ("the same command with --now, which ends the job",)
    assert world.applied == []


def test_ctrl_c_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Seen):
        def waiting_for(self, host: Host, text: str) -> None:
            raise KeyboardInterrupt

    world = World(monkeypatch, Entry([[WRONG]]), busy=Busy(1, 0, ()))
    world.queue = [1]
    with pytest.raises(Interrupted, match="nothing was changed"):
        fix(Impatient(), yes=True)
    assert world.applied == []


def test_what_stops_nothing_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = SectionPlan(NAME, (Change("a file", "why", (Run(("true",)),)),))
    world, report = World(monkeypatch, Entry([[WRONG], []], [quiet, SectionPlan(NAME)]), busy=Busy(1, 0, ())), Seen()
    world.queue = [1]
    assert fix(report, yes=True) == 0
    assert (report.running, report.waited, world.watched) == ([], [], [])


def test_what_a_fix_starts_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SectionPlan(NAME, (Change("mount", "why", (Run(("true",)),)),), starts=("comfy", "ollama", "docker"))
    world = World(monkeypatch, Entry([[WRONG], []], [plan, SectionPlan(NAME)]))
    assert fix(Seen(), yes=True) == 0
    assert list(world.watched[0]) == ["comfy", "ollama"]


DOWN = [None, {"state": "created", "health": None}, {"state": "exited", "exit_code": 137, "health": None}]
CUT = {"unfinished": f"fix.{NAME}", "owed": ("comfy",)}


@pytest.mark.parametrize("changes", DOWN, ids=str)
def test_what_the_last_run_of_it_owes_is_started(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any] | None
) -> None:
    """The same fix again finishes: what was wrong is mended, and its service was never started again."""
    down = container(HOST, "comfy", **changes) if changes else None
    world = World(monkeypatch, Entry([[]]), facts=having(finished(), comfy=down), **CUT)

    def apply(connection: object, host: Host, plan: Plan, **given: Any) -> None:
        world.applied.append(plan)
        world.facts = finished()

    monkeypatch.setattr("pantheon.remote.apply.apply", apply)
    seen = Seen()
    assert fix(seen, yes=True) == 0
    (plan,) = world.applied
    assert plan.changes[-1].what.startswith("start" if changes else "127.0.0.1:8188")
    assert [f.text for f in seen.entries[0][1]] == [f"comfy was not started again: the last fix.{NAME} broke off"]
    assert list(world.watched[0]) == ["comfy"]


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"state": "exited"}, {}),
        ({"state": "exited"}, {**CUT, "unfinished": "fix.gpu-lost"}),
        ({"state": "exited"}, {**CUT, "owed": ("ollama", "nothing-of-ours")}),
        ({"state": "exited"}, {**CUT, "owed": Unknown("not read")}),
        ({"state": "exited", "labels": {}}, CUT),
        ({}, CUT),
    ],
    ids=str,
)
def test_what_it_does_not_owe_is_left(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], evidence: dict[str, Any]
) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", **changes))
    world = World(monkeypatch, Entry([[]]), facts=facts, **evidence)
    seen = Seen()
    assert fix(seen, yes=True) == 0
    assert world.applied == []
    assert "nothing to fix" in seen.events


LLAMA = Loaded("llama3:8b", 5120, 4800, "")


@pytest.mark.parametrize(
    ("busy", "services", "lines"),
    [
        (Busy(0, 0, ()), ("comfy", "ollama"), ["comfy: no job", "ollama: no model loaded"]),
        (Busy(1, 3, None), ("comfy",), ["comfy: 1 job running, 3 waiting"]),
        (Busy(2, 0, None), ("comfy",), ["comfy: 2 jobs running, 0 waiting"]),
        (Busy(None, None, (LLAMA,)), ("ollama",), ["ollama: llama3:8b (4800 MiB of the card) loaded"]),
        (Busy(1, 0, (LLAMA,)), ("openwebui",), []),
        (Busy(1, 0, (LLAMA,)), (), []),
        (Busy(), ("comfy", "ollama"), []),
        (Unknown("no answer"), ("comfy",), ["not known: no answer"]),
        (Unknown("no answer"), (), []),
        (None, ("comfy",), []),
    ],
)
def test_what_is_running(busy: Any, services: tuple[str, ...], lines: list[str]) -> None:
    assert repair.running(busy, services) == lines


# ---- what is seen of it


def console(*, terminal: bool) -> tuple[Console, Callable[[], str]]:
    import io

    out = io.StringIO()
    made = Console(RichConsole(file=out, force_terminal=terminal, color_system=None, width=80, highlight=False))
    made.hosts_file = "my hosts.toml"
    return made, out.getvalue


def test_a_fix_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, Entry([[WRONG], []]), busy=Busy(0, 0, ()))
    report, out = console(terminal=False)
    assert fix(report, yes=True) == 0
    shown = out()
    assert shown.startswith(
        "fix.comfy-ownership prometheus\n"
        "✗ comfy-mnt belongs to 0:0\n"
        "    stat: 0:0\n"
        "ComfyUI stops for half a minute. No file is removed.\n"
        "running there: comfy: no job\n"
        "PLAN prometheus (ops@10.0.99.10)"
    )
    assert (
        "~ comfy-mnt owner 0:0 → 1024:1024\nStops comfy for a moment. Deletes nothing. Commands: --details\n" in shown
    )
    assert "✓ prometheus 1 change, 0.0 s. Looked again: it is mended\n" in shown


def test_a_fix_that_only_a_human_can_do_ends_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, Entry([[WRONG]]), ROOT_CAUSE)
    report, out = console(terminal=False)
    assert fix(report, yes=True) == 2
    assert out().endswith(
        "✗ /mnt/local/nvme is not mounted\n"
        "    findmnt: nothing\n"
        "Nothing on prometheus was touched.\n"
        "Next: invoke fix.mounts-missing --host prometheus --hosts-file 'my hosts.toml'\n"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_one_cause_one_command(terminal: bool) -> None:
    report, out = console(terminal=terminal)
    follows = [Finding(f"comfy.{n}", "fail", f"comfy consequence {n}") for n in range(7)]
    dark = Finding("gpu-lost.x", "unknown", "whether the GPU is there: not known", "nvidia-smi: no answer in 5 s")
    seen = Finding("disk-pressure.x", "warn", "the disk is 81 % full")
    cause = Finding(**{**vars(ROOT_CAUSE), "evidence": "findmnt: nothing\n/etc/fstab has it", "explains": ("comfy.*",)})
    report.diagnosis(HOST, diagnosis.rank([*follows, dark, seen, cause]), took_s=0.9)
    lines = [line.rstrip() for line in out().splitlines()]
    assert lines[0].startswith("DIAGNOSE prometheus")
    assert lines[1:] == [
        "✗ mounts-missing: /mnt/local/nvme is not mounted",
        "    findmnt: nothing",
        "    /etc/fstab has it",
        *(f"    └ comfy consequence {n}" for n in range(5)),
        "    └ and 2 more that follow from it",
        "? whether the GPU is there: not known",
        "    nvidia-smi: no answer in 5 s",
        "! the disk is 81 % full",
        "Next: invoke fix.mounts-missing --host prometheus --hosts-file 'my hosts.toml'",
    ]


def test_several_causes_are_numbered_each_with_its_command() -> None:
    report, out = console(terminal=False)
    open_port = Finding("exposed-ports.comfy", "fail", "comfy listens on 0.0.0.0:8188", "ss: 0.0.0.0:8188",
                        "invoke fix.exposed-ports --host prometheus")  # fmt: skip
    again = Finding(f"{NAME}.inside", "fail", "12 files inside belong to 0:0", "", WRONG.mend)
    loose = Finding("prereqs.os", "fail", "operating system is debian 13", "", "install ubuntu 24.04")
    report.diagnosis(HOST, diagnosis.rank([loose, again, WRONG, open_port]), took_s=0.9)
    assert out().splitlines()[1:] == [
        "1 ✗ exposed-ports: comfy listens on 0.0.0.0:8188",
        "    ss: 0.0.0.0:8188",
        "    → invoke fix.exposed-ports --host prometheus --hosts-file 'my hosts.toml'",
        "2 ✗ comfy-ownership: 12 files inside belong to 0:0",
        "  ✗ comfy-mnt belongs to 0:0",
        "    stat: 0:0",
        "    → invoke fix.comfy-ownership --host prometheus --hosts-file 'my hosts.toml'",
        "3 ✗ operating system is debian 13",
        "    → install ubuntu 24.04",
        "Next: invoke fix.exposed-ports --host prometheus --hosts-file 'my hosts.toml'",
    ]


def test_nothing_found_is_one_line() -> None:
    report, out = console(terminal=False)
    report.diagnosis(HOST, diagnosis.rank([]), took_s=0.9)
    assert out().splitlines() == ["✓ prometheus nothing found (0.9 s)"]


def test_hostile_words_do_not_reach_the_terminal() -> None:
    report, out = console(terminal=True)
    evil = Finding("gpu-lost.x", "fail", "a\x1b]0;owned\x07 b\x1b[2J", "c\x1b[31m\rd\u202ee", "invoke x\x1b[2J")
    report.diagnosis(HOST, diagnosis.rank([evil]), took_s=0.9)
    report.entry(HOST, "gpu-lost", [evil], "risk\x1b[2J")
    assert "owned" not in out()
    assert "\x1b[2J" not in out()
    assert "\u202e" not in out()


# ---- as data


def documents(text: str) -> Any:
    return json.loads(text)


def test_a_fix_as_data_is_one_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    World(monkeypatch, Entry([[WRONG], []]), busy=Busy(1, 0, ()))
    assert fix(Json(), yes=True, choices=Choices(now=True)) == 0
    document = documents(capsys.readouterr().out)
    assert document["host"] == "prometheus"
    assert (document["entry"], document["result"], document["good"]) == (NAME, "done", True)
    assert [finding["id"] for finding in document["findings"]] == [f"{NAME}.owner"]
    assert document["running"] == ["comfy: 1 job running, 0 waiting"]
    assert document["plan"]["stops"] == ["comfy"]
    assert document["left"] == []


def test_a_planned_and_a_blocked_fix_as_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    World(monkeypatch, Entry([[WRONG]]))
    assert fix(Json(), plan_only=True) == 2
    document = documents(capsys.readouterr().out)
    assert (document["entry"], document["result"], document["good"]) == (NAME, "planned", False)
    assert document["plan"]["changes"] == 1
    World(monkeypatch, Entry([[WRONG]]), ROOT_CAUSE)
    assert fix(Json(), yes=True) == 2
    document = documents(capsys.readouterr().out)
    assert document["result"] == "blocked"
    assert document["plan"]["sections"][0]["blocked"][0]["id"] == "mounts-missing.nvme"


def test_nothing_to_fix_as_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    World(monkeypatch, Entry([[]]))
    assert fix(Json(), yes=True) == 0
    document = documents(capsys.readouterr().out)
    assert (document["entry"], document["result"]) == (NAME, "nothing to fix")
    assert document["reason"] == "comfy-mnt belongs to 1024:1024"


def test_a_diagnosis_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    Json().diagnosis(HOST, diagnosis.rank([ROOT_CAUSE, WRONG]), took_s=0.9)
    document = documents(capsys.readouterr().out)
    assert (document["host"], document["result"], document["good"]) == ("prometheus", "diagnosis", False)
    cause = document["causes"][0]
    assert (cause["entry"], cause["id"]) == ("mounts-missing", "mounts-missing.nvme")
    assert [finding["id"] for finding in cause["consequences"]] == [f"{NAME}.owner"]


def test_diagnose_ends_with_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Seen()
    World(monkeypatch, Entry([[WRONG]]))
    assert repair.diagnose(HOST, options=Options(), report=report) == 2
    assert report.found is not None
    assert [cause.entry for cause in report.found.causes] == [NAME]
    World(monkeypatch, Entry([[]]))
    assert repair.diagnose(HOST, options=Options(), report=report) == 0
