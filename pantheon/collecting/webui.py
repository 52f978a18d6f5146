"""Open WebUI's settings, as its database has them, and whether the key of its sessions is the one that is kept.

The database is in use. Inside the container it is read as the server itself reads it; without a running container it is
read here, from a copy where changes wait in its write-ahead log, so that nothing is written or locked. Of the settings
only addresses and switches are taken: no keys, and no logins within addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time

from pantheon.looks import work
from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import which
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "65534:65534"
CONTAINER = "openwebui"
INSIDE = "/app/backend/data/webui.db"
SECRET = "WEBUI_SECRET_KEY"  # noqa: S105 - a name, not a secret
READ_S = 3.0
MOST_BYTES = 256 << 20  # of a database that is copied to be read
URL_CHARS = 300

# Runs in the container's Python or in the host's. Both shapes of the table: a row for each setting, or (until the
# release of June 2026) one document.
READ = r"""
import json, re, sqlite3, sys
MOST, URLS, CHARS = 8 << 20, 64, 300
base = sqlite3.connect(sys.argv[1], uri=True, timeout=1)
tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
columns = {row[1] for row in base.execute("PRAGMA table_info(config)")}
document = {}
if "data" in columns:
    row = base.execute("SELECT data FROM config WHERE length(data) < ? ORDER BY id DESC LIMIT 1", (MOST,)).fetchone()
    document = json.loads(row[0]) if row and row[0] else {}
def value(key):
    if "key" in columns:
        row = base.execute("SELECT value FROM config WHERE key = ? AND length(value) < ?", (key, MOST)).fetchone()
        return json.loads(row[0]) if row else None
    place = document
    for part in key.split("."):
        place = place.get(part) if isinstance(place, dict) else None
    return place
def shown(url):
    url = re.sub(r"(?is)^(\s*[a-z][a-z0-9+.-]*:/+)?.*@", r"\1***@", url)
    url = re.sub(r"(?s)([?#]).*", r"\1***", url)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in url)[:CHARS]
def texts(key):
    found = value(key)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise SystemExit(f"{key} is no list of addresses")
    return [shown(one) for one in found[:URLS]]
def switch(key):
    found = value(key)
    return found if isinstance(found, bool) else None
urls, configs = texts("ollama.base_urls"), value("ollama.api_configs")
off = []
for index, url in enumerate(urls or ()):
    one = configs.get(str(index), configs.get(url)) if isinstance(configs, dict) else None
    if isinstance(one, dict) and one.get("enable") is False:
        off.append(url)
comfy, users, revision = value("image_generation.comfyui.base_url"), None, None
if "user" in tables:
    users = base.execute('SELECT count(*) FROM "user"').fetchone()[0]
if "alembic_version" in tables:
    revision = (base.execute("SELECT version_num FROM alembic_version").fetchone() or [None])[0]
answer = json.dumps({
    "ollama_enabled": switch("ollama.enable"),
    "ollama_urls": urls,
    "ollama_off": off,
    "openai_enabled": switch("openai.enable"),
    "openai_urls": texts("openai.api_base_urls"),
    "comfyui_url": shown(comfy) if isinstance(comfy, str) else None,
    "users": users,
    "revision": str(revision)[:CHARS] if revision is not None else None,
})
for at in range(0, len(answer), 1000):  # longer lines are cut on their way
    print(answer[at:at + 1000])
