"""The runner for real: a process of its own on this machine, its pipes held by the test, its paths under tmp_path."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import select
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pantheon import plan, probe, runner
from pantheon.plan import Guard, MakeSecret, Run, Step, Write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it runs on hosts, and hosts are Linux")

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import json, sys
from pantheon import runner
from pantheon.looks import engine, system
for module, settings in json.loads(sys.argv[1]).items():
    for name, value in settings.items():
        setattr({"runner": runner, "engine": engine, "system": system}[module], name, value)
sys.exit(runner.main(json.loads(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout))
"""
LOCKED, CHANGED, TIMEOUT, INTERRUPTED = 75, 76, 124, 130
Frame = dict[str, Any]


def sh(script: str, *, timeout_s: int = 20, guards: tuple[Guard, ...] = ()) -> Run:
    return Run(("bash", "-c", script), timeout_s=timeout_s, guards=guards)


def write(path: Path, text: str, *, mode: int = 0o644, guards: tuple[Guard, ...] = (), secret: bool = False) -> Write:
    return Write(str(path), text, mode, uid=os.getuid(), gid=os.getgid(), guards=guards, secret=secret)


def secret(path: Path, mode: int = 0o600) -> MakeSecret:
    return MakeSecret(str(path), mode=mode, uid=os.getuid(), gid=os.getgid())


