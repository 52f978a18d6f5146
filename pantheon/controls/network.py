"""The network as the host has it: where its addresses are from, and who listens (system page, Network)."""

from __future__ import annotations

from collections.abc import Iterator

from pantheon.circumstances import Address, Datagram, SocketUnit, SshServer
from pantheon.control import Control, Verdict
from pantheon.controls import docker
from pantheon.controls.verdicts import (
    beyond,
    containers,
    everywhere,
    is_in,
    network,
    not_applicable,
    on,
    outward,
    passed,
    place,
    unknown,
)
from pantheon.facts import Listener, Unknown
from pantheon.fixes import exposed_ports
from pantheon.incident import Case
from pantheon.inventory import SERVICES

SOURCE = "system page, Network"
SSHD = ("sshd", "dropbear")
# Ways in other than SSH, which ssh.only judges: by port, and by the name of the program or of its unit.
OTHER_WAYS = {23: "telnet", 512: "rexec", 513: "rlogin", 3389: "RDP", **dict.fromkeys(range(5900, 5910), "VNC")}
PROGRAMS = {"cockpit": "Cockpit", "vnc": "VNC", "xrdp": "RDP", "telnetd": "telnet", "xorg": "X11",
            "gnome-remote": "remote desktop",
            "webmin": "Webmin", "miniserv": "Webmin", "shellinabox": "a web terminal", "ttyd": "a web terminal",
            "teamviewer": "TeamViewer", "anydesk": "AnyDesk", "rustdesk": "RustDesk", "xpra": "Xpra",
            "novnc": "VNC", "websockify": "VNC", "guacd": "Guacamole", "nxd": "NoMachine"}  # fmt: skip

# Ports on which a host gets the answers to what it has asked: DHCP of both kinds.
ASKED = (68, 546)
RPCBIND = "rpcbind"  # comes with nfs-common; NFS of version 4 does without it


def unit_of(case: Case, listener: Listener) -> str:
    """The service that systemd holds this socket for, "" for none or where that is not known."""
    sockets = case.evidence.sockets
    for one in sockets if isinstance(sockets, tuple) else ():
        if _listens(one, listener):
            return one.activates if one.activates != "-" else one.unit
    return ""


def _listens(unit: SocketUnit, listener: Listener) -> bool:
    address, _, port = unit.listen.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    same = address == listener.address or (everywhere(address) and everywhere(listener.address))
    return port == str(listener.port) and same


def is_sshd(case: Case, listener: Listener) -> bool:
    """sshd on a port of its own. What it forwards for somebody (ssh -R) is a listener as any other."""
    if listener.container:
        return False
    if listener.process.partition("-")[0] in SSHD:
        ports = _ssh_ports(case)
        return not ports or listener.port in ports
    return listener.process in ("", "systemd") and unit_of(case, listener).startswith(("ssh", "dropbear"))


def _ssh_ports(case: Case) -> set[int]:
    """Those that sshd is told of, by its files or by its socket; empty where that is not known."""
    server, sockets = case.evidence.ssh_server, case.evidence.sockets
    if not isinstance(server, SshServer):
        return set()
    told = [server.settings.get("port", ""), *server.settings.get("listenaddress", "").split()]
    told += [one.listen for one in sockets if one.activates.startswith("ssh")] if isinstance(sockets, tuple) else []
    numbers = [text.rpartition(":")[2] for text in told]
    return {int(number) for number in numbers if number.isascii() and number.isdecimal()}


def other_way(case: Case, listener: Listener) -> str:
    """What way into the host that is, "" for none: by the name of its program or unit, or by its port."""
    names = f"{listener.process} {unit_of(case, listener)} {listener.container}".lower()
    found = next((what for name, what in PROGRAMS.items() if name in names), "")
    return found or ("" if is_sshd(case, listener) else OTHER_WAYS.get(listener.port, ""))


def who(case: Case, listener: Listener) -> str:
    if listener.container:
        return f"container {listener.container}"
    unit = unit_of(case, listener)
    nobody = "a process" if listener.pid else "the kernel itself"  # NFS's locks and callbacks are such
    return f"{listener.process or nobody}" + (f" for {unit}" if unit and listener.process == "systemd" else "")


