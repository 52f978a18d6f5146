"""One ssh process that carries a tunnel's bytes: started, listened to, and gone without a trace."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pantheon.errors import NotReached
from pantheon.looks.text import plain
from pantheon.remote import ssh
from pantheon.tunnel import Refusal, refusal

MOST_LINES = 40
MOST_BYTES = 64 << 10  # of a line that does not end
END_S = 1.0  # for ssh to end by itself
LEFT_S = 0.3  # for what it has started, once it is gone
LOOK_S = 0.5  # between two looks at whether it is still there, should something of its own hold its stderr open

# Waits for the end of a pipe that only this process holds: kill -9 of pantheon must not leave a tunnel. CONT is for one
# that stands still, and hears nothing else.
WATCHDOG = 'read -r _; for s in TERM CONT; do kill -s $s -- "-$1"; done'

# sshd's words of a session (MaxSessions, a process that cannot be started); those of a client's connection are others.
NO_SESSION = ("open failed: connect failed: open failed", "request failed on channel")

HAS_DEATH_SIGNAL = sys.platform == "linux"


class Carrier:
    """A running ssh. `listening` is set when it has logged in and bound its ports, `ended` when it is no more, with
    all that it had started. `heard` is called, in another thread, at both and when a client was refused.

    With `session`, its stdin is open as long as it lives (ssh.SESSION).

    It ends with this process, however that ends: by a parent-death signal where the system has one. The thread that
    makes a Carrier must live as long as it: to Linux that one is the parent. Where there is no such signal, and with
    `watchdog` for what ssh itself starts (a ProxyCommand), a small process sees to it.

    Raises NotReached when OpenSSH is not installed, or when no process can be started."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        heard: Callable[[], None] = lambda: None,
        watchdog: bool = False,
        session: bool = False,
    ) -> None:
        self.listening, self.ended = threading.Event(), threading.Event()
        self.refusal: Refusal = ""  # of the last client that got none of what it wanted
        self._no_session = False
        self._heard = heard
        self._words: deque[str] = deque(maxlen=MOST_LINES)
        self._stdout = -1
        self._watchdog: subprocess.Popen[bytes] | None = None
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if session else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ssh.environment(),
                start_new_session=True,  # Ctrl-C is for us: ssh is ended in order, with what it has started
                preexec_fn=partial(_die_with_parent, os.getpid()) if HAS_DEATH_SIGNAL else None,  # noqa: PLW1509
                bufsize=0,
            )
        except FileNotFoundError as error:
            raise NotReached(
                "OpenSSH's ssh is not installed here; tunnels need it", next_commands=["apt-get install openssh-client"]
            ) from error
        except (OSError, subprocess.SubprocessError) as error:
            raise NotReached(f"ssh cannot be started: {error}", next_commands=["ulimit -a", "free -m"]) from error
        if watchdog or not HAS_DEATH_SIGNAL:
            self._guard()
        threading.Thread(target=self._listen, name="pantheon-ssh", daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> list[str]:
        """ssh's last lines since it was started or, once it listened, since then; oldest first."""
        return list(self._words)

    def stop(self, patience_s: float = END_S) -> None:
        """End it and all that it has started. Returns when it is gone: soon, whatever state it is in."""
        if self.ended.is_set():
            return
        self._signal(signal.SIGTERM if patience_s else signal.SIGKILL)
        self._signal(signal.SIGCONT)  # one that stands still hears nothing else
        if not self.ended.wait(patience_s):
            self._signal(signal.SIGKILL)
            self.ended.wait(END_S)

    def has_lost_its_session(self) -> bool:
        """Whether it ended because the host gives no session, or not for long. Of a lost link ssh's code is 255."""
        if self.process.stdin is None or self.process.returncode is None:
            return False
        return self._no_session or 0 <= self.process.returncode < 255

    def is_alive(self) -> bool:
        """Whether it runs at this very moment; `ended` follows a little later."""
        return not self.ended.is_set() and not self._has_ended()

    def stands_still(self) -> bool:
        """Whether somebody has stopped it (SIGSTOP, a debugger): it holds the port, and answers nobody."""
        if not hasattr(os, "waitid"):
            return False
        try:
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except OSError:
            return False

    def turns(self) -> int | None:
        """How often it has gone to sleep and woken: it does so every 2 s, for its keepalive. None where the system
        does not say. One that makes no turn in several seconds hangs."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        counts = [line.split()[-1] for line in status.splitlines() if "ctxt_switches" in line]
        return sum(map(int, counts)) if counts else None

    # ---- its thread

    def _listen(self) -> None:
        """Read what it says until it is gone, then see off what it has left."""
        process = self.process
        assert process.stdout
        assert process.stderr
        self._stdout = process.stdout.fileno()
        rest = {self._stdout: b"", process.stderr.fileno(): b""}
        with selectors.DefaultSelector() as pipes:
            for fd in rest:
                os.set_blocking(fd, False)
                pipes.register(fd, selectors.EVENT_READ)
            while not self._has_ended():
                if pipes.get_map():
                    self._read(pipes, rest, LOOK_S)
                else:
                    time.sleep(0.02)
            self._read(pipes, rest, 0)
            self._see_off(pipes, rest)
        for text in rest.values():
            self._line(text)
        process.stdout.close()
        process.stderr.close()
        if process.stdin:
            process.stdin.close()
        self.ended.set()
        self._heard()

    def _read(self, pipes: selectors.BaseSelector, rest: dict[int, bytes], patience_s: float) -> None:
        # stdout first: what comes with `listening` comes after it.
        for key, _ in sorted(pipes.select(patience_s), key=lambda ready: ready[0].fd != self._stdout):
            try:
                piece = os.read(key.fd, MOST_BYTES)
            except BlockingIOError:
                continue
            if not piece:
                pipes.unregister(key.fd)
                continue
            if key.fd == self._stdout:
                if b"\n" in piece and not self.listening.is_set():
                    self._words.clear()
                    self.listening.set()
                    self._heard()
                continue
            *lines, last = (rest[key.fd] + piece).split(b"\n")
            for line in lines:
                self._line(line)
            rest[key.fd] = last[-MOST_BYTES:]

    def _line(self, raw: bytes) -> None:
        text = plain(raw.decode("utf-8", "replace")).strip()
        self._no_session |= any(words in text for words in NO_SESSION)
        kind = refusal(text) if self.listening.is_set() else ""
        if kind:
            self.refusal = kind
            self._heard()
        elif text:
            self._words.append(text)

    def _see_off(self, pipes: selectors.BaseSelector, rest: dict[int, bytes]) -> None:
        """ssh has ended, and is not buried yet, so that its number is nobody else's: what it has started goes with it.
        All of that holds its stderr."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            end = time.monotonic() + LEFT_S
            while pipes.get_map() and (left := end - time.monotonic()) > 0:
                self._read(pipes, rest, left)
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.wait()
            assert self._watchdog.stdin
            self._watchdog.stdin.close()
        self.process.wait()

    def _has_ended(self) -> bool:
        """Leaves it unburied where the system can do that."""
        if self.process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _signal(self, number: int) -> None:
        if self.process.returncode is None or not hasattr(os, "waitid"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _guard(self) -> None:
        with contextlib.suppress(OSError):
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", WATCHDOG, "sh", str(self.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


_LIBC = ctypes.CDLL(None) if HAS_DEATH_SIGNAL else None


def _die_with_parent(parent: int) -> None:
    """In the child, before ssh. 1 is PR_SET_PDEATHSIG; a parent that was gone before it was set sends nothing. KILL,
    since one that stands still (state T) would hear no other, and would go on holding its port."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
