"""HTTP through the SSH connection: what answers, what does not, and why."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from pantheon.errors import LinkLost
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import http_through
from pantheon.remote.wire import MOST_BYTES
from tests.unit.remote.server import SshServer

SEEN: list[dict[str, str]] = []


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        SEEN.append(dict(self.headers))
        if self.path == "/slow":
            time.sleep(1)
        if self.path.startswith("/to="):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(503 if self.path == "/busy" else 200)
        self.end_headers()
        if self.path == "/late":
            time.sleep(0.01)
        body = b"x" * (MOST_BYTES * 3) if self.path == "/big" else "grüße".encode()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def link(connection: HostConnection) -> HostConnection:
    connection.open()
    return connection


def test_an_answer(link: HostConnection, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    found = http_through(link, web + "/")
    assert (found.status, found.reason, found.body, found.error, found.url) == (200, "OK", "grüße", "", web + "/")
    assert found.ms > 0
    assert SEEN[-1]["Connection"] == "close"
    assert SEEN[-1]["Host"] == web.removeprefix("http://")


def test_a_body_that_comes_after_the_headers(link: HostConnection, web: str) -> None:
    for _ in range(20):
        assert http_through(link, web + "/late").body == "grüße"


def test_many_on_one_connection(server: SshServer, link: HostConnection, web: str) -> None:
    assert [http_through(link, web).status for _ in range(12)] == [200] * 12
    assert len(server.transports) == 1


def test_a_status_is_an_answer_too(link: HostConnection, web: str) -> None:
    assert http_through(link, web + "/busy").status == 503


def test_a_body_is_bounded(link: HostConnection, web: str) -> None:
    assert len(http_through(link, web + "/big").body) == MOST_BYTES


def test_redirects_stay_on_loopback(link: HostConnection, web: str) -> None:
    assert http_through(link, web + "/to=/there").status == 200
    assert http_through(link, web + "/to=http://example.com/").status == 302
    assert http_through(link, web + "/to=" + web + "/to=" + web + "/to=/again").status == 302


def test_what_is_not_on_loopback_is_not_asked(link: HostConnection) -> None:
    assert http_through(link, "http://example.com/").error == "http://example.com/ is not on the host's loopback"


def test_nothing_listens(link: HostConnection) -> None:
    found = http_through(link, "http://127.0.0.1:1/")
    assert (found.status, found.error) == (0, "nothing listens there (connection refused on the host)")


def test_too_slow(link: HostConnection, web: str) -> None:
    began = time.monotonic()
    assert http_through(link, web + "/slow", timeout_s=0.2).error == "no answer within 0.2 s"
    assert time.monotonic() - began < 0.8


def test_forwarding_is_not_allowed(server: SshServer, link: HostConnection, web: str) -> None:
    server.forwards = False
    assert "does not allow forwarding (AllowTcpForwarding" in http_through(link, web).error


def test_a_lost_link_is_not_a_silent_service(server: SshServer, link: HostConnection, web: str) -> None:
    server.drop()
    time.sleep(0.1)
    with pytest.raises(LinkLost):
        http_through(link, web)
