"""What is true on a host, looked at from the host itself. The only code that looks; it writes nothing.

This one file is sent to the host and runs there as root (`python3 -I`), with the standard library and pynvml alone, on
Python 3.10 and later. `main` prints one JSON document, the shape of facts.Facts: an unknown value is
{"unknown": reason}, an absent one null.

Three rules hold it together:
- Every part has a deadline of its own, and a part that fails or hangs is Unknown without taking the others with it.
- Whatever can block in the kernel for good (a dead NFS server, a hung driver, a dying disk) is asked in a child
  process. A thread stuck there would keep the whole process from ending, a child is left behind and killed.
- No path is touched before /proc/self/mountinfo has said which mount it lies on (DOMAIN.md, Host).

Start-up counts, since this runs on every command: no dataclasses, typing, http.client or urllib (each some 3 to 15 ms).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO, NoReturn, TextIO

    Json = Any
    Object = dict[str, Any]
    Say = Callable[[str, str, Json], None]  # part, key ("" for the whole part), value

SCHEMA = 1
STATE_FILE = "/var/lib/pantheon/state.json"
LOCK_FILE = "/run/pantheon/lock"
LIBRARY = "/var/lib/pantheon/lib"
SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"

PART_S = 5.0  # deadline of a part, in seconds: well above what a busy host needs, for a false Unknown stops a bring-up
HTTP_S = 2.0
LOG_S = 2.0
TREE_S = 0.4
TREE_ENTRIES = 20_000
TEXT_BYTES = 256 * 1024  # larger files are hashed but not shown
HASH_BYTES = 64 * 1024 * 1024
LOG_BYTES = 8 * 1024 * 1024
LOG_LINES = 20_000  # how far back markers are looked for
LINE_CHARS = 2000
LABEL_CHARS = 4096
BODY_BYTES = 4096
LOGS = 40  # containers whose log is read, those that were asked about first
WORKERS = 8


class Unread(Exception):
    """A value that could not be read; the message says why."""


class Missing(Exception):
    """The engine has no such object (404)."""


def unknown(reason: str) -> Object:
    return {"unknown": " ".join(reason.split()) or "no reason given"}


def why(error: BaseException) -> str:
    """One line about an exception, without the class name where the text speaks for itself."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if isinstance(error.filename, str) else "")
    return str(error) if isinstance(error, Unread) and str(error) else f"{type(error).__name__}: {error}"


# ---- text ------------------------------------------------------------------------------------------------------------

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
SECRETIVE = r"(?:pass(?:word|wd|phrase)?|secret|token|api_?-?key|access_?-?key|private_?-?key|credential|auth)"
SECRET_NAME = re.compile(rf"(?i){SECRETIVE}")
MASKS = (  # user:password@, NAME=value, --name value, and a header's Name: value
    (re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"), "***"),
    (re.compile(rf"(?i)([\w.-]*{SECRETIVE}[\w.-]*=)(?:\"[^\"]*\"|'[^']*'|[^\s;&|]+)"), r"\1***"),
    (re.compile(rf"(?i)(--?[\w-]*{SECRETIVE}[\w-]*\s+)[^\s-]\S*"), r"\1***"),
    (re.compile(rf"(?i)([\w-]*{SECRETIVE}[\w-]*:\s+)[^\"'\n]+"), r"\1***"),
)


def plain(line: str) -> str:
    """A line as a terminal would be left with it: no escape sequences, no control characters, and of a progress line
    that rewrites itself only its last state. At most LINE_CHARS characters."""
    if "\r" in line:
        line = next((piece for piece in reversed(line.split("\r")) if piece.strip()), "")
    if not line.isprintable():
        line = CONTROLS.sub("", ESCAPES.sub("", line))
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}... ({len(line)} characters)"


def shown(name: str) -> str:
    """A file name fit for a document and a terminal: undecodable bytes and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def masked(text: str) -> str:
    """A text with what looks like a secret in it replaced by ***."""
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return text


def masked_argv(argv: Iterable[str]) -> list[str]:
    """A command line with the values of --password-like options and the like replaced by ***."""
    out: list[str] = []
    hide = False
    for word in argv:
        out.append("***" if hide and not word.startswith("-") else masked(word)[:LABEL_CHARS])
        hide = word.startswith("-") and "=" not in word and bool(SECRET_NAME.search(word))
    return out


def keyed_digest(nonce: str, value: str) -> str:
    """HMAC-SHA256 of `value` keyed with the look's nonce, 16 hex digits: equal values can be told, none can be read."""
    return hmac.new(nonce.encode(), value.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:16]


def seconds(rfc3339: str) -> float:
    """Docker's time as seconds since 1970; 0.0 for Docker's "never" (year 1) and for what is no time. (datetime would
    cost its import.)"""
    found = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", rfc3339 or "")
    if not found or found[1] < "1970":
        return 0.0
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    if month < 3:
        year, month = year - 1, month + 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719_469
    offset = (int(found[9]) * 3600 + int(found[10]) * 60) * (-1 if found[8] == "-" else 1) if found[8] else 0
    clock = int(found[4]) * 3600 + int(found[5]) * 60 + int(found[6])
    return days * 86400 + clock - offset + float(found[7] or 0)


# ---- files -----------------------------------------------------------------------------------------------------------


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


def which(name: str) -> str | None:
    for folder in os.environ.get("PATH", USUAL_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


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
        self.names: dict[str, dict[int, str]] = {}

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
        """The name of a uid ("passwd") or gid ("group"), from the files alone: a name service may hang."""
        if table not in self.names:
            self.names[table] = {}
            for line in (read_text(f"{self.root}/etc/{table}", 4 << 20) or "").splitlines():
                fields = line.split(":")
                if len(fields) > 2 and fields[2].isdigit():
                    self.names[table].setdefault(int(fields[2]), fields[0])
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
            "digest": hmac.new(nonce.encode(), data, "sha256").hexdigest()[:16] if secret else "",
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


# ---- deadlines: threads, children, commands --------------------------------------------------------------------------


class Part(threading.Thread):
    """One part of the look, in a thread of its own: its value is "no answer" until the work has given one."""

    def __init__(self, name: str, deadline_s: float, work: Callable[[], Json]) -> None:
        super().__init__(daemon=True, name=name)
        self.deadline = time.monotonic() + deadline_s
        self.work = work
        self.value: Json = unknown(f"no answer within {deadline_s:g} s ({name})")
        self.took = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.value = self.work()
        except Unread as error:
            self.value = unknown(str(error))
        except Exception as error:
            self.value = unknown(f"{self.name}: {why(error)}")
        self.took = time.monotonic() - began

    def result(self, end: float) -> Json:
        """The value, waited for until the part's own deadline or `end`, whichever is first."""
        self.join(max(0.0, min(self.deadline, end) - time.monotonic()))
        return dict(self.value) if isinstance(self.value, dict) else self.value


def each(items: Iterable[Json], work: Callable[[Json], None]) -> None:
    """`work` on every item, WORKERS at a time, in daemon threads. An exception ends that item alone; `work` itself
    records what became of it."""
    queue = deque(items)

    def drain() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item)

    threads = [threading.Thread(target=drain, daemon=True) for _ in range(min(WORKERS, len(queue)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Child:
    """A forked child that says what it finds, line by line, until it has said all that it `owes` (part and key, "" for
    a whole part). Made before any thread starts."""

    def __init__(self, work: Callable[[Say], None], owes: Iterable[tuple[str, str]]) -> None:
        self.owes = set(owes)
        self.pipe, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.be(work, writer)
        os.close(writer)

    def be(self, work: Callable[[Say], None], writer: int) -> NoReturn:
        try:
            os.setsid()
            os.close(self.pipe)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):  # a child that is stuck must not hold the SSH session's streams open
                os.dup2(null, standard)

            def say(part: str, key: str, value: Json) -> None:
                data = json.dumps([part, key, value]).encode() + b"\n"
                while data:
                    data = data[os.write(writer, data) :]

            work(say)
        finally:
            os._exit(0)

    def listen(self, document: Object, deadline_s: float) -> None:
        """Puts what the child says into document[part] (or [part][key]) until it is done or time is up. What stands
        there when time is up stays; of a child that died it is said."""
        end = time.monotonic() + deadline_s
        held = b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.pipe], [], [], left)[0]:
                break
            data = os.read(self.pipe, 1 << 20)
            if not data:
                status = self.end()
                for part, key in self.owes:
                    put(document, part, key, unknown(f"what read it died ({status})"))
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                part, key, value = json.loads(line)
                put(document, part, key, value)
                self.owes.discard((part, key))
        self.end()

    def end(self) -> str:
        """Kills the child if it still runs, and says how it ended: one that is stuck in the kernel has not."""
        pid, self.pid = self.pid, 0
        if not pid:
            return ""
        with suppress(ProcessLookupError, ChildProcessError):
            for wait in (0, 0.001, 0.01, 0.05):  # one that has closed its pipe is about to end by itself
                time.sleep(wait)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return f"signal {status & 127}" if status & 127 else f"status {status >> 8}"
                if wait == 0.01 or self.owes:
                    os.kill(pid, signal.SIGKILL)
        return "killed"


