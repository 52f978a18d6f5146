"""A Docker that came as a snap: it cannot use the GPU (procedure §2). It goes only on the operator's word, its data
saved first."""

from __future__ import annotations

from pantheon.facts import Docker, Facts
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.packages import Packages
from pantheon.plan import Change, Mend, Step

SAVE_S = 3600


def is_there(facts: Facts, packages: Packages) -> bool:
    by_look = isinstance(facts.docker, Docker) and isinstance(facts.docker.snap, str)
    return by_look or isinstance(packages.snap, str)


def blocked(host: Host, facts: Facts, packages: Packages, options: Options) -> list[Finding]:
    """The snap, unless the operator has said that it may go."""
    if options.remove_snap or not is_there(facts, packages):
        return []
    docker = facts.docker
    evidence = docker.snap if isinstance(docker, Docker) and isinstance(docker.snap, str) else ""
    evidence = evidence or f"snap docker {packages.snap}"
    text = "Docker is the snap, which cannot use the GPU"
    mend = f"invoke bringup --install --remove-snap --host {host.name} (its containers stop; its data is saved first)"
    return [Finding("prereqs.docker-snap", "fail", text, evidence, mend, apt.WHY)]


def changes(packages: Packages, options: Options, *, ahead: tuple[Step, ...], stops: tuple[str, ...]) -> list[Change]:
    """The snap saved and removed, after the steps that need the network. What it saved stays until `snap forget`."""
    if not options.remove_snap:
        return []
    version = f" {packages.snap}" if isinstance(packages.snap, str) else ""
    says = "snap stop, snap save, snap remove --purge docker; where it cannot be saved it stays"
    steps = (
        *ahead,
        Mend("remove_snap", {"name": "docker", "save_s": SAVE_S}, says, timeout_s=SAVE_S + 2000),
    )
    what = f"remove the snap docker{version}; its images, volumes and containers saved first (`snap saved`)"
    why = f"{apt.WHY}: non-snap; back with `snap install docker` and `snap restore ID`"
    return [Change(what, why, steps, stops=stops, sign="-")]
