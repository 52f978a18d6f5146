"""Where the host's addresses are from, by the kernel, leases and every way of writing it down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pantheon.circumstances import Address, Datagram, SocketUnit
from pantheon.collecting import netplan, network
from pantheon.evidence import Evidence
from pantheon.facts import decode
from pantheon.looks.text import Unread
from tests.unit.looks.fakes import FakeHost

MAC = "aa:bb:cc:dd:ee:01"


def link(name: str, *infos: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"ifname": name, "link_type": "ether", "address": MAC, "addr_info": [*infos], **more}


def four(address: str = "10.0.60.5", **more: Any) -> dict[str, Any]:
    return {"family": "inet", "local": address, "prefixlen": 24, "scope": "global", **more}


@pytest.fixture(name="at")
def somewhere(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
    return host


def gathered(at: FakeHost, *links: dict[str, Any]) -> tuple[Address, ...]:
    at.write("/said.json", json.dumps([*links], indent=1))
    at.tool("ip", f"cat {at.root}/said.json")
    document = {"schema": 1, "addresses": network.addresses({}, str(at.root))}
    found = decode(Evidence, document, "evidence")
    assert isinstance(found, Evidence)
    assert isinstance(found.addresses, tuple)
    return found.addresses


STATIC_NETPLAN = """
# This file is generated from information provided by the datasource.
network:
    version: 2
    renderer: networkd
    ethernets:
        eno1:
            addresses:
            - 10.0.60.5/24
            - "fd00::5/64"
            routes:
            - to: default
              via: 10.0.60.1
            nameservers: {addresses: [10.0.60.1, 1.1.1.1]}
            dhcp4: false
"""
CLOUD_INIT = f"""
network:
  ethernets:
    wan0:
      match: {{macaddress: '{MAC.upper()}'}}
      set-name: eno1
      dhcp4: true   # as the datasource said
  version: 2
