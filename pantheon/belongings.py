"""What a takeover needs to know beyond a look, typed: how large things are, whose, and whether they fit. The host-side
half is pantheon/collecting/belongings.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.facts import Maybe


@dataclass(frozen=True)
class Place:
    """A path on the host, counted. `kind`: dir, file, symlink, other, "" for none; `real` is where it leads. `reading`
    is what a guard of the kind "path" reads there. Bytes are those on the disk; `complete` False: at least this.
    `entries` are the first names in a directory, `owners` how many entries of each "uid:gid" are below it, the
    directory itself included. `disk` and `free_bytes` are of the file system that it lies on, or would be made on;
    `staged_bytes` lie in an unfinished copy beside it."""

    path: str
    kind: str
    real: str
    reading: str
    bytes: int = 0
    complete: bool = True
    entries: tuple[str, ...] = ()
    owners: dict[str, int] = field(default_factory=dict)
    disk: str = ""
    free_bytes: int = 0
    is_mount: bool = False
    staged_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing there that a copy would have to replace."""
        return not self.kind or (self.kind == "dir" and not self.entries)


@dataclass(frozen=True)
class Layer:
    """A container's own layer: its size in bytes, and which of the paths that were asked about are there, as the
    container sees them ("dir" or "other" by path)."""

    bytes: int
    there: dict[str, str]


@dataclass(frozen=True)
class Volume:
    """`plain`: its files lie at `mountpoint` whether it is in use or not; a driver, or an option such as an NFS server,
    may mount them there only while a container runs. `device` is the directory of the host that it is another name for
    (`driver_opts: {o: bind}`), "" for one of its own."""

    mountpoint: str
    plain: bool
    device: str = ""


@dataclass(frozen=True)
class Belongings:
    """By path, by container id, by volume name; `copied` are the targets of finished copies, each with its sources as
    "PATH" or "container:ID:PATH"; `units` are service files of systemd that start what is taken over."""

    places: dict[str, Maybe[Place]] = field(default_factory=dict)
    layers: dict[str, Maybe[Layer]] = field(default_factory=dict)
    volumes: dict[str, Maybe[Volume]] = field(default_factory=dict)
    copied: dict[str, tuple[str, ...]] = field(default_factory=dict)
    units: tuple[str, ...] = ()
