"""What a diagnosis needs beyond a look, typed. The host-side half is pantheon/collect.py with pantheon/collecting.

A look (facts.py) runs with every command and must be quick; this is gathered in a second exec, at the same time, when
something is wrong. The same rules hold: a value is Known, Absent (None) or Unknown(reason).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.belongings import Belongings
from pantheon.circumstances import (
    Account,
    Address,
    Cards,
    CdiSpec,
    Datagram,
    Desktop,
    Drive,
    SocketUnit,
    SshdLine,
    SshServer,
    Virtual,
)
from pantheon.errors import LookFailed
from pantheon.facts import Command, Http, Maybe, decode
from pantheon.kernels import Kernels, Offer
from pantheon.nfs import Atlas
from pantheon.packages import Packages
from pantheon.sources import Sources
from pantheon.upkeep import Clock, CustomNode, Journal, Namespaces, OpenTree, SecretFile, Upgrades

SCHEMA = 1


@dataclass(frozen=True)
class Unit:
    """A systemd unit. `active`: active, inactive, failed, activating; `since` is when it came to that, `started` when
    its main process was last started (both ISO, UTC). `enabled`: enabled, disabled, masked, masked-runtime, .."""

    active: str
    sub: str
    result: str
    since: str
    restarts: int
    enabled: str
    started: str = ""


@dataclass(frozen=True)
class Kept:
    """A container as the engine's own files have it, which can be read while the engine is down. `stopped`: somebody
    stopped it by hand, so the engine does not start it again by itself. `gone`: it is noted as running, and its process
    is not there."""

    name: str
    project: str
    service: str
    policy: str
    stopped: bool
    gone: bool = False


@dataclass(frozen=True)
class Room:
    """A file system by the first of its mount points, and what of ours lies on it: nvme, ssd, comfy, ollama, openwebui,
    outputs, models, images, docker, logs, stack, tmp, run, root. Free for those who are not root."""

    mount: str
    source: str
    fstype: str
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """A file or directory that can be removed: its path below Usage.place, and when it was last written (whole seconds
    since 1970)."""

    path: str
    bytes: int
    mtime: int


@dataclass(frozen=True)
class Usage:
    """Something that takes room. `kind`: image, build-cache, container-log, venv, partial, outputs, models, journal,
    apt, log, other; file: a large one, which may be part of another line; unread: it could not be counted, `detail`
    says why. `place` is a path, or an image's id; `disk` the Room.mount that it lies on. `remade`: it can be made again
    (pulled, built, downloaded) and nothing uses it. `complete` False: `bytes` is at least this. `names` are an
    image's references, `pieces` what of it would be removed."""

    kind: str
    name: str
    place: str
    bytes: int
    disk: str
    remade: bool
    detail: str = ""
    complete: bool = True
    names: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class FstabLine:
    """A mount that the host knows how to make: a line of /etc/fstab, or a systemd `unit` of its own. `there`: what is
    to be mounted is there (None: that cannot be told, as of a server's export). `mounted`: what is mounted at `target`
    now is that (None: nothing is, or that cannot be told)."""

    source: str
    target: str
    fstype: str
    options: str
    unit: str = ""
    there: bool | None = None
    mounted: bool | None = None
    ours: bool = False  # a unit that `invoke atlas` wrote

    @property
    def comes(self) -> bool:
        """Whether a boot mounts it, or the first use after one."""
        words = self.options.split(",")
        return bool(self.unit) or "noauto" not in words or "x-systemd.automount" in words


@dataclass(frozen=True)
class Displaced:
    """A running container of ours that has something else at `target` than what lies at `source` on the host now."""

    container: str
    source: str
    target: str
    why: str


@dataclass(frozen=True)
class Beneath:
    """What lies in a directory that should be a mount point and is not: `entries` as "NAME (uid:gid, directory)", at
    most 20 of `count`; `files` counts regular files anywhere below (bounded)."""

    path: str
    count: int
    files: int
    entries: tuple[str, ...]
    complete: bool = True


@dataclass(frozen=True)
class Memory:
    """Of the host, in MiB."""

    total_mib: int
    available_mib: int
    swap_total_mib: int
    swap_free_mib: int


