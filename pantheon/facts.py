"""What was seen on a host, typed. Every value is Known (the value itself), Absent (None) or Unknown(reason).

questions.py says what a look asks, the probe (pantheon/probe.py) answers with one JSON document, and `parse` turns that
into Facts. In the JSON an unknown value is {"unknown": "reason"} and an absent one is null.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import TypeAlias, TypeVar, Union

from pantheon.errors import LookFailed
from pantheon.looks.text import keyed_digest
from pantheon.questions import SCHEMA

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """The value could not be read; `reason` says why. Never the same as absent, never fine."""

    reason: str

    def __bool__(self) -> bool:
        return False


Maybe: TypeAlias = T | Unknown | None


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
    runtimes: tuple[str, ...]  # empty as well while `root` is Unknown: the engine did not say
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
    than asked for, `examples` are some of them as "PATH (uid:gid)"; `complete` is False when the bound (20,000 entries
    or 0.4 s) ended the look or a directory could not be read."""

    path: str
    looked: int
    complete: bool
    wrong: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class TextFile:
    """A file of ours: its hash, owner and mode; its text unless it is secret or larger than 256 KiB. Of a secret file
    `sha256` is "" and `digest` is keyed with the look's own nonce: compare it with `digest(nonce, text)`."""

    path: str
    sha256: str
    uid: int
    gid: int
    mode: int
    size: int
    text: str | None
    digest: str = ""


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
    """One container, whoever made it. `image` is the reference it was made from, `image_id` what it runs. `unread` says
    why it could not be inspected ("" when it was): then only id, name, image, state, ports, mounts, labels and networks
    are facts. Secrets in command, labels and log lines read ***. Capabilities come without CAP_."""

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
    gpu_seen: Maybe[Command]  # `nvidia-smi -L` inside; None: not asked; Unknown when it is not running
    unread: str = ""
    auto_remove: bool = False  # `docker run --rm`: it vanishes when it stops, and what lies in it with it
    restart_retries: int = 0  # of the policy on-failure; 0: no end
    network_mode: str = ""  # "container:ID" where it uses another one's network
    workdir: str = ""
    settings: tuple[str, ...] = ()  # what else it was given, in words: "ipc host"

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
    user: str = ""  # as whom it starts unless told otherwise; empty for root
    command: tuple[str, ...] = ()  # secrets masked, as in a Container
    entrypoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket. `container` is set when a container's process or Docker's proxy for it holds it. `unit`
    is the service of systemd that runs it, `user` the uid whose service or session that is ("": the system's)."""

    address: str
    port: int
    pid: int | None
    process: str
    container: str
    unit: str = ""
    user: str = ""


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
    hook: Maybe[str] = None  # where dockerd would find nvidia-container-runtime-hook on PATH; None: nowhere

    def partly_seen(self, path: str) -> bool:
        """Whether of that tree only the beginning was looked at, with nothing wrong in it: it is too large."""
        tree = self.trees.get(path)
        return isinstance(tree, Tree) and not tree.complete and not tree.wrong

    def container(self, name: str) -> Maybe[Container]:
        """The container of that name; None when there is none, Unknown when the containers are."""
        if not isinstance(self.containers, tuple):
            return self.containers
        return next((container for container in self.containers if container.name == name), None)

    def reading(self, kind: str, target: str) -> str:
        """What probe.reading gives on the host now, from what was looked at: for plan.Guard. Raises LookFailed when the
        look did not ask about `target` or could not read it: nothing can be planned on that."""
        if kind == "path":
            return self._path_reading(self._known(self.paths, kind, target))
        if kind == "mount":
            entry = self._known(self.paths, kind, target)
            at = entry.mount if entry and entry.is_mount else None
            return f"{at.source} {at.fstype}" if at else "not a mount point"
        if kind == "sha256":
            file = self._known(self.files, kind, target)
            if file and not file.sha256:
                raise LookFailed(f"{target} is secret: its hash is not looked at")
            return file.sha256 if file else "missing"
        if kind == "container":
            container = self._known({target: self.container(target)}, kind, target)
            return container.id if container else "missing"
        if kind == "image":
            image = self._known(self.images, kind, target)
            return image.id if image else "missing"
        raise LookFailed(f"no such kind of reading: {kind}")

    @staticmethod
    def _known(values: dict[str, Maybe[T]], kind: str, target: str) -> T | None:
        if target not in values:
            raise LookFailed(f"the look did not ask about {kind} {target}")
        value = values[target]
        if isinstance(value, Unknown):
            raise LookFailed(f"{kind} {target} is not known: {value.reason}")
        return value

    @staticmethod
    def _path_reading(entry: Entry | None) -> str:
        if entry is None:
            return "missing"
        if entry.kind == "symlink":
            return f"symlink -> {entry.real}"
        if entry.real != entry.path:
            return f"elsewhere: {entry.real}"
        return f"{entry.kind} {entry.uid}:{entry.gid} {entry.mode:04o}"


def digest(nonce: str, value: str) -> str:
    """What the probe gives for an environment value or a secret file's text: HMAC-SHA256 keyed with the look's nonce,
    16 hex digits."""
    return keyed_digest(nonce, value.encode("utf-8", "surrogatepass"))


def parse(document: object) -> Facts:
    """The probe's document as Facts. Raises LookFailed with the path of what is wrong in it, or when the document is of
    another schema (a pantheon of another version is at work)."""
    if not isinstance(document, dict):
        raise LookFailed(f"the probe's answer is {_describe(document)}, not a document")
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise LookFailed("the probe's answer does not say its schema")
    if schema != SCHEMA:
        older = "this pantheon is older than" if schema > SCHEMA else "this pantheon is newer than"
        raise LookFailed(
            f"the probe's answer has schema {schema}, this pantheon reads {SCHEMA}: {older} the probe that answered",
            next_commands=["make setup"] if schema > SCHEMA else [],
        )
    facts = _decoder(Facts)(document, "facts")
    assert isinstance(facts, Facts)
    return facts


def decode(kind: type, document: object, path: str) -> object:
    """JSON data as the dataclass `kind`. Raises LookFailed with the path, from `path` on, of what does not fit."""
    return _decoder(kind)(document, path)


def to_data(value: object) -> object:
    """Facts, or any part of them, as JSON-ready data: `parse(to_data(facts)) == facts`."""
    if isinstance(value, Unknown):
        return {"unknown": value.reason}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_data(item) for key, item in value.items()}
    return value


