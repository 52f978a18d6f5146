"""The two disks of the storage model on a rebuilt host (procedure §3): where hosts.toml names a source, the file system
that is there is mounted, and put into fstab. Nothing is ever formatted: where there is none, the command to type is
said."""

from __future__ import annotations

import shlex

from pantheon.evidence import Beneath, Evidence, FstabLine
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step
from pantheon.sections.storage import Root, to_mount
from pantheon.sources import Device, Sources

NAME = "storage"
SOURCE = "procedure §3"
PARTS = ("sources", "fstab", "beneath")
MOUNT_S = 120  # a journal may have to be replayed
DEVICE_S = 30  # how long a boot waits for the disk before it goes on without
CHECKED = ("ext2", "ext3", "ext4", "vfat", "f2fs")  # by fsck at boot; the others look after themselves
NO_FILES = (
    "swap",
    "LVM2_member",
    "crypto_LUKS",
    "linux_raid_member",
    "zfs_member",
    "bcache",
    "ceph_bluestore",
    "unknown",
)


def plan(host: Host, facts: Facts, evidence: Evidence) -> SectionPlan:
    """What mounts them; blocked where a human must look first."""
    roots = to_mount(host, facts)
    if not roots:
        return SectionPlan(NAME, reason="the disks that hosts.toml names are mounted")
    if not isinstance(evidence.sources, Sources):
        reason = evidence.sources.reason if isinstance(evidence.sources, Unknown) else "nothing was said of them"
        return SectionPlan(NAME, blocked=(_finding("sources", "unknown", "the disks are not known", reason, ""),))
    blocked = [finding for root in roots for finding in _obstacles(host, root, evidence, evidence.sources)]
    if blocked:
        return SectionPlan(NAME, blocked=tuple(blocked))
    seen = evidence.sources
    return SectionPlan(
        NAME, (*_fstab(facts, roots, evidence, seen), *(_change(facts, root, evidence, seen) for root in roots))
    )


def line(source: str, path: str, fstype: str) -> str:
    """The line for /etc/fstab. nofail: a boot goes on without the disk, and the host can be reached and mended."""
    options = f"defaults,nofail,x-systemd.device-timeout={DEVICE_S}s"
    checked = "2" if fstype in CHECKED else "0"
    return " ".join((_field(source), _field(path), fstype, options, "0", checked))


