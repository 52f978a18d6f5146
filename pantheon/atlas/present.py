"""Who serves a mount point now, what is mounted there, and which of them are pantheon's to set up."""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.atlas.wanted import LONGEST, units
from pantheon.facts import Command, Mount, Unknown
from pantheon.inventory import AtlasMount, Host
from pantheon.looks.text import unit_name
from pantheon.nfs import Atlas, Share, UnitFile

REALLY_NFS = ("nfs", "nfs4", "fuse.nfs", "fuse.nfs4")  # the kernel's client, or one in user space that says so


@dataclass(frozen=True)
class Served:
    """Who mounts at a place: "nobody", "ours", "fstab", "unit" (somebody's), "hand" (mounted, and nobody is to)."""

    by: str
    where: str = ""  # "/etc/fstab line 12", a unit's path
    source: str = ""
    fstype: str = ""
    options: str = ""


def served(share: Share) -> Served:
    file = next((unit for unit in share.units if unit.name.endswith(".mount")), None)
    auto = next((unit for unit in share.units if unit.name.endswith(".automount")), None)
    foreign = next((u for u in (file, auto) if u and not u.ours and not u.path.startswith("/run/systemd/gen")), None)
    if foreign:
        about = file or foreign
        return Served("unit", foreign.path, about.what, about.type, about.options)
    if share.lines:
        line = share.lines[-1]
        return Served("fstab", f"/etc/fstab line {line.number}", line.source, line.fstype, line.options)
    if file or auto:
        return Served("ours")
    return Served("hand" if share.rows else "nobody")


def same_source(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def is_mode(listed: str, mode: str) -> bool:
    return ("ro" in listed.split(",")) == (mode == "ro")


def top(share: Share) -> Mount | None:
    """What is mounted there, the uppermost."""
    return share.rows[-1] if share.rows else None


def is_stale(share: Share) -> bool:
    """Mounted, and its own error says that the mount is dead, not merely that the server is silent."""
    said = share.answers.output.lower() if isinstance(share.answers, Command) and share.answers.status else ""
    return any(text in said for text in ("stale", "not connected", "host is down", "input/output error"))


def is_silent(share: Share) -> bool:
    return isinstance(share.answers, Unknown)


def server_of(want: AtlasMount) -> str:
    return want.export.partition(":/")[0].removeprefix("[").removesuffix("]")


def reachable(want: AtlasMount, seen: Atlas) -> bool:
    return seen.servers.get(server_of(want)) == ""


def ours_to_serve(host: Host, seen: Atlas) -> list[tuple[AtlasMount, Share]]:
    """The mounts that are pantheon's to set up: nobody else's, and at a place that is fit."""
    fit = ("missing", "dir ", "mounted")
    return [
        (want, share)
        for want, share in pairs(host, seen)
        if served(share).by in ("nobody", "ours", "hand") and share.at.startswith(fit) and not is_misplaced(want, share)
        if len(unit_name(want.mount, "automount").encode()) <= LONGEST and not unfit_parents(want, seen)
    ]


def pairs(host: Host, seen: Atlas) -> list[tuple[AtlasMount, Share]]:
    shares = {share.mount: share for share in seen.shares}
    return [(want, shares[want.mount]) for want in host.atlas if want.mount in shares]


def is_misplaced(want: AtlasMount, share: Share) -> bool:
    """Something else is mounted there, and our units did not do it."""
    row = top(share)
    return bool(row) and served(share).by != "ours" and not is_right(want, row)


def is_right(want: AtlasMount, row: Mount | None) -> bool:
    return (
        row is not None
        and row.fstype in REALLY_NFS
        and same_source(row.source, want.export)
        and is_mode(row.options, want.mode)
    )


def unfit_parents(want: AtlasMount, seen: Atlas) -> list[str]:
    above = [path for path in seen.parents if want.mount.startswith(f"{path}/")]
    return [path for path in above if not seen.parents[path].startswith(("missing", "dir "))]


def unwanted(host: Host, seen: Atlas) -> list[UnitFile]:
    """Units of ours whose mount hosts.toml does not name any more, or that somebody's line of fstab serves by now."""
    mine = {unit.path for want, share in pairs(host, seen) if not share.lines for unit in units(want)}
    return [unit for unit in seen.ours if unit.path not in mine]
