"""A disk of the stack is not mounted or does not answer, or a container works beside the disk that is mounted."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pantheon import attaching, foreign, layout
from pantheon.evidence import Beneath, Displaced, FstabLine
from pantheon.facts import Command, Container, Entry, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES, AtlasMount
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step

ID = "mounts-missing"
CAUSE = (
    "A disk is not mounted, has gone away under its mount point, or is read-only: services find empty directories, "
    "which Docker may have made, or do not start at all."
)
RISK = (
    "The disk is mounted as the host's own fstab or mount unit says, or as hosts.toml does. Services that were started "
    "without it are restarted, for some seconds; those that have it already run on. Nothing is formatted, repaired or "
    "deleted: where files lie under the mount point, nothing is done before a human has moved them."
)

SOURCE = "procedure §3"
MOUNT_S = 120  # a journal may have to be replayed, a server may be slow
STALE = ("stale file handle", "transport endpoint is not connected", "host is down", "no answer within")
BROKEN = re.compile(
    r"i/o error|input/output error|remounting filesystem read-only|ext4-fs error|corruption", re.IGNORECASE
)
# What Docker says of a container whose directory is not there.
NO_SOURCE = re.compile(
    r"(?:bind source path does not exist: |failed to fulfil mount request: open |error mounting \")(/[^:\"]+)"
)
USERS = {"nvme": ("comfy", "ollama"), "ssd": ("comfy", "openwebui")}


@dataclass(frozen=True)
class Disk:
    """One of the two disks, as it is now. `state`: fine, absent, covered (another mount lies over it),
    other (something else than fstab says is mounted), odd (a link or a file), stale, broken, read-only, or unknown."""

    name: str
    path: str
    source: str  # as hosts.toml has it; "" where it does not
    state: str
    said: str = ""


def diagnose(case: Case) -> list[Finding]:
    found = disks(case)
    findings = [_finding(case, disk) for disk in found if disk.state not in ("fine", "unknown")]
    good = [disk for disk in found if disk.state == "fine"]
    return findings + _displaced(case, good) + _not_started(case, good) + _atlas(case)


# ---- what state the disks are in


def disks(case: Case) -> list[Disk]:
    storage = case.host.storage
    both = (("nvme", storage.nvme, storage.nvme_source), ("ssd", storage.ssd, storage.ssd_source))
    return [Disk(*about, *_state(case, about[1])) for about in both]


def _state(case: Case, path: str) -> tuple[str, str]:
    entry, touched = case.facts.paths.get(path), case.evidence.touched.get(path)
    said = touched.output if isinstance(touched, Command) and touched.status else ""
    if isinstance(touched, Unknown) and "no answer within" in touched.reason:
        said = touched.reason
    if isinstance(entry, Unknown):
        said = said or entry.reason
        if BROKEN.search(said):
            return "broken", said
        return ("stale", said) if any(text in said.lower() for text in STALE) else ("unknown", said)
    if entry is not None and (entry.kind != "dir" or entry.real != path):
        return "odd", f"it is a symbolic link to {entry.real}" if entry.real != path else f"it is a {entry.kind}"
    if entry is None or not entry.is_mount:
        known = _line(case, path)
        return ("absent", "") if case.host.storage.require_mounts or (known and not entry) else ("fine", "")
    if said:
        stale = any(text in said.lower() for text in STALE)
        return ("stale", said) if stale else ("broken", said) if BROKEN.search(said) else ("fine", "")
    stacked, line = case.evidence.stacked.get(path), _line(case, path)
    if isinstance(stacked, tuple):
        return "covered", f"{stacked[-1]} lies over {stacked[0]}"
    if line is not None and line.mounted is False and not _has_ours(case, path):
        where = line.unit or "/etc/fstab"
        return "other", f"{entry.mount.source if entry.mount else 'something'} is mounted; {where}: {line.source}"
    options = entry.mount.options.split(",") if entry.mount else []
    if "ro" in options and not (line and "ro" in line.options.split(",")):
        return "read-only", entry.mount.options if entry.mount else ""
    return "fine", ""


def _has_ours(case: Case, path: str) -> bool:
    """Whether a directory of the stack is on that disk."""
    mine = (d.path for d in layout.directories(case.host) if d.path.startswith(f"{path}/"))
    return any(isinstance(case.facts.paths.get(one), Entry) for one in mine)


def _line(case: Case, path: str) -> FstabLine | None:
    """How the host itself would mount it: a unit of its own wins over a line of fstab, as it does for systemd."""
    lines = case.evidence.fstab if isinstance(case.evidence.fstab, tuple) else ()
    found = [line for line in lines if line.target == path]
    return next((line for line in found if line.unit), None) or (found[-1] if found else None)


def _beneath(case: Case, disk: Disk) -> Beneath | None:
    found = case.evidence.beneath.get(disk.path)
    return found if isinstance(found, Beneath) else None


def _kernel(case: Case) -> list[str]:
    log = case.evidence.kernel_log
    return [line for line in log if BROKEN.search(line)] if isinstance(log, tuple) else []


# ---- findings


TEXTS = {
    "covered": "another mount lies over {path}",
    "other": "another disk is mounted at {path}",
    "odd": "{path} is no mount point",
    "absent": "{path} is not mounted",
    "stale": "{path} has lost its disk: the mount is stale",
    "broken": "the disk at {path} fails",
    "read-only": "{path} is mounted read-only",
}


def _finding(case: Case, disk: Disk) -> Finding:
    evidence = [disk.said] if disk.said else []
    if disk.state == "absent":
        evidence = [f"findmnt --mountpoint {disk.path} finds nothing", *_known_as(case, disk), *_what_lies(case, disk)]
    if disk.state in ("broken", "read-only"):
        evidence += _kernel(case)[-2:]
    text = TEXTS[disk.state].format(path=disk.path)
    mend = command(case, ID)
    return Finding(f"{ID}.{disk.name}", "fail", text, "; ".join(evidence), mend, SOURCE, _follows(case, disk))


def _known_as(case: Case, disk: Disk) -> list[str]:
    if line := _line(case, disk.path):
        where = line.unit or "/etc/fstab"
        missing = ", which is not there" if line.there is False else ""
        return [f"{where}: {line.source} ({line.fstype}){missing}"]
    return [f"hosts.toml: {disk.source}"] if disk.source else ["neither /etc/fstab nor a mount unit has it"]


def _what_lies(case: Case, disk: Disk) -> list[str]:
    found = _beneath(case, disk)
    if not found or not found.count:
        return []
    names = ", ".join(found.entries[:5]) + (", .." if found.count > 5 else "")
    if found.files:
        least = "" if found.complete else "at least "
        return [f"in its place on the root disk: {least}{_files(found.files)} ({names})"]
    return [f"in its place: empty directories that Docker or somebody made ({names})"]


def _follows(case: Case, disk: Disk) -> tuple[str, ...]:
    """What else is wrong because of it: the directories on this disk, the services that use them, their data."""
    mine = [d.name for d in layout.directories(case.host) if f"{d.path}/".startswith(f"{disk.path}/")]
    out = [f"storage.{name}" for name in (*mine, f"{disk.name}-root", f"{disk.name}-room")]
    out += [f"{name}.*" for name in USERS[disk.name]]
    out += ["comfy-ownership.*", "comfy-first-run.*", "browser-access.*", f"disk-pressure.{disk.name}"]
    out += [f"openwebui-{'ollama' if disk.name == 'nvme' else 'logins'}.*"]
    if disk.name == "nvme":
        out += ["openwebui.*", "gpu-lost.unknown*"]  # it waits for Ollama
    found = _beneath(case, disk)
    if found and found.files:
        out.append("disk-pressure.root")
    return tuple(out)


def _displaced(case: Case, good: list[Disk]) -> list[Finding]:
    """Containers that work beside a disk that is there."""
    findings: dict[str, list[Displaced]] = {}
    for found in _beside(case, good):
        findings.setdefault(found.container, []).append(found)
    out = []
    for name, places in findings.items():
        text = f"{name} does not work on the disk that is mounted"
        evidence = "; ".join(f"{place.target} is not {place.source}: {place.why}" for place in places)
        explains = (f"{name}.*", "comfy-first-run.*", "openwebui-ollama.*", "openwebui-logins.*", "browser-access.*")
        out.append(Finding(f"{ID}.displaced-{name}", "fail", text, evidence, command(case, ID), SOURCE, explains))
    return out


def _beside(case: Case, good: list[Disk]) -> list[Displaced]:
    found = case.evidence.displaced if isinstance(case.evidence.displaced, tuple) else ()
    ours = {container.name for container in _ours(case)}
    return [
        one
        for one in found
        if one.container in ours
        and isinstance(case.facts.paths.get(one.source), Entry)
        and any(f"{one.source}/".startswith(f"{disk.path}/") for disk in good)
    ]


def _not_started(case: Case, good: list[Disk]) -> list[Finding]:
    """Containers that could not be started while the disk was away, and that nobody started since."""
    out = []
    for container, why in _failed(case, good):
        text = f"{container.name} was not started again after its disk was away"
        explains = (f"{container.name}.*", "openwebui-ollama.*", "browser-access.*", "openwebui.*")
        key = f"{ID}.not-started-{container.name}"
        out.append(Finding(key, "fail", text, why, command(case, ID), SOURCE, explains))
    return out


def _failed(case: Case, good: list[Disk]) -> list[tuple[Container, str]]:
    """Our containers that are down because of a disk that is there by now, and why that is known: Docker's word, or a
    run of this fix that broke off before it came to them."""
    places = tuple(f"{disk.path}/" for disk in good)
    broke_off = case.evidence.unfinished == f"fix.{ID}"
    out = []
    for container in _ours(case):
        found = NO_SOURCE.search(container.error)
        if container.state not in foreign.DOWN or not places:
            continue
        if found and f"{found[1]}/".startswith(places) and isinstance(case.facts.paths.get(found[1]), Entry):
            out.append((container, container.error[-300:]))
        elif broke_off and any(f"{mount.source}/".startswith(places) for mount in container.mounts):
            out.append((container, f"{container.state}, exit code {container.exit_code}; the last fix.{ID} broke off"))
    return out


def _ours(case: Case) -> list[Container]:
    found = case.facts.containers
    return [c for c in found if foreign.is_ours(case.host, c)] if isinstance(found, tuple) else []


def _atlas(case: Case) -> list[Finding]:
    """Atlas mounts: seen and said. Nothing of the stack depends on them."""
    out = []
    for mount in case.host.atlas:
        state, said = _atlas_state(case, mount)
        if state != "fine":
            words = "is not mounted" if state == "absent" else "is stale"
            text = f"{mount.mount} ({mount.export}) {'does not answer' if 'no answer within' in said else words}"
            mend = command(case, ID) if _theirs(case, mount) else f"invoke atlas --host {case.host.name}"
            out.append(Finding(f"{ID}.atlas{mount.mount}", "warn", text, said, mend, SOURCE))
    return out


def _theirs(case: Case, mount: AtlasMount) -> FstabLine | None:
    """Somebody's own line or unit for it. What `invoke atlas` has set up, or may, it looks after itself."""
    line = _line(case, mount.mount)
    return None if line is None or line.ours else line


