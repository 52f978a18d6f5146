"""A host made of files: a root prefix, stub commands, and an engine behind a unix socket.

Whole looks run as they do on a host: as a program on python3's standard input, in a process of its own."""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import json
import py_compile
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pantheon import facts
from pantheon.facts import Unknown
from pantheon.remote import shipped

CASES = Path(__file__).resolve().parents[2] / "cases" / "probe"
SECRET = "s3cret-value-that-nobody-may-see"
ROOT_MOUNT = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"
ID = "f" * 64


def cases(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text())


PATCHED = """
import os, sys, time
from pantheon import probe
from pantheon.looks import files, http, logs, system, work
{}
main = probe.main
"""


@functools.cache
def library() -> str:
    """A cache of modules as an apply leaves it on a host: saves each look the compilation."""
    folder = Path(tempfile.mkdtemp(prefix="p"))
    atexit.register(shutil.rmtree, folder)
    (folder / "lib").mkdir(mode=0o755)
    for name in shipped.LOOK:
        path = folder / "lib" / shipped.digest(name) / f"{name.rpartition('.')[2]}.py"
        path.parent.mkdir(mode=0o755)
        path.write_bytes(shipped.source(name))
        path.chmod(0o644)
        py_compile.compile(str(path), doraise=True)
    return str(folder / "lib")


def program(spec: dict[str, Any], before: str = "", pynvml: str = "") -> bytes:
    """A look (or a watch) as one text. `before` is run after the modules are imported, `pynvml` stands for that."""
    told = shipped.header("pantheon.probe", spec) | {"main": "patched", "lib": library()}
    del told["modules"]["pynvml"]
    sent = {"patched": PATCHED.format(before)} | ({"pynvml": pynvml} if pynvml else {})
    told["modules"] |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sent.items()}
    told["sources"] = {name: base64.b64encode(zlib.compress(text.encode())).decode() for name, text in sent.items()}
    return f"{shipped.boot_text()}\n\nsys.exit(boot(json.loads({json.dumps(told)!r})))\n".encode()


class FakeHost:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "stub-bin"
        self.bin.mkdir()
        self.mounts: list[str] = []
        self.write("/proc/self/mountinfo", ROOT_MOUNT + "\n")

    def at(self, path: str) -> Path:
        return Path(f"{self.root}{path}")

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        return file

    def mount(self, target: str, fstype: str = "ext4", source: str = "/dev/sdb1", parent: int = 22) -> str:
        number = str(30 + len(self.mounts))
        escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in target)
        self.mounts.append(f"{number} {parent} 8:9 / {escaped} rw - {fstype} {source} rw")
        self.write("/proc/self/mountinfo", "\n".join([ROOT_MOUNT, *self.mounts]) + "\n")
        return number

    def tool(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def raw(self, spec: dict[str, Any], before: str = "", pynvml: str = "") -> subprocess.CompletedProcess[bytes]:
        """The probe's own output."""
        return subprocess.run(
            [sys.executable, "-IBS", "-"],
            input=program({"root": str(self.root), "nonce": "00ff", **spec}, before, pynvml),
            env={"PATH": str(self.bin)},
            capture_output=True,
            timeout=20,
            check=False,
        )

    def document(self, spec: dict[str, Any] | None = None, before: str = "", pynvml: str = "") -> dict[str, Any]:
        done = self.raw(spec or {}, before, pynvml)
        assert done.stderr == b""
        assert done.returncode == 0
        frame = json.loads(done.stdout)
        assert frame["frame"] == "facts"
        found: dict[str, Any] = frame["facts"]
        return found

    def look(self, spec: dict[str, Any] | None = None, before: str = "", pynvml: str = "") -> facts.Facts:
        return facts.parse(self.document(spec, before, pynvml))


def unknown_reason(value: object) -> str:
    assert isinstance(value, Unknown), value
    return value.reason


Answer = tuple[int, Any]


Route = Answer | Callable[["Handler"], Answer | None]


class Handler(BaseHTTPRequestHandler):
    server: FakeDocker

    def do_GET(self) -> None:
        path, _, self.query = self.path.partition("?")
        self.server.asked.append(f"{self.command} {self.path}")
        if self.headers.get("Content-Length"):
            self.rfile.read(int(self.headers["Content-Length"]))
        route = self.server.routes.get(unquote(path), (404, {"message": f"no such thing: {path}"}))
        answer = route(self) if callable(route) else route
        if answer:
            self.reply(*answer)

    do_POST = do_GET

    def reply(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None: ...

    def address_string(self) -> str:
        return "docker"


class FakeDocker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(str(path), Handler)
        self.asked: list[str] = []
        self.routes: dict[str, Route] = {
            "/version": (200, {"Version": "29.1.3", "ApiVersion": "1.52"}),
            "/info": (
                200,
                {"DockerRootDir": "/var/lib/docker", "Driver": "overlay2", "Runtimes": {"runc": {}, "nvidia": {}}},
            ),
            "/containers/json": (200, []),
        }
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None: ...

    def container(self, name: str, *, number: str = "", log: Route = (200, b""), **changes: Any) -> dict[str, Any]:
        """One more container: `changes` go into its inspection, section by section."""
        inspect: dict[str, Any] = cases("container")["inspect"]
        number = number or f"{len(self.routes):064x}"
        inspect |= {"Id": number, "Name": f"/{name}"}
        for section, values in changes.items():
            inspect[section] = inspect[section] | values if isinstance(values, dict) else values
        listed: Any = self.routes["/containers/json"]
        port = {"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}
        summary = {"Image": "img", "ImageID": "sha256:1", "State": "running", "Ports": [port], "Labels": {"a": "b"}}
        listed[1].append({"Id": number, "Names": [f"/{name}"], **summary})
        for key in (number, name):
            self.routes[f"/containers/{key}/json"] = (200, inspect)
            self.routes[f"/containers/{key}/logs"] = log
        return inspect

    def exec_in(self, name: str, output: Route, status: int = 0) -> None:
        self.routes[f"/containers/{name}/exec"] = (201, {"Id": f"exec-{name}"})
        self.routes[f"/exec/exec-{name}/start"] = output
        self.routes[f"/exec/exec-{name}/json"] = (200, {"ExitCode": status, "Running": False, "Pid": 0})


def framed(*pieces: bytes, stream: int = 1) -> bytes:
    """Docker's multiplexed stream."""
    return b"".join(struct.pack(">B3xL", stream, len(piece)) + piece for piece in pieces)


def never(handler: Handler) -> None:
    time.sleep(30)


def container_of(found: facts.Facts, name: str) -> facts.Container:
    container = found.container(name)
    assert isinstance(container, facts.Container)
    return container


SLOW_PATHS = """
def slow(real):
    def call(path, *rest, **more):
        if "/dead" in str(path): time.sleep(60)
        return real(path, *rest, **more)
    return call
os.lstat, os.statvfs, os.scandir = slow(os.lstat), slow(os.statvfs), slow(os.scandir)
work.PART_S = 0.5
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
