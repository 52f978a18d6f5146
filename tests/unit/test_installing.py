"""--install: shown, agreed to, applied, looked at again; a reboot only where one is needed and was asked for."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from pantheon import engine, installing, procedure, reboot, rebooting, repair
from pantheon import install as rooms
from pantheon.errors import Declined, Interrupted, Locked, NotAsItShouldBe, StepFailed
from pantheon.evidence import Busy, Evidence, FstabLine, Unit
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.kernels import Kernel, Kernels
from pantheon.options import Options
from pantheon.packages import Package, Packages
from pantheon.plan import Change, Mend, Plan, Run, SectionPlan
from pantheon.report.console import Console
from pantheon.report.data import Json
from tests.unit.test_engine import Recorder
from tests.unit.test_engine import World as Remote
from tests.unit.world import HOST, container, finished, fresh, having

K = "6.8.0-45-generic"
BARE = replace(fresh(), nvml=None, library_version=None, module_version=None, docker=None, toolkit=None)
INSTALLED = replace(fresh(), nvml=Unknown("driver not loaded"), library_version="590.48.01", module_version=None)
PACKAGES = Change("NVIDIA driver 590", "§2", (Run(("apt", "x")),), sign="+")
CDI = Change("CDI specification", "§2", (Run(("nvidia-ctk", "x")),), sign="+")
BAD = Finding("prereqs.daemon-json", "fail", "daemon.json is broken", "line 3", "mend it")
READY = SectionPlan("prereqs", reason="all there")


class Seen(Recorder):
    def __init__(self, *, answer: bool = True) -> None:
        super().__init__(answer=answer)
        self.plans: list[Plan] = []
        self.lines: list[Finding] = []

    def plan(self, host: Host, plan: Plan, warnings: list[Finding], **given: Any) -> None:
        super().plan(host, plan, warnings, **given)
        self.plans.append(plan)

    def survival(self, host: Host, findings: list[Finding], ends: list[str], *, took_s: float) -> None:
        self.events.append("survival")
        self.lines = findings


class World(Remote):
    """Looks and plans come from lists; each reboot is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: list[Facts], plans: list[SectionPlan]) -> None:
        from pantheon.remote import gather

        super().__init__(monkeypatch, *looks)
        self.reboots = 0
        self.plans = plans
        self.evidence = Evidence(
            kernels=Kernels("6.8", K, (Kernel(K, "590.48.01"),)),
            packages=Packages({}, "amd64", "noble"),
            fstab=tuple(FstabLine("x", path, "ext4", "") for path in ("/mnt/local/nvme", "/mnt/local/ssd")),
        )
        self.asked: list[tuple[str, ...]] = []
        monkeypatch.setattr(rooms, "plan", lambda *given: self.plans.pop(0), raising=False)
        monkeypatch.setattr(rooms, "PARTS", ("packages", "kernels", "driver_offer"), raising=False)
        monkeypatch.setattr(gather, "parts", self._parts)
        monkeypatch.setattr(gather, "look_with", lambda *given: (self.looks.pop(0), self.evidence))
        monkeypatch.setattr(reboot, "wait", self._wait)
        monkeypatch.setattr(repair, "_comfy_jobs", lambda connection, host: 0)

    def _parts(self, connection: object, host: Host, *names: str) -> Evidence:
        self.asked.append(names)
        return self.evidence

    def _wait(self, connection: object, host: Host, *, before: str, report: object, engine: bool) -> bool:
        assert before == "boot"
        self.reboots += 1
        return engine


def install(report: Recorder, facts: Facts, what: str = "bringup", **options: Any) -> tuple[Facts | None, int]:
    given = Options(install=True, **options)
    return installing.install(object(), HOST, facts, what=what, options=given, report=report)[:2]


def then(plan: Plan) -> str:
    return next((section.reason for section in plan.sections if section.name == "then"), "")


