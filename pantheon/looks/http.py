"""HTTP by hand: http.client would cost 10 ms at every look, and cannot keep a deadline for the whole of a request."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator

from pantheon.looks.text import Object, Unread, plain, why

HTTP_S = 2.0
BODY_BYTES = 4096


def exchange(
    line: socket.socket, head: str, body: bytes, end: float, *, limit: int, sink: Callable[[bytes], bool] | None = None
) -> tuple[int, str, bytes]:
    """One HTTP/1.0 request on a connected socket, all of it before `end`: status, reason and the first `limit` bytes
    of the body. `sink` gets the body piece by piece instead and ends it by returning False. HTTP/1.0, since the end of
    the connection is then the end of the body; a server that sends chunks all the same is understood."""

    def receive() -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        line.settimeout(left)
        return line.recv(1 << 18)

    line.settimeout(max(0.001, end - time.monotonic()))
    line.sendall(head.encode("latin-1", "replace") + body)
    status, reason, headers, data = top_of(receive)
    kept = bytearray()
    for piece in pieces(data, receive, headers):
        if sink and (200 <= status < 300 or status == 101):
            if not sink(piece):
                break
        else:
            kept += piece[: limit - len(kept)]
            if len(kept) >= limit:
                break
    return status, reason, bytes(kept)


def top_of(receive: Callable[[], bytes]) -> tuple[int, str, dict[str, str], bytes]:
    """Status, reason and headers (names in lower case) of an answer, and what came of its body with them. Raises
    Unread for what is no answer, and what `receive` raises."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = receive()
        if not piece or len(data) > 65536 or not (data + piece).startswith(b"HTTP/"[: len(data + piece)]):
            got = (data + piece)[:60].decode("latin-1").strip().partition("\r")[0]
            raise Unread(
                f"not an HTTP answer: {plain(got)!r}" if got else "the connection was closed without an answer"
            )
        data += piece
    top, _, data = data.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    version_status_reason = [*first.split(" ", 2), "", ""]
    status = number(version_status_reason[1], 0)
    headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
    return status, version_status_reason[2], headers, data


def pieces(data: bytes, receive: Callable[[], bytes], headers: dict[str, str]) -> Iterator[bytes]:
    """The body of an answer as it comes in, to its length, to the last chunk or to the end of the connection."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        yield from chunks(data, receive)
        return
    length = number(headers.get("content-length", ""), -1)
    while length != 0:
        piece = data or receive()
        if not piece:
            return
        data = b""
        yield piece if length < 0 else piece[:length]
        length = length if length < 0 else max(0, length - len(piece))


def chunks(data: bytes, receive: Callable[[], bytes]) -> Iterator[bytes]:
    """What is in the chunks, never held back until one is whole: it may have any size."""
    while True:
        while b"\n" not in data and len(data) < 4096 and (piece := receive()):
            data += piece
        size_text, end_of_line, data = data.partition(b"\n")
        try:
            left = int(size_text.split(b";")[0].strip() or b"0", 16)
        except ValueError:
            return
        if left <= 0 or not end_of_line:
            return
        while left > 0:
            piece = data or receive()
            if not piece:
                return
            yield piece[:left]
            left, data = left - len(piece[:left]), piece[left:]
        while len(data) < 2 and (piece := receive()):
            data += piece
        data = data[2:]


def number(text: str, default: int) -> int:
    """A number as headers write it; `default` for anything else, however long it is."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else default


def quoted(text: str) -> str:
    """A value for one place in a URL (slashes and colons, as in image references, stay)."""
    return "".join(
        chr(byte) if re.match(rb"[A-Za-z0-9._~/:@-]", bytes([byte])) else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def http_get(url: str, limit: int = BODY_BYTES) -> Object:
    """facts.Http of a GET on loopback, with at most `limit` bytes of its body. No answer is an answer too: status 0 and
    what went wrong."""
    out: Object = {"url": url, "status": 0, "reason": "", "body": "", "error": "", "ms": 0.0}
    began = time.monotonic()
    found = re.fullmatch(r"http://(127\.0\.0\.1|localhost|\[::1\])(?::(\d{1,5}))?(/[^\s]*)?", url)
    if not found or int(found[2] or 80) > 65535:
        out["error"] = "not an http:// address on loopback"
        return out
    head = f"GET {found[3] or '/'} HTTP/1.0\r\nHost: {found[1]}:{found[2] or 80}\r\n"
    head += "User-Agent: pantheon-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    try:
        # Not create_connection: to look up a name, Python imports its idna codec, which takes 20 ms.
        family, address = (socket.AF_INET6, "::1") if found[1] == "[::1]" else (socket.AF_INET, "127.0.0.1")
        with socket.socket(family, socket.SOCK_STREAM) as line:
            line.settimeout(HTTP_S)
            line.connect((address, int(found[2] or 80)))
            end = began + HTTP_S
            out["status"], out["reason"], body = exchange(line, head, b"", end, limit=limit)
            out["body"] = body.decode("utf-8", "replace")
    except TimeoutError:
        out["error"] = f"no answer within {HTTP_S:g} s"
    except (OSError, Unread) as error:
        out["error"] = why(error)
    out["ms"] = round((time.monotonic() - began) * 1000, 1)
    return out
