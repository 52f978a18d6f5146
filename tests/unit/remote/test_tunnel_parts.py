"""A tunnel's supervisor without an ssh: its pace, its local port, what it says of a websocket."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pantheon.inventory import Comfy, Host
from pantheon.record import Entry
from pantheon.remote import answers, knock, ledger, ports
from pantheon.remote.answers import Reply
from pantheon.remote.ledger import Record
from pantheon.remote.tunnel import Tunnel
from pantheon.tunnel import Event, Phase, Seen, pauses

BOX = Host("box", "127.0.0.1", "ops", 2222)
WELL = Reply("own", "ready", 3.0)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_the_service_is_asked_at_a_gentle_pace() -> None:
    tunnel = Tunnel(BOX, "comfy")
    tunnel.note(phase="ready")
    assert 5 <= tunnel._pace() <= 30
    tunnel.note(phase="waiting")
    assert 0.5 <= tunnel._pace() <= 2
    tunnel._unanswered = 600  # it has been down for ten minutes
    assert 5 <= tunnel._pace() <= 10


def test_a_network_that_is_back_is_used_within_three_seconds() -> None:
    assert knock.EVERY_S + sum(islice(pauses(), 3)) < 3
    assert knock.EVERY_S >= 0.5


def on_record(port: int, phase: Phase) -> Record:
    """A tunnel of another process, as far as this one can tell."""
    seen = Seen("comfy", "elsewhere", port, 8188, phase)
    return Record.make(Entry(seen, os.getpid(), "ops@10.0.0.9"), f"comfy-{phase}")


def test_a_port_of_ours_whose_link_is_lost_is_left_to_it() -> None:
    own = ports.free_port(22000 + os.getpid() % 997)
    tunnel = Tunnel(Host("box", "127.0.0.1", "ops", 2222, comfy=Comfy(port=own)), "comfy")
    record = on_record(own, "lost")
    port = tunnel._local_port(again=False)
    assert port > own
    assert tunnel.seen.note == f"port {own} here is kept for the tunnel to comfy of elsewhere, so {port}"
    record.remove()
    assert tunnel._local_port(again=False) == own


def test_a_record_that_nobody_holds_keeps_no_port() -> None:
    own = ports.free_port(22000 + os.getpid() % 997)
    tunnel = Tunnel(Host("box", "127.0.0.1", "ops", 2222, comfy=Comfy(port=own)), "comfy")
    on_record(own, "lost").leave()
    assert tunnel._local_port(again=False) == own
    assert ledger.entries() == []


def test_without_its_websocket_a_service_is_ready_and_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    events, why = list[Event](), ["403 Forbidden"]
    monkeypatch.setattr(answers, "no_websocket", lambda *_, **__: why[0])
    carrier: Any = SimpleNamespace(is_alive=lambda: True, refusal="")
    tunnel = Tunnel(BOX, "comfy", tell=events.append)
    for _ in range(3):
        tunnel._answers(carrier, WELL)
    assert (tunnel.seen.phase, tunnel.seen.websocket) == ("ready", "403 Forbidden")
    assert tunnel.seen.mend == "invoke fix.browser-access --host box"
    assert [event.text for event in events] == ["comfy takes no websocket (403 Forbidden): its page stays dead"]
    why[0] = ""
    tunnel._answers(carrier, WELL)
    assert (tunnel.seen.websocket, tunnel.seen.mend) == ("", "")


def test_a_login_in_front_of_it_is_asked_for_no_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "no_websocket", lambda *_, **__: "401 Unauthorized")
    tunnel = Tunnel(BOX, "comfy")
    carrier: Any = SimpleNamespace(is_alive=lambda: True, refusal="")
    tunnel._answers(carrier, Reply("door", "ready, behind a login (401 Unauthorized)", 3.0))
    assert (tunnel.seen.phase, tunnel.seen.websocket) == ("ready", "")
