"""What stands beside the old containers: the Compose file that they came from, and others that need them."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from pantheon import layout
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.takeover.old import UP, Old
from pantheon.takeover.record import FILE_SUFFIX, Moved

SERVICE = "com.docker.compose.service"


@dataclass(frozen=True)
class Beside:
    """`renamed`: Compose files that get another name."""

    renamed: tuple[Moved, ...]
    findings: tuple[Finding, ...]
    blocked: tuple[Finding, ...] = ()


def compose_files(container: Container) -> tuple[str, ...]:
    """The files that a container's project was read from, where they have a name on the host: Compose 1 notes them
    relative to its directory."""
    folder = container.labels.get("com.docker.compose.project.working_dir", "")
    named = [path for path in container.compose_files.split(",") if path not in ("", "-")]
    paths = [posixpath.normpath(posixpath.join(folder, path)) for path in named]
    return tuple(path for path in paths if path.startswith("/"))


def look(host: Host, facts: Facts, olds: tuple[Old, ...], seen: Belongings) -> Beside:
    """Every file gets another name, also one that names other services: `docker compose up` beside it would start the
    old stack by habit. Those others run on, and are managed by that other name."""
    ids = {old.container.id for old in olds}
    everyone = facts.containers if isinstance(facts.containers, tuple) else ()
    others = [container for container in everyone if container.id not in ids]
    renamed, findings, blocked = list[Moved](), list[Finding](), list[Finding]()
    findings += [_unit(path) for path in seen.units]
    for path in (*dict.fromkeys(path for old in olds for path in compose_files(old.container)), *seen.units):
        kinds = {old.kind for old in olds if path in compose_files(old.container)}
        if kinds != {"theirs"} and path == layout.compose_file(host):
            continue  # ours, and written anew
        place = seen.places.get(path)
        kept = Moved(path, path + FILE_SUFFIX)
        before = seen.places.get(kept.new)
        is_kept = isinstance(before, Place) and bool(before.kind)
        if not isinstance(place, Place) or not place.kind:
            if isinstance(place, Place) and not is_kept and kinds == {"theirs"}:
                findings.append(_nowhere(path))
        elif is_kept:
            text = f"{kept.new} is there already, from an earlier day"
            mend = shlex.join(["sudo", "mv", kept.new, f"{kept.new}.old"])
            blocked.append(Finding(f"takeover.file.{path}", "fail", text, mend=mend))
        else:
            renamed.append(kept)
    for files in dict.fromkeys(compose_files(old.container) for old in olds):
        users = [c for c in others if c.state in UP and set(files) & set(compose_files(c))]
        if users and any(moved.old in files for moved in renamed):
            names = {moved.old: moved.new for moved in renamed}
            one = next(old.container for old in olds if compose_files(old.container) == files)
            findings.append(_shared([names.get(path, path) for path in files], users, one))
    for old in olds:
        findings += _needing(old, others)
    findings += [_replacing(host, c) for c in others if c.state in UP and c.image.split(":")[0].endswith("/watchtower")]
    findings += _on_their_networks(olds, others, {finding.id for finding in findings})
    return Beside(tuple(renamed), tuple(findings), tuple(blocked))


def env_files(container: Container) -> tuple[str, ...]:
    """The files of `docker compose --env-file`: without them the same Compose file would say something else."""
    named = container.labels.get("com.docker.compose.project.environment_file", "")
    return tuple(path for path in named.split(",") if path.startswith("/"))


def compose(project: str, folder: str, files: Iterable[str], env: Iterable[str], *rest: str) -> tuple[str, ...]:
    """Compose on a project as it was started: in which directory, of which files, with which environment."""
    files = list(files)
    where = ("--project-directory", folder) if folder and folder != posixpath.dirname(files[0]) else ()
    named = [
        *(part for path in files for part in ("-f", path)),
        *(part for path in env for part in ("--env-file", path)),
    ]
    return ("docker", "compose", "-p", project, *where, *named, *rest)


def _shared(files: list[str], users: list[Container], old: Container) -> Finding:
    names = sorted({user.name for user in users})
    services = sorted({user.labels.get(SERVICE, "SERVICE") for user in users})
    text = f"{', '.join(names)} of the same Compose file keep{'s' if len(names) == 1 else ''} running"
    evidence = f"it is {', '.join(files)} then, and would start the old services, too: name those that you mean"
    folder = old.labels.get("com.docker.compose.project.working_dir", "")
    mend = shlex.join(compose(old.project, folder, files, env_files(old), "up", "-d", "--no-deps", *services))
    return Finding(f"takeover.shared.{files[0]}", "warn", text, evidence, mend)


def _unit(path: str) -> Finding:
    name = path.rpartition("/")[2]
    text = f"{name} starts the old stack, also at the next boot: it is kept as {path}{FILE_SUFFIX}"
    return Finding(f"takeover.unit.{name}", "warn", text, "what else it starts comes back by its restart policy alone")


def _replacing(host: Host, watchtower: Container) -> Finding:
    text = (
        f"{watchtower.name} replaces containers by such of newer images by itself: ours, too, whatever hosts.toml says"
    )
    mend = host.ssh(shlex.join(["docker", "stop", watchtower.name])) + ", or WATCHTOWER_LABEL_ENABLE=true in it"
    return Finding(f"takeover.beside.{watchtower.name}", "warn", text, watchtower.image, mend)


def _nowhere(path: str) -> Finding:
    """As with Portainer, which has its files in a volume of its own."""
    text = f"the Compose file {path} is not on the host by that name, and cannot be kept under another"
    mend = "do not have the old stack started again where it is managed"
    return Finding(f"takeover.file.{path}", "warn", text, "whoever has it can start the old stack beside ours", mend)


def _needing(old: Old, others: list[Container]) -> list[Finding]:
    """Others that would miss this one: they share its network, or were told to wait for it."""
    found = []
    service = old.container.labels.get(SERVICE, "")
    for other in others:
        if other.state not in UP or old.kind == "ours":
            continue
        inside = other.network_mode in (f"container:{old.container.id}", f"container:{old.container.name}")
        needs = other.labels.get("com.docker.compose.depends_on", "")
        waits = (
            service
            and other.project == old.container.project
            and service in (n.split(":")[0] for n in needs.split(","))
        )
        if inside:
            text = f"{other.name} uses the network of {old.name}, and is cut off when that stops"
            findings_mend = f"give {other.name} a network of its own"
            found.append(Finding(f"takeover.needs.{other.name}", "warn", text, "it keeps running", findings_mend))
        elif waits:
            text = f"{other.name} depends on {old.name}: it keeps running, and finds it under that name no more"
            evidence = f"the new one is {old.service}, on a network of its own and on 127.0.0.1"
            found.append(Finding(f"takeover.needs.{other.name}", "warn", text, evidence))
    return found


def _on_their_networks(olds: tuple[Old, ...], others: list[Container], said: set[str]) -> list[Finding]:
    """Others, such as a proxy, that may reach the old ones by a network which they share."""
    found = []
    for other in others:
        own = set(other.networks) - {"bridge", "host", "none"}
        names = [old.name for old in olds if old.kind == "theirs" and own & set(old.container.networks)]
        if other.state in UP and names and f"takeover.needs.{other.name}" not in said:
            text = f"{other.name} keeps running, and finds {', '.join(names)} on its network no more"
            evidence = "ours are on networks of their own, and on 127.0.0.1"
            found.append(Finding(f"takeover.needs.{other.name}", "warn", text, evidence))
    return found
