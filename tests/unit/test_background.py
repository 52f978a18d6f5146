"""Opening in the background, listing and closing. The processes are real, and a script stands for ssh; the real one is
in tests/lab."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console as RichConsole

from pantheon import background, inventory
from pantheon.errors import NotTrusted, PantheonError, UsageError
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.record import Entry, to_bytes
from pantheon.remote import ledger
from pantheon.remote.ledger import Record
from pantheon.report.console import Console
from pantheon.report.data import Json
from pantheon.report.journal import MOST_LOG, Log
from pantheon.tunnel import Event, Seen
from pantheon.tunnels import Wish
from tests.unit.remote.server import HOST_KEY, key_of

# A process that goes on when its Popen is gone is what this is about.
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]

# `ssh -G` is the real one; otherwise a web server on the local side of -L, until the file `gone` lies beside it.
SSH = f"""import http.server, os, pathlib, sys, threading, time
if "-G" in sys.argv:
    os.execv("{shutil.which("ssh")}", sys.argv)
here = pathlib.Path(__file__).parent
if (here / "gone").exists():
    sys.exit("ssh: connect to host 127.0.0.1 port 22: Connection refused")
port = int(sys.argv[sys.argv.index("-L") + 1].rsplit(":", 3)[1])
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{{"version": "0.9.1"}}'
        self.send_response(503 if (here / "down").exists() else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", port), Web)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
while not (here / "gone").exists():
    time.sleep(0.05)
sys.exit("Connection to box closed by remote host.")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run" / "pantheon" / "tunnels"


@pytest.fixture
def sshd() -> Iterator[int]:
    """The port of something that says that it is an SSH server, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    with link, contextlib.suppress(OSError):
                        link.sendall(b"SSH-2.0-box\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: int) -> Path:
    file = tmp_path / "known_hosts"
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", str(file))
    file.write_text(f"[127.0.0.1]:{sshd} {key_of(HOST_KEY)}\n")
    return file


@pytest.fixture
def hosts(tmp_path: Path, sshd: int) -> Path:
    file = tmp_path / "my hosts.toml"
    host = f'[hosts.box]\naddress = "127.0.0.1"\nuser = "ops"\nport = {sshd}\n'
    file.write_text(f"{host}[hosts.box.ollama]\nport = {free_port()}\n")
    return file


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "ssh.py").write_text(SSH)
    words = shlex.join([sys.executable, "-I", str(folder / "ssh.py")])
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def box(hosts: Path, known: Path, ssh: Path) -> Iterator[Host]:
    """A host in an inventory, and no tunnel of it left at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield inventory.load(hosts).host(None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for entry in ledger.entries():
            if entry.is_open and entry.pid != os.getpid():
                ledger.send(entry, signal.SIGKILL)
                ledger.wait_free(entry, 10)


class Screen:
    """What was shown, in 80 columns and no terminal."""

    def __init__(self, hosts: Path | str = "") -> None:
        self.report = Console(RichConsole(file=io.StringIO(), width=80, highlight=False))
        self.report.hosts_file = str(hosts)

    @property
    def text(self) -> str:
        file = self.report.out.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


def opened(host: Host, hosts: Path | str, service: str = "ollama", **wish: Any) -> str:
    screen = Screen(hosts)
    wanted = Wish(service, background=True, **wish)
    assert background.open_(host, wanted, options=Options(), report=screen.report) == 0
    return screen.text


def listed() -> str:
    screen = Screen()
    assert background.list_(report=screen.report) == 0
    return screen.text


def closed(service: str = "ollama", host: str = "") -> str:
    screen = Screen()
    assert background.close(service, host, report=screen.report) == 0
    return screen.text


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# ---- from opening to closing


def test_a_tunnel_from_opening_to_closing(box: Host, hosts: Path, runtime: Path) -> None:
    port = box.ollama.port
    text = opened(box, hosts)
    assert f"✓ ollama     http://127.0.0.1:{port}/  ready" in text
    assert "in the background, pid" in text
    assert "Next: invoke tunnel.list\n      invoke tunnel.close ollama --host box\n" in text
    (entry,) = ledger.entries()
    assert (entry.is_open, entry.background, entry.hosts_file) == (True, True, str(hosts))
    assert os.getsid(entry.pid) == entry.pid  # no terminal is its own
    assert "in the background already" in opened(box, hosts)
    os.kill(entry.pid, signal.SIGHUP)  # as when the user logs out
    assert "in the background already" in opened(box, hosts, port=port)
    assert [one.pid for one in ledger.entries()] == [entry.pid]
    assert f"ollama     http://127.0.0.1:{port}/" in listed()
    assert f"✓ ollama     box (ops@127.0.0.1:{box.port}): closed after" in closed()
    assert is_free(port)
    assert ledger.entries() == []
    assert "none open" in listed()
    assert "ready" in Path(entry.log).read_text()
    assert Path(entry.log).read_text().endswith("· closed\n")


def test_another_port_is_another_tunnel(box: Host, hosts: Path) -> None:
    port = free_port()
    opened(box, hosts)
    opened(box, hosts, port=port)
    assert [entry.seen.port for entry in ledger.entries()] == [box.ollama.port, port]
    assert closed().count("✓") == 2
    assert is_free(port)


def test_files_that_the_environment_names_are_found_from_another_directory(
    box: Host, hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", "known_hosts")
    monkeypatch.setenv("PANTHEON_HOSTS", hosts.name)
    assert "ready" in opened(box, "")
    (entry,) = ledger.entries()
    assert entry.hosts_file == str(hosts)
    closed()


def test_what_keeps_it_from_opening_comes_out_as_in_a_terminal(box: Host, hosts: Path, known: Path) -> None:
    keys = known.read_text()
    known.write_text("")
    with pytest.raises(NotTrusted, match="its host key is unknown") as caught:
        opened(box, hosts)
    assert caught.value.next_commands == ("invoke trust --host box",)
    assert caught.value.exit_code == 3
    assert ledger.entries() == []  # it has been said
    known.write_text(keys)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken"):
            opened(box, hosts, port=port)
    assert ledger.entries() == []


def test_the_reason_is_kept_for_whoever_asks_later(box: Host, hosts: Path, known: Path, ssh: Path) -> None:
    opened(box, hosts)
    known.write_text("")
    (ssh / "gone").touch()
    until = time.monotonic() + 20
    while not (found := [entry for entry in ledger.entries() if entry.failure]):
        assert time.monotonic() < until
        time.sleep(0.05)
    for _ in range(2):
        text = listed()
        assert "✗ ollama     ended" in text
        assert text.count(f"ops@127.0.0.1:{box.port}") == 1
        assert "its host key is unknown" in text
        assert f"→ invoke trust --host box --hosts-file '{hosts}'" in text
    assert "its host key is unknown" in Path(found[0].log).read_text()
    assert "nothing to close" in closed()
    assert "none open" in listed()


def test_ctrl_c_while_it_is_awaited_leaves_nothing(box: Host, hosts: Path, ssh: Path) -> None:
    (ssh / "down").touch()
    screen = Screen(hosts)

    def interrupt() -> None:
        while "waiting" not in [entry.seen.phase for entry in ledger.entries(keep=True)]:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert background.open_(box, Wish("ollama", background=True), options=Options(), report=screen.report) == 130
    thread.join()
    assert "nothing was left open" in screen.text
    assert ledger.entries() == []
    assert is_free(box.ollama.port)


def test_what_cannot_be_told_of_is_closed_again(box: Host, hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pantheon.report.ledger.opened", full)
    with pytest.raises(OSError, match="No space left"):
        opened(box, hosts)
    assert ledger.entries() == []
    assert is_free(box.ollama.port)


@pytest.mark.parametrize("gone", [BrokenPipeError(), SystemExit(1)], ids=["ours", "rich's"])
def test_who_reads_no_more_than_a_line_has_his_tunnel(
    box: Host, hosts: Path, monkeypatch: pytest.MonkeyPatch, gone: BaseException
) -> None:
    def read_no_more(*_: object) -> None:
        raise gone

    monkeypatch.setattr("pantheon.report.ledger.opened", read_no_more)
    with pytest.raises(type(gone)):
        opened(box, hosts)
    (entry,) = ledger.entries()
    assert entry.is_open
    closed()


def test_a_process_that_dies_at_once_is_said_with_its_last_words(
    box: Host, hosts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(PantheonError, match="ended without a word") as caught:
        opened(box, hosts)
    assert caught.value.details == ("no such library",)
    assert ledger.entries() == []


def test_a_machine_that_has_run_out_of_processes(box: Host, hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("pantheon.background.subprocess.Popen", full)
    with pytest.raises(PantheonError, match=r"cannot be started: .*: Resource temporarily unavailable") as caught:
        opened(box, hosts)
    assert caught.value.next_commands[0] == "ulimit -a"
    assert ledger.entries() == []


def test_a_record_is_needed(box: Host, hosts: Path, runtime: Path) -> None:
    runtime.parent.mkdir(mode=0o700)
    runtime.write_text("in the way")
    with pytest.raises(PantheonError, match="needs a record") as caught:
        opened(box, hosts)
    assert "XDG_RUNTIME_DIR" in caught.value.next_commands[0]


def test_nobody_could_be_asked_for_a_password(box: Host, hosts: Path) -> None:
    options = Options(ask_password=lambda _: "secret")
    with pytest.raises(UsageError, match="--ask-sudo-password"):
        background.open_(box, Wish("ollama", background=True), options=options, report=Screen(hosts).report)


# ---- listing and closing what is on record

READY = Seen("comfy", "prometheus", 8188, 8188, "ready", time.time() - 7200, time.time() - 60, 1, 3.2, "ready")


@contextmanager
def on_record(*entries: Entry) -> Iterator[list[Record]]:
    with ExitStack() as stack:
        records = [Record.make(entry, f"n{number}") for number, entry in enumerate(entries)]
        for record in records:
            stack.callback(record.remove)
        yield records


def an_entry(pid: int = 0, **seen: Any) -> Entry:
    seen = {"opened": time.time() - 7200.5, **seen}  # not when the tests were collected
    return Entry(replace(READY, **seen), pid or os.getpid(), "ops@10.0.0.5", True, log="/run/a.log")


def test_nothing_open_says_what_to_type() -> None:
    assert listed() == "· tunnels    none open\nNext: invoke tunnel comfy\n"
    assert closed("all") == "· all        nothing to close: no tunnel is open\n"
    assert closed("comfy", "atlas") == "· comfy      nothing to close: no tunnel to comfy is open for host atlas\n"


def test_the_list_in_eighty_columns() -> None:
    lost = an_entry(service="ollama", phase="lost", state="no route to host", latency_ms=None)
    with on_record(lost, an_entry()):
        lines = listed().splitlines()
    assert [line[:13] for line in lines if line[0] != " "] == ["✓ comfy      ", "! ollama     "]
    assert "3 ms" in lines[0]
    assert "1 reconnect" in lines[0]
    assert "no route to host" in lines[3]
    assert "             prometheus (ops@10.0.0.5); in the background, pid " in lines[1]
    assert lines[2] == "             log: /run/a.log"
    assert all(len(line) <= 80 for line in lines[:3])


def test_the_list_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    with on_record(an_entry(), an_entry(service="ollama")) as records:
        records[1].fail(NotTrusted("changed", next_commands=["invoke trust --host prometheus --replace"]))
        records[1].leave()
        background.list_(report=Json())
    document = json.loads(capsys.readouterr().out)
    (tunnel,), (ended,) = document["tunnels"], document["ended"]
    assert (tunnel["service"], tunnel["url"], tunnel["pid"]) == ("comfy", "http://127.0.0.1:8188/", os.getpid())
    assert (tunnel["address"], tunnel["background"], tunnel["good"]) == ("ops@10.0.0.5", True, True)
    assert (ended["kind"], ended["error"], ended["exit_code"]) == ("NotTrusted", "changed", 3)
    assert ended["next"] == ["invoke trust --host prometheus --replace"]


def test_what_a_host_says_does_not_reach_the_terminal() -> None:
    with on_record(an_entry(phase="lost", state="\x1b]0;title\x07\x1b[2Jx\u202ey", note="\x1b[31mred")):
        text = listed()
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_with_several_hosts_open_none_is_closed() -> None:
    with on_record(an_entry(), an_entry(host="atlas"), an_entry(service="ollama")):
        with pytest.raises(UsageError, match="2 hosts") as caught:
            closed("comfy")
        assert set(caught.value.next_commands) == {
            "invoke tunnel.close comfy --host atlas",
            "invoke tunnel.close comfy --host prometheus",
        }
        assert len(ledger.entries()) == 3
        assert "no tunnel to openwebui is open" in closed("openwebui")
        assert "Still open: " in closed("comfy", "nobody")


def test_two_hosts_of_one_name_are_told_apart_by_where_they_are() -> None:
    other = replace(an_entry(), label="ops@10.0.0.9")
    with on_record(an_entry(), other), pytest.raises(UsageError) as caught:
        closed("comfy", "prometheus")
    assert set(caught.value.next_commands) == {
        "invoke tunnel.close comfy --host ops@10.0.0.5",
        "invoke tunnel.close comfy --host ops@10.0.0.9",
    }


@pytest.mark.parametrize("service", ["", "list", "Comfy", "--host", "comfy ollama"])
def test_what_is_no_service_closes_nothing(service: str) -> None:
    with on_record(an_entry()), pytest.raises(UsageError, match="no service"):
        closed(service)


def test_a_record_that_names_another_process_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_record(an_entry(pid=os.getppid(), since=0.0)):
        monkeypatch.setattr(background, "SOON_S", 0.001)
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal"))
        monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: pytest.fail("a signal"))
        screen = Screen()
        assert background.close("comfy", "", report=screen.report) == 1
    assert "nothing was ended" in screen.text


# A process that holds the records that it is given, until it is asked to end, or (`deaf`) not even then.
HOLDS = """
import fcntl, os, signal, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "tidies":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
for name in sys.argv[2:]:
    fcntl.flock(os.open(name, os.O_RDWR), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def terminal(how: str, *services: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process with a tunnel for each service, on record."""
    names = []
    for number, service in enumerate(services):
        record = Record.make(replace(an_entry(service=service, since=0.0), background=False), f"t{number}")
        record.leave()
        names.append(record.entry)
    argv = [sys.executable, "-c", HOLDS, how, *(str(entry.path) for entry in names)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        for entry in names:
            with entry.path.open("r+b") as file:
                file.write(to_bytes(replace(entry, pid=process.pid)))
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_is_open_in_the_same_terminal_goes_with_it() -> None:
    with terminal("listens", "comfy", "ollama") as process:
        text = closed("comfy")
        assert process.wait(5) == -signal.SIGTERM
    assert "✓ comfy      prometheus (ops@10.0.0.5): closed after 2 h" in text
    assert "✓ ollama     prometheus (ops@10.0.0.5): closed after 2 h; it was open in the same terminal" in text
    assert ledger.entries() == []


def test_one_that_was_stopped_with_ctrl_z_ends_well() -> None:
    with terminal("tidies", "comfy") as process:
        process.send_signal(signal.SIGSTOP)
        text = closed("comfy")
        assert process.wait(5) == 7
    assert "killed" not in text


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "END_S", 0.2)
    with terminal("deaf", "comfy") as process:
        text = closed("comfy")
        assert process.wait(5) == -signal.SIGKILL
    assert "! comfy" in text
    assert "killed, since it did not end when asked to" in text
    assert ledger.entries() == []


def test_a_port_that_somebody_still_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KILLED_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other, terminal("listens", "comfy"):
        (entry,) = ledger.entries()
        port = other.getsockname()[1]
        with entry.path.open("r+b") as file:
            file.write(to_bytes(replace(entry, seen=replace(entry.seen, since=1.0, port=port))))
        screen = Screen()
        assert background.close("comfy", "", report=screen.report) == 1
    assert f"port {port} is still held by" in screen.text


# ---- the log


def test_what_comes_and_goes_does_not_fill_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events say what is worth it. Before it is ready, a state is said once, whatever counts on in it."""
    states = [
        *[replace(READY, phase="waiting", state=f"restarts over and over (exit code {n}): {n}") for n in range(9)],
        *[replace(READY, phase="waiting" if n % 2 else "ready", state=f"slow: {n}") for n in range(9)],
    ]

    class Plays:
        service, host, failed, defect = "ollama", SimpleNamespace(name="box"), None, None
        seen = READY

        @property
        def is_running(self) -> bool:
            self.seen, goes_on = states.pop(0) if states else self.seen, bool(states)
            return goes_on

        def start(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(background, "TICK_S", 0.0)
    monkeypatch.setattr(background, "SOON_S", 0.0)
    log, record = Log(tmp_path / "a.log"), SimpleNamespace(see=lambda _: None, remove=lambda: None)
    news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    background._keep_open(cast("Any", record), log, news, cast("Any", Plays()))
    log.close()
    said = [line[22:] for line in log.path.read_text().splitlines()[1:]]
    assert [line.split()[0] for line in said] == ["waiting", "http://127.0.0.1:8188/", "closed"], said


def test_a_log_has_times_and_is_this_users_alone(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")
    log.line("one\x1b[31m\ntwo")
    (line,) = log.last()
    assert line.split(" ", 2)[2] == "one two"
    assert log.path.stat().st_mode & 0o777 == 0o600
    log.close()


def test_a_log_stays_small_and_keeps_the_newest(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")
    for number in range(4000):
        log.line(f"{number} {'x' * 100}")
    assert log.path.stat().st_size <= MOST_LOG
    lines = log.path.read_text().splitlines()
    assert lines[-1].split()[2] == "3999"
    assert all(line[:2] == "20" for line in lines)  # none is cut
    log.close()


def test_a_log_that_vanished_comes_back_and_one_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")
    log.line("one")
    log.path.unlink()
    log.line("two")
    assert log.path.read_text().endswith("two\n")
    log.path.unlink()
    log.path.mkdir()
    log.line("three")
    log.close()
    log.line("four")
    assert log.last() == []
    full = Log(Path("/dev/full"))
    full.line("five")
    full.close()
