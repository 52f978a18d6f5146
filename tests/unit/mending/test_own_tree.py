"""The walk on real directories. Owners are changed for real where the tests run as root, and always recorded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import own_tree
from tests.unit import programs

ME = (os.getuid(), os.getgid())
OTHER = (os.getuid() + 1024, os.getgid() + 1024)
Chowned = list[tuple[str, tuple[int, int]]]


@pytest.fixture
def chowned(monkeypatch: pytest.MonkeyPatch) -> Chowned:
    """What got another owner, as the names under which it was opened."""
    made: Chowned = []

    def fchown(fd: int, uid: int, gid: int) -> None:
        made.append((str(Path(f"/proc/self/fd/{fd}").readlink()), (uid, gid)))

    def chown(name: str, uid: int, gid: int, *, dir_fd: int, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        made.append((f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{name}", (uid, gid)))

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "chown", chown)
    return made


def run(path: Path, owner: tuple[int, int] = OTHER, **more: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    given = {"path": str(path), "uid": owner[0], "gid": owner[1], **more}
    return own_tree.main(json.dumps(given), said.append), said


def names(chowned: Chowned, top: Path) -> set[str]:
    return {os.path.relpath(name, top) for name, _ in chowned}


def test_all_of_it_and_nothing_twice(tmp_path: Path, chowned: Chowned) -> None:
    top = tmp_path / "a b'$(x)\n"
    (top / "venv" / "lib" / "é\x1b[31m").mkdir(parents=True)
    (top / "venv" / "lib" / "x y").write_text("")
    os.mkfifo(top / "pipe")
    status, said = run(top)
    assert status == 0
    assert names(chowned, top) == {".", "venv", "venv/lib", "venv/lib/é\x1b[31m", "venv/lib/x y", "pipe"}
    assert len(chowned) == 6
    assert said == ["6 entries, 6 changed"]


def test_what_is_right_is_not_touched(tmp_path: Path, chowned: Chowned) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert run(tmp_path, ME) == (0, ["3 entries, 0 changed"])
    assert chowned == []


def test_links_are_changed_and_not_followed(tmp_path: Path, chowned: Chowned) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    (outside / "secret").mkdir(parents=True)
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "dangling").symlink_to("nowhere")
    assert run(top)[0] == 0
    assert names(chowned, top) == {".", "link", "dangling"}


def test_a_directory_swapped_for_a_link_redirects_nothing(
    tmp_path: Path, chowned: Chowned, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    (outside / "secret").mkdir(parents=True)
    (top / "data").mkdir(parents=True)
    real = os.open

    def swap(name: str, flags: int, *, dir_fd: int | None = None) -> int:
        if name == "data":  # between the listing and the opening
            (top / "data").rename(top / "was")
            (top / "data").symlink_to(outside)
        return real(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap)
    assert run(top)[0] == 0
    assert not any(str(outside) in name for name, _ in chowned)


@pytest.mark.parametrize("where", ["link", "link/below", "file", "missing"])
def test_the_top_is_a_directory_of_its_own(tmp_path: Path, chowned: Chowned, where: str) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    status, said = run(tmp_path / where)
    assert status == 1
    assert len(said) == 1
    assert "is no directory of its own" in said[0]
    assert chowned == []


def test_deeper_than_open_files_allow(tmp_path: Path, chowned: Chowned) -> None:
    depth = 3 * own_tree.DEEPEST + 7
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert run(tmp_path) == (0, [f"{depth + 1} entries, {depth + 1} changed"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_progress_about_once_a_second(tmp_path: Path, chowned: Chowned, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1024):
        (tmp_path / str(number)).write_text("")
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    _, said = run(tmp_path)
    assert said == [f"{count} entries, {count - 1} changed" for count in (256, 512, 768, 1024)] + [
        "1025 entries, 1025 changed"
    ]


def test_a_file_with_a_name_elsewhere_is_told(tmp_path: Path, chowned: Chowned) -> None:
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (tmp_path / "model").write_text("")
    (top / "x").write_text("")
    (top / "a" / "linked").hardlink_to(tmp_path / "model")
    (top / "a" / "y").hardlink_to(top / "x")
    assert run(top)[1][1:] == [
        f"files changed that have a name elsewhere too (hard links): 1, the first of them {top}/a/linked"
    ]
    assert len(run(top, ME)[1]) == 1


def failing(number: int) -> Callable[..., None]:
    def chown(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    return chown


@pytest.mark.parametrize("number", [errno.EROFS, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (tmp_path / "a").write_text("")
    for name in ("chown", "fchown"):
        monkeypatch.setattr(os, name, failing(number))
    status, said = run(tmp_path)
    assert status == 1
    assert said == [f"the owner cannot be changed here: {tmp_path}: {os.strerror(number)} (1 entries, 0 changed)"]


def test_one_that_refuses_does_not_keep_the_others(tmp_path: Path, chowned: Chowned, monkeypatch: Any) -> None:
    for name in ("fixed", "other"):
        (tmp_path / name).write_text("")
    chown = os.chown

    def one_is_immutable(name: str, *args: Any, **more: Any) -> None:
        if name == "fixed":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        chown(name, *args, **more)

    monkeypatch.setattr(os, "chown", one_is_immutable)
    status, said = run(tmp_path)
    assert status == 1
    assert names(chowned, tmp_path) == {".", "other"}
    assert said[-1].startswith(f"1 kept their owner, the first of them {tmp_path}/fixed: Operation not permitted (by")
    assert "chattr -ia" in said[-1]


def test_the_owner_of_a_shut_directory_gets_in(tmp_path: Path, chowned: Chowned) -> None:
    for name in ("venv", "open"):
        (tmp_path / name).mkdir()
    (tmp_path / "venv").chmod(0o555)
    (tmp_path / "link").symlink_to("/etc")
    assert run(tmp_path, ME, usable=["venv", "link", "gone", "open"])[0] == 0
    assert (tmp_path / "venv").stat().st_mode & 0o777 == 0o755
    assert chowned == []


def test_memory_does_not_grow_with_the_tree(tmp_path: Path, chowned: Chowned) -> None:
    for number in range(4000):
        (tmp_path / f"{number:0200}").write_text("")
    tracemalloc.start()
    run(tmp_path, ME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000  # the names alone are 800 kB


def test_it_runs_alone(tmp_path: Path) -> None:
    argv = programs.argv(own_tree, {"path": str(tmp_path), "uid": ME[0], "gid": ME[1]})
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 entries, 0 changed\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away; everything else here runs for anybody")
def test_for_real(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("/etc/hostname")
    owner = Path("/etc/hostname").stat().st_uid
    assert run(tmp_path) == (0, ["3 entries, 3 changed"])
    assert run(tmp_path) == (0, ["3 entries, 0 changed"])
    assert Path("/etc/hostname").stat().st_uid == owner
    os.lchown(tmp_path, *ME)
