"""The mounts of Atlas (system page, Storage Layout): what hosts.toml wants, as units of systemd, and what is there.

Each is a pair of units of our own, a mount and its automount: nothing is mounted at boot and nothing waits for the
server then; it is mounted when somebody first goes there, or by `invoke atlas`. What somebody else has set up for a
mount point (a line of fstab, a unit) is judged and never touched. The AI stack uses none of it (procedure §1).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from pantheon.facts import Command, Mount, Unknown
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.inventory import AtlasMount, Host
from pantheon.layout import COMFY
from pantheon.looks.text import unit_name
from pantheon.nfs import Atlas, Line, Share, Tried, UnitFile
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step, Write

NAME = "atlas"
SOURCE = "system page, Storage Layout"
PLACE = "/etc/systemd/system"
HEADER = "# Written by pantheon"
CLIENT = "nfs-common"  # the package
REALLY_NFS = ("nfs", "nfs4", "fuse.nfs", "fuse.nfs4")  # the kernel's client, or one in user space that says so
NOBODY = (65534, 65533, 4294967294)
LONGEST = 255  # a unit's name; systemd gives longer ones another name
MOUNT_S = 30  # how long mounting may take: the unit's TimeoutSec
VERIFY_S = 10
REFUSED = ("EROFS", "EACCES", "EPERM")

# How a server that does not answer is borne. Read-only: an error after half a minute, since nothing can be lost.
# Read-write: `hard`, which asks again until the server is back: with `soft` a write that timed out is lost, and most
# programs do not look. What hangs there can be killed (SIGKILL); the kernel says `not responding` after about a minute.
# One attempt to mount, not two minutes of them.
PATIENCE = {
    "ro": ("soft", "timeo=100", "retrans=2", "retry=0"),
    "rw": ("hard", "timeo=150", "retrans=3", "retry=0"),
}
SAFE = ("nosuid", "nodev", "_netdev")
OPPOSITES = {"hard": "soft", "soft": "hard", "softerr": "hard", "suid": "nosuid", "dev": "nodev"}


@dataclass(frozen=True)
class Unit:
    """A unit that pantheon writes."""

    name: str
    text: str

    @property
    def path(self) -> str:
        return f"{PLACE}/{self.name}"


# ---- what is wanted


def options(want: AtlasMount) -> str:
    """All mount options: those of hosts.toml beat ours of the same name or of the opposite sense."""
    given = [option for option in want.options.split(",") if option]
    names = {option.partition("=")[0] for option in given}
    names |= {OPPOSITES[name] for name in names if name in OPPOSITES}
    ours = [option for option in (*PATIENCE[want.mode], *SAFE) if option.partition("=")[0] not in names]
    return ",".join([want.mode, *ours, *given])


def units(want: AtlasMount) -> tuple[Unit, Unit]:
    """Its mount and its automount. Neither is required by anything, and only the automount is part of a boot."""
    about = _escaped(f"Atlas {want.export} at {want.mount} ({want.mode})")
    head = f"{HEADER} from hosts.toml: `invoke atlas` overwrites what is changed here.\n[Unit]\nDescription={about}\n"
    mount = [
        "After=network-online.target nss-lookup.target",
        "Wants=network-online.target",
        # Else some who look while Atlas is down make systemd give the automount up, until somebody starts it again.
        "StartLimitIntervalSec=0",
        "",
        "[Mount]",
        f"What={_escaped(want.export)}",
        f"Where={_escaped(want.mount)}",
        f"Type={want.type}",
        f"Options={options(want)}",
        f"TimeoutSec={MOUNT_S}",
    ]
    # No TimeoutIdleSec: a container that was given the directory would find an empty one when it has been unmounted.
    automount = ["", "[Automount]", f"Where={_escaped(want.mount)}", "DirectoryMode=0755", ""]
    automount += ["[Install]", "WantedBy=remote-fs.target"]
    return (
        Unit(unit_name(want.mount), head + "\n".join(mount) + "\n"),
        Unit(unit_name(want.mount, "automount"), head + "\n".join(automount) + "\n"),
    )


def _escaped(text: str) -> str:
    """A value of a unit's file: % begins a specifier, a backslash at the end would go on with the next line."""
    return text.replace("%", "%%")


def stem(want: AtlasMount | str) -> str:
    path = want if isinstance(want, str) else want.mount
    return unit_name(path).removesuffix(".mount")


# ---- who serves a mount point


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


