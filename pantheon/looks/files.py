"""The host's files: the mounts first, then the paths on them (DOMAIN.md, Host).

No path that was asked about is touched before /proc/self/mountinfo has said which mount it lies on."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections import deque

from pantheon.looks.text import Object, Unread, keyed_digest, shown

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
TREE_S = 0.4
TREE_ENTRIES = 20_000
TEXT_BYTES = 256 * 1024  # larger files are hashed but not shown
HASH_BYTES = 64 * 1024 * 1024


def read_bytes(path: str, limit: int = 1024 * 1024) -> bytes | None:
    """The first `limit` bytes of a regular file; None when there is none. Never waits on a FIFO or a device."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unread(f"not a regular file: {path}")
        pieces = []
        while limit > 0 and (piece := os.read(handle, min(limit, 1 << 20))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(handle)


def read_text(path: str, limit: int = 1024 * 1024) -> str | None:
    data = read_bytes(path, limit)
    return None if data is None else data.decode("utf-8", "replace")


def widen_path() -> None:
    """The usual places of programs behind those that the login gave: sudo's own PATH may leave some out."""
    have = [part for part in os.environ.get("PATH", "").split(":") if part]
    os.environ["PATH"] = ":".join(dict.fromkeys([*have, *USUAL_PATH.split(":")]))


def which(name: str) -> str | None:
    for folder in os.environ.get("PATH", USUAL_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def ids(path: str) -> list[tuple[str, int]]:
    """Names and numbers from a passwd or group file: the files alone are read, since a name service may hang."""
    rows = (line.split(":") for line in (read_text(path, 4 << 20) or "").splitlines())
    return [(row[0], int(row[2])) for row in rows if len(row) > 2 and row[2].isdigit()]


class Mounts:
    """The mounts that this process can see, from the text of /proc/self/mountinfo. Nothing is touched on disk."""

    REMOTE = re.compile(r"nfs4?|cifs|smb3|smbfs|ceph|afs|glusterfs|lustre|gpfs|beegfs|orangefs|fuse(\..+)?|autofs")
    PSEUDO = re.compile(
        r"proc|sysfs|cgroup2?|devpts|mqueue|debugfs|tracefs|securityfs|pstore|bpf|configfs|fusectl|hugetlbfs|nsfs|"
        r"devtmpfs|binfmt_misc|efivarfs|rpc_pipefs|ramfs|squashfs|selinuxfs"
    )

    def __init__(self, data: bytes) -> None:
        self.children: dict[str, list[dict[str, str]]] = {}
        self.targets: set[str] = set()
        self.order: list[dict[str, str]] = []
        for line in data.split(b"\n"):
            left, dash, right = line.partition(b" - ")
            fields, tail = left.split(b" "), right.split(b" ")
            if not dash or len(fields) < 6 or len(tail) < 3:
                continue
            number, parent, _, _, target, options = (unescape(part) for part in fields[:6])
            row = {"id": number, "parent": parent, "target": target, "fstype": unescape(tail[0])}
            row["source"] = unescape(tail[1])
            row["options"] = merged_options(options, unescape(tail[2]))
            self.children.setdefault(parent, []).append(row)
            self.targets.add(target)
            self.order.append(row)
        ids = {row["id"] for row in self.order}
        self.roots = [row for row in self.order if row["parent"] not in ids or row["parent"] == row["id"]]

    def of(self, path: str) -> dict[str, str] | None:
        """The mount on which `path` lies, a path without symlinks; the mount itself when it is a mount point. Later
        mounts hide earlier ones: the tree is walked as the kernel walks it."""
        place = next((row for row in reversed(self.roots) if within(path, row["target"])), None)
        while place:
            below = [
                row
                for row in self.children.get(place["id"], ())
                if row is not place and within(path, row["target"]) and within(row["target"], place["target"])
            ]
            if not below:
                break
            place = min(below, key=lambda row: len(row["target"]))
        return place

    def remote(self, row: dict[str, str] | None) -> bool:
        """Whether the far side of this mount may hang or be dead."""
        return row is not None and bool(self.REMOTE.fullmatch(row["fstype"]))

    def visible(self) -> list[Object]:
        """Every mount that can be reached and is a place for files, in the order in which they were made."""
        shown = (row for row in self.order if not self.PSEUDO.fullmatch(row["fstype"]))
        return [public(row) for row in shown if self.of(row["target"]) is row]


def unescape(field: bytes) -> str:
    """A field of mountinfo: spaces, tabs, newlines and backslashes come as octal."""
    if b"\\" in field:
        field = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), field)
    return os.fsdecode(field)


