"""One process that carries bytes: shell scripts stand for ssh, and are killed, stopped, deaf and survived for real."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pantheon.errors import NotReached
from pantheon.remote import carrier
from pantheon.remote.carrier import Carrier

LISTENS = "echo listening; exec sleep 1000"
PROCESS_FILES = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def sh(script: str, **given: Any) -> Carrier:
    return Carrier(["/bin/sh", "-c", script], **given)


def until(question: Callable[[], Any], deadline_s: float = 10) -> Any:
    end = time.monotonic() + deadline_s
    while not (answer := question()):
        assert time.monotonic() < end, question
        time.sleep(0.01)
    return answer


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def pid_in(file: Path) -> int:
    return int(until(lambda: file.exists() and file.read_text().strip()))


def test_it_listens_speaks_and_ends() -> None:
    heard = threading.Event()
    made = sh("echo before >&2; echo listening; echo 'Timeout, server box not responding.' >&2", heard=heard.set)
    assert made.listening.wait(10)
    assert made.ended.wait(10)
    assert heard.is_set()
    assert made.said()[-1] == "Timeout, server box not responding."
    assert not made.is_alive()


def test_what_it_said_before_it_listened_says_nothing_of_its_end() -> None:
    made = sh("echo 'Permission denied, says the banner' >&2; sleep 0.1; echo listening; sleep 0.1; echo end >&2")
    assert made.ended.wait(10)
    assert made.said() == ["end"]


def test_a_client_that_was_turned_away_is_heard_of_and_not_kept() -> None:
    line = "channel 2: open failed: administratively prohibited: open failed"
    heard = threading.Event()
    made = sh(f"echo listening; sleep 0.1; echo {shlex.quote(line)} >&2; exec sleep 1000", heard=heard.set)
    until(lambda: made.refusal)
    assert (made.refusal, made.said()) == ("forbidden", [])
    made.stop()


def test_its_words_are_few_and_harmless() -> None:
    script = (
        "yes word | head -2000 >&2; head -c 300000 /dev/zero | tr '\\0' x >&2; printf '\\n\\033[2Jlast\\007\\n' >&2"
    )
    made = sh(script)
    assert made.ended.wait(20)
    assert len(made.said()) == carrier.MOST_LINES
    assert max(map(len, made.said())) < 3000
    assert made.said()[-1] == "last"


def test_an_end_without_a_newline_is_heard() -> None:
    made = sh("printf 'last words' >&2")
    assert made.ended.wait(10)
    assert made.said() == ["last words"]


@PROCESS_FILES
def test_what_it_has_started_goes_with_it(tmp_path: Path) -> None:
    began = sh(f"sleep 1000 & echo $! >{tmp_path}/pid; {LISTENS}")
    assert began.listening.wait(10)
    child = pid_in(tmp_path / "pid")
    before = time.monotonic()
    began.stop()
    assert time.monotonic() - before < 5
    assert not lives(began.pid)
    until(lambda: not lives(child))


@PROCESS_FILES
def test_what_it_leaves_when_it_dies_goes_too(tmp_path: Path) -> None:
    deaf = "trap '' TERM HUP; while :; do sleep 0.1; done"
    made = sh(f"({deaf}) & echo $! >{tmp_path}/pid; exit 255")
    assert made.ended.wait(10)
    deaf_one = pid_in(tmp_path / "pid")
    until(lambda: not lives(deaf_one))


@PROCESS_FILES
def test_one_that_has_gone_its_own_way_does_not_hide_the_end(tmp_path: Path) -> None:
    """A ProxyCommand may leave a daemon behind that holds ssh's stderr."""
    made = sh(f"setsid sleep 1000 & echo $! >{tmp_path}/pid; sleep 0.1; exit 255")
    assert made.ended.wait(10)
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)


@pytest.mark.parametrize("how", ["deaf", "stopped", "at once"])
def test_it_is_gone_whatever_its_state(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "END_S", 0.3)
    made = sh("trap '' TERM; echo listening; while :; do sleep 0.1; done" if how == "deaf" else LISTENS)
    assert made.listening.wait(10)
    if how == "stopped":
        os.kill(made.pid, signal.SIGSTOP)
        until(made.stands_still)
    began = time.monotonic()
    made.stop({"at once": 0.0, "deaf": 0.3, "stopped": 8.0}[how])
    assert time.monotonic() - began < 4, "it is woken, to end in order"
    assert made.ended.is_set()
    made.stop()


@PROCESS_FILES
def test_one_that_hangs_makes_no_turns() -> None:
    made = sh("echo listening; while :; do sleep 0.01; done")
    assert made.listening.wait(10)
    assert not made.stands_still()
    first = made.turns()
    until(lambda: made.turns() != first)
    os.kill(made.pid, signal.SIGSTOP)
    until(made.stands_still)
    assert made.turns() == made.turns()
    made.stop()
    assert made.turns() is None


