"""Who answers at a tunnel's end, and that no server makes us wait, read or remember for ever."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pantheon.remote import answers
from pantheon.remote.wire import CLOSE_FRAME, accepted

Respond = Callable[[socket.socket, str, dict[str, str]], None]


class Server:
    """Answers each connection with `respond(line, path, headers)`; remembers what was asked."""

    def __init__(self, respond: Respond) -> None:
        self.asked: list[str] = []
        self.open = 0
        self._respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        self.open += 1
        with line, contextlib.suppress(OSError):
            line.settimeout(10)
            text = b""
            while b"\r\n\r\n" not in text and (piece := line.recv(65536)):
                text += piece
            first, *rest = text.decode("latin-1").split("\r\n")
            path = first.split(" ")[1] if " " in first else ""
            self.asked.append(path)
            self._respond(line, path, {k.lower(): v for k, _, v in (entry.partition(": ") for entry in rest)})
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
        self.open -= 1

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Respond | bytes], Server]]:
    made: list[Server] = []

    def start(respond: Respond | bytes) -> Server:
        whole = respond if callable(respond) else lambda line, *_: line.sendall(respond)
        made.append(Server(whole))
        return made[-1]

    yield start
    for server in made:
        server.close()


Serve = Callable[[Respond | bytes], Server]


def page(body: str | bytes = "", status: str = "200 OK", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data


# ---- who it is

STATS = json.dumps({"system": {"os": "posix", "comfyui_version": "0.3.76"}, "devices": [{"name": "cuda:0"}]})
CONFIG = json.dumps({"status": True, "name": "Open WebUI", "version": "0.12.4", "features": {}})
COMFY_PAGE, WEBUI_PAGE = "<html><head><title>ComfyUI</title>", "<html><head>\n<title>Open WebUI</title>"
NOT_FOUND = ("", "404 Not Found")

# service, what its paths answer (every other one is 404), what is made of it
WHO: list[tuple[str, dict[str, tuple[str, str]], str, str]] = [
    ("comfy", {"/system_stats": (STATS, "200 OK")}, "own", "ready"),
    ("ollama", {"/api/version": ('{"version":"0.13.5"}', "200 OK")}, "own", "ready"),
    ("openwebui", {"/ready": ('{"status": true}', "200 OK")}, "own", "ready"),
    # Versions without these paths, and stacks made by hand.
    ("comfy", {"/": (COMFY_PAGE, "200 OK")}, "own", "ready"),
    ("comfy", {"/": ("<TITLE>My ComfyUI</TITLE>", "200 OK")}, "own", "ready"),
    ("ollama", {"/": ("Ollama is running", "200 OK")}, "own", "ready"),
    ("openwebui", {"/health": ('{"status":true}', "200 OK")}, "own", "ready"),
    ("openwebui", {"/api/config": (CONFIG, "200 OK")}, "own", "ready"),
    ("openwebui", {"/ready": (WEBUI_PAGE, "200 OK")}, "own", "ready"),  # each path is the page
    # A login in front of it.
    ("comfy", {"/system_stats": ("", "401 Unauthorized")}, "door", "ready, behind a login (401 Unauthorized)"),
    ("ollama", {"/api/version": ("", "403 Forbidden")}, "door", "ready, behind a login (403 Forbidden)"),
    ("openwebui", {"/ready": ("", "302 Found")}, "door", "ready, behind a login (302 Found)"),
    ("comfy", {"/": ("", "307 Temporary Redirect")}, "door", "ready, behind a login (307 Temporary Redirect)"),
    # It answers, and cannot be used.
    ("openwebui", {"/ready": ('{"detail":"Startup not complete"}', "503 Service Unavailable")}, "failing",
     "503 Service Unavailable"),
    ("comfy", {"/system_stats": (STATS, "500 Internal Server Error")}, "failing", "500 Internal Server Error"),
    ("ollama", {"/api/version": ("", "429 Too Many Requests")}, "failing", "429 Too Many Requests"),
    # Another one has its port.
    ("comfy", {"/": ("Ollama is running", "200 OK")}, "another", "ollama answers there"),
    ("comfy", {"/system_stats": (WEBUI_PAGE, "200 OK")}, "another", "openwebui answers there"),
    ("ollama", {"/api/version": ('{"version":"0.12.4","deployment_id":""}', "200 OK")}, "another",
     "openwebui answers there"),
    ("ollama", {"/": (COMFY_PAGE, "200 OK")}, "another", "comfy answers there"),
    ("openwebui", {"/": ("Ollama is running", "200 OK")}, "another", "ollama answers there"),
    # Nobody known here.
    ("comfy", {}, "stranger", "something else answers there (404 Not Found)"),
    ("comfy", {"/system_stats": ("<title>Grafana</title>", "200 OK")}, "stranger",
     "something else answers there (200 OK)"),
    ("comfy", {"/system_stats": ('{"system": "down"}', "200 OK")}, "stranger",
     "something else answers there (200 OK)"),
    ("ollama", {"/api/version": ('{"version":"9","gitCommit":"x"}', "200 OK")}, "stranger",
     "something else answers there (200 OK)"),
    ("openwebui", {"/ready": ("[" * 60_000, "200 OK")}, "stranger", "something else answers there (200 OK)"),
    ("comfy", {"/system_stats": ("null", "200 OK")}, "stranger", "something else answers there (200 OK)"),
    ("comfy", {"/system_stats": ("", "204 No Content")}, "stranger", "something else answers there (204 No Content)"),
]  # fmt: skip


@pytest.mark.parametrize(("service", "paths", "kind", "text"), WHO)
def test_who_answers(serve: Serve, service: str, paths: dict[str, tuple[str, str]], kind: str, text: str) -> None:
    server = serve(lambda line, path, _: line.sendall(page(*paths.get(path, NOT_FOUND))))
    reply = answers.ask(service, server.port, timeout_s=5)
    assert (reply.kind, reply.text) == (kind, text)
    assert reply.ready is (kind in ("own", "door"))
    assert len(server.asked) <= 4


def test_one_request_is_enough_for_the_service_itself(serve: Serve) -> None:
    server = serve(page(STATS))
    assert answers.ask("comfy", server.port, timeout_s=5).ready
    assert server.asked == ["/system_stats"]


def test_a_redirect_is_not_followed(serve: Serve) -> None:
    elsewhere = serve(page(STATS))
    server = serve(page("", "302 Found", Location=f"http://127.0.0.1:{elsewhere.port}/login"))
    assert answers.ask("comfy", server.port, timeout_s=5).kind == "door"
    assert elsewhere.asked == []


def test_no_proxy_of_the_environment_is_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(page("", "407 Proxy Authentication Required")), serve(page(STATS))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert answers.ask("comfy", server.port, timeout_s=5).kind == "own"
    assert proxy.asked == []


def test_chunks_and_interim_answers(serve: Serve) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (STATS[:7].encode(), STATS[7:].encode()))
    whole = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answers.ask("comfy", serve(whole + chunks + b"0\r\n\r\n").port, timeout_s=5).kind == "own"


# ---- TLS


@pytest.mark.parametrize(
    "said",
    [
        page("<center>The plain HTTP request was sent to HTTPS port</center>", "400 Bad Request"),  # nginx
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",  # Go
        page("Reason: You're speaking plain HTTP to an SSL-enabled server port.", "400 Bad Request"),  # Apache
        page("", "301 Moved Permanently", Location="https://127.0.0.1:8188/"),
        b"\x15\x03\x01\x00\x02\x02\x46",  # an alert
        b"\x15\x03\x03\x00\x02\x02\x50",
    ],
)
def test_https_where_http_belongs(serve: Serve, said: bytes) -> None:
    reply = answers.ask("comfy", serve(said).port, timeout_s=5)
    assert (reply.kind, reply.text) == ("tls", "speaks https: not the documented service")


def test_a_login_elsewhere_may_speak_https(serve: Serve) -> None:
    said = page("", "302 Found", Location="https://login.example.org/?next=comfy")
    assert answers.ask("comfy", serve(said).port, timeout_s=5).kind == "door"


def test_a_redirect_that_leaves_the_tunnel_says_where_it_leads() -> None:
    def said(location: str) -> str:
        return answers.judge("comfy", answers.Answer(302, "Found", location=location)).text

    assert said("https://chat.example.com/app?x") == "ready, leads on to https://chat.example.com"
    for location in ("/login", "http://127.0.0.1:8188/login", "http://localhost/login", ""):
        assert said(location) == "ready, behind a login (302 Found)"


def test_a_real_tls_server(tmp_path: Path) -> None:
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    subprocess.run([*argv, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    with line, contextlib.suppress(ssl.SSLError), context.wrap_socket(line, server_side=True):
                        pass

        threading.Thread(target=run, daemon=True).start()
        port = listener.getsockname()[1]
        assert answers.ask("comfy", port, timeout_s=5).text == "closed without an answer"  # OpenSSL says nothing else
        assert answers.speaks_tls(port, timeout_s=5)


@pytest.mark.parametrize("said", [b"", page(STATS), b"\0" * 100])
def test_no_tls(serve: Serve, said: bytes) -> None:
    assert not answers.speaks_tls(serve(said).port, timeout_s=1)


# ---- no answer, and servers that take their time


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "closed without an answer"),
        (b"\n", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP answer: 'SSH-2.0-OpenSSH_9.6'"),
        (b"HTTP/1.1 \xb200 OK\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 99999999999999999999999999 OK\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: y", "not an HTTP answer: 'HTTP/1.1 200 OK'"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000, "not an HTTP answer"),
        (b"\0" * 5000, "not an HTTP answer"),
    ],
)
def test_no_answer(serve: Serve, said: bytes, error: str) -> None:
    reply = answers.ask("comfy", serve(said).port, timeout_s=5)
    assert (reply.kind, reply.ready) == ("silent", False)
    assert reply.text.startswith(error)
    assert "\0" not in reply.text


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        reply = answers.ask("comfy", probe.getsockname()[1], timeout_s=5)
    assert (reply.kind, reply.text) == ("silent", "connection refused")


def test_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            line, _ = listener.accept()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.close()

        threading.Thread(target=run, daemon=True).start()
        assert answers.ask("comfy", listener.getsockname()[1], timeout_s=5).text == "closed without an answer"


def slowly(text: bytes) -> Respond:
    def respond(line: socket.socket, *_: Any) -> None:
        for at in range(len(text)):
            line.sendall(text[at : at + 1])
            time.sleep(0.02)

    return respond


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500])
def test_the_time_is_for_all_of_it(serve: Serve, said: bytes) -> None:
    server = serve(slowly(said) if said else lambda *_: time.sleep(3))
    began = time.monotonic()
    reply = answers.ask("comfy", server.port, timeout_s=0.4)
    assert (reply.kind, reply.text) == ("silent", "no answer within 0.4 s")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("head", ["", "Content-Length: 99999999999\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_body_without_end(serve: Serve, head: str) -> None:
    def respond(line: socket.socket, *_: Any) -> None:
        line.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + (b"7fffffff\r\n" if "chunked" in head else b""))
        while True:
            line.sendall(b"x" * 65536)

    server = serve(respond)
    tracemalloc.start()
    began = time.monotonic()
    reply = answers.ask("comfy", server.port, timeout_s=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reply.kind == "stranger"
    assert time.monotonic() - began < 4
    assert peak < 2 << 20


def test_a_body_that_never_comes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BODY_S", 0.1)
    began = time.monotonic()
    answer = answers.get(serve(slowly(page("x" * 500)[:-450] + b"y" * 400)).port, "/", timeout_s=8)
    assert answer.status == 200
    assert time.monotonic() - began < 5
    assert answer.ms < 4000


def test_no_socket_is_left(serve: Serve) -> None:
    server = serve(page(STATS))
    for _ in range(20):
        answers.ask("comfy", server.port, timeout_s=5)
    end = time.monotonic() + 5
    while server.open and time.monotonic() < end:
        time.sleep(0.01)
    assert server.open == 0


# ---- websockets


def upgraded(line: socket.socket, _: str, headers: dict[str, str]) -> None:
    key = accepted({"Sec-WebSocket-Key": headers["sec-websocket-key"]})
    line.sendall(f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {key}\r\n\r\n".encode())
    assert line.recv(64) == CLOSE_FRAME


@pytest.mark.parametrize("service", ["comfy", "openwebui"])
def test_a_websocket_as_a_browser_opens_it(serve: Serve, service: str) -> None:
    heard: dict[str, str] = {}

    def respond(line: socket.socket, path: str, headers: dict[str, str]) -> None:
        heard.update(headers)
        upgraded(line, path, headers)

    server = serve(respond)
    assert answers.no_websocket(service, server.port, timeout_s=5) == ""
    assert heard["origin"] == f"http://127.0.0.1:{server.port}"
    assert heard["host"] == f"127.0.0.1:{server.port}"


def test_ollama_needs_none(serve: Serve) -> None:
    server = serve(page())
    assert answers.no_websocket("ollama", server.port, timeout_s=5) == ""
    assert server.asked == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (page("", "403 Forbidden"), "403 Forbidden"),
        (page('"Invalid transport"', "400 Bad Request"), "400 Bad Request"),
        (page("<html>", "200 OK"), "200 OK"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101 with a wrong Sec-WebSocket-Accept"),
    ],
)
def test_a_websocket_that_is_refused(serve: Serve, said: bytes, why: str) -> None:
    assert answers.no_websocket("openwebui", serve(said).port, timeout_s=5) == why


def test_a_silent_websocket(serve: Serve) -> None:
    assert (
        answers.no_websocket("comfy", serve(lambda *_: time.sleep(2)).port, timeout_s=0.3) == "no answer within 0.3 s"
    )


@pytest.mark.parametrize("said", ["400 Bad Request", "403 Forbidden"])
@pytest.mark.parametrize(("enabled", "polled", "why"), [(False, True, ""), (False, False, None), (True, True, None)])
def test_a_websocket_that_is_switched_off_on_purpose(
    serve: Serve, enabled: bool, polled: bool, why: str | None, said: str
) -> None:
    """ENABLE_WEBSOCKET_SUPPORT=false: the page knows it, and polls, which the origin may not be allowed to."""
    config = json.dumps({"status": True, "features": {"enable_websocket": enabled}})
    paths = {"/api/config": page(config), **({answers.POLLING: page("0{}")} if polled else {})}
    server = serve(lambda line, path, _: line.sendall(paths.get(path) or page('"Invalid"', said)))
    assert answers.no_websocket("openwebui", server.port, timeout_s=5) == (said if why is None else why)
