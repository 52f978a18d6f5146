"""Supervising ssh. The real one is shown in tests/lab; here a script stands for it that forwards to where -L says, or
says what ssh would say, and the host is a port that speaks a banner."""

from __future__ import annotations

import contextlib
import http.server
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pantheon.errors import HostError, LoginRefused, NotAllowed, NotReached, NotTrusted, PantheonError, UsageError
from pantheon.inventory import Host, Ollama
from pantheon.remote import answers, ciphers, knock, ports, refused, verified
from pantheon.remote import tunnel as supervisor
from pantheon.remote.carrier import Carrier
from pantheon.remote.tunnel import Tunnel
from pantheon.tunnel import Event, Phase
from tests.unit.remote.server import HOST_KEY, SshServer, ed25519_key, key_of

# `ssh -G` is the real one. The files beside it say how it behaves: `say` what it says instead of listening, `forbid`
# that it forwards nothing, `hang` that it never gets as far as listening, `sessionless` that it gives no session,
# `dies` that the link ends under the next client.
SSH = """import os, pathlib, socket, sys, threading, time
here = pathlib.Path(__file__).parent
if (here / "say").exists():
    sys.exit((here / "say").read_text())
while (here / "hang").exists():
    time.sleep(0.01)
def pump(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(listener, port):
    while True:
        near, _ = listener.accept()
        if (here / "dies").exists():
            for each in (near, *listeners):
                each.close()
            time.sleep(0.1)
            print("Connection to box closed by remote host.", file=sys.stderr, flush=True)
            os._exit(255)
        try:
            if (here / "forbid").exists():
                raise OSError("administratively prohibited: open failed")
            far = socket.create_connection(("127.0.0.1", port))
        except OSError as error:
            why = "connect failed: Connection refused" if error.errno else str(error)
            print(f"channel 2: open failed: {why}", file=sys.stderr, flush=True)
            near.close()
            continue
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
words, listeners = sys.argv[1:], []
forwards = [words[index + 1] for index, word in enumerate(words) if word == "-L"]
for forward in forwards:
    address, near, _, far = forward.replace("[::1]", "::1").rsplit(":", 3)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, int(near)))
    except OSError:
        sys.exit(f"bind [{address}]:{near}: Address already in use\\nCould not request local forwarding.")
    listener.listen(16)
    listeners.append(listener)
    threading.Thread(target=serve, args=(listener, int(far)), daemon=True).start()
print("listening", flush=True)
if (here / "sessionless").exists() and "-N" not in words:
    sys.exit(1)
while True:
    time.sleep(0.01)
"""


