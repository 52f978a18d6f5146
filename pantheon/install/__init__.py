"""Section 2 brought about: what `--install` does to a host, in the order in which the parts need each other.

An installation that was cut short is finished first. Then keys, sources, the lists, and the driver, whose branch is
checked before anything of it comes; Docker, the toolkit, daemon.json; holds last. What conflicts with Docker's packages
goes when these are downloaded already: a wrong key or a dead network must not leave a host without its engine.
"""

from __future__ import annotations

from dataclasses import replace

from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt, daemon_json, docker, driver, remedy, toolkit
from pantheon.install.vendors import DOCKER, DOCKER_PACKAGES, TOOLKIT, VENDORS, Vendor
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.packages import Packages
from pantheon.plan import Change, SectionPlan
from pantheon.sections import prereqs

NAME = prereqs.NAME
# The parts of the evidence that planning needs (gather.look_with).
PARTS = (
    *("packages", "kernels", "driver_offer", "dockerd", "engine_has_hook", "units", "cdi"),
    *("busy", "reboot_required", "installing"),
)


def plan(host: Host, facts: Facts, evidence: Evidence, options: Options) -> SectionPlan:
    """What is to be installed and set; nothing, with a reason, on a host that has it all."""
    if isinstance(evidence.packages, Packages) and any(apt.contradict(evidence.packages, one) for one in VENDORS):
        evidence = replace(evidence, driver_offer=None)  # apt reads no list before that is mended
    found = blocked(host, facts, evidence, options)
    packages = evidence.packages
    if found or not isinstance(packages, Packages):
        return SectionPlan(NAME, reason=prereqs.summary(facts), blocked=tuple(found))
    return SectionPlan(NAME, tuple(changes(host, facts, evidence, options)), reason=prereqs.summary(facts))


def notes(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """What stays as it is, and might not be expected to."""
    return docker.kept(host, facts, evidence)


def blocked(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """What must be put right by hand before anything is installed."""
    packages = evidence.packages
    if not isinstance(packages, Packages):
        reason = packages.reason if isinstance(packages, Unknown) else "there is no dpkg on this host"
        return [Finding("prereqs.packages", "unknown", "packages: not known", reason, source=apt.WHY)]
    found = [each for each in prereqs.check(host, facts) if each.id == "prereqs.os" and not each.is_good]
    if found:
        return found
    found += docker.blocked(host, facts, evidence, options)
    found += driver.blocked(host, facts, evidence, options)
    found += toolkit.blocked(host, facts, evidence, options)
    broken = daemon_json.blocked(host, evidence)
    found += broken or daemon_json.left_alone(host, evidence, _config(host, facts, evidence))
    wanted = _vendors(host, facts, evidence)
    if DOCKER in wanted and not packages.codename:
        text = "which release of the distribution this is: not known"
        found.append(Finding("prereqs.codename", "unknown", text, "/etc/os-release has no codename", source=apt.WHY))
    for vendor in VENDORS:
        found += apt.source_findings(host, facts, packages, vendor, wanted=vendor in wanted)
    return found


def _vendors(host: Host, facts: Facts, evidence: Evidence) -> tuple[Vendor, ...]:
    """Whose packages are to be installed."""
    of_docker = set(docker.missing(host, facts, evidence)) & set(DOCKER_PACKAGES)
    pairs = ((DOCKER, of_docker), (TOOLKIT, toolkit.missing(host, facts, evidence)))
    return tuple(vendor for vendor, names in pairs if names)


def changes(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """All changes in their order, of a host on which nothing is in the way."""
    assert isinstance(evidence.packages, Packages)
    engine = docker.changes(host, facts, evidence, options)
    gpu = driver.changes(host, facts, evidence, options)
    kit = toolkit.changes(host, facts, evidence, options)
    return [
        *apt.repair(evidence.packages),
        *_repositories(host, facts, evidence),
        *gpu,
        *engine,
        *kit,
        *toolkit.after(host, facts, evidence, options),
        *_config(host, facts, evidence),
        *_holds(host, facts, evidence),
    ]


def _config(host: Host, facts: Facts, evidence: Evidence) -> list[Change]:
    """daemon.json, where an engine answers or is about to come."""
    is_coming = docker.installs_engine(host, facts, evidence)
    if not is_coming and not docker.answers(facts):
        return []
    return daemon_json.changes(
        facts,
        evidence,
        toolkit=toolkit.present(host, facts, evidence),
        is_new=is_coming or bool(toolkit.missing(host, facts, evidence)),
        stops=docker.running(facts),
    )


def _repositories(host: Host, facts: Facts, evidence: Evidence) -> list[Change]:
    """Keys, then sources, then the lists, once; where packages are to come."""
    packages = evidence.packages
    assert isinstance(packages, Packages)
    wanted = _vendors(host, facts, evidence)
    found: list[Change] = []
    for vendor in wanted:
        found += apt.keys(host, facts, packages, vendor)
    for vendor in VENDORS:
        found += apt.sources(host, facts, packages, vendor, wanted=vendor in wanted)
    if not wanted and not remedy.needs_lists(host, facts, evidence) and not docker.missing(host, facts, evidence):
        return found
    if wanted and "ca-certificates" not in packages.installed:
        steps = (apt.update(), apt.install(("ca-certificates",)))
        found.insert(0, Change("install ca-certificates", "repositories are read over https", steps, sign="+"))
    why = "apt looks what there is now"
    if isinstance(packages.holder, str):
        why = f"first waits for {packages.holder}, which has apt's lock"
    need = [apt.uri(facts, vendor) for vendor in wanted]
    return [*found, Change("apt's lists", why, (apt.update(need),))]


def _holds(host: Host, facts: Facts, evidence: Evidence) -> list[Change]:
    """Packages that hosts.toml wants held and that are not."""
    packages = evidence.packages
    if not host.install.hold or not isinstance(packages, Packages):
        return []
    names = [name for part in (docker, driver, toolkit) for name in part.holds(host, facts, evidence)]
    there = packages.installed
    coming = {
        *docker.missing(host, facts, evidence),
        *toolkit.missing(host, facts, evidence),
        *(name for name in driver.holds(host, facts, evidence) if name not in there),
        *(driver.let_go(host, evidence) if remedy.missing(host, facts, evidence) else ()),
    }
    todo = [name for name in dict.fromkeys(names) if name in coming or (name in there and not there[name].held)]
    if not todo:
        return []
    why = "hosts.toml: install.hold; an upgrade of these in silence breaks a running stack"
    return [Change(f"hold {', '.join(todo)}", why, (apt.hold(todo),))]
