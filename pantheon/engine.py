"""The one way through: look, plan, show, ask, apply, look again, prove.

Each function returns the exit code of its command (PRODUCT.md) and raises PantheonError for what went wrong. It prints
nothing itself: what is to be seen goes to a Report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pantheon import foreign, memory, procedure
from pantheon.errors import ApplyError, Declined, Interrupted, NotAsItShouldBe
from pantheon.facts import Facts, Http
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.options import Options
from pantheon.plan import Plan
from pantheon.sections import storage
from pantheon.sections import validate as checklist
from pantheon.takeover import kept, moves, record
from pantheon.watched import Watched, follow, ready_url

ENDING_S = 20.0
QUICK_START_S = 600.0  # Ollama and Open WebUI: a database migration included


class Report(Protocol):
    """Where everything that an operator sees goes: a terminal, plain lines or JSON."""

    def connecting(self, host: Host, what: str) -> None: ...
    def plan(
        self, host: Host, plan: Plan, warnings: list[Finding], *, took_s: float, details: bool, final: bool
    ) -> None: ...
    def ask(self, question: str) -> bool: ...
    def applying(self, host: Host, plan: Plan, what: str) -> Callable[[dict[str, Any]], None]: ...
    def watching(self, host: Host, what: str, services: tuple[str, ...]) -> Callable[[dict[str, Watched]], None]: ...
    def busy(self, host: Host, lines: list[str]) -> None: ...
    def waiting_for(self, host: Host, text: str) -> None: ...
    def settled(self) -> None: ...
    def nothing_to_do(self, host: Host, findings: list[Finding], *, took_s: float) -> None: ...
    def done(self, host: Host, plan: Plan, findings: list[Finding], *, took_s: float) -> None: ...
    def findings(self, host: Host, title: str, findings: list[Finding], *, took_s: float) -> None: ...


@contextmanager
def connected(host: Host, options: Options) -> Iterator[Any]:
    """An open, verified connection: the one that was begun while this module was imported, or a new one."""
    if options.ahead:
        with options.ahead.connection() as connection:
            yield connection
        return
    from pantheon.remote.connection import HostConnection

    with HostConnection.to(host, ask_password=options.ask_password) as connection:
        connection.open()
        yield connection


def began_at(options: Options) -> float:
    """When the command began to look, on the monotonic clock."""
    return float(options.ahead.began) if options.ahead else time.monotonic()


def look(connection: Any, host: Host) -> Facts:
    from pantheon.remote import gather

    return gather.look(connection, host)


def bring(host: Host, names: tuple[str, ...], *, what: str, options: Options, report: Report) -> int:
    """Bring the named sections to what the inventory says. Returns 0 when they are, 2 when something is not as it
    should be and nothing was done about it. Raises Declined, Locked, HostChanged, StepFailed and the HostErrors."""
    options.check()
    began = began_at(options)
    report.connecting(host, what)
    with connected(host, options) as connection:
        beside = _atlas(connection, host, names)
        facts = _after_the_end(connection, host, look(connection, host))
        if options.undo:
            from pantheon import adopting  # which asks, agrees and applies by what is here

            return adopting.go_back(connection, host, facts, options=options, report=report, began=began)
        said: tuple[Finding, ...] = ()
        for phase in (_install, _mount):
            ready, code, notes = phase(connection, host, facts, names, what=what, options=options, report=report)
            if ready is None:
                return code
            said += notes
            if ready is not facts:  # what follows is looked at anew, and timed by itself
                facts, began = ready, time.monotonic() - ready.took_s
        taking = None
        if what == "bringup" and (options.adopt or moves.is_pending(host, facts)):
            from pantheon import adopting

            taking = adopting.prepare(connection, host, facts, options)
            what = "bringup --adopt" if taking and taking.record.kind == "adopt" else what
        warnings = [*memory.warnings(host, facts), *said, *beside(), *(taking.warnings if taking else ())]
        plan = procedure.plan(host, facts, names, taking=taking)
        took = time.monotonic() - began
        if options.plan_only or plan.blocked:
            report.plan(host, plan, warnings, took_s=took, details=options.details, final=True)
            return 0 if plan.is_empty else 2
        services = tuple(name for name in procedure.ORDER if name in names and name in SERVICES)
        if plan.is_empty and not _starting(facts, services):
            findings = procedure.check(host, facts, names)
            report.nothing_to_do(host, findings + warnings, took_s=took)
            return code_of(findings)
        if not plan.is_empty:
            free(host, facts)
            report.plan(host, plan, warnings, took_s=took, details=options.details, final=False)
            agree(host, plan, warnings, options, report)
            if taking and not options.now:
                adopting.wait_for_jobs(connection, host, facts, plan, report)
            apply(connection, host, plan, facts, what=what, report=report)
        watch(connection, host, services, what=what, report=report)
        kept_too = options.adopt or bool(taking)
        return _prove(connection, host, plan, names, began=began, report=report, kept_too=kept_too)


def _install(
    connection: Any, host: Host, facts: Facts, names: tuple[str, ...], *, what: str, options: Options, report: Report
) -> tuple[Facts | None, int, tuple[Finding, ...]]:
    """Ahead of the plan, with a plan of its own: the facts then, and what is to be said of them; or None and the exit
    code where the command ends."""
    del names
    if not options.install:
        return facts, 0, ()
    from pantheon import installing

    return installing.install(connection, host, facts, what=what, options=options, report=report)


def _mount(
    connection: Any, host: Host, facts: Facts, names: tuple[str, ...], *, what: str, options: Options, report: Report
) -> tuple[Facts | None, int, tuple[Finding, ...]]:
    """The same for the disks that hosts.toml names and that are not mounted."""
    if "storage" not in names or not storage.to_mount(host, facts):
        return facts, 0, ()
    from pantheon import mounting

    return (*mounting.disks(connection, host, facts, what=what, options=options, report=report), ())


def _atlas(connection: Any, host: Host, names: tuple[str, ...]) -> Callable[[], list[Finding]]:
    """What a bring-up as a whole has to say of Atlas, looked at meanwhile. It depends on none of it."""
    if not host.atlas or names != procedure.ORDER:
        return list
    from pantheon import mounting

    return mounting.Beside(connection, host).warnings


def _after_the_end(connection: Any, host: Host, facts: Facts) -> Facts:
    """What is there when a run that is just being ended has gone: after Ctrl-C, and the same command again, it holds
    the lock for some seconds more."""
    deadline = time.monotonic() + ENDING_S
    while isinstance(facts.lock, str) and '"ending": true' in facts.lock and time.monotonic() < deadline:
        time.sleep(0.5)
        facts = look(connection, host)
    return facts


def free(host: Host, facts: Facts) -> None:
    """Raises Locked when somebody is at work there: a plan made in the middle of that would be about nothing."""
    from pantheon.remote.apply import locked

    if isinstance(facts.lock, str):
        try:
            holder = json.loads(facts.lock)
        except ValueError:
            holder = None
        raise locked(host, holder)


def agree(host: Host, plan: Plan, warnings: list[Finding], options: Options, report: Report) -> None:
    """Raises Declined unless the operator agreed to exactly this plan."""
    older = [finding for finding in warnings if finding.id.startswith("memory.")]
    if options.yes:
        if older and not options.older:
            raise Declined(
                f"{host.name}: {older[0].text}",
                details=[older[0].evidence],
                next_commands=["git pull", "the same command with --older, if that is what you want"],
            )
        return
    count = len(plan.changes)
    try:
        agreed = report.ask(f"Apply {count} change{'s' if count != 1 else ''} to {host.name}?")
    except KeyboardInterrupt:
        raise Interrupted(f"{host.name}: interrupted; nothing was changed") from None
    if not agreed:
        raise Declined(f"{host.name}: nothing was changed")


def apply(
    connection: Any,
    host: Host,
    plan: Plan,
    facts: Facts,
    *,
    what: str,
    report: Report,
    there: dict[str, str] | None = None,
) -> None:
    """Apply the plan as it was shown. `there` says where data lies afterwards, if not where the plan's own sections
    bring it. Raises Locked, HostChanged, StepFailed and Interrupted."""
    from pantheon.remote import apply as remote

    there = moves.brought(host, plan) if there is None else there
    state = memory.remember(host, facts, who=remote.who(), there=there)
    try:
        remote.apply(connection, host, plan, what=what, state=state, on_event=report.applying(host, plan, what))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{host.name}: interrupted; the host ends the running step, tidies up and frees its lock by itself",
            next_commands=[f"invoke {what} --host {host.name}"],
        ) from None
    finally:
        report.settled()


def _starting(facts: Facts, services: tuple[str, ...]) -> bool:
    """Whether a service that is as planned is still on its way up."""
    containers = [foreign.named(facts, name) for name in services]
    return any(c is not None and c.state == "running" and c.health == "starting" for c in containers)


def watch(connection: Any, host: Host, services: tuple[str, ...], *, what: str, report: Report) -> None:
    """Follow the services until all of them answer. Raises ApplyError when one cannot come up, or is late."""
    if not services:
        return
    from pantheon.remote import gather

    show = report.watching(host, what, services)
    seen = {name: Watched() for name in services}
    deadline = host.comfy.first_run_minutes * 60.0 if "comfy" in services else QUICK_START_S
    began = time.monotonic()

    def on_frame(frame: dict[str, Any]) -> bool:
        for name in services:
            seen[name] = follow(name, seen[name], frame, late=time.monotonic() - began > QUICK_START_S)
        show(dict(seen))
        return all(w.ready for w in seen.values()) or any(w.trouble for w in seen.values())

    try:
        urls = {name: ready_url(host, name) for name in services}
        gather.watch(connection, urls, deadline_s=deadline, on_frame=on_frame)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{host.name}: stopped watching; the services go on by themselves",
            next_commands=[f"invoke {what} --host {host.name}"],
        ) from None
    finally:
        report.settled()
    for name, watched in seen.items():
        if watched.trouble:
            raise ApplyError(
                f"{host.name}: {name} cannot start: {watched.trouble}",
                next_commands=[
                    watched.mend if "runbook" in watched.mend else f"{watched.mend} --host {host.name}",
                    host.ssh(f"docker logs --tail=50 {name}"),
                ],
            )
    late = [name for name, watched in seen.items() if not watched.ready]
    if late:
        minutes = f"{deadline / 60:.0f} minute{'s' if deadline != 60 else ''}"
        stage = f" ({seen['comfy'].progress.label})" if "comfy" in late else ""
        raise ApplyError(
            f"{host.name}: {', '.join(late)} did not get ready within {minutes}{stage}; it goes on by itself",
            next_commands=[f"invoke {late[0]} --host {host.name}"],
        )


def _prove(
    connection: Any,
    host: Host,
    plan: Plan,
    names: tuple[str, ...],
    *,
    began: float,
    report: Report,
    kept_too: bool = False,
) -> int:
    """Look again: the new plan must be empty, and what was brought up must hold. `kept_too`: say what is kept of a
    stack that was taken over."""
    facts = look(connection, host)
    again = procedure.plan(host, facts, names)
    if not again.is_empty:
        details = [f"{section.name}: {change.what}" for section in again.sections for change in section.changes]
        details += [finding.text for finding in again.blocked]
        raise NotAsItShouldBe(
            f"{host.name}: after the changes there is still something to do",
            details=details,
            next_commands=[f"invoke bringup --plan --host {host.name}"],
        )
    findings = _findings(connection, host, facts, names)
    if kept_too and all(finding.is_good for finding in findings):
        findings += kept.after(host, facts, record.known(facts))
    report.done(host, plan, findings, took_s=time.monotonic() - began)
    return code_of(findings)


def _findings(connection: Any, host: Host, facts: Facts, names: tuple[str, ...]) -> list[Finding]:
    if set(SERVICES) <= set(names):
        return checklist.check(host, facts, answers(connection, host, SERVICES))
    return procedure.check(host, facts, names)


def answers(connection: Any, host: Host, services: tuple[str, ...]) -> dict[str, Http]:
    """Each service's answer to a request from this workstation, through the SSH connection."""
    from pantheon.remote.forward import http_through

    return {
        name: http_through(connection, f"http://127.0.0.1:{host.service(name).port}/", timeout_s=10)
        for name in services
    }


