"""An apply that is cut short leaves a host from which the next run simply goes on.

Seeded moments, spread over the apply: by its steps and by its time, on a fresh host and in the middle of a recreate of
all three services, by kill -9 of the client and by a link that goes dead. `PANTHEON_CUTS=60` draws more of them than
the gate does.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, SERVICES, Running, World, until

from lab import faults

pytestmark = pytest.mark.lab
SPREAD = True  # over the workers: each test makes what it needs

CUTS = int(os.environ.get("PANTHEON_CUTS", "20"))
GONE_S = 30  # after which nothing of the run may be left on the host (issue 2, section 6)

# What is left of a run: a process, the lock, a container that Compose had not named yet.
RUNNING = r"""
pgrep -af 'dict[(]frame=|[d]ocker-compose|[d]ocker compose' || true
if [ -e /run/pantheon/lock ]; then flock -n /run/pantheon/lock true || echo "locked: $(cat /run/pantheon/lock)"; fi
"""
LEFT = (
    RUNNING
    + r"""
docker ps -a --format '{{.Names}} ({{.State}})' | grep -E '^[0-9a-f]{12}_' || true
"""
)


@dataclass(frozen=True)
class Moment:
    """When and how: `share` of the way through, counted in steps or in time, and `delay_s` after that."""

    seed: int
    host: str  # fresh, recreate
    by: str  # kill, blackhole
    counted: str  # steps, time
    share: float
    delay_s: float

    def __str__(self) -> str:
        return f"{self.host}-{self.by}-{self.seed}"


def moments(count: int) -> list[Moment]:
    """Half on each kind of host, half by each kind of cut, in each of the four half by steps and half by time."""
    drawn = []
    for seed in range(count):
        rng = random.Random(seed)
        pair, kind = divmod(seed, 4)
        host, by = ("fresh", "recreate")[kind % 2], ("kill", "blackhole")[kind // 2]
        counted = "steps" if pair % 2 else "time"
        drawn.append(Moment(seed, host, by, counted, rng.random(), rng.uniform(0, 0.8) if counted == "steps" else 0.0))
    return drawn


# Steps of the apply and seconds that it takes, until this worker has seen one to its end.
SEEN = {"fresh": (24, 5.0), "recreate": (4, 4.0)}


class Cut:
    """A bring-up under way whose frames are read from its journal as they come."""

    def __init__(self, world: World, running: Running, before: set[Path]) -> None:
        self.world, self.running, self.before = world, running, before

    def journal(self) -> str:
        files = set(self.world.logs.glob("logs/*.log")) - self.before
        return files.pop().read_text() if files else ""

    def has(self, text: str) -> bool:
        return text in self.journal() or self.running.process.poll() is not None

    def wait_for(self, moment: Moment) -> None:
        steps, seconds = SEEN[moment.host]
        index = int(moment.share * steps) if moment.counted == "steps" else 0
        until(lambda: self.has(f'"step", "index": {index}') or self.has('"frame": "end"'), 60, f"step {index}")
        time.sleep(moment.delay_s if moment.counted == "steps" else moment.share * seconds)

    def where(self) -> str:
        """For the record: how far the apply had come."""
        steps = [line for line in self.journal().splitlines() if '"frame": "step"' in line]
        ended = '"frame": "end"' in self.journal()
        return "the apply had ended" if ended else steps[-1].partition(" ")[2] if steps else "nothing was begun"


def prepare(world: World, moment: Moment) -> None:
    """A fresh host, or one that is up and whose inventory has changed so that all three are made again. What a test
    here leaves is good enough for the next recreate: it asks for another change."""
    if moment.host == "fresh":
        world.make("fresh")
    elif world.state != "up but changed":
        world.make("up")
    world.state = "dirty"
    changes: dict[str, Any] = {}
    if moment.host == "recreate":
        changes = {name: {"env": {"CUT": f"{moment.seed}-{time.time()}"}} for name in SERVICES}
    if moment.by == "blackhole":
        # Over the container's own address: the outer engine's proxy would answer for a link that is dead.
        world.lab.trust(world.directory / "known_hosts", direct=True)
        changes |= {"address": world.lab.address, "port": 22}
    world.inventory(**changes)


def left(world: World) -> str:
    return str(world.sh(LEFT))


def nothing_left(world: World, since: float) -> float:
    """Wait until nothing of the run is left on the host. Returns how long it took; fails after GONE_S."""
    there = [""]

    def is_tidy() -> bool:
        there[0] = left(world)
        return not there[0]

    try:
        until(is_tidy, GONE_S - (time.monotonic() - since))
    except AssertionError:
        what = world.sh("ps axo pid,ppid,stat,etimes,wchan:24,args --forest | grep -v '[]]$' | cut -c1-160")
        raise AssertionError(f"after {GONE_S} s there is still: {there[0]}\n{what}") from None
    return time.monotonic() - since


def goes_on(world: World) -> None:
    """The same command again ends well, and after it there is nothing to do."""
    again = world.invoke("bringup", "--yes", timeout=120)
    assert again.code == 0, again
    assert "200 here" in again.all or "nothing to do" in again.all, again
    after = world.invoke("bringup", "--plan")
    assert after.code == 0, after
    assert not left(world)
    assert sorted(world.ids()) == sorted(SERVICES)


def cut_short(world: World, by: Callable[[Running], None], moment: Moment) -> None:
    before = set(world.logs.glob("logs/*.log"))
    with world.running("bringup", "--yes") as running:
        cut = Cut(world, running, before)
        cut.wait_for(moment)
        where = cut.where()
        assert "step" in where or "ended" in where, running.end()
        by(running)
        at = time.monotonic()
        took = nothing_left(world, at)
        print(f"cut {moment}: {where}; the host was tidy after {took:.1f} s")


@pytest.fixture
def host(world: World) -> Iterator[World]:
    """The worker's lab, in the state in which the last test left it."""
    yield world
    faults.heal(world.lab)


