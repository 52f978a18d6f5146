"""The host's addresses and where each is from; sockets that systemd holds for others.

An address is DHCP's when a lease names it, or when the kernel counts its life down; what the files of netplan,
networkd, NetworkManager and ifupdown say is read beside that, for they may say something that is not so yet.
"""

from __future__ import annotations

import glob
import json
import os
import re
import time
from fnmatch import fnmatchcase

from pantheon.collecting import netplan
from pantheon.looks import work
from pantheon.looks.files import read_text, which
from pantheon.looks.system import container_of
from pantheon.looks.text import Json, Object, Unread, plain, shown

COMMAND_S = 3.0
PASSING_S = 0.5  # a program that asks somewhere has its answer by then, or asks from another port
MOST = 200
LEASES = (
    *("/run/systemd/netif/leases/*", "/run/systemd/netif/links/*", "/var/lib/dhcp/*.leases", "/var/lib/dhcp/*.lease"),
    *("/var/lib/NetworkManager/*.lease", "/run/NetworkManager/devices/*", "/var/lib/dhclient/*.lease*"),
    *("/run/net-*.conf", "/run/initramfs/net-*.conf"),
)
INI = (
    *("/run/systemd/network/*.network", "/etc/systemd/network/*.network", "/usr/lib/systemd/network/*.network"),
    *("/etc/NetworkManager/system-connections/*", "/run/NetworkManager/system-connections/*"),
)
NETPLAN = ("/lib/netplan/*.yaml", "/etc/netplan/*.yaml", "/run/netplan/*.yaml")
# A line of `ss -u -l -n -p`; the peer is given for a socket that is connected alone.
UDP = re.compile(r"(?:[A-Z]\S* +)?\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) +\S+:\*(?: +users:\((?P<users>.*)\))?\s*")
PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
VPN = re.compile(r"(tailscale|wg|tun|tap|zt|nebula|ppp|utun|vpn)\w*")


def addresses(spec: Object, root: str) -> Json:
    """evidence.Evidence.addresses"""
    del spec
    if not which("ip"):
        raise Unread("ip (iproute2): not there")
    done = work.command(["ip", "-j", "-p", "-details", "addr", "show"], COMMAND_S, limit=4 << 20)  # -p: in lines
    if done["status"]:
        raise Unread(f"ip addr: exit {done['status']}: {done['output'].strip()[:200]}")
    try:
        links = json.loads(done["output"] or "[]")
    except ValueError as error:
        raise Unread(f"ip -j addr said no JSON ({error})") from None
    said, leases = configured(root), leased(root)
    out = []
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("ifname"):
            out += [one(root, link, info, said, leases) for info in link.get("addr_info") or () if info.get("local")]
    return out[:MOST]


def one(root: str, link: Object, info: Object, said: list[Object], leases: dict[str, str]) -> Object:
    """circumstances.Address"""
    name = str(link["ifname"])
    mine = [entry for entry in said if is_for(entry, name, str(link.get("address") or ""))]
    origin, reason = origin_of(info, mine, leases)
    data = (link.get("linkinfo") or {}).get("info_data") or {}
    return {
        "interface": plain(name),
        "address": plain(str(info["local"])),
        "prefix": int(info.get("prefixlen") or 0),
        "kind": kind(root, name, link),
        "origin": origin,
        "why": reason,
        "mac": plain(str(link.get("address") or "")) if link.get("link_type") == "ether" else "",
        "vlan": data["id"] if isinstance(data.get("id"), int) else 0,
    }


def origin_of(info: Object, said: list[Object], leases: dict[str, str]) -> tuple[str, str]:
    address, prefix = str(info["local"]), info.get("prefixlen")
    six = info.get("family") == "inet6"
    named = next((entry["path"] for entry in said if entry["addresses"] & {address, f"{address}/{prefix}"}), "")
    asks = next((entry["path"] for entry in said if entry["dhcp"]), "")
    if six and info.get("scope") == "link":
        return "link-local", ""
    if address in leases:
        return "dhcp", f"a lease: {shown(leases[address])}"
    if info.get("dynamic") or info.get("temporary") or info.get("mngtmpaddr"):
        left = f"the kernel counts its life down ({info.get('valid_life_time', '?')} s left)"
        return ("auto" if six else "dhcp"), left + (f"; {shown(asks)} asks for it" if asks and not six else "")
    if named:
        return "static", f"set in {shown(named)}"
    if asks and not six:
        return "unknown", f"{shown(asks)} asks DHCP, and no lease has this address"
    return "static", "no lease has it, and it does not expire"


def kind(root: str, name: str, link: Object) -> str:
    """circumstances.Address.kind"""
    folder = f"{root}/sys/class/net/{name}"
    if name == "lo" or link.get("link_type") == "loopback":
        return "lo"
    if VPN.fullmatch(name) or link.get("link_type") == "none":
        return "vpn"
    if os.path.isdir(f"{folder}/bridge"):
        ports = os.listdir(f"{folder}/brif") if os.path.isdir(f"{folder}/brif") else []
        real = [port for port in ports if not re.match(r"(veth|vnet|tap)", port)]
        return "nic" if real else "bridge"
    return "nic"


def leased(root: str) -> dict[str, str]:
    """Addresses of leases, with the file that has each."""
    out: dict[str, str] = {}
    for pattern in LEASES:
        for path in sorted(glob.glob(root + pattern))[:MOST]:
            for line in (text_of(path) or "").splitlines():
                found = re.match(
                    r"\s*(?:ADDRESS=|fixed-address |IPV4ADDR=)['\"]?([0-9a-fA-F.:]{3,45})['\"]?;?\s*$", line
                )
                if found and found[1] != "0.0.0.0":  # noqa: S104
                    out[found[1]] = path[len(root) :]
    return out


