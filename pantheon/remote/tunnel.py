"""One service's way in, kept open: OpenSSH carries the bytes (three times as fast as anything in Python, and it
survives a browser's fifty connections), this supervises it and leaves nothing behind.

Two things are watched, and told apart: the link, by ssh itself (ServerAlive, 8 s), and the service, by a request from
end to end. A service that is slow or down never costs a link; a link that is dead is made anew on the same local port.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pantheon.errors import HostError, LoginRefused, NotAllowed, NotReached, NotTrusted, PantheonError, UsageError
from pantheon.inventory import Host
from pantheon.remote import answers, ciphers, ports, refused, ssh, verified
from pantheon.remote.carrier import Carrier
from pantheon.remote.endpoint import Endpoint, resolve
from pantheon.remote.knock import Knocker
from pantheon.tunnel import BUSY, FORBIDDEN, HUNG_UP, Event, Outage, Seen, pauses, span, understand

SESSION_S = 3.0  # that a session lives for which another link may have one too
PACE_S = 10.0  # between two requests as long as all is well
SOON_S = 1.0  # and when the service does not answer
LATER_S, SOON_TRIES = 10.0, 60  # after so many of them: sshd notes each that finds nobody there, all night
ANSWER_S = 5.0
SLOW_S = 30.0  # for an answer of a service that has just been slow: no browser gives one up for that
AWAKE_S = 2.0  # for an answer, after this machine has slept
ASLEEP_S = 5.0  # a wait that took so much longer than it should: this machine slept
TICK_S = 1.0  # between two looks at the clock, and at what signals nothing
HUNG = 2  # requests in vain in which ssh did nothing at all
WORD_S = 0.3  # for ssh's word on a client that it has just turned away, or for its end
LOOK_S = 0.02
FORBIDDEN_S = 10.0  # between two logins to a server that does not forward: it may have been told to, meanwhile
LOGIN_S, LOGIN_AGAIN_S = 60.0, 30.0  # the first time somebody may have to find a security key
BUSY_S = (0.25, 0.5, 1.0)  # pauses: sshd turns away whom it has no room for just now, the second of our own tunnels too
PORT_TRIES = 20  # of two tunnels that are opened at the same moment one finds its port taken
CLOSE_S = 2.0
# How often ssh must say so before a tunnel that was open is given up: known_hosts may be in other hands at this very
# moment. A host that was away may be on its way up, without the directory that holds its users' keys.
DOUBTS = {"untrusted": 2, "refused": 4}
REFUSED_S = 20.0

# Goes on while this machine sleeps, as macOS' other one does; setting the time of day changes neither.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def awake() -> float:
    """Seconds, those that this machine has slept included."""
    return time.clock_gettime(_CLOCK)


class Tunnel:
    """The way in to one service. `start` opens it in a thread of its own, which keeps it open until `close`.

    `seen` is what it is now and `failed` why it was given up: NotTrusted, LoginRefused, NotReached and NotAllowed (the
    first time; a link that is lost later is made anew), UsageError for a port. `tell` gets each Event, in that thread.
    `watch` makes what finds out why a service does not answer (remote/watcher.py)."""

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
        self.vouched = False  # the service's own container publishes the port, whatever answers there
        self._insists, self._tell = bool(port), tell
        self._watch, self._watcher = watch, None
        self._carrier: Carrier | None = None
        self._knocker: Knocker | None = None
        self._session = True  # as long as the host gives one (ssh.SESSION)
        self._linked = 0.0  # since when the present link is there
        self._proved = False  # something came through
        self._moving = 0  # the service's new port on the host
        self._doubts, self._doubted = 0, 0.0
        self._forbidden = 0.0  # since when
        self._outage = Outage()
        self._patience = ANSWER_S
        self._unanswered = 0
        self._held = ""  # who was said to hold the local port
        self._closing, self._wake = threading.Event(), threading.Event()
        self._lock, self._noting = threading.Lock(), threading.Lock()
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
        self._wake.set()
        with self._lock:
            if self._carrier:
                self._carrier.stop()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)  # what else it may be waiting for starts nothing any more

    def move(self, remote_port: int) -> None:
        """The service has another port on the host: go there, with the same local one."""
        if remote_port != self._seen.remote_port:
            self._moving = remote_port
            self._wake.set()

    def note(self, **changes: Any) -> None:
        with self._noting:
            self._seen = replace(self._seen, **changes)

    def happened(self, sign: str, text: str, mend: str = "") -> None:
        self._tell(Event(time.time(), self.service, sign, text, mend))

    # ---- the thread, which every ssh has as its parent

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
            if lost:
                self._end_watch()
            self._drop()
            carrier = self._anew(lost)

    def _anew(self, lost: str) -> Carrier | None:
        """A new link in the place of one that was lost or, without a reason, given up; None when the tunnel is being
        closed. Raises what no new attempt would change."""
        began, away, told = time.monotonic(), False, False

        def tell_lost(why: str) -> None:
            nonlocal told
            self.note(phase="lost", latency_ms=None, state=why, mend="")
            if not told:
                told = True
                self.happened("!", f"link lost: {lost or why}")

        def nobody_opened(why: str) -> None:
            nonlocal away
            away = True
            tell_lost(why)

        if lost:
            tell_lost(lost)
        self._doubts = 0
        for pause in pauses():
            self._wait(pause)
            if self._knocker and not self._knocker.answered(self._closing, told=nobody_opened):
                return None
            if self._closing.is_set():
                return None
            try:
                carrier = self._connect(again=True, away=away)
            except HostError as error:
                if not passes(error):
                    raise
                tell_lost(error.message)
                continue
            if carrier and told:
                self.note(reconnects=self._seen.reconnects + 1)
                self.happened("✓", f"link back after {span(time.monotonic() - began)}")
            return carrier
        return None

    def _connect(self, *, again: bool = False, away: bool = False) -> Carrier | None:
        """A link that is logged in and listens; None when the tunnel is being closed. Raises what a HostConnection
        raises, NotReached for what may pass, and UsageError for a local port."""
        if self._moving:
            self.note(remote_port=self._moving)
            self._moving = 0
        try:
            endpoint = self.endpoint = resolve(self.host)
            known = verified.verified_file(endpoint)
            fast = ciphers.preferred(endpoint, ask=not again)
        except OSError as error:  # no process, no file: this machine has run out of something
            text = f"{self.host.name}: ssh cannot be started: {error.strerror or error}"
            raise NotReached(text, next_commands=["ulimit -a", "df -h ~ /tmp"]) from error
        busy = iter(() if again else BUSY_S)
        for _ in range(PORT_TRIES):
            port = self._local_port(again=again)
            listen = ssh.forwards(self.addresses, port, self._seen.remote_port)
            argv = ssh.command(endpoint, known, forwards=listen, ciphers=fast, session=self._session)
            with self._lock:
                if self._closing.is_set():
                    return None
                carrier = self._carrier = Carrier(
                    argv,
                    heard=self._wake.set,
                    session=self._session,
                    watchdog=bool(endpoint.gateway or endpoint.proxy_command),
                )
            self._log_in(carrier, LOGIN_AGAIN_S if again else LOGIN_S)
            if self._closing.is_set():
                return None
            if carrier.listening.is_set():
                self._held, self.vouched, self._linked = "", False, time.monotonic()
                self.note(port=port, phase="waiting", since=time.time(), latency_ms=None, state="", mend="")
                self._knocker = self._knocker if self._knocker and again else Knocker(endpoint)
                self._knocker.remember()
                return carrier
            said = understand(carrier.said())
            if said.text in (BUSY, HUNG_UP) and (pause := next(busy, 0.0)):
                self._wait(pause)
            elif said.ending != "taken":
                break
        raise self._why(endpoint, carrier.said(), again=again, away=away)

    def _log_in(self, carrier: Carrier, patience_s: float) -> None:
        """Wait until it listens, or has ended."""
        end, touch = time.monotonic() + patience_s, False
        while not (carrier.listening.is_set() or carrier.ended.is_set()):
            if not touch and ssh.wants_touch(carrier.said()):
                touch = True
                self.note(state="touch the security key")
                self.happened("·", "touch the security key: ssh waits for it")
            if time.monotonic() > end:
                carrier.stop()
                raise NotReached(
                    f"{self.endpoint.label if self.endpoint else self.host.name}: no login within {patience_s:.0f} s",
                    details=carrier.said()[-10:],
                    next_commands=[f"invoke validate --host {self.host.name}"],
                )
            self._wake.wait(TICK_S)
            self._wake.clear()

    def _local_port(self, *, again: bool) -> int:
        """The service's own port or the next free one; from then on always that one."""
        if again or self._insists:
            try:
                return ports.free_port(self._seen.port, only=True)
            except UsageError as error:
                if not again:
                    raise
                if self._held != error.message:
                    self._held = error.message
                    self.happened("!", f"{error.message}: waiting for it", next(iter(error.next_commands), ""))
                raise NotReached(error.message, next_commands=error.next_commands) from None
        own = self._seen.remote_port
        kept = _kept()
        port = ports.free_port(own)
        while port in kept:
            port = ports.free_port(port + 1)
        if port != own:
            why = ports.why_not(own) or f"port {own} here is kept for the tunnel to {kept.get(own, 'another host')}"
            self.note(note=f"{why}, so {port}")
        return port

    def _why(self, endpoint: Endpoint, words: list[str], *, again: bool, away: bool) -> HostError:
        """Why ssh ended before it listened. Of a tunnel that was open only what ssh says again and again is final."""
        said = understand(words)
        if again:
            self._doubts = self._doubts + 1 if said.ending in DOUBTS else 0
            if self._doubts == 1:
                self._doubted = time.monotonic()
            late = time.monotonic() - self._doubted > REFUSED_S or not away or said.ending == "untrusted"
            if self._doubts < DOUBTS.get(said.ending, 1 << 30) or not late:
                return NotReached(said.text)
        return refused.explain(endpoint, self.service, words)

    # ---- a link that is there

    def _attend(self, carrier: Carrier) -> str:
        """Ask the service from end to end, as long as the link lives. Returns in words why it does not; "" when
        another one is to take its place."""
        self._patience, hung = ANSWER_S, 0
        while True:
            self._wake.clear()
            carrier.refusal = ""
            was_ready, began, turns = self._seen.phase == "ready", awake(), carrier.turns()
            patience = self._patience
            reply = answers.ask(self.service, self._seen.port, timeout_s=patience)
            took = awake() - began
            if self._has_ended(carrier, patience_s=WORD_S if reply.kind == "silent" else 0.0):
                break
            in_vain = reply.kind == "silent" and reply.ms >= 900 * patience
            slept = max(0.0, took - patience)
            is_slow = in_vain and was_ready and patience == ANSWER_S  # which is no outage yet
            if not in_vain:
                hung = 0
            elif slept < ASLEEP_S:
                hung = hung + 1 if turns is not None and turns == carrier.turns() else 0
                if hung == HUNG or carrier.stands_still():
                    return self._give_up(carrier, "ssh hung")
                if patience == AWAKE_S and was_ready:
                    return self._give_up(carrier, "no answer since this machine woke")
            self._patience = SLOW_S if not hung and reply.ms > 500 * ANSWER_S else ANSWER_S
            if slept < ASLEEP_S:
                if is_slow:
                    self.note(latency_ms=None, state=f"slow: {reply.text}")
                elif self._judge(carrier, reply):
                    return ""
                slept = self._wait(SOON_S if is_slow else self._pace(), carrier)
            if slept >= ASLEEP_S:
                self.happened("·", f"this machine slept, or pantheon was stopped, for {span(slept)}")
                self._patience = AWAKE_S
            if self._moving:
                return ""
            if self._has_ended(carrier, patience_s=0.0):
                break
            if carrier.stands_still():
                return self._give_up(carrier, "ssh hung")
        carrier.ended.wait(CLOSE_S)
        words = carrier.said() or (["the host ended the session"] if self._session else [])
        if self._session and not self._closing.is_set():
            # Another end so soon after the login may be the session's too: no loop may come of that.
            self._session = time.monotonic() > self._linked + SESSION_S
            if carrier.has_lost_its_session():
                self._session = False
                return ""
        return understand(words).text

    def _give_up(self, carrier: Carrier, why: str) -> str:
        carrier.stop(0)
        return why

    def _judge(self, carrier: Carrier, reply: answers.Reply) -> bool:
        """What an answer says of the service. Whether a new login may change it."""
        if reply.ready or (reply.kind == "stranger" and self.vouched):
            self._answers(carrier, reply)
            return False
        if carrier.refusal == "forbidden":
            return self._is_forbidden()
        self._forbidden, self._proved = 0.0, True
        if carrier.refusal == "nothing" and reply.kind == "silent":
            reply = replace(reply, text=f"nothing listens on port {self._seen.remote_port} there")
        self._does_not_answer(reply)
        return False

    def _is_forbidden(self) -> bool:
        """sshd does not forward: nothing to wait for, unless it did before."""
        mend = f"invoke fix.browser-access --host {self.host.name}"
        if not self._proved and self.endpoint:
            text = f"{self.endpoint.label}: {FORBIDDEN} (AllowTcpForwarding, PermitOpen)"
            raise NotAllowed(text, next_commands=[mend])
        if not self._forbidden:
            self._forbidden = time.monotonic()
            self._end_watch()
            self.happened("!", FORBIDDEN, mend)
        self._outage.lasts(time.monotonic())
        self.note(phase="waiting", latency_ms=None, state=FORBIDDEN, mend=mend, websocket="")
        if time.monotonic() < self._forbidden + FORBIDDEN_S:
            return False
        self._forbidden = time.monotonic()
        return True

    def _pace(self) -> float:
        if self._seen.phase == "ready":
            return PACE_S
        return SOON_S if self._unanswered < SOON_TRIES else LATER_S

    def _has_ended(self, carrier: Carrier, *, patience_s: float) -> bool:
        """Whether what a client missed is the link's end and no fault of the service. ssh may hang up on clients a
        moment before it is gone, or before it says that the host has turned one away."""
        end = time.monotonic() + patience_s
        while carrier.is_alive() and not (self._closing.is_set() or carrier.refusal) and time.monotonic() < end:
            self._wake.wait(LOOK_S)
            self._wake.clear()
        return self._closing.is_set() or not carrier.is_alive()

    def _answers(self, carrier: Carrier, reply: answers.Reply) -> None:
        self._end_watch()
        self._unanswered = 0
        self._forbidden, self._proved = 0.0, True
        self.vouched = self.vouched and not reply.ready
        self.note(latency_ms=reply.ms, state=reply.text if reply.ready else "ready")
        if self._seen.phase == "ready" and not self._seen.websocket:
            return
        # Behind a login nobody gets a websocket without one either: whether it takes any is not known.
        no_websocket = "" if reply.kind == "door" else self._no_websocket()
        if no_websocket and self._has_ended(carrier, patience_s=WORD_S):
            return
        mend = f"invoke fix.browser-access --host {self.host.name}" if no_websocket else ""
        took_none, was_down = self._seen.websocket, self._outage.ends(time.monotonic())
        self.note(websocket=no_websocket, mend=mend, phase="ready")
        if was_down is not None:
            self.happened("✓", f"{self.service} answers again after {span(was_down)}")
        if took_none and not no_websocket:
            self.happened("✓", f"{self.service} takes a websocket now")
        if no_websocket and not took_none:
            self.happened("!", f"{self.service} takes no websocket ({no_websocket}): its page stays dead", mend)

    def _no_websocket(self) -> str:
        """Why the service takes none; "" when it does, or needs none."""
        return answers.no_websocket(self.service, self._seen.port, timeout_s=self._patience)

    def _does_not_answer(self, reply: answers.Reply) -> None:
        self._unanswered += 1
        if reply.kind != "stranger":
            self.vouched = False
        was_ready = self._seen.phase == "ready"
        if (was_ready or self._outage.since) and self._outage.lasts(time.monotonic()):
            self.happened("!", f"{self.service} does not answer: {reply.text}{self._outage.said}")
        if was_ready:
            self.note(mend="")
        self.note(phase="waiting", latency_ms=None)
        if self._watch and self._watcher is None and (self._outage.is_told or not self._outage.since):
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

    def _wait(self, seconds: float, carrier: Carrier | None = None) -> float:
        """Wait, or until there is something to do: the tunnel is being closed or moved, the link has ended or ssh
        stands still, a client was turned away by a service that was well. Returns how long this machine slept."""
        end = awake() + seconds
        while not (self._closing.is_set() or self._moving) and (before := awake()) < end:
            if carrier and (carrier.ended.is_set() or carrier.stands_still()):
                break
            if carrier and carrier.refusal and self._seen.phase == "ready":
                break
            wait_s = min(TICK_S, end - before)
            self._wake.wait(wait_s)
            self._wake.clear()
            slept = awake() - before - wait_s
            if slept >= ASLEEP_S:
                return slept
        return 0.0


def _kept() -> dict[int, str]:
    """Local ports of our own open tunnels that have no link just now, and so hold none: whose they are."""
    found = {}
    with contextlib.suppress(Exception):  # whatever lies in that folder
        from pantheon.remote import ledger

        for entry in ledger.entries(keep=True):
            if entry.is_open and entry.seen.phase == "lost":
                found[entry.seen.port] = f"{entry.seen.service} of {entry.seen.host}"
    return found


def passes(error: HostError) -> bool:
    """Whether a new attempt may go better. Not that of a host that is not trusted or does not let us in; what this
    machine could not write (a full disk) says nothing of the host."""
    full = isinstance(error, NotTrusted) and isinstance(error.__cause__, OSError)
    return full or not isinstance(error, (NotTrusted, LoginRefused))
