"""Where a host is and as whom to log in: hosts.toml over what OpenSSH itself makes of ~/.ssh/config.

`ssh -G` is asked instead of parsing the file again: it knows Include, Match, tokens and everything to come.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import pwd
import re
import shlex
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pantheon.errors import LoginRefused, NotReached
from pantheon.inventory import Host

CONNECT_S = 10.0  # TCP, per address
SILENCE_S = 8.0  # without an answer after which a link counts as dead
MOST_HOPS = 8
# What `ssh -G` lists when no IdentityFile is configured: offered when they exist, never missed when they do not.
DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")
_SSH_DEFAULTS = {f"id_{kind}" for kind in ("rsa", "dsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk", "xmss")}


@dataclass(frozen=True)
class Endpoint:
    """One SSH server. `name` is what the operator calls it, `key_name` what known_hosts calls it.

    `identities` were asked for by name; with `identities_only` nothing else is offered. `user_known_hosts` and
    `global_known_hosts` are the files that OpenSSH would read, in its order. `said` is all that `ssh -G` said of it,
    for the ssh that carries a tunnel; empty where OpenSSH is not installed.
    """

    name: str
    hostname: str
    port: int
    user: str
    key_name: str
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    certificates: tuple[Path, ...] = ()
    identity_agent: str = ""  # a socket's path, "" for SSH_AUTH_SOCK, "none"
    gateway: Endpoint | None = None
    proxy_command: str = ""
    user_known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    inventory_host: str = ""  # the hosts.toml name that next commands should use (a hop's: its target's)
    said: Mapping[str, list[str]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.hostname}]:{self.port}" if ":" in self.hostname else f"{self.hostname}:{self.port}"

    @property
    def label(self) -> str:
        """`prometheus (ops@10.0.99.10:22)`: how every message names it."""
        return f"{self.name} ({self.user}@{self.address})"

    @property
    def verbosely(self) -> str:
        """The command that says where OpenSSH gets stuck on its way there."""
        return f"ssh -v -p {self.port} {self.user}@{self.hostname} true"

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names under which known_hosts may hold its key, the binding one first. OpenSSH falls back to the bare name
        for another port, but only to accept an equal key."""
        name = self.key_name.lower()
        return (name,) if self.port == 22 or self.key_name != self.hostname else (f"[{name}]:{self.port}", name)

    def chain(self) -> tuple[Endpoint, ...]:
        """Every server on the way, the first hop first, this one last."""
        return (*(self.gateway.chain() if self.gateway else ()), self)


