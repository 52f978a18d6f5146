"""The tunnels that this user has open, on record: a file for each, written by the process that keeps it open and locked
as long as that lives. A record that nobody locks is a stale one, whatever process has its pid by now.

A record is overwritten in place, in room taken when it was made, so that a disk that fills up later does not matter;
its second line tells a reader who meets it half written. What lies in the folder is not believed nevertheless: a record
is a plain file that nobody else can write, and every value in it is what it can be."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import signal
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pantheon import __version__, errors, places
from pantheon.errors import PantheonError
from pantheon.inventory import SERVICES, Host
from pantheon.remote import verified
from pantheon.tunnel import Phase, Seen

if TYPE_CHECKING:
    from pantheon.remote.tunnel import Tunnel

SIZE = 16 * 1024  # bytes of every record
EVERY_S = 2.0  # between two writings when the phase is the same
SHORT_S = 0.5  # others look at a record for an instant only
LENGTHS = (600, 200, 60)  # characters of a text in it: as many as fit
MOST_LINES = 10
WHOLE = ("log", "hosts_file")  # of no use when cut


class Held(Exception):
    """Another process has this record, and with it the tunnel."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass(frozen=True)
class Failure:
    """Why a tunnel was given up: an error of ours as data."""

    kind: str
    error: str
    details: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    exit_code: int = 1

    @classmethod
    def of(cls, error: PantheonError) -> Failure:
        return cls(type(error).__name__, error.message, error.details, error.next_commands, error.exit_code)

    def as_error(self) -> PantheonError:
        """The error that it was made from, to be raised here."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, PantheonError)) or kind is errors.InventoryError:
            kind = PantheonError
        found = kind(self.error, next_commands=self.next, details=self.details)
        found.exit_code = self.exit_code
        return found


@dataclass(frozen=True)
class Entry:
    """A record as it was read. `is_open`: its process is there, and keeps the tunnel; else `failure` says why not any
    more. `label` is user@address:port as hosts.toml has them, `asked` the --port, `changed` when the phase began."""

    seen: Seen
    pid: int
    label: str
    background: bool = False
    asked: int = 0
    hosts_file: str = ""
    log: str = ""
    version: str = __version__
    changed: float = 0.0
    written: float = 0.0
    failure: Failure | None = None
    path: Path = Path()
    is_open: bool = False


def absolute(hosts_file: str) -> str:
    """The inventory as a command in any directory has to name it; "" for the project's own."""
    given = hosts_file or os.environ.get("PANTHEON_HOSTS", "")
    return str(Path(given).expanduser().absolute()) if given else ""


def label(host: Host) -> str:
    user = f"{host.user}@" if host.user else ""
    return f"{user}{host.address}{f':{host.port}' if host.port else ''}"


# ---- where they are


def folder() -> Path:
    """Where new records go; made where there is none. Raises OSError, also for one that others can write to."""
    found = verified.runtime_dir() / "tunnels"
    found.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(found):
        raise PermissionError(errno.EPERM, "it is not this user's alone", str(found))
    return found


