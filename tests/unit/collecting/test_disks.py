"""fstab and mount units, what lies where a mount is missing, mounts that do not answer, containers beside them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import disks, history
from pantheon.evidence import Beneath, Displaced, FstabLine, parse
from pantheon.looks import work
from pantheon.looks.text import Unread, unit_name
from tests.unit.looks.fakes import FakeDocker, FakeHost

NVME, SSD = "/mnt/local/nvme", "/mnt/local/ssd"
# A command that does not end is killed and not waited for: it may be stuck in the kernel.
LEFT_BEHIND = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")


def lines(host: FakeHost, **spec: Any) -> list[FstabLine]:
    found = parse({"schema": 1, "fstab": disks.fstab(spec, str(host.root))}).fstab
    assert isinstance(found, tuple)
    return list(found)


def test_mounts_over_one_another(host: FakeHost) -> None:
    one, two = "36 25 259:1 / /mnt/local/nvme rw - ext4 /dev/sda1 rw", "37 36 0:50 / /mnt/local/nvme rw - tmpfs over rw"
    ssd = "38 25 259:2 / /mnt/local/ssd rw,relatime shared:1 - ext4 /dev/sdb1 rw"
    host.write("/proc/self/mountinfo", "\n".join([one, two, ssd, ssd, "nonsense", ""]))
    spec = {"stacked": ["/mnt/local/nvme", "/mnt/local/ssd", "/mnt/none"]}
    assert disks.stacked(spec, str(host.root)) == {
        "/mnt/local/nvme": ["/dev/sda1 (ext4)", "over (tmpfs)"],
        "/mnt/local/ssd": None,
        "/mnt/none": None,
    }


@pytest.mark.parametrize(
    ("source", "fstype", "options", "mounted"),
    [
        ("UUID=aa", "ext4", "defaults", None),  # it is not there
        ("/dev/null", "ext4", "defaults", True),
        ("/dev/zero", "ext4", "defaults", False),
        ("/srv/a", "none", "bind", False),
        ("/mnt/local/nvme", "none", "bind,ro", True),
        ("atlas:/x", "nfs4", "defaults", None),
    ],
)
def test_whether_a_line_is_what_is_mounted(
    host: FakeHost, source: str, fstype: str, options: str, mounted: bool | None
) -> None:
    host.at("/dev").mkdir(exist_ok=True)
    for name in ("null", "zero"):
        host.at(f"/dev/{name}").symlink_to(f"/dev/{name}")
    host.at("/srv/a").mkdir(parents=True)
    host.at("/mnt/local/nvme").mkdir(parents=True)
    root = "25 1 8:1 / / rw - ext4 /dev/root rw"
    host.write("/proc/self/mountinfo", f"{root}\n36 25 1:3 / /mnt/local/nvme rw - ext4 /dev/null rw\n")
    host.write("/etc/fstab", f"{source} /mnt/local/nvme {fstype} {options} 0 0\n")
    (line,) = disks.fstab({}, str(host.root))
    assert line["mounted"] is mounted


def test_fstab(host: FakeHost) -> None:
    assert lines(host) == []
    host.write("/dev/disk/by-uuid/aa-bb", "")
    host.write("/dev/disk/by-label/my\\x20disk", "")
    host.write(
        "/etc/fstab",
        "# a comment\n\nUUID=aa-bb\t/mnt/local/nvme ext4 defaults,nofail 0 2\n"
        "LABEL=my\\040disk /mnt/with\\040space/ ext4\nUUID=cc /mnt/c xfs ro\n//nas/x /mnt/n cifs password=abc,user=me\n"
        "atlas:/appdata /mnt/a nfs4 rw\n/srv/x /mnt/b none bind\nshort line\n",
    )
    assert [(line.source, line.target, line.there) for line in lines(host)] == [
        ("UUID=aa-bb", NVME, True),
        ("LABEL=my disk", "/mnt/with space", True),
        ("UUID=cc", "/mnt/c", False),
        ("//nas/x", "/mnt/n", None),
        ("atlas:/appdata", "/mnt/a", None),
        ("/srv/x", "/mnt/b", False),
    ]
    assert lines(host)[3].options == "password=***,user=me"


def test_a_unit_of_its_own(host: FakeHost) -> None:
    unit = unit_name(f"{NVME}-2 x")
    assert unit == "mnt-local-nvme\\x2d2\\x20x.mount"
    host.write(f"/etc/systemd/system/{unit}", f"[Mount]\nWhat=/dev/x\nWhere={NVME}-2 x\nType=xfs\n")
    (line,) = lines(host, touched=[f"{NVME}-2 x", SSD])
    assert (line.unit, line.source, line.fstype, line.target) == (unit, "/dev/x", "xfs", f"{NVME}-2 x")


def test_beneath(host: FakeHost) -> None:
    host.mount(SSD)
    host.at(SSD).mkdir(parents=True)
    host.at(f"{NVME}/ai/services/comfy-mnt").mkdir(parents=True)
    spec = {"beneath": [NVME, SSD, "/mnt/not there"]}
    found = parse({"schema": 1, "beneath": disks.beneath(spec, str(host.root))}).beneath
    me = f"{os.getuid()}:{os.getgid()}"
    assert found[NVME] == Beneath(NVME, 1, 0, (f"ai ({me}, directory)",))
    assert found[SSD] is None, "it is a mount point"
    assert found["/mnt/not there"] == Beneath("/mnt/not there", 0, 0, ())
    host.write(f"{NVME}/ai/web\x1b[1mui.db", "x")
    host.at(f"{NVME}/link").symlink_to("/etc")
    again: Any = parse({"schema": 1, "beneath": disks.beneath(spec, str(host.root))}).beneath[NVME]
    assert (again.count, again.files) == (2, 2)
    assert any("link" in entry and "other" in entry for entry in again.entries)


def test_beneath_is_bounded(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "BENEATH_ENTRIES", 10)
    for number in range(30):
        host.write(f"{NVME}/d{number:02}/file", "")
    found = disks.beneath({"beneath": [NVME]}, str(host.root))[NVME]
    assert (found["count"], len(found["entries"]), found["complete"]) == (30, 20, False)


@LEFT_BEHIND
def test_touched(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
    monkeypatch.setattr(disks, "TOUCH_S", 0.5)
    for path in (NVME, SSD, "/mnt/auto"):
        host.at(path).mkdir(parents=True)
    host.mount(NVME, "nfs4")
    host.mount("/mnt/auto", "autofs")
    spec = {"touched": [NVME, SSD, "/mnt/auto"]}
    assert disks.touched(spec, str(host.root)) == {NVME: {"status": 0, "output": ""}, SSD: None, "/mnt/auto": None}
    host.tool("stat", "echo \"stat: cannot read file system information for '/x': Stale file handle\" >&2; exit 1")
    found = disks.touched(spec, str(host.root))[NVME]
    assert (found["status"], found["output"][-17:]) == (1, "Stale file handle")
    host.tool("stat", "sleep 30")
    began = time.monotonic()
    assert "no answer within 0.5 s" in disks.touched(spec, str(host.root))[NVME]["unknown"]
    assert time.monotonic() - began < 2
    work.end_commands()


def test_displaced(host: FakeHost) -> None:
    assert disks.displaced({}, str(host.root)) is None
    docker = FakeDocker(host.at("/run/docker.sock"))
    for target in ("/comfy/mnt", "/models", "/other"):
        host.at(f"/proc/77/root{target}").mkdir(parents=True)
    host.at(f"{NVME}/models").mkdir(parents=True)
    host.at("/proc/77/root/models").rmdir()
    host.at("/proc/77/root/models").symlink_to(host.at(f"{NVME}/models"))  # the very same directory
    host.at(f"{NVME}/comfy").mkdir()
    mounts = [
        {"Type": "bind", "Source": f"{NVME}/comfy", "Destination": "/comfy/mnt", "RW": True},
        {"Type": "bind", "Source": f"{NVME}/models", "Destination": "/models", "RW": False},
        {"Type": "bind", "Source": f"{NVME}/gone", "Destination": "/other", "RW": True},
        {"Type": "bind", "Source": "/etc/hosts", "Destination": "/other", "RW": True},
        {"Type": "volume", "Source": f"{NVME}/x", "Destination": "/x", "RW": True},
        {"Type": "bind", "Source": f"{NVME}/comfy", "Destination": "/not there", "RW": True},
    ]
    docker.container("comfy", State={"Pid": 77}, Mounts=mounts)
    docker.container("stopped", State={"Pid": 0}, Mounts=mounts)
    spec = {"disks": {"nvme": NVME}, "project": "pantheon-ai"}
    found = parse({"schema": 1, "displaced": disks.displaced(spec, str(host.root))}).displaced
    assert found == (
        Displaced("comfy", f"{NVME}/comfy", "/comfy/mnt", "it was started in a directory that was replaced"),
        Displaced("comfy", f"{NVME}/gone", "/other", f"{NVME}/gone is not there any more"),
    )
    assert any("pantheon.project%3Dpantheon-ai" in asked for asked in docker.asked)


def test_devices(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.bin))
    with pytest.raises(Unread, match="lsblk"):
        disks.devices({}, "")
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
    host.tool(
        "lsblk", "echo 'nvme0n1  1.8T disk   '; echo 'loop1 4M loop'; echo 'nvme0n1p1 1.8T part ext4 nvme aa /mnt'"
    )
    assert disks.devices({}, "") == ["nvme0n1 1.8T disk", "nvme0n1p1 1.8T part ext4 nvme aa /mnt"]
    host.tool("lsblk", "exit 32")
    with pytest.raises(Unread, match="exit 32"):
        disks.devices({}, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ('{"what": "bringup", "result": "done"}\n', None),
        ('{"what": "fix.mounts-missing", "result": "interrupted"}\n', "fix.mounts-missing"),
        ('{"what": "fix.x", "result": "failed"}\n{"what": "bringup", "result": "done"}\n', None),
        ('{"what": "fix.x", "result": "failed"}\n{"cut short', "fix.x"),
        ("not json\n[]\n", None),
    ],
)
def test_unfinished(host: FakeHost, text: str | None, expected: str | None) -> None:
    if text is not None:
        host.write(history.HISTORY, text)
    assert history.unfinished({}, str(host.root)) == expected


def test_a_run_that_died_left_its_word_in_the_lock(host: FakeHost, tmp_path: Path) -> None:
    host.write("/proc/locks", "")
    host.write(history.LOCK, '{"what": "fix.mounts-missing", "pid": 4, "services": ["comfy", "x\\u001b"]}')
    assert history.owed({}, str(host.root))[0] == "comfy"
    assert "\x1b" not in history.owed({}, str(host.root))[1]
    assert history.unfinished({}, str(host.root)) == "fix.mounts-missing"
    host.write(history.LOCK, "")
    assert history.owed({}, str(host.root)) == []
    assert history.unfinished({}, str(host.root)) is None
