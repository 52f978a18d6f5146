"""How an operator comes to trust a host's key: look at it without logging in, compare, record it (`invoke trust`).

    examination = trust.examine(host)       # nothing is written
    trust.record(examination)               # after a yes: an unknown key
    trust.replace(examination)              # after --replace: a changed one

The first server on the way whose key is not known is examined: a gateway before the host behind it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pantheon.errors import NotTrusted
from pantheon.inventory import Host
from pantheon.remote import known_hosts
from pantheon.remote.connection import HostConnection
from pantheon.remote.endpoint import Endpoint, resolve
from pantheon.remote.known_hosts import Entry, Key, Known, State


@dataclass(frozen=True)
class Examination:
    """What a server shows, and what is on record. `old` are the entries that a replacement removes, the user's file
    first; `file` is where the new one goes."""

    endpoint: Endpoint
    key: Key
    known: Known
    state: State
    file: Path

    @property
    def label(self) -> str:
        return self.endpoint.label

    @property
    def old(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in (*self.known.theirs, *self.known.ours) if entry.key != self.key)

    @property
    def is_gateway(self) -> bool:
        """Whether this is a server on the way, not the host itself: examine again once it is trusted."""
        return self.endpoint.inventory_host != self.endpoint.name


def fetch_key(host: Host) -> Key:
    """The key that the host shows, without logging in to it. Raises NotReached, and for a gateway on the way every
    error of connecting to it."""
    return HostConnection(resolve(host)).fetch_key()


def lookup(host: Host) -> Known:
    """What known_hosts files say about the host, whatever the key type. Contacts nothing."""
    return known_hosts.of(resolve(host))


def examine(host: Host) -> Examination:
    """The first server on the way whose key is not known; the host itself when all of them are. Writes nothing.

    Raises NotReached; LoginRefused for a gateway."""
    chain = resolve(host).chain()
    for endpoint in chain:
        key, known = HostConnection(endpoint).fetch_key(), known_hosts.of(endpoint)
        found = Examination(endpoint, key, known, known.judge(key), known_hosts.project_file())
        if found.state != "known":
            break
    return found


def record(found: Examination) -> None:
    """Add an unknown key to the project's known_hosts; a known one is left as it is.

    Raises NotTrusted for a changed or revoked key, and when the file cannot be written."""
    if found.state in ("changed", "revoked"):
        known_hosts.refuse(found.endpoint, found.known, found.key)
    if found.state == "unknown":
        _add(found)


def replace(found: Examination) -> None:
    """Remove every old entry of the host, in the user's files too, and record the key that it shows now.

    Raises NotTrusted for a revoked key, and when a file cannot be written; what was removed before stays in FILE.old.
    """
    if found.state == "revoked":
        known_hosts.refuse(found.endpoint, found.known, found.key)
    lines: dict[Path, list[int]] = {}
    for entry in found.old:
        lines.setdefault(entry.file, []).append(entry.line)
    for file, numbers in lines.items():
        # The file is read again: a line that somebody else's ssh has added meanwhile must not shift ours.
        there = {entry.line: entry for entry in known_hosts.read([file])}
        if any(entry != there.get(entry.line) for entry in found.old if entry.file == file):
            raise NotTrusted(
                f"{found.label}: {file} was changed meanwhile",
                next_commands=[f"invoke trust --host {found.endpoint.inventory_host} --replace"],
            )
        _remove(found.endpoint, file, numbers)
    _add(found)


def _add(found: Examination) -> None:
    try:
        known_hosts.add(found.file, found.endpoint.key_names[0], found.key)
    except OSError as error:
        raise NotTrusted(
            f"{found.label}: {found.file} cannot be changed: {error.strerror}",
            next_commands=[shlex.join(["ls", "-ld", str(found.file.parent)]), "export PANTHEON_KNOWN_HOSTS=FILE"],
        ) from error


def _remove(endpoint: Endpoint, file: Path, numbers: list[int]) -> None:
    try:
        known_hosts.remove(file, numbers)
    except OSError as error:
        raise NotTrusted(
            f"{endpoint.label}: {file} cannot be changed: {error.strerror}",
            next_commands=[shlex.join(["sudo", "ssh-keygen", "-R", endpoint.key_names[0], "-f", str(file)])],
        ) from error
