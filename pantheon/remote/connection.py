"""The one way to a host: a Fabric Connection that trusts no unknown key, waits for nothing without a bound, and says
in one sentence what went wrong. FABRIC.md lists what it cures and the measurements behind it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fabric
import paramiko
from fabric.runners import Remote
from invoke.exceptions import ThreadException
from paramiko.proxy import ProxyCommand

from pantheon.errors import HostError, LinkLost, LoginRefused, NotAllowed, NotReached
from pantheon.inventory import Host
from pantheon.remote import known_hosts, login, transport
from pantheon.remote.endpoint import CONNECT_S, SILENCE_S, Early, Endpoint, check_identities, dial, resolve
from pantheon.remote.known_hosts import Key
from pantheon.remote.transport import Transport

AskPassword = Callable[[str], str]
FORBIDDEN = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, 5.1)


class FastRunner(Remote):  # type: ignore[misc]
    """Fabric's runner without its brakes: stdin in bulk, 32 KB reads, no join of the whole buffer for each chunk, and
    text decoded across chunks (a character that straddles two was lost)."""

    read_chunk_size = 32768
    input_sleep = 0.001

    def read_our_stdin(self, input_: Any) -> Any:
        if hasattr(input_, "fileno") and hasattr(input_, "isatty") and input_.isatty():
            return super().read_our_stdin(input_)
        data = input_.read(self.read_chunk_size)
        return self.decode(data) if isinstance(data, bytes) else data

    def read_proc_output(self, reader: Callable[[int], bytes]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        while data := reader(self.read_chunk_size):
            yield decoder.decode(data)
        if rest := decoder.decode(b"", final=True):
            yield rest

    def respond(self, buffer_: list[str]) -> None:
        if self.watchers:
            super().respond(buffer_)

    def returncode(self) -> int:
        """Raises LinkLost where -1 does not mean "killed" but "nobody can know any more"."""
        status = int(super().returncode())
        if status == -1 and not self.context.is_connected:
            raise self.context.lost()
        return status


class HostConnection(fabric.Connection):  # type: ignore[misc]
    """A connection to one host of hosts.toml, gateways included. `HostConnection.to(host)` makes one; `open`, `run`,
    `session.run_module` and `forward.http_through` use it; `close` ends it and every gateway on the way."""

    _sftp: Any = None
    transport: Any = None
    endpoint: Endpoint = None  # type: ignore[assignment]  # declared here, or Invoke takes them for configuration
    early: Early | None = None
    first_look: Callable[[], object] | None = None  # the answer to what ahead.py has asked already
    ask_password: AskPassword | None = None
    sudo_password: str | None = None  # kept for this connection's further commands, in memory only

    @classmethod
    def to(cls, host: Host, *, ask_password: AskPassword | None = None, early: Early | None = None) -> HostConnection:
        """A connection, not opened yet. `ask_password` gets a prompt and returns the sudo password; it is called only
        when the host asks for one. `early` is what was begun while this module was imported.
        Raises NotReached for a configuration that cannot work."""
        made = cls(early.endpoint() if early else resolve(host), ask_password=ask_password)
        made.early = early
        return made

    def __init__(self, endpoint: Endpoint, *, ask_password: AskPassword | None = None) -> None:
        gateway: Any = HostConnection(endpoint.gateway) if endpoint.gateway else endpoint.proxy_command or False
        # Neither ssh_config nor Fabric's own files are read again: the endpoint has the last word.
        config = fabric.Config(
            lazy=True,
            ssh_config=paramiko.SSHConfig(),
            overrides={"runners": {"remote": FastRunner}, "run": {"in_stream": False, "hide": True}},
        )
        super().__init__(
            endpoint.hostname.replace(":", "_"),
            user=endpoint.user,
            port=endpoint.port,
            config=config,
            gateway=gateway,
            connect_kwargs={},
        )
        self.host = endpoint.hostname  # past Fabric's shorthand, which would split an IPv6 address
        self.endpoint, self.ask_password = endpoint, ask_password
        # open() checks the key itself; should anything ever use the client's own connect, it must be as strict.
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())

    @property
    def name(self) -> str:
        return self.endpoint.inventory_host or self.endpoint.name

    def open(self) -> None:
        """Connect, check the key, log in. Does nothing on an open connection.

        Raises NotReached, NotTrusted or LoginRefused, and leaves neither a socket nor a thread behind."""
        if self.is_connected:
            return
        for hop in self.endpoint.chain():
            check_identities(hop)
        link: Transport | None = None
        try:
            link = Transport(self._way_there())
            self._shake_hands(link)
            login.log_in(link, self.endpoint)
        except BaseException as error:
            _end(link)
            self._close_gateway()
            if isinstance(error, HostError) or not isinstance(error, Exception):
                raise
            raise explain(self.endpoint, error) from error
        link.watch_link()
        self.client._transport = self.transport = link

    def _way_there(self) -> Any:
        endpoint = self.endpoint
        if isinstance(self.gateway, HostConnection):
            self.gateway.open()
            try:
                return self.gateway.transport.open_channel("direct-tcpip", (endpoint.hostname, endpoint.port), ("", 0))
            except paramiko.ChannelException as error:
                raise gateway_refuses(endpoint, error.text, forbidden=error.code == FORBIDDEN) from error
        if self.gateway:
            return ProxyCommand(self.gateway)
        early = self.early.take() if self.early else None
        return early or dial(endpoint.hostname, endpoint.port)

    def _shake_hands(self, link: Transport) -> None:
        known = known_hosts.of(self.endpoint)
        link.prefer(known.types)
        link.handshake()
        known_hosts.refuse(self.endpoint, known, link.server_key)

    def fetch_key(self) -> Key:
        """The key that the server shows, of the types on record first. Nobody logs in to it, but gateways on the way
        are trusted and logged in to as always. Leaves nothing open. Raises NotReached, and for gateways NotTrusted
        and LoginRefused."""
        link: Transport | None = None
        try:
            link = Transport(self._way_there())
            link.prefer(known_hosts.of(self.endpoint).types)
            link.handshake()
            return link.server_key
        except (EOFError, OSError, paramiko.SSHException) as error:
            raise explain(self.endpoint, error) from error
        finally:
            _end(link)
            self._close_gateway()

    def close(self) -> None:
        """End the connection and its gateways, at once. Safe to call at any time, and twice."""
        if self._sftp is not None:
            with contextlib.suppress(Exception):
                self._sftp.close()
            self._sftp = None
        if self.early:
            self.early.close()
        link, self.transport, self.client._transport = self.transport, None, None
        _end(link)
        self._close_gateway()

    def _close_gateway(self) -> None:
        if isinstance(self.gateway, HostConnection):
            self.gateway.close()

    def create_session(self) -> Any:
        """One session channel, on a connection that is opened first if need be. Raises NotAllowed when the server
        gives no further one, LinkLost, and what `open` raises."""
        return self._session("open_session")

    def execute(self, command: str, data: bytes = b"") -> Any:
        """A channel on which `command` runs with `data` on its stdin (see Transport.execute). Raises as
        `create_session` does, though a first session's refusal shows later, as a channel that is closed."""
        return self._session("execute", command, data)

    def _session(self, how: str, *args: Any) -> Any:
        self.open()
        try:
            return getattr(self.transport, how)(*args)
        except paramiko.ChannelException as error:
            raise self.no_session(error) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self.lost(error) from error

    def no_session(self, error: Exception) -> NotAllowed:
        """The error for a server that opens no (further) session."""
        return NotAllowed(
            f"{self.endpoint.label}: the server opens no further session (MaxSessions)",
            details=[str(error)],
            next_commands=["raise MaxSessions in the host's sshd_config", "end other runs over this connection"],
        )

    def run(self, command: str, **kwargs: Any) -> Any:
        """Fabric's run. Raises LinkLost where Fabric raises whatever its threads met."""
        try:
            return super().run(command, **kwargs)
        except (OSError, EOFError, paramiko.SSHException, ThreadException) as error:
            if self.is_connected:
                raise
            raise self.lost(error) from error

    def sudo(self, command: str, **kwargs: Any) -> Any:
        """Not offered: Fabric's runs `b` of `a && b` without sudo, and answers a prompt with the text "None"."""
        raise NotImplementedError("what needs root is a module that session.run_module runs")

    def lost(self, error: BaseException | None = None) -> LinkLost:
        """The error for a link that has died under us, after `error`."""
        link = self.transport
        why = (link and link.get_exception()) or error
        reason = why.strerror if isinstance(why, OSError) and why.strerror else "closed by the host"
        if link and link.silence > SILENCE_S - transport.BEAT_S:
            reason = f"no answer for {link.silence:.0f} s"
        return LinkLost(
            f"{self.endpoint.label}: the connection was lost ({reason})",
            next_commands=["run the same command again: it goes on from what is there"],
        )


