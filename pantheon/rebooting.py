"""`invoke reboot`: says what runs and whether the stack will be back, waits for what runs, reboots, waits for the host
and its services, validates."""

from __future__ import annotations

import time
from typing import Any, Protocol

from pantheon import engine, foreign, installing, procedure, repair, survival
from pantheon.errors import NotAsItShouldBe
from pantheon.evidence import Evidence
from pantheon.facts import Facts, OsRelease, Unknown
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.options import Options
from pantheon.plan import Plan, SectionPlan
from pantheon.reboot import change, others
from pantheon.sections import validate as checklist

WHY = "asked for"


class Report(engine.Report, Protocol):
    """What a reboot shows besides."""

    def survival(self, host: Host, findings: list[Finding], ends: list[str], *, took_s: float) -> None: ...


def reboot(host: Host, *, options: Options, report: Report) -> int:
    """Returns 0 when the host is back and the checklist holds (where none of the stack was there: section 2), 2 when it
    does not, or when something forbids the reboot. Raises Declined, Locked, StepFailed, ApplyError when the host does
    not go down, NotReached when it does not come back, and Interrupted."""
    began = engine.began_at(options)
    report.connecting(host, "reboot")
    with engine.connected(host, options) as connection:
        facts, evidence = _look(connection, host)
        findings = survival.check(host, facts, evidence)
        took = time.monotonic() - began
        report.survival(host, findings, others(host, facts, evidence), took_s=took)
        plan = _plan(host, facts, evidence, findings)
        report.busy(host, repair.running(evidence.busy, plan.stops))
        if plan.blocked or options.plan_only:
            report.plan(host, plan, [], took_s=took, details=options.details, final=True)
            return 2
        engine.free(host, facts)
        report.plan(host, plan, [], took_s=took, details=options.details, final=False)
        engine.agree(host, plan, [], options, report)
        had = _had_stack(host, facts)
        facts = installing.carry_out(
            connection, host, plan, facts, evidence, what="reboot", options=options, report=report
        )
        return _prove(connection, host, facts, had=had, report=report, took_s=time.monotonic() - began)


def _look(connection: Any, host: Host) -> tuple[Facts, Evidence]:
    from pantheon.remote import gather

    return gather.look_with(connection, host, *survival.PARTS)


def _plan(host: Host, facts: Facts, evidence: Evidence, findings: list[Finding]) -> Plan:
    bad = [finding for finding in findings if finding.level == "fail"]
    if not isinstance(facts.os, OsRelease):
        why = facts.os.reason if isinstance(facts.os, Unknown) else ""
        text = f"in which boot {host.name} is: not known, so its return could not be told"
        bad.append(Finding(f"{survival.ID}.boot", "unknown", text, why, f"invoke diagnose --host {host.name}"))
    if bad:
        return Plan(host.name, (SectionPlan("reboot", blocked=tuple(bad), reboots=True),))
    required = evidence.reboot_required
    step = change(host, facts, why=required if isinstance(required, str) else WHY)
    return Plan(host.name, (SectionPlan("reboot", (step,), starts=step.stops, reboots=True),))


def _had_stack(host: Host, facts: Facts) -> bool:
    containers = [foreign.named(facts, name) for name in SERVICES]
    return any(container is not None and foreign.is_ours(host, container) for container in containers)


def _prove(connection: Any, host: Host, facts: Facts, *, had: bool, report: Report, took_s: float) -> int:
    """In another boot (reboot.wait saw to that), with everything that was there before."""
    if not isinstance(facts.os, OsRelease):
        raise NotAsItShouldBe(
            f"{host.name}: it is back, and what it is cannot be read",
            next_commands=[f"invoke diagnose --host {host.name}"],
        )
    if had:
        title = "back, validation checklist (§8)"
        findings = checklist.check(host, facts, engine.answers(connection, host, SERVICES))
    else:
        title, findings = "back, prerequisites (§2)", procedure.check(host, facts, ("prereqs",))
    report.findings(host, title, findings, took_s=took_s)
    return engine.code_of(findings)