def folders() -> list[Path]:
    """Where records may be: a tunnel may have been opened where $XDG_RUNTIME_DIR was not set, or not there any more."""
    found = []
    with contextlib.suppress(OSError):
        found.append(verified.runtime_dir() / "tunnels")
    found.append(places.state_directory() / "tunnels")
    return [path for path in dict.fromkeys(found) if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """Whether it is a folder of this user's, in one of his, that only he can write to."""
    try:
        about = (path.lstat(), path.parent.stat())
    except OSError:
        return False
    return all(stat.S_ISDIR(one.st_mode) and one.st_uid == os.geteuid() and not one.st_mode & 0o022 for one in about)


def stem(host: Host, service: str, *, asked: int = 0) -> str:
    """The name of a background tunnel's record, which is the same for the same tunnel: its lock lets only one be
    opened. Two inventories may each have a host of that name."""
    whole = json.dumps([service, host.name, label(host), asked])
    return f"{service}-{host.name[:60]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


# ---- writing


class Record:
    """One tunnel's record, kept by this process. Nothing of it ever raises, once it is there: what cannot be written is
    told once, in words."""

    def __init__(self, entry: Entry, fd: int, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.entry, self._fd, self.tell = entry, fd, tell
        self._next, self._troubled = 0.0, False

    @classmethod
    def make(cls, entry: Entry, name: str, *, tell: Callable[[str], None] = lambda _: None) -> Record:
        """Lock and write it. Raises Held, and OSError when it cannot be written."""
        path = folder() / f"{name}.json"
        fd = _lock(path)
        record = cls(replace(entry, path=path, changed=time.time()), fd, tell=tell)
        try:
            record._put()
        except OSError as error:
            record.remove()
            raise OSError(error.errno, error.strerror, str(path)) from error
        return record

    @classmethod
    def taken_over(cls, path: Path, fd: int) -> Record | None:
        """One that the process that started this one has made, with its lock."""
        os.set_inheritable(fd, False)
        entry = read(path)
        return cls(entry, fd) if entry else None

    @property
    def fd(self) -> int:
        return self._fd

    def see(self, seen: Seen) -> None:
        """Write what has changed: a phase at once, the rest after a while. Also puts it back where it has vanished."""
        now = time.monotonic()
        if self.entry.pid == os.getpid() and seen.phase == self.entry.seen.phase and now < self._next:
            return
        self._next = now + EVERY_S
        new = replace(self.entry, seen=seen, pid=os.getpid())
        if new == self.entry and self._is_in_place():
            return
        if seen.phase != self.entry.seen.phase:
            new = replace(new, changed=time.time())
        self.entry = new
        self.write()

    def fail(self, error: PantheonError) -> None:
        """The reason why the tunnel was given up, which outlives this process."""
        seen = replace(self.entry.seen, phase="ended", latency_ms=None)
        failure = Failure.of(error)
        self.entry = replace(self.entry, seen=seen, pid=os.getpid(), changed=time.time(), failure=failure)
        self.write()

    def write(self) -> None:
        try:
            if not self._is_in_place():
                self._anew()
            self._put()
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                what = f"{error.filename or self.entry.path}: {error.strerror}"
                self.tell(f"not on record, so tunnel.list may not have it: {what}")

    def remove(self) -> None:
        """The tunnel is closed, and nothing is to be said of it any more."""
        if self._fd >= 0 and _is_same(self._fd, self.entry.path):
            with contextlib.suppress(OSError):
                self.entry.path.unlink()
        self.leave()

    def hand_over(self, pid: int) -> None:
        """To the process that was started with its descriptor, and so has the lock too."""
        self.entry = replace(self.entry, pid=pid)
        self.write()
        self.leave()

    def leave(self) -> None:
        """Let go of it, and leave it there."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _is_in_place(self) -> bool:
        try:
            return self.entry.path.parent == folder() and _is_same(self._fd, self.entry.path)
        except OSError:
            return False

    def _anew(self) -> None:
        """A runtime directory goes when the user's last session ends, and comes back empty with the next one."""
        where = folder()
        names = (self.entry.path.stem, f"{self.entry.path.stem}-{os.getpid()}")
        for name in names:  # the second where another process has meanwhile opened the same tunnel
            try:
                fd = _lock(where / f"{name}.json")
            except Held:
                continue
            self.remove()
            self._fd, self.entry = fd, replace(self.entry, path=where / f"{name}.json")
            return
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(where / f"{names[0]}.json"))

    def _put(self) -> None:
        self.entry = replace(self.entry, written=time.time())
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self.entry.path))
        os.pwrite(self._fd, _bytes(self.entry), 0)


