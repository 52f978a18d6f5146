"""Takeovers and moves, as flow: what the pure rooms (takeover/) need to know is gathered, and the way back is gone.

Exit codes as in engine.py; what is to be seen goes to its Report.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pantheon import engine, foreign, stack
from pantheon.belongings import Belongings
from pantheon.errors import NotAsItShouldBe
from pantheon.facts import Container, Facts, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.plan import Change, Plan, SectionPlan
from pantheon.takeover import kept as remains
from pantheon.takeover import moves, old, plan, record, undo
from pantheon.takeover.plan import Taking

STARTED_S = 60.0
INSIDE = 8188  # where ComfyUI listens in its container


def prepare(connection: Any, host: Host, facts: Facts, options: Options) -> Taking | None:
    """What is to be taken over, or moved, before the sections; None: nothing is. Raises what a look raises."""
    before = record.known(facts)
    going_back = before is not None and before.stage == "undoing"
    is_move = moves.is_pending(host, facts) and not (before and before.is_open and before.kind == "adopt")
    if not (options.adopt or is_move) or not isinstance(facts.containers, tuple):
        return None
    if isinstance(record.read(facts), Unknown):
        return None  # the sections say so
    found = old.find(host, facts, before, adopt=options.adopt, take=options.take)
    kind = (
        before.kind if before and before.is_open else "adopt" if any(o.kind == "theirs" for o in found.olds) else "move"
    )
    is_begun = before is not None and before.is_open
    if not (found.blocked or is_begun or is_move or any(o.kind != "ours" for o in found.olds)):
        return None
    asked = plan.ask(host, facts, found.olds)
    seen = _count(connection, host, asked)
    if going_back and before is not None:
        before = before.at("begun")  # forward again: what is back already is stopped anew
    when = datetime.now(UTC).strftime(plan.WHEN)
    return plan.plan(host, facts, found, seen, record=before, kind=kind, when=when)


def wait_for_jobs(connection: Any, host: Host, facts: Facts, whole: Plan, report: Any) -> None:
    """Until a ComfyUI that is about to be stopped, whoever made it, has finished what it works on: it keeps its queue
    in memory alone. Raises Interrupted, and NotAsItShouldBe when that takes too long."""
    from pantheon import repair

    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    stopped = [c for c in containers if c.name in whole.stops and foreign.service_of(host, facts, c) == "comfy"]
    ports = {port.port for container in stopped for port in container.ports if port.container_port == f"{INSIDE}/tcp"}
    ports |= {INSIDE for container in stopped if container.network_mode == "host"}
    for port in ports:
        there = replace(host, comfy=replace(host.comfy, port=port))
        stops = SectionPlan(plan.NAME, (Change("", "", (), stops=("comfy",)),))
        repair.wait_for_jobs(connection, there, Plan(host.name, (stops,)), report)


def _count(connection: Any, host: Host, asked: dict[str, object]) -> Belongings:
    from pantheon.remote import gather

    return gather.belongings(connection, host, asked)


def _same(facts: Facts, one: record.Kept) -> Container | None:
    """That container; one of its name where it has been removed, and made again."""
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    by_id = next((c for c in containers if c.id == one.id), None)
    if by_id is not None:
        return by_id if by_id.name == one.name else None
    return next((c for c in containers if c.name == one.name and stack.OURS not in c.labels), None)


def is_back(host: Host, facts: Facts, before: record.Record) -> list[Finding]:
    """A finding for each container that was to be back, as it is."""
    findings = []
    for one in (kept for kept in before.containers if kept.kept):
        container = _same(facts, one)
        key, log = f"undo.{one.name}", host.ssh(f"docker logs --tail=50 {one.name}")
        if container is None:
            findings.append(Finding(key, "fail", f"{one.name} is not there", one.image))
        elif one.running and one.state == "restarting":
            evidence = "it ended again and again before it was taken over, too"
            findings.append(Finding(key, "warn", f"{one.name} is {container.state}", evidence, log))
        elif one.running and container.state not in ("running", one.state):
            findings.append(Finding(key, "fail", f"{one.name} is {container.state}", container.error, log))
        elif not one.running:
            text, evidence = f"{one.name} is {container.state}", "it did not run when it was taken over, either"
            findings.append(Finding(key, "warn", text, evidence))
        else:
            findings.append(Finding(key, "ok", f"{one.name} is {container.state}", container.image))
    return findings


def go_back(connection: Any, host: Host, facts: Facts, *, options: Options, report: engine.Report, began: float) -> int:
    """The old stack as it was: shown, agreed, applied, looked at again. Returns 0 when it runs, 2 when something is in
    the way. Raises what engine.bring raises."""
    before = record.read(facts)
    if isinstance(before, Unknown):
        problem = record.open_finding(host, facts)
        report.findings(host, "the way back", [problem] if problem else [], took_s=time.monotonic() - began)
        return 2
    seen = _count(connection, host, undo.ask(before)) if before and before.stage != "undone" else Belongings()
    section = undo.plan(host, facts, before, seen)
    whole = Plan(host.name, (section,))
    took = time.monotonic() - began
    if options.plan_only or whole.blocked:
        report.plan(host, whole, [], took_s=took, details=options.details, final=True)
        return 0 if whole.is_empty else 2
    if whole.is_empty or before is None:
        note = Finding("undo.nothing", "warn", section.reason)
        report.nothing_to_do(host, [note], took_s=took)
        return 0
    engine.free(host, facts)
    report.plan(host, whole, [], took_s=took, details=options.details, final=False)
    engine.agree(host, whole, [], options, report)
    if not options.now:
        wait_for_jobs(connection, host, facts, whole, report)
    there = {one.name: one.old for one in moves.undone(host, before)}
    engine.apply(connection, host, whole, facts, what="bringup --undo", report=report, there=there)
    deadline = time.monotonic() + STARTED_S
    while True:
        facts = engine.look(connection, host)
        findings = is_back(host, facts, before)
        if all(finding.is_good for finding in findings) or time.monotonic() > deadline:
            break
        time.sleep(1)
    if any(not finding.is_good for finding in findings):
        raise NotAsItShouldBe(
            f"{host.name}: the old stack is not as it was",
            details=[f"{finding.text} {finding.evidence}".rstrip() for finding in findings if not finding.is_good],
            next_commands=[finding.mend for finding in findings if finding.mend][:1],
        )
    report.done(host, whole, [*findings, *remains.after_undo(host, facts, before)], took_s=time.monotonic() - began)
    return 0
