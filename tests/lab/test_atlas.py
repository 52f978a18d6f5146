"""`invoke atlas` against a real NFSv4 server, and what a dead one does to everything else: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Ran, World

from lab import atlas
from pantheon.looks.text import unit_name

pytestmark = pytest.mark.lab

APPDATA, MEDIA = "/mnt/atlas/appdata", "/mnt/atlas/managed-media"
SHARES = (("appdata", "rw"), ("managed-media", "ro"))
QUICK_S = 15.0  # a command with a dead server, on a busy machine; a hard mount alone would hang for ever


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[World]:
    """A host that is up; what these tests leave on it is not for others."""
    world.make("up")
    world.state = "dirty"
    try:
        yield world
    finally:
        atlas.forget(world.lab)


def wanting(world: World, *shares: tuple[str, str], **more: Any) -> None:
    """hosts.toml with these mounts."""
    world.inventory(**more)
    text = world.hosts.read_text(encoding="utf-8")
    for share in atlas.inventory(*shares):
        text += "\n[[hosts.lab.atlas]]\n" + "".join(f'{key} = "{value}"\n' for key, value in share.items())
    world.hosts.write_text(text, encoding="utf-8")


@pytest.fixture
def served(host: World) -> Iterator[World]:
    wanting(host, *SHARES)
    with atlas.served(host.lab):
        yield host


def settled(world: World) -> None:
    done = world.invoke("atlas", "--yes")
    assert done.code == 0, done.seen


def test_from_nothing_to_mounted_and_tried(served: World) -> None:
    served.sh("rm -rf /mnt/atlas; ! grep -q atlas /etc/fstab")
    before = served.sh("cat /etc/fstab")
    done = served.invoke("atlas", "--yes", "--verify")
    assert done.code == 0, done.seen
    assert f"{APPDATA}: files of user 1024 are 1024's on Atlas; root cannot write there" in done.out.replace("\n", " ")
    assert "writing is refused, as it is to be" in done.out
    for place, mode in ((APPDATA, "rw"), (MEDIA, "ro")):
        about = served.sh('findmnt -rn -o SOURCE,FSTYPE,OPTIONS -t fuse.nfs4 --mountpoint "$1"', place)
        assert about.startswith(f"atlas:/{place.rpartition('/')[2]} fuse.nfs4 {mode},nosuid,nodev"), about
        unit = served.sh('systemd-escape -p --suffix=mount "$1"', place)
        assert unit == unit_name(place)
        assert served.sh('systemctl is-enabled "$1"', unit.replace(".mount", ".automount")) == "enabled"
    assert served.sh("stat -c %u:%g:%a /mnt/atlas") == "0:0:755"
    assert served.sh("ls -A /srv/atlas/appdata") == "", "its own file is gone"
    assert served.sh("cat /etc/fstab") == before
    again = served.invoke("atlas")
    assert again.code == 0, again.seen
    assert "all good" in again.out


def test_names_of_units_are_systemds_own(host: World) -> None:
    for path in ("/mnt/atlas/a b", "/mnt/atlas/a-b_c:d.e", "/mnt/.hidden/x", "/mnt/ä%n\\'\"", "/.x", "/a/.b", "/a//b/"):
        assert host.sh('systemd-escape --path --suffix=mount -- "$1"', path) == unit_name(path), path


def test_a_server_that_hangs_holds_nothing_up(served: World) -> None:
    """It stops between the look and the attempt to write, which is then stuck in the kernel for good; and whatever else
    is asked of the host is answered."""
    wanting(served, SHARES[0])
    settled(served)
    with served.running("atlas", "--verify", terminal=True) as running:
        running.wait_for("Apply 1 change")
        atlas.hang(served.lab)
        try:
            running.type("y\n")
            tried = running.end(60)
            assert tried.code == 2, tried.seen
            assert "no answer within 10 s" in tried.out, tried.seen
            up = within(QUICK_S, served, "bringup", "--yes")
            assert up.code == 0, up.seen
            assert "Atlas does not answer" in up.out, up.seen
            assert "the AI stack does not need it" in " ".join(up.out.split()), up.seen
            looks = {"atlas": 2, "diagnose": 0, "validate": 0, "facts": 0, "audit": 2}
            with ThreadPoolExecutor() as pool:
                done = dict(zip(looks, pool.map(lambda name: within(QUICK_S, served, name), looks), strict=True))
            assert {name: one.code for name, one in done.items()} == looks, "\n".join(d.seen for d in done.values())
            assert "no answer within" in done["atlas"].out, done["atlas"].seen
            assert "✗ nfs.answers" in done["audit"].out, done["audit"].seen
        finally:
            atlas.wake(served.lab)
    back = served.invoke("atlas")
    assert back.code == 0, back.seen


def within(seconds: float, world: World, *argv: str) -> Ran:
    done = world.invoke(*argv)
    assert done.took_s < seconds, done.seen
    return done


@pytest.mark.parametrize("how", ["its client died", "the export was made anew"])
def test_a_stale_mount_is_mounted_anew(served: World, how: str) -> None:
    settled(served)
    if how == "its client died":
        atlas.orphan(served.lab, APPDATA)
    else:
        atlas.remake(served.lab, "appdata")
    found = served.invoke("atlas", "--plan")
    assert found.code == 2, found.seen
    assert f"remount {APPDATA}" in found.out, found.seen
    assert MEDIA not in found.out, found.seen
    settled(served)
    assert served.sh('findmnt -rn -o SOURCE -t fuse.nfs4 --mountpoint "$1"', APPDATA) == "atlas:/appdata"


@pytest.mark.parametrize(
    ("exports", "numeric", "said"),
    [
        ((atlas.Export("appdata", "RO"),), True, "is to be written, and Atlas exports it read-only"),
        (
            (atlas.Export("appdata", squash="All_Squash", anonymous=99, owner="99:99"),),
            True,
            "what user 1024 writes becomes 99:99's",
        ),
        ((atlas.Export("appdata"),), False, "what user 1024 writes becomes 65534:65534's (nobody)"),
    ],
    ids=["exported ro", "all squashed", "ids not understood"],
)
def test_what_an_attempt_to_write_tells(
    host: World, exports: tuple[atlas.Export, ...], numeric: bool, said: str
) -> None:
    wanting(host, ("appdata", "rw"))
    with atlas.served(host.lab, exports, numeric=numeric):
        done = host.invoke("atlas", "--yes", "--verify")
        assert done.code == 2, done.seen
        assert said in done.out, done.seen
        assert host.sh("ls -A /srv/atlas/appdata") == ""


def test_what_somebody_else_has_set_up_is_judged_and_left(served: World) -> None:
    served.sh(
        "cp /etc/fstab /etc/fstab.test; echo 'atlas:/datasets /mnt/atlas/appdata nfs4 ro,noauto 0 0' >>/etc/fstab"
    )
    number = served.sh("grep -n atlas /etc/fstab | cut -d: -f1")
    text = served.sh("cat /etc/fstab")
    try:
        done = served.invoke("atlas", "--yes")
        assert done.code == 2, done.seen
        assert f"/etc/fstab line {number} is not as hosts.toml says" in done.out.replace("\n", " "), done.seen
        assert served.sh("ls /etc/systemd/system/mnt-atlas-appdata.* 2>/dev/null || true") == ""
        assert served.sh('findmnt -rn -o SOURCE -t fuse.nfs4 --mountpoint "$1"', MEDIA) == "atlas:/managed-media"
        assert served.sh("cat /etc/fstab") == text
    finally:
        served.sh("mv /etc/fstab.test /etc/fstab; systemctl daemon-reload")


def test_what_hosts_toml_no_longer_says(served: World) -> None:
    """Another mode is remounted; what is no longer named is unmounted, unless it is in use; Atlas keeps its files."""
    settled(served)
    served.sh(
        "echo film >/srv/atlas/managed-media/film;"
        "systemd-run -q --unit lab-user --working-directory=/mnt/atlas/appdata sleep 300"
    )
    try:
        wanting(served, ("managed-media", "ro"), ("datasets", "ro"))
        done = served.invoke("atlas", "--yes")
        assert done.code == 0, done.seen
        assert f"no longer mount {APPDATA}" in done.out, done.seen
        assert "in use, it stays" in done.all, done.seen
    finally:
        served.sh("systemctl stop lab-user")
    wanting(served, ("datasets", "rw"))
    settled(served)
    assert served.sh("ls /etc/systemd/system | grep '^mnt-'").split() == [
        "mnt-atlas-datasets.automount",
        "mnt-atlas-datasets.mount",
    ]
    options = served.sh("findmnt -rn -o OPTIONS -t fuse.nfs4 --mountpoint /mnt/atlas/datasets")
    assert options.startswith("rw,"), options
    assert served.sh("cat /srv/atlas/managed-media/film") == "film"
    assert served.sh('findmnt -rn -t fuse.nfs4 --mountpoint "$1" || true', MEDIA) == ""


def test_without_a_server_it_is_set_up_for_its_first_use(host: World) -> None:
    wanting(host, ("appdata", "rw"))
    done = host.invoke("atlas", "--yes")
    assert done.code == 2, done.seen
    assert "Atlas does not answer" in done.out, done.seen
    assert host.sh("systemctl is-active mnt-atlas-appdata.automount") == "active"
    up = host.invoke("bringup", "--yes")
    assert up.code == 0, up.seen
    assert "Atlas does not answer" in up.out, up.seen
    host.sh("for _ in 1 2 3 4 5 6 7 8; do ! ls /mnt/atlas/appdata 2>/dev/null || exit 1; done")
    assert host.sh("systemctl is-active mnt-atlas-appdata.automount") == "active", "it is never given up"
    with atlas.served(host.lab):
        host.sh("ls /mnt/atlas/appdata")
        again = host.invoke("atlas")
        assert again.code == 0, again.seen


def test_a_disk_that_hosts_toml_names_is_mounted_and_kept(host: World) -> None:
    host.sh(
        """
        truncate -s 300M /var/lib/lab/ssd.img
        disk=$(losetup -f --show /var/lib/lab/ssd.img); ln -sf "$disk" /dev/lab-ssd
        cp -p /etc/fstab /etc/fstab.test; sed -i '\\,/mnt/local/ssd,d' /etc/fstab; systemctl daemon-reload
        docker stop -t 1 comfy openwebui >/dev/null; umount /mnt/local/ssd; rmdir /mnt/local/ssd
        """
    )
    try:
        host.inventory(storage={"ssd_source": "/dev/lab-ssd"})
        empty = host.invoke("storage", "--yes")
        assert empty.code == 2, empty.seen
        assert "sudo mkfs.ext4" in empty.out, empty.seen
        assert "ERASES" in empty.out, empty.seen
        assert host.sh("blkid -p /dev/lab-ssd || true") == "", "nothing is ever formatted"
        before = host.sh("cat /etc/fstab; stat -c %a:%u:%g /etc/fstab")
        host.sh("mkfs.ext4 -q /dev/lab-ssd")
        done = host.invoke("storage", "--yes")
        assert done.code == 0, done.seen
        line = "/dev/lab-ssd /mnt/local/ssd ext4 defaults,nofail,x-systemd.device-timeout=30s 0 2"
        *lines, about = before.splitlines()
        assert host.sh("cat /etc/fstab; stat -c %a:%u:%g /etc/fstab").splitlines() == [*lines, line, about]
        assert host.sh("cat /etc/fstab.before-pantheon").splitlines() == lines
        assert host.sh("stat -c %u:%g /mnt/local/ssd/ai/outputs/comfy") == "1024:1024"
    finally:
        host.sh(
            """
            umount /mnt/local/ssd 2>/dev/null || true; losetup -d "$(readlink /dev/lab-ssd)" || true
            mv /etc/fstab.test /etc/fstab; rm -f /etc/fstab.before-pantheon /dev/lab-ssd; systemctl daemon-reload
            """
        )
