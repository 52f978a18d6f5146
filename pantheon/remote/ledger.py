"""The tunnels that this user has open, on record: a file for each, written by the process that keeps it open and locked
as long as that lives. A record that nobody locks is a stale one, whatever process has its pid by now.

A record is overwritten in place, in room taken when it was made, so that a disk that fills up later does not matter;
its second line tells a reader who meets it half written (record.py). What lies in the folder is not believed
nevertheless: a record is a plain file that nobody else can write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pantheon import places
from pantheon.errors import PantheonError
from pantheon.inventory import Host
from pantheon.record import SIZE, Entry, Failure, from_bytes, to_bytes
from pantheon.remote import verified
from pantheon.tunnel import Seen

if TYPE_CHECKING:
    from pantheon.remote.tunnel import Tunnel

EVERY_S = 2.0  # between two writings when the phase is the same
SHORT_S = 0.5  # others look at a record for an instant only


class Held(Exception):
    """Another process has this record, and with it the tunnel."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


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
        os.pwrite(self._fd, to_bytes(self.entry), 0)


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
            if entry := from_bytes(os.pread(fd, SIZE, 0)):
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
        entry = from_bytes(os.pread(fd, SIZE, 0))
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
