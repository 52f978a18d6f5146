"""Open tunnels as an operator sees them: a status line each, drawn anew on a terminal when it changes; elsewhere a line
for each change. What happened stands above, with the time of day."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pantheon.errors import PantheonError
from pantheon.inventory import Host
from pantheon.report.console import error
from pantheon.report.text import NAME_WIDTH, STYLE, clean, count, lasted
from pantheon.tunnel import Event, Seen

if TYPE_CHECKING:
    from pantheon.report.console import Console

LONG_S = 3.0  # that something takes before it is said how long it takes
MOST = 300  # characters of what a host says that are shown
NO_WEBSOCKET = "takes no websocket ({}): its page stays dead"


@dataclass(frozen=True)
class Status:
    """One tunnel's line. `sign` is one of report/console.py; "" turns, as long as something is awaited."""

    sign: str
    text: str
    mend: str = ""


def status(seen: Seen, now: float, *, since: float, was_ready: bool) -> Status:
    """A tunnel's line at that moment, in words that change no more often than what they say. `since` is when its phase
    began."""
    state, took = brief(seen.state), now - since
    if seen.phase == "ended":
        return Status("·", "closed")
    if seen.phase == "opening":
        return Status("", f"{state or 'logging in'}{f', {lasted(took)}' if took >= LONG_S else ''}")
    if seen.phase == "lost":
        return Status("!", f"{seen.url}  no link for {lasted(took)}, trying again{f': {state}' if state else ''}")
    if seen.phase == "waiting":
        state = "" if state == "ready" else state  # which it was a moment ago
        text = f"{'waiting for' if state else 'asking'} {seen.service}"
        text += f"{f', {lasted(took)}' if took >= LONG_S else ''}{f': {state}' if state else ''}"
        return Status("!" if was_ready else "", f"{seen.url}  {text}" if was_ready else text, to_host(seen, seen.mend))
    if seen.websocket:
        mend = to_host(seen, seen.mend or "invoke fix.browser-access")
        return Status("!", f"{seen.url}  takes no websocket: {brief(seen.websocket)}", mend)
    parts = [state or "ready", latency(seen), f"since {time_of_day(seen.since, now)}" if seen.since else ""]
    parts += [count(seen.reconnects, "reconnect")] if seen.reconnects else []
    return Status("✓", f"{seen.url}  {', '.join(filter(None, parts))}", to_host(seen, seen.mend))


def brief(text: str) -> str:
    """On one line, and of a text without end the beginning."""
    text = " ".join(clean(text.replace("\n", " ")).split())
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def latency(seen: Seen) -> str:
    """`3 ms`; "" as long as none is known."""
    return "" if seen.latency_ms is None else f"{max(1, round(seen.latency_ms))} ms"


