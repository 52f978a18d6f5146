"""Access: SSH only, on the MGMT network only, by key, never as root (system page, Security Posture)."""

from __future__ import annotations

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
    on,
    outward,
    passed,
    place,
    unknown,
)
from pantheon.facts import Listener, Unknown
from pantheon.fixes import browser_access
from pantheon.incident import Case

SOURCE = "system page, Security Posture"
SPELT = {"without-password": "prohibit-password"}  # as sshd -T prints it, and as it is written
DROP_INS = "/etc/ssh/sshd_config.d/"
OURS = f"{DROP_INS}00-access.conf"  # read before the others, and the first value counts


def _server(case: Case) -> SshServer | Verdict:
    found = case.evidence.ssh_server
    if isinstance(found, SshServer):
        return found
    return unknown(missing(found, "there is no sshd of OpenSSH's on the host"), mend=on(case, "sudo", "sshd", "-t"))


def _mend(case: Case, wrong: list[SshdLine], *settings: str) -> str:
    """What to type to have sshd say so, and to be sure of it before it is reloaded. Added to what another control has
    had written there. It does nothing about a line that is read before, nor about one in a Match block: those are put
    right where they stand."""
    check = "sudo sshd -t && sudo systemctl reload ssh"
    over = next((line for line in wrong if line.match or (line.path.startswith(DROP_INS) and line.path <= OURS)), None)
    if over:
        return f"{on(case, 'sudoedit', over.path)}  (line {over.line}; then: {check})"
    text = "\\n".join(settings)
    return case.host.ssh(f'printf "{text}\\n" | sudo tee -a {OURS} && {check}')


def _matched(server: SshServer, keyword: str, good: tuple[str, ...]) -> list[SshdLine]:
    """Lines in Match blocks that say otherwise, whoever they are for."""
    lines = [line for line in server.lines if line.keyword == keyword and line.match]
    return [line for line in lines if line.value.lower() not in good]


def _line(line: SshdLine) -> str:
    block = f" (in Match {line.match})" if line.match else ""
    return f"{line.path}:{line.line}: ({line.keyword} {line.value}){block}"


def _where(server: SshServer, keyword: str, value: str) -> list[SshdLine]:
    """The first line that says it: in the global part it is the one that counts."""
    lines = [line for line in server.lines if line.keyword == keyword and not line.match]
    return [line for line in lines[:1] if line.value.lower() in (value, SPELT.get(value))]


def _told(wrong: list[str], lines: list[SshdLine]) -> str:
    return "\n".join([*wrong, *dict.fromkeys(_line(line) for line in lines)])


def root_login(case: Case) -> Verdict:
    """`prohibit-password` prints as without-password: root with a key is a root login still."""
    server = _server(case)
    if isinstance(server, Verdict):
        return server
    values = {one.get("permitrootlogin", "") for one in (server.settings, server.root)}
    by_key = ("without-password", "prohibit-password")
    wrong = [f"root logs in{' with a key' if value in by_key else ''} (PermitRootLogin {value})"
             for value in sorted(values - {"no", ""})]  # fmt: skip
    matched = _matched(server, "permitrootlogin", ("no",))
    if wrong or matched:
        where = [line for value in sorted(values - {"no"}) for line in _where(server, "permitrootlogin", value)]
        is_global = server.settings.get("permitrootlogin", "") not in ("no", "")
        mend = _mend(case, where if is_global else matched, "PermitRootLogin no")
        return Verdict("fail", _told(wrong, [*where, *matched]), mend)
    if values != {"no"}:
        return unknown(Unknown("sshd -T does not say PermitRootLogin"))
    return passed("PermitRootLogin no")


def keys(case: Case) -> Verdict:
    server = _server(case)
    if isinstance(server, Verdict):
        return server
    if by_key := _by_key_first(server):
        return passed(by_key)
    names = {
        "passwordauthentication": "PasswordAuthentication",
        "kbdinteractiveauthentication": "KbdInteractiveAuthentication",
    }
    wrong: list[str] = []
    where: list[SshdLine] = []
    in_blocks: list[SshdLine] = []
    for key, name in names.items():
        value = server.settings.get(key) or server.settings.get(
            "challengeresponseauthentication" if key[0] == "k" else "", ""
        )
        if not value:
            return unknown(Unknown(f"sshd -T does not say {name}"))
        in_blocks += _matched(server, key, ("no",))
        if value != "no":
            wrong.append(f"{name} {value}")
            where += _where(server, key, value)
    if server.settings.get("pubkeyauthentication", "yes") == "no":
        wrong.append("PubkeyAuthentication no")
    if server.settings.get("permitemptypasswords", "no") == "yes":
        wrong.append("PermitEmptyPasswords yes")
    if wrong or in_blocks:
        settings = ("PasswordAuthentication no", "KbdInteractiveAuthentication no", "PubkeyAuthentication yes")
        mend = _mend(case, where if wrong else in_blocks, *settings)
        return Verdict("fail", _told(wrong, [*where, *in_blocks]), f"{mend}  (first see that a key lets you in)")
    return passed("keys only: PasswordAuthentication no, KbdInteractiveAuthentication no")


def _by_key_first(server: SshServer) -> str:
    """AuthenticationMethods that ask for a key whatever else they ask for, for everybody; "" where they do not."""
    said = [server.settings.get("authenticationmethods", ""), server.root.get("authenticationmethods", "")]
    said += [line.value.lower() for line in server.lines if line.keyword == "authenticationmethods" and line.match]
    ways = [way.split(",") for methods in said for way in methods.split() or ["any"]]
    is_on = server.settings.get("pubkeyauthentication", "yes") != "no"
    return f"AuthenticationMethods {said[0]}" if is_on and all("publickey" in way for way in ways) else ""


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
