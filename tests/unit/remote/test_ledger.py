"""Records of open tunnels: who may be believed, what is stale, and which process is meant."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pantheon import __version__
from pantheon.errors import InventoryError, LoginRefused, NotTrusted, PantheonError, UsageError
from pantheon.inventory import Host
from pantheon.record import MOST_LINES, SIZE, Entry, Failure
from pantheon.remote import ledger
from pantheon.remote.ledger import Held, Record
from pantheon.tunnel import Seen

HOST = Host("prometheus", "10.0.0.5", "ops", 22)
READY = Seen("comfy", "prometheus", 8189, 8188, "ready", 100.0, 101.0, 2, 3.5, "ready", note="8188 is held")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def an_entry(**changes: Any) -> Entry:
    return replace(Entry(READY, os.getpid(), "ops@10.0.0.5:22", True, log="/run/x.log"), **changes)


@contextmanager
def a_record(name: str = "comfy-prometheus-1", **changes: Any) -> Iterator[Record]:
    record = Record.make(an_entry(**changes), name)
    try:
        yield record
    finally:
        record.leave()


def whole(document: object) -> bytes:
    line = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"%b\n%d\n" % (line, zlib.crc32(line))


def document(path: Path) -> Any:
    return json.loads(path.read_bytes().partition(b"\n")[0])


# ---- writing and reading


def test_what_was_written_is_read_and_is_this_users_alone(runtime: Path) -> None:
    with a_record() as record:
        path = runtime / "pantheon" / "tunnels" / "comfy-prometheus-1.json"
        (found,) = ledger.entries()
        assert found == replace(record.entry, is_open=True)
        assert (found.seen, found.path, found.version) == (READY, path, __version__)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_record_can_be_read_by_anybody_who_reads_json(runtime: Path) -> None:
    with a_record() as record:
        assert document(record.entry.path)["seen"]["port"] == 8189


def test_nobody_else_gets_a_record_that_is_held() -> None:
    with a_record(), pytest.raises(Held):
        Record.make(an_entry(), "comfy-prometheus-1")


def test_a_phase_is_written_at_once_and_the_rest_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("pantheon.remote.ledger.time.monotonic", lambda: now)
    with a_record() as record:
        path = record.entry.path
        record.see(replace(READY, latency_ms=4.0))
        record.see(replace(READY, latency_ms=5.0))
        assert document(path)["seen"]["latency_ms"] == 4.0
        record.see(replace(READY, phase="lost", state="no route"))
        assert document(path)["seen"]["state"] == "no route"
        record.see(replace(READY, phase="lost", state="refused"))
        assert document(path)["seen"]["state"] == "no route"
        now += ledger.EVERY_S
        record.see(replace(READY, phase="lost", state="refused"))
        assert document(path)["seen"]["state"] == "refused"


def test_when_a_phase_began_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 5000.0
    monkeypatch.setattr("pantheon.remote.ledger.time.time", lambda: moment)
    with a_record() as record:
        moment = 6000.0
        record.see(replace(READY, phase="lost"))
        moment = 7000.0
        record.see(replace(READY, phase="lost", state="still"))
        assert record.entry.changed == 6000.0


def test_readers_never_meet_half_a_record() -> None:
    """Both texts are long, so that a half of each would be one too."""
    ending = threading.Event()
    with a_record() as record:

        def write() -> None:
            number = 0
            while not ending.is_set():
                number += 1
                record.entry = replace(record.entry, seen=replace(READY, state=f"{number % 10}" * 500))
                record.write()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(300):
                found = ledger.read(record.entry.path)
                assert found
                assert len(set(found.seen.state)) <= 5  # "ready", or one figure 500 times
        finally:
            ending.set()
            writer.join()


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "\x1b[31m" * 5000, "\ud800" * 5000, "🙂" * 5000])
def test_texts_of_any_length_fit(text: str) -> None:
    with a_record() as record:
        record.see(replace(READY, phase="lost", state=text, mend=text, websocket=text, note=text))
        record.fail(NotTrusted(text, details=[text] * 50, next_commands=[text] * 50))
        assert record.entry.path.stat().st_size == SIZE
        found = ledger.read(record.entry.path)
        assert found
        assert found.failure
        assert found.failure.exit_code == 3
        assert len(found.failure.details) <= MOST_LINES


# ---- what goes wrong under it


def test_a_vanished_directory_is_made_again(runtime: Path) -> None:
    told: list[str] = []
    with a_record() as record:
        record.tell = told.append
        path = record.entry.path
        path.unlink()
        path.parent.rmdir()
        record.see(replace(READY, phase="lost"))
        (found,) = ledger.entries()
        assert (found.is_open, found.seen.phase, found.path) == (True, "lost", path)
        assert told == []


def test_a_runtime_directory_that_goes_and_comes_back_has_the_record_again(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    """As systemd does it when a user's last session ends: meanwhile the record lies in his home."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "user"))
    (runtime / "user").mkdir(mode=0o700)
    with a_record() as record:
        (runtime / "user").rename(runtime / "gone")
        record.see(replace(READY, phase="lost"))
        assert record.entry.path.is_relative_to(own_home)
        (runtime / "user").mkdir(mode=0o700)
        record.see(replace(READY, phase="ready"))
        (found,) = ledger.entries()
        assert (found.is_open, found.path.is_relative_to(runtime / "user")) == (True, True)
        assert [*own_home.rglob("*.json")] == []


