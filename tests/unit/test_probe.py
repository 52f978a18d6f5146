"""pantheon/probe.py against hosts made of files: a root prefix, stub commands, and an engine behind a unix socket.

Whole looks run as they do on a host: as a script on python3's standard input, in a process of its own."""

from __future__ import annotations

import ast
import fcntl
import json
import marshal
import os
import random
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pantheon import facts, probe
from pantheon.errors import LookFailed
from pantheon.facts import Unknown
from pantheon.inventory import Host

CASES = Path(__file__).resolve().parents[1] / "cases" / "probe"
SOURCE = Path(probe.__file__).read_text()
COMPILED = marshal.dumps(compile(SOURCE, "probe.py", "exec"))
SECRET = "s3cret-value-that-nobody-may-see"
ROOT_MOUNT = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"
ID = "f" * 64


def cases(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text())


# ---- a host made of files --------------------------------------------------------------------------------------------


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

    def raw(self, spec: dict[str, Any], before: str = "", deadline_s: float = 20) -> subprocess.CompletedProcess[bytes]:
        """The probe's own output. `before` runs after the module's text and before its main."""
        spec = {"root": str(self.root), "nonce": "00ff", **spec}
        compiled = self.write("/probe.code", COMPILED)  # saves each look the compilation
        text = f"import marshal; exec(marshal.loads(open({str(compiled)!r}, 'rb').read()))\n"
        text += f"{before}\nraise SystemExit(main({spec!a}))\n"
        return subprocess.run(
            [sys.executable, "-IBS", "-"],
            input=text.encode(),
            env={"PATH": str(self.bin)},
            capture_output=True,
            timeout=deadline_s,
            check=False,
        )

    def document(self, spec: dict[str, Any] | None = None, before: str = "") -> dict[str, Any]:
        done = self.raw(spec or {}, before)
        assert done.stderr == b""
        assert done.returncode == 0
        frame = json.loads(done.stdout)
        assert frame["frame"] == "facts"
        found: dict[str, Any] = frame["facts"]
        return found

    def look(self, spec: dict[str, Any] | None = None, before: str = "") -> facts.Facts:
        return facts.parse(self.document(spec, before))


@pytest.fixture
def host() -> Iterator[FakeHost]:
    # Not tmp_path: the path of a unix socket has room for 107 bytes
    root = Path(tempfile.mkdtemp(prefix="p"))
    yield FakeHost(root)
    shutil.rmtree(root)


def unknown_reason(value: object) -> str:
    assert isinstance(value, Unknown), value
    return value.reason


# ---- an engine behind a socket ---------------------------------------------------------------------------------------

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


@pytest.fixture
def docker(host: FakeHost) -> Iterator[FakeDocker]:
    server = FakeDocker(host.at("/var/run/docker.sock"))
    yield server
    server.shutdown()
    server.server_close()


def framed(*pieces: bytes, stream: int = 1) -> bytes:
    """Docker's multiplexed stream."""
    return b"".join(struct.pack(">B3xL", stream, len(piece)) + piece for piece in pieces)


def never(handler: Handler) -> None:
    time.sleep(30)


def container_of(found: facts.Facts, name: str) -> facts.Container:
    container = found.container(name)
    assert isinstance(container, facts.Container)
    return container


# ---- what the module is made of --------------------------------------------------------------------------------------


def test_it_imports_the_standard_library_and_pynvml_alone() -> None:
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert imported - set(sys.stdlib_module_names) == {"pynvml"}


def test_its_start_does_not_pay_for_heavy_modules() -> None:
    text = f"{SOURCE}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-IBS", "-"], input=text.encode(), capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"dataclasses", "typing", "inspect", "http.client", "ssl", "urllib.parse", "pathlib", "ctypes"}


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "expect"), [pytest.param(*case[1:], id=case[0]) for case in cases("lines")])
def test_log_lines_are_shown_plain(raw: str, expect: str) -> None:
    lines = probe.LogLines(tty=False, keep=10)
    lines.feed(framed(raw.encode("latin-1") + b"\n"))
    assert list(lines.tail) == [expect]


