"""ssh's whole command line for a tunnel. No configuration is read again (-F /dev/null): what a user's ssh_config says
of forwards, masters, commands or where to listen can neither leave a listener nor move one. What it says of getting in
and of the wire is carried over, for each hop on the way its own.

A key that wants a touch: ssh says so on its stderr (see `environment`), and `wants_touch` knows its words."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pantheon.remote import verified
from pantheon.remote.endpoint import DEFAULT_IDENTITIES, Endpoint, ssh_defaults
from pantheon.remote.known_hosts import SIGNATURES

ALIVE_S, ALIVE_COUNT = 2, 3  # a dead link is noticed after (count + 1) times as many seconds: 8
LISTENING = "listening"
# What runs on the host as long as the tunnel is open: nothing, and it ends with its stdin. sshd sends small packets
# without waiting for the last one's acknowledgement (TCP_NODELAY) only on a connection that has a session: without one,
# what a service pushes comes up to a round trip late, and so does a new connection's first byte.
SESSION = "exec cat"
ASKPASS = Path(__file__).with_name("askpass.sh")

# Keywords that a user may have set to get in, or for the wire. Not here, on purpose: whatever forwards, listens, runs
# commands or shares connections; known_hosts and what else makes a host's key trusted (GSSAPIKeyExchange among it, and
# VerifyHostKeyDNS); what hands something of the user's over (ForwardAgent, GSSAPIDelegateCredentials, AddKeysToAgent);
# ConnectionAttempts and timeouts, since tries are made and bounded here.
_WORDS = (
    *("BindAddress", "BindInterface", "Ciphers", "Compression", "GSSAPIAuthentication", "GSSAPIClientIdentity"),
    *("GSSAPIServerIdentity", "GSSAPITrustDns", "HostbasedAcceptedAlgorithms", "HostbasedAuthentication"),
    *("HostbasedKeyTypes", "HostKeyAlgorithms", "IPQoS", "KexAlgorithms", "MACs", "PreferredAuthentications"),
    *("PubkeyAcceptedAlgorithms", "PubkeyAcceptedKeyTypes", "PubkeyAuthentication", "RekeyLimit", "RequiredRSASize"),
)
_FILES = ("PKCS11Provider", "RevokedHostKeys", "SecurityKeyProvider")
_WORD = re.compile(r"[\w@%.,:+=/*?!-]+")

# What holds without being said, so that a command to be read by people need not say it.
_DEFAULTS = {"ControlMaster": "no", "ForwardAgent": "no", "LogLevel": "INFO"}


def command(
    endpoint: Endpoint,
    known_hosts: Path,
    *,
    forwards: Sequence[str] = (),
    onward: str = "",
    says: bool = True,
    ciphers: Mapping[int, str] | None = None,
    session: bool = False,
) -> list[str]:
    """The argv. With `says`, ssh prints LISTENING on stdout once it is logged in and has bound its ports. `ciphers` are
    those of each place in the chain, where not the default ones (remote/ciphers.py). With `session` it has one on the
    host, as long as its stdin is open."""
    place = len(endpoint.chain()) - 1
    options = {
        "BatchMode": "yes",
        "CheckHostIP": "no",
        "ConnectTimeout": "10",
        **_DEFAULTS,  # a user's ControlMaster would keep the forward alive after Ctrl-C
        "ExitOnForwardFailure": "yes",
        "GlobalKnownHostsFile": os.devnull,
        "HostKeyAlias": verified.alias(place),
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "ServerAliveInterval": str(ALIVE_S),
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": _quoted(str(known_hosts)),
    }
    if not says:
        options = {name: value for name, value in options.items() if _DEFAULTS.get(name) != value}
    if says and not onward:
        options |= {"PermitLocalCommand": "yes", "LocalCommand": f"echo {LISTENING}"}
    options |= carried(endpoint, recorded=_recorded(known_hosts, verified.alias(place)))
    if session:
        options.setdefault("IPQoS", "af21 af21")  # as with -N; for a session without a terminal it would be cs1
    if ciphers and place in ciphers:
        options.setdefault("Ciphers", ciphers[place])
    if endpoint.identities_only:
        options["IdentitiesOnly"] = "yes"
    if endpoint.identity_agent:
        options["IdentityAgent"] = _quoted(endpoint.identity_agent)
    if endpoint.gateway:
        target = f"[{endpoint.hostname}]:{endpoint.port}"
        way = shlex.join(command(endpoint.gateway, known_hosts, onward=target, says=says, ciphers=ciphers))
        options["ProxyCommand"] = way.replace("%", "%%")
    elif endpoint.proxy_command:
        options["ProxyCommand"] = endpoint.proxy_command.replace("%", "%%")
    argv = ["ssh", "-F", os.devnull, "-S", "none"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    for file in _identities(endpoint):
        argv += ["-o", f"IdentityFile={_quoted(str(file))}"]
    for file in endpoint.certificates:
        argv += ["-o", f"CertificateFile={_quoted(str(file))}"]
    argv += ["-p", str(endpoint.port), "-l", endpoint.user]
    if onward:
        argv += ["-W", onward]
    else:
        argv += [*([] if session else ["-N"]), "-T", *(word for forward in forwards for word in ("-L", forward))]
    return [*argv, "--", _place(endpoint), *([SESSION] if session else [])]


def plain(
    endpoint: Endpoint, known_hosts: Path, *, forwards: Sequence[str], ciphers: Mapping[int, str] | None = None
) -> str:
    """The ssh command that does the same, to be pasted into a shell: without what only pantheon needs."""
    return shlex.join(command(endpoint, known_hosts, forwards=forwards, says=False, ciphers=ciphers))


def forwards(addresses: Sequence[str], port: int, remote_port: int) -> list[str]:
    """`-L` values: that port of each loopback address here, to the service's on the host's loopback."""
    here = (f"[{address}]" if ":" in address else address for address in addresses)
    return [f"{address}:{port}:127.0.0.1:{remote_port}" for address in here]


def environment() -> dict[str, str]:
    """What ssh runs with. It asks nothing, but it tells of a security key that waits for a touch through SSH_ASKPASS
    only: a program of ours takes that to ssh's stderr, and gives no answer to anything."""
    return os.environ | {
        "LC_ALL": "C",  # its words are judged
        "SHELL": "/bin/sh",  # which runs the LocalCommand, and the way through a gateway
        "SSH_ASKPASS": str(ASKPASS),
        "SSH_ASKPASS_REQUIRE": "force",
    }