def test_nothing_to_install_costs_one_question_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [], [READY]), Seen()
    facts = finished()
    assert install(report, facts) == (facts, 0)
    assert report.events == []
    assert len(world.asked) == 1
    assert "driver_offer" not in world.asked[0], "apt is not asked what it would bring"


def test_from_bare_to_ready_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [SectionPlan("prereqs", (PACKAGES,)), READY, SectionPlan("prereqs", (CDI,)), READY]
    world, report = World(monkeypatch, [INSTALLED, finished(), finished()], plans), Seen()
    ready, code = install(report, BARE, yes=True, reboot=True)
    assert (code, ready) == (0, finished())
    assert [change.what for plan in world.applied for change in plan.changes] == [
        PACKAGES.what, "reboot prometheus", CDI.what,
    ]  # fmt: skip
    assert world.reboots == 1
    assert "driver_offer" in world.asked[0]
    assert "the stack, planned when this is done" in then(report.plans[0])
    assert all(shown is applied for shown, applied in zip(report.plans, world.applied, strict=True))


def test_what_the_first_plan_says_of_the_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence()
    changed = replace(BARE, library_version="580.1", module_version="580.1")
    for facts, with_reboot, said in (
        (INSTALLED, True, "the host reboots: the driver 590.48.01 is installed"),
        (INSTALLED, False, "a reboot is needed, only with --reboot"),
        (finished(), True, "the stack, planned"),
        (changed, False, "loaded by a boot"),
    ):
        [section] = installing._then(HOST, facts, evidence, what="bringup", options=Options(reboot=with_reboot))
        assert said in section.reason
        assert section.waits
    assert installing._then(HOST, finished(), evidence, what="prereqs", options=Options()) == ()


def test_each_plan_is_asked_for_and_the_reboot_in_it_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [SectionPlan("prereqs", (PACKAGES,)), READY, READY]
    world, report = World(monkeypatch, [INSTALLED, finished()], plans), Seen()
    assert install(report, BARE, reboot=True)[1] == 0
    assert [event for event in report.events if event.endswith("?")] == ["Apply 1 change to prometheus?"]
    assert world.reboots == 1


def test_without_reboot_it_ends_with_the_reason_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [INSTALLED], [SectionPlan("prereqs", (PACKAGES,)), READY]), Seen()
    with pytest.raises(NotAsItShouldBe, match="module is not loaded") as ended:
        install(report, BARE, yes=True, remove_snap=True)
    assert ended.value.exit_code == 2
    assert ended.value.next_commands == ("invoke bringup --install --remove-snap --reboot --host prometheus",)
    assert world.reboots == 0
    assert len(world.applied) == 1


def test_a_reboot_that_is_all_that_is_left_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = World(monkeypatch, [finished()], [READY, READY]), Seen(answer=False)
    with pytest.raises(Declined):
        install(report, INSTALLED, reboot=True)
    World(monkeypatch, [finished()], [READY, READY])
    report = Seen()
    assert install(report, INSTALLED, reboot=True)[1] == 0
    assert report.plans[0].sections[0].name == "reboot"


def test_a_driver_that_a_reboot_does_not_load_is_not_rebooted_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [INSTALLED], [READY, READY]), Seen()
    with pytest.raises(NotAsItShouldBe, match="still not loaded"):
        install(report, INSTALLED, yes=True, reboot=True)
    assert world.reboots == 1


def test_what_does_not_survive_a_reboot_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [], [READY]), Seen()
    world.evidence = replace(world.evidence, kernels=Kernels("6.8", K, (Kernel(K, None),)))
    assert install(report, INSTALLED, yes=True, reboot=True) == (None, 2)
    assert [finding.id for finding in report.plans[0].blocked] == ["reboot.module"]
    assert world.applied == []


@pytest.mark.parametrize("section", [SectionPlan("prereqs", (PACKAGES,)), SectionPlan("prereqs", blocked=(BAD,))])
def test_plan_and_what_is_in_the_way_end_it(monkeypatch: pytest.MonkeyPatch, section: SectionPlan) -> None:
    world, report = World(monkeypatch, [], [section]), Seen()
    assert install(report, BARE, yes=True, plan_only=not section.blocked) == (None, 2)
    assert world.applied == []
    assert report.plans[0].sections[0] is section
    assert len(report.plans[0].sections) == (1 if section.blocked else 2), "nothing follows what is blocked"


