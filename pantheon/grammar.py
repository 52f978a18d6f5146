"""What each kind of value in hosts.toml must look like.

A check gets a value as TOML gave it and returns it in the type of its field, or raises ValueError with the rest of the
sentence that begins with the key's path. Values are checked for what they are used for on the host: paths may hold
spaces, quotes and `$(...)`, since nothing gives them to a shell. Control characters are refused everywhere, since they
could rewrite what a terminal shows of a plan; a leading dash wherever a program might take the value for an option.
"""

from __future__ import annotations

import ipaddress
import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, NoReturn

Check = Callable[[object], Any]

PROCEDURE_5 = "services bind to 127.0.0.1 only and are reached through `invoke tunnel` (procedure §5)"


def show(value: object) -> str:
    """A TOML value as an operator would have typed it, shortened; what a terminal would not show comes out escaped."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    typed = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool, int, float)) else str(value)
    typed = escaped(typed)
    return typed if len(typed) <= 80 else f"{typed[:76]} ..."


def escaped(text: str) -> str:
    """The text with every character that a terminal would act on, or not show, as a \\u escape of TOML."""
    return "".join(
        each if not is_hidden(each) else rf"\u{ord(each):04x}" if ord(each) < 0x10000 else rf"\U{ord(each):08x}"
        for each in text
    )


def _fail(what: str, value: object) -> NoReturn:
    raise ValueError(f"{what}, got {show(value)}")


def is_hidden(character: str) -> bool:
    """Control characters, line separators, and the invisible ones that reorder text on a screen."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def text(value: object) -> str:
    if not isinstance(value, str):
        _fail("must be text in quotes", value)
    if any(is_hidden(character) for character in value):
        _fail("must be one line without control characters", value)
    if len(value) > 4096:
        _fail("is too long", value)
    return value


def phrase(value: object) -> str:
    typed = text(value)
    if not typed or typed != typed.strip():
        _fail("must not be empty or begin or end with a space", value)
    return typed


def optional(check: Check) -> Check:
    """`check`, or the empty text that stands for "not set"."""
    return lambda value: "" if value == "" else check(value)


def matching(pattern: str, what: str) -> Check:
    def check(value: object) -> str:
        typed = text(value)
        if not re.fullmatch(pattern, typed):
            _fail(what, value)
        return typed

    return check


def whole(least: int, most: int) -> Check:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            _fail(f"must be a whole number {least}-{most}", value)
        return value

    return check


def gib(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        _fail("must be a number of GiB, 0 or more", value)
    return float(value)


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        _fail("must be true or false", value)
    return value


def service_port(value: object) -> int:
    if isinstance(value, str) and ":" in value:
        raise ValueError(f"must be the port alone, got {show(value)}: {PROCEDURE_5}")
    port: int = whole(1, 65535)(value)
    return port


def bind(value: object) -> str:
    if value != "127.0.0.1":
        raise ValueError(f"must be 127.0.0.1, got {show(value)}: {PROCEDURE_5}")
    return "127.0.0.1"


def absolute_path(value: object) -> str:
    """An absolute, normalised path on the host."""
    path = text(value)
    if not path.startswith("/"):
        _fail("must be an absolute path", value)
    if ".." in path.split("/"):
        _fail("must not contain ..", value)
    # normpath keeps exactly two leading slashes, as POSIX wants
    if posixpath.normpath(path) != path or path.startswith("//"):
        _fail(f"must be written {show(posixpath.normpath('/' + path.strip('/')))}", value)
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in path.split("/")):
        _fail("is too long for a path", value)
    return path


def directory(value: object) -> str:
    path = absolute_path(value)
    if path == "/":
        _fail("must be a directory of its own", value)
    return path


def identity(value: object) -> str:
    """A private key's path on the workstation."""
    path = text(value)
    if not path.startswith(("/", "~/")):
        _fail("must be an absolute path or begin with ~/", value)
    return path


_WORD = r"[^\W_][\w.-]*|_[\w.-]*"  # letters and digits of any alphabet; no leading dash or dot, no space, no quotes


def _is_ip(typed: str) -> bool:
    try:
        ipaddress.ip_address(typed)
    except ValueError:
        return False
    return "%" not in typed or re.fullmatch(r"[\w.:]+%[\w.-]+", typed) is not None


def address(value: object) -> str:
    """A host name, an alias of ssh_config, or an IP address. Nothing else: ssh puts it into ProxyCommand lines."""
    typed = text(value)
    if re.fullmatch(_WORD, typed) or _is_ip(typed):
        return typed
    if "@" in typed:
        _fail("must be the host alone (the user has a key of its own: user)", value)
    if re.fullmatch(r"[\w.-]+:\d+|\[.*\]:\d+", typed):
        _fail("must be the host alone (the port has a key of its own: port)", value)
    _fail("must be a host name, an alias of ~/.ssh/config or an IP address", value)


user = matching(r"(?:[^\W_]|_)[\w.@+-]*", "must be a user name")


def gateway(value: object) -> str:
    """[USER@]HOST[:PORT], as ProxyJump has it, for one hop."""
    typed = text(value)
    if "," in typed:
        _fail("must be one host (describe a chain of hops with ProxyJump in ~/.ssh/config)", value)
    match = re.fullmatch(r"(?:(?P<user>.+)@)?(?P<host>\[[^\]]+\]|[^@:]+|[^@]+?)(?::(?P<port>\d{1,5}))?", typed)
    try:
        if not match:
            raise ValueError
        if match["user"] is not None:
            user(match["user"])
        if match["port"] is not None:
            whole(1, 65535)(int(match["port"]))
        address(match["host"].removeprefix("[").removesuffix("]"))
    except ValueError:
        _fail("must be [USER@]HOST[:PORT]", value)
    return typed


