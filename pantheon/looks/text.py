"""Text on its way off the host: what a terminal must not get, what is secret, and why something is not known."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable

TYPE_CHECKING = False  # importing typing takes 3 ms
if TYPE_CHECKING:
    from typing import Any

    Json = Any
    Object = dict[str, Any]
else:
    Json = Object = object

LINE_CHARS = 2000
LABEL_CHARS = 4096

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
UNIT_CHARS = re.compile(r"[A-Za-z0-9:_.]")
CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
SECRETIVE = r"(?:pass(?:word|wd|phrase)?|secret|token|api_?-?key|access_?-?key|private_?-?key|credential|auth)"
SECRET_NAME = re.compile(rf"(?i){SECRETIVE}")
MASKS = (  # user:password@, NAME=value, --name value, and a header's Name: value
    (re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"), "***"),
    (re.compile(rf"(?i)([\w.-]*{SECRETIVE}[\w.-]*=)(?:\"[^\"]*\"|'[^']*'|[^\s;&|]+)"), r"\1***"),
    (re.compile(rf"(?i)(?<![\w-])(--?[\w-]*{SECRETIVE}[\w-]*\s+)[^\s-]\S*"), r"\1***"),
    (re.compile(rf"(?i)([\w-]*{SECRETIVE}[\w-]*:\s+)[^\"'\n]+"), r"\1***"),
)


class Unread(Exception):
    """A value that could not be read; the message says why."""


def unknown(reason: str) -> Object:
    return {"unknown": " ".join(reason.split()) or "no reason given"}


def why(error: BaseException) -> str:
    """One line about an exception, without the class name where the text speaks for itself."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if isinstance(error.filename, str) else "")
    return str(error) if isinstance(error, Unread) and str(error) else f"{type(error).__name__}: {error}"


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


def unit_name(path: str, kind: str = "mount") -> str:
    """The name that systemd wants for the unit of a path, as `systemd-escape --path` gives it."""
    words = [word for word in path.split("/") if word]
    escaped = ["".join(c if UNIT_CHARS.match(c) else _escaped(c) for c in word) for word in words]
    name = "-".join(escaped) or "-"
    return f"{_escaped('.') + name[1:] if name.startswith('.') else name}.{kind}"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


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


def without_login(text: str) -> str:
    """A text without the passwords in its URLs."""
    return MASKS[0][0].sub("***", text)


def without(line: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return line


def keyed_digest(nonce: str, data: bytes) -> str:
    """HMAC-SHA256 of `data` keyed with the look's nonce, 16 hex digits: equal values can be told, none can be read."""
    return hmac.new(nonce.encode(), data, "sha256").hexdigest()[:16]


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
