"""Incidents: what is wrong (`invoke diagnose`), and one fix for each entry of the troubleshooting (`invoke fix.NAME`).

The way is the engine's own: look, plan, show, ask, apply, look again, prove. Before a fix stops anything it says what
is running there, and waits for a job to end unless told not to (`--now`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Protocol

from pantheon import diagnosis, engine, fixes, foreign, reboot, service
from pantheon.errors import ApplyError, Interrupted, NotAsItShouldBe
from pantheon.evidence import Busy
from pantheon.facts import Container, Facts, Maybe, OsRelease, Unknown
from pantheon.finding import Finding
from pantheon.fixes import openwebui_logins
from pantheon.fixes.wrong_version_number import https_to
from pantheon.incident import Case, Choices
from pantheon.inventory import SERVICES, Host
from pantheon.options import Options
from pantheon.plan import Plan, SectionPlan
from pantheon.symptoms import SYMPTOMS

JOB_S = 3600.0  # how long a running job is waited for
POLL_S = 1.0
SILENT = 3  # times that ComfyUI does not answer, after which there is nothing to wait for


class Waiting(Protocol):
    """Who is told what is waited for."""

    def waiting_for(self, host: Host, text: str) -> None: ...
    def settled(self) -> None: ...


class Report(engine.Report, Protocol):
    """What an incident shows beyond an ordinary run."""

    def diagnosis(self, host: Host, found: diagnosis.Diagnosis, *, took_s: float) -> None: ...
    def entry(self, host: Host, name: str, findings: list[Finding], risk: str) -> None: ...
    def busy(self, host: Host, lines: list[str]) -> None: ...
    def waiting_for(self, host: Host, text: str) -> None: ...
    def nothing_to_fix(self, host: Host, name: str, reason: str, *, took_s: float) -> None: ...


def diagnose(host: Host, *, options: Options, report: Report) -> int:
    """Look once, ask every entry. Returns 0 when nothing is wrong, 2 when something is or could not be judged."""
    began = engine.began_at(options)
    report.connecting(host, "diagnose")
    with engine.connected(host, options) as connection:
        found = diagnosis.diagnose(examine(connection, host, Choices()))
    report.diagnosis(host, found, took_s=time.monotonic() - began)
    return 0 if found.is_good else 2


def examine(connection: Any, host: Host, choices: Choices, *more: str) -> Case:
    """Everything that is known of the host now; `more` are parts of the evidence that a diagnosis does without."""
    from pantheon.remote import gather
    from pantheon.remote.here import look_from_here
    from pantheon.remote.tls import try_https

    facts, evidence = gather.examine(connection, host, *more)
    here, concerned = look_from_here(connection, host), https_to(host, facts, evidence, choices.url)
    if concerned:
        here = replace(here, https=try_https(connection, host, concerned))
    return Case(host, facts, evidence, here, choices)


def fix(host: Host, name: str, choices: Choices, *, options: Options, report: Report) -> int:
    """Mend one entry of the troubleshooting. Returns 0 when its symptom is not there or is gone, 2 when something
    stands in the way, only a human can mend it, or something else is wrong besides. Raises what engine.bring raises."""
    began = engine.began_at(options)
    what = f"fix.{name}"
    entry = fixes.load(name)
    report.connecting(host, what)
    with engine.connected(host, options) as connection:
        case = examine(connection, host, choices)
        found = diagnosis.diagnose(case)
        findings = [finding for finding in entry.diagnose(case) if finding.level != "ok"]
        section = entry.plan(case)
        steps = fixes.steps(entry, case)
        if section.is_ready and all(finding.level == "warn" for finding in findings):
            section, owed = _finished(case, section)
            findings += owed
        took = time.monotonic() - began
        if all(finding.level == "warn" for finding in findings) and section.is_ready:
            if steps or findings:
                report.entry(host, name, steps or findings, "")
            report.nothing_to_fix(host, name, section.reason, took_s=took)
            return 0
        risk = entry.RISK if section.changes or section.blocked or section.reboots else ""
        report.entry(host, name, steps or findings, risk)
        section = _after(case, name, section, found)
        plan = Plan(host.name, (section,))
        if section.reboots and not section.changes:
            report.busy(host, running(case.evidence.busy, SERVICES))
        if plan.blocked or options.plan_only or not plan.changes:
            report.plan(host, plan, [], took_s=took, details=options.details, final=True)
            return _by_hand(plan, findings)
        if not plan.ends:
            engine.free(host, case.facts)
        report.busy(host, running(case.evidence.busy, plan.stops))
        report.plan(host, plan, [], took_s=took, details=options.details, final=False)
        engine.agree(host, plan, [], options, report)
        if not choices.now:
            wait_for_jobs(connection, host, plan, report)
        engine.apply(connection, host, plan, case.facts, what=what, report=report)
        answers = not section.reboots or reboot.wait(connection, host, before=boot_of(case.facts), report=report)
        trouble = None
        try:
            if answers:
                _watch_started(connection, host, plan, what=what, report=report)
        except ApplyError as failed:
            trouble = failed  # of this fault, or of another one that was there besides: the proof tells
        return _prove(connection, host, name, choices, plan, began=began, report=report, trouble=trouble)


def _finished(case: Case, section: SectionPlan) -> tuple[SectionPlan, list[Finding]]:
    """Where there is nothing to mend: what the last run of this fix still owes, which broke off after it had stopped a
    service, or taken its container away to make it anew."""
    evidence, findings = case.evidence, []
    owed = evidence.owed if evidence.unfinished == f"fix.{section.name}" and isinstance(evidence.owed, tuple) else ()
    for name in owed:
        found = case.facts.container(name)
        if name not in SERVICES or not foreign.is_down(case.host, found):
            continue
        is_there = f"{found.state}, exit code {found.exit_code}" if isinstance(found, Container) else "no container"
        text = f"{name} was not started again: the last fix.{section.name} broke off"
        findings.append(Finding(f"{section.name}.unfinished-{name}", "fail", text, is_there))
        start = service.plan(case.host, case.facts, name)
        section = replace(
            section,
            changes=(*section.changes, *start.changes),
            blocked=(*section.blocked, *start.blocked),
            starts=(*section.starts, name),
        )
    return section, findings


def _after(case: Case, name: str, section: SectionPlan, found: diagnosis.Diagnosis) -> SectionPlan:
    """The entry's plan, or what must be mended before it: the cause that explains it, a login key that the server alone
    has and would lose."""
    mine, others = diagnosis.own(found, name)
    if others and not mine:
        return replace(section, changes=(), blocked=(*section.blocked, *(cause.finding for cause in others)))
    key = openwebui_logins.at_stake(case)
    stops = section.reboots or "openwebui" in Plan(case.host.name, (section,)).stops
    if key and stops and name != openwebui_logins.ID:
        return replace(section, changes=(), blocked=(*section.blocked, key))
    return section


def boot_of(facts: Facts) -> str:
    """The boot that the host is in, "" where it is not known."""
    return facts.os.boot_id if isinstance(facts.os, OsRelease) else ""


def _by_hand(plan: Plan, findings: list[Finding]) -> int:
    return 0 if plan.is_empty and all(finding.is_good for finding in findings) else 2


def running(busy: Maybe[Busy], services: tuple[str, ...]) -> list[str]:
    """What is running in the services that will be stopped, a line for each thing."""
    if isinstance(busy, Unknown) and services:
        return [f"not known: {busy.reason}"]
    if not isinstance(busy, Busy):
        return []
    lines = []
    if "comfy" in services and busy.comfy_running is not None and busy.comfy_pending is not None:
        some = busy.comfy_running or busy.comfy_pending
        lines.append(f"comfy: {_jobs(busy.comfy_running)}, {busy.comfy_pending} waiting" if some else "comfy: no job")
    if "ollama" in services and busy.ollama is not None:
        names = ", ".join(f"{model.name} ({model.vram_mib} MiB of the card)" for model in busy.ollama)
        lines.append(f"ollama: {names} loaded" if names else "ollama: no model loaded")
    return lines


def _jobs(number: int) -> str:
    return f"{number} job{'s' if number != 1 else ''} running"


def wait_for_jobs(connection: Any, host: Host, plan: Plan, report: Waiting) -> None:
    """Until ComfyUI's queue is empty, if it is about to be stopped: it keeps its queue in memory alone. Raises
    Interrupted, and NotAsItShouldBe when that takes longer than JOB_S."""
    if "comfy" not in plan.stops:
        return
    deadline, silent = time.monotonic() + JOB_S, 0
    try:
        while True:
            jobs = _comfy_jobs(connection, host)
            silent = silent + 1 if jobs is None else 0
            if jobs == 0 or silent >= SILENT:
                return
            if time.monotonic() > deadline:
                break
            if jobs:
                report.waiting_for(
                    host, f"comfy has {jobs} job{'s' if jobs != 1 else ''} to finish; --now does not wait"
                )
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise Interrupted(f"{host.name}: interrupted while waiting for ComfyUI's job; nothing was changed") from None
    finally:
        report.settled()
    raise NotAsItShouldBe(
        f"{host.name}: ComfyUI's job is still running after {JOB_S / 60:.0f} minutes; nothing was changed",
        next_commands=["the same command with --now, which ends the job"],
    )


def _comfy_jobs(connection: Any, host: Host) -> int | None:
    """Jobs that ComfyUI is working on or has waiting; 0 where nothing listens or it answers otherwise: then nothing can
    be lost; None where it listens and is silent, which it is under load too. (/prompt tells their number; /queue holds
    whole workflows, and may be larger than what is read of an answer.) Where it cannot be asked from here, as when sshd
    does not forward, the host asks it."""
    import json

    from pantheon.remote.forward import http_through

    answer = http_through(connection, f"http://127.0.0.1:{host.comfy.port}/prompt", timeout_s=5)
    if answer.status == 0 and "no answer within" in answer.error:
        return None
    if answer.status == 0:
        return _jobs_on_host(connection, host)
    try:
        left = json.loads(answer.body)["exec_info"]["queue_remaining"] if answer.status == 200 else 0
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return left if isinstance(left, int) and not isinstance(left, bool) and left > 0 else 0


def _jobs_on_host(connection: Any, host: Host) -> int | None:
    from pantheon.remote import gather

    busy = gather.busy(connection, host)
    if not isinstance(busy, Busy):
        return None
    return (busy.comfy_running or 0) + (busy.comfy_pending or 0)


def _watch_started(connection: Any, host: Host, plan: Plan, *, what: str, report: Report) -> None:
    """Follow what was stopped, or is started, until it answers: the services that have a container of ours."""
    from pantheon.remote import gather

    section = plan.sections[0]
    names = dict.fromkeys((*plan.stops, *section.starts))
    if not names:
        return
    facts = gather.look(connection, host)
    ours = [foreign.named(facts, name) for name in names if name in SERVICES]
    services = tuple(c.name for c in ours if c is not None and foreign.is_ours(host, c))
    engine.watch(connection, host, services, what=what, report=report)


def _prove(
    connection: Any,
    host: Host,
    name: str,
    choices: Choices,
    plan: Plan,
    *,
    began: float,
    report: Report,
    trouble: ApplyError | None = None,
) -> int:
    """Look again: the entry's symptom must be gone, and its plan empty. `trouble` kept a service from coming up: it is
    raised where that is this entry's, or where nothing else that is wrong would say so."""
    case = examine(connection, host, choices)
    entry = fixes.load(name)
    left = [finding for finding in entry.diagnose(case) if not finding.is_good]
    todo = entry.plan(case).changes
    if trouble and (left or todo):
        raise trouble
    if left or todo:
        raise NotAsItShouldBe(
            f"{host.name}: the changes were made, and {SYMPTOMS[name]} is not gone",
            details=[*(f"{f.text}: {f.evidence}" for f in left), *(f"still to do: {change.what}" for change in todo)],
            next_commands=[f"invoke diagnose --host {host.name}"],
        )
    found = diagnosis.diagnose(case)
    if trouble and not found.causes:
        raise trouble
    findings = [cause.finding for cause in found.causes] + list(found.unknown)
    report.done(host, plan, findings, took_s=time.monotonic() - began)
    return 0 if found.is_good else 2
