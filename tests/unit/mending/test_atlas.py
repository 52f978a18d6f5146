"""What is done to Atlas's mounts on the host: on temporary directories, with the real system calls."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import atlas_mount, atlas_verify

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
UNIT = "# Written by pantheon from hosts.toml\n[Mount]\nWhat=atlas:/a\n"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that counts as the mount."""
    about = tmp_path.stat().st_dev
    monkeypatch.setattr(atlas_verify, "row_of", lambda _: (f"{os.major(about)}:{os.minor(about)}", "atlas:/a"))
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent != Path("/") and parent.stat().st_uid == os.getuid() and str(parent).count("/") > 1:
            parent.chmod(0o755)
    return tmp_path


def outcome(path: Path, uid: int, patience_s: float = 5) -> dict[str, Any]:
    child = atlas_verify.Child({"mount": str(path), "source": "atlas:/a"}, uid)
    return child.outcome(time.monotonic() + patience_s)


def test_its_own_file_is_gone_again(mounted: Path) -> None:
    (mounted / "somebody's").write_text("")
    found = outcome(mounted, 0)
    assert (found["error"], found["owner"]) == ("", [os.getuid(), os.getgid()])
    assert [path.name for path in mounted.iterdir()] == ["somebody's"]


@ROOT
def test_as_the_stacks_user(mounted: Path) -> None:
    assert outcome(mounted, 1024)["owner"] == [1024, 1024]
    mounted.chmod(0o755)
    assert outcome(mounted, 1024)["error"] == "EACCES"
    assert list(mounted.iterdir()) == []


def test_never_into_what_lies_under_a_mount(tmp_path: Path) -> None:
    assert outcome(tmp_path, 0)["error"] == "not mounted"
    assert list(tmp_path.iterdir()) == []
    assert outcome(tmp_path / "gone", 0)["error"] == "ENOENT"


def test_one_that_hangs_is_killed_at_the_deadline(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_verify, "attempt", lambda *_: time.sleep(30))
    began = time.monotonic()
    found = outcome(mounted, 0, 0.2)
    assert found["error"] == "stuck"
    assert Path(found["left"]).name.startswith(".pantheon-verify-")
    assert time.monotonic() - began < 2


def test_what_an_attempt_that_was_stuck_has_left_is_removed_by_the_next(mounted: Path, tmp_path: Path) -> None:
    share = {"mount": str(mounted), "source": "atlas:/a"}
    mine, theirs = mounted / f".pantheon-verify-{'0a' * 8}", mounted / ".pantheon-verify-notes"
    for file in (mine, theirs):
        file.write_text("")
    kept = tmp_path / "atlas.json"
    names = [mine, theirs, mounted / "../../etc/passwd"]
    kept.write_text(
        json.dumps([{"mount": str(mounted), "uid": 0, "error": "stuck", "left": str(one)} for one in names])
    )
    left = atlas_verify.left_before(share, str(kept))
    assert left == [mine.name]
    assert atlas_verify.left_before({"mount": "/elsewhere"}, str(kept)) == []
    assert atlas_verify.left_before(share, str(tmp_path / "none")) == []
    child = atlas_verify.Child(share, os.getuid(), left)
    assert child.outcome(time.monotonic() + 5)["error"] == ""
    assert not mine.exists()
    assert theirs.exists()


def test_the_outcome_is_kept(mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "run" / "atlas.json"
    monkeypatch.setattr(atlas_verify, "keep", lambda found: KEEP(found, str(kept)))
    shares = [{"mount": str(mounted), "source": "atlas:/a"}]
    assert atlas_verify.main({"shares": shares, "uids": [0], "deadline_s": 5}) == 0
    (one,) = json.loads(kept.read_text())
    assert (one["uid"], one["error"], one["mount"]) == (0, "", str(mounted))
    assert one["at"].endswith("Z")


KEEP = atlas_verify.keep


# ---- units


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[str, ...]]]:
    """A folder of units, and what was run."""
    ran: list[tuple[str, ...]] = []

    def run(*argv: str, timeout_s: float = 0) -> tuple[int, str]:
        del timeout_s
        ran.append(argv)
        return 0, ""

    monkeypatch.setattr(atlas_mount, "PLACE", str(tmp_path))
    monkeypatch.setattr(atlas_mount, "run", run)
    return tmp_path, ran


def test_only_files_with_our_header_are_removed(units: tuple[Path, list[tuple[str, ...]]]) -> None:
    folder, ran = units
    for name, text in (("a.mount", UNIT), ("b.mount", "[Mount]\n"), ("a.automount", UNIT)):
        (folder / name).write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "c.mount").write_text(UNIT)
    paths = [str(folder / name) for name in ("a.mount", "a.automount", "b.mount", "deep/c.mount", "none.mount")]
    assert atlas_mount.remove(paths, {"/mnt/a": "a"}) == []
    assert sorted(path.name for path in folder.rglob("*mount")) == ["b.mount", "c.mount"]
    assert ("systemctl", "disable", "--", "a.automount") in ran
    assert not any("b" in argv[-1].split(".")[0] for argv in ran)


def test_what_is_in_use_stays(units: tuple[Path, list[tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_mount, "NOTES", [])
    monkeypatch.setattr(atlas_mount, "mounted", lambda _: True)
    assert not atlas_mount.unmount("/mnt/a", "a")
    assert units[1] == [("umount", "--", "/mnt/a")], "nothing that needs it is stopped with it"
    assert "in use, it stays as it is until the next boot" in atlas_mount.NOTES[0]


def test_the_order_of_the_work(units: tuple[Path, list[tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_mount, "mounted", lambda _: False)
    one = {name: ["/mnt/a"] for name in ("lift", "enable", "start")}
    assert atlas_mount.main({**one, "units": {"/mnt/a": "mnt-a"}}) == 0
    assert [argv[:2] for argv in units[1]][:5] == [
        ("umount", "-l"),
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable"),
        ("systemctl", "start"),
        ("systemctl", "reset-failed"),
    ]


def test_the_kernels_table_is_read(tmp_path: Path) -> None:
    assert not atlas_mount.mounted(str(tmp_path))
    assert atlas_mount.mounted("/proc")
    assert atlas_verify.row_of(str(tmp_path)) == ("", "")
    assert atlas_verify.row_of("/proc")[1] == "proc"


def test_a_command_that_does_not_end_is_left_behind() -> None:
    status, said = atlas_mount.run("sleep", "30", timeout_s=0.1)
    assert (status, said) == (124, "no end within 0.1 s")
    assert atlas_mount.run("sh", "-c", "echo one; echo two; exit 3") == (3, "two")