def test_a_reboot_is_shown_by_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [], [READY]), Seen()
    assert install(report, INSTALLED, plan_only=True) == (None, 2)
    assert report.plans[0].changes[0].what == "reboot prometheus"
    assert world.applied == []


def test_a_plan_that_does_not_get_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [BARE, BARE], [SectionPlan("prereqs", (PACKAGES,))] * 3), Seen()
    with pytest.raises(NotAsItShouldBe, match="still something to install") as ended:
        install(report, BARE, yes=True)
    assert PACKAGES.what in ended.value.details
    assert len(world.applied) == 1


def test_a_host_at_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [], [SectionPlan("prereqs", (PACKAGES,))]), Seen()
    with pytest.raises(Locked):
        install(report, replace(BARE, lock=json.dumps({"who": "ann@desk"})), yes=True)
    assert world.applied == []


def test_a_job_is_waited_for_before_its_service_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = replace(PACKAGES, stops=("comfy",))
    jobs = [2, 1, 0]
    for now in (False, True):
        world = World(monkeypatch, [finished()], [SectionPlan("prereqs", (stops,)), READY])
        world.evidence = replace(world.evidence, busy=Busy(1, 1, ()))
        monkeypatch.setattr(repair, "_comfy_jobs", lambda connection, host: jobs.pop(0))
        monkeypatch.setattr(repair, "POLL_S", 0.0)
        report = Seen()
        assert install(report, finished(), yes=True, now=now)[1] == 0
        assert "running: comfy: 1 job running, 1 waiting" in report.events
        assert any("to finish" in event for event in report.events) is not now
        assert "watching comfy" in report.events


def test_what_fails_names_the_whole_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from pantheon.remote import apply

    def fail(*given: object, **more: object) -> None:
        raise StepFailed("step 1 failed", next_commands=["invoke bringup --host prometheus", "df -h"])

    World(monkeypatch, [], [SectionPlan("prereqs", (PACKAGES,))])
    monkeypatch.setattr(apply, "apply", fail)
    with pytest.raises(StepFailed) as failed:
        install(Seen(), BARE, yes=True, reboot=True)
    assert failed.value.next_commands == ("invoke bringup --install --reboot --host prometheus", "df -h")