def resolve(host: Host) -> Endpoint:
    """The endpoint of an inventory host. Reads the user's SSH configuration; contacts nothing.

    Raises NotReached when the configuration cannot be read, or when a gateway leads back to itself."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        raise NotReached(
            f"{host.name}: this machine knows no user {os.getuid()}, and ssh serves nobody else (a directory is down?)",
            next_commands=["getent passwd $(id -u)"],
        ) from None
    identity = (Path(host.identity).expanduser(),) if host.identity else ()
    found = _resolve(host.name, host.address, user=host.user, port=host.port, gateway=host.gateway)
    # hosts.toml has one `identity`: its own gateway gets it too, unless ssh_config names another for it.
    gateway = _lend(found.gateway, identity) if host.gateway else found.gateway
    if identity:
        found = replace(found, identities=identity, identities_only=True)
    return replace(found, gateway=gateway, inventory_host=host.name)


def _lend(hop: Endpoint | None, identity: tuple[Path, ...]) -> Endpoint | None:
    return hop and replace(hop, identities=hop.identities or identity, gateway=_lend(hop.gateway, identity))


def _resolve(name: str, address: str, *, user: str, port: int, gateway: str, depth: int = 0) -> Endpoint:
    if depth > MOST_HOPS:
        raise NotReached(
            f"{name}: its gateways lead in a circle",
            next_commands=["check `gateway` in hosts.toml and ProxyJump in ~/.ssh/config"],
        )
    known = _ask_ssh(name, address, user=user, port=port)
    hostname = known.get("hostname", [address])[0]
    port = port or int(known.get("port", ["22"])[0])
    user = user or known.get("user", [getpass.getuser()])[0]
    tokens = {"n": address, "h": hostname, "p": str(port), "r": user, "k": known.get("hostkeyalias", [address])[0]}
    files = _paths(known, "identityfile", tokens)
    defaults = all(path.name in _SSH_DEFAULTS and path.parent.name == ".ssh" for path in files)
    hops = _split(name, gateway or known.get("proxyjump", [""])[0])
    command = known.get("proxycommand", ["none"])[0]
    return Endpoint(
        name=name,
        hostname=hostname,
        port=port,
        user=user,
        key_name=known.get("hostkeyalias", [hostname])[0],
        identities=() if defaults and len(files) > 1 else files,
        identities_only=known.get("identitiesonly", ["no"])[0] == "yes",
        certificates=_paths(known, "certificatefile", tokens),
        identity_agent=known.get("identityagent", [""])[0],
        gateway=_way(name, hops, depth + 1),
        proxy_command="" if hops or command == "none" else _expand(command, tokens),
        said=known,
        user_known_hosts=_files(known, "userknownhostsfile", "~/.ssh/known_hosts"),
        global_known_hosts=_files(known, "globalknownhostsfile", "/etc/ssh/ssh_known_hosts"),
    )


def _paths(known: Mapping[str, list[str]], key: str, tokens: Mapping[str, str]) -> tuple[Path, ...]:
    """Files that `ssh -G` names as they were written: with ~, tokens and environment variables, which OpenSSH expands
    later on."""
    named = (text for text in known.get(key, []) if text != "none")
    return tuple(Path(_expand(text, tokens, environment=True)).expanduser() for text in named)


def _expand(text: str, tokens: Mapping[str, str], *, environment: bool = False) -> str:
    """OpenSSH's % tokens (ssh_config, TOKENS), and ${NAME}; what is unknown stays."""

    def value(found: re.Match[str]) -> str:
        letter, variable = found.groups()
        if variable:
            return os.environ.get(variable, found[0]) if environment else found[0]
        if letter in "iudlL":
            me = pwd.getpwuid(os.getuid())
            here = socket.gethostname()
            mine = {"i": str(me.pw_uid), "u": me.pw_name, "d": me.pw_dir, "l": here, "L": here.partition(".")[0]}
            return mine[letter]
        return "%" if letter == "%" else tokens.get(letter, found[0])

    return re.sub(r"%(.)|\$\{(\w+)\}", value, text)


def _split(name: str, jump: str) -> list[tuple[str, str, int]]:
    """`[user@]host[:port],...` as ProxyJump writes it -> (host, user, port) of each hop, 0 for a port not given."""
    hops = []
    for text in filter(None, (part.strip().removeprefix("ssh://") for part in jump.split(","))):
        user, _, place = text.rpartition("@")
        address, _, port = place.rpartition(":") if place.count(":") == 1 or "]:" in place else (place, "", "0")
        if not port.isdigit() or not address:
            raise NotReached(f"{name}: gateway {text!r} is not [user@]host[:port]", next_commands=["edit hosts.toml"])
        hops.append((address.strip("[]"), user, int(port)))
    return [] if jump.lower() == "none" else hops


def _way(name: str, hops: list[tuple[str, str, int]], depth: int) -> Endpoint | None:
    """The last hop, with those before it as its gateways; the first may have a ProxyJump of its own."""
    last: Endpoint | None = None
    for address, user, port in hops:
        found = _resolve(address, address, user=user, port=port, gateway="none" if last else "", depth=depth)
        last = replace(found, name=f"gateway of {name}", inventory_host=name, gateway=last or found.gateway)
    return last


def _files(known: dict[str, list[str]], key: str, default: str) -> tuple[Path, ...]:
    """Files of a list. ssh makes ~ the password database's home, Python $HOME: ssh's own default is taken as $HOME's,
    so that one notion of home holds for everything here."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    files = [Path(text).expanduser() for text in " ".join(known.get(key, [default])).split() if text != "none"]
    return tuple(Path.home() / file.relative_to(home) if file.is_relative_to(home / ".ssh") else file for file in files)


def ssh_options() -> list[str]:
    """Options that make OpenSSH read the configuration of $HOME, which it otherwise ignores for the password
    database's home: so that both halves of pantheon always read the same files."""
    home = os.environ.get("HOME", "")
    if not home or Path(home) == Path(pwd.getpwuid(os.getuid()).pw_dir):
        return []
    config = Path(home) / ".ssh/config"
    return ["-F", str(config) if config.is_file() else os.devnull]


