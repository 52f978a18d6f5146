"""ssh's whole command line for a tunnel. Nothing of ssh_config is read again: the endpoint is what it came to."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pantheon.remote import verified
from pantheon.remote.endpoint import DEFAULT_IDENTITIES, Endpoint

ALIVE_S, ALIVE_COUNT = 2, 3  # a dead link is noticed after (count + 1) times as many seconds: 8
LISTENING = "listening"


def command(
    endpoint: Endpoint, known_hosts: Path, *, forwards: Sequence[str] = (), onward: str = "", says: bool = True
) -> list[str]:
    """The argv. With `says`, ssh prints LISTENING on stdout once it is logged in and has bound its ports."""
    place = len(endpoint.chain()) - 1
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "10",
        "ControlMaster": "no",  # a user's master would keep the forward alive after Ctrl-C
        "ExitOnForwardFailure": "yes",
        "ForwardAgent": "no",
        "GlobalKnownHostsFile": os.devnull,
        "HostKeyAlias": verified.alias(place),
        "LogLevel": "INFO",
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "ServerAliveInterval": str(ALIVE_S),
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": _config_quote(str(known_hosts)),
    }
    if says and not onward:
        options |= {"PermitLocalCommand": "yes", "LocalCommand": f"echo {LISTENING}"}
    if endpoint.identities_only:
        options["IdentitiesOnly"] = "yes"
    if endpoint.identity_agent:
        options["IdentityAgent"] = _config_quote(endpoint.identity_agent)
    if endpoint.gateway:
        target = f"[{endpoint.hostname}]:{endpoint.port}"
        way = shlex.join(command(endpoint.gateway, known_hosts, onward=target))
        options["ProxyCommand"] = way.replace("%", "%%")
    elif endpoint.proxy_command:
        options["ProxyCommand"] = endpoint.proxy_command
    argv = ["ssh", "-F", os.devnull, "-S", "none"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    for identity in endpoint.identities or [Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES]:
        if endpoint.identities or identity.exists():
            argv += ["-i", str(identity)]
    argv += ["-p", str(endpoint.port), "-l", endpoint.user]
    if onward:
        argv += ["-W", onward]
    else:
        argv += ["-N", "-T", *(word for forward in forwards for word in ("-L", forward))]
    return [*argv, "--", endpoint.hostname]


def forwards(addresses: Sequence[str], port: int, remote_port: int) -> list[str]:
    """`-L` values: that port of each loopback address here, to the service's on the host's loopback."""
    here = (f"[{address}]" if ":" in address else address for address in addresses)
    return [f"{address}:{port}:127.0.0.1:{remote_port}" for address in here]


def _config_quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
