"""TODO"""

from __future__ import annotations

from pantheon.finding import Finding
from pantheon.incident import Case
from pantheon.plan import SectionPlan

ID = "wrong-version-number"
CAUSE = ""
RISK = ""


def diagnose(case: Case) -> list[Finding]:
    del case
    return []


def plan(case: Case) -> SectionPlan:
    del case
    return SectionPlan(ID, reason="its symptom is not there")
