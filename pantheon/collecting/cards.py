"""NVIDIA's cards on the bus and which kernel driver has them; what kind of disk lies under a mount point."""

from __future__ import annotations

import glob
import os
import re

from pantheon.looks.files import read_bytes, read_text, unescape
from pantheon.looks.text import Json, Object, Unread, plain, shown

NVIDIA = "0x10de"
BOOT_FILES = ("/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/kernel/cmdline")  # of the next boot
MODULE_FILES = ("/etc/modprobe.d/*.conf", "/run/modprobe.d/*.conf", "/usr/lib/modprobe.d/*.conf")
REMOTE = re.compile(r"nfs4?|cifs|smb3|ceph|fuse\.(nfs.*|sshfs|glusterfs|cephfs)|glusterfs|9p")
KEPT_AT_BOOT = re.compile(r"[^#]*\bvfio[-_]pci[.]ids=\S*10de:", re.IGNORECASE)
KEPT_BY_MODULE = re.compile(r"\s*options\s+vfio[-_]pci\s.*\bids=\S*10de:", re.IGNORECASE)
MOST = 100
CDI = ("/etc/cdi", "/var/run/cdi")  # as Docker reads them: what the later says of a device goes before
CDI_KIND = re.compile(r"""^\W*kind["']?\s*:\s*["']?nvidia\.com/gpu\b""", re.MULTILINE)
DRIVER_FILE = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d+(?:\.\d+)+)\b")


def cards(spec: Object, root: str) -> Json:
    """circumstances.Cards"""
    del spec
    found = []
    for folder in sorted(glob.glob(f"{root}/sys/bus/pci/devices/*"))[:2000]:
        vendor, kind = value(f"{folder}/vendor"), value(f"{folder}/class")
        if vendor != NVIDIA or not kind.startswith("0x03"):
            continue
        try:
            driver = os.path.basename(os.readlink(f"{folder}/driver"))
        except OSError:
            driver = ""
        ids = f"{vendor[2:]}:{value(f'{folder}/device')[2:]}"
        found.append({"address": os.path.basename(folder), "ids": plain(ids), "driver": plain(driver)})
    module = read_text(f"{root}/proc/driver/nvidia/version", 4096) or ""
    return {
        "cards": found,
        "nouveau": os.path.isdir(f"{root}/sys/module/nouveau"),
        "module": plain((module.splitlines() or [""])[0]),
        "vfio": vfio(root)[:MOST],
    }


def value(path: str) -> str:
    try:
        return (read_text(path, 256) or "").strip().lower()
    except (OSError, Unread):
        return ""


def vfio(root: str) -> list[str]:
    """circumstances.Cards.vfio"""
    out = []
    cmdline = read_text(f"{root}/proc/cmdline", 65536) or ""
    if KEPT_AT_BOOT.match(cmdline):
        out.append(f"/proc/cmdline:1: {plain(' '.join(w for w in cmdline.split() if 'vfio' in w))}")
    for pattern in (*BOOT_FILES, *MODULE_FILES):
        wanted = KEPT_AT_BOOT if pattern in BOOT_FILES else KEPT_BY_MODULE
        for path in sorted(glob.glob(root + pattern))[:MOST]:
            try:
                text = read_text(path, 1 << 18) or ""
            except (OSError, Unread):
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if wanted.match(line):
                    out.append(f"{shown(path[len(root) :])}:{number}: {plain(line.strip())}")
    return out


def cdi(spec: Object, root: str) -> Json:
    """circumstances.CdiSpec of each file that describes NVIDIA's cards to container engines."""
    del spec
    out = []
    for folder in CDI:
        for path in sorted(glob.glob(f"{root}{folder}/*"))[:MOST]:
            if not path.endswith((".yaml", ".yml", ".json")):
                continue
            text = read_text(path, 4 << 20) or ""
            if CDI_KIND.search(text):
                out.append({"path": shown(path[len(root) :]), "drivers": sorted(set(DRIVER_FILE.findall(text)))})
    return out


# ---- disks


def drives(spec: Object, root: str) -> Json:
    """circumstances.Drive for / and the roots of the storage model that are mount points."""
    wanted = ["/", *(spec.get("disks") or {}).values()]
    table = mounted(root)
    out = []
    for path in dict.fromkeys(wanted):
        if path in table:
            device, source, fstype = table[path]
            kind = "network" if REMOTE.fullmatch(fstype) else kind_of(root, block_of(root, device, source))
            out.append({"mount": path, "device": shown(source), "kind": kind})
    return out


def mounted(root: str) -> dict[str, tuple[str, str, str]]:
    """target -> (MAJOR:MINOR, source, type); the last mount at a place wins."""
    data = read_bytes(f"{root}/proc/self/mountinfo", 16 << 20)
    if data is None:
        raise Unread("/proc/self/mountinfo cannot be read")
    out = {}
    for line in data.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        fields, tail = left.split(b" "), right.split(b" ")
        if dash and len(fields) > 5 and len(tail) > 1:
            out[unescape(fields[4])] = (unescape(fields[2]), unescape(tail[1]), unescape(tail[0]))
    return out


def block_of(root: str, device: str, source: str) -> str:
    """The block device's folder in /sys; "" for what is none. btrfs has no number of its own, only a source, which may
    be LVM's name for it."""
    name = os.path.basename(os.path.realpath(root + source) if source.startswith("/dev/") else source)
    for path in (f"{root}/sys/dev/block/{device}", f"{root}/sys/class/block/{name}"):
        if os.path.isdir(path):
            return os.path.realpath(path)
    return ""


def kind_of(root: str, folder: str, depth: int = 0) -> str:
    """circumstances.Drive.kind, through partitions, LVM, LUKS and RAID: the slowest of what lies beneath."""
    if not folder or depth > 8:
        return ""
    below = [os.path.realpath(path) for path in sorted(glob.glob(f"{folder}/slaves/*"))]
    if below:
        kinds = {kind_of(root, path, depth + 1) for path in below}
        return next((kind for kind in ("hdd", "", "ssd", "nvme") if kind in kinds), "")
    whole = os.path.dirname(folder) if os.path.exists(f"{folder}/partition") else folder
    name, spins = os.path.basename(whole), value(f"{whole}/queue/rotational")
    if name.startswith("nvme"):
        return "nvme"
    if re.match(r"(vd|xvd|loop|ram|zram|nbd|rbd|zd)", name):
        return ""  # a virtual disk says that it spins, whatever it is
    return {"0": "ssd", "1": "hdd"}.get(spins, "")
