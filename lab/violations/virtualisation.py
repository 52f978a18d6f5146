"""Virtual machines as libvirt has them on disk, each against one rule."""

from __future__ import annotations

from collections.abc import Callable

from lab import planting
from lab.machine import Lab
from lab.violations import Violation

FOLDER = "/etc/libvirt/qemu"
CARD = """<hostdev mode='subsystem' type='pci' managed='yes'>
<source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source></hostdev>"""


def define(name: str, *, cpu: str = "host-passthrough", vcpus: int = 1, gib: int = 1, devices: str = "",
           kind: str = "kvm") -> Callable[[Lab], None]:  # fmt: skip
    text = f"""<domain type='{kind}'><name>{name}</name><memory unit='GiB'>{gib}</memory>
<vcpu placement='static'>{vcpus}</vcpu><cpu mode='{cpu}'/><devices>{devices}</devices></domain>"""

    def plant(lab: Lab) -> None:
        lab.sh('mkdir -p "$1"; printf "%s\\n" "$3" >"$1/$2.xml"', FOLDER, name, text)

    return plant


def undefine(name: str) -> Callable[[Lab], None]:
    def undo(lab: Lab) -> None:
        lab.sh('rm -f "$1/$2.xml"; rmdir "$1" "${1%/*}" 2>/dev/null || true', FOLDER, name)

    return undo


def stranger(lab: Lab) -> None:
    """Something that runs, and is called what runs virtual machines."""
    lab.sh("mkdir -p /run/v-machine; ln -sf /usr/bin/python3 /run/v-machine/qemu-system-x86_64")
    planting.listen(lab, "v-machine", "127.0.0.1", 11600, program="/run/v-machine/qemu-system-x86_64")


def no_stranger(lab: Lab) -> None:
    planting.stop(lab, "v-machine")
    lab.sh("rm -rf /run/v-machine")


VIOLATIONS = (
    Violation("virt.libvirt", "qemu-system-x86 (pid ", stranger, no_stranger),
    Violation("virt.kvm", "v-slow: type qemu", define("v-slow", kind="qemu"), undefine("v-slow")),
    Violation("virt.cpu-mode", "v-mode: CPU mode custom", define("v-mode", cpu="custom"), undefine("v-mode")),
    Violation("virt.cpu-overcommit", "v-cpus has 4096", define("v-cpus", vcpus=4096), undefine("v-cpus")),
    Violation("virt.memory-overcommit", "v-memory has", define("v-memory", gib=4096), undefine("v-memory")),
    Violation("virt.gpu", "v-card", define("v-card", devices=CARD), undefine("v-card")),
)
