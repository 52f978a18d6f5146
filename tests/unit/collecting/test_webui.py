"""Open WebUI's settings and its key, read from a database in use and from hostile ones; nothing written, no secret."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pantheon.webui
from pantheon.collecting import inside, webui
from pantheon.evidence import LoginKey, WebuiSettings
from pantheon.facts import decode
from pantheon.looks.text import Unread
from pantheon.mending import webui_settings
from tests.unit import webui_db
from tests.unit.looks.fakes import FakeDocker, FakeHost, framed

SPEC = {"openwebui_data": "/data", "login_key": "/key"}
LOGIN = "http://me:pw@ollama:11434"


@pytest.fixture(name="database")
def database_path(host: FakeHost) -> Path:
    path: Path = host.at("/data/webui.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(name="host")
def short_host() -> Iterator[FakeHost]:
    root = Path(tempfile.mkdtemp(prefix="p"))  # the path of a socket has room for 107 bytes
    yield FakeHost(root)
    shutil.rmtree(root)


@pytest.fixture(name="docker")
def engine(host: FakeHost) -> Iterator[FakeDocker]:
    server = FakeDocker(host.at("/var/run/docker.sock"))
    yield server
    server.shutdown()
    server.server_close()


def look(host: FakeHost) -> WebuiSettings:
    found = decode(WebuiSettings, webui.settings(SPEC, str(host.root)), "webui")
    assert isinstance(found, WebuiSettings)
    return found


@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("blob", [False, True])
def test_both_shapes_are_read_while_the_server_writes(host: FakeHost, database: Path, blob: bool, wal: bool) -> None:
    values = webui_db.settings(ollama__base_urls=["http://a:1", LOGIN], ollama__api_configs={"1": {"enable": False}})
    base = webui_db.make(database, values, blob=blob, wal=wal)
    before = {path.name: path.read_bytes() for path in database.parent.iterdir()}
    found = look(host)
    assert found.ollama_urls == ("http://a:1", "http://***@ollama:11434")
    assert found.ollama_off == ("http://***@ollama:11434",)
    assert (found.ollama_enabled, found.openai_enabled, found.users) == (True, False, 1)
    assert (found.comfyui_url, found.revision) == ("http://comfy:8188", "3ff2c63645b8")
    assert webui_db.API_KEY not in str(found)
    assert {path.name: path.read_bytes() for path in database.parent.iterdir()} == before
    assert found.path == "/data/webui.db"
    base.close()


def test_no_database(host: FakeHost) -> None:
    assert webui.settings(SPEC, str(host.root)) is None


def test_a_database_without_settings(host: FakeHost, database: Path) -> None:
    sqlite3.connect(database).execute("CREATE TABLE t (a)").connection.close()
    assert look(host) == WebuiSettings("/data/webui.db", bytes=database.stat().st_size)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no database at all" * 100, "file is not a database"), (b"SQLite format 3\0" * 9, "webui.db")],
)
def test_a_broken_database_is_not_known(host: FakeHost, database: Path, content: bytes, says: str) -> None:
    database.write_bytes(content)
    with pytest.raises(Unread, match=says):
        look(host)


@pytest.mark.parametrize("value", ["http://ollama:11434", [1], {"a": "b"}])
def test_addresses_of_an_odd_shape_are_not_known(host: FakeHost, database: Path, value: Any) -> None:
    webui_db.make(database, webui_db.settings(ollama__base_urls=value)).close()
    with pytest.raises(Unread, match=r"ollama\.base_urls is no list"):
        look(host)


def test_hostile_addresses_are_cleaned_and_bounded(host: FakeHost, database: Path) -> None:
    urls = ["http://x\x1b[2J/?key=secret", "h" * 5000, "", "http://ollama 'q\" ü"] + ["http://a"] * 500
    webui_db.make(database, webui_db.settings(ollama__base_urls=urls)).close()
    found = look(host)
    assert found.ollama_urls is not None
    assert found.ollama_urls[0] == "http://x\\x1b[2J/?***"
    assert found.ollama_urls[3] == urls[3]
    assert len(found.ollama_urls) == 64
    assert max(map(len, found.ollama_urls)) == 300


HOSTILE = (
    "http://me:pw@x",
    "http://me:p/w?p@w#p@x:1/y",
    "me:pw@x:1",
    "http://x/?k=pw",
    "http://x#pw",
    "http://x\n?pw",
    "http://x\x1b]52;c;\x07",
    "http://x\u202ey\x9b",
    " http://x ",
    "http://" + "ü" * 500,
    "",
    "a@" * 5000,
)


def test_an_address_is_shown_in_one_way_wherever_it_is(host: FakeHost, database: Path) -> None:
    """What is shown of it is how the fix knows it again."""
    webui_db.make(database, webui_db.settings(ollama__base_urls=HOSTILE)).close()
    found = look(host).ollama_urls
    assert found is not None
    assert found == tuple(map(inside.clean, HOSTILE))
    assert found == tuple(map(pantheon.webui.clean, HOSTILE))
    assert found == tuple(map(webui_settings.shown, HOSTILE))
    assert all(url.isprintable() and "pw" not in url and len(url) <= 300 for url in found)
    assert found[:3] == ("http://***@x", "http://***@x:1/y", "***@x:1")


def test_a_path_with_odd_characters(host: FakeHost) -> None:
    folder = host.at("/da ta?#'%/x")
    folder.mkdir(parents=True)
    webui_db.make(folder / "webui.db", webui_db.settings()).close()
    assert webui.settings({"openwebui_data": "/da ta?#'%/x"}, str(host.root))["users"] == 1


def test_what_waits_in_a_log_that_is_too_large(host: FakeHost, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = webui_db.make(database, webui_db.settings(), wal=True)
    monkeypatch.setattr(webui, "MOST_BYTES", 10)
    with pytest.raises(Unread, match="too large to be copied"):
        look(host)
    base.close()


def test_the_container_is_asked_first(host: FakeHost, database: Path, docker: FakeDocker) -> None:
    webui_db.make(database, webui_db.settings()).close()
    docker.container("openwebui")
    said = {"ollama_enabled": True, "ollama_urls": ["http://b:2"], "ollama_off": [], "openai_enabled": None}
    said |= {"openai_urls": None, "comfyui_url": None, "users": 7, "revision": None}
    docker.exec_in("openwebui", (200, framed(json.dumps(said).encode() + b"\n")))
    assert (look(host).ollama_urls, look(host).users) == (("http://b:2",), 7)
    docker.exec_in("openwebui", (200, framed(b"python3: not found\n")), 127)
    assert look(host).ollama_urls == ("http://ollama:11434",)


# ---- the key


def process(host: FakeHost, pid: int, parent: int, environment: bytes = b"", name: str = "x (y) z") -> None:
    folder = host.at(f"/proc/{pid}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0")
    (folder / "environ").write_bytes(environment)


@pytest.mark.parametrize(
    ("kept", "used", "in_use"),
    [
        (b"abc\n", b"abc", "same"),
        (b"abc", b"abc", "same"),
        (b"abc\n", b"abd", "other"),
        (b"", b"abc", "other"),
        (b" \n\n", b"abc", "other"),
        (None, b"abc", "other"),
        (b"abc\n", b"", "none"),
    ],
)
def test_which_key_the_server_signs_with(
    host: FakeHost, docker: FakeDocker, kept: bytes | None, used: bytes, in_use: str
) -> None:
    docker.container("openwebui", Created="2026-11-21T23:01:04.788Z", State={"Pid": 10})
    process(host, 10, 1, b"WEBUI_SECRET_KEY=\0PATH=/bin")
    process(host, 12, 10, b"PATH=/bin\0WEBUI_SECRET_KEY=" + used + b"\0Z=1")
    process(host, 99, 1, b"WEBUI_SECRET_KEY=of another\0")
    if kept is not None:
        host.at("/key").write_bytes(kept)
        os.utime(host.at("/key"), (0, 1_763_766_064))
    answer = webui.login(SPEC, str(host.root))
    found = decode(LoginKey, answer, "login")
    changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_763_766_064)) if (kept or b"").strip() else ""
    assert found == LoginKey(changed, "2026-11-21T23:01:04.788Z", in_use)
    assert "abc" not in str(answer)


def test_a_directory_in_the_place_of_the_key_is_no_key(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("openwebui", Created="2026-11-21T23:01:04.788Z", State={"Pid": 0})
    host.at("/key").mkdir()
    assert webui.login(SPEC, str(host.root))["changed_at"] == ""


def test_no_container_no_key(host: FakeHost, docker: FakeDocker) -> None:
    del docker
    assert webui.login(SPEC, str(host.root)) is None


# ---- curl in the container


def test_every_address_is_tried_from_inside(host: FakeHost, database: Path, docker: FakeDocker) -> None:
    webui_db.make(database, webui_db.settings(ollama__base_urls=["http://a:1/", "file:///etc/passwd", LOGIN])).close()
    env = ["OLLAMA_BASE_URL=http://ollama:11434", "WEBUI_SECRET_KEY=x"]
    docker.container("openwebui", Config={"Env": env}, State={"Running": True, "Paused": False})
    docker.exec_in("openwebui", (200, framed(b"200 \n")), 0)
    monkey = {"status": 0, "output": "200 \n"}
    found = inside.commands(SPEC, str(host.root))
    assert found["openwebui http://ollama:11434"] == monkey
    assert found["openwebui http://a:1/"] == monkey
    assert found["openwebui file:///etc/passwd"]["status"] == 3
    assert "login" in found["openwebui http://***@ollama:11434"]["unknown"]
    assert "pw" not in str(found)


def test_nothing_is_asked_of_a_container_that_does_not_run(host: FakeHost, docker: FakeDocker) -> None:
    assert inside.commands(SPEC, str(host.root)) == {}
    docker.container("openwebui", State={"Running": False})
    assert inside.commands(SPEC, str(host.root)) == {}