def _end(link: Transport | None) -> None:
    """Close a transport and see its thread off. paramiko's own close leaves the thread in a read for 0.1 s, and does
    nothing for a transport that never became active."""
    if link is None:
        return
    with contextlib.suppress(Exception):
        link.sock.shutdown(socket.SHUT_RDWR) if hasattr(link.sock, "shutdown") else link.sock.close()
    with contextlib.suppress(Exception):
        link.close()
    with contextlib.suppress(Exception):
        link.sock.close()
    if link.is_alive() and link is not threading.current_thread():
        link.join(1)


def gateway_refuses(endpoint: Endpoint, why: str, *, forbidden: bool) -> NotReached:
    """The gateway in front of `endpoint` was reached and opens no way to it."""
    gateway = endpoint.gateway.label if endpoint.gateway else "the gateway"
    if forbidden:
        return NotReached(
            f"{endpoint.label}: {gateway} does not forward connections (AllowTcpForwarding)",
            next_commands=["set `gateway` in hosts.toml to a host that forwards"],
        )
    return NotReached(
        f"{endpoint.label}: {gateway} cannot connect to it: {why}",
        next_commands=["check `address` and `port` in hosts.toml, as seen from the gateway"],
    )


def explain(endpoint: Endpoint, error: Exception) -> HostError:
    """What a failure to connect means, in one sentence, with what to type next."""
    ssh, check = endpoint.verbosely, "check `address` and `port` in hosts.toml"
    cause = error.__context__ if "protocol banner" in str(error) else error
    if isinstance(error, socket.gaierror):
        return NotReached(
            f"{endpoint.label}: no address is known for {endpoint.hostname!r} (DNS: {error.strerror})",
            next_commands=[f"getent hosts {endpoint.hostname}", check],
        )
    if isinstance(error, ConnectionRefusedError):
        return NotReached(
            f"{endpoint.label}: connection refused, no SSH server listens on port {endpoint.port}",
            next_commands=[ssh, check],
        )
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
        return NotReached(
            f"{endpoint.label}: no route to it ({error.strerror})",
            next_commands=[f"ping {endpoint.hostname}", "is the VPN up?"],
        )
    if "protocol banner" in str(error):
        if isinstance(cause, TimeoutError):
            return NotReached(
                f"{endpoint.label}: it accepts connections but says nothing for "
                f"{transport.BANNER_S:.0f} s (paused, or overloaded)",
                next_commands=[ssh],
            )
        return NotReached(
            f"{endpoint.label}: it hung up before a word was said (sshd down behind a proxy, or too many "
            "connections at once)",
            next_commands=[ssh],
        )
    if "protocol version" in str(error) or "Invalid SSH banner" in str(error):
        return NotReached(
            f"{endpoint.label}: something else than an SSH server answers on port {endpoint.port}",
            next_commands=[ssh, check],
        )
    if isinstance(error, TimeoutError):
        return NotReached(
            f"{endpoint.label}: no answer within {CONNECT_S:.0f} s (host down, or a firewall)",
            next_commands=[f"ping {endpoint.hostname}", ssh],
        )
    if isinstance(error, paramiko.IncompatiblePeer):
        return NotReached(f"{endpoint.label}: no common SSH algorithm: {error}", next_commands=[ssh])
    if isinstance(error, paramiko.AuthenticationException):
        return LoginRefused(f"{endpoint.label}: the login failed: {error}", next_commands=[ssh])
    if isinstance(error, (EOFError, OSError, paramiko.SSHException)):
        text = str(error) or "the host hung up"
        return NotReached(f"{endpoint.label}: the connection broke while it was made: {text}", next_commands=[ssh])
    return NotReached(f"{endpoint.label}: {type(error).__name__}: {error}", next_commands=[ssh])