def test_a_record_of_another_environment_is_found(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with a_record():
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert [entry.is_open for entry in ledger.entries()] == [True]


def test_what_cannot_be_written_is_said_once(runtime: Path) -> None:
    told: list[str] = []
    with a_record() as record:
        record.tell = told.append
        record.entry.path.unlink()
        record.entry.path.parent.rmdir()
        (runtime / "pantheon" / "tunnels").write_text("in the way")
        for phase in ("lost", "waiting", "ready"):
            record.see(replace(READY, phase=phase))
        (text,) = told
        assert "not on record" in text
        assert "tunnels" in text
        (runtime / "pantheon" / "tunnels").unlink()
        record.see(replace(READY, phase="lost"))
        assert [entry.seen.phase for entry in ledger.entries()] == ["lost"]


def test_a_disk_that_fills_up_later_does_not_matter() -> None:
    """Its room was taken when it was made. A limit on the sizes of files plays the full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with a_record() as record:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))
        try:
            record.see(replace(READY, phase="lost", state="x" * 500))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert ledger.entries()[0].seen.phase == "lost"


def test_a_disk_that_is_full_already_refuses_the_record(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pantheon.remote.ledger.os.pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        Record.make(an_entry(), "comfy-prometheus-1")
    assert [*(runtime / "pantheon" / "tunnels").iterdir()] == []


class Named:
    """As much of a tunnel as has a record."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.said = seen, list[str]()

    def happened(self, sign: str, text: str) -> None:
        self.said.append(f"{sign} {text}")


def test_a_terminals_tunnels_have_records_as_long_as_they_are_open() -> None:
    tunnels: list[Any] = [Named(READY), Named(replace(READY, service="ollama"))]
    with ledger.Records(HOST, tunnels, hosts_file="my hosts.toml") as records:
        records.see()
        found = {entry.seen.service: entry for entry in ledger.entries()}
        assert found.keys() == {"comfy", "ollama"}
        assert found["comfy"].label == "ops@10.0.0.5:22"
        assert (found["comfy"].background, found["comfy"].hosts_file) == (False, str(Path("my hosts.toml").absolute()))
        tunnels[0].seen = replace(READY, phase="ended")
        records.see()
        records.see()
        assert [entry.seen.service for entry in ledger.entries()] == ["ollama"]
    assert ledger.entries() == []


def test_a_terminals_tunnel_without_a_record_goes_on(runtime: Path) -> None:
    (runtime / "pantheon").write_text("in the way")
    tunnels: list[Any] = [Named(READY)]
    with ledger.Records(HOST, tunnels) as records:
        records.see()
        assert ledger.entries() == []
    assert [text[:15] for text in tunnels[0].said] == ["! not on record"]


# ---- stale


def test_a_stale_record_is_removed_and_one_of_the_background_is_said_once() -> None:
    with a_record("one"):
        pass
    with a_record("two", background=False):
        pass
    assert len([*ledger.folder().iterdir()]) == 2
    (kept,) = ledger.entries(keep=True)
    (found,) = ledger.entries()
    assert kept == found
    assert found.failure
    assert "killed" in found.failure.error
    assert ledger.entries() == []
    assert [*ledger.folder().iterdir()] == []


def test_a_reason_is_kept_until_it_is_forgotten() -> None:
    with a_record() as record:
        record.fail(NotTrusted("its host key has changed", details=["shown now: x"], next_commands=["invoke trust"]))
    for _ in range(2):
        (found,) = ledger.entries()
    assert not found.is_open
    assert found.failure == Failure(
        "NotTrusted", "its host key has changed", ("shown now: x",), ("invoke trust",), exit_code=3
    )
    assert found.seen.phase == "ended"
    ledger.forget(found)
    assert ledger.entries() == []


def test_a_reason_is_gone_when_the_tunnel_is_opened_again() -> None:
    with a_record() as record:
        record.fail(NotTrusted("its host key has changed"))
    with a_record():
        assert [(entry.is_open, entry.failure) for entry in ledger.entries()] == [(True, None)]


def test_what_is_open_is_not_forgotten() -> None:
    with a_record() as record:
        ledger.forget(record.entry)
        assert len(ledger.entries()) == 1


@pytest.mark.parametrize("problem", [NotTrusted("a"), LoginRefused("b"), UsageError("c"), PantheonError("d")])
def test_a_reason_comes_back_as_the_error_it_was(problem: PantheonError) -> None:
    problem.details, problem.next_commands = ("why",), ("invoke trust",)
    again = Failure.of(problem).as_error()
    assert (type(again), vars(again)) == (type(problem), vars(problem) | {"exit_code": problem.exit_code})


def test_an_error_that_is_made_otherwise_comes_back_as_one_with_its_words() -> None:
    again = Failure.of(InventoryError("hosts.toml", ["a", "b"])).as_error()
    assert (again.message, again.details, again.exit_code) == ("hosts.toml: 2 problems", ("a", "b"), 1)
    assert type(Failure("Path", "x").as_error()) is PantheonError
    assert type(Failure("__builtins__", "x").as_error()) is PantheonError


# ---- hostile content


def good() -> dict[str, Any]:
    seen = {"service": "comfy", "host": "prometheus", "port": 8188, "phase": "ready"}
    return {"seen": seen, "pid": 4711, "label": "ops@10.0.0.5", "background": True}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no table": lambda _: [1, 2],
    "no seen": lambda given: given.pop("seen"),
    "a seen of another kind": lambda given: given.update(seen="ready"),
    "no service": lambda given: given["seen"].pop("service"),
    "another service": lambda given: given["seen"].update(service="--yes"),
    "a service that is no text": lambda given: given["seen"].update(service=["comfy"]),
    "a host that is a command": lambda given: given["seen"].update(host="x; rm -rf ~"),
    "a host that is an option": lambda given: given["seen"].update(host="-x"),
    "a port beyond ports": lambda given: given["seen"].update(port=70000),
    "a port that is true": lambda given: given["seen"].update(port=True),
    "a port below 0": lambda given: given["seen"].update(port=-1),
    "another phase": lambda given: given["seen"].update(phase="fine"),
    "a phase that is a list": lambda given: given["seen"].update(phase=[]),
    "a time that is none": lambda given: given["seen"].update(since=float("nan")),
    "a time without an end": lambda given: given["seen"].update(opened=float("inf")),
    "a time far away": lambda given: given["seen"].update(opened=1e300),
    "a latency of another kind": lambda given: given["seen"].update(latency_ms="3"),
    "a state of another kind": lambda given: given["seen"].update(state={"a": 1}),
    "a state too long": lambda given: given["seen"].update(state="x" * 5000),
    "no pid": lambda given: given.pop("pid"),
    "everybody's pid": lambda given: given.update(pid=-1),
    "our group's pid": lambda given: given.update(pid=0),
    "init's pid": lambda given: given.update(pid=1),
    "a pid beyond pids": lambda given: given.update(pid=2**40),
    "a background of another kind": lambda given: given.update(background="yes"),
    "a log of another kind": lambda given: given.update(log=3),
    "a failure of another kind": lambda given: given.update(failure="x"),
    "a failure with another code": lambda given: given.update(failure={"kind": "a", "error": "b", "exit_code": 0}),
    "a failure without words": lambda given: given.update(failure={"exit_code": 1}),
    "a failure's details of another kind": lambda given: given.update(
        failure={"kind": "a", "error": "b", "details": "c", "exit_code": 1}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_with_a_value_that_none_of_ours_has_is_none(name: str, runtime: Path) -> None:
    given = good()
    changed = HOSTILE[name](given)
    path = ledger.folder() / "x.json"
    path.write_bytes(whole(changed if name == "no table" else given))
    path.chmod(0o600)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert ledger.entries() == []
        assert path.exists()  # somebody has it
    assert ledger.entries() == []
    assert not path.exists()


def test_the_same_without_it_is_one() -> None:
    path = ledger.folder() / "x.json"
    path.write_bytes(whole(good() | {"of a later version": 1}))
    path.chmod(0o600)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [entry.pid for entry in ledger.entries()] == [4711]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        whole(b"{"),
        whole(b"[" * 16000),
        whole(b'{"seen": ' * 1700),
        whole(b'{"pid": ' + b"9" * 15000 + b"}"),
        json.dumps(good()).encode(),
        json.dumps(good()).encode() + b"\n0\n",
        b"x" * 5_000_000,
    ],
    ids=["empty", "a line", "no text", "no JSON", "deep", "deep and cut", "a number", "no sum", "another sum", "huge"],
)
def test_content_that_is_no_record_is_swept(content: bytes) -> None:
    path = ledger.folder() / "x.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert ledger.entries() == []
    assert not path.exists()


