"""paramiko's Transport with its cures: no waiting where nothing is to be waited for, an answer-or-die keepalive, bounds
on every step.

Round trips to a login: connect, banner with key exchange proposals, key exchange, login. (Stock paramiko waits once
more, for the server to grant the right to ask for a login; OpenSSH grants it always, and dropbear's client has not
waited since 2013.)
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import (
    CONNECTION_FAILED_CODE,
    cMSG_CHANNEL_DATA,
    cMSG_CHANNEL_OPEN,
    cMSG_CHANNEL_REQUEST,
    cMSG_GLOBAL_REQUEST,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_REQUEST,
)
from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.transport import ServiceRequestingTransport

from pantheon.remote.endpoint import SILENCE_S
from pantheon.remote.known_hosts import SIGNATURES, Key

BANNER_S = 10.0  # until the server says SSH-2.0: a paused host accepts connections and stays silent
HANDSHAKE_S = 15.0
LOGIN_S = 20.0
CHANNEL_S = 10.0
MOST_AHEAD = 30_000  # bytes of input that go out with the command: one packet
BEAT_S = 2.0  # between two questions whether the other side is still there


# paramiko logs each refused channel as an error, and Python prints what nobody handles.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def close_channel(channel: Any) -> None:
    """As the channel's own close, but nothing that still comes in touches the pipe that `select` had of it. paramiko
    closes that pipe under the feet of its reading thread, whose next write then failed and took the whole connection
    with it; or went into whatever had got the same descriptor by then."""
    for buffer in (channel.in_buffer, channel.in_stderr_buffer):
        buffer.set_event(threading.Event())
    channel.close()


class Silent(paramiko.SSHException):  # type: ignore[misc]
    """The other side has not answered for SILENCE_S."""


class _Packetizer(Packetizer):  # type: ignore[misc]
    """Remembers when the last packet came in, and acknowledges each at once: sshd keeps Nagle on until a command
    runs, so that a delayed acknowledgement of ours held its next words back for 40 ms."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.heard = time.monotonic()
        self.acknowledge = getattr(sock, "setsockopt", None) if hasattr(socket, "TCP_QUICKACK") else None

    def read_message(self) -> Any:
        if self.acknowledge:  # Linux forgets it again, so it is said before every read
            with contextlib.suppress(OSError):
                self.acknowledge(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        message = super().read_message()
        self.heard = time.monotonic()
        return message


class _Login(AuthOnlyHandler):  # type: ignore[misc]
    def send_auth_request(self, username: str, method: str, finish_message: Any = None) -> Any:
        """As paramiko's, but the event is there before the question goes out: an answer that is quicker than the
        next line of Python was lost, and the login hung until its timeout. Keeps what the server would accept."""
        message = Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        if finish_message is not None:
            finish_message(message)
        self.auth_method, self.username = method, username
        self.auth_event = event = threading.Event()
        with self.transport.lock:
            self.transport.saved_exception = None
            self.transport._send_message(message)
        return self.wait_for_response(event)

    def _parse_userauth_failure(self, m: Any) -> None:
        self.transport.login_methods = tuple(Message(m.get_remainder()).get_list())
        super()._parse_userauth_failure(m)


class Transport(ServiceRequestingTransport):  # type: ignore[misc]
    """A client's transport. `silence` is for how long nothing has come in, in seconds."""

    login_methods: tuple[str, ...] = ()
    refusal: Exception | None = None
    auth_handler: Any

    def __init__(self, sock: Any, **options: Any) -> None:
        super().__init__(sock, packetizer_class=_Packetizer, **options)
        self._opening = threading.local()  # the channel that a thread is opening
        self._refusals: dict[int, paramiko.ChannelException] = {}  # by channel, until that thread has met it
        self.banner_timeout = BANNER_S
        self.handshake_timeout = HANDSHAKE_S
        self.auth_timeout = LOGIN_S
        self.channel_timeout = CHANNEL_S
        self.clear_to_send_timeout = CHANNEL_S

    def prefer(self, types: Sequence[str]) -> None:
        """Ask for these host key types first, as OpenSSH does for a host that it knows. Otherwise one that is known
        by its ecdsa key would show its ed25519 key and look like a stranger."""
        options = self.get_security_options()
        wanted = [name for kind in types for name in SIGNATURES.get(kind, (kind,)) if name in options.key_types]
        options.key_types = tuple(dict.fromkeys((*wanted, *options.key_types)))

    def handshake(self) -> None:
        """Banner and key exchange. Raises SSHException, EOFError or OSError."""
        self.start_client(timeout=BANNER_S + HANDSHAKE_S)
        if not self.initial_kex_done:  # paramiko returns without a word when the time is up
            raise paramiko.SSHException("the key exchange was not finished in time")

    @property
    def server_key(self) -> Key:
        key = self.get_remote_server_key()
        return Key(key.get_name(), key.asbytes())

    def get_auth_handler(self) -> Any:
        return _Login(self)

    def ensure_session(self) -> None:
        """Ask for the login service once, and do not wait for the answer: it comes before the login's own."""
        if not self.active or not self.initial_kex_done:
            raise paramiko.SSHException("the connection ended before the login")
        if self.auth_handler is None:
            message = Message()
            message.add_byte(cMSG_SERVICE_REQUEST)
            message.add_string("ssh-userauth")
            self.auth_handler = self.get_auth_handler()
            self._send_message(message)

    def execute(self, command: str, data: bytes = b"") -> Any:
        """A channel on which `command` runs, with `data` as the first of its input. The answer is not waited for: a
        refusal closes the channel, and `refusal` then holds the reason where the channel itself was refused.

        OpenSSH's first session is its channel 0 and its window is open once the command runs, so opening, command and
        input leave in one flight there: two round trips less. Any other server, or a later session, is asked in turn.
        Raises ChannelException and SSHException from `open_session`."""
        if self._channel_counter or "OpenSSH" not in self.remote_version or len(data) > MOST_AHEAD:
            channel = self.open_session()
            self._run(channel, command)
            channel.settimeout(SILENCE_S)
            try:
                channel.sendall(data)
            except OSError:
                if not channel.closed:  # closed: the command was refused, which whoever reads from it will see
                    raise
            return channel
        channel = paramiko.Channel(self._next_channel())
        self._channels.put(channel.chanid, channel)
        self.channels_seen[channel.chanid] = True
        channel._set_transport(self)
        channel._set_window(self.default_window_size, self.default_max_packet_size)
        # No window yet: what else is sent waits for the server's own word, which comes with its confirmation.
        channel._set_remote_channel(0, 0, self.default_max_packet_size)
        opening = Message()
        opening.add_byte(cMSG_CHANNEL_OPEN)
        opening.add_string("session")
        for number in (channel.chanid, self.default_window_size, self.default_max_packet_size):
            opening.add_int(number)
        self._send_user_message(opening)
        self._run(channel, command)
        if data:
            first = Message()
            first.add_byte(cMSG_CHANNEL_DATA)
            first.add_int(0)
            first.add_string(data)
            self._send_user_message(first)
        return channel

    def _run(self, channel: Any, command: str) -> None:
        message = Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(command)
        self._send_user_message(message)

    def open_channel(self, *args: Any, **kwargs: Any) -> Any:
        """As paramiko's, which keeps one refusal for all: of two channels refused at once it told one thread the
        other's reason, or none."""
        try:
            return super().open_channel(*args, **kwargs)
        except paramiko.SSHException as error:
            refused = self._refusals.pop(getattr(self._opening, "channel", -1), None)
            raise refused or error from None

    def _next_channel(self) -> Any:
        self._opening.channel = super()._next_channel()
        return self._opening.channel

    def _parse_channel_open_failure(self, m: Any) -> None:
        copy = Message(m.get_remainder())
        number, code = copy.get_int(), copy.get_int()
        channel = self._channels.get(number)
        refused = paramiko.ChannelException(code, CONNECTION_FAILED_CODE.get(code, "(unknown code)"))
        self._refusals[number] = refused
        super()._parse_channel_open_failure(m)
        if channel is not None and channel.active:  # one that `execute` has taken for open
            self.refusal = self._refusals.pop(number, refused)
            channel._unlink()

    @property
    def silence(self) -> float:
        return time.monotonic() - float(self.packetizer.heard)

    def watch_link(self) -> None:
        """From now on ask every BEAT_S for a sign of life, and end the connection when none came for SILENCE_S.

        TCP's own timeout sees a cut cable, but not a host that is frozen behind a living kernel or a gateway."""
        self.packetizer.heard = time.monotonic()
        self.packetizer.set_keepalive(BEAT_S, self._beat)

    def _beat(self) -> None:
        if self.silence > SILENCE_S:
            raise Silent(f"no answer for {self.silence:.0f} s")
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)  # OpenSSH answers what it does not know with a failure, which is all we want
        self._send_message(message)
