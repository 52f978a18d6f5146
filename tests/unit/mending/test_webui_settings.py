"""Settings of Open WebUI changed in its database: these and nothing else, with a copy, and the container started again
whatever happens."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import webui_settings
from tests.unit import webui_db

RIGHT = "http://ollama:11434"
LOGIN = "http://me:pw@10.0.0.7:11434"
TO_RIGHT = {"key": "ollama.base_urls", "from": "http://localhost:11434", "to": RIGHT}


@pytest.fixture(name="bin")
def docker_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker that notes what it is asked, and refuses `stop` where there is a file called refuse."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stub = folder / "docker"
    stub.write_text(
        f'#!/bin/sh\necho "$*" >>{folder}/asked\n'
        f'[ "$1" != stop ] || [ ! -e {folder}/refuse ] || {{ echo "Error: no such container" >&2; exit 1; }}\n'
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def run(path: Path, *changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """As the runner runs it: a program of its own."""
    told = {"container": "openwebui", "database": str(path), "changes": list(changes)}
    text = Path(webui_settings.__file__).read_text(encoding="utf-8")
    argv = [sys.executable, "-IBS", "-c", text, json.dumps(told)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def copies(path: Path) -> list[Path]:
    return sorted(path.parent.glob("webui.db.before-*"))


@pytest.mark.parametrize("wal", [False, True])
def test_one_row_is_changed(tmp_path: Path, bin: Path, wal: bool) -> None:
    path = tmp_path / "webui.db"
    values = webui_db.settings(ollama__base_urls=[LOGIN, "http://localhost:11434", "http://other:11434"])
    base = webui_db.make(path, values, wal=wal)
    if wal:  # as a server that was killed leaves it
        for end in ("", "-wal"):
            Path(f"{path}{end}").rename(f"{path}{end}.held")
        base.close()
        for end in ("", "-wal"):
            Path(f"{path}{end}.held").rename(f"{path}{end}")
    else:
        base.close()
    path.chmod(0o640)
    done = run(path, TO_RIGHT)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert webui_db.read(path) == {**values, "ollama.base_urls": [LOGIN, RIGHT, "http://other:11434"]}
    (copy,) = copies(path)
    assert webui_db.read(copy) == values
    assert (copy.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o640, 0o640)
    assert sorted(found.name for found in tmp_path.glob("webui.db*")) == ["webui.db", copy.name]
    assert (bin / "asked").read_text() == "stop openwebui\nstart openwebui\n"
    assert "pw" not in done.stdout
    assert webui_db.API_KEY not in done.stdout
    again = run(path, TO_RIGHT)
    assert (again.returncode, copies(path)) == (0, [copy])
    assert "already" in again.stdout


def test_a_document_is_changed(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "webui.db"
    values = webui_db.settings(ollama__base_urls=["https://ollama:11434"], ollama__enable=False)
    webui_db.make(path, values, blob=True).close()
    before = webui_db.read(path)
    comfy = {"key": "image_generation.comfyui.base_url", "from": "http://comfy:8188", "to": "http://c:1"}
    url = {"key": "ollama.base_urls", "from": "https://ollama:11434", "to": RIGHT}
    done = run(path, url, {"key": "ollama.enable", "to": True}, comfy)
    assert done.returncode == 0, done.stdout
    after = webui_db.read(path)
    before["ollama"] |= {"base_urls": [RIGHT], "enable": True}
    before["image_generation"]["comfyui"]["base_url"] = "http://c:1"
    assert after == before
    rows = sqlite3.connect(path).execute("SELECT id, data FROM config ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [1, 2]
    assert rows[0][1] == "{}"


def test_a_connection_is_switched_on_and_keeps_the_rest(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "webui.db"
    configs = {"0": {"enable": False, "key": "k"}, "http://b": {"enable": False}}
    values = webui_db.settings(ollama__base_urls=["http://a", "http://b"], ollama__api_configs=configs)
    webui_db.make(path, values).close()
    assert run(path, {"key": "ollama.api_configs", "to": {"http://a": True}}).returncode == 0
    assert webui_db.read(path)["ollama.api_configs"] == {**configs, "0": {"enable": True, "key": "k"}}


def test_an_address_with_a_login_is_known_by_what_is_shown_of_it(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "webui.db"
    webui_db.make(path, webui_db.settings(ollama__base_urls=[LOGIN])).close()
    done = run(path, {"key": "ollama.base_urls", "from": "http://***@10.0.0.7:11434", "to": RIGHT})
    assert webui_db.read(path)["ollama.base_urls"] == [RIGHT]
    assert "pw" not in done.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no database " * 500, "file is not a database"), (b"", "no settings yet"), (None, "No such file")],
)
def test_what_cannot_be_changed_is_one_line_and_the_container_starts(
    tmp_path: Path, bin: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "webui.db"
    if content is not None:
        path.write_bytes(content)
    done = run(path, TO_RIGHT)
    assert done.returncode == 1
    assert says in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (bin / "asked").read_text().endswith("start openwebui\n")
    assert copies(path) == []


def test_a_database_that_somebody_holds_stays_as_it_is(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "webui.db"
    values = webui_db.settings(ollama__base_urls=["http://localhost:11434"])
    base = webui_db.make(path, values)
    base.execute("BEGIN EXCLUSIVE")
    done = run(path, TO_RIGHT)
    base.execute("ROLLBACK")
    assert (done.returncode, "locked" in done.stdout) == (1, True), done.stdout
    assert webui_db.read(path) == values
    assert copies(path) == []


def test_the_half_of_a_copy_that_was_killed_goes(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "webui.db"
    webui_db.make(path, webui_db.settings(ollama__base_urls=["http://localhost:11434"])).close()
    whole, half = (tmp_path / f"webui.db.before-20261121-235032{end}" for end in ("", ".part-journal"))
    whole.write_text("")
    half.write_text("")
    assert run(path, TO_RIGHT).returncode == 0
    assert (whole.exists(), half.exists(), len(copies(path))) == (True, False, 2)


def test_a_container_that_does_not_stop_keeps_its_database(tmp_path: Path, bin: Path) -> None:
    path = tmp_path / "webui.db"
    values = webui_db.settings(ollama__base_urls=["http://localhost:11434"])
    webui_db.make(path, values).close()
    (bin / "refuse").touch()
    done = run(path, TO_RIGHT)
    assert done.returncode == 1
    assert "docker stop openwebui: Error: no such container" in done.stdout
    assert webui_db.read(path) == values


def test_no_room_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "webui.db"
    values = webui_db.settings(ollama__base_urls=["http://localhost:11434"])
    webui_db.make(path, values).close()
    monkeypatch.setattr(webui_settings, "ROOM", 1 << 60)
    with pytest.raises(webui_settings.CannotMend, match="no room for a copy"):
        webui_settings.mend(str(path), [TO_RIGHT])
    assert webui_db.read(path) == values


def test_a_path_with_odd_characters(tmp_path: Path, bin: Path) -> None:
    del bin
    path = tmp_path / "da ta?#'%ü" / "webui.db"
    path.parent.mkdir()
    webui_db.make(path, webui_db.settings(ollama__base_urls=["http://localhost:11434"])).close()
    assert run(path, TO_RIGHT).returncode == 0
    assert webui_db.read(path)["ollama.base_urls"] == [RIGHT]


def test_a_python_without_sqlite_is_one_line(bin: Path) -> None:
    text = Path(webui_settings.__file__).read_text(encoding="utf-8")
    without = f"import sys\nsys.modules['sqlite3'] = None\nexec({text!r})"
    argv = [sys.executable, "-IBS", "-c", without, "{}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "has no sqlite3, and nothing was changed" in done.stdout
    assert not (bin / "asked").exists()
