"""Applies the steps of a plan. Runs ON the host, as root, under one lock; standard library only.

The client sends a heartbeat on standard input. On end of file, or after SILENCE_S without one, the running step's
process group is ended, half-made containers are put right, and the lock is freed: a client that was killed, or a link
that died, leaves a host from which the next run simply goes on.

Frames on standard output, one JSON object a line:
  {"frame": "locked", "holder": {...}}              nothing was done
  {"frame": "step", "index": 0}                     this step starts
  {"frame": "out", "index": 0, "line": "..."}       a line of its output
  {"frame": "done", "index": 0, "s": 1.2}
  {"frame": "changed", "index": 0, "kind", "target", "planned", "now"}   the host is not what was planned on
  {"frame": "failed", "index": 0, "status": 1, "lines": [...]}
  {"frame": "end", "result": "done"}                done, failed, changed or interrupted
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import py_compile
import queue
import re
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

import pantheon
from pantheon import probe

LOCK = "/run/pantheon/lock"
STATE = "/var/lib/pantheon/state.json"
LIBRARY = "/var/lib/pantheon/lib"
LOG_DIR = "/var/log/pantheon"
HISTORY = LOG_DIR + "/history.jsonl"
COMMANDS = LOG_DIR + "/commands.jsonl"

SILENCE_S = 20.0  # without a heartbeat for so long the client counts as gone
GRACE_S = 3.0  # between SIGTERM and SIGKILL
EXIT_FAILED, EXIT_LOCKED, EXIT_CHANGED, EXIT_INTERRUPTED = 1, 75, 76, 130


class Interrupted(Exception):
    """The client is gone, or asked to stop."""


class Output:
    """Frames to the client from a thread of its own: a dead link may block a write for minutes, the work never."""

    def __init__(self, stream: IO[str]) -> None:
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=2000)
        self._stream = stream
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def send(self, **frame: Any) -> None:
        with contextlib.suppress(queue.Full):  # only ever full when nobody reads any more
            self._queue.put_nowait(frame)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (frame := self._queue.get()) is not None:
                self._stream.write(json.dumps(frame) + "\n")
                self._stream.flush()

    def close(self) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout=2)


class Client:
    """Whether the other end still lives, as heard on standard input."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._fd = stream.fileno()
        self.gone = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self.gone.set())
        signal.signal(signal.SIGHUP, lambda *_: self.gone.set())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd], [], [], SILENCE_S)
            if not ready or not os.read(self._fd, 4096):
                self.gone.set()
                return


class Lock:
    """One flock for all who change this host. It goes with the process, so a dead owner never holds it."""

    def __init__(self) -> None:
        os.makedirs(os.path.dirname(LOCK), mode=0o755, exist_ok=True)
        self._fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def take(self, holder: dict[str, Any]) -> dict[str, Any] | None:
        """None when the lock is ours now, else who has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                other = json.loads(os.pread(self._fd, 4096, 0) or b"{}")
                return other if isinstance(other, dict) else {}
            return {}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode(), 0)
        return None

    def free(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def main(spec: dict[str, Any], stdin: IO[bytes], stdout: IO[str]) -> int:
    """Apply spec["steps"] in order. Returns 0, EXIT_FAILED, EXIT_LOCKED, EXIT_CHANGED or EXIT_INTERRUPTED."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o022)
    output, client, lock = Output(stdout), Client(stdin), Lock()
    holder = {"who": spec["who"], "what": spec["what"], "since": _now(), "pid": os.getpid(), "run": spec["run"]}
    other = lock.take(holder)
    if other is not None:
        output.send(frame="locked", holder=other)
        output.close()
        return EXIT_LOCKED
    status = EXIT_FAILED
    try:
        status = _apply(spec, output, client)
    finally:
        result = {0: "done", EXIT_CHANGED: "changed", EXIT_INTERRUPTED: "interrupted"}.get(status, "failed")
        named = {key: spec[key] for key in ("who", "what", "version", "plan", "run")}
        _append(HISTORY, {"when": _now(), **named, "steps": len(spec["steps"]), "result": result}, 0o644)
        lock.free()
        output.send(frame="end", result=result)
        output.close()
    return status


