"""Section 3, the storage model: the directories, their owners, and the mounts that they must lie on.

Nothing is ever deleted, no symlink is followed out of the roots, and nothing outside them changes its owner.
"""

from __future__ import annotations

from dataclasses import dataclass

from pantheon import advice, layout, owners
from pantheon.facts import Container, Entry, Facts, Space, Unknown
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.layout import Directory
from pantheon.plan import Change, Guard, Run, SectionPlan

NAME = "storage"
SOURCE = "procedure §3"
GIB = 1 << 30
MOUNTED_BY = {
    "comfy-mnt": ("comfy",),
    "models": ("comfy",),
    "outputs/comfy": ("comfy",),
    "ollama": ("ollama", "openwebui-ollama"),
    "projects/openwebui": ("openwebui",),
}


def plan(
    host: Host, facts: Facts, *, services: tuple[str, ...] = SERVICES, settled: tuple[str, ...] = ()
) -> SectionPlan:
    """What brings the directories right; blocked when a root is not what it must be, or has too little room for
    `services`. The data of the `settled` ones is there already, or has been counted."""
    blocked = [finding for finding in roots(host, facts) if not finding.is_good]
    blocked += room(host, facts, services, settled=settled)
    blocked += _in_the_way(host, facts)
    if blocked:
        return SectionPlan(NAME, blocked=tuple(blocked))
    changes = []
    created = [d for d in layout.directories(host) if facts.paths.get(d.path) is None]
    if created:
        changes.append(_create(host, facts, created))
    for directory in layout.directories(host):
        if directory not in created:
            changes += owners.mend(host, facts, directory)
    reason = "directories, owners and mounts are as §3 says"
    large = [d.name for d in layout.directories(host) if facts.partly_seen(d.path)]
    reason += f"; {' and '.join(large)}: too large to be looked through whole" if large else ""
    return SectionPlan(NAME, tuple(changes), reason=reason)


def check(host: Host, facts: Facts) -> list[Finding]:
    """A finding for each root and each directory."""
    findings = roots(host, facts) + room(host, facts) + _in_the_way(host, facts)
    mend = f"invoke storage --host {host.name}"
    for directory in layout.directories(host):
        entry = facts.paths.get(directory.path)
        key = f"{NAME}.{directory.name}"
        if isinstance(entry, Unknown):
            findings.append(Finding(key, "unknown", f"{directory.path}: not known", entry.reason, source=SOURCE))
        elif entry is None:
            # A container that has it mounted cannot be started.
            follows = tuple(f"{service}.*" for service in MOUNTED_BY.get(directory.name, ()))
            text = f"{directory.path} is missing"
            findings.append(Finding(key, "fail", text, mend=mend, source=SOURCE, explains=follows))
        else:
            wrong = "; ".join(change.what for change in owners.mend(host, facts, directory))
            text = f"not as §3 says: {wrong}" if wrong else f"{directory.path} {entry.uid}:{entry.gid} {entry.mode:o}"
            findings.append(Finding(key, "fail" if wrong else "ok", text, mend=mend if wrong else "", source=SOURCE))
    return findings


@dataclass(frozen=True)
class Root:
    """A root of the storage model, its source, and the type that hosts.toml demands ("" for any)."""

    name: str
    path: str
    source: str
    fstype: str


def to_mount(host: Host, facts: Facts) -> list[Root]:
    """The roots that are not mounted, and that hosts.toml has a source for."""
    storage = host.storage
    both = (
        Root("nvme", storage.nvme, storage.nvme_source, storage.nvme_fstype),
        Root("ssd", storage.ssd, storage.ssd_source, storage.ssd_fstype),
    )
    return [root for root in both if root.source and _is_unmounted(facts, root.path)]


def _is_unmounted(facts: Facts, path: str) -> bool:
    entry = facts.paths.get(path)
    return entry is None or (
        isinstance(entry, Entry) and entry.kind == "dir" and entry.real == path and not entry.is_mount
    )


