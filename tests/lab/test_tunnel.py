"""Tunnels through everything that a day brings: what real clients get, what the screen says, and what is left.

Each fault is planted for real, over the container's own address. Clients ask all the time, and one holds a websocket
open; none of them may ever hang, and the local port stays the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import requests
import websocket
from conftest import PORTS, SERVICES, Ran, Running, World, until

from lab import faults
from lab.breakages import browser_access
from lab.machine import Lab
from pantheon.remote import ports

pytestmark = pytest.mark.lab
SPREAD = True

NOTICED_S = 10.0  # a dead link
BACK_S = 3.0  # a link, after the network is back
LOADED_S = 4.0  # what a machine that runs all these tests at once may take on top
NEVER_S = 16.0  # no client waits longer for whatever it gets

# Below the ports that the kernel hands out to clients, or one of those would have ours in an outage.
_candidates = itertools.count(20000 + os.getpid() % 97 * 100)


def a_port() -> int:
    """A local port for one test."""
    return next(port for port in _candidates if ports.free_port(port) == port)


# ---- who listens, and which ssh runs


def children(pid: int, name: str = "ssh") -> list[int]:
    """Processes of that name which that one has started, and theirs; not those that are only waited for."""
    below: dict[int, list[tuple[int, str]]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = file.read_text().rpartition(")")
            number, _, command = head.partition(" (")
            state, parent = rest.split()[:2]
            if state != "Z":
                below.setdefault(int(parent), []).append((int(number), command))
    found, looked_at = [], [pid]
    for each in looked_at:
        looked_at += [number for number, _ in below.get(each, ())]
        found += [number for number, command in below.get(each, ()) if command == name]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listens(port: int) -> bool:
    for address in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
            return True
    return False


def bound(port: int) -> set[str]:
    """The addresses that are listened on with that port, as ss has them."""
    argv = ["ss", "-Hltn", f"sport = :{port}"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3].rpartition(":")[0] for line in lines}


# ---- clients


def ask(port: int, path: str = "/system_stats", patience_s: float = 5) -> bool:
    """Whether a client that is new gets its answer."""
    try:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=patience_s).status_code == 200
    except requests.RequestException:
        return False


class Clients:
    """Somebody who asks all the time, with more patience than anyone may need, and a page's websocket held open."""

    def __init__(self, port: int) -> None:
        self.port, self.longest_s, self.answered = port, 0.0, 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        self.socket = self.open_socket()

    def open_socket(self) -> websocket.WebSocket:
        made = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId=test", timeout=NEVER_S)
        assert '"status"' in made.recv()
        return made

    def _ask(self) -> None:
        while not self._done.wait(0.05):
            began = time.monotonic()
            if ask(self.port, patience_s=3 * NEVER_S):
                self.answered = time.monotonic()
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def back(self, limit_s: float, since: float = 0.0) -> float:
        """Seconds from `since` (now) to the next answer. Fails where that takes longer than `limit_s`."""
        since = since or time.monotonic()
        until(lambda: self.answered > since, limit_s + 2 * NEVER_S, "an answer through the tunnel")
        took = self.answered - since
        assert took < limit_s, f"{took:.1f} s to the next answer"
        return took

    def dropped(self) -> None:
        """The websocket that was held open ends, and does not hang; a new one is opened in its place by `renew`."""
        began = time.monotonic()
        with contextlib.suppress(websocket.WebSocketConnectionClosedException, ConnectionError):
            while self.socket.recv():  # empty for a close in order
                pass
        assert time.monotonic() - began < NEVER_S
        self.socket.close()

    def renew(self) -> None:
        self.socket.close()
        self.socket = self.open_socket()

    def echoes(self) -> None:
        """The websocket that was held open still carries messages, both ways."""
        self.socket.ping(b"still there?")
        code, data = self.socket.recv_data(control_frame=True)
        assert (code, data) == (websocket.ABNF.OPCODE_PONG, b"still there?")

    def end(self) -> None:
        self._done.set()
        self._thread.join(3 * NEVER_S)
        self.socket.close()
        assert self.longest_s < NEVER_S, f"a client waited for {self.longest_s:.1f} s"


# ---- an open tunnel


