"""Disks that are absent, stale, failing or read-only, and containers beside them, as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis, layout
from pantheon.evidence import Beneath, Displaced, FstabLine
from pantheon.facts import Command, Entry, Facts, Mount, Unknown
from pantheon.fixes import mounts_missing
from pantheon.incident import Case
from pantheon.inventory import AtlasMount, Host, Storage
from pantheon.plan import Guard, Mend, Run
from tests.unit.world import HOST, case, container, entry, finished, fresh, having, root

NVME, SSD = HOST.storage.nvme, HOST.storage.ssd
FSTAB = (
    FstabLine("UUID=aa", NVME, "ext4", "defaults", there=True),
    FstabLine("LABEL=ssd", SSD, "ext4", "defaults", there=True),
)
STALE = Command(1, f"stat: cannot read file system information for '{NVME}': Stale file handle")
DISPLACED = Displaced("comfy", layout.comfy_mnt(HOST), "/comfy/mnt", "it was started on another file system")


def absent(path: str = NVME, host: Host = HOST) -> Facts:
    """The mount point is a directory of the root disk, and nothing is in it."""
    facts = finished(host)
    paths: dict[str, Any] = {
        name: None if name.startswith(path + "/") else value for name, value in facts.paths.items()
    }
    return replace(facts, paths=paths | {path: entry(path)})


def made(facts: Facts, host: Host = HOST, **evidence: Any) -> Case:
    return case(facts, host=host, **({"fstab": FSTAB, "kernel_log": (), "displaced": ()} | evidence))


def commands(one: Case) -> list[str]:
    section = mounts_missing.plan(one)
    assert not section.blocked, section.blocked
    return [step.show() for change in section.changes for step in change.steps if isinstance(step, Run)]


def rejoined(one: Case) -> dict[str, Any]:
    steps = [step for change in mounts_missing.plan(one).changes for step in change.steps]
    return next((step.arguments for step in steps if isinstance(step, Mend)), {})


def blocked(one: Case) -> str:
    section = mounts_missing.plan(one)
    assert section.changes == ()
    return " ".join(f"{finding.text} {finding.evidence} {finding.mend}" for finding in section.blocked)


@pytest.mark.parametrize("facts", [finished(), fresh()], ids=["finished", "fresh"])
def test_nothing_to_say(facts: Facts) -> None:
    one = made(facts, touched={NVME: Command(0, ""), SSD: None})
    assert mounts_missing.diagnose(one) == []
    assert mounts_missing.plan(one).is_ready
    assert mounts_missing.plan(one).reason


@pytest.mark.parametrize(("disk", "path"), [("nvme", NVME), ("ssd", SSD)])
def test_absent_is_the_one_cause(disk: str, path: str) -> None:
    found = diagnosis.diagnose(made(absent(path)))
    assert [cause.finding.id for cause in found.causes] == [f"mounts-missing.{disk}"]
    assert "/etc/fstab: " in found.causes[0].finding.evidence


def odd(path: str = NVME, **changes: Any) -> Facts:
    """Neither a directory of its own nor a mount."""
    facts = absent(path)
    below = {
        name: replace(there, real=f"/srv{name}")
        for name, there in finished().paths.items()
        if name.startswith(path + "/") and isinstance(there, Entry)
    }
    linked = below if changes.get("kind") == "symlink" else {}
    return replace(facts, paths=facts.paths | linked | {path: entry(path, **changes)})


@pytest.mark.parametrize(
    ("facts", "evidence", "said"),
    [
        (odd(kind="symlink", real="/srv/nvme"), {}, "symbolic link to /srv/nvme"),
        (odd(kind="file"), {}, "it is a file"),
        (replace(finished(), paths=absent().paths | {NVME: root(NVME)}), "stacked", "over (tmpfs) lies over /dev/sda1"),
        (replace(finished(), paths=absent().paths | {NVME: root(NVME)}), "other", "/etc/fstab: UUID=aa"),
        (finished(), "stacked", "over (tmpfs) lies over /dev/sda1"),
    ],
)
def test_what_is_mounted_is_not_the_disk(facts: Facts, evidence: Any, said: str) -> None:
    """What is there is not pantheon's to take away: one cause, and the commands for a human."""
    more: dict[str, Any] = {}
    if evidence == "stacked":
        more = {"stacked": {NVME: ("/dev/sda1 (ext4)", "over (tmpfs)")}}
    if evidence == "other":
        more = {"fstab": (replace(FSTAB[0], mounted=False), FSTAB[1])}
    one = made(facts, **more)
    found = diagnosis.diagnose(one)
    assert [cause.finding.id for cause in found.causes] == ["mounts-missing.nvme"]
    assert said in found.causes[0].finding.evidence
    assert "then invoke fix.mounts-missing" in blocked(one)