def _field(text: str) -> str:
    """A field of fstab(5): blanks and backslashes as octal."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)


def _fstab(facts: Facts, roots: list[Root], evidence: Evidence, seen: Sources) -> list[Change]:
    """The lines that fstab is to have, for roots that the host itself does not mount yet, and the directories, without
    which a line is faulty."""
    new = [
        (root, device) for root in roots if _known(evidence, root.path) is None and (device := seen.found[root.source])
    ]
    if not new:
        return []
    lines = [line(root.source, root.path, device.fstype) for root, device in new]
    arguments: dict[str, object] = {"lines": lines, "sha256": seen.fstab}
    steps: list[Step] = [step for root, _ in new for step in _directory(facts, root)]
    steps.append(Mend("fstab", arguments, f"add to /etc/fstab: {'; '.join(lines)}", timeout_s=120))
    what = f"put {' and '.join(root.path for root, _ in new)} into /etc/fstab"
    return [Change(what, "mounted at each boot; a boot goes on without (nofail)", tuple(steps), sign="+")]


def _guard(facts: Facts, root: Root) -> Guard:
    return Guard("mount", root.path, facts.reading("mount", root.path))


def _directory(facts: Facts, root: Root) -> list[Run]:
    if facts.paths.get(root.path) is not None:
        return []
    return [Run(("install", "-d", "-m0755", "-o0", "-g0", "--", root.path), guards=(_guard(facts, root),))]


def _change(facts: Facts, root: Root, evidence: Evidence, seen: Sources) -> Change:
    device = seen.found[root.source]
    assert device is not None  # _obstacles would have said so
    known = _known(evidence, root.path)
    steps = _directory(facts, root) if known else []
    what = f"mount {root.source} ({device.fstype}, {device.path}) at {root.path}"
    argv = ("systemctl", "start", known.unit) if known and known.unit else ("mount", root.path)
    steps.append(Run(argv, guards=(_guard(facts, root),), timeout_s=MOUNT_S))
    how = f"as {known.unit or '/etc/fstab'} has it" if known else "nothing is formatted"
    return Change(what, f"the storage model (§3); {how}", tuple(steps), sign="+")


def _known(evidence: Evidence, path: str) -> FstabLine | None:
    """How the host itself mounts it: a unit wins over a line."""
    lines = [one for one in evidence.fstab if one.target == path] if isinstance(evidence.fstab, tuple) else []
    return next((one for one in lines if one.unit), None) or (lines[-1] if lines else None)


# ---- what stands in the way


def _finding(key: str, level: str, text: str, evidence: str, mend: str) -> Finding:
    return Finding(f"{NAME}.{key}", level, text, evidence, mend, SOURCE)  # type: ignore[arg-type]


def _obstacles(host: Host, root: Root, evidence: Evidence, seen: Sources) -> list[Finding]:
    key, again = f"{root.name}-root", f"invoke storage --host {host.name}"
    if isinstance(evidence.fstab, Unknown):
        return [_finding(key, "unknown", "/etc/fstab is not known", evidence.fstab.reason, "")]
    device, known = seen.found.get(root.source), _known(evidence, root.path)
    if known and not _is_same(known, root, seen):
        where = known.unit or "/etc/fstab"
        text = f"{root.path}: {where} has {known.source}, hosts.toml {root.source}"
        mend = f"make them say the same: {where} on the host, or storage.{root.name}_source in hosts.toml"
        return [_finding(key, "fail", text, "pantheon touches no line that is there", mend)]
    if device is None:
        text = f"{root.source}, which hosts.toml names for {root.path}, is not there"
        return [_finding(key, "fail", text, _listing(seen), _make(host, root, seen, None))]
    if len(same := _called_so(root.source, device, seen)) > 1:
        text = f"{root.source}, which hosts.toml names for {root.path}, is more than one disk"
        mend = f'storage.{root.name}_source in hosts.toml: "UUID=..", or the device by its name under /dev/disk/by-id'
        return [_finding(key, "fail", text, "; ".join(f"{_about(one)} UUID {one.uuid}" for one in same), mend)]
    if device.mounts and root.path not in device.mounts:
        text = f"{root.source} is mounted at {', '.join(device.mounts)}, not at {root.path}"
        mend = f"{host.ssh(f'sudo umount {shlex.quote(device.mounts[0])}')}; or storage.{root.name} in hosts.toml"
        return [_finding(key, "fail", text, _about(device), mend)]
    if not device.fstype:
        text = f"{root.source} ({device.path}) has no file system"
        return [_finding(key, "fail", text, _about(device), _make(host, root, seen, device))]
    if device.fstype in NO_FILES or device.fstype.endswith("partition table"):
        text = f"{root.source} ({device.path}) is {device.fstype}, not a file system"
        return [_finding(key, "fail", text, _about(device), f"the file system within it as storage.{root.name}_source")]
    if root.fstype and device.fstype != root.fstype:
        text = f"{root.source} is {device.fstype}, and hosts.toml wants {root.fstype}"
        return [_finding(key, "fail", text, _about(device), f"hosts.toml: storage.{root.name}_fstype")]
    return _beneath(host, root, evidence, again)


def _called_so(source: str, device: Device, seen: Sources) -> list[Device]:
    """The devices that a label or a UUID may mean: mount takes any of them. Those of one file system on several disks
    are one, and members of what is put together of them are none."""
    tag, _, value = source.partition("=")
    name = {"LABEL": "label", "UUID": "uuid"}.get(tag)
    same = [one for one in seen.devices if name and getattr(one, name) == value and one.fstype not in NO_FILES]
    pooled = device.fstype == "btrfs" and len({one.uuid for one in same}) == 1
    return [device] if pooled else same


def _is_same(known: FstabLine, root: Root, seen: Sources) -> bool:
    """Whether the host's own line means the same device as hosts.toml."""
    device = seen.found.get(root.source)
    names = {root.source, *(filter(None, (device.path, device.stable)) if device else ())}
    if device:
        names |= {f"UUID={device.uuid}", f"LABEL={device.label}", f"/dev/disk/by-uuid/{device.uuid}"}
        names |= {f"/dev/disk/by-label/{device.label}"}
    return known.source.replace('"', "") in names


