"""The server's side of a web socket (RFC 6455): text messages, ping, close."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def accept(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a client's key."""
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def unmask(data: bytes, mask: bytes) -> bytes:
    """Each byte with that of the mask; as one number, since a megabyte one by one takes long."""
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")


class WebSocket:
    """Frames over a connected socket. Sending is safe from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lock = threading.Lock()

    def send(self, payload: str | bytes, kind: int = TEXT) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        if len(data) < 126:
            head = struct.pack("!BB", 0x80 | kind, len(data))
        elif len(data) < 1 << 16:
            head = struct.pack("!BBH", 0x80 | kind, 126, len(data))
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 127, len(data))
        with self._lock:
            self.connection.sendall(head + data)

    def send_json(self, value: object) -> None:
        self.send(json.dumps(value))

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._read(8))
        if length > 1 << 24:
            raise ConnectionResetError
        mask = self._read(4) if second & 0x80 else bytes(4)
        return bool(first & 0x80), first & 0x0F, unmask(self._read(length), mask)

    def receive(self) -> str | None:
        """The next text message; pings are answered on the way. None when the other side has closed."""
        message = b""
        while True:
            final, kind, data = self._frame()
            if kind == PING:
                self.send(data, PONG)
            elif kind == CLOSE:
                self.send(data[:2], CLOSE)
                return None
            elif kind in (TEXT, BINARY, CONTINUATION):
                message += data
                if final:
                    return message.decode(errors="replace")