def test_whoever_writes_beside_the_disk_is_named_to_be_stopped() -> None:
    """Somebody's own container among them; one that is down writes nothing."""
    theirs = replace(container(HOST, "openwebui", labels={}), name="my chats")
    facts = having(absent(SSD), openwebui=theirs, comfy=container(HOST, "comfy", state="exited"))
    said = blocked(made(facts, beneath={SSD: Beneath(SSD, 1, 3, ("ai (0:0, directory)",))}))
    assert f"sudo docker stop 'my chats' && sudo mv {SSD}" in said


def test_another_disk_that_has_our_directories_is_somebodys_choice() -> None:
    assert mounts_missing.diagnose(made(finished(), fstab=(replace(FSTAB[0], mounted=False), FSTAB[1]))) == []


def test_both() -> None:
    facts = absent(SSD)
    facts = replace(facts, paths=facts.paths | {NVME: None})
    one = made(facts)
    assert [finding.id for finding in mounts_missing.diagnose(one)] == ["mounts-missing.nvme", "mounts-missing.ssd"]
    assert commands(one) == [f"install -d -m0755 -- {NVME}", f"mount {NVME}", f"mount {SSD}"]


def test_where_mounts_are_not_demanded_a_directory_will_do() -> None:
    host = replace(HOST, storage=Storage(require_mounts=False))
    assert mounts_missing.diagnose(made(absent(host=host), host)) == []


def test_the_mount_is_guarded_and_what_it_says() -> None:
    one = made(absent())
    (step,) = mounts_missing.plan(one).changes[0].steps
    assert isinstance(step, Run)
    assert step.guards == (Guard("mount", NVME, "not a mount point"),)
    assert mounts_missing.plan(one).changes[0].what == f"mount {NVME} (UUID=aa)"


@pytest.mark.parametrize(
    ("fstab", "storage", "expected"),
    [
        ((FstabLine("UUID=aa", NVME, "ext4", "noauto"),), Storage(), f"mount {NVME}"),
        (
            (FstabLine("/dev/x", NVME, "ext4", "", unit="mnt-local-nvme.mount"),),
            Storage(),
            "systemctl start mnt-local-nvme.mount",
        ),
        ((), Storage(nvme_source="LABEL=my nvme"), f"mount 'LABEL=my nvme' {NVME}"),
        (
            (FstabLine("UUID=aa", "/mnt/local/nvme2", "ext4", ""),),
            Storage(nvme_source="/dev/n"),
            f"mount /dev/n {NVME}",
        ),
    ],
)
def test_how_it_is_mounted(fstab: tuple[FstabLine, ...], storage: Storage, expected: str) -> None:
    host = replace(HOST, storage=storage)
    one = made(absent(host=host), host, fstab=fstab)
    assert commands(one) == [expected]
    kept = [
        step for step in mounts_missing.plan(one).changes[0].steps if isinstance(step, Mend) and step.name == "fstab"
    ]
    assert len(kept) == (1 if storage.nvme_source else 0), "what is mounted by hand is gone after a reboot"


def test_nobody_knows_what_is_to_be_mounted() -> None:
    said = blocked(made(absent(), fstab=(), devices=("nvme0n1p1 1.8T part ext4 nvme",)))
    assert "nvme0n1p1 1.8T part ext4 nvme" in said
    assert "storage.nvme_source" in said


def test_the_device_is_not_there() -> None:
    line = replace(FSTAB[0], there=False)
    assert "UUID=aa, which is to be mounted at /mnt/local/nvme, is not there" in blocked(made(absent(), fstab=(line,)))


def test_empty_directories_are_mounted_over() -> None:
    beneath = {NVME: Beneath(NVME, 1, 0, ("ai (0:0, directory)",))}
    one = made(absent(), beneath=beneath)
    assert (
        "empty directories that Docker or somebody made (ai (0:0, directory))"
        in mounts_missing.diagnose(one)[0].evidence
    )
    assert "stay, out of sight" in mounts_missing.plan(one).changes[0].why
    assert commands(one) == [f"mount {NVME}"]


