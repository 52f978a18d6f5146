"""What the audit looks at besides: sshd as a whole, the desktop, virtual machines, cards, disks, accounts."""

from __future__ import annotations

from typing import Any

import pytest

from pantheon.circumstances import Account, Card, Cards, CdiSpec, Desktop, Domain, Drive, SshServer, Virtual
from pantheon.collecting import accounts, cards, desktop, sshserver, virtual
from pantheon.facts import decode
from pantheon.looks.text import Unread
from tests.unit.looks.fakes import FakeHost


def package(name: str, status: str = "install ok installed") -> str:
    return f"Package: {name}\nStatus: {status}\nVersion: 1\n\n"


class TestSshServer:
    def test_everybody_and_root_and_the_lines(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
        host.tool(
            "sshd",
            "echo port 22; echo listenaddress [::]:22; echo listenaddress 0.0.0.0:22; echo ciphers x; echo Port 23\n"
            'case "$*" in *user=root*) echo permitrootlogin yes;; *) echo permitrootlogin no;; esac',
        )
        host.write(
            "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin no\nX11Forwarding yes\n"
        )
        host.write("/etc/ssh/sshd_config.d/a.conf", "Match Address 10.0.0.0/8\n  PermitRootLogin yes # for now\n")
        found = decode(SshServer, sshserver.server({}, str(host.root)), "server")
        assert isinstance(found, SshServer)
        assert found.settings == {"port": "22", "listenaddress": "[::]:22 0.0.0.0:22", "permitrootlogin": "no"}
        assert found.root["permitrootlogin"] == "yes"
        assert [(line.keyword, line.value, line.match) for line in found.lines] == [
            ("permitrootlogin", "yes", "Address 10.0.0.0/8"),
            ("permitrootlogin", "no", ""),
        ]

    def test_a_match_of_a_port(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """OpenSSH asks for the port of the connection that is tried, where a Match names one."""
        monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
        host.tool("sshd", 'case "$*" in *-C*lport=*) echo port 22;; *) echo "no lport" >&2; exit 255;; esac')
        host.write("/etc/ssh/sshd_config", "Match LocalPort 22\n  PermitRootLogin yes\n")
        found = decode(SshServer, sshserver.server({}, str(host.root)), "server")
        assert isinstance(found, SshServer)
        assert found.root == {"port": "22"}

    def test_files_that_sshd_does_not_understand(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
        host.tool("sshd", "echo 'line 3: Bad configuration option: x' >&2; exit 255")
        with pytest.raises(Unread, match="Bad configuration option"):
            sshserver.server({}, str(host.root))

    def test_none(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(host.bin))
        assert sshserver.server({}, str(host.root)) is None


class TestDesktop:
    def test_packages_by_name(self, host: FakeHost) -> None:
        there = ("ubuntu-desktop-minimal", "gdm3", "xfce4", "kubuntu-desktop", "task-gnome-desktop")
        fine = ("libgtk-3-0", "gnome-keyring", "xserver-common", "desktop-file-utils", "ubuntu-server", "x11-common")
        drivers = ("xserver-xorg-core", "xserver-xorg-video-nvidia-590-server", "xwayland")  # NVIDIA's has them
        gone = package("lightdm", "deinstall ok config-files")
        host.write("/var/lib/dpkg/status", "".join(map(package, (*there, *fine, *drivers))) + gone)
        found = decode(Desktop, desktop.desktop({}, str(host.root)), "desktop")
        assert isinstance(found, Desktop)
        assert found.packages == tuple(sorted(there))
        assert found.manager == ""

    def test_what_is_started(self, host: FakeHost) -> None:
        host.write("/var/lib/dpkg/status", "")
        units = host.root / "etc/systemd/system"
        units.mkdir(parents=True)
        (units / "display-manager.service").symlink_to("/usr/lib/systemd/system/gdm3.service")
        (units / "default.target").symlink_to("/usr/lib/systemd/system/graphical.target")
        found = desktop.desktop({}, str(host.root))
        assert (found["manager"], found["target"]) == ("gdm3.service", "graphical.target")

    def test_no_record_is_not_known(self, host: FakeHost) -> None:
        with pytest.raises(Unread):
            desktop.desktop({}, str(host.root))


XML = """<domain type='kvm'><name>{name}</name><memory unit='{unit}'>{memory}</memory><vcpu>{vcpus}</vcpu>
<cpu mode='{cpu}'/><devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x01' slot='0x00'
function='0x0'/></source></hostdev><hostdev type='usb'/></devices></domain>"""


def xml(name: str, **values: Any) -> str:
    about = {"name": name, "unit": "KiB", "memory": 8 << 20, "vcpus": 4, "cpu": "host-passthrough"}
    return XML.format(**(about | values))


class TestVirtual:
    def gathered(self, host: FakeHost) -> Virtual:
        host.write("/proc/meminfo", "MemTotal:       67108864 kB\n")
        found = decode(Virtual, virtual.virtual({}, str(host.root)), "virtual")
        assert isinstance(found, Virtual)
        return found

    def test_none(self, host: FakeHost) -> None:
        assert virtual.virtual({}, str(host.root)) is None

    def test_defined_started_and_at_boot(self, host: FakeHost) -> None:
        host.write("/etc/libvirt/qemu/a b.xml", f"<!-- generated -->\n{xml('a b')}")
        host.write("/etc/libvirt/qemu/autostart/a b.xml", "")
        host.write("/run/libvirt/qemu/c.xml", f"<domstatus>{xml('c', unit='GiB', memory=2)}</domstatus>")
        host.write("/etc/libvirt/qemu/networks/default.xml", "<network/>")
        found = self.gathered(host)
        card = ("0000:01:00.0",)
        first = Domain("a b", "/etc/libvirt/qemu/a b.xml", "host-passthrough", 4, 8192, True, False, card)
        assert found.domains[0] == first
        assert (found.domains[1].name, found.domains[1].memory_mib, found.domains[1].running) == ("c", 2048, True)
        assert found.memory_mib == 65536
        assert found.unread == ()

    @pytest.mark.parametrize(
        "text",
        ["<domain>", "", '<!DOCTYPE d [<!ENTITY a "b">]><domain/>', xml("x", vcpus="many"), xml("x", unit="furlong")],
    )
    def test_what_cannot_be_read_is_said(self, host: FakeHost, text: str) -> None:
        host.write("/etc/libvirt/qemu/x.xml", text)
        (said,) = self.gathered(host).unread
        assert said.startswith("/etc/libvirt/qemu/x.xml: ")

    def test_a_machine_of_which_little_is_said(self, host: FakeHost) -> None:
        host.write("/etc/libvirt/qemu/x.xml", "<domain/>")
        (found,) = self.gathered(host).domains
        assert (found.name, found.cpu_mode, found.vcpus, found.memory_mib) == ("x", "", 1, 0)

    def test_machines_that_are_not_libvirts(self, host: FakeHost) -> None:
        """There need be no libvirt for one to run."""
        for pid, comm, argv in (
            (11, "qemu-system-x86", "/usr/bin/qemu-system-x86_64\0-name\0guest=a b,debug-threads=on\0"),
            (9, "qemu-system-x86", "qemu-system-x86_64\0-m\0" + "4G\0"),
            (10, "firecracker", "firecracker\0-name"),
            (12, "qemu-ga", "qemu-ga\0"),  # an agent within a machine
        ):
            host.write(f"/proc/{pid}/comm", f"{comm}\n")
            host.write(f"/proc/{pid}/cmdline", argv)
        found = self.gathered(host)
        strangers = ("qemu-system-x86 (pid 9)", "firecracker (pid 10)", "qemu-system-x86 (pid 11)")
        assert (found.domains, found.strangers) == ((), strangers)
        host.write("/etc/libvirt/qemu/a b.xml", xml("a b"))
        assert self.gathered(host).strangers == strangers[:2]


class TestCards:
    def gathered(self, host: FakeHost) -> Cards:
        found = decode(Cards, cards.cards({}, str(host.root)), "cards")
        assert isinstance(found, Cards)
        return found

    def test_nothing(self, host: FakeHost) -> None:
        assert self.gathered(host) == Cards((), False, "", ())

    def test_a_card_its_audio_and_another_vendors(self, host: FakeHost) -> None:
        for slot, vendor, kind in (
            ("01:00.0", "10de", "030000"),
            ("01:00.1", "10de", "040300"),
            ("00:02.0", "8086", "030000"),
        ):
            folder = f"/sys/bus/pci/devices/0000:{slot}"
            host.write(f"{folder}/vendor", f"0x{vendor}\n")
            host.write(f"{folder}/device", "0x27b2\n")
            host.write(f"{folder}/class", f"0x{kind}\n")
        (host.root / "sys/bus/pci/devices/0000:01:00.0/driver").symlink_to("../../../bus/pci/drivers/vfio-pci")
        host.write("/sys/module/nouveau/refcnt", "0")
        host.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module\nGCC version: x\n")
        found = self.gathered(host)
        assert found.cards == (Card("0000:01:00.0", "10de:27b2", "vfio-pci"),)
        assert found.nouveau
        assert found.module == "NVRM version: NVIDIA UNIX Open Kernel Module"

    def test_kept_for_machines(self, host: FakeHost) -> None:
        host.write("/proc/cmdline", "root=/dev/sda vfio-pci.ids=10de:27b2,10de:22bc quiet\n")
        host.write("/etc/modprobe.d/v.conf", "# options vfio-pci ids=10de:1\noptions vfio-pci ids=8086:1,10DE:27b2\n")
        host.write("/etc/modprobe.d/w.conf", "options vfio-pci ids=8086:1\n")
        grub = (
            'GRUB_DEFAULT=0\n# GRUB_CMDLINE_LINUX="vfio-pci.ids=10de:1"\nGRUB_CMDLINE_LINUX="vfio-pci.ids=10de:27b2"\n'
        )
        host.write("/etc/default/grub", grub)
        assert self.gathered(host).vfio == (
            "/proc/cmdline:1: vfio-pci.ids=10de:27b2,10de:22bc",
            '/etc/default/grub:3: GRUB_CMDLINE_LINUX="vfio-pci.ids=10de:27b2"',
            "/etc/modprobe.d/v.conf:2: options vfio-pci ids=8086:1,10DE:27b2",
        )


class TestCdi:
    def gathered(self, host: FakeHost) -> tuple[CdiSpec, ...]:
        return tuple(CdiSpec(one["path"], tuple(one["drivers"])) for one in cards.cdi({}, str(host.root)))

    def test_which_driver_each_is_for(self, host: FakeHost) -> None:
        mount = "- containerPath: {0}\n      hostPath: {0}\n"
        libraries = (f"/usr/lib/x86_64-linux-gnu/lib{name}.so.590.48.01" for name in ("cuda", "nvidia-ml", "other"))
        host.write("/var/run/cdi/nvidia.yaml", "kind: nvidia.com/gpu\n" + "".join(map(mount.format, libraries)))
        host.write("/etc/cdi/n.json", '{\n "kind": "nvidia.com/gpu",\n "hostPath": "/usr/lib/libcuda.so.580.95.05"}')
        host.write("/etc/cdi/amd.yaml", "kind: amd.com/gpu\n")
        host.write("/etc/cdi/mig.yaml", "kind: nvidia.com/gpu\n")
        host.write("/etc/cdi/nvidia.yaml.bak", "kind: nvidia.com/gpu\n")
        assert self.gathered(host) == (
            CdiSpec("/etc/cdi/mig.yaml"),
            CdiSpec("/etc/cdi/n.json", ("580.95.05",)),
            CdiSpec("/var/run/cdi/nvidia.yaml", ("590.48.01",)),
        )

    def test_none(self, host: FakeHost) -> None:
        assert self.gathered(host) == ()


class TestDrives:
    def block(self, host: FakeHost, number: str, path: str, *, rotational: str = "", partition: bool = False) -> None:
        host.write(f"/sys/devices/{path}/uevent", "")
        if partition:
            host.write(f"/sys/devices/{path}/partition", "1")
        if rotational:
            whole = path.rpartition("/")[0] if partition else path
            host.write(f"/sys/devices/{whole}/queue/rotational", rotational)
        link = host.root / f"sys/dev/block/{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(host.root / f"sys/devices/{path}")

    @pytest.mark.parametrize(
        ("path", "rotational", "partition", "kind"),
        [
            ("pci/nvme0n1/nvme0n1p1", "0", True, "nvme"),
            ("pci/sda/sda1", "0", True, "ssd"),
            ("pci/sda/sda1", "1", True, "hdd"),
            ("pci/sdb", "1", False, "hdd"),
            ("virtio/vda", "1", False, ""),
            ("virtual/block/loop0", "0", False, ""),
        ],
    )
    def test_kinds(self, host: FakeHost, path: str, rotational: str, partition: bool, kind: str) -> None:
        self.block(host, "8:1", path, rotational=rotational, partition=partition)
        host.write(
            "/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/x rw\n23 22 8:1 / /mnt/a\\040b rw - ext4 /dev/x rw\n"
        )
        found = cards.drives({"disks": {"nvme": "/mnt/a b", "ssd": "/mnt/none"}}, str(host.root))
        assert found == [
            {"mount": "/", "device": "/dev/x", "kind": kind},
            {"mount": "/mnt/a b", "device": "/dev/x", "kind": kind},
        ]
        assert decode(Drive, found[0], "drive") == Drive("/", "/dev/x", kind)

    def test_beneath_lvm_the_slowest(self, host: FakeHost) -> None:
        self.block(host, "253:0", "virtual/block/dm-0")
        slaves = host.root / "sys/devices/virtual/block/dm-0/slaves"
        slaves.mkdir()
        for name, spins in (("sda", "1"), ("nvme0n1", "0")):
            self.block(host, f"8:{len(name)}", f"pci/{name}", rotational=spins)
            (slaves / name).symlink_to(host.root / f"sys/devices/pci/{name}")
        host.write("/proc/self/mountinfo", "22 1 253:0 / / rw - ext4 /dev/mapper/v-r rw\n")
        assert cards.drives({}, str(host.root))[0]["kind"] == "hdd"

    def test_btrfs_on_lvm(self, host: FakeHost) -> None:
        """Its number is its own, and its source one of LVM's links."""
        host.write("/sys/class/block/dm-0/queue/rotational", "0")
        host.write("/dev/dm-0", "")
        host.at("/dev/mapper").mkdir()
        host.at("/dev/mapper/v-r").symlink_to("../dm-0")
        host.write("/proc/self/mountinfo", "22 1 0:27 /@ / rw - btrfs /dev/mapper/v-r rw\n")
        assert cards.drives({}, str(host.root))[0]["kind"] == "ssd"

    def test_a_network_is_never_touched(self, host: FakeHost) -> None:
        host.write("/proc/self/mountinfo", "22 1 0:50 / / rw - nfs4 nas:/x rw\n")
        assert cards.drives({}, str(host.root)) == [{"mount": "/", "device": "nas:/x", "kind": "network"}]


class TestAccounts:
    def test_1024_and_root_by_another_name(self, host: FakeHost) -> None:
        host.write(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nann:x:1024:1000::/home/ann:/bin/bash\nbob:x:1000:1024::/:/x\nbad\n",
        )
        host.write("/etc/group", "root:x:0:\ncomfy:x:1024:ann\n")
        found = [decode(Account, one, "account") for one in accounts.accounts({}, str(host.root))]
        assert found == [
            Account("toor", 0, "/bin/sh"),
            Account("ann", 1024, "/bin/bash"),
            Account("comfy", 1024, "", True),
        ]

    def test_no_files_are_not_known(self, host: FakeHost) -> None:
        with pytest.raises(Unread):
            accounts.accounts({}, str(host.root))