"""


def settings(spec: Object, root: str) -> Json:
    """evidence.WebuiSettings; None where there is no database."""
    path = f"{root}{spec['openwebui_data']}/webui.db"
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unread(f"{path}: {error.strerror}") from None
    found = from_inside(root) or from_here(path, size)
    for name in ("ollama_urls", "ollama_off", "openai_urls"):
        if found[name] is not None:
            found[name] = [plain(str(url))[:URL_CHARS] for url in found[name]]
    for name in ("comfyui_url", "revision"):
        found[name] = plain(found[name])[:URL_CHARS] if found[name] is not None else None
    return {"path": path[len(root) :], "bytes": size, **found}


def from_inside(root: str) -> Object | None:
    """What the container's own Python reads; None where there is none to ask."""
    argv = ["python3", "-I", "-S", "-c", READ, f"file:{INSIDE}?mode=ro"]
    # The server reads and writes it meanwhile, as it does with its own connections. As root SQLite would give the files
    # beside it their owner anew, which is theirs already: not even that is for a look to do.
    for user in (NOBODY, ""):
        try:
            done = Engine(root).run_in(CONTAINER, argv, READ_S, user)
        except (Unread, Missing, OSError, ValueError, KeyError):
            return None
        if done["status"] == 0 and (found := document(done)):
            return found
    return None


def from_here(path: str, size: int) -> Object:
    """What this host's Python reads, of a copy where the file alone does not tell."""
    rest = [f"{path}{end}" for end in ("-wal", "-journal") if waits(f"{path}{end}")]
    if not rest:
        return ask(f"file:{quoted(path)}?mode=ro&immutable=1")
    if size + sum(os.stat(name).st_size for name in rest) > MOST_BYTES:
        raise Unread(f"{path}: changes wait in {os.path.basename(rest[0])}, and it is too large to be copied")
    folder = tempfile.mkdtemp(prefix="pantheon-")  # readable by root alone
    try:
        for _ in range(3):
            before = [stamp(name) for name in (path, *rest)]
            for name in (*rest, path):
                shutil.copyfile(name, os.path.join(folder, os.path.basename(name)))
            if before == [stamp(name) for name in (path, *rest)]:
                break
        return ask(f"file:{quoted(os.path.join(folder, os.path.basename(path)))}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def waits(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def stamp(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def ask(uri: str) -> Object:
    python = sys.executable or which("python3") or "python3"
    done = work.command([python, "-I", "-S", "-c", READ, uri], READ_S)
    if done["status"]:
        last = (done["output"].strip().splitlines() or [f"exit {done['status']}"])[-1]
        raise Unread(f"webui.db: {plain(last)[:200]}")
    if not (found := document(done)):
        raise Unread("webui.db: what read it gave no answer")
    return found


def document(done: Object) -> Object | None:
    try:
        found = json.loads(done["output"].replace("\n", ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


# ---- the key of the sessions


def login(spec: Object, root: str) -> Json:
    """evidence.LoginKey; None where there is no container. No key leaves this function."""
    try:
        found = Engine(root).get(f"/containers/{CONTAINER}/json")
    except Missing:
        return None
    path = f"{root}{spec['login_key']}"
    try:
        with open(path, "rb") as file:
            kept = file.read(4096).rstrip(b"\n")
            changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.fstat(file.fileno()).st_mtime))
    except (FileNotFoundError, IsADirectoryError):
        kept, changed = b"", ""
    if not kept.strip():
        changed = ""  # there is no key in it
    used = key_in_use(f"{root}/proc", int(found["State"].get("Pid") or 0))
    in_use = "none" if not used else "same" if used == kept else "other"
    return {"changed_at": changed, "created_at": plain(str(found.get("Created") or "")), "in_use": in_use}


def key_in_use(proc: str, pid: int) -> bytes:
    """The key that the server of that container signs with: start.sh hands it on in the environment."""
    for one in reversed([pid, *below(proc, pid)] if pid > 1 else []):
        try:
            with open(f"{proc}/{one}/environ", "rb") as file:
                for entry in file.read(1 << 20).split(b"\0"):
                    name, _, value = entry.partition(b"=")
                    if name.decode("ascii", "replace") == SECRET and value:
                        return value
        except OSError:
            continue
    return b""


def below(proc: str, pid: int) -> Iterator[int]:
    """The processes under one, parents first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", "rb") as file:
                    parent = int(file.read(4096).rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(0), ()):
            yield child
            queue.append(child)