def listeners(case: Case) -> Verdict:
    """The services' own ports, other ways in and what docker.api finds are judged by controls of their own."""
    found, everything = case.facts.listeners, containers(case)
    if not isinstance(found, tuple):
        return unknown(found)
    mine = {*SERVICES, *(c.name for c in everything or () if c.labels.get("pantheon.project") == case.host.project)}
    ports = {case.host.service(name).port for name in SERVICES}
    if docker.api(case).status == "fail":
        ports |= {int(port) for port in exposed_ports.API_PORTS}
    bridges = {one.address for one in _addresses(case) if one.kind == "bridge"}
    seen: dict[str, str] = {}
    for one in found:
        judged = one.port in ports or one.container in mine or is_sshd(case, one) or other_way(case, one)
        if (
            beyond(one.address)
            and not judged
            and one.address not in bridges
            and not _allowed(case, one.address, one.port)
        ):
            seen[place(one.address, one.port)] = who(case, one)
    for address, port, name in _published(case):
        if port not in ports and name not in mine and not _allowed(case, address, port):
            seen.setdefault(place(address, port), f"container {name}")
    if seen:
        return _unexpected(case, seen, "sudo ss -ltnp")
    if everything is None and not isinstance(case.facts.containers, tuple | type(None)):
        return unknown(case.facts.containers)
    allowed = f"; allowed: {', '.join(case.host.listeners)}" if case.host.listeners else ""
    return passed(f"no TCP port but sshd's is open beyond loopback{allowed}")


def datagrams(case: Case) -> Verdict:
    """UDP. What Docker publishes of it is judged with what it publishes of TCP."""
    found = case.evidence.datagrams
    if not isinstance(found, tuple):
        return unknown(found)
    kinds = {one.interface: one.kind for one in _addresses(case)}
    bridges = {one.address for one in _addresses(case) if one.kind == "bridge"}
    seen: dict[str, str] = {}
    for one in found:
        inside = kinds.get(one.device, "") in ("lo", "bridge") or one.device == "lo" or one.address in bridges
        judged = one.port in ASKED or one.process == "docker-proxy" or _allowed(case, one.address, one.port)
        if beyond(one.address) and not inside and not judged:
            seen[f"{place(one.address, one.port)}/udp"] = _whose(case, one)
    if seen:
        return _unexpected(case, seen, "sudo ss -lunp")
    return passed("no UDP port is open beyond loopback, but those on which programs wait for answers")


def _whose(case: Case, one: Datagram) -> str:
    name = next((c.name for c in containers(case) or () if one.container and c.id == one.container), "")
    return f"container {name}" if name else one.process or "the kernel itself"


def _unexpected(case: Case, seen: dict[str, str], look: str) -> Verdict:
    """`seen`: who listens, by address and port."""
    told = "\n".join(f"{where}: {name}" for where, name in sorted(seen.items()))
    old_nfs = any(mount.type != "nfs4" or "vers=3" in mount.options for mount in case.host.atlas)
    if not old_nfs and all(RPCBIND in name for name in seen.values()):
        units = (f"{RPCBIND}.socket", f"{RPCBIND}.service")
        stop = on(case, "sudo", "systemctl", "mask", "--now", *units)
        return Verdict("fail", told, f"{stop}  (NFS 4 works without it)")
    ports = dict.fromkeys(where.removesuffix("/udp").rpartition(":")[2] for where in sorted(seen))
    allowed = ", ".join([*(f'"{item}"' for item in case.host.listeners), *(f'"{port}"' for port in ports)])
    mend = f"stop what should not listen ({on(case, *look.split())}), or allow it in hosts.toml, "
    return Verdict("fail", told, f"{mend}[hosts.{case.host.name}]: listeners = [{allowed}]")


def _published(case: Case) -> Iterator[tuple[str, int, str]]:
    """Docker may publish without a process that listens (userland-proxy false)."""
    for container in containers(case) or ():
        if container.state in ("running", "restarting", "paused"):
            for port in container.ports:
                if beyond(port.address):
                    yield port.address, port.port, container.name


def _allowed(case: Case, address: str, port: int) -> bool:
    for item in case.host.listeners:
        where, _, number = item.rpartition(":")
        if number == str(port) and where.removeprefix("[").removesuffix("]") in ("", address):
            return True
    return False


def _addresses(case: Case) -> tuple[Address, ...]:
    found = case.evidence.addresses
    return found if isinstance(found, tuple) else ()


def _at(one: Address) -> str:
    vlan = f", VLAN {one.vlan}" if one.vlan else ""
    return f"{one.address}/{one.prefix} on {one.interface}{vlan}"


# ---- the two networks


def _in(case: Case, name: str) -> tuple[list[Address], Verdict | None]:
    """The host's addresses in a network of hosts.toml, or the verdict where that cannot be said."""
    wanted, found = network(getattr(case.host, name)), case.evidence.addresses
    if wanted is None:
        return [], not_applicable(f"hosts.toml names no {name}")
    if not isinstance(found, tuple):
        return [], unknown(found)
    return [one for one in outward(found) if is_in(one.address, wanted)], None


