"""A TCP relay on loopback that delays every byte: a round trip where the kernel has no netem.

    python bench/relay.py ADDRESS PORT DELAY_S

prints the port that it listens on and serves until its stdin ends. `Relay` is that, as a context manager: a process
of its own, so that what is measured does not share an interpreter with what measures.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from typing import Any

Late = queue.Queue[tuple[float, bytes]]


class Relay:
    """`with Relay(("127.0.0.1", 22), delay_s=0.02) as relay:` connects relay.port to it, 20 ms a round trip."""

    def __init__(self, target: tuple[str, int], *, delay_s: float) -> None:
        self.command = [sys.executable, __file__, target[0], str(target[1]), str(delay_s)]

    def __enter__(self) -> Relay:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate("")


def serve(target: tuple[str, int], delay_s: float) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def end_with_parent() -> None:
        sys.stdin.read()
        listener.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=connect, args=(near, target, delay_s), daemon=True).start()


def connect(near: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    """The client's handshake with the relay costs nothing, so the real one is slept here: one round trip before its
    first word leaves, and half of one more before the server hears of it."""
    there: Late = queue.Queue()
    back: Late = queue.Queue()
    time.sleep(delay_s)
    threading.Thread(target=read, args=(near, there, delay_s / 2), daemon=True).start()
    time.sleep(delay_s / 2)
    far = socket.create_connection(target)
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=write, args=(far, there), daemon=True).start()
    threading.Thread(target=read, args=(far, back, delay_s / 2), daemon=True).start()
    threading.Thread(target=write, args=(near, back), daemon=True).start()


def read(source: socket.socket, late: Late, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if hasattr(socket, "TCP_QUICKACK"):  # a relay must not add the delays of its own kernel
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            late.put((time.monotonic() + delay_s, data))
    late.put((time.monotonic() + delay_s, b""))


def write(sink: socket.socket, late: Late) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)


if __name__ == "__main__":
    serve((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
