"""Why a service does not answer: said, followed elsewhere, and given up without a trace at any moment."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pantheon.errors import LinkLost, LookFailed, NotAllowed
from pantheon.inventory import Comfy, Host
from pantheon.remote import answers, gather, watcher
from pantheon.remote.answers import Reply
from pantheon.remote.connection import HostConnection
from pantheon.remote.watcher import Watcher
from pantheon.tunnel import Seen
from tests.unit.remote.server import SshServer

SILENT = Reply("silent", "closed without an answer", 1.0)
BUSY = Reply("failing", "503 Service Unavailable", 1.0)
STRANGER = Reply("stranger", "something else answers there (404 Not Found)", 1.0)
ANOTHER = Reply("another", "ollama answers there", 1.0)
MISSING = "its container is missing (none is named comfy)"
HTTPS = Reply("tls", "speaks https: not the documented service", 1.0)


class Tunnel:
    """What a watcher knows of a tunnel."""

    def __init__(self, host: Host) -> None:
        self.host, self.service, self.endpoint, self.vouched = host, "comfy", None, False
        self.seen = Seen("comfy", host.name, 8188, host.comfy.port)
        self.states: list[tuple[str, str]] = []
        self.events: list[tuple[str, str, str]] = []
        self.moves: list[int] = []

    def note(self, *, state: str, mend: str) -> None:
        self.states.append((state, mend))

    def happened(self, sign: str, text: str, mend: str = "") -> None:
        self.events.append((sign, text, mend))

    def move(self, port: int) -> None:
        self.moves.append(port)


def until(question: Callable[[], Any], what: str = "") -> None:
    end = time.monotonic() + 10
    while not question():
        assert time.monotonic() < end, what or question
        time.sleep(0.005)


def frame(container: dict[str, Any] | None, http: int = 0) -> dict[str, Any]:
    return {"frame": "watch", "containers": {"comfy": container}, "http": {"comfy": http}}


def runs(port: int = 8188, *, address: str = "127.0.0.1", **changes: Any) -> dict[str, Any]:
    ports = [{"container_port": "8188/tcp", "address": address, "port": port}]
    return {"state": "running", "health": "healthy", "restarts": 0, "exit_code": 0, "ports": ports, **changes}


class Played:
    """A host whose watches give `frames`; an exception among them is raised. `urls` are what each watch asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: Host, *frames: Any) -> None:
        self.frames, self.opened = list(frames), 0
        self.urls: list[str] = []
        self.waiting, self.heard = threading.Event(), threading.Event()  # frames come when the tunnel has spoken
        monkeypatch.setattr(HostConnection, "open", self._open)
        monkeypatch.setattr(gather, "watch", self._watch)
        monkeypatch.setattr(watcher, "_pauses", lambda: iter([0.0] + [0.01] * 1000))
        self.tunnel = Tunnel(host)
        self.watcher = Watcher(self.tunnel)  # type: ignore[arg-type]

    def _open(self, *_: Any) -> None:
        self.opened += 1

    def _watch(self, _: Any, services: dict[str, str], *, deadline_s: float, calm_s: float, on_frame: Any) -> None:
        self.urls.append(services["comfy"])
        while not self.heard.wait(0.01) and not on_frame.__self__._stopping.is_set():
            pass
        while True:
            while self.frames:
                next_ = self.frames.pop(0)
                if isinstance(next_, Exception):
                    raise next_
                if on_frame(next_):
                    return
            self.waiting.set()
            if on_frame.__self__._stopping.wait(0.01):
                return

    @property
    def last(self) -> tuple[str, str]:
        return self.tunnel.states[-1]


@pytest.fixture
def box() -> Host:
    return Host("box", "127.0.0.1", user="ops", port=1, comfy=Comfy(port=8188))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, box: Host) -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def start(*frames: Any, hear: Reply | None = SILENT) -> Played:
        held = Played.__new__(Played)
        made.append(held)
        Played.__init__(held, monkeypatch, box, *frames)
        if hear:
            held.watcher.hear(hear)
        held.heard.set()
        until(held.waiting.is_set)
        return held

    yield start
    for played in made:
        played.watcher.stop()
        assert not played.watcher._thread.is_alive()
        assert played.watcher.defect is None


def test_what_the_container_says(play: Callable[..., Played]) -> None:
    played = play(frame(None))
    until(lambda: (MISSING, "invoke comfy --host box") in played.tunnel.states)
    assert played.tunnel.events == [("!", MISSING, "invoke comfy --host box")]


