"""Reads and writes hosts.toml: goes through the file once and reports everything that is wrong in it, each problem with
its key path and the nearest known name. Defaults are pantheon/inventory.py's, what values look like is grammar.py's.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from pantheon import grammar
from pantheon.errors import InventoryError
from pantheon.inventory import (
    SERVICES,
    AtlasMount,
    Comfy,
    Gpu,
    Host,
    Install,
    Inventory,
    Monitoring,
    Ollama,
    OpenWebui,
    Os,
    Storage,
    Waiver,
    is_secret_name,
)

LARGEST_FILE = 1024 * 1024  # bytes; a real hosts.toml has a few thousand
LARGEST_VALUE = 64 * 1024  # bytes; Linux refuses an environment string of 128 KiB


@dataclass(frozen=True)
class Key:
    """One key of hosts.toml: how its value is checked, and what it is for (shown by `write`)."""

    check: grammar.Check
    about: str = ""


_SERVICE = {
    "image": Key(grammar.image),
    "port": Key(grammar.service_port, "on 127.0.0.1 of the host, always"),
    "image_gib": Key(grammar.gib, "GiB that must be free before the image is pulled"),
    "data_gib": Key(grammar.gib, "GiB that must be free before the first start"),
    "bind": Key(grammar.bind, "nothing but loopback (procedure §5)"),
    "env": Key(grammar.text),  # read by _Reader.env
    "memory": Key(grammar.optional(grammar.memory), "limit such as 16g; empty: none"),
}
_GPUS = Key(grammar.gpus, "all, a count, or device ids")

KEYS: dict[type, dict[str, Key]] = {
    Os: {
        "id": Key(
            grammar.matching(r"[a-z0-9][a-z0-9._-]*", "must be an ID of os-release"), "as /etc/os-release has them"
        ),
        "version": Key(grammar.matching(r"[0-9][0-9a-z.-]*", 'must be a version in quotes such as "24.04"')),
    },
    Gpu: {
        "name": Key(grammar.phrase, "as NVML says it, exact"),
        "min_memory_mib": Key(grammar.whole(1, 10**7)),
        "driver": Key(grammar.driver, "branch"),
        "variant": Key(grammar.one_of("", "open", "server", "server-open"), "of Ubuntu's package"),
    },
    Install: {
        "hold": Key(grammar.flag, "keep engine, driver and toolkit from silent upgrades"),
        "docker_key": Key(grammar.fingerprint, "of Docker's package repository"),
        "toolkit_key": Key(grammar.fingerprint, "of NVIDIA's package repository"),
    },
    Monitoring: {"dcgm_exporter": Key(grammar.flag, "the audit looks for it")},
    Storage: {
        "nvme": Key(grammar.directory),
        "ssd": Key(grammar.directory),
        "require_mounts": Key(grammar.flag, "refuse when these are not mount points"),
        "nvme_source": Key(grammar.optional(grammar.device), "mounted if given, never formatted"),
        "ssd_source": Key(grammar.optional(grammar.device)),
        "nvme_fstype": Key(grammar.optional(grammar.fstype), "empty: any local file system"),
        "ssd_fstype": Key(grammar.optional(grammar.fstype)),
    },
    Comfy: {
        **_SERVICE,
        "gpus": _GPUS,
        "first_run_minutes": Key(grammar.whole(1, 1440)),
        "image_user_switch": Key(grammar.flag, "start as root and let the image switch users, with four capabilities"),
    },
    Ollama: {**_SERVICE, "gpus": _GPUS},
    OpenWebui: _SERVICE,
    AtlasMount: {
        "export": Key(grammar.export),
        "mount": Key(grammar.directory),
        "mode": Key(grammar.mode),
        "type": Key(grammar.fstype),
        "options": Key(grammar.optional(grammar.mount_options), "besides those that pantheon gives"),
    },
    Waiver: {
        "control": Key(grammar.matching(r"[a-z0-9][a-z0-9._-]*", 'must be the id of a control such as "net.dhcp"')),
        "reason": Key(grammar.phrase),
        "until": Key(grammar.until),
    },
    Host: {
        "address": Key(grammar.address, "a name, an alias of ~/.ssh/config or an IP address"),
        "user": Key(grammar.optional(grammar.user)),
        "port": Key(grammar.whole(1, 65535)),
        "identity": Key(grammar.optional(grammar.identity)),
        "gateway": Key(grammar.optional(grammar.gateway)),
        "mgmt_network": Key(grammar.optional(grammar.network), "of administration; used by the audit"),
        "servers_network": Key(grammar.optional(grammar.network), "of service traffic; used by the audit"),
        "listeners": Key(grammar.listeners, "what may listen beyond loopback besides sshd"),
        "stack_dir": Key(grammar.directory),
        "project": Key(
            grammar.matching(
                r"[a-z0-9][a-z0-9_-]{0,62}", "must be a Compose project name (lower case, digits, - and _)"
            ),
            "Compose project name",
        ),
    },
}
TABLES: dict[str, type] = {
    "os": Os,
    "gpu": Gpu,
    "install": Install,
    "monitoring": Monitoring,
    "storage": Storage,
    "comfy": Comfy,
    "ollama": Ollama,
    "openwebui": OpenWebui,
}
LISTS: dict[str, type] = {"atlas": AtlasMount, "waivers": Waiver}
# Where nothing is mounted over: the host would lose what it runs on, or the way in.
SYSTEMS = re.compile(r"/(home|opt|root|tmp|var(/lib(/(docker|containerd)(/.*)?)?|/log|/run(/.*)?)?)|"
                     r"/(bin|boot|dev|etc|lib|lib64|proc|run|sbin|sys|usr)(/.*)?")  # fmt: skip

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


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, or "" when none is."""
    matches = difflib.get_close_matches(name[:100], list(known), n=1)
    return matches[0] if matches else ""


