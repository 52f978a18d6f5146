"""How an incident is shown: one cause, its evidence, what follows from it, and one command to type next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Plan, SectionPlan
from pantheon.report.text import count, seconds
from pantheon.symptoms import SYMPTOMS

if TYPE_CHECKING:
    from pantheon.diagnosis import Cause, Diagnosis
    from pantheon.report.console import Console

MOST = 5  # consequences shown under a cause, and lines of evidence shown of a finding
INDENT = "    "
SIGN = {"ok": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


@dataclass(frozen=True)
class Group:
    """The causes that one entry mends, or one that no entry does."""

    entry: str
    causes: tuple[Cause, ...]

    @property
    def mend(self) -> str:
        return next((cause.finding.mend for cause in self.causes if cause.finding.mend), "")


def groups(causes: Iterable[Cause]) -> list[Group]:
    """Causes in their order; those of one entry that are mended alike stand together."""
    found: dict[tuple[str, str], list[Cause]] = {}
    for number, cause in enumerate(causes):
        alone = "" if cause.entry else str(number)
        found.setdefault((cause.entry, alone or cause.finding.mend), []).append(cause)
    return [Group(entry, tuple(members)) for (entry, _), members in found.items()]


def diagnosis(console: Console, host: Host, found: Diagnosis, *, took_s: float) -> None:
    console.settled()
    if found.is_good and not found.warnings:
        console.line("✓", host.name, f"nothing found ({seconds(took_s)})")
        return
    console.headline(f"DIAGNOSE {host.name}", f"looked {seconds(took_s)}")
    wrong = groups(found.causes)
    for number, group in enumerate(wrong, 1):
        _group(console, group, number if len(wrong) > 1 else 0)
    for finding in found.unknown:
        console.finding(finding)
    for finding in found.warnings:
        console.finding(finding)
    if found.is_good:
        console.line("✓", host.name, "nothing found")
    if wrong:
        console.next([wrong[0].mend] if wrong[0].mend else [f"invoke validate --host {host.name}"])


def _group(console: Console, group: Group, number: int) -> None:
    """One thing that is wrong. Numbered where there are several, and then with its own command."""
    head, name = f"{number} ✗ " if number else "✗ ", f"{group.entry}: " if group.entry else ""
    for cause in group.causes:
        console.prose(head, f"{name}{cause.finding.text}")
        evidence(console, cause.finding)
        head, name = f"{'':{len(head) - 2}}✗ ", ""
    consequences(console, [finding for cause in group.causes for finding in cause.consequences])
    if number and group.mend:
        console.say(f"{INDENT}→ {console.typed(group.mend)}")


def evidence(console: Console, finding: Finding) -> None:
    """What was read on the host, as it was read: a line for each."""
    lines = [line for line in finding.evidence.splitlines() if line.strip()]
    for line in lines[:MOST]:
        console.prose(INDENT, line, "dim")
    if len(lines) > MOST:
        console.say(f"{INDENT}and {count(len(lines) - MOST, 'line')} more", "dim")


def consequences(console: Console, findings: list[Finding]) -> None:
    for finding in findings[:MOST]:
        console.prose(f"{INDENT}└ ", finding.text, "dim")
    if len(findings) > MOST:
        console.say(f"{INDENT}└ and {len(findings) - MOST} more that follow from it", "dim")


def entry(console: Console, host: Host, name: str, findings: list[Finding], risk: str) -> None:
    """What a fix found, and what it may stop: before its plan."""
    console.settled()
    console.headline(f"fix.{name} {host.name}")
    for finding in findings:
        console.prose(f"{SIGN[finding.level]} ", finding.text)
        evidence(console, finding)
    if risk:
        console.prose("", risk, "dim")


def is_fix(plan: Plan) -> bool:
    return bool(plan.sections) and all(section.name in SYMPTOMS for section in plan.sections)


def changes(console: Console, section: SectionPlan) -> None:
    """The changes of a fix, a line for each: the entry's name stands above them already."""
    for change in section.changes:
        console.prose(f"{change.sign} ", change.what)


def blocked(console: Console, section: SectionPlan, shown: list[Finding]) -> None:
    """What is in a fix's way, but for what was `shown` above. What takes it away comes last, as what to type next."""
    for finding in section.blocked:
        if not any(finding.text == other.text for other in shown):
            console.prose(f"{SIGN[finding.level]} ", finding.text)
            evidence(console, finding)


def done(console: Console, host: Host, plan: Plan, findings: list[Finding], *, took_s: float) -> None:
    """The symptom is gone; what else is not as it should be stands below."""
    changed = count(len(plan.changes), "change") if plan.changes else "nothing changed"
    console.line("✓", host.name, f"{changed}, {seconds(took_s)}. Looked again: it is mended")
    bad = [finding for finding in findings if finding.level != "ok"]
    for finding in bad:
        console.finding(finding)
    if any(not finding.is_good for finding in bad):
        console.next([f"invoke diagnose --host {host.name}"])
