"""A run of pantheon that holds the host's lock although nobody waits for it: stopped, or stuck in a step. A run whose
workstation is gone ends by itself within SELF_END_S (runner.py); what is left after that is this."""

from __future__ import annotations

from pantheon.evidence import Holder
from pantheon.facts import Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.plan import Change, EndRun, SectionPlan

ID = "stuck-apply"
CAUSE = "A run of pantheon was stopped, or is stuck in a step, and its workstation is gone: its lock keeps others out."
RISK = (
    "Ends that one process and the command that it runs, nothing else: no service is stopped and no file is removed. "
    "What it had half done stays so until the command that it ran is run again."
)

SELF_END_S = 30.0  # runner.py: SILENCE_S + GRACE_S + MEND_S
STOPPED = "Tt"  # the second while it is traced


def diagnose(case: Case) -> list[Finding]:
    """A holder that is stuck is a fault; one that is at work, or about to end by itself, is only told."""
    holder = case.evidence.holder
    held = isinstance(case.facts.lock, str)
    if isinstance(holder, Unknown):
        text = "whether somebody changes this host cannot be told"
        return [Finding(f"{ID}.holder", "unknown", text, holder.reason)] if held else []
    if holder is None:
        return []
    evidence = _evidence(holder)
    if why := stuck(holder):
        text = f"{_run(holder)} holds the host and will not end by itself: {why}"
        return [Finding(f"{ID}.holder", "fail", text, evidence, command(case, ID, "--end"))]
    if holder.ending:
        return [Finding(f"{ID}.ending", "warn", f"{_run(holder)} is just being ended", evidence)]
    if holder.gone_s is not None or not holder.client:
        text = f"{_run(holder)} has lost its workstation; it ends by itself within {SELF_END_S:.0f} s"
        return [Finding(f"{ID}.alone", "warn", text, evidence, f"invoke diagnose --host {case.host.name}")]
    return [Finding(f"{ID}.busy", "warn", f"{_run(holder)} is changing this host", evidence)]


def plan(case: Case) -> SectionPlan:
    """Nothing without --end; with it, the end of exactly that process."""
    holder = case.evidence.holder
    if not isinstance(holder, Holder):
        return SectionPlan(ID, reason="no run of pantheon holds this host")
    if not _may_end(case, holder):
        reason = "the run that holds this host is about to end by itself"
        if holder.client and holder.gone_s is None and not holder.ending:
            reason = f"{_run(holder)} is at work, and its workstation is there: Ctrl-C in that terminal ends it"
        return SectionPlan(ID, reason=reason)
    if not case.choices.end:
        text = f"{_run(holder)} is ended only when asked"
        return SectionPlan(ID, blocked=(Finding(ID, "fail", text, mend=command(case, ID, "--end")),))
    what = f"end {_run(holder)} (process {holder.pid})"
    why = stuck(holder) or "its workstation is gone"
    return SectionPlan(ID, (Change(what, why, (EndRun(holder.pid, holder.started, holder.run),)),))


def stuck(holder: Holder) -> str:
    """Why this run will not end by itself, "" while it may."""
    if holder.state in tuple(STOPPED):
        return "its process is stopped"
    if holder.gone_s is not None and holder.gone_s > SELF_END_S:
        return f"its workstation has been gone for {_minutes(holder.gone_s)}"
    if holder.state == "D" and not holder.client:
        return "its workstation is gone, and its process is stuck in the kernel"
    return ""


def _may_end(case: Case, holder: Holder) -> bool:
    """Asked to, even one that has only just lost its workstation, as far as can be seen."""
    return bool(stuck(holder)) or (case.choices.end and not holder.client and not holder.ending)


def _run(holder: Holder) -> str:
    return f"{holder.what or 'a run of pantheon'} of {holder.who or 'somebody who left no name'}"


def _evidence(holder: Holder) -> str:
    says = {"T": "stopped", "t": "stopped", "D": "stuck in the kernel"}.get(holder.state, "")
    parts = [
        f"since {holder.since}" if holder.since else "",
        f"process {holder.pid}{f', {says}' if says else ''}",
        "" if holder.client else "no SSH session behind it",
        f"runs: {holder.doing}" if holder.doing else "",
    ]
    return "; ".join(part for part in parts if part)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
