"""HTTP on loopback, whatever answers."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from pantheon.looks import http


def serve(answer: bytes, *, then_wait: float = 0.0, trickle: bool = False) -> tuple[str, socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        try:
            line, _ = server.accept()
        except OSError:
            return
        with line:
            line.recv(65536)
            try:
                for at in range(len(answer) if trickle else 1):
                    line.sendall(answer[at : at + 1] if trickle else answer)
                    time.sleep(0.05 if trickle else 0)
            except OSError:
                return
            time.sleep(then_wait)

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/", server


@pytest.mark.parametrize(
    ("answer", "status", "body", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", 200, "ok", ""),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\nstarting", 503, "starting", ""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            200,
            "abcde",
            "",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 200, "", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, 200, "x" * 4096, ""),
        (b"HTTP/1.1 204\r\n\r\n", 204, "", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nok", 200, "ok", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nok", 200, "ok", ""),
        (b"HTTP/1.1 \xb200 OK\r\n\r\nok", 0, "ok", ""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + b"x" * 10_000,
            200,
            "x" * 4096,
            "",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n-2\r\nx", 200, "", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", 200, "\ufffd", ""),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 0, "", "not an HTTP answer"),
        (b"\x15\x03\x01\x00\x02\x02\x50", 0, "", "not an HTTP answer"),
        (b"HTT", 0, "", "not an HTTP answer"),
        (b"", 0, "", "closed without an answer"),
    ],
)
def test_http_answers(answer: bytes, status: int, body: str, error: str) -> None:
    url, server = serve(answer)
    with server:
        found = http.http_get(url)
    assert (found["status"], found["body"]) == (status, body)
    assert error in found["error"]
    assert bool(error) == bool(found["error"])


def test_http_servers_that_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HTTP_S", 0.3)
    for answer, trickle in ((b"", False), (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000, True)):
        url, server = serve(answer, then_wait=5, trickle=trickle)
        began = time.monotonic()
        with server:
            found = http.http_get(url)
        assert (found["status"], found["error"]) == (0, "no answer within 0.3 s")
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "http://example.org/", "http://127.0.0.1.nip.io/", "http://127.0.0.1:99999/", "file:///x",
            "http://127.0.0.1:1/\r\nX: y", "http://user@127.0.0.1:1/"]
)  # fmt: skip
def test_http_goes_nowhere_but_to_loopback(url: str) -> None:
    assert http.http_get(url)["error"] == "not an http:// address on loopback"
