"""`invoke tunnel SERVICE`: OpenSSH carries the bytes (three times as fast as anything in Python, and it survives a
browser's fifty connections), pantheon picks the port, supervises it and leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pantheon.errors import HostError, LinkLost, NotReached, UsageError
from pantheon.inventory import Host
from pantheon.remote import trust
from pantheon.remote.endpoint import DEFAULT_IDENTITIES, Endpoint, resolve

READY_S = 20.0  # from start to the first HTTP answer
PORTS_TRIED = 50


@dataclass
class Tunnel:
    """An open way in. `port` is the local one; `moved` says that the service's own was taken."""

    endpoint: Endpoint
    service: str
    port: int
    moved: bool
    process: subprocess.Popen[bytes]
    words: IO[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def wait(self) -> None:
        """Blocks until the tunnel ends by itself, which is always an error: raises LinkLost with ssh's last words.
        Ctrl-C passes as KeyboardInterrupt; the context then closes everything."""
        self.process.wait()
        raise LinkLost(
            f"{self.endpoint.label}: the tunnel to {self.service} was lost",
            details=self.said(),
            next_commands=[f"invoke tunnel {self.service} --host {self.endpoint.inventory_host}"],
        )

    def said(self) -> list[str]:
        """ssh's last ten lines."""
        # pread: reading the file would move the place where ssh writes next.
        words = os.pread(self.words.fileno(), 1 << 16, 0).decode("utf-8", "replace")
        return [line.rstrip() for line in words.splitlines() if line.strip()][-10:]


@contextlib.contextmanager
def open_tunnel(host: Host, service: str, *, port: int = 0) -> Iterator[Tunnel]:
    """A tunnel to one service of the host, proven by an HTTP answer through it. `port` 0: the service's own on this
    side too, or the next free one; a given port is taken or refused.

    Raises NotTrusted, NotReached (also when the service does not answer), LoginRefused through ssh's own words, and
    UsageError for a port that is taken."""
    endpoint = resolve(host)
    remote = host.service(service).port
    local = free_port(port or remote, only=bool(port))
    command = _command(endpoint, str(trust.verified_file(host)), forward=f"127.0.0.1:{local}:127.0.0.1:{remote}")
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        except FileNotFoundError as error:
            raise NotReached(
                "OpenSSH's ssh is not installed here; tunnels need it", next_commands=["apt-get install openssh-client"]
            ) from error
        tunnel = Tunnel(endpoint, service, local, local != remote and not port, process, words)
        try:
            _prove(tunnel, host)
            yield tunnel
        finally:
            _end(process)


def _prove(tunnel: Tunnel, host: Host) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        if tunnel.process.poll() is not None:
            raise _refused(tunnel)
        try:
            web = http.client.HTTPConnection("127.0.0.1", tunnel.port, timeout=READY_S / 2)
            web.request("GET", "/", headers={"Connection": "close"})
            web.getresponse()
            return
        except ConnectionRefusedError:
            pass  # ssh has not logged in yet
        except (OSError, http.client.HTTPException) as error:
            if any("open failed" in line for line in tunnel.said()) or time.monotonic() > deadline:
                raise _silent(tunnel, host) from error
        finally:
            web.close()
        if time.monotonic() > deadline:
            raise _silent(tunnel, host)
        time.sleep(0.05)


def _silent(tunnel: Tunnel, host: Host) -> HostError:
    service = tunnel.service
    prohibited = any("prohibited" in line for line in tunnel.said())
    if prohibited:
        return NotReached(
            f"{tunnel.endpoint.label}: the SSH server does not allow forwarding",
            details=tunnel.said(),
            next_commands=[f"invoke fix.browser-access --host {host.name}"],
        )
    return NotReached(
        f"{tunnel.endpoint.label}: {service} does not answer on port {host.service(service).port} there",
        details=tunnel.said(),
        next_commands=[f"invoke {service} --host {host.name}", f"invoke validate --host {host.name}"],
    )


def _refused(tunnel: Tunnel) -> HostError:
    """Why ssh ended at once. Our own connection meets what ssh met, and says it as every other command does: ssh would
    have the operator mend a file of ours, under a name of ours."""
    from pantheon.remote.connection import HostConnection

    try:
        with HostConnection(tunnel.endpoint) as connection:
            connection.open()
    except HostError as error:
        return error
    return NotReached(
        f"{tunnel.endpoint.label}: ssh could not open the tunnel to {tunnel.service}",
        details=tunnel.said(),
        next_commands=[f"invoke validate --host {tunnel.endpoint.inventory_host}"],
    )


def free_port(wanted: int, *, only: bool = False) -> int:
    """`wanted` or, unless `only` that will do, the next port that is free on this machine's loopback. Raises UsageError
    when there is none."""
    for port in range(wanted, min(wanted + (1 if only else PORTS_TRIED), 65536)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    what = f"port {wanted} is" if only else f"ports {wanted} to {wanted + PORTS_TRIED - 1} are"
    raise UsageError(f"{what} taken on this machine", next_commands=["ss -ltnp", "give another one with --port"])


def _command(endpoint: Endpoint, known_hosts: str, *, forward: str = "", onward: str = "") -> list[str]:
    """ssh's whole command line. Nothing of ssh_config is read again: the endpoint is what it came to."""
    place = len(endpoint.chain()) - 1
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "10",
        "ControlMaster": "no",  # a user's master would keep the forward alive after Ctrl-C
        "ExitOnForwardFailure": "yes",
        "ForwardAgent": "no",
        "GlobalKnownHostsFile": os.devnull,
        "HostKeyAlias": trust.alias(place),
        "LogLevel": "INFO",
        "PermitLocalCommand": "no",
        "ServerAliveCountMax": "3",
        "ServerAliveInterval": "3",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": _config_quote(known_hosts),
    }
    if endpoint.identities_only:
        options["IdentitiesOnly"] = "yes"
    if endpoint.identity_agent:
        options["IdentityAgent"] = _config_quote(endpoint.identity_agent)
    if endpoint.gateway:
        target = f"[{endpoint.hostname}]:{endpoint.port}"
        way = shlex.join(_command(endpoint.gateway, known_hosts, onward=target))
        options["ProxyCommand"] = way.replace("%", "%%")
    elif endpoint.proxy_command:
        options["ProxyCommand"] = endpoint.proxy_command
    command = ["ssh", "-F", os.devnull, "-S", "none"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    for identity in endpoint.identities or [Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES]:
        if endpoint.identities or identity.exists():
            command += ["-i", str(identity)]
    command += ["-p", str(endpoint.port), "-l", endpoint.user]
    command += ["-W", onward] if onward else ["-N", "-T", "-L", forward]
    return [*command, "--", endpoint.hostname]


def _config_quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child, before ssh: kill -9 of pantheon must not leave a tunnel. 1 is PR_SET_PDEATHSIG."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
