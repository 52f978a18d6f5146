"""The mounts: which the host knows how to make, whether they answer, and what lies where one is missing.

A mount that hangs is met by a command in a process group of its own that is left behind, never by this process; what
lies where a mount is missing is on the root disk.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

from pantheon.looks import work
from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import Ground, read_text, unescape, which
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, plain, shown, unit_name, without_login

UNIT_PLACES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")
OURS = "# Written by pantheon"
TOUCH_S = 2.0
BENEATH_S, BENEATH_ENTRIES = 1.5, 50_000
SHOWN = 20
POOLS = ("btrfs", "zfs", "bcachefs")  # of several devices: the one that is shown is any of them
TAGS = {"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel"}
REMOTE = re.compile(r"(nfs4?|cifs|smb3|smbfs|ceph|glusterfs|fuse\..+|9p)")


def fstab(spec: Object, root: str) -> Json:
    """evidence.Evidence.fstab: its lines, and the systemd mount units of the disks that were asked about"""
    out: list[Object] = []
    ground = Ground(root)
    for line in (read_text(f"{root}/etc/fstab") or "").splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        source, target, fstype, options = (unescape(part.encode()) for part in [*fields, "defaults"][:4])
        out.append(_line(root, source, target, fstype, options if len(fields) > 3 else "defaults"))
    for path in spec.get("touched") or ():
        out += [found for found in [_unit(root, str(path))] if found]
    for found in out:
        found["mounted"] = work.attempt(_is_mounted, ground, root, found)
        if work.is_unknown(found["mounted"]):
            found["mounted"] = None
    return out


def _is_mounted(ground: Ground, root: str, line: Object) -> bool | None:
    """Whether what is mounted is what the line says, as far as that can be told without touching a server's."""
    row = ground.mounts.of(line["target"])
    if not row or row["target"] != line["target"] or ground.mounts.remote(row) or row["fstype"] in POOLS:
        return None
    source, options = str(line["source"]), str(line["options"]).split(",")
    if device := _device(source):
        if not os.path.exists(root + device):
            return None
        if not row["source"].startswith("/dev/"):
            return False
        return os.stat(root + device).st_rdev == os.stat(root + row["source"]).st_rdev
    if (
        {"bind", "rbind"} & set(options)
        and source.startswith("/")
        and not ground.mounts.remote(ground.mounts.of(source))
    ):
        return os.path.samefile(root + source, root + line["target"])
    return None


def _device(source: str) -> str:
    tag, equals, value = source.partition("=")
    if equals and tag in TAGS:
        name = "".join(c if c.isalnum() or c in "#+-.:=@_/" else f"\\x{ord(c):02x}" for c in value.strip('"'))
        return f"/dev/disk/{TAGS[tag]}/{name}"
    return source if source.startswith("/dev/") else ""


def _line(root: str, source: str, target: str, fstype: str, options: str, unit: str = "") -> Object:
    return {
        "source": plain(without_login(source)),
        "target": shown(target.rstrip("/") or "/"),
        "fstype": plain(fstype),
        "options": plain(re.sub(r"(?i)(pass(?:word)?|username|credentials)=[^,]*", r"\1=***", options)),
        "unit": unit,
        "there": _is_there(root, source, fstype),
    }


def _is_there(root: str, source: str, fstype: str) -> bool | None:
    """Whether the device or directory that is to be mounted is there; None where it is a server's."""
    if "=" in source and (device := _device(source)):
        return os.path.lexists(root + device)
    if REMOTE.fullmatch(fstype) or not source.startswith("/"):
        return None
    return os.path.exists(root + source)


def _unit(root: str, target: str) -> Object | None:
    """A mount unit that somebody wrote; those that systemd makes of fstab lie elsewhere (/run/systemd/generator)."""
    name = unit_name(target)
    for place in UNIT_PLACES:
        text = read_text(f"{root}{place}/{name}")
        if text:
            pairs = (line.strip().partition("=") for line in text.splitlines())
            values = {key.strip(): value.strip() for key, _, value in pairs}
            if values.get("What"):
                about = values.get("Type", "auto"), values.get("Options", "defaults")
                line = _line(root, values["What"], values.get("Where", target), *about, unit=name)
                return {**line, "ours": text.startswith(OURS)}
    return None


def touched(spec: Object, root: str) -> Json:
    """evidence.Evidence.touched"""
    ground = Ground(root)
    out: Object = {}

    def touch(path: Json) -> None:
        row = ground.mounts.of(path)
        if not row or row["target"] != path or row["fstype"] == "autofs":
            out[path] = None
            return
        out[path] = work.attempt(touch_place, root + path)

    work.each(spec.get("touched") or (), touch)
    return out


def touch_place(path: str) -> Object:
    """facts.Command: whether a mount point answers, by commands that can be killed"""
    found: Object = {"status": 0, "output": ""}
    for argv in (["stat", "-f", "-c", "%T", "--", path], ["find", path, "-mindepth", "1", "-maxdepth", "1", "-quit"]):
        found = work.command(argv, TOUCH_S)
        if found["status"]:
            break
    return {"status": found["status"], "output": found["output"].strip()[:500] if found["status"] else ""}


def beneath(spec: Object, root: str) -> Json:
    """evidence.Evidence.beneath"""
    ground = Ground(root)
    return {path: work.attempt(_beneath, ground, root, path) for path in spec.get("beneath") or ()}


