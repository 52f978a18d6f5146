"""A tunnel at one moment, what happened to it, and what ssh's last words mean. No I/O: remote/tunnel.py keeps tunnels
open, report/tunnels.py shows them, remote/ledger.py has them on record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

# opening: ssh is on its way for the first time. waiting: the link is there, the service does not answer. ready: it
# answers. lost: the link is gone, and is being made anew. ended: given up, or closed.
Phase = Literal["opening", "waiting", "ready", "lost", "ended"]

# What ended an ssh. taken: the local port. refused: the login. untrusted: the host's key. unreached: the network, a
# host that is down or restarts. unknown: anything else.
Ending = Literal["taken", "refused", "untrusted", "unreached", "unknown"]


@dataclass(frozen=True)
class Seen:
    """One tunnel at one moment. Times are seconds since 1970; `since` is when the present link was made."""

    service: str
    host: str  # its name in hosts.toml
    port: int = 0  # on this machine; 0 as long as there is none
    remote_port: int = 0
    phase: Phase = "opening"
    opened: float = 0.0
    since: float = 0.0
    reconnects: int = 0
    latency_ms: float | None = None  # of the last answer, end to end
    state: str = ""  # of the service, in words: "ready", "6/9 installing torch", "502 Bad Gateway"
    mend: str = ""  # what to type about that
    websocket: str = ""  # why it takes none; "" when it does, or needs none
    note: str = ""  # why the local port is not the service's own

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@dataclass(frozen=True)
class Event:
    """Something that happened to a tunnel, for a line of its own: a sign of report/console.py, what, and what to type
    about it."""

    at: float
    service: str
    sign: str
    text: str
    mend: str = ""


_ENDINGS: tuple[tuple[Ending, str], ...] = (
    ("taken", r"Address already in use|cannot listen to port|Could not request local forwarding"),
    ("untrusted", r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known|REVOKED HOST KEY"),
    ("refused", r"Permission denied|Too many authentication failures|No more authentication methods"),
    (
        "unreached",
        (
            r"Connection (refused|reset|timed out|closed)|No route to host|[Uu]nreachable|Operation timed out|"
            r"not responding|Could not resolve|Name or service not known|Temporary failure in name|Broken pipe|"
            r"kex_exchange_identification|banner exchange|closed by|Host is down|stdio forwarding failed"
        ),
    ),
)


def ending(words: Sequence[str]) -> Ending:
    """What ssh's words say of its end. Those of a hop on the way count like those of the host."""
    for meaning, pattern in _ENDINGS:
        if any(re.search(pattern, line) for line in words):
            return meaning
    return "unknown"


def pauses() -> Iterator[float]:
    """Seconds before each new attempt to log in: at once, soon, and after minutes of failure gently."""
    yield from (0.0, 0.25, 0.5, 1.0)
    for _ in range(60):
        yield 2.0
    while True:
        yield 10.0
