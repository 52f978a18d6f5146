"""What `invoke tunnel` does: open, prove, show, keep open, close. remote/tunnel.py keeps one tunnel open; here are the
services that were asked for, what the operator sees, and the record of what is open.

Each function returns the exit code of its command (PRODUCT.md) and raises PantheonError for what went wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pantheon.errors import UsageError
from pantheon.inventory import SERVICES, Host

if TYPE_CHECKING:
    from pantheon.engine import Options
    from pantheon.remote.tunnel import Tunnel
    from pantheon.report.console import Console

TICK_S = 0.25


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
    del options
    if wish.service not in (*SERVICES, "all"):
        instead = f"invoke tunnel.{wish.service}" if wish.service in ("list", "close") else ""
        raise UsageError(
            f"no service {wish.service!r}: {', '.join(SERVICES)}, all",
            next_commands=[instead or f"invoke tunnel comfy --host {host.name}"],
        )
    if wish.port and wish.service == "all":
        raise UsageError("--port is for one service", next_commands=[f"invoke tunnel all --host {host.name}"])
    return _keep(host, wish, report)


def _keep(host: Host, wish: Wish, report: Console) -> int:
    from pantheon.remote.tunnel import Tunnel
    from pantheon.report.tunnels import Display

    display = Display(report, host)
    tunnels = [Tunnel(host, name, port=wish.port, tell=display.tell) for name in wish.services]
    with closed_at_the_end(tunnels):
        display.begin(tunnels)
        for tunnel in tunnels:
            tunnel.start()
        while all(tunnel.is_running for tunnel in tunnels):
            time.sleep(TICK_S)
            display.show()
    return _why(tunnels)


def _why(tunnels: list[Tunnel]) -> int:
    for tunnel in tunnels:
        if tunnel.defect:
            raise tunnel.defect
        if tunnel.failed:
            raise tunnel.failed
    return 0


@contextmanager
def closed_at_the_end(tunnels: list[Tunnel]) -> Iterator[None]:
    """However this ends, by Ctrl-C, SIGTERM or a closed terminal: nothing listens any more and no ssh is left."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        threads = [threading.Thread(target=tunnel.close) for tunnel in tunnels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def list_(*, report: Console) -> int:
    raise NotImplementedError


def close(service: str, host: str, *, report: Console) -> int:
    raise NotImplementedError