@pytest.mark.parametrize(("argv", "expect"), [pytest.param(*case[1:], id=case[0]) for case in cases("argv")])
def test_secrets_in_command_lines_are_masked(argv: list[str], expect: list[str]) -> None:
    assert probe.masked_argv(argv) == expect


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("2026-11-21T20:05:49.151014443Z", 1795291549.151014443),
        ("1970-01-01T00:00:00Z", 0.0),
        ("2024-02-29T23:59:59+02:00", 1709243999 - 0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_docker_times(text: str, expect: float) -> None:
    assert probe.seconds(text) == pytest.approx(expect, abs=1e-6)


def test_docker_times_agree_with_datetime() -> None:
    from datetime import UTC, datetime

    rng = random.Random(2)
    for _ in range(300):
        when = datetime.fromtimestamp(rng.randrange(4_000_000_000), tz=UTC)
        assert probe.seconds(when.strftime("%Y-%m-%dT%H:%M:%SZ")) == when.timestamp()


# ---- mounts and paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("mounts")])
def test_the_mount_a_path_lies_on(case: dict[str, Any]) -> None:
    mounts = probe.Mounts("\n".join(case["table"]).encode())
    for path, number in case["on"].items():
        place = mounts.of(path)
        assert place is not None
        assert place["id"] == number, path


def test_directories_files_links_and_what_is_not_there(host: FakeHost) -> None:
    host.write("/etc/passwd", "root:x:0:0::/:/bin/sh\ncomfy:x:1024:1024::/:/bin/sh\n:broken\n")
    host.write("/etc/group", "docker:x:104:ops\nbroken\nworse:x:y\n")
    host.mount("/mnt/local/nvme", "xfs", "/dev/nvme0n1p1")
    host.at("/mnt/local/nvme/ai").mkdir(parents=True)
    host.at("/mnt/local/nvme/ai").chmod(0o775)
    os.chown(host.at("/mnt/local/nvme/ai"), 1024, 104)
    host.at("/mnt/link").symlink_to("/mnt/local/nvme")  # absolute: it must stay under the root prefix
    host.at("/mnt/loop").symlink_to("loop")
    os.mkfifo(host.at("/mnt/fifo"))
    host.write("/mnt/file", "x")
    hostile = "/mnt/a b'\"$(touch pwned)\n\u00fc"
    host.at(hostile).mkdir()
    paths = [
        "/mnt/local/nvme",
        "/mnt/local/nvme/ai",
        "/mnt/link/ai",
        "/mnt/link",
        "/mnt/loop/x",
        "/mnt/fifo",
        "/mnt/file/x",
    ]
    found = host.look({"paths": [*paths, "/nowhere/at/all", hostile], "groups": ["docker", "nobody-has-it"]})
    nvme, ai, through, link = (found.paths[path] for path in paths[:4])
    assert isinstance(nvme, facts.Entry)
    assert isinstance(ai, facts.Entry)
    assert isinstance(through, facts.Entry)
    assert isinstance(link, facts.Entry)
    assert (nvme.is_mount, nvme.mount) == (True, facts.Mount("/mnt/local/nvme", "/dev/nvme0n1p1", "xfs", "rw"))
    assert (ai.uid, ai.owner, ai.gid, ai.group, ai.mode, ai.is_mount) == (1024, "comfy", 104, "docker", 0o775, False)
    assert ai.mount == nvme.mount
    assert (link.kind, link.real, link.is_mount) == ("symlink", "/mnt/local/nvme", False)
    assert (through.kind, through.real) == ("dir", "/mnt/local/nvme/ai")
    assert "too many levels" in unknown_reason(found.paths["/mnt/loop/x"])
    assert getattr(found.paths["/mnt/fifo"], "kind", "") == "other"
    assert found.paths["/mnt/file/x"] is None
    assert found.paths["/nowhere/at/all"] is None
    assert getattr(found.paths[hostile], "kind", "") == "dir"
    assert found.groups == {"docker": 104, "nobody-has-it": None}


SLOW_PATHS = """
def slow(real):
    def call(path, *rest, **more):
        if "/dead" in str(path): time.sleep(60)
        return real(path, *rest, **more)
    return call
os.lstat, os.statvfs, os.scandir = slow(os.lstat), slow(os.statvfs), slow(os.scandir)
PART_S = 0.5
"""


def test_a_dead_network_mount_costs_its_own_paths_and_nothing_else(host: FakeHost) -> None:
    host.mount("/mnt/dead", "nfs4", "atlas:/appdata")
    host.at("/mnt/dead/x").mkdir(parents=True)
    host.at("/mnt/link").symlink_to("/mnt/dead/x")
    host.at("/srv").mkdir()
    asked = ["/mnt/dead", "/mnt/dead/x", "/mnt/link/y", "/srv"]
    spec = {"paths": asked, "spaces": ["/mnt/dead", "/srv"], "trees": [{"path": "/mnt/dead/x", "uid": 0, "gid": 0}]}
    began = time.monotonic()
    found = host.look({**spec, "files": [{"path": "/mnt/dead/x/f"}]}, SLOW_PATHS)
    assert time.monotonic() - began < 3
    for value in (
        found.paths["/mnt/dead/x"],
        found.spaces["/mnt/dead"],
        found.trees["/mnt/dead/x"],
        found.files["/mnt/dead/x/f"],
    ):
        assert "/mnt/dead (nfs4)" in unknown_reason(value)
    assert "network mount /mnt/dead" in unknown_reason(found.paths["/mnt/link/y"])
    assert isinstance(found.paths["/srv"], facts.Entry)
    assert isinstance(found.spaces["/srv"], facts.Space)
    assert isinstance(found.mounts, tuple)


def test_a_live_network_mount_is_read(host: FakeHost) -> None:
    host.mount("/mnt/atlas", "fuse.nfs4", "atlas:/x")
    host.at("/mnt/atlas/x").mkdir(parents=True)
    found = host.look({"paths": ["/mnt/atlas/x"]})
    assert getattr(found.paths["/mnt/atlas/x"], "kind", "") == "dir"


def test_an_automount_is_not_triggered(host: FakeHost) -> None:
    host.mount("/mnt/dead", "autofs", "systemd-1")
    host.at("/mnt/dead").mkdir(parents=True)
    found = host.look({"paths": ["/mnt/dead"]}, SLOW_PATHS)
    assert "automount" in unknown_reason(found.paths["/mnt/dead"])


def test_a_dying_disk_keeps_only_its_own_questions_waiting(host: FakeHost) -> None:
    host.at("/dead").mkdir()
    host.at("/srv").mkdir()
    began = time.monotonic()
    found = host.look({"paths": ["/srv", "/dead", "/tmp"]}, SLOW_PATHS)
    assert time.monotonic() - began < 3
    assert isinstance(found.paths["/srv"], facts.Entry)
    assert "no answer within 0.5 s (/dead)" in unknown_reason(found.paths["/dead"])


# ---- files and trees -------------------------------------------------------------------------------------------------


def test_files_with_their_hashes_and_secrets_without_anything(host: FakeHost) -> None:
    import hashlib

    host.write("/opt/a/compose.yaml", "services: {}\n", 0o640)
    host.write("/opt/a/bad-utf8", b"\xff\xfe")
    host.write("/opt/a/large", b"x" * 300_000)
    host.write("/opt/a/key", SECRET, 0o600)
    host.at("/opt/a/link").symlink_to("compose.yaml")
    host.at("/opt/elsewhere").symlink_to("/opt/a")
    os.mkfifo(host.at("/opt/a/fifo"))
    names = ["compose.yaml", "bad-utf8", "large", "link", "fifo", "none"]
    spec = {"files": [*({"path": f"/opt/a/{name}", "secret": False} for name in names),
                      {"path": "/opt/a/key", "secret": True}, {"path": "/opt/elsewhere/compose.yaml"}]}  # fmt: skip
    done = host.raw(spec)
    found = facts.parse(json.loads(done.stdout)["facts"])
    compose, bad, large = (found.files[f"/opt/a/{name}"] for name in names[:3])
    assert isinstance(compose, facts.TextFile)
    assert isinstance(bad, facts.TextFile)
    assert isinstance(large, facts.TextFile)
    assert compose.sha256 == hashlib.sha256(b"services: {}\n").hexdigest()
    assert (compose.text, compose.mode, compose.size) == ("services: {}\n", 0o640, 13)
    assert found.files["/opt/elsewhere/compose.yaml"] == facts.TextFile(
        **vars(compose) | {"path": "/opt/elsewhere/compose.yaml"}
    )
    assert bad.text == "\ufffd\ufffd"
    assert (large.text, large.size) == (None, 300_000)
    assert "symlink" in unknown_reason(found.files["/opt/a/link"])
    assert "FIFO" in unknown_reason(found.files["/opt/a/fifo"])
    assert found.files["/opt/a/none"] is None
    key = found.files["/opt/a/key"]
    assert isinstance(key, facts.TextFile)
    assert (key.text, key.sha256, key.digest) == (None, "", facts.digest("00ff", SECRET))
    assert SECRET.encode() not in done.stdout


def test_a_tree_is_looked_at_within_bounds(host: FakeHost) -> None:
    top = host.at("/data/top")
    (top / "sub" / "deep").mkdir(parents=True)
    host.write("/data/top/sub/\u00fc\n", "x")
    (top / "sub" / os.fsdecode(b"bad\xff")).write_text("")
    (top / "away").symlink_to("/")
    host.mount("/data/top/other")
    host.write("/data/top/other/of-another-mount", "")
    for path in top.rglob("*"):
        os.chown(path, 1024, 1024, follow_symlinks=False)
    os.chown(top / "sub" / "deep", 0, 0)
    os.chown(top / "sub" / os.fsdecode(b"bad\xff"), 7, 8)
    spec = {
        "trees": [
            {"path": path, "uid": 1024, "gid": 1024} for path in ("/data/top", "/data/none", "/data/link", "/data/file")
        ]
    }
    host.at("/data/link").symlink_to("top")
    host.write("/data/file", "")
    found = host.look(spec)
    tree = found.trees["/data/top"]
    assert isinstance(tree, facts.Tree)
    assert (tree.looked, tree.wrong, tree.complete) == (5, 2, True)
    assert sorted(tree.examples) == ["/data/top/sub/bad\\xff (7:8)", "/data/top/sub/deep (0:0)"]
    assert found.trees["/data/none"] is None
    assert "symlink" in unknown_reason(found.trees["/data/link"])
    assert "not a directory" in unknown_reason(found.trees["/data/file"])


def test_a_large_tree_is_not_walked_to_its_end(host: FakeHost) -> None:
    for index in range(300):
        host.write(f"/data/{index:03}", "")
    found = host.look({"trees": [{"path": "/data", "uid": 0, "gid": 0}]}, "TREE_ENTRIES = 100")
    tree = found.trees["/data"]
    assert isinstance(tree, facts.Tree)
    assert (tree.looked, tree.complete) == (100, False)


# ---- nothing there, and everything hanging ---------------------------------------------------------------------------


def test_a_host_with_nothing_on_it(host: FakeHost) -> None:
    questions = facts.questions(Host(name="h", address="a"), nonce="00ff") | {"root": str(host.root)}
    # ports on which nothing listens
    questions["http"] = {"comfy": f"http://127.0.0.1:{free_port()}/"}
    found = host.look(questions)
    assert "os-release" in unknown_reason(found.os)
    assert (found.docker, found.containers, found.nvidia_smi, found.toolkit, found.hook) == (None,) * 5
    assert (found.module_version, found.library_version, found.state, found.lock) == (None,) * 4
    assert "pynvml was not sent" in unknown_reason(found.nvml)
    assert set(found.paths.values()) == {None}
    assert set(found.files.values()) == {None}
    assert set(found.images.values()) == {None}
    assert found.spaces == dict.fromkeys(("/mnt/local/nvme", "/mnt/local/ssd", "docker", "images"))
    assert found.groups == {"docker": None}
    http = found.http["comfy"]
    assert isinstance(http, facts.Http)
    assert (http.status, http.error) == (0, "Connection refused")
    assert "/proc/net/tcp" in unknown_reason(found.listeners)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_everything_hangs_and_the_look_ends(host: FakeHost, docker: FakeDocker) -> None:
    marker = f"{random.randrange(10**9)}.5"
    for name in ("docker", "nvidia-smi", "nvidia-ctk"):
        host.tool(name, f"/bin/sleep {marker} & /bin/sleep {marker}")
    for path in [*docker.routes, "/images/a:b/json"]:
        docker.routes[path] = never
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        found = host.look(
            {"images": ["a:b"], "http": {"silent": url}, "gpu_in": ["comfy"]},
            "PART_S, HTTP_S = 0.6, 0.4\ndef look_os(root): time.sleep(60)",
        )
    assert time.monotonic() - began < 4
    assert isinstance(found.docker, facts.Docker)
    hung = [found.os, found.nvidia_smi, found.toolkit, found.docker.client, found.docker.engine, found.docker.compose]
    for value in [*hung, found.docker.root, found.containers, found.images["a:b"], found.spaces["docker"]]:
        assert "no answer within" in unknown_reason(value)
    http = found.http["silent"]
    assert isinstance(http, facts.Http)
    assert (http.status, http.error) == (0, "no answer within 0.4 s")
    # Their process groups are gone, the children of the children too
    left = subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_a_failing_part_takes_no_other_with_it(host: FakeHost) -> None:
    host.write("/etc/os-release", "ID=ubuntu\nVERSION_ID='24.04'\n")
    found = host.look({"paths": ["/etc"]}, "def look_listeners(root): raise RuntimeError('what\\nnow')")
    assert unknown_reason(found.listeners) == "listening sockets: RuntimeError: what now"
    assert isinstance(found.os, facts.OsRelease)
    assert isinstance(found.paths["/etc"], facts.Entry)


def test_output_that_is_no_text_from_a_command(host: FakeHost) -> None:
    host.tool(
        "nvidia-smi", r"printf '\033[31m\377\000driver\007 mismatch\n'; /usr/bin/yes | /usr/bin/head -c 100000; exit 18"
    )
    smi = host.look().nvidia_smi
    assert isinstance(smi, facts.Command)
    assert smi.status == 18
    assert smi.output.startswith("\ufffddriver mismatch\ny\n")
    assert len(smi.output) <= 16 * 1024


# ---- the system ------------------------------------------------------------------------------------------------------


def test_the_operating_system(host: FakeHost) -> None:
    host.write(
        "/usr/lib/os-release", b'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu \\"24.04\\" \xff"\n# x\nbroken\n'
    )
    host.at("/etc").mkdir()
    host.at("/etc/os-release").symlink_to("../usr/lib/os-release")
    for name, text in (("osrelease", "6.8.0\n"), ("hostname", "h\n"), ("random/boot_id", "b-1\n")):
        host.write(f"/proc/sys/kernel/{name}", text)
    host.write("/proc/uptime", "12.50 3.00\n")
    assert host.look().os == facts.OsRelease("ubuntu", "24.04", 'Ubuntu "24.04" \ufffd', "6.8.0", "b-1", 12.5, "h")


def test_driver_versions_come_from_the_module_and_from_the_file_name_of_the_library(host: FakeHost) -> None:
    folder = f"/usr/lib/{os.uname().machine}-linux-gnu"
    host.write(f"{folder}/libnvidia-ml.so.595.45.04", "")
    host.at(f"{folder}/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.595.45.04")
    host.write("/sys/module/nvidia/version", "590.48.01\n")
    found = host.look()
    assert (found.module_version, found.library_version) == ("590.48.01", "595.45.04")


STATUS = """Package: {0}
Status: install ok installed
Version: 1.18.1-1

Package: other
Status: install ok installed
Version: 9
"""


def test_the_toolkit_by_dpkg_then_by_its_own_command(host: FakeHost) -> None:
    host.write("/var/lib/dpkg/status", STATUS.format("nvidia-container-toolkit"))
    host.tool("nvidia-ctk", "echo NVIDIA Container Toolkit CLI version 9.9.9; echo commit: 1")
    host.tool("nvidia-container-runtime-hook", "")
    found = host.look()
    assert (found.toolkit, found.hook) == ("1.18.1", str(host.bin / "nvidia-container-runtime-hook"))
    host.write("/var/lib/dpkg/status", STATUS.format("nvidia-container-toolkit-base"))
    assert host.look().toolkit == "9.9.9"
    host.tool("nvidia-ctk", "echo broken >&2; exit 3")
    assert "exit 3: broken" in unknown_reason(host.look().toolkit)


def test_the_lock_counts_only_while_somebody_holds_it(host: FakeHost) -> None:
    text = '{"who": "ops@laptop"}'
    file = host.write("/run/pantheon/lock", text)
    host.write("/proc/locks", "1: POSIX  ADVISORY  WRITE 1 00:1a:1 0 EOF\n")
    assert host.look().lock is None
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        host.write("/proc/locks", Path("/proc/locks").read_text())
        assert host.look().lock == text
    about = file.stat()
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    host.write("/proc/locks", f"1: -> FLOCK  ADVISORY  WRITE 1 {device} 0 EOF\n")  # waits for it, does not hold it
    assert host.look().lock is None


def test_looking_changes_nothing(host: FakeHost, docker: FakeDocker) -> None:
    host.write("/opt/stacks/ai/compose.yaml", "x")
    docker.container("comfy")

    def state() -> list[tuple[str, int, int, int]]:
        found = ((str(path), path.lstat()) for path in sorted(host.root.rglob("*")) if path.name != "probe.code")
        return [(path, about.st_mode, about.st_size, about.st_mtime_ns) for path, about in found]

    host.document()  # puts the test's own files there
    before = state()
    host.look(facts.questions(Host(name="h", address="a"), nonce="1") | {"root": str(host.root)})
    assert state() == before
    assert {line.partition(" ")[0] for line in docker.asked if "exec" not in line} == {"GET"}


# ---- NVML ------------------------------------------------------------------------------------------------------------

PYNVML = """
class NVMLError(Exception):
    def __init__(self, value): self.value = value
    def __str__(self): return "Driver/library version mismatch"
NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_NO_PERMISSION = 3, 13, 4
NVML_ERROR_LIBRARY_NOT_FOUND, NVML_TEMPERATURE_GPU = 12, 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, nvmlMemory_v2 = 1, 0, 2
class It:
    def __init__(self, **more): self.__dict__.update(more)
def unsupported(*arguments): raise NVMLError(3)
def missing(*arguments): raise NVMLError(13)
def nvmlInit(): INIT
def nvmlSystemGetDriverVersion(): return "590.48.01"
def nvmlSystemGetNVMLVersion(): return b"13.590.48.01"
def nvmlSystemGetCudaDriverVersion_v2(): return 13010
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(gpu): return b"NVIDIA RTX 4000 Ada Generation"
def nvmlDeviceGetUUID(gpu): return "GPU-1"
def nvmlDeviceGetMemoryInfo(gpu, version=None):
    if version: raise NVMLError(13)
    return It(total=20475 << 20, used=475 << 20, free=20000 << 20)
nvmlDeviceGetUtilizationRates = nvmlDeviceGetPowerUsage = nvmlDeviceGetEnforcedPowerLimit = unsupported
nvmlDeviceGetEccMode = nvmlDeviceGetTotalEccErrors = unsupported
def nvmlDeviceGetTemperature(gpu, sensor): return 38
def nvmlDeviceGetCurrentClocksEventReasons(gpu): return 0x44
def nvmlDeviceGetComputeRunningProcesses(gpu): return [It(pid=PID, usedGpuMemory=None)]
nvmlDeviceGetGraphicsRunningProcesses = missing
"""


def cached_pynvml(host: FakeHost, text: str) -> str:
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    host.write(f"/lib/{digest}/pynvml.py", text)
    return digest


def test_nvml_with_everything_that_a_card_may_not_support(host: FakeHost) -> None:
    digest = cached_pynvml(host, PYNVML.replace("INIT", "pass").replace("PID", str(os.getpid())))
    found = host.look({"pynvml": digest}, f"LIBRARY = {str(host.at('/lib'))!r}")
    assert isinstance(found.nvml, facts.Nvml)
    gpu = found.nvml.gpus[0]
    assert (found.nvml.driver, found.nvml.library, found.nvml.cuda) == ("590.48.01", "13.590.48.01", "13.1")
    assert (gpu.name, gpu.memory_total_mib, gpu.memory_used_mib) == ("NVIDIA RTX 4000 Ada Generation", 20475, 475)
    assert (gpu.utilisation, gpu.power_w, gpu.power_limit_w, gpu.ecc, gpu.temperature_c) == (None, None, None, None, 38)
    assert gpu.event_reasons == ("sw_power_cap", "hw_thermal_slowdown")
    assert [(process.pid, process.memory_mib, process.container) for process in gpu.processes] == [
        (os.getpid(), None, "")
    ]


@pytest.mark.parametrize(
    ("init", "expect"),
    [
        ("raise NVMLError(18)", "NVML: Driver/library version mismatch (code 18)"),
        ("raise NVMLError(12)", None),
        ("import time; time.sleep(60)", "no answer within 0.5 s (NVML)"),
        ("import os; os.abort()", "what read it died (signal 6)"),
    ],
)
def test_nvml_that_fails_hangs_or_crashes(host: FakeHost, init: str, expect: str | None) -> None:
    digest = cached_pynvml(host, PYNVML.replace("INIT", init))
    found = host.look({"pynvml": digest}, f"PART_S = 0.5; LIBRARY = {str(host.at('/lib'))!r}")
    assert found.nvml is None if expect is None else expect in unknown_reason(found.nvml)


def test_a_pynvml_that_others_could_have_written_is_not_run(host: FakeHost) -> None:
    text = PYNVML.replace("INIT", f"open({str(host.at('/pwned'))!r}, 'w')")
    digest = cached_pynvml(host, text)
    library = f"LIBRARY = {str(host.at('/lib'))!r}"
    host.at(f"/lib/{digest}").chmod(0o777)
    assert "can be written by others" in unknown_reason(host.look({"pynvml": digest}, library).nvml)
    host.at(f"/lib/{digest}").chmod(0o755)
    compiled = host.write(f"/lib/{digest}/__pycache__/pynvml.cpython-311.pyc", "x", 0o666)
    assert "can be written by others" in unknown_reason(host.look({"pynvml": digest}, library).nvml)
    compiled.unlink()
    host.write(f"/lib/{digest}/pynvml.py", text + "#")
    assert "not what its name says" in unknown_reason(host.look({"pynvml": digest}, library).nvml)
    assert "was not sent" in unknown_reason(host.look({"pynvml": "../../etc"}, library).nvml)
    assert not host.at("/pwned").exists()


# ---- Docker ----------------------------------------------------------------------------------------------------------


def test_docker_and_its_parts(host: FakeHost, docker: FakeDocker) -> None:
    host.tool("docker", 'case "$*" in --version) echo Docker version 29.1.3, build f52814d;; *) echo 2.40.3;; esac')
    host.write("/etc/docker/daemon.json", "{}")
    host.write("/etc/cdi/nvidia.yaml", "")
    host.at("/var/lib/docker").mkdir(parents=True)
    found = host.look()
    assert found.docker == facts.Docker(
        "29.1.3", "29.1.3", "1.52", "2.40.3", None, "/var/lib/docker", "overlay2", ("nvidia", "runc"),
        ("/etc/cdi/nvidia.yaml",), "{}", ())  # fmt: skip
    assert isinstance(found.spaces["docker"], facts.Space)
    assert found.containers == ()


def test_images_in_containerd_need_room_there(host: FakeHost, docker: FakeDocker) -> None:
    answer: Any = docker.routes["/info"]
    answer[1]["DriverStatus"] = [["driver-type", "io.containerd.snapshotter.v1"]]
    host.at("/var/lib/containerd").mkdir(parents=True)
    found = host.look()
    assert found.spaces["docker"] is None
    assert isinstance(found.spaces["images"], facts.Space)


@pytest.mark.parametrize(
    ("plugin", "client", "expect"),
    [
        ("echo v2.40.3", "exit 9", "2.40.3"),
        ("exit 1", "echo 2.30.1", "2.30.1"),
        ("echo boom; exit 1", "echo boom; exit 1", "exit 1: boom"),
        (None, "echo docker: unknown command; exit 1", None),
        (None, "echo 2.30.1", "2.30.1"),
    ],
)
def test_compose_by_its_plugin_then_by_the_client(
    host: FakeHost, plugin: str | None, client: str, expect: str | None
) -> None:
    host.tool("docker", f'case "$*" in --version) echo Docker version 28.2.2, build 1;; *) {client};; esac')
    if plugin:
        host.write("/usr/libexec/docker/cli-plugins/docker-compose", f"#!/bin/sh\n{plugin}\n", 0o755)
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    if expect and "boom" in expect:
        assert expect in unknown_reason(found.compose)
    else:
        assert found.compose == expect


def test_a_client_without_an_engine(host: FakeHost) -> None:
    host.tool("docker", 'case "$*" in --version) echo Docker version 28.2.2, build 1;; *) echo 2.24.5;; esac')
    found = host.look({"images": ["a"], "gpu_in": ["comfy"]})
    assert isinstance(found.docker, facts.Docker)
    assert (found.docker.client, found.docker.compose) == ("28.2.2", "2.24.5")
    for value in (found.docker.engine, found.docker.root, found.containers, found.images["a"]):
        assert "docker.sock: No such file" in unknown_reason(value)


def test_a_socket_that_nobody_serves(host: FakeHost) -> None:
    socket_file = host.at("/run/docker.sock")
    socket_file.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(socket_file))
    found = host.look()
    assert isinstance(found.docker, facts.Docker)
    assert found.docker.client is None
    assert "Connection refused" in unknown_reason(found.docker.engine)


