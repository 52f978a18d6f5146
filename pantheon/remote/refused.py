"""Why ssh did not open a tunnel, in the words that every other command of ours has for it: ssh would have the operator
mend a file of ours, under a name of ours.

ssh decides. A connection of our own is only asked to say it, and only for what it does better: paramiko may lack a kind
of key that ssh has, and must not make a refusal of what was none.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence

from pantheon.errors import HostError, LoginRefused, NotReached, NotTrusted, PantheonError
from pantheon.remote.endpoint import Endpoint
from pantheon.tunnel import understand


def explain(endpoint: Endpoint, service: str, words: Sequence[str]) -> HostError:
    """The error for an ssh that ended with `words` before it listened. NotTrusted and LoginRefused are for good."""
    said = understand(words)
    details, host = list(words)[-10:], endpoint.inventory_host
    if said.ending == "untrusted":
        return _asked(endpoint, (NotTrusted, NotReached)) or NotTrusted(
            f"{endpoint.label}: {said.text}", details=details, next_commands=[f"invoke trust --host {host}"]
        )
    if said.ending == "refused":
        return _asked(endpoint, (LoginRefused, NotTrusted, NotReached)) or LoginRefused(
            f"{endpoint.label}: ssh cannot log in: {said.text}",
            details=details,
            next_commands=[endpoint.verbosely],
        )
    if found := _unreached(endpoint, words):
        return found
    known = said.ending == "unreached"
    return NotReached(
        f"{endpoint.label}: {said.text if known else f'ssh could not open the tunnel to {service}: {said.text}'}",
        details=details,
        next_commands=[endpoint.verbosely if known else f"invoke tunnel {service} --print-ssh --host {host}"],
    )


def _asked(endpoint: Endpoint, kinds: tuple[type[HostError], ...]) -> HostError | None:
    """What a connection of our own says, if it is one of these."""
    from pantheon.remote.connection import HostConnection

    try:
        with HostConnection(endpoint) as connection:
            connection.open()
    except kinds as error:
        return error
    except PantheonError:
        return None
    return None


def _unreached(endpoint: Endpoint, words: Sequence[str]) -> HostError | None:
    """For what is plain from ssh's words nobody is asked again, who might wait as long for the same."""
    from pantheon.remote import connection

    for line in words:
        if found := re.search(r"^ssh: connect to host (\S+) port (\d+): (.+)", line):
            hop = _hop(endpoint, found[1], int(found[2]))
            return connection.explain(hop, _error(found[3]))
        if found := re.search(r"^ssh: Could not resolve hostname (\S+): (.+)", line):
            hop = _hop(endpoint, found[1], 0)
            return connection.explain(hop, socket.gaierror(socket.EAI_NONAME, found[2]))
        if found := re.search(r"^channel \d+: open failed: (?P<why>.+)", line):
            why = found["why"].removeprefix("connect failed: ")
            return connection.gateway_refuses(endpoint, why, forbidden="administratively prohibited" in line)
    return None


def _hop(endpoint: Endpoint, hostname: str, port: int) -> Endpoint:
    """The server on the way that ssh means."""
    for hop in endpoint.chain():
        if hop.hostname == hostname and port in (0, hop.port):
            return hop
    return endpoint


def _error(text: str) -> OSError:
    if "refused" in text:
        return ConnectionRefusedError(errno.ECONNREFUSED, text)
    if "timed out" in text:
        return TimeoutError(errno.ETIMEDOUT, text)
    known = {"No route to host": errno.EHOSTUNREACH, "Network is unreachable": errno.ENETUNREACH}
    return OSError(known.get(text, errno.EHOSTDOWN if "down" in text else errno.EIO), text)