def network(value: object) -> str:
    typed = text(value)
    try:
        given = ipaddress.ip_network(typed, strict=False)
    except ValueError:
        _fail('must be a network such as "10.0.99.0/24"', value)
    if str(given) != typed:
        _fail(f"must be written {show(str(given))}", value)
    return typed


_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REFERENCE = (
    rf"(?P<name>(?:{_DOMAIN}(?:\.{_DOMAIN})*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def image(value: object) -> str:
    """An image reference by the grammar of github.com/distribution/reference, with sha256 digests only."""
    typed = text(value)
    match = re.fullmatch(_REFERENCE, typed)
    if not match or len(match["name"]) > 255 or re.fullmatch(r"[0-9a-f]{64}", typed):
        _fail('must be an image reference such as "ollama/ollama:latest" (lower case, no spaces)', value)
    return typed


_MEMORY_UNITS = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def memory_bytes(size: str) -> int:
    """A service's `memory` in bytes, as Docker reports it; 0 for no limit."""
    match = re.fullmatch(r"([1-9][0-9]{0,14})([bkmg])b?", size.lower())
    return int(match[1]) * _MEMORY_UNITS[match[2]] if match else 0


def memory(value: object) -> str:
    typed = text(value)
    if memory_bytes(typed) < 6 * 1024**2:  # Docker's own least
        _fail('must be a size of at least 6 MiB such as "512m" or "16g"', value)
    return typed


def gpus(value: object) -> str:
    typed = text(value)
    if typed == "all" or re.fullmatch(r"[1-9][0-9]?", typed):
        return typed
    ids = typed.split(",")
    if typed.isdigit() or not all(re.fullmatch(r"[0-9]{1,2}|(?:GPU|MIG)-[0-9A-Za-z/-]+", item) for item in ids):
        _fail('must be "all", a count ("1"), device numbers ("0,1") or a UUID ("GPU-...")', value)
    if len(set(ids)) != len(ids):
        _fail("must not name a device twice", value)
    return typed


def driver(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{2,3}", value):
        _fail('must be the driver branch alone in quotes, such as "590"', value)
    return value


def device(value: object) -> str:
    """What mount(8) takes as a source: a device's path or its LABEL, UUID, PARTLABEL or PARTUUID."""
    typed = text(value)
    # A label may have blanks within.
    if re.fullmatch(r"(?:(?:PART)?LABEL=(?!-)[^\s\"']+(?: +[^\s\"']+)*|(?:PART)?UUID=[^\s\"'-][^\s\"']*)", typed):
        return typed
    if not typed.startswith("/dev/"):
        _fail('must be "LABEL=...", "UUID=..." or a path under /dev', value)
    return absolute_path(typed)


fstype = matching(r"[a-z0-9][a-z0-9._-]*", 'must be a file system type such as "ext4"')


def export(value: object) -> str:
    typed = text(value)
    host, _, path = typed.partition(":/")
    try:
        address(host.removeprefix("[").removesuffix("]"))
        absolute_path("/" + path)
    except ValueError:
        _fail('must be HOST:/PATH such as "atlas:/appdata"', value)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        _fail(f"must have its address in brackets: {show(f'[{host}]:/{path}')}", value)
    return typed


def mode(value: object) -> str:
    if value not in ("ro", "rw"):
        _fail('must be "ro" or "rw"', value)
    return str(value)


def one_of(*known: str) -> Check:
    def check(value: object) -> str:
        if value not in known:
            _fail("must be " + " or ".join(map(show, known)), value)
        return str(value)

    return check


def fingerprint(value: object) -> str:
    """An OpenPGP fingerprint of version 4 or later, as 40 or 64 hex digits without spaces."""
    typed = text(value).replace(" ", "").upper()
    if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", typed):
        _fail("must be a fingerprint of 40 hex digits", value)
    return typed


# What pantheon gives itself, or what would change the meaning of a mount: not an option's to say.
_OWN_OPTIONS = {"ro", "rw", "auto", "noauto", "nofail", "fail", "remount", "bind", "user", "users", "_netdev"}


def mount_options(value: object) -> str:
    typed = text(value)
    for option in typed.split(","):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:=[A-Za-z0-9_./:-]+)?", option):
            _fail('must be mount options such as "nfsvers=4.1,noatime"', value)
        if option in _OWN_OPTIONS or option.startswith("x-"):
            _fail(f"must not hold {show(option)}, which is pantheon's to say (mode gives ro and rw)", value)
    return typed


def listeners(value: object) -> tuple[str, ...]:
    """Ports, alone or with an address in front, on which something besides sshd may listen beyond loopback."""
    if not isinstance(value, list):
        _fail('must be a list such as ["9100", "10.0.60.5:9400"]', value)
    for item in value:
        place, _, port = item.rpartition(":") if isinstance(item, str) else ("", "", "")
        good = port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535
        if not good or (place and not _is_ip(place.removeprefix("[").removesuffix("]"))):
            _fail('must hold ports or addresses with ports, such as "9100" or "10.0.60.5:9400"', item)
    return tuple(value)


def until(value: object) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        _fail("must be a date without quotes such as 2027-01-01", value)
    return value