@pytest.mark.parametrize(
    ("root_dir", "path", "expect"),
    [
        ("/var/snap/docker/common/var-lib-docker", "", "/var/snap/docker"),
        ("/var/lib/docker", "/snap/bin/docker", "/snap/bin/docker exists"),
        ("/var/lib/docker", "", None),
    ],
)
def test_the_snap(host: FakeHost, docker: FakeDocker, root_dir: str, path: str, expect: str | None) -> None:
    answer: Any = docker.routes["/info"]
    answer[1]["DockerRootDir"] = root_dir
    if path:
        host.write(path, "")
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    assert found.snap is None if expect is None else expect in str(found.snap)


def test_a_docker_command_that_leads_into_a_snap(host: FakeHost) -> None:
    target = host.write("/snap/docker/current/bin/docker", "#!/bin/sh\necho Docker version 28.1.1, build 1\n", 0o755)
    (host.bin / "docker").symlink_to(target)
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    assert str(found.snap).startswith("the docker command is ")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("tcp")])
def test_docker_on_tcp_by_configuration(host: FakeHost, case: dict[str, Any]) -> None:
    for path, text in case["files"].items():
        host.write(path, text)
    assert probe.configured_tcp(str(host.root), case["files"].get("/etc/docker/daemon.json")) == case["expect"]