def prerequisites(host: Host, *, options: Options, report: Report) -> int:
    """Section 2: look and judge. Returns 0 or 2."""
    began = began_at(options)
    report.connecting(host, "prereqs")
    with connected(host, options) as connection:
        facts, names = look(connection, host), ("prereqs",)
        ready, code, notes = _install(connection, host, facts, names, what="prereqs", options=options, report=report)
        if ready is None:
            return code
        if ready is not facts:
            facts, began = ready, time.monotonic() - ready.took_s
        findings = [*procedure.check(host, facts, names), *notes]
    report.findings(host, "prerequisites (§2)", findings, took_s=time.monotonic() - began)
    return code_of(findings)


def validate(host: Host, *, options: Options, report: Report) -> int:
    """Section 8: the checklist. Returns 0 or 2."""
    began = began_at(options)
    report.connecting(host, "validate")
    with connected(host, options) as connection:
        facts = look(connection, host)
        findings = checklist.check(host, facts, answers(connection, host, SERVICES))
    report.findings(host, "validation checklist (§8)", findings, took_s=time.monotonic() - began)
    return code_of(findings)


def code_of(findings: list[Finding]) -> int:
    """The exit code of a command that has judged: 0 when all is well, else 2."""
    return 0 if all(finding.is_good for finding in findings) else 2