def test_what_cannot_start_before_the_reboot_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver, and the engine restarted for it: nothing gets the GPU until the new module is loaded."""
    after = having(replace(finished(), module_version="580.1"), comfy=container(HOST, "comfy", state="exited"))
    plans = [SectionPlan("prereqs", (replace(PACKAGES, stops=("comfy",)),)), READY]
    _, report = World(monkeypatch, [after], plans), Seen()
    with pytest.raises(NotAsItShouldBe, match=r"module 580.1 loaded") as ended:
        install(report, finished(), yes=True)
    assert not any(event.startswith("watching") for event in report.events)
    assert ended.value.details == ("down until then: comfy",)


def test_a_wait_that_is_cut_short_names_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object, **more: object) -> None:
        raise Interrupted("stopped waiting", next_commands=["invoke diagnose --host prometheus"])

    World(monkeypatch, [finished()], [READY])
    monkeypatch.setattr(reboot, "wait", stop)
    with pytest.raises(Interrupted) as ended:
        install(Seen(), INSTALLED, yes=True, reboot=True)
    assert ended.value.next_commands[-1] == "invoke bringup --install --reboot --host prometheus"


# ---- invoke reboot


def run(report: Seen, **options: Any) -> int:
    return rebooting.reboot(HOST, options=Options(**options), report=report)


def test_a_reboot_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [finished(), finished()], []), Seen()
    assert run(report, yes=True) == 0
    assert report.events == [
        "look", "survival", "shown", "applying", "watching comfy ollama openwebui", "back, validation checklist (§8)",
    ]  # fmt: skip
    assert world.reboots == 1
    assert report.plans[0].stops == ("comfy", "ollama", "openwebui")


def test_a_host_without_the_stack_is_judged_by_section_2(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, [fresh(), fresh()], [])
    report = Seen()
    assert run(report, yes=True) == 0
    assert report.events[-1] == "back, prerequisites (§2)"


def test_what_is_not_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, [finished(), having(finished(), ollama=container(HOST, "ollama", state="exited"))], [])
    report = Seen()
    assert run(report, yes=True) == 2
    assert "ollama.up" in report.bad


def test_what_docker_does_not_start_by_itself_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = having(finished(), ollama=container(HOST, "ollama", restart_policy="no"))
    world, report = World(monkeypatch, [alone, alone], []), Seen()
    run(report, yes=True)
    assert "watching comfy openwebui" in report.events
    off: dict[str, Unit | Unknown | None] = {"docker.service": Unit("active", "running", "success", "", 0, "disabled")}
    world, report = World(monkeypatch, [finished(), finished()], []), Seen()
    world.evidence = replace(world.evidence, units=off)
    run(report, yes=True)
    assert not any(event.startswith("watching") for event in report.events)


def test_what_would_not_be_back_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [finished()], []), Seen()
    world.evidence = replace(world.evidence, installing="apt-get (pid 9)")
    assert run(report, yes=True) == 2
    assert [finding.id for finding in report.plans[0].blocked] == ["reboot.installing"]
    assert world.reboots == 0


def test_plan_only_and_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [finished()], [])
    assert run(Seen(), plan_only=True) == 2
    assert world.applied == []
    world = World(monkeypatch, [finished()], [])
    with pytest.raises(Declined):
        run(Seen(answer=False))
    assert world.applied == []


def test_a_boot_that_is_not_known_could_not_be_told_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    world, report = World(monkeypatch, [replace(finished(), os=Unknown("no answer"))], []), Seen()
    assert run(report, yes=True) == 2
    assert report.plans[0].blocked[-1].id == "reboot.boot"
    assert world.applied == []


def test_engine_asks_for_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the commands themselves: with nothing to install they go on; what stands in the way is theirs to say."""
    World(monkeypatch, [finished()], [READY])
    report = Seen()
    assert engine.prerequisites(HOST, options=Options(install=True), report=report) == 0
    assert report.events == ["look", "prerequisites (§2)"]
    World(monkeypatch, [finished()], [SectionPlan("prereqs", blocked=(BAD,))])
    report = Seen()
    assert engine.bring(HOST, ("prereqs",), what="bringup", options=Options(install=True), report=report) == 2
    assert report.events == ["look", "shown"]