def _beneath(ground: Ground, root: str, path: str) -> Object | None:
    row = ground.mounts.of(path)
    if row and row["target"] == path:
        return None
    if ground.mounts.remote(row):
        raise Unread(f"{path} lies on a network mount: not looked at")
    end = time.monotonic() + BENEATH_S
    try:
        names = sorted(os.listdir(root + path))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    entries = []
    for name in names[:SHOWN]:
        with suppress(FileNotFoundError):
            entries.append(_entry(root, path, name))
    files, complete = 0, True
    for seen, found in enumerate(_walk(root + path)):
        if found is None or seen > BENEATH_ENTRIES or time.monotonic() > end:
            complete = False
            break
        files += not stat.S_ISDIR(found.st_mode)
    return {"path": path, "count": len(names), "files": files, "entries": entries, "complete": complete}


def _entry(root: str, path: str, name: str) -> str:
    found = os.lstat(f"{root}{path}/{name}")
    kind = "directory" if stat.S_ISDIR(found.st_mode) else "file" if stat.S_ISREG(found.st_mode) else "other"
    return f"{shown(name)} ({found.st_uid}:{found.st_gid}, {kind})"


def _walk(top: str) -> Iterator[os.stat_result | None]:
    """Everything below, on this file system; None where a directory cannot be read."""
    try:
        device = os.lstat(top).st_dev
    except FileNotFoundError:
        return
    waiting = [top]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for item in entries:
                    found = item.stat(follow_symlinks=False)
                    if found.st_dev == device:
                        yield found
                        if stat.S_ISDIR(found.st_mode):
                            waiting.append(item.path)
        except FileNotFoundError:
            continue
        except OSError:
            yield None


def stacked(spec: Object, root: str) -> Json:
    """evidence.Evidence.stacked: None where one mount, or none, lies at the place, or the same one several times"""
    rows = [line.split() for line in (read_text(f"{root}/proc/self/mountinfo", 16 << 20) or "").splitlines()]
    out: Object = {}
    for path in spec.get("stacked") or ():
        mine = [row for row in rows if len(row) > 8 and unescape(row[4].encode()) == path and "-" in row]
        about = [(row[2], row[3]) for row in mine]
        out[path] = None
        if len(set(about)) > 1 and about[-1] != about[0]:
            tails = [row[row.index("-") + 1 :] for row in mine]
            out[path] = [f"{shown(unescape(tail[1].encode()))} ({plain(tail[0])})" for tail in tails]
    return out


def displaced(spec: Object, root: str) -> Json:
    """evidence.Evidence.displaced: bind mounts on the disks that were asked about, in containers of ours that run"""
    engine = Engine(root)
    if not os.path.exists(engine.path):
        return None
    disks = tuple((spec.get("disks") or {}).values())
    filters = quoted('{"label":["pantheon.project=' + str(spec.get("project") or "") + '"]}')
    out = []
    for summary in engine.get(f"/containers/json?filters={filters}"):
        with suppress(Missing):
            found = engine.get(f"/containers/{summary['Id']}/json")
            pid = found["State"].get("Pid") or 0
            for mount in found.get("Mounts") or ():
                source = str(mount.get("Source") or "")
                if mount.get("Type") == "bind" and f"{source}/".startswith(tuple(f"{disk}/" for disk in disks)) and pid:
                    target = str(mount.get("Destination"))
                    why = _differs(root, pid, source, target, writable=bool(mount.get("RW")))
                    if why:
                        name = plain(found["Name"].lstrip("/"))
                        out.append({"container": name, "source": shown(source), "target": shown(target), "why": why})
    return out


def _differs(root: str, pid: int, source: str, target: str, *, writable: bool) -> str:
    """Why what the container has at `target` is not what lies at `source`; "" when it is, or nobody can tell."""
    try:
        inside = os.stat(f"{root}/proc/{pid}/root{target}")
    except OSError as error:
        return "" if isinstance(error, FileNotFoundError | ProcessLookupError) else f"{error.strerror} inside"
    try:
        here = os.stat(root + source)
    except FileNotFoundError:
        return f"{source} is not there any more"
    except OSError:
        return ""
    if (inside.st_dev, inside.st_ino) != (here.st_dev, here.st_ino):
        where = "on another file system" if inside.st_dev != here.st_dev else "in a directory that was replaced"
        return f"it was started {where}"
    is_stuck = writable and _read_only(read_text(f"{root}/proc/{pid}/mountinfo") or "", target)
    if is_stuck and not os.statvfs(root + source).f_flag & os.ST_RDONLY:
        return "it was started while the disk was read-only"
    return ""


def _read_only(mountinfo: str, target: str) -> bool:
    rows = [line.split() for line in mountinfo.splitlines()]
    return any(len(row) > 5 and row[4] == target and "ro" in row[5].split(",") for row in rows)


def devices(spec: Object, root: str) -> Json:
    """evidence.Evidence.devices"""
    del spec, root
    if not which("lsblk"):
        raise Unread("there is no lsblk")
    found = work.command(["lsblk", "-n", "-r", "-o", "NAME,SIZE,TYPE,FSTYPE,LABEL,UUID,MOUNTPOINT"], TOUCH_S)
    if found["status"]:
        raise Unread(f"lsblk: exit {found['status']}: {found['output'][:200]}")
    lines = [" ".join(line.split()) for line in found["output"].splitlines()]
    return [line for line in lines if line and " loop" not in line][:40]