@pytest.mark.parametrize(
    "found",
    [
        Beneath(SSD, 1, 3, ("ai (0:0, directory)",)),
        Beneath(SSD, 1, 0, ("ai (0:0, directory)",), complete=False),
        Unknown("no answer within 5 s"),
    ],
    ids=["files", "not all seen", "not known"],
)
def test_files_in_its_place_are_never_hidden(found: Any) -> None:
    said = blocked(made(absent(SSD), beneath={SSD: found}))
    assert SSD in said
    if isinstance(found, Beneath) and found.files:
        assert "sudo docker stop comfy openwebui && sudo mv /mnt/local/ssd /mnt/local/ssd.on-the-root-disk" in said


def test_what_was_written_there_explains_a_full_root_disk() -> None:
    (finding,) = mounts_missing.diagnose(made(absent(SSD), beneath={SSD: Beneath(SSD, 1, 3, ())}))
    assert "disk-pressure.root" in finding.explains
    (finding,) = mounts_missing.diagnose(made(absent(SSD)))
    assert "disk-pressure.root" not in finding.explains


def test_who_is_restarted_and_who_started() -> None:
    down = container(HOST, "comfy", state="exited", exit_code=127, health=None)
    one = made(having(absent(SSD), comfy=down))
    assert rejoined(one) == {"restart": ["openwebui"], "start": ["comfy"], "disks": [SSD, NVME]}
    section = mounts_missing.plan(one)
    assert section.starts == ("comfy",)
    assert section.changes[-1].stops == ("openwebui",)


def test_somebody_elses_container_is_left_alone() -> None:
    other = replace(container(HOST, "comfy"), name="hand", labels={})
    assert "hand" not in str(rejoined(made(having(absent(), hand=other))))


@pytest.mark.parametrize(
    "error",
    [
        "error during container init: failed to fulfil mount request: open /mnt/local/nvme/ai/models: no such file",
        'invalid mount config for type "bind": bind source path does not exist: /mnt/local/nvme/ai/models',
        'error mounting "/mnt/local/nvme/ai/models" to rootfs at "/models": no such file or directory',
    ],
)
def test_what_could_not_start_while_the_disk_was_away(error: str) -> None:
    down = container(HOST, "comfy", state="exited", exit_code=127, health=None, error=error)
    one = made(having(finished(), comfy=down))
    assert [finding.id for finding in mounts_missing.diagnose(one)] == ["mounts-missing.not-started-comfy"]
    assert rejoined(one)["start"] == ["comfy"]
    gone = replace(one.facts, paths=one.facts.paths | {layout.models(HOST): None})
    assert mounts_missing.diagnose(made(gone)) == [], "the directory is missing: another matter"


@pytest.mark.parametrize(("last", "count"), [("fix.mounts-missing", 1), ("bringup", 0), (None, 0), (Unknown("?"), 0)])
def test_a_run_that_broke_off_is_finished(last: Any, count: int) -> None:
    down = container(HOST, "comfy", state="exited", exit_code=143, health=None)
    one = made(having(finished(), comfy=down), unfinished=last)
    assert len(mounts_missing.diagnose(one)) == count
    assert rejoined(one).get("start", []) == ["comfy"] * count


def test_a_container_beside_its_disk() -> None:
    one = made(finished(), displaced=(DISPLACED, replace(DISPLACED, container="hand")))
    assert [finding.id for finding in mounts_missing.diagnose(one)] == ["mounts-missing.displaced-comfy"]
    assert rejoined(one)["restart"] == ["comfy"]
    assert mounts_missing.plan(one).changes[0].stops == ("comfy",)


def test_while_a_disk_is_away_every_container_on_it_looks_displaced() -> None:
    findings = mounts_missing.diagnose(made(absent(), displaced=(DISPLACED,)))
    assert [finding.id for finding in findings] == ["mounts-missing.nvme"]


# ---- a disk that went away under its mount


