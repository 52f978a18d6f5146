"""A tunnel at one moment, what happened to it, and what ssh's last words mean. No I/O: remote/tunnel.py keeps tunnels
open, report/tunnels.py shows them, remote/ledger.py has them on record."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Words:
    """What ssh's last words mean, and in ours: `text` fits a status line."""

    ending: Ending
    text: str


BUSY = "it takes no more connections at the moment"
HUNG_UP = "it hung up before a word was said"

# ssh's words, the more telling first: those of a hop on the way come before those of the host, which then only says
# that the connection was closed. Text in <> is taken from the words. A server's banner and a ProxyCommand speak on the
# same stream, so a pattern holds the whole of ssh's line where another text could have the same words in it.
_WORDS: tuple[tuple[Ending, str, str], ...] = (
    (
        "taken",
        r"^bind \[.*\]:\d+: |cannot listen to port|^Could not request local forwarding",
        "the local port is taken",
    ),
    ("untrusted", r"^Host key verification failed", "the host key is not the one on record"),
    (
        "untrusted",
        r"^Host key for \S+ has changed and you have requested strict",
        "the host key is not the one on record",
    ),
    ("refused", r"^\S+@\S+: Permission denied \(", "the login is refused"),
    ("refused", r":\d+: Too many authentication failures", "too many keys were offered"),
    ("refused", r":\d+: No supported authentication methods available", "the login is refused"),
    ("refused", r"^Your account has expired", "the account has expired"),
    (
        "unreached",
        r"booting up|going down|pam_nologin|shutdown in progress",
        "it is starting or going down (no logins)",
    ),
    ("unreached", r"administratively prohibited", "the gateway does not forward connections"),
    ("unreached", r"open failed: connect failed: (?P<why>.+)", "the gateway cannot connect to it: <why>"),
    ("unreached", r"^Timeout, server .* not responding", "no answer for 8 s"),
    ("unreached", r"^ssh: Could not resolve hostname .*: (?P<why>.+)", "DNS: <why>"),
    ("unreached", r"^ssh: connect to host .*: Connection refused", "connection refused: no SSH server there"),
    ("unreached", r"^ssh: connect to host .*: (Connection|Operation) timed out", "no answer"),
    ("unreached", r"^ssh: connect to host .*: (?P<why>.+)", "<why>"),
    ("unreached", r"timed out during banner exchange", "it accepts connections but says nothing"),
    ("unreached", r"not allowed at this time|Exceeded MaxStartups", BUSY),
    ("unreached", r"^(ssh|kex)_exchange_identification: |banner exchange: ", HUNG_UP),
    ("unreached", r"^Unable to negotiate with .*: (?P<why>no matching .+) found", "<why>"),
    ("unreached", r"^Connection to .* closed by remote host", "the host ended it"),
    ("unreached", r"^Received disconnect from .*:\d+: (?P<why>.+)", "the host ended it: <why>"),
    ("unreached", r"(?P<why>No route to host|Network is (down|unreachable)|Host is (down|unreachable))", "<why>"),
    ("unreached", r"timed out|not responding", "no answer"),
    ("unreached", r"Connection reset|Broken pipe", "the connection was reset"),
    ("unreached", r"Connection closed|closed by", "the host hung up"),
    ("unreached", r"Corrupted MAC|Bad packet length|message authentication code incorrect", "garbled on the way"),
)


def understand(words: Sequence[str]) -> Words:
    """What ssh's words say of its end; in its own words when they are not known. Those of a hop on the way count like
    those of the host."""
    for meaning, pattern, text in _WORDS:
        for line in reversed(words):
            if found := re.search(pattern, line, re.IGNORECASE):
                why = found.groupdict().get("why") or ""
                return Words(meaning, text.replace("<why>", why[:1].lower() + why[1:] if why[1:2].islower() else why))
    return Words("unknown", words[-1] if words else "ssh ended without a word")


Refusal = Literal["", "nothing", "forbidden", "other"]
FORBIDDEN = "the SSH server does not allow forwarding"
OFTEN, OFTEN_S, LASTING_S = 3, 3600.0, 30.0  # outages of a service that are told at once in that time; others, by then


def refusal(line: str) -> Refusal:
    """What a line of an ssh that carries a tunnel says of one client: that nothing listens at the other end, or that
    the server does not allow forwarding. "" for any other line."""
    if not re.match(r"channel \d+: open failed: ", line):
        return ""
    if "administratively prohibited" in line or "forwarding is disabled" in line:
        return "forbidden"
    return "nothing" if "Connection refused" in line else "other"


def span(seconds: float) -> str:
    """`21 s`, `4 min`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@dataclass
class Outage:
    """Whether an outage is told: the first few in an hour are, at once, and others when they last. What comes and goes
    all night would else fill the screen, and wear out the host with looks at why. Times are time.monotonic()'s."""

    since: float = 0.0  # 0: there is none
    is_told: bool = False
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=OFTEN))

    def lasts(self, now: float) -> bool:
        """There is one, at `now`. Whether to tell of it, which is once."""
        self.since = self.since or now
        if self.is_told or (self._is_often(now) and now < self.since + LASTING_S):
            return False
        self._times.append(now)
        self.is_told = True
        return True

    def ends(self, now: float) -> float | None:
        """How many seconds it took; None when there was none that was told of."""
        took = now - self.since if self.is_told else None
        self.since, self.is_told = 0.0, False
        return took

    @property
    def said(self) -> str:
        """What is to be said with the last one that is told at once."""
        often = self._is_often(self._times[-1]) and self._times[-1] == self.since
        return f"; it comes and goes, and is told from now on when it lasts {LASTING_S:.0f} s" if often else ""

    def _is_often(self, now: float) -> bool:
        return len(self._times) == OFTEN and now < self._times[0] + OFTEN_S


def pauses() -> Iterator[float]:
    """Seconds before each new attempt to log in: at once, soon, and after minutes of failure gently."""
    yield from (0.0, 0.25, 0.5, 1.0)
    for _ in range(60):
        yield 2.0
    while True:
        yield 10.0