def until(question: Callable[[], Any], deadline_s: float = 20, what: object = "") -> Any:
    end = time.monotonic() + deadline_s
    while not (answer := question()):
        assert time.monotonic() < end, what or question
        time.sleep(0.01)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """An Ollama on a port of its own, that can be slow, down and back."""

    def __init__(self, port: int = 0) -> None:
        self.port, self.slow_s, self.asked = port, 0.0, 0
        self.server: http.server.ThreadingHTTPServer | None = None
        self.up()

    def up(self) -> None:
        service = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                time.sleep(service.slow_s)
                body = b'{"version": "0.12.6"}'
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Answers)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class Door:
    """A port that says it is an SSH server, as long as it is open."""

    def __init__(self) -> None:
        self.port = 0
        self.open()

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, args=(self.listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.sendall(b"SSH-2.0-door\r\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@dataclass
class Box:
    """A host with a service, an ssh that leads there, and the tunnels that were opened to it."""

    folder: Path
    service: Service
    door: Door
    host: Host
    events: list[Event] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)

    def tunnel(self, **given: Any) -> Tunnel:
        made = Tunnel(given.pop("host", self.host), "ollama", tell=self.events.append, **given)
        self.tunnels.append(made)
        made.start()
        return made

    def opened(self, **given: Any) -> Tunnel:
        made = self.tunnel(**given)
        self.wait(made, "ready")
        return made

    def wait(self, tunnel: Tunnel, phase: Phase, deadline_s: float = 20) -> None:
        until(
            lambda: tunnel.seen.phase == phase or not tunnel.is_running,
            deadline_s,
            lambda: (tunnel.seen, self.told),
        )
        assert tunnel.defect is None
        assert tunnel.seen.phase == phase, (tunnel.failed, tunnel.seen)

    def failure(self, tunnel: Tunnel) -> PantheonError:
        until(lambda: not tunnel.is_running, 20, tunnel.seen)
        assert tunnel.defect is None
        assert tunnel.failed
        return tunnel.failed

    def says(self, text: str = "") -> None:
        """What ssh says from now on instead of opening anything."""
        if text:
            (self.folder / "say").write_text(text)
        else:
            (self.folder / "say").unlink()

    @property
    def told(self) -> list[str]:
        return [event.text for event in self.events]


def pid_of(tunnel: Tunnel) -> int:
    carrier = tunnel._carrier
    assert carrier
    return carrier.pid


def cut(tunnel: Tunnel) -> None:
    """The end of its ssh, as of a link that is dead."""
    os.kill(pid_of(tunnel), signal.SIGKILL)


def ask(port: int) -> bytes:
    """A client's own try: what came, or b""."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            link.sendall(b"GET /api/version HTTP/1.0\r\n\r\n")
            return link.recv(100)
    except OSError:
        return b""


@pytest.fixture
def box(tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "ssh.py").write_text(SSH)
    words = shlex.join([sys.executable, "-I", "-S", str(folder / "ssh.py")])
    real = shlex.quote(shutil.which("ssh") or "ssh")
    (folder / "ssh").write_text(f'#!/bin/sh\ncase "$1" in -G) exec {real} "$@";; esac\nexec {words} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(ciphers, "preferred", lambda *_, **__: {})
    monkeypatch.setattr(supervisor, "TICK_S", 0.05)
    monkeypatch.setattr(supervisor, "SOON_S", 0.05)
    monkeypatch.setattr(supervisor, "BUSY_S", (0.05,) * 3)
    monkeypatch.setattr(knock, "EVERY_S", 0.05)
    monkeypatch.setattr(supervisor, "pauses", lambda: iter([0.0] + [0.05] * 10000))
    door, service = Door(), Service()
    known.write_text(f"[127.0.0.1]:{door.port} {key_of(HOST_KEY)}\n")
    made = Box(folder, service, door, Host("box", "127.0.0.1", "ops", door.port, ollama=Ollama(port=service.port)))
    yield made
    for tunnel in made.tunnels:
        tunnel.close()
    door.close()
    service.down()


# ---- open, and closed


def test_ready_means_that_the_service_answers_through_it(box: Box) -> None:
    tunnel = box.opened()
    seen = tunnel.seen
    assert seen.port > box.service.port, "which holds its own port here"
    assert f"port {box.service.port} here is held by" in seen.note
    assert seen.note.endswith(f"so {seen.port}")
    assert (seen.remote_port, seen.reconnects, seen.state) == (box.service.port, 0, "ready")
    assert seen.latency_ms is not None
    assert seen.opened <= seen.since <= time.time()
    assert ask(seen.port).startswith(b"HTTP/1.0 200")
    pid, began = pid_of(tunnel), time.monotonic()
    tunnel.close()
    assert time.monotonic() - began < 2
    assert (tunnel.seen.phase, tunnel.is_running, tunnel.failed) == ("ended", False, None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert ask(seen.port) == b""
    assert box.events == []


def test_closing_waits_for_nobody(box: Box) -> None:
    (box.folder / "hang").touch()
    tunnel = box.tunnel()
    until(lambda: tunnel._carrier)
    began = time.monotonic()
    tunnel.close()
    assert time.monotonic() - began < 2
    assert not tunnel.is_running
    tunnel.close()


# ---- the local port


def test_a_port_that_was_asked_for(box: Box) -> None:
    port = free_port()
    assert box.opened(port=port).seen.port == port
    error = box.failure(box.tunnel(port=port))
    assert isinstance(error, UsageError)
    assert f"port {port} is taken" in error.message


def test_two_that_are_after_the_same_port(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds out when it has logged in."""
    first = box.opened()
    real, lied = ports.free_port, list[int]()

    def free_port(wanted: int, *, only: bool = False) -> int:
        if lied:
            return real(wanted, only=only)
        lied.append(first.seen.port)
        return first.seen.port

    monkeypatch.setattr(ports, "free_port", free_port)
    second = box.opened()
    assert lied
    assert second.seen.port not in (0, first.seen.port)


def test_a_port_that_was_asked_for_and_is_taken_in_the_last_moment(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    first = box.opened()
    real, calls = ports.free_port, list[int]()

    def free_port(wanted: int, *, only: bool = False) -> int:
        calls.append(wanted)
        return wanted if len(calls) == 1 else real(wanted, only=only)

    monkeypatch.setattr(ports, "free_port", free_port)
    assert isinstance(box.failure(box.tunnel(port=first.seen.port)), UsageError)


def test_a_port_that_somebody_has_taken_meanwhile_is_waited_for(box: Box) -> None:
    tunnel = box.opened()
    port = tunnel.seen.port
    box.door.close()
    cut(tunnel)
    box.wait(tunnel, "lost")
    until(lambda: ask(port) == b"")
    thief = Service(port)  # answers exactly as the service does
    box.door.open()
    until(lambda: any("waiting for it" in text for text in box.told))
    assert ask(port)
    time.sleep(0.3)
    assert tunnel.seen.phase == "lost"
    assert f"port {port} is taken" in tunnel.seen.state
    assert sum("waiting for it" in text for text in box.told) == 1
    thief.down()
    box.wait(tunnel, "ready")
    assert tunnel.seen.port == port


# ---- the first opening


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ("ssh: connect to host 127.0.0.1 port {port}: Connection refused", NotReached, "connection refused, no SSH"),
        ("ssh: connect to host 127.0.0.1 port {port}: Connection timed out", NotReached, "no answer within 10 s"),
        ("ssh: connect to host 127.0.0.1 port {port}: No route to host", NotReached, "no route to it"),
        ("ssh: Could not resolve hostname 127.0.0.1: Name or service not known", NotReached, "no address is known"),
        ("Connection timed out during banner exchange", NotReached, "accepts connections but says nothing"),
        ("kex_exchange_identification: Connection closed by remote host", NotReached, "hung up before a word"),
        ("System is booting up.\nConnection closed by 127.0.0.1 port 22", NotReached, "starting or going down"),
        ("Bad configuration option: hostkeyalias", NotReached, "could not open the tunnel to ollama: Bad conf"),
    ],
)
def test_what_ssh_met(box: Box, words: str, kind: type[HostError], message: str) -> None:
    box.says(words.format(port=box.host.port))
    error = box.failure(box.tunnel())
    assert type(error) is kind
    assert message in error.message
    assert error.message.startswith(f"box (ops@127.0.0.1:{box.host.port}): ")
    assert error.next_commands