@dataclass
class Open:
    """A tunnel that the real program holds open, and where in its output the present part of the test began."""

    program: Running
    port: int
    mark: int = 0

    def from_here(self) -> None:
        self.mark = len(self.program.shown())

    def says(self, text: str, deadline_s: float = 20) -> str:
        return self.program.wait_for(text, deadline_s, since=self.mark)[self.mark :]

    def so_far(self) -> str:
        return self.program.shown()[self.mark :]

    @property
    def ssh(self) -> int:
        (pid,) = children(self.program.process.pid)
        return pid

    def is_back(self) -> None:
        """The words, the port and one ssh are as they should be once the link has been made anew."""
        self.says("link back after")
        assert bound(self.port) == {"127.0.0.1", "[::1]"}
        assert self.ssh
        assert self.program.process.poll() is None

    def interrupt(self) -> Ran:
        """Ctrl-C, and that nothing is left of it."""
        left = children(self.program.process.pid)
        began = time.monotonic()
        self.program.signal(signal.SIGINT)
        self.program.process.wait(20)
        took = time.monotonic() - began
        done = self.program.end()
        assert done.code == 0, done.seen
        assert "Traceback" not in done.all
        assert not listens(self.port), done.seen
        # What has closed its files has ended, and may be listed for a moment yet.
        until(lambda: not any(map(is_alive, left)), 0.5, f"no ssh is left{done.seen}")
        assert took < 1 + LOADED_S / 2, f"{took:.1f} s{done.seen}"
        return done


@contextlib.contextmanager
def opened(world: World, *options: str, service: str = "comfy", port: int = 0) -> Iterator[Open]:
    """A tunnel of the real program, on a port of this test's own, once its service answers through it."""
    port = port or a_port()
    with world.running("tunnel", service, "--port", str(port), *options) as program:
        program.wait_for(f"http://127.0.0.1:{port}/", 30)
        until(partial(ask, port, "/"), 30, "the service answers through the tunnel")
        yield Open(program, port)


@contextlib.contextmanager
def used(port: int) -> Iterator[Clients]:
    clients = Clients(port)
    try:
        yield clients
    finally:
        clients.end()


@pytest.fixture
def up(brought_up: World) -> World:
    """A host after a bring-up, by its own address."""
    brought_up.inventory(direct=True)
    return brought_up


# ---- a link that dies, and comes back


@pytest.mark.parametrize("fault", [faults.blackhole, faults.paused])
def test_a_network_or_a_host_that_falls_silent(
    up: World, fault: Callable[[Lab], contextlib.AbstractContextManager[None]]
) -> None:
    with opened(up) as tunnel, used(tunnel.port) as clients:
        first = tunnel.ssh
        tunnel.from_here()
        with fault(up.lab):
            began = time.monotonic()
            tunnel.says("link lost: ", NOTICED_S + LOADED_S)
            noticed = time.monotonic() - began
            assert noticed < NOTICED_S, f"{noticed:.1f} s"
            clients.dropped()
            assert not ask(tunnel.port)
        healed = time.monotonic()
        clients.back(BACK_S, healed)
        tunnel.is_back()
        clients.renew()
        clients.echoes()
        assert tunnel.ssh != first
        tunnel.interrupt()


def test_a_day_with_sshd_the_container_and_ssh_itself(up: World) -> None:
    with opened(up) as tunnel, used(tunnel.port) as clients:
        first = tunnel.ssh
        # sshd is upgraded: the session goes on.
        faults.restart_sshd(up.lab)
        clients.back(BACK_S)
        clients.echoes()
        # The container is restarted: the service is missed, the link is not.
        tunnel.from_here()
        up.docker("stop", "-t", "1", "comfy")
        clients.dropped()
        tunnel.says("does not answer", 10 + LOADED_S)
        up.docker("start", "comfy")
        clients.back(30)
        clients.renew()
        tunnel.says("answers again after")
        assert "lost" not in tunnel.so_far()
        assert tunnel.ssh == first
        # ssh is killed.
        tunnel.from_here()
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        clients.dropped()
        clients.back(1 + LOADED_S / 2, killed)
        tunnel.is_back()
        second = tunnel.ssh
        assert second != first
        clients.renew()
        # sshd is down, and its sessions with it.
        tunnel.from_here()
        with faults.without_sshd(up.lab):
            faults.end_sessions(up.lab)
            clients.dropped()
            tunnel.says("link lost: ", 5)
            assert not ask(tunnel.port)
        started = time.monotonic()
        clients.back(BACK_S, started)
        tunnel.is_back()
        clients.renew()
        tunnel.interrupt()


def test_a_reboot(brought_up: World) -> None:
    """By the published port: a container may get another address from its engine when it starts again."""
    world = brought_up
    with opened(world) as tunnel, used(tunnel.port) as clients:
        tunnel.from_here()
        world.lab.reboot()
        clients.dropped()
        clients.back(90)
        tunnel.is_back()
        assert "lost" in tunnel.so_far()
        tunnel.interrupt()
    world.wait_healthy()


