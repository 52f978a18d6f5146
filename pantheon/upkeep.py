"""What the controls of good practice are judged on beyond a look, typed: a part of evidence.Evidence.

Gathered on the host by pantheon/collecting/{upkeep,exposure,nodes}.py. A value is Known, Absent (None) or
Unknown(reason).
"""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.facts import Maybe


@dataclass(frozen=True)
class Clock:
    """`synchronised` by the kernel's own word; `services` are those active units that keep the time; `container` is
    what kind of container the host itself is, "" for a machine with a clock of its own."""

    synchronised: bool
    services: tuple[str, ...]
    container: str = ""


@dataclass(frozen=True)
class Journal:
    """journald's bound as its files give it: `most` is SystemMaxUse as written ("" is journald's own default), `at`
    the file that says so, `storage_at` the one that says `storage`; `total_bytes` is the size of the file system that
    the journal lies on."""

    most: str
    at: str
    storage: str
    total_bytes: int
    storage_at: str = ""


@dataclass(frozen=True)
class Upgrades:
    """What apt does by itself. `runs`: unattended-upgrades is there and switched on, its timer too; `origins` and
    `blacklist` are its patterns, as apt-config has them. `held` are packages that dpkg keeps as they are, `ours` those
    installed that a running stack depends on."""

    runs: bool
    origins: tuple[str, ...]
    blacklist: tuple[str, ...]
    held: tuple[str, ...]
    ours: tuple[str, ...]


@dataclass(frozen=True)
class CustomNode:
    """A directory in ComfyUI's custom_nodes. `branch` is the one it is checked out on ("" for a commit of its own, and
    for what is no git checkout), `commit` the commit, `changed` how many of its files differ from that (None: that
    cannot be told), `version` what its pyproject.toml says."""

    name: str
    git: bool
    branch: str = ""
    commit: str = ""
    changed: Maybe[int] = None
    version: str = ""


@dataclass(frozen=True)
class OpenTree:
    """What everybody may write beneath `path`, as "PATH (mode)": at most 10 of `count`, of `looked` entries. A
    directory with the sticky bit counts as closed."""

    path: str
    looked: int
    complete: bool
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class SecretFile:
    """A file that holds something secret. `kind`: stack, token, host key. `to_all`: every user of the host can read it
    where it lies."""

    path: str
    kind: str
    uid: int
    gid: int
    mode: int
    to_all: bool


@dataclass(frozen=True)
class Namespaces:
    """Which of the host's own namespaces a container shares, out of network, pid, ipc, uts, user; and host devices
    that it was given."""

    name: str
    shares: tuple[str, ...]
    devices: tuple[str, ...] = ()
