"""A control of the audit: one statement of the two documents, or of good practice, judged on one look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pantheon.incident import Case
from pantheon.inventory import Waiver

Severity = Literal["low", "medium", "high", "critical"]
Status = Literal["pass", "fail", "unknown", "not applicable", "not checkable", "waived"]

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
STATUSES: tuple[Status, ...] = ("fail", "unknown", "pass", "waived", "not applicable", "not checkable")


@dataclass(frozen=True)
class Verdict:
    """`evidence` is what was read on the host. `mend` is the command that mends a fail, what to do about an unknown,
    and for what cannot be checked from the host the place where to look."""

    status: Status
    evidence: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Control:
    """`id` is stable (`net.dhcp`), so that two audits can be compared and a waiver can name it; `title` says in a
    sentence what must hold; `source` is the document and its section ("procedure §5", "system page, Network",
    "practice"). `rules` says, where the two documents disagree, which one rules and why (DOMAIN.md)."""

    id: str
    title: str
    severity: Severity
    source: str
    judge: Callable[[Case], Verdict]
    rules: str = ""


@dataclass(frozen=True)
class Result:
    """A control with its verdict. `waiver`: the one of hosts.toml that turned its fail into a waived one, or that has
    expired (then the status is still fail)."""

    control: Control
    verdict: Verdict
    waiver: Waiver | None = None