"""
NETWORKD = "[Match]\nName=en*\n\n[Network]\nDHCP=ipv4\n"
KEYFILE = "[connection]\nid=x\ninterface-name=eno1\n[wifi-security]\npsk=hush\n"
KEYFILE += "[ipv4]\naddress1=10.0.60.5/24,10.0.60.1\nmethod=manual\n"


@pytest.mark.parametrize(
    ("files", "info", "origin", "why"),
    [
        ({}, {}, "static", "no lease has it"),
        ({}, {"dynamic": True, "valid_life_time": 3000}, "dhcp", "(3000 s left)"),
        ({"/run/systemd/netif/leases/2": "# private\nADDRESS=10.0.60.5\nNETMASK=x\n"}, {}, "dhcp", "/netif/leases/2"),
        ({"/var/lib/dhcp/dhclient.eno1.leases": 'lease {\n  interface "eno1";\n  fixed-address 10.0.60.5;\n}\n'}, {},
         "dhcp", "dhclient.eno1.leases"),
        ({"/var/lib/NetworkManager/internal-1-eno1.lease": "ADDRESS=10.0.60.5\n"}, {}, "dhcp", "internal-1-eno1"),
        ({"/etc/netplan/50-cloud-init.yaml": STATIC_NETPLAN}, {}, "static", "set in /etc/netplan/50-cloud-init.yaml"),
        ({"/etc/netplan/50-cloud-init.yaml": CLOUD_INIT}, {}, "unknown", "asks DHCP"),
        ({"/etc/netplan/50-cloud-init.yaml": CLOUD_INIT}, {"dynamic": True}, "dhcp", "50-cloud-init.yaml asks for it"),
        ({"/run/systemd/network/10-netplan-eno1.network": NETWORKD}, {}, "unknown", "10-netplan-eno1"),
        ({"/etc/systemd/network/1.network": "[Match]\nName=eno1\n[Address]\nAddress=10.0.60.5/24\n"}, {}, "static",
         "set in /etc/systemd/network/1.network"),
        ({"/etc/systemd/network/1.network": "[Match]\nName=other\n[Network]\nDHCP=yes\n"}, {}, "static", "no lease"),
        ({"/etc/NetworkManager/system-connections/a b.nmconnection": KEYFILE}, {}, "static", "set in"),
        ({"/etc/NetworkManager/system-connections/x": "[connection]\ninterface-name=eno1\n[ipv4]\nmethod=auto\n"}, {},
         "unknown", "system-connections/x"),
        ({"/etc/network/interfaces": "auto eno1\niface eno1 inet dhcp\n"}, {}, "unknown", "/etc/network/interfaces"),
        ({"/etc/network/interfaces": "iface eno1 inet static\n    address 10.0.60.5/24\n"}, {}, "static", "set in"),
        ({"/etc/netplan/a.yaml": "network: [\n\x00\t- : :::\n"}, {}, "static", "no lease"),
    ],
)  # fmt: skip
def test_origin(at: FakeHost, files: dict[str, str], info: dict[str, Any], origin: str, why: str) -> None:
    for path, text in files.items():
        at.write(path, text)
    (found,) = gathered(at, link("eno1", four(**info)))
    assert (found.origin, found.address, found.prefix, found.mac) == (origin, "10.0.60.5", 24, MAC)
    assert why in found.why
    assert "hush" not in found.why


def test_of_six(at: FakeHost) -> None:
    six = {"family": "inet6", "prefixlen": 64}
    local, by_router, by_hand = gathered(
        at,
        link(
            "eno1",
            {**six, "local": "fe80::1", "scope": "link"},
            {**six, "local": "2001:db8::9", "scope": "global", "dynamic": True, "mngtmpaddr": True},
            {**six, "local": "fd00::5", "scope": "global"},
        ),
    )
    assert [one.origin for one in (local, by_router, by_hand)] == ["link-local", "auto", "static"]


def test_kinds(at: FakeHost) -> None:
    at.write("/sys/class/net/docker0/bridge/x", "")
    at.write("/sys/class/net/docker0/brif/veth1", "")
    at.write("/sys/class/net/br0/bridge/x", "")
    at.write("/sys/class/net/br0/brif/eno1", "")
    at.write("/sys/class/net/br0/brif/vnet0", "")
    vlan = {"linkinfo": {"info_kind": "vlan", "info_data": {"id": 60}}}
    found = gathered(
        at,
        link("lo", four("127.0.0.1"), link_type="loopback"),
        link("docker0", four("172.17.0.1")),
        link("br0", four("10.0.60.5")),
        link("tailscale0", four("100.64.0.9"), link_type="none"),
        link("eno1.60", four("10.0.60.6"), **vlan),
        link("veth1"),
    )
    assert [one.kind for one in found] == ["lo", "bridge", "nic", "vpn", "nic"]
    assert [one.vlan for one in found] == [0, 0, 0, 0, 60]


@pytest.mark.parametrize("said", ["exit 1", "echo '[{'"])
def test_no_answer_is_not_known(at: FakeHost, said: str) -> None:
    at.tool("ip", said)
    with pytest.raises(Unread):
        network.addresses({}, str(at.root))


def test_no_ip_is_not_known(at: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(at.bin))
    with pytest.raises(Unread, match="not there"):
        network.addresses({}, str(at.root))


def test_sockets(at: FakeHost) -> None:
    at.tool(
        "systemctl",
        "cat <<'END'\n[::]:22   ssh.socket  ssh.service\n/run/docker.sock docker.socket docker.service\n"
        "0.0.0.0:9090 cockpit.socket -\nvsock::22 x.socket\n\nEND",
    )
    found = decode(Evidence, {"schema": 1, "sockets": network.sockets({}, "")}, "evidence")
    assert isinstance(found, Evidence)
    assert found.sockets == (
        SocketUnit("[::]:22", "ssh.socket", "ssh.service"),
        SocketUnit("0.0.0.0:9090", "cockpit.socket", "-"),
    )


SAID = """
UNCONN 0      0      127.0.0.53%lo:53    0.0.0.0:* users:(("systemd-resolve",pid=7,fd=13))
UNCONN 0      0    10.0.60.5%eno1:68    0.0.0.0:* users:(("systemd-network",pid=6,fd=20))
UNCONN 0      0     0.0.0.0%virbr0:67    0.0.0.0:* users:(("dnsmasq",pid=5,fd=3))
UNCONN 0      0            0.0.0.0:111   0.0.0.0:* users:(("systemd",pid=1,fd=9),("rpcbind",pid=9,fd=5))
UNCONN 0      0                  *:161         *:* users:(("snmpd, old one",pid=8,fd=6))
UNCONN 0      0    [fe80::1]%eno1:546      [::]:* users:(("systemd-network",pid=6,fd=21))
UNCONN 0      0            0.0.0.0:51820 0.0.0.0:*
UNCONN 0      0            0.0.0.0:41641 0.0.0.0:* users:(("tailscaled",pid=4,fd=3))
ESTAB  0      0          10.0.60.5:123  10.0.60.1:123 users:(("x",pid=4,fd=3))
nonsense
"""


def test_datagrams(at: FakeHost) -> None:
    """But for the ports that programs get when they ask somewhere."""
    at.write("/said", SAID)
    at.tool("ss", f"cat {at.root}/said")
    at.write("/proc/8/cgroup", f"0::/system.slice/docker-{'a' * 64}.scope\n")
    at.write("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
    found = decode(Evidence, {"schema": 1, "datagrams": network.datagrams({}, str(at.root))}, "evidence")
    assert isinstance(found, Evidence)
    assert found.datagrams == (
        Datagram("127.0.0.53", 53, "lo", "systemd-resolve"),
        Datagram("0.0.0.0", 67, "virbr0", "dnsmasq"),
        Datagram("10.0.60.5", 68, "eno1", "systemd-network"),
        Datagram("0.0.0.0", 111, "", "rpcbind"),
        Datagram("::", 161, "", "snmpd, old one", "a" * 64),
        Datagram("fe80::1", 546, "eno1", "systemd-network"),
        Datagram("0.0.0.0", 51820),
    )


def test_a_program_that_has_gone_meanwhile_is_not_the_kernel(at: FakeHost) -> None:
    """Its socket was listed, and when its name was looked up there was nobody any more."""
    for name, port in (("first", 60867), ("second", 40000)):
        text = f"UNCONN 0 0 *:{port} *:*\nUNCONN 0 0 0.0.0.0:51820 0.0.0.0:*\nUNCONN 0 0 0.0.0.0:161 0.0.0.0:*\n"
        at.write(f"/{name}", text)
    at.tool("ss", f"cat {at.root}/first; cp {at.root}/second {at.root}/first")
    assert [row["port"] for row in network.datagrams({}, str(at.root))] == [161, 51820]


def test_no_ss_is_not_known(at: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(at.bin))
    with pytest.raises(Unread, match="not there"):
        network.datagrams({}, str(at.root))
    at.tool("ss", "echo 'Cannot open netlink socket' >&2; exit 1")
    with pytest.raises(Unread, match="exit 1"):
        network.datagrams({}, str(at.root))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a:\n  - 1\n  - 2\nb: x", {"a": ["1", "2"], "b": "x"}),
        ("a:\n- 1\n- 2\nb: x", {"a": ["1", "2"], "b": "x"}),
        ("a:\n  b:\n  - to: default\n    via: 10.0.0.1\n  c: {d: 'e', f: g}", {
            "a": {"b": ["to: default"], "c": {"d": "e", "f": "g"}}}),
        ("'a b': \"#c\" # d", {"a b": "#c"}),
        ("a: [1, '2' ]", {"a": ["1", "2"]}),
        ("a:\n  b: 1\n    c: 2\n d: 3\ne: 4", {"a": {"b": "1", "c": "2"}}),
        ("- 1\n- 2", {}),
        ("\t\n: :\n-\n - -", {}),
    ],
)  # fmt: skip
def test_as_much_of_yaml_as_is_needed(text: str, expected: Any) -> None:
    found = netplan.parse(text)
    assert {key: found.get(key) for key in expected} == expected


def test_yaml_that_nests_without_end() -> None:
    netplan.parse("".join(f"{' ' * at}a:\n" for at in range(400)))
    netplan.parse("a: " * 5000)