def _dotted(path: str, key: str) -> str:
    """`path` and `key` joined as TOML writes it: a key that is not bare is quoted."""
    key = key if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) else grammar.show(key)
    return f"{path}.{key}" if path else key


class _Reader:
    """Goes through a parsed hosts.toml once and collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def check(self, path: str, check: grammar.Check, value: object) -> Any:
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
        homes = [f"{name}.{key}" for name, cls in (inside or {}).items() if key in KEYS[cls]]
        guess = " or ".join(homes) or nearest(key, known)
        hint = f"did you mean {guess}?" if guess else f"known here: {', '.join(known)}"
        self.problem(_dotted(path, key), f"unknown key ({hint})")

    def table(self, path: str, cls: type, value: object, *, service: str = "") -> dict[str, Any]:
        """The valid ones of the values given for `cls`."""
        found: dict[str, Any] = {}
        if not isinstance(value, dict):
            self.problem(path, f"must be a table such as [{path}], got {grammar.show(value)}")
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
            self.problem(path, f'must be a table such as {{ NAME = "value" }}, got {grammar.show(value)}')
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
                self.problem(here, f'must be text: put it in quotes ("{grammar.show(item).strip(chr(34))}")')
            elif any(grammar.is_hidden(character) for character in item):
                self.problem(here, "must be one line without control characters: several lines kill the ComfyUI image")
            elif len(item.encode()) > LARGEST_VALUE:
                self.problem(here, f"is longer than {LARGEST_VALUE // 1024} KiB")
            else:
                found[name] = item
        return found

    def listed(self, path: str, cls: type, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            self.problem(path, f"must be a list of tables such as [[{path}]], got {grammar.show(value)}")
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
            self.problem(path, f"must be a table such as [{path}], got {grammar.show(value)}")
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
            elif path != "defaults" and isinstance(item, dict) and not nearest(key, known):
                name = f"{path.removeprefix('hosts.')}.{key}"
                self.problem(
                    here, f"unknown key (a host's name with dots is written in quotes: [hosts.{grammar.show(name)}])"
                )
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
        """What shows only when all values of a host are there: told once, where the value was given."""

        def rank(keys: tuple[str, ...]) -> int:
            """0: given by the host, 1: by [defaults], 2: pantheon's own default."""
            for number, values in enumerate((mine, shared)):
                table: Any = values
                for key in keys[:-1]:
                    table = table.get(key, {})
                if keys[-1] in table:
                    return number
            return 2

        def tell(keys: tuple[str, ...], text: str) -> None:
            base = "defaults" if rank(keys) == 1 else _dotted("hosts", host.name)
            line = f"{base}.{'.'.join(keys)}: {text}"
            if line not in self.problems:
                self.problems.append(line)

        for second, first in ((SERVICES[1], SERVICES[0]), (SERVICES[2], SERVICES[0]), (SERVICES[2], SERVICES[1])):
            if host.service(first).port == host.service(second).port:
                blamed = min((second, first), key=lambda service: rank((service, "port")))
                other = first if blamed == second else second
                tell((blamed, "port"), f"{host.service(first).port} is {other}'s port already")
        nvme, ssd = host.storage.nvme, host.storage.ssd
        if nvme == ssd:
            tell(("storage", "ssd"), f"must be another root than nvme's (procedure §3), got {grammar.show(ssd)}")
        for root, other, key in ((nvme, ssd, "nvme"), (ssd, nvme, "ssd")):
            if _is_beneath(root, f"{other}/ai"):
                tell(("storage", key), f"must not lie inside the stack's own tree, got {grammar.show(root)}")
        for root, key in ((nvme, "nvme"), (ssd, "ssd")):
            if _is_beneath(host.stack_dir, root):
                tell(
                    ("stack_dir",), f"must not lie beneath storage.{key} ({grammar.show(root)}), which holds data only"
                )
            elif _is_beneath(root, host.stack_dir):
                tell(("storage", key), f"must not lie beneath stack_dir ({grammar.show(host.stack_dir)})")
        for mount in host.atlas:
            local = (("storage.nvme", nvme), ("storage.ssd", ssd), ("stack_dir", host.stack_dir))
            others = (("another mount of Atlas", one.mount) for one in host.atlas if one.mount != mount.mount)
            for what, path in (*local, *others):
                if _is_beneath(mount.mount, path):
                    text = f"{grammar.show(mount.mount)} must not lie in {what} ({grammar.show(path)})"
                    tell(("atlas",), f"{text}: nothing of the stack depends on Atlas, and no mount on another")
                elif _is_beneath(path, mount.mount) and what != "another mount of Atlas":
                    tell(("atlas",), f"{grammar.show(mount.mount)} must not hide {what} ({grammar.show(path)})")
            if SYSTEMS.fullmatch(mount.mount):
                tell(("atlas",), f"{grammar.show(mount.mount)} is the system's: name a directory of its own")
        source = host.storage.nvme_source
        if source and source == host.storage.ssd_source:
            tell(("storage", "ssd_source"), f"{grammar.show(source)} is nvme's source already")
        for keys, names in (
            (("atlas",), [mount.mount for mount in host.atlas]),
            (("waivers",), [waiver.control for waiver in host.waivers]),
        ):
            for twice in sorted({name for name in names if names.count(name) > 1}):
                tell(keys, f"{grammar.show(twice)} stands there twice")

    def inventory(self, path: str, data: dict[str, Any]) -> Inventory:
        for key in data:
            if key not in ("default", "defaults", "hosts"):
                self.unknown("", key, ["default", "defaults", "hosts"])
        shared = self.host("defaults", data.get("defaults", {}))
        if shared.pop("address", None) is not None:
            self.problem("defaults.address", "an address belongs to one host: move it to [hosts.NAME]")
        sections = data.get("hosts", {})
        if not isinstance(sections, dict) or not sections:
            self.problem("hosts", "there is no host: add a section [hosts.NAME] with an address")
            return Inventory(path, "", {})
        hosts: dict[str, Host] = {}
        for name, section in sections.items():
            here = _dotted("hosts", name)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                self.problem(here, "a host's name begins with a letter or digit and goes on with those, . _ and -")
            mine = self.host(here, section)
            if isinstance(section, dict) and "address" not in section:
                self.problem(f"{here}.address", "REQUIRED and missing")
            hosts[name] = self.merge(name, mine, shared)
            self.together(hosts[name], mine, shared)
        return Inventory(path, self.default(data.get("default"), hosts), hosts)

    def default(self, value: object, hosts: Mapping[str, Host]) -> str:
        if value is None:
            return next(iter(hosts)) if len(hosts) == 1 else ""
        if not isinstance(value, str):
            self.problem("default", f"must be the name of a host, got {grammar.show(value)}")
            return ""
        if hosts and value not in hosts:
            guess = nearest(value, hosts)
            hint = f" (did you mean {guess}?)" if guess else f" ({', '.join(hosts)})"
            self.problem("default", f"no host is called {grammar.show(value)}{hint}")
        return value


