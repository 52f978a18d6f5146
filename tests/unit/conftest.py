"""Unit tests see neither the network nor the user's own files: sockets beyond loopback fail, HOME is an empty one."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Blocks that are documented to lead nowhere (RFC 5737, RFC 1112): tests of "no route" may try them, and get the answer
# at once instead of whatever this machine's network makes of it.
NOWHERE = [
    ipaddress.ip_network(block) for block in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4")
]


class NetworkUsed(AssertionError):
    """A unit test went beyond loopback. A test that needs a network is a lab test."""


def check_address(family: int, address: Any) -> None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = str(address[0])
    if host in ("localhost", ""):
        return
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise NetworkUsed(f"connect to {host}") from None
    if any(ip in block for block in NOWHERE):
        raise OSError(101, "Network is unreachable")
    if not ip.is_loopback:
        raise NetworkUsed(f"connect to {host}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(name: str, at: int) -> Callable[..., Any]:
        real = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> Any:
            check_address(self.family, args[at])
            return real(self, *args)

        return call

    monkeypatch.setattr(socket.socket, "connect", guarded("connect", 0))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded("connect_ex", 0))
    monkeypatch.setattr(socket.socket, "sendto", guarded("sendto", -1))

    real_lookup = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in (None, "", "localhost"):
            return real_lookup(host, *args, **kwargs)
        try:
            ipaddress.ip_address(str(name).partition("%")[0])
        except ValueError:
            if str(name).endswith(".invalid"):  # RFC 6761: never resolves, so the answer needs no asking
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
            raise NetworkUsed(f"look-up of {name}") from None
        return real_lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty HOME, and no variable that could lead back to the user's configuration, agent or inventory."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("PANTHEON_", "XDG_", "INVOKE_", "FABRIC_", "SSH_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    return home
