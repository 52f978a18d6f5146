"""What on this host is open to more than it should be: files that all may write or read, containers beside the wall."""

from __future__ import annotations

import glob
import json
import os
import re
import stat
import time
from collections import deque
from contextlib import suppress

from pantheon.collecting import units
from pantheon.looks.files import Ground, read_bytes, read_text
from pantheon.looks.text import Json, Object, Unread, plain, shown

WALK_S = 2.5
WALK_ENTRIES = 400_000
EXAMPLES = 10
MOST_FILES = 500
IN_HOME = (
    ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens",
    ".huggingface/token",
    ".docker/config.json",
    ".netrc",
    ".git-credentials",
    ".aws/credentials",
    ".config/gh/hosts.yml",
    ".ollama/id_ed25519",
    ".ssh/id_*",
)
IN_COMFY = ("HF/token", "HF/stored_tokens", ".cache/huggingface/token")
PERHAPS = {"config.json": b'"auth"'}  # Docker's holds a login only where this stands in it


def open_trees(spec: Object, root: str) -> Json:
    """upkeep.OpenTree for each directory asked about, by path; None where there is none."""
    end, left = time.monotonic() + WALK_S, WALK_ENTRIES
    out: Object = {}
    ground = Ground(root)
    for path in spec.get("open_trees") or ():
        try:
            found = _walk(ground, path, end, left)
        except (OSError, Unread) as error:
            found = {"unknown": str(error)}
        out[path] = found
        left -= found.get("looked", 0) if found else 0
    return out


def _walk(ground: Ground, path: str, end: float, left: int) -> Object | None:
    real, found = ground.walk(path, follow_last=True)
    if found is None:
        return None
    out: Object = {"path": path, "looked": 0, "complete": True, "count": 0, "examples": []}
    _judge(out, real, found)
    waiting = deque([real])
    while waiting:
        folder = waiting.popleft()
        try:
            entries = os.scandir(ground.root + folder)
        except FileNotFoundError:
            continue
        except OSError:
            out["complete"] = False
            continue
        with entries:
            for item in entries:
                inside = f"{folder}/{item.name}"
                if inside in ground.mounts.targets:
                    continue
                if out["looked"] >= left or (out["looked"] % 256 == 255 and time.monotonic() > end):
                    out["complete"] = False
                    return out
                out["looked"] += 1
                with suppress(FileNotFoundError):
                    about = item.stat(follow_symlinks=False)
                    _judge(out, inside, about)
                    if stat.S_ISDIR(about.st_mode):
                        waiting.append(inside)
    out["examples"].sort()
    return out


def _judge(out: Object, path: str, about: os.stat_result) -> None:
    mode = about.st_mode
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    if stat.S_ISLNK(mode) or not mode & stat.S_IWOTH or sticky:
        return
    out["count"] += 1
    if len(out["examples"]) < EXAMPLES:
        out["examples"].append(f"{shown(path)} ({stat.S_IMODE(mode):04o})")


def secret_files(spec: Object, root: str) -> Json:
    """upkeep.SecretFile for what lies where secrets usually do. Nothing of their content leaves this host."""
    places: list[tuple[str, str]] = []
    stack = str(spec.get("stack_dir") or "")
    if stack:
        places += [("stack", f"{stack}/{name}") for name in ("secrets/*", "*.env", ".env")]
    comfy = str(spec.get("comfy_mnt") or "")
    if comfy:
        places += [("token", f"{comfy}/{name}") for name in IN_COMFY]
    if spec.get("ollama_data"):
        places.append(("token", f"{spec['ollama_data']}/id_ed25519"))
    for home in homes(root):
        places += [("token", f"{home}/{name}") for name in IN_HOME]
    places.append(("host key", "/etc/ssh/ssh_host_*_key"))
    ground, out = Ground(root), []
    for kind, pattern in places:
        for path in _matching(ground, pattern):
            found = _secret(ground, kind, path)
            if found:
                out.append(found)
    return out[:MOST_FILES]


def homes(root: str) -> list[str]:
    """Of root and of people."""
    found = []
    for line in (read_text(f"{root}/etc/passwd", 4 << 20) or "").splitlines():
        fields = line.split(":")
        if len(fields) < 7 or not fields[2].isdigit() or not (fields[2] == "0" or 1000 <= int(fields[2]) < 60000):
            continue
        if re.fullmatch(r"/[^*?\[\]]+", fields[5]) and fields[5] not in found:
            found.append(fields[5].rstrip("/"))
    return found[:50]


def _matching(ground: Ground, pattern: str) -> list[str]:
    """The paths that a pattern in the last part of a path stands for; none where its folder is on a network mount."""
    folder, _, last = pattern.rpartition("/")
    try:
        real, found = ground.walk(folder, follow_last=True)
    except (OSError, Unread):
        return []
    if found is None or not stat.S_ISDIR(found.st_mode):
        return []
    if not glob.has_magic(last):
        return [f"{folder}/{last}"]
    try:
        names = os.listdir(ground.root + real)
    except OSError:
        return []
    wanted = re.compile(last.replace(".", r"\.").replace("*", "[^/]*"))
    chosen = [n for n in sorted(names) if wanted.fullmatch(n) and not n.endswith(".pub") and not n.startswith(".")]
    return [f"{folder}/{name}" for name in chosen]


def _secret(ground: Ground, kind: str, path: str) -> Object | None:
    try:
        real, about = ground.walk(path, follow_last=True)
        if about is None or not stat.S_ISREG(about.st_mode):
            return None
        mark = PERHAPS.get(real.rpartition("/")[2])
        if mark and mark not in (read_bytes(ground.root + real, 1 << 20) or b""):
            return None
        parents = [ground.look(parent)[0] for parent in _parents(real)]
    except (OSError, Unread):
        return None
    reach = all(parent is not None and parent.st_mode & stat.S_IXOTH for parent in parents)
    mode = stat.S_IMODE(about.st_mode)
    return {
        "path": shown(path),
        "kind": kind,
        "uid": about.st_uid,
        "gid": about.st_gid,
        "mode": mode,
        "to_all": bool(mode & stat.S_IROTH) and reach,
    }


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]


def namespaces(spec: Object, root: str) -> Json:
    """upkeep.Namespaces of every container that shares one with the host or has a device, by the engine's own files."""
    del spec
    out = []
    for folder in units.container_folders(root):
        with suppress(OSError, ValueError, KeyError, AttributeError, TypeError, Unread):
            found = _namespaces(root + folder)
            if found["shares"] or found["devices"]:
                out.append(found)
    return sorted(out, key=lambda one: str(one["name"]))


def _namespaces(folder: str) -> Object:
    about = json.loads(read_text(f"{folder}/config.v2.json", 4 << 20) or "")
    host = json.loads(read_text(f"{folder}/hostconfig.json", 4 << 20) or "")
    kinds = {"network": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "user": "UsernsMode"}
    devices = [plain(str(device.get("PathOnHost", ""))) for device in host.get("Devices") or ()]
    return {
        "name": plain(str(about["Name"])).lstrip("/"),
        "shares": [ours for ours, theirs in kinds.items() if host.get(theirs) == "host"],
        "devices": [device for device in devices if device],
    }