def _is_beneath(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def default_path() -> Path:
    """$PANTHEON_HOSTS, else hosts.toml beside tasks.py."""
    return Path(os.environ.get("PANTHEON_HOSTS") or Path(__file__).resolve().parent.parent / "hosts.toml").expanduser()


def read(path: Path | None = None) -> Inventory:
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


def _toml(value: object) -> str:
    """A value as TOML: JSON's way of writing text is TOML's too. Characters that a terminal would act on are escaped,
    since what is written may come from a host; half a surrogate pair, which TOML cannot hold, becomes a mark."""
    if isinstance(value, dict):
        items = ", ".join(f"{_toml_key(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = json.dumps(value, ensure_ascii=False)
    return grammar.escaped(text.encode("utf-8", "replace").decode())


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def write(host: Host) -> str:
    """The host as a section of hosts.toml, complete: what it says does not depend on [defaults], except that
    environments are merged. Values that are not set stand there as comments. `read` makes it back to the same Host,
    but for secrets in an environment: those are named and not shown, since this text goes to a screen."""
    base = f"hosts.{_toml_key(host.name)}"
    lines = [f"[{base}]"]

    def put(part: object) -> None:
        for key, each in KEYS[type(part)].items():
            value, about = getattr(part, key), each.about
            hidden = [name for name in value if is_secret_name(name)] if key == "env" else []
            if hidden:
                value = {name: text for name, text in value.items() if name not in hidden}
                lines.append(f"# Keep what your hosts.toml says of {', '.join(hidden)}: a secret, and not shown.")
            unset = value in ("", ()) or (isinstance(part, Host) and key == "port" and value == 0)
            lines.append(f"{'# ' if unset else ''}{key} = {_toml(value)}" + (f"  # {about}" if about else ""))

    put(host)
    for table in TABLES:
        lines.extend(["", f"[{base}.{table}]"])
        put(getattr(host, table))
    for name in LISTS:
        for item in getattr(host, name):
            lines.extend(["", f"[[{base}.{name}]]"])
            put(item)
    return "\n".join(lines) + "\n"
