"""Finds out why a service does not answer at the end of a tunnel whose link is alive: over a connection of its own,
which is there only as long as it is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pantheon.errors import NotAllowed, PantheonError
from pantheon.remote import answers
from pantheon.remote.endpoint import CONNECT_S, resolve, tune
from pantheon.watched import READY_PATHS, Watched, Words, follow, in_words, published

if TYPE_CHECKING:
    from pantheon.remote.answers import Reply
    from pantheon.remote.tunnel import Tunnel

AskPassword = Callable[[str], str]

SOON_S = 0.5  # a hiccup is not worth a login
WATCH_S = 3600.0
CALM_S = 300.0  # without news, after which it is looked at more gently: this may go on all night
STOP_S = 2.0
TLS_S = 2.0
HELD_S = 6.0  # what is well there and does not answer here for that long is worth a word


def factory(ask_password: AskPassword | None = None) -> Callable[[Tunnel], Watcher]:
    """What makes a tunnel's watchers. The sudo password is asked for once for all of them, and kept in memory only."""
    ask = _Once(ask_password) if ask_password else None
    return lambda tunnel: Watcher(tunnel, ask_password=ask)


class Watcher:
    """Sets a tunnel's state in words, and what to type, until `stop`; follows the service to another port. What keeps
    it from looking is no error of the tunnel: it is said, or tried again gently."""

    def __init__(self, tunnel: Tunnel, *, ask_password: AskPassword | None = None) -> None:
        self.tunnel, self.host, self.service = tunnel, tunnel.host, tunnel.service
        self.defect: Exception | None = None
        self._ask_password = ask_password
        self._port = tunnel.seen.remote_port
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # after stop() has it, nothing of ours changes the tunnel any more
        self._line: socket.socket | None = None
        self._link: Any = None
        self._reply: Reply | None = None
        self._words, self._blind = Words(), ""
        self._asked_tls = self._tls = False
        self._runs = True  # as far as is known
        self._watched = Watched()
        self._answers_since = self._well_since = 0.0  # on the host; its container
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"pantheon-watch-{self.service}", daemon=True)
        self._thread.start()

    # ---- from the tunnel's thread

    def hear(self, reply: Reply) -> None:
        """What came instead of an answer, just now."""
        with self._lock:
            self._reply = reply
        self._show()

    def stop(self) -> None:
        """Ends it, wherever it is. Nothing is said any more when this returns."""
        with self._lock:
            self._stopping.set()
            line, link = self._line, self._link
        with contextlib.suppress(Exception):  # whatever is in the way of hanging up
            if line:
                line.shutdown(socket.SHUT_RDWR)
            elif link:  # over a ProxyCommand
                link.close()
        if self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    # ---- its own

    def _run(self) -> None:
        for pause in _pauses():
            if self._stopping.wait(pause):
                return
            try:
                self._watch()
            except NotAllowed as error:
                self._blind = error.message.partition(": ")[2] or error.message
                self._words = Words("", next(iter(error.next_commands), ""))
                self._show()
                return
            except PantheonError:
                pass  # the link is the tunnel's own matter
            except Exception as error:
                if not self._stopping.is_set():
                    self.defect = error
                    self._tell("!", f"why it does not answer cannot be seen: {type(error).__name__}: {error}", "")

    def _watch(self) -> None:
        from pantheon.remote import gather
        from pantheon.remote.connection import HostConnection

        endpoint = self.tunnel.endpoint or resolve(self.host)
        connection = first = HostConnection(endpoint, ask_password=self._ask_password)
        while isinstance(first.gateway, HostConnection):
            first = first.gateway
        dialled: Any = _Dialled(self, first.endpoint.hostname, first.endpoint.port)
        first.early = dialled
        try:
            with connection:
                connection.open()
                self._link = connection.transport
                while not self._stopping.is_set():
                    self._watched, self._answers_since, self._well_since = Watched(), 0.0, 0.0
                    urls = {self.service: f"http://127.0.0.1:{self._port}{READY_PATHS[self.service]}"}
                    gather.watch(connection, urls, deadline_s=WATCH_S, calm_s=CALM_S, on_frame=self._on_frame)
        finally:
            with self._lock:
                self._line = self._link = None

    def _on_frame(self, frame: dict[str, Any]) -> bool:
        """Whether this watch is over: told to stop, or the service is elsewhere."""
        if self._stopping.is_set():
            return True
        self._watched = follow(self.service, self._watched, frame, late=False)
        self._runs = (frame.get("containers", {}).get(self.service) or {}).get("state") == "running"
        words, moved = self._look_at_ports(frame)
        words = words or in_words(self.host, self.service, self._watched, frame)
        there, now = 200 <= frame.get("http", {}).get(self.service, 0) < 500, time.monotonic()
        self._answers_since = (self._answers_since or now) if there else 0.0
        self._well_since = (self._well_since or now) if words.well else 0.0
        if words.mend and not self._asked_tls and published(self.service, frame) and self._is_mute():
            self._asked_tls, self._tls = True, answers.speaks_tls(self.tunnel.seen.port, timeout_s=TLS_S)
        self._words = words
        self._show()
        return moved

    def _is_mute(self) -> bool:
        reply = self._reply
        return reply is not None and reply.text == answers.CLOSED

    def _is_somebody(self) -> bool:
        """Whether somebody is there who may yet be the service, or the way to it."""
        reply = self._reply
        return reply is not None and (reply.kind == "failing" or _is_late(reply))

    def _look_at_ports(self, frame: dict[str, Any]) -> tuple[Words | None, bool]:
        """What is wrong with where it is published, and whether it was followed elsewhere."""
        at, here = published(self.service, frame), f"--host {self.host.name}"
        if at is None:
            return None, False
        if at.beyond:
            self._tell("!", f"is published beyond loopback: {', '.join(at.beyond)}", f"invoke fix.exposed-ports {here}")
        if self._port in at.here:
            with self._lock:
                self.tunnel.vouched = self._reply is not None and self._reply.kind == "stranger"
            return None, False
        if len(at.here) == 1:
            if self._is_somebody():  # hosts.toml may name a proxy in front of it, which must not be gone around
                return None, False
            self._follow(at.here[0])
            return None, True
        if at.here:
            ports = ", ".join(map(str, at.here))
            return Words(f"is published on ports {ports}, not on {self._port}", "set its port in hosts.toml"), False
        if at.beyond:
            text = f"is published on {', '.join(at.beyond)} only, not on 127.0.0.1"
            return Words(text, f"invoke fix.exposed-ports {here}"), False
        if at.aside:
            text = f"is published on {', '.join(at.aside)} only, not on 127.0.0.1"
            return Words(text, f"invoke fix.browser-access {here}"), False
        return None, False

    def _follow(self, port: int) -> None:
        old, self._port = self._port, port
        said = self.host.service(self.service).port
        mend = f"set port = {port} for {self.service} in hosts.toml" if said != port else ""
        why = f"; hosts.toml here says {said}" if said != port else ", as hosts.toml says"
        with self._lock:
            if self._stopping.is_set():
                return
            self.tunnel.vouched = False
        self._tell("!", f"moved from port {old} to {port} on the host, followed{why}", mend)
        self.tunnel.move(port)

    def _show(self) -> None:
        """The tunnel's state: what the container says, unless what answers says more."""
        with self._lock:
            reply, words = self._reply, self._words
            if self._stopping.is_set() or reply is None:
                return
            text, mend = self._state(reply, words)
            self.tunnel.note(state=text, mend=mend)
        if mend or (text != reply.text and text[:1].isdigit()):  # a trouble, or a stage
            self._tell("!" if mend else "·", text, mend)

    def _state(self, reply: Reply, words: Words) -> tuple[str, str]:
        here = f"--host {self.host.name}"
        if self._blind:
            return f"{reply.text}; why cannot be seen: {self._blind}", words.mend
        if reply.kind == "tls" or (self._tls and reply.text == answers.CLOSED):
            return answers.HTTPS, f"invoke fix.wrong-version-number {here}"
        if reply.kind == "silent" and _held(self._answers_since):
            return "answers on the host, but not through the tunnel", f"invoke fix.browser-access {here}"
        if _is_late(reply) and not self._runs:  # somebody takes his time; one of our names is not all there may be
            return ", and ".join(filter(None, (reply.text, words.text))), ""
        if _is_late(reply) and words.well and reply.ms < 1000 * HELD_S:  # that is asked again, with more patience
            return reply.text, ""
        if reply.kind == "silent" and words.text and (not words.well or _held(self._well_since)):
            return words.text, words.mend
        somebody = reply.kind in ("another", "stranger")
        if words.mend and not words.well:
            somebody = not self._runs and (somebody or reply.kind == "failing")
            return f"{reply.text}, and {words.text}" if somebody else words.text, words.mend
        return reply.text, f"invoke diagnose {here}" if somebody else ""

    def _tell(self, sign: str, text: str, mend: str) -> None:
        """Once for each thing: what counts on, or dies with other last words, is none."""
        kind = mend + "".join(letter for letter in text.partition(": ")[0] if not letter.isdigit())
        with self._lock:
            if self._stopping.is_set() or kind in self._told:
                return
            self._told.add(kind)
        self.tunnel.happened(sign, text, mend)


