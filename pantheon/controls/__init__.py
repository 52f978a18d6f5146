"""The controls of the audit, by subject; in this order they are judged and shown.

A subject is a module here with CONTROLS, a tuple of control.Control. Its ids begin with one word of their own
(`net.dhcp`). A judge is pure: it gets a Case and gives a Verdict. What it reads of the evidence beyond a diagnosis
stands in MORE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib import import_module

from pantheon.control import Control, Result, Verdict
from pantheon.incident import Case
from pantheon.looks.text import masked

SUBJECTS: tuple[str, ...] = (
    *("hardware", "system", "driver", "docker", "toolkit", "storage", "services", "network", "ssh", "nfs"),
    *("virtualisation", "monitoring"),
    *("containers", "secrets", "upkeep", "waivers"),
    "beyond",
)
NEVER_WAIVED = "audit.waivers"

# Parts of the evidence (collect.MORE) that controls are judged on.
MORE: tuple[str, ...] = (
    *("addresses", "sockets", "datagrams", "ssh_server", "desktop", "virtual", "cards", "cdi", "accounts", "drives"),
    *("kernels", "atlas"),
    *("clock", "journal", "upgrades", "custom_nodes", "open_trees", "secret_files", "namespaces"),
)


def every() -> list[Control]:
    """All controls, in order."""
    modules = (import_module(f"pantheon.controls.{name}") for name in SUBJECTS)
    return [control for module in modules for control in module.CONTROLS]


def judge(case: Case, *, today: date) -> list[Result]:
    """Every control judged on one case. A waiver that has not expired by `today` turns a fail into a waived one."""
    return list(_judged(case, today))


def _judged(case: Case, today: date) -> Iterator[Result]:
    waivers = {waiver.control: waiver for waiver in reversed(case.host.waivers) if waiver.control != NEVER_WAIVED}
    for control in every():
        verdict, waiver = _verdict(control, case), waivers.get(control.id)
        if waiver and verdict.status == "fail" and today <= waiver.until:
            verdict = replace(verdict, status="waived")
        yield Result(control, verdict, waiver)


def _verdict(control: Control, case: Case) -> Verdict:
    """What the control says. A mistake of ours in one must not take the others' verdicts with it."""
    try:
        verdict = control.judge(case)
    except Exception as error:
        reason = f"it could not be judged: {type(error).__name__}: {error}"
        return Verdict("unknown", masked(reason), "this is a mistake in pantheon: report it")
    return replace(verdict, evidence=masked(verdict.evidence))
