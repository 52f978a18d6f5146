"""The mounts of Atlas: what is mounted, who mounts it, and whether server and mount answer.

Nothing behind a network mount is touched but by a command that can be killed, and an automount that waits is not
touched at all: looking would mount it. A server is asked whether it is there by NFS's own empty call (RFC 1813, 3.3.0;
RFC 7530, 16.1), which needs no mount.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
import time

from pantheon.collecting import disks
from pantheon.looks import work
from pantheon.looks.files import Ground, read_bytes, reading_of, unescape, which
from pantheon.looks.text import Json, Object, Unread, plain, shown, unit_name, unknown, why

HEADER = "# Written by pantheon"
OURS = "/etc/systemd/system"
# Where systemd looks, the first wins (systemd.unit(5)); generators stand between the last two.
PLACES = (
    *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"),
    *("/run/systemd/generator.early", OURS, "/run/systemd/system", "/run/systemd/generator"),
    *("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"),
)
KINDS = ("mount", "automount")
TRIED = "/run/pantheon/atlas.json"
CALL_S = 1.5
SHOW_S = 3.0
NFS_PROGRAM, NULL_CALL, RPC_VERSION = 100003, 0, 2


def atlas(spec: Object, root: str) -> Json:
    """evidence.Evidence.atlas"""
    wanted = list(spec.get("atlas") or ())
    ground = Ground(root)
    servers: Object = {}
    asked = [threading.Thread(target=_ask, args=(one, servers), daemon=True) for one in _servers(wanted)]
    for thread in asked:
        thread.start()
    end = time.monotonic() + 2 * CALL_S
    states = _states([str(one["mount"]) for one in wanted]) if not root else {}
    shares: list[Object] = [_share(ground, root, one, states) for one in wanted]
    for thread in asked:
        thread.join(max(0.0, end - time.monotonic()))
    silent = f"its name gave no address within {2 * CALL_S:g} s"
    told = {str(one["server"]): servers.get(one["server"], silent) for one in wanted}
    # Who touches a mount whose server is silent is stuck for as long as it is: each look would leave one more behind.
    whose = {str(one["mount"]): told[str(one["server"])] for one in wanted}
    work.each(shares, lambda share: share.update(answers=_answers(root, share, whose[share["mount"]])))
    return {
        "client": which("mount.nfs4") or which("mount.nfs"),
        "autofs": os.path.exists(f"{root}/dev/autofs"),
        "servers": told,
        "shares": shares,
        "parents": _parents(ground, wanted),
        "ours": _ours(root),
        "tried": _tried(root),
    }


# ---- the servers


def _servers(wanted: list[Object]) -> list[tuple[str, int, int]]:
    return sorted({(str(one["server"]), int(one["port"]), int(one["version"])) for one in wanted})


def _ask(about: tuple[str, int, int], servers: Object) -> None:
    name, port, version = about
    try:
        servers[name] = ask(name, port, version) if port else ""
    except Exception as error:  # a name of the inventory's may be anything
        servers[name] = why(error)


def ask(name: str, port: int, version: int) -> str:
    """NFS's empty call: "" when the server answers it, else why not."""
    call = struct.pack(">10I", os.getpid(), 0, RPC_VERSION, NFS_PROGRAM, version, NULL_CALL, 0, 0, 0, 0)
    try:
        with socket.create_connection((name, port), timeout=CALL_S) as link:
            link.settimeout(CALL_S)
            link.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            head = link.recv(4)
            if len(head) < 4:
                return "it closed the connection without an answer"
            reply = link.recv(min(struct.unpack(">I", head)[0] & 0x7FFFFFFF, 4096))
    except socket.gaierror as error:
        return f"its name gives no address ({error.strerror})"
    except TimeoutError:
        return f"no answer within {CALL_S:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "" if reply[4:8] == struct.pack(">I", 1) else "what answers there is no NFS server"


# ---- the mount points


def _share(ground: Ground, root: str, wanted: Object, states: Object) -> Object:
    path = str(wanted["mount"])
    rows = [row for row in ground.mounts.order if row["target"] == path]
    real = [row for row in rows if row["fstype"] != "autofs"]
    names = [unit_name(path, suffix) for suffix in KINDS]
    here: Object = {
        "mount": path,
        "at": "mounted" if rows else _reading(ground, path),
        "rows": [{key: shown(row[key]) for key in ("target", "source", "fstype", "options")} for row in real],
        "waits": bool(rows) and not real,
        "answers": None,
        "beneath": None,
        "lines": _lines(root, path),
        "units": [found for name in names for found in [_unit_file(root, name)] if found],
        "states": {name: states[name] for name in names if name in states},
        "failed": "",
    }
    if not real and states.get(names[0], {}).get("active") == "failed":
        here["failed"] = _failed(names[0])
    if here["at"].startswith("dir "):
        here["beneath"] = work.attempt(lambda: sum(1 for _ in os.scandir(root + path)))
        if work.is_unknown(here["beneath"]):
            here["beneath"] = None
    return here


