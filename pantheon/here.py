"""What was tried from this workstation, typed. remote/here.py tries it, through the SSH connection that is open."""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.facts import Http, Maybe

# Why there was no answer through the connection: texts of remote/forward.py that a diagnosis tells apart.
NOT_ALLOWED = "the SSH server does not allow forwarding (AllowTcpForwarding in its sshd_config)"
NOTHING_LISTENS = "nothing listens there (connection refused on the host)"


@dataclass(frozen=True)
class LocalPort:
    """A port on this workstation's loopback; `holder` says who listens there ("" when it is free), `free` is the one
    that a tunnel would take now (0: none near it), `silent` why nothing answers there although it is held ("": it
    answers, or was not tried), `close` what closes it where it is a tunnel of ours."""

    port: int
    holder: str
    free: int = 0
    silent: str = ""
    close: str = ""


@dataclass(frozen=True)
class Here:
    """Each by service name; a service that was not tried is missing. `http`: a GET of / through the connection.
    `https`: the same with TLS spoken. `websocket`: an upgrade (status 101 is right). `browser`: a GET with the Host and
    Origin that a browser would send through a tunnel. `ports`: the service's own port on this side."""

    http: dict[str, Maybe[Http]] = field(default_factory=dict)
    https: dict[str, Maybe[Http]] = field(default_factory=dict)
    websocket: dict[str, Maybe[Http]] = field(default_factory=dict)
    browser: dict[str, Maybe[Http]] = field(default_factory=dict)
    ports: dict[str, Maybe[LocalPort]] = field(default_factory=dict)
