"""The mounts of Atlas as a host has them, typed. The host-side half is pantheon/collecting/nfs.py.

Everything here comes from files, from systemd and from bounded questions: a server that is gone leaves a reason where
an answer would be, and holds nothing up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.facts import Command, Maybe, Mount


@dataclass(frozen=True)
class UnitFile:
    """A systemd unit's file, the one that systemd goes by. `ours`: it begins as those do that pantheon writes;
    `where` is its mount point, `about` its What, Type and Options."""

    name: str
    path: str
    sha256: str
    ours: bool
    where: str
    text: str = ""
    what: str = ""
    type: str = ""
    options: str = ""


@dataclass(frozen=True)
class UnitState:
    """As `systemctl show` has it. `source` is the file that a generated unit was made from (/etc/fstab)."""

    active: str
    sub: str
    enabled: str
    result: str = ""
    reload: bool = False
    source: str = ""


@dataclass(frozen=True)
class Line:
    """A line of /etc/fstab, by its number."""

    number: int
    source: str
    fstype: str
    options: str


@dataclass(frozen=True)
class Share:
    """One mount point that hosts.toml names. `at` is what the place itself is, as a guard reads it (missing, dir 0:0
    0755, ..); "mounted" while something is mounted there, since nothing behind a mount is looked at. `rows` are the
    mounts at the place, the upper last, without the automount, which `waits` for its first use. `answers`: whether
    what is mounted answers (None: nothing is). `beneath` counts what lies in the directory while nothing is mounted.
    `failed` is why the last attempt to mount it by its unit failed, in mount's own words."""

    mount: str
    at: str
    rows: tuple[Mount, ...] = ()
    waits: bool = False
    answers: Maybe[Command] = None
    beneath: int | None = None
    lines: tuple[Line, ...] = ()
    units: tuple[UnitFile, ...] = ()
    states: dict[str, UnitState] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True)
class Tried:
    """What became of one attempt to write (mending/atlas_verify.py): as `uid`, into `mount`. `error` is errno's name,
    "" where it was written, "stuck" where there was no answer; `owner` as the server gave it back; `shares_owner` that
    of the directory itself; `left` is a file of ours that could not be removed, or may be there where it was stuck."""

    mount: str
    source: str
    uid: int
    error: str
    owner: tuple[int, ...] = ()
    shares_owner: tuple[int, ...] = ()
    left: str = ""
    at: str = ""  # when, UTC


@dataclass(frozen=True)
class Atlas:
    """`client`: mount.nfs4's path, None where NFS's programs are not installed. `autofs`: the kernel has automounts, or
    a module for them. `servers`: by name, "" for one that answers, else why not. `parents` are the directories above
    the mount points, as guards read them. `ours` are all units of pantheon's, wanted or not."""

    client: Maybe[str]
    autofs: bool
    servers: dict[str, str]
    shares: tuple[Share, ...]
    parents: dict[str, str] = field(default_factory=dict)
    ours: tuple[UnitFile, ...] = ()
    tried: tuple[Tried, ...] = ()
