"""Which local ports are free, and who is said to hold the others."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pantheon.errors import UsageError
from pantheon.looks import system
from pantheon.remote import ledger, ports
from pantheon.tunnel import Seen

HAS_V6 = len(ports.loopback()) == 2
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def listen(port: int = 0, address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


@pytest.fixture
def held() -> Iterator[int]:
    """A port that this process listens on."""
    with listen() as made:
        yield made.getsockname()[1]


def test_the_next_free_port_on_either_loopback_address() -> None:
    port = ports.free_port(21000 + os.getpid() % 997)
    assert ports.free_port(port) == port
    assert ports.why_not(port) == ""
    for address in ("127.0.0.1", *(["::1"] if HAS_V6 else [])):
        with listen(port, address):
            assert ports.free_port(port) > port
            assert ports.why_not(port).startswith(f"port {port} here is held by ")
            with pytest.raises(UsageError, match=f"port {port} is taken on this machine by"):
                ports.free_port(port, only=True)
    with listen(port, "0.0.0.0"):
        assert ports.free_port(port) > port
    assert ports.free_port(port, only=True) == port


def test_connections_that_are_being_seen_off_do_not_hold_a_port() -> None:
    """As with ssh: a tunnel that is opened anew gets its port, TIME_WAIT or not."""
    with listen() as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert ports.free_port(port, only=True) == port


def test_both_loopback_addresses_where_there_are_two() -> None:
    try:
        listen(0, "::1").close()
    except OSError:
        assert ports.loopback() == ("127.0.0.1",)
    else:
        assert ports.loopback() == ("127.0.0.1", "::1")


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    real = socket.socket

    def without(family: int = socket.AF_INET, *args: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args)

    monkeypatch.setattr(socket, "socket", without)
    assert ports.loopback() == ("127.0.0.1",)
    assert ports.free_port(held) > held


def test_a_privileged_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_taken", lambda port: errno.EACCES if port < 1024 else 0)
    assert ports.free_port(80) == 8080
    assert ports.why_not(80) == "port 80 here needs root"
    with pytest.raises(UsageError, match="port 80 needs root on this machine") as caught:
        ports.free_port(80, only=True)
    assert caught.value.next_commands == ("--port 8081 is free",)


def test_no_port_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_taken", lambda _: errno.EADDRINUSE)
    with pytest.raises(UsageError, match="ports 65530 to 65535 are taken"):
        ports.free_port(65530)
    with pytest.raises(UsageError, match="port 65535 is taken") as caught:
        ports.free_port(65535, only=True)
    assert caught.value.next_commands[-1] == "give another one with --port"


# ---- who holds it


@linux
def test_a_program_of_ones_own(held: int) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert ports.holder_of(held) == f"{name} (pid {os.getpid()})"
    with pytest.raises(UsageError) as caught:
        ports.free_port(held, only=True)
    assert str(caught.value).startswith(f"port {held} is taken on this machine by {name} (pid {os.getpid()})")
    see, other = caught.value.next_commands
    assert see == f"ss -ltnp 'sport = :{held}'"
    assert other.startswith("--port ")


@linux
def test_another_users_program(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc tells whose a socket is, and not which program's."""
    monkeypatch.setattr(system, "socket_owners", lambda *_: {})
    assert ports.find_holder(held).text == "another program"
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    found = ports.find_holder(held)
    assert found.text.startswith("a program of user ")
    assert found.text.endswith(", which does not show itself")
    assert found.see == f"sudo ss -ltnp 'sport = :{held}'"


@linux
def test_a_tunnel_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh whose parent has a record of that port; a record alone, of a link that is lost just now, names nobody."""
    (tmp_path / "ssh").symlink_to(sys.executable)
    program = (
        "import socket,sys; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1],flush=True); input()"
    )
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [tmp_path / "ssh", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(process.terminate)
        assert process.stdout
        port = int(process.stdout.readline())

        def on_record(pid: int, is_open: bool = True) -> None:
            seen = Seen("comfy", "my host", port=port)
            entry = SimpleNamespace(is_open=is_open, seen=seen, pid=pid)
            monkeypatch.setattr(ledger, "entries", lambda keep=False: [entry] if keep else [])

        on_record(os.getpid())
        found = ports.find_holder(port)
        assert found.text == f"a tunnel to comfy of my host (pid {os.getpid()})"
        assert found.see == "invoke tunnel.close comfy --host 'my host'"
        for pid, is_open in ((1, True), (os.getpid(), False)):
            on_record(pid, is_open)
            assert ports.holder_of(port) == f"ssh (pid {process.pid})"

        def broken(**_: Any) -> None:
            raise ValueError("a record of who knows what")

        monkeypatch.setattr(ledger, "entries", broken)
        assert ports.holder_of(port) == f"ssh (pid {process.pid})"


@pytest.mark.parametrize(
    ("script", "text", "see"),
    [
        ("printf 'p42\\nR1\\ncnode\\033[31m\\nf3\\n'", "node (pid 42)", "lsof "),
        ("exit 1", "another program", "sudo lsof "),
        ("echo pnot-a-number; echo cx", "another program", "lsof "),
        ("exec sleep 20", "another program", "lsof "),
        (None, "another program", "lsof "),
    ],
)
def test_where_there_is_no_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, text: str, see: str
) -> None:
    if script is not None:
        (tmp_path / "lsof").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "lsof").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(ports, "LSOF_S", 0.5)
    monkeypatch.setattr(ports, "sys", SimpleNamespace(platform="darwin"))
    found = ports.find_holder(8188)
    assert (found.text, found.see.startswith(see)) == (text, True)
