"""ComfyUI's custom nodes: what each was checked out from, read from git's own files. git itself is not run: in a
repository that others may write to, its configuration can name programs, and here they would run as root."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct

from pantheon.looks.files import Ground, read_bytes, read_text
from pantheon.looks.text import Json, Object, Unread, plain, shown

MOST_NODES = 300
MOST_ENTRIES = 20_000
INDEX_BYTES = 32 << 20
BLOB_BYTES = 4 << 20
HEADER = struct.Struct(">4sLL")
ENTRY = struct.Struct(">10L20sH")
SKIPPED = 0x8000  # assume-valid: somebody told git not to look
EXTENDED = 0x4000
LINK, MODULE = 0o120000, 0o160000


def custom_nodes(spec: Object, root: str) -> Json:
    """upkeep.CustomNode for each directory; None when ComfyUI has no custom_nodes yet."""
    place = f"{spec.get('comfy_mnt') or ''}/ComfyUI/custom_nodes"
    real, found = Ground(root).walk(place, follow_last=True)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return None
    folder = root + real
    out = []
    for name in sorted(os.listdir(folder))[:MOST_NODES]:
        path = f"{folder}/{name}"
        if name.startswith((".", "__")) or name.endswith(".disabled") or not os.path.isdir(path):
            continue
        if os.path.islink(path):  # to wherever, a network mount too
            out.append({"name": shown(name), "git": False})
            continue
        out.append(_node(name, path))
    return out


def _node(name: str, path: str) -> Object:
    about: Object = {"name": shown(name), "git": False, "version": _version(path)}
    git = f"{path}/.git"
    if not os.path.isdir(git) or os.path.islink(git):
        return about
    head = (_text(f"{git}/HEAD") or "").strip()
    branch = head.removeprefix("ref: refs/heads/") if head.startswith("ref: ") else ""
    commit = _branch_commit(git, head[5:]) if branch else head
    try:
        changed: Json = _changed(path, git)
    except (OSError, Unread, struct.error, ValueError) as error:
        changed = {"unknown": str(error) or type(error).__name__}
    commit = commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else ""
    return about | {"git": True, "branch": plain(branch)[:200], "commit": commit, "changed": changed}


def _text(path: str) -> str | None:
    try:
        return read_text(path, 1 << 20)
    except (OSError, Unread):
        return None


def _version(path: str) -> str:
    found = re.search(r'^version\s*=\s*["\']([\w.+-]{1,40})["\']', _text(f"{path}/pyproject.toml") or "", re.MULTILINE)
    return found[1] if found else ""


def _branch_commit(git: str, ref: str) -> str:
    if not re.fullmatch(r"refs/[\w./@+-]+", ref) or ".." in ref:
        return ""
    loose = (_text(f"{git}/{ref}") or "").strip()
    if loose:
        return loose
    rows = (line.split() for line in (_text(f"{git}/packed-refs") or "").splitlines())
    return next((row[0] for row in rows if len(row) == 2 and row[1] == ref), "")


def _changed(path: str, git: str) -> int:
    """How many files differ from what is in the index: by size, and where only the date differs by their content."""
    data = read_bytes(f"{git}/index", INDEX_BYTES)
    if data is None:
        raise Unread("it has no index")
    magic, version, count = HEADER.unpack_from(data)
    if magic != b"DIRC" or version not in (2, 3):
        raise Unread(f"an index of version {version}")
    if count > MOST_ENTRIES:
        raise Unread(f"{count} files: not looked at")
    at, changed = HEADER.size, 0
    for _ in range(count):
        *numbers, digest, flags = ENTRY.unpack_from(data, at)
        begin = at + ENTRY.size + (2 if flags & EXTENDED else 0)
        end = data.index(b"\0", begin)
        name = data[begin:end]
        at += (end - at) // 8 * 8 + 8
        if not flags & SKIPPED and b"/../" not in b"/" + name + b"/":
            changed += _differs(
                os.fsencode(path) + b"/" + name, mtime=numbers[2], mode=numbers[6], size=numbers[9], digest=digest
            )
    return changed


def _differs(path: bytes, *, mtime: int, mode: int, size: int, digest: bytes) -> bool:
    if mode & 0o170000 == MODULE:
        return False
    try:
        found = os.lstat(path)
    except OSError:
        return True
    if mode & 0o170000 == LINK:
        return not stat.S_ISLNK(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or found.st_size & 0xFFFFFFFF != size:
        return True
    if int(found.st_mtime) == mtime or found.st_size > BLOB_BYTES:
        return False
    content = read_bytes(os.fsdecode(path), BLOB_BYTES) or b""
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).digest() != digest
