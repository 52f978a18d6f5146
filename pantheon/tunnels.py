"""What `invoke tunnel` does: open, prove, show, keep open, close. remote/tunnel.py keeps one tunnel open; here are the
services that were asked for, what the operator sees, and the record of what is open.

Each function returns the exit code of its command (PRODUCT.md) and raises PantheonError for what went wrong."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pantheon.errors import NotReached, PantheonError, UsageError
from pantheon.inventory import SERVICES, Host
from pantheon.tunnel import Event, Seen

if TYPE_CHECKING:
    from pantheon.options import Options
    from pantheon.remote.tunnel import Tunnel
    from pantheon.report.console import Console

TICK_S = 0.25
CALM_S = 1.0  # between two looks when nothing is awaited: this runs all day
MOMENT_S = 0.5  # in which equal events of several tunnels are one
LOGIN_S = 60.0  # that a check gives a login
CHECK_S = 20.0  # that a check gives a service, once logged in
TROUBLE_S = 5.0  # and one of which it is known that something has to be done
INTERRUPTED = 130  # what was to come to something, and did not; an open tunnel is closed by Ctrl-C, with 0
END_S = 5.0  # for what still runs when a tunnel is closed
PAGES = ("comfy", "openwebui")  # what a browser has something of


@dataclass(frozen=True)
class Wish:
    """What was asked for. `port` 0: the service's own on this side too, or the next free one."""

    service: str
    port: int = 0
    open: bool = False
    background: bool = False
    check: bool = False
    print_ssh: bool = False

    @property
    def services(self) -> tuple[str, ...]:
        return SERVICES if self.service == "all" else (self.service,)


def open_(host: Host, wish: Wish, *, options: Options, report: Console) -> int:
    """Open, and keep open until Ctrl-C; or whatever else was wished for."""
    sensible(host, wish)
    if wish.print_ssh:
        return _print_ssh(host, wish, report)
    if wish.background:
        from pantheon import background

        return background.open_(host, wish, options=options, report=report)
    return Opened(host, wish, options, report).run()


