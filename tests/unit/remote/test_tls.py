"""A TLS greeting through the SSH connection: to a plain server, to one with TLS, and to nothing at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pantheon.errors import LinkLost
from pantheon.remote.connection import HostConnection
from pantheon.remote.tls import https_through
from tests.unit.remote.server import SshServer

Answer = Callable[[socket.socket], None]


@pytest.fixture(name="link")
def open_link(connection: HostConnection) -> HostConnection:
    connection.open()
    return connection


@pytest.fixture(name="serve")
def one_server() -> Iterator[Callable[[Answer], int]]:
    listening = socket.create_server(("127.0.0.1", 0))

    def start(answer: Answer) -> int:
        def run() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    answer(client)

        threading.Thread(target=run, daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    listening.close()


def plain(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def closing(client: socket.socket) -> None:
    client.recv(4096)


def flooding(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"\x16\x03\x03\x00\x04" * 100_000)


def silent(client: socket.socket) -> None:
    client.settimeout(5)
    while client.recv(4096):
        pass


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (plain, ("wrong version number", "packet length too long", "record layer failure")),
        (closing, ("it closed the connection", "unexpected eof")),
        (silent, ("no answer",)),
    ],
)
def test_no_tls_there(
    link: HostConnection, serve: Callable[[Answer], int], answer: Answer, says: tuple[str, ...]
) -> None:
    port = serve(answer)
    found = https_through(link, port, timeout_s=1)
    assert (found.status, found.url) == (0, f"https://127.0.0.1:{port}/")
    assert any(text in found.error for text in says), found.error


def test_what_sends_without_an_end_is_left(link: HostConnection, serve: Callable[[Answer], int]) -> None:
    assert https_through(link, serve(flooding), timeout_s=2).status == 0


def test_nothing_listens(link: HostConnection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = int(gone.getsockname()[1])
    assert "connection refused" in https_through(link, port, timeout_s=2).error


def test_a_connection_that_is_gone(link: HostConnection, server: SshServer) -> None:
    server.drop()
    with pytest.raises(LinkLost):
        https_through(link, 1, timeout_s=2)
