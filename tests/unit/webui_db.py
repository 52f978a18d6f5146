"""Open WebUI's database as its releases leave it, for tests: settings, users, and keys that nobody may see."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

API_KEY = "sk-verysecret"
ROWS = "CREATE TABLE config (key TEXT NOT NULL PRIMARY KEY, value JSON NOT NULL, updated_at BIGINT)"
BLOB = (
    "CREATE TABLE config (id INTEGER PRIMARY KEY, data JSON, version INTEGER, created_at DATETIME, updated_at DATETIME)"
)


def settings(**changes: Any) -> dict[str, Any]:
    """By key; in `changes` a dot is written __."""
    found = {
        "ollama.enable": True,
        "ollama.base_urls": ["http://ollama:11434"],
        "ollama.api_configs": {"0": {"enable": True, "key": API_KEY}},
        "openai.enable": False,
        "openai.api_base_urls": ["https://api.openai.com/v1"],
        "openai.api_keys": [API_KEY],
        "image_generation.comfyui.base_url": "http://comfy:8188",
        "image_generation.comfyui.api_key": API_KEY,
    }
    return {**found, **{name.replace("__", "."): value for name, value in changes.items()}}


def make(path: Path, values: dict[str, Any], *, blob: bool = False, wal: bool = False) -> sqlite3.Connection:
    """The database; the connection that is given back keeps its write-ahead log there."""
    base = sqlite3.connect(path, isolation_level=None)
    if wal:
        base.execute("PRAGMA journal_mode=WAL")
    base.execute(BLOB if blob else ROWS)
    if blob:
        document: dict[str, Any] = {"version": 0}
        for key, value in values.items():
            *above, name = key.split(".")
            place = document
            for part in above:
                place = place.setdefault(part, {})
            place[name] = value
        base.execute("INSERT INTO config (data, version) VALUES ('{}', 0)")  # only the last row counts
        base.execute("INSERT INTO config (data, version) VALUES (?, 0)", (json.dumps(document),))
    else:
        rows = [(key, json.dumps(value), 1) for key, value in values.items()]
        base.executemany("INSERT INTO config VALUES (?, ?, ?)", rows)
    base.execute('CREATE TABLE "user" (id TEXT)')
    base.execute("INSERT INTO user VALUES ('me')")
    base.execute("CREATE TABLE alembic_version (version_num TEXT)")
    base.execute("INSERT INTO alembic_version VALUES ('3ff2c63645b8')")
    return base


def read(path: Path) -> dict[str, Any]:
    """The settings by key; of a document its top level."""
    base = sqlite3.connect(path)
    try:
        columns = {row[1] for row in base.execute("PRAGMA table_info(config)")}
        if "key" in columns:
            return {key: json.loads(value) for key, value in base.execute("SELECT key, value FROM config")}
        found: dict[str, Any] = json.loads(base.execute("SELECT data FROM config ORDER BY id DESC").fetchone()[0])
        return found
    finally:
        base.close()