def test_a_container_as_docker_describes_it(host: FakeHost, docker: FakeDocker) -> None:
    case = cases("container")
    docker.container("comfy", number=case["inspect"]["Id"])
    image = case["inspect"]["Image"]
    docker.routes[f"/images/{image}/json"] = (
        200,
        {"Id": image, "Config": {"Env": ["PATH=/usr/bin:/bin", "WANTED_UID=0"]}},
    )
    done = host.raw({"plain_env": ["WANTED_UID", "PATH"], "log_markers": {}})
    found = json.loads(done.stdout)["facts"]["containers"][0]
    assert found == case["expect"]
    assert b"hf_verysecret" not in done.stdout


def test_a_container_that_was_removed_in_between_and_one_that_cannot_be_inspected(
    host: FakeHost, docker: FakeDocker
) -> None:
    docker.container("gone", number="a" * 64)
    del docker.routes[f"/containers/{'a' * 64}/json"]
    docker.container("stuck", number="b" * 64)
    docker.routes[f"/containers/{'b' * 64}/json"] = never
    docker.container("odd", number="c" * 64)
    docker.routes[f"/containers/{'c' * 64}/json"] = (200, {"Id": "c" * 64})
    docker.container("fine")
    found = host.look(None, "PART_S = 0.5")
    assert isinstance(found.containers, tuple)
    assert [container.name for container in found.containers] == ["fine", "odd", "stuck"]
    stuck, odd = container_of(found, "stuck"), container_of(found, "odd")
    assert "no answer" in stuck.unread
    assert "KeyError" in odd.unread
    assert (stuck.state, stuck.labels, stuck.ports) == (
        "running",
        {"a": "b"},
        (facts.Port("80/tcp", "127.0.0.1", 8080),),
    )
    assert isinstance(stuck.log, Unknown)


