"""Docker Engine and Compose (procedure §2: non-snap) from Docker's own repository, as Docker's documentation has it.

- Where there is no engine, Docker's packages come. A snap gives way to them on --remove-snap only.
- The distribution's engine (docker.io, of any version) gives way to them as long as it has no container. With
  containers it gives way only if it is too old for the stack: what runs on it stops, and the plan names it.
- It stays where it is new enough and has containers, or may have, or is on hold: `kept` says so, and why.
- An engine of Docker's is upgraded where it is too old. One of nobody's package stays, and blocks where it will not do.
- Compose comes from where the engine that stays came from: both have files of the same names in their packages.

What conflicts goes after everything is downloaded; images, volumes and containers stay where they are.
"""

from __future__ import annotations

import shlex

from pantheon.evidence import Evidence
from pantheon.facts import Docker, Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt, snap
from pantheon.install.vendors import (
    COMPOSE_CONFLICTING,
    COMPOSE_PACKAGE,
    CONFLICTING,
    DISTRIBUTION_COMPOSE,
    DOCKER,
    DOCKER_PACKAGES,
    ENGINE_PACKAGES,
)
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.packages import Packages, upstream
from pantheon.plan import Change, Step
from pantheon.sections import prereqs
from pantheon.sections.prereqs import MIN_COMPOSE, MIN_ENGINE

OWN, DISTRIBUTION = "docker-ce", "docker.io"  # packages with dockerd in them: Docker's, and the distribution's
ROOT, SOCKET = "/var/lib/docker", "docker.socket"
UNITS = (SOCKET, "docker.service")
RUNS = ("running", "restarting", "paused")


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages to install or upgrade; () when what is there will do."""
    packages = evidence.packages
    if not isinstance(packages, Packages) or isinstance(facts.docker, Unknown):
        return ()
    engine, compose = _engine(packages), _compose(facts, packages)
    if snap.is_there(facts, packages):
        return DOCKER_PACKAGES
    if engine == OWN:
        return (*ENGINE_PACKAGES, *compose) if _is_old(facts, packages) else compose
    if engine == DISTRIBUTION:
        return compose if _stays(host, facts, packages) else DOCKER_PACKAGES
    return DOCKER_PACKAGES if _is_bare(facts, packages) or _is_old(facts, packages) else compose


def _stays(host: Host, facts: Facts, packages: Packages) -> str:
    """Why the distribution's engine stays; "" where it gives way."""
    if _is_old(facts, packages):
        return ""
    if held := () if host.install.hold else _held(packages, CONFLICTING):
        return f"{', '.join(held)} {'is' if len(held) == 1 else 'are'} on hold"
    containers = facts.containers
    if not isinstance(containers, tuple):
        reason = containers.reason if isinstance(containers, Unknown) else "it does not answer"
        return f"its containers could not be listed: {reason}"
    return f"it has {len(containers)} container{'s' if len(containers) > 1 else ''}" if containers else ""