class Apply:
    """One runner, started. Reads its frames as a client would; `settings` go over the module's own."""

    def __init__(self, tmp_path: Path, *steps: Step, settings: dict[str, Any] | None = None, **spec: Any) -> None:
        self.tmp_path = tmp_path
        given = settings or {}
        log = tmp_path / "log"
        paths = {"LOCK": tmp_path / "run/lock", "STATE": tmp_path / "state.json", "LIBRARY": tmp_path / "lib"}
        paths |= {"LOG_DIR": log, "HISTORY": log / "history.jsonl", "COMMANDS": log / "commands.jsonl"}
        runner = {name: str(path) for name, path in paths.items()} | {"GRACE_S": 0.5, "CALM_S": 0.3}
        runner |= {name: value for name, value in given.items() if name != "SOCKETS"}
        modules = {"runner": runner, "engine": {"SOCKETS": given.get("SOCKETS", [str(tmp_path / "no-docker.sock")])}}
        modules["system"] = {"LOCK_FILE": runner["LOCK"]}
        self.spec = {
            "run": "r1",
            "who": "me@here",
            "what": "bringup",
            "version": "1",
            "plan": "abc",
            "services": ["comfy"],
            "project": "ai",
            "steps": [plan.step_data(step, reveal=True) for step in steps],
            "state": {"remembered": True},
            **spec,
        }
        self.process = subprocess.Popen(
            [*given.get("wrapper", ()), sys.executable, "-c", DRIVER, json.dumps(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps(self.spec).encode() + b"\n")
        self.process.stdin.flush()
        self.rest = b""

    def frame(self, kind: str, timeout_s: float = 10) -> Frame:
        """The next frame of that kind; those before it are passed over."""
        for frame in self.frames(timeout_s):
            if frame["frame"] == kind:
                return frame
        raise AssertionError(f"no {kind} frame; stderr: {self.stderr()}")

    def frames(self, timeout_s: float = 10) -> Iterator[Frame]:
        """Frames as they come, until the end of output."""
        assert self.process.stdout
        end = time.monotonic() + timeout_s
        while True:
            while b"\n" in self.rest:
                line, self.rest = self.rest.split(b"\n", 1)
                yield json.loads(line)
            left = end - time.monotonic()
            assert left > 0, "no end of output"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                if not data:
                    return
                self.rest += data

    def hang_up(self) -> None:
        """End of file, as when the client was killed."""
        assert self.process.stdin
        self.process.stdin.close()

    def beat(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def stderr(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode() if self.process.poll() is not None else ""

    def end(self, timeout_s: float = 15) -> tuple[int, list[Frame]]:
        """All that is still to come, and the exit status."""
        frames = list(self.frames(timeout_s))
        return self.process.wait(timeout_s), frames

    def log(self, name: str) -> list[dict[str, Any]]:
        file = self.tmp_path / "log" / f"{name}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            with contextlib.suppress(OSError):
                pipe.close()


Start = Callable[..., Apply]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Apply] = []

    def begin(*steps: Step, settings: dict[str, Any] | None = None, **spec: Any) -> Apply:
        started.append(Apply(tmp_path, *steps, settings=settings, **spec))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def kinds(frames: list[Frame]) -> list[str]:
    return [frame["frame"] for frame in frames if frame["frame"] != "out"]


def out(frames: list[Frame]) -> list[str]:
    return [frame["line"] for frame in frames if frame["frame"] == "out"]


def until(question: Callable[[], Any], deadline_s: float = 5) -> None:
    end = time.monotonic() + deadline_s
    while not question():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def pid_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


# ---- Docker's API, as far as the runner uses it


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Containers and images by name, on a Unix socket."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.containers: dict[str, str] = {}
        self.images: dict[str, str] = {}
        self.lock = threading.Lock()
        super().__init__(str(path), _Answer)


class _Answer(http.server.BaseHTTPRequestHandler):
    server: FakeEngine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def name_of(self, number: str) -> str:
        return next(name for name, each in self.server.containers.items() if each == number)

    def do_GET(self) -> None:
        containers = self.server.containers
        if self.path.startswith("/containers/json"):
            labels = {"com.docker.compose.project": "ai"}
            with self.server.lock:
                all_of_them = [{"Id": i, "Names": [f"/{name}"], "Labels": labels} for name, i in containers.items()]
            self.answer(200, all_of_them)
        elif found := re.fullmatch(r"/containers/(.+)/json", self.path):
            known = found[1] in containers
            self.answer(200 if known else 404, {"Id": containers.get(found[1]), "Name": f"/{found[1]}", "message": ""})
        elif found := re.fullmatch(r"/images/(.+)/json", self.path):
            known = found[1] in self.server.images
            self.answer(200 if known else 404, {"Id": self.server.images.get(found[1]), "message": "no such image"})

    def do_DELETE(self) -> None:
        found = re.fullmatch(r"/containers/(.+)\?force=1", self.path)
        assert found
        with self.server.lock:
            del self.server.containers[self.name_of(found[1])]
        self.answer(204)

    def do_POST(self) -> None:
        found = re.fullmatch(r"/containers/(.+)/rename\?name=(.+)", self.path)
        assert found
        with self.server.lock:
            if found[2] in self.server.containers:
                self.answer(409, {"message": "name in use"})
                return
            self.server.containers[found[2]] = self.server.containers.pop(self.name_of(found[1]))
        self.answer(204)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ---- steps


class TestSteps:
    def test_each_step_is_framed_and_recorded(self, start: Start, tmp_path: Path) -> None:
        file = tmp_path / "etc/file.txt"
        one = start(sh("echo one; echo two >&2"), write(file, "text\n", mode=0o640), Run(("true",)))
        code, frames = one.end()
        assert code == 0
        assert kinds(frames) == ["step", "done", "step", "done", "step", "done", "end"]
        assert [frame.get("index") for frame in frames if frame["frame"] == "step"] == [0, 1, 2]
        assert out(frames) == ["one", "two"]
        assert frames[-1] == {"frame": "end", "result": "done"}
        assert (file.read_text(), file.stat().st_mode & 0o7777) == ("text\n", 0o640)
        assert json.loads((tmp_path / "state.json").read_text()) == {"remembered": True}

    def test_every_argv_that_ran_is_on_record(self, start: Start, tmp_path: Path) -> None:
        hostile = Run(("echo", "a b", "$(touch pwned)", "'\"", "-x"))
        one = start(hostile, write(tmp_path / "s", "hush hush", secret=True), Run(("false",)), Run(("touch", "never")))
        code, _ = one.end()
        assert code == 1
        commands = one.log("commands")
        assert [record["step"].get("run") for record in commands] == [list(hostile.argv), None, ["false"]]
        assert [record["status"] for record in commands] == [0, 0, 1]
        assert commands[1]["step"]["write"] == str(tmp_path / "s")
        log = tmp_path / "log/commands.jsonl"
        assert "hush" not in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600

    def test_no_shell_reads_an_argument(self, start: Start) -> None:
        code, frames = start(Run(("printf", "%s\n", "$(id); `id`; a\\nb * ~"))).end()
        assert (code, out(frames)) == (0, ["$(id); `id`; a\\nb * ~"])

    def test_the_environment_is_ours_alone(self, start: Start) -> None:
        _, frames = start(Run(("env",), cwd="/tmp"), Run(("pwd",), cwd="/tmp")).end()
        names = {line.split("=")[0] for line in out(frames)}
        assert names >= {"PATH", "LC_ALL", "HOME"}
        assert "PYTHONPATH" not in names
        assert out(frames)[-1] == "/tmp"

    def test_a_failing_step_carries_its_last_ten_lines_and_ends_the_run(self, start: Start, tmp_path: Path) -> None:
        one = start(sh("seq 1 30; echo at last >&2; exit 7"), sh(f"touch {tmp_path}/never"))
        code, frames = one.end()
        assert code == 1
        failed = frames[-2]
        assert (failed["frame"], failed["index"], failed["status"]) == ("failed", 0, 7)
        assert failed["lines"] == [*map(str, range(22, 31)), "at last"]
        assert not (tmp_path / "never").exists()
        assert not (tmp_path / "state.json").exists()
        assert one.log("history")[0]["result"] == "failed"

    def test_a_line_without_an_end_is_a_line(self, start: Start) -> None:
        _, frames = start(sh("printf 'no newline'; exit 3")).end()
        assert frames[-2]["lines"] == out(frames) == ["no newline"]

    @pytest.mark.parametrize("step", [Run(("no-such-program", "x")), Run(("true",), cwd="/no/such/place")])
    def test_what_cannot_be_started_says_why(self, start: Start, step: Run) -> None:
        code, frames = start(step).end()
        assert code == 1
        assert "No such file or directory" in frames[-2]["lines"][0]
        assert "no-such-program" in frames[-2]["lines"][0] or "/no/such/place" in frames[-2]["lines"][0]

    def test_a_step_has_a_deadline(self, start: Start, tmp_path: Path) -> None:
        one = start(sh(f"echo $$ >{tmp_path}/pid; echo begun; sleep 60", timeout_s=1))
        began = time.monotonic()
        code, frames = one.end()
        assert (code, frames[-2]["status"]) == (1, TIMEOUT)
        assert frames[-2]["lines"] == ["begun", "no end within 1 s: stopped"]
        assert time.monotonic() - began < 6
        assert not lives(pid_in(tmp_path / "pid"))

    def test_a_command_that_closes_its_output_and_goes_on_has_the_deadline_too(self, start: Start) -> None:
        code, frames = start(sh("exec >&- 2>&-; sleep 60", timeout_s=1)).end()
        assert (code, frames[-2]["status"]) == (1, TIMEOUT)

    def test_a_flood_of_output_is_bounded_and_its_end_is_kept(self, start: Start) -> None:
        one = start(sh("yes a line that is said over and over | head -n 300000; echo the cause; exit 1"))
        frames = list(one.frames(60))
        assert len(out(frames)) < 2000
        assert frames[-2]["lines"][-1] == "the cause"
        assert frames[-1]["result"] == "failed"

    def test_one_endless_line_is_bounded(self, start: Start) -> None:
        _, frames = start(sh("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo end; exit 1")).end(60)
        assert frames[-2]["lines"][-1] == "end"
        assert max(len(line) for line in out(frames)) < 3000

    def test_control_sequences_go(self, start: Start) -> None:
        script = r"printf '\033[31mred\033[0m \033]0;title\007x\n'; printf '10%%\r99%%\r\n'; printf 'a\001\302\233b\n'"
        _, frames = start(sh(script), sh(r"printf '\377\376 bytes\n'")).end()
        assert out(frames)[:3] == ["red x", "99%", "ab"]
        assert out(frames)[3].endswith(" bytes")
        assert all(line.isprintable() for line in out(frames))

    def test_a_daemon_that_holds_the_pipe_does_not_hold_the_step(self, start: Start, tmp_path: Path) -> None:
        began = time.monotonic()
        code, frames = start(sh(f"sleep 30 & echo $! >{tmp_path}/pid; echo done")).end()
        assert (code, out(frames)) == (0, ["done"])
        assert time.monotonic() - began < 5
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)

    def test_a_daemon_that_fills_the_pipe_does_not_hold_the_step(self, start: Start) -> None:
        began = time.monotonic()
        code, _ = start(sh("yes & echo done", timeout_s=60)).end()
        assert code == 0
        assert time.monotonic() - began < 10


# ---- guards


class TestGuards:
    def stops(self, one: Apply, kind: str, target: str, planned: str, now: str) -> None:
        code, frames = one.end()
        assert code == CHANGED, one.stderr()
        assert kinds(frames)[-2:] == ["changed", "end"]
        changed = next(frame for frame in frames if frame["frame"] == "changed")
        assert (changed["kind"], changed["target"]) == (kind, target)
        assert (changed["planned"], changed["now"]) == (planned, now)
        assert frames[-1]["result"] == one.log("history")[0]["result"] == "changed"

    def test_path(self, start: Start, tmp_path: Path) -> None:
        folder = tmp_path / "made"
        folder.mkdir(mode=0o755)
        guard = Guard("path", str(folder), "missing")
        one = start(Run(("touch", f"{tmp_path}/never"), guards=(guard,)))
        now = f"dir {os.getuid()}:{os.getgid()} 0755"
        self.stops(one, "path", str(folder), "missing", now)
        assert not (tmp_path / "never").exists()

    def test_sha256(self, start: Start, tmp_path: Path) -> None:
        file = tmp_path / "compose.yaml"
        file.write_text("by hand\n")
        planned = probe.reading("sha256", str(file))
        file.write_text("by another hand\n")
        one = start(write(file, "ours\n", guards=(Guard("sha256", str(file), planned),)))
        self.stops(one, "sha256", str(file), planned, probe.reading("sha256", str(file)))
        assert file.read_text() == "by another hand\n"

    def test_mount(self, start: Start, tmp_path: Path) -> None:
        one = start(Run(("true",), guards=(Guard("mount", str(tmp_path), "/dev/sdb1 ext4"),)))
        self.stops(one, "mount", str(tmp_path), "/dev/sdb1 ext4", "not a mount point")

    def test_container(self, start: Start, engine: FakeEngine) -> None:
        engine.containers["comfy"] = "0123"
        step = Run(("true",), guards=(Guard("container", "comfy", "missing"),))
        self.stops(start(step, settings={"SOCKETS": [engine.server_address]}), "container", "comfy", "missing", "0123")

    def test_image(self, start: Start, engine: FakeEngine) -> None:
        engine.images["ollama/ollama:latest"] = "sha256:2"
        step = Run(("true",), guards=(Guard("image", "ollama/ollama:latest", "sha256:1"),))
        one = start(step, settings={"SOCKETS": [engine.server_address]})
        self.stops(one, "image", "ollama/ollama:latest", "sha256:1", "sha256:2")

    def test_what_cannot_be_read_stops_too(self, start: Start) -> None:
        code, frames = start(Run(("true",), guards=(Guard("image", "x", "missing"),))).end()
        assert code == CHANGED
        assert frames[-2]["now"].startswith("unknown: ")

    def test_they_are_read_when_their_step_comes(self, start: Start, tmp_path: Path) -> None:
        """Of an earlier step's work, too: each guard is read under the lock, right before its own step."""
        guard = Guard("path", f"{tmp_path}/x", "missing")
        one = start(sh(f"touch {tmp_path}/x"), Run(("touch", f"{tmp_path}/never"), guards=(guard,)))
        code, frames = one.end()
        assert (code, kinds(frames)) == (CHANGED, ["step", "done", "changed", "end"])
        assert not (tmp_path / "never").exists()

    def test_all_as_planned(self, start: Start, engine: FakeEngine, tmp_path: Path) -> None:
        engine.containers["comfy"], engine.images["i:1"] = "0123", "sha256:1"
        guards = (
            Guard("container", "comfy", "0123"),
            Guard("container", "ollama", "missing"),
            Guard("image", "i:1", "sha256:1"),
            Guard("path", f"{tmp_path}/x", "missing"),
            Guard("sha256", f"{tmp_path}/x", "missing"),
            Guard("mount", str(tmp_path), "not a mount point"),
        )
        code, _ = start(Run(("true",), guards=guards), settings={"SOCKETS": [engine.server_address]}).end()
        assert code == 0


# ---- interruption

FAMILY = """
trap '' TERM                                      # one that does not want to go
( trap '' TERM; echo $BASHPID >{0}/grandchild; while :; do sleep 1; done ) &
echo $$ >{0}/child
echo begun
while :; do sleep 1; done
"""


class TestInterrupted:
    def gone_within(self, one: Apply, tmp_path: Path, seconds: float) -> None:
        began = time.monotonic()
        assert one.process.wait(seconds) == INTERRUPTED, one.stderr()
        for name in ("child", "grandchild"):
            assert not lives(pid_in(tmp_path / name)), name
        assert time.monotonic() - began < seconds
        assert one.log("history")[-1]["result"] == "interrupted"
        assert one.log("commands")[-1]["status"] == INTERRUPTED
        assert (tmp_path / "run/lock").read_text() == ""

    def begun(self, start: Start, tmp_path: Path, **settings: Any) -> Apply:
        one = start(sh(FAMILY.format(tmp_path), timeout_s=60), sh(f"touch {tmp_path}/never"), settings=settings)
        one.frame("out")
        pid_in(tmp_path / "grandchild")
        return one

    def test_end_of_file_ends_the_step_with_all_its_children(self, start: Start, tmp_path: Path) -> None:
        one = self.begun(start, tmp_path)
        one.hang_up()
        self.gone_within(one, tmp_path, 5)
        assert not (tmp_path / "never").exists()

    def test_silence_does(self, start: Start, tmp_path: Path) -> None:
        one = self.begun(start, tmp_path, SILENCE_S=0.7)
        self.gone_within(one, tmp_path, 6)

    def test_a_heartbeat_keeps_it_going(self, start: Start) -> None:
        one = start(sh("sleep 1.5"), settings={"SILENCE_S": 0.7})
        for _ in range(7):
            time.sleep(0.2)
            one.beat()
        assert one.end()[0] == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_a_signal_does(self, start: Start, tmp_path: Path, number: int) -> None:
        one = self.begun(start, tmp_path)
        one.process.send_signal(number)
        self.gone_within(one, tmp_path, 5)

    def test_a_quiet_command_that_closed_its_output_is_ended_too(self, start: Start, tmp_path: Path) -> None:
        one = start(sh(f"echo $$ >{tmp_path}/child; exec >&- 2>&-; sleep 60"))
        child = pid_in(tmp_path / "child")
        one.hang_up()
        assert one.process.wait(5) == INTERRUPTED
        assert not lives(child)

    def test_between_two_steps(self, start: Start, tmp_path: Path) -> None:
        one = start(sh("exit 0"), sh(f"touch {tmp_path}/never"))
        one.hang_up()
        assert one.process.wait(5) in (0, INTERRUPTED)

    def test_a_step_with_time_to_tidy_up_gets_it(self, start: Start, tmp_path: Path) -> None:
        script = f"trap 'sleep 0.3; echo tidy >{tmp_path}/tidy; exit 1' TERM; echo begun; while :; do sleep 0.05; done"
        one = start(sh(script))
        one.frame("out")
        one.hang_up()
        assert one.process.wait(5) == INTERRUPTED
        assert (tmp_path / "tidy").exists()

    def test_a_leader_that_goes_first_leaves_time_to_the_others(self, start: Start, tmp_path: Path) -> None:
        """docker's own client ends at once; the Compose plugin, its child, is still tidying up."""
        plugin = f"trap 'sleep 0.3; echo tidy >{tmp_path}/tidy; exit' TERM; echo begun; while :; do sleep 0.05; done"
        one = start(sh(f"({plugin}) & wait"))
        one.frame("out")
        one.hang_up()
        assert one.process.wait(5) == INTERRUPTED
        assert (tmp_path / "tidy").exists()

    def test_stdout_that_nobody_reads_never_blocks_the_work(self, start: Start, tmp_path: Path) -> None:
        line = "x" * 1500
        script = f"for i in $(seq 1 290); do echo {line}; done"  # well beyond what the pipe holds
        one = start(sh(script), sh(f"touch {tmp_path}/second"), settings={"FAREWELL_S": 0.5})
        until((tmp_path / "second").exists)
        one.process.wait(5)  # nothing was read, and nobody is waited for for ever
        assert one.log("history")[-1]["result"] == "done"

    def test_a_dead_link_with_a_full_pipe(self, start: Start, tmp_path: Path) -> None:
        """Neither end of file nor anyone who reads: as when the network is gone in the middle of much output."""
        one = start(sh(f"echo $$ >{tmp_path}/child; yes {'x' * 1500}", timeout_s=60), settings={"SILENCE_S": 0.7})
        child = pid_in(tmp_path / "child")
        assert one.process.wait(6) == INTERRUPTED
        assert not lives(child)
        assert one.log("history")[-1]["result"] == "interrupted"

    def test_a_closed_stdout_is_no_reason_to_stop(self, start: Start, tmp_path: Path) -> None:
        one = start(sh("sleep 0.3; seq 1 50"), sh(f"touch {tmp_path}/second"))
        assert one.process.stdout
        one.process.stdout.close()
        assert one.process.wait(10) == 0
        assert (tmp_path / "second").exists()

    def test_kill_9_ends_the_step_and_frees_the_lock(self, start: Start, tmp_path: Path) -> None:
        one = start(sh(f"echo $$ >{tmp_path}/child; exec sleep 60"))
        child = pid_in(tmp_path / "child")
        one.process.kill()
        one.process.wait()
        until(lambda: not lives(child))
        again = start(sh("true"), run="r2")
        assert again.end()[0] == 0
        assert [run["result"] for run in again.log("history")] == ["died", "done"]
        assert [run["run"] for run in again.log("history")] == ["r1", "r2"]


class TestHalfMade:
    """Compose, killed in the middle of a recreate, leaves `<12 hex>_NAME` (DOMAIN.md)."""

    def interrupted(self, start: Start, tmp_path: Path, engine: FakeEngine) -> Apply:
        fake = tmp_path / "bin/docker"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")
        fake.chmod(0o755)
        environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
        step = Run(("docker", "compose", "up"))
        one = start(step, settings={"SOCKETS": [engine.server_address], "ENVIRONMENT": environment})
        one.frame("out")
        return one

    def test_the_new_one_goes_while_the_old_one_is_there(
        self, start: Start, tmp_path: Path, engine: FakeEngine
    ) -> None:
        engine.containers = {"comfy": "old", "0123456789ab_comfy": "new"}
        one = self.interrupted(start, tmp_path, engine)
        one.hang_up()
        assert one.process.wait(8) == INTERRUPTED
        assert engine.containers == {"comfy": "old"}

    def test_it_gets_its_name_when_the_old_one_is_gone(self, start: Start, tmp_path: Path, engine: FakeEngine) -> None:
        engine.containers = {"ollama": "o", "0123456789ab_comfy": "new"}
        one = self.interrupted(start, tmp_path, engine)
        one.hang_up()
        assert one.process.wait(8) == INTERRUPTED
        assert engine.containers == {"ollama": "o", "comfy": "new"}

    def test_an_engine_that_is_still_at_work_is_waited_for(
        self, start: Start, tmp_path: Path, engine: FakeEngine
    ) -> None:
        engine.containers = {"comfy": "old"}
        one = self.interrupted(start, tmp_path, engine)
        one.hang_up()
        time.sleep(0.15)  # the request was under way when Compose was ended
        engine.containers["0123456789ab_comfy"] = "new"
        assert one.process.wait(8) == INTERRUPTED
        assert engine.containers == {"comfy": "old"}

    def test_after_a_deadline_as_well(self, start: Start, tmp_path: Path, engine: FakeEngine) -> None:
        engine.containers = {"comfy": "old", "0123456789ab_comfy": "new"}
        fake = tmp_path / "docker"
        fake.write_text("#!/bin/sh\nexec sleep 60\n")
        fake.chmod(0o755)
        settings = {"SOCKETS": [engine.server_address], "ENVIRONMENT": {"PATH": f"{tmp_path}:{os.environ['PATH']}"}}
        assert start(Run(("docker", "up"), timeout_s=1), settings=settings).end()[0] == 1
        assert engine.containers == {"comfy": "old"}


# ---- the lock


class TestLock:
    def test_who_holds_it_is_told(self, start: Start) -> None:
        first = start(sh("echo begun; sleep 30"), who="anna@desk", what="bringup", run="r1")
        first.frame("out")
        second = start(sh("true"), who="bert@home", what="storage", run="r2")
        code, frames = second.end()
        assert (code, kinds(frames)) == (LOCKED, ["locked"])
        holder = frames[0]["holder"]
        assert (holder["who"], holder["what"], holder["run"]) == ("anna@desk", "bringup", "r1")
        assert holder["pid"] == first.process.pid
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", holder["since"])
        assert second.log("commands") == second.log("history") == []
        first.hang_up()
        assert first.process.wait(5) == INTERRUPTED

    def test_one_that_is_being_ended_is_waited_for(self, start: Start, tmp_path: Path) -> None:
        """Ctrl-C and the same command again: the second run does not hear that the first one holds the lock."""
        fake = tmp_path / "docker"  # for which names are looked at for a while after it was ended
        fake.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")
        fake.chmod(0o755)
        settings = {"ENVIRONMENT": {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, "CALM_S": 1.0}
        first = start(Run(("docker", "compose", "up")), settings=settings)
        first.frame("out")
        first.hang_up()
        until(lambda: "ending" in (tmp_path / "run/lock").read_text())
        assert first.process.poll() is None
        assert start(sh("true"), run="r2").end()[0] == 0

    @pytest.mark.parametrize("left", [b"", b"{", b"\xff\xfe", b"[1]", b'{"who": "a@b", "pid": 1, "run": "r0"}'])
    def test_what_a_dead_owner_left_is_no_obstacle(self, start: Start, tmp_path: Path, left: bytes) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/lock").write_bytes(left)
        one = start(sh("true"))
        assert one.end()[0] == 0
        assert [run["result"] for run in one.log("history")] == (["died", "done"] if b"r0" in left else ["done"])

    def test_a_link_in_its_place_is_not_followed(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "precious").write_text("kept")
        (tmp_path / "run/lock").symlink_to(tmp_path / "precious")
        one = start(sh(f"touch {tmp_path}/never"))
        code, frames = one.end()
        assert code == 1
        assert "symbolic links" in frames[-1]["why"]
        assert (tmp_path / "precious").read_text() == "kept"
        assert not (tmp_path / "never").exists()

    def test_only_one_of_many_gets_it(self, start: Start, tmp_path: Path) -> None:
        all_of_them = [start(sh(f"echo x >>{tmp_path}/count; sleep 1.5"), run=f"r{i}") for i in range(5)]
        codes = sorted(one.end()[0] for one in all_of_them)
        assert codes[0] == 0
        assert len((tmp_path / "count").read_text().split()) == codes.count(0)
        assert set(codes) <= {0, LOCKED}


# ---- files


class TestFiles:
    def test_a_reader_never_sees_half_a_file(self, start: Start, tmp_path: Path) -> None:
        file = tmp_path / "big"
        texts = [letter * 3_000_000 + "end" for letter in "ab"]
        file.write_text(texts[0])
        one = start(*(write(file, texts[i % 2]) for i in range(8)))
        seen = set()
        while one.process.poll() is None:
            text = file.read_text()
            assert text in texts, f"{len(text)} characters"
            seen.add(text[0])
            for _ in range(20):
                assert one.process.stdout
                if select.select([one.process.stdout], [], [], 0)[0]:
                    os.read(one.process.stdout.fileno(), 65536)
        assert seen == {"a", "b"}

    def test_a_link_at_the_target_is_replaced_and_what_it_points_to_left_alone(
        self, start: Start, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").write_text("kept")
        (tmp_path / "file").symlink_to(tmp_path / "precious")
        assert start(write(tmp_path / "file", "new")).end()[0] == 0
        assert (tmp_path / "precious").read_text() == "kept"
        assert not (tmp_path / "file").is_symlink()
        assert (tmp_path / "file").read_text() == "new"

    def test_a_link_at_the_temporary_name_is_not_followed(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("kept")
        (tmp_path / ".file.pantheon").symlink_to(tmp_path / "precious")
        assert start(write(tmp_path / "file", "new")).end()[0] == 0
        assert (tmp_path / "precious").read_text() == "kept"
        assert (tmp_path / "file").read_text() == "new"
        assert not (tmp_path / ".file.pantheon").is_symlink()

    def test_what_a_killed_run_left_goes(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / ".file.pantheon").write_text("half of")
        assert start(write(tmp_path / "file", "new")).end()[0] == 0
        assert sorted(path.name for path in tmp_path.glob(".*")) == []

    def test_a_directory_in_the_way(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        code, frames = start(write(tmp_path / "file", "new")).end()
        assert code == 1
        assert frames[-2]["lines"] == [f"Is a directory: {tmp_path}/file"]
        assert not (tmp_path / ".file.pantheon").exists()

    def test_text_is_utf_8_byte_for_byte(self, start: Start, tmp_path: Path) -> None:
        text = "# Übung § 1 \u2028 \r\n\ttab\n"
        assert start(write(tmp_path / "file", text)).end()[0] == 0
        assert (tmp_path / "file").read_bytes() == text.encode()

    def test_a_full_disk_says_so_and_leaves_the_old_file(self, start: Start, tmp_path: Path) -> None:
        """On a tmpfs of 64 KiB in a mount namespace of the runner's own."""
        assert shutil.which("unshare"), "util-linux is missing"
        small = tmp_path / "small"
        small.mkdir()
        prepare = f'mount -t tmpfs -o size=64k small {small} && echo old >{small}/file && exec "$@"'
        user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
        wrapper = ["unshare", *user, "--mount", "sh", "-c", prepare, "sh"]
        steps = (write(small / "file", "x" * 200_000), Run(("true",)))
        one = start(*steps, settings={"wrapper": wrapper, "LOG_DIR": str(tmp_path / "log")})
        # Its namespace goes with it, so what is there afterwards is asked through its /proc while it still runs.
        code, frames = one.end()
        assert code == 1, one.stderr()
        assert frames[-2]["lines"] == [f"No space left on device: {small}/file"]
        keep = write(small / "file", "x" * 200_000)
        look = f"cat {small}/file; ls -A {small}"
        again = start(sh(look), keep, settings={"wrapper": wrapper})
        code, frames = again.end()
        assert code == 1
        assert out(frames) == ["old", "file"]

    def test_after_the_failure_the_old_file_is_there_whole(self, start: Start, tmp_path: Path) -> None:
        """A limit on the size of files stands in for the disk: here the same place can be looked at afterwards."""
        (tmp_path / "file").write_text("old")
        one = start(write(tmp_path / "file", "x" * 200_000), settings={"wrapper": ["prlimit", "--fsize=100000"]})
        code, frames = one.end()
        assert code == 1
        assert frames[-2]["lines"] == [f"File too large: {tmp_path}/file"]
        assert (tmp_path / "file").read_text() == "old"
        assert not (tmp_path / ".file.pantheon").exists()
        assert one.log("history")[0]["result"] == "failed"

    def test_a_full_disk_under_the_log_does_not_stop_the_work(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("a file where the directory should be")
        one = start(sh(f"touch {tmp_path}/made"))
        code, frames = one.end()
        assert code == 0
        assert (tmp_path / "made").exists()
        warnings = [frame["text"] for frame in frames if frame["frame"] == "warning"]
        assert all("audit log" in text and "could not be written" in text for text in warnings)
        assert len(warnings) == 2  # the command, and the run

    def test_what_cannot_be_remembered_is_said_and_undoes_nothing(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "state.json").mkdir()
        (tmp_path / "state.json" / "x").touch()
        code, frames = start(sh(f"touch {tmp_path}/made"), state={"version": "1"}).end()
        assert code == 0
        assert (tmp_path / "made").exists()
        assert any("could not be kept" in frame.get("text", "") for frame in frames)

    def test_a_record_is_whole_or_not_there(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "log").mkdir()
        commands = tmp_path / "log/commands.jsonl"
        commands.write_text('{"step": {}}\n' + "x" * 99_880 + "\n")
        one = start(sh("true"), settings={"wrapper": ["prlimit", "--fsize=100000"]}, state=None)
        assert one.end()[0] == 0
        assert commands.stat().st_size == 99_894


class TestSecret:
    def test_it_is_made_once(self, start: Start, tmp_path: Path) -> None:
        file = tmp_path / "secrets/key"
        assert start(secret(file)).end()[0] == 0
        key = file.read_text()
        assert re.fullmatch(r"[0-9a-f]{64}", key)
        assert file.stat().st_mode & 0o7777 == 0o600
        file.chmod(0o644)
        again = start(secret(file), run="r2")
        assert again.end()[0] == 0
        assert file.read_text() == key
        assert file.stat().st_mode & 0o7777 == 0o600

    def test_it_is_on_no_record(self, start: Start, tmp_path: Path) -> None:
        one = start(secret(tmp_path / "key"))
        _, frames = one.end()
        said = json.dumps(frames) + (tmp_path / "log/commands.jsonl").read_text()
        assert (tmp_path / "key").read_text() not in said

    def test_an_empty_file_is_no_key(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "key").touch()
        assert start(secret(tmp_path / "key")).end()[0] == 0
        assert len((tmp_path / "key").read_text()) == 64

    def test_a_link_is_neither_followed_nor_replaced(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("kept")
        (tmp_path / "precious").chmod(0o644)
        (tmp_path / "key").symlink_to(tmp_path / "precious")
        code, frames = start(secret(tmp_path / "key")).end()
        assert code == 1
        assert "symbolic links" in frames[-2]["lines"][0]
        assert (tmp_path / "key").is_symlink()
        assert (tmp_path / "precious").stat().st_mode & 0o777 == 0o644

    def test_a_pipe_in_its_place_does_not_hang(self, start: Start, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "key")
        code, frames = start(secret(tmp_path / "key")).end()
        assert code == 1
        assert "not a regular file" in frames[-2]["lines"][0]


class TestModules:
    """What was sent is kept, with its .pyc: looks use it and write nothing."""

    KEEP = """
import sys, types, hashlib
from pantheon import runner
import pantheon
texts = {"pynvml": b"x = 1\\n", "pantheon.probe": b"y = 2\\n"}
runner.LIBRARY = sys.argv[1]
pantheon.sent = {name: texts[name] for name in sys.argv[2:]}
pantheon.hashes = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
runner._keep_modules()
"""

    def keep(self, library: Path, *sent: str) -> list[str]:
        subprocess.run(
            [sys.executable, "-c", self.KEEP, str(library), *sent], check=True, env={"PYTHONPATH": str(ROOT)}
        )
        return sorted(path.name for path in library.rglob("*") if path.is_file())

    def test_sources_and_compiled(self, tmp_path: Path) -> None:
        names = self.keep(tmp_path, "pynvml", "pantheon.probe")
        assert [name.split(".")[0] for name in names] == ["probe", "probe", "pynvml", "pynvml"]

    def test_what_was_compiled_by_another_python_is_compiled_again(self, tmp_path: Path) -> None:
        self.keep(tmp_path, "pynvml", "pantheon.probe")
        for file in tmp_path.rglob("*.pyc"):
            file.rename(file.with_name("probe.cpython-38.pyc"))
        names = self.keep(tmp_path)
        assert sum(name.endswith(f".{sys.implementation.cache_tag}.pyc") for name in names) == 2


def test_a_program_brings_along_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that work on the host share travel with it, each once and before those that need it."""
    texts = {
        "one": "from pantheon.mending.two import two\nfrom pantheon.mending.three import three\n"
        "import sys\nif __name__ == '__main__':\n    print(two(), three(), sys.argv[1:])\n",
        "two": "from pantheon.mending.three import three\ndef two() -> str:\n    return 'two, ' + three()\n",
        "three": "from dataclasses import dataclass\n@dataclass\nclass Three:\n    name: str = 'three é'\n"
        "def three() -> str:\n    return Three().name\n",
    }
    package = tmp_path / "pantheon" / "mending"
    package.mkdir(parents=True)
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr("pantheon.mending.__path__", [str(package)])
    argv = runner._program({"mend": "one", "arguments": {"path": "a b"}})
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 'two, three é three é [\'{"path": "a b"}\']\n'