def test_very_many_containers(host: FakeHost, docker: FakeDocker) -> None:
    for index in range(400):
        docker.container(f"c{index:03}", log=(200, framed(b"hello\n")))
    docker.container("zz", log=(200, framed(b"ours\n")))
    began = time.monotonic()
    found = host.look({"log_markers": {"zz": ["ours"]}})
    assert time.monotonic() - began < 8
    assert isinstance(found.containers, tuple)
    assert len(found.containers) == 401
    assert container_of(found, "zz").log == ("ours",)
    assert sum(isinstance(container.log, tuple) for container in found.containers) == 40


def test_no_image_is_asked_about_twice(host: FakeHost, docker: FakeDocker) -> None:
    reference = cases("container")["inspect"]["Config"]["Image"]
    number = cases("container")["inspect"]["Image"]
    for index in range(5):
        docker.container(f"c{index}")
    docker.routes[f"/images/{reference}/json"] = (200, {"Id": number, "Config": {"Env": ["PATH=/usr/bin:/bin"]}})
    found = host.look({"images": [reference]})
    assert [line for line in docker.asked if "/images/" in line] == [f"GET /images/{reference}/json"]
    assert container_of(found, "c3").env["PATH"].from_image
    docker.routes[f"/images/{reference}/json"] = (200, {"Id": "sha256:moved-on", "Config": {"Env": []}})
    docker.routes[f"/images/{number}/json"] = (200, {"Id": number, "Config": {"Env": ["PATH=/usr/bin:/bin"]}})
    assert container_of(host.look({"images": [reference]}), "c3").env["PATH"].from_image


