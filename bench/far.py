"""A service that runs on the host of a tunnel's benchmark, on its loopback: bytes down, bytes up, small answers.

    python3 -I far.py PORT

`/bytes/N` and `/digest/N` give N bytes and their SHA-256; PUT to them says how many came, and their SHA-256.
`/push` sends a message of 100 bytes every 7 ms, a hundred of them, each with the time, as a service tells its progress.
Everything else, ComfyUI's ready path with it, is a small answer with ComfyUI's sign, and a websocket can be opened: to
pantheon this is a comfy that is ready. Standard library only; it is sent to the host as it is.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

BLOCK = os.urandom(1 << 20)  # nothing that could be compressed
SMALL = b'{"system": {"os": "bench"}, "devices": [' + b'"0123456789abcdef", ' * 48 + b"null]}"
PUSHED, MESSAGE = 100, 100  # bench/transfers.py has the same
RFC6455 = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
    while True:
        line, _ = listener.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(line,), daemon=True).start()


def serve(line: socket.socket) -> None:
    try:
        with line:
            answer(line)
    except OSError:
        pass  # whoever asked has gone


def answer(line: socket.socket) -> None:
    head, rest = head_of(line)
    first, *fields = head.split(b"\r\n")
    verb, path, *_ = first.split()
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
    if b"sec-websocket-key" in headers:
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + RFC6455).digest())  # noqa: S324
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        line.sendall(upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        line.recv(1 << 10)
    elif verb == b"PUT":
        send(line, received(line, rest, int(headers[b"content-length"]), summed=path.startswith(b"/digest/")))
    elif path.startswith(b"/bytes/"):
        count = int(path.rpartition(b"/")[2])
        line.sendall(top(count))
        for piece in blocks(count):
            line.sendall(piece)
    elif path.startswith(b"/digest/"):
        digest = hashlib.sha256()
        for piece in blocks(int(path.rpartition(b"/")[2])):
            digest.update(piece)
        send(line, digest.hexdigest().encode())
    elif path == b"/push":
        line.sendall(top(PUSHED * MESSAGE))
        for _ in range(PUSHED):
            line.sendall(f"{time.time():<{MESSAGE}.6f}".encode())
            time.sleep(0.007)
    else:
        send(line, SMALL)


def head_of(line: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(1 << 16)
        if not piece:
            raise OSError("closed")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def received(line: socket.socket, rest: bytes, count: int, *, summed: bool) -> bytes:
    digest, buffer = hashlib.sha256(rest), bytearray(1 << 20)
    came = len(rest)
    while came < count:
        got = line.recv_into(buffer)
        if not got:
            raise OSError("closed")
        came += got
        if summed:
            digest.update(buffer[:got])
    return digest.hexdigest().encode() if summed else str(came).encode()


def blocks(count: int) -> Iterator[bytes]:
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)


def top(count: int) -> bytes:
    kind = b"Content-Type: application/json\r\nConnection: close\r\n"
    return b"HTTP/1.1 200 OK\r\nContent-Length: " + str(count).encode() + b"\r\n" + kind + b"\r\n"


def send(line: socket.socket, body: bytes) -> None:
    line.sendall(top(len(body)) + body)


if __name__ == "__main__":
    main()
