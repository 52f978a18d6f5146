"""What an entry of the troubleshooting is made of, and what it is judged on.

An entry is a module of pantheon/fixes with the names of `Entry`. It does no I/O: `diagnose` gives findings on a Case,
`plan` what mends them. Both rules of the sections hold: the plan that is shown is the one that is applied, and planning
on the Case after it is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pantheon.evidence import Evidence
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.here import Here
from pantheon.inventory import Host
from pantheon.plan import SectionPlan


@dataclass(frozen=True)
class Choices:
    """What only the operator may decide, each an option of its own that --yes never implies."""

    now: bool = False  # do not wait for a job that runs in what will be stopped
    reboot: bool = False
    end: bool = False  # end a run of pantheon whose workstation is gone
    url: str = ""  # the address that somebody tried


@dataclass(frozen=True)
class Case:
    """One host at one moment: the look, the evidence that a diagnosis needs beyond it, and what was tried from here."""

    host: Host
    facts: Facts
    evidence: Evidence
    here: Here
    choices: Choices = field(default_factory=Choices)


class Entry(Protocol):
    """A module of pantheon/fixes. `ID` is its name; CAUSE and RISK are sentences for people: RISK says what stops and
    for how long, and what is never touched.

    `diagnose`: findings with ids `ID.something`, each fail with evidence and a mend; ok findings are left out; what
    could not be judged is `unknown`. `plan`: changes that mend every fail that can be mended, `blocked` for what a
    human must do first; empty, with a reason, when nothing is wrong.

    An entry may have `steps(case)` besides: findings on all that it looked at, the good included, which its fix shows
    in place of its findings (a chain, of which one link is broken)."""

    ID: str
    CAUSE: str
    RISK: str

    @staticmethod
    def diagnose(case: Case) -> list[Finding]: ...

    @staticmethod
    def plan(case: Case) -> SectionPlan: ...


def command(case: Case, name: str, *options: str) -> str:
    """`invoke fix.NAME --host HOST`, for a finding's mend."""
    return " ".join(["invoke", f"fix.{name}", *options, "--host", case.host.name])
