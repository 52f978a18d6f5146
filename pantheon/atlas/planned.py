"""What brings the mounts about."""

from __future__ import annotations

from pantheon.atlas.present import REALLY_NFS, is_right, is_stale, ours_to_serve, pairs, reachable, top, unwanted
from pantheon.atlas.wanted import stem, units
from pantheon.atlas.words import NAME, VERIFY_S, blocked
from pantheon.facts import Command
from pantheon.install import apt
from pantheon.inventory import AtlasMount, Host
from pantheon.layout import COMFY
from pantheon.looks.text import unit_name
from pantheon.nfs import Atlas, Share, UnitFile
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step, Write

CLIENT = "nfs-common"  # the package


def plan(host: Host, seen: Atlas, *, verify: bool = False) -> SectionPlan:
    """What brings the mounts about; a mount that is in somebody's hands, or whose place is not fit, is left out (the
    findings say so). With `verify`, those that are mounted are tried."""
    if why := blocked(host, seen):
        return SectionPlan(NAME, blocked=why)
    changes = [*_client(host, seen), *_directories(host, seen), *_units(host, seen), *_unwanted(host, seen)]
    if verify and not changes:
        changes += _verify(host, seen)
    count = len(host.atlas)
    reason = f"{count} mount{'s' if count != 1 else ''} of Atlas as hosts.toml says"
    return SectionPlan(NAME, tuple(changes), reason=reason if count else "hosts.toml names no mount of Atlas")


def _client(host: Host, seen: Atlas) -> list[Change]:
    if not host.atlas or seen.client is not None:
        return []
    steps = (apt.update(), apt.install([CLIENT], recommends=False))
    return [Change(f"install {CLIENT}", "NFS is mounted by it", steps, sign="+")]


def _directories(host: Host, seen: Atlas) -> list[Change]:
    """Directories above the mount points, and they themselves, where they are missing: owned by root."""
    mine = [want.mount for want, _ in ours_to_serve(host, seen)]
    above = [path for path in seen.parents if any(mount.startswith(f"{path}/") for mount in mine)]
    missing = [path for path in above if seen.parents[path] == "missing"]
    missing += [want.mount for want, share in ours_to_serve(host, seen) if share.at == "missing"]
    missing = sorted(dict.fromkeys(missing))
    steps = tuple(
        Run(
            ("install", "-d", "-m0755", "-o0", "-g0", "--", path),
            guards=(Guard("path", path, "missing"),),
        )
        for path in missing
    )
    what = f"create {missing[0]}" if len(missing) == 1 else f"create {len(missing)} directories for mounts"
    return [Change(what, "where Atlas is mounted, owned by root", steps, sign="+")] if missing else []


def _units(host: Host, seen: Atlas) -> list[Change]:
    """The units as hosts.toml wants them, and what is mounted by them."""
    changes = []
    for want, share in ours_to_serve(host, seen):
        there = {unit.name: unit for unit in share.units}
        steps: list[Step] = []
        for unit in units(want):
            before = there.get(unit.name)
            if before is None or before.text != unit.text:
                guard = Guard("sha256", unit.path, before.sha256 if before and before.path == unit.path else "missing")
                text = before.text if before else ""
                steps.append(Write(unit.path, unit.text, 0o644, before=text, guards=(guard,)))
        todo = _todo(want, share, seen, rewritten=bool(steps), new=not there)
        if steps or todo:
            arguments: dict[str, object] = {name: [want.mount] for name in todo}
            arguments["units"] = {want.mount: stem(want)}
            says = _says(want, todo, reachable=reachable(want, seen))
            steps.append(Mend("atlas_mount", arguments, says, timeout_s=240))
            changes.append(
                Change(_what(want, todo, there), _why(want, share), tuple(steps), sign="~" if there else "+")
            )
    return changes


def _todo(want: AtlasMount, share: Share, seen: Atlas, *, rewritten: bool, new: bool) -> list[str]:
    """Words of mending/atlas_mount.py, in its order."""
    auto = share.states.get(unit_name(want.mount, "automount"))
    row, todo = top(share), []
    if row and is_stale(share):
        todo.append("lift")
    elif row and not new and (rewritten or not is_right(want, row)):
        todo.append("renew")
    unready = auto is None or auto.enabled != "enabled" or (auto.active != "active" and (row is None or todo))
    if todo or unready or rewritten:
        todo.append("enable")
    if reachable(want, seen) and (row is None or {"lift", "renew"} & {*todo}):
        todo.append("start")
    return todo


def _says(want: AtlasMount, todo: list[str], *, reachable: bool) -> str:
    said = {
        "lift": "take the dead mount out of the way (umount -l)",
        "renew": "unmount it, unless it is in use",
        "enable": f"start {stem(want)}.automount, now and at each boot",
        "start": "mount it",
    }
    parts = [said[word] for word in todo]
    if "enable" in todo and not reachable:
        parts.append("mounted at its first use: its server does not answer now")
    return "; ".join(parts)


def _what(want: AtlasMount, todo: list[str], there: dict[str, UnitFile]) -> str:
    verb = "remount" if "lift" in todo or "renew" in todo else "set up" if not there else "mount"
    verb = "set right" if there and todo == ["enable"] else verb
    return f"{verb} {want.mount} ({want.export}, {want.mode})"


def _why(want: AtlasMount, share: Share) -> str:
    if is_stale(share):
        return "what is mounted there is dead"
    if share.failed:
        return f"the last attempt: {share.failed}"
    return f"hosts.toml names it; {'soft' if want.mode == 'ro' else 'hard'}, by automount, required by nothing"


def _unwanted(host: Host, seen: Atlas) -> list[Change]:
    changes = []
    gone = unwanted(host, seen)
    for where in dict.fromkeys(unit.where for unit in gone):
        files = [unit for unit in gone if unit.where == where]
        arguments: dict[str, object] = {"remove": [unit.path for unit in files]}
        arguments["units"] = {where: files[0].name.rpartition(".")[0]}
        says = f"stop {where} unless it is in use, and remove {' and '.join(unit.path for unit in files)}"
        guards = tuple(Guard("sha256", unit.path, unit.sha256) for unit in files)
        step = Mend("atlas_mount", arguments, says, guards=guards, timeout_s=240)
        why = "hosts.toml does not name it any more; what lies on Atlas is not touched"
        changes.append(Change(f"no longer mount {where}", why, (step,), sign="-"))
    return changes


def _verify(host: Host, seen: Atlas) -> list[Change]:
    shares = [
        {"mount": want.mount, "source": row.source}
        for want, share in pairs(host, seen)
        if (row := top(share)) and row.fstype in REALLY_NFS and isinstance(share.answers, Command)
        if not share.answers.status
    ]
    if not shares:
        return []
    arguments: dict[str, object] = {"shares": shares, "uids": [0, COMFY], "deadline_s": VERIFY_S}
    says = (
        f"write a file of its own into each as root and as {COMFY}, look whose it is, remove it; {VERIFY_S} s at most"
    )
    step = Mend("atlas_verify", arguments, says, timeout_s=VERIFY_S * 6)
    what = f"try {', '.join(share['mount'] for share in shares)}"
    return [Change(what, "whether they can be written, and as whom", (step,))]
