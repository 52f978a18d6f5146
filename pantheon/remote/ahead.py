"""The first look at a host, begun before the rest of the program is imported: what plans and draws (0.1 s) comes in
while the host is at work.

    begun = Ahead(host)                                # returns when the question is on its way
    with begun.connection() as connection: ...         # raises what connecting raised
        gather.look(connection, host)                  # the answer to that question
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pantheon.inventory import Host
from pantheon.remote.endpoint import Early

PATIENCE_S = 0.5  # then the rest is imported all the same: an operator wants to see what is waited for


class Ahead:
    def __init__(self, host: Host) -> None:
        self.began = time.monotonic()
        self._host, self._early = host, Early(host)
        self._connection: Any = None
        self._document: object = None
        self._error: BaseException | None = None
        self._open, self._asked, self._answered = (threading.Event() for _ in range(3))
        threading.Thread(target=self._work, name="pantheon-ahead", daemon=True).start()
        self._asked.wait(PATIENCE_S)

    def _work(self) -> None:
        try:
            from pantheon.remote import gather
            from pantheon.remote.connection import HostConnection

            connection = HostConnection.to(self._host, early=self._early)
            connection.open()
            connection.first_look = self._answer
            self._connection = connection
            self._open.set()
            self._document = gather.ask(connection, self._host, on_sent=self._asked.set)
        except BaseException as error:  # raised again in the thread that can handle it
            self._error = error
        finally:
            for event in (self._open, self._asked, self._answered):
                event.set()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """The open connection, which asks no second time for what was asked already. Raises what opening it raised."""
        self._open.wait()
        if self._connection is None:
            assert self._error is not None
            raise self._error
        with self._connection as connection:
            yield connection

    def _answer(self) -> object:
        """The document of the first look. Raises what looking raised."""
        self._answered.wait()
        if self._error:
            raise self._error
        return self._document
