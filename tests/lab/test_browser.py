"""Real clients through `invoke tunnel`: a browser that shows the services' pages, requests, and a websocket client; and
what they notice of an sshd that restarts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
from conftest import World, until

from lab import browser as browsers
from lab import faults
from lab.devtools import Browser, BrowserError, Page
from lab.outer import LabError
from pantheon.remote import ports

pytestmark = pytest.mark.lab

MIB = 1 << 20
OUTPUTS = "/mnt/local/ssd/ai/outputs/comfy"
SOCKETS = {"comfy": "/ws", "openwebui": "/ws/socket.io/?EIO=4&transport=websocket"}
CONNECTED = {"comfy": "queue: 0", "openwebui": "connected"}
# What the console of a page says while it knocks at a closed door, as each page with a websocket does.
KNOCKING = re.compile(r"WebSocket connection to 'ws://[^']+' failed|net::ERR_(CONNECTION|EMPTY_RESPONSE|SOCKET)")

# Below the ports that the kernel hands out to clients, or one of those would have ours while the link is down.
_candidates = itertools.count(15000 + os.getpid() % 97 * 50)


def a_port() -> int:
    return next(port for port in _candidates if ports.free_port(port) == port)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not browsers.find():
        pytest.skip("NOT RUN: no browser on this machine. Next: python -m lab.browser")
    with Browser() as made:
        yield made


@contextlib.contextmanager
def tunnel(world: World, service: str) -> Iterator[int]:
    """The local port of a tunnel that is ready, and that ends as it should."""
    port = a_port()
    with world.running("tunnel", service, "--port", str(port)) as running:
        running.wait_for(f"http://127.0.0.1:{port}/", 30)
        yield port
        running.signal(signal.SIGINT)
        ended = running.end(10)
        assert ended.code == 0, ended.seen


def names() -> list[str]:
    """What people type; localhost is whichever of ::1 and 127.0.0.1 the browser takes."""
    found = ["127.0.0.1", "localhost"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        found.append("[::1]")
    return found


# ---- what a page and its server say to each other


def is_connected(page: Page, service: str) -> bool:
    return bool(page.evaluate("document.getElementById('status')?.textContent") == CONNECTED[service])


def talk(page: Page, service: str) -> None:
    """Messages both ways on the page's websocket, seen as frames."""
    until(partial(is_connected, page, service), 20, f"connected: {page.console}")
    word = os.urandom(8).hex()
    if service == "comfy":
        until(
            lambda: page.said("sent", "feature_flags") and page.said("received", "max_upload_size"), 10, "its features"
        )
        page.evaluate(f"fetch('/api/prompt', {{method: 'POST', body: {json.dumps(json.dumps(preview(word)))}}})")
        until(lambda: page.said("received", word), 10, "what the prompt shows")
    else:
        assert page.evaluate(f"socket.emit('heartbeat', {{word: '{word}'}})") == []
        until(lambda: page.said("sent", word), 10, "the event")
        until(lambda: [one for one in page.said("sent", "3") if one.text == "3"], 10, "an answer to a ping")


def preview(text: str) -> dict[str, Any]:
    """A prompt that sends a text back over the websocket."""
    return {"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": text}}}}


def shows(browser: Browser, url: str, service: str) -> Page:
    """A fresh page that loads, talks, and has nothing to complain of."""
    page = browser.page(url)
    talk(page, service)
    assert page.complaints == [], url
    assert page.requests
    assert page.sockets
    return page


@pytest.mark.parametrize("service", ["comfy", "openwebui"])
def test_a_page_before_and_after_sshd_restarts(brought_up: World, browser: Browser, service: str) -> None:
    with tunnel(brought_up, service) as port:
        pages = [shows(browser, f"http://{name}:{port}/", service) for name in names()]
        page, *others = pages
        for other in others:
            other.close()

        # The session outlives it: the same websocket goes on, and nobody notices.
        faults.restart_sshd(brought_up.lab)
        talk(page, service)
        assert len(page.sockets) == 1
        assert page.complaints == []
        shows(browser, f"http://localhost:{port}/", service).close()

        # And when the session goes, the link is made anew on the same port, and the page's own patience does the rest.
        faults.end_sessions(brought_up.lab)
        until(lambda: len(page.sockets) > 1, 20, "the page tries again")
        talk(page, service)
        assert [one for one in page.complaints if not KNOCKING.search(one)] == []
        page.complaints.clear()
        talk(page, service)
        assert page.complaints == []
        page.close()
        for name in names():
            shows(browser, f"http://{name}:{port}/", service).close()