def test_logins_that_are_not_allowed_yet(up: World) -> None:
    """A host in the first seconds of its boot turns us away; that is no refusal of our key."""
    with opened(up) as tunnel, used(tunnel.port) as clients:
        tunnel.from_here()
        with faults.no_logins(up.lab):
            faults.end_sessions(up.lab)
            clients.dropped()
            tunnel.says("link lost: ", 5)
            time.sleep(3)  # several attempts to log in
            assert tunnel.program.process.poll() is None, tunnel.program.shown()
            assert "back" not in tunnel.so_far()
        clients.back(BACK_S + LOADED_S)
        tunnel.is_back()
        tunnel.interrupt()


# ---- a link that must not come back


def ends(tunnel: Open, lab: Lab) -> Ran:
    """The session is killed; the program ends by itself, and nothing is left."""
    left = children(tunnel.program.process.pid)
    faults.end_sessions(lab)
    done = tunnel.program.end(20)
    assert done.code == 3, done.seen
    assert not listens(tunnel.port)
    assert [pid for pid in left if is_alive(pid)] == []
    assert "Traceback" not in done.all
    return done


def test_another_host_key(up: World) -> None:
    with opened(up) as tunnel, faults.other_host_keys(up.lab):
        tunnel.from_here()
        assert ask(tunnel.port)  # a session that is open goes on
        began = time.monotonic()
        done = ends(tunnel, up.lab)
        assert time.monotonic() - began < 5 + LOADED_S
        assert "its host key has changed" in done.all
        assert "invoke trust --host lab --replace" in done.all
        assert "back" not in done.all[tunnel.mark :]
        again = up.invoke("tunnel", "comfy")
        assert again.code == 3, again.seen
        assert "invoke trust --host lab --replace" in again.all


def test_a_login_key_that_was_taken_away(up: World) -> None:
    with opened(up) as tunnel, faults.without_login_keys(up.lab):
        began = time.monotonic()
        done = ends(tunnel, up.lab)
        assert time.monotonic() - began < 8 + LOADED_S
        assert "refused to let ops in" in done.all


def test_forwarding_is_not_allowed(up: World) -> None:
    browser_access.forbid_forwarding(up.lab)
    try:
        done = up.invoke("tunnel", "comfy", "--port", str(a_port()))
    finally:
        browser_access.allow_forwarding(up.lab)
    assert done.code == 3, done.seen
    assert "does not allow forwarding" in done.all
    assert "invoke fix.browser-access --host lab" in done.all


# ---- this machine


def test_this_machine_sleeps(up: World) -> None:
    """Everything of ours stands still; the host has given the session up meanwhile."""
    with opened(up) as tunnel, used(tunnel.port) as clients:
        tunnel.from_here()
        program, ssh = tunnel.program.process.pid, tunnel.ssh
        os.kill(program, signal.SIGSTOP)
        os.kill(ssh, signal.SIGSTOP)
        faults.end_sessions(up.lab)
        time.sleep(7)
        os.kill(ssh, signal.SIGCONT)
        os.kill(program, signal.SIGCONT)
        awake = time.monotonic()
        clients.back(BACK_S, awake)
        tunnel.is_back()
        assert "slept" in tunnel.so_far()
        clients.dropped()
        tunnel.interrupt()


def test_an_ssh_that_stands_still(up: World) -> None:
    with opened(up) as tunnel, used(tunnel.port) as clients:
        first = tunnel.ssh
        tunnel.from_here()
        os.kill(first, signal.SIGSTOP)
        stopped = time.monotonic()
        clients.back(2 * NEVER_S, stopped + 1)
        tunnel.is_back()
        assert not is_alive(first)
        clients.dropped()
        tunnel.interrupt()


