from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import comfy_tree
from tests.unit import programs

ME = (os.getuid(), os.getgid())


@pytest.fixture
def mnt(tmp_path: Path) -> Path:
    site = tmp_path / "mnt é" / "venv" / "lib" / "python3.12" / "site-packages"
    (site / "torch").mkdir(parents=True)
    (tmp_path / "mnt é" / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.3\n")
    record(site, "torch-2.9.1+cu130", "functorch\ntorch\n")
    record(site, "aiohttp-3.9", "aiohttp\n")
    record(site, "pip-25", "", files="pip/__init__.py,,\n../../../bin/pip,,\npip-25.dist-info/RECORD,,\n")
    return tmp_path / "mnt é"


def record(site: Path, name: str, top: str, *, files: str = "") -> None:
    (site / f"{name}.dist-info").mkdir()
    (site / f"{name}.dist-info" / "RECORD").write_text(files)
    if top:
        (site / f"{name}.dist-info" / "top_level.txt").write_text(top)


def run(mnt: Path, **arguments: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    given = {"path": str(mnt), "uid": ME[0], "gid": ME[1], "clone": "", "venv": "", "modules": [], **arguments}
    return comfy_tree.main(json.dumps(given), said.append), said


def names(folder: Path) -> set[str]:
    return {re.sub(r"-\d{8}-\d{6}", "-DATE", path.name) for path in folder.iterdir()}


def site(mnt: Path) -> set[str]:
    return names(mnt / "venv" / "lib" / "python3.12" / "site-packages")


def test_an_empty_clone_goes(mnt: Path) -> None:
    (mnt / "ComfyUI").mkdir()
    assert run(mnt, clone="empty")[0] == 0
    assert names(mnt) == {"venv"}
    assert run(mnt, clone="empty") == (0, [])


def test_one_that_is_not_empty_any_more_stays(mnt: Path) -> None:
    (mnt / "ComfyUI").mkdir()
    (mnt / "ComfyUI" / "main.py").write_text("")
    status, said = run(mnt, clone="empty")
    assert status == 1
    assert said == ["ComfyUI: Directory not empty; it was empty when this was planned"]
    assert (mnt / "ComfyUI" / "main.py").exists()


def test_a_broken_clone_is_renamed_whatever_it_is(mnt: Path) -> None:
    (mnt / "ComfyUI").write_text("a file")
    assert run(mnt, clone="aside")[0] == 0
    assert names(mnt) == {"venv", "ComfyUI.broken-DATE"}
    assert run(mnt, clone="aside") == (0, [])


def test_twice_within_a_second(mnt: Path) -> None:
    for _ in range(2):
        (mnt / "ComfyUI").mkdir()
        assert run(mnt, clone="aside")[0] == 0
    assert len([path for path in mnt.iterdir() if path.name.startswith("ComfyUI.broken-")]) == 2


def test_an_environment_is_renamed(mnt: Path) -> None:
    assert run(mnt, venv="aside")[0] == 0
    assert names(mnt) == {"venv-broken-DATE"}
    assert run(mnt, venv="aside", modules=["x"]) == (0, [])


@pytest.mark.parametrize("module", ["aiohttp", "aiohttp.web", "torch.utils", "pip"])
def test_a_package_whose_record_is_wrong_is_installed_again(mnt: Path, module: str) -> None:
    before = site(mnt)
    status, said = run(mnt, modules=[module])
    assert status == 0
    assert len(said) == 1
    (gone,) = before - site(mnt)
    assert gone.startswith(module.split(".")[0])
    (folder,) = (path for path in (mnt / "venv").iterdir() if path.name.startswith("set-aside-"))
    assert names(folder) == {gone}
    assert (folder.stat().st_uid, folder.stat().st_gid) == ME


def test_run_again_after_it_was_cut_short_it_does_nothing_more(mnt: Path) -> None:
    assert run(mnt, modules=["aiohttp"])[0] == 0
    assert run(mnt, modules=["aiohttp"]) == (0, [])
    assert "venv" in names(mnt)


@pytest.mark.parametrize("module", ["torch", "nobody_has_it"])
def test_where_no_record_explains_it_the_environment_is_made_anew(mnt: Path, module: str) -> None:
    assert run(mnt, modules=[module])[0] == 0
    assert names(mnt) == {"venv-broken-DATE"}


def test_another_python_than_the_one_it_was_made_for(mnt: Path) -> None:
    (mnt / "venv" / "pyvenv.cfg").write_text("version = 3.13.0\n")
    assert run(mnt, modules=["aiohttp"])[0] == 0
    assert names(mnt) == {"venv-broken-DATE"}


@pytest.mark.parametrize("arguments", [{"modules": ["aiohttp"]}, {"venv": "aside"}, {"clone": "aside"}])
def test_nothing_behind_a_link_is_touched(mnt: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    outside = tmp_path / "outside"
    (mnt / "venv").rename(outside)
    (mnt / "venv").symlink_to(outside)
    (mnt / "ComfyUI").symlink_to(outside)
    before = {str(path) for path in outside.rglob("*")}
    assert run(mnt, **arguments)[0] == 0
    assert {str(path) for path in outside.rglob("*")} == before
    (tmp_path / "link").symlink_to(mnt)
    status, said = run(tmp_path / "link", **arguments)
    assert (status, said) == (1, [f"{tmp_path / 'link'} is no directory of its own"])


def test_it_runs_alone(mnt: Path) -> None:
    argv = programs.argv(comfy_tree, {"path": str(mnt), "uid": ME[0], "gid": ME[1], "venv": "aside"})
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"venv is venv-broken-\d{8}-\d{6} now\n", done.stdout)
