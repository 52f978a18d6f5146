"""Which containers are taken over, and what forbids it.

Somebody's own, with --adopt; ours, where their project is called otherwise in hosts.toml now, or their data is to lie
elsewhere (a move). Where two are of one service, a human says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pantheon import foreign, stack
from pantheon.facts import Container, Facts
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.takeover.record import SUFFIX, Record

UP = foreign.UP
MANAGED_BY = {
    "com.docker.swarm.service.name": "Docker Swarm",
    "io.kubernetes.pod.name": "Kubernetes",
    "com.hashicorp.nomad.alloc_id": "Nomad",
}
RUNS = "it would be started again: {what} keeps it running"

Kind = Literal["theirs", "renamed", "ours"]


@dataclass(frozen=True)
class Old:
    """A container that is taken over. `kind`: theirs; renamed, which is ours under another project name; ours, whose
    data alone is to lie elsewhere. `kept` is the name under which it is kept, "" for ours, which is made anew."""

    container: Container
    service: str
    kind: Kind
    kept: str

    @property
    def name(self) -> str:
        return self.container.name

    @property
    def is_up(self) -> bool:
        return self.container.state in UP


@dataclass(frozen=True)
class Found:
    """`left` are the ids of those that stay as they are, on the operator's word."""

    olds: tuple[Old, ...] = ()
    left: tuple[str, ...] = ()
    blocked: tuple[Finding, ...] = ()


def find(host: Host, facts: Facts, record: Record | None, *, adopt: bool, take: tuple[str, ...] = ()) -> Found:
    """The containers that are concerned. Without `adopt` those alone that are ours."""
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    begun = {kept.id: kept for kept in record.containers} if record and record.is_open else {}
    done = record.kept_ids() if record and record.stage == "ready" else set()
    of: dict[str, list[Container]] = {name: [] for name in SERVICES}
    blocked, left = [], set(record.left) if record else set()
    for container in containers:
        if container.id in begun:
            of[begun[container.id].service].append(container)
        elif (container.id in done or container.id in left) and container.name not in take:
            continue
        elif stack.OURS in container.labels:
            if (service := container.labels.get("pantheon.service", "")) in of:
                of[service].append(container)
        elif adopt and (service := foreign.service_of(host, facts, container)):
            of[service].append(container)
    olds = []
    for service, several in of.items():
        chosen, others, problem = _choice(host, service, several, begun, take)
        if problem:
            blocked.append(problem)
            continue
        blocked += [why for other in others if (why := _in_the_way(host, other, chosen))]
        left |= {other.id for other in others}
        if chosen is not None:
            left.discard(chosen.id)
            kind: Kind = _kind(host, chosen)
            kept = (
                "" if kind == "ours" else _kept_name(facts, chosen, begun[chosen.id].kept if chosen.id in begun else "")
            )
            olds.append(Old(chosen, service, kind, kept))
    blocked += _unknown_names(containers, take)
    blocked += [finding for old in olds for finding in _forbidden(host, old)]
    return Found(tuple(olds), tuple(sorted(left)), tuple(blocked))


def _kind(host: Host, container: Container) -> Kind:
    if foreign.is_ours(host, container):
        return "ours"
    return "renamed" if stack.OURS in container.labels else "theirs"


def _kept_name(facts: Facts, container: Container, noted: str) -> str:
    if noted:
        return noted
    taken = {c.name for c in facts.containers if c.id != container.id} if isinstance(facts.containers, tuple) else set()
    name, number = container.name + SUFFIX, 2
    while name in taken:
        name, number = f"{container.name}{SUFFIX}-{number}", number + 1
    return name


def _choice(
    host: Host, service: str, several: list[Container], begun: dict[str, object] | object, take: tuple[str, ...]
) -> tuple[Container | None, list[Container], Finding | None]:
    """The one that is taken, the others, and what must be said first."""
    if len(several) < 2:
        return (several[0] if several else None), [], None
    noted = [container for container in several if isinstance(begun, dict) and container.id in begun]
    named = noted or [c for c in several if c.name in take or any(len(t) >= 12 and c.id.startswith(t) for t in take)]
    if len(named) == 1:
        return named[0], [c for c in several if c is not named[0]], None
    ours = [container for container in several if foreign.is_ours(host, container)]
    known = ", ".join(f"{c.name} ({c.state}, {c.image})" for c in several)
    if ours and not noted:
        other = next(c for c in several if c not in ours)
        text = f"{ours[0].name} is ours already, and {other.name} is another one of its kind"
        mend = f"remove the one that is not wanted, on the host: docker rm {other.name}"
        return None, [], Finding(f"takeover.choice.{service}", "fail", text, known, mend)
    text = f"{len(several)} containers are {service}: say which one is to be taken over"
    likely = next((container for container in several if container.state in UP), several[0])
    mend = f"invoke bringup --adopt --take {likely.name} --host {host.name}   (the others stay as they are)"
    return None, [], Finding(f"takeover.choice.{service}", "fail", text, known, mend)


def _in_the_way(host: Host, other: Container, chosen: Container | None) -> Finding | None:
    """One that is left alone must not go on in the data, or on the port, of the one that is taken."""
    if chosen is None or other.state not in UP:
        return None
    sources = {mount.source for mount in chosen.mounts if mount.type != "tmpfs" and mount.writable}
    shared = [mount.source for mount in other.mounts if mount.source in sources]
    ports = {host.service(name).port for name in SERVICES}
    held = [port.port for port in other.ports if port.port in ports]
    if not shared and not held:
        return None
    what = f"writes to {shared[0]}, too" if shared else f"holds port {held[0]}"
    text = f"{other.name} is to stay, and {what}"
    return Finding(f"takeover.left.{other.name}", "fail", text, mend=host.ssh(f"docker stop {other.name}"))


def _unknown_names(containers: tuple[Container, ...], take: tuple[str, ...]) -> list[Finding]:
    names = {container.name for container in containers}
    wrong = [t for t in take if t not in names and not any(c.id.startswith(t) and len(t) >= 12 for c in containers)]
    known = ", ".join(sorted(names))
    return [
        Finding(f"takeover.take.{one}", "fail", f"there is no container {one}", f"there is {known}") for one in wrong
    ]


def _forbidden(host: Host, old: Old) -> list[Finding]:
    """What keeps a container from being stopped and kept."""
    container, name, key = old.container, old.name, f"takeover.container.{old.name}"
    if container.unread:
        return [Finding(key, "unknown", f"{name}: not known", container.unread)]
    if old.kind != "theirs":
        return []
    by = next((who for label, who in MANAGED_BY.items() if label in container.labels), "")
    if by:
        text, mend = f"{name} is run by {by}, which would start another one", f"take it out of {by} first"
        return [Finding(key, "fail", text, RUNS.format(what=by), mend)]
    if container.auto_remove:
        text = f"{name} was started with --rm: stopped, it vanishes with its layer and its unnamed volumes"
        mend = "start it again on the same data without --rm, then the same command"
        return [Finding(key, "fail", text, "nothing would be left to go back to", mend)]
    if container.project == host.project:
        text = f"{name} is in a Compose project that has our name, {host.project}: Compose would replace it"
        mend = 'give ours another name in hosts.toml (project = "..."), then the same command'
        return [Finding(key, "fail", text, container.compose_files, mend)]
    if container.state in ("removing", "dead"):
        return [
            Finding(key, "fail", f"{name} is {container.state}", container.error, host.ssh(f"docker inspect {name}"))
        ]
    return []