def test_images_with_hostile_names(host: FakeHost, docker: FakeDocker) -> None:
    hostile = "x/../../containers/json?all=1#\r\nX: y $(reboot)"
    docker.routes["/images/a/b:c/json"] = (200, {"Id": "sha256:1", "RepoDigests": None, "Size": 5, "Created": "t"})
    docker.routes["/images/broken/json"] = (200, b"{")
    docker.routes["/images/refused/json"] = (500, {"message": "no\x1b[31m way"})
    found = host.look({"images": ["a/b:c", hostile, "broken", "refused"]})
    assert found.images["a/b:c"] == facts.Image("sha256:1", (), 5, "t")
    assert found.images[hostile] is None
    assert "not JSON" in unknown_reason(found.images["broken"])
    assert unknown_reason(found.images["refused"]) == "Docker answered 500: no way"


def test_the_gpu_seen_inside(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy")
    docker.exec_in("comfy", (200, framed(b"GPU 0: \x1b[1mNVIDIA\n")))
    docker.container("ollama")
    docker.exec_in("ollama", (200, framed(b"Failed to initialize NVML\n", stream=2)), status=9)
    docker.container("bare")
    docker.exec_in("bare", (400, {"message": "executable file not found"}))
    docker.container("slow")
    docker.exec_in("slow", never)
    docker.container("down", State={"Status": "exited"})
    docker.routes["/containers/down/exec"] = (409, {"message": "container is not running"})
    docker.container("other")
    found = host.look({"gpu_in": ["comfy", "ollama", "bare", "slow", "down", "nope"]}, "PART_S = 0.8")
    assert container_of(found, "comfy").gpu_seen == facts.Command(0, "GPU 0: NVIDIA\n")
    assert container_of(found, "ollama").gpu_seen == facts.Command(9, "Failed to initialize NVML\n")
    bare = container_of(found, "bare").gpu_seen
    assert isinstance(bare, facts.Command)
    assert (bare.status, "executable file not found" in bare.output) == (126, True)
    assert "no answer within 0.8 s" in unknown_reason(container_of(found, "slow").gpu_seen)
    assert unknown_reason(container_of(found, "down").gpu_seen) == "the container is not running"
    assert container_of(found, "other").gpu_seen is None


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_of_frames_cut_anywhere() -> None:
    data = framed(b"one\ntw", b"o\n") + framed(b"err\n", stream=2) + framed(b"last without an end")
    for size in (1, 3, 7, 8, 9, 1000):
        lines = probe.LogLines(tty=False, keep=10, markers=["err", "nothing"])
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        lines.finish()
        assert list(lines.tail) == ["one", "two", "err", "last without an end"]
        assert list(lines.found) == ["err"]


def test_a_log_in_bounded_memory() -> None:
    lines = probe.LogLines(tty=False, keep=3, markers=["needle"], most=200_000_000)
    chunk = framed(b"x" * 16384)
    for _ in range(600):  # a line of 10 MB
        lines.feed(chunk)
    lines.feed(framed(b"\n", b"a needle\n") * 1000)
    assert sum(len(line) for line in lines.tail) < 10_000
    assert len(lines.found) == 200
    assert not lines.cut


def test_a_log_of_random_bytes() -> None:
    rng = random.Random(1)
    for _ in range(200):
        for tty in (False, True):
            lines = probe.LogLines(tty=tty, keep=50)
            lines.feed(framed(rng.randbytes(200)) if rng.random() < 0.5 else rng.randbytes(200))
            lines.finish()
            assert all(line.isprintable() or "\t" in line or not probe.CONTROLS.search(line) for line in lines.tail)


def test_what_a_log_says_since_the_start(host: FakeHost, docker: FakeDocker) -> None:
    text = b"".join(b"line %d\n" % index for index in range(100)) + f"token is {SECRET}\nStarting server\n".encode()
    docker.container("comfy", log=(200, framed(text)), Config={"Env": [f"HF_TOKEN={SECRET}"]},
                     HostConfig={"LogConfig": {"Type": "json-file", "Config": {}}})  # fmt: skip
    docker.container("tty", log=(200, b"a\r\nb\r\n"), Config={"Tty": True})
    docker.container("new", State={"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"})
    docker.container("none", log=(501, {"message": "configured logging driver does not support reading"}))
    found = host.look({"log_tail": 5, "log_markers": {"comfy": ["Starting server", "owned by"], "new": ["x"]}})
    comfy = container_of(found, "comfy")
    assert comfy.log == ("line 97", "line 98", "line 99", "token is ***", "Starting server")
    assert comfy.log_markers == ("Starting server",)
    assert comfy.log_complete
    assert container_of(found, "tty").log == ("a", "b")
    assert container_of(found, "tty").log_markers is None
    new = container_of(found, "new")
    assert (new.log, new.log_markers, new.log_complete) == ((), (), True)
    assert "does not support reading" in unknown_reason(container_of(found, "none").log)
    asked = next(line for line in docker.asked if "logs" in line)
    assert re.search(r"tail=\d+&since=1795291549\.\d+", asked)


def test_a_log_longer_than_what_is_searched_keeps_its_newest_lines(host: FakeHost, docker: FakeDocker) -> None:
    def log(handler: Handler) -> Answer:
        count = int(dict(pair.split("=") for pair in handler.query.split("&"))["tail"])
        lines = [b"line %06d\n" % index for index in range(5000)] + [b"Starting server\n"]
        return 200, framed(*lines[-count:])

    docker.container("comfy", log=log)
    found = host.look({"log_tail": 5, "log_markers": {"comfy": ["Starting server"]}}, "LOG_BYTES = 20000")
    comfy = container_of(found, "comfy")
    assert isinstance(comfy.log, tuple)
    assert comfy.log[-1] == "Starting server"
    assert (comfy.log_markers, comfy.log_complete) == (("Starting server",), False)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("rotation")])
def test_whether_the_start_was_rotated_away(host: FakeHost, case: dict[str, Any]) -> None:
    line = json.dumps({"log": "x\n", "stream": "stdout", "time": "TIME"}, separators=(",", ":"))
    for name in case["files"]:
        host.write(f"/logs/{name}", line.replace("TIME", case.get("first", "2026-01-01T00:00:09Z")) + "\n")
    host.at("/logs").mkdir(exist_ok=True)
    inspect = {"LogPath": "/logs/x.log", "HostConfig": {"LogConfig": {"Type": case["type"], "Config": case["options"]}}}
    assert probe.rotated_away(str(host.root), inspect, case["since"]) == case["lost"]


