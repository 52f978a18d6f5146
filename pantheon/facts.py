"""What was seen on a host, typed. Every value is Known (the value itself), Absent (None) or Unknown(reason).

The probe (pantheon/probe.py) prints one JSON document; `parse` turns it into Facts. In the JSON an unknown value is
{"unknown": "reason"} and an absent one is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

SCHEMA = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """The value could not be read; `reason` says why. Never the same as absent, never fine."""

    reason: str

    def __bool__(self) -> bool:
        return False


Maybe: TypeAlias = T | None | Unknown


@dataclass(frozen=True)
class OsRelease:
    id: str
    version: str
    pretty: str
    kernel: str
    boot_id: str
    uptime_s: float
    hostname: str


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    name: str
    memory_mib: int | None
    container: str  # container name, "" when none


@dataclass(frozen=True)
class GpuDevice:
    """Memory in MiB, temperature in degrees Celsius, power in watts, utilisation in percent; None: not supported."""

    index: int
    name: str
    uuid: str
    memory_total_mib: int
    memory_used_mib: int
    memory_free_mib: int
    utilisation: int | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    ecc: str | None  # "on", "off"
    ecc_uncorrected: int | None
    event_reasons: tuple[str, ...]
    processes: tuple[GpuProcess, ...]


@dataclass(frozen=True)
class Nvml:
    driver: str  # "590.48.01"
    library: str
    cuda: str  # "13.1"
    gpus: tuple[GpuDevice, ...]


@dataclass(frozen=True)
class Command:
    """A command that was run: its exit status and its output, stdout and stderr together, bounded."""

    status: int
    output: str


@dataclass(frozen=True)
class Docker:
    client: Maybe[str]
    engine: Maybe[str]
    api: Maybe[str]
    compose: Maybe[str]
    snap: Maybe[str]  # evidence that it is the snap, None when it is not
    root: Maybe[str]
    driver: Maybe[str]
    runtimes: tuple[str, ...]
    cdi: tuple[str, ...]  # CDI specification files found
    daemon_json: Maybe[str]  # its text; None when there is no such file
    tcp: tuple[str, ...]  # TCP addresses on which the API listens, with where that is configured


@dataclass(frozen=True)
class Mount:
    target: str
    source: str
    fstype: str
    options: str


@dataclass(frozen=True)
class Space:
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int


@dataclass(frozen=True)
class Entry:
    """One path. kind: "dir", "file", "symlink", "other". `real` differs from `path` when a part of it is a symlink.
    `mount` is the mount that it lies on, `is_mount` whether it is itself a mount point."""

    path: str
    kind: str
    uid: int
    gid: int
    owner: str
    group: str
    mode: int
    real: str
    is_mount: bool
    mount: Mount | None


@dataclass(frozen=True)
class Tree:
    """A bounded look at who owns what is inside a directory, breadth first. `wrong` counts entries of another owner
    than asked for, `examples` are some of them; `complete` is False when the bound ended the look."""

    path: str
    looked: int
    complete: bool
    wrong: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class TextFile:
    """A file of ours: its hash, owner and mode; its text unless it is secret or large."""

    path: str
    sha256: str
    uid: int
    gid: int
    mode: int
    size: int
    text: str | None


@dataclass(frozen=True)
class EnvValue:
    """An environment value: `value` for names that were asked for in the clear, else None and a digest keyed with the
    look's own nonce (facts.digest). `from_image`: set so by the image itself."""

    value: str | None
    digest: str
    from_image: bool


@dataclass(frozen=True)
class ContainerMount:
    type: str  # bind, volume, tmpfs
    source: str
    target: str
    writable: bool
    name: str  # volume name


@dataclass(frozen=True)
class Port:
    container_port: str  # "8188/tcp"
    address: str  # host address, "" or "0.0.0.0" is everywhere
    port: int


@dataclass(frozen=True)
class Container:
    """One container, whoever made it. `image` is the reference it was made from, `image_id` what it runs."""

    id: str
    name: str
    image: str
    image_id: str
    state: str  # running, exited, restarting, created, paused, dead
    health: str | None  # healthy, unhealthy, starting; None without a healthcheck
    exit_code: int
    oom_killed: bool
    error: str  # the engine's own message when it could not start
    restarts: int
    started_at: str
    finished_at: str
    user: str
    ports: tuple[Port, ...]
    mounts: tuple[ContainerMount, ...]
    env: dict[str, EnvValue]
    labels: dict[str, str]
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    networks: tuple[str, ...]
    restart_policy: str
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    security_opt: tuple[str, ...]
    privileged: bool
    init: bool
    memory: int
    gpus: str  # "", "all", "count:1", "ids:0,1"
    log_driver: str
    log_options: dict[str, str]
    log: Maybe[tuple[str, ...]]  # last lines, control characters removed
    log_markers: Maybe[tuple[str, ...]]  # lines since this start that matched the patterns asked for
    log_complete: bool  # the log reaches back to the container's start
    gpu_seen: Maybe[Command]  # `nvidia-smi -L` inside, where asked for

    @property
    def project(self) -> str:
        return self.labels.get("com.docker.compose.project", "")

    @property
    def compose_files(self) -> str:
        return self.labels.get("com.docker.compose.project.config_files", "")


@dataclass(frozen=True)
class Image:
    """A local image for a reference that was asked for. None in Facts.images: not there."""

    id: str
    digests: tuple[str, ...]
    size_bytes: int
    created: str


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket. `container` is set when a container's process or Docker's proxy for it holds it."""

    address: str
    port: int
    pid: int | None
    process: str
    container: str


@dataclass(frozen=True)
class Http:
    """An answer on loopback: `status` 0 and `error` when there was none. `body` is bounded."""

    url: str
    status: int
    reason: str
    body: str
    error: str
    ms: float


@dataclass(frozen=True)
class Facts:
    """One look at one host. `took_s` is how long the probe ran there, in seconds."""

    schema: int
    nonce: str
    took_s: float
    os: Maybe[OsRelease]
    nvml: Maybe[Nvml]
    nvidia_smi: Maybe[Command]  # None: no such command
    module_version: Maybe[str]  # /sys/module/nvidia/version
    library_version: Maybe[str]  # NVML's own, from the file name of libnvidia-ml.so.1
    docker: Maybe[Docker]  # None: no docker at all
    toolkit: Maybe[str]  # NVIDIA Container Toolkit's version
    paths: dict[str, Maybe[Entry]]
    spaces: dict[str, Maybe[Space]]
    trees: dict[str, Maybe[Tree]]
    files: dict[str, Maybe[TextFile]]
    containers: Maybe[tuple[Container, ...]]
    images: dict[str, Maybe[Image]]
    listeners: Maybe[tuple[Listener, ...]]
    http: dict[str, Maybe[Http]]
    groups: dict[str, Maybe[int]]  # name -> gid
    state: Maybe[str]  # the text of what the last apply left (/var/lib/pantheon/state.json)
    mounts: Maybe[tuple[Mount, ...]]
    lock: Maybe[str]  # who holds the lock, as JSON text; None: nobody
