"""How an audit is shown in a terminal: subject by subject, what is wrong with its evidence and what mends it."""

from __future__ import annotations

import sys
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING

from pantheon.audit import Audit, by_subject
from pantheon.comparison import Comparison, Difference
from pantheon.control import SEVERITIES, Result
from pantheon.report import data
from pantheon.report.text import clean, count, seconds

if TYPE_CHECKING:
    from pantheon.report.console import Console

SIGN = {"pass": "✓", "fail": "✗", "unknown": "?", "waived": "~", "not applicable": "·", "not checkable": "·"}
MOST = 5  # lines of evidence shown of a control
FEW = 2  # so many besides one are each shown
INDENT = "    "
WIDEST_ID = 26


def write(audit: Audit, form: str) -> None:
    """The audit on stdout as junit or html; its notes on stderr, since nobody reads them in a file at once."""
    module = import_module(f"pantheon.report.{form}")
    for note in audit.notes:
        sys.stderr.write(f"! {clean(note)}\n")
    data.write_text(module.render(audit))


def show(console: Console, audit: Audit) -> None:
    """A line for each control, then what is wrong, the worst last: it stands where a terminal has scrolled to."""
    console.settled()
    console.headline(f"AUDIT {audit.host} ({audit.address})", f"looked {seconds(audit.took_s)}")
    for results in by_subject(audit.results).values():
        width = min(WIDEST_ID, max(len(result.control.id) for result in results))
        for result in results:
            _row(console, audit, result, width)
    if audit.changes:
        _changes(console, audit.changes)
    if audit.bad:
        console.headline("Not as it should be, the worst last")
    for first, *more in reversed(audit.causes):
        if len(more) >= FEW:
            _not_known(console, [first, *more])
            continue
        for result in (*reversed(more), first):
            _wrong(console, audit, result)
    for note in audit.notes:
        console.prose("! ", note)
    console.line("✓" if audit.is_good else "✗", audit.host, summary(audit))
    console.next(audit.next)


def _row(console: Console, audit: Audit, result: Result, width: int) -> None:
    control, verdict = result.control, result.verdict
    head = f"{SIGN[verdict.status]} {control.id:<{width}}  "
    if verdict.status in ("fail", "unknown"):
        console.prose(head, f"{control.title} ({control.severity})")
    elif verdict.status == "pass":
        console.prose(head, control.title)
    elif verdict.status == "waived":
        console.prose(head, audit.waiver_says(result))
    else:
        why = next(iter(verdict.evidence.splitlines()), "")
        console.prose(head, f"{'n/a' if verdict.status == 'not applicable' else verdict.status}: {why}", "dim")
        if verdict.status == "not checkable" and verdict.mend:
            console.prose(f"{INDENT}look: ", verdict.mend, "dim")


def _wrong(console: Console, audit: Audit, result: Result) -> None:
    control, verdict = result.control, result.verdict
    console.prose(f"{SIGN[verdict.status]} ", f"{control.severity}: {control.title} ({control.id}, {control.source})")
    lines = [line for line in verdict.evidence.splitlines() if line.strip()]
    for line in lines[:MOST]:
        console.prose(INDENT, line, "dim")
    if len(lines) > MOST:
        console.say(f"{INDENT}and {count(len(lines) - MOST, 'line')} more", "dim")
    if said := audit.waiver_says(result):
        console.prose(INDENT, said)
    first, *rest = verdict.mend.splitlines() or [""]
    if first:
        console.say(f"{INDENT}→ {console.typed(first)}")
    for line in rest:
        console.say(f"{INDENT}  {line}")


def _not_known(console: Console, results: list[Result]) -> None:
    """Many that have one reason, such as an engine that is down: the table has their names."""
    worst, reason = results[0].control.severity, results[0].verdict.evidence.splitlines()[-1]
    console.prose("? ", f"{worst}: {count(len(results), 'control')} could not be judged (? above)")
    console.prose(INDENT, reason, "dim")
    mends = [result.verdict.mend.splitlines()[0] for result in results if result.verdict.mend]
    if mends:
        first = next((mend for mend in mends if mend.startswith("invoke fix.")), mends[0])
        console.say(f"{INDENT}→ {console.typed(first)}")


def summary(audit: Audit) -> str:
    """41 passed, 6 failed (1 critical, 2 high, 3 low), 1 unknown, ..."""
    counts = audit.counts
    parts = [f"{counts['pass']} of {count(len(audit.results), 'control')} passed"]
    if counts["fail"]:
        worst = Counter(r.control.severity for r in audit.results if r.verdict.status == "fail")
        said = ", ".join(f"{worst[severity]} {severity}" for severity in reversed(SEVERITIES) if worst[severity])
        parts.append(f"{counts['fail']} failed ({said})")
    for status in ("unknown", "waived", "not applicable", "not checkable"):
        if counts[status]:
            parts.append(f"{counts[status]} {status}")
    return ", ".join(parts)


def _changes(console: Console, changes: Comparison) -> None:
    console.headline(f"Changed since {changes.since or changes.path}")
    if not changes.differences:
        console.say("  nothing")
    for one in changes.differences:
        _difference(console, one)


def _difference(console: Console, one: Difference) -> None:
    sign = {"now failing": "✗", "mended": "✓", "new control": "+", "gone control": "-"}.get(one.kind, "~")
    verdicts = f", {one.before} → {one.after}" if one.before and one.after and one.before != one.after else ""
    console.prose(f"{sign} ", f"{one.id}: {one.kind}{verdicts}")
    if one.kind in ("now failing", "other evidence"):
        before, after = one.evidence_before.splitlines(), one.evidence_after.splitlines()
        for line in [text for text in before if text not in after][:MOST]:
            console.prose(f"{INDENT}- ", line, "dim")
        for line in [text for text in after if text not in before][:MOST]:
            console.prose(f"{INDENT}+ ", line, "dim")
