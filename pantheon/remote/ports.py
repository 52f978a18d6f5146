"""Ports on this machine's loopback: which are free, and who holds the others."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from pantheon.errors import UsageError
from pantheon.looks import system
from pantheon.looks.text import Unread

PORTS_TRIED = 50


def loopback() -> tuple[str, ...]:
    """This machine's loopback addresses: 127.0.0.1, and ::1 where it has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ("127.0.0.1",)
    return ("127.0.0.1", "::1")


def free_port(wanted: int, *, only: bool = False) -> int:
    """`wanted` or, unless `only` that will do, the next port that is free on all of this machine's loopback addresses.
    Raises UsageError, naming who holds it, when there is none."""
    for port in range(wanted, min(wanted + (1 if only else PORTS_TRIED), 65536)):
        error = _taken(port)
        if error == errno.EACCES:
            raise UsageError(f"port {port} needs root on this machine", next_commands=["give one from 1024 on"])
        if not error:
            return port
    if only:
        raise UsageError(
            f"port {wanted} is taken on this machine by {holder_of(wanted)}",
            next_commands=[f"ss -ltnp 'sport = :{wanted}'", "give another one with --port"],
        )
    raise UsageError(
        f"ports {wanted} to {wanted + PORTS_TRIED - 1} are taken on this machine",
        next_commands=["ss -ltnp", "give another one with --port"],
    )


def _taken(port: int) -> int:
    """The error of binding it, as ssh would; 0 when it is free."""
    with ExitStack() as stack:
        for address in loopback():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            probe = stack.enter_context(socket.socket(family))
            # As ssh does: connections of an earlier tunnel that are still being seen off are no reason to move.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                return error.errno or -1
    return 0


def holder_of(port: int) -> str:
    """`firefox (pid 4711)`; "another program" where this system does not say."""
    try:
        rows = [row for row in system.listeners("") if row["port"] == port]
    except (OSError, Unread, ValueError):
        rows = []
    named = [row for row in rows if row["process"] and row["pid"]]
    return f"{named[0]['process']} (pid {named[0]['pid']})" if named else "another program"