Decode: TypeAlias = Callable[[object, str], object]


@cache
def _decoder(hint: object) -> Decode:
    """How data of the type `hint` is read: made once per type from the annotations above."""
    if isinstance(hint, type) and is_dataclass(hint):
        return _of_dataclass(hint)
    if hint in (str, int, float, bool):
        return _of_scalar(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _of_tuple(_decoder(arguments[0]))
    if origin is dict:
        return _of_dict(_decoder(arguments[1]))
    if origin in (Union, types.UnionType):
        others = [argument for argument in arguments if argument not in (Unknown, types.NoneType)]
        return _of_maybe(_decoder(others[0]), none=types.NoneType in arguments, unknown=Unknown in arguments)
    raise TypeError(f"facts of type {hint} cannot be read")


def _of_scalar(kind: type) -> Decode:
    def decode(data: object, path: str) -> object:
        if type(data) is kind:
            return data
        if kind is float and type(data) is int:
            return float(data)
        raise _wrong(path, kind.__name__, data)

    return decode


def _of_tuple(item: Decode) -> Decode:
    def decode(data: object, path: str) -> object:
        if not isinstance(data, list):
            raise _wrong(path, "list", data)
        return tuple(item(value, f"{path}[{index}]") for index, value in enumerate(data))

    return decode


def _of_dict(item: Decode) -> Decode:
    def decode(data: object, path: str) -> object:
        if not isinstance(data, dict):
            raise _wrong(path, "object", data)
        return {str(key): item(value, f"{path}[{str(key)!r}]") for key, value in data.items()}

    return decode


def _of_maybe(known: Decode, *, none: bool, unknown: bool) -> Decode:
    def decode(data: object, path: str) -> object:
        if data is None and none:
            return None
        if unknown and isinstance(data, dict) and data.keys() == {"unknown"}:
            if not isinstance(data["unknown"], str):
                raise _wrong(f"{path}.unknown", "str", data["unknown"])
            return Unknown(data["unknown"])
        return known(data, path)

    return decode


def _of_dataclass(kind: type) -> Decode:
    hints = typing.get_type_hints(kind)
    decoders: dict[str, Decode] = {}
    optional = {
        field.name for field in fields(kind) if field.default is not MISSING or field.default_factory is not MISSING
    }

    def decode(data: object, path: str) -> object:
        if not decoders:
            decoders.update({field.name: _decoder(hints[field.name]) for field in fields(kind)})
        if not isinstance(data, dict):
            raise _wrong(path, kind.__name__, data)
        for name in data.keys() - decoders.keys():
            raise LookFailed(f"the probe's answer is not as expected: {path}.{name}: nothing of that name is known")
        for name in decoders.keys() - data.keys() - optional:
            raise LookFailed(f"the probe's answer is not as expected: {path}.{name} is not there")
        return kind(**{name: decoders[name](value, f"{path}.{name}") for name, value in data.items()})

    return decode


def _wrong(path: str, wanted: str, data: object) -> LookFailed:
    return LookFailed(f"the probe's answer is not as expected: {path}: {_describe(data)} where {wanted} belongs")


def _describe(data: object) -> str:
    text = repr(data)
    return f"{type(data).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"
