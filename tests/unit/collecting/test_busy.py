"""ComfyUI's queue and Ollama's models, asked over loopback; whatever answers there."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pantheon.collecting import busy
from pantheon.evidence import Busy, Loaded
from pantheon.facts import decode

PS = {
    "models": [
        {"name": "llama3.2:3b", "size": 3 << 30, "size_vram": 2 << 30, "expires_at": "2026-11-21T23:05:00Z"},
        {"model": "x\x1b[2J", "size": "much", "size_vram": -1},
        "hostile",
    ]
}


@pytest.fixture
def server() -> Iterator[Any]:
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one.server_address[1], answers
    one.shutdown()
    one.server_close()


def look(port: int) -> Busy:
    found = decode(Busy, busy.busy({"ports": {"comfy": port, "ollama": port, "openwebui": port}}, ""), "busy")
    assert isinstance(found, Busy)
    return found


def test_what_runs(server: Any) -> None:
    port, answers = server
    answers["/queue"] = 200, json.dumps({"queue_running": [[1]], "queue_pending": [[2], [3]]}).encode()
    answers["/api/ps"] = 200, json.dumps(PS).encode()
    assert look(port) == Busy(1, 2, (Loaded("llama3.2:3b", 3072, 2048, "2026-11-21T23:05:00Z"), Loaded("x", 0, 0, "")))


def test_a_queue_that_is_too_large_is_counted(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "QUEUE_BYTES", 1000)
    port, answers = server
    answers["/queue"] = 200, json.dumps({"queue_running": [["x" * 5000]], "queue_pending": []}).encode()
    answers["/prompt"] = 200, b'{"exec_info": {"queue_remaining": 3}}'
    assert look(port) == Busy(1, 2, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"queue_running": 3, "models": 3, "exec_info": []}',
     b'{"exec_info": {"queue_remaining": 1e400}, "models": {}}', b'{"exec_info": {"queue_remaining": true}}'],
)  # fmt: skip
def test_other_answers_say_nothing(server: Any, body: bytes) -> None:
    port, answers = server
    for path in ("/queue", "/prompt", "/api/ps"):
        answers[path] = 200, body
    assert look(port) == Busy(None, None, None)


def test_many_models_are_bounded(server: Any) -> None:
    port, answers = server
    models = [{"name": "m" * 1000, "size": 1e30, "expires_at": ["x"]}] * 100
    answers["/api/ps"] = 200, json.dumps({"models": models}).encode()
    found = look(port).ollama
    assert found is not None
    assert len(found) == busy.MOST_MODELS
    assert len(found[0].name) <= 200


def test_nobody_answers() -> None:
    assert look(9) == Busy(None, None, None)
    assert busy.busy({}, "") == {"comfy_running": None, "comfy_pending": None, "ollama": None}


def test_one_that_is_published_on_ipv6_alone_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def http_get(url: str, limit: int) -> dict[str, Any]:
        if "127.0.0.1" in url:
            return {"status": 0, "body": "", "error": "Connection refused"}
        assert url.startswith("http://[::1]:8188/")
        return {"status": 200, "body": json.dumps({"queue_running": [1], "queue_pending": []}), "error": ""}

    monkeypatch.setattr(busy, "http_get", http_get)
    assert busy.comfy(8188) == (1, 0)


def test_one_that_is_silent_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def http_get(url: str, limit: int) -> dict[str, Any]:
        asked.append(url)
        return {"status": 0, "body": "", "error": "no answer within 2 s"}

    monkeypatch.setattr(busy, "http_get", http_get)
    assert busy.comfy(8188) == (None, None)
    assert all("127.0.0.1" in url for url in asked)
