"""Lab hosts for the tests: one for each xdist worker, in one of two states, kept as long as tests leave them so.

- `fresh`      a host as `lab.reset` leaves it, to do with as the test likes
- `untouched`  the same, for a test that leaves no trace: the next one gets it without a reset
- `brought_up` a host after `invoke bringup`, for a test that leaves it so
- `spare`      the same, to be broken
- `bare`       another lab of the worker's, with no engine, driver or toolkit: as it is after `World.reset`, or as the
               test before left it

A test that fails leaves the host for nobody. `World.invoke` runs the real program with a home, a state directory and a
known_hosts of its own, so that nothing of the user's is read, written or left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from again import is_spread
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from lab import engine, keys, machine
from lab.machine import Lab
from lab.outer import LabError

ROOT = Path(__file__).resolve().parents[2]
INVOKE = Path(sys.executable).with_name("invoke")
SERVICES = ("comfy", "ollama", "openwebui")
PORTS = {"comfy": 8188, "ollama": 11434, "openwebui": 3000}

# The stand-ins at their quickest; a test that watches a first run asks for a slower one.
QUICK = {
    "comfy_step_seconds": 0.03, "openwebui_first_seconds": 0.2, "openwebui_start_seconds": 0.1,
    "openwebui_ping_seconds": 0.5,
}  # fmt: skip

# ---- no engine, no lab tests: said once, loudly, and never with exit code 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    count = sum(1 for item in items if item.get_closest_marker("lab"))
    version, said = engine.answer() if count else ("?", "")
    if count and not version and not hasattr(config, "workerinput"):
        why = "a machine that runs CI must have one" if in_ci() else "the rest alone: make test-unit"
        pytest.exit(f"NOT RUN: {count} lab tests, since no Docker engine answers ({said}); {why}", returncode=1)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file stays with one worker, since its tests hand the host on to each other. A file whose tests each make what
    they need says SPREAD = True. (xdist's own groups have no effect with pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return nodeid if is_spread(file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def in_ci() -> bool:
    return bool(os.environ.get("PANTHEON_CI") or os.environ.get("CI"))


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Under xdist only the workers collect, and a worker cannot end the run: each test fails with the one line."""
    version, said = engine.answer()
    if not version:
        pytest.fail(f"NOT RUN: no Docker engine answers ({said})", pytrace=False)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


# ---- what one run of the program gave


@dataclass(frozen=True)
class Ran:
    """One `invoke ...` that has ended."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    took_s: float

    @property
    def json(self) -> Any:
        """The one JSON document that stdout must be."""
        return json.loads(self.out)

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def seen(self) -> str:
        """What the user saw, for an assertion that fails."""
        return f"\n$ invoke {shlex.join(self.argv)}\n{self.out}{self.err}[exit {self.code}, {self.took_s:.1f} s]"


def until(question: Callable[[], Any], deadline_s: float = 20, what: str = "") -> Any:
    """The first answer that is true. Fails when there is none in time. What costs something is asked less often: asking
    a host means a process there and several here."""
    end = time.monotonic() + deadline_s
    while True:
        began = time.monotonic()
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {deadline_s} s: {what or question}"
        time.sleep(max(0.05, 2 * (time.monotonic() - began)))


class Running:
    """An `invoke ...` in the background; with `terminal` on a pseudo-terminal of its own, where it can be answered."""

    def __init__(self, argv: tuple[str, ...], environment: dict[str, str], *, terminal: bool = False) -> None:
        self.argv, self.began, self.seen = argv, time.monotonic(), ""
        self._fd, theirs = pty.openpty() if terminal else os.pipe()
        self._terminal = terminal
        self.process = subprocess.Popen(
            [str(INVOKE), *argv],
            cwd=ROOT,
            env=environment,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, text: str, deadline_s: float = 60, *, since: int = 0) -> str:
        """Read until `text` has come, behind the first `since` characters. Returns all that came."""
        end = time.monotonic() + deadline_s
        while text not in self.seen[since:]:
            came = self._read(end - time.monotonic())
            assert came, f"{text!r} did not come in {deadline_s} s: {self.seen}"
        return self.seen

    def shown(self) -> str:
        """All that has come by now."""
        while self._read(0):
            pass
        return self.seen

    def _read(self, patience_s: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, patience_s))
        try:
            chunk = os.read(self._fd, 65536) if ready else b""
        except OSError:  # the other end of a terminal is closed
            chunk = b""
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, deadline_s: float = 90) -> Ran:
        """Wait for its end. What a terminal showed is in `out`."""
        end = time.monotonic() + deadline_s
        while self._read(end - time.monotonic()):
            pass
        code = self.process.wait(max(1.0, end - time.monotonic()))
        return Ran(self.argv, code, self.seen, "", time.monotonic() - self.began)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


# ---- a lab host with what is needed to run `invoke` against it

# Everything that a bring-up could touch: the listing tells of any file made, removed, changed, chowned or only touched.
LISTING = r"""
for tree in /opt /srv /etc /home /root /usr/local /var/lib/pantheon /run/pantheon /var/log/pantheon "$@"; do
    [ ! -e "$tree" ] || find "$tree" -xdev -printf '%p %y %m %U:%G %s %T@ %C@ %l\n' | sort