def time_of_day(moment: float, now: float) -> str:
    """`14:02`; for another day than today's `Sat 14:02`, and after a week `14 Nov 14:02`."""
    then = time.localtime(moment)
    if then[:3] == time.localtime(now)[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%a %H:%M" if 0 <= now - moment < 6 * 86400 else "%-d %b %H:%M", then)


def to_host(seen: Seen, command: str) -> str:
    """The command as it must be typed to reach this host."""
    return f"{command} --host {seen.host}" if command.startswith("invoke ") and "--host" not in command else command


def as_data(seen: Seen, failed: PantheonError | None = None) -> dict[str, Any]:
    """A tunnel for --json: what it is, and why it ended."""
    document = dataclasses.asdict(seen) | {"url": seen.url if seen.port else "", "good": is_good(seen)}
    document["next"] = [command for command in [to_host(seen, document.pop("mend"))] if command]
    if failed:
        document |= {"error": failed.message, "details": list(failed.details), "next": list(failed.next_commands)}
    return document


def is_good(seen: Seen) -> bool:
    return seen.phase == "ready" and not seen.websocket


class Display:
    """Shows tunnels of one host. It is called by one thread, and knows nothing but what it is given. `quiet` prints no
    line of its own accord: a check says only what came of it."""

    def __init__(self, report: Console, host: Host, *, quiet: bool = False) -> None:
        self.report, self.host, self.quiet = report, host, quiet
        self.is_drawn = report.out.is_terminal and not report.out.is_dumb_terminal
        self._live: Live | None = None
        self._spinner = Spinner("dots")  # one for all: each turns from when it was first drawn
        self._lines: list[tuple[str, Status]] = []
        self._drawn: object = None
        self._plain: dict[str, object] = {}
        self._notes: dict[str, str] = {}
        self._ready: set[str] = set()
        self._phases: dict[str, tuple[str, float]] = {}  # and since when

    @property
    def turns(self) -> bool:
        """Whether something on the screen moves, so that it should be drawn again soon."""
        return self.is_drawn and any(not line.sign for _, line in self._lines)

    def check_reader(self) -> None:
        """Raises BrokenPipeError when nobody reads any more what is printed, which else would show only with the next
        line: in hours, when the link is lost."""
        try:
            poll = select.poll()
            poll.register(self.report.out.file.fileno(), 0)
        except (OSError, ValueError):  # no file of the system's
            return
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError

    # ---- while they are open

    def show(self, tunnels: Sequence[Seen], events: Sequence[Event] = (), now: float | None = None) -> None:
        """Print what happened and, where that changed, what they are now."""
        now = time.time() if now is None else now
        for seen in tunnels:
            if seen.note and self._notes.get(seen.service) != seen.note and not self.quiet:
                self._notes[seen.service] = seen.note
                self.report.line("·", seen.service, brief(seen.note))
        self.events(events)
        self._lines = [(seen.service, self._status(seen, now)) for seen in tunnels]
        if self.is_drawn and tunnels:
            self._draw()
        elif not self.quiet:
            for seen, (_, line) in zip(tunnels, self._lines, strict=True):
                self._change(seen, line)
        self._ready |= {seen.service for seen in tunnels if seen.phase == "ready"}
        self._flush()

    def _status(self, seen: Seen, now: float) -> Status:
        if self._phases.get(seen.service, ("", 0.0))[0] != seen.phase:
            self._phases[seen.service] = (seen.phase, now)
        since = self._phases[seen.service][1]
        return status(seen, now, since=since, was_ready=seen.service in self._ready)

    def events(self, events: Sequence[Event]) -> None:
        """A line for each; one for all that the same happened to."""
        same: dict[tuple[str, str, str], list[Event]] = {}
        for event in events if not self.quiet else ():
            text = event.text.removeprefix(f"{event.service} ")  # the line begins with it
            same.setdefault((event.sign, text, event.mend), []).append(event)
        for (sign, text, mend), those in same.items():
            at = time.strftime("%H:%M:%S", time.localtime(those[0].at))
            self.report.line(sign, ", ".join(sorted({event.service for event in those})), f"{at} {brief(text)}")
            if mend:
                self._mend(mend)

    def failed(self, problem: PantheonError) -> None:
        """A tunnel has ended for good, while others go on."""
        with self._aside():
            error(problem, self.report.hosts_file)

    def _change(self, seen: Seen, line: Status) -> None:
        """In a pipe, a line when more has changed than numbers. Of a lost link, and of how a service comes up, events
        tell."""
        told = (seen.phase, seen.port, seen.websocket, seen.state if seen.phase == "opening" else "")
        if seen.phase == "waiting" and (not seen.state or seen.service in self._ready):
            return  # it has only just been asked, or was ready once
        if seen.phase in ("lost", "ended"):
            self._plain[seen.service] = told
            return
        if self._plain.get(seen.service) == told:
            return
        self._plain[seen.service] = told
        closes = f" ({seen.host}; Ctrl-C closes it)" if is_good(seen) and seen.service not in self._ready else ""
        text = line.text if line.sign else status(seen, 0.0, since=0.0, was_ready=False).text  # without how long
        self.report.line(line.sign or "·", seen.service, f"{text}{closes}")
        if line.mend and not seen.websocket:  # which is an event too
            self._mend(line.mend)

    def _mend(self, command: str) -> None:
        self.report.say(f"{' ' * (NAME_WIDTH + 3)}→ {self.report.typed(command)}")

    # ---- the live part of a terminal

    def _draw(self) -> None:
        drawn = (self._lines, self.report.out.width)
        if self._live is None:
            self._live = Live(
                self,
                console=self.report.out,
                auto_refresh=False,  # nothing is drawn, and no thread woken, as long as nothing changes
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
            self.report.out.show_cursor(True)  # Ctrl-Z and kill -9 leave the terminal as it is
        elif drawn != self._drawn or self.turns:
            self._live.refresh()
        self._drawn = drawn

    def __rich__(self) -> RenderableType:
        title, closes = f"tunnel {clean(self.host.name)}", "Ctrl-C closes it"
        room = max(1, min(self.report.out.width, 80) - len(title) - len(closes))
        rows: list[RenderableType] = [Text.assemble((title, "bold"), " " * room, (closes, "dim"))]
        for name, line in self._lines:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=1)
            grid.add_column(width=NAME_WIDTH, no_wrap=True)
            grid.add_column(overflow="fold")
            sign = Text(line.sign, STYLE.get(line.sign, "")) if line.sign else self._spinner
            grid.add_row(sign, Text(name), Text(line.text))
            rows.append(grid)
            if line.mend:
                rows.append(Text(f"{' ' * (NAME_WIDTH + 3)}→ {clean(self.report.typed(line.mend))}"))
        return Group(*rows)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Nothing drawn, for what is printed past this display: on stderr, say."""
        self.end()
        self._flush()
        yield

    def end(self) -> None:
        """Take the live part off the screen. `show` brings it back."""
        live, self._live = self._live, None
        if live:
            live.stop()

    def _flush(self) -> None:
        self.report.out.file.flush()

    # ---- what came of it

    def closed(self, tunnels: Sequence[Seen], now: float | None = None) -> None:
        """The last line: how long they were open."""
        self.end()
        now = time.time() if now is None else now
        what = "" if len(tunnels) == 1 else f"{len(tunnels)} tunnels "
        times = sum(seen.reconnects for seen in tunnels)
        text = f"{what}closed after {lasted(now - min(seen.opened for seen in tunnels))}"
        if not self._ready:
            text = f"{what}closed before {'it was' if len(tunnels) == 1 else 'they were'} ready"
        self.report.line(
            "✓" if self._ready else "·", self.host.name, text + (f", {count(times, 'reconnect')}" if times else "")
        )
        self._flush()

    def ended(self, tunnels: Sequence[Seen], now: float | None = None) -> None:
        """The last line where nobody wanted that: when it was. Why is told as an error."""
        self.end()
        now = time.time() if now is None else now
        if self._ready:
            at, times = time.strftime("%H:%M:%S", time.localtime(now)), sum(seen.reconnects for seen in tunnels)
            text = f"{at} ended after {lasted(now - min(seen.opened for seen in tunnels))}"
            self.report.line("✗", self.host.name, text + (f", {count(times, 'reconnect')}" if times else ""))
        self._flush()

    def checked(self, tunnels: Sequence[Seen], failed: Mapping[str, PantheonError]) -> None:
        """What a check found: a line for each."""
        self.end()
        for seen in tunnels:
            if seen.service in failed:
                self.report.line("✗", seen.service, failed[seen.service].message)
                for command in failed[seen.service].next_commands:
                    self._mend(command)
                continue
            line = result(seen, self.host.service(seen.service).port)
            self.report.line(line.sign, seen.service, line.text)
            if line.mend:
                self._mend(line.mend)
        self._flush()


def result(seen: Seen, said: int) -> Status:
    """What a check found of one that could be opened. `said` is the service's port in hosts.toml."""
    diagnose = f"invoke diagnose --host {seen.host}"
    if is_good(seen):
        text = f"answers through the tunnel in {latency(seen) or '?'}{brief(seen.state).removeprefix('ready')}"
        if seen.remote_port == said:
            return Status("✓", text)
        text += f", on port {seen.remote_port} of the host; hosts.toml says {said}"
        return Status("✓", text, f"set port = {seen.remote_port} for {seen.service} in hosts.toml")
    if seen.phase == "ready":
        return Status("✗", NO_WEBSOCKET.format(brief(seen.websocket)), f"invoke fix.browser-access --host {seen.host}")
    if seen.phase == "waiting":
        state = brief(seen.state)
        return Status("✗", f"does not answer{f': {state}' if state else ''}", to_host(seen, seen.mend) or diagnose)
    return Status("✗", f"the link was lost: {brief(seen.state)}", diagnose)
