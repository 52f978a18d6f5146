"""What the audit looks at beyond a diagnosis, typed: the network, sshd as a whole, virtual machines, the desktop that
should not be there. The host-side half is in pantheon/collecting; evidence.Evidence has the fields."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Address:
    """An address of the host. `kind` is the interface's: nic, bridge (that no NIC is part of, such as Docker's), vpn,
    lo. `origin` says where the address is from, `why` how that is known, with the file or lease."""

    interface: str
    address: str
    prefix: int
    kind: str
    origin: str  # static, dhcp, auto (IPv6 by a router), link-local, unknown
    why: str = ""
    mac: str = ""
    vlan: int = 0  # of a tagged interface


@dataclass(frozen=True)
class SocketUnit:
    """A socket that systemd holds for a service: where it listens, and for whom."""

    listen: str
    unit: str
    activates: str


@dataclass(frozen=True)
class Datagram:
    """A UDP socket that takes what anybody sends to it. `device` is the interface that it is tied to, `process` who has
    it ("": the kernel itself), `container` the id of the container that runs in."""

    address: str
    port: int
    device: str = ""
    process: str = ""
    container: str = ""


@dataclass(frozen=True)
class CdiSpec:
    """A CDI specification of NVIDIA's cards: its file, and the versions of the driver whose libraries it names."""

    path: str
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class SshdLine:
    """A line of sshd's files; `match` holds the criteria of the Match block that it stands in, "" for none."""

    path: str
    line: int
    keyword: str  # lower case
    value: str
    match: str = ""


@dataclass(frozen=True)
class SshServer:
    """sshd's settings as they are for everybody (`settings`: sshd -T) and for root (`root`: with -C user=root), lower
    case keys; the `lines` of its files that bear on who may log in, Match blocks included."""

    settings: dict[str, str]
    root: dict[str, str] = field(default_factory=dict)
    lines: tuple[SshdLine, ...] = ()


@dataclass(frozen=True)
class Desktop:
    """`packages` are desktop packages that are installed, `manager` the display manager that is to be started at the
    boot ("": none), `target` systemd's default target (Ubuntu Server has graphical.target too)."""

    packages: tuple[str, ...]
    manager: str
    target: str


@dataclass(frozen=True)
class Domain:
    """A virtual machine of libvirt, by its definition. `devices` are PCI addresses handed through to it, `type` is the
    hypervisor (kvm; qemu emulates in software)."""

    name: str
    path: str
    cpu_mode: str
    vcpus: int
    memory_mib: int
    autostart: bool
    running: bool
    devices: tuple[str, ...] = ()
    type: str = "kvm"


@dataclass(frozen=True)
class Virtual:
    """libvirt's machines and what the host has for them; `unread` are definitions that could not be read, `strangers`
    virtual machines that run and are not libvirt's, as "PROGRAM (pid N)"."""

    domains: tuple[Domain, ...]
    cpus: int
    memory_mib: int
    unread: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A display adapter of NVIDIA's on the PCI bus: address, ids ("10de:27b2"), the kernel driver that has it."""

    address: str
    ids: str
    driver: str


@dataclass(frozen=True)
class Cards:
    """`module` is what the loaded driver calls itself (/proc/driver/nvidia/version), "" where it does not. `vfio` are
    lines that keep NVIDIA's cards for virtual machines, as "FILE:LINE: text"."""

    cards: tuple[Card, ...]
    nouveau: bool
    module: str
    vfio: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """A line of /etc/passwd (`group` False) or /etc/group."""

    name: str
    number: int
    shell: str = ""
    group: bool = False


@dataclass(frozen=True)
class Drive:
    """What kind of disk lies under a mount point. `kind`: nvme, ssd, hdd, network, "" where the kernel does not say (a
    virtual disk)."""

    mount: str
    device: str
    kind: str