def _atlas_state(case: Case, mount: AtlasMount) -> tuple[str, str]:
    if not isinstance(case.facts.mounts, tuple):
        return "fine", ""
    if not any(row.target == mount.mount for row in case.facts.mounts):
        return "absent", f"findmnt --mountpoint {mount.mount} finds nothing"
    touched = case.evidence.touched.get(mount.mount)
    said = touched.output if isinstance(touched, Command) and touched.status else ""
    if isinstance(touched, Unknown):
        said = touched.reason if "no answer within" in touched.reason else ""
    return ("stale", said) if any(text in said.lower() for text in STALE) else ("fine", "")


# ---- what mends it


def plan(case: Case) -> SectionPlan:
    found = disks(case)
    wrong = [disk for disk in found if disk.state not in ("fine", "unknown")]
    blocked = [finding for disk in wrong for finding in _blocked(case, disk)]
    if blocked:
        return SectionPlan(ID, blocked=tuple(blocked))
    changes = [_mount(case, disk) for disk in wrong]
    good = [disk for disk in found if disk.state == "fine"]
    restart, start = _concerned(case, wrong, good)
    if restart or start:
        changes.append(_rejoin(wrong, good, restart, start))
    changes += _mount_atlas(case)
    known = all(disk.state == "fine" for disk in found)
    reason = "both disks are mounted, and answer" if known else "nothing is known to be wrong with the mounts"
    return SectionPlan(ID, tuple(changes), reason=reason, starts=tuple(start))


