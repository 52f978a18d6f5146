"""Docker's units, what the engine said since it was last started, whether its configuration is valid, and which
containers its own files tell of: all of it can be read while the engine is down."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress

from pantheon.looks import work
from pantheon.looks.files import read_text, which
from pantheon.looks.text import Json, Object, Unread, masked, plain, seconds

UNIT_KEYS = {
    "ActiveState": "active",
    "SubState": "sub",
    "Result": "result",
    "StateChangeTimestamp": "since",
    "NRestarts": "restarts",
    "UnitFileState": "enabled",
    "ExecMainStartTimestamp": "started",
}
LOG_LINES, LOG_BYTES, LOG_S = 2000, 2 << 20, 3.0
LOG_AGE_S = 2 * 86400  # what the engine said earlier explains nothing that is wrong now
KEEP = 100
MOST_CONTAINERS = 500
SETTLE_S = 0.5


def units(spec: Object, root: str) -> Json:
    """evidence.Evidence.units"""
    del root
    if not which("systemctl"):
        raise Unread("there is no systemctl: this host is not run by systemd")
    return {name: work.attempt(_unit, name) for name in spec.get("units") or ()}


def _unit(name: str) -> Object | None:
    argv = ["env", "TZ=UTC", "systemctl", "show", "--no-pager", "-p", ",".join([*UNIT_KEYS, "LoadState"]), "--", name]
    found = work.command(argv, LOG_S)
    values = dict(line.partition("=")[::2] for line in found["output"].splitlines() if "=" in line)
    if found["status"] or "ActiveState" not in values:
        raise Unread(f"systemctl show {name}: exit {found['status']}: {found['output'][:200]}")
    if values.get("LoadState") == "not-found":
        return None
    out: Object = {ours: values.get(theirs, "") for theirs, ours in UNIT_KEYS.items()}
    restarts = str(out["restarts"])
    out["restarts"] = int(restarts) if restarts.isdigit() else 0
    out["since"], out["started"] = iso(out["since"]), iso(out["started"])
    if values.get("LoadState") == "masked" and not out["enabled"].startswith("masked"):
        out["enabled"] = "masked"
    return out


def iso(text: str) -> str:
    """systemd's `Sat 2026-11-21 22:56:07 UTC` as 2026-11-21T22:56:07Z; "" for what is no time."""
    found = re.search(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)", text)
    return f"{found[1]}T{found[2]}Z" if found else ""


def engine_log(spec: Object, root: str) -> Json:
    """evidence.Evidence.engine_log: the engine's own lines since it was last started, or tried to, that match a clue"""
    del root
    if not which("journalctl"):
        raise Unread("there is no journalctl")
    unit = work.attempt(_unit, "docker.service")
    if unit is None:
        return None
    started = seconds(unit.get("started") or "")
    since = max(started - 2 if started else 0.0, time.time() - LOG_AGE_S)
    argv = ["journalctl", "--no-pager", "-q", "-o", "cat", "-r", "-n", str(LOG_LINES), f"--since=@{since:.0f}"]
    found = work.command([*argv, "-u", "docker.service"], LOG_S, LOG_BYTES)
    if found["status"]:
        raise Unread(f"journalctl: exit {found['status']}: {found['output'][:200]}")
    lines = found["output"].splitlines()[:LOG_LINES]
    return [masked(line) for line in reversed(clued(lines, spec.get("clues") or (), "docker")[:KEEP])]


def clued(lines: Iterable[str], clues: Iterable[Object], where: str) -> list[str]:
    """The lines that hold the text of a clue about `where` (symptoms.Clue)."""
    wanted = [
        (str(clue["text"]).lower(), re.compile(clue["pattern"], re.IGNORECASE) if clue.get("pattern") else None)
        for clue in clues
        if where in (clue.get("where") or ())
    ]
    out = []
    for line in lines:
        low = line.lower()
        if any(text in low and (pattern is None or pattern.search(line)) for text, pattern in wanted):
            out.append(line)
    return out


def engine_config(spec: Object, root: str) -> Json:
    """evidence.Evidence.engine_config: what dockerd itself says of its configuration; None when there is no file"""
    del spec
    path = f"{root}/etc/docker/daemon.json"
    if not os.path.lexists(path):
        return None
    if not which("dockerd"):
        raise Unread("there is no dockerd to ask")
    found = work.command(["dockerd", "--validate", "--config-file", path], LOG_S)
    return {"status": found["status"], "output": masked(found["output"])[:2000]}


def kept(spec: Object, root: str) -> Json:
    """evidence.Evidence.kept"""
    del spec
    out = []
    for folder in container_folders(root):
        with suppress(OSError, ValueError, KeyError, AttributeError, TypeError, Unread):
            out.append(_kept(root, folder))
    doubtful = [one for one in out if one["gone"]]
    if doubtful:  # one that ends just now is noted in a moment
        time.sleep(SETTLE_S)
    for one in doubtful:
        with suppress(OSError, ValueError, KeyError, AttributeError, TypeError, Unread):
            one["gone"] = _kept(root, one["folder"])["gone"]
    for one in out:
        del one["folder"]
    return out


def container_folders(root: str) -> list[str]:
    """Where the engine keeps its containers' files, a folder for each, beneath `root`."""
    folder = f"{data_root(root)}/containers"
    try:
        names = sorted(os.listdir(root + folder))
    except FileNotFoundError:
        return []
    return [f"{folder}/{name}" for name in names[:MOST_CONTAINERS] if re.fullmatch(r"[0-9a-f]{64}", name)]


def _kept(root: str, folder: str) -> Object:
    found = json.loads(read_text(f"{root}{folder}/config.v2.json", 4 << 20) or "")
    host = json.loads(read_text(f"{root}{folder}/hostconfig.json", 4 << 20) or "")
    labels, state = found["Config"].get("Labels") or {}, found.get("State") or {}
    pid = state.get("Pid") if state.get("Running") and not state.get("Restarting") else 0
    return {
        "name": plain(str(found["Name"])).lstrip("/"),
        "project": plain(str(labels.get("pantheon.project", ""))),
        "service": plain(str(labels.get("pantheon.service", ""))),
        "policy": str((host.get("RestartPolicy") or {}).get("Name") or ""),
        "stopped": bool(found.get("HasBeenManuallyStopped")),
        "gone": isinstance(pid, int) and pid > 1 and not os.path.isdir(f"{root}/proc/{pid}"),
        "folder": folder,
    }


def data_root(root: str) -> str:
    """Where the engine keeps its data: as daemon.json says, where that can be read."""
    with suppress(OSError, ValueError, AttributeError, Unread):
        place = json.loads(read_text(f"{root}/etc/docker/daemon.json") or "{}").get("data-root")
        if isinstance(place, str) and place.startswith("/"):
            return place.rstrip("/")
    return "/var/lib/docker"
