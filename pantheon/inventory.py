"""hosts.toml -> Host and its parts: typed, frozen, complete. Every default stands here and nowhere else.

The shape is the one of PRODUCT.md: `default`, `[defaults]` inherited by every `[hosts.NAME]`. `load` reads a file and
reports everything that is wrong in it at once, each problem with its key path and the nearest known name.

Values are checked for what they are used for on the host. Paths may hold spaces, quotes and `$(...)`: nothing here or
later gives them to a shell. Control characters are refused everywhere, since they could rewrite what a terminal shows
of a plan; a leading dash is refused wherever a program might take the value for an option.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import posixpath
import re
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from pantheon.errors import InventoryError, UsageError


@dataclass(frozen=True)
class Os:
    """What /etc/os-release must say."""

    id: str = "ubuntu"
    version: str = "24.04"


@dataclass(frozen=True)
class Gpu:
    """Name as NVML gives it, exact; least memory in MiB; driver branch (procedure §2)."""

    name: str = "NVIDIA RTX 4000 Ada Generation"
    min_memory_mib: int = 20000
    driver: str = "590"


@dataclass(frozen=True)
class Storage:
    """Roots of the storage model (procedure §3). `*_fstype` empty means any local file system will do."""

    nvme: str = "/mnt/local/nvme"
    ssd: str = "/mnt/local/ssd"
    require_mounts: bool = True
    nvme_source: str = ""
    ssd_source: str = ""
    nvme_fstype: str = ""
    ssd_fstype: str = ""


@dataclass(frozen=True)
class Service:
    """What the three services share. Ports are on 127.0.0.1, always (procedure §5). Sizes are what must be free
    before the image is pulled (Docker's root) and before the first start (the data directory), in GiB."""

    image: str
    port: int
    image_gib: float
    data_gib: float
    bind: str = "127.0.0.1"  # only loopback is accepted; the key exists to be refused with a reason
    env: dict[str, str] = field(default_factory=dict)
    memory: str = ""  # Compose's mem_limit, e.g. "16g"; empty: no limit


@dataclass(frozen=True)
class Comfy(Service):
    image: str = "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest"
    port: int = 8188
    image_gib: float = 12
    data_gib: float = 15
    gpus: str = "all"  # "all", a count ("1"), or device ids ("0,1" is two ids; "GPU-..." works too)
    first_run_minutes: int = 45
    image_user_switch: bool = False  # start as the image does (sudo inside, four capabilities) instead of as 1024


@dataclass(frozen=True)
class Ollama(Service):
    image: str = "ollama/ollama:latest"
    port: int = 11434
    image_gib: float = 4
    data_gib: float = 1
    gpus: str = "all"
    env: dict[str, str] = field(default_factory=lambda: {"OLLAMA_KEEP_ALIVE": "5m"})


@dataclass(frozen=True)
class OpenWebui(Service):
    image: str = "ghcr.io/open-webui/open-webui:main"
    port: int = 3000
    image_gib: float = 6
    data_gib: float = 2


@dataclass(frozen=True)
class AtlasMount:
    export: str
    mount: str
    mode: Literal["ro", "rw"]
    type: str = "nfs4"


@dataclass(frozen=True)
class Waiver:
    control: str
    reason: str
    until: date


@dataclass(frozen=True)
class Host:
    """One host of hosts.toml with everything inherited filled in. Empty user, identity, gateway and port 0 mean:
    as ~/.ssh/config says."""

    name: str
    address: str
    user: str = ""
    port: int = 0
    identity: str = ""
    gateway: str = ""
    mgmt_network: str = ""
    stack_dir: str = "/opt/stacks/ai"
    project: str = "pantheon-ai"
    os: Os = field(default_factory=Os)
    gpu: Gpu = field(default_factory=Gpu)
    storage: Storage = field(default_factory=Storage)
    comfy: Comfy = field(default_factory=Comfy)
    ollama: Ollama = field(default_factory=Ollama)
    openwebui: OpenWebui = field(default_factory=OpenWebui)
    atlas: tuple[AtlasMount, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    def service(self, name: str) -> Service:
        return {"comfy": self.comfy, "ollama": self.ollama, "openwebui": self.openwebui}[name]


SERVICES = ("comfy", "ollama", "openwebui")


@dataclass(frozen=True)
class Inventory:
    """`path` is the file it was read from; `default` the host taken when no --host is given ("": there is none)."""

    path: str
    default: str
    hosts: dict[str, Host]

    def host(self, name: str | None) -> Host:
        """The host called `name`, or the default one for None. UsageError names the nearest one there is."""
        wanted = name if name is not None else self.default
        if wanted in self.hosts:
            return self.hosts[wanted]
        known = ", ".join(sorted(self.hosts))
        if not wanted:
            raise UsageError(
                f"{self.path} names no default host: say which one with --host ({known})",
                next_commands=["invoke hosts"],
            )
        guess = _nearest(wanted, self.hosts)
        raise UsageError(
            f"{self.path} has no host {json.dumps(wanted)}" + (f" (did you mean {guess}?)" if guess else f" ({known})"),
            next_commands=["invoke hosts"],
        )


# What each kind of value must look like. A check gets the value as TOML gave it, returns it in the type of the field,
# or raises ValueError with the rest of the sentence that begins with the key's path.

Check = Callable[[object], Any]

PROCEDURE_5 = "services bind to 127.0.0.1 only and are reached through `invoke tunnel` (procedure §5)"
LARGEST_FILE = 1024 * 1024  # bytes; a real hosts.toml has a few thousand


def _show(value: object) -> str:
    """A TOML value as an operator would have typed it, shortened; control characters come out escaped."""
    text = json.dumps(value, ensure_ascii=True) if isinstance(value, (str, bool, int, float)) else str(value)
    if isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "a list"
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _fail(what: str, value: object) -> NoReturn:
    raise ValueError(f"{what}, got {_show(value)}")


def _is_hidden(character: str) -> bool:
    """Control characters, line separators, and the invisible ones that reorder text on a screen."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _text(value: object) -> str:
    if not isinstance(value, str):
        _fail("must be text in quotes", value)
    if any(_is_hidden(character) for character in value):
        _fail("must be one line without control characters", value)
    return value


def _phrase(value: object) -> str:
    text = _text(value)
    if not text or text != text.strip():
        _fail("must not be empty or begin or end with a space", value)
    return text


def _optional(check: Check) -> Check:
    """`check`, or the empty text that stands for "not set"."""
    return lambda value: "" if value == "" else check(value)


def _matching(pattern: str, what: str) -> Check:
    def check(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            _fail(what, value)
        return text

    return check


def _whole(least: int, most: int) -> Check:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            _fail(f"must be a whole number {least}-{most}", value)
        return value

    return check


def _gib(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        _fail("must be a number of GiB, 0 or more", value)
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        _fail("must be true or false", value)
    return value


def _service_port(value: object) -> int:
    if isinstance(value, str) and ":" in value:
        raise ValueError(f"must be the port alone, got {_show(value)}: {PROCEDURE_5}")
    port: int = _whole(1, 65535)(value)
    return port


def _bind(value: object) -> str:
    if value != "127.0.0.1":
        raise ValueError(f"must be 127.0.0.1, got {_show(value)}: {PROCEDURE_5}")
    return "127.0.0.1"


def _path(value: object) -> str:
    """An absolute, normalised path on the host."""
    path = _text(value)
    if not path.startswith("/"):
        _fail("must be an absolute path", value)
    if ".." in path.split("/"):
        _fail("must not contain ..", value)
    # normpath keeps exactly two leading slashes, as POSIX wants
    if posixpath.normpath(path) != path or path.startswith("//"):
        _fail(f"must be written {_show(posixpath.normpath('/' + path.strip('/')))}", value)
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in path.split("/")):
        _fail("is too long for a path", value)
    return path


def _directory(value: object) -> str:
    path = _path(value)
    if path == "/":
        _fail("must be a directory of its own", value)
    return path


def _identity(value: object) -> str:
    """A private key's path on the workstation."""
    path = _text(value)
    if not path.startswith(("/", "~/")):
        _fail("must be an absolute path or begin with ~/", value)
    return path


_WORD = r"[^\W_][\w.-]*|_[\w.-]*"  # letters and digits of any alphabet; no leading dash or dot, no space, no quotes


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text or re.fullmatch(r"[\w.:]+%[\w.-]+", text) is not None


def _address(value: object) -> str:
    """A host name, an alias of ssh_config, or an IP address. Nothing else: ssh puts it into ProxyCommand lines."""
    text = _text(value)
    if re.fullmatch(_WORD, text) or _is_ip(text):
        return text
    if "@" in text:
        _fail("must be the host alone (the user has a key of its own: user)", value)
    if re.fullmatch(r"[\w.-]+:\d+|\[.*\]:\d+", text):
        _fail("must be the host alone (the port has a key of its own: port)", value)
    _fail("must be a host name, an alias of ~/.ssh/config or an IP address", value)


_user = _matching(r"(?:[^\W_]|_)[\w.@+-]*", "must be a user name")


def _gateway(value: object) -> str:
    """[USER@]HOST[:PORT], as ProxyJump has it, for one hop."""
    text = _text(value)
    if "," in text:
        _fail("must be one host (describe a chain of hops with ProxyJump in ~/.ssh/config)", value)
    match = re.fullmatch(r"(?:(?P<user>.+)@)?(?P<host>\[[^\]]+\]|[^@:]+|[^@]+?)(?::(?P<port>\d{1,5}))?", text)
    try:
        if not match:
            raise ValueError
        if match["user"] is not None:
            _user(match["user"])
        if match["port"] is not None:
            _whole(1, 65535)(int(match["port"]))
        _address(match["host"].removeprefix("[").removesuffix("]"))
    except ValueError:
        _fail("must be [USER@]HOST[:PORT]", value)
    return text


def _network(value: object) -> str:
    text = _text(value)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        _fail('must be a network such as "10.0.99.0/24"', value)
    if str(network) != text:
        _fail(f"must be written {_show(str(network))}", value)
    return text


_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REFERENCE = (
    rf"(?P<name>(?:{_DOMAIN}(?:\.{_DOMAIN})*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def _image(value: object) -> str:
    """An image reference by the grammar of github.com/distribution/reference, with sha256 digests only."""
    text = _text(value)
    match = re.fullmatch(_REFERENCE, text)
    if not match or len(match["name"]) > 255 or re.fullmatch(r"[0-9a-f]{64}", text):
        _fail('must be an image reference such as "ollama/ollama:latest" (lower case, no spaces)', value)
    return text


_MEMORY_UNITS = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def memory_bytes(memory: str) -> int:
    """A service's `memory` in bytes, as Docker reports it; 0 for no limit."""
    match = re.fullmatch(r"([1-9][0-9]{0,14})([bkmg])b?", memory.lower())
    return int(match[1]) * _MEMORY_UNITS[match[2]] if match else 0


def _memory(value: object) -> str:
    text = _text(value)
    if memory_bytes(text) < 6 * 1024**2:  # Docker's own least
        _fail('must be a size of at least 6 MiB such as "512m" or "16g"', value)
    return text


def _gpus(value: object) -> str:
    text = _text(value)
    if text == "all" or re.fullmatch(r"[1-9][0-9]?", text):
        return text
    ids = text.split(",")
    if text.isdigit() or not all(re.fullmatch(r"[0-9]{1,2}|(?:GPU|MIG)-[0-9A-Za-z-/]+", item) for item in ids):
        _fail('must be "all", a count ("1"), device numbers ("0,1") or a UUID ("GPU-...")', value)
    if len(set(ids)) != len(ids):
        _fail("must not name a device twice", value)
    return text


def _driver(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{2,3}", value):
        _fail('must be the driver branch alone in quotes, such as "590"', value)
    return value


def _device(value: object) -> str:
    """What mount(8) takes as a source: a device's path or its LABEL, UUID, PARTLABEL or PARTUUID."""
    text = _text(value)
    if re.fullmatch(r"(?:LABEL|UUID|PARTLABEL|PARTUUID)=[^\s\"'-][^\s\"']*", text):
        return text
    if not text.startswith("/dev/"):
        _fail('must be "LABEL=...", "UUID=..." or a path under /dev', value)
    return _path(text)


_fstype = _matching(r"[a-z0-9][a-z0-9._-]*", 'must be a file system type such as "ext4"')


def _export(value: object) -> str:
    text = _text(value)
    host, _, path = text.rpartition(":/")
    try:
        _address(host.removeprefix("[").removesuffix("]"))
        _path("/" + path)
    except ValueError:
        _fail('must be HOST:/PATH such as "atlas:/appdata"', value)
    return text


def _mode(value: object) -> str:
    if value not in ("ro", "rw"):
        _fail('must be "ro" or "rw"', value)
    return str(value)


def _until(value: object) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        _fail("must be a date without quotes such as 2027-01-01", value)
    return value


@dataclass(frozen=True)
class Key:
    """One key of hosts.toml: how its value is checked, and what it is for (shown by `to_toml`)."""

    check: Check
    about: str = ""


_SERVICE = {
    "image": Key(_image),
    "port": Key(_service_port, "on 127.0.0.1 of the host, always"),
    "image_gib": Key(_gib, "GiB that must be free before the image is pulled"),
    "data_gib": Key(_gib, "GiB that must be free before the first start"),
    "bind": Key(_bind, "nothing but loopback (procedure §5)"),
    "env": Key(_text),  # read by _Reader.env
    "memory": Key(_optional(_memory), "limit such as 16g; empty: none"),
}
_GPUS = Key(_gpus, "all, a count, or device ids")

KEYS: dict[type, dict[str, Key]] = {
    Os: {
        "id": Key(_matching(r"[a-z0-9][a-z0-9._-]*", "must be an ID of os-release"), "as /etc/os-release has them"),
        "version": Key(_matching(r"[0-9][0-9a-z.-]*", 'must be a version in quotes such as "24.04"')),
    },
    Gpu: {
        "name": Key(_phrase, "as NVML says it, exact"),
        "min_memory_mib": Key(_whole(1, 10**7)),
        "driver": Key(_driver, "branch"),
    },
    Storage: {
        "nvme": Key(_directory),
        "ssd": Key(_directory),
        "require_mounts": Key(_flag, "refuse when these are not mount points"),
        "nvme_source": Key(_optional(_device), "mounted if given, never formatted"),
        "ssd_source": Key(_optional(_device)),
        "nvme_fstype": Key(_optional(_fstype), "empty: any local file system"),
        "ssd_fstype": Key(_optional(_fstype)),
    },
    Comfy: {
        **_SERVICE,
        "gpus": _GPUS,
        "first_run_minutes": Key(_whole(1, 1440)),
        "image_user_switch": Key(_flag, "start as root and let the image switch users, with four capabilities"),
    },
    Ollama: {**_SERVICE, "gpus": _GPUS},
    OpenWebui: _SERVICE,
    AtlasMount: {
        "export": Key(_export),
        "mount": Key(_directory),
        "mode": Key(_mode),
        "type": Key(_fstype),
    },
    Waiver: {
        "control": Key(_matching(r"[a-z0-9][a-z0-9._-]*", 'must be the id of a control such as "net.dhcp"')),
        "reason": Key(_phrase),
        "until": Key(_until),
    },
    Host: {
        "address": Key(_address, "a name, an alias of ~/.ssh/config or an IP address"),
        "user": Key(_optional(_user)),
        "port": Key(_whole(1, 65535)),
        "identity": Key(_optional(_identity)),
        "gateway": Key(_optional(_gateway)),
        "mgmt_network": Key(_optional(_network)),
        "stack_dir": Key(_directory),
        "project": Key(
            _matching(r"[a-z0-9][a-z0-9_-]{0,62}", "must be a Compose project name (lower case, digits, - and _)"),
            "Compose project name",
        ),
    },
}
TABLES: dict[str, type] = {
    "os": Os,
    "gpu": Gpu,
    "storage": Storage,
    "comfy": Comfy,
    "ollama": Ollama,
    "openwebui": OpenWebui,
}
LISTS: dict[str, type] = {"atlas": AtlasMount, "waivers": Waiver}

# Environment that pantheon sets itself, with the reason why it is not the inventory's to give.
_LOCAL_ONLY = "pantheon sets it: local models only (procedure §4)"
MANAGED_ENV: dict[str, dict[str, str]] = {
    "comfy": {
        "WANTED_UID": "pantheon sets it to 1024: comfy-mnt belongs to 1024:1024 (procedure §6.1)",
        "WANTED_GID": "pantheon sets it to 1024: comfy-mnt belongs to 1024:1024 (procedure §6.1)",
        "BASE_DIRECTORY": "leave it unset: the image would write-check every directory in it, "
        "and the shared models are read-only (procedure §3.1)",
    },
    "ollama": {
        "OLLAMA_HOST": "pantheon sets it: Open WebUI reaches Ollama on the stack's own network (procedure §5)",
        "OLLAMA_NO_CLOUD": _LOCAL_ONLY,
    },
    "openwebui": {
        "WEBUI_SECRET_KEY": "pantheon makes it once on the host and never shows it",
        "WEBUI_SECRET_KEY_FILE": "pantheon makes the key once on the host and never shows it",
        "OLLAMA_BASE_URL": "pantheon sets it: Open WebUI reaches Ollama on the stack's own network (procedure §5)",
    },
}

_SECRET_KEYS = ("password", "passwd", "passphrase", "sudo_password", "sudo_pass", "become_pass")
_SECRET_PARTS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH")
MASK = "********"


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name is likely to hold a secret, so that its value is never shown."""
    return any(part in name.upper() for part in _SECRET_PARTS)


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else ""


def _dotted(path: str, key: str) -> str:
    """`path` and `key` joined as TOML writes it: a key that is not bare is quoted."""
    key = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _show(key)
    return f"{path}.{key}" if path else key


class _Reader:
    """Goes through a parsed hosts.toml once and collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def check(self, path: str, check: Check, value: object) -> Any:
        """The checked value, or MISSING after having noted what is wrong with it."""
        try:
            return check(value)
        except ValueError as error:
            self.problem(path, str(error))
            return MISSING

    def unknown(self, path: str, key: str, known: Sequence[str], *, inside: Mapping[str, type] | None = None) -> None:
        if key.lower() in _SECRET_KEYS:
            self.problem(_dotted(path, key), "no password belongs in a file: use --ask-sudo-password")
            return
        guess = _nearest(key, known)
        homes = [f"{name}.{key}" for name, cls in (inside or {}).items() if key in KEYS[cls]]
        if not guess and homes:
            guess = " or ".join(homes)
        hint = f"did you mean {guess}?" if guess else f"known here: {', '.join(known)}"
        self.problem(_dotted(path, key), f"unknown key ({hint})")

    def table(self, path: str, cls: type, value: object, *, service: str = "") -> dict[str, Any]:
        """The valid ones of the values given for `cls`."""
        found: dict[str, Any] = {}
        if not isinstance(value, dict):
            self.problem(path, f"must be a table such as [{path}], got {_show(value)}")
            return found
        for key, item in value.items():
            here = _dotted(path, key)
            if key not in KEYS[cls]:
                self.unknown(path, key, list(KEYS[cls]))
            elif key == "env":
                found[key] = self.env(here, item, service=service)
            elif (checked := self.check(here, KEYS[cls][key].check, item)) is not MISSING:
                found[key] = checked
        return found

    def env(self, path: str, value: object, *, service: str) -> dict[str, str]:
        if not isinstance(value, dict):
            self.problem(path, f'must be a table such as {{ NAME = "value" }}, got {_show(value)}')
            return {}
        found: dict[str, str] = {}
        for name, item in value.items():
            here = _dotted(path, name)
            if name in MANAGED_ENV[service]:
                self.problem(here, MANAGED_ENV[service][name])
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                why = "; a dot kills the ComfyUI image" if "." in name else ""
                self.problem(here, f"must be a name of letters, digits and _{why}")
            elif isinstance(item, dict):
                self.problem(here, "must be text in quotes (a name with a dot is no environment name)")
            elif not isinstance(item, str):
                self.problem(here, f'must be text: put it in quotes ("{_show(item).strip(chr(34))}")')
            elif any(_is_hidden(character) for character in item):
                self.problem(here, "must be one line without control characters: several lines kill the ComfyUI image")
            else:
                found[name] = item
        return found

    def listed(self, path: str, cls: type, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            self.problem(path, f"must be a list of tables such as [[{path}]], got {_show(value)}")
            return ()
        found = []
        for number, item in enumerate(value):
            here, before = f"{path}[{number}]", len(self.problems)
            values = self.table(here, cls, item)
            for name in (each.name for each in fields(cls) if each.default is MISSING):
                if isinstance(item, dict) and name not in item:
                    self.problem(_dotted(here, name), "REQUIRED and missing")
            if len(self.problems) == before:
                found.append(cls(**values))
        return tuple(found)

    def host(self, path: str, value: object) -> dict[str, Any]:
        """The valid ones of the values given under [defaults] or [hosts.NAME], tables as dicts."""
        found: dict[str, Any] = {}
        if not isinstance(value, dict):
            self.problem(path, f"must be a table such as [{path}], got {_show(value)}")
            return found
        known = [*KEYS[Host], *TABLES, *LISTS]
        for key, item in value.items():
            here = _dotted(path, key)
            if key in TABLES:
                found[key] = self.table(here, TABLES[key], item, service=key)
            elif key in LISTS:
                found[key] = self.listed(here, LISTS[key], item)
            elif key in KEYS[Host]:
                if (checked := self.check(here, KEYS[Host][key].check, item)) is not MISSING:
                    found[key] = checked
            elif path != "defaults" and isinstance(item, dict) and not _nearest(key, known):
                name = f"{path.removeprefix('hosts.')}.{key}"
                self.problem(here, f"unknown key (a host's name with dots is written in quotes: [hosts.{_show(name)}])")
            else:
                self.unknown(path, key, known, inside=TABLES)
        return found

    def merge(self, name: str, mine: dict[str, Any], shared: dict[str, Any]) -> Host:
        """A complete Host: pantheon's defaults, then [defaults], then the host's own, table by table."""
        values: dict[str, Any] = {**shared, **mine}
        for key, cls in TABLES.items():
            under, over = shared.get(key, {}), mine.get(key, {})
            merged = {**under, **over}
            if "env" in KEYS[cls]:
                builtin: dict[str, str] = cls().env
                merged["env"] = {**builtin, **under.get("env", {}), **over.get("env", {})}
            values[key] = cls(**merged)
        return Host(name=name, **{"address": "", **values})

    def together(self, host: Host, mine: dict[str, Any], shared: dict[str, Any]) -> None:
        """What only shows when all values of a host are there. Told once, at the table that gave the value."""

        def where(*keys: str) -> str:
            at_host: Any = mine
            at_defaults: Any = shared
            for key in keys:
                at_host, at_defaults = at_host.get(key, {}), at_defaults.get(key, {})
            return ".".join(keys) if at_host == {} and at_defaults != {} else ""

        def tell(keys: tuple[str, ...], text: str) -> None:
            base = "defaults" if where(*keys) else _dotted("hosts", host.name)
            line = f"{base}.{'.'.join(keys)}: {text}"
            if line not in self.problems:
                self.problems.append(line)

        ports: dict[int, str] = {}
        for service in SERVICES:
            port = host.service(service).port
            if port in ports:
                tell((service, "port"), f"{port} is {ports[port]}'s port already")
            ports.setdefault(port, service)
        nvme, ssd = host.storage.nvme, host.storage.ssd
        if nvme == ssd:
            tell(("storage", "ssd"), f"must be another root than nvme's (procedure §3), got {_show(ssd)}")
        for root, other, key in ((nvme, ssd, "nvme"), (ssd, nvme, "ssd")):
            if _is_beneath(root, f"{other}/ai"):
                tell(("storage", key), f"must not lie inside the stack's own tree, got {_show(root)}")
        for root, key in ((nvme, "nvme"), (ssd, "ssd")):
            if _is_beneath(host.stack_dir, root):
                tell(("stack_dir",), f"must not lie beneath storage.{key} ({_show(root)}), which holds data only")
            elif _is_beneath(root, host.stack_dir):
                tell(("storage", key), f"must not lie beneath stack_dir ({_show(host.stack_dir)})")
        for keys, names in (
            (("atlas",), [mount.mount for mount in host.atlas]),
            (("waivers",), [waiver.control for waiver in host.waivers]),
        ):
            for twice in sorted({name for name in names if names.count(name) > 1}):
                tell(keys, f"{_show(twice)} stands there twice")

    def inventory(self, path: str, data: dict[str, Any]) -> Inventory:
        for key in data:
            if key not in ("default", "defaults", "hosts"):
                self.unknown("", key, ["default", "defaults", "hosts"])
        shared = self.host("defaults", data.get("defaults", {}))
        if "address" in data.get("defaults", {}) and isinstance(data["defaults"], dict):
            self.problem("defaults.address", "an address belongs to one host: move it to [hosts.NAME]")
        hosts: dict[str, Host] = {}
        sections = data.get("hosts", {})
        if not isinstance(sections, dict):
            self.problem("hosts", f"must be tables such as [hosts.NAME], got {_show(sections)}")
            sections = {"": {}}
        elif not sections:
            self.problem("hosts", "there is none: add a section [hosts.NAME] with an address")
        for name, section in sections.items():
            here = _dotted("hosts", name)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and isinstance(data.get("hosts"), dict):
                self.problem(here, "a host's name begins with a letter or digit and goes on with those, . _ and -")
            mine = self.host(here, section)
            if isinstance(section, dict) and "address" not in section and isinstance(data.get("hosts"), dict):
                self.problem(f"{here}.address", "REQUIRED and missing")
            hosts[name] = self.merge(name, mine, {k: v for k, v in shared.items() if k != "address"})
            self.together(hosts[name], mine, shared)
        return Inventory(path, self.default(data.get("default"), hosts), hosts)

    def default(self, value: object, hosts: Mapping[str, Host]) -> str:
        if value is None:
            return next(iter(hosts)) if len(hosts) == 1 else ""
        if not isinstance(value, str):
            self.problem("default", f"must be the name of a host, got {_show(value)}")
            return ""
        if hosts and value not in hosts:
            guess = _nearest(value, hosts)
            hint = f" (did you mean {guess}?)" if guess else f" ({', '.join(hosts)})"
            self.problem("default", f"no host is called {_show(value)}{hint}")
        return value


def _is_beneath(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def default_path() -> Path:
    """$PANTHEON_HOSTS, else hosts.toml beside tasks.py."""
    return Path(os.environ.get("PANTHEON_HOSTS") or Path(__file__).resolve().parent.parent / "hosts.toml").expanduser()


def load(path: Path | None = None) -> Inventory:
    """The inventory in `path`, else in `default_path()`. InventoryError carries every problem found in it."""
    place = default_path() if path is None else path
    reader = _Reader()
    inventory = reader.inventory(str(place), _parse(place))
    if reader.problems:
        raise InventoryError(str(place), reader.problems)
    return inventory


def _parse(path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InventoryError(str(path), ["is a directory, not a file"])
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could keep us waiting for ever
            raise InventoryError(str(path), ["is not a plain file"])
        if status.st_size > LARGEST_FILE:
            raise InventoryError(str(path), [f"is larger than {LARGEST_FILE // 1024} KiB: that is no hosts.toml"])
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows put a mark in front
        return tomllib.loads(text)
    except FileNotFoundError:
        raise InventoryError(str(path), ["no such file (--hosts-file or $PANTHEON_HOSTS points elsewhere)"]) from None
    except OSError as error:
        raise InventoryError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise InventoryError(str(path), [f"is not UTF-8 text (byte {error.start})"]) from None
    except RecursionError:
        raise InventoryError(str(path), ["is not TOML: nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError, and Python's own limit on the digits of a number
        raise InventoryError(str(path), [f"is not TOML: {error}"]) from None


def as_data(host: Host, *, reveal: bool = False) -> dict[str, Any]:
    """The host as JSON-ready data. Environment values of secret-looking names are masked unless `reveal`."""

    def plain(value: object) -> Any:
        if is_dataclass(value):
            return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, dict):  # only `env` is one
            return {name: item if reveal or not is_secret_name(name) else MASK for name, item in value.items()}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value.isoformat() if isinstance(value, date) else value

    data: dict[str, Any] = plain(host)
    return data


def _toml(value: object) -> str:
    """A value as TOML. JSON's escapes are a subset of TOML's, save that TOML wants DEL escaped as well."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_toml_key(name)} = {_toml(item)}" for name, item in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def to_toml(host: Host) -> str:
    """The host as a section of hosts.toml, complete: what it says does not depend on [defaults], except that
    environments are merged. Values that are not set stand there as comments. `load` reads it back to the same Host."""
    base = f"hosts.{_toml_key(host.name)}"
    lines = [f"[{base}]"]

    def put(part: object) -> None:
        for key, about in ((key, each.about) for key, each in KEYS[type(part)].items()):
            value = getattr(part, key)
            unset = "# " if value in ("", 0) and isinstance(value, (str, int)) and not isinstance(value, bool) else ""
            lines.append(f"{unset}{key} = {_toml(value)}" + (f"  # {about}" if about else ""))

    put(host)
    for table in TABLES:
        lines.extend(["", f"[{base}.{table}]"])
        put(getattr(host, table))
    for name in LISTS:
        for item in getattr(host, name):
            lines.extend(["", f"[[{base}.{name}]]"])
            put(item)
    return "\n".join(lines) + "\n"