@pytest.mark.parametrize(
    ("started", "finished", "since"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:16:40Z", "0001-01-01T00:00:00Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:00:00Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:30Z", 999.75),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:39.9Z", 999.95),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:45Z", 999.95),
    ],
)
def test_from_when_on_a_log_belongs_to_this_start(started: str, finished: str, since: float) -> None:
    assert probe.start_of_log({"StartedAt": started, "FinishedAt": finished}) == pytest.approx(since)


# ---- listening sockets -----------------------------------------------------------------------------------------------

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   2: 00000000:0947 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0
   3: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1 0 100 0 0 10 0
   4: 00000000:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 999 1 0 100 0 0 10 0
   6: 0100007F:246B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 107 1 0 100 0 0 10 0
   5: 0100007F:1FFC 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 105 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1FFD 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 106 1 0
"""


def test_who_listens(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy", number=ID)
    network = {"Ports": {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3000"}]}, "Networks": {}}
    docker.container("web", number="e" * 64, NetworkSettings=network)
    docker.container("inside", number="d" * 64, NetworkSettings={"Networks": {}})
    host.write("/proc/net/tcp", TCP)
    host.write("/proc/net/tcp6", TCP6)
    host.write("/etc/docker/daemon.json", '{"metrics-addr": "127.0.0.1:9323"}')
    processes = [
        (10, "docker-proxy", "docker-proxy\0-container-ip\x00172.18.0.2\0-host-port\x008188", "0::/system.slice", 101),
        (1, "systemd", "", "", 102),
        (20, "sshd", "", "", 102),
        (30, "dockerd", "", "", 103),
        (31, "dockerd", "", "", 104),
        (32, "dockerd", "", "", 107),
        (40, "ollama\x1b[31m", "", f"0::/system.slice/docker-{'d' * 64}.scope", 106),
    ]
    for pid, name, argv, cgroup, inode in processes:
        host.write(f"/proc/{pid}/comm", name + "\n")
        host.write(f"/proc/{pid}/cmdline", argv)
        host.write(f"/proc/{pid}/cgroup", cgroup)
        fd = host.at(f"/proc/{pid}/fd/3")
        fd.parent.mkdir()
        fd.symlink_to(f"socket:[{inode}]")
    found = host.look()
    assert isinstance(found.listeners, tuple)
    assert [(row.address, row.port, row.pid, row.process, row.container) for row in found.listeners] == [
        ("0.0.0.0", 22, 20, "sshd", ""),
        ("0.0.0.0", 2375, 30, "dockerd", ""),
        ("0.0.0.0", 3000, 31, "dockerd", "web"),
        ("0.0.0.0", 3001, None, "", ""),
        ("127.0.0.1", 8188, 10, "docker-proxy", "comfy"),
        ("::1", 8189, 40, "ollama", "inside"),
        ("127.0.0.1", 9323, 32, "dockerd", ""),
    ]
    assert isinstance(found.docker, facts.Docker)
    assert found.docker.tcp == ("tcp://0.0.0.0:2375 (dockerd listens there)",)


@pytest.mark.parametrize(
    ("cgroup", "expect"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:pids:/docker/{ID}\n11:cpu:/docker/{ID}\n", ID),
        (f"1:name=systemd:/docker/{'a' * 64}/docker/{ID}\n", ID),
        (f"0::/../docker/{ID}/init\n", ID),
        ("0::/user.slice\n", ""),
        (f"0::/{ID}0\n", ""),
    ],
)
def test_the_container_of_a_process(host: FakeHost, cgroup: str, expect: str) -> None:
    host.write("/proc/7/cgroup", cgroup)
    assert probe.container_of(str(host.root), 7) == expect
    assert probe.container_of(str(host.root), 8) == ""


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def serve(answer: bytes, *, then_wait: float = 0.0, trickle: bool = False) -> tuple[str, socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        try:
            line, _ = server.accept()
        except OSError:
            return
        with line:
            line.recv(65536)
            try:
                for at in range(len(answer) if trickle else 1):
                    line.sendall(answer[at : at + 1] if trickle else answer)
                    time.sleep(0.05 if trickle else 0)
            except OSError:
                return
            time.sleep(then_wait)

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/", server


@pytest.mark.parametrize(
    ("answer", "status", "body", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", 200, "ok", ""),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\nstarting", 503, "starting", ""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            200,
            "abcde",
            "",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 200, "", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, 200, "x" * 4096, ""),
        (b"HTTP/1.1 204\r\n\r\n", 204, "", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", 200, "\ufffd", ""),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 0, "", "not an HTTP answer"),
        (b"\x15\x03\x01\x00\x02\x02\x50", 0, "", "not an HTTP answer"),
        (b"HTT", 0, "", "not an HTTP answer"),
        (b"", 0, "", "closed without an answer"),
    ],
)
def test_http_answers(answer: bytes, status: int, body: str, error: str) -> None:
    url, server = serve(answer)
    with server:
        found = probe.http_get(url)
    assert (found["status"], found["body"]) == (status, body)
    assert error in found["error"]
    assert bool(error) == bool(found["error"])


def test_http_servers_that_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "HTTP_S", 0.3)
    for answer, trickle in ((b"", False), (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000, True)):
        url, server = serve(answer, then_wait=5, trickle=trickle)
        began = time.monotonic()
        with server:
            found = probe.http_get(url)
        assert (found["status"], found["error"]) == (0, "no answer within 0.3 s")
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "http://example.org/", "http://127.0.0.1.nip.io/", "http://127.0.0.1:99999/", "file:///x",
            "http://127.0.0.1:1/\r\nX: y", "http://user@127.0.0.1:1/"]
)  # fmt: skip
def test_http_goes_nowhere_but_to_loopback(url: str) -> None:
    assert probe.http_get(url)["error"] == "not an http:// address on loopback"


# ---- readings --------------------------------------------------------------------------------------------------------


def random_tree(host: FakeHost, rng: random.Random) -> list[str]:
    """Directories, files, links to anything, mounts; and every path there, with some that are not."""
    folders = ["/d"]
    paths = ["/d", "/d/none", "/d/none/below"]
    host.at("/d").mkdir()
    for index in range(25):
        folder = rng.choice(folders)
        path = f"{folder}/{rng.choice(['x', 'a b', 'ü', chr(34), '$(id)'])}{index}"
        paths.append(path)
        paths.append(f"{path}/inside")
        what = rng.choice(["dir", "dir", "file", "link", "fifo", "mount"])
        if what in ("dir", "mount"):
            host.at(path).mkdir()
            folders.append(path)
            if what == "mount":
                host.mount(path, rng.choice(["ext4", "xfs"]), f"/dev/sd{index}")
        elif what == "file":
            host.write(path, f"text {index}", rng.choice([0o600, 0o644, 0o755]))
        elif what == "link":
            host.at(path).symlink_to(rng.choice([*paths, "..", "none", path.rpartition("/")[2]]))
        else:
            os.mkfifo(host.at(path))
        if rng.random() < 0.5:
            os.chown(host.at(path), rng.choice([0, 1024]), rng.choice([0, 104]), follow_symlinks=False)
    return paths


@pytest.mark.parametrize("seed", range(6))
def test_a_reading_now_is_what_the_facts_say(host: FakeHost, docker: FakeDocker, seed: int) -> None:
    paths = random_tree(host, random.Random(seed))
    docker.container("comfy", number=ID)
    docker.routes["/images/a:b/json"] = (200, {"Id": "sha256:1"})
    docker.routes["/containers/fff/json"] = docker.routes[f"/containers/{ID}/json"]  # an id's beginning is no name
    images = ["a:b", "c:d"]
    found = host.look({"paths": paths, "files": [{"path": path} for path in paths], "images": images})
    targets = [(kind, path) for kind in ("path", "sha256", "mount") for path in paths]
    targets += [
        ("container", "comfy"),
        ("container", "nope"),
        ("container", "fff"),
        *(("image", name) for name in images),
    ]
    seen = set()
    for kind, target in targets:
        now = probe.reading(kind, target, root=str(host.root))
        if now.startswith("unknown: "):
            with pytest.raises(LookFailed, match=re.escape(now.removeprefix("unknown: "))):
                found.reading(kind, target)
            continue
        assert found.reading(kind, target) == now, (kind, target)
        seen.add(f"{kind} {now.split(' ')[0]}")
    assert {"path missing", "path dir", "sha256 missing", "mount not", f"container {ID}", "container missing"} <= seen
    assert {"image sha256:1", "image missing"} <= seen


def test_readings_by_example(host: FakeHost) -> None:
    host.mount("/mnt/local/nvme", "xfs", "LABEL=nvme")
    host.at("/mnt/local/nvme/ai").mkdir(parents=True)
    host.at("/mnt/local/nvme/ai").chmod(0o775)
    host.write("/f", "x", 0o600)
    host.at("/link").symlink_to("/mnt/local")
    root = str(host.root)
    assert probe.reading("path", "/mnt/local/nvme/ai", root=root) == f"dir {os.getuid()}:{os.getgid()} 0775"
    assert probe.reading("path", "/link/nvme/ai", root=root) == "elsewhere: /mnt/local/nvme/ai"
    assert probe.reading("path", "/link", root=root) == "symlink -> /mnt/local"
    assert probe.reading("path", "/nope", root=root) == "missing"
    assert probe.reading("mount", "/mnt/local/nvme", root=root) == "LABEL=nvme xfs"
    assert probe.reading("mount", "/mnt/local", root=root) == "not a mount point"
    assert probe.reading("mount", "/nope", root=root) == "not a mount point"
    assert probe.reading("sha256", "/f", root=root).startswith("2d711642b726b044")
    assert "No such file" in probe.reading("container", "comfy", root=root)
    assert probe.reading("container", "comfy", root=root).startswith("unknown: ")


# ---- watching --------------------------------------------------------------------------------------------------------


class Watched:
    def __init__(self, host: FakeHost, spec: dict[str, Any]) -> None:
        asked = {"watch": spec, "root": str(host.root)}
        text = f"{SOURCE}\nraise SystemExit(main({asked!a}, sys.stdin.buffer))\n"
        script = host.write("/watch.py", text)
        self.process = subprocess.Popen(
            [sys.executable, "-IBS", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.frames: list[dict[str, Any]] = []

    def until(self, true_of: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            self.frames.append(json.loads(line))
            if true_of(self.frames[-1]):
                return self.frames[-1]
        raise AssertionError(f"it ended: {self.frames}")

    def close(self) -> None:
        """Hangs up, and waits for the end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.rest()

    def rest(self) -> list[dict[str, Any]]:
        assert self.process.stdin
        assert self.process.stdout
        with self.process.stdout:
            self.frames += [json.loads(line) for line in self.process.stdout]
        self.process.stdin.close()
        assert self.process.wait(5) == 0
        return self.frames