def sensible(host: Host, wish: Wish) -> None:
    """Raises UsageError for what cannot be meant."""
    again = f"invoke tunnel {wish.service} --host {host.name}"
    if wish.service.startswith("-"):
        raise UsageError(
            f"{wish.service!r} is no service: {', '.join(SERVICES)} or all; options come after it",
            next_commands=["invoke --help tunnel"],
        )
    if wish.service not in (*SERVICES, "all"):
        raise UsageError(
            f"no service {wish.service!r}: {', '.join(SERVICES)} or all", next_commands=[_instead(host, wish.service)]
        )
    if wish.port and wish.service == "all":
        raise UsageError("--port is for one service", next_commands=[again])
    if wish.open and not set(wish.services) & set(PAGES):
        raise UsageError(f"{wish.service} has no page to open in a browser", next_commands=[again])
    modes = {"--background": wish.background, "--check": wish.check, "--print-ssh": wish.print_ssh}
    given = [name for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", next_commands=[f"{again} {given[0]}"])
    if wish.open and (wish.check or wish.print_ssh):
        raise UsageError(f"--open is for a tunnel that stays, and {given[0]} ends", next_commands=[f"{again} --open"])


def _instead(host: Host, service: str) -> str:
    from difflib import get_close_matches

    if service in ("list", "close"):
        return f"invoke tunnel.{service}{' comfy' if service == 'close' else ''}"
    near = get_close_matches(service.lower(), (*SERVICES, "all"), 1)
    return f"invoke tunnel {near[0] if near else 'comfy'} --host {host.name}"


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal, as a None among the `news`. Nothing is thrown, so nothing is left half
    done and there is no traceback, however often it is pressed. Only a print is broken off: its terminal may be
    stopped.

    From `__enter__` on to the end of the process: a second Ctrl-C may come at any time."""

    def __init__(self, news: queue.SimpleQueue[Event | None]) -> None:
        self.came = False
        self._news, self._printing = news, False
        self._ours: list[signal.Signals] = []

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a job of a script: not ours to answer
                signal.signal(number, self._on_signal)
                self._ours.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        # All is closed. At its end Python hands signals back to the system, and one more would turn exit code 0 into
        # that of a killed process.
        for number in self._ours if self.came else ():
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, *_: Any) -> None:
        self.came = True
        self._news.put(None)
        if self._printing:
            self._printing = False  # once: where it is caught it must not come again
            raise KeyboardInterrupt

    def printing(self, work: Callable[[], None]) -> None:
        """Print, while a tunnel is open: a full disk or a terminal that is gone does not close it."""
        try:
            try:
                self._printing = True
                work()
            finally:
                self._printing = False
        except BrokenPipeError:
            raise
        except (KeyboardInterrupt, OSError):
            pass


class Opened:
    """The tunnels to some services of one host, from their opening to their end."""

    def __init__(self, host: Host, wish: Wish, options: Options, report: Console) -> None:
        from pantheon.remote import ledger, watcher
        from pantheon.remote.tunnel import Tunnel
        from pantheon.report.tunnels import Display

        # Asked for here, where nothing is drawn yet: whether it is needed shows only later.
        password = options.ask_password and options.ask_password(f"sudo password on {host.name}: ")
        watch = watcher.factory((lambda _: password) if password is not None else None)
        self.host, self.wish, self.report, self._options = host, wish, report, options
        self.news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.stop = Stop(self.news)
        self.display = Display(report, host, quiet=wish.check)
        self.tunnels: list[Tunnel] = [
            Tunnel(host, name, port=wish.port, tell=self.news.put, watch=watch) for name in wish.services
        ]
        kept = () if wish.check else self.tunnels  # a check is over in a moment
        self._records = ledger.Records(host, kept, asked=wish.port, hosts_file=report.hosts_file)
        self._told: list[PantheonError] = []  # failures that the operator has read already
        self._unsaid: list[Event] = []
        self._said = False  # whether the document of --json has been written
        self._shown: set[str] = set()  # services whose page a browser was asked to open

    def run(self) -> int:
        """Returns the exit code. Raises what ended the last of them, unless it has been told."""
        began = time.monotonic()
        with self.stop, self._records:
            try:
                for tunnel in self.tunnels:
                    tunnel.start()
                while not self.stop.came and not (self._is_decided(began) if self.wish.check else self._has_ended()):
                    self._look()
            finally:
                seen = self.seen  # as they were: closed, they are all alike
                self._close()
            events = [*self._unsaid, *self._news()]
            self.stop.printing(lambda: self.display.show((), events))
            if self.stop.came:
                still_open = [one for one in seen if one.phase != "ended"]
                self.stop.printing(lambda: self.display.closed(still_open or seen))
                return INTERRUPTED if self.wish.check else 0
            if self.wish.check:
                return self._checked(seen)
            self.stop.printing(lambda: self.display.ended(seen))
            return self._ended()

    @property
    def seen(self) -> list[Seen]:
        return [tunnel.seen for tunnel in self.tunnels]

    @property
    def failed(self) -> dict[str, PantheonError]:
        return {tunnel.service: tunnel.failed for tunnel in self.tunnels if tunnel.failed}

    # ---- while they are open

    def _look(self) -> None:
        """Wait until something happens, a moment at most, and show it."""
        calm = all(seen.phase == "ready" for seen in self.seen) and not self.display.turns
        events = self._news(CALM_S if calm else TICK_S)
        if self.stop.came:
            self._unsaid = events  # its terminal may be stopped: first all is closed
            return
        seen = self.seen
        self._records.see()
        self.display.check_reader()
        self.stop.printing(lambda: self.display.show(seen, events))
        if self.wish.check:
            return
        self._tell_failures()
        settled = all(self._is_settled(tunnel) for tunnel in self.tunnels)
        if settled and not self._said and any(one.phase == "ready" for one in seen):
            self._said = True
            self.report.tunnels(self.host, "open", seen, self.failed)
        for one in seen if self.wish.open else ():
            if one.phase == "ready" and one.service in PAGES and one.service not in self._shown:
                self._shown.add(one.service)
                self._browse(one)

    def _news(self, patience_s: float = 0.0) -> list[Event]:
        """What has happened since, waiting for the first of it; and, with several tunnels, a moment for what happens
        to all of them."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            until = time.monotonic() + patience_s
            while not self.stop.came:
                left = until - time.monotonic()
                event = self.news.get(timeout=left) if left > 0 else self.news.get_nowait()
                if event and not events:
                    until = time.monotonic() + (MOMENT_S if patience_s and len(self.tunnels) > 1 else 0.0)
                if event:
                    events.append(event)
        return events

    def _is_settled(self, tunnel: Tunnel) -> bool:
        return not tunnel.is_running or tunnel.seen.phase == "ready"

    def _has_ended(self) -> bool:
        return not any(tunnel.is_running for tunnel in self.tunnels)

    def _tell_failures(self) -> None:
        """Those that have ended for good, as long as others go on; what ends the last is raised. As long as some are on
        their way, the others may fail in the same words: that is said once, in the end."""
        others = [tunnel for tunnel in self.tunnels if tunnel.is_running]
        if not others or all(tunnel.seen.phase == "opening" for tunnel in others):
            return
        for problem in self.failed.values():
            self._tell(problem)

    def _tell(self, problem: PantheonError) -> None:
        if all(problem.message != told.message for told in self._told):
            self._told.append(problem)
            self.stop.printing(lambda: self.display.failed(problem))

    def _browse(self, seen: Seen) -> None:
        from pantheon import browser

        def work() -> None:
            trouble = browser.show(seen.url)
            if trouble:
                self.news.put(Event(time.time(), seen.service, "!", f"no browser was opened: {trouble}"))

        threading.Thread(target=work, name="pantheon-browser", daemon=True).start()

    # ---- the end

    def _close(self) -> None:
        """Nothing listens any more and no ssh is left. What else they may be doing ends with this process."""
        threads = [threading.Thread(target=tunnel.close, daemon=True) for tunnel in self.tunnels]
        for thread in threads:
            thread.start()
        self.stop.printing(self.display.end)
        until = time.monotonic() + END_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _ended(self) -> int:
        """All have ended of themselves. The worst is raised, where it has not been told."""
        for tunnel in self.tunnels:
            if tunnel.defect:
                raise tunnel.defect
        problems = sorted(self.failed.values(), key=lambda problem: problem.exit_code)
        if not problems:
            return 1
        *others, worst = problems
        if self._said or any(worst.message == told.message for told in self._told):
            for problem in problems:
                self._tell(problem)
            return worst.exit_code
        self._told.append(worst)  # so that nobody says it twice
        for problem in others:
            self._tell(problem)
        raise worst

    # ---- a check

    def _is_decided(self, began: float) -> bool:
        """Whether a check has seen enough: of what is on its way up it says so, and does not wait for its end."""
        now = time.monotonic()
        undecided = [tunnel for tunnel in self.tunnels if not self._is_settled(tunnel)]
        if not undecided or now > began + LOGIN_S:
            return True
        return all(self._is_late(tunnel.seen) for tunnel in undecided)

    def _is_late(self, seen: Seen) -> bool:
        return seen.since > 0 and time.time() > seen.since + (TROUBLE_S if seen.mend else CHECK_S)

    def _checked(self, seen: list[Seen]) -> int:
        from pantheon.report.tunnels import is_good

        for tunnel in self.tunnels:
            if tunnel.defect:
                raise tunnel.defect
        failed = self.failed
        for one in seen:
            if one.phase == "opening" and one.service not in failed:
                failed[one.service] = NotReached(
                    f"{self.host.name}: no login within {LOGIN_S:.0f} s",
                    next_commands=[f"invoke validate --host {self.host.name}"],
                )
        if len(failed) == len(seen) and len({problem.message for problem in failed.values()}) == 1:
            raise failed[seen[0].service]
        self.display.checked(seen, failed)
        self.report.tunnels(self.host, "checked", seen, failed)
        codes = [problem.exit_code for problem in failed.values()]
        codes += [0 if is_good(one) else 2 for one in seen if one.service not in failed]
        return max(codes)


def _print_ssh(host: Host, wish: Wish, report: Console) -> int:
    """The plain ssh command for each service, on stdout. Nothing is contacted."""
    from pantheon.remote import ciphers, ports, ssh, verified
    from pantheon.remote.endpoint import resolve

    endpoint = resolve(host)
    known, preferred = verified.verified_file(endpoint), ciphers.preferred(endpoint, ask=False)
    commands = {}
    for name in wish.services:
        theirs = host.service(name).port
        port = ports.free_port(wish.port or theirs, only=bool(wish.port))
        forwards = ssh.forwards(ports.loopback(), port, theirs)
        commands[name] = ssh.plain(endpoint, known, forwards=forwards, ciphers=preferred)
    report.commands(host, commands)
    return 0
