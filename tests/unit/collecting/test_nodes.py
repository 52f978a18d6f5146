"""ComfyUI's custom nodes, as git itself made them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import nodes
from pantheon.facts import Unknown, decode
from pantheon.upkeep import CustomNode

MNT = "/mnt/nvme/comfy mnt"
ROOTS = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(ROOTS)
    made = tmp_path / MNT[1:] / "ComfyUI" / "custom_nodes"
    made.mkdir(parents=True)
    return made


def git(at: Path, *argv: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(at.parents[4]), "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-C", str(at), *argv],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def checkout(folder: Path, name: str, *, detached: bool = False) -> Path:
    made = folder / name
    (made / "sub dir").mkdir(parents=True)
    (made / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (made / "sub dir" / "é.py").write_text("x = 1\n")
    (made / "empty").write_text("")
    (made / "link").symlink_to("/nowhere")
    git(made, "init", "-q")
    git(made, "add", "-A")
    git(made, "commit", "-qm", "one")
    if detached:
        git(made, "checkout", "-q", "--detach")
    return made


def read(tmp_path: Path) -> list[CustomNode] | None:
    found: Any = nodes.custom_nodes({"comfy_mnt": MNT}, str(tmp_path))
    return None if found is None else [decode(CustomNode, one, "node") for one in found]  # type: ignore[misc]


def test_no_comfyui_yet(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(ROOTS)
    assert read(tmp_path) is None


def test_what_is_no_node(tmp_path: Path, folder: Path) -> None:
    for name in ("__pycache__", ".git", "off.disabled"):
        (folder / name).mkdir()
    (folder / "websocket_image_save.py").write_text("")
    assert read(tmp_path) == []


def test_on_a_branch_and_on_a_commit(tmp_path: Path, folder: Path) -> None:
    one, two = checkout(folder, "a node"), checkout(folder, "b", detached=True)
    assert read(tmp_path) == [
        CustomNode("a node", True, "main", git(one, "rev-parse", "HEAD"), 0),
        CustomNode("b", True, "", git(two, "rev-parse", "HEAD"), 0),
    ]


def test_a_branch_that_is_packed(tmp_path: Path, folder: Path) -> None:
    one = checkout(folder, "a")
    commit = git(one, "rev-parse", "HEAD")
    git(one, "pack-refs", "--all")
    assert not (one / ".git/refs/heads/main").exists()
    (found,) = read(tmp_path) or []
    assert found.commit == commit


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda at: (at / "__init__.py").write_text("another\n"), 1),
        (lambda at: (at / "__init__.py").write_text("NODE_CLASS_MAPPINGS = []\n"), 1),  # of the same length
        (lambda at: os.utime(at / "__init__.py", (1, 1)), 0),  # only touched
        (lambda at: (at / "sub dir" / "é.py").unlink(), 1),
        (lambda at: (at / "new.py").write_text(""), 0),  # pip and Python leave such
        (lambda at: ((at / "empty").unlink(), (at / "empty").mkdir()), 1),
        (lambda at: ((at / "link").unlink(), (at / "link").write_text("")), 1),
    ],
)
def test_what_was_changed(tmp_path: Path, folder: Path, change: Any, changed: int) -> None:
    at = checkout(folder, "a")
    os.utime(at / "__init__.py", (2_000_000_000, 2_000_000_000))
    git(at, "update-index", "--refresh")
    change(at)
    (found,) = read(tmp_path) or []
    assert found.changed == changed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "unpack_from requires"), (b"DIRC\0\0\0\4\0\0\0\1", "an index of version 4"), (None, "it has no index"),
        (b"DIRC\0\0\0\2\0\0\0\x09" + b"\0" * 40, "unpack_from requires"), (b"X" * 100, "an index of version"),
        (b"DIRC\0\0\0\2\xff\xff\xff\xff", "4294967295 files: not looked at"),
    ],
)  # fmt: skip
def test_an_index_that_is_none(tmp_path: Path, folder: Path, text: bytes | None, reason: str) -> None:
    index = checkout(folder, "a") / ".git" / "index"
    index.unlink()
    if text is not None:
        index.write_bytes(text)
    (found,) = read(tmp_path) or []
    assert isinstance(found.changed, Unknown)
    assert reason in found.changed.reason


def test_hostile(tmp_path: Path, folder: Path) -> None:
    """A HEAD that leads out of the repository, a link to elsewhere, a name that would move a terminal's cursor."""
    one = checkout(folder, "a")
    (one / ".git/HEAD").write_text("ref: refs/heads/../../../../../../etc/passwd\n")
    (folder / "b").symlink_to("/etc")
    (folder / "c\x1b[2J").mkdir()
    (folder / "d").mkdir()
    (folder / "d" / "pyproject.toml").write_text('[project]\nversion = "1.4.2"\n')
    found = read(tmp_path) or []
    assert [(one.name, one.git, one.commit, one.version) for one in found] == [
        ("a", True, "", ""), ("b", False, "", ""), ("c\\x1b[2J", False, "", ""), ("d", False, "", "1.4.2"),
    ]  # fmt: skip


def test_git_is_not_run(tmp_path: Path, folder: Path) -> None:
    """Its configuration could name a program, which would run as root here."""
    one = checkout(folder, "a")
    git(one, "config", "core.fsmonitor", f"touch {tmp_path}/ran; true")
    read(tmp_path)
    assert not (tmp_path / "ran").exists()
