"""The Docker Engine's API, over its socket."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from pantheon.looks import work
from pantheon.looks.files import read_text
from pantheon.looks.http import exchange, quoted
from pantheon.looks.text import Json, Object, Unread, masked_argv, plain

SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")


class Missing(Exception):
    """The engine has no such object (404)."""


class Engine:
    """The Docker Engine behind its own socket."""

    def __init__(self, root: str) -> None:
        paths = [root + path for path in SOCKETS]
        self.path = next((path for path in paths if os.path.exists(path)), paths[0])

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        end: float | None = None,
        limit: int = 32 << 20,
        sink: Callable[[bytes], bool] | None = None,
    ) -> bytes:
        """The body of a 2xx answer. Raises Missing on 404 and Unread for everything else."""
        end = end or time.monotonic() + work.PART_S
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\n"
        if method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(max(0.001, end - began))
            try:
                line.connect(self.path)
                status, reason, answer = exchange(line, head + "\r\n", data, end, limit=limit, sink=sink)
            except TimeoutError:
                raise Unread(f"Docker gave no answer within {max(0.0, end - began):.1f} s ({path})") from None
            except OSError as error:
                raise Unread(f"Docker's socket {self.path}: {error.strerror or error}") from None
        if 200 <= status < 300 or status == 101:
            return answer
        try:
            message = json.loads(answer)["message"]
        except (ValueError, KeyError, TypeError):
            message = answer[:200].decode("utf-8", "replace") or reason
        if status == 404:
            raise Missing(message)
        raise Unread(f"Docker answered {status}: {plain(str(message))}")

    def get(self, path: str, end: float | None = None) -> Json:
        try:
            return json.loads(self.ask("GET", path, end=end))
        except ValueError:
            raise Unread(f"Docker's answer is not JSON ({path})") from None

    def log(
        self, name: str, *, since: float = 0, until: float = 0, tail: int, end: float, lines: LogLines,
        follow: bool = False,
    ) -> None:  # fmt: skip
        """Feeds the log from `since` to `until` (seconds since 1970, 0: from its beginning, to its end), of that at
        most the last `tail` lines, to `lines`."""
        query = f"stdout=1&stderr=1&tail={tail}" + (f"&since={since:.9f}" if since > 0 else "")
        query += f"&until={until:.9f}" if until > 0 else ""
        query += "&follow=1" if follow else ""
        self.ask("GET", f"/containers/{quoted(name)}/logs?{query}", end=end, sink=lines.feed)

    def run_in(self, name: str, argv: list[str], deadline_s: float, user: str = "") -> Object:
        """facts.Command of `argv` inside a running container, as its own user or as `user` ("uid:gid"). Killed, by its
        own process id, when it does not end."""
        end = time.monotonic() + deadline_s
        ask = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv, "User": user}
        number = json.loads(self.ask("POST", f"/containers/{quoted(name)}/exec", body=ask, end=end))["Id"]
        output = LogLines(tty=False, keep=200)
        try:
            self.ask("POST", f"/exec/{number}/start", body={"Detach": False, "Tty": False}, end=end, sink=output.feed)
            status = self.get(f"/exec/{number}/json", time.monotonic() + 1)["ExitCode"]
        except Unread as error:
            self.kill_exec(number, argv[0])
            if time.monotonic() >= end:
                raise Unread(f"no answer within {deadline_s:g} s ({' '.join(argv)} in {name})") from None
            if STOPPED.search(str(error)):
                raise Unread(f"{name} stopped in the middle of it") from None
            if not NO_PROGRAM.search(str(error)):
                raise Unread(f"{name} could not be entered: {error}") from None
            return {"status": 126, "output": str(error)}
        output.finish()
        text = "\n".join(output.tail)
        if status == 137 or (status and STOPPED.search(text)):  # of a container in a restart loop it says nothing
            raise Unread(f"{name} stopped in the middle of it")
        if status and "OCI runtime exec failed" in text and not NO_PROGRAM.search(text):
            raise Unread(f"{name} could not be entered: {text}")  # nor does what kept us out
        return {"status": -1 if status is None else status, "output": text + "\n" if text else ""}

    def kill_exec(self, number: str, name: str) -> None:
        with suppress(Unread, Missing, OSError):
            about = self.get(f"/exec/{number}/json", time.monotonic() + 0.5)
            pid = about.get("Pid") or 0
            if about.get("Running") and pid > 1 and (read_text(f"/proc/{pid}/comm") or "").strip() == name[:15]:
                os.kill(pid, signal.SIGKILL)


STOPPED = re.compile(
    r"cannot exec in a (stopped|paused)|container .*is not running|is restarting|procReady not received"
    r"|unable to create new parent process|namespace path: |error executing setns process"
)
NO_PROGRAM = re.compile(
    r"executable file not found|stat \S+: no such file|exec: \S+: (permission denied|is a directory)"
)


MOST_FOUND = 200  # lines with a marker that are kept: the newest, and the oldest of each marker


class LogLines:
    """Puts Docker's log stream together: frames of stdout and stderr to clean lines, in bounded memory. A line comes
    in several frames when it is long; only its first 64 KiB are kept."""

    def __init__(self, *, tty: bool, keep: int, markers: Iterable[str] = (), most: int = 1 << 62) -> None:
        self.tty = tty
        self.tail: deque[str] = deque(maxlen=keep)
        self.markers = tuple(markers)
        self.found: deque[str] = deque(maxlen=MOST_FOUND)
        self.firsts: dict[str, str] = {}  # the oldest line of each marker, which newer ones of another may push out
        self.most = most
        self.bytes = self.count = 0
        self.held = b""
        self.open: dict[int, bytearray] = {}
        self.cut = False

    def feed(self, data: bytes) -> bool:
        """Takes a piece of the stream; False when enough was read."""
        self.bytes += len(data)
        if self.tty:
            self.text(1, data)
        else:
            self.held = self.frames(self.held + data)
        self.cut = self.bytes > self.most
        return not self.cut

    def frames(self, data: bytes) -> bytes:
        at = 0
        while len(data) - at >= 8:
            stream, size = struct.unpack_from(">B3xL", data, at)
            if stream > 3:  # not a multiplexed stream: take it as it is
                self.text(1, data[at:])
                return b""
            if len(data) - at - 8 < size:
                break
            self.text(stream, data[at + 8 : at + 8 + size])
            at += 8 + size
        return data[at:]

    def text(self, stream: int, data: bytes) -> None:
        line = self.open.setdefault(stream, bytearray())
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line += piece[: 65536 - len(line)]
            self.line(bytes(line))
            line.clear()
        line += rest[: max(0, 65536 - len(line))]

    def line(self, raw: bytes) -> None:
        text = plain(raw.decode("utf-8", "replace").rstrip("\r"))
        self.count += 1
        self.tail.append(text)
        if self.markers and any(marker in text for marker in self.markers):
            self.found.append(text)
            if len(self.firsts) < len(self.markers):
                self.firsts.update((m, text) for m in self.markers if m in text and m not in self.firsts)

    def finish(self) -> None:
        """The last lines have no end when their writer was cut off."""
        for line in self.open.values():
            if line:
                self.line(bytes(line))
                line.clear()


class Images:
    """Local images by reference or id, each asked about once: the engine takes its time over them."""

    def __init__(self, engine: Engine, asked: Iterable[str] = ()) -> None:
        self.engine = engine
        self.asked = set(asked)
        self.lock = threading.Lock()
        self.cells: dict[str, tuple[threading.Lock, list[Object | None]]] = {}

    def get(self, name: str) -> Object | None:
        """Docker's own description; None when there is no such image on the host."""
        with self.lock:
            busy, known = self.cells.setdefault(name, (threading.Lock(), []))
        with busy:
            if not known:
                try:
                    known.append(self.engine.get(f"/images/{quoted(name)}/json"))
                except Missing:
                    known.append(None)
            return known[0]

    def look(self, reference: str) -> Object | None:
        """facts.Image"""
        found = self.get(reference)
        if not found:
            return None
        config = found.get("Config") or {}
        return {
            "id": found["Id"],
            "digests": found.get("RepoDigests") or [],
            "size_bytes": found.get("Size") or 0,
            "created": found.get("Created") or "",
            "user": config.get("User") or "",
            "command": masked_argv(config.get("Cmd") or ()),
            "entrypoint": masked_argv(config.get("Entrypoint") or ()),
        }

    def environment(self, number: str, reference: str) -> set[str]:
        """What the image of that id sets by itself; by its reference where that was asked about and still leads there.
        Nothing when the image is gone: then everything counts as the container's own."""
        for name in (reference, number) if reference in self.asked else (number,):
            with suppress(Unread):
                found = self.get(name)
                if found and found["Id"] == number:
                    return set((found.get("Config") or {}).get("Env") or ())
        return set()


def pairs_of(config: Object) -> list[tuple[str, str]]:
    """The environment in a container's or an image's configuration."""
    split = (entry.partition("=") for entry in config.get("Env") or ())
    return [(name, value) for name, _, value in split]