def test_watching_a_container_through_a_restart(host: FakeHost, docker: FakeDocker) -> None:
    more = threading.Event()

    def first_log(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + framed(b"== Cloning\x1b[0m ComfyUI\n"))
        more.wait(5)
        handler.wfile.write(framed(b"!! ERROR: no\n"))

    inspect = docker.container("comfy", number=ID, log=first_log)
    watched = Watched(host, {"containers": ["comfy", "nope"], "deadline_s": 20, "log": True, "http": {}})
    frame = watched.until(lambda frame: bool((frame["containers"].get("comfy") or {}).get("log")))
    state = {"state": "running", "health": "healthy", "restarts": 0, "exit_code": 0, "error": ""}
    assert frame["containers"]["comfy"] == {**state, "log": ["== Cloning ComfyUI"]}
    assert frame["containers"]["nope"] is None
    more.set()
    watched.until(lambda frame: frame["containers"]["comfy"]["log"] == ["!! ERROR: no"])
    again = {**inspect, "RestartCount": 1, "State": {**inspect["State"], "StartedAt": "2026-11-21T20:09:00Z"}}
    for key in (ID, "comfy"):
        docker.routes[f"/containers/{key}/logs"] = (200, framed(b"Starting server\n"))
        docker.routes[f"/containers/{key}/json"] = (200, again)
    watched.until(lambda frame: frame["containers"]["comfy"]["log"] == ["Starting server"])
    frame = watched.until(lambda frame: frame["containers"]["comfy"]["restarts"] == 1)
    watched.until(lambda frame: frame["t"] > 2)
    assert sum(len(frame["containers"]["comfy"]["log"]) for frame in watched.frames) == 3
    times = [frame["t"] for frame in watched.frames]
    assert all(later - earlier <= 1.2 for earlier, later in pairwise(times))
    watched.close()


def test_watching_ends_at_its_deadline_whatever_hangs(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy")
    docker.routes["/containers/comfy/json"] = never
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        watched = Watched(host, {"containers": ["comfy"], "deadline_s": 1.5, "http": {"comfy": url}})
        frames = watched.rest()
    assert 1.4 < time.monotonic() - began < 4
    assert frames
    assert frames[0]["frame"] == "watch"


def test_watching_without_an_engine_says_so(host: FakeHost) -> None:
    watched = Watched(host, {"containers": ["comfy"], "deadline_s": 5})
    frame = watched.until(lambda frame: "comfy" in frame["containers"])
    assert "docker.sock: No such file" in frame["containers"]["comfy"]["unknown"]
    watched.close()
