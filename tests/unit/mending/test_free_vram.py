"""ComfyUI and Ollama let go of the card over their own APIs, and what they held is said before and after."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import free_vram


class Fake(ThreadingHTTPServer):
    """One server that answers for both services."""

    def __init__(self) -> None:
        self.models = ["llama3.3:latest", 'q\'we\x1b[31mn "2"']
        self.running = 0
        self.asked: list[tuple[str, str, Any]] = []
        self.status = 200
        self.body: bytes | None = None
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        fake = self.server
        length = int(self.headers.get("Content-Length") or 0)
        body: Any = json.loads(self.rfile.read(length)) if length else None
        fake.asked.append((self.command, self.path, body))
        said: Any = {}
        if self.path == "/api/ps":
            said = {"models": [{"name": name} for name in fake.models]}
        elif self.path == "/queue":
            said = {"queue_running": [[0]] * fake.running, "queue_pending": []}
            fake.running = max(0, fake.running - 1)
        elif self.path == "/api/generate":
            fake.models.remove(body["model"])
        data = fake.body if fake.body is not None else json.dumps(said).encode()
        self.send_response(fake.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake()
    monkeypatch.setattr(free_vram, "POLL_S", 0.01)
    monkeypatch.setattr(free_vram, "smi", lambda query: [["19312", "251"]] if "gpu" in query else [])
    yield made
    made.shutdown()
    made.server_close()


def both(fake: Fake, **more: Any) -> dict[str, Any]:
    return {"ports": {"comfy": fake.port, "ollama": fake.port}, "ids": {}, **more}


def test_both_let_go(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.running = 2
    names = list(fake.models)
    assert free_vram.main(both(fake)) == 0
    posted = [(path, body) for method, path, body in fake.asked if method == "POST"]
    assert posted == [
        *(("/api/generate", {"model": name, "keep_alive": 0, "stream": False}) for name in names),
        ("/free", {"unload_models": True, "free_memory": True}),
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "before: used 19312, free 251 MiB: nobody holds any"
    assert said[-1].startswith("after: ")
    assert "comfy: 2 running; it unloads when that is done" in said
    assert not any("\x1b" in line for line in said)


def test_again_with_nothing_loaded(fake: Fake) -> None:
    fake.models = []
    assert free_vram.main(both(fake)) == 0
    assert free_vram.main(both(fake)) == 0


def test_a_service_that_is_not_named_is_not_asked(fake: Fake) -> None:
    assert free_vram.main({"ports": {"comfy": fake.port}}) == 0
    assert {path for _, path, _ in fake.asked} == {"/free", "/queue"}


def test_a_job_that_does_not_end_is_said_and_not_ended(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.running = 10_000
    assert free_vram.main(both(fake, patience_s=0.1)) == 1
    assert "comfy's job is still running" in capsys.readouterr().out
    assert {path for _, path, _ in fake.asked} == {"/free", "/queue", "/api/ps", "/api/generate"}


def test_one_that_fails_keeps_the_other_from_nothing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert free_vram.main({"ports": {"comfy": fake.port, "ollama": 1}}) == 1
    said = capsys.readouterr().out
    assert "ollama on 127.0.0.1:1: Connection refused" in said
    assert "comfy: models unloaded" in said


@pytest.mark.parametrize(("status", "body"), [(500, b"oops"), (404, b""), (200, b"<html>"), (200, b"[1]")])
def test_strange_answers_are_one_clear_line(
    fake: Fake, status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.status, fake.body = status, body
    code = free_vram.main(both(fake))
    assert code == (1 if status != 200 else 0)
    assert "Traceback" not in capsys.readouterr().out


def test_who_holds_what(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "gpu": [["20000 ", "51"]],
        "apps": [
            ["999999991", "/usr/bin/python3", "312"],
            ["999999992", "a, b\x1b", "19000"],
            ["x", "y", "[N/A]"],
            ["z"],
        ],
    }
    monkeypatch.setattr(free_vram, "smi", lambda query: rows["gpu" if "gpu" in query else "apps"])
    assert free_vram.holders({}) == (
        "used 20000, free 51 MiB: a,b? (pid 999999992, not ours, left alone) 19000 MiB, "
        "/usr/bin/python3 (pid 999999991, not ours, left alone) 312 MiB, y (pid 0, not ours, left alone) ? MiB"
    ).replace("a,b?", "a, b?")


def test_a_container_of_ours_is_named_by_its_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = "0e05" * 16

    def opened(path: str, **_: Any) -> Any:
        assert path == "/proc/12/cgroup"
        file = tmp_path / "cgroup"
        file.write_text(f"4:memory:/docker/{'b' * 64}/docker/{number}\n0::/\n")
        return file.open()

    monkeypatch.setattr("builtins.open", opened)
    assert free_vram.holder("12", "python3", {number: "comfy"}) == "comfy"


def test_it_is_a_program_of_its_own() -> None:
    argv = [sys.executable, "-IBS", str(Path(free_vram.__file__)), json.dumps({"ports": {"ollama": 1}})]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={"PATH": ""})
    assert done.returncode == 1
    assert done.stderr == ""
    assert "ollama on 127.0.0.1:1: Connection refused" in done.stdout