def _mount(case: Case, disk: Disk) -> Change:
    steps: list[Step] = []
    line, entry = _line(case, disk.path), case.facts.paths.get(disk.path)
    if disk.state == "read-only":
        steps.append(Run(("mount", "-o", "remount,rw", disk.path), timeout_s=MOUNT_S))
        return Change(f"{disk.path}: writable again", "the kernel knows of no fault of the disk", tuple(steps))
    guards: tuple[Guard, ...] = ()
    if disk.state == "stale":
        steps.append(Run(("umount", "-l", disk.path), timeout_s=MOUNT_S))
    else:
        guards = (Guard("mount", disk.path, case.facts.reading("mount", disk.path)),)
    if entry is None:
        steps.append(Run(("install", "-d", "-m0755", "--", disk.path), guards=guards))
    argv: tuple[str, ...] = ("mount", disk.path)
    if line and line.unit:
        argv = ("systemctl", "start", line.unit)
    elif not line:
        argv = ("mount", disk.source, disk.path)
    steps.append(Run(argv, guards=guards, timeout_s=MOUNT_S))
    if not line and disk.state == "absent":  # else it would be away again after the next reboot
        steps.append(_keep(case, disk))
    source = line.source if line else disk.source
    found = _beneath(case, disk)
    hidden = "; the empty directories under it stay, out of sight" if found and found.count else ""
    verb = "mount anew" if disk.state == "stale" else "mount"
    return Change(f"{verb} {disk.path} ({source})", f"the storage model (§3){hidden}", tuple(steps))