def kept(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """That an engine stays which is not from Docker's packages, why, and what to type to have those all the same."""
    packages = evidence.packages
    if not isinstance(packages, Packages) or installs_engine(host, facts, evidence):
        return []
    engine, version = _engine(packages), _version(facts, packages)
    if engine == OWN or not version or isinstance(facts.docker, Unknown):
        return []
    again = prereqs.install(host)
    if not engine:
        text = f"Docker Engine {version} stays, though {_origin(packages)}"
        return [_stay(text, "", f"for Docker's packages: remove it as it was installed, then {again}")]
    text = f"{DISTRIBUTION} {version} stays, in the place of Docker's packages: {_stays(host, facts, packages)}"
    command = f"sudo apt-get remove {shlex.join(_there(packages, CONFLICTING))}"
    said = f"for Docker's own: what runs stops meanwhile, {_root(facts)} is kept"
    if held := () if host.install.hold else _held(packages, CONFLICTING):
        command, said = f"sudo apt-mark unhold {shlex.join(held)}", "for Docker's own, if the hold is no longer meant"
    return [_stay(text, said, f"{host.ssh(command)} && {again}")]


def _stay(text: str, evidence: str, mend: str) -> Finding:
    return Finding("prereqs.docker-kept", "warn", text, evidence, mend, DOCKER.docs)


def _root(facts: Facts) -> str:
    """Where images, volumes and containers lie."""
    return facts.docker.root if isinstance(facts.docker, Docker) and isinstance(facts.docker.root, str) else ROOT


def _engine(packages: Packages) -> str:
    """The package that the engine is from; "" when it is from none of the two."""
    return next(iter(_there(packages, (OWN, DISTRIBUTION))), "")


def _there(packages: Packages, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in packages.installed)


def _held(packages: Packages, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in _there(packages, names) if packages.installed[name].held)


def _origin(packages: Packages) -> str:
    """Whose an engine is that is neither Docker's nor the distribution's."""
    others = [name for name in packages.installed if name.startswith("moby-engine")]
    return f"it is from {others[0]}" if others else "no package has it: it was put there by hand"


def _is_bare(facts: Facts, packages: Packages) -> bool:
    """Nothing there that could be an engine. Podman's `docker` is none, nor is a client alone, nor the socket that a
    removed engine leaves behind."""
    docker = facts.docker
    if docker is None or "podman-docker" in packages.installed:
        return True
    is_left = isinstance(docker, Docker) and (docker.client is None or "docker-ce-cli" in packages.installed)
    return is_left and not answers(facts)


def _is_old(facts: Facts, packages: Packages) -> bool:
    version = _version(facts, packages)
    return bool(version) and apt.upstream(version) < MIN_ENGINE


def _version(facts: Facts, packages: Packages) -> str:
    """The engine's version: its own word where it answers, else its package's."""
    if isinstance(facts.docker, Docker) and isinstance(facts.docker.engine, str):
        return facts.docker.engine
    engine = _engine(packages)
    return upstream(packages.installed[engine].version) if engine else ""


def _compose(facts: Facts, packages: Packages) -> tuple[str, ...]:
    """Compose, where it is not there or too old."""
    found = facts.docker.compose if isinstance(facts.docker, Docker) else None
    if isinstance(found, Unknown) or (isinstance(found, str) and apt.upstream(found) >= MIN_COMPOSE):
        return ()
    if _engine(packages) == DISTRIBUTION and COMPOSE_PACKAGE not in packages.installed:
        return (DISTRIBUTION_COMPOSE[apt.distribution(facts)],)
    return (COMPOSE_PACKAGE,)


def blocked(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """What keeps Docker's packages from being installed: a snap, an engine of nobody's package, a hold."""
    packages = evidence.packages
    if isinstance(facts.docker, Unknown):
        mend = host.ssh("docker version")
        return [Finding("prereqs.docker", "unknown", "Docker: not known", facts.docker.reason, mend, apt.WHY)]
    if not isinstance(packages, Packages):
        return []
    found = snap.blocked(host, facts, packages, options)
    wanted = missing(host, facts, evidence)
    docker = facts.docker
    strange = isinstance(docker, Docker) and not _engine(packages) and not _is_bare(facts, packages)
    if strange and not snap.is_there(facts, packages) and (_is_old(facts, packages) or not _version(facts, packages)):
        text = f"Docker is there, and {_origin(packages)}"
        evidence_text = f"engine: {_version(facts, packages) or 'does not answer'}"
        mend = f"remove it as it was installed, then the same command again: {host.ssh('which -a docker dockerd')}"
        return [*found, Finding("prereqs.docker", "fail", text, evidence_text, mend, apt.WHY)]
    if wanted and not host.install.hold:
        held = apt.held(host, packages, (*wanted, *_going(packages, wanted)), "Docker's packages (§2)")
        found += [held] if held else []
    return found


def _going(packages: Packages, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What must be removed for the packages that come."""
    if set(wanted) & set(ENGINE_PACKAGES):
        return _there(packages, CONFLICTING)
    return _there(packages, COMPOSE_CONFLICTING) if COMPOSE_PACKAGE in wanted else ()


def changes(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """What conflicts goes, and Docker's packages come."""
    wanted = missing(host, facts, evidence)
    packages = evidence.packages
    if not wanted or not isinstance(packages, Packages):
        return []
    found: list[Change] = []
    is_engine = installs_engine(host, facts, evidence)
    stops = running(facts) if is_engine else ()
    going = _going(packages, wanted)
    ahead: list[Step] = [apt.fetch(wanted, may_remove=going)]
    if snap.is_there(facts, packages):
        found += snap.changes(packages, options, ahead=tuple(ahead), stops=stops)
        ahead, stops = [], ()
    if going:
        # Their socket, left to run, keeps the next engine from starting: `no sockets found via socket activation`
        steps = (*ahead, *_unheld(packages, going), apt.remove(going, stop=UNITS if DISTRIBUTION in going else ()))
        ends = stops if {DISTRIBUTION, "containerd", "runc"} & set(going) else ()
        found.append(Change(f"remove {', '.join(going)}", _why_gone(facts, going), steps, stops=ends, sign="-"))
        stops = () if ends else stops
    is_upgrade = is_engine and _engine(packages) == OWN
    why = "non-snap, from Docker's repository (§2)"
    if is_upgrade:
        why = f"engine {_version(facts, packages)} is older than {MIN_ENGINE[0]} (§2)"
    elif not is_engine:
        why = f"Docker Compose {'.'.join(map(str, MIN_COMPOSE))} or newer (§2)"
    what = f"{'upgrade' if is_upgrade else 'install'} {', '.join(wanted)}"
    stale = (SOCKET,) if is_engine and not is_upgrade else ()
    steps = (*_unheld(packages, wanted), apt.install(wanted, stop=stale))
    found.append(Change(what, why, steps, stops=stops, sign="~" if is_upgrade else "+"))
    return found


def _why_gone(facts: Facts, going: tuple[str, ...]) -> str:
    """Why they go, and what of it cannot be seen from here."""
    why = f"they conflict with Docker's own packages ({DOCKER.docs}); {_root(facts)} is kept"
    if DISTRIBUTION in going and not isinstance(facts.containers, tuple):
        return f"{why}; what runs on it could not be listed, and stops"
    if "containerd" in going and DISTRIBUTION not in going:
        return f"{why}; what uses containerd without Docker, Kubernetes for instance, is not looked at"
    return why


def _unheld(packages: Packages, names: tuple[str, ...]) -> tuple[Step, ...]:
    """Held ones let go: hosts.toml has them held (else they block), and `holds` holds them again at the end."""
    held = _held(packages, names)
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
    packages = evidence.packages
    if not isinstance(packages, Packages):
        return ()
    if installs_engine(host, facts, evidence) or OWN in packages.installed:
        return ENGINE_PACKAGES
    return _there(packages, (DISTRIBUTION, "containerd", "runc"))
