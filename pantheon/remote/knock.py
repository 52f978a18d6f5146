"""Whether an SSH server is there again: a TCP connection and its first words, no login. So a network that is back is
noticed at once, and a host that is down hears nothing but knocks."""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from pantheon.remote.endpoint import Endpoint

KNOCK_S = 2.0
EVERY_S = 1.0
STEP_S = 0.1  # between two looks at whether it is to end
MOST_ADDRESSES = 8
MOST_BYTES = 8 << 10  # of what a server may say before its SSH banner

Address = tuple[str, int]


class Knocker:
    """Knocks at the first server on the way, at the addresses that its name has now and at those that it had: DNS may
    not answer for long after the network is back. What stands behind an address is for ssh to judge, by its key.

    `why` says what the last knock met."""

    def __init__(self, endpoint: Endpoint) -> None:
        first = endpoint.chain()[0]
        self.place: Address | None = None if first.proxy_command else (first.hostname, first.port)
        self.why = ""
        self._known: tuple[str, ...] = ()
        self._asking: threading.Thread | None = None
        if self.place and _is_address(first.hostname):
            self._known = (first.hostname,)

    def remember(self) -> None:
        """Look the name up, in the background: for knocks to come. Does nothing while it is still being looked up."""
        if self.place and not _is_address(self.place[0]) and not (self._asking and self._asking.is_alive()):
            self._asking = threading.Thread(target=self._look_up, name="pantheon-dns", daemon=True)
            self._asking.start()

    def answered(self, closing: threading.Event, *, told: Callable[[str], None] = lambda _: None) -> bool:
        """Blocks until it answers. True then, and when it cannot be asked; False when `closing` was set meanwhile.
        `told` gets `why` when a knock was in vain."""
        while not closing.is_set():
            self.remember()
            began = time.monotonic()
            if self.place is None or self._knock(closing):
                return True
            told(self.why)
            closing.wait(max(0.0, began + EVERY_S - time.monotonic()))
        return False

    def _look_up(self) -> None:
        assert self.place
        try:
            found = socket.getaddrinfo(*self.place, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        # Those known before stay, behind: one that a moment's wrong answer has replaced is not lost.
        new = [str(entry[4][0]) for entry in found]
        self._known = tuple(dict.fromkeys([*new, *self._known]))[:MOST_ADDRESSES]

    def _knock(self, closing: threading.Event) -> bool:
        """At all addresses at once: one that is dead must not hold up another."""
        assert self.place
        known = self._known
        if not known:
            self.why = f"no address is known for {self.place[0]}"
            closing.wait(STEP_S)  # for an answer that is on its way
            known = self._known
        end = time.monotonic() + KNOCK_S
        with selectors.DefaultSelector() as waiting:
            try:
                for address in known:
                    self._begin(waiting, address)
                while waiting.get_map() and not closing.is_set() and (left := end - time.monotonic()) > 0:
                    for key, _ in waiting.select(min(STEP_S, left)):
                        if self._hear(waiting, key):
                            return True
                if waiting.get_map():
                    connected = any(key.data is not None for key in waiting.get_map().values())
                    self.why = "it accepts connections but says nothing" if connected else "no answer"
                return False
            finally:
                for key in list(waiting.get_map().values()):
                    _close(key.fileobj)

    def _begin(self, waiting: selectors.BaseSelector, address: str) -> None:
        assert self.place
        sock = None
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            error = sock.connect_ex((address, self.place[1]))
        except OSError as problem:
            error = problem.errno or errno.EINVAL
        if sock and error in (0, errno.EINPROGRESS):
            waiting.register(sock, selectors.EVENT_WRITE)
            return
        _close(sock)
        self.why = _words(error)

    def _hear(self, waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
        """Whether this one says that it is an SSH server. Who says anything else, or hangs up, is given up."""
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        if key.data is None:  # connected, or not
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                waiting.modify(sock, selectors.EVENT_READ, b"\n")
                return False
            self.why = _words(error)
        else:
            try:
                piece = sock.recv(1 << 10)
            except BlockingIOError:
                return False
            except OSError as problem:
                piece, error = b"", problem.errno or 0
            heard = key.data + piece
            if b"\nSSH-" in heard:
                return True
            if piece and len(heard) < MOST_BYTES:
                waiting.modify(sock, selectors.EVENT_READ, heard)
                return False
            self.why = "it hung up before a word was said" if len(heard) < MOST_BYTES else "it is no SSH server"
        waiting.unregister(sock)
        sock.close()
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return "%" not in name  # a link-local one has a scope, which getaddrinfo resolves


def _close(sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.close()


def _words(error: int) -> str:
    if error == errno.ECONNREFUSED:
        return "connection refused: no SSH server there"
    text = os.strerror(error)
    return "no answer" if error == errno.ETIMEDOUT else text[:1].lower() + text[1:]
