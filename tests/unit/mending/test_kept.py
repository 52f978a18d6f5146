"""Owners noted and given back, names changed and nothing replaced, first copies kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pantheon.mending import copy_files, give_owners, keep_owners, rename_path

ROOT = os.geteuid() == 0
ME = (os.getuid(), os.getgid())
Owners = dict[str, tuple[int, int, int]]


def run(module: ModuleType, **told: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    main: Callable[[str, Callable[[str], None]], int] = module.main
    return main(json.dumps(told), said.append), said


def owners(top: Path) -> Owners:
    found = {os.path.relpath(path, top): path.lstat() for path in (top, *top.rglob("*"))}
    return {name: (about.st_uid, about.st_gid, about.st_mode) for name, about in found.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "a b'$(x)"
    (top / "venv" / "é\x1b\n").mkdir(parents=True)
    (top / "venv" / "é\x1b\n" / "x y").write_text("1")
    (top / "plain").write_text("1")
    (top / "secret").write_text("1")
    (top / "secret").chmod(0o4710)
    (top / "link").symlink_to("/etc")
    os.mkfifo(top / "pipe")
    if ROOT:
        for number, path in enumerate(sorted(top.rglob("*"))):
            os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
        os.chown(top / "plain", 1024, 1024)
        (top / "secret").chmod(0o4710)
    return top


def change(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if ROOT:
            os.chown(path, 1024, 1024, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o700)


def test_what_was_noted_is_given_back(tree: Path, tmp_path: Path) -> None:
    before, place = owners(tree), tmp_path / "kept" / "owners"
    status, said = run(keep_owners, path=str(tree), list=str(place))
    assert (status, len(said)) == (0, 1)
    assert "the owners of 8 entries" in said[0]
    assert place.stat().st_mode & 0o777 == 0o600
    change(tree)
    (tree / "new").write_text("")
    new = owners(tree)["new"]
    status, said = run(give_owners, path=str(tree), list=str(place))
    assert status == 0, said
    assert owners(tree) == {**before, "new": new}
    assert not place.exists()
    assert run(give_owners, path=str(tree), list=str(place))[0] == 0
    assert all("\n" not in line and "\x1b" not in line for line in said)


@pytest.mark.skipif(not ROOT, reason="nobody else can give owners")
def test_what_was_made_meanwhile_gets_the_owner_of_its_directory(tree: Path, tmp_path: Path) -> None:
    """Whoever wrote to a directory before can go on there, also in what ours has made in it."""
    inner = tree / "venv" / "é\x1b\n"
    (inner / "empty").mkdir()
    os.chown(inner / "empty", 1000, 1001)
    (tree / "of ours before").mkdir()
    os.chown(tree / "of ours before", 1024, 1024)
    (tree / "plain file of ours before").write_text("1")
    os.chown(tree / "plain file of ours before", 1024, 1024)
    before, place = owners(tree), tmp_path / "l"
    run(keep_owners, path=str(tree), list=str(place))
    change(tree)
    made = [
        inner / "new dir",
        inner / "new dir" / "a",
        inner / "empty" / "b",
        tree / "c",
        tree / "of ours before" / "d",
    ]
    made[0].mkdir()
    for path in made[1:]:
        path.write_text("1")
    (tree / "venv" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    for path in (*made, tree / "venv" / "link"):
        os.chown(path, 1024, 1024, follow_symlinks=False)
    (tree / "of root").write_text("1")
    os.chown(tmp_path / "outside", 1024, 1024)
    status, said = run(give_owners, path=str(tree), list=str(place), uid=1024, gid=1024)
    assert status == 0, said
    assert "5 made since" in said[-1]
    after = owners(tree)
    assert {name: after[name] for name in before} == before
    above = before["venv/é\x1b\n"][:2]
    assert [after[os.path.relpath(path, tree)][:2] for path in made] == [
        above, above, (1000, 1001), before["."][:2], (1024, 1024),
    ]  # fmt: skip
    assert after["venv/link"][:2] == before["venv"][:2]
    assert after["of root"][:2] == ME, "somebody else's"
    assert (tmp_path / "outside").stat().st_uid == 1024


def test_the_first_note_wins(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "l"
    run(keep_owners, path=str(tree), list=str(place))
    first = place.read_bytes()
    change(tree)
    status, said = run(keep_owners, path=str(tree), list=str(place))
    assert status == 0
    assert "noted already" in said[0]
    assert place.read_bytes() == first


def test_what_is_gone_or_something_else_is_passed_over(tree: Path, tmp_path: Path) -> None:
    place, outside = tmp_path / "l", tmp_path / "outside"
    run(keep_owners, path=str(tree), list=str(place))
    outside.mkdir()
    (outside / "é\x1b\n").mkdir()
    before = owners(outside)
    (tree / "plain").unlink()
    (tree / "plain").symlink_to(outside)
    (tree / "venv").rename(tree / "was")
    (tree / "venv").symlink_to(outside)
    status, said = run(give_owners, path=str(tree), list=str(place))
    assert status == 0
    assert "are gone" in said[-1]
    assert owners(outside) == before


def test_a_list_that_is_none(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"what?")
    before = owners(tree)
    status, said = run(give_owners, path=str(tree), list=str(tmp_path / "l"))
    assert (status, owners(tree)) == (1, before)
    assert "is no list of owners" in said[0]


# ---- names


def move(old: Path, new: Path, *, over_empty: bool = False) -> dict[str, object]:
    return {"from": str(old), "to": str(new), "over_empty": over_empty}


def test_names_change_and_change_back(tmp_path: Path) -> None:
    file, folder = tmp_path / "a b.yml", tmp_path / "dir"
    file.write_text("x")
    (folder / "in").mkdir(parents=True)
    (tmp_path / "dir2").mkdir()
    moves = [move(file, tmp_path / "a b.yml.before"), move(folder, tmp_path / "dir2", over_empty=True)]
    assert run(rename_path, moves=moves)[0] == 0
    assert (tmp_path / "a b.yml.before").read_text() == "x"
    assert (tmp_path / "dir2" / "in").is_dir()
    assert run(rename_path, moves=moves)[0] == 0, "once more, there is nothing left to do"
    assert run(rename_path, moves=[{"from": one["to"], "to": one["from"]} for one in moves])[0] == 0
    assert file.read_text() == "x"


@pytest.mark.parametrize("kind", ["file", "full", "link", "gone"])
def test_nothing_is_replaced(tmp_path: Path, kind: str) -> None:
    first, old, new = tmp_path / "first", tmp_path / "old", tmp_path / "new"
    first.write_text("1")
    if kind != "gone":
        old.write_text("old")
    if kind == "file":
        new.write_text("new")
    elif kind == "full":
        new.mkdir()
        (new / "x").touch()
    elif kind == "link":
        new.symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    moves = [move(first, tmp_path / "second"), move(old, new, over_empty=True)]
    status, said = run(rename_path, moves=moves)
    assert status == 1
    assert "nothing was renamed" in said[0]
    assert sorted(tmp_path.rglob("*")) == before, "nor was the first of them"


# ---- first copies


def test_the_first_copy_is_kept(tmp_path: Path) -> None:
    old, new = tmp_path / "webui.db", tmp_path / "webui.db.before"
    old.write_bytes(b"first" * 500_000)
    old.chmod(0o640)
    files = [{"from": str(tmp_path / "gone"), "to": str(tmp_path / "x")}, {"from": str(old), "to": str(new)}]
    assert run(copy_files, files=files)[0] == 0
    assert new.read_bytes() == old.read_bytes()
    assert (new.stat().st_mode, new.stat().st_mtime_ns) == (old.stat().st_mode, old.stat().st_mtime_ns)
    old.write_bytes(b"second")
    status, said = run(copy_files, files=files)
    assert status == 0
    assert "is kept" in said[-1]
    assert new.read_bytes().startswith(b"first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["webui.db", "webui.db.before"]


def test_no_copy_of_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert run(copy_files, files=[{"from": str(tmp_path / "d"), "to": str(tmp_path / "e")}])[0] == 1
    assert not (tmp_path / "e").exists()