def test_an_event_for_each_stage_and_trouble_and_no_other(play: Callable[..., Played]) -> None:
    torch = ["== Pre-installing/Upgrading torch"]
    played = play(
        frame(runs(health="starting", log=["== Creating virtualenv"])),
        frame(runs(health="starting", log=torch)),
        frame(runs(health="starting", log=["Downloading torch (1.1 GB)"])),
        frame(runs(health="starting", log=["Downloading torch (1.2 GB)"])),
        *(frame(runs(state="restarting", restarts=n, exit_code=1, log=["no"])) for n in (1, 2, 3)),
    )
    for _ in range(5):
        played.watcher.hear(SILENT)
    texts = [text for _, text, _ in played.tunnel.events]
    assert texts == [
        "5/9 creating the virtual environment",
        "6/9 installing torch",
        "restarts (exit code 1): no",
        "restarts over and over (exit code 1): no",
    ]
    assert [sign for sign, *_ in played.tunnel.events] == ["·", "·", "!", "!"]


def test_without_words_what_came_instead_of_an_answer_is_shown(play: Callable[..., Played]) -> None:
    played = play()
    assert played.last == ("closed without an answer", "")
    assert played.tunnel.events == []


STATES = [
    # An answer that is none says more than a container that is well.
    (BUSY, frame(runs(), 503), "503 Service Unavailable", ""),
    (BUSY, frame(runs(health="starting"), 503), "503 Service Unavailable", ""),
    (BUSY, frame(runs(health="unhealthy", log=["no"]), 503), "runs, and is not healthy: no", "invoke diagnose"),
    (BUSY, frame(runs(state="exited", exit_code=1)),
     "503 Service Unavailable, and its container is stopped (exit code 1)", "invoke diagnose"),
    (ANOTHER, frame(runs(), 200), "ollama answers there", "invoke diagnose"),
    (ANOTHER, frame(None, 200), f"ollama answers there, and {MISSING}", "invoke comfy"),
    (HTTPS, frame(runs(), 400), "speaks https: not the documented service", "invoke fix.wrong-version-number"),
    (SILENT, frame(runs()), "closed without an answer", ""),  # not yet
]  # fmt: skip


@pytest.mark.parametrize(("heard", "came", "text", "mend"), STATES)
def test_what_is_shown(play: Callable[..., Played], heard: Reply, came: Any, text: str, mend: str) -> None:
    played = play(came, hear=None)
    played.watcher.hear(heard)
    assert played.last == (text, f"{mend} --host box" if mend else "")


def test_one_that_is_well_and_does_not_answer(play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "HELD_S", -1.0)
    monkeypatch.setattr(answers, "speaks_tls", lambda *_, **__: False)
    played = play(frame(runs()))
    assert played.last == ("runs, healthy, and does not answer (busy?)", "invoke diagnose --host box")


@pytest.mark.parametrize("health", ["healthy", "unhealthy", None])
def test_one_that_hangs_up_on_http_may_speak_https(
    play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch, health: str | None
) -> None:
    asked: list[int] = []

    def speaks_tls(port: int, *, timeout_s: float) -> bool:
        asked.append(port)
        return True

    monkeypatch.setattr(answers, "speaks_tls", speaks_tls)
    played = play(*[frame(runs(health=health))] * 3)
    assert played.last == ("speaks https: not the documented service", "invoke fix.wrong-version-number --host box")
    assert len(asked) <= 1
    played.watcher.hear(BUSY)
    assert "https" not in played.last[0]


def test_forwarding_that_is_forbidden(play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "HELD_S", -1.0)
    monkeypatch.setattr(answers, "speaks_tls", lambda *_, **__: False)
    play_ = play(frame(runs(), 200))
    until(lambda: any("not through the tunnel" in state for state, _ in play_.tunnel.states))
    assert ("!", "answers on the host, but not through the tunnel", "invoke fix.browser-access --host box") in (
        play_.tunnel.events
    )


# ---- elsewhere


def test_it_is_followed_to_another_port(play: Callable[..., Played]) -> None:
    played = play(frame(runs()), frame(runs(8189)), frame(runs(8189)))
    assert played.tunnel.moves == [8189]
    assert played.tunnel.events[-1] == (
        "!",
        "moved from port 8188 to 8189 on the host, followed; hosts.toml here says 8188",
        "set port = 8189 for comfy in hosts.toml",
    )
    assert played.urls == [
        "http://127.0.0.1:8188/system_stats",
        "http://127.0.0.1:8189/system_stats",
    ]
    assert played.opened == 1