done
# runc, for every healthcheck, has a file of its own in /tmp for a moment.
find /tmp /var/tmp -mindepth 1 ! -name 'runc-process*' -printf '%p %y %m %U:%G %s %T@ %C@ %l\n' | sort
find /opt /srv /etc "$@" -xdev -type f -exec sha256sum {} + 2>/dev/null | sort
docker ps -aq --no-trunc | sort | xargs -r docker inspect --format \
    '{{.Id}} {{.Name}} {{.Image}} {{.State.Status}} {{.State.StartedAt}} {{.RestartCount}} {{json .Config}}'
docker images --no-trunc --digests --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort
docker network ls --format '{{.Name}}' | sort
docker volume ls --format '{{.Name}}' | sort
findmnt -rno TARGET,SOURCE | grep -v -e /run/docker -e /run/user | sort
"""


@dataclass
class World:
    """A lab host, the inventory that names it, and the program that is run against it."""

    lab: Lab
    directory: Path
    state: str = "dirty"

    # -- the workstation

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts.toml"

    @property
    def logs(self) -> Path:
        return self.directory / "state" / "pantheon"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "PANTHEON_HOSTS": str(self.hosts),
            "PANTHEON_KNOWN_HOSTS": str(self.directory / "known_hosts"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }

    def inventory(self, *, direct: bool = False, **changes: Any) -> None:
        """Write hosts.toml: the lab host with its small images, and `changes` laid over it table by table.

        With `direct` by the container's own address, where faults of the network are met as on a real link."""
        small = {"image_gib": 0.05, "data_gib": 0.01}
        if direct:
            self.lab.trust(self.directory / "known_hosts", direct=True)
        host: dict[str, Any] = {
            "address": self.lab.address if direct else "127.0.0.1",
            "port": 22 if direct else self.lab.port,
            "user": machine.USER,
            "identity": str(self.lab.keys.identity),
            **{name: dict(small) for name in SERVICES},
        }
        if self.lab.bare:
            host["install"] = {"docker_key": self.lab.docker_key, "toolkit_key": self.lab.toolkit_key}
        if self.lab.os_id != "ubuntu":
            host["os"] = {"id": self.lab.os_id, "version": self.lab.os_version}
        for name, value in changes.items():
            host[name] = {**host.get(name, {}), **value} if isinstance(value, dict) else value
        self.hosts.write_text('default = "lab"\n' + toml(host, "hosts.lab"), encoding="utf-8")

    def invoke(self, *argv: str, timeout: float = 90) -> Ran:
        """Run `invoke ...` to its end, as in a script: no terminal, nothing on stdin."""
        began = time.monotonic()
        done = subprocess.run(
            [str(INVOKE), *argv],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        return Ran(argv, done.returncode, out, err, time.monotonic() - began)

    @contextlib.contextmanager
    def running(self, *argv: str, terminal: bool = False) -> Iterator[Running]:
        started = Running(argv, self.environment(), terminal=terminal)
        try:
            yield started
        finally:
            started.close()

    def bring_up(self, *options: str) -> Ran:
        done = self.invoke("bringup", "--yes", *options)
        assert done.code == 0, done.seen
        return done

    # -- the host, in the words of the vendors' own commands

    def sh(self, script: str, *args: str, check: bool = True) -> str:
        return self.lab.sh(script, *args, check=check).strip()

    def docker(self, *argv: str, check: bool = True) -> str:
        done = self.lab.exec("docker", *argv, check=check)
        return (done.stdout + ("" if check else done.stderr)).strip()

    def ids(self) -> dict[str, str]:
        """Container ids by name."""
        lines = self.docker("ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def _is_healthy(self, name: str) -> bool:
        return self.docker("inspect", "-f", "{{.State.Health.Status}}", name) == "healthy"

    def wait_healthy(self, *names: str, deadline_s: float = 30) -> None:
        for name in names or SERVICES:
            until(
                partial(self._is_healthy, name),
                deadline_s,
                f"{name} healthy",
            )

    def listing(self, *more: str) -> list[str]:
        return self.sh(LISTING, "/mnt/local", "/mnt/local/nvme", "/mnt/local/ssd", *more).splitlines()

    @contextlib.contextmanager
    def unchanged(self, *more: str) -> Iterator[None]:
        """Everything on the host that a bring-up could touch is afterwards as it was before."""
        before = self.listing(*more)
        yield
        after = self.listing(*more)
        changed = [f"- {line}" for line in before if line not in set(after)]
        changed += [f"+ {line}" for line in after if line not in set(before)]
        assert not changed, "the host was changed:\n" + "\n".join(changed)

    @contextlib.contextmanager
    def counting(self) -> Iterator[list[str]]:
        """What sshd itself says meanwhile: its lines are in the list at the end."""
        said: list[str] = []
        self.sh("printf 'LogLevel VERBOSE\\n' >/etc/ssh/sshd_config.d/00-count.conf; systemctl restart ssh")
        try:
            self.lab.wait_ready()
            self.sh("journalctl --sync; journalctl -n0 --show-cursor | sed -n 's/^-- cursor: //p' >/var/tmp/cursor")
            yield said
            said += self.sh('journalctl --sync; journalctl --after-cursor "$(cat /var/tmp/cursor)" -o cat').splitlines()
        finally:
            self.sh("rm -f /etc/ssh/sshd_config.d/00-count.conf /var/tmp/cursor; systemctl restart ssh")
            self.lab.wait_ready()

    def commands(self) -> list[dict[str, Any]]:
        """The steps that ran on the host, as its own record has them."""
        text = self.sh("cat /var/log/pantheon/commands.jsonl 2>/dev/null || true")
        return [json.loads(line)["step"] for line in text.splitlines()]

    # -- states

    def reset(self) -> None:
        self.state = "dirty"
        machine.reset(self.lab.name)
        self.settle()

    def settle(self) -> None:
        """The first login and the first sudo of a user leave marks of their own in his home."""
        self.lab.ssh("sudo -n true")
        self.inventory()
        self.state = "fresh"

    def make(self, state: str) -> None:
        self.inventory()
        if self.state == state:
            return
        if self.state != "fresh":
            self.reset()
        if state == "up":
            self.state = "dirty"
            self.bring_up()
            self.state = "up"


def toml(table: Mapping[str, Any], path: str) -> str:
    """A table, and the tables and lists of tables in it, as TOML. A JSON string is a TOML string, but for the character
    DEL."""
    inner = {key: value for key, value in table.items() if is_table(value) or is_tables(value)}
    lines = [
        f"[{path}]",
        *(f"{json.dumps(key)} = {scalar(value)}" for key, value in table.items() if key not in inner),
    ]
    parts = [toml(value, f"{path}.{key}") for key, value in inner.items() if is_table(value)]
    for key, value in inner.items():
        if not is_table(value):
            parts += [toml(item, f"{path}.{key}").replace(f"[{path}.{key}]", f"[[{path}.{key}]]", 1) for item in value]
    return "\n".join([*lines, "", *parts])


def is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(is_table(item) for item in value)


def scalar(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)


def steps(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a plan given as JSON, in order."""
    return [step for section in plan["sections"] for change in section["changes"] for step in change["steps"]]


# ---- labs: started once for each worker, and gone at the end whatever happens


def _mine(kind: str = "") -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return f"test-{worker}{kind}-{os.getpid()}"


def _in_use(name: str) -> IO[str] | None:
    """A file that stays locked as long as the process that uses the lab lives; None where another one does."""
    directory = keys.state_root() / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (directory / ".in-use").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _sweep(known_hosts: Path) -> None:
    """Take down labs of test runs that were killed. Only those that this user's runs have made and nobody holds."""
    for directory in sorted(keys.state_root().glob("test-*")):
        if not (re.fullmatch(r"test-[a-z0-9]+-\d+", directory.name) and (directory / ".in-use").exists()):
            continue
        file = _in_use(directory.name)
        if file:
            with file, contextlib.suppress(LabError):
                machine.down(directory.name, forget=True, known_hosts=known_hosts)


@pytest.fixture(scope="session")
def world(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from _started(_mine(), tmp_path_factory)


@pytest.fixture(scope="module")
def bare(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from _started(_mine("bare"), tmp_path_factory, bare=True)


def _started(name: str, tmp_path_factory: pytest.TempPathFactory, *, bare: bool = False) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("workstation")
    for folder in ("home", "state"):
        (directory / folder).mkdir()
    known_hosts = directory / "known_hosts"
    _sweep(known_hosts)
    held = _in_use(name)
    assert held, f"lab {name} is in use"
    # A run that is ended from outside (a CI job that is cancelled) still takes its lab down.
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    try:
        lab = machine.up(name, port=machine.free_port(), bare=bare, stand_in=QUICK, known_hosts=known_hosts)
        made = World(lab, directory)
        made.settle()
        yield made
    finally:
        signal.signal(signal.SIGTERM, before)
        machine.down(name, forget=True, known_hosts=known_hosts)
        held.close()


def _given(world: World, request: pytest.FixtureRequest, state: str, *, kept: bool) -> Iterator[World]:
    world.make(state)
    world.state = "dirty"
    yield world
    if kept and not request.node.stash.get(FAILED, False):
        world.state = state


@pytest.fixture
def fresh(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from _given(world, request, "fresh", kept=False)


@pytest.fixture
def untouched(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from _given(world, request, "fresh", kept=True)


@pytest.fixture
def brought_up(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from _given(world, request, "up", kept=True)


@pytest.fixture
def spare(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from _given(world, request, "up", kept=False)
