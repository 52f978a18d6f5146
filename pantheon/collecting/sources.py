"""Block devices, and which of them hosts.toml's storage sources are. Asked by commands that can be killed: a disk that
dies may hang whoever asks it."""

from __future__ import annotations

import hashlib
import json
import os

from pantheon.looks import work
from pantheon.looks.files import read_bytes, which
from pantheon.looks.text import Json, Object, Unread, plain, shown

ASK_S = 3.0
BY_ID = "/dev/disk/by-id"
COLUMNS = "PATH,SIZE,TYPE,FSTYPE,LABEL,UUID,MODEL,MOUNTPOINTS,RO,PKNAME"
NO_DISKS = ("rom",)
NO_NAMES = ("wwn-", "nvme-eui.", "nvme-nvme.", "lvm-pv-uuid-", "dm-uuid-")  # stable, and no human knows them


def sources(spec: Object, root: str) -> Json:
    """evidence.Evidence.sources"""
    if not which("lsblk"):
        raise Unread("there is no lsblk")
    asked = work.command(["lsblk", "--json", "--bytes", "--list", "--output", COLUMNS], ASK_S, 1 << 20)
    if asked["status"]:
        raise Unread(f"lsblk: exit {asked['status']}: {asked['output'][:200]}")
    names = _stable_names(root)
    rows = json.loads(asked["output"]).get("blockdevices") or []
    parents = {str(row.get("pkname")) for row in rows if row.get("pkname")}
    devices: Object = {}
    for row in rows:
        path = str(row.get("path") or "")
        if row.get("type") not in NO_DISKS and path:
            devices.setdefault(path, _device(row, names, parents))
    # lsblk goes by udev's word, which may be missing or old. Before a disk is said to be empty it is asked itself.
    work.each([one for one in devices.values() if not one["fstype"] and not one["parts"]], _probe)
    wanted = {str(one): _found(str(one), devices) for one in spec.get("sources") or ()}
    kept = [one for one in devices.values() if one["type"] != "loop" or one in wanted.values()]
    text = read_bytes(f"{root}/etc/fstab")
    fstab = "missing" if text is None else hashlib.sha256(text).hexdigest()
    return {"found": wanted, "devices": kept[:60], "fstab": fstab}


def _device(row: Object, names: dict[str, str], parents: set[str]) -> Object:
    path = str(row["path"])
    text = {key: plain(str(row.get(key) or "")).strip() for key in ("type", "fstype", "label", "uuid", "model")}
    return {
        "path": shown(path),
        "stable": names.get(os.path.realpath(path), shown(path)),
        "bytes": int(row.get("size") or 0),
        **text,
        "mounts": [shown(str(place)) for place in row.get("mountpoints") or () if place],
        "parts": os.path.basename(path) in parents,
        "readonly": row.get("ro") in (True, "1", 1),
    }


def _probe(device: Object) -> None:
    """What the disk itself says that is on it. One that cannot be asked is not empty."""
    if not os.path.exists(device["path"]):
        device["fstype"] = "unknown"
        return
    asked = work.attempt(work.command, ["blkid", "-p", "-o", "export", "--", device["path"]], ASK_S)
    if work.is_unknown(asked) or asked["status"] not in (0, 2):  # 2: there is nothing that it knows
        device["fstype"] = "unknown"
        return
    told = dict(line.partition("=")[::2] for line in asked["output"].splitlines())
    device["fstype"] = told.get("TYPE") or (f"{told['PTTYPE']} partition table" if told.get("PTTYPE") else "")
    device["label"], device["uuid"] = told.get("LABEL", ""), told.get("UUID", "")


def _stable_names(root: str) -> dict[str, str]:
    """The device's name that a human can compare with the label on the disk, by what it leads to."""
    out: dict[str, str] = {}
    try:
        links = sorted(os.listdir(root + BY_ID), key=lambda name: (name.startswith(NO_NAMES), len(name), name))
    except OSError:
        return out
    for name in links:
        out.setdefault(os.path.realpath(f"{root}{BY_ID}/{name}"), f"{BY_ID}/{shown(name)}")
    return out


def _found(source: str, devices: Object) -> Json:
    """The device that a source is, by libblkid's own word as mount(8) takes it; None where it is not there."""
    if source.startswith("/dev/"):
        path = os.path.realpath(source)
    else:
        told = work.command(["findfs", source], ASK_S)
        path = os.path.realpath(told["output"].strip()) if told["status"] == 0 else ""
    return devices.get(path)
