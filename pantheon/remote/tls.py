"""Whether a port on the host's loopback speaks TLS: a handshake through the SSH connection, in OpenSSL's own words."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable

import paramiko

from pantheon.facts import Http, Maybe
from pantheon.inventory import Host
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import _ms, _reason

MOST_BYTES = 64 << 10


def try_https(connection: HostConnection, host: Host, services: Iterable[str]) -> dict[str, Maybe[Http]]:
    """Each of these services spoken to with https. Raises LinkLost when the connection itself is gone."""
    return {name: https_through(connection, host.service(name).port) for name in services}


def https_through(connection: HostConnection, port: int, *, timeout_s: float = 5) -> Http:
    """A handshake, no request: `status` 200 where the other side speaks TLS, else `error` says why not."""
    began, url = time.monotonic(), f"https://127.0.0.1:{port}/"
    try:
        channel = connection.transport.open_channel(
            "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=timeout_s
        )
    except (OSError, EOFError, paramiko.SSHException) as error:
        if not connection.is_connected:
            raise connection.lost() from error
        return Http(url, 0, "", "", _reason(error, timeout_s), _ms(began))
    try:
        said = _shake_hands(channel, began + timeout_s)
    except (OSError, EOFError, paramiko.SSHException) as error:
        said = _reason(error, timeout_s)
    finally:
        channel.close()
    return Http(url, 0 if said else 200, "" if said else "it speaks TLS", "", said, _ms(began))


def _shake_hands(channel: paramiko.Channel, until: float) -> str:
    """Why there is no TLS here, "" when there is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said to it: who it is matters not
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing)
    seen = 0
    while True:
        try:
            session.do_handshake()
            return ""
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return str(error.reason or error).lower().replace("_", " ")
        channel.settimeout(max(0.05, until - time.monotonic()))
        if data := outgoing.read():
            channel.sendall(data)
        data = channel.recv(16384) if seen < MOST_BYTES and time.monotonic() < until else b""
        if not data:
            return "it closed the connection" if time.monotonic() < until else "no answer to a TLS greeting"
        seen += len(data)
        incoming.write(data)
