"""Whether an SSH server is there again: a TCP connection and its first words, no login. So a network that is back is
noticed at once, and a host that is down hears nothing but knocks."""

from __future__ import annotations

import socket
import threading
import time

from pantheon.remote.endpoint import Endpoint

KNOCK_S = 2.0


class Knocker:
    """`answered` blocks until the first server on the way says that it is one."""

    def __init__(self, endpoint: Endpoint) -> None:
        first = endpoint.chain()[0]
        self.address = None if first.proxy_command else (first.hostname, first.port)

    def answered(self, closing: threading.Event) -> bool:
        """True when it answers, or cannot be asked; False when `closing` was set meanwhile."""
        while not closing.is_set():
            began = time.monotonic()
            if self.once():
                return True
            closing.wait(max(0.0, began + 1.0 - time.monotonic()))
        return False

    def once(self) -> bool:
        """Whether it answers now, or cannot be asked."""
        return self.address is None or self._knock(self.address)

    def _knock(self, address: tuple[str, int]) -> bool:
        try:
            with socket.create_connection(address, timeout=KNOCK_S) as link:
                return link.recv(4) == b"SSH-"
        except OSError:
            return False
