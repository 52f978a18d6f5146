"""What a service answers at a local port: HTTP and a websocket's opening, asked as a browser there would.

Somebody who answers is not yet the service: a bring-up from elsewhere may have put another one on its port. The rule:

1. Nothing, nothing that is HTTP, and a server's own error (5xx, 408, 429) are no answer. Each is said in words.
2. A door (401, 403, 407, or a redirect: a login in front of it) is an answer: nobody is asked to log in here.
3. An answer with the service's own sign is one, whatever its version; hand-made stacks have the same signs.
4. The sign of another of the services is none: that one is named.
5. Whoever is left is asked for what older versions and all pages have. Without a sign in any of it he is a stranger,
   and no answer, unless it is known that the service's own container publishes the port (remote/watcher.py).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pantheon.looks.http import pieces, top_of
from pantheon.looks.text import Unread, plain
from pantheon.remote.wire import CLOSE_FRAME, MOST_BYTES, SWITCHING, WEBSOCKETS, accepted, upgrade
from pantheon.watched import READY_PATHS

# own: the service. door: a login in front of it. failing: a server's own error. another: one of the other services.
# stranger: nobody who is known here. tls: it speaks https. silent: no answer, or none that is HTTP.
Kind = Literal["own", "door", "failing", "another", "stranger", "tls", "silent"]

BODY_S = 1.0  # for a body, once its head has come
POLLING = "/ws/socket.io/?EIO=4&transport=polling"
CLOSED = "closed without an answer"
LATE = "no answer within"
HTTPS = "speaks https: not the documented service"
_DOORS = {401, 403, 407, *range(300, 400)} - {304}
_FAILING = {408, 425, 429}
# Where its sign is, when there is none at its READY_PATH: versions without that one, and what is shown to people.
_ELSEWHERE = {"comfy": ("/",), "ollama": ("/",), "openwebui": ("/health", "/api/config", "/")}
_PAGES = (
    ("comfy", re.compile(r"<title>[^<]*ComfyUI", re.IGNORECASE)),
    ("openwebui", re.compile(r"<title>[^<]*Open WebUI", re.IGNORECASE)),
    ("ollama", re.compile(r"\s*Ollama is running")),
)


@dataclass(frozen=True)
class Answer:
    """One answer. `error` says why there was none, and `status` is 0 then. `body` is its beginning, `ms` the time until
    its head had come."""

    status: int = 0
    reason: str = ""
    body: str = ""
    error: str = ""
    ms: float = 0.0
    location: str = ""

    @property
    def said(self) -> str:
        """`403 Forbidden`, or why there was no answer."""
        return self.error or f"{self.status} {self.reason}".strip()


@dataclass(frozen=True)
class Reply:
    """What an answer means for a tunnel: whether the service is `ready`, in words, and how long it took."""

    kind: Kind
    text: str
    ms: float

    @property
    def ready(self) -> bool:
        return self.kind in ("own", "door")


def ask(service: str, port: int, *, timeout_s: float) -> Reply:
    """Who answers for that service at a local port. Takes `timeout_s` at the most, whoever it is."""
    end = time.monotonic() + timeout_s
    first = get(port, READY_PATHS[service], timeout_s=timeout_s)
    reply = judge(service, first)
    if reply.kind != "stranger":
        return reply
    for path in _ELSEWHERE[service]:
        answer = get(port, path, timeout_s=max(0.05, end - time.monotonic()))
        who = sign(answer)
        if who or answer.status in _DOORS:
            return judge(service, answer, ms=first.ms)
    return reply


def judge(service: str, answer: Answer, *, ms: float | None = None) -> Reply:
    """One answer, by the rule above."""
    ms = answer.ms if ms is None else ms
    who = sign(answer)
    if answer.error == HTTPS or _is_tls(answer):
        return Reply("tls", HTTPS, ms)
    if not answer.status:
        return Reply("silent", answer.error, ms)
    if answer.status >= 500 or answer.status in _FAILING:
        return Reply("failing", answer.said, ms)
    if answer.status in _DOORS:
        elsewhere = re.match(r"(?i)https?://[^/?#]+", answer.location)
        if elsewhere and not re.search(r"//(127\.0\.0\.1|localhost|\[::1\])(:|$)", elsewhere[0]):
            return Reply("door", f"ready, leads on to {elsewhere[0]}", ms)
        return Reply("door", f"ready, behind a login ({answer.said})", ms)
    if who == service:
        return Reply("own", "ready", ms)
    if who:
        return Reply("another", f"{who} answers there", ms)
    return Reply("stranger", f"something else answers there ({answer.said})", ms)


def sign(answer: Answer) -> str:
    """Whose answer it is, by what only that service says; "" for nobody known."""
    if not 200 <= answer.status < 300:
        return ""
    found: object = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(answer.body)
    if isinstance(found, dict):
        if isinstance(found.get("system"), dict):
            return "comfy"
        if found.get("status") is True or "deployment_id" in found:
            return "openwebui"
        return "ollama" if isinstance(found.get("version"), str) and len(found) == 1 else ""
    return next((name for name, pattern in _PAGES if pattern.search(answer.body)), "")


def _is_tls(answer: Answer) -> bool:
    """nginx, Go and others say so in plain HTTP; a redirect to https at this very place comes to the same."""
    if answer.status == 400 and re.search(r"HTTPS (port|server)|SSL-enabled", answer.body, re.IGNORECASE):
        return True
    return bool(re.match(r"https://(127\.0\.0\.1|localhost|\[::1\])[:/]?", answer.location))


def speaks_tls(port: int, *, timeout_s: float) -> bool:
    """Whether somebody at a local port answers a TLS greeting. Such a server may hang up on HTTP without a word."""
    import ssl  # which nobody else needs

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said to it: who it is matters not
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as line, context.wrap_socket(line):
            return True
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason)
    except OSError:
        return False


# ---- websockets


def no_websocket(service: str, port: int, *, timeout_s: float) -> str:
    """Why the service takes none as a browser opens it (`403 Forbidden`); "" when it does, or needs none."""
    if service not in WEBSOCKETS:
        return ""
    answer = websocket(port, WEBSOCKETS[service], timeout_s=timeout_s)
    if answer.status == SWITCHING:
        return answer.error
    if answer.status in (400, 403) and service == "openwebui":  # uvicorn makes the one of the other
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            config = json.loads(get(port, "/api/config", timeout_s=timeout_s).body)
            if config["features"]["enable_websocket"] is False:
                polled = _ask(port, POLLING, {"Accept": "*/*"}, timeout_s)  # its page does without, and knows it
                return "" if polled.status == 200 else polled.said
    return answer.said


def websocket(port: int, path: str, *, timeout_s: float) -> Answer:
    """The answer to a browser's request for a websocket, which is closed again at once: 101 is right."""
    return _ask(port, path, upgrade(), timeout_s)