def test_what_another_loopback_address_has_is_not_followed(play: Callable[..., Played]) -> None:
    played = play(frame(runs(address="127.0.0.2")))
    fix = "invoke fix.browser-access --host box"
    assert ("is published on 127.0.0.2:8188 only, not on 127.0.0.1", fix) in played.tunnel.states
    assert played.tunnel.moves == []


def test_who_takes_his_time_under_another_name(play: Callable[..., Played]) -> None:
    """A stack made by hand: no container has our name, and nothing needs to be done."""
    played = play(frame(None), hear=Reply("silent", "no answer within 5 s", 5000.0))
    until(lambda: (f"no answer within 5 s, and {MISSING}", "") in played.tunnel.states)
    assert played.tunnel.events == []


def test_a_proxy_in_front_of_it_is_not_gone_around(play: Callable[..., Played]) -> None:
    """It has the port of hosts.toml, the container another one, and is what asks for a password."""
    played = play(frame(runs(8190)), hear=Reply("failing", "502 Bad Gateway", 1.0))
    until(lambda: ("502 Bad Gateway", "") in played.tunnel.states)
    assert (played.tunnel.moves, played.tunnel.events) == ([], [])


def test_who_is_only_slow_is_not_left(play: Callable[..., Played]) -> None:
    """A proxy that hosts.toml names, with an upload under way: following the container's port would cut it off."""
    played = play(frame(runs(8189)), hear=Reply("silent", f"{answers.LATE} 5 s", 5000.0))
    assert played.tunnel.moves == []


def test_it_comes_back_to_the_port_of_hosts_toml(play: Callable[..., Played]) -> None:
    played = play(frame(runs(9000)), frame(runs(8188)))
    assert played.tunnel.moves == [9000, 8188]
    assert played.tunnel.events[-1] == (
        "!",
        "moved from port 9000 to 8188 on the host, followed, as hosts.toml says",
        "",
    )


def test_what_is_published_beyond_loopback(play: Callable[..., Played]) -> None:
    fix = "invoke fix.exposed-ports --host box"
    played = play(frame(runs(8189, address="0.0.0.0")))
    assert ("!", "is published beyond loopback: 0.0.0.0:8189", fix) in played.tunnel.events
    assert played.tunnel.moves == [8189]  # 127.0.0.1 reaches it too


def test_what_127_0_0_1_does_not_reach_is_not_followed(play: Callable[..., Played]) -> None:
    played = play(frame(runs(8189, address="10.0.99.10")))
    fix = "invoke fix.exposed-ports --host box"
    assert ("is published on 10.0.99.10:8189 only, not on 127.0.0.1", fix) in played.tunnel.states
    assert played.tunnel.moves == []


def test_two_ports_are_one_too_many(play: Callable[..., Played]) -> None:
    ports = [{"container_port": "8188/tcp", "address": "127.0.0.1", "port": port} for port in (9000, 9001)]
    played = play(frame(runs() | {"ports": ports}))
    assert ("is published on ports 9000, 9001, not on 8188", "set its port in hosts.toml") in played.tunnel.states
    assert played.tunnel.moves == []


@pytest.mark.parametrize(("heard", "vouched"), [(STRANGER, True), (SILENT, False), (ANOTHER, False)])
def test_its_own_container_vouches_for_a_stranger(
    monkeypatch: pytest.MonkeyPatch, box: Host, heard: Reply, vouched: bool
) -> None:
    played = Played(monkeypatch, box, frame(runs(), 404))
    played.watcher.hear(heard)
    played.heard.set()
    until(played.waiting.is_set)
    played.watcher.stop()
    assert played.tunnel.vouched is vouched


# ---- what keeps it from looking


def test_without_sudo_it_says_why_it_cannot_see(monkeypatch: pytest.MonkeyPatch, box: Host) -> None:
    error = NotAllowed("box (ops@h:22): sudo asks for the password of ops", next_commands=["the same command with --x"])
    played = Played(monkeypatch, box, error)
    played.watcher.hear(SILENT)
    played.heard.set()
    until(lambda: not played.watcher._thread.is_alive())
    assert played.last == (
        "closed without an answer; why cannot be seen: sudo asks for the password of ops",
        "the same command with --x",
    )
    played.watcher.hear(BUSY)
    assert played.last[0].startswith("503 Service Unavailable; why")
    assert len(played.tunnel.events) <= 2
    assert played.opened == 1