class Records:
    """The records of the tunnels of a terminal, as long as they are open there. `see` belongs into its loop."""

    def __init__(self, host: Host, tunnels: Sequence[Tunnel], *, asked: int = 0, hosts_file: str = "") -> None:
        self._host, self._tunnels = host, tunnels
        self._asked, self._hosts_file = asked, absolute(hosts_file)
        self._records: list[tuple[Tunnel, Record]] = []

    def __enter__(self) -> Records:
        for tunnel in self._tunnels:
            tell = partial(tunnel.happened, "!")
            entry = Entry(tunnel.seen, os.getpid(), label(self._host), asked=self._asked, hosts_file=self._hosts_file)
            name = f"{stem(self._host, tunnel.seen.service, asked=self._asked)}-{os.getpid()}"
            try:
                self._records.append((tunnel, Record.make(entry, name, tell=tell)))
            except (OSError, Held) as error:
                why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                tell(f"not on record, so tunnel.list does not have it: {why}")
        return self

    def see(self) -> None:
        for tunnel, record in self._records:
            if tunnel.seen.phase == "ended":  # its terminal has said why
                record.remove()
            else:
                record.see(tunnel.seen)

    def __exit__(self, *_: object) -> None:
        for pair in self._records:
            pair[1].remove()


def _lock(path: Path) -> int:
    """A descriptor of the record, made where there is none, locked. Raises Held and OSError."""
    end = time.monotonic() + SHORT_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not _is_record_file(os.fstat(fd)):
                raise PermissionError(errno.EPERM, "it is no file of this user's alone", str(path))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(fd, path):  # and not what somebody who took it for a stale one has removed meanwhile
                return fd
            os.close(fd)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() > end:
                raise Held(path) from None
            time.sleep(0.01)
        except BaseException:
            os.close(fd)
            raise


def _is_record_file(status: os.stat_result) -> bool:
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    return plain and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_same(fd: int, path: Path) -> bool:
    try:
        here, there = os.fstat(fd), path.lstat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _bytes(entry: Entry) -> bytes:
    """The record, SIZE bytes long: a line of JSON, a line with its sum, and room."""
    document = asdict(entry)
    del document["path"], document["is_open"]
    for most in LENGTHS:
        line = json.dumps(_cut(document, most), ensure_ascii=False).encode("utf-8", "replace")
        if len(line) < SIZE - 16:
            break
    return b"%b\n%d\n" % (line, zlib.crc32(line)) + b" " * (SIZE - len(line) - 2 - len(str(zlib.crc32(line))))


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, dict):
        return {key: _cut(item, most) if key not in WHOLE else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, most) for item in value[-MOST_LINES:]]
    return value


# ---- reading


def entries(*, keep: bool = False) -> list[Entry]:
    """All records, those of open tunnels and those of tunnels that were given up, oldest first. A background tunnel
    whose process was killed is among the latter, and, unless they are to be kept, this once: stale records are
    removed."""
    found = []
    for where in folders():
        for path in sorted(where.glob("*.json")):
            entry = read(path)
            if entry is None or not (entry.is_open or entry.failure):
                said = entry is not None and entry.background
                gone = (keep and said) or _sweep(path)
                if gone and entry and said:
                    found.append(replace(entry, failure=_killed(entry)))
            elif entry:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.seen.opened)


def _killed(entry: Entry) -> Failure:
    again = f"invoke tunnel {entry.seen.service} --background --host {entry.seen.host}"
    why = f"its process (pid {entry.pid}) was killed, or this machine restarted"
    return Failure("PantheonError", why, next=(again,))


