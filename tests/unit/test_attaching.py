"""The disks that hosts.toml names: mounted where there is a file system, and nothing ever formatted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import attaching
from pantheon.evidence import Beneath, Evidence, FstabLine
from pantheon.facts import Facts, Unknown
from pantheon.inventory import Host, Storage
from pantheon.plan import Mend, Run
from pantheon.sections import storage
from pantheon.sources import Device, Sources
from tests.unit.world import HOST, entry, finished, fresh

NVME, SSD = "/mnt/local/nvme", "/mnt/local/ssd"
WANTED = replace(HOST, storage=Storage(nvme_source="LABEL=nvme", ssd_source="UUID=bb"))
BY_ID = "/dev/disk/by-id/nvme-Samsung_990_S1"
N1 = Device("/dev/nvme0n1p1", f"{BY_ID}-part1", 1 << 40, "part", "ext4", "nvme", "aa", "", (), False, False)
S1 = Device("/dev/sda1", "/dev/sda1", 1 << 39, "part", "xfs", "", "bb", "Crucial", (), False, False)
EMPTY = Device("/dev/nvme1n1", BY_ID, 1 << 40, "disk", "", "", "", "Samsung 990", (), False, False)
OTHER = replace(EMPTY, path="/dev/sdc", stable="/dev/sdc", model="")
SYSTEM = Device("/dev/nvme2n1", "/dev/nvme2n1", 1 << 38, "disk", "gpt partition table", "", "", "", (), True, False)


def rebuilt(*paths: str, gone: bool = False) -> Facts:
    """A host where those roots are directories of the root disk, or not there at all."""
    facts = fresh(WANTED)
    return replace(facts, paths=facts.paths | {path: None if gone else entry(path) for path in paths})


def seen(nvme: Device | None = N1, ssd: Device | None = S1, *more: Device, **evidence: Any) -> Evidence:
    devices = tuple(one for one in (nvme, ssd, *more) if one)
    found = Sources({"LABEL=nvme": nvme, "UUID=bb": ssd}, devices, "hash of fstab")
    return Evidence(**{"sources": found, "fstab": (), **evidence})


def said(evidence: Evidence, *, host: Host = WANTED, facts: Facts | None = None) -> str:
    """What blocks, in words."""
    section = attaching.plan(host, facts or rebuilt(NVME), evidence)
    assert section.blocked
    assert not section.changes
    return " ".join(f"{one.text} | {one.evidence} | {one.mend}" for one in section.blocked)


def shown(evidence: Evidence, facts: Facts) -> list[str]:
    section = attaching.plan(WANTED, facts, evidence)
    assert not section.blocked, section.blocked
    return [step.show() for change in section.changes for step in change.steps if isinstance(step, Run)]


@pytest.mark.parametrize(
    ("host", "facts", "count"),
    [
        (HOST, rebuilt(NVME, SSD), 0),
        (WANTED, rebuilt(NVME, SSD), 2),
        (WANTED, rebuilt(NVME, SSD, gone=True), 2),
        (WANTED, finished(WANTED), 0),
        (WANTED, replace(rebuilt(), paths=rebuilt().paths | {NVME: Unknown("?")}), 0),
        (WANTED, replace(rebuilt(), paths=rebuilt().paths | {NVME: entry(NVME, kind="symlink", real="/x")}), 0),
    ],
    ids=["no source named", "both", "not even directories", "mounted", "not known", "a link"],
)
def test_what_is_to_be_mounted(host: Host, facts: Facts, count: int) -> None:
    assert len(storage.to_mount(host, facts)) == count


def test_both_disks_of_a_rebuilt_host() -> None:
    facts = rebuilt(NVME, SSD, gone=True)
    assert shown(seen(), facts) == [
        f"install -d -m0755 -o0 -g0 -- {NVME}",
        f"install -d -m0755 -o0 -g0 -- {SSD}",
        f"mount {NVME}",
        f"mount {SSD}",
    ]
    first = attaching.plan(WANTED, facts, seen()).changes[0]
    assert [type(step) for step in first.steps] == [Run, Run, Mend], "findmnt finds fault with a line without its place"
    (mend,) = [s for c in attaching.plan(WANTED, facts, seen()).changes for s in c.steps if isinstance(s, Mend)]
    assert mend.arguments == {
        "lines": [
            f"LABEL=nvme {NVME} ext4 defaults,nofail,x-systemd.device-timeout=30s 0 2",
            f"UUID=bb {SSD} xfs defaults,nofail,x-systemd.device-timeout=30s 0 0",
        ],
        "sha256": "hash of fstab",
    }


def test_fields_of_fstab() -> None:
    text = attaching.line("LABEL=my disk", "/mnt/a b\\c", "ext4")
    assert text.split() == ["LABEL=my\\040disk", "/mnt/a\\040b\\134c", "ext4", text.split()[3], "0", "2"]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (FstabLine("UUID=aa", NVME, "ext4", "noauto"), f"mount {NVME}"),
        (FstabLine("/dev/disk/by-label/nvme", NVME, "ext4", ""), f"mount {NVME}"),
        (FstabLine("LABEL=nvme", NVME, "ext4", "", unit="x.mount"), "systemctl start x.mount"),
    ],
)
def test_a_line_that_is_there_is_gone_by(line: FstabLine, argv: str) -> None:
    assert shown(seen(fstab=(line,)), rebuilt(NVME)) == [argv]
    section = attaching.plan(WANTED, rebuilt(NVME), seen(fstab=(line,)))
    assert not [s for c in section.changes for s in c.steps if isinstance(s, Mend)]


def test_a_line_that_says_something_else_is_respected() -> None:
    text = said(seen(fstab=(FstabLine("/dev/sdz1", NVME, "ext4", ""),)))
    assert f"{NVME}: /etc/fstab has /dev/sdz1, hosts.toml LABEL=nvme" in text


def test_the_command_to_make_a_file_system_names_the_very_disk() -> None:
    text = said(seen(replace(N1, fstype="", label="")))
    assert f"sudo mkfs.ext4 -L nvme {BY_ID}-part1" in text
    assert "THIS ERASES" in text
    assert "/dev/nvme1n1" not in text


def test_several_disks_that_might_be_meant_are_listed() -> None:
    text = said(seen(None, S1, EMPTY, OTHER, SYSTEM))
    assert "LABEL=nvme, which hosts.toml names for /mnt/local/nvme, is not there" in text
    assert f"mkfs.ext4 -L nvme {BY_ID}  # /dev/nvme1n1 1024.0 GiB Samsung 990" in text
    assert "mkfs.ext4 -L nvme /dev/sdc " in text
    assert "mkfs.ext4 -L nvme /dev/nvme2n1" not in text, "it has partitions"
    assert "mkfs.ext4 -L nvme /dev/sda1" not in text, "it has a file system"


def test_a_uuid_is_known_only_afterwards() -> None:
    host = replace(WANTED, storage=Storage(nvme_source="UUID=cc"))
    evidence = Evidence(sources=Sources({"UUID=cc": None}, (EMPTY,), "h"), fstab=())
    assert 'storage.nvme_source = "UUID=.."' in said(evidence, host=host)


def test_nothing_that_could_be_meant() -> None:
    assert "is the disk connected" in said(seen(None))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (replace(N1, mounts=("/mnt/old",)), "is mounted at /mnt/old, not at /mnt/local/nvme"),
        (replace(N1, fstype="crypto_LUKS"), "is crypto_LUKS, not a file system"),
        (replace(N1, fstype="swap"), "is swap, not a file system"),
        (replace(N1, fstype="gpt partition table"), "not a file system"),
        (replace(N1, fstype="unknown"), "not a file system"),
    ],
)
def test_what_is_not_touched(device: Device, expected: str) -> None:
    text = said(seen(device))
    assert expected in text
    assert "mkfs" not in text


def test_a_name_that_two_disks_have_is_none() -> None:
    twin = replace(N1, path="/dev/sdd1", stable="/dev/sdd1", uuid="cc")
    text = said(seen(N1, S1, twin))
    assert "LABEL=nvme, which hosts.toml names for /mnt/local/nvme, is more than one disk" in text
    assert "UUID cc" in text
    assert "mkfs" not in text
    assert "more than one disk" in said(seen(N1, S1, replace(S1, path="/dev/sdd1")), facts=rebuilt(SSD)), "a clone"
    for fine in (replace(twin, fstype="linux_raid_member"), replace(twin, label="NVME")):
        assert shown(seen(N1, S1, fine), rebuilt(NVME))
    pool = replace(N1, fstype="btrfs")
    assert shown(seen(pool, S1, replace(pool, path="/dev/sdd1")), rebuilt(NVME))


def test_the_type_that_hosts_toml_demands() -> None:
    host = replace(WANTED, storage=replace(WANTED.storage, nvme_fstype="xfs"))
    assert "is ext4, and hosts.toml wants xfs" in said(seen(), host=host)


@pytest.mark.parametrize(
    ("beneath", "is_blocked"),
    [
        (Beneath(NVME, 1, 0, ("ai (0:0, directory)",)), False),
        (Beneath(NVME, 1, 2, ("ai (0:0, directory)",)), True),
        (Beneath(NVME, 1, 0, (), complete=False), True),
        (Unknown("no answer"), True),
    ],
)
def test_files_are_never_hidden(beneath: Any, is_blocked: bool) -> None:
    section = attaching.plan(WANTED, rebuilt(NVME), seen(beneath={NVME: beneath}))
    assert bool(section.blocked) == is_blocked


@pytest.mark.parametrize("evidence", [Evidence(sources=Unknown("lsblk hung")), seen(fstab=Unknown("denied"))])
def test_what_is_not_known_is_not_guessed(evidence: Evidence) -> None:
    assert attaching.plan(WANTED, rebuilt(NVME), evidence).blocked[0].level == "unknown"
