"""What a client does at a local port that leads to bench/far.py, and how many seconds each takes."""

from __future__ import annotations

import hashlib
import os
import selectors
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = os.urandom(1 << 20)
LONG_S = 120.0  # for anything that is measured
MANY_S = 45.0  # for many requests at once
PUSHED, MESSAGE = 100, 100  # bench/far.py has the same
END = b"\r\n\r\n"


class Failed(Exception):
    """It was not answered, or not with what was sent."""


def down(port: int, count: int) -> float:
    """That many bytes from the host."""
    began = time.perf_counter()
    with asked(port, f"GET /bytes/{count}") as line:
        drain(line, count)
    return time.perf_counter() - began


def up(port: int, count: int) -> float:
    """That many bytes to the host, until it says that it has them all."""
    began = time.perf_counter()
    with asked(port, f"PUT /bytes/{count}", count) as line:
        for piece in blocks(count):
            line.sendall(piece)
        said = body(line)
    if said != str(count).encode():
        raise Failed(f"{said!r} of {count} bytes came")
    return time.perf_counter() - began


def check_sums(port: int, count: int) -> None:
    """The same bytes at both ends, both ways. Raises Failed."""
    with asked(port, f"GET /digest/{count}") as line:
        should = body(line).decode()
    digest = hashlib.sha256()
    with asked(port, f"GET /bytes/{count}") as line:
        drain(line, count, digest)
    sent = hashlib.sha256()
    with asked(port, f"PUT /digest/{count}", count) as line:
        for piece in blocks(count):
            sent.update(piece)
            line.sendall(piece)
        got = body(line).decode()
    if (digest.hexdigest(), got) != (should, sent.hexdigest()):
        raise Failed("what came is not what was sent")


def first_byte(port: int, *, times: int = 20) -> float:
    """A small request over a new connection until the first byte of its answer: the median of some, one by one."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        with asked(port, "GET /small") as line:
            if not line.recv(1):
                raise Failed("closed without an answer")
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def pushed(port: int) -> float:
    """How late messages come that the host sends by itself, on average. Both ends must have one clock, as a lab has."""
    late: list[float] = []
    data = b""
    with asked(port, "GET /push") as line:
        while END not in data:
            data += received(line)
        data = data.partition(END)[2]
        while len(late) < PUSHED:
            now = time.time()
            while len(data) >= MESSAGE:
                late.append(now - float(data[:MESSAGE]))
                data = data[MESSAGE:]
            if len(late) < PUSHED:
                data += received(line)
    return statistics.fmean(late)


@dataclass(frozen=True)
class Many:
    """Small requests at once, each over a connection of its own: until the last is answered, the slowest of them, and
    how many got no answer."""

    total: float
    worst: float
    failed: int


def many(port: int, count: int = 64) -> Many:
    """One thread for all of them, so that what is measured is not this client."""
    request = head("GET /small")
    began = time.perf_counter()
    ended: list[float] = []
    failed = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            line = socket.socket()
            line.setblocking(False)
            line.connect_ex(("127.0.0.1", port))
            selector.register(line, selectors.EVENT_WRITE, time.perf_counter())
        while selector.get_map() and time.perf_counter() < began + MANY_S:
            for key, events in selector.select(1.0):
                assert isinstance(key.fileobj, socket.socket)
                try:
                    if events & selectors.EVENT_WRITE:
                        key.fileobj.send(request)
                        selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                        continue
                    if key.fileobj.recv(1 << 16):
                        continue
                    ended.append(time.perf_counter() - key.data)
                except OSError:
                    failed += 1
                selector.unregister(key.fileobj)
                key.fileobj.close()
        total = time.perf_counter() - began
        left = [key.fileobj for key in selector.get_map().values()]
        for one in left:
            assert isinstance(one, socket.socket)
            one.close()
    return Many(total, max(ended, default=total), failed + len(left))


def answers(port: int, timeout_s: float) -> bool:
    """Whether one small request is answered in that time."""
    try:
        with asked(port, "GET /small", timeout_s=timeout_s) as line:
            return bool(line.recv(1))
    except OSError:
        return False


# ---- HTTP, no more of it than is needed


def head(request: str, count: int = 0) -> bytes:
    length = f"Content-Length: {count}\r\n" if request.startswith("PUT") else ""
    return f"{request} HTTP/1.1\r\nHost: bench\r\n{length}Connection: close\r\n\r\n".encode()


def asked(port: int, request: str, count: int = 0, *, timeout_s: float = LONG_S) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.sendall(head(request, count))
    return line


def received(line: socket.socket) -> bytes:
    piece = line.recv(1 << 16)
    if not piece:
        raise Failed("closed without an answer")
    return piece


def body(line: socket.socket) -> bytes:
    data = b"".join(iter(lambda: line.recv(1 << 16), b""))
    if END not in data:
        raise Failed("closed without an answer")
    return data.partition(END)[2]


def drain(line: socket.socket, count: int, digest: hashlib._Hash | None = None) -> None:
    buffer, seen = bytearray(1 << 20), b""
    while END not in seen:
        seen += received(line)
    rest = seen.partition(END)[2]
    came = len(rest)
    if digest:
        digest.update(rest)
    while came < count:
        got = line.recv_into(buffer)
        if not got:
            raise Failed(f"{came} of {count} bytes came")
        came += got
        if digest:
            digest.update(buffer[:got])


def blocks(count: int) -> Iterator[bytes]:
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)