def read(path: Path) -> Entry | None:
    """The record in that file; None when there is none, or when it is none of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _is_record_file(os.fstat(fd)):
            return None
        is_open = not _is_free(fd)
        for _ in range(10):
            if entry := _parsed(os.pread(fd, SIZE, 0)):
                return replace(entry, path=path, is_open=is_open)
            if not is_open:
                return None
            time.sleep(0.005)  # it is being written
    except OSError:
        pass
    finally:
        os.close(fd)
    return None


def forget(entry: Entry) -> None:
    """Remove the record of a tunnel that is open no more."""
    _sweep(entry.path, reasons=True)


def _sweep(path: Path, *, reasons: bool = False) -> bool:
    """Remove a record that nobody has locked. Whether it did."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _is_record_file(os.fstat(fd)):
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entry = _parsed(os.pread(fd, SIZE, 0))
        if not _is_same(fd, path) or (entry and entry.failure and not reasons):
            return False  # it has changed hands since it was looked at
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _is_free(fd: int) -> bool:
    """Whether no process holds the record. A shared lock, and for an instant: others may be looking too."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


class _Wrong(ValueError):
    pass


def _parsed(data: bytes) -> Entry | None:
    line, _, rest = data.partition(b"\n")
    if rest.partition(b"\n")[0] != b"%d" % zlib.crc32(line):
        return None
    try:
        return _entry(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _entry(data: Any) -> Entry:
    given = _object(data)
    failure = given.get("failure")
    values = {key: _checked(key, given[key]) for key in _ENTRY if key in given}
    entry = Entry(seen=_seen(given.get("seen")), **{"pid": 0, "label": "", **values})
    if entry.pid <= 1:
        raise _Wrong("pid")
    return entry if failure is None else replace(entry, failure=_failure(failure))


def _seen(data: Any) -> Seen:
    given, values = _object(data), {}
    for field in fields(Seen):
        if field.name in given:
            values[field.name] = _checked(field.name, given[field.name])
        elif field.default is MISSING:
            raise _Wrong(field.name)
    return Seen(**values)


def _failure(data: Any) -> Failure:
    given = _object(data)
    details, after = (tuple(_text(each) for each in _list(given.get(key, []))) for key in ("details", "next"))
    code = given.get("exit_code")
    if type(code) is not int or code not in (1, 2, 3):
        raise _Wrong("exit_code")
    return Failure(_text(given.get("kind")), _text(given.get("error")), details, after, code)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong("no table")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_LINES:
        raise _Wrong("no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LENGTHS[0]:
        raise _Wrong("no text")
    return value


_ENTRY = ("pid", "label", "background", "asked", "hosts_file", "log", "version", "changed", "written")
_PORTS = ("port", "remote_port", "asked")
_COUNTS = {"pid": 2**31 - 1, "reconnects": 10**9, **dict.fromkeys(_PORTS, 65535)}
_TIMES = ("opened", "since", "changed", "written")
LATEST = 1e11  # seconds since 1970; time.localtime takes them


def _checked(key: str, value: Any) -> Any:
    """The value, if it is one that a record of ours can have under that key."""
    if key in _COUNTS:
        good = type(value) is int and 0 <= value <= _COUNTS[key]
    elif key in _TIMES:
        good = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LATEST
    elif key == "latency_ms":
        good = value is None or (type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LATEST)
    elif key == "background":
        good = isinstance(value, bool)
    elif key == "phase":
        good = value in get_args(Phase)
    elif key == "service":
        good = value in SERVICES
    elif key == "host":  # as hosts.toml has them: commands to type are made with it
        good = isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,600}", value))
    elif key in WHOLE:
        good = isinstance(value, str)
    else:
        good = value == _text(value)
    if not good:
        raise _Wrong(key)
    return value


# ---- the process that has a record


def send(entry: Entry, number: int) -> bool:
    """Send a signal to the process that holds this record. False, and nothing was sent, when the record is not held any
    more, or the process of that pid is not seen to have it open: a pid is used again, and a file can say anything."""
    with _process(entry.pid) as handle:
        now = read(entry.path)
        if not now or not now.is_open or now.pid != entry.pid or not _has_open(entry.pid, entry.path):
            return False
        try:
            if handle is None:
                os.kill(entry.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A handle that stays that process's, where this system has such a thing."""
    try:
        handle = os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        handle = None
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _has_open(pid: int, path: Path) -> bool:
    """Whether that process has the file open; believed where this system does not say."""
    if sys.platform != "linux":
        return pid != os.getpid()
    try:
        wanted = path.lstat()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                status = link.stat()
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
    except OSError:
        pass
    return False


def wait_free(entry: Entry, deadline_s: float) -> bool:
    """Whether its process has let go of the record, waited for."""
    end = time.monotonic() + deadline_s
    while (now := read(entry.path)) and now.is_open and now.pid == entry.pid:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
