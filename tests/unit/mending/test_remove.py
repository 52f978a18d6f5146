"""The removal, on real files: exactly what was named goes, and nothing that is or may be a user's."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import remove
from pantheon.mending.folders import DIRECTORY
from tests.unit import programs

BLOB = f"models/blobs/sha256-{'0f' * 32}-partial"
OLD = int(time.time()) - 7200


def write(path: Path, *, when: int = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (when, when))
    return path


def venv(path: Path) -> Path:
    write(path / "lib" / "python3.12" / "torch.so")
    write(path / "pyvenv.cfg")
    (path / "lib64").symlink_to("/usr")
    return path


def item(root: Path, path: str, **changes: Any) -> dict[str, Any]:
    return {"path": path, "mtime": int((root / path).lstat().st_mtime)} | changes


def run(root: Path | str, rule: str, *items: dict[str, Any]) -> tuple[int, str]:
    """As it runs on a host: a program of its own."""
    arguments = {"rule": rule, "root": str(root), "items": list(items)}
    done = subprocess.run(programs.argv(remove, arguments), capture_output=True, timeout=30, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def test_what_is_left_of_downloads(tmp_path: Path) -> None:
    paths = [BLOB, f"{BLOB}-12", "HF/hub/a b/ü.incomplete", "cache/x.incomplete"]
    for path in paths:
        write(tmp_path / path)
    model = write(tmp_path / BLOB.removesuffix("-partial"))
    items = [item(tmp_path, path) for path in paths]
    status, said = run(tmp_path, "partial", *items)
    assert status == 0, said
    assert said.count("removed") == len(paths)
    assert not any((tmp_path / path).exists() for path in paths)
    assert model.exists()
    status, said = run(tmp_path, "partial", *items)
    assert (status, said.count("is gone already")) == (0, len(paths)), "again, after it was cut short"


@pytest.mark.parametrize(
    "path",
    [
        "models/blobs/sha256-abc",
        f"models/blobs/sha256-{'0f' * 32}",
        f"x/{BLOB}",
        "ComfyUI/models/vae/mine.incomplete",
        "HF/../ComfyUI/x.incomplete",
        "HF//x.incomplete",
        "/etc/passwd",
        "HF/x.incomplete\n",
        "",
        "venv-old",
    ],
)
def test_a_path_that_its_rule_does_not_know(tmp_path: Path, path: str) -> None:
    write(tmp_path / "ComfyUI" / "x.incomplete")
    write(tmp_path / "HF" / "x.incomplete")
    before = sorted(tmp_path.rglob("*"))
    status, said = run(tmp_path, "partial", {"path": path, "mtime": OLD})
    assert status == 1
    assert "it is not what is to be removed here" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_one_that_was_written_to_since(tmp_path: Path) -> None:
    file = write(tmp_path / BLOB)
    assert "written to since" in run(tmp_path, "partial", item(tmp_path, BLOB, mtime=OLD - 1))[1]
    write(file, when=int(time.time()) - 60)
    assert "left for an hour" in run(tmp_path, "partial", item(tmp_path, BLOB))[1]
    assert file.exists()


def test_one_that_a_process_has_open(tmp_path: Path) -> None:
    file = write(tmp_path / BLOB)
    with file.open():
        status, said = run(tmp_path, "partial", item(tmp_path, BLOB))
    assert (status, file.exists()) == (1, True)
    assert "a process has it open" in said


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere" / "x.incomplete")
    root = tmp_path / "root"
    root.mkdir()
    (root / "HF").symlink_to(elsewhere.parent)
    assert run(root, "partial", {"path": "HF/x.incomplete", "mtime": OLD})[0] == 1
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (root / "cache").mkdir()
    (root / "cache" / "y.incomplete").symlink_to(elsewhere)
    assert run(root, "partial", item(root, "cache/y.incomplete"))[0] == 1
    (tmp_path / "to-root").symlink_to(root)
    write(root / "cache" / "z.incomplete")
    assert run(tmp_path / "to-root", "partial", item(root, "cache/z.incomplete"))[0] == 1
    assert elsewhere.exists()
    assert (root / "cache" / "z.incomplete").exists()


@pytest.mark.parametrize("root", ["/", "/home", "relative/x", "/a/../b", "/tmp//x", ""])
def test_a_root_that_is_none(root: str) -> None:
    status, said = run(root, "partial", {"path": "cache/y.incomplete", "mtime": OLD})
    assert (status, "no place to remove anything from" in said or "No such file" in said) == (1, True)


def test_an_old_environment(tmp_path: Path) -> None:
    old, used, other = venv(tmp_path / "venv-cuda12.4"), venv(tmp_path / "venv"), venv(tmp_path / "venv-kept")
    status, said = run(tmp_path, "venv", item(tmp_path, old.name))
    assert (status, said) == (0, f"{old}: removed\n")
    assert not old.exists()
    assert (used / "pyvenv.cfg").exists()
    assert (other / "pyvenv.cfg").exists()
    assert Path("/usr/bin").exists(), "a link inside is removed, not followed"


def test_one_that_was_cut_short_still_shows_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of an environment goes last, and a new plan finds it by that."""
    old = venv(tmp_path / "venv-old")
    gone: list[str] = []
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        gone.append(name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    folder = os.open(old, DIRECTORY)
    try:
        remove.empty(folder, last="pyvenv.cfg")
    finally:
        os.close(folder)
    assert sorted(gone) == ["lib64", "pyvenv.cfg", "torch.so"]
    assert gone[-1] == "pyvenv.cfg"


def test_an_environment_with_something_of_a_users_in_it(tmp_path: Path) -> None:
    old, _ = venv(tmp_path / "venv-old"), venv(tmp_path / "venv")
    write(old / "my-workflows" / "a.json")
    status, said = run(tmp_path, "venv", item(tmp_path, "venv-old"))
    assert status == 1
    assert "'my-workflows' in it is no part of a virtual environment" in said
    assert (old / "my-workflows" / "a.json").exists()
    assert (old / "pyvenv.cfg").exists()


@pytest.mark.parametrize("missing", ["venv", "venv/pyvenv.cfg", "venv-old/pyvenv.cfg"])
def test_what_is_no_environment_or_the_only_one(tmp_path: Path, missing: str) -> None:
    old, used = venv(tmp_path / "venv-old"), venv(tmp_path / "venv")
    if missing == "venv":
        used.rename(tmp_path / "elsewhere")
        used.symlink_to("venv-old")  # it is the one in use
    else:
        (tmp_path / missing).unlink()
    status, said = run(tmp_path, "venv", item(tmp_path, "venv-old"))
    assert (status, "is no virtual environment" in said) == (1, True)
    assert (old / "lib").is_dir()


def test_one_that_a_process_works_in(tmp_path: Path) -> None:
    old, _ = venv(tmp_path / "venv-old"), venv(tmp_path / "venv")
    sleeper = subprocess.Popen(["sleep", "30"], cwd=old / "lib")
    try:
        status, said = run(tmp_path, "venv", item(tmp_path, "venv-old"))
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (status, "a process uses it" in said) == (1, True)
    assert (old / "lib" / "python3.12" / "torch.so").exists()


def test_a_mount_point_in_it(tmp_path: Path) -> None:
    root = venv(tmp_path / "venv-old").parent
    venv(root / "venv")
    mounts = [f"{root}/venv-old/lib"]
    with pytest.raises(remove.Refused, match="mount point"):
        remove.remove("venv", str(root), "venv-old", int((root / "venv-old").stat().st_mtime), set(), mounts)


def test_some_are_left_alone_and_the_others_go(tmp_path: Path) -> None:
    write(tmp_path / BLOB)
    write(tmp_path / f"{BLOB}-0", when=int(time.time()))
    status, said = run(tmp_path, "partial", item(tmp_path, BLOB), item(tmp_path, f"{BLOB}-0"))
    assert status == 0
    assert "left alone:" in said
    assert not (tmp_path / BLOB).exists()
    assert (tmp_path / f"{BLOB}-0").exists()