def text_of(path: str) -> str | None:
    try:
        return read_text(path, 1 << 20)
    except (OSError, Unread):
        return None


# ---- what the files say


def configured(root: str) -> list[Object]:
    """Of each interface that a file speaks of: {path, names, macs, dhcp, addresses}."""
    out: list[Object] = []
    for pattern in INI:
        for path in sorted(glob.glob(root + pattern))[:MOST]:
            entry = ini(text_of(path) or "")
            if entry:
                out.append({**entry, "path": path[len(root) :]})
    for pattern in NETPLAN:
        for path in sorted(glob.glob(root + pattern))[:MOST]:
            out += [{**entry, "path": path[len(root) :]} for entry in netplan.interfaces(text_of(path) or "")]
    for path in [f"{root}/etc/network/interfaces", *sorted(glob.glob(f"{root}/etc/network/interfaces.d/*"))]:
        out += [{**entry, "path": path[len(root) :]} for entry in ifupdown(text_of(path) or "")]
    return out


def is_for(entry: Object, name: str, mac: str) -> bool:
    if entry["macs"]:
        return mac.lower() in entry["macs"]
    return any(fnmatchcase(name, pattern) for pattern in entry["names"])


def ini(text: str) -> Object | None:
    """A .network file of networkd, or a keyfile of NetworkManager; None where it is for no interface by name."""
    section, names, macs, found, dhcp = "", set(), set(), set(), False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]").lower()
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        key = key.lower()
        if not equals or line.startswith(("#", ";")):
            continue
        if (section, key) in (("match", "name"), ("match", "originalname"), ("connection", "interface-name")):
            names |= set(value.split())
        elif "macaddress" in key.replace("-", ""):
            macs |= set(value.lower().split())
        elif (section, key) == ("network", "dhcp"):
            dhcp = value.lower() in ("yes", "true", "1", "on", "ipv4", "both")
        elif (section, key) == ("ipv4", "method"):
            dhcp = value.lower() == "auto"
        elif (section in ("network", "address") and key == "address") or (
            section in ("ipv4", "ipv6") and re.fullmatch(r"address(es)?\d*", key)
        ):
            found |= {piece.split(",")[0].strip() for piece in value.split(";") if piece.strip()}
    if not names and not macs:
        return None
    return {"names": names, "macs": macs, "dhcp": dhcp, "addresses": found}


def ifupdown(text: str) -> list[Object]:
    out: list[Object] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[0] == "iface" and words[2] == "inet":
            out.append({"names": {words[1]}, "macs": set(), "dhcp": words[3] == "dhcp", "addresses": set()})
        elif len(words) > 1 and words[0] == "address" and out:
            out[-1]["addresses"].add(words[1])
    return out


# ---- systemd's sockets


def sockets(spec: Object, root: str) -> Json:
    """evidence.Evidence.sockets"""
    del spec, root
    if not which("systemctl"):
        raise Unread("systemctl: not there")
    done = work.command(["systemctl", "list-sockets", "--no-legend", "--plain", "--no-pager", "--full"], COMMAND_S)
    if done["status"]:
        raise Unread(f"systemctl list-sockets: exit {done['status']}: {done['output'].strip()[:200]}")
    rows = [line.split() for line in done["output"].splitlines()]
    found = [row for row in rows if len(row) >= 3 and re.search(r"(^|:)\d+$", row[0])]
    return [{"listen": plain(row[0]), "unit": plain(row[1]), "activates": plain(row[2])} for row in found][:MOST]


# ---- UDP


def datagrams(spec: Object, root: str) -> Json:
    """evidence.Evidence.datagrams. Programs that ask somewhere get a port out of the kernel's range for that, and look
    like those that wait to be asked: they are left out. (/proc/net/udp does not say which interface one is tied to.)"""
    del spec
    if not which("ss"):
        raise Unread("ss (iproute2): not there")
    words = (read_text(root + PORTS) or "32768 60999").split()
    passing = range(int(words[0]), int(words[1]) + 1)
    kept = {key: row for key, row in _datagrams(root).items() if not (row["process"] and row["port"] in passing)}
    if any(row["port"] in passing for row in kept.values()):
        # The kernel's own, or one of a program that had gone when its name was looked up.
        time.sleep(PASSING_S)
        again = _datagrams(root)
        there = {key for key, row in again.items() if not row["process"]}
        kept = {key: row for key, row in kept.items() if row["port"] not in passing or key in there}
    return [kept[key] for key in sorted(kept, key=lambda key: (key[1], key[0], key[2]))][:MOST]


def _datagrams(root: str) -> dict[tuple[str, int, str], Object]:
    done = work.command(["ss", "-H", "-u", "-l", "-n", "-p"], COMMAND_S, limit=4 << 20)
    if done["status"]:
        raise Unread(f"ss: exit {done['status']}: {done['output'].strip()[:200]}")
    rows = [datagram(root, found) for found in map(UDP.fullmatch, done["output"].splitlines()) if found]
    return {(row["address"], row["port"], row["device"]): row for row in rows}


def datagram(root: str, found: re.Match[str]) -> Object:
    """circumstances.Datagram. systemd holds the sockets of others: they go before it."""
    address, _, device = found["address"].partition("%")
    address = address.removeprefix("[").removesuffix("]")
    users = re.findall(r'\("(.*?)",pid=(\d+)', found["users"] or "")
    process, pid = min(users, key=lambda user: user[1] == "1", default=("", "0"))
    return {
        "address": "::" if address == "*" else plain(address),
        "port": int(found["port"]),
        "device": plain(device.removesuffix("]")),
        "process": plain(process),
        "container": container_of(root, int(pid)) if pid != "0" else "",
    }
