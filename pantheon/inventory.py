"""hosts.toml -> Host and its parts: typed, frozen, complete. Every default stands here and nowhere else.

The shape is the one of PRODUCT.md: `default`, `[defaults]` inherited by every `[hosts.NAME]`. What values may look like
is in grammar.py, how the file is read and written in hostsfile.py.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pantheon.errors import UsageError

WORDS = re.compile(r"[\w@%+=:,./ -]*")  # a line without anything that a shell would read another way


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
    variant: Literal["", "open", "server", "server-open"] = "server"  # of Ubuntu's package nvidia-driver-BRANCH-VARIANT


@dataclass(frozen=True)
class Install:
    """How `--install` installs (procedure §2). The keys are the fingerprints of the vendors' package repositories:
    nothing is installed from one that is signed by another. `hold`: engine, driver and toolkit are kept from being
    upgraded in silence."""

    hold: bool = False
    docker_key: str = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
    toolkit_key: str = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"


@dataclass(frozen=True)
class Monitoring:
    """What of the monitoring is declared to be there (system page, Monitoring): the audit looks for it."""

    dcgm_exporter: bool = False


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
    options: str = ""  # further mount options, e.g. "nfsvers=4.1"


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
    servers_network: str = ""
    listeners: tuple[str, ...] = ()  # what may listen beyond loopback besides sshd, TCP or UDP: "PORT", "ADDRESS:PORT"
    stack_dir: str = "/opt/stacks/ai"
    project: str = "pantheon-ai"
    os: Os = field(default_factory=Os)
    gpu: Gpu = field(default_factory=Gpu)
    install: Install = field(default_factory=Install)
    monitoring: Monitoring = field(default_factory=Monitoring)
    storage: Storage = field(default_factory=Storage)
    comfy: Comfy = field(default_factory=Comfy)
    ollama: Ollama = field(default_factory=Ollama)
    openwebui: OpenWebui = field(default_factory=OpenWebui)
    atlas: tuple[AtlasMount, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    def service(self, name: str) -> Service:
        return {"comfy": self.comfy, "ollama": self.ollama, "openwebui": self.openwebui}[name]

    def ssh(self, command: str) -> str:
        """What to type on the workstation to run `command` on the host: on a terminal where sudo may ask for a
        password, or an editor is opened. `command` is a line for the host's shell, as it would be typed there; it is
        quoted here for the workstation's, which reads it first."""
        options = (("-p", str(self.port or "")), ("-i", self.identity), ("-J", self.gateway))
        given = [part for name, value in options if value for part in (name, value)]
        target = f"{self.user}@{self.address}" if self.user else self.address
        terminal = ["-t"] if "sudo" in command else []
        return f"{shlex.join(['ssh', *terminal, *given, target])} {_for_one_more_shell(command)}"


def _for_one_more_shell(line: str) -> str:
    """A shell's line as one more shell has to be given it: as it is where it has words alone, else in the quotes that
    leave it readable."""
    if WORDS.fullmatch(line):
        return line
    if "'" in line and not set(line) & set('"$`\\!'):
        return f'"{line}"'
    return shlex.quote(line)


SERVICES = ("comfy", "ollama", "openwebui")


@dataclass(frozen=True)
class Inventory:
    """`path` is the file it was read from; `default` the host taken when no --host is given ("": there is none)."""

    path: str
    default: str
    hosts: dict[str, Host]

    def host(self, name: str | None) -> Host:
        """The host called `name`, or the default one for None. UsageError names the nearest one there is."""
        from pantheon.hostsfile import nearest

        if name is None and not self.default:
            known = ", ".join(self.hosts)
            raise UsageError(f"{self.path} names no default: say which host with --host", details=[f"hosts: {known}"])
        wanted = self.default if name is None else name
        if wanted not in self.hosts:
            guess = nearest(wanted, self.hosts)
            hint = f"did you mean {guess}?" if guess else f"there is {', '.join(self.hosts)}"
            raise UsageError(f"no host {json.dumps(wanted)} in {self.path} ({hint})", next_commands=["invoke hosts"])
        return self.hosts[wanted]


def load(path: Path | None = None) -> Inventory:
    """The inventory in `path`, else in $PANTHEON_HOSTS, else in hosts.toml beside tasks.py. InventoryError carries
    every problem that is in it."""
    from pantheon.hostsfile import read  # here, because reading needs the classes above, and not every task reads

    return read(path)


def to_toml(host: Host) -> str:
    """The host as a commented section of hosts.toml, complete, from which `load` makes the same Host again."""
    from pantheon.hostsfile import write

    return write(host)


_SECRET_PARTS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH")
MASK = "********"


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name is likely to hold a secret, so that its value is never shown."""
    return any(part in name.upper() for part in _SECRET_PARTS)


def without_login(text: str) -> str:
    """A text without the names and passwords in its addresses."""
    return re.sub(r"(?<=://)[^/@\s]*@", f"{MASK}@", text)


def as_data(host: Host, *, reveal: bool = False) -> dict[str, Any]:
    """The host as JSON-ready data. Environment values of secret-looking names, and logins within addresses, are masked
    unless `reveal`."""

    def plain(value: object) -> Any:
        if is_dataclass(value):
            return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, dict):  # only `env` is one
            if reveal:
                return dict(value)
            return {name: MASK if is_secret_name(name) else without_login(item) for name, item in value.items()}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value.isoformat() if isinstance(value, date) else value

    data: dict[str, Any] = plain(host)
    return data