def test_a_link_is_not_followed_nor_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(whole(good()))
    target.chmod(0o600)
    path = ledger.folder() / "x.json"
    path.symlink_to(target)
    assert ledger.entries() == []
    assert path.is_symlink()
    assert target.exists()
    with pytest.raises(OSError, match=r"x\.json"):
        Record.make(an_entry(), "x")
    path.unlink()
    path.hardlink_to(target)
    assert ledger.entries() == []
    assert path.exists()
    with pytest.raises(PermissionError):
        Record.make(an_entry(), "x")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a directory", "a pipe"])
def test_what_is_no_file_is_left_alone(make: Callable[[Path], None]) -> None:
    path = ledger.folder() / "x.json"
    make(path)
    assert ledger.entries() == []
    assert path.exists()


def test_a_file_that_others_can_write_is_left_alone() -> None:
    path = ledger.folder() / "x.json"
    path.write_bytes(whole(good()))
    path.chmod(0o666)
    assert ledger.entries() == []
    assert path.exists()


def test_a_folder_that_others_can_write_is_not_used() -> None:
    folder = ledger.folder()
    with a_record():
        folder.chmod(0o777)
        assert ledger.entries() == []
        with pytest.raises(PermissionError, match="alone"):
            ledger.folder()
        folder.chmod(0o700)


