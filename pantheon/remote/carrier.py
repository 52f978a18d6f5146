"""One ssh process that carries a tunnel's bytes: started, listened to, and gone without a trace."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

from pantheon.errors import NotReached
from pantheon.remote import ssh

MOST_LINES = 40
END_S = 3.0


class Carrier:
    """A running ssh. `listening` is set when it has logged in and bound its ports, `ended` when it is no more.

    Raises NotReached when OpenSSH is not installed."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.listening, self.ended = threading.Event(), threading.Event()
        self._words: deque[str] = deque(maxlen=MOST_LINES)
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ssh.environment(),
                start_new_session=True,  # Ctrl-C is for us: ssh is ended in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        except FileNotFoundError as error:
            raise NotReached(
                "OpenSSH's ssh is not installed here; tunnels need it", next_commands=["apt-get install openssh-client"]
            ) from error
        assert self.process.stdout
        assert self.process.stderr
        for work, stream in ((self._hear, self.process.stdout), (self._note, self.process.stderr)):
            threading.Thread(target=work, args=(stream,), name="pantheon-ssh", daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> list[str]:
        """ssh's last lines, oldest first."""
        return list(self._words)

    def stop(self) -> None:
        """End it. Returns when it is gone."""
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _hear(self, stream: IO[bytes]) -> None:
        for _ in stream:
            self.listening.set()

    def _note(self, stream: IO[bytes]) -> None:
        for line in stream:
            if text := line.decode("utf-8", "replace").strip():
                self._words.append(text)
        self.process.wait()
        self.ended.set()


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child, before ssh: kill -9 of pantheon must not leave a tunnel. 1 is PR_SET_PDEATHSIG. It means the thread
    that forked, which therefore lives as long as the tunnel."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)
