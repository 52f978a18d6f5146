"""`--install`: from whatever the host has to the prerequisites of section 2, with a reboot where one is needed.

Look, plan, show, ask, apply, look again, until nothing is left to install: what only a loaded driver allows is planned
after the reboot, in the same command. Run again after anything cut it short, it goes on from what is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from pantheon import engine, foreign, reboot, repair, survival
from pantheon import install as rooms
from pantheon.errors import Interrupted, NotAsItShouldBe, NotReached, PantheonError
from pantheon.evidence import Evidence
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.install import driver, remedy
from pantheon.inventory import SERVICES, Host
from pantheon.options import Options
from pantheon.plan import Change, Plan, SectionPlan

MOST_PASSES = 8  # lists, packages, what dkms builds, the reboot, after it; and some that packages made necessary
THE_STACK = "the stack, planned when this is done"


class Installed(NamedTuple):
    """The facts then, and what is to be said of the host that no plan has said; None where the command ends with that
    exit code."""

    facts: Facts | None
    code: int = 0
    notes: tuple[Finding, ...] = ()


def install(
    connection: Any, host: Host, facts: Facts, *, what: str, options: Options, report: engine.Report
) -> Installed:
    """Brings section 2 about: looks for what it needs, plans, shows, asks, applies, reboots where that is needed and
    agreed, and looks again, until nothing is left to install. The command ends here when it was a --plan, or when
    something stands in the way. Raises what engine.bring raises, and NotAsItShouldBe where a reboot is needed that
    nobody agreed to."""
    rebooted, agreed = False, False
    done: tuple[Change, ...] = ()
    for _ in range(MOST_PASSES):
        began = time.monotonic()
        evidence = _evidence(connection, host, facts)
        section = rooms.plan(host, facts, evidence, options)
        then = () if section.blocked else _then(host, facts, evidence, what=what, options=options)
        plan = Plan(host.name, (section, *then))
        if section.blocked or (section.changes and options.plan_only):
            warnings = _warnings(host, facts, evidence, options)
            took = time.monotonic() - began
            report.plan(host, plan, warnings, took_s=took, details=options.details, final=True)
            return Installed(None, 2)
        if section.changes:
            if section.changes == done:
                break
            _apply(connection, host, plan, facts, evidence, what=what, options=options, report=report, began=began)
            before, facts = facts, engine.look(connection, host)
            agreed, done = True, section.changes
            if not driver.reboot(host, facts, evidence):  # else nothing gets the GPU until then
                with _goes_on(host, what, options):
                    watch(connection, host, before, plan.stops, what=what, report=report)
            continue
        why = driver.reboot(host, facts, evidence)
        if not why:
            return Installed(facts, notes=() if agreed else tuple(rooms.notes(host, facts, evidence)))
        if rebooted:
            raise _not_loaded(host, why)
        back = _reboot(connection, host, facts, evidence, why, what=what, options=options, report=report, agreed=agreed)
        if back is None:
            return Installed(None, 2)
        facts, rebooted = back, True
    raise NotAsItShouldBe(
        f"{host.name}: after the changes there is still something to install",
        details=[change.what for change in section.changes],
        next_commands=[f"{_command(what, options)} --plan --details --host {host.name}"],
    )


def _command(what: str, options: Options, *more: str) -> str:
    snap = ["--remove-snap"] if options.remove_snap else []
    return " ".join(["invoke", what, "--install", *snap, *more])


@contextmanager
def _goes_on(host: Host, what: str, options: Options) -> Iterator[None]:
    """What fails in here names the command that goes on, with all that was given to it."""
    try:
        yield
    except PantheonError as problem:
        again = _command(what, options, *(["--reboot"] if options.reboot else []))
        named = [command.replace(f"invoke {what} --host", f"{again} --host") for command in problem.next_commands]
        if isinstance(problem, Interrupted | NotReached):  # in the middle of a reboot, as a rule
            named = [*(each for each in named if not each.startswith(again)), f"{again} --host {host.name}"]
        problem.next_commands = tuple(named)
        raise


def _evidence(connection: Any, host: Host, facts: Facts) -> Evidence:
    """What installing asks for. What apt would bring takes a second or two: only where the driver is not as it should
    be."""
    from pantheon.remote import gather

    names = tuple(dict.fromkeys((*rooms.PARTS, *survival.PARTS)))
    library = facts.library_version
    right = isinstance(library, str) and remedy.is_branch(host, library)
    evidence = gather.parts(connection, host, *(name for name in names if name != "driver_offer" or not right))
    if right and remedy.wanted(host, facts, evidence):
        evidence = replace(evidence, driver_offer=gather.parts(connection, host, "driver_offer").driver_offer)
    return evidence


def _then(host: Host, facts: Facts, evidence: Evidence, *, what: str, options: Options) -> tuple[SectionPlan, ...]:
    """What follows this plan, said in it: none of it is planned yet."""
    why = driver.will_reboot(host, facts, evidence)
    if why and not options.reboot:
        return (
            SectionPlan("then", reason=f"it ends there: a reboot is needed, only with --reboot: {why}", waits=True),
        )
    steps = [f"the host reboots: {why}"] if why else []
    steps += [THE_STACK] if what == "bringup" else []
    return (SectionPlan("then", reason="; then ".join(steps), waits=True),) if steps else ()


def _warnings(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """What stays as it is; what a reboot that will follow ends, or does not bring back: said before the question."""
    notes = rooms.notes(host, facts, evidence)
    if not options.reboot or not driver.will_reboot(host, facts, evidence):
        return notes
    lost = reboot.losses(host, facts, evidence, prefix=survival.ID)
    return [*notes, *lost, *_ends(host, facts, evidence)]


def _ends(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    lines = reboot.others(host, facts, evidence)
    return [Finding(f"{survival.ID}.ends", "warn", f"the reboot ends: {line}") for line in lines]


def _apply(
    connection: Any,
    host: Host,
    plan: Plan,
    facts: Facts,
    evidence: Evidence,
    *,
    what: str,
    options: Options,
    report: engine.Report,
    began: float,
) -> None:
    """One plan: shown, agreed to, applied."""
    engine.free(host, facts)
    warnings = _warnings(host, facts, evidence, options)
    report.busy(host, repair.running(evidence.busy, plan.stops))
    report.plan(host, plan, warnings, took_s=time.monotonic() - began, details=options.details, final=False)
    engine.agree(host, plan, [], options, report)
    if not options.now:
        repair.wait_for_jobs(connection, host, plan, report)
    with _goes_on(host, what, options):
        engine.apply(connection, host, plan, facts, what=what, report=report)


def watch(
    connection: Any, host: Host, before: Facts, services: tuple[str, ...], *, what: str, report: engine.Report
) -> None:
    """Follow those services of ours that ran `before`, and that Docker starts by itself, until they answer again."""
    back = [container for container in reboot.running(before) if container.restart_policy in reboot.COMES_BACK]
    up = {container.name for container in back if foreign.is_ours(host, container)}
    engine.watch(connection, host, tuple(n for n in SERVICES if n in services and n in up), what=what, report=report)


def _reboot(
    connection: Any,
    host: Host,
    facts: Facts,
    evidence: Evidence,
    why: str,
    *,
    what: str,
    options: Options,
    report: engine.Report,
    agreed: bool,
) -> Facts | None:
    """The reboot: the facts behind it, or None where something forbids it, or it is only shown. `agreed`: a plan that
    named it has been agreed to."""
    findings = survival.check(host, facts, evidence)
    bad = tuple(finding for finding in findings if finding.level == "fail")
    if not options.reboot and not options.plan_only and not bad:
        raise NotAsItShouldBe(
            f"{host.name}: a reboot is needed, and is done only with --reboot: {why}",
            details=[*_down(host, facts), *(f"it ends: {line}" for line in reboot.others(host, facts, evidence))],
            next_commands=[f"{_command(what, options, '--reboot')} --host {host.name}"],
        )
    change = reboot.change(host, facts, why=why)
    then = _then(host, facts, evidence, what=what, options=replace(options, reboot=True))
    section = SectionPlan("reboot", () if bad else (change,), blocked=bad, reboots=True)
    plan = Plan(host.name, (section,) if bad else (section, *(replace(each, reason=_after(what)) for each in then)))
    warnings = [finding for finding in findings if finding.level in ("warn", "unknown")]
    warnings += _ends(host, facts, evidence)
    final = bool(bad) or options.plan_only
    if not final:
        engine.free(host, facts)
        report.busy(host, repair.running(evidence.busy, SERVICES))
    report.plan(host, plan, warnings, took_s=evidence.took_s, details=options.details, final=final)
    if final:
        return None
    if not agreed:
        engine.agree(host, plan, [], options, report)
    with _goes_on(host, what, options):
        return carry_out(connection, host, plan, facts, evidence, what=what, options=options, report=report)


def _down(host: Host, facts: Facts) -> list[str]:
    """Services of ours that are down: without the driver that is loaded with the boot they do not start."""
    named = [foreign.named(facts, name) for name in SERVICES]
    down = [c.name for c in named if c is not None and foreign.is_ours(host, c) and c.state in ("exited", "created")]
    return [f"down until then: {', '.join(down)}"] if down else []


def _after(what: str) -> str:
    return THE_STACK if what == "bringup" else "the prerequisites, looked at again"


def carry_out(
    connection: Any,
    host: Host,
    plan: Plan,
    facts: Facts,
    evidence: Evidence,
    *,
    what: str,
    options: Options,
    report: engine.Report,
) -> Facts:
    """A plan whose last change is a reboot, agreed to: jobs are waited for, the host goes and comes back, and those of
    its services that ran answer again. Returns the facts of the new boot."""
    if not options.now:
        repair.wait_for_jobs(connection, host, plan, report)
    engine.apply(connection, host, plan, facts, what=what, report=report)
    if reboot.wait(
        connection, host, before=repair.boot_of(facts), report=report, engine=reboot.starts_engine(evidence)
    ):
        watch(connection, host, facts, plan.stops, what=what, report=report)
    return engine.look(connection, host)


def _not_loaded(host: Host, why: str) -> NotAsItShouldBe:
    return NotAsItShouldBe(
        f"{host.name}: it was rebooted, and the driver is still not loaded: {why}",
        details=["Secure Boot refuses a module whose key is not enrolled; nouveau may hold the card"],
        next_commands=[
            host.ssh("sudo modprobe nvidia; sudo dmesg | tail -n 20"),
            f"invoke diagnose --host {host.name}",
        ],
    )
