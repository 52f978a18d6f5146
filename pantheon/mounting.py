"""`invoke atlas`: the mounts of Atlas, planned, applied and checked. A dead server never holds it up."""

from __future__ import annotations

import threading
import time
from typing import Any

from pantheon import atlas as mounts
from pantheon import attaching, engine
from pantheon.errors import LookFailed, NotAsItShouldBe
from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.nfs import Atlas
from pantheon.options import Options
from pantheon.plan import Plan, SectionPlan
from pantheon.sections import storage

WHAT = "atlas"


def atlas(host: Host, *, verify: bool, options: Options, report: engine.Report) -> int:
    """Returns 0 when every mount is as hosts.toml says, else 2. `verify` tries to write, too: after the mounts are as
    they should be, as a plan of its own. Raises what engine.bring raises."""
    began = engine.began_at(options)
    report.connecting(host, WHAT)
    with engine.connected(host, options) as connection:
        facts, seen = _first(connection, host)
        section = mounts.plan(host, seen)
        plan = Plan(host.name, (section,))
        standing = mounts.standing(host, seen)
        if plan.is_empty and verify:
            plan, standing = Plan(host.name, (mounts.plan(host, seen, verify=True),)), []
        took = time.monotonic() - began
        if plan.blocked:
            report.plan(host, plan, [], took_s=took, details=options.details, final=True)
            return 2
        if plan.is_empty or (options.plan_only and not plan.changes):
            return _say(host, seen, plan, tried=verify, took=took, report=report)
        report.plan(host, plan, standing, took_s=took, details=options.details, final=options.plan_only)
        if options.plan_only:
            return 2
        engine.free(host, facts)
        engine.agree(host, plan, [], options, report)
        engine.apply(connection, host, plan, facts, what=WHAT, report=report)
        seen = look(connection, host)
        left = mounts.plan(host, seen).changes
        done = plan
        if verify and not left and not _is_trial(plan):
            trial = Plan(host.name, (mounts.plan(host, seen, verify=True),))
            if trial.changes:  # agreed to with --verify and with the plan above: it touches no file but its own
                engine.apply(connection, host, trial, facts, what=WHAT, report=report)
                done = Plan(host.name, (*plan.sections, *trial.sections))
                seen = look(connection, host)
        if left:
            raise _unfinished(host, seen, [change.what for change in left])
    findings = mounts.check(host, seen, tried=verify)
    took = time.monotonic() - began
    if _is_trial(done):
        report.settled()
        report.findings(host, "mounts of Atlas, tried", findings, took_s=took)
    else:
        report.done(host, done, findings, took_s=took)
    return engine.code_of(findings)


def _is_trial(plan: Plan) -> bool:
    return any(getattr(step, "name", "") == "atlas_verify" for change in plan.changes for step in change.steps)


def _unfinished(host: Host, seen: Atlas, left: list[str]) -> NotAsItShouldBe:
    bad = [finding for finding in mounts.check(host, seen) if not finding.is_good]
    details = [f"still to do: {what}" for what in left]
    details += [f"{finding.text}: {finding.evidence}" if finding.evidence else finding.text for finding in bad]
    mends = [finding.mend for finding in bad if finding.mend]
    return NotAsItShouldBe(
        f"{host.name}: the changes were made, and there is still something to do",
        details=details,
        next_commands=list(dict.fromkeys(mends)) or [f"invoke atlas --host {host.name}"],
    )


def _say(host: Host, seen: Atlas, plan: Plan, *, tried: bool, took: float, report: engine.Report) -> int:
    """Nothing to change: what is there is shown, all of it."""
    findings = mounts.check(host, seen, tried=tried)
    if not findings:
        report.plan(host, plan, [], took_s=took, details=False, final=True)
        return 0
    report.findings(host, "mounts of Atlas", findings, took_s=took)
    return engine.code_of(findings)


def _first(connection: Any, host: Host) -> tuple[Facts, Atlas]:
    from pantheon.remote import gather

    facts, evidence = gather.look_with(connection, host, "atlas")
    return facts, _seen(host, evidence)


def look(connection: Any, host: Host) -> Atlas:
    """The mounts as they are. Raises LookFailed where that cannot be told."""
    from pantheon.remote import gather

    return _seen(host, gather.parts(connection, host, "atlas"))


def _seen(host: Host, evidence: Evidence) -> Atlas:
    if isinstance(evidence.atlas, Atlas):
        return evidence.atlas
    why = evidence.atlas.reason if isinstance(evidence.atlas, Unknown) else "nothing was said of them"
    raise LookFailed(f"{host.name}: the mounts of Atlas could not be looked at: {why}")


def disks(
    connection: Any, host: Host, facts: Facts, *, what: str, options: Options, report: engine.Report
) -> tuple[Facts | None, int]:
    """Mounts the storage roots that hosts.toml has a source for (procedure §3), before anything is planned on them: a
    plan of its own. Returns (the facts then, 0), at once where they are mounted; (None, exit code) when the command
    ends here. Raises what engine.bring raises."""
    if not storage.to_mount(host, facts):
        return facts, 0
    from pantheon.remote import gather

    began = time.monotonic()
    section = attaching.plan(host, facts, gather.parts(connection, host, *attaching.PARTS))
    then = SectionPlan("then", reason="the rest, planned when the disks are there", waits=True)
    plan = Plan(host.name, (section, *(() if section.blocked else (then,))))
    final = options.plan_only or bool(plan.blocked)
    if not final:
        engine.free(host, facts)
    report.plan(host, plan, [], took_s=time.monotonic() - began, details=options.details, final=final)
    if final:
        return None, 2
    engine.agree(host, plan, [], options, report)
    engine.apply(connection, host, plan, facts, what=what, report=report)
    facts = engine.look(connection, host)
    left = [root.path for root in storage.to_mount(host, facts)]
    if left:
        raise NotAsItShouldBe(
            f"{host.name}: after the changes {' and '.join(left)} is not mounted",
            next_commands=[f"invoke diagnose --host {host.name}"],
        )
    return facts, 0


class Beside:
    """A look at the mounts beside another command's own: what a bring-up warns of. It takes no time where hosts.toml
    names none, and never fails."""

    def __init__(self, connection: Any, host: Host) -> None:
        self.host, self._found = host, list[Finding]()
        self._thread: threading.Thread | None = None
        if host.atlas:
            about = (connection,)
            self._thread = threading.Thread(target=self._look, args=about, name="pantheon-atlas", daemon=True)
            self._thread.start()

    def _look(self, connection: Any) -> None:
        try:
            self._found = mounts.warnings(self.host, look(connection, self.host))
        except Exception as error:  # the connection may be closed meanwhile: the command has ended without this
            text = "the mounts of Atlas could not be looked at; the AI stack does not need them"
            mend = f"invoke atlas --host {self.host.name}"
            self._found = [Finding("atlas.mounts", "warn", text, str(error), mend, mounts.SOURCE)]

    def warnings(self) -> list[Finding]:
        if self._thread:
            self._thread.join()
        return self._found