def _failed(unit: str) -> str:
    """What mount said, the last time that this unit failed."""
    if not which("journalctl"):
        return ""
    found = work.command(["journalctl", "-q", "-o", "cat", "-b", "-n", "1", "-u", unit, "-t", "mount"], CALL_S)
    return plain(found["output"].strip())[:300] if found["status"] == 0 else ""


def _answers(root: str, share: Object, down: str) -> Json:
    if not share["rows"]:
        return None
    if down:
        return unknown("not touched: its server does not answer")
    return work.attempt(disks.touch_place, root + str(share["mount"]))


def _reading(ground: Ground, path: str) -> str:
    """What plan.Guard says of a path; where that cannot be read, why."""
    try:
        return reading_of(ground.entry(path))
    except Unread as error:
        return f"unknown: {error}"
    except OSError as error:
        return f"unknown: {why(error)}"


def _parents(ground: Ground, wanted: list[Object]) -> Object:
    places: dict[str, None] = {}
    for one in wanted:
        parts = str(one["mount"]).split("/")[:-1]
        places |= dict.fromkeys("/".join(parts[:count]) for count in range(2, len(parts) + 1))
    return {path: _reading(ground, path) for path in places}


def _lines(root: str, path: str) -> list[Object]:
    found = []
    text = (read_bytes(f"{root}/etc/fstab") or b"").decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if len(fields) < 3 or line.lstrip().startswith("#"):
            continue
        source, target, fstype, options = (unescape(part.encode()) for part in [*fields, "defaults"][:4])
        if (target.rstrip("/") or "/") == path:
            about = {"source": plain(source), "fstype": plain(fstype)}
            found.append({"number": number, **about, "options": plain(options if len(fields) > 3 else "defaults")})
    return found


# ---- units


def _unit_file(root: str, name: str) -> Object | None:
    for place in PLACES:
        path = f"{place}/{name}"
        try:
            data = read_bytes(root + path)
        except (OSError, Unread) as error:
            return _described(name, path, f"# {why(error)}".encode(), ours=False)
        if data is not None:
            mine = place == OURS and not os.path.islink(root + path)
            return _described(name, path, data, ours=mine and data.startswith(HEADER.encode()))
    return None


def _described(name: str, path: str, data: bytes, *, ours: bool) -> Object:
    text = data.decode("utf-8", "replace")
    pairs = (line.strip().partition("=") for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))
    values = {key.strip(): value.strip().replace("%%", "%") for key, _, value in pairs}
    return {
        "name": name,
        "path": path,
        "sha256": hashlib.sha256(data).hexdigest(),
        "ours": ours,
        "where": shown(values.get("Where", "")),
        "text": text if ours and len(data) < 8192 else "",
        "what": plain(values.get("What", "")),
        "type": plain(values.get("Type", "")),
        "options": plain(values.get("Options", "")),
    }


def _ours(root: str) -> list[Object]:
    try:
        names = sorted(os.listdir(f"{root}{OURS}"))
    except FileNotFoundError:
        return []
    found = [_unit_file(root, name) for name in names if name.endswith((".mount", ".automount"))]
    return [one for one in found if one and one["ours"]]


def _states(paths: list[str]) -> Object:
    """What systemd says of the units of these paths, by name."""
    names = [unit_name(path, suffix) for path in paths for suffix in KINDS]
    if not names or not which("systemctl"):
        return {}
    keys = ("Id", "ActiveState", "SubState", "UnitFileState", "Result", "NeedDaemonReload", "SourcePath", "LoadState")
    argv = ["systemctl", "show", f"--property={','.join(keys)}", "--", *names]
    found = work.command(argv, SHOW_S)
    out: Object = {}
    for block in found["output"].split("\n\n"):
        told = dict(line.partition("=")[::2] for line in block.splitlines())
        if told.get("Id") and told.get("LoadState") != "not-found":
            out[told["Id"]] = {
                "active": told.get("ActiveState", ""),
                "sub": told.get("SubState", ""),
                "enabled": told.get("UnitFileState", ""),
                "result": told.get("Result", ""),
                "reload": told.get("NeedDaemonReload") == "yes",
                "source": told.get("SourcePath", ""),
            }
    return out


def _tried(root: str) -> list[Object]:
    """What the last `atlas --verify` of this boot left (mending/atlas_verify.py)."""
    try:
        told = json.loads(read_bytes(f"{root}{TRIED}") or b"[]")
    except (ValueError, OSError, Unread):
        return []
    return told if isinstance(told, list) else []
