"""Open WebUI's database as far as its settings go: webui.db, its schema and the migrations that a start runs.

A new database is made as today's release makes it, a row for each setting. With `openwebui_old_schema` (a number of the
lab's) the release before it is at work: one row with a JSON document, and no upgrade. Without it the next start
upgrades, which takes `openwebui_migration_seconds`. Killed in the middle, the next start stumbles over what is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.services.stand_in.web import setting

OLD, HEAD = "374d2f66af06", "3ff2c63645b8"
USERS = """CREATE TABLE IF NOT EXISTS user
    (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE, role TEXT, salt TEXT, password TEXT)"""
BLOB = """CREATE TABLE config (id INTEGER NOT NULL, data JSON NOT NULL, version INTEGER NOT NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, updated_at DATETIME, PRIMARY KEY (id))"""
ROWS = "CREATE TABLE config (key TEXT NOT NULL, value JSON NOT NULL, updated_at BIGINT, PRIMARY KEY (key))"
MESSAGES = "CREATE TABLE chat_message (id TEXT NOT NULL, chat_id TEXT NOT NULL, content JSON, PRIMARY KEY (id))"
# What is kept whole though it is an object.
OBJECTS = ("ollama.api_configs", "openai.api_configs")


def is_set(name: str, default: str) -> bool:
    return os.environ.get(name, default).lower() == "true"


def defaults() -> dict[str, Any]:
    """The settings as the environment has them."""
    given = os.environ.get("OLLAMA_BASE_URL", "/ollama")
    one = "http://host.docker.internal:11434" if given in ("", "/ollama") else given.rstrip("/")
    urls = os.environ.get("OLLAMA_BASE_URLS") or one
    return {
        "ollama.enable": is_set("ENABLE_OLLAMA_API", "true"),
        "ollama.base_urls": [url.strip() for url in urls.split(";")],
        "ollama.api_configs": {},
        "openai.enable": is_set("ENABLE_OPENAI_API", "true"),
        "openai.api_base_urls": [os.environ.get("OPENAI_API_BASE_URL") or "https://api.openai.com/v1"],
        "openai.api_keys": [os.environ.get("OPENAI_API_KEY", "")],
        "openai.api_configs": {},
        "image_generation.enable": is_set("ENABLE_IMAGE_GENERATION", "false"),
        "image_generation.engine": os.environ.get("IMAGE_GENERATION_ENGINE", "openai"),
        "image_generation.comfyui.base_url": os.environ.get("COMFYUI_BASE_URL", ""),
        "image_generation.comfyui.api_key": os.environ.get("COMFYUI_API_KEY", ""),
    }


def nested(values: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"version": 0}
    for key, value in values.items():
        *above, name = key.split(".")
        place = document
        for part in above:
            place = place.setdefault(part, {})
        place[name] = value
    return document


def flat(document: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and key not in OBJECTS:
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def say(text: str) -> None:
    print(f"INFO  [alembic.runtime.migration] {text}", flush=True)


class Settings:
    """The open database. One connection stays open, so the write-ahead log is there as long as the server runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.env = defaults()
        self.persistent = is_set("ENABLE_PERSISTENT_CONFIG", "true")

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            self.connection.execute("BEGIN")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise

    def tables(self) -> set[str]:
        return {row[0] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def revision(self) -> str:
        row = self.connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""

    def upgrade(self) -> None:
        """As Alembic does it on SQLite: each statement for itself, the revision noted at the end of each step."""
        say("Context impl SQLiteImpl.")
        say("Will assume non-transactional DDL.")
        old, execute = bool(setting("openwebui_old_schema", 0)), self.connection.execute
        if "alembic_version" not in self.tables():
            for statement in (USERS, BLOB if old else ROWS, *(() if old else (MESSAGES,))):
                execute(statement)
            execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            execute("INSERT INTO alembic_version VALUES (?)", (OLD if old else HEAD,))
        if old or self.revision() == HEAD:
            return
        try:
            if self.revision() == OLD:
                self.step(OLD, "8452d01d26d7", "Add chat_message table", self.add_messages)
            self.step(self.revision(), HEAD, "reshape config to per key rows", self.reshape)
        except sqlite3.OperationalError as error:
            print(f"ERROR [open_webui.env] Error running migrations: (sqlite3.OperationalError) {error}", flush=True)
            raise

    def step(self, before: str, after: str, title: str, work: Any) -> None:
        say(f"Running upgrade {before} -> {after}, {title}")
        work()
        self.connection.execute("UPDATE alembic_version SET version_num = ?", (after,))

    def add_messages(self) -> None:
        self.connection.execute(MESSAGES)
        time.sleep(setting("openwebui_migration_seconds", 0))  # every chat's messages are copied into it

    def reshape(self) -> None:
        row = self.connection.execute("SELECT data FROM config ORDER BY id DESC LIMIT 1").fetchone()
        self.connection.execute("ALTER TABLE config RENAME TO config_old")
        self.connection.execute(ROWS)
        for key, value in flat(json.loads(row[0]) if row else {}):
            self.put(key, value)

    def is_blob(self) -> bool:
        return "data" in {row[1] for row in self.connection.execute("PRAGMA table_info(config)")}

    def seed(self) -> None:
        """The environment is written down once; what the database has already stays."""
        if not self.persistent:
            return
        with self.open() as database:
            if not self.is_blob():
                have = {row[0] for row in database.execute("SELECT key FROM config")}
                for key, value in self.env.items():
                    if key not in have:
                        self.put(key, value)
            elif not database.execute("SELECT count(*) FROM config").fetchone()[0]:
                document = json.dumps(nested(self.env))
                database.execute("INSERT INTO config (data, version) VALUES (?, 0)", (document,))

    def put(self, key: str, value: Any) -> None:
        row = (key, json.dumps(value), int(time.time()))
        self.connection.execute("INSERT INTO config VALUES (?, ?, ?)", row)

    def get(self, key: str) -> Any:
        """The value in force: the database beats the environment unless told otherwise."""
        if not self.persistent:
            return self.env.get(key)
        with self.open() as database:
            if self.is_blob():
                row = database.execute("SELECT data FROM config ORDER BY id DESC LIMIT 1").fetchone()
                return dict(flat(json.loads(row[0]))).get(key, self.env.get(key)) if row else self.env.get(key)
            row = database.execute("SELECT value FROM config WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else self.env.get(key)