@pytest.mark.parametrize("moment", moments(CUTS), ids=str)
def test_cut(host: World, moment: Moment) -> None:
    prepare(host, moment)

    def kill(running: Running) -> None:
        running.process.kill()

    def blackhole(_: Running) -> None:
        faults.start_blackhole(host.lab)

    cut_short(host, kill if moment.by == "kill" else blackhole, moment)
    faults.heal(host.lab)
    goes_on(host)
    runs = host.sh("tail -n 2 /var/log/pantheon/history.jsonl").splitlines()
    assert runs, "every run is on record"
    host.state = "up but changed" if moment.host == "recreate" or moment.by == "blackhole" else "up"


class TestDeadLink:
    """Work that goes on for longer than the link is dead: only the silence ends it."""

    def test_an_engine_that_hangs(self, host: World) -> None:
        moment = Moment(200, "fresh", "blackhole", "steps", 0, 0)
        prepare(host, moment)
        before = set(host.logs.glob("logs/*.log"))
        try:
            with host.running("bringup", "--yes") as running:
                cut = Cut(host, running, before)
                until(lambda: host.sh("pgrep -f '[d]ocker-compose .* pull' || true"), 60, "a pull")
                host.sh("systemctl kill --kill-whom=main -s STOP docker.service")
                faults.start_blackhole(host.lab)
                at = time.monotonic()
                ended = running.end(30)
                assert ended.code == 3, ended
                assert "connection was lost" in ended.all
                until(lambda: not host.sh(RUNNING), GONE_S - (time.monotonic() - at), "no process, no lock")
                took = time.monotonic() - at
                assert '"end"' not in cut.journal()
        finally:
            host.sh("systemctl kill --kill-whom=main -s CONT docker.service")
        assert took > 10, "the silence ended it, and nothing else"
        assert '"interrupted"' in host.sh("tail -n 1 /var/log/pantheon/history.jsonl")
        faults.heal(host.lab)
        goes_on(host)
        host.state = "up but changed"

    def test_a_first_run_that_is_watched(self, host: World) -> None:
        prepare(host, Moment(201, "fresh", "blackhole", "steps", 0, 0))
        host.lab.set_stand_in(**{**QUICK, "comfy_step_seconds": 4})
        with host.running("bringup", "--yes") as running:
            running.wait_for("· comfy      4/9")
            faults.start_blackhole(host.lab)
            at = time.monotonic()
            assert running.end(30).code == 3
            nothing_left(host, at)
        host.lab.set_stand_in(**QUICK)
        faults.heal(host.lab)
        goes_on(host)
        host.state = "up but changed"


class TestOtherEnds:
    """What else can happen to a run, in the middle of recreating all three."""

    def begun(self, host: World, running: Running, before: set[Path]) -> None:
        cut = Cut(host, running, before)
        until(lambda: cut.has('"frame": "out"'), 60, "the first service is being recreated")

    def test_ctrl_c(self, host: World) -> None:
        prepare(host, Moment(100, "recreate", "kill", "steps", 0, 0))
        before = set(host.logs.glob("logs/*.log"))
        with host.running("bringup", "--yes") as running:
            self.begun(host, running, before)
            running.signal(signal.SIGINT)
            at = time.monotonic()
            ended = running.end(15)
        assert ended.code == 130, ended
        assert "Traceback" not in ended.all
        nothing_left(host, at)
        goes_on(host)
        host.state = "up but changed"

    def test_the_same_command_right_after_ctrl_c(self, host: World) -> None:
        """It does not hear that somebody else, the run that is just being ended, holds the lock."""
        prepare(host, Moment(101, "recreate", "kill", "steps", 0, 0))
        before = set(host.logs.glob("logs/*.log"))
        with host.running("bringup", "--yes") as running:
            self.begun(host, running, before)
            running.signal(signal.SIGINT)
            running.end(15)
        again = host.invoke("bringup", "--yes", timeout=120)
        assert "is being changed by" not in again.all, again
        goes_on(host)
        host.state = "up but changed"

    def test_kill_9_of_the_runner_on_the_host(self, host: World) -> None:
        prepare(host, Moment(102, "recreate", "kill", "steps", 0, 0))
        before = set(host.logs.glob("logs/*.log"))
        with host.running("bringup", "--yes") as running:
            self.begun(host, running, before)
            host.sh("pkill -9 -f '^python3 .*dict[(]frame='")
            at = time.monotonic()
            ended = running.end(30)
        assert ended.code == 1, ended
        assert "Traceback" not in ended.all
        # Its lock goes with it. A container that Compose had not named yet is found by the next run.
        until(lambda: not [line for line in left(host).splitlines() if "_" not in line], GONE_S, "no process, no lock")
        assert time.monotonic() - at < GONE_S
        goes_on(host)
        assert '"died"' in host.sh("cat /var/log/pantheon/history.jsonl")
        host.state = "up but changed"

    def test_a_reboot_in_the_middle(self, host: World) -> None:
        prepare(host, Moment(103, "recreate", "kill", "steps", 0, 0))
        before = set(host.logs.glob("logs/*.log"))
        with host.running("bringup", "--yes") as running:
            self.begun(host, running, before)
            host.lab.reboot()
            ended = running.end(60)
        assert ended.code in (1, 3), ended
        assert "Traceback" not in ended.all
        goes_on(host)
        host.state = "up but changed"