@pytest.mark.parametrize(
    ("value", "touched"),
    [
        (Unknown(f"Stale file handle: {NVME}"), None),
        (Unknown(f"no answer within 5 s ({NVME})"), None),
        (root(NVME), STALE),
        (root(NVME), Command(1, f"find: '{NVME}': Transport endpoint is not connected")),
        (root(NVME), Unknown("no answer within 2 s (stat -f)")),
    ],
)
def test_stale(value: Any, touched: Any) -> None:
    facts = finished()
    one = made(replace(facts, paths=facts.paths | {NVME: value}), touched={NVME: touched})
    (finding,) = mounts_missing.diagnose(one)
    assert finding.text == f"{NVME} has lost its disk: the mount is stale"
    assert commands(one) == [f"umount -l {NVME}", f"mount {NVME}"]
    assert rejoined(one)["restart"] == ["comfy", "ollama"]


@pytest.mark.parametrize("reason", ["Permission denied", "leads to the network mount /mnt (nfs4): not looked at"])
def test_what_is_not_known_is_the_sections_matter(reason: str) -> None:
    facts = finished()
    one = made(replace(facts, paths=facts.paths | {NVME: Unknown(reason)}))
    assert mounts_missing.diagnose(one) == []
    assert mounts_missing.plan(one).is_ready


def test_a_disk_that_fails_is_for_a_human() -> None:
    said = blocked(made(finished(), touched={NVME: Command(1, f"find: '{NVME}': Input/output error")}))
    assert "may be failing" in said
    assert "fsck" in said


def read_only(options: str = "ro,relatime") -> Facts:
    facts = finished()
    mount = Mount(NVME, "/dev/nvme0n1p1", "ext4", options)
    return replace(facts, paths=facts.paths | {NVME: replace(root(NVME), mount=mount)})


def test_read_only() -> None:
    assert commands(made(read_only())) == [f"mount -o remount,rw {NVME}"]
    errors = "2026-11-21T10:00:00Z EXT4-fs (nvme0n1p1): Remounting filesystem read-only"
    assert errors in blocked(made(read_only(), kernel_log=(errors,)))
    assert "may be failing" in blocked(made(read_only(), kernel_log=Unknown("denied")))


def test_read_only_as_fstab_wants_it() -> None:
    assert mounts_missing.diagnose(made(read_only(), fstab=(replace(FSTAB[0], options="ro,noatime"),))) == []


# ---- Atlas

ATLAS = replace(HOST, atlas=(AtlasMount("atlas:/appdata", "/mnt/atlas/app data", "rw"),))


def test_an_atlas_mount_is_a_warning() -> None:
    one = made(finished(ATLAS), ATLAS)
    (finding,) = mounts_missing.diagnose(one)
    assert finding.level == "warn"
    assert finding.mend == "invoke atlas --host prometheus"
    assert commands(one) == []
    assert diagnosis.diagnose(one).is_good


def test_one_that_fstab_knows_is_mounted() -> None:
    line = FstabLine("atlas:/appdata", "/mnt/atlas/app data", "nfs4", "rw")
    one = made(finished(ATLAS), ATLAS, fstab=(*FSTAB, line))
    assert commands(one) == ["mount '/mnt/atlas/app data'"]
    assert mounts_missing.diagnose(one)[0].mend.startswith("invoke fix.mounts-missing")


def test_one_that_pantheon_has_set_up_is_left_to_its_own_command() -> None:
    unit = FstabLine("atlas:/appdata", "/mnt/atlas/app data", "nfs4", "rw", unit="x.mount", ours=True)
    one = made(finished(ATLAS), ATLAS, fstab=(*FSTAB, unit))
    assert mounts_missing.diagnose(one)[0].mend == "invoke atlas --host prometheus"
    assert commands(one) == []


@pytest.mark.parametrize(
    ("fstype", "touched", "count"),
    [
        ("nfs4", Command(0, ""), 0),
        ("autofs", None, 0),
        ("nfs4", STALE, 1),
        ("nfs4", Unknown("no answer within 2 s"), 1),
    ],
)
def test_an_atlas_mount_that_is_there(fstype: str, touched: Any, count: int) -> None:
    facts = replace(finished(ATLAS), mounts=(Mount("/mnt/atlas/app data", "atlas:/appdata", fstype, "rw"),))
    findings = mounts_missing.diagnose(made(facts, ATLAS, touched={"/mnt/atlas/app data": touched}))
    assert len(findings) == count
