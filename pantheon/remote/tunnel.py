"""One service's way in, kept open: OpenSSH carries the bytes (three times as fast as anything in Python, and it
survives a browser's fifty connections), this supervises it and leaves nothing behind.

Two things are watched, and told apart: the link, by ssh itself (ServerAlive, 8 s), and the service, by a request from
end to end. A service that is slow or down never costs a link; a link that is dead is made anew on the same local port.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pantheon.errors import HostError, NotReached, PantheonError, UsageError
from pantheon.inventory import Host
from pantheon.remote import answers, ciphers, ports, ssh, verified
from pantheon.remote.carrier import Carrier
from pantheon.remote.endpoint import Endpoint, resolve
from pantheon.remote.knock import Knocker
from pantheon.tunnel import Event, Seen, ending, pauses

PACE_S = 10.0  # between two requests as long as all is well
SOON_S = 1.0  # and when the service does not answer
ANSWER_S = 5.0
AWAKE_S = 2.0  # for an answer, after this machine has slept
ASLEEP_S = 5.0  # a wait that took so much longer than it should: this machine slept


class Tunnel:
    """The way in to one service. `start` opens it in a thread of its own, which keeps it open until `close`.

    `seen` is what it is now and `failed` why it was given up: NotTrusted, LoginRefused, NotReached (the first time; a
    link that is lost later is made anew), UsageError for a port. `tell` gets each Event, in that thread. `watch` makes
    what finds out why a service does not answer (remote/watcher.py)."""

    def __init__(
        self,
        host: Host,
        service: str,
        *,
        port: int = 0,
        tell: Callable[[Event], None] = lambda _: None,
        watch: Callable[[Tunnel], Any] | None = None,
    ) -> None:
        self.host, self.service = host, service
        self.failed: PantheonError | None = None
        self.defect: BaseException | None = None
        self.endpoint: Endpoint | None = None
        self.addresses = ports.loopback()
        self._insists, self._tell = bool(port), tell
        self._watch, self._watcher = watch, None
        self._carrier: Carrier | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._noting = threading.Lock()
        self.vouched = False  # the service's own container publishes the port, whatever answers there
        self._seen = Seen(service, host.name, port, host.service(service).port, opened=time.time())
        self._thread = threading.Thread(target=self._run, name=f"pantheon-tunnel-{service}", daemon=True)

    # ---- from outside

    @property
    def seen(self) -> Seen:
        return self._seen

    def start(self) -> None:
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End it: nothing listens any more when this returns, and no ssh is left."""
        self._closing.set()
        with self._lock:
            if self._carrier:
                self._carrier.stop()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, **changes: Any) -> None:
        with self._noting:
            self._seen = replace(self._seen, **changes)

    def happened(self, sign: str, text: str, mend: str = "") -> None:
        self._tell(Event(time.time(), self.service, sign, text, mend))

    # ---- the thread

    def _run(self) -> None:
        try:
            self._keep_open()
        except PantheonError as error:
            self.failed = error
        except BaseException as error:  # raised again where it can be told
            self.defect = error
        finally:
            self._end_watch()
            self._drop()
            self.note(phase="ended", latency_ms=None)

    def _keep_open(self) -> None:
        carrier = self._connect()
        while carrier:
            lost = self._attend(carrier)
            if self._closing.is_set():
                return
            self._drop()
            carrier = self._anew(lost)

    def _anew(self, lost: str) -> Carrier | None:
        """A new link in the place of one that was lost; None when the tunnel is being closed."""
        began = time.monotonic()
        self.note(phase="lost", latency_ms=None, state=lost)
        self.happened("!", f"link lost: {lost}")
        knocker = Knocker(self.endpoint) if self.endpoint else None
        for pause in pauses():
            if self._wait(pause) or (knocker and not knocker.answered(self._closing)):
                return None
            try:
                carrier = self._connect(again=True)
            except NotReached as error:
                self.note(state=error.message)
                continue
            if carrier:
                self.note(reconnects=self._seen.reconnects + 1)
                self.happened("✓", f"link back after {time.monotonic() - began:.0f} s")
            return carrier
        return None

    def _connect(self, *, again: bool = False) -> Carrier | None:
        """A link that is logged in and listens; None when the tunnel is being closed. Raises what a HostConnection
        raises, NotReached for what may pass, and UsageError for a local port."""
        endpoint = self.endpoint = resolve(self.host)
        known = verified.verified_file(endpoint)
        while True:
            port = self._local_port(again=again)
            listen = ssh.forwards(self.addresses, port, self._seen.remote_port)
            argv = ssh.command(endpoint, known, forwards=listen, ciphers=ciphers.preferred(endpoint))
            with self._lock:
                if self._closing.is_set():
                    return None
                carrier = self._carrier = Carrier(argv)
            while not (carrier.listening.wait(0.05) or carrier.ended.is_set()):
                pass
            if carrier.listening.is_set():
                self.note(port=port, phase="waiting", since=time.time(), state="")
                return carrier
            if self._closing.is_set():
                return None
            if ending(carrier.said()) != "taken" or self._insists or again:
                raise self._why(carrier)

    def _local_port(self, *, again: bool) -> int:
        """The service's own port or the next free one; from then on always that one."""
        if again or self._insists:
            try:
                return ports.free_port(self._seen.port, only=True)
            except UsageError as error:
                raise (NotReached(error.message, next_commands=error.next_commands) if again else error) from None
        own = self._seen.remote_port
        port = ports.free_port(own)
        if port != own:
            self.note(note=f"port {own} here is held by {ports.holder_of(own)}, so {port}")
        return port

    def _why(self, carrier: Carrier) -> HostError:
        """Why ssh ended before it listened. What is the same for every command of ours is said as they say it: ssh
        would have the operator mend a file of ours, under a name of ours."""
        assert self.endpoint
        words, label = carrier.said(), self.endpoint.label
        meaning = ending(words)
        if meaning in ("untrusted", "refused", "unreached", "unknown"):
            from pantheon.remote.connection import HostConnection

            try:
                with HostConnection(self.endpoint) as connection:
                    connection.open()
            except HostError as error:
                return error
        return NotReached(
            f"{label}: ssh could not open the tunnel to {self.service}",
            details=words[-10:],
            next_commands=[f"invoke validate --host {self.host.name}"],
        )

    # ---- a link that is there

    def _attend(self, carrier: Carrier) -> str:
        """Ask the service from end to end, as long as the link lives. Returns in words why it does not."""
        patience = ANSWER_S
        while not self._closing.is_set():
            reply = answers.ask(self.service, self._seen.port, timeout_s=patience)
            if carrier.ended.is_set():
                break
            patience = ANSWER_S
            if reply.ready or (reply.kind == "stranger" and self.vouched):
                self._answers(reply)
            else:
                self._does_not_answer(reply)
            slept = self._wait(PACE_S if self._seen.phase == "ready" else SOON_S, carrier.ended)
            if carrier.ended.is_set():
                break
            if slept:
                patience = AWAKE_S
        words = carrier.said()
        return words[-1] if words else "ssh ended without a word"

    def _answers(self, reply: answers.Reply) -> None:
        self._end_watch()
        self.vouched = self.vouched and not reply.ready
        self.note(latency_ms=reply.ms, state=reply.text if reply.ready else "ready")
        if self._seen.phase == "ready":
            return
        # Behind a login nobody gets a websocket without one either: whether it takes any is not known.
        refused = "" if reply.kind == "door" else self._no_websocket()
        mend = f"invoke fix.browser-access --host {self.host.name}" if refused else ""
        self.note(websocket=refused, mend=mend, phase="ready")
        if refused:
            self.happened("!", f"{self.service} takes no websocket ({refused}): its page stays dead", mend)

    def _no_websocket(self) -> str:
        """Why the service takes none; "" when it does, or needs none."""
        return answers.no_websocket(self.service, self._seen.port, timeout_s=ANSWER_S)

    def _does_not_answer(self, reply: answers.Reply) -> None:
        if self._seen.phase == "ready":
            self.happened("!", f"{self.service} does not answer: {reply.text}")
            self.note(websocket="", mend="")
        self.note(phase="waiting", latency_ms=None)
        if self._watch and self._watcher is None:
            self._watcher = self._watch(self)
        if self._watcher:
            self._watcher.hear(reply)
        else:
            self.note(state=reply.text)

    def _end_watch(self) -> None:
        if self._watcher:
            self._watcher.stop()
            self._watcher = None

    # ---- small things

    def _drop(self) -> None:
        with self._lock:
            carrier, self._carrier = self._carrier, None
            if carrier:
                carrier.stop()

    def _wait(self, seconds: float, event: threading.Event | None = None) -> bool:
        """Wait, or until `event` or the end of the tunnel. Whether this machine slept meanwhile, or the tunnel is
        being closed."""
        until, clock = time.monotonic() + seconds, time.time() + seconds
        while time.monotonic() < until and not self._closing.is_set() and not (event and event.is_set()):
            (event or self._closing).wait(min(0.1, max(0.0, until - time.monotonic())))
        return self._closing.is_set() or time.time() > clock + ASLEEP_S
