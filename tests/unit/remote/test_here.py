"""What is tried from the workstation: everything at once, as a browser would, and each refusal with its own reason."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from pantheon.errors import LinkLost
from pantheon.here import NOT_ALLOWED, NOTHING_LISTENS, LocalPort
from pantheon.inventory import Host
from pantheon.remote import here
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import head_through, http_through
from pantheon.remote.wire import upgrade
from tests.unit.remote.server import SshServer

SEEN: list[tuple[str, dict[str, str]]] = []


class Service(http.server.BaseHTTPRequestHandler):
    """Takes a websocket from its own origin only, and says nothing more once it is open."""

    def do_GET(self) -> None:
        SEEN.append((self.path, dict(self.headers)))
        origin = self.headers.get("Origin")
        own = origin in (None, f"http://{self.headers['Host']}")
        if "Upgrade" not in self.headers:
            self.send_response(200 if own else 403)
            self.end_headers()
            return
        self.send_response(101 if own else 403)
        self.end_headers()
        self.wfile.flush()
        if own:
            self.rfile.read(6)  # until the goodbye
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def link(connection: HostConnection) -> HostConnection:
    connection.open()
    return connection


def on(port: int) -> Host:
    """A host of which comfy alone is up."""
    host = Host(name="far", address="far", user="ops")
    down = free()
    return replace(
        host,
        comfy=replace(host.comfy, port=port),
        ollama=replace(host.ollama, port=down),
        openwebui=replace(host.openwebui, port=free()),
    )


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_service_in_each_way(server: SshServer, link: HostConnection, port: int) -> None:
    began = time.monotonic()
    found = here.look_from_here(link, on(port))
    assert time.monotonic() - began < 2
    assert [getattr(found.http[name], "status", None) for name in ("comfy", "ollama", "openwebui")] == [200, 0, 0]
    assert getattr(found.websocket["comfy"], "status", None) == 101
    assert getattr(found.browser["comfy"], "status", None) == 200
    assert getattr(found.websocket["openwebui"], "error", "") == NOTHING_LISTENS
    assert "ollama" not in found.websocket
    assert len(server.transports) == 1


def test_a_browser_thinks_it_is_at_the_tunnels_end(link: HostConnection, port: int) -> None:
    SEEN.clear()
    found = here.look_from_here(link, on(port))
    local = found.ports["comfy"]
    assert isinstance(local, LocalPort)
    assert local.free not in (0, port)  # the service itself holds it: it is on this machine
    assert local.holder
    headers = next(headers for path, headers in SEEN if path == "/" and "Origin" in headers)
    assert headers["Host"] == f"127.0.0.1:{local.free}"
    assert headers["Origin"] == f"http://127.0.0.1:{local.free}"


def test_another_origin_is_refused(link: HostConnection, port: int) -> None:
    headers = {"Host": f"127.0.0.1:{port}", "Origin": "https://elsewhere.example"}
    assert head_through(link, port, "/", headers).status == 403
    assert head_through(link, port, "/ws", {**headers, **upgrade()}).status == 403


def test_what_speaks_no_http(link: HostConnection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:

        def greet() -> None:
            line, _ = far.accept()
            with line:
                line.sendall(b"220 mail\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        found = head_through(link, far.getsockname()[1], "/", {}, timeout_s=2)
    assert (found.status, found.error) == (0, "what answers there speaks no HTTP")


def test_what_never_answers_has_a_deadline(link: HostConnection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        began = time.monotonic()
        found = head_through(link, far.getsockname()[1], "/", {}, timeout_s=0.2)
    assert found.error == "no answer within 0.2 s"
    assert time.monotonic() - began < 1


def test_refusals_at_once_each_have_their_own_reason(server: SshServer, link: HostConnection) -> None:
    """paramiko keeps one refusal for all, and told one thread of another's, or of none."""
    server.forwards = False
    tries = {("http", str(n)): partial(http_through, link, "http://127.0.0.1:1/") for n in range(20)}
    assert {answer.error for answer in here.at_once(tries).values()} == {NOT_ALLOWED}
    server.forwards = True
    assert {answer.error for answer in here.at_once(tries).values()} == {NOTHING_LISTENS}


def test_a_lost_link_is_said(server: SshServer, link: HostConnection, port: int) -> None:
    server.drop()
    time.sleep(0.1)
    with pytest.raises(LinkLost):
        here.look_from_here(link, on(port))


def test_a_port_that_is_free_has_no_holder() -> None:
    port = free()
    assert here.local_port(port) == LocalPort(port, "", port)


def test_the_holder_of_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        found = here.local_port(held.getsockname()[1])
    assert isinstance(found, LocalPort)
    assert found.free != found.port
    assert "(pid " in found.holder or found.holder == "another program"


@pytest.mark.parametrize(
    ("answer", "says"),
    [(b"HTTP/1.1 403 Forbidden\r\n\r\n", ""), (b"", "the connection is closed"), (None, "no answer within")],
)
def test_whether_somebody_answers_on_a_port_that_is_held(
    answer: bytes | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "LOCAL_S", 0.3)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                if answer is None:
                    done.wait(5)
                else:
                    link.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        said = here.silent(server.getsockname()[1])
        done.set()
        thread.join()
    assert said.startswith(says) if says else said == ""


def test_a_port_that_nobody_has_any_more_is_silent() -> None:
    assert "refused" in here.silent(free())
