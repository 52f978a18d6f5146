"""A run that holds the lock is ended by another, for real: processes of their own on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pantheon import ending, plan
from pantheon.collecting import holder
from pantheon.looks import system
from pantheon.plan import EndRun
from tests.unit.test_runner import CHANGED, Apply, Start, kinds, out, sh, start, until, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it runs on hosts, and hosts are Linux")
_ = start  # the fixture

# Holds the lock as a run would that does not hear a SIGTERM, with a step below it.
DEAF = """
import fcntl, json, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
json.dump({"run": "r0", "who": "ana@laptop", "what": "bringup", "since": "2026-11-21T22:00:00Z"}, lock)
lock.flush()
step = subprocess.Popen(["sleep", "61"], start_new_session=True)
print(step.pid, flush=True)
signal.pause()
signal.pause()
"""


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(tmp_path / "run/lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    step = int(process.stdout.readline())
    yield process, step
    process.kill()
    process.wait()
    process.stdout.close()
    if holder.process("", step):
        os.kill(step, signal.SIGKILL)


def started(pid: int) -> str:
    found = holder.process("", pid)
    assert found
    return found.started


def end_of(pid: int, run: str = "r1", *, began: str = "") -> EndRun:
    return EndRun(pid, began or started(pid), run)


def test_a_stopped_run_is_ended_and_the_work_goes_on(start: Start, tmp_path: Path) -> None:
    first = start(sh("sleep 62"))
    first.frame("step")
    until(lambda: holder.doing("", holder.processes(""), holder.Process(first.process.pid, "", "S", 1, 1, "")))
    step = next(one for one in holder.processes("").values() if one.parent == first.process.pid)
    first.process.send_signal(signal.SIGSTOP)
    made = tmp_path / "made"
    second = start(end_of(first.process.pid), write(made, "x"), run="r2", who="bo@desk")
    status, frames = second.end()
    assert status == 0, frames
    assert kinds(frames) == ["step", "done", "step", "done", "end"]
    assert made.read_text() == "x"
    assert first.process.wait(5) == 130
    assert holder.process("", step.pid) is None
    runs = [(run["run"], run["result"], run.get("by")) for run in second.log("history")]
    assert runs == [("r1", "interrupted", None), ("r1", "ended", "bo@desk"), ("r2", "done", None)]
    assert second.log("commands")[1]["step"]["end_run"]["pid"] == first.process.pid
    assert (tmp_path / "run/lock").read_text() == ""


def test_one_that_does_not_hear_is_killed_with_its_step(
    start: Start, tmp_path: Path, deaf: tuple[subprocess.Popen[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "END_S", 0.3)
    process, step = deaf
    status, frames = start(end_of(process.pid, "r0"), who="bo@desk").end()
    assert status == 0, frames
    assert any("killing it" in line for line in out(frames))
    assert process.wait(5) == -signal.SIGKILL
    until(lambda: holder.process("", step) is None)
    log = [json.loads(line) for line in (tmp_path / "log/history.jsonl").read_text().splitlines()]
    assert log[0] == {
        **dict.fromkeys(("version", "plan", "steps", "services")),
        "run": "r0",
        "who": "ana@laptop",
        "what": "bringup",
        "when": "2026-11-21T22:00:00Z",
        "result": "ended",
        "by": "bo@desk",
    }


# As sudo does: it stops when what it runs is stopped, and goes on when it is told to.
SUDO = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
while True:
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_the_sudo_above_it_does_not_stay(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "END_S", 0.3)
    (tmp_path / "run").mkdir()
    argv = [sys.executable, "-c", SUDO, DEAF, str(tmp_path / "run/lock")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sudo:
        try:
            assert sudo.stdout
            runner, step = sorted(int(sudo.stdout.readline()) for _ in range(2))
            os.kill(runner, signal.SIGSTOP)
            until(lambda: getattr(holder.process("", sudo.pid), "state", "") == "T")
            status, frames = start(end_of(runner, "r0"), who="bo@desk").end()
            assert status == 0, frames
            assert sudo.wait(5) == 0
            assert holder.process("", step) is None
        finally:
            sudo.kill()


@pytest.mark.parametrize("wrong", ["started", "run", "pid"])
def test_another_than_the_one_that_was_shown_is_left_alone(
    start: Start, tmp_path: Path, deaf: tuple[subprocess.Popen[str], int], wrong: str
) -> None:
    process, _ = deaf
    step = {
        "started": end_of(process.pid, "r0", began="1"),
        "run": end_of(process.pid, "other"),
        "pid": end_of(os.getpid(), "r0"),
    }[wrong]
    status, frames = start(step).end()
    assert status == CHANGED
    assert kinds(frames) == ["step", "changed"]
    assert f"held by process {process.pid}, bringup of ana@laptop" in frames[-1]["now"]
    assert process.poll() is None


def test_one_that_has_ended_by_itself(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").write_text("")
    made = tmp_path / "made"
    apply = start(EndRun(2**22 - 1, "1", "r0"), write(made, "x"))
    status, _ = apply.end()
    assert status == 0
    assert made.exists()
    assert [run["result"] for run in apply.log("history")] == ["done"]


def test_one_that_cannot_be_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the kernel: no signal reaches it."""
    monkeypatch.setattr(system, "LOCK_FILE", "/none")
    monkeypatch.setattr(system, "lock_held", lambda root: (os.getpid(), '{"run": "r0"}'))
    monkeypatch.setattr(ending, "_signal", lambda *_: None)
    monkeypatch.setattr(ending, "KILLED_S", 0.1)
    about = {"pid": os.getpid(), "started": started(os.getpid()), "run": "r0", "patience_s": 0.1}
    with pytest.raises(ending.Stuck) as stuck:
        ending.end_run(about, lambda _: None)
    assert "does not end, even by SIGKILL" in stuck.value.args[0]
    assert "sudo reboot" in stuck.value.args[1]
    del tmp_path


def test_a_run_says_since_when_its_client_is_gone(start: Start, tmp_path: Path) -> None:
    apply: Apply = start(sh("trap '' TERM; echo on; while :; do sleep 0.1; done"), settings={"GRACE_S": 1.5})
    apply.frame("out")
    apply.hang_up()
    lock = tmp_path / "run/lock"
    until(lambda: '"gone": "20' in lock.read_text())
    status, _ = apply.end()
    assert status == 130
    assert lock.read_text() == ""
