"""libvirt's machines, from its own files: asking libvirtd would start it."""

from __future__ import annotations

import glob
import os
import re
from xml.etree import ElementTree

from pantheon.looks.files import read_text, which
from pantheon.looks.text import Json, Object, Unread, plain, shown, why

FOLDER = "/etc/libvirt/qemu"
RUNNING = "/run/libvirt/qemu"
MOST, BYTES = 500, 1 << 20
# What runs virtual machines, as the kernel calls it (15 characters).
PROGRAMS = re.compile(r"qemu-system-\S*|qemu-kvm|cloud-hyperviso\S*|firecracker|VBoxHeadless|vmware-vmx|crosvm")
KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "kb": 1000 / 1024, "k": 1, "kib": 1, "mb": 1e6 / 1024, "m": 1024, "mib": 1024,
       "gb": 1e9 / 1024, "g": 1 << 20, "gib": 1 << 20, "tb": 1e12 / 1024, "t": 1 << 30, "tib": 1 << 30}  # fmt: skip


def virtual(spec: Object, root: str) -> Json:
    """circumstances.Virtual; None where there is no libvirt, nor a machine of its or anybody's."""
    del spec
    paths = sorted(glob.glob(f"{root}{FOLDER}/*.xml"))[:MOST]
    started = sorted(glob.glob(f"{root}{RUNNING}/*.xml"))[:MOST]
    there = os.path.isdir(f"{root}{FOLDER}") or (not root and (which("libvirtd") or which("virtqemud")))
    running = machines(root)
    if not paths and not started and not there and not running:
        return None
    domains: dict[str, Object] = {}
    unread = []
    for path in [*paths, *started]:
        place = path[len(root) :]
        try:
            text = read_text(path, BYTES)
            found = domain(text or "", place)
        except (OSError, Unread, ElementTree.ParseError, ValueError) as error:
            unread.append(f"{shown(place)}: {plain(why(error))}")
            continue
        if found is None:
            continue
        known = domains.setdefault(str(found["name"]), found)
        known["running"] = known["running"] or place.startswith(RUNNING)
        known["autostart"] = known["autostart"] or os.path.lexists(f"{root}{FOLDER}/autostart/{found['name']}.xml")
    return {
        "domains": list(domains.values()),
        "cpus": os.cpu_count() or 0,
        "memory_mib": memory_mib(root),
        "unread": unread,
        "strangers": [said for name, said in running if name not in domains],
    }


def machines(root: str) -> list[tuple[str, str]]:
    """The virtual machines that run, as (libvirt's name for it or "", "PROGRAM (pid N)")."""
    out = []
    for pid in sorted((name for name in os.listdir(f"{root}/proc") if name.isdigit()), key=int):
        try:
            program = (read_text(f"{root}/proc/{pid}/comm") or "").strip()
            if PROGRAMS.fullmatch(program):
                argv = (read_text(f"{root}/proc/{pid}/cmdline", BYTES) or "").split("\0")
                at = argv.index("-name") + 1 if "-name" in argv[:-1] else 0
                found = re.match(r"guest=((?:[^,]|,,)+)", argv[at]) if at else None
                out.append((found[1].replace(",,", ",") if found else "", f"{plain(program)} (pid {pid})"))
        except (OSError, Unread):
            continue
    return out[:MOST]


def domain(text: str, path: str) -> Object | None:
    """circumstances.Domain; None for a file that describes something else (a network)."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Unread("it declares entities")
    tree = ElementTree.fromstring(text)  # noqa: S314 - without entities there is nothing to blow up
    if tree.tag == "domstatus":  # the state of one that runs
        inner = tree.find("domain")
        if inner is None:
            return None
        tree = inner
    if tree.tag != "domain":
        return None
    cpu, vcpu, memory = tree.find("cpu"), tree.find("vcpu"), tree.find("memory")
    return {
        "name": plain(tree.findtext("name") or os.path.basename(path)[:-4]),
        "path": shown(path),
        "cpu_mode": plain(cpu.get("mode", "custom") if cpu is not None else ""),
        "vcpus": int((vcpu.text or "1").strip()) if vcpu is not None else 1,
        "memory_mib": mib(memory),
        "autostart": False,
        "running": False,
        "type": plain(tree.get("type", "")),
        "devices": [address(one) for one in tree.iterfind("devices/hostdev") if one.get("type") == "pci"],
    }


def mib(memory: ElementTree.Element | None) -> int:
    if memory is None:
        return 0
    unit = memory.get("unit", "KiB").lower()
    if unit not in KIB:
        raise Unread(f"memory in {unit}")
    return int(float((memory.text or "0").strip()) * KIB[unit] / 1024)


def address(device: ElementTree.Element) -> str:
    """`0000:01:00.0`, as the kernel writes it."""
    place = device.find("source/address")
    if place is None:
        return "unknown"
    parts = [re.sub(r"^0x", "", place.get(name, "0")) for name in ("domain", "bus", "slot", "function")]
    return plain(f"{parts[0]:0>4}:{parts[1]:0>2}:{parts[2]:0>2}.{parts[3]}").lower()


def memory_mib(root: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", read_text(f"{root}/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) // 1024 if found else 0
