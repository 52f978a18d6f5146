"""Knocking at servers on loopback: who counts as there, what is said of the others, and that nobody is waited for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pantheon.remote import knock
from pantheon.remote.endpoint import Endpoint
from pantheon.remote.knock import Knocker

Speak = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(speak: Speak, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Gives each connection to `speak`, and closes it then."""
    with socket.create_server((address, port)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock, contextlib.suppress(OSError):
                        speak(sock)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def says(*pieces: bytes) -> Speak:
    def speak(sock: socket.socket) -> None:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.01)
        sock.recv(100)

    return speak


def silent(sock: socket.socket) -> None:
    sock.settimeout(10)
    sock.recv(100)


def endpoint(port: int, hostname: str = "127.0.0.1") -> Endpoint:
    return Endpoint("box", hostname, port, "ops", hostname)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knock, "KNOCK_S", 0.3)
    monkeypatch.setattr(knock, "EVERY_S", 0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"S", b"SH-2", b".0-x\r\n"],
        [b"Authorized use only.\r\n", b"SSH-2.0-x\r\n"],
    ],
)
def test_a_server_that_says_so(pieces: list[bytes]) -> None:
    with server(says(*pieces)) as port:
        assert Knocker(endpoint(port)).answered(threading.Event())


def vain(knocker: Knocker) -> str:
    """What the first knock met, which must be in vain."""
    closing, told = threading.Event(), list[str]()

    def tell(why: str) -> None:
        told.append(why)
        closing.set()

    assert not knocker.answered(closing, told=tell)
    return told[0]


@pytest.mark.parametrize(
    ("speak", "why"),
    [
        (silent, "it accepts connections but says nothing"),
        (lambda _: None, "it hung up before a word was said"),
        (says(b"HTTP/1.1 400 Bad Request\r\n" * 1000), "it is no SSH server"),
        (says(b"Not allowed at this time\r\n"), "it accepts connections but says nothing"),
    ],
    ids=["paused", "a proxy before a dead sshd", "http", "penalty"],
)
def test_a_server_that_does_not(speak: Speak, why: str, impatient: None) -> None:
    with server(speak) as port:
        assert vain(Knocker(endpoint(port))) == why


def test_nobody_there_and_then_somebody(impatient: None) -> None:
    port, closing, told = free_port(), threading.Event(), list[str]()
    knocker, answers = Knocker(endpoint(port)), list[bool]()
    thread = threading.Thread(target=lambda: answers.append(knocker.answered(closing, told=told.append)))
    thread.start()
    while not told:
        time.sleep(0.01)
    assert set(told) == {"connection refused: no SSH server there"}
    with server(says(b"SSH-2.0-x\r\n"), port=port):
        thread.join(3)
    assert answers == [True]


def test_the_end_is_not_waited_for() -> None:
    closing = threading.Event()
    with server(silent) as port:
        threading.Timer(0.1, closing.set).start()
        began = time.monotonic()
        assert not Knocker(endpoint(port)).answered(closing)
        assert time.monotonic() - began < 1


def resolving(monkeypatch: pytest.MonkeyPatch, *found: str, hangs: threading.Event | None = None) -> list[int]:
    """A name that leads to these addresses; once `hangs` is set, to nowhere for a long time. Counts the questions."""
    asked: list[int] = []

    def lookup(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(1)
        if hangs is not None and hangs.is_set():
            time.sleep(3)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


def test_a_dead_address_does_not_hold_up_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(silent, address="127.0.0.2") as port, server(says(b"SSH-2.0-x\r\n"), port=port):
        resolving(monkeypatch, "127.0.0.2", "127.0.0.1", "198.51.100.1")
        began = time.monotonic()
        assert Knocker(endpoint(port, "box.example")).answered(threading.Event())
        assert time.monotonic() - began < 1


def test_while_the_name_does_not_resolve_the_last_address_is_knocked_at(
    monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    port, hangs, told = free_port(), threading.Event(), list[str]()
    asked = resolving(monkeypatch, "127.0.0.1", hangs=hangs)
    knocker = Knocker(endpoint(port, "box.example"))
    knocker.remember()
    while not knocker._known:
        time.sleep(0.01)
    hangs.set()
    closing = threading.Event()
    thread = threading.Thread(target=lambda: knocker.answered(closing, told=told.append))
    thread.start()
    while len(told) < 3:
        time.sleep(0.01)
    assert len(asked) == 2, "one question at a time"
    with server(says(b"SSH-2.0-x\r\n"), port=port):
        thread.join(1)
        assert not thread.is_alive()
    closing.set()


def test_a_name_without_an_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vain(Knocker(endpoint(22, "nowhere.invalid"))) == "no address is known for nowhere.invalid"


def test_the_first_server_on_the_way_is_knocked_at(impatient: None) -> None:
    with server(says(b"SSH-2.0-x\r\n")) as port:
        behind = replace(endpoint(22, "10.0.0.5"), gateway=endpoint(port))
        assert Knocker(behind).answered(threading.Event())


def test_what_a_proxy_command_leads_to_cannot_be_asked() -> None:
    assert Knocker(replace(endpoint(22, "10.0.0.5"), proxy_command="nc %h %p")).answered(threading.Event())
