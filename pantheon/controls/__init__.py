"""The controls of the audit, by subject; in this order they are judged and shown."""

from __future__ import annotations

from datetime import date
from importlib import import_module

from pantheon.control import Control, Result, Verdict
from pantheon.incident import Case

SUBJECTS: tuple[str, ...] = ()


def every() -> list[Control]:
    """All controls, in order."""
    modules = (import_module(f"pantheon.controls.{name}") for name in SUBJECTS)
    return [control for module in modules for control in module.CONTROLS]


def judge(case: Case, *, today: date) -> list[Result]:
    """Every control judged on one case. A waiver that has not expired by `today` turns a fail into a waived one."""
    return [_result(control, control.judge(case), case, today) for control in every()]


def _result(control: Control, verdict: Verdict, case: Case, today: date) -> Result:
    waiver = next((one for one in case.host.waivers if one.control == control.id), None)
    if waiver and verdict.status == "fail" and today <= waiver.until:
        verdict = Verdict("waived", verdict.evidence, verdict.mend)
    return Result(control, verdict, waiver)