def _beneath(host: Host, root: Root, evidence: Evidence, again: str) -> list[Finding]:
    """Files that the mount would hide."""
    found = evidence.beneath.get(root.path)
    if isinstance(found, Unknown) or (isinstance(found, Beneath) and not found.complete and not found.files):
        reason = found.reason if isinstance(found, Unknown) else "too much to be looked through"
        mend = host.ssh(f"sudo find {shlex.quote(root.path)} -xdev -type f | head")
        return [_finding(f"{root.name}-root", "fail", f"what lies in {root.path} is not known", reason, mend)]
    if not isinstance(found, Beneath) or not found.files:
        return []
    path, aside = shlex.quote(root.path), shlex.quote(f"{root.path}.on-the-root-disk")
    count = f"{found.files} file{'s' if found.files != 1 else ''}"
    text = f"{count} in {root.path} on the root disk: mounting would hide what was written there"
    mend = f"on the host: sudo mv {path} {aside} && sudo mkdir {path}; then {again}; what is in {aside} is yours"
    return [_finding(f"{root.name}-root", "fail", text, ", ".join(found.entries[:10]), mend)]


def _make(host: Host, root: Root, seen: Sources, device: Device | None) -> str:
    """The mkfs command to type, for the very device; a choice where hosts.toml's source tells of none."""
    kind = root.fstype or "ext4"
    tag, _, value = root.source.partition("=")
    free = [device] if device else candidates(seen)
    if not free:
        return "is the disk connected and switched on? " + host.ssh("lsblk -o NAME,SIZE,FSTYPE,LABEL,UUID,MODEL")
    if tag == "UUID":
        other = f'its new UUID then goes into hosts.toml (storage.{root.name}_source = "UUID=..")'
    else:
        other = f"then invoke storage --host {host.name}"
    label = ["-L", value] if tag == "LABEL" else []
    lines = [f"{host.ssh('sudo ' + shlex.join([f'mkfs.{kind}', *label, one.stable]))}  # {_about(one)}" for one in free]
    warning = "THIS ERASES WHAT IS ON THE DISK; pantheon never does it. "
    choice = "one of these, where the disk is new: " if len(lines) > 1 else "where the disk is new: "
    return f"{warning}{choice}{'; or '.join(lines)}; {other}"


def candidates(seen: Sources) -> list[Device]:
    """Whole disks and partitions with nothing on them that is known, which nobody uses."""
    return [
        device
        for device in seen.devices
        if device.type in ("disk", "part") and not (device.fstype or device.mounts or device.parts or device.readonly)
        if device.bytes >= 1 << 30 and not device.path.startswith(("/dev/zram", "/dev/ram", "/dev/nbd"))
    ]


def _about(device: Device) -> str:
    size = f"{device.bytes / (1 << 30):.1f} GiB"
    parts = [device.path, size, device.model, device.fstype, f"label {device.label}" if device.label else ""]
    return " ".join(part for part in parts if part)


def _listing(seen: Sources) -> str:
    return "disks: " + ("; ".join(_about(device) for device in seen.devices) or "none")
