"""HTTP from the workstation to a loopback port of the host, through a channel of the connection that is open anyway:
no local port, no second login, and the same way that a tunnel takes."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import paramiko
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, PoolManager
from urllib3.connection import HTTPConnection

from pantheon.facts import Http
from pantheon.here import NOT_ALLOWED, NOTHING_LISTENS
from pantheon.remote.connection import HostConnection
from pantheon.remote.wire import CLOSE_FRAME, MOST_BYTES, SWITCHING

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_REDIRECTS = 3


def http_through(connection: HostConnection, url: str, *, timeout_s: float = 10) -> Http:
    """One GET, answered or not: `error` says why not, in words. Redirects are followed on loopback only.

    Raises LinkLost when the connection itself is gone."""
    began = time.monotonic()
    try:
        with _session(connection, timeout_s) as session:
            response, body = _get(session, url, began + timeout_s)
    except (OSError, EOFError, ValueError, paramiko.SSHException) as error:  # requests' own errors are OSErrors
        if not connection.is_connected:
            raise connection.lost() from error
        return Http(url, 0, "", "", _reason(error, timeout_s), _ms(began))
    return Http(url, response.status_code, response.reason or "", body, "", _ms(began))


def head_through(
    connection: HostConnection, port: int, path: str, headers: Mapping[str, str], *, timeout_s: float = 5
) -> Http:
    """The head of the answer to one GET with these very headers, as a browser would send them: a websocket that was
    opened has no end to wait for. Raises LinkLost when the connection itself is gone."""
    began, url = time.monotonic(), f"http://127.0.0.1:{port}{path}"
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    try:
        channel = connection.transport.open_channel(
            "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=timeout_s
        )
        with contextlib.closing(channel):
            channel.settimeout(timeout_s)
            channel.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
            status, reason = _head(channel, began + timeout_s)
            if status == SWITCHING:
                channel.sendall(CLOSE_FRAME)
    except (OSError, EOFError, ValueError, paramiko.SSHException) as error:
        if not connection.is_connected:
            raise connection.lost() from error
        return Http(url, 0, "", "", _reason(error, timeout_s), _ms(began))
    return Http(url, status, reason, "", "", _ms(began))


def _head(channel: Any, until: float) -> tuple[int, str]:
    """Status and reason of an answer whose head has come in whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        if time.monotonic() > until or len(data) > MOST_BYTES:
            raise TimeoutError
        piece = channel.recv(8192)
        if not piece:
            raise ValueError("the connection was closed without an answer")
        data += piece
    found = re.match(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r\n", data)
    if not found:
        raise ValueError("what answers there speaks no HTTP")
    return int(found[1]), (found[2] or b"").decode("latin-1")


def _get(session: requests.Session, url: str, until: float) -> tuple[requests.Response, str]:
    for _ in range(MOST_REDIRECTS):
        if urlsplit(url).hostname not in LOOPBACK:
            raise ValueError(f"{url} is not on the host's loopback")
        left = max(0.1, until - time.monotonic())
        response = session.get(url, timeout=left, allow_redirects=False, stream=True)
        location = urljoin(url, response.headers.get("location", url))
        if not response.is_redirect or urlsplit(location).hostname not in LOOPBACK:
            break
        url = location
    body = b""
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) >= MOST_BYTES or time.monotonic() > until:
            break
    response.close()
    return response, body[:MOST_BYTES].decode("utf-8", "replace")


class _Socket:
    """A channel with a socket's notion of closing: what was made a file of it stays readable until that is closed.
    http.client closes the socket as soon as it has seen the headers of a last answer; a bare channel lost the body."""

    def __init__(self, channel: Any) -> None:
        self.channel, self.files, self.closed = channel, 0, False
        self.sendall, self.settimeout, self.gettimeout = channel.sendall, channel.settimeout, channel.gettimeout

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        self.files += 1
        return io.BufferedReader(socket.SocketIO(self, "r"))  # type: ignore[arg-type]

    def recv_into(self, buffer: memoryview) -> int:
        data = self.channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _decref_socketios(self) -> None:
        self.files -= 1
        if self.closed:
            self.close()

    def close(self) -> None:
        self.closed = True
        if self.files <= 0:
            self.channel.close()


def _session(connection: HostConnection, timeout_s: float) -> requests.Session:
    class Through(HTTPConnection):
        def _new_conn(self) -> Any:
            channel = connection.transport.open_channel(
                "direct-tcpip", (self.host, self.port), ("127.0.0.1", 0), timeout=timeout_s
            )
            channel.settimeout(timeout_s)
            return _Socket(channel)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Through

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            manager: PoolManager = self.poolmanager
            manager.pool_classes_by_scheme = {"http": Pool}

    session = requests.Session()
    session.trust_env = False  # a proxy of the workstation has no business on the host's loopback
    session.headers["Connection"] = "close"
    session.mount("http://", Adapter())
    return session


def _reason(error: BaseException, timeout_s: float) -> str:
    """The innermost cause in words."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) and inner not in chain:
        chain.append(inner)
    for cause in chain:
        if isinstance(cause, paramiko.ChannelException):
            return NOT_ALLOWED if cause.code == 1 else NOTHING_LISTENS
        if isinstance(cause, (TimeoutError, requests.Timeout)) or "Timeout opening" in str(cause):
            return f"no answer within {timeout_s:g} s"
    return str(chain[-1]) or type(chain[-1]).__name__


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