def _is_late(reply: Reply) -> bool:
    return reply.text.startswith(answers.LATE)


def _held(since: float) -> bool:
    return bool(since) and time.monotonic() - since > HELD_S


def _pauses() -> Iterator[float]:
    yield SOON_S
    yield from (2.0, 5.0, 10.0)
    while True:
        yield 30.0


class _Dialled:
    """The first connection on the way, as HostConnection takes one that was begun earlier: its making ends when the
    watcher is stopped, and so does all that goes over it."""

    def __init__(self, watcher: Watcher, hostname: str, port: int) -> None:
        self.watcher, self.hostname, self.port = watcher, hostname, port

    def take(self) -> socket.socket:
        failed: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        for family, kind, proto, _, address in socket.getaddrinfo(self.hostname, self.port, type=socket.SOCK_STREAM):
            line = socket.socket(family, kind, proto)
            try:
                self._connect(line, address)
            except OSError as error:
                line.close()
                failed = error
                continue
            with self.watcher._lock:
                if not self.watcher._stopping.is_set():
                    self.watcher._line = line
                    return line
            line.close()
        raise failed

    def _connect(self, line: socket.socket, address: Any) -> None:
        line.setblocking(False)
        code, until = line.connect_ex(address), time.monotonic() + CONNECT_S
        while code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            if self.watcher._stopping.is_set() or time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            if select.select([], [line], [], 0.1)[1]:
                code = line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        line.setblocking(True)
        tune(line)

    def close(self) -> None:
        """Whoever took it closes it."""


class _Once:
    """Asks for a password once, whoever needs it first, and has the answer ready for the others."""

    def __init__(self, ask: AskPassword) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self._password: str | None = None

    def __call__(self, prompt: str) -> str:
        with self._lock:
            if self._password is None:
                self._password = self._ask(prompt)
            return self._password