def test_a_kill_leaves_nothing(up: World) -> None:
    """Of a tunnel through a gateway, which has a second ssh, neither."""
    world = up
    world.inventory(direct=True, address="127.0.0.1", gateway=f"ops@{world.lab.address}")
    unknown = world.invoke("tunnel", "comfy")
    assert unknown.code == 3, unknown.seen
    assert "its host key is unknown" in unknown.all
    assert world.invoke("trust", "--yes").code == 0
    with opened(world) as tunnel:
        both = children(tunnel.program.process.pid)
        assert len(both) == 2
        # The outer one alone: its gateway's goes with it, and another pair comes.
        os.kill(both[0], signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in both), 5, "both gone")
        until(partial(ask, tunnel.port), 5, "back")
        both = children(tunnel.program.process.pid)
        assert len(both) == 2
        for pid in both:
            os.kill(pid, signal.SIGSTOP)  # such a one hears nothing but KILL, and would go on holding the port
        tunnel.program.process.kill()
        until(lambda: not any(is_alive(pid) for pid in both), 2 + LOADED_S, "no ssh is left")
        assert not listens(tunnel.port)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Callable[[Running], None]]:
    """A disk of a few pages lies over a directory of this machine. What is given fills it; where we are not root, and
    cannot mount one, the program may not write another byte to any file, which comes to the same."""
    path.mkdir(parents=True, exist_ok=True)
    root = os.geteuid() == 0

    def fill(program: Running) -> None:
        if not root:
            resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (0, 0))
            return
        with contextlib.suppress(OSError), (path / "rest").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    if root:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "lab-small-disk", str(path)]
        subprocess.run(mount, check=True)
    try:
        yield fill
    finally:
        if root:
            subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(up: World) -> None:
    """Where the tunnel's own files are, on this machine."""
    with small_disk(up.directory / "home/.local/state") as fill, opened(up) as tunnel, used(tunnel.port) as clients:
        tunnel.from_here()
        fill(tunnel.program)
        os.kill(tunnel.ssh, signal.SIGKILL)
        killed = time.monotonic()
        clients.back(1 + LOADED_S / 2, killed)
        tunnel.is_back()
        tunnel.interrupt()


# ---- local ports


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bind() -> bool:
            with contextlib.suppress(OSError):
                held.bind(("127.0.0.1", port))
                return True
            return False

        until(bind, 60, f"port {port} of this machine")  # another test's tunnel may have it for a while
        held.listen()
        yield


def port_of(program: Running, service: str) -> int:
    """The local port that it tells of, once it does."""
    at = re.compile(rf"{service}\b.*http://127\.0\.0\.1:(\d+)/")
    found = until(lambda: at.search(program.shown()), 30, f"{service}: {program.seen}")
    return int(found[1])


def test_a_local_port_that_another_program_has(up: World) -> None:
    with contextlib.ExitStack() as stack:
        own = PORTS["comfy"]
        stack.enter_context(listening(own))
        with up.running("tunnel", "comfy") as program:
            port = port_of(program, "comfy")
            assert own < port < own + 50
            assert re.search(rf"{own}\b.* is held by .*\(pid \d+\)", program.shown()), program.seen
            until(partial(ask, port), 20, "answers")
            Open(program, port).interrupt()
        port = a_port()
        stack.enter_context(listening(port))
        done = up.invoke("tunnel", "comfy", "--port", str(port))
        assert done.code == 1, done.seen
        assert f"port {port} is taken on this machine by" in done.all
        assert f"(pid {os.getpid()})" in done.all


def test_a_local_port_that_is_taken_while_the_link_is_gone(up: World) -> None:
    with opened(up) as tunnel:
        tunnel.from_here()
        with faults.without_sshd(up.lab):
            faults.end_sessions(up.lab)
            tunnel.says("link lost: ", 5)
            taker = contextlib.ExitStack()
            taker.enter_context(listening(tunnel.port))
        with taker:
            assert f"(pid {os.getpid()})" in tunnel.says(f"(pid {os.getpid()})", 10)
            assert tunnel.program.process.poll() is None
        until(partial(ask, tunnel.port), 10, "the same port again")
        tunnel.is_back()
        tunnel.interrupt()


# ---- several at once, and much through one

OTHER_PORT = 8299
OTHER = """
import hashlib, http.server, os
data = os.urandom(64 << 20)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        some = {
            "/all": data,
            "/part": data[:100_000],
            "/sum": hashlib.sha256(data).hexdigest().encode(),
            "/api/version": b'{"version": "0.13.5"}',
        }
        self.answer(some.get(self.path, b"the other one"))
    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            part = self.rfile.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer(("127.0.0.1", %d), Handler).serve_forever()
"""


@pytest.fixture
def other(up: World) -> Iterator[World]:
    """A second host of the inventory, `other`: the same machine, where something else plays Ollama."""
    run = "systemd-run -q --unit=test-other --collect python3 -c"
    wait = f"for i in $(seq 100); do curl -fso /dev/null 127.0.0.1:{OTHER_PORT} && exit; sleep 0.1; done; exit 1"
    up.sh(f'{run} "$1"; {wait}', OTHER % OTHER_PORT)
    up.inventory(direct=True, ollama={"port": OTHER_PORT})
    second = up.hosts.read_text().partition("\n")[2].replace("[hosts.lab", "[hosts.other")
    up.inventory(direct=True)
    up.hosts.write_text(up.hosts.read_text() + second)
    yield up
    up.sh("systemctl stop test-other")


