"""The mounts of Atlas: the units that are wanted, what is planned on what is there, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import atlas
from pantheon.facts import Command, Mount, Unknown
from pantheon.finding import Finding
from pantheon.inventory import AtlasMount, Host
from pantheon.looks.text import unit_name
from pantheon.nfs import Atlas, Line, Share, Tried, UnitFile, UnitState
from pantheon.plan import Change, Mend, Run, Write
from tests.unit.world import HOST

RW = AtlasMount("atlas:/appdata", "/mnt/atlas/appdata", "rw")
RO = AtlasMount("atlas:/managed-media", "/mnt/atlas/managed-media", "ro")
ODD = AtlasMount("[fe80::1]:/a b", "/mnt/atlas/it's 100% ä", "ro")
BOTH = replace(HOST, atlas=(RW, RO))
SILENT = Unknown("no answer within 2 s (stat -f)")


def written(want: AtlasMount) -> tuple[UnitFile, ...]:
    """Its units as they are there once they have been written."""
    return tuple(
        UnitFile(unit.name, unit.path, f"sha of {unit.name}", True, want.mount, unit.text, want.export, want.type)
        for unit in atlas.units(want)
    )


def fresh(want: AtlasMount, **changes: Any) -> Share:
    return replace(Share(want.mount, "missing"), **changes)


def done(want: AtlasMount, **changes: Any) -> Share:
    """Set up, mounted and answering."""
    mount, auto = (unit.name for unit in atlas.units(want))
    row = Mount(want.mount, want.export, "nfs4", f"{want.mode},nosuid,nodev,addr=10.0.0.2")
    states = {mount: UnitState("active", "mounted", "static"), auto: UnitState("active", "running", "enabled")}
    made = Share(want.mount, "mounted", (row,), answers=Command(0, ""), units=written(want), states=states)
    return replace(made, **changes)


def seen(*shares: Share, **changes: Any) -> Atlas:
    ours = tuple(unit for share in shares for unit in share.units if unit.ours)
    made = Atlas("/usr/sbin/mount.nfs4", True, {"atlas": ""}, shares, {"/mnt": "dir 0:0 0755"}, ours)
    made = replace(made, parents=made.parents | {"/mnt/atlas": "dir 0:0 0755"})
    return replace(made, **changes)


def changes(host: Host, found: Atlas, **more: Any) -> tuple[Change, ...]:
    section = atlas.plan(host, found, **more)
    assert not section.blocked, section.blocked
    return section.changes


def mended(change: Change) -> dict[str, Any]:
    """The arguments of the program that ends a change, without the names of units."""
    step = change.steps[-1]
    assert isinstance(step, Mend)
    return {name: value for name, value in step.arguments.items() if name != "units"}


def worst(host: Host, found: Atlas, **more: Any) -> Finding:
    order = ("ok", "warn", "unknown", "fail")
    return max(atlas.check(host, found, **more), key=lambda finding: order.index(finding.level))


# ---- the units


def test_nothing_of_a_boot_requires_a_mount() -> None:
    mount, automount = atlas.units(RW)
    assert mount.path == "/etc/systemd/system/mnt-atlas-appdata.mount"
    assert automount.path == "/etc/systemd/system/mnt-atlas-appdata.automount"
    for unit in (mount, automount):
        assert unit.text.startswith("# Written by pantheon")
        assert "Requires" not in unit.text
        assert "Before=" not in unit.text
    assert "[Install]" not in mount.text, "only the automount is part of a boot"
    assert "WantedBy=remote-fs.target" in automount.text
    assert "TimeoutSec=30" in mount.text
    assert "TimeoutIdleSec" not in automount.text
    assert "StartLimitIntervalSec=0" in mount.text.partition("[Mount]")[0]


@pytest.mark.parametrize(
    ("want", "expected"),
    [
        (RW, "rw,hard,timeo=150,retrans=3,retry=0,nosuid,nodev,_netdev"),
        (RO, "ro,soft,timeo=100,retrans=2,retry=0,nosuid,nodev,_netdev"),
        (replace(RW, options="nfsvers=4.1,noatime"), f"{atlas.options(RW)},nfsvers=4.1,noatime"),
        (replace(RW, options="soft"), "rw,timeo=150,retrans=3,retry=0,nosuid,nodev,_netdev,soft"),
        (replace(RO, options="hard,timeo=600"), "ro,retrans=2,retry=0,nosuid,nodev,_netdev,hard,timeo=600"),
        (replace(RO, options="suid,dev"), "ro,soft,timeo=100,retrans=2,retry=0,_netdev,suid,dev"),
    ],
    ids=["rw", "ro", "more", "another sense", "the same name", "not so safe"],
)
def test_options(want: AtlasMount, expected: str) -> None:
    assert atlas.options(want) == expected


def test_a_percent_sign_is_no_specifier() -> None:
    mount, automount = atlas.units(ODD)
    assert "Where=/mnt/atlas/it's 100%% ä\n" in mount.text
    assert "Where=/mnt/atlas/it's 100%% ä\n" in automount.text
    assert mount.name == r"mnt-atlas-it\x27s\x20100\x25\x20\xc3\xa4.mount"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "-"),
        ("/.hidden/.x", r"\x2ehidden-.x"),
        ("//a///b/", "a-b"),
        ("/a-b/c_d:e.f", r"a\x2db-c_d:e.f"),
        ("/a\\b", r"a\x5cb"),
        ("/ä", r"\xc3\xa4"),
    ],
)
def test_names_of_units(path: str, expected: str) -> None:
    assert unit_name(path) == f"{expected}.mount"  # the lab's own test asks systemd-escape


# ---- the plan


def test_a_host_without_any() -> None:
    section = atlas.plan(HOST, seen())
    assert section.is_ready
    assert section.reason == "hosts.toml names no mount of Atlas"


def test_from_nothing() -> None:
    found = seen(fresh(RW), fresh(RO), parents={"/mnt": "dir 0:0 0755", "/mnt/atlas": "missing"})
    made, one, two = changes(BOTH, found)
    assert [step.show() for step in made.steps if isinstance(step, Run)] == [
        f"install -d -m0755 -o0 -g0 -- {path}" for path in ("/mnt/atlas", RW.mount, RO.mount)
    ]
    for change, want in ((one, RW), (two, RO)):
        assert [(step.path, step.guards[0].reading) for step in change.steps if isinstance(step, Write)] == [
            (unit.path, "missing") for unit in atlas.units(want)
        ]
        assert mended(change) == {"enable": [want.mount], "start": [want.mount]}
        assert change.sign == "+"


def test_after_it_nothing_is_left() -> None:
    found = seen(done(RW), done(RO))
    assert changes(BOTH, found) == ()
    assert {finding.level for finding in atlas.check(BOTH, found)} == {"ok"}
    waiting = replace(done(RW), rows=(), waits=True, answers=None)
    down = seen(waiting, done(RO), servers={"atlas": "connection refused"})
    assert changes(BOTH, down) == (), "it will be mounted at its first use"
    assert mended(changes(BOTH, seen(waiting, done(RO)))[0]) == {"start": [RW.mount]}


def test_a_server_that_is_gone_is_not_mounted_from() -> None:
    down = seen(fresh(RW), fresh(RO), servers={"atlas": "connection refused"})
    _, one, _ = changes(BOTH, down)
    assert mended(one) == {"enable": [RW.mount]}
    assert "mounted at its first use: its server does not answer now" in one.steps[-1].show()


def test_another_mode_is_mounted_anew() -> None:
    old = replace(done(RW), units=written(replace(RW, mode="ro")))
    (change,) = changes(BOTH, seen(old, done(RO)))
    (write,) = [step for step in change.steps if isinstance(step, Write) and step.path.endswith(".mount")]
    assert write.guards[0].reading == "sha of mnt-atlas-appdata.mount"
    assert "-Options=ro,soft" in write.diff()
    assert mended(change) == {"renew": [RW.mount], "enable": [RW.mount], "start": [RW.mount]}


@pytest.mark.parametrize("said", ["Stale file handle", "Transport endpoint is not connected", "Host is down"])
def test_a_stale_mount_is_lifted_and_mounted_anew(said: str) -> None:
    stale = replace(done(RW), answers=Command(1, f"stat: cannot read file system information: {said}"))
    (change,) = changes(BOTH, seen(stale, done(RO)))
    assert mended(change) == {"lift": [RW.mount], "enable": [RW.mount], "start": [RW.mount]}
    assert "stale" in worst(BOTH, seen(stale, done(RO))).text


def test_a_server_that_hangs_is_waited_for_and_nothing_is_torn_away() -> None:
    hung = seen(replace(done(RW), answers=SILENT), done(RO), servers={"atlas": "no answer within 1.5 s"})
    assert changes(BOTH, hung) == ()
    finding = worst(BOTH, hung)
    assert finding.text == f"{RW.mount} is mounted, and Atlas does not answer"
    assert "no answer within 1.5 s" in finding.evidence
    assert changes(BOTH, hung, verify=True)[0].what == f"try {RO.mount}", "what hangs is not written to"


def test_what_is_no_longer_named_is_removed_and_nothing_else() -> None:
    host = replace(HOST, atlas=(RO,))
    found = seen(done(RO), ours=(*written(RW), *written(RO)))
    (change,) = changes(host, found)
    assert change.sign == "-"
    assert mended(change) == {"remove": [unit.path for unit in atlas.units(RW)]}
    assert {(guard.kind, guard.target) for guard in change.steps[0].guards} == {
        ("sha256", unit.path) for unit in atlas.units(RW)
    }
    assert worst(host, found).level == "warn"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (seen(fresh(RW), fresh(RO), client=Unknown("denied")), "denied"),
        (seen(fresh(RW), fresh(RO), autofs=False), "linux-modules-extra"),
    ],
)
def test_what_only_a_human_can_put_right(found: Atlas, said: str) -> None:
    (finding,) = atlas.plan(BOTH, found).blocked
    assert said in finding.mend + finding.evidence


def test_the_client_is_installed_first() -> None:
    found = seen(fresh(RW), fresh(RO), client=None)
    first, *others = changes(BOTH, found)
    assert [step.show().partition(" (")[0] for step in first.steps] == ["apt-get update", "apt-get install nfs-common"]
    assert len(others) == 3
    assert worst(BOTH, found).level == "fail"
    assert atlas.plan(HOST, found).is_ready, "nothing for a host without mounts"


# ---- what is somebody else's


LINE = Line(12, "atlas:/appdata/", "nfs", "rw,nofail")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (LINE, ""),
        (replace(LINE, options="ro,nofail"), "its options are ro,nofail: not rw"),
        (replace(LINE, source="atlas:/other"), "it mounts atlas:/other, not atlas:/appdata"),
        (replace(LINE, fstype="cifs"), "its type is cifs, not nfs4"),
        (replace(LINE, options="rw"), "no nofail"),
    ],
    ids=["right", "mode", "source", "type", "a boot waits"],
)
def test_a_line_of_fstab_is_judged_and_never_touched(line: Line, said: str) -> None:
    mounted = done(RW, units=(), lines=(line,), states={})
    found = seen(mounted, done(RO))
    assert changes(BOTH, found) == ()
    bad = [finding for finding in atlas.check(BOTH, found) if finding.level != "ok"]
    assert bool(bad) == bool(said)
    for finding in bad:
        assert "/etc/fstab line 12" in finding.text
        assert said in finding.text


def test_ours_gives_way_to_a_line_that_somebody_added() -> None:
    found = seen(done(RW, lines=(LINE,)), done(RO))
    (change,) = changes(BOTH, found)
    assert mended(change) == {"remove": [unit.path for unit in atlas.units(RW)]}


def test_a_unit_of_somebody_is_left_alone() -> None:
    path = "/etc/systemd/system/mnt-atlas-appdata.mount"
    theirs = UnitFile("mnt-atlas-appdata.mount", path, "x", False, RW.mount, "", "atlas:/other", "nfs4", "rw")
    found = seen(fresh(RW, at="dir 0:0 0755", units=(theirs,)), done(RO))
    assert changes(BOTH, found) == ()
    assert f"{path} is not as hosts.toml says: it mounts atlas:/other" in worst(BOTH, found).text


def test_what_systemd_made_of_fstab_is_not_somebodys_unit() -> None:
    path = "/run/systemd/generator/mnt-atlas-appdata.mount"
    made = UnitFile("mnt-atlas-appdata.mount", path, "x", False, RW.mount, "", "atlas:/appdata", "nfs", "rw")
    assert atlas.served(done(RW, units=(made,), lines=(LINE,))).where == "/etc/fstab line 12"


def test_something_else_that_is_mounted_there_stays() -> None:
    row = Mount(RW.mount, "/dev/sdb1", "ext4", "rw")
    found = seen(done(RW, rows=(row,), units=(), states={}), done(RO))
    assert changes(BOTH, found) == ()
    assert worst(BOTH, found).text == f"something else is mounted at {RW.mount}"


def test_the_right_thing_mounted_by_hand_in_the_wrong_mode_is_said() -> None:
    row = Mount(RO.mount, RO.export, "nfs4", "rw,hard")
    found = seen(done(RW), done(RO, rows=(row,), units=(), states={}))
    assert changes(BOTH, found) == (), "somebody may work there"
    assert worst(BOTH, found).text == f"{RO.mount} was mounted by hand, read-write, not ro"


def test_a_server_that_refuses_is_quoted() -> None:
    why = "mount.nfs4: access denied by server while mounting atlas:/appdata"
    found = seen(done(RW, rows=(), waits=True, answers=None, failed=why), done(RO))
    finding = worst(BOTH, found)
    assert (finding.level, finding.text.partition(",")[0], finding.evidence) == (
        "fail", f"{RW.mount} could not be mounted", why
    )  # fmt: skip
    assert "the export atlas:/appdata on Atlas" in finding.mend
    (change,) = changes(BOTH, found)
    assert change.why == f"the last attempt: {why}"


def test_the_right_thing_mounted_by_hand_is_taken_over() -> None:
    found = seen(done(RW, units=(), states={}), done(RO))
    assert mended(changes(BOTH, found)[0]) == {"enable": [RW.mount]}


@pytest.mark.parametrize("at", ["symlink -> /srv/data", "elsewhere: /srv/data", "file 0:0 0644", "unknown: denied"])
def test_a_place_that_is_no_directory_of_its_own(at: str) -> None:
    found = seen(fresh(RW, at=at), done(RO))
    assert changes(BOTH, found) == ()
    assert worst(BOTH, found).level in ("fail", "unknown")


def test_a_link_above_the_mount_points() -> None:
    found = seen(fresh(RW), fresh(RO), parents={"/mnt": "dir 0:0 0755", "/mnt/atlas": "symlink -> /srv"})
    assert changes(BOTH, found) == ()
    assert "no directory of its own" in atlas.check(BOTH, found)[0].text


def test_what_a_mount_hides_is_said() -> None:
    found = seen(fresh(RW, at="dir 0:0 0755", beneath=3), done(RO))
    assert len(changes(BOTH, found)) == 1
    (finding,) = atlas.standing(BOTH, found)
    assert "holds 3 entries of its own on the root disk" in finding.text


def test_the_parent_is_roots() -> None:
    found = seen(done(RW), done(RO), parents={"/mnt": "dir 5:5 0755", "/mnt/atlas": "dir 1000:1000 0755"})
    (finding,) = [finding for finding in atlas.check(BOTH, found) if finding.level != "ok"]
    assert finding.text == "/mnt/atlas belongs to 1000:1000, not to root"


def test_a_path_too_long_for_a_unit() -> None:
    long = replace(RW, mount="/mnt/" + "-" * 80)
    host = replace(HOST, atlas=(long,))
    found = seen(fresh(long))
    assert changes(host, found) == ()
    assert "too long" in worst(host, found).text


# ---- what is mounted


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Mount(RW.mount, "atlas:/appdata", "fuse.nfs4", "rw"), ""),
        (Mount(RW.mount, "atlas:/appdata", "nfs", "rw"), ""),
        (Mount(RW.mount, "atlas:/appdata", "fuse.sshfs", "rw"), "it is fuse.sshfs, not NFS"),
        (Mount(RW.mount, "atlas:/appdata", "nfs4", "ro,relatime"), "it is read-only, not rw"),
        (Mount(RW.mount, "other:/appdata", "nfs4", "rw"), "it is other:/appdata, not atlas:/appdata"),
    ],
)
def test_it_is_really_nfs_and_as_wanted(row: Mount, said: str) -> None:
    finding = worst(BOTH, seen(done(RW, rows=(row,)), done(RO)))
    assert (finding.level == "ok") == (not said)
    assert said in finding.text


# ---- the attempts to write


def tried(
    want: AtlasMount, root: Any, user: Any, directory: tuple[int, ...] = (1024, 1024, 0o755)
) -> tuple[Tried, ...]:
    """Outcomes by an owner (written) or an error."""
    return tuple(
        Tried(
            want.mount,
            want.export,
            uid,
            one if isinstance(one, str) else "",
            () if isinstance(one, str) else one,
            directory,
        )
        for uid, one in ((0, root), (1024, user))
    )


@pytest.mark.parametrize(
    ("want", "root", "user", "level", "said"),
    [
        (RW, "EACCES", (1024, 1024), "ok", "root is squashed"),
        (RW, (65534, 65534), (1024, 1024), "ok", "root becomes 65534:65534 (root_squash)"),
        (RW, (0, 0), (1024, 1024), "ok", "root stays root (no_root_squash)"),
        (RW, "EROFS", "EROFS", "fail", "Atlas exports it read-only"),
        (RW, "EACCES", "EACCES", "fail", "user 1024 cannot write there (EACCES)"),
        (RW, (65534, 65534), (65534, 65534), "fail", "becomes 65534:65534's (nobody)"),
        (RW, (99, 100), (99, 100), "fail", "becomes 99:100's"),
        (RW, "stuck", "stuck", "fail", "no answer within 10 s"),
        (RO, "EROFS", "EROFS", "ok", "writing is refused"),
        (RO, "EACCES", "EROFS", "ok", "writing is refused"),
        (RO, "EACCES", (1024, 1024), "fail", "is to be read-only, and was written"),
        (RO, "EIO", "EIO", "fail", "as 0: EIO"),
    ],
)
def test_what_an_attempt_tells(want: AtlasMount, root: Any, user: Any, level: str, said: str) -> None:
    host = replace(HOST, atlas=(want,))
    found = seen(done(want), tried=tried(want, root, user))
    finding = next(one for one in atlas.check(host, found, tried=True) if one.id.startswith("atlas.write"))
    assert finding.level == level
    assert said in f"{finding.text} {finding.evidence}"


def test_squashed_or_not_understood() -> None:
    host = replace(HOST, atlas=(RW,))
    nobody = (65534, 65534)
    squashed = seen(done(RW), tried=tried(RW, nobody, nobody))
    assert "all_squash" in worst(host, squashed, tried=True).evidence
    unknown = seen(done(RW), tried=tried(RW, nobody, nobody, directory=(65534, 65534, 0o777)))
    assert "idmapd.conf" in worst(host, unknown, tried=True).evidence


def test_what_could_not_be_removed_is_named() -> None:
    host = replace(HOST, atlas=(RW,))
    one, two = tried(RW, "EACCES", (1024, 1024))
    found = seen(done(RW), tried=(one, replace(two, left="/mnt/atlas/appdata/.pantheon-verify-1")))
    assert "sudo rm -- /mnt/atlas/appdata/.pantheon-verify-1" in str(atlas.check(host, found, tried=True))


def test_an_attempt_that_was_not_made_is_not_fine() -> None:
    host = replace(HOST, atlas=(RW,))
    assert worst(host, seen(done(RW)), tried=True).level == "unknown"


def test_the_plan_of_an_attempt() -> None:
    (change,) = changes(BOTH, seen(done(RW), done(RO)), verify=True)
    step = change.steps[0]
    assert isinstance(step, Mend)
    assert step.arguments["uids"] == [0, 1024]
    assert step.arguments["shares"] == [{"mount": want.mount, "source": want.export} for want in (RW, RO)]


# ---- a bring-up's word


def test_a_bringup_only_ever_warns() -> None:
    assert atlas.warnings(BOTH, seen(done(RW), done(RO))) == []
    down = seen(fresh(RW), done(RO, answers=SILENT), servers={"atlas": "connection refused"})
    (finding,) = atlas.warnings(BOTH, down)
    assert finding.level == "warn"
    assert finding.text.startswith("Atlas does not answer (/mnt/atlas/appdata, /mnt/atlas/managed-media)")
    assert "the AI stack does not need it" in finding.text
    assert finding.evidence == "atlas: connection refused"
    (finding,) = atlas.warnings(BOTH, seen(fresh(RW), done(RO)))
    assert finding.text.startswith("mounts of Atlas are not as hosts.toml says: /mnt/atlas/appdata;")
