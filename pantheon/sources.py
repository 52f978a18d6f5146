"""The block devices of a host, and what hosts.toml's storage sources are there, typed. The host-side half is
pantheon/collecting/sources.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A block device as lsblk has it. `stable` is the name under /dev/disk/by-id that stays the same from boot to boot,
    else `path`; `fstype` "" for none that is known; `parts`: it has partitions, or is a part of something."""

    path: str
    stable: str
    bytes: int
    type: str  # disk, part, lvm, crypt, raid1, loop, ..
    fstype: str
    label: str
    uuid: str
    model: str
    mounts: tuple[str, ...]
    parts: bool
    readonly: bool


@dataclass(frozen=True)
class Sources:
    """`found`: hosts.toml's sources, by name; None for one that is not there. `devices` are all of the host's.
    `fstab` is the hash of /etc/fstab ("missing" where there is none)."""

    found: dict[str, Device | None]
    devices: tuple[Device, ...]
    fstab: str
