"""A host that is as both documents say, with all that the audit looks at; and single things changed on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pantheon import layout, stack
from pantheon.circumstances import (
    Address,
    Card,
    Cards,
    CdiSpec,
    Datagram,
    Desktop,
    Domain,
    Drive,
    SocketUnit,
    SshdLine,
    SshServer,
    Virtual,
)
from pantheon.control import Verdict
from pantheon.controls import every
from pantheon.controls.nfs import PAGE
from pantheon.evidence import ComfyTree, FstabLine, Room
from pantheon.facts import Command, Facts, Listener, Mount
from pantheon.incident import Case
from pantheon.inventory import AtlasMount, Host
from pantheon.kernels import Kernel, Kernels
from pantheon.nfs import Atlas, Line, Share
from tests.unit.world import DISK, GIB, HOST, case, finished, text_file

AUDITED = replace(HOST, mgmt_network="10.0.99.0/24", servers_network="10.0.60.0/24")
MGMT = Address("eno2", "10.0.99.10", 24, "nic", "static", "set in /etc/netplan/50.yaml", "aa:bb:cc:00:00:02")
SERVERS = Address("eno1", "10.0.60.5", 24, "nic", "static", "set in /etc/netplan/50.yaml", "aa:bb:cc:00:00:01")
LEASED = replace(SERVERS, origin="dhcp", why="a lease: /run/systemd/netif/leases/2")
SSHD = Listener("10.0.99.10", 22, 700, "sshd", "")
SETTINGS = {
    "port": "22",
    "permitrootlogin": "no",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "pubkeyauthentication": "yes",
    "listenaddress": "10.0.99.10:22",
}
SERVER = SshServer(SETTINGS, dict(SETTINGS))
KERNELS = Kernels("6.8.0-50-generic", "6.8.0-51-generic", (Kernel("6.8.0-51-generic", "590.48.01"),))
VM = Domain("vm", "/etc/libvirt/qemu/vm.xml", "host-passthrough", 4, 8192, autostart=True, running=True)
CARD = Card("0000:01:00.0", "10de:27b2", "nvidia")
WANT = (AtlasMount("atlas:/data", "/mnt/atlas/data", "rw"), AtlasMount("atlas:/media", "/mnt/atlas/media", "ro"))
WITH_ATLAS = replace(AUDITED, atlas=WANT)
AS_PAGE = replace(AUDITED, atlas=tuple(AtlasMount(f"nas:/{at}", at, mode) for at, mode in PAGE.items()))


def share(want: AtlasMount, **more: Any) -> Share:
    row = Mount(want.mount, want.export, "nfs4", f"{want.mode},relatime")
    line = Line(3, want.export, "nfs4", f"{want.mode},nofail")
    about: dict[str, Any] = {"at": "mounted", "rows": (row,), "answers": Command(0, ""), "lines": (line,)}
    return Share(want.mount, **(about | more))


def atlas(*shares: Share) -> Atlas:
    return Atlas("/usr/sbin/mount.nfs4", True, {"atlas": ""}, shares or tuple(share(want) for want in WANT))


def facts(host: Host = AUDITED) -> Facts:
    """Made once for each host: nothing in it is ever changed."""
    if repr(host) not in MADE:
        MADE[repr(host)] = made(host)
    return MADE[repr(host)]


MADE: dict[str, Facts] = {}


def made(host: Host) -> Facts:
    """As brought up, with sshd on MGMT and what CDI and the model links want."""
    found = finished(host)
    mine = found.listeners if isinstance(found.listeners, tuple) else ()
    mounts = tuple(Mount(path, source, "ext4", "rw") for path, source in {"/": "/dev/sda2", **DISK}.items())
    docker: Any = replace(found.docker, cdi=("/etc/cdi/nvidia.yaml",))  # type: ignore[type-var]
    files = {**found.files}
    compose = layout.compose_file(host)
    files[compose] = text_file(compose, stack.compose_text(host), 0o644)
    return replace(found, listeners=(*mine, SSHD), docker=docker, mounts=mounts, files=files)


def evidence() -> dict[str, Any]:
    room = Room("/", "/dev/sda2", "ext4", 200 * GIB, 400 * GIB, 1000, 2000, ("root",))
    return {
        "addresses": (MGMT, SERVERS, Address("docker0", "172.17.0.1", 16, "bridge", "static")),
        "sockets": (SocketUnit("10.0.99.10:22", "ssh.socket", "ssh.service"),),
        "datagrams": (Datagram("127.0.0.53", 53, "lo", "systemd-resolve"), Datagram("10.0.60.5", 68, "eno1", "x")),
        "ssh_server": SERVER,
        "desktop": Desktop((), "", "graphical.target"),
        "virtual": Virtual((VM,), 16, 65536),
        "cards": Cards((CARD,), False, "NVRM version: NVIDIA UNIX x86_64 Kernel Module 590.48.01"),
        "cdi": (CdiSpec("/etc/cdi/nvidia.yaml", ("590.48.01",)),),
        "accounts": (),
        "drives": (
            Drive("/", "/dev/sda2", "ssd"),
            Drive("/mnt/local/nvme", "/dev/nvme0n1p1", "nvme"),
            Drive("/mnt/local/ssd", "/dev/sda1", "ssd"),
        ),
        "kernels": KERNELS,
        "kernel_log": (),
        "installed": {"docker-ce": "5:29.1.3-1", "docker.io": None},
        "engine_has_hook": True,
        "fstab": tuple(FstabLine(source, path, "ext4", "defaults") for path, source in DISK.items()),
        "rooms": (room,),
        "comfy": ComfyTree("complete", "complete", torch=("torch 2.9.1+cu130",)),
        "atlas": atlas(),
    }


def well(host: Host = AUDITED, look: Facts | None = None, **changes: Any) -> Case:
    return case(look or facts(host), host=host, **(evidence() | changes))


def judged(control: str, about: Case) -> Verdict:
    return next(one for one in every() if one.id == control).judge(about)


def line(keyword: str, value: str, match: str = "", number: int = 1) -> SshdLine:
    return SshdLine("/etc/ssh/sshd_config", number, keyword, value, match)
