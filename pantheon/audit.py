"""One audit of one host, as data: what it counts, what it ends with, what to type next, and how it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta

from pantheon.comparison import Comparison
from pantheon.control import SEVERITIES, STATUSES, Control, Result, Severity, Status
from pantheon.inventory import SERVICES, Waiver

SCHEMA = 1  # of the JSON document: two audits can be compared when they have the same
BAD: tuple[Status, ...] = ("fail", "unknown")
MOST_NEXT = 3
SECTIONS = ("storage", *SERVICES)  # commands that bringup runs one after the other
PREREQS = "invoke prereqs "
SOON = timedelta(days=30)  # a waiver that ends within these is said beforehand


@dataclass(frozen=True)
class Audit:
    """`when` is ISO 8601, UTC; `today` the date that waivers were held against; `changes` what differs from an earlier
    audit, where one was given."""

    host: str
    address: str
    when: str
    today: date
    version: str
    took_s: float
    fail_on: Severity
    results: tuple[Result, ...]
    changes: Comparison | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[Status, int]:
        """How many controls have which verdict; in the order of STATUSES, all of them."""
        return {status: sum(r.verdict.status == status for r in self.results) for status in STATUSES}

    @property
    def bad(self) -> tuple[Result, ...]:
        """What failed or could not be judged, worst first, a fail before an unknown; else in the order of controls."""
        found = [result for result in self.results if result.verdict.status in BAD]
        return tuple(sorted(found, key=_rank))

    @property
    def causes(self) -> tuple[tuple[Result, ...], ...]:
        """`bad`, with those that are not known for one and the same reason together, at the place of the worst."""
        found: dict[str, list[Result]] = {}
        for result in self.bad:
            reason = (result.verdict.evidence.splitlines() or [""])[-1]
            same = result.verdict.status == "unknown" and reason
            found.setdefault(f"? {reason}" if same else result.control.id, []).append(result)
        return tuple(map(tuple, found.values()))

    @property
    def is_good(self) -> bool:
        """Whether every control of at least the severity `fail_on` holds: an unknown one counts as one that does
        not."""
        least = SEVERITIES.index(self.fail_on)
        return all(SEVERITIES.index(result.control.severity) < least for result in self.bad)

    @property
    def next(self) -> tuple[str, ...]:
        """The commands that mend most, worst first; each once. Where several sections of the procedure are to be run,
        the command that runs them all in their order."""
        mends = dict.fromkeys(result.verdict.mend for result in self.bad if is_command(result.verdict.mend))
        mends = {
            mend: None for mend in mends if not any(other.startswith(PREREQS) and _less(mend, other) for other in mends)
        }
        whole = f"invoke bringup --host {self.host}"
        sections = {f"invoke {name} --host {self.host}" for name in SECTIONS}
        if len(sections & mends.keys()) > 1:
            mends = dict.fromkeys(whole if mend in sections else mend for mend in mends)
        return tuple(mends)[:MOST_NEXT]

    def waiver_says(self, result: Result) -> str:
        """What there is to know of a control's waiver: until when, why, and whether it has ended or is no longer
        needed; "" for a control that has none."""
        waiver = result.waiver
        if waiver is None:
            return ""
        if waiver.until < self.today:
            return f"the waiver expired on {waiver.until}: {waiver.reason}"
        if result.verdict.status != "waived":
            return f"has a waiver until {waiver.until} ({waiver.reason})"
        left = (waiver.until - self.today).days
        when = f"in {left} day{'' if left == 1 else 's'}" if left else "today"
        soon = f", which is {when}" if waiver.until - self.today <= SOON else ""
        return f"waived until {waiver.until}{soon}: {waiver.reason}"

    def as_data(self) -> dict[str, object]:
        """The JSON document. Its keys, the ids and the order of the controls are stable."""
        return {
            "schema": SCHEMA,
            "result": "audit",
            "host": self.host,
            "when": self.when,
            "version": self.version,
            "took_s": round(self.took_s, 3),
            "fail_on": self.fail_on,
            "good": self.is_good,
            "counts": {_key(status): count for status, count in self.counts.items()},
            "controls": [_as_data(result, self.today) for result in self.results],
            "changes": self.changes.as_data() if self.changes else None,
            "notes": list(self.notes),
            "next": list(self.next),
        }


def _less(one: str, other: str) -> bool:
    """Whether the other does all that this one does: `prereqs`, and `prereqs --install --reboot`."""
    return one.startswith(PREREQS) and set(one.split()) < set(other.split())


def is_command(text: str) -> bool:
    """Whether a mend is something to type, not a sentence."""
    return text.startswith(("invoke ", "ssh ", "sudo "))


def subject(control: Control) -> str:
    """`net` of `net.dhcp`."""
    return control.id.partition(".")[0]


def by_subject(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results under their subjects, both in the order of the controls."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(subject(result.control), []).append(result)
    return found


def worst_first(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=_rank)


def _rank(result: Result) -> tuple[int, int]:
    return -SEVERITIES.index(result.control.severity), STATUSES.index(result.verdict.status)


def _key(status: Status) -> str:
    return status.replace(" ", "_")


def _as_data(result: Result, today: date) -> dict[str, object]:
    control, verdict = result.control, result.verdict
    return {
        "id": control.id,
        "title": control.title,
        "severity": control.severity,
        "source": control.source,
        "status": verdict.status,
        "evidence": verdict.evidence,
        "mend": verdict.mend,
        "rules": control.rules,
        "waiver": _waiver(result.waiver, today) if result.waiver else None,
    }


def _waiver(waiver: Waiver, today: date) -> dict[str, object]:
    return {"reason": waiver.reason, "until": waiver.until.isoformat(), "expired": waiver.until < today}
