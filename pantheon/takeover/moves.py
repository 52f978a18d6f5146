"""Our own stack, where hosts.toml has moved it: another storage root, stack directory or project name.

Where the data really lies is told by our containers' mounts; where there are none any more, by what the host was last
brought up with (memory.py). A service never starts on an empty directory because a path changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pantheon import layout, memory, stack
from pantheon.facts import Container, Facts, TextFile
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Plan
from pantheon.takeover import record

# Data by name: whose it is, and where its container has it.
DATA = {
    "comfy-mnt": ("comfy", "/comfy/mnt"),
    "outputs": ("comfy", "/outputs"),
    "models": ("comfy", "/models"),
    "ollama": ("ollama", "/root/.ollama"),
    "openwebui": ("openwebui", "/app/backend/data"),
}


@dataclass(frozen=True)
class Elsewhere:
    """A datum of ours that lies in `old` and is to lie in `new`; `container` has it mounted, None: none is there."""

    name: str
    service: str
    old: str
    new: str
    container: Container | None


def wanted(host: Host) -> dict[str, str]:
    """Where each datum is to lie."""
    return {
        "comfy-mnt": layout.comfy_mnt(host),
        "outputs": layout.comfy_outputs(host),
        "models": layout.models(host),
        "ollama": layout.ollama_data(host),
        "openwebui": layout.openwebui_data(host),
    }


def ours(facts: Facts) -> dict[str, Container]:
    """Our containers by service, of whatever project; those that are kept from an earlier takeover are not among
    them. Of two, as in the middle of a recreate, the one with the right name."""
    kept = known.kept_ids() if (known := record.known(facts)) else set()
    found: dict[str, Container] = {}
    for container in facts.containers if isinstance(facts.containers, tuple) else ():
        service = container.labels.get("pantheon.service", "")
        if (
            stack.OURS in container.labels
            and container.id not in kept
            and (service not in found or container.name == service)
        ):
            found[service] = container
    return found


def elsewhere(host: Host, facts: Facts) -> tuple[Elsewhere, ...]:
    """The data that lies elsewhere than hosts.toml says, and has not been brought there. A container whose mount was
    changed by hand, while the data is where it was brought, is drift and not a move."""
    containers, last = ours(facts), memory.places(facts)
    done = record.known(facts)
    there = {(place.source, place.target) for place in done.data} if done and done.stage == "ready" else set()
    found = []
    for name, new in wanted(host).items():
        service, inside = DATA[name]
        container = containers.get(service)
        old = last.get(name, new)
        if container is not None and last.get(name) != new:  # else it was brought there, and changed by hand since
            old = next((mount.source for mount in container.mounts if mount.target == inside), new)
        if old != new and (old, new) not in there:
            found.append(Elsewhere(name, service, old, new, container))
    return tuple(found)


def renamed(host: Host, facts: Facts) -> tuple[Container, ...]:
    """Our containers under another project name than that of hosts.toml."""
    return tuple(c for c in ours(facts).values() if c.labels[stack.OURS] != host.project)


def is_pending(host: Host, facts: Facts) -> bool:
    """Whether the next bringup moves something of ours."""
    begun = record.known(facts)
    is_begun = begun is not None and begun.kind == "move" and begun.stage == "begun"
    return is_begun or bool(elsewhere(host, facts) or renamed(host, facts) or _old_files(host, facts))


def _old_files(host: Host, facts: Facts) -> tuple[str, ...]:
    """Compose files of ours that lie elsewhere now, and are still in use: the login key lies beside them. Once that is
    here, a container is made from the new one like any that differs."""
    key = facts.files.get(layout.secret_key(host))
    if isinstance(key, TextFile) and key.size:
        return ()
    files = {c.compose_files for c in ours(facts).values()}
    return tuple(sorted(path for path in files if path.startswith("/") and path != layout.compose_file(host)))


def blocking(host: Host, facts: Facts, service: str) -> list[Finding]:
    """Why a service may not be started by itself: its data, or its login key, would be left behind."""
    found = [
        Finding(
            f"{service}.moved",
            "fail",
            f"{service}'s data lies in {one.old}, and hosts.toml says {one.new}",
            "a service never starts on an empty directory because a path changed",
            f"invoke bringup --host {host.name}   (copies it there; the old one stays)",
            "procedure §3",
        )
        for one in elsewhere(host, facts)
        if one.service == service
    ]
    if not found and _old_files(host, facts):
        text = f"the stack is still the one of {_old_files(host, facts)[0]}"
        mend = f"invoke bringup --host {host.name}   (takes the login key along)"
        found.append(Finding(f"{service}.moved", "fail", text, f"hosts.toml says {host.stack_dir}", mend))
    return found[:1]


def brought(host: Host, plan: Plan) -> dict[str, str]:
    """Where data lies once a plan is applied, as far as that plan brings it there or starts a service on it."""
    changed = {section.name for section in plan.sections if section.changes}
    names = wanted(host)
    return {name: path for name, path in names.items() if "takeover" in changed or DATA[name][0] in changed}


@dataclass(frozen=True)
class Back:
    name: str
    old: str


def undone(host: Host, before: record.Record) -> tuple[Back, ...]:
    """Where the data of a move lies once that is undone."""
    if before.kind != "move":
        return ()
    # hosts.toml has the new place still, or the old one again
    names = {path: name for name, path in wanted(host).items()}
    there = [(names.get(p.target) or names.get(p.source), p.source) for p in before.data if p.way == "copied"]
    return tuple(Back(name, source) for name, source in there if name)
