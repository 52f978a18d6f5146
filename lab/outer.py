"""The workstation's side of the lab: its Docker client and the messages to whoever is waiting.

Everything here goes through the `docker` command, so any engine that command reaches will do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, TextIO

Say = Callable[[str], None]

INSTALL_HINT = "make demo installs and starts one on Debian and Ubuntu; else see docs.docker.com/engine/install"


class LabError(Exception):
    """Something the lab needs is not there. The text is one paragraph and ends with what to type next."""


class Progress:
    """Prints lines with the seconds since it was made, on stderr so that stdout stays free for results."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.started = time.monotonic()
        self.stream = stream

    def __call__(self, text: str) -> None:
        stream = self.stream or sys.stderr
        stream.write(f"[{time.monotonic() - self.started:5.1f} s] {text}\n")
        stream.flush()


def as_program(work: Callable[[Say], object]) -> int:
    """What a module of the lab does when it is run: its work, and 1 with one line where that cannot be done."""
    try:
        work(Progress())
    except LabError as error:
        sys.stderr.write(f"✗ {error}\n")
        return 1
    return 0


def silent(_text: str) -> None:
    """The Say of callers that want no lines."""


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and return it, whatever its status. A command that is missing or late is a LabError."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # mmdebstrap, when it fails, ends its whole process group: not to be ours
        )
        with process:
            try:
                out, err = process.communicate(stdin if isinstance(stdin, bytes) else None, timeout=timeout)
            except BaseException:
                stop(process)
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out or b"", err)
    except FileNotFoundError:
        hint = INSTALL_HINT if argv[0] == "docker" else f"install the package that has {argv[0]}"
        raise LabError(f"there is no `{argv[0]}` command on this machine ({hint}).") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{shown(argv)}` did not end within {timeout:.0f} s.") from None


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started: asked first, so that it cleans up behind itself, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.communicate(timeout=5)


def docker(
    *argv: str, timeout: float = 60, stdin: bytes | IO[bytes] | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run the Docker client. With `check`, a non-zero status is a LabError that names the cause where it is known."""
    done = run(["docker", *argv], timeout=timeout, stdin=stdin)
    if check and done.returncode != 0:
        raise LabError(explain(argv, done))
    return done


def text(*argv: str, timeout: float = 60) -> str:
    """What the Docker client printed, without the last newline."""
    return docker(*argv, timeout=timeout).stdout.decode().strip()


def explain(argv: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> str:
    """Why a Docker command failed, in words that say what to do next."""
    said = (done.stderr or b"").decode(errors="replace") + (done.stdout or b"").decode(errors="replace")
    last = " / ".join([line.strip() for line in said.splitlines() if line.strip() not in ("", "[]")][-8:])
    low = said.lower()
    if "cannot connect to the docker daemon" in low or "error during connect" in low:
        return f"no Docker engine answers on this machine ({INSTALL_HINT}). Docker said: {last}"
    if "permission denied" in low and "docker.sock" in low:
        return (
            "the Docker engine does not let this user in. Next: sudo usermod -aG docker $USER, log in again. "
            f"Docker said: {last}"
        )
    if "no space left on device" in low:
        return (
            "a disk of this machine is full, so the lab could not be built or started. Next: docker system df, "
            f"then make room (make clean empties the lab's own cache). Docker said: {last}"
        )
    if "port is already allocated" in low or "address already in use" in low:
        return (
            "the port asked for is taken on this machine. Next: invoke lab.status to see other labs, or another "
            f"port: invoke lab.up --port 2223. Docker said: {last}"
        )
    return f"`docker {shown(argv)}` failed with status {done.returncode}. Docker said: {last or 'nothing'}"


def shown(argv: Sequence[str]) -> str:
    """A command short enough for a message."""
    line = " ".join(argv)
    return line if len(line) < 120 else line[:117] + "..."
