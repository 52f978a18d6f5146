"""Runs one of pantheon's modules on a host, as root, in one exec: the client's half of boot.py's protocol.

The header travels right behind the exec, before the host has answered anything: with sudo -n there is no prompt that
could swallow it. Where sudo may ask, the header waits for the start frame, and the password for the prompt.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import paramiko

from pantheon.errors import LinkLost, LookFailed, NotAllowed, PantheonError
from pantheon.remote import shipped
from pantheon.remote.connection import HostConnection
from pantheon.remote.endpoint import SILENCE_S
from pantheon.remote.transport import close_channel

BOOT = (
    'import sys,json;print(json.dumps(dict(frame="start")),flush=True);'
    'h=json.loads(sys.stdin.buffer.readline());exec(h["boot"]);sys.exit(boot(h))'
)
PYTHON = ("python3", "-IBS", "-c", BOOT)
START_S = 30.0  # until the start frame: sudo and PAM may take their time
HEARTBEAT_S = 5.0
MOST_BYTES = 64 << 20
STDERR_BYTES = 64 << 10
NOISE_BYTES = 16 << 10  # what a login script may print before the start frame

Frame = dict[str, Any]


def run_module(
    connection: HostConnection,
    main: str,
    spec: dict[str, Any],
    *,
    deadline_s: float,
    heartbeat: bool = False,
    on_frame: Callable[[Frame], None],
    on_sent: Callable[[], None] | None = None,
) -> int:
    """Runs `main`.main(spec, ...) on the host and returns its exit status. Each frame that it prints goes to
    `on_frame`. `heartbeat` sends an empty line every HEARTBEAT_S, for a runner that ends without. `deadline_s` counts
    from the login, without the time that a human takes to type a password.

    Raises LinkLost; NotAllowed (sudo, python3, no session); LookFailed (no JSON, killed, too late, too much). An
    error raised by `on_frame`, or Ctrl-C, closes the channel at once and passes."""
    session = _Session(connection, on_frame, deadline_s=deadline_s, heartbeat=heartbeat)
    session.on_sent = on_sent
    return session.run({"boot": shipped.boot_text(), **shipped.header(main, spec)})


class _Session:
    def __init__(
        self, connection: HostConnection, on_frame: Callable[[Frame], None], *, deadline_s: float, heartbeat: bool
    ) -> None:
        self.connection, self.on_frame = connection, on_frame
        self.deadline_s, self.heartbeat = deadline_s, heartbeat
        self.label = connection.endpoint.label
        self.prompt = f"[pantheon {secrets.token_hex(8)}] password:"
        self.line = bytearray()  # of stdout, unfinished
        self.noise = bytearray()  # on stdout before the start frame
        self.stderr = bytearray()
        self.total = 0
        self.started = self.asked = self.greeted = False
        self.main = self.died = ""
        self.over = threading.Event()
        self.sending = threading.Lock()  # a heartbeat must not land in the middle of a line
        self.on_sent: Callable[[], None] | None = None
        self.callers_own: Exception | None = None  # raised by on_frame: passes as it is

    def run(self, header: dict[str, Any]) -> int:
        self.main = header["main"]
        self.header = (json.dumps(header) + "\n").encode()
        # Where sudo may ask, the header waits: blindly sent, it would be taken for a password.
        self.greeted = not self._may_ask
        channel = self.channel = self.connection.execute(self._command(), self.header if self.greeted else b"")
        self.began = time.monotonic()
        if self.heartbeat:
            threading.Thread(target=self._keep_beating, daemon=True).start()
        if self.on_sent:
            self.on_sent()
        try:
            while not self._finished():
                self._check_time(time.monotonic())
                select.select([channel], [], [], min(1.0, self.deadline_s))
                self._read()
            self._read()
            return self._status()
        except (TimeoutError, OSError, EOFError, paramiko.SSHException) as error:
            if error is self.callers_own:
                raise
            raise self._broken(error) from error
        finally:
            self.over.set()
            close_channel(channel)

    # -- before the first frame

    @property
    def _root(self) -> bool:
        return self.connection.endpoint.user == "root"

    @property
    def _may_ask(self) -> bool:
        return not self._root and self.connection.ask_password is not None

    def _command(self) -> str:
        # LC_ALL: sudo's own words decide which error is shown, so they must be the untranslated ones.
        sudo = ["env", "LC_ALL=C", "sudo", *(["-S", "-p", self.prompt] if self._may_ask else ["-n"]), "--"]
        return shlex.join([*([] if self._root else sudo), *PYTHON])

    def _greet(self) -> None:
        self.channel.settimeout(SILENCE_S)
        with self.sending:
            self.channel.sendall(self.header)
        self.greeted = True

    def _answer_prompt(self) -> None:
        """The password goes out once, only for our own prompt, and never before it: to a sudo that wants none it
        would be input for the command."""
        tail = self.stderr.rstrip(b" ")
        if self.started or not self._may_ask or not tail.endswith(self.prompt.encode()):
            return
        del self.stderr[len(tail) - len(self.prompt) :]
        if self.asked:
            self.connection.sudo_password = None
            raise NotAllowed(
                f"{self.label}: sudo did not accept the password of {self.connection.endpoint.user}",
                next_commands=["the same command again, with the right password"],
            )
        self.asked = True
        if self.connection.sudo_password is None:
            began = time.monotonic()
            ask = self.connection.ask_password
            assert ask is not None
            self.connection.sudo_password = ask(
                f"sudo password of {self.connection.endpoint.user} on {self.connection.name}: "
            )
            self.began += time.monotonic() - began
        self.channel.settimeout(SILENCE_S)
        self.channel.sendall(self.connection.sudo_password.encode() + b"\n")

    # -- while it runs

    def _check_time(self, now: float) -> None:
        passed = now - self.began
        if not self.connection.transport.is_active() or self.connection.transport.silence > SILENCE_S + 3:
            raise self.connection.lost()
        if not self.started and passed > min(START_S, self.deadline_s):
            raise NotAllowed(
                f"{self.label}: python3 was not started within {passed:.0f} s",
                details=self._last_lines(),
                next_commands=[self._by_hand("true")],
            )
        if passed > self.deadline_s:
            raise LookFailed(
                f"{self.label}: no answer within {self.deadline_s:.0f} s",
                details=self._last_lines(),
                next_commands=["run the same command again"],
            )

    def _keep_beating(self) -> None:
        """Heartbeats come from a thread of their own: a terminal held with Ctrl-S stops what draws on it, and must not
        end the work on the host. A dead link is noticed by the loop that reads."""
        while not self.over.wait(HEARTBEAT_S - 0.5):
            if self.greeted:
                with self.sending, contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    self.channel.sendall(b"\n")

    def _read(self) -> None:
        while self.channel.recv_stderr_ready():
            data = self.channel.recv_stderr(STDERR_BYTES)
            self._count(data)
            self.stderr += data
            del self.stderr[:-STDERR_BYTES]
            self._answer_prompt()
        while self.channel.recv_ready():
            data = self.channel.recv(1 << 18)
            self._count(data)
            first, *rest = data.split(b"\n")
            self.line += first
            for part in rest:
                line, self.line = bytes(self.line), bytearray(part)
                if line.strip():
                    self._take(line)

    def _count(self, data: bytes) -> None:
        self.total += len(data)
        if self.total > MOST_BYTES:
            raise LookFailed(
                f"{self.label}: more than {MOST_BYTES >> 20} MB of output",
                details=self._last_lines(),
                next_commands=["report this: it should not happen"],
            )

    def _take(self, line: bytes) -> None:
        try:
            frame = json.loads(line)
        except ValueError:
            frame = None
        if not isinstance(frame, dict) or "frame" not in frame:
            if self.started:
                raise LookFailed(
                    f"{self.label}: not a frame: {line[:200].decode('utf-8', 'replace')!r}",
                    details=self._last_lines(),
                    next_commands=["report this: it should not happen"],
                )
            self.noise += line + b"\n"
            del self.noise[:-NOISE_BYTES]
        elif not self.started:
            self.started = frame["frame"] == "start"
            if self.started and not self.greeted:
                self._greet()
        elif frame["frame"] == "missing":
            texts = {name: shipped.packed(name) for name in frame["modules"]}
            with self.sending:
                self.channel.sendall((json.dumps({"sources": texts}) + "\n").encode())
        elif frame["frame"] == "died":
            self.died = str(frame.get("error", ""))
        elif frame["frame"] == "python":
            raise NotAllowed(
                f"{self.label}: its python3 is {frame['version']}; pantheon needs 3.10 or later",
                next_commands=["install a newer python3 on the host"],
            )
        else:
            try:
                self.on_frame(frame)
            except Exception as error:
                self.callers_own = error
                raise

    def _finished(self) -> bool:
        # Not until the end of output: the status may overtake it. A child that keeps stdout open must not hold us.
        channel = self.channel
        if channel.recv_ready() or channel.recv_stderr_ready():
            return False
        if channel.closed or (channel.eof_received and channel.exit_status_ready()):
            return True
        return self._ended_for() > 1.0

    def _ended_for(self) -> float:
        if not self.channel.exit_status_ready():
            self.ended = time.monotonic()
        return time.monotonic() - self.ended

    def _status(self) -> int:
        status = int(self.channel.exit_status)
        if self.connection.transport.refusal and not self.started:
            raise self.connection.no_session(self.connection.transport.refusal)
        if status == -1 and not self.connection.transport.is_active():
            raise self.connection.lost()
        if not self.started:
            raise self._not_started(status)
        if status == -1 or self.died:
            what = f"{self.main} died there: {self.died}" if self.died else f"{self.main} was killed there"
            raise LookFailed(
                f"{self.label}: {what}",
                details=self._last_lines(),
                next_commands=["run the same command again"],
            )
        return status

    # -- errors

    def _last_lines(self) -> list[str]:
        text = (self.stderr or self.noise).decode("utf-8", "replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-10:]

    def _broken(self, error: Exception) -> PantheonError:
        transport = self.connection.transport
        if isinstance(error, (TimeoutError, socket.timeout)) or transport is None or not transport.is_active():
            return self.connection.lost()
        # The channel closed under a write: what the other side said on its way out is the better error.
        try:
            self._read()
            self._status()
        except (PantheonError, OSError, paramiko.SSHException) as better:
            if isinstance(better, PantheonError):
                return better
        return LinkLost(f"{self.label}: the session ended: {error}", details=self._last_lines())

    def _by_hand(self, command: str) -> str:
        endpoint = self.connection.endpoint
        return f"ssh -t -p {endpoint.port} {endpoint.user}@{endpoint.hostname} {command}"

    def _not_started(self, status: int) -> NotAllowed:
        said = self.stderr.decode("utf-8", "replace")
        user = self.connection.endpoint.user
        lines = self._last_lines()

        def error(text: str, *next_commands: str) -> NotAllowed:
            return NotAllowed(f"{self.label}: {text}", details=lines, next_commands=next_commands)

        if "python3" in said and ("not found" in said or "No such file" in said):
            return error("python3 is missing on the host", self._by_hand("sudo apt-get install -y python3-minimal"))
        if "sudo" in said and status in (126, 127):
            return error(
                "sudo is missing on the host",
                self._by_hand("\"su -c 'apt-get install -y sudo'\""),  # two shells read it
                'or set user = "root" in hosts.toml',
            )
        if "password is required" in said or "a terminal is required to read the password" in said:
            return error(f"sudo asks for the password of {user}", "the same command with --ask-sudo-password")
        if "incorrect password" in said or "no password was provided" in said:
            return error(f"sudo did not accept the password of {user}", "the same command, with the right password")
        if "not in the sudoers file" in said or "may not run sudo" in said or "not allowed to execute" in said:
            return error(f"{user} may not use sudo there", self._by_hand("sudo -l"))
        if "must have a tty" in said:
            return error(
                "sudo demands a terminal (requiretty)", self._by_hand("sudo visudo   # Defaults:USER !requiretty")
            )
        if status == -1 and not said and not self.noise:
            return error("the server runs no command for this login", self._by_hand("true"))
        return error(
            f"python3 was not started as root (exit status {status}; a ForceCommand, or a login shell that "
            "runs nothing?)",
            self._by_hand("sudo -n python3 --version"),
        )