def _apply(spec: dict[str, Any], output: Output, client: Client) -> int:
    _keep_modules()
    for index, step in enumerate(spec["steps"]):
        if client.gone.is_set():
            return EXIT_INTERRUPTED
        for guard in step["guards"]:
            now = probe.reading(guard["kind"], guard["target"])
            if now != guard["reading"]:
                output.send(
                    frame="changed",
                    index=index,
                    kind=guard["kind"],
                    target=guard["target"],
                    planned=guard["reading"],
                    now=now,
                )
                return EXIT_CHANGED
        output.send(frame="step", index=index)
        began = time.monotonic()
        try:
            status, lines = _step(index, step, output, client)
        except Interrupted:
            _mend_names(spec["project"])
            status, lines = EXIT_INTERRUPTED, []
        except OSError as error:
            status, lines = 1, [f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")]
        took = round(time.monotonic() - began, 2)
        record = {"when": _now(), "run": spec["run"], "step": _record(step), "status": status, "s": took}
        _append(COMMANDS, record, 0o600)
        if status == EXIT_INTERRUPTED and client.gone.is_set():
            return EXIT_INTERRUPTED
        if status:
            output.send(frame="failed", index=index, status=status, lines=lines[-10:])
            return EXIT_FAILED
        output.send(frame="done", index=index, s=took)
    if spec.get("state"):
        _write_file(STATE, json.dumps(spec["state"], indent=1) + "\n", 0o600, 0, 0)
    return 0


def _step(index: int, step: dict[str, Any], output: Output, client: Client) -> tuple[int, list[str]]:
    if "write" in step:
        _write_file(step["write"], step["text"], step["mode"], step["uid"], step["gid"])
        return 0, []
    if "make_secret" in step:
        _make_secret(step)
        return 0, []
    return _run(index, step, output, client)


def _record(step: dict[str, Any]) -> dict[str, Any]:
    """What the audit log says of a step: its argv, or the file and its hash; never a file's text."""
    keys = ("run", "write", "make_secret", "sha256", "mode", "uid", "gid")
    return {key: step[key] for key in keys if step.get(key) is not None}


# ---- commands


def _run(index: int, step: dict[str, Any], output: Output, client: Client) -> tuple[int, list[str]]:
    """One command, its lines passed on as they come. Raises Interrupted when the client goes."""
    with subprocess.Popen(  # noqa: S603 - an argv from the plan, without a shell
        step["run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=step["cwd"],
        env={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
        },
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread holds a lock that the child needs
    ) as process:
        assert process.stdout is not None
        deadline = time.monotonic() + step["timeout_s"]
        lines: list[str] = []
        buffer = b""
        fd = process.stdout.fileno()
        while True:
            if client.gone.is_set():
                _end_group(process)
                raise Interrupted
            if time.monotonic() > deadline:
                _end_group(process)
                return 124, [*lines[-9:], f"no end within {step['timeout_s']} s: stopped"]
            ready, _, _ = select.select([fd], [], [], 0.1)
            if not ready:
                # A grandchild may hold the pipe open after the command itself has ended.
                if process.poll() is not None:
                    break
                continue
            chunk = os.read(fd, 65536)
            if not chunk:
                break
            *whole, buffer = (buffer + chunk).split(b"\n")
            buffer = buffer[-65536:]
            for raw in whole:
                line = clean(raw)
                if line:
                    lines = [*lines[-49:], line]
                    output.send(frame="out", index=index, line=line[:2000])
        if buffer:
            lines.append(clean(buffer))
        try:
            status = process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _end_group(process)
            return 124, [*lines, f"no end within {step['timeout_s']} s: stopped"]
        return status, lines


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def clean(raw: bytes) -> str:
    """A line without control sequences; of a line redrawn with carriage returns, its last state."""
    text = raw.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1]
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).rstrip()


_LIBC = ctypes.CDLL(None)  # loaded here: nothing may be loaded between fork and exec


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: kill -9 of the runner ends the command too


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the command and all it started, then SIGKILL."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
        if number == signal.SIGTERM and not _group_lives(process.pid):
            return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _mend_names(project: str) -> None:
    """Compose, killed in the middle of a recreate, leaves a container called `<12 hex>_NAME`: where NAME is still
    there the new one goes, else it gets its name. The engine may still be busy with the last request: look twice."""
    for _ in range(2):
        time.sleep(1)
        names = _docker("ps", "-a", "--filter", f"label=com.docker.compose.project={project}", "--format", "{{.Names}}")
        present = set(names.split())
        for odd in present:
            match = re.fullmatch(r"[0-9a-f]{12}_(.+)", odd)
            if match and match[1] in present:
                _docker("rm", "-f", odd)
            elif match:
                _docker("rename", odd, match[1])


def _docker(*arguments: str) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(  # noqa: S603
            ["docker", *arguments],
            capture_output=True,
            text=True,
            timeout=8,
            stdin=subprocess.DEVNULL,
            check=False,  # noqa: S607
        ).stdout
    return ""


# ---- files


def _write_file(path: str, text: str, mode: int, uid: int, gid: int) -> None:
    """Write beside, then rename over: no reader ever sees half a file, and no link is followed."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{os.path.basename(path)}.pantheon.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make_secret(step: dict[str, Any]) -> None:
    """A random key, once. An existing file keeps its content; only its owner and mode are put right."""
    path = step["make_secret"]
    if not os.path.lexists(path):
        _write_file(path, secrets.token_hex(step["size"]), step["mode"], step["uid"], step["gid"])
        return
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchown(fd, step["uid"], step["gid"])
        os.fchmod(fd, step["mode"])
    finally:
        os.close(fd)


def _append(path: str, record: dict[str, Any], mode: int) -> None:
    """A line of the audit log. A full disk must not hide what happened, nor stop the mending."""
    try:
        os.makedirs(LOG_DIR, mode=0o755, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, mode)
        try:
            os.write(fd, (json.dumps(record) + "\n").encode())
        finally:
            os.close(fd)
    except OSError as error:
        sys.stderr.write(f"audit log {path}: {error.strerror}\n")


def _keep_modules() -> None:
    """Keep the modules that had to be sent this time (remote/boot.py), compiled, for the looks to come."""
    for name, text in getattr(pantheon, "sent", {}).items():
        folder = os.path.join(LIBRARY, hashlib.sha256(text).hexdigest())
        path = os.path.join(folder, name.rpartition(".")[2] + ".py")
        with contextlib.suppress(OSError):
            _write_file(path, text.decode(), 0o644, 0, 0)
            py_compile.compile(path, quiet=1)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