def test_without_openssh() -> None:
    with pytest.raises(NotReached, match="ssh is not installed here"):
        Carrier(["/nowhere/ssh"])


def test_one_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text("not executable")
    with pytest.raises(NotReached, match="ssh cannot be started"):
        Carrier([str(tmp_path / "ssh")])


@pytest.mark.parametrize("watchdog", [False, True])
def test_hundreds_leave_nothing_behind(watchdog: bool) -> None:
    def things() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").glob("*"))), threading.active_count()

    def one(number: int) -> None:
        made = sh("echo listening" if number % 2 else LISTENS, watchdog=watchdog)
        assert made.listening.wait(10)
        made.stop()
        assert made.ended.wait(10)

    one(0)
    until(lambda: threading.active_count() == 1 or "pantheon-ssh" not in {t.name for t in threading.enumerate()})
    before = things()
    for number in range(60):
        one(number)
    until(lambda: things() <= before)


# ---- the end of whoever started it

PARENT = """import sys, time
from pantheon.remote import carrier
carrier.HAS_DEATH_SIGNAL &= "death signal" in sys.argv[2]
argv = [sys.executable, "-I", "-S", "-c", sys.argv[1]]
made = carrier.Carrier(argv, watchdog="watchdog" in sys.argv[2])
made.listening.wait(10)
print(made.pid, made._watchdog.pid if made._watchdog else 0, flush=True)
time.sleep(1000)
"""
LISTENER = """import socket, time
held = socket.create_server(("127.0.0.1", 0))
print("listening", flush=True)
time.sleep(1000)
"""
# With a ProxyCommand that does not mind the end of its stdin.
STARTS_ANOTHER = """import subprocess
way = subprocess.Popen(["sleep", "1000"])
print("listening", flush=True)
way.wait()
"""


def group(leader: int) -> list[int]:
    """The processes of that group which live."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number, *_ = file.read_text().rpartition(")")[2].split()
            found += [int(file.parent.name)] if int(number) == leader and state not in "ZX" else []
    return found


@PROCESS_FILES
@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("by", ["death signal", "watchdog", "death signal and watchdog"])
def test_kill_9_of_its_parent_leaves_nothing(by: str, state: str) -> None:
    if "death signal" in by and not carrier.HAS_DEATH_SIGNAL:
        pytest.skip("this system has none")
    program = LISTENER if by == "death signal" else STARTS_ANOTHER
    parent = subprocess.Popen([sys.executable, "-c", PARENT, program, by], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout
    made, guard = (int(word) for word in parent.stdout.readline().split())
    assert len(group(made)) == (1 if program == LISTENER else 2)
    assert bool(guard) == ("watchdog" in by)
    if state == "stopped":
        os.killpg(made, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not group(made))
    until(lambda: not guard or not lives(guard))


@PROCESS_FILES
def test_a_parent_that_was_gone_before_is_noticed() -> None:
    if not carrier.HAS_DEATH_SIGNAL:
        pytest.skip("this system has none")
    program = "import os; from pantheon.remote.carrier import _die_with_parent as die; die({}); os._exit(7)"
    for parent, code in (("os.getppid()", 7), ("1 << 22", 1)):
        assert subprocess.run([sys.executable, "-c", program.format(parent)], check=False).returncode == code


@PROCESS_FILES
def test_a_watchdog_goes_with_what_it_guards() -> None:
    made = sh(LISTENS, watchdog=True)
    assert made.listening.wait(10)
    assert made._watchdog
    guard = made._watchdog.pid
    assert lives(guard)
    made.stop()
    assert not lives(guard)


def test_with_a_session_its_stdin_is_open_until_it_ends() -> None:
    made = sh("echo listening; exec cat", session=True)
    assert made.listening.wait(10)
    assert not made.ended.wait(0.2)
    made.stop()
    assert made.process.stdin
    assert made.process.stdin.closed
    assert not made.has_lost_its_session()  # we ended it


@pytest.mark.parametrize(
    ("end", "session", "lost"),
    [
        ("exit 1", True, True),  # a shell that lets nobody in, a forced command
        ("exit 0", True, True),
        ("echo 'channel 2: open failed: connect failed: open failed' >&2; exit 255", True, True),  # MaxSessions
        ("echo 'exec request failed on channel 2' >&2; exit 255", True, True),  # no process can be started there
        ("echo 'Connection to box closed by remote host.' >&2; exit 255", True, False),
        ("echo 'channel 3: open failed: connect failed: Connection refused' >&2; exit 255", True, False),
        ("kill -9 $$", True, False),
        ("exit 1", False, False),
    ],
)
def test_a_session_that_ended_is_told_from_a_lost_link(end: str, session: bool, lost: bool) -> None:
    made = sh(f"echo listening; {end}", session=session)
    assert made.ended.wait(10)
    assert made.has_lost_its_session() is lost