# ---- one request


def get(port: int, path: str, *, timeout_s: float) -> Answer:
    """The answer to one GET; `error` says why there was none. Follows no redirect and knows no proxy."""
    return _ask(port, path, {}, timeout_s)


def _ask(port: int, path: str, opening: dict[str, str], timeout_s: float) -> Answer:
    """By hand: `timeout_s` is for all of it, however slowly the other side speaks, and what is read has a bound."""
    began = time.monotonic()
    place = f"127.0.0.1:{port}"
    headers = {"Host": place, "User-Agent": "pantheon", "Accept": "*/*", "Connection": "close"}
    headers |= {"Origin": f"http://{place}"} | opening if opening else {}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as line:
            line.settimeout(timeout_s)
            line.connect(("127.0.0.1", port))
            line.sendall("\r\n".join(lines).encode())
            return _read(line, began, began + timeout_s, opening)
    except TimeoutError:
        error = f"{LATE} {timeout_s:g} s"
    except (ConnectionResetError, BrokenPipeError):
        error = CLOSED
    except OSError as problem:
        error = (problem.strerror or type(problem).__name__).lower()
    except Unread as problem:
        error = str(problem) if str(problem).startswith("not an HTTP") else CLOSED
    except _Tls:
        error = HTTPS
    return Answer(error=error, ms=_ms(began))


class _Tls(Exception):
    """The first bytes are a TLS alert."""


def _read(line: socket.socket, began: float, end: float, opening: dict[str, str]) -> Answer:
    pushed = first = b""

    def receive() -> bytes:
        nonlocal pushed, first
        piece, pushed = pushed, b""
        if not piece:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            line.settimeout(left)
            piece = line.recv(1 << 14)
        first = first or piece[:2]
        if first == b"\x15\x03":
            raise _Tls
        return piece

    status, reason, headers, rest = top_of(receive)
    while 100 <= status < 200 and status != SWITCHING:  # an interim answer: the real one follows
        pushed = rest
        status, reason, headers, rest = top_of(receive)
    ms, error = _ms(began), ""
    if status < 100:
        return Answer(error="not an HTTP answer", ms=ms)
    if status == SWITCHING:
        right = headers.get("sec-websocket-accept") == accepted(opening)
        error = "" if right else "101 with a wrong Sec-WebSocket-Accept"
        with contextlib.suppress(OSError):
            line.sendall(CLOSE_FRAME)
        rest = b""
    else:
        end = min(end, time.monotonic() + BODY_S)
        rest = _body(rest, receive, headers)
    body = rest.decode("utf-8", "replace")
    return Answer(status, plain(reason)[:80], body, error, ms, plain(headers.get("location", "")))


def _body(data: bytes, receive: Callable[[], bytes], headers: dict[str, str]) -> bytes:
    """The beginning of a body: as much of it as comes in time."""
    kept = bytearray()
    with contextlib.suppress(OSError, Unread):
        for piece in pieces(data, receive, headers):
            kept += piece[: MOST_BYTES - len(kept)]
            if len(kept) >= MOST_BYTES:
                break
    return bytes(kept)


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
