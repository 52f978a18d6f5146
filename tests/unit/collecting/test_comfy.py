from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pantheon import evidence
from pantheon.collecting import comfy
from pantheon.evidence import ComfyTree
from pantheon.facts import decode
from pantheon.looks.text import Unread
from tests.unit.looks.fakes import FakeDocker, framed

MNT = "/mnt/nvme/comfy mnt"
SPEC: dict[str, Any] = {"comfy_mnt": MNT}
ROOTS = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "proc/self/mountinfo", ROOTS)
    (tmp_path / MNT[1:]).mkdir(parents=True)
    return tmp_path


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def clone(root: Path) -> Path:
    for name in ("main.py", "requirements.txt", ".git/HEAD", ".git/index"):
        put(root / MNT[1:] / "ComfyUI" / name)
    return root / MNT[1:] / "ComfyUI"


def venv(root: Path) -> Path:
    folder = root / MNT[1:] / "venv"
    put(folder / "bin/activate")
    (folder / "bin/python3").symlink_to("/usr/bin/python3-of-the-image")
    put(folder / "pyvenv.cfg", "home = /usr/bin\nversion = 3.12.3\n")
    put(folder / ".build_base.txt", "ubuntu24_cuda13.1\n")
    package(folder, "torch-2.9.1+cu130", "functorch\ntorch\n", "torch")
    put(site(folder) / "torch/version.py", "__version__ = '2.9.1+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n")
    package(folder, "torchvision-0.24.1+cu130", "torchvision\n", "torchvision")
    return folder


def site(folder: Path) -> Path:
    return folder / "lib/python3.12/site-packages"


def package(folder: Path, name: str, top: str, *there: str, record: str = "") -> None:
    put(site(folder) / f"{name}.dist-info" / "RECORD", record)
    if top:
        put(site(folder) / f"{name}.dist-info" / "top_level.txt", top)
    for module in there:
        put(site(folder) / module / "__init__.py")


def look(root: Path) -> ComfyTree:
    found = decode(ComfyTree, comfy.tree(SPEC, str(root)), "comfy")
    assert isinstance(found, ComfyTree)
    return found


def test_as_a_first_run_leaves_it(root: Path) -> None:
    clone(root)
    venv(root)
    assert look(root) == ComfyTree(
        "complete",
        "complete",
        venv_python="3.12",
        venv_cuda="13.0",
        torch=("torch 2.9.1+cu130", "torchvision 0.24.1+cu130"),
        build_base="ubuntu24_cuda13.1",
    )


def test_before_a_first_run(root: Path) -> None:
    assert look(root) == ComfyTree("missing", "missing")
    (root / MNT[1:]).rmdir()
    assert comfy.tree(SPEC, str(root)) is None


@pytest.mark.parametrize(
    ("name", "state", "detail"),
    [
        ("main.py", "broken", "no main.py"),
        ("requirements.txt", "broken", "no requirements.txt"),
        (".git/HEAD", "broken", "no .git/HEAD"),
        (".git/index", "broken", "no .git/index"),
    ],
)
def test_a_clone_that_is_not_whole(root: Path, name: str, state: str, detail: str) -> None:
    (clone(root) / name).unlink()
    found = look(root)
    assert (found.clone, found.clone_detail) == (state, detail)


def test_other_clones(root: Path) -> None:
    folder = root / MNT[1:] / "ComfyUI"
    folder.mkdir()
    assert look(root).clone == "empty"
    folder.rmdir()
    folder.write_text("")
    assert look(root).clone == "broken"
    folder.unlink()
    folder.symlink_to("/etc")
    assert look(root).clone == "link"
    folder.unlink()
    clone(root)
    (folder / ".git").rename(folder / "git")
    put(folder / ".git", "gitdir: ../git\n")  # a worktree has a file there
    assert look(root).clone == "complete"


@pytest.mark.parametrize("name", ["bin/activate", "bin/python3", "lib"])
def test_an_environment_that_is_not_whole(root: Path, name: str) -> None:
    path = venv(root) / name
    path.rename(root / "gone")
    found = look(root)
    assert found.venv == "broken"
    assert name in found.venv_detail


def test_an_environment_of_another_python(root: Path) -> None:
    put(venv(root) / "pyvenv.cfg", "version = 3.13.1\n")
    found = look(root)
    assert (found.venv, found.venv_detail) == ("broken", "no lib/python3.13")


def test_packages_whose_files_are_gone(root: Path) -> None:
    folder = venv(root)
    package(folder, "aiohttp-3.9", "aiohttp\n")
    package(folder, "numpy-2.0", "", record="numpy/__init__.py,,\n../../../bin/f2py,,\nnumpy-2.0.dist-info/RECORD,,\n")
    package(folder, "cffi-1.17", "_cffi_backend\ncffi\n", "cffi")
    package(folder, "six-1.17", "six\n")
    put(site(folder) / "six.py")
    package(folder, "only_data-1", "", record="only_data-1.dist-info/RECORD,,\n")
    assert look(root).missing_modules == ("aiohttp", "numpy")


def test_the_cuda_of_torch(root: Path) -> None:
    folder = venv(root)
    put(site(folder) / "torch/version.py", "import os\nos.system('id')\n")
    assert look(root).venv_cuda == "13.0"  # by its version, then
    put(site(folder) / "torch/version.py", "cuda: Optional[str] = '12.8'\n")
    assert look(root).venv_cuda == "12.8"