def test_a_link_that_is_lost_is_tried_again(play: Callable[..., Played]) -> None:
    played = play(LinkLost("box: gone"), LookFailed("box: no JSON"), frame(None))
    until(lambda: (MISSING, "invoke comfy --host box") in played.tunnel.states)
    assert played.opened == 3


def test_a_defect_of_its_own_is_said_once(monkeypatch: pytest.MonkeyPatch, box: Host) -> None:
    def broken(*_: Any) -> None:
        tries.append(1)
        raise KeyError("state")

    tries: list[int] = []
    monkeypatch.setattr(HostConnection, "open", broken)
    monkeypatch.setattr(watcher, "_pauses", lambda: iter([0.0] * 1000))
    tunnel = Tunnel(box)
    made = Watcher(tunnel)  # type: ignore[arg-type]
    made.hear(SILENT)
    until(lambda: len(tries) > 2)
    made.stop()
    assert tunnel.events == [("!", "why it does not answer cannot be seen: KeyError: 'state'", "")]


def test_a_password_is_asked_for_once() -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    ask = watcher._Once(answer)
    threads = [threading.Thread(target=ask, args=("password: ",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (asked, ask("again")) == (["password: "], "secret")


# ---- its end


def test_nothing_is_said_after_the_end(play: Callable[..., Played]) -> None:
    played = play(frame(None))
    played.watcher.stop()
    said = len(played.tunnel.states), len(played.tunnel.events)
    played.watcher.hear(BUSY)
    played.watcher._on_frame(frame(runs()))
    played.watcher._follow(1)
    assert (len(played.tunnel.states), len(played.tunnel.events)) == said
    assert played.tunnel.moves == []


def stopped_quickly(made: Watcher) -> None:
    began = time.monotonic()
    made.stop()
    assert not made._thread.is_alive()
    assert time.monotonic() - began < 1.5
    assert made.defect is None


def test_stopped_before_it_began(host: Host) -> None:
    stopped_quickly(Watcher(Tunnel(host)))  # type: ignore[arg-type]


def test_stopped_while_it_connects(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full answers no further connection."""
    monkeypatch.setattr(watcher, "SOON_S", 0.0)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        made = Watcher(Tunnel(replace(host, port=address[1])))  # type: ignore[arg-type]
        time.sleep(0.3)
        stopped_quickly(made)
        for filler in fillers:
            filler.close()


def test_stopped_before_a_word_was_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SOON_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = Watcher(Tunnel(replace(host, port=silent.getsockname()[1])))  # type: ignore[arg-type]
        line, _ = silent.accept()
        with line:
            stopped_quickly(made)
            line.settimeout(3)
            while line.recv(4096):
                pass  # it has hung up


def test_stopped_in_the_middle_of_the_handshake(host: Host, server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SOON_S", 0.0)
    server.frozen = True
    made = Watcher(Tunnel(host))  # type: ignore[arg-type]
    until(lambda: server.transports)
    time.sleep(0.1)
    stopped_quickly(made)
    server.frozen = False


PROBE = """
import json, time
def main(spec, stdin, stdout):
    print(json.dumps({"frame": "watch", "containers": {"comfy": None}, "http": {}}), file=stdout, flush=True)
    time.sleep(60)
"""


def test_stopped_while_it_watches(
    host: Host, server: SshServer, ship: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "SOON_S", 0.0)
    monkeypatch.setattr(gather, "PROBE", ship(PROBE))
    tunnel = Tunnel(host)
    made = Watcher(tunnel)  # type: ignore[arg-type]
    made.hear(SILENT)
    until(lambda: (MISSING, "invoke comfy --host box") in tunnel.states)
    stopped_quickly(made)


def test_a_host_that_refuses_us_is_no_matter_of_the_tunnel(
    host: Host, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "_pauses", lambda: iter([0.0] + [0.05] * 1000))
    server.accepts.clear()
    tunnel = Tunnel(host)
    made = Watcher(tunnel)  # type: ignore[arg-type]
    made.hear(SILENT)
    until(lambda: len(server.offered) > 1)
    stopped_quickly(made)
    assert tunnel.states == [("closed without an answer", "")]
    assert tunnel.events == []