def _same_source(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _is_mode(listed: str, mode: str) -> bool:
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


# ---- the plan


def plan(host: Host, seen: Atlas, *, verify: bool = False) -> SectionPlan:
    """What brings the mounts about; a mount that is in somebody's hands, or whose place is not fit, is left out (the
    findings say so). With `verify`, those that are mounted are tried."""
    if blocked := _blocked(host, seen):
        return SectionPlan(NAME, blocked=blocked)
    changes = [*_client(host, seen), *_directories(host, seen), *_units(host, seen), *_unwanted(host, seen)]
    if verify and not changes:
        changes += _verify(host, seen)
    count = len(host.atlas)
    reason = f"{count} mount{'s' if count != 1 else ''} of Atlas as hosts.toml says"
    return SectionPlan(NAME, tuple(changes), reason=reason if count else "hosts.toml names no mount of Atlas")


def _blocked(host: Host, seen: Atlas) -> tuple[Finding, ...]:
    """What only a human can put right."""
    if not host.atlas:
        return ()
    found = []
    if isinstance(seen.client, Unknown):
        text = "whether NFS's programs are installed is not known"
        found.append(Finding(f"{NAME}.client", "unknown", text, seen.client.reason, "", SOURCE))
    if not seen.autofs:
        text = "this kernel has no automounts: without them a dead server could hold up a boot"
        mend = host.ssh("sudo apt install linux-modules-extra-$(uname -r)")
        found.append(Finding(f"{NAME}.autofs", "fail", text, "there is no /dev/autofs", mend, SOURCE))
    return tuple(found)


def _client(host: Host, seen: Atlas) -> list[Change]:
    if not host.atlas or seen.client is not None:
        return []
    steps = (apt.update(), apt.install([CLIENT], recommends=False))
    return [Change(f"install {CLIENT}", "NFS is mounted by it", steps, sign="+")]


def ours_to_serve(host: Host, seen: Atlas) -> list[tuple[AtlasMount, Share]]:
    """The mounts that are pantheon's to set up: nobody else's, and at a place that is fit."""
    fit = ("missing", "dir ", "mounted")
    return [
        (want, share)
        for want, share in pairs(host, seen)
        if served(share).by in ("nobody", "ours", "hand") and share.at.startswith(fit) and not _misplaced(want, share)
        if len(unit_name(want.mount, "automount").encode()) <= LONGEST and not _unfit_parents(want, seen)
    ]


def pairs(host: Host, seen: Atlas) -> list[tuple[AtlasMount, Share]]:
    shares = {share.mount: share for share in seen.shares}
    return [(want, shares[want.mount]) for want in host.atlas if want.mount in shares]


def _misplaced(want: AtlasMount, share: Share) -> bool:
    """Something else is mounted there, and our units did not do it."""
    row = top(share)
    return bool(row) and served(share).by != "ours" and not _is_right(want, row)


def _is_right(want: AtlasMount, row: Mount | None) -> bool:
    return (
        row is not None
        and row.fstype in REALLY_NFS
        and _same_source(row.source, want.export)
        and _is_mode(row.options, want.mode)
    )


def _unfit_parents(want: AtlasMount, seen: Atlas) -> list[str]:
    above = [path for path in seen.parents if want.mount.startswith(f"{path}/")]
    return [path for path in above if not seen.parents[path].startswith(("missing", "dir "))]


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
    elif row and not new and (rewritten or not _is_right(want, row)):
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
    return f"hosts.toml names it; {'soft' if want.mode == 'ro' else 'hard'}, by automount, required by nothing"


def unwanted(host: Host, seen: Atlas) -> list[UnitFile]:
    """Units of ours whose mount hosts.toml does not name any more, or that somebody's line of fstab serves by now."""
    mine = {unit.path for want, share in pairs(host, seen) if not share.lines for unit in units(want)}
    return [unit for unit in seen.ours if unit.path not in mine]


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


# ---- the findings


def check(host: Host, seen: Atlas, *, tried: bool = False) -> list[Finding]:
    """One finding or more for each mount. With `tried`, what the last attempts to write say, too."""
    found = [*_blocked(host, seen), *_root(host, seen)]
    if host.atlas and seen.client is None:
        text = "NFS cannot be mounted: its programs are not installed"
        found.append(
            Finding(f"{NAME}.client", "fail", text, "no mount.nfs4", f"invoke atlas --host {host.name}", SOURCE)
        )
    for want, share in pairs(host, seen):
        about = _place(host, want, share, seen) or _mounted(host, want, share, seen)
        found += about
        if tried and about[-1].level == "ok":
            found += attempts(host, want, share, seen)
    for unit in unwanted(host, seen):
        if unit.name.endswith(".mount"):
            text = f"{unit.where} is pantheon's, and hosts.toml does not name it any more"
            found.append(_finding(host, unit.where, "unwanted", "warn", text, unit.path))
    return found


def standing(host: Host, seen: Atlas) -> list[Finding]:
    """What the plan does not mend, for a human: said with it."""
    mended = {f"{NAME}:{want.mount}" for want, _ in ours_to_serve(host, seen)}
    found = [finding for finding in check(host, seen) if finding.level != "ok" and finding.id not in mended]
    return [finding for finding in found if not finding.id.startswith((f"{NAME}.unwanted", f"{NAME}.client"))]


def _finding(
    host: Host, path: str, word: str, level: str, text: str, evidence: str = "", mend: str | None = None
) -> Finding:
    mend = f"invoke atlas --host {host.name}" if mend is None and level != "ok" else mend or ""
    key = f"{NAME}.{word}:{path}" if word else f"{NAME}:{path}"
    return Finding(key, level, text, evidence, mend, SOURCE)  # type: ignore[arg-type]


def _root(host: Host, seen: Atlas) -> list[Finding]:
    """The directories above the mount points: real ones, and root's."""
    found = []
    for path, reading in seen.parents.items():
        if reading.startswith("dir ") and not reading.startswith("dir 0:") and _is_own(host, path):
            mend = host.ssh(f"sudo chown root:root {shlex.quote(path)}")
            text = f"{path} belongs to {reading.split()[1]}, not to root"
            found.append(_finding(host, path, "owner", "warn", text, reading, mend))
        elif not reading.startswith(("missing", "dir ")):
            mend = host.ssh(f"ls -ld {shlex.quote(path)}") + "; or name the real place in hosts.toml"
            text = f"{path} is no directory of its own: nothing is mounted behind it"
            found.append(_finding(host, path, "place", "fail", text, reading, mend))
    return found


def _is_own(host: Host, path: str) -> bool:
    """A directory that is there for Atlas alone (/mnt/atlas), not one of the system's (/mnt, /srv)."""
    return path.count("/") > 1 and all(w.mount.startswith(f"{path}/") for w in host.atlas)


def _place(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    """Why pantheon does not mount there, where it does not."""
    path = shlex.quote(want.mount)
    if len(unit_name(want.mount, "automount").encode()) > LONGEST:
        text = f"{want.mount} is too long for the name of a systemd unit"
        return [_finding(host, want.mount, "", "fail", text, mend="a shorter path in hosts.toml")]
    if _unfit_parents(want, seen) and not share.rows:
        return [_finding(host, want.mount, "", "fail", f"{want.mount} cannot be mounted: see above", mend="")]
    if not share.at.startswith(("missing", "dir ", "mounted")):
        if share.at.startswith("unknown: "):
            return [_finding(host, want.mount, "", "unknown", f"{want.mount}: not known", share.at[9:])]
        mend = (
            f"on the host: sudo mv {path} {shlex.quote(want.mount + '.aside')} && sudo mkdir {path}; or the real path"
        )
        text = f"{want.mount} is no directory of its own: nothing is mounted there"
        return [_finding(host, want.mount, "", "fail", text, share.at, f"{mend} in hosts.toml")]
    by = served(share)
    if by.by in ("fstab", "unit"):
        return _judged(host, want, share, by)
    if _misplaced(want, share) and (row := top(share)):
        text = f"something else is mounted at {want.mount}"
        mend = f"{host.ssh(f'findmnt {path}')}; when nobody needs it: {host.ssh(f'sudo umount {path}')}"
        return [_finding(host, want.mount, "", "fail", text, _about(row), mend)]
    return []


def _judged(host: Host, want: AtlasMount, share: Share, by: Served) -> list[Finding]:
    """Somebody's own line or unit for the place: right or wrong, never touched. [] where it is right: the mount itself
    is judged as any other."""
    wrong = []
    if not _same_source(by.source, want.export):
        wrong.append(f"it mounts {by.source}, not {want.export}")
    if by.fstype not in ("nfs", "nfs4"):
        wrong.append(f"its type is {by.fstype}, not {want.type}")
    if not _is_mode(by.options, want.mode):
        wrong.append(f"its options are {by.options}: not {want.mode}")
    if wrong:
        text = f"{want.mount}: {by.where} is not as hosts.toml says: {'; '.join(wrong)}"
        mend = f"edit it on the host, or hosts.toml: pantheon does not touch {by.where.split(' line ')[0]}"
        return [_finding(host, want.mount, "conflict", "fail", text, f"{by.source} {by.fstype} {by.options}", mend)]
    if len(share.lines) > 1:
        numbers = ", ".join(str(line.number) for line in share.lines)
        text = f"{want.mount} stands in /etc/fstab more than once (lines {numbers})"
        return [_finding(host, want.mount, "conflict", "fail", text, mend="keep one of them")]
    return []


def waits_at_boot(share: Share) -> Line | None:
    """A line of fstab without nofail: a boot would stop for a server that is gone."""
    listed = [(line, line.options.split(",")) for line in share.lines]
    return next((line for line, words in listed if not {"nofail", "noauto"} & {*words}), None)


def _mounted(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    by, row, path = served(share), top(share), want.mount
    out = []
    line = waits_at_boot(share)
    if line:
        text = f"{path}: /etc/fstab line {line.number} has no nofail: a boot waits for Atlas"
        out.append(_finding(host, path, "boot", "warn", text, line.options, "add nofail to it on the host"))
    whose = f", by {by.where}" if by.where else ""
    down = seen.servers.get(server_of(want), "")
    if row is None:
        text, said = f"{path} is not mounted{whose}", f"{server_of(want)}: {down}" if down else ""
        if share.beneath:
            out.append(_hides(host, want, share))
        if down:
            text = f"Atlas does not answer: {want.export} is not mounted at {path}"
        elif share.waits:
            text = f"{path} is not mounted yet: at its first use"
        mend = host.ssh(f"sudo mount {shlex.quote(path)}") if by.by == "fstab" else None
        mend = _look_at(host, want) if down else mend
        return [*out, _finding(host, path, "", "fail" if down or not share.waits else "warn", text, said, mend)]
    if is_silent(share):
        text = f"{path} is mounted, and Atlas does not answer"
        said = share.answers.reason if isinstance(share.answers, Unknown) else ""
        said = f"{said}; {server_of(want)}: {down}" if down else said
        return [*out, _finding(host, path, "", "fail", text, said, _look_at(host, want))]
    if isinstance(share.answers, Command) and share.answers.status:
        text = f"{path} is stale: what is mounted there is dead" if is_stale(share) else f"{path} cannot be read"
        mend = None
        if by.by in ("fstab", "unit"):
            mend = host.ssh(f"sudo umount -l {shlex.quote(path)}; sudo mount {shlex.quote(path)}")
        return [*out, _finding(host, path, "", "fail", text, share.answers.output, mend)]
    wrong = []
    if row.fstype not in REALLY_NFS:
        wrong.append(f"it is {row.fstype}, not NFS")
    if not _same_source(row.source, want.export):
        wrong.append(f"it is {row.source}, not {want.export}")
    if not _is_mode(row.options, want.mode):
        wrong.append(f"it is {'read-write' if want.mode == 'ro' else 'read-only'}, not {want.mode}")
    if wrong:
        return [*out, _finding(host, path, "", "fail", f"{path}: {'; '.join(wrong)}", _about(row))]
    return [*out, _finding(host, path, "", "ok", f"{path} is {want.export}, {want.mode}{whose}", _about(row))]


def _hides(host: Host, want: AtlasMount, share: Share) -> Finding:
    some = f"{share.beneath} entr{'ies' if share.beneath != 1 else 'y'}"
    text = f"{want.mount} holds {some} of its own on the root disk: out of sight once it is mounted"
    return _finding(host, want.mount, "beneath", "warn", text, "", host.ssh(f"ls -la {shlex.quote(want.mount)}"))


def _look_at(host: Host, want: AtlasMount) -> str:
    return f"look at Atlas; from the host: {host.ssh(f'ping -c1 {shlex.quote(server_of(want))}')}"


def _about(row: Mount) -> str:
    return f"{row.source} {row.fstype} {row.options}"


# ---- what the attempts say


def attempts(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    """What became of the attempts to write, as root and as the AI stack's user (system page: RO/RW intent is enforced
    by NFS; UID and GID are the same on Prometheus and Atlas)."""
    mine = [one for one in seen.tried if one.mount == want.mount]
    root = next((one for one in mine if one.uid == 0), None)
    user = next((one for one in mine if one.uid == COMFY), None)
    if root is None or user is None:
        row = top(share)
        text = f"{want.mount} was not tried" + ("" if row else ": it is not mounted")
        return [_finding(host, want.mount, "write", "unknown", text, mend=f"invoke atlas --verify --host {host.name}")]
    found = [_left(host, one) for one in mine if one.left]
    stuck = [one for one in mine if one.error == "stuck"]
    if stuck:
        text = f"{want.mount}: writing had no answer within {VERIFY_S} s"
        said = ", ".join(f"as {one.uid}" for one in stuck)
        return [*found, _finding(host, want.mount, "write", "fail", text, said, _look_at(host, want))]
    return [*found, *(_read_only if want.mode == "ro" else _read_write)(host, want, root, user)]


def _left(host: Host, one: Tried) -> Finding:
    text = f"{one.left} is pantheon's, and could not be removed again"
    return _finding(host, one.mount, "left", "warn", text, one.error, host.ssh(f"sudo rm -- {shlex.quote(one.left)}"))


def _read_only(host: Host, want: AtlasMount, root: Tried, user: Tried) -> list[Finding]:
    wrote = [one for one in (root, user) if one.error not in REFUSED]
    if not wrote:
        text = f"{want.mount}: writing is refused, as it is to be"
        return [_finding(host, want.mount, "write", "ok", text, f"root {root.error}, {COMFY} {user.error}")]
    said = ", ".join(f"as {one.uid}: {one.error or 'written'}" for one in wrote)
    text = f"{want.mount} is to be read-only, and was written"
    return [_finding(host, want.mount, "write", "fail", text, said)]


def _read_write(host: Host, want: AtlasMount, root: Tried, user: Tried) -> list[Finding]:
    export = f"the export {want.export} on Atlas"
    if "EROFS" in (user.error, root.error):
        text = f"{want.mount} is to be written, and Atlas exports it read-only"
        return [
            _finding(host, want.mount, "write", "fail", text, "EROFS", f'{export}: rw; or mode = "ro" in hosts.toml')
        ]
    whose = f"the directory is {_owner(user.shares_owner or root.shares_owner)}"
    if user.error:
        text = f"{want.mount}: user {COMFY} cannot write there ({user.error})"
        mend = f"on Atlas: chown {COMFY}:{COMFY} the directory of {want.export}, or give it a group that may write"
        return [_finding(host, want.mount, "write", "fail", text, f"{whose}; {_squash(root)}", mend)]
    if user.owner[:1] == (COMFY,):
        text = f"{want.mount}: files of user {COMFY} are {COMFY}'s on Atlas; {_squash(root)}"
        return [_finding(host, want.mount, "write", "ok", text, whose)]
    text = f"{want.mount}: what user {COMFY} writes becomes {_owner(user.owner)}'s"
    if user.owner[:1] and user.owner[0] in NOBODY:
        text += " (nobody)"
        same = root.owner[:1] == user.owner[:1]
        why = "all users are squashed (all_squash)" if same and root.shares_owner[:1] != user.owner[:1] else ""
        why = why or "its ids are not understood (the Domain of /etc/idmapd.conf differs), or all_squash"
        mend = f"{export}: without all_squash; or the same Domain in /etc/idmapd.conf on both sides"
        return [_finding(host, want.mount, "write", "fail", text, f"{why}; {whose}", mend)]
    why = "Atlas gives every file to one user (all_squash with anonuid)"
    mend = f"{export}: without all_squash, or anonuid={COMFY},anongid={COMFY}"
    return [_finding(host, want.mount, "write", "fail", text, f"{why}; {whose}", mend)]


def _owner(owner: Iterable[int]) -> str:
    numbers = [*owner]
    text = ":".join(str(number) for number in numbers[:2]) or "not known"
    return f"{text}, mode {numbers[2]:o}" if len(numbers) > 2 else text


def _squash(root: Tried) -> str:
    if root.error and root.error not in REFUSED:
        return f"root's attempt failed ({root.error})"
    if root.error:
        return f"root cannot write there ({root.error}: root is squashed)"
    if root.owner[:1] == (0,):
        return "root stays root (no_root_squash)"
    return f"root becomes {_owner(root.owner)} (root_squash)"


# ---- for a bring-up


def warnings(host: Host, seen: Atlas) -> list[Finding]:
    """One line on Atlas for a bring-up, which does not depend on it: [] when all is well."""
    found = [finding for finding in check(host, seen) if finding.level in ("fail", "unknown")]
    if not found:
        return []
    down = {server_of(want): seen.servers.get(server_of(want)) for want in host.atlas}
    silent = [f"{name}: {said}" for name, said in down.items() if said]
    places = ", ".join(dict.fromkeys(finding.id.partition(":")[2] for finding in found if ":" in finding.id))
    text = "Atlas does not answer" if silent else f"mounts of Atlas are not as hosts.toml says: {places}"
    if silent:
        text += f" ({places})" if places else ""
    said = "; ".join(silent) or found[0].text
    mend = f"invoke atlas --host {host.name}"
    return [Finding(f"{NAME}.mounts", "warn", f"{text}; the AI stack does not need it", said, mend, SOURCE)]