def test_a_page_of_fifty_pictures(brought_up: World, browser: Browser) -> None:
    nodes = {str(number): {"class_type": "SaveImage", "inputs": {"filename_prefix": "browser"}} for number in range(50)}
    loaded = "[...document.images].filter((one) => one.complete && one.naturalWidth === 64).length"
    with tunnel(brought_up, "comfy") as port:
        page = shows(browser, f"http://127.0.0.1:{port}/", "comfy")
        try:
            page.evaluate(
                f"fetch('/api/prompt', {{method: 'POST', body: {json.dumps(json.dumps({'prompt': nodes}))}}})"
            )
            until(lambda: page.evaluate(loaded) == 50, 20, "fifty pictures")
        finally:
            brought_up.sh('rm -f "$1"/browser_*', OUTPUTS)
        assert sum("/api/view?" in url for url in page.requests.values()) == 50
        assert page.complaints == []
        page.close()


def test_a_text_in_the_browser(brought_up: World, browser: Browser) -> None:
    with tunnel(brought_up, "ollama") as port:
        page = browser.page(f"http://localhost:{port}/")
        assert page.evaluate("document.body.innerText") == "Ollama is running"
        page.close()
    with pytest.raises(BrowserError, match="ERR_CONNECTION_REFUSED"):
        browser.page(f"http://127.0.0.1:{port}/")


# ---- clients of Python's


def connect(port: int, service: str) -> websocket.WebSocket:
    return websocket.create_connection(f"ws://127.0.0.1:{port}{SOCKETS[service]}", timeout=20)


def received(client: websocket.WebSocket, text: str) -> str:
    """The next message with this text in it."""
    while text not in (message := str(client.recv())):
        pass
    return message


def test_a_megabyte_each_way_and_a_ping(brought_up: World) -> None:
    big = os.urandom(MIB // 2).hex()
    with tunnel(brought_up, "comfy") as port, contextlib.closing(connect(port, "comfy")) as client:
        received(client, '"sid"')
        client.send(json.dumps({"type": "feature_flags", "data": {"big": big}}))
        assert json.loads(received(client, '"feature_flags"'))["data"]["supports_preview_metadata"]
        client.ping("are you there")
        assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"are you there")
        posted = requests.post(f"http://127.0.0.1:{port}/api/prompt", json=preview(big), timeout=20)
        assert posted.status_code == 200
        shown = json.loads(received(client, '"executed"'))
        assert shown["data"]["output"]["text"] == [big]


def test_many_messages_and_thirty_clients_at_once(brought_up: World) -> None:
    def one(number: int) -> None:
        with contextlib.closing(connect(port, "openwebui")) as client, requests.Session() as session:
            client.send("40{}")
            received(client, "40{")
            for turn in range(10):
                client.send(f'42{turn}["heartbeat",{{"client":{number}}}]')
                assert session.get(f"http://127.0.0.1:{port}/api/version", timeout=20).json()["version"]
                assert received(client, f"43{turn}[") == f"43{turn}[]"

    with tunnel(brought_up, "openwebui") as port:
        with ThreadPoolExecutor(30) as pool:
            list(pool.map(one, range(30)))

        with contextlib.closing(connect(port, "openwebui")) as client:
            client.send("40{}")
            received(client, "40{")
            for number in range(1000):
                client.send(f'42{number}["heartbeat",{{}}]')
            answers = [received(client, "43") for _ in range(1000)]
            assert answers == [f"43{number}[]" for number in range(1000)]

        with requests.Session() as session:
            url = f"http://127.0.0.1:{port}/api/version"
            assert all(session.get(url, timeout=20).ok for _ in range(200))
            pools = session.get_adapter(url).poolmanager.pools  # type: ignore[attr-defined]
            kept = [pools[key] for key in pools.keys()]  # noqa: SIM118  # it is no dict
            assert [(pool.num_connections, pool.num_requests) for pool in kept] == [(1, 200)]


# ---- the browser itself


def test_a_page_says_what_went_wrong(brought_up: World, browser: Browser) -> None:
    with tunnel(brought_up, "comfy") as port:
        page = shows(browser, f"http://127.0.0.1:{port}/", "comfy")
        with pytest.raises(BrowserError, match="oh no"):
            page.evaluate("Promise.reject(new Error('oh no'))")
        page.evaluate("console.error('from the page')")
        page.evaluate("fetch('/api/nothing-there')")
        page.evaluate("setTimeout(() => { throw new Error('thrown later') })")
        page.evaluate("fetch('http://pantheon.example/').catch(() => null)")  # no name resolves but localhost
        for text in ("from the page", "404: ", "exception: Error: thrown later", "ERR_NAME_NOT_RESOLVED"):
            until(lambda text=text: any(text in one for one in page.complaints), 10, f"{text} in {page.complaints}")  # type: ignore[misc]
        page.close()


def test_nothing_is_left_of_a_browser() -> None:
    if not browsers.find():
        pytest.skip("NOT RUN: no browser on this machine. Next: python -m lab.browser")
    with Browser() as made:
        folder = made.folder
        assert running_with(folder)
    assert not folder.exists()
    until(lambda: not running_with(folder), 10, "its processes have ended")
    with pytest.raises(LabError, match="ended"):
        made.page("about:blank")


def running_with(folder: Path) -> list[str]:
    """The processes whose command line has that folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in file.read_bytes():
                found.append(file.parent.name)
    return found