def roots(host: Host, facts: Facts) -> list[Finding]:
    """Whether the NVMe and SSD roots are the mount points that they must be (§3.1, §3.2)."""
    findings = []
    for name, root, fstype in (
        ("nvme", host.storage.nvme, host.storage.nvme_fstype),
        ("ssd", host.storage.ssd, host.storage.ssd_fstype),
    ):
        key, entry = f"{NAME}.{name}-root", facts.paths.get(root)
        mend = advice.fix(host.name, "mounts-missing")
        if isinstance(entry, Unknown):
            findings.append(Finding(key, "unknown", f"{root}: not known", entry.reason, mend, SOURCE))
        elif entry is None:
            findings.append(Finding(key, "fail", f"{root} does not exist", "", mend, SOURCE))
        elif entry.kind != "dir" or entry.real != root:
            findings.append(
                Finding(
                    key,
                    "fail",
                    f"{root} is not a directory of its own",
                    f"{entry.kind}, really {entry.real}",
                    "",
                    SOURCE,
                )
            )
        elif host.storage.require_mounts and not entry.is_mount:
            text = f"{root} is not a mount point: what is written there fills the root disk"
            findings.append(Finding(key, "fail", text, "findmnt --mountpoint finds nothing", mend, SOURCE))
        elif entry.mount and "ro" in entry.mount.options.split(","):
            findings.append(
                Finding(
                    key,
                    "fail",
                    f"{root} is mounted read-only",
                    entry.mount.options,
                    advice.fix(host.name, "mounts-missing"),
                    SOURCE,
                )
            )
        elif fstype and entry.mount and entry.mount.fstype != fstype:
            text = f"{root} is {entry.mount.fstype}, not {fstype}"
            findings.append(
                Finding(key, "fail", text, entry.mount.source, f"hosts.toml: storage.{name}_fstype", SOURCE)
            )
        else:
            evidence = f"{entry.mount.source} {entry.mount.fstype}" if entry.mount else ""
            findings.append(Finding(key, "ok", f"{root} is mounted", evidence, source=SOURCE))
    return findings


def room(
    host: Host, facts: Facts, services: tuple[str, ...] = SERVICES, *, settled: tuple[str, ...] = ()
) -> list[Finding]:
    """Findings where there is too little room for what is still to be pulled or set up. Empty: enough."""
    pulls = [host.service(name) for name in services if facts.images.get(host.service(name).image) is None]
    # Never started here: its container has never been made.
    fresh = [name for name in services if name not in settled and not isinstance(facts.container(name), Container)]
    nvme = sum(host.service(name).data_gib for name in fresh if name != "openwebui")
    ssd = sum(host.service(name).data_gib for name in fresh if name == "openwebui")
    needs = (
        ("docker-room", "images", "Docker's image store", sum(service.image_gib for service in pulls)),
        ("nvme-room", host.storage.nvme, host.storage.nvme, nvme),
        ("ssd-room", host.storage.ssd, host.storage.ssd, ssd),
    )
    findings = []
    for key, name, label, gib in needs:
        space = facts.spaces.get(name)
        if not isinstance(space, Space):
            if gib:
                reason = space.reason if isinstance(space, Unknown) else "not there"
                findings.append(
                    Finding(f"{NAME}.{key}", "unknown", f"free space in {label}: not known", reason, source=SOURCE)
                )
        elif space.free_bytes < gib * GIB or (space.total_inodes and not space.free_inodes):
            free = (
                f"{space.free_bytes / GIB:.1f} GiB free"
                if space.free_inodes or not space.total_inodes
                else "no inode free"
            )
            text = f"{label} has too little room: {free}, {gib:.1f} GiB needed"
            mend = advice.fix(host.name, "disk-pressure")
            findings.append(Finding(f"{NAME}.{key}", "fail", text, mend=mend, source=SOURCE))
    return findings


def _in_the_way(host: Host, facts: Facts) -> list[Finding]:
    """Paths that are something else than a directory of ours, or could not be looked at: to be settled by a human."""
    findings = []
    for directory in layout.directories(host):
        entry = facts.paths.get(directory.path)
        key = f"{NAME}.{directory.name}"
        if isinstance(entry, Unknown):
            findings.append(Finding(key, "unknown", f"{directory.path}: not known", entry.reason, source=SOURCE))
        elif entry is not None and (entry.kind != "dir" or entry.real != directory.path):
            text = f"{directory.path} is a {entry.kind}" + (f" to {entry.real}" if entry.real != directory.path else "")
            mend = f"look at it on the host: ls -ld {directory.path}; pantheon follows no link and removes nothing"
            findings.append(Finding(key, "fail", text, mend=mend, source=SOURCE))
    return findings


def _create(host: Host, facts: Facts, missing: list[Directory]) -> Change:
    steps = tuple(
        Run(
            ("install", "-d", f"-m{d.mode:04o}", f"-o{d.uid}", f"-g{owners.gid(facts, d)}", "--", d.path),
            guards=(owners.root_guard(host, facts, d), Guard("path", d.path, "missing")),
        )
        for d in missing
    )
    names = ", ".join(d.name for d in missing)
    what = f"create {names}" if len(missing) <= 3 else f"create {len(missing)} directories"
    return Change(what, "the storage model (§3)", steps, sign="+")