def test_old_environments(root: Path) -> None:
    for name in ("venv-ubuntu24_cuda12.9", "venv-\x1b[31m"):
        (root / MNT[1:] / name).mkdir()
    assert look(root).old_venvs == ("venv-\\x1b[31m", "venv-ubuntu24_cuda12.9")


def test_hostile_trees(root: Path) -> None:
    folder = venv(root)
    (site(folder) / "torch/version.py").unlink()
    os.mkfifo(site(folder) / "torch/version.py")
    os.mkfifo(site(folder) / "torch-2.9.1+cu130.dist-info" / "fifo")
    (folder / "pyvenv.cfg").unlink()
    (folder / "pyvenv.cfg").symlink_to("/etc/passwd")
    put(folder / ".build_base.txt", "\x1b[2J" + "x" * 10_000)
    put(site(folder) / "x-1.dist-info" / "top_level.txt", "../../etc\n-rf\n\x1b\n" * 50_000)
    found = look(root)
    assert found.venv == "complete"
    assert found.venv_python is None
    assert found.build_base == "x" * 100
    assert found.missing_modules == ()


def test_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    venv(root).rename(real)
    (root / MNT[1:] / "venv").symlink_to(real)
    assert look(root).venv == "link"


def test_a_network_mount_is_not_looked_into(root: Path) -> None:
    put(root / "proc/self/mountinfo", ROOTS + "2 1 0:9 / /mnt/nvme rw - nfs4 atlas:/x rw\n")
    with pytest.raises(Unread):
        comfy.tree(SPEC, str(root))


def test_what_overrides_say(root: Path) -> None:
    paths = [f"/opt/{name}" for name in ("a.yaml", "b.yaml", "c.yaml", "d.yaml")]
    put(
        root / "opt/a.yaml",
        "services:\n  comfy:\n    volumes:\n      - /srv:/comfy/mnt/l\x1b[2J\n      # - /comfy/mnt/x\n",
    )
    put(root / "opt/b.yaml", "services: {}\n")
    (root / "opt/d.yaml").mkdir()
    found = comfy.overrides({"overrides": paths}, str(root))
    assert found["/opt/a.yaml"] == ["- /srv:/comfy/mnt/l"]
    assert found["/opt/b.yaml"] == []
    assert found["/opt/c.yaml"] is None
    assert set(found["/opt/d.yaml"]) == {"unknown"}
    read = evidence.parse({"schema": 1, "overrides": found})
    assert read.overrides["/opt/a.yaml"] == ("- /srv:/comfy/mnt/l",)


@pytest.fixture
def docker() -> Iterator[tuple[FakeDocker, str]]:
    root = Path(tempfile.mkdtemp(prefix="p"))  # the path of a socket has room for 107 bytes
    server = FakeDocker(root / "var/run/docker.sock")
    yield server, str(root)
    server.shutdown()
    server.server_close()
    shutil.rmtree(root)


LOG = framed(b"=== Starting script\n", b"the key is hunter22\x1b[2J\n", b"!! ERROR: Torch installation failed\n")


@pytest.mark.parametrize(
    ("restarts", "expected"),
    [(0, None), (3, ["=== Starting script", "the key is ***", "!! ERROR: Torch installation failed"])],
)
def test_the_start_before_this_one(docker: tuple[FakeDocker, str], restarts: int, expected: object) -> None:
    server, root = docker
    started = {"StartedAt": "2026-11-21T10:00:00.5Z", "FinishedAt": "2026-11-21T09:59:00Z"}
    made = server.container("comfy", log=(200, LOG), State=started, Config={"Env": ["HF_TOKEN=hunter22"]})
    made["RestartCount"] = restarts
    assert comfy.before({}, root) == expected
    asked = [path for path in server.asked if "/logs?" in path]
    assert bool(asked) is bool(expected)
    assert all("until=1795255200.25" in path for path in asked)


def test_the_start_before_of_somebody_elses(docker: tuple[FakeDocker, str]) -> None:
    server, root = docker
    started = {"StartedAt": "2026-11-21T10:00:00.5Z", "FinishedAt": "2026-11-21T09:59:00Z"}
    image = "mmartial/comfyui-nvidia-docker:latest"
    for name, its in (("my-comfyui", image), ("comfy", image), ("db", "postgres"), ("mine", "lab/own")):
        made = server.container(name, log=(200, LOG), State=started, Config={"Env": ["HF_TOKEN=hunter22"]})
        made["RestartCount"] = 3
        server.routes["/containers/json"][1][-1].update(Image=its, State="restarting")  # type: ignore[index]
    found = comfy.others_before({"images": {"comfy": "lab/own"}}, root)
    assert sorted(found) == ["mine", "my-comfyui"]
    read = evidence.parse({"schema": 1, "others_before": found})
    before = read.others_before["my-comfyui"]
    assert isinstance(before, tuple)
    assert before[-1] == "!! ERROR: Torch installation failed"


def test_no_comfyui_at_all(docker: tuple[FakeDocker, str]) -> None:
    assert comfy.before({}, docker[1]) is None