def test_a_folder_elsewhere_is_not_used(tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime / "pantheon").mkdir(mode=0o700)
    (runtime / "pantheon" / "tunnels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="alone"):
        ledger.folder()
    assert ledger.entries() == []


# ---- the process behind it

HOLDS = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def forged(pid: int) -> Path:
    path = ledger.folder() / "comfy-prometheus-2.json"
    path.write_bytes(whole(good() | {"pid": pid}))
    path.chmod(0o600)
    return path


def test_the_process_that_holds_a_record_gets_the_signal() -> None:
    path = forged(4711)
    with holder(path) as process:
        path = forged(process.pid)
        (entry,) = ledger.entries()
        assert ledger.send(entry, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert ledger.wait_free(entry, 5)
        assert not ledger.send(entry, signal.SIGTERM)


@LINUX
def test_a_process_that_does_not_hold_it_never_gets_one() -> None:
    """A record that somebody else holds, with the pid of a process that has nothing to do with it."""
    with bystander() as other:
        path = forged(other.pid)
        with holder(path):
            (entry,) = ledger.entries()
            assert entry.is_open
            assert not ledger.send(entry, signal.SIGTERM)
        assert other.poll() is None


def test_a_pid_that_is_used_again_never_gets_one() -> None:
    with bystander() as other:
        path = forged(other.pid)
        entry = ledger.read(path)
        assert entry
        assert not entry.is_open
        assert not ledger.send(entry, signal.SIGTERM)
        assert not ledger.send(replace(entry, is_open=True), signal.SIGTERM)
        assert other.poll() is None


def test_one_that_has_another_pid_by_now_is_not_meant() -> None:
    with holder(forged(4711)) as process:
        forged(process.pid)
        (entry,) = ledger.entries()
        assert not ledger.send(replace(entry, pid=os.getpid()), signal.SIGTERM)
        assert process.poll() is None


def test_a_program_that_is_started_meanwhile_does_not_get_the_lock() -> None:
    """ssh would keep a record open that its tunnel no longer has."""
    with a_record() as record:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
        record.leave()
        try:
            assert ledger.wait_free(record.entry, 5)
        finally:
            process.kill()
            process.wait()


def test_a_record_is_handed_to_the_process_that_is_started_for_it() -> None:
    record = Record.make(an_entry(), "comfy-prometheus-1")
    program = """
import sys
from pathlib import Path
from dataclasses import replace
from pantheon.remote.ledger import Record
record = Record.taken_over(Path(sys.argv[1]), int(sys.argv[2]))
record.see(replace(record.entry.seen, state="taken over"))
print("there", flush=True)
sys.stdin.read()
record.remove()
"""
    argv = [sys.executable, "-c", program, str(record.entry.path), str(record.fd)]
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(record.fd,), text=True
    )
    record.hand_over(process.pid)
    assert process.stdout
    assert process.stdout.readline() == "there\n"
    (entry,) = ledger.entries()
    assert (entry.is_open, entry.pid, entry.seen.state) == (True, process.pid, "taken over")
    assert not ledger.wait_free(entry, 0.1)
    process.communicate("")
    assert ledger.wait_free(entry, 5)
    assert ledger.entries() == []


# ---- names


def test_the_same_tunnel_has_the_same_name_and_no_other() -> None:
    one = ledger.stem(HOST, "comfy")
    others = [
        ledger.stem(HOST, "ollama"),
        ledger.stem(HOST, "comfy", asked=9000),
        ledger.stem(replace(HOST, address="10.0.0.6"), "comfy"),
        ledger.stem(replace(HOST, name="p2"), "comfy"),
    ]
    assert one == ledger.stem(replace(HOST), "comfy")
    assert one not in others
    assert len({one, *others}) == 5
    assert len(ledger.stem(replace(HOST, name="h" * 4000), "comfy")) < 100


@pytest.mark.parametrize(
    ("host", "text"),
    [(HOST, "ops@10.0.0.5:22"), (Host("a", "a.example"), "a.example"), (Host("a", "::1", "root"), "root@::1")],
)
def test_a_label_says_where_the_host_is(host: Host, text: str) -> None:
    assert ledger.label(host) == text
