"""Open tunnels as an operator sees them: a status line each, drawn anew on a terminal; elsewhere a line when something
changes."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING

from pantheon.inventory import Host
from pantheon.tunnel import Event, Seen

if TYPE_CHECKING:
    from pantheon.remote.tunnel import Tunnel
    from pantheon.report.console import Console


class Display:
    """`tell` may be called from any thread; `show` prints, and belongs to the main one."""

    def __init__(self, report: Console, host: Host) -> None:
        self.report, self.host = report, host
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.tunnels: list[Tunnel] = []
        self._last: dict[str, str] = {}

    def tell(self, event: Event) -> None:
        self.events.put(event)

    def begin(self, tunnels: list[Tunnel]) -> None:
        self.tunnels = tunnels

    def show(self) -> None:
        while not self.events.empty():
            event = self.events.get()
            self.report.line(event.sign, event.service, f"{time.strftime('%H:%M:%S')} {event.text}")
        for tunnel in self.tunnels:
            seen = tunnel.seen
            text = line(seen)
            if self._last.get(seen.service) != text:
                self._last[seen.service] = text
                self.report.line("✓" if seen.phase == "ready" else "·", seen.service, text)


def line(seen: Seen) -> str:
    if seen.phase == "ready":
        return f"{seen.url}  {seen.host} (Ctrl-C closes it)"
    return f"{seen.phase} {seen.state}".rstrip()
