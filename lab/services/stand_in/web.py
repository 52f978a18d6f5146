"""A small HTTP/1.1 server: routes by method and path, HEAD as GET, JSON in and out, streams, web sockets."""

from __future__ import annotations

import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.services.stand_in.sockets import WebSocket, accept

SETTINGS = "/etc/lab/stand-in.json"


def setting(name: str, default: float) -> float:
    """A number of the lab's, from a file that the GPU hook mounts: a container's environment is its user's."""
    try:
        with open(SETTINGS, encoding="utf-8") as file:
            return float(json.load(file).get(name, default))
    except (OSError, ValueError, TypeError):
        return default


class Answer(Exception):
    """A whole answer, which a route returns or raises: status, body (JSON unless bytes), type, headers."""

    def __init__(
        self, body: object = b"", status: int = 200, kind: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.kind = kind or ("text/html; charset=utf-8" if isinstance(body, bytes) else "application/json")
        self.headers = headers or {}


class Request(BaseHTTPRequestHandler):
    """One request; what a route is called with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as asyncio and Go have it; or an answer on a kept connection takes 40 ms
    server_version = "stand-in"
    sys_version = ""
    app: App
    groups: dict[str, str]
    _body: bytes | None = None

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    @property
    def data(self) -> bytes:
        if self._body is None:
            length = self.headers.get("Content-Length") or "0"
            self._body = self.rfile.read(int(length)) if length.isdigit() else b""
        return self._body

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object; anything else is answered with 400."""
        try:
            value = json.loads(self.data or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Answer({"error": "invalid JSON"}, 400)
        return value

    def respond(self, answer: Answer) -> None:
        _ = self.data  # left unread it would be taken for the next request
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def stream(self, lines: Iterable[object], kind: str = "application/x-ndjson") -> None:
        """Each object as one line, sent as soon as it is there."""
        _ = self.data
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            chunk = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def websocket(self) -> WebSocket:
        """Completes the handshake, or answers 400 to a request that does not ask for one."""
        key = self.headers.get("Sec-WebSocket-Key")
        if self.headers.get("Upgrade", "").lower() != "websocket" or not key:
            raise Answer({"error": "No WebSocket UPGRADE hdr"}, 400)
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept(key))
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        return WebSocket(self.connection)

    def handle_any(self) -> None:
        self._body = None
        path = urllib.parse.urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        try:
            self.app.before(self)
            for pattern, handler in self.app.routes:
                match = re.fullmatch(pattern, f"{method} {path}")
                if match:
                    self.groups = match.groupdict()
                    answer = handler(self)
                    if answer is not None:
                        self.respond(answer)
                    return
            self.respond(self.app.unknown(self))
        except Answer as answer:
            self.respond(answer)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_DELETE = do_OPTIONS = do_PUT = handle_any

    def log_message(self, form: str, *values: object) -> None:
        self.app.log(self, form % values)


Handler = Callable[[Request], Answer | None]


class App:
    """Routes ("METHOD /path" as a regular expression) and the few points where a service has its own way."""

    def __init__(self, routes: dict[str, Handler]) -> None:
        self.routes = list(routes.items())

    def before(self, request: Request) -> None:
        """Runs before each route; raises Answer to refuse."""

    def unknown(self, request: Request) -> Answer:
        """The answer where no route fits."""
        del request
        return Answer(b"404: Not Found", 404, "text/plain; charset=utf-8")

    def log(self, request: Request, text: str) -> None:
        """One line for each request; none by default."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    address_family = socket.AF_INET

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)  # without the name look-up that http.server makes, which may hang
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


def listen(app: App, host: str, port: int) -> Server:
    """The bound server; call serve_forever() on it."""
    handler = type("BoundRequest", (Request,), {"app": app})
    return Server((host, port), handler)