@dataclass(frozen=True)
class Killed:
    """One kill by the kernel for want of memory. `container` is the name of the one whose cgroup it was, the first
    digits of its id where that is gone, "" for none. Where only the engine heard of it, `process` is "" and `pid` 0."""

    when: str
    process: str
    pid: int
    rss_mib: int
    container: str
    limit: bool  # the container's own limit, not the whole host's memory
    ago_s: int = 0  # seconds before the look; 0 also where the log gives no time


@dataclass(frozen=True)
class WebuiSettings:
    """What Open WebUI keeps in its database, which beats the environment after the first start (DOMAIN.md). None: the
    database does not say. `path` is the database on the host."""

    path: str
    bytes: int = 0
    ollama_enabled: bool | None = None
    ollama_urls: tuple[str, ...] | None = None
    ollama_off: tuple[str, ...] = ()  # those of them that are switched off one by one
    openai_enabled: bool | None = None
    openai_urls: tuple[str, ...] | None = None
    comfyui_url: str | None = None
    users: int | None = None
    revision: str | None = None  # of the schema, as Alembic notes it


@dataclass(frozen=True)
class LoginKey:
    """The key of Open WebUI's sessions. `changed_at` is when the file was written ("" when it is missing), `created_at`
    when the container was made. `in_use`: the server signs with the "same" key as the file's, an "other" one, or "none"
    (it is not running, or not that far)."""

    changed_at: str
    created_at: str
    in_use: str