def wants_touch(words: Sequence[str]) -> bool:
    """Whether the last that ssh said is that a security key is to be touched."""
    return bool(words) and words[-1].startswith("Confirm user presence")


def carried(endpoint: Endpoint, *, recorded: Sequence[str] = ()) -> dict[str, str]:
    """The options that the user's ssh_config sets for this server and a tunnel keeps: those that differ from what this
    ssh does by itself, so that each is one that it knows. `recorded` are the types of the host's keys on record."""
    defaults = ssh_defaults()
    said = {key: values[0] for key, values in endpoint.said.items() if defaults and values != defaults.get(key)}
    options: dict[str, str] = {}
    for name in (*_WORDS, *(("ProxyUseFdpass",) if endpoint.proxy_command else ())):
        value = said.get(name.lower(), "")
        if value and all(map(_WORD.fullmatch, value.split())):
            options[name] = value
    for name in _FILES:
        if value := said.get(name.lower(), ""):
            options[name] = _quoted(value, tokens=True)
    # Every other command of ours logs in with a key and wants a host key that is on record. A configuration without
    # those (it may be for another purpose) must not make tunnels alone fail.
    if options.get("PubkeyAuthentication") in ("no", "false"):
        del options["PubkeyAuthentication"]
    if "publickey" not in options.get("PreferredAuthentications", "publickey").split(","):
        options["PreferredAuthentications"] += ",publickey"
    if "HostKeyAlgorithms" in options:
        known = set(",".join([*defaults["hostkeyalgorithms"], options["HostKeyAlgorithms"]]).split(","))
        first = [name for kind in recorded for name in SIGNATURES.get(kind, (kind,)) if name in known]
        options["HostKeyAlgorithms"] = ",".join(dict.fromkeys([*first, *options["HostKeyAlgorithms"].split(",")]))
    return options


def _recorded(known_hosts: Path, alias: str) -> list[str]:
    """The types of the keys that the verified file has for that server."""
    try:
        lines = [line.split() for line in known_hosts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return []
    return list(dict.fromkeys(words[1] for words in lines if len(words) > 2 and words[0] == alias))


def _identities(endpoint: Endpoint) -> Iterator[Path | str]:
    """What was named, or ssh's own defaults where there are such: named too, for the home that all else here reads."""
    if endpoint.identities:
        yield from endpoint.identities
    elif endpoint.said.get("identityfile") == ["none"]:
        yield "none"
    else:
        usual = [Path(text).name for text in ssh_defaults().get("identityfile", [])]
        for file in (Path.home() / ".ssh" / name for name in usual or DEFAULT_IDENTITIES):
            if file.exists() or file.with_name(f"{file.name}.pub").exists():
                yield file


def _place(endpoint: Endpoint) -> str:
    """The name to connect to. AddressFamily is carried over as an address of that family, for as an option it would
    decide, too, on which loopback address this machine listens."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(endpoint.said.get("addressfamily", [""])[0])
    if family and not endpoint.gateway and not endpoint.proxy_command:
        try:
            return str(socket.getaddrinfo(endpoint.hostname, None, family, socket.SOCK_STREAM)[0][4][0])
        except OSError:
            pass  # ssh says it better
    return endpoint.hostname


def _quoted(text: str, *, tokens: bool = False) -> str:
    """A value of ssh_config, spaces and all; a percent sign is one unless the value may have tokens."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text if tokens else text.replace("%", "%%")}"'
