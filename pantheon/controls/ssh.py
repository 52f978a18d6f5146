"""Access: SSH only, on the MGMT network only, by key, never as root (system page, Security Posture)."""

from __future__ import annotations

import shlex

from pantheon.circumstances import Address, SshdLine, SshServer
from pantheon.control import Control, Verdict
from pantheon.controls.network import is_sshd, other_way, who
from pantheon.controls.verdicts import (
    beyond,
    everywhere,
    is_in,
    missing,
    network,
    not_applicable,
    of,
    outward,
    passed,
    place,
    unknown,
)
from pantheon.facts import Listener, Unknown
from pantheon.fixes import browser_access
from pantheon.incident import Case

SOURCE = "system page, Security Posture"
OURS = "/etc/ssh/sshd_config.d/00-access.conf"  # read before the others, and the first value counts


def _server(case: Case) -> SshServer | Verdict:
    found = case.evidence.ssh_server
    if isinstance(found, SshServer):
        return found
    return unknown(missing(found, "there is no sshd of OpenSSH's on the host"))


def _set(case: Case, *lines: str) -> str:
    """What to type to have sshd say so, and to be sure of it before it is reloaded. Added to what another control has
    had written there."""
    text = "\\n".join(lines)
    todo = f'printf "{text}\\n" | sudo tee -a {OURS} && sudo sshd -t && sudo systemctl reload ssh'
    return case.host.ssh(todo)


def _matched(server: SshServer, keyword: str, good: tuple[str, ...]) -> list[str]:
    """Lines in Match blocks that say otherwise, whoever they are for."""
    lines = [line for line in server.lines if line.keyword == keyword and line.match]
    return [_line(line) for line in lines if line.value.lower() not in good]


def _line(line: SshdLine) -> str:
    block = f" (in Match {line.match})" if line.match else ""
    return f"{line.path}:{line.line}: ({line.keyword} {line.value}){block}"


def _where(server: SshServer, keyword: str, value: str) -> list[str]:
    """The first line that says it: in the global part it is the one that counts."""
    lines = [line for line in server.lines if line.keyword == keyword and not line.match]
    return [_line(line) for line in lines[:1] if line.value.lower() == value]


def root_login(case: Case) -> Verdict:
    """`prohibit-password` prints as without-password: root with a key is a root login still."""
    server = _server(case)
    if isinstance(server, Verdict):
        return server
    values = {one.get("permitrootlogin", "") for one in (server.settings, server.root)}
    mend = _set(case, "PermitRootLogin no")
    by_key = ("without-password", "prohibit-password")
    wrong = [f"root logs in{' with a key' if value in by_key else ''} (PermitRootLogin {value})"
             for value in sorted(values - {"no", ""})]  # fmt: skip
    matched = _matched(server, "permitrootlogin", ("no",))
    if wrong or matched:
        where = [line for value in sorted(values) for line in _where(server, "permitrootlogin", value)]
        if matched and not wrong:
            mend = case.host.ssh(f"sudoedit {shlex.quote(matched[0].partition(':')[0])}")
        return Verdict("fail", "\n".join([*wrong, *dict.fromkeys([*where, *matched])]), mend)
    if values != {"no"}:
        return unknown(Unknown("sshd -T does not say PermitRootLogin"))
    return passed("PermitRootLogin no")


def keys(case: Case) -> Verdict:
    server = _server(case)
    if isinstance(server, Verdict):
        return server
    names = {
        "passwordauthentication": "PasswordAuthentication",
        "kbdinteractiveauthentication": "KbdInteractiveAuthentication",
    }
    wrong, lines = [], []
    for key, name in names.items():
        value = server.settings.get(key) or server.settings.get(
            "challengeresponseauthentication" if key[0] == "k" else "", ""
        )
        if not value:
            return unknown(Unknown(f"sshd -T does not say {name}"))
        matched = _matched(server, key, ("no",))
        if value != "no" or matched:
            wrong += [f"{name} {value}"] if value != "no" else []
            lines += [*_where(server, key, value), *matched]
    if server.settings.get("pubkeyauthentication", "yes") == "no":
        wrong.append("PubkeyAuthentication no")
    if server.settings.get("permitemptypasswords", "no") == "yes":
        wrong.append("PermitEmptyPasswords yes")
    if wrong or lines:
        mend = _set(case, "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PubkeyAuthentication yes")
        return Verdict("fail", "\n".join([*wrong, *dict.fromkeys(lines)]), mend)
    return passed("keys only: PasswordAuthentication no, KbdInteractiveAuthentication no")


