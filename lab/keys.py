"""The keys of a lab, and the project's known_hosts.

Each lab name has one client key and one host key, made here once and handed to every container of that name. So a lab
that was reset is still the host it was, and the key needs no fetching over an unverified connection: we made it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.outer import LabError, Say, run

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Keys:
    """Where a lab's keys lie on the workstation."""

    directory: Path

    @property
    def identity(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def host_key(self) -> Path:
        return self.directory / "host_ed25519"

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file of the lab's own, for our own ssh calls."""
        return self.directory / "known_hosts"

    def public(self, private: Path) -> str:
        """`ssh-ed25519 AAAA..`, without the comment."""
        return " ".join(private.with_name(private.name + ".pub").read_text().split()[:2])


def state_root() -> Path:
    root = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(root).expanduser() / "pantheon" / "lab"


def ensure(name: str) -> Keys:
    """The keys of that lab, made on first use."""
    keys = Keys(state_root() / name)
    try:
        keys.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LabError(f"could not make {keys.directory}: {error.strerror}.") from None
    with cache.hold(keys.directory / ".lock", f"the keys of lab {name}", deadline_s=30):
        for path, comment in ((keys.identity, f"pantheon-lab-{name}"), (keys.host_key, f"root@{name}")):
            if not path.exists():
                make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
                done = run(make, timeout=20)
                if done.returncode != 0:
                    raise LabError(f"ssh-keygen could not write {path}: {done.stderr.decode().strip()}")
    return keys


def project_known_hosts() -> Path:
    """The project's known_hosts: $PANTHEON_KNOWN_HOSTS, else the file in the repository's root."""
    given = os.environ.get("PANTHEON_KNOWN_HOSTS")
    return Path(given).expanduser() if given else ROOT / "known_hosts"


def host_pattern(address: str, port: int) -> str:
    """How known_hosts names a host: the port only when it is not 22."""
    return address if port == 22 else f"[{address}]:{port}"


def record(name: str, keys: Keys, address: str, port: int, file: Path) -> str | None:
    """Put the lab's host key into a known_hosts file, in place of a stale line that this function wrote for that host.

    Returns a sentence when another's line for the same host and port stands in the way (it is left alone), else None.
    """
    pattern = host_pattern(address, port)
    mark = "pantheon-lab"
    wanted = f"{pattern} {keys.public(keys.host_key)} {mark}-{name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock_beside():
        lines = file.read_text().splitlines() if file.exists() else []
        kept, foreign = [], None
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            same_host = len(fields) >= 3 and fields[0] == pattern
            ours = same_host and len(fields) >= 4 and fields[3].startswith(mark)
            if same_host and not ours and fields[1:3] != wanted.split()[1:3]:
                foreign = (
                    f"{file}:{number} has another key for {pattern}, which the lab did not write and leaves alone. "
                    f"Next: ssh-keygen -R '{pattern}' -f {file}, then invoke lab.up again."
                )
            if not ours:
                kept.append(line)
        result = "\n".join([*kept, wanted]) + "\n"
        if lines != result.splitlines():
            write_beside(file, result)
    return foreign


def forget(address: str, port: int, file: Path, name: str) -> None:
    """Take the lab's own line for that host and port out of a known_hosts file."""
    pattern = host_pattern(address, port)
    if not file.exists():
        return
    with lock_beside():
        lines = file.read_text().splitlines()
        own = (f"{pattern} ", f" pantheon-lab-{name}")
        kept = [line for line in lines if not (line.startswith(own[0]) and line.endswith(own[1]))]
        if kept != lines:
            write_beside(file, "".join(f"{line}\n" for line in kept))


@contextlib.contextmanager
def lab_lock(name: str, say: Say) -> Iterator[None]:
    """Only one process at a time starts, resets or removes the lab of that name."""
    state_root().mkdir(parents=True, exist_ok=True, mode=0o700)
    with cache.hold(state_root() / f".{name}.lock", f"lab {name}", say):
        yield


@contextlib.contextmanager
def lock_beside() -> Iterator[None]:
    """Several labs may come up at once and share the file. The lock lies with our state, not in the project."""
    state_root().mkdir(parents=True, exist_ok=True, mode=0o700)
    with cache.hold(state_root() / ".known_hosts.lock", "known_hosts", deadline_s=30):
        yield


def write_beside(file: Path, content: str) -> None:
    """Replace a file in one step; whoever reads it sees the old one or the new one."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(content)
    fresh.replace(file)
