"""What is on record of a tunnel, as bytes and back. No I/O: remote/ledger.py has the files, and who may write them.

What lies in a file is not believed nevertheless: every value in it is one that a record of ours can have."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pantheon import __version__, errors
from pantheon.errors import PantheonError
from pantheon.inventory import SERVICES
from pantheon.tunnel import Seen

SIZE = 16 * 1024  # bytes of every record
LENGTHS = (600, 200, 60)  # characters of a text in it: as many as fit
MOST_LINES = 10
WHOLE = ("log", "hosts_file")  # of no use when cut


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


NOT_WRITTEN = ("path", "is_open")  # the reader's own


def to_bytes(entry: Entry) -> bytes:
    """The record, SIZE bytes long: a line of JSON, a line with its sum, and room."""
    document = asdict(entry)
    for name in NOT_WRITTEN:
        del document[name]
    for most in LENGTHS:
        line = json.dumps(_cut(document, most), ensure_ascii=False).encode("utf-8", "replace")
        if len(line) < SIZE - 16:
            break
    return (b"%b\n%d\n" % (line, zlib.crc32(line))).ljust(SIZE)


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, dict):
        return {key: _cut(item, most) if key not in WHOLE else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, most) for item in value[-MOST_LINES:]]
    return value


def from_bytes(data: bytes) -> Entry | None:
    """None for what is none of ours, or is just being written."""
    line, _, rest = data.partition(b"\n")
    if rest.partition(b"\n")[0] != b"%d" % zlib.crc32(line):
        return None
    try:
        found = _read("", Entry, json.loads(line))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Entry) else None


_TYPES: dict[Any, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Entry, Seen, Failure)}
LATEST = 1e11  # seconds since 1970; time.localtime takes them
# Of the numbers: from, to.
_RANGES = {"pid": (2, 2**31 - 1), "reconnects": (0, 10**9), "exit_code": (1, 3)}
_RANGES |= dict.fromkeys(("port", "remote_port", "asked"), (0, 65535))
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,600}")  # as hosts.toml has them: commands to type are made with it


def _read(name: str, kind: Any, value: Any) -> Any:
    """The value, if it is one of that type that a record of ours can have under that name. Raises ValueError."""
    if isinstance(kind, UnionType):  # with None
        return None if value is None else _read(name, get_args(kind)[0], value)
    if kind in _TYPES and isinstance(value, dict):
        return kind(**_fields(kind, value))
    if get_origin(kind) is tuple and isinstance(value, list) and len(value) <= MOST_LINES:
        return tuple(_read(name, str, each) for each in value)
    if get_origin(kind) is Literal:
        good = value in get_args(kind)
    elif kind is bool:
        good = isinstance(value, bool)
    elif kind is int:
        least, most = _RANGES[name]
        good = type(value) is int and least <= value <= most
    elif kind is float:
        good = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LATEST
    elif kind is str and isinstance(value, str):
        good = name in WHOLE or len(value) <= LENGTHS[0]
        good = good and (name != "service" or value in SERVICES) and (name != "host" or bool(_HOST.fullmatch(value)))
    else:
        good = False
    if not good:
        raise ValueError(name)
    return value


def _fields(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of a dataclass; what it does not know, a later version wrote."""
    types, found = _TYPES[kind], {}
    for field in fields(kind):
        if field.name in given and field.name not in NOT_WRITTEN:
            found[field.name] = _read(field.name, types[field.name], given[field.name])
        elif field.default is MISSING:
            raise ValueError(field.name)
    return found