def forwarding(case: Case) -> Verdict:
    """§5: remote access is by tunnels. Tried through the connection that is open, and by sshd's settings for it."""
    steps = browser_access.steps(case)
    found = [finding for finding in steps if finding.id == "browser-access.forwarding"]
    bad = [finding for finding in found if finding.level == "warn"]
    if bad:  # it works until sshd reads its files again
        [by_hand] = browser_access.forwarding_by_hand(case, bad[0])  # the fix waits until it is broken
        return Verdict("fail", f"{bad[0].text}\n{bad[0].evidence}", by_hand.mend)
    if found and found[0].level == "ok":
        return passed(found[0].text)
    return of(case, found, "browser-access.forwarding")


# ---- where it listens


def listens(case: Case) -> Verdict:
    """Addresses rather than settings: of a socket that systemd holds, sshd's own ListenAddress says nothing."""
    wanted, found, addresses = network(case.host.mgmt_network), case.facts.listeners, case.evidence.addresses
    if wanted is None:
        return not_applicable("hosts.toml names no mgmt_network")
    if not isinstance(found, tuple):
        return unknown(found)
    if not isinstance(addresses, tuple):
        return unknown(addresses)
    mine = [one for one in found if is_sshd(case, one) and beyond(one.address)]
    if not mine:
        return unknown(Unknown("no sshd is seen to listen"))
    inside = {one.interface for one in addresses if is_in(one.address, wanted)}
    outside: dict[str, str] = {}
    good: dict[str, str] = {}
    for listener in mine:
        for one in _reached(listener, addresses):
            is_mgmt = is_in(one.address, wanted) or (":" in one.address and one.interface in inside)
            (good if is_mgmt else outside)[place(one.address, listener.port)] = one.interface
    if outside:
        told = [f"{where} on {interface}" for where, interface in sorted(outside.items())]
        by = ", ".join(sorted({place(one.address, one.port) for one in mine}))
        return Verdict(
            "fail", f"sshd listens on {by}: outside MGMT on\n" + "\n".join(told), _listen_mend(case, good, mine)
        )
    return passed("\n".join(f"{where} on {interface}" for where, interface in sorted(good.items())))


def _reached(listener: Listener, addresses: tuple[Address, ...]) -> list[Address]:
    """The host's own addresses on which others reach this listener."""
    out = outward(addresses)
    if not everywhere(listener.address):
        bare = listener.address.partition("%")[0]
        return [one for one in out if one.address == bare] or [
            Address("an interface that is not known", bare, 0, "nic", "unknown")
        ]
    only_four = listener.address in ("0.0.0.0", "::ffff:0.0.0.0")  # noqa: S104
    return [one for one in out if not (only_four and ":" in one.address)]


def _listen_mend(case: Case, good: dict[str, str], mine: list[Listener]) -> str:
    address = next((where.rpartition(":")[0] for where in good if not where.startswith("[")), "")
    if not address:
        return f"give the host an address in {case.host.mgmt_network}, or correct mgmt_network in hosts.toml"
    sockets = case.evidence.sockets
    by_socket = isinstance(sockets, tuple) and any(one.unit.startswith("ssh") for one in sockets)
    after = " (then: sudo systemctl daemon-reload; sudo systemctl restart ssh.socket)" if by_socket else ""
    port = mine[0].port
    lines = f"ListenAddress {address}" + (f":{port}" if port != 22 else "")
    return f"on {case.host.name}, {lines!r} in {OURS}{after}; keep this session open until a new one works"


def only(case: Case) -> Verdict:
    found = case.facts.listeners
    if not isinstance(found, tuple):
        return unknown(found)
    ways = [(what, one) for one in found if beyond(one.address) and (what := other_way(case, one))]
    if ways:
        told = [f"{what}: {who(case, one)} on {place(one.address, one.port)}" for what, one in ways]
        mend = f"stop and remove it: {case.host.ssh('sudo ss -ltnp')} shows whose it is"
        return Verdict("fail", "\n".join(dict.fromkeys(told)), mend)
    return passed("no telnet, VNC, RDP or web console listens beyond loopback")


CONTROLS = (
    Control("ssh.root", "root cannot log in", "high", SOURCE, root_login),
    Control("ssh.keys", "Logins are by key, not by password", "medium", SOURCE, keys),
    Control("ssh.only", "SSH is the only way in", "high", "system page, Operating System and Security Posture", only),
    Control("ssh.listen", "sshd listens on MGMT addresses only", "high", "system page, Network and Security Posture",
            listens),
    Control("ssh.forwarding", "sshd carries tunnels", "high", "procedure §5, §9", forwarding),
)  # fmt: skip
