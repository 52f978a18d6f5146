"""Docker Engine and Compose (procedure §2: non-snap) from Docker's own repository, as Docker's documentation has it.

What does already is left: an engine that is new enough stays, whoever packaged it. Where Docker's packages must come,
those that conflict with them go first, after everything is downloaded; images, volumes and containers stay where they
are, in /var/lib/docker.
"""

from __future__ import annotations

from pantheon.evidence import Evidence
from pantheon.facts import Docker, Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt, snap
from pantheon.install.vendors import COMPOSE_PACKAGE, CONFLICTING, DOCKER, DOCKER_PACKAGES, ENGINE_PACKAGES
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.packages import Packages
from pantheon.plan import Change, Step
from pantheon.sections.prereqs import MIN_COMPOSE, MIN_ENGINE

ENGINES = ("docker-ce", "docker.io")  # packages with dockerd in them
UNITS = ("docker.socket", "docker.service")
RUNS = ("running", "restarting", "paused")


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages of Docker's to install or upgrade; () when what is there will do."""
    del host
    packages = evidence.packages
    if not isinstance(packages, Packages) or isinstance(facts.docker, Unknown):
        return ()
    engine = _engine(packages)
    if snap.is_there(facts, packages) or (not engine and _is_bare(facts, packages)):
        return DOCKER_PACKAGES
    if _is_old(facts, packages):
        return tuple(dict.fromkeys((*ENGINE_PACKAGES, *_compose(facts)))) if engine == "docker-ce" else DOCKER_PACKAGES
    return _compose(facts)


def _engine(packages: Packages) -> str:
    """The package that the engine is from; "" when it is from none."""
    return next((name for name in ENGINES if name in packages.installed), "")


def _is_bare(facts: Facts, packages: Packages) -> bool:
    """Nothing there that could be an engine: podman's `docker` is none."""
    docker = facts.docker
    return docker is None or "podman-docker" in packages.installed or _is_client(docker, packages)


def _is_client(docker: object, packages: Packages) -> bool:
    """A client of Docker's packages, without an engine to it."""
    return isinstance(docker, Docker) and not isinstance(docker.engine, str) and "docker-ce-cli" in packages.installed


def _is_old(facts: Facts, packages: Packages) -> bool:
    version = _version(facts, packages)
    return bool(version) and apt.upstream(version) < MIN_ENGINE


def _version(facts: Facts, packages: Packages) -> str:
    """The engine's version: its own word where it answers, else its package's."""
    if isinstance(facts.docker, Docker) and isinstance(facts.docker.engine, str):
        return facts.docker.engine
    engine = _engine(packages)
    return packages.installed[engine].version if engine else ""


def _compose(facts: Facts) -> tuple[str, ...]:
    found = facts.docker.compose if isinstance(facts.docker, Docker) else None
    if isinstance(found, Unknown) or (isinstance(found, str) and apt.upstream(found) >= MIN_COMPOSE):
        return ()
    return (COMPOSE_PACKAGE,)


def blocked(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """What keeps Docker's packages from being installed: a snap, an engine that no package has, a hold."""
    packages = evidence.packages
    if isinstance(facts.docker, Unknown):
        mend = host.ssh("docker version")
        return [Finding("prereqs.docker", "unknown", "Docker: not known", facts.docker.reason, mend, apt.WHY)]
    if not isinstance(packages, Packages):
        return []
    found = snap.blocked(host, facts, packages, options)
    wanted = missing(host, facts, evidence)
    docker = facts.docker
    by_hand = isinstance(docker, Docker) and not _engine(packages) and not _is_bare(facts, packages)
    if by_hand and not snap.is_there(facts, packages) and (_is_old(facts, packages) or not _version(facts, packages)):
        text = "Docker is there, and no package has it: it was put there by hand"
        evidence_text = f"engine: {_version(facts, packages) or 'does not answer'}"
        mend = f"remove it as it was installed, then the same command again: {host.ssh('which -a docker dockerd')}"
        return [*found, Finding("prereqs.docker", "fail", text, evidence_text, mend, apt.WHY)]
    if wanted and not host.install.hold:
        held = apt.held(host, packages, (*wanted, *_going(packages, wanted)), "Docker's packages (§2)")
        found += [held] if held else []
    return found


def _going(packages: Packages, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What must be removed for the packages that come."""
    if not set(wanted) & set(ENGINE_PACKAGES):
        return tuple(name for name in ("docker-compose-v2",) if name in packages.installed and wanted)
    return tuple(name for name in CONFLICTING if name in packages.installed)


def changes(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """What conflicts goes, and Docker's packages come."""
    wanted = missing(host, facts, evidence)
    packages = evidence.packages
    if not wanted or not isinstance(packages, Packages):
        return []
    found: list[Change] = []
    stops = running(facts) if installs_engine(host, facts, evidence) else ()
    ahead: list[Step] = [apt.fetch(wanted)]
    if snap.is_there(facts, packages):
        found += snap.changes(packages, options, ahead=tuple(ahead), stops=stops)
        ahead, stops = [], ()
    if going := _going(packages, wanted):
        # Their socket, left to run, keeps the next engine from starting: `no sockets found via socket activation`
        stop = UNITS if "docker.io" in going else ()
        steps = (*ahead, *_unheld(packages, going), apt.remove(going, stop=stop))
        why = f"they conflict with Docker's own packages ({DOCKER.docs}); /var/lib/docker is kept"
        is_engine = bool({"docker.io", "containerd", "runc"} & set(going))
        found.append(Change(f"remove {', '.join(going)}", why, steps, stops=stops if is_engine else (), sign="-"))
        stops = () if is_engine else stops
    is_upgrade = _engine(packages) == "docker-ce" and installs_engine(host, facts, evidence)
    why = "non-snap, from Docker's repository (§2)"
    if is_upgrade:
        why = f"engine {_version(facts, packages)} is older than {MIN_ENGINE[0]} (§2)"
    elif not installs_engine(host, facts, evidence):
        why = f"Docker Compose {'.'.join(map(str, MIN_COMPOSE))} or newer (§2)"
    what = f"{'upgrade' if is_upgrade else 'install'} {', '.join(wanted)}"
    steps = (*_unheld(packages, wanted), apt.install(wanted))
    found.append(Change(what, why, steps, stops=stops, sign="~" if is_upgrade else "+"))
    return found


def _unheld(packages: Packages, names: tuple[str, ...]) -> tuple[Step, ...]:
    """Held ones let go: hosts.toml has them held (else they block), and `holds` holds them again at the end."""
    held = [name for name in names if name in packages.installed and packages.installed[name].held]
    return (apt.unhold(held),) if held else ()


def installs_engine(host: Host, facts: Facts, evidence: Evidence) -> bool:
    """Whether the engine itself is installed or upgraded."""
    return bool(set(missing(host, facts, evidence)) & set(ENGINE_PACKAGES))


def answers(facts: Facts) -> bool:
    return isinstance(facts.docker, Docker) and isinstance(facts.docker.engine, str)


def running(facts: Facts) -> tuple[str, ...]:
    """Whatever runs in containers, ours or not: it stops with the engine."""
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    return tuple(container.name for container in containers if container.state in RUNS)


def holds(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages whose upgrade restarts the engine under a running stack."""
    wanted = missing(host, facts, evidence)
    there = evidence.packages.installed if isinstance(evidence.packages, Packages) else {}
    if set(wanted) & set(ENGINE_PACKAGES) or "docker-ce" in there:
        return ENGINE_PACKAGES
    return tuple(name for name in ("docker.io", "containerd", "runc") if name in there)