def cards(case: Case) -> Verdict:
    names = [name for name in ("servers_network", "mgmt_network") if getattr(case.host, name)]
    if not names:
        return not_applicable("hosts.toml names neither servers_network nor mgmt_network")
    told, missing, interfaces = [], [], {}
    unnamed = [name for name in ("servers_network", "mgmt_network") if name not in names]
    for name in names:
        mine, verdict = _in(case, name)
        if verdict:
            return verdict
        if not mine:
            missing.append(f"no address in {getattr(case.host, name)} ({name})")
        told += [f"{name.partition('_')[0].upper()}: {_at(one)}" for one in mine]
        interfaces[name] = {one.interface for one in mine}
    told += [f"{name.partition('_')[0].upper()} was not looked for: hosts.toml names no {name}" for name in unnamed]
    mend = (
        f"see to the host's network ({case.host.ssh('ip -br addr')}), or correct mgmt_network and servers_network in "
        f"hosts.toml, [hosts.{case.host.name}]"
    )
    if missing:
        return Verdict("fail", "\n".join([*missing, *told]), mend)
    shared = set.intersection(*interfaces.values()) if len(interfaces) == 2 else set()
    if shared:
        text = f"SERVERS and MGMT are both on {', '.join(sorted(shared))}"
        return Verdict("fail", "\n".join([text, *told]), mend)
    return passed("\n".join(told))


def mgmt_address(case: Case) -> Verdict:
    mine, verdict = _in(case, "mgmt_network")
    if verdict:
        return verdict
    if not mine:
        return not_applicable(f"no address in {case.host.mgmt_network}: net.cards says so")
    return _origin(
        mine,
        mend=f"make it static in /etc/netplan ({on(case, 'sudo', 'netplan', 'get')}); where Cerberus has a "
        f"reservation for it, say so in hosts.toml, [[hosts.{case.host.name}.waivers]]",
    )


def dhcp(case: Case) -> Verdict:
    """What binds to an address that DHCP gives is gone when it gives another."""
    mine, verdict = _in(case, "servers_network")
    if verdict:
        return verdict
    if not isinstance(case.facts.listeners, tuple):
        return unknown(case.facts.listeners)
    bound: dict[str, list[str]] = {}
    for one in case.facts.listeners:
        bound.setdefault(one.address, []).append(f"{who(case, one)}, port {one.port}")
    for address, port, name in _published(case):
        bound.setdefault(address, []).append(f"container {name}, port {port}")
    users = {one.address: list(dict.fromkeys(bound[one.address])) for one in mine if one.address in bound}
    if not users:
        told = "; ".join(_at(one) for one in mine) or f"no address in {case.host.servers_network}"
        return not_applicable(f"no service binds to an address of SERVERS ({told})")
    used = [one for one in mine if one.address in users]
    text = "; ".join(f"{address}: {', '.join(names)}" for address, names in users.items())
    found = _origin(
        used,
        mend=f"make it static in /etc/netplan ({on(case, 'sudo', 'netplan', 'get')}), or bind to 127.0.0.1 (procedure "
        f"§5); where Cerberus has a reservation for it, say so in hosts.toml, [[hosts.{case.host.name}.waivers]]",
    )
    return Verdict(found.status, f"{found.evidence}\nbound to it: {text}", found.mend)


def _origin(mine: list[Address], *, mend: str) -> Verdict:
    moving = [one for one in mine if one.origin in ("dhcp", "auto")]
    told = "\n".join(f"{_at(one)}: {one.origin}, {steady(one.why)}" for one in moving or mine)
    if moving:
        return Verdict("fail", told, mend)
    odd = [one for one in mine if one.origin == "unknown"]
    if odd:
        return unknown(Unknown("; ".join(f"{_at(one)}: {one.why}" for one in odd)), mend=mend)
    return passed(told)


def steady(why: str) -> str:
    """Without the seconds left: two audits are compared by their evidence."""
    head, found, tail = why.partition(" (")
    return f"{head}{tail.partition(')')[2]}" if found and tail.partition(")")[0].endswith("s left") else why


CONTROLS = (
    Control("net.cards", "One interface is in SERVERS, another in MGMT", "medium", "system page, Hardware and Network",
            cards),
    Control("net.mgmt-address", "The MGMT address is static or reserved", "low", SOURCE, mgmt_address),
    Control("net.dhcp", "No service depends on an address that DHCP gives", "medium",
            "system page, Network and Known Limitations", dhcp),
    Control("net.listeners", "Nothing listens beyond loopback but sshd and what hosts.toml allows", "high",
            "procedure §1, §5; system page, Security Posture", listeners),
    Control("net.datagrams", "Nothing waits for UDP beyond loopback but what hosts.toml allows", "medium",
            "procedure §1; system page, Security Posture", datagrams),
)  # fmt: skip