@dataclass(frozen=True)
class ComfyTree:
    """ComfyUI's own directories in comfy-mnt, as the first run leaves them (procedure §7). `clone`: missing, empty,
    broken, complete, link. `venv`: missing, broken, complete, link; `*_detail` say what is wrong with them. `torch` are
    its packages by version ("torch 2.9.1+cu130"), `venv_cuda` is that of torch ("13.0"), `venv_python` its Python,
    `build_base` the image's note in it of what it was made for. `old_venvs`: directories called venv-*.
    `missing_modules`: packages that pip has a record of and whose files are gone."""

    clone: str
    venv: str
    clone_detail: str = ""
    venv_detail: str = ""
    venv_python: str | None = None
    venv_cuda: str | None = None
    torch: tuple[str, ...] = ()
    build_base: str | None = None
    old_venvs: tuple[str, ...] = ()
    missing_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of this host. `started` tells a process from a later one with its number (clock ticks since
    the boot). `state` is the kernel's letter for it (T stopped, D stuck in the kernel for as long as was looked);
    `client`: the SSH session that it serves is still there; `gone_s`: for so long it has heard nothing of its
    workstation, by its own word; `doing` the command that it runs now, secrets masked."""

    pid: int
    started: str
    state: str
    client: bool
    doing: str
    who: str = ""
    what: str = ""
    since: str = ""
    run: str = ""
    ending: bool = False
    gone_s: float | None = None


@dataclass(frozen=True)
class Loaded:
    """A model that Ollama holds in memory; sizes in MiB."""

    name: str
    size_mib: int
    vram_mib: int
    until: str


@dataclass(frozen=True)
class Busy:
    """What runs in the services now. None: the service does not answer."""

    comfy_running: int | None = None
    comfy_pending: int | None = None
    ollama: tuple[Loaded, ...] | None = None


@dataclass(frozen=True)
class Sshd:
    """sshd's settings as they are for this very login (sshd -T -C user=.., addr=..), lower-case keys. `lines` are those
    of its files that speak of forwarding, in the order in which sshd reads them; `keys` the options in the user's
    authorized_keys that do, as "FILE:LINE: options"."""

    settings: dict[str, str]
    user: str = ""
    lines: tuple[SshdLine, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dockerd:
    """The engine that runs: its command line, and the lines of its unit and drop-ins that give its API a TCP address,
    as "FILE:LINE: text"."""

    argv: tuple[str, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """`engine_log` and `kernel_log` are the lines that match symptoms.CLUES, newest last, bounded; `kernel_log` since
    the boot. `inside` are commands run in containers, by "CONTAINER what"."""

    schema: int = SCHEMA
    took_s: float = 0.0
    units: dict[str, Maybe[Unit]] = field(default_factory=dict)
    kept: Maybe[tuple[Kept, ...]] = None
    engine_log: Maybe[tuple[str, ...]] = None
    engine_config: Maybe[Command] = None  # dockerd --validate
    kernel_log: Maybe[tuple[str, ...]] = None
    killed: Maybe[tuple[Killed, ...]] = None
    memory: Maybe[Memory] = None
    installed: dict[str, Maybe[str]] = field(default_factory=dict)  # packages -> version, as dpkg has them
    reboot_required: Maybe[str] = None  # the text of /run/reboot-required
    logged_in: Maybe[tuple[str, ...]] = None  # who is at a terminal, as `who` says it
    installing: Maybe[str] = None  # the process that holds dpkg's lock
    next_module: Maybe[str] = None  # version of the driver's module that the next boot loads; None: there is none
    packages: Maybe[Packages] = None  # None: the host has no dpkg
    kernels: Maybe[Kernels] = None
    driver_offer: Maybe[Offer] = None
    engine_has_hook: Maybe[bool] = None  # whether dockerd found the toolkit's hook when it started; None: it is down
    sshd: Maybe[Sshd] = None
    dockerd: Maybe[Dockerd] = None  # None: none runs
    fstab: Maybe[tuple[FstabLine, ...]] = None
    beneath: dict[str, Maybe[Beneath]] = field(default_factory=dict)  # None: it is a mount point
    stacked: dict[str, Maybe[tuple[str, ...]]] = field(default_factory=dict)  # mounts over one another, the upper last
    touched: dict[str, Maybe[Command]] = field(default_factory=dict)  # of mounts: whether they answer; None: no mount
    displaced: Maybe[tuple[Displaced, ...]] = None
    devices: Maybe[tuple[str, ...]] = None  # disks and partitions, a line for each, as lsblk shows them
    rooms: Maybe[tuple[Room, ...]] = None
    usage: Maybe[tuple[Usage, ...]] = None  # largest first
    unfinished: Maybe[str] = None  # the last run of pantheon here, where it broke off or failed: `fix.mounts-missing`
    owed: Maybe[tuple[str, ...]] = ()  # the services which that run would have stopped, or started again
    webui: Maybe[WebuiSettings] = None
    login: Maybe[LoginKey] = None
    comfy: Maybe[ComfyTree] = None
    comfy_before: Maybe[tuple[str, ...]] = None  # last lines of ComfyUI's start before this one; None: it is the first
    others_before: dict[str, Maybe[tuple[str, ...]]] = field(default_factory=dict)  # the same of others' ComfyUIs
    overrides: dict[str, Maybe[tuple[str, ...]]] = field(default_factory=dict)  # their lines about /comfy/mnt, by path
    inside: dict[str, Maybe[Command]] = field(default_factory=dict)
    busy: Maybe[Busy] = None
    holder: Maybe[Holder] = None
    belongings: Maybe[Belongings] = None  # what a takeover asked about
    atlas: Maybe[Atlas] = None  # the NFS mounts of hosts.toml
    sources: Maybe[Sources] = None  # hosts.toml's disks
    answers: dict[str, Maybe[Http]] = field(default_factory=dict)
    # ---- for the audit alone (collect.MORE)
    addresses: Maybe[tuple[Address, ...]] = None
    sockets: Maybe[tuple[SocketUnit, ...]] = None  # those of the network that systemd holds
    datagrams: Maybe[tuple[Datagram, ...]] = None
    ssh_server: Maybe[SshServer] = None  # None: there is no sshd of OpenSSH's
    desktop: Maybe[Desktop] = None
    virtual: Maybe[Virtual] = None  # None: there is no libvirt, and no virtual machine
    cards: Maybe[Cards] = None
    cdi: Maybe[tuple[CdiSpec, ...]] = None  # in the order in which engines read them: the later wins
    accounts: Maybe[tuple[Account, ...]] = None  # those with the number 1024, and of 0 all but root
    drives: Maybe[tuple[Drive, ...]] = None  # under / and the roots of the storage model
    clock: Maybe[Clock] = None
    journal: Maybe[Journal] = None
    upgrades: Maybe[Upgrades] = None  # None: there is no apt
    custom_nodes: Maybe[tuple[CustomNode, ...]] = None  # None: ComfyUI is not there yet
    open_trees: dict[str, Maybe[OpenTree]] = field(default_factory=dict)
    secret_files: Maybe[tuple[SecretFile, ...]] = None
    namespaces: Maybe[tuple[Namespaces, ...]] = None  # of those containers that share one with the host


def parse(document: object) -> Evidence:
    """The collector's document as Evidence. Raises LookFailed with the path of what is wrong in it."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise LookFailed("the evidence on the host could not be read: it has another schema")
    found = decode(Evidence, document, "evidence")
    assert isinstance(found, Evidence)
    return found