@pytest.mark.parametrize(
    "words", ["kex_exchange_identification: Connection closed by remote host", "Exceeded MaxStartups"]
)
def test_a_server_that_has_no_room_just_now_is_asked_again(
    box: Box, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(supervisor, "BUSY_S", (0.05,) * 10)
    box.says(words)
    tunnel = box.tunnel()
    until(lambda: tunnel._carrier and tunnel._carrier.ended.is_set())
    box.says()
    box.wait(tunnel, "ready")
    assert (tunnel.seen.reconnects, box.told) == (0, [])


def test_what_stops_every_command_reads_as_it_does_there(box: Box, host: Host, server: SshServer, known: Path) -> None:
    box.says("ops@127.0.0.1: Permission denied (publickey).")
    server.accepts.clear()
    error = box.failure(box.tunnel(host=host))
    assert isinstance(error, LoginRefused)
    assert "refused to let ops in" in error.message
    box.says("Host key for pantheon-0 has changed.\nHost key verification failed.")
    known.write_text(f"[127.0.0.1]:{server.port} {key_of(ed25519_key())}\n")
    error = box.failure(box.tunnel(host=host))
    assert isinstance(error, NotTrusted)
    assert "host key has changed" in error.message
    assert error.next_commands == ("invoke trust --host box --replace",)


def test_an_ssh_that_does_not_know_an_option_can_be_tried_by_hand(box: Box) -> None:
    """Another of our commands would find nothing wrong."""
    box.says("command-line: line 0: Bad configuration option: updatehostkeys")
    tunnel = box.tunnel()
    error = box.failure(tunnel)
    assert error.next_commands == (f"invoke tunnel {tunnel.service} --print-ssh --host {tunnel.host.name}",)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("ops@127.0.0.1: Permission denied (publickey).", LoginRefused), ("Host key verification failed.", NotTrusted)],
)
def test_what_ssh_alone_cannot_is_said_with_its_words(box: Box, host: Host, words: str, kind: type[HostError]) -> None:
    """The other commands can: their login is accepted here."""
    box.says(words)
    error = box.failure(box.tunnel(host=host))
    assert type(error) is kind
    assert error.details == (words,)
    assert error.next_commands


