"""A server on loopback, a host of hosts.toml that leads to it, and a key that it accepts."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pantheon.inventory import Host
from pantheon.remote import shipped
from pantheon.remote.connection import HostConnection
from tests.unit.remote.server import HOST_KEY, LOGIN_KEY, LOGIN_TEXT, SshServer, key_of, write_sudo

SHELL = ("sh", "env", "cat", "echo", "sleep", "python3", "kill", "head", "yes")

# A sudo that wants no password: swallows its options and runs the rest.
SUDO = """#!/bin/sh
while [ "$1" != -- ]; do shift; done; shift; exec "$@"
"""


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Every connection's thread is gone when the test is over, the server's own do not count."""
    yield
    until = time.monotonic() + 2
    while left := [t for t in threading.enumerate() if type(t).__module__ == "pantheon.remote.transport"]:
        assert time.monotonic() < until, left
        time.sleep(0.01)


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in SHELL:
        (folder / name).symlink_to(shutil.which(name, path="/usr/bin:/bin") or f"/bin/{name}")
    write_sudo(folder, SUDO)
    return folder


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's known_hosts, empty."""
    file = tmp_path / "known_hosts"
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", str(file))
    return file


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    file = tmp_path / "id"
    file.write_text(LOGIN_TEXT)
    file.chmod(0o600)
    return file


@pytest.fixture
def server(bin: Path, known: Path) -> Iterator[SshServer]:
    """A server whose key is known."""
    made = SshServer(HOST_KEY, accepts=[LOGIN_KEY], bin=bin)
    known.write_text(f"[127.0.0.1]:{made.port} {key_of(HOST_KEY)}\n")
    yield made
    made.close()


@pytest.fixture
def host(server: SshServer, identity: Path) -> Host:
    return Host("box", "127.0.0.1", user="ops", port=server.port, identity=str(identity))


@pytest.fixture
def connection(host: Host) -> Iterator[HostConnection]:
    made = HostConnection.to(host)
    yield made
    made.close()


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes a text a module that can be run on the host, and returns its name."""
    real = shipped.source

    def make(text: str) -> str:
        monkeypatch.setattr(shipped, "source", lambda name: text.encode() if name == "shipped" else real(name))
        shipped.digest.cache_clear()
        return "shipped"

    yield make
    shipped.digest.cache_clear()
