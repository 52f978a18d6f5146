"""The stand-in Open WebUI's database: the environment once, the database from then on, and a migration that is cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.services.stand_in import openwebui_settings
from lab.services.stand_in.openwebui_settings import HEAD, OLD, Settings

Set = Callable[..., None]


@pytest.fixture(name="lab_sets")
def settings_of_the_lab(monkeypatch: pytest.MonkeyPatch) -> Set:
    have: dict[str, float] = {}
    monkeypatch.setattr(openwebui_settings, "setting", lambda name, default: have.get(name, default))
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://ollama:11434")
    return have.update


def start(path: Path) -> Settings:
    opened = Settings(path)
    opened.upgrade()
    opened.seed()
    return opened


@pytest.mark.parametrize("old", [0, 1])
def test_the_database_beats_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab_sets: Set, old: int
) -> None:
    lab_sets(openwebui_old_schema=old)
    first = start(tmp_path / "webui.db")
    assert (first.is_blob(), first.revision()) == (bool(old), OLD if old else HEAD)
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://other:1")
    assert start(tmp_path / "webui.db").get("ollama.base_urls") == ["http://ollama:11434"]
    monkeypatch.setenv("ENABLE_PERSISTENT_CONFIG", "false")
    assert start(tmp_path / "webui.db").get("ollama.base_urls") == ["http://other:1"]


def test_a_new_release_migrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lab_sets: Set
) -> None:
    lab_sets(openwebui_old_schema=1)
    start(tmp_path / "webui.db")
    lab_sets(openwebui_old_schema=0)
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://other:1")
    again = start(tmp_path / "webui.db")
    assert (again.is_blob(), again.revision()) == (False, HEAD)
    assert again.get("ollama.base_urls") == ["http://ollama:11434"]
    assert again.get("ollama.api_configs") == {}
    said = capsys.readouterr().out
    assert f"INFO  [alembic.runtime.migration] Running upgrade {OLD} -> 8452d01d26d7, Add chat_message table\n" in said


def test_a_migration_that_is_cut_short_is_stumbled_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lab_sets: Set
) -> None:
    lab_sets(openwebui_old_schema=1)
    start(tmp_path / "webui.db")
    lab_sets(openwebui_old_schema=0)

    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", killed)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "webui.db")
    with pytest.raises(sqlite3.OperationalError):
        start(tmp_path / "webui.db")
    assert "Error running migrations: (sqlite3.OperationalError) table chat_message already exists" in (
        capsys.readouterr().out
    )