def test_an_unknown_key_opens_nothing(box: Box, known: Path) -> None:
    known.write_text("")
    assert isinstance(box.failure(box.tunnel()), NotTrusted)


def test_without_openssh(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    error = box.failure(box.tunnel())
    assert isinstance(error, NotReached)
    assert "ssh is not installed here" in error.message


def test_a_machine_that_has_run_out_of_processes(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: Host) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(supervisor, "resolve", exhausted)
    error = box.failure(box.tunnel())
    assert isinstance(error, NotReached)
    assert "Resource temporarily unavailable" in error.message


def test_a_login_that_takes_for_ever(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOGIN_S", 0.3)
    (box.folder / "hang").touch()
    error = box.failure(box.tunnel())
    assert isinstance(error, NotReached)
    assert "no login within" in error.message


def test_a_server_that_does_not_forward(box: Box) -> None:
    (box.folder / "forbid").touch()
    error = box.failure(box.tunnel())
    assert isinstance(error, NotAllowed)
    assert error.exit_code == 3
    assert "does not allow forwarding" in error.message
    assert error.next_commands == ("invoke fix.browser-access --host box",)


# ---- a link that is lost


def test_a_lost_link_comes_back_at_the_same_port(box: Box) -> None:
    tunnel = box.opened()
    first = tunnel.seen
    box.door.close()
    cut(tunnel)
    box.wait(tunnel, "lost")
    until(lambda: tunnel.seen.state == "connection refused: no SSH server there")
    assert ask(first.port) == b""
    assert tunnel.seen.latency_ms is None
    box.door.open()
    box.wait(tunnel, "ready", 5)
    assert (tunnel.seen.port, tunnel.seen.reconnects) == (first.port, 1)
    assert tunnel.seen.since > first.since
    assert tunnel.seen.opened == first.opened
    assert box.told[0].startswith("link lost: ")
    assert box.told[1].startswith("link back after ")
    assert [event.sign for event in box.events] == ["!", "✓"]


@pytest.mark.parametrize("shift_s", [-86400, 86400])
def test_the_time_of_day_may_be_set(box: Box, monkeypatch: pytest.MonkeyPatch, shift_s: int) -> None:
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    monkeypatch.setattr(supervisor, "SESSION_S", 0.0)
    tunnel, real = box.opened(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift_s)
    asked = box.service.asked
    until(lambda: box.service.asked > asked + 2)
    assert box.told == []
    cut(tunnel)
    until(lambda: tunnel.seen.reconnects)
    box.wait(tunnel, "ready")
    assert tunnel._session, "one that lived long enough"
    assert not any("slept" in text for text in box.told)


def test_a_link_that_dies_at_once_gets_no_session_again(box: Box) -> None:
    """Whose end it was is not known."""
    tunnel = box.opened()
    cut(tunnel)
    until(lambda: tunnel.seen.reconnects)
    assert not tunnel._session


def test_a_client_that_a_lost_link_leaves_without_an_answer_is_no_fault_of_the_service(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    tunnel = box.opened()
    (box.folder / "dies").touch()
    box.wait(tunnel, "lost")
    (box.folder / "dies").unlink()
    box.wait(tunnel, "ready")
    assert [text.partition(" after")[0] for text in box.told][-2:] == ["link lost: the host ended it", "link back"]
    assert not any("answer" in text for text in box.told)


@pytest.mark.parametrize(
    "words",
    [
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.1 port 22",
        '"System is booting up. See pam_nologin(8)"\nConnection closed by 10.0.0.1 port 22',
        "ssh: Could not resolve hostname box: Temporary failure in name resolution",
        "command-line: line 0: Bad configuration option: nonsense",
    ],
)
def test_what_passes_is_tried_again_for_ever(box: Box, words: str) -> None:
    tunnel = box.opened()
    box.says(words)
    cut(tunnel)
    until(lambda: tunnel.seen.phase == "lost" and not tunnel.seen.state.startswith("ssh ended"))
    time.sleep(0.5)
    assert tunnel.is_running
    box.says()
    box.wait(tunnel, "ready")
    assert tunnel.seen.reconnects == 1


@pytest.mark.parametrize(
    "error",
    [
        NotReached("box: OpenSSH cannot read its configuration for '127.0.0.1'"),
        OSError(24, "Too many open files"),
        None,
    ],
    ids=["ssh_config", "files", "full disk"],
)
def test_what_is_wrong_here_in_the_middle_of_the_day_passes_too(
    box: Box, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    tunnel = box.opened()
    tries = list[int]()
    name = "resolve" if error else "verified_file"
    place: Any = supervisor if error else verified
    real = getattr(place, name)

    def fails(argument: Any) -> Any:
        tries.append(1)
        if len(tries) > 3:
            return real(argument)
        if error:
            raise error
        raise NotTrusted("box: the keys that ssh may trust cannot be written") from OSError(28, "No space left")

    monkeypatch.setattr(place, name, fails)
    cut(tunnel)
    until(lambda: len(tries) > 3)
    box.wait(tunnel, "ready")


@pytest.mark.parametrize(
    ("words", "kind"),
    [("ops@127.0.0.1: Permission denied (publickey).", LoginRefused), ("Host key verification failed.", NotTrusted)],
)
def test_what_is_final_ends_it(box: Box, monkeypatch: pytest.MonkeyPatch, words: str, kind: type[HostError]) -> None:
    monkeypatch.setattr(refused, "_asked", lambda *_: None)
    tunnel = box.opened()
    box.says(words)
    cut(tunnel)
    assert type(box.failure(tunnel)) is kind
    assert ask(tunnel.seen.port) == b""


@pytest.mark.parametrize("words", ["ops@127.0.0.1: Permission denied (publickey).", "Host key verification failed."])
def test_what_is_said_once_is_not_final(box: Box, words: str) -> None:
    tunnel = box.opened()
    box.says(words)
    cut(tunnel)
    until(lambda: tunnel.seen.state in ("the login is refused", "the host key is not the one on record"))
    box.says()
    box.wait(tunnel, "ready")


def test_a_host_that_was_away_may_refuse_a_login_for_a_while(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its users' directories come after its sshd."""
    monkeypatch.setattr(refused, "_asked", lambda *_: None)
    tunnel = box.opened()
    box.door.close()
    box.says("ops@127.0.0.1: Permission denied (publickey).")
    cut(tunnel)
    until(lambda: tunnel.seen.state.startswith("connection refused"))
    box.door.open()
    until(lambda: tunnel.seen.state == "the login is refused")
    until(lambda: tunnel._doubts > supervisor.DOUBTS["refused"])
    assert tunnel.is_running
    monkeypatch.setattr(supervisor, "REFUSED_S", 0.0)
    assert isinstance(box.failure(tunnel), LoginRefused)


def test_many_links_leave_nothing_behind(box: Box) -> None:
    def things() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").glob("*"))), threading.active_count()

    def is_back(number: int) -> bool:
        return (tunnel.seen.reconnects, tunnel.seen.phase) == (number, "ready")

    tunnel = box.opened()
    cut(tunnel)
    until(partial(is_back, 1))
    before = things()
    for number in range(2, 17):
        cut(tunnel)
        until(partial(is_back, number))
    until(lambda: things() <= before)


# ---- ssh itself, and this machine


def test_an_ssh_that_stands_still_is_replaced(box: Box) -> None:
    tunnel = box.opened()
    pid = pid_of(tunnel)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: tunnel.seen.reconnects == 1 and tunnel.seen.phase == "ready", 10)
    assert pid_of(tunnel) != pid
    assert box.told[0] == "link lost: ssh hung"


def test_an_ssh_that_does_nothing_at_all_is_replaced(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ANSWER_S", 0.2)
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    tunnel = box.opened()
    monkeypatch.setattr(Carrier, "turns", lambda _: 7)
    box.service.slow_s = 1.0
    until(lambda: tunnel.seen.reconnects)
    assert "link lost: ssh hung" in box.told


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 0.0
        real = supervisor.awake
        monkeypatch.setattr(supervisor, "awake", lambda: real() + self.slept)


def test_a_sleep_is_said_and_the_link_asked_at_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(supervisor, "PACE_S", 1e6)
    tunnel = box.opened()
    pid = pid_of(tunnel)
    asked = box.service.asked
    clock.slept = 3600 * 3
    until(lambda: box.service.asked > asked)
    until(lambda: box.events)
    assert box.told == ["this machine slept, or pantheon was stopped, for 3 h 0 min"]
    assert (pid_of(tunnel), tunnel.seen.phase) == (pid, "ready")


def test_a_link_that_does_not_answer_after_a_sleep_is_given_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "AWAKE_S", 0.3)
    clock = Clock(monkeypatch)
    tunnel = box.opened()
    box.service.slow_s = 1.0
    clock.slept = 600
    until(lambda: tunnel.seen.reconnects)
    box.service.slow_s = 0.0
    box.wait(tunnel, "ready")
    assert box.told[:2] == [
        "this machine slept, or pantheon was stopped, for 10 min",
        "link lost: no answer since this machine woke",
    ]


# ---- the service


def test_a_service_that_goes_is_noticed_at_once_and_waited_for(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PACE_S", 1e6)
    tunnel = box.opened()
    pid = pid_of(tunnel)
    box.service.down()
    assert ask(tunnel.seen.port) == b""  # a browser's request is what tells of it
    box.wait(tunnel, "waiting", 5)
    gone = f"nothing listens on port {box.service.port} there"
    assert (tunnel.seen.state, tunnel.seen.latency_ms) == (gone, None)
    box.service.up()
    box.wait(tunnel, "ready")
    assert pid_of(tunnel) == pid
    assert box.told[0] == f"ollama does not answer: {gone}"
    assert box.told[1].startswith("ollama answers again after ")


def test_a_slow_service_costs_no_link(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ANSWER_S", 0.2)
    monkeypatch.setattr(supervisor, "SLOW_S", 0.4)
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    tunnel = box.opened()
    pid = pid_of(tunnel)
    box.service.slow_s = 0.6
    box.wait(tunnel, "waiting")
    asked = box.service.asked
    until(lambda: box.service.asked > asked)
    assert pid_of(tunnel) == pid
    assert tunnel.seen.state == "no answer within 0.4 s"
    box.service.slow_s = 0.0
    box.wait(tunnel, "ready")
    assert (pid_of(tunnel), tunnel.seen.reconnects) == (pid, 0)


def test_a_service_that_always_takes_its_time_is_ready(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ANSWER_S", 0.1)
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    box.service.slow_s = 0.3
    tunnel = box.opened()
    assert tunnel.seen.latency_ms
    asked = box.service.asked
    until(lambda: box.service.asked > asked + 2)
    assert (tunnel.seen.phase, tunnel.seen.state, box.events) == ("ready", "ready", [])


class Hour:
    """An hour of one link, in which nobody really waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[float], tuple[str, float]]) -> None:
        self.now, self.answer, self.asked, self.watched = 1000.0, answer, 0, 0
        self.events: list[Event] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        monkeypatch.setattr(supervisor, "time", clock)
        monkeypatch.setattr(supervisor, "awake", clock.time)
        monkeypatch.setattr(answers, "ask", self._ask)
        host = Host("box", "127.0.0.1", "ops", ollama=Ollama())
        self.tunnel = Tunnel(host, "ollama", tell=self.events.append, watch=self._watch)
        wake = SimpleNamespace(wait=self._sleep, clear=lambda: None)
        monkeypatch.setattr(self.tunnel, "_wake", wake)
        monkeypatch.setattr(self.tunnel, "_closing", SimpleNamespace(is_set=lambda: self.now > 4600))
        self.tunnel._attend(cast("Carrier", self))

    def _watch(self, tunnel: Tunnel) -> Watcher:
        self.watched += 1
        return Watcher(tunnel)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _ask(self, _service: str, _port: int, *, timeout_s: float) -> answers.Reply:
        self.asked += 1
        kind, took = self.answer(self.now - 1000)
        self.now += min(took, timeout_s)
        if took > timeout_s:
            return answers.Reply("silent", f"no answer within {timeout_s:g} s", 1000 * timeout_s)
        return answers.Reply(cast("answers.Kind", kind), "ready" if kind == "own" else "503", 1000 * took)

    @property
    def told(self) -> list[str]:
        return [event.text for event in self.events]

    # ---- as a carrier

    refusal = ""
    ended = SimpleNamespace(is_set=lambda: False, wait=lambda _: None)

    def is_alive(self) -> bool:
        return True

    def stands_still(self) -> bool:
        return False

    def turns(self) -> int:
        return self.asked

    def said(self) -> list[str]:
        return []

    def has_lost_its_session(self) -> bool:
        return False


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: ("own", 4.9),
        lambda _: ("own", 6.0),
        lambda _: ("own", 29.0),
        lambda t: ("own", 30.0 - t % 300 if 1 < t % 300 < 30 else 0.1),  # a model is loaded every now and then
    ],
)
def test_slowness_is_no_outage(monkeypatch: pytest.MonkeyPatch, answer: Callable[[float], tuple[str, float]]) -> None:
    hour = Hour(monkeypatch, answer)
    assert (hour.tunnel.seen.phase, hour.events) == ("ready", [])
    assert hour.asked < 500


def test_what_comes_and_goes_is_told_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    hour = Hour(monkeypatch, lambda t: ("failing" if 5 < t % 60 < 20 else "own", 0.1))
    assert len(hour.events) == 6
    assert hour.told[0] == "ollama does not answer: 503"
    assert hour.told[4] == "ollama does not answer: 503; it comes and goes, and is told from now on when it lasts 30 s"
    assert hour.told[5].startswith("ollama answers again after ")
    assert hour.watched == 3


def test_what_comes_and_goes_and_then_lasts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hour = Hour(monkeypatch, lambda t: ("failing" if (t < 600 and 5 < t % 60 < 20) or 1200 < t < 1800 else "own", 0.1))
    assert hour.told[6:] == ["ollama does not answer: 503", "ollama answers again after 10 min"]
    assert (hour.events[6].at - 1000 < 1245, hour.watched) == (True, 4)


class Watcher:
    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel, self.heard, self.stopped = tunnel, list[str](), False

    def hear(self, reply: Any) -> None:
        self.heard.append(reply.text)
        self.tunnel.note(state=f"6/9 installing torch {len(self.heard)}")

    def stop(self) -> None:
        self.stopped = True


def test_while_it_does_not_answer_a_watcher_says_why(box: Box) -> None:
    made = list[Watcher]()

    def watch(tunnel: Tunnel) -> Watcher:
        made.append(Watcher(tunnel))
        return made[-1]

    box.service.down()
    tunnel = box.tunnel(watch=watch, port=free_port())
    until(lambda: made and len(made[0].heard) > 3)
    assert tunnel.seen.state.startswith("6/9 installing torch")
    assert set(made[0].heard) == {f"nothing listens on port {box.service.port} there"}
    box.service.up()
    box.wait(tunnel, "ready")
    assert (len(made), made[0].stopped, tunnel.seen.state) == (1, True, "ready")


def test_a_service_that_has_moved_is_followed(box: Box) -> None:
    tunnel = box.opened()
    first = tunnel.seen
    box.service.down()
    ask(first.port)
    box.wait(tunnel, "waiting")
    moved = Service()
    tunnel.move(moved.port)
    box.wait(tunnel, "ready")
    assert (tunnel.seen.port, tunnel.seen.remote_port) == (first.port, moved.port)
    assert tunnel.seen.reconnects == 0
    assert not any("link" in text for text in box.told)
    moved.down()


def test_a_server_that_forwards_no_more_and_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PACE_S", 0.05)
    monkeypatch.setattr(supervisor, "FORBIDDEN_S", 0.2)
    tunnel = box.opened()
    pid = pid_of(tunnel)
    (box.folder / "forbid").touch()
    box.wait(tunnel, "waiting")
    assert tunnel.seen.state == "the SSH server does not allow forwarding"
    assert tunnel.seen.mend == "invoke fix.browser-access --host box"
    until(lambda: tunnel._carrier and pid_of(tunnel) != pid)  # a login's answer is for as long as it lasts
    (box.folder / "forbid").unlink()
    box.wait(tunnel, "ready")
    assert box.told.count("the SSH server does not allow forwarding") == 1
    assert not any("link" in text for text in box.told)


@pytest.mark.parametrize("soon_s", [supervisor.SESSION_S, 0.0], ids=["at once", "after a while"])
def test_a_host_without_sessions_gets_a_link_without_one(
    box: Box, monkeypatch: pytest.MonkeyPatch, soon_s: float
) -> None:
    monkeypatch.setattr(supervisor, "SESSION_S", soon_s)
    (box.folder / "sessionless").touch()
    box.opened()
    assert box.told == []
