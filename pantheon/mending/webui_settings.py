"""Changes single settings in Open WebUI's database: stopped, copied, changed in one transaction, started again.

arguments: container; database (webui.db on the host); changes, each with the key of a setting and `to`:
    {"key": "ollama.base_urls", "from": URL, "to": URL}    in a list, or a single text: only what is `from`
    {"key": "ollama.base_urls", "to": [URL]}               the whole value
    {"key": "ollama.api_configs", "to": {URL: true}}       one connection switched on
A URL with a login is named without it. Keys and everything else in there is neither looked at nor printed.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

try:
    import sqlite3
except ImportError:  # Debian and Ubuntu have it in a package of its own
    print("this host's python3 has no sqlite3, and nothing was changed: sudo apt install libpython3-stdlib", flush=True)
    sys.exit(1)

STOP_S = 180
ROOM = 16 << 20  # what must be left free beside the copy


class CannotMend(Exception):
    """The message says why, in one line."""


def main() -> int:
    told = json.loads(sys.argv[1])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))  # so that what was stopped is started again
    try:
        with stopped(told["container"]):
            mend(told["database"], told["changes"])
    except CannotMend as error:
        print(error, flush=True)
        return 1
    except (OSError, sqlite3.Error, subprocess.SubprocessError, ValueError) as error:
        print(f"{told['database']} could not be changed: {error}", flush=True)
        return 1
    return 0


@contextlib.contextmanager
def stopped(container: str) -> Iterator[None]:
    """It is started in any case, also when nothing came of the change."""
    try:
        docker("stop", container)
        print(f"{container} is stopped", flush=True)
        yield
    finally:
        docker("start", container)
        print(f"{container} is started", flush=True)


def docker(verb: str, container: str) -> None:
    done = subprocess.run(["docker", verb, container], capture_output=True, text=True, timeout=STOP_S, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        raise CannotMend(f"docker {verb} {container}: {said}")


def mend(path: str, changes: list[dict[str, Any]]) -> None:
    """The settings as they are to be, or not one of them changed. What is so already stays, without a copy."""
    before = os.stat(path)
    with contextlib.closing(sqlite3.connect(f"file:{quoted(path)}?mode=rw", uri=True, isolation_level=None)) as base:
        table = Table(base)
        if not any(table.would(one) for one in changes):
            print("the settings are as they should be already", flush=True)
            return
        base.execute("BEGIN IMMEDIATE")  # what cannot be written to needs no copy
        base.execute("ROLLBACK")
        keep(base, path, before)
        base.execute("BEGIN IMMEDIATE")
        try:
            done = [one for one in changes if table.make(one)]
            table.write()
            base.execute("COMMIT")
        except BaseException:
            base.execute("ROLLBACK")
            raise
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.chown(name, before.st_uid, before.st_gid)
    for one in done:
        print(f"{one['key']}: {one.get('from', 'set')} -> {shown(one['to'])}", flush=True)


def keep(base: sqlite3.Connection, path: str, like: os.stat_result) -> None:
    """A whole copy beside it, of the same owner and mode, under a name with the time."""
    size = like.st_size + (os.stat(f"{path}-wal").st_size if os.path.exists(f"{path}-wal") else 0)
    free = shutil.disk_usage(os.path.dirname(path)).free
    if free < size + ROOM:
        raise CannotMend(f"no room for a copy of {path}: {size >> 20} MiB, and {free >> 20} MiB are free")
    for left in glob.glob(f"{glob.escape(path)}.before-*.part*"):  # of a run that was killed in the middle of its copy
        os.unlink(left)
    copy = f"{path}.before-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    part = f"{copy}.part"
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(part)) as target:
            base.backup(target)
        os.chown(part, like.st_uid, like.st_gid)
        os.chmod(part, like.st_mode & 0o7777)
        os.rename(part, copy)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    print(f"the database is kept as {copy} ({os.stat(copy).st_size / 1024**2:.1f} MiB)", flush=True)


class Table:
    """The settings, in either shape: a row for each, or one document (the last row counts)."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        columns = {row[1] for row in base.execute("PRAGMA table_info(config)")}
        self.rows = "key" in columns
        self.document: dict[str, Any] = {}
        self.number: int | None = None
        if not columns:
            raise CannotMend("the database has no settings yet: start openwebui first")
        if not self.rows:
            found = base.execute("SELECT id, data FROM config ORDER BY id DESC LIMIT 1").fetchone()
            if found is None:
                raise CannotMend("the database has no settings yet: start openwebui first")
            self.number, self.document = found[0], json.loads(found[1])

    def get(self, key: str) -> Any:
        if self.rows:
            found = self.base.execute("SELECT value FROM config WHERE key = ?", (key,)).fetchone()
            return json.loads(found[0]) if found else None
        place: Any = self.document
        for part in key.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return place

    def put(self, key: str, value: Any) -> None:
        if self.rows:
            row = (key, json.dumps(value), int(time.time()))
            self.base.execute("INSERT OR REPLACE INTO config (key, value, updated_at) VALUES (?, ?, ?)", row)
            return
        *above, name = key.split(".")
        place = self.document
        for part in above:
            place = place.setdefault(part, {})
        place[name] = value

    def write(self) -> None:
        if not self.rows:
            row = (json.dumps(self.document), self.number)
            self.base.execute("UPDATE config SET data = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?", row)

    def would(self, one: dict[str, Any]) -> bool:
        now = self.get(one["key"])
        return bool(changed(now, one, self.get("ollama.base_urls")) != now)

    def make(self, one: dict[str, Any]) -> bool:
        now = self.get(one["key"])
        then = changed(now, one, self.get("ollama.base_urls"))
        if then != now:
            self.put(one["key"], then)
        return bool(then != now)


def changed(now: Any, one: dict[str, Any], urls: Any) -> Any:
    """The value after one change."""
    if "from" in one:
        if isinstance(now, list):
            return [one["to"] if isinstance(url, str) and shown(url) == one["from"] else url for url in now]
        return one["to"] if isinstance(now, str) and shown(now) == one["from"] else now
    if not isinstance(one["to"], dict):
        return one["to"]
    configs = json.loads(json.dumps(now)) if isinstance(now, dict) else {}
    for index, url in enumerate(urls if isinstance(urls, list) else ()):
        if isinstance(url, str) and shown(url) in one["to"]:
            place = configs.get(str(index), configs.get(url))
            if isinstance(place, dict):
                place["enable"] = True
    return configs


def shown(url: Any) -> Any:
    """As the diagnosis shows it (collecting/webui.py)."""
    if not isinstance(url, str):
        return url
    url = re.sub(r"(?is)^(\s*[a-z][a-z0-9+.-]*:/+)?.*@", r"\1***@", url)
    url = re.sub(r"(?s)([?#]).*", r"\1***", url)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in url)[:300]


def quoted(path: str) -> str:
    return "".join(
        chr(c) if (c < 128 and chr(c).isalnum()) or chr(c) in "/._-" else f"%{c:02X}" for c in os.fsencode(path)
    )


if __name__ == "__main__":
    sys.exit(main())
