"""The first look begins before the rest is imported: its answer, and what goes wrong, comes where it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pantheon.errors import LookFailed, NotReached
from pantheon.inventory import Host
from pantheon.remote import ahead, gather
from pantheon.remote.connection import HostConnection

HOST = Host("h", "127.0.0.1", user="u", port=1)


class Fake:
    """A connection that opens, or raises what it was given."""

    first_look: Any = None
    closed = False

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def open(self) -> None:
        if self.error:
            raise self.error

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed = True


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "Early", lambda host: None)


def given(monkeypatch: pytest.MonkeyPatch, connection: Fake, ask: Any) -> None:
    monkeypatch.setattr(HostConnection, "to", lambda host, early: connection)
    monkeypatch.setattr(gather, "ask", ask)


@pytest.mark.usefixtures("early")
class TestAhead:
    def test_the_answer_is_kept_for_the_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def ask(connection: Any, host: Host, *, on_sent: Any = None) -> object:
            asked.append(host)
            if on_sent:
                on_sent()
            return {"seen": len(asked)}

        given(monkeypatch, Fake(), ask)
        monkeypatch.setattr("pantheon.facts.parse", lambda document: document)
        seen: Callable[[Any], object] = partial(gather.look, host=HOST)
        with ahead.Ahead(HOST).connection() as connection:
            assert seen(connection) == {"seen": 1}
            assert asked == [HOST]
            assert seen(connection) == {"seen": 2}, "the second look is a new one"
        assert connection.closed

    def test_what_connecting_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given(monkeypatch, Fake(NotReached("no route")), None)
        begun = ahead.Ahead(HOST)
        with pytest.raises(NotReached, match="no route"), begun.connection():
            pass

    def test_what_looking_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ask(connection: Any, host: Host, *, on_sent: Any = None) -> object:
            raise LookFailed("it was killed on the host")

        given(monkeypatch, Fake(), ask)
        begun = ahead.Ahead(HOST)
        with begun.connection() as connection, pytest.raises(LookFailed, match="killed"):
            gather.look(connection, HOST)
        assert connection.closed

    def test_a_host_that_does_not_answer_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Past PATIENCE_S the caller goes on, and shows an operator what is waited for."""
        release = threading.Event()
        connection = Fake()
        monkeypatch.setattr(connection, "open", lambda: release.wait(10))
        given(monkeypatch, connection, lambda *_, **__: {})
        monkeypatch.setattr(ahead, "PATIENCE_S", 0.1)
        before = time.monotonic()
        begun = ahead.Ahead(HOST)
        assert time.monotonic() - before < 2
        release.set()
        with begun.connection() as opened:
            assert opened is connection