def _keep(case: Case, disk: Disk) -> Mend:
    storage = case.host.storage
    fstype = storage.nvme_fstype if disk.name == "nvme" else storage.ssd_fstype
    text = attaching.line(disk.source, disk.path, fstype or "auto")
    return Mend("fstab", {"lines": [text], "sha256": ""}, f"add to /etc/fstab: {text}", timeout_s=120)


def _concerned(case: Case, wrong: list[Disk], good: list[Disk]) -> tuple[list[str], list[str]]:
    """Our containers that may have to be restarted, and those that are to be started."""
    beside = {one.container for one in _beside(case, good)}
    away = tuple(f"{disk.path}/" for disk in wrong)
    restart, start = [], []
    failed = {container.name for container, _ in _failed(case, good)}
    for container in sorted(_ours(case), key=lambda c: (c.name == "openwebui", c.name)):  # it needs Ollama
        uses = any(f"{mount.source}/".startswith(away) for mount in container.mounts) if away else False
        if container.state in ("running", "restarting") and (uses or container.name in beside):
            restart.append(container.name)
        elif container.name in failed or (uses and container.state in foreign.DOWN):
            start.append(container.name)  # Docker notes no error where it refuses a start at once
    return restart, start


def _rejoin(wrong: list[Disk], good: list[Disk], restart: list[str], start: list[str]) -> Change:
    roots = [disk.path for disk in (*wrong, *good)]
    arguments: dict[str, object] = {"restart": restart, "start": start, "disks": roots}
    parts = [f"restart {', '.join(restart)} where they work beside the disk"] if restart else []
    parts += [f"start {', '.join(start)}"] if start else []
    step = Mend("rejoin", arguments, "; ".join(parts), timeout_s=900)
    stops = tuple(name for name in restart if name in SERVICES)
    return Change("; ".join(parts), "a container keeps the directories that it was started with", (step,), stops=stops)


def _mount_atlas(case: Case) -> list[Change]:
    changes = []
    for mount in case.host.atlas:
        line, (state, _) = _theirs(case, mount), _atlas_state(case, mount)
        if line and state != "fine":
            lift = (Run(("umount", "-l", mount.mount), timeout_s=MOUNT_S),) if state == "stale" else ()
            argv = ("systemctl", "start", line.unit) if line.unit else ("mount", mount.mount)
            steps = (*lift, Run(argv, timeout_s=MOUNT_S + 60))
            changes.append(Change(f"mount {mount.mount} ({mount.export})", "it is in the inventory (§3)", steps))
    return changes