def test_two_hosts_side_by_side_from_the_same_moment(other: World) -> None:
    """Both would have the service's own port: one gets it, or none where another program has it."""
    with other.running("tunnel", "ollama") as first, other.running("tunnel", "ollama", "--host", "other") as second:
        one, two = port_of(first, "ollama"), port_of(second, "ollama")
        assert one != two
        until(lambda: ask(one, "/") and ask(two, "/"), 20, "both answer")
        assert requests.get(f"http://127.0.0.1:{one}/", timeout=5).text == "Ollama is running"
        assert requests.get(f"http://127.0.0.1:{two}/", timeout=5).text == "the other one"
        for port in (one, two):
            assert bound(port) == {"127.0.0.1", "[::1]"}
        Open(first, one).interrupt()
        assert ask(two, "/")
        Open(second, two).interrupt()


def test_all_services(up: World) -> None:
    with up.running("tunnel", "all") as program:
        found = {name: port_of(program, name) for name in SERVICES}
        assert len(set(found.values())) == len(SERVICES)
        for port in found.values():
            until(partial(ask, port, "/"), 20, "answers")
            assert bound(port) == {"127.0.0.1", "[::1]"}
        tunnel, before = Open(program, found["comfy"]), children(program.process.pid)
        assert len(before) == len(SERVICES)
        # One is lost, and made anew; the others do not notice.
        tunnel.from_here()
        os.kill(before[0], signal.SIGKILL)
        tunnel.says("link back after")
        assert len({*before} & {*children(program.process.pid)}) == len(SERVICES) - 1
        for port in found.values():
            until(partial(ask, port, "/"), 20, "answers")
        tunnel.interrupt()
        assert not any(listens(port) for port in found.values())


def test_much_at_once(other: World) -> None:
    with opened(other, "--host", "other", service="ollama") as tunnel:
        place = f"http://127.0.0.1:{tunnel.port}"
        right = requests.get(f"{place}/sum", timeout=10).text
        began = time.monotonic()
        whole = requests.get(f"{place}/all", timeout=60).content
        assert hashlib.sha256(whole).hexdigest() == right
        assert requests.post(f"{place}/", data=whole, timeout=60).text == right
        print(f"{len(whole) >> 20} MiB there and back in {time.monotonic() - began:.1f} s")
        with ThreadPoolExecutor(50) as pool:
            parts = list(pool.map(lambda _: requests.get(f"{place}/part", timeout=20).content, range(100)))
        assert parts == [whole[:100_000]] * 100
        assert "lost" not in tunnel.so_far()
        tunnel.interrupt()


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_tunnel_that_is_used(up: World, number: signal.Signals) -> None:
    with opened(up) as tunnel:
        held = websocket.create_connection(f"ws://127.0.0.1:{tunnel.port}/ws", timeout=NEVER_S)
        with contextlib.closing(held):
            ssh = tunnel.ssh
            tunnel.program.signal(number)
            done = tunnel.program.end(5)
            assert done.code == 0, done.seen
            assert not is_alive(ssh)
            assert not listens(tunnel.port)
            assert "Traceback" not in done.all


def test_ctrl_c_while_it_opens(up: World) -> None:
    with faults.blackhole(up.lab), up.running("tunnel", "comfy", "--port", str(port := a_port())) as program:
        until(lambda: children(program.process.pid), 10, "ssh is on its way")
        Open(program, port).interrupt()


def test_ctrl_c_while_the_service_is_down(up: World) -> None:
    up.docker("stop", "-t", "1", "comfy")
    try:
        with up.running("tunnel", "comfy", "--port", str(port := a_port())) as program:
            until(lambda: bound(port), 20, "the link is there")
            program.wait_for("comfy", 20)
            time.sleep(1)  # whatever finds out why is at work
            assert f"http://127.0.0.1:{port}/  " not in program.shown()
            Open(program, port).interrupt()
    finally:
        up.docker("start", "comfy")
        up.wait_healthy("comfy")


def test_ctrl_c_while_the_link_is_gone(up: World) -> None:
    with opened(up) as tunnel, faults.without_sshd(up.lab):
        faults.end_sessions(up.lab)
        tunnel.says("link lost: ", 5)
        with faults.blackhole(up.lab):
            time.sleep(1.5)  # a knock has gone out, and hears nothing
            tunnel.interrupt()
