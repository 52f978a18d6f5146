"""The operating system: Ubuntu Server, minimal, without a desktop (procedure §2, system page)."""

from __future__ import annotations

from pantheon.circumstances import Desktop
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import of, passed, unknown
from pantheon.facts import OsRelease
from pantheon.incident import Case
from pantheon.sections import prereqs

SHOWN = 12


def release(case: Case) -> Verdict:
    return of(case, prereqs.check(case.host, case.facts), "prereqs.os")


def long_term(case: Case) -> Verdict:
    found = case.facts.os
    if not isinstance(found, OsRelease):
        return unknown(found)
    if "LTS" in found.pretty.split():
        return passed(found.pretty)
    return Verdict("fail", f"{found.pretty}: no long-term support", "install the release that hosts.toml names (os)")


def desktop(case: Case) -> Verdict:
    found = case.evidence.desktop
    if not isinstance(found, Desktop):
        return unknown(found)
    if not found.packages:
        return passed("no desktop and no display manager is installed")
    names = ", ".join(found.packages[:SHOWN]) + (" ..." if len(found.packages) > SHOWN else "")
    remove = " ".join(found.packages[:SHOWN])
    mend = case.host.ssh(f"sudo apt-get remove --autoremove {remove}")
    keep = "look at apt's list first: network-manager and the driver must stay"
    return Verdict("fail", f"installed: {names}", f"{mend}  ({keep})")


def display_manager(case: Case) -> Verdict:
    """Ubuntu Server's own default target is graphical.target too: without a display manager it starts nothing more."""
    found = case.evidence.desktop
    if not isinstance(found, Desktop):
        return unknown(found)
    if found.manager and found.manager != "null":
        mend = case.host.ssh(f"sudo systemctl disable --now {found.manager}")
        return Verdict("fail", f"display-manager.service is {found.manager}, default target {found.target}", mend)
    return passed(f"no display manager; default target {found.target or 'not set'}")


CONTROLS = (
    Control("os.release", "The operating system is the one of the procedure, as in hosts.toml", "high",
            "procedure §2; system page, Operating System", release),
    Control("os.lts", "It is a release with long-term support", "low", "system page, Operating System", long_term),
    Control("os.desktop", "The installation is minimal: no desktop", "medium", "system page, Operating System",
            desktop),
    Control("os.display-manager", "No graphical login is started at the boot", "medium",
            "system page, Operating System", display_manager),
)  # fmt: skip