def _ask_ssh(name: str, address: str, *, user: str, port: int) -> dict[str, list[str]]:
    """What OpenSSH would do for this address, keyword -> values; empty where OpenSSH is not installed."""
    given = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]
    try:
        done = _dump(*ssh_options(), *given, "--", address)
    except FileNotFoundError:
        return {}
    except subprocess.TimeoutExpired as error:
        raise NotReached(
            f"{name}: `ssh -G {address}` gave no answer in 10 s (a Match exec in ~/.ssh/config?)",
            next_commands=[f"ssh -G {address}"],
        ) from error
    if done.returncode != 0:
        raise NotReached(
            f"{name}: OpenSSH cannot read its configuration for {address!r}",
            details=done.stderr.strip().splitlines()[-10:],
            next_commands=[f"ssh -G {address}"],
        )
    return _keywords(done.stdout)


@functools.cache
def ssh_defaults() -> dict[str, list[str]]:
    """What this OpenSSH would do if nobody had configured anything, keyword -> values; empty when it does not say."""
    try:
        return _keywords(_dump("-F", os.devnull, "--", "localhost").stdout)
    except (OSError, subprocess.SubprocessError):
        return {}


def _dump(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-G", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=10,
        check=False,
    )


def _keywords(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def tune(sock: socket.socket) -> None:
    """No Nagle (40 ms for each command), and death in seconds when packets are no longer acknowledged."""
    wanted = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        wanted.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_S * 1000)))
    elif sys.platform == "darwin":
        wanted.append((socket.IPPROTO_TCP, 0x80, int(SILENCE_S)))  # TCP_RXT_CONNDROPTIME, which Python does not name
    for level, option, value in wanted:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


def dial(hostname: str, port: int) -> socket.socket:
    """A tuned TCP connection, to the first of the name's addresses that answers. Raises OSError (gaierror for a name
    that does not resolve, TimeoutError after CONNECT_S an address)."""
    sock = socket.create_connection((hostname, port), timeout=CONNECT_S)
    tune(sock)
    return sock


def check_identities(endpoint: Endpoint) -> None:
    """Before connecting: a key that hosts.toml names must be there. Raises LoginRefused."""
    for path in endpoint.identities if endpoint.identities_only else ():
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise LoginRefused(
                f"{endpoint.label}: the identity {path} cannot be read: {error.strerror}",
                next_commands=[shlex.join(["ls", "-l", str(path)]), "edit `identity` in hosts.toml"],
            ) from error
        if not stat.S_ISREG(mode):
            raise LoginRefused(
                f"{endpoint.label}: the identity {path} is not a file", next_commands=["edit `identity` in hosts.toml"]
            )


class Early:
    """The first steps towards a host, taken in the background while Fabric is being imported (0.1 s): what OpenSSH
    makes of its name, and the TCP connection, on which sshd meanwhile makes itself ready.

        early = Early(host)
        from pantheon.remote.connection import HostConnection
        with HostConnection.to(host, early=early) as connection:
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.found: Endpoint | None = None
        self.sock: socket.socket | None = None
        self.error: Exception | None = None
        self.known = threading.Event()
        self.thread = threading.Thread(target=self._work, name="pantheon-early", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            found = self.found = resolve(self.host)
            self.known.set()
            check_identities(found)
            if not found.gateway and not found.proxy_command:
                self.sock = dial(found.hostname, found.port)
        except Exception as error:  # raised again by whoever asks, in the thread that can handle it
            self.error = error
        finally:
            self.known.set()

    def endpoint(self) -> Endpoint:
        """The endpoint, as soon as it is known. Raises what `resolve` raises."""
        self.known.wait()
        if self.found is None:
            raise self.error or NotReached(f"{self.host.name}: its address was not found out")
        return self.found

    def take(self) -> socket.socket | None:
        """The connection, once; None when there is none to give. Raises what `dial` raises."""
        self.thread.join()
        if self.error:
            error, self.error = self.error, None
            raise error
        sock, self.sock = self.sock, None
        return sock

    def close(self) -> None:
        """Give up what was not taken."""
        self.thread.join()
        if self.sock:
            self.sock.close()
            self.sock = None