class Noting(Seen):
    """Keeps the ids of all that was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def plan(self, host: Host, plan: Plan, warnings: list[Finding], **given: Any) -> None:
        super().plan(host, plan, warnings, **given)
        self.ids += [finding.id for finding in warnings]

    def nothing_to_do(self, host: Host, findings: list[Finding], *, took_s: float) -> None:
        self.ids += [finding.id for finding in findings]

    def findings(self, host: Host, title: str, findings: list[Finding], *, took_s: float) -> None:
        self.ids += [finding.id for finding in findings]


@pytest.mark.parametrize("names", [(), procedure.ORDER])
@pytest.mark.parametrize("plans", [[READY], [SectionPlan("prereqs", (PACKAGES,)), READY]])
def test_an_engine_that_stays_is_said_once(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], plans: list[SectionPlan]
) -> None:
    """docker.io with containers on it: in the plan where there is one, else among what the command finds."""
    world, report = World(monkeypatch, [finished(), finished()], list(plans)), Noting()
    there = {"docker.io": Package("29.1.3-0ubuntu3", "installed")}
    world.evidence = replace(world.evidence, packages=Packages(there, "amd64", "noble"))
    options = Options(install=True, yes=True)
    if names:
        assert engine.bring(HOST, names, what="bringup", options=options, report=report) == 0
    else:
        assert engine.prerequisites(HOST, options=options, report=report) == 0
    assert report.ids.count("prereqs.docker-kept") == 1


# ---- as it is shown


def screen(width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(RichConsole(file=out, width=width, highlight=False)), out


def test_what_is_waited_for_is_said_once_in_a_pipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pantheon.report.live.Journal", lambda *given: SimpleNamespace(plan=id, line=id, close=id))
    console, out = screen()
    step = Mend("apt", {}, "apt-get install x")
    section = SectionPlan("prereqs", (Change("Docker", "§2", (step, step)),))
    on_event = console.applying(HOST, Plan("prometheus", (section,)), "bringup")
    on_event({"frame": "step", "index": 0})
    for seconds in (0, 5, 10):
        line = f"waiting for unattended-upgr (pid 812, since 05:10), which has apt's lock ({seconds} s)"
        on_event({"frame": "out", "index": 0, "line": line})
    on_event({"frame": "out", "index": 0, "line": "setting up docker-ce 3/5 (62 %)"})
    on_event({"frame": "out", "index": 0, "line": "waiting for apt (pid 9), which has apt's lock (0 s)"})
    assert out.getvalue().count("unattended-upgr (pid 812") == 1
    assert out.getvalue().count("apt (pid 9)") == 1
    assert "setting up" not in out.getvalue()


def test_packages_have_a_line_each_and_what_follows_is_said() -> None:
    console, out = screen()
    section = SectionPlan("prereqs", (PACKAGES, replace(CDI, stops=("comfy",))))
    then = SectionPlan("then", reason="the host reboots: because", waits=True)
    console.plan(HOST, Plan("prometheus", (section, then)), [], took_s=0.5, details=False, final=False)
    assert out.getvalue().splitlines()[1:] == [
        "+ prereqs    NVIDIA driver 590",
        "+            CDI specification",
        "· then       the host reboots: because",
        "Stops comfy for a moment. Deletes nothing. Commands: --details",
    ]


def test_the_lines_of_survival(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding("reboot.dpkg", "ok", "no package is half-way installed"),
        Finding("reboot.restart", "warn", "comfy will not come back", "restart policy: no", "invoke bringup"),
        Finding("reboot.module", "fail", "no module", "modinfo", "invoke prereqs --install"),
    ]
    console, out = screen()
    console.survival(HOST, findings, ["logged in: ann tty1"], took_s=0.5)
    console.plan(HOST, Plan("prometheus", (SectionPlan("reboot", blocked=(findings[2],)),)), [], took_s=0.5,
                 details=False, final=True)  # fmt: skip
    text = out.getvalue()
    for said in ("✓ no package is half-way", "! comfy will not", "→ invoke bringup", "ends with it: logged in: ann"):
        assert said in text
    assert text.count("→ invoke prereqs --install") == 1, "with the plan that it forbids"
    data = Json()
    data.survival(HOST, findings, ["logged in: ann tty1"], took_s=0.5)
    data.busy(HOST, ["comfy: 1 job running"])
    data.plan(HOST, Plan("prometheus"), [], took_s=0.5, details=False, final=True)
    document = json.loads(capsys.readouterr().out)
    assert document["survival"]["ends"] == ["logged in: ann tty1"]
    assert document["survival"]["running"] == ["comfy: 1 job running"]
    assert [finding["level"] for finding in document["survival"]["findings"]] == ["ok", "warn", "fail"]


def test_what_is_missing_names_what_installs_it() -> None:
    for mends, expected in (
        (("invoke prereqs --install --host p", "invoke prereqs --install --reboot --host p"), "--install --reboot"),
        (("look at the card",), "invoke diagnose"),
    ):
        console, out = screen()
        findings = [Finding("prereqs.x", "fail", "not there", mend=mend) for mend in mends]
        console.findings(HOST, "prerequisites (§2)", findings, took_s=0.1)
        assert expected in out.getvalue().splitlines()[-1]