def _blocked(case: Case, disk: Disk) -> list[Finding]:
    """What stands in the way of mounting it, for a human."""
    host, then = case.host, command(case, ID)
    key, path = f"{ID}.{disk.name}", shlex.quote(disk.path)
    if disk.state == "broken" or (disk.state == "read-only" and (_kernel(case) or not _kernel_is_known(case))):
        text = f"the disk at {disk.path} may be failing: a human must look before anything writes to it"
        look = host.ssh(f"sudo dmesg --level=err,warn | tail -50; findmnt {path}")
        mend = f"{look}; stop the stack, sudo umount {path}, sudo fsck the device, mount it, then {then}"
        return [Finding(f"{key}-disk", "fail", text, "; ".join([disk.said, *_kernel(case)[-2:]]), mend, SOURCE)]
    if disk.state == "read-only":
        return []
    if disk.state in ("covered", "other"):
        text = f"what lies at {disk.path} now is not pantheon's to take away, and may hold somebody's files"
        mend = f"{host.ssh(f'sudo ls -la {path}')}; when nothing there is needed: "
        mend += f"{host.ssh(f'sudo umount {path}')}; then {then}"
        return [Finding(f"{key}-{disk.state}", "fail", text, disk.said, mend, SOURCE)]
    if disk.state == "odd":
        text = f"{disk.path} must be a directory for a disk to be mounted there"
        aside = shlex.quote(f"{disk.path}.aside")
        mend = f"on the host: sudo mv {path} {aside} && sudo mkdir {path}; then {then}; or name the place where the "
        mend += f"disk is mounted in hosts.toml: storage.{disk.name}"
        return [Finding(f"{key}-place", "fail", text, disk.said, mend, SOURCE)]
    out = []
    line = _line(case, disk.path)
    devices = case.evidence.devices
    seen = f"disks: {', '.join(devices)}" if isinstance(devices, tuple) and devices else "lsblk shows none"
    if line is None and not disk.source:
        text = f"what is to be mounted at {disk.path} is not known"
        mend = "put the disk into /etc/fstab on the host (sudo blkid names it), or into hosts.toml as "
        mend += f"storage.{disk.name}_source; then {then}"
        out.append(Finding(f"{key}-source", "fail", text, seen, mend, SOURCE))
    elif line is not None and line.there is False:
        text = f"{line.source}, which is to be mounted at {disk.path}, is not there"
        mend = f"is the disk connected and switched on? {host.ssh('lsblk -f')}; then {then}"
        out.append(Finding(f"{key}-device", "fail", text, seen, mend, SOURCE))
    out += _in_the_way(case, disk, key)
    return out


def _in_the_way(case: Case, disk: Disk, key: str) -> list[Finding]:
    """Files that were written to the root disk while the mount was missing: mounting would hide them."""
    found = case.evidence.beneath.get(disk.path)
    if disk.state != "absent":
        return []
    if isinstance(found, Unknown) or (isinstance(found, Beneath) and not found.complete and not found.files):
        reason = found.reason if isinstance(found, Unknown) else "too much to be looked through"
        text = f"whether files lie in {disk.path} on the root disk is not known"
        mend = case.host.ssh(f"sudo find {shlex.quote(disk.path)} -xdev -type f | head")
        return [Finding(f"{key}-beneath", "fail", text, reason, mend, SOURCE)]
    if not isinstance(found, Beneath) or not found.files:
        return []
    everything = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    users = [  # somebody's own among them: it is a human who stops them
        c.name
        for c in everything
        if c.state in ("running", "restarting", "paused")
        and any(f"{mount.source}/".startswith(f"{disk.path}/") for mount in c.mounts)
    ]
    aside = shlex.quote(f"{disk.path}.on-the-root-disk")
    path = shlex.quote(disk.path)
    stop = f"sudo docker stop {shlex.join(users)} && " if users else ""
    text = f"{_files(found.files)} in {disk.path} on the root disk: mounting would hide what was written there"
    then = command(case, ID)
    mend = f"on the host: {stop}sudo mv {path} {aside} && sudo mkdir {path}; then {then}; what is in {aside} is yours"
    return [Finding(f"{key}-beneath", "fail", text, ", ".join(found.entries[:10]), mend, SOURCE)]


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _kernel_is_known(case: Case) -> bool:
    return isinstance(case.evidence.kernel_log, tuple)