def merged_options(mount: str, super_block: str) -> str:
    """A mount's own options, then those of its file system; read-only when either says so."""
    both = dict.fromkeys([*mount.split(","), *super_block.split(",")])
    names = [name for name in both if not name.startswith(("lowerdir=", "upperdir=", "workdir="))]
    if "ro" in names:
        names = ["ro", *(name for name in names if name not in ("ro", "rw"))]
    return ",".join(names)


def within(path: str, folder: str) -> bool:
    return path == folder or folder == "/" or path.startswith(folder + "/")


def public(row: dict[str, str]) -> Object:
    return {key: shown(row[key]) for key in ("target", "source", "fstype", "options")}


class Ground:
    """The host's file system beneath `root` (a prefix, empty except in tests). Every path given and returned is one of
    the host's. `may_touch` is the remote mount whose paths may be read: only in a child that can be killed."""

    def __init__(self, root: str, may_touch: str = "") -> None:
        self.root = root
        self.may_touch = may_touch
        self.mounts = Mounts(read_bytes(f"{root}/proc/self/mountinfo", 16 << 20) or b"")
        self.seen: dict[str, tuple[os.stat_result | None, str]] = {}
        self.names: dict[str, dict[int, str]] = {}  # by table, then number

    def look(self, path: str) -> tuple[os.stat_result | None, str]:
        """lstat of a path whose parents are no symlinks, and where it points when it is one itself."""
        if path in self.seen:
            return self.seen[path]
        mount = self.mounts.of(path)
        if mount and mount["fstype"] == "autofs":
            raise Unread(f"an automount at {mount['target']} that nobody has used yet: looking would mount it")
        if mount and self.mounts.remote(mount) and mount["id"] != self.may_touch:
            raise Unread(f"leads to the network mount {mount['target']} ({mount['fstype']}): not looked at")
        try:
            found = os.lstat(self.root + path)
            target = os.readlink(self.root + path) if stat.S_ISLNK(found.st_mode) else ""
        except (FileNotFoundError, NotADirectoryError):
            self.seen[path] = (None, "")
        else:
            self.seen[path] = (found, target)
        return self.seen[path]

    def walk(self, path: str, *, follow_last: bool = False) -> tuple[str, os.stat_result | None]:
        """Where `path` really is, with the symlinks of its parents followed, and its lstat (None: not there)."""
        waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        here, links = "", 0
        found, target = self.look("/")
        while waiting:
            part = waiting.pop()
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            found, target = self.look(f"{here}/{part}")
            if found is None:
                return "/".join([here, part, *reversed(waiting)]), None
            if target and (waiting or follow_last):
                links += 1
                if links > 40:
                    raise Unread(f"too many levels of symlinks: {path}")
                here = "" if target.startswith("/") else here
                waiting.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
                continue
            here = f"{here}/{part}"
        return here or "/", self.look(here or "/")[0]

    def owner(self, table: str, number: int) -> str:
        """The name of a uid ("passwd") or gid ("group"); the first where it has several."""
        if table not in self.names:
            self.names[table] = {number: name for name, number in reversed(ids(f"{self.root}/etc/{table}"))}
        return self.names[table].get(number, str(number))

    def entry(self, path: str) -> Object | None:
        """facts.Entry"""
        clean = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
        _, found = self.walk(clean)
        if found is None:
            return None
        real = self.walk(clean, follow_last=True)[0]
        mount = self.mounts.of(real)
        return {
            "path": path,
            "kind": kind(found.st_mode),
            "uid": found.st_uid,
            "gid": found.st_gid,
            "owner": self.owner("passwd", found.st_uid),
            "group": self.owner("group", found.st_gid),
            "mode": stat.S_IMODE(found.st_mode),
            "real": real,
            "is_mount": bool(mount) and mount["target"] == clean == real,  # type: ignore[index]
            "mount": public(mount) if mount else None,
        }

    def space(self, path: str) -> Object | None:
        """facts.Space of the file system that `path` lies on; None when the path is not there."""
        real, found = self.walk(path, follow_last=True)
        if found is None:
            return None
        room = os.statvfs(self.root + real)
        return {
            "free_bytes": room.f_bavail * room.f_frsize,
            "total_bytes": room.f_blocks * room.f_frsize,
            "free_inodes": room.f_favail,
            "total_inodes": room.f_files,
        }

    def file(self, path: str, *, secret: bool, nonce: str) -> Object | None:
        """facts.TextFile: of a secret file neither text nor hash, only a digest keyed with the nonce."""
        real, found = self.walk(path)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise Unread(f"not a regular file but a {kind(found.st_mode, exact=True)}: {path}")
        if found.st_size > HASH_BYTES:
            raise Unread(f"larger than {HASH_BYTES >> 20} MiB: {path}")
        handle = os.open(self.root + real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(handle, "rb") as stream:
            found = os.fstat(handle)
            data = stream.read(HASH_BYTES + 1)
        show = not secret and len(data) <= TEXT_BYTES
        return {
            "path": path,
            "sha256": "" if secret else hashlib.sha256(data).hexdigest(),
            "uid": found.st_uid,
            "gid": found.st_gid,
            "mode": stat.S_IMODE(found.st_mode),
            "size": len(data),
            "text": data.decode("utf-8", "replace") if show else None,
            "digest": keyed_digest(nonce, data) if secret else "",
        }

    def tree(self, path: str, *, uid: int, gid: int) -> Object | None:
        """facts.Tree: breadth first, on this file system only, no symlink followed, within TREE_ENTRIES and TREE_S."""
        end = time.monotonic() + TREE_S
        real, found = self.walk(path)
        if found is None:
            return None
        if not stat.S_ISDIR(found.st_mode):
            raise Unread(f"not a directory but a {kind(found.st_mode, exact=True)}: {path}")
        out: Object = {"path": path, "looked": 0, "complete": True, "wrong": 0, "examples": []}
        waiting = deque([real])
        while waiting:
            folder = waiting.popleft()
            try:
                entries = os.scandir(self.root + folder)
            except OSError:  # gone, or not ours to read: what is inside is not known
                out["complete"] = False
                continue
            with entries:
                for item in entries:
                    inside = f"{folder}/{item.name}"
                    if inside in self.mounts.targets:
                        continue
                    if out["looked"] >= TREE_ENTRIES or (out["looked"] % 256 == 255 and time.monotonic() > end):
                        out["complete"] = False
                        return out
                    out["looked"] += 1
                    try:
                        about = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if about.st_uid != uid or about.st_gid != gid:
                        out["wrong"] += 1
                        if len(out["examples"]) < 10:
                            out["examples"].append(f"{shown(inside)} ({about.st_uid}:{about.st_gid})")
                    if stat.S_ISDIR(about.st_mode):
                        waiting.append(inside)
        return out


def kind(mode: int, *, exact: bool = False) -> str:
    """facts.Entry.kind; `exact` names what "other" is."""
    for test, name in ((stat.S_ISDIR, "dir"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "symlink")):
        if test(mode):
            return name
    if not exact:
        return "other"
    return {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device"}.get(
        stat.S_IFMT(mode), "device"
    )


def reading_of(entry: Object | None) -> str:
    """What plan.Guard says of a path, by its entry."""
    if entry is None:
        return "missing"
    if entry["kind"] == "symlink":
        return f"symlink -> {entry['real']}"
    if entry["real"] != entry["path"]:
        return f"elsewhere: {entry['real']}"
    return f"{entry['kind']} {entry['uid']}:{entry['gid']} {entry['mode']:04o}"