def put(document: Object, part: str, key: str, value: Json) -> None:
    if key:
        document[part][key] = value
    else:
        document[part] = value


RUNNING: set[int] = set()  # process groups of commands under way, for the last moment of `leave`


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def command(argv: list[str], deadline_s: float, limit: int = 64 * 1024) -> Object:
    """facts.Command: exit status and output together. The command leads a process group of its own, which is killed
    at the deadline. Raises Unread when it does not start or does not end."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        bufsize=0,
    )
    RUNNING.add(child.pid)
    end, output = time.monotonic() + deadline_s, bytearray()
    pipe: Any = child.stdout
    try:
        while (left := end - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                break
            data = pipe.read(65536)
            if not data:
                break
            output += data[: max(0, limit - len(output))]
        try:
            status = child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Unread(f"no answer within {deadline_s:g} s ({' '.join(argv)})") from None
    finally:
        kill_group(child.pid)
        RUNNING.discard(child.pid)
        pipe.close()
    text = output.decode("utf-8", "replace")
    return {"status": status, "output": "\n".join(plain(line) for line in text.split("\n"))}


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def exchange(
    line: socket.socket, head: str, body: bytes, end: float, *, limit: int, sink: Callable[[bytes], bool] | None = None
) -> tuple[int, str, bytes]:
    """One HTTP/1.0 request on a connected socket, all of it before `end`: status, reason and the first `limit` bytes
    of the body. `sink` gets the body piece by piece instead and ends it by returning False. HTTP/1.0, since the end of
    the connection is then the end of the body; a server that sends chunks all the same is understood.
    (http.client would cost 10 ms and cannot keep a deadline for the whole.)"""

    def receive() -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        line.settimeout(left)
        return line.recv(1 << 18)

    line.settimeout(max(0.001, end - time.monotonic()))
    line.sendall(head.encode("latin-1", "replace") + body)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = receive()
        if not piece or len(data) > 65536 or not (data + piece).startswith(b"HTTP/"[: len(data + piece)]):
            got = (data + piece)[:60].decode("latin-1").strip()
            raise Unread(
                f"not an HTTP answer: {plain(got)!r}" if got else "the connection was closed without an answer"
            )
        data += piece
    top, _, data = data.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    version_status_reason = [*first.split(" ", 2), "", ""]
    status = int(version_status_reason[1]) if version_status_reason[1].isdigit() else 0
    headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
    kept = bytearray()
    length = int(headers["content-length"]) if headers.get("content-length", "").isdigit() else -1
    for piece in pieces(data, receive, length, "chunked" in headers.get("transfer-encoding", "").lower()):
        if sink and (200 <= status < 300 or status == 101):
            if not sink(piece):
                break
        else:
            kept += piece[: limit - len(kept)]
            if len(kept) >= limit:
                break
    return status, version_status_reason[2], bytes(kept)


def pieces(data: bytes, receive: Callable[[], bytes], length: int, chunked: bool) -> Iterator[bytes]:
    """The body of an answer as it comes in, to its length, to the last chunk or to the end of the connection."""
    if not chunked:
        while length != 0:
            piece = data or receive()
            if not piece:
                return
            data = b""
            yield piece if length < 0 else piece[:length]
            length = length if length < 0 else max(0, length - len(piece))
        return
    while True:
        while b"\n" not in data:
            piece = receive()
            if not piece:
                return
            data += piece
        size_text, _, data = data.partition(b"\n")
        try:
            size = int(size_text.split(b";")[0].strip() or b"0", 16)
        except ValueError:
            return
        if size == 0:
            return
        while len(data) < size + 2:
            piece = receive()
            if not piece:
                break
            data += piece
        yield data[:size]
        data = data[size + 2 :]


def quoted(text: str) -> str:
    """A value for one place in a URL (slashes and colons, as in image references, stay)."""
    return "".join(
        chr(byte) if re.match(rb"[A-Za-z0-9._~/:@-]", bytes([byte])) else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def http_get(url: str) -> Object:
    """facts.Http of a GET on loopback. No answer is an answer too: status 0 and what went wrong."""
    out: Object = {"url": url, "status": 0, "reason": "", "body": "", "error": "", "ms": 0.0}
    began = time.monotonic()
    found = re.fullmatch(r"http://(127\.0\.0\.1|localhost|\[::1\])(?::(\d{1,5}))?(/[^\s]*)?", url)
    if not found or int(found[2] or 80) > 65535:
        out["error"] = "not an http:// address on loopback"
        return out
    head = f"GET {found[3] or '/'} HTTP/1.0\r\nHost: {found[1]}:{found[2] or 80}\r\n"
    head += "User-Agent: pantheon-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2] or 80)), HTTP_S) as line:
            end = began + HTTP_S
            out["status"], out["reason"], body = exchange(line, head, b"", end, limit=BODY_BYTES)
            out["body"] = body.decode("utf-8", "replace")
    except TimeoutError:
        out["error"] = f"no answer within {HTTP_S:g} s"
    except (OSError, Unread) as error:
        out["error"] = why(error)
    out["ms"] = round((time.monotonic() - began) * 1000, 1)
    return out


# ---- Docker's API ----------------------------------------------------------------------------------------------------


class Engine:
    """The Docker Engine behind its own socket."""

    def __init__(self, root: str) -> None:
        paths = [root + path for path in SOCKETS]
        self.path = next((path for path in paths if os.path.exists(path)), paths[0])

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        end: float | None = None,
        limit: int = 32 << 20,
        sink: Callable[[bytes], bool] | None = None,
    ) -> bytes:
        """The body of a 2xx answer. Raises Missing on 404 and Unread for everything else."""
        end = end or time.monotonic() + PART_S
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\n"
        if method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(max(0.001, end - began))
            try:
                line.connect(self.path)
                status, reason, answer = exchange(line, head + "\r\n", data, end, limit=limit, sink=sink)
            except TimeoutError:
                raise Unread(f"Docker gave no answer within {max(0.0, end - began):.1f} s ({path})") from None
            except OSError as error:
                raise Unread(f"Docker's socket {self.path}: {error.strerror or error}") from None
        if 200 <= status < 300 or status == 101:
            return answer
        try:
            message = json.loads(answer)["message"]
        except (ValueError, KeyError, TypeError):
            message = answer[:200].decode("utf-8", "replace") or reason
        if status == 404:
            raise Missing(message)
        raise Unread(f"Docker answered {status}: {plain(str(message))}")

    def get(self, path: str, end: float | None = None) -> Json:
        try:
            return json.loads(self.ask("GET", path, end=end))
        except ValueError:
            raise Unread(f"Docker's answer is not JSON ({path})") from None

    def log(self, name: str, *, since: float, tail: int, end: float, lines: LogLines, follow: bool = False) -> None:
        """Feeds the log since `since` (seconds, 0: all of it), at most the last `tail` lines, to `lines`."""
        query = f"stdout=1&stderr=1&tail={tail}" + (f"&since={since:.9f}" if since > 0 else "")
        query += "&follow=1" if follow else ""
        self.ask("GET", f"/containers/{quoted(name)}/logs?{query}", end=end, sink=lines.feed)

    def run_in(self, name: str, argv: list[str], deadline_s: float) -> Object:
        """facts.Command of `argv` inside a running container. Killed, by its own process id, when it does not end."""
        end = time.monotonic() + deadline_s
        ask = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv}
        number = json.loads(self.ask("POST", f"/containers/{quoted(name)}/exec", body=ask, end=end))["Id"]
        output = LogLines(tty=False, keep=200)
        try:
            self.ask("POST", f"/exec/{number}/start", body={"Detach": False, "Tty": False}, end=end, sink=output.feed)
            status = self.get(f"/exec/{number}/json", time.monotonic() + 1)["ExitCode"]
        except Unread as error:
            self.kill_exec(number, argv[0])
            if time.monotonic() >= end:
                raise Unread(f"no answer within {deadline_s:g} s ({' '.join(argv)} in {name})") from None
            return {"status": 126, "output": str(error)}
        output.finish()
        text = "\n".join(output.tail)
        return {"status": -1 if status is None else status, "output": text + "\n" if text else ""}

    def kill_exec(self, number: str, name: str) -> None:
        with suppress(Unread, Missing, OSError):
            about = self.get(f"/exec/{number}/json", time.monotonic() + 0.5)
            pid = about.get("Pid") or 0
            if about.get("Running") and pid > 1 and (read_text(f"/proc/{pid}/comm") or "").strip() == name[:15]:
                os.kill(pid, signal.SIGKILL)


class LogLines:
    """Puts Docker's log stream together: frames of stdout and stderr to clean lines, in bounded memory. A line comes
    in several frames when it is long; only its first 64 KiB are kept."""

    def __init__(self, *, tty: bool, keep: int, markers: Iterable[str] = (), most: int = 1 << 62) -> None:
        self.tty = tty
        self.tail: deque[str] = deque(maxlen=keep)
        self.markers = tuple(markers)
        self.found: deque[str] = deque(maxlen=200)
        self.most = most
        self.bytes = self.count = 0
        self.held = b""
        self.open: dict[int, bytearray] = {}
        self.cut = False

    def feed(self, data: bytes) -> bool:
        """Takes a piece of the stream; False when enough was read."""
        self.bytes += len(data)
        if self.tty:
            self.text(1, data)
        else:
            self.held = self.frames(self.held + data)
        self.cut = self.bytes > self.most
        return not self.cut

    def frames(self, data: bytes) -> bytes:
        at = 0
        while len(data) - at >= 8:
            stream, size = struct.unpack_from(">B3xL", data, at)
            if stream > 3:  # not a multiplexed stream: take it as it is
                self.text(1, data[at:])
                return b""
            if len(data) - at - 8 < size:
                break
            self.text(stream, data[at + 8 : at + 8 + size])
            at += 8 + size
        return data[at:]

    def text(self, stream: int, data: bytes) -> None:
        line = self.open.setdefault(stream, bytearray())
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line += piece[: 65536 - len(line)]
            self.line(bytes(line))
            line.clear()
        line += rest[: max(0, 65536 - len(line))]

    def line(self, raw: bytes) -> None:
        text = plain(raw.decode("utf-8", "replace").rstrip("\r"))
        self.count += 1
        self.tail.append(text)
        if self.markers and any(marker in text for marker in self.markers):
            self.found.append(text)

    def finish(self) -> None:
        """The last lines have no end when their writer was cut off."""
        for line in self.open.values():
            if line:
                self.line(bytes(line))
                line.clear()


# ---- parts: the system -----------------------------------------------------------------------------------------------


def look_os(root: str) -> Object:
    """facts.OsRelease"""
    text = read_text(f"{root}/etc/os-release") or read_text(f"{root}/usr/lib/os-release")
    if not text:
        raise Unread("there is no /etc/os-release")
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals:
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            values[name] = plain(value)

    def first(path: str) -> str:
        return (read_text(root + path) or "").strip()

    uptime = first("/proc/uptime").split(" ")[0]
    return {
        "id": values.get("ID", "linux"),
        "version": values.get("VERSION_ID", ""),
        "pretty": values.get("PRETTY_NAME", values.get("NAME", "")),
        "kernel": first("/proc/sys/kernel/osrelease"),
        "boot_id": first("/proc/sys/kernel/random/boot_id"),
        "uptime_s": float(uptime) if re.fullmatch(r"\d+(\.\d+)?", uptime) else 0.0,
        "hostname": first("/proc/sys/kernel/hostname"),
    }


def look_groups(root: str, names: Iterable[str]) -> Object:
    """name -> gid, from /etc/group and then from the host's name service."""
    table: dict[str, int] = {}
    for line in (read_text(f"{root}/etc/group", 4 << 20) or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            table.setdefault(fields[0], int(fields[2]))
    out: Object = {}
    for name in names:
        out[name] = table.get(name)
        if out[name] is None and not root:
            import grp

            with suppress(KeyError):
                out[name] = grp.getgrnam(name).gr_gid
    return out


def look_lock(root: str) -> str | None:
    """The lock's text when somebody holds it. /proc/locks is read rather than the lock tried: for the moment of a try
    we would hold it ourselves, and an apply that starts just then would be refused."""
    path = root + LOCK_FILE
    try:
        about = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    locks = read_text(f"{root}/proc/locks", 16 << 20)
    if locks is None:
        raise Unread("/proc/locks cannot be read")
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == device:
            return read_text(path, 65536) or "{}"
    return None


def look_nvidia_smi() -> Object | None:
    if not which("nvidia-smi"):
        return None
    return command(["nvidia-smi"], PART_S - 0.1, 16 * 1024)


def look_module(root: str) -> str | None:
    """The version of the kernel module that is loaded; None when none is."""
    text = read_text(f"{root}/sys/module/nvidia/version")
    return text.strip() if text is not None else None


def look_library(root: str) -> str | None:
    """The version in the name of the file that libnvidia-ml.so.1 leads to: what NVML would be, without calling it."""
    machine = os.uname().machine
    for folder in (
        f"/usr/lib/{machine}-linux-gnu",
        f"/lib/{machine}-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/lib64",
        "/usr/local/lib",
        f"/usr/lib/{machine}-linux-gnu/nvidia/current",
        "/usr/lib/wsl/lib",
    ):
        path = f"{root}{folder}/libnvidia-ml.so.1"
        if os.path.lexists(path):
            found = re.search(r"\.so\.(\d+(?:\.\d+)+)$", os.path.realpath(path))
            if found:
                return found[1]
            raise Unread(f"the file name of {folder}/libnvidia-ml.so.1 shows no version")
    return None


def look_toolkit(root: str) -> str | None:
    """The NVIDIA Container Toolkit's version: dpkg's own record, which is quicker than a command, else nvidia-ctk."""
    record = read_bytes(f"{root}/var/lib/dpkg/status", 64 << 20) or b""
    at = 0 if record.startswith(b"Package: nvidia-container-toolkit\n") else -1
    at = at if at == 0 else record.find(b"\nPackage: nvidia-container-toolkit\n")
    if at >= 0:
        stanza = record[at:].lstrip(b"\n").split(b"\n\n", 1)[0].decode("utf-8", "replace")
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed"):
            return fields.get("Version", "").split(":")[-1].split("-")[0]
    if not which("nvidia-ctk"):
        return None
    result = command(["nvidia-ctk", "--version"], PART_S - 0.1)
    found = re.search(r"version\s+v?(\d[\w.+~-]*)", result["output"])
    if result["status"] or not found:
        raise Unread(f"nvidia-ctk --version: exit {result['status']}: {result['output'][:200]}")
    return found[1]


# ---- parts: NVML -----------------------------------------------------------------------------------------------------

EVENT_REASONS = (  # in the order of their bits
    *("gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal_slowdown"),
    *("hw_thermal_slowdown", "hw_power_brake_slowdown", "display_clock_setting", "board_limit", "reliability"),
)


def load_pynvml(spec: Object) -> Json:
    """The pynvml that was sent along, or the copy that an apply left in a root-owned cache. Never one that happens to
    be installed: its version is not ours."""
    if __name__ != "__main__":
        import pynvml

        return pynvml
    digest = str(spec.get("pynvml", ""))
    folder = f"{LIBRARY}/{digest}"
    path = f"{folder}/pynvml.py"
    also: list[str] = []
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise Unread("pynvml was not sent")
    compiled = f"{folder}/__pycache__"
    with suppress(OSError):
        also = [compiled, *(f"{compiled}/{name}" for name in os.listdir(compiled))]
    for place in (LIBRARY, folder, path, *also):
        try:
            about = os.lstat(place)
        except OSError:
            raise Unread("pynvml was not sent") from None
        if about.st_uid != 0 or about.st_mode & 0o022 or stat.S_ISLNK(about.st_mode):
            raise Unread(f"pynvml was not sent, and {place} can be written by others than root")
    if hashlib.sha256(read_bytes(path, 4 << 20) or b"").hexdigest() != digest:
        raise Unread(f"pynvml was not sent, and {path} is not what its name says")
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    import pynvml

    return pynvml


def look_nvml(spec: Object) -> Object | None:
    """facts.Nvml; None when the host has no NVML library. NOT_SUPPORTED and functions that an older library lacks are
    None too (DOMAIN.md, NVIDIA)."""
    nv = load_pynvml(spec)

    def maybe(function: str, *arguments: Json) -> Json:
        call = getattr(nv, function, None)
        if call is None:
            return None
        try:
            value = call(*arguments)
        except nv.NVMLError as error:
            if error.value in (
                nv.NVML_ERROR_NOT_SUPPORTED,
                nv.NVML_ERROR_FUNCTION_NOT_FOUND,
                nv.NVML_ERROR_NO_PERMISSION,
            ):
                return None
            raise
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    try:
        nv.nvmlInit()
        cuda = maybe("nvmlSystemGetCudaDriverVersion_v2") or 0
        return {
            "driver": maybe("nvmlSystemGetDriverVersion") or "",
            "library": maybe("nvmlSystemGetNVMLVersion") or "",
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            "gpus": [look_gpu(nv, maybe, index) for index in range(maybe("nvmlDeviceGetCount") or 0)],
        }
    except nv.NVMLError as error:
        if error.value == nv.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        raise Unread(f"NVML: {error} (code {error.value})") from None


def look_gpu(nv: Json, maybe: Callable[..., Json], index: int) -> Object:
    """facts.GpuDevice"""
    gpu = nv.nvmlDeviceGetHandleByIndex(index)
    memory = maybe("nvmlDeviceGetMemoryInfo", gpu, getattr(nv, "nvmlMemory_v2", None))
    memory = memory or maybe("nvmlDeviceGetMemoryInfo", gpu)
    use = maybe("nvmlDeviceGetUtilizationRates", gpu)
    power = maybe("nvmlDeviceGetPowerUsage", gpu)
    limit = maybe("nvmlDeviceGetEnforcedPowerLimit", gpu)
    ecc = maybe("nvmlDeviceGetEccMode", gpu)
    errors = None
    if ecc and ecc[0]:
        errors = maybe("nvmlDeviceGetTotalEccErrors", gpu, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC)
    reasons = maybe("nvmlDeviceGetCurrentClocksEventReasons", gpu)
    if reasons is None:  # the name that the call had before driver 535
        reasons = maybe("nvmlDeviceGetCurrentClocksThrottleReasons", gpu) or 0
    processes = {}
    for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in maybe(function, gpu) or ():
            used = process.usedGpuMemory
            processes[process.pid] = {
                "pid": process.pid,
                "name": (read_text(f"/proc/{process.pid}/comm") or "").strip(),
                "memory_mib": None if used is None else used >> 20,
                "container": container_of("", process.pid),
            }
    return {
        "index": index,
        "name": maybe("nvmlDeviceGetName", gpu) or "",
        "uuid": maybe("nvmlDeviceGetUUID", gpu) or "",
        "memory_total_mib": memory.total >> 20 if memory else 0,
        "memory_used_mib": memory.used >> 20 if memory else 0,
        "memory_free_mib": memory.free >> 20 if memory else 0,
        "utilisation": use.gpu if use else None,
        "temperature_c": maybe("nvmlDeviceGetTemperature", gpu, nv.NVML_TEMPERATURE_GPU),
        "power_w": None if power is None else power / 1000,
        "power_limit_w": None if limit is None else limit / 1000,
        "ecc": None if ecc is None else "on" if ecc[0] else "off",
        "ecc_uncorrected": errors,
        "event_reasons": [name for bit, name in enumerate(EVENT_REASONS) if reasons >> bit & 1],
        "processes": list(processes.values()),
    }


def container_of(root: str, pid: int) -> str:
    """The id of the container that a process runs in, "" for none: the last 64 hex digits in its cgroup's path, which
    cgroup v1 and v2 and both cgroup drivers have in common."""
    try:
        text = read_text(f"{root}/proc/{pid}/cgroup", 65536) or ""
    except OSError:
        return ""
    found = re.findall(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", text)
    return str(found[-1]) if found else ""


# ---- parts: Docker ---------------------------------------------------------------------------------------------------


def look_client() -> str | None:
    """The client's version. (`docker --version` does not wait for the engine, `docker version` does.)"""
    if not which("docker"):
        return None
    result = command(["docker", "--version"], PART_S - 0.1)
    found = re.search(r"version\s+v?(\d[\w.+~-]*)", result["output"])
    if result["status"] or not found:
        raise Unread(f"docker --version: exit {result['status']}: {result['output'][:200]}")
    return found[1]


PLUGINS = (  # where the client looks for plugins, in its order
    *("/root/.docker/cli-plugins", "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins"),
    *("/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins"),
)


def look_compose(root: str) -> str | None:
    """The version of Compose v2; None when the client has no such plugin. The plugin itself is asked, which takes a
    third of the time; where that does not work, `docker compose version` has the word."""
    if not which("docker"):
        return None
    plugins = [path for path in (f"{root}{folder}/docker-compose" for folder in PLUGINS) if os.access(path, os.X_OK)]
    end = time.monotonic() + PART_S - 0.1
    result: Object = {"status": 1, "output": ""}
    for argv in ([plugins[0]] if plugins else [], ["docker", "compose"]):
        if argv:
            result = command([*argv, "version", "--short"], end - time.monotonic())
            found = re.search(r"^v?(\d[\w.+~-]*)\s*$", result["output"], re.MULTILINE)
            if result["status"] == 0 and found:
                return found[1]
    if not plugins:
        return None
    raise Unread(f"docker compose version: exit {result['status']}: {result['output'][:200]}")


def snap_evidence(root: str, docker_root: Json) -> str | None:
    """What shows that Docker is the snap (DOMAIN.md, Docker and Compose); None when nothing does."""
    if isinstance(docker_root, str) and docker_root.startswith("/var/snap/"):
        return f"Docker's root directory is {docker_root}"
    path = which("docker")
    if path and (
        "/snap/" in path or "/snap/" in os.path.realpath(path) or os.path.realpath(path).endswith("/bin/snap")
    ):
        return f"the docker command is {path}"
    if os.path.lexists(f"{root}/snap/bin/docker"):
        return "/snap/bin/docker exists"
    return None


def configured_tcp(root: str, daemon_json: Json) -> list[str]:
    """TCP addresses of the API in daemon.json, in the systemd unit and in its socket, each with its place."""
    out = []
    if isinstance(daemon_json, str):
        try:
            hosts = json.loads(daemon_json or "{}").get("hosts") or []
            out += [f"{host} (/etc/docker/daemon.json)" for host in hosts if is_tcp(str(host))]
        except (ValueError, AttributeError, TypeError):
            pass  # daemon.json itself is in the facts: judging it is not the probe's work
    for unit, key in (("docker.service", "ExecStart"), ("docker.socket", "ListenStream")):
        for value, place in unit_values(root, unit, key):
            if key == "ListenStream":
                if not value.startswith("/") and value:
                    out.append(f"{value} ({place})")
                continue
            words = value.split()
            for index, word in enumerate(words):
                address = words[index + 1] if word in ("-H", "--host") and index + 1 < len(words) else ""
                if word.startswith(("-H", "--host=")) and not address:
                    address = word.removeprefix("--host=").removeprefix("-H").lstrip("=")
                if address and is_tcp(address.strip("\"'")):
                    out.append(f"{address.strip(chr(34) + chr(39))} ({place})")
    return out


def is_tcp(address: str) -> bool:
    return address.startswith(("tcp://", "http://")) or (bool(address) and "://" not in address and address[0] != "/")


def unit_values(root: str, unit: str, key: str) -> list[tuple[str, str]]:
    """The values of `key` as systemd would take them, with the file of each: /etc before /run before /usr/lib, then
    drop-ins by name; an empty value forgets the earlier ones."""
    places = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
    files = [f"{place}/{unit}" for place in (*places, "/lib/systemd/system")]
    files = [path for path in files if os.path.exists(root + path)][:1]
    drop_ins: dict[str, str] = {}
    for place in places:
        try:
            for name in os.listdir(f"{root}{place}/{unit}.d"):
                if name.endswith(".conf"):
                    drop_ins.setdefault(name, f"{place}/{unit}.d/{name}")
        except OSError:
            continue
    out: list[tuple[str, str]] = []
    for path in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        try:
            text = read_text(root + path) or ""
        except (OSError, Unread):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and name.strip() == key:
                out = [*out, (value.strip(), path)] if value.strip() else []
    return out


def look_cdi(root: str) -> list[str]:
    out = []
    for folder in ("/etc/cdi", "/var/run/cdi"):
        try:
            names = sorted(os.listdir(root + folder))
        except OSError:
            continue
        out += [f"{folder}/{shown(name)}" for name in names if name.endswith((".yaml", ".json", ".yml"))]
    return out


def image_store(info: Object) -> str:
    """Where the layers of pulled images land: containerd's root where the engine keeps its images in containerd."""
    status = dict(pair for pair in info.get("DriverStatus") or () if isinstance(pair, list) and len(pair) == 2)
    if "containerd" in str(status.get("driver-type", "")):
        return "/var/lib/containerd"
    return str(info.get("DockerRootDir") or "")


class Images:
    """Local images by reference or id, each asked about once: the engine takes its time over them."""

    def __init__(self, engine: Engine, asked: Iterable[str] = ()) -> None:
        self.engine = engine
        self.asked = set(asked)
        self.lock = threading.Lock()
        self.cells: dict[str, tuple[threading.Lock, list[Object | None]]] = {}

    def get(self, name: str) -> Object | None:
        """Docker's own description; None when there is no such image on the host."""
        with self.lock:
            busy, known = self.cells.setdefault(name, (threading.Lock(), []))
        with busy:
            if not known:
                try:
                    known.append(self.engine.get(f"/images/{quoted(name)}/json"))
                except Missing:
                    known.append(None)
            return known[0]

    def look(self, reference: str) -> Object | None:
        """facts.Image"""
        found = self.get(reference)
        if not found:
            return None
        return {
            "id": found["Id"],
            "digests": found.get("RepoDigests") or [],
            "size_bytes": found.get("Size") or 0,
            "created": found.get("Created") or "",
        }

    def environment(self, number: str, reference: str) -> set[str]:
        """What the image of that id sets by itself; by its reference where that was asked about and still leads there.
        Nothing when the image is gone: then everything counts as the container's own."""
        for name in (reference, number) if reference in self.asked else (number,):
            with suppress(Unread):
                found = self.get(name)
                if found and found["Id"] == number:
                    return set((found.get("Config") or {}).get("Env") or ())
        return set()


BLANK: Object = {  # facts.Container of which nothing is known yet
    **dict.fromkeys(("id", "name", "image", "image_id", "state", "error", "started_at", "finished_at", "user"), ""),
    **dict.fromkeys(("restart_policy", "gpus", "log_driver", "unread"), ""),
    **dict.fromkeys(("health", "log_markers", "gpu_seen")),
    **dict.fromkeys(("exit_code", "restarts", "memory"), 0),
    **dict.fromkeys(("oom_killed", "privileged", "init", "log_complete"), False),
    **dict.fromkeys(
        ("ports", "mounts", "command", "entrypoint", "networks", "cap_add", "cap_drop", "security_opt"), ()
    ),
    "env": {},
    "labels": {},
    "log_options": {},
    "log": (),
}


class Containers:
    """Every container on the host: one list, then inspections side by side, then logs: a log that hangs must not keep
    an inspection waiting."""

    def __init__(self, engine: Engine, images: Images, spec: Object) -> None:
        self.engine = engine
        self.images = images
        self.spec = spec
        self.root = str(spec.get("root") or "")
        self.end = time.monotonic() + PART_S
        self.markers: dict[str, list[str]] = spec.get("log_markers") or {}
        self.asked = {*self.markers, *(spec.get("gpu_in") or ())}
        self.addresses: dict[str, str] = {}  # address on a Docker network -> name

    def look(self) -> list[Object]:
        summaries = self.engine.get("/containers/json?all=1", self.end)
        summaries.sort(key=lambda summary: (own_name(summary) not in self.asked, own_name(summary)))
        out: dict[str, Object] = {}
        logs: list[tuple[Object, Object]] = []

        def inspect(summary: Object) -> None:
            try:
                found = self.engine.get(f"/containers/{summary['Id']}/json", self.end)
                out[summary["Id"]] = self.inspected(found)
                logs.append((out[summary["Id"]], found))
            except Missing:
                pass  # removed between the list and now
            except Exception as error:
                out[summary["Id"]] = self.summarised(summary, why(error))

        def read(pair: tuple[Object, Object]) -> None:
            try:
                self.read_log(*pair)
            except Exception as error:
                pair[0].update(log=unknown(why(error)), log_markers=unknown(why(error)))

        each(summaries, inspect)
        logs.sort(key=lambda pair: (pair[0]["name"] not in self.asked, pair[0]["name"]))
        for container, _ in logs[LOGS:]:
            container["log"] = unknown(f"not read: only the logs of the first {LOGS} containers are")
        each(logs[:LOGS], read)
        return [out[summary["Id"]] for summary in summaries if summary["Id"] in out]

    def inspected(self, found: Object) -> Object:
        """facts.Container, its log still to come."""
        state, config, host = found["State"], found["Config"], found["HostConfig"]
        log_config = host.get("LogConfig") or {}
        networks = found["NetworkSettings"].get("Networks") or {}
        name = found["Name"].lstrip("/")
        for network in networks.values():
            for key in ("IPAddress", "GlobalIPv6Address"):
                if network.get(key):
                    self.addresses[network[key]] = name
        return {
            **BLANK,
            "id": found["Id"],
            "name": name,
            "image": config.get("Image") or "",
            "image_id": found.get("Image") or "",
            "state": state.get("Status") or "",
            "health": health(state),
            "exit_code": state.get("ExitCode") or 0,
            "oom_killed": bool(state.get("OOMKilled")),
            "error": plain(state.get("Error") or ""),
            "restarts": found.get("RestartCount") or 0,
            "started_at": state.get("StartedAt") or "",
            "finished_at": state.get("FinishedAt") or "",
            "user": config.get("User") or "",
            "ports": ports(found["NetworkSettings"].get("Ports"), host.get("PortBindings")),
            "mounts": mounts_of(found.get("Mounts") or [], host.get("Tmpfs") or {}),
            "env": self.environment(pairs_of(config), found.get("Image") or "", config.get("Image") or ""),
            "labels": labels(config.get("Labels") or {}),
            "command": masked_argv(config.get("Cmd") or ()),
            "entrypoint": masked_argv(config.get("Entrypoint") or ()),
            "networks": sorted(networks),
            "restart_policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
            "cap_add": [capability.removeprefix("CAP_") for capability in host.get("CapAdd") or ()],
            "cap_drop": [capability.removeprefix("CAP_") for capability in host.get("CapDrop") or ()],
            "security_opt": host.get("SecurityOpt") or [],
            "privileged": bool(host.get("Privileged")),
            "init": bool(host.get("Init")),
            "memory": host.get("Memory") or 0,
            "gpus": gpus(host.get("DeviceRequests") or ()),
            "log_driver": log_config.get("Type") or "",
            "log_options": log_config.get("Config") or {},
        }

    def summarised(self, summary: Object, reason: str) -> Object:
        """facts.Container from the list's entry alone, when its inspection failed."""
        published = [port for port in summary.get("Ports") or () if port.get("PublicPort")]
        return {
            **BLANK,
            "id": summary["Id"],
            "name": own_name(summary),
            "image": summary.get("Image") or "",
            "image_id": summary.get("ImageID") or "",
            "state": summary.get("State") or "",
            "ports": [
                {
                    "container_port": f"{port['PrivatePort']}/{port['Type']}",
                    "address": port.get("IP") or "",
                    "port": number,
                }
                for port in published
                for number in [port["PublicPort"]]
            ],
            "mounts": mounts_of(summary.get("Mounts") or [], {}),
            "labels": labels(summary.get("Labels") or {}),
            "networks": sorted((summary.get("NetworkSettings") or {}).get("Networks") or {}),
            "log": unknown(reason),
            "log_markers": unknown(reason),
            "unread": " ".join(reason.split()) or "not inspected",
        }

    def environment(self, pairs: list[tuple[str, str]], image: str, reference: str) -> Object:
        """facts.EnvValue by name: in the clear only what was asked for, everything else as a keyed digest."""
        in_image = self.images.environment(image, reference) if pairs else set()
        clear = set(self.spec.get("plain_env") or ())
        return {
            name: {
                "value": MASKS[0][0].sub("***", value) if name in clear else None,
                "digest": keyed_digest(str(self.spec.get("nonce", "")), value),
                "from_image": f"{name}={value}" in in_image,
            }
            for name, value in pairs
        }

    def read_log(self, out: Object, found: Object) -> None:
        """Last lines, markers and how far back the log goes, all since the container's current start. Values of its
        environment that are secret by name are masked in it."""
        secrets = [value for name, value in pairs_of(found["Config"]) if len(value) >= 6 and SECRET_NAME.search(name)]
        markers = self.markers.get(out["name"])
        since = start_of_log(found["State"])
        if not seconds(found["State"].get("StartedAt") or ""):
            out.update(log=[], log_markers=[] if markers is not None else None, log_complete=True)
            return
        keep = int(self.spec.get("log_tail") or 50)
        lines = LogLines(
            tty=bool(found["Config"].get("Tty")),
            keep=keep,
            markers=markers or (),
            most=LOG_BYTES if markers else 64 << 20,
        )
        tail = max(keep, LOG_LINES) if markers else keep
        reason = ""
        try:
            end = min(self.end, time.monotonic() + LOG_S)
            self.engine.log(out["id"], since=since, tail=tail, end=end, lines=lines)
        except Unread as error:
            reason = str(error)
        lines.finish()
        if (reason or lines.cut) and markers and lines.count:
            # Cut at its older end: the newest lines are still owed
            newest = LogLines(tty=lines.tty, keep=keep, markers=markers, most=64 << 20)
            try:
                end = min(self.end, time.monotonic() + LOG_S / 2)
                self.engine.log(out["id"], since=since, tail=keep, end=end, lines=newest)
                newest.finish()
                lines.tail = newest.tail
                lines.found.extend(line for line in newest.found if line not in lines.found)
                lines.cut, reason = True, ""
            except Unread as error:
                reason = str(error)
        if reason:
            out.update(log=unknown(reason), log_markers=unknown(reason) if markers is not None else None)
            return
        out["log"] = [without(line, secrets) for line in lines.tail]
        if markers is not None:
            out["log_markers"] = [without(line, secrets) for line in lines.found]
        out["log_complete"] = not lines.cut and lines.count < tail and not rotated_away(self.root, found, since)


def own_name(summary: Object) -> str:
    """A container's own name: the others in the list are aliases that links gave it."""
    names = [name for name in summary.get("Names") or () if name.count("/") == 1]
    return names[0].lstrip("/") if names else str(summary["Id"])[:12]


def pairs_of(config: Object) -> list[tuple[str, str]]:
    """A container's environment."""
    split = (entry.partition("=") for entry in config.get("Env") or ())
    return [(name, value) for name, _, value in split]


def health(state: Object) -> str | None:
    status = (state.get("Health") or {}).get("Status")
    return None if status in (None, "", "none") else str(status)


def ports(published: Json, bindings: Json) -> list[Object]:
    """facts.Port: what is published now, or what would be if the container ran."""
    out = []
    for source in (published, bindings):
        for inside, places in sorted((source or {}).items()):
            for place in places or ():
                number = place.get("HostPort") or "0"
                out.append(
                    {
                        "container_port": inside,
                        "address": place.get("HostIp") or "",
                        "port": int(number) if number.isdigit() else 0,
                    }
                )
        if out:
            break
    return out


def mounts_of(mounts: Iterable[Object], tmpfs: Object) -> list[Object]:
    out = [
        {
            "type": mount.get("Type") or "",
            "source": mount.get("Source") or "",
            "target": mount.get("Destination") or "",
            "writable": bool(mount.get("RW")),
            "name": mount.get("Name") or "",
        }
        for mount in mounts
    ]
    there = {mount["target"] for mount in out}
    for target, options in sorted(tmpfs.items()):
        if target not in there:
            writable = "ro" not in str(options).split(",")
            out.append({"type": "tmpfs", "source": "", "target": target, "writable": writable, "name": ""})
    return sorted(out, key=lambda mount: str(mount["target"]))


def labels(found: dict[str, str]) -> dict[str, str]:
    return {
        name: "***" if SECRET_NAME.search(name) else MASKS[0][0].sub("***", value)[:LABEL_CHARS]
        for name, value in found.items()
    }


def gpus(requests: Iterable[Object]) -> str:
    """facts.Container.gpus"""
    for request in requests:
        capabilities = [name for group in request.get("Capabilities") or () for name in group]
        if request.get("Driver") in ("nvidia", "cdi") or "gpu" in capabilities:
            ids = request.get("DeviceIDs") or ()
            count = request.get("Count") or 0
            return f"ids:{','.join(ids)}" if ids else "all" if count < 0 else f"count:{count}"
    return ""


def without(line: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return line


def start_of_log(state: Object) -> float:
    """From when on the log belongs to the container's current start, in seconds since 1970; 0: all of it does. Docker
    notes the start a moment after the first lines were written, so a moment before it counts as well, unless the
    earlier run ended in it."""
    started, finished = seconds(state.get("StartedAt") or ""), seconds(state.get("FinishedAt") or "")
    if not started:
        return 0.0
    if finished and finished <= started:
        return started - min(0.25, (started - finished) / 2)
    return started - 0.05


def rotated_away(root: str, found: Object, since: float) -> bool:
    """Whether the part of a log that belongs to this start may be gone. Without rotation it is all there; with it, all
    is there while fewer files lie beside each other than are kept, or while the oldest still begins before `since`."""
    config = found["HostConfig"].get("LogConfig") or {}
    options = config.get("Config") or {}
    path = found.get("LogPath") or ""
    if config.get("Type") == "json-file" and path:
        if not options.get("max-size"):
            return False
        keep = options.get("max-file") or "1"
    elif config.get("Type") == "local":
        path = f"{(found.get('ResolvConfPath') or '').rpartition('/')[0]}/local-logs/container.log"
        keep = options.get("max-file") or "5"
    else:
        return True
    folder, _, name = path.rpartition("/")
    try:
        there = [entry for entry in os.listdir(root + folder) if entry == name or entry.startswith(name + ".")]
        if there and len(there) < int(keep):
            return False
        oldest = max(there, key=lambda entry: (len(entry), entry))
        data = read_bytes(f"{root}{folder}/{oldest}", 1 << 18) or b""
    except (OSError, ValueError, Unread):
        return True
    time_of_first = re.search(rb'"time":"([^"]+)"\}', data.partition(b"\n")[0])
    return not since or not time_of_first or not 0 < seconds(time_of_first[1].decode("ascii", "replace")) < since


# ---- parts: listening sockets ----------------------------------------------------------------------------------------


def look_listeners(root: str) -> list[Object]:
    """facts.Listener: the kernel's table joined with the open files of every process. `container` is an id here; names
    are filled in by `name_containers`. `argv` is for that too."""
    rows: list[tuple[str, int, str]] = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        text = read_text(f"{root}/proc/net/{table}", 32 << 20)
        if text is None and table == "tcp":
            raise Unread("/proc/net/tcp cannot be read")
        for line in (text or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == "0A":
                where, _, number = fields[1].partition(":")
                rows.append((kernel_address(where, family), int(number, 16), fields[9]))
    owners = socket_owners(root, {inode for _, _, inode in rows})
    out = []
    for address, port, inode in rows:
        pid = owners.get(inode)
        process, argv = "", ""
        if pid is not None:
            process = (read_text(f"{root}/proc/{pid}/comm") or "").strip()
            if process.startswith("docker-proxy"):
                argv = (read_text(f"{root}/proc/{pid}/cmdline", 65536) or "").replace("\0", " ")
        container = container_of(root, pid) if pid else ""
        out.append(
            {
                "address": address,
                "port": port,
                "pid": pid,
                "process": plain(process),
                "container": container,
                "argv": argv,
            }
        )
    unique = {(row["address"], row["port"]): row for row in reversed(out)}
    return sorted(unique.values(), key=lambda row: (row["port"], row["address"]))


def kernel_address(text: str, family: int) -> str:
    words = struct.unpack(f">{len(text) // 8}L", bytes.fromhex(text))
    return socket.inet_ntop(family, struct.pack(f"={len(words)}L", *words))


def socket_owners(root: str, inodes: set[str]) -> dict[str, int]:
    """inode -> process id. Process 1 comes last: it holds sockets only until the service that owns them has them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    out: dict[str, int] = {}
    pids = sorted((int(name) for name in os.listdir(f"{root}/proc") if name.isdigit()), key=lambda pid: (pid == 1, pid))
    for pid in pids:
        if not wanted:
            break
        folder = f"{root}/proc/{pid}/fd"
        try:
            for name in os.listdir(folder):
                try:
                    inode = wanted.pop(os.readlink(f"{folder}/{name}"), None)
                except OSError:
                    continue
                if inode:
                    out[inode] = pid
        except OSError:
            continue
    return out


def name_containers(root: str, document: Object, addresses: dict[str, str], daemon_json: Json) -> list[str]:
    """Puts containers' names where ids were found, and returns where Docker's own API listens on TCP: sockets of
    dockerd that are no container's published port, none of Swarm's and not the one for metrics."""
    starts = " ".join(value for value, _ in unit_values(root, "docker.service", "ExecStart"))
    text = f"{daemon_json if isinstance(daemon_json, str) else ''} {starts}"
    metrics = re.search(r'metrics-addr["\s:=]+[^"\s]*:(\d+)', text)
    others = {2377, 7946, int(metrics[1]) if metrics else 0}
    containers = document["containers"] if isinstance(document["containers"], list) else []
    names = {container["id"]: container["name"] for container in containers}
    published = {
        (port["address"] or "0.0.0.0", port["port"]): container["name"]  # noqa: S104 (compared, not bound)
        for container in containers
        if container["state"] in ("running", "restarting", "paused")
        for port in container["ports"]
    }
    if isinstance(document["nvml"], dict):
        for gpu in document["nvml"].get("gpus", ()):
            for process in gpu["processes"]:
                process["container"] = names.get(process["container"], "")
    api = []
    for row in document["listeners"] if isinstance(document["listeners"], list) else ():
        inside = re.search(r"-container-ip (\S+)", row.pop("argv"))
        row["container"] = names.get(row["container"], "")
        if inside:
            row["container"] = addresses.get(inside[1], "")
        if not row["container"] and row["process"] in ("dockerd", "docker-proxy"):
            row["container"] = published.get((row["address"], row["port"]), "")
        if row["process"] == "dockerd" and not row["container"] and row["port"] not in others:
            address = f"[{row['address']}]" if ":" in row["address"] else row["address"]
            api.append(f"tcp://{address}:{row['port']} (dockerd listens there)")
    return api


# ---- the look --------------------------------------------------------------------------------------------------------


def fork_children(spec: Object, root: str, document: Object) -> list[tuple[str, Child]]:
    """The children that read the file system and ask NVML: one for this host's own disks, one for each network mount
    that was asked about, one for each tree. Fills `document` with what stands if they never answer."""
    mounts = Ground(root).mounts
    nonce = str(spec.get("nonce", ""))
    groups: dict[str, list[tuple[str, str, Callable[[Ground], Json]]]] = {"": []}

    def add(part: str, key: str, path: str, work: Callable[[Ground], Json], apart: str = "") -> None:
        mount = mounts.of(path)
        place = mount["id"] if mount and mounts.remote(mount) else apart
        groups.setdefault(place, []).append((part, key, work))
        where = f" on {mount['target']} ({mount['fstype']})" if mount and mounts.remote(mount) else ""
        document[part][key] = unknown(f"no answer within {PART_S:g} s ({path}{where})")

    for path in spec.get("paths") or ():
        add("paths", path, path, lambda ground, path=path: ground.entry(path))  # type: ignore[misc]
    for path in spec.get("spaces") or ():
        add("spaces", path, path, lambda ground, path=path: ground.space(path))  # type: ignore[misc]
    for ask in spec.get("files") or ():
        path, secret = ask["path"], bool(ask.get("secret"))
        add("files", path, path, lambda ground, p=path, s=secret: ground.file(p, secret=s, nonce=nonce))  # type: ignore[misc]
    for index, ask in enumerate(spec.get("trees") or ()):
        path = ask["path"]
        add("trees", path, path, lambda ground, a=ask: ground.tree(a["path"], uid=a["uid"], gid=a["gid"]), f"t{index}")  # type: ignore[misc]

    def read(place: str) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            ground = Ground(root, place)
            for part, key, ask in groups[place]:
                say(part, key, attempt(lambda ask=ask: ask(ground)))  # type: ignore[misc]

        return work

    document["nvml"] = unknown(f"no answer within {PART_S:g} s (NVML)")
    children = [("nvml", Child(lambda say: say("nvml", "", attempt(lambda: look_nvml(spec))), [("nvml", "")]))]
    for place, asks in groups.items():
        if asks:
            children.append((f"files {place}", Child(read(place), [(part, key) for part, key, _ in asks])))
    return children


def attempt(work: Callable[[], Json]) -> Json:
    """What `work` gives, or why it could not."""
    try:
        return work()
    except Unread as error:
        return unknown(str(error))
    except Exception as error:
        return unknown(why(error))


def look(spec: Object) -> Object:
    """The document: see facts.Facts for its shape and facts.questions for `spec`."""
    began = time.monotonic()
    root = str(spec.get("root") or "")
    end = began + float(spec.get("deadline_s") or 10)
    if not root:
        have = os.environ.get("PATH", "").split(":")
        os.environ["PATH"] = ":".join([*have, *(part for part in USUAL_PATH.split(":") if part not in have)]).lstrip(
            ":"
        )
    document: Object = {"schema": SCHEMA, "nonce": str(spec.get("nonce", ""))}
    document.update({part: {} for part in ("paths", "spaces", "trees", "files")})
    children = fork_children(spec, root, document)  # before any thread is there

    engine = Engine(root)
    images = Images(engine, spec.get("images") or ())
    containers = Containers(engine, images, spec)
    here = os.path.exists(engine.path)
    installed = here or bool(which("docker") or which("dockerd"))

    def ask(work: Callable[[], Json]) -> Callable[[], Json]:
        return work if installed else lambda: None

    docker = {
        "client": Part("docker client", PART_S, look_client),
        "compose": Part("docker compose", PART_S, lambda: look_compose(root)),
        "version": Part("docker version", PART_S, ask(lambda: engine.get("/version"))),
        "info": Part("docker info", PART_S, ask(lambda: engine.get("/info"))),
        "daemon_json": Part("daemon.json", PART_S, lambda: read_text(f"{root}/etc/docker/daemon.json")),
        "cdi": Part("CDI", PART_S, lambda: look_cdi(root)),
    }
    single = {
        "os": Part("os", PART_S, lambda: look_os(root)),
        "nvidia_smi": Part("nvidia-smi", PART_S, look_nvidia_smi),
        "module_version": Part("module version", PART_S, lambda: look_module(root)),
        "library_version": Part("library version", PART_S, lambda: look_library(root)),
        "toolkit": Part("toolkit", PART_S, lambda: look_toolkit(root)),
        "hook": Part("runtime hook", PART_S, lambda: which("nvidia-container-runtime-hook")),
        "containers": Part("containers", PART_S + 0.5, ask(containers.look)),
        "listeners": Part("listening sockets", PART_S, lambda: look_listeners(root)),
        "mounts": Part("mounts", PART_S, lambda: Ground(root).mounts.visible()),  # noqa: PLW0108 (read there)
        "state": Part("state", PART_S, lambda: read_text(root + STATE_FILE)),
        "lock": Part("lock", PART_S, lambda: look_lock(root)),
        "groups": Part("groups", PART_S, lambda: look_groups(root, spec.get("groups") or ())),
    }
    smi = ["nvidia-smi", "-L"]
    keyed = {
        "images": {
            ref: Part(f"image {ref}", PART_S, ask(lambda ref=ref: images.look(ref)))  # type: ignore[misc]
            for ref in spec.get("images") or ()
        },
        "http": {
            name: Part(f"GET {url}", HTTP_S + 0.5, lambda url=url: http_get(url))  # type: ignore[misc]
            for name, url in (spec.get("http") or {}).items()
        },
        "gpu": {
            name: Part(f"nvidia-smi in {name}", PART_S + 0.5, lambda name=name: engine.run_in(name, smi, PART_S))  # type: ignore[misc]
            for name in (spec.get("gpu_in") or ())
            if here
        },
    }
    listening = [
        Part(name, PART_S + 0.2, lambda child=child: child.listen(document, PART_S))  # type: ignore[misc]
        for name, child in children
    ]

    for part in listening:
        part.result(end)
    document = dict(document)  # whatever a late child still says goes to the old one
    for name in ("paths", "spaces", "trees", "files"):
        document[name] = dict(document[name])
    document.update({name: part.result(end) for name, part in single.items()})
    for name in ("images", "http"):
        document[name] = {key: part.result(end) for key, part in keyed[name].items()}
    if isinstance(document["groups"], dict) and "unknown" in document["groups"]:
        document["groups"] = dict.fromkeys(spec.get("groups") or (), document["groups"])
    seen = {name: part.result(end) for name, part in keyed["gpu"].items()}
    for container in document["containers"] if isinstance(document["containers"], list) else ():
        if container["name"] in seen:
            running = container["state"] == "running"
            container["gpu_seen"] = seen[container["name"]] if running else unknown("the container is not running")
    answers = {name: part.result(end) for name, part in docker.items()}
    api = name_containers(root, document, containers.addresses, answers["daemon_json"])
    document["docker"] = join_docker(root, answers, api) if installed else None
    spaces = Part("Docker's disk", PART_S / 2, lambda: docker_spaces(root, answers["info"], installed)).result(end)
    document["spaces"].update(spaces if not is_unknown(spaces) else {"docker": spaces, "images": spaces})
    document["took_s"] = round(time.monotonic() - began, 4)
    if spec.get("timings"):  # for the benchmark: milliseconds a part
        parts = [
            *single.values(),
            *docker.values(),
            *listening,
            *(p for group in keyed.values() for p in group.values()),
        ]
        document["timings"] = {part.name: round(part.took * 1000, 1) for part in parts}
    for _, child in children:
        child.end()
    return document


def is_unknown(value: Json) -> bool:
    return isinstance(value, dict) and set(value) == {"unknown"}


def join_docker(root: str, answers: Object, api: list[str]) -> Object:
    """facts.Docker from what its parts said."""
    version, info = answers["version"], answers["info"]

    def pick(source: Json, key: str) -> Json:
        return source if is_unknown(source) or source is None else source.get(key)

    place = pick(info, "DockerRootDir")
    cdi = answers["cdi"] if isinstance(answers["cdi"], list) else []
    return {
        "client": answers["client"],
        "engine": pick(version, "Version"),
        "api": pick(version, "ApiVersion"),
        "compose": answers["compose"],
        "snap": snap_evidence(root, place),
        "root": place,
        "driver": pick(info, "Driver"),
        "runtimes": sorted((info or {}).get("Runtimes") or ()) if not is_unknown(info) else [],
        "cdi": cdi,
        "daemon_json": answers["daemon_json"],
        "tcp": [*configured_tcp(root, answers["daemon_json"]), *api],
    }


def docker_spaces(root: str, info: Json, installed: bool) -> Object:
    """Room where Docker keeps its data ("docker") and where the layers of pulled images land ("images")."""
    if is_unknown(info) or not installed:
        return {"docker": info if installed else None, "images": info if installed else None}
    ground = Ground(root)
    places = {"docker": str(info.get("DockerRootDir") or ""), "images": image_store(info)}
    return {
        name: attempt(lambda path=path: ground.space(path)) if path else unknown("Docker did not name its root")  # type: ignore[misc]
        for name, path in places.items()
    }


# ---- one reading, for the guards of a plan ---------------------------------------------------------------------------


def reading(kind: str, target: str, *, root: str = "") -> str:
    """One reading of the host as plan.Guard states it; facts.Facts.reading gives the same for what was looked at.
    kinds: "path" (missing | dir 0:0 0755 | file .. | symlink -> X | other .. | elsewhere: REALPATH), "sha256" (hex or
    missing), "mount" (SOURCE FSTYPE or "not a mount point"), "container" (by name: id or missing), "image" (by
    reference: id or missing). "unknown: REASON" when it cannot be read, which never equals a reading of a plan."""
    value = attempt(lambda: readings(root)[kind](target))
    return f"unknown: {value['unknown']}" if is_unknown(value) else str(value)


def readings(root: str) -> dict[str, Callable[[str], str]]:
    return {
        "path": lambda target: path_reading(on_its_mount(root, target, lambda ground: ground.entry(target))),
        "sha256": lambda target: sha256_reading(
            on_its_mount(root, target, lambda ground: ground.file(target, secret=False, nonce=""))
        ),
        "mount": lambda target: mount_reading(on_its_mount(root, target, lambda ground: ground.entry(target))),
        "container": lambda target: container_reading(Engine(root), target),
        "image": lambda target: str((Images(Engine(root)).get(target) or {"Id": "missing"})["Id"]),
    }


def on_its_mount(root: str, path: str, work: Callable[[Ground], Json]) -> Json:
    """`work` here, or in a child that can be killed when the path lies on a network mount."""
    ground = Ground(root)
    mount = ground.mounts.of(path)
    if not mount or not ground.mounts.remote(mount):
        return work(ground)
    place = mount["id"]
    document: Object = {"it": unknown(f"no answer within {PART_S:g} s ({path} on {mount['target']})")}
    child = Child(lambda say: say("it", "", attempt(lambda: work(Ground(root, place)))), [("it", "")])
    child.listen(document, PART_S)
    if is_unknown(document["it"]):
        raise Unread(document["it"]["unknown"])
    return document["it"]


def path_reading(entry: Object | None) -> str:
    if entry is None:
        return "missing"
    if entry["kind"] == "symlink":
        return f"symlink -> {entry['real']}"
    if entry["real"] != entry["path"]:
        return f"elsewhere: {entry['real']}"
    return f"{entry['kind']} {entry['uid']}:{entry['gid']} {entry['mode']:04o}"


def sha256_reading(file: Object | None) -> str:
    return str(file["sha256"]) if file else "missing"


def mount_reading(entry: Object | None) -> str:
    if not entry or not entry["is_mount"]:
        return "not a mount point"
    return f"{entry['mount']['source']} {entry['mount']['fstype']}"


def container_reading(engine: Engine, name: str) -> str:
    try:
        found = engine.get(f"/containers/{quoted(name)}/json")
    except Missing:
        return "missing"
    return str(found["Id"]) if found["Name"] == f"/{name}" else "missing"  # an id's first digits are found as well


# ---- watching --------------------------------------------------------------------------------------------------------


class Watch:
    """Follows containers, their logs and HTTP addresses, and prints a frame at every change and every second. An HTTP
    answer counts for the start it was given in: it is forgotten when the container of its name starts anew."""

    def __init__(self, spec: Object, root: str, write: Callable[[Object], None]) -> None:
        self.engine = Engine(root)
        self.names: list[str] = list(spec.get("containers") or ())
        self.urls: dict[str, str] = dict(spec.get("http") or {})
        self.with_log = bool(spec.get("log"))
        self.began = time.monotonic()
        self.deadline = self.began + float(spec.get("deadline_s") or 3600)
        self.write = write
        self.changed = threading.Event()
        self.states: Object = {}
        self.starts: dict[str, Object] = {}  # the last inspection, by container
        self.since: dict[str, float] = {}  # when that start was first seen
        self.answers: dict[str, int] = {}
        self.lines: dict[str, deque[str]] = {name: deque(maxlen=200) for name in self.names}
        self.stop = False

    def run(self, stdin: BinaryIO | None) -> None:
        """Until `stdin` ends or the deadline."""
        for name in self.names:
            self.start(self.poll, name)
            if self.with_log:
                self.start(self.follow, name)
        for key in self.urls:
            self.start(self.ask, key)
        if stdin is not None:
            self.start(self.listen, stdin)
        while len(self.states) < len(self.names) and time.monotonic() < self.began + 1:
            time.sleep(0.02)  # a first frame without the containers would say nothing
        said: Json = None
        last = 0.0
        while not self.stop and (now := time.monotonic()) < self.deadline:
            self.changed.clear()
            news = (dict(self.states), dict(self.answers))
            if news != said or any(self.lines.values()) or now - last >= 0.9:
                self.say(*news)
                said, last = news, now
            self.changed.wait(max(0.0, min(last + 0.9, self.deadline) - time.monotonic()))
            time.sleep(0.05)  # what changes together is said together

    def start(self, work: Callable[..., None], *arguments: Json) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def say(self, states: Object, answers: dict[str, int]) -> None:
        containers: Object = {}
        for name, state in states.items():
            lines = self.lines[name]
            log = [lines.popleft() for _ in range(len(lines))]
            containers[name] = {**state, "log": log} if state and not is_unknown(state) else state
        t = round(time.monotonic() - self.began, 2)
        self.write({"frame": "watch", "t": t, "containers": containers, "http": answers})

    def poll(self, name: str) -> None:
        while not self.stop:
            state: Json = None
            try:
                found = self.engine.get(f"/containers/{quoted(name)}/json")
                self.note_start(name, found)
                about = found["State"]
                state = {
                    "state": about.get("Status") or "",
                    "health": health(about),
                    "restarts": found.get("RestartCount") or 0,
                    "exit_code": about.get("ExitCode") or 0,
                    "error": plain(about.get("Error") or ""),
                }
            except Missing:
                self.note_start(name, None)
            except (Unread, KeyError, TypeError) as error:
                state = unknown(why(error))
            if name not in self.states or self.states[name] != state:
                self.states[name] = state
                self.changed.set()
            time.sleep(0.5)

    def note_start(self, name: str, found: Object | None) -> None:
        if start_id(found) != start_id(self.starts.get(name)):
            self.since[name] = time.monotonic()
            for key in [key for key in self.answers if key.partition("/")[0] == name]:
                del self.answers[key]
        if found:
            self.starts[name] = found
        else:
            self.starts.pop(name, None)

    def follow(self, name: str) -> None:
        """The log since the current start; again from the next start when the stream has ended."""
        followed = ""
        while not self.stop:
            found = self.starts.get(name)
            if not found or start_id(found) == followed or not seconds(found["State"].get("StartedAt") or ""):
                time.sleep(0.1)
                continue
            followed = start_id(found)
            lines = Followed(self.lines[name], self.changed, tty=bool(found["Config"].get("Tty")))
            since = start_of_log(found["State"])
            try:
                self.engine.log(found["Id"], since=since, tail=200, end=self.deadline, lines=lines, follow=True)
                lines.finish()
            except (Unread, Missing):
                time.sleep(0.5)
                if not lines.count:
                    followed = ""  # the stream never began: try it again

    def ask(self, key: str) -> None:
        name = key.partition("/")[0]
        while not self.stop:
            began = time.monotonic()
            status = int(http_get(self.urls[key])["status"])
            if began >= self.since.get(name, 0.0) and self.answers.get(key) != status:
                self.answers[key] = status
                self.changed.set()
            time.sleep(1)

    def listen(self, stdin: BinaryIO) -> None:
        """The other side is gone when its stream ends."""
        with suppress(OSError, ValueError):
            while stdin.read(1):
                pass
        self.stop = True
        self.changed.set()


def start_id(found: Object | None) -> str:
    """Which start of which container an inspection shows."""
    return f"{found['Id']} {found['State'].get('StartedAt')}" if found else ""


class Followed(LogLines):
    """Log lines that go to a watcher as they come."""

    def __init__(self, lines: deque[str], changed: threading.Event, *, tty: bool) -> None:
        super().__init__(tty=tty, keep=200)
        self.tail = lines
        self.changed = changed

    def feed(self, data: bytes) -> bool:
        before = self.count
        more = super().feed(data)
        if self.count != before:
            self.changed.set()
        return more


# ---- the way in and out ----------------------------------------------------------------------------------------------


def main(spec: Object, stdin: BinaryIO | None = None, stdout: TextIO | None = None) -> int:
    """Looks (or watches, with spec["watch"]) and prints frames as JSON lines. Returns the exit status; as the process
    of its own that it is on a host it ends that process itself, since a thread may be stuck."""
    out = stdout or sys.stdout
    guard = threading.Lock()

    def write(frame: Object) -> None:
        text = json.dumps(frame, separators=(",", ":")) + "\n"
        with guard:
            out.write(text)
            out.flush()

    if "watch" in spec:
        watch = Watch(spec["watch"], str(spec.get("root") or ""), write)
        if is_own(out):
            threading.Thread(target=bark, args=(watch,), daemon=True).start()
        watch.run(stdin if stdin is not None or __name__ != "__main__" else sys.stdin.buffer)
    else:
        write({"frame": "facts", "facts": look(spec)})
    return leave(out)


def bark(watch: Watch) -> None:
    """Ends the process when the watch should have ended and has not: its last write is stuck on a dead link."""
    while not watch.stop and time.monotonic() < watch.deadline:
        time.sleep(0.2)
    time.sleep(2)
    os._exit(0)


def leave(out: TextIO) -> int:
    """Ends the process at once, whatever its threads are waiting for, when `out` is the process's own standard
    output; a caller that gave a stream of its own gets the status back."""
    for group in list(RUNNING):
        kill_group(group)
    if is_own(out):
        os._exit(0)
    return 0


def is_own(out: TextIO) -> bool:
    """Whether `out` is this process's standard output, and the process therefore ours to end."""
    try:
        return out.fileno() == 1
    except (OSError, ValueError, AttributeError):
        return False
