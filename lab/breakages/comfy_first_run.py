"""What is left of a first run of ComfyUI that broke off, and of environments that no longer fit."""

from __future__ import annotations

from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "comfy-first-run"
MNT = "/mnt/local/nvme/ai/services/comfy-mnt"
SITE = f"{MNT}/venv/lib/python3.12/site-packages"
LOGS = ("docker", "logs", "--tail=40", "comfy")


def empty_clone(lab: Lab) -> None:
    """Somebody made the directory ahead of the first run, to put models into it later."""
    lab.sh(
        """
        docker stop comfy
        rm -rf "$1/ComfyUI" && install -d -o1024 -g1024 "$1/ComfyUI"
        docker start comfy
        """,
        MNT,
    )


def broken_clone(lab: Lab) -> None:
    """A power cut in the middle of `git pull`; a custom node and a workflow of the user's lie in it."""
    lab.sh(
        """
        docker stop comfy
        cd "$1/ComfyUI"
        mkdir -p custom_nodes/my-node user/default/workflows
        echo 'NODE_CLASS_MAPPINGS = {}' >custom_nodes/my-node/__init__.py
        echo '{}' >'user/default/workflows/a picture.json'
        chown -R 1024:1024 custom_nodes user
        : >.git/HEAD
        rm -f .git/index main.py
        docker start comfy
        """,
        MNT,
    )


def kept(lab: Lab) -> None:
    """Nothing of the user's was lost. Runs at the end of a drill that mended it, and after one that did not."""
    lab.sh(
        """
        [ ! -e "$1/ComfyUI/main.py" ] || test -e "$1/ComfyUI/custom_nodes/my-node/__init__.py"
        [ ! -e "$1/ComfyUI/main.py" ] || test -e "$1/ComfyUI/user/default/workflows/a picture.json"
        rm -rf "$1"/ComfyUI.broken-*
        """,
        MNT,
    )


def other_cuda(lab: Lab) -> None:
    """A custom node brought a newer torch, of CUDA 12: pip has it for the better one, and leaves it."""
    lab.sh(
        """
        docker stop comfy
        cd "$1"
        mv torch-*.dist-info torch-2.10.0+cu128.dist-info
        printf '%s\\n' "__version__ = '2.10.0+cu128'" "cuda: Optional[str] = '12.8'" >torch/version.py
        chown 1024:1024 torch/version.py
        docker start comfy
        """,
        SITE,
    )


def without_old(lab: Lab) -> None:
    lab.sh('rm -rf "$1"/venv-broken-* "$1"/venv/set-aside-*', MNT)


def half_installed(lab: Lab) -> None:
    """pip was killed while it replaced a package: its record is there, the package is not."""
    lab.sh('docker stop comfy && rm -r "$1/aiohttp" && docker start comfy', SITE)


def dead_venv(lab: Lab) -> None:
    """A clean-up that went too far."""
    lab.sh('docker stop comfy && rm -r "$1/venv/bin" && docker start comfy', MNT)


BREAKAGES = (
    Breakage(
        ENTRY,
        "empty",
        "ComfyUI/ is an empty directory",
        empty_clone,
        Proof(LOGS, "fatal: not a git repository (or any parent up to mount point /comfy)"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "clone",
        "the clone is broken, with a custom node and a workflow in it",
        broken_clone,
        Proof(LOGS, "fatal: not a git repository"),
        heal=kept,
    ),
    Breakage(
        ENTRY,
        "cuda",
        "torch and torchvision are of different CUDAs",
        other_cuda,
        Proof(LOGS, "were compiled with different CUDA major versions"),
        heal=without_old,
        slow=True,
    ),
    Breakage(
        ENTRY,
        "module",
        "a package is gone that pip has a record of",
        half_installed,
        Proof(LOGS, "ModuleNotFoundError: No module named 'aiohttp'"),
        heal=without_old,
        slow=True,
    ),
    Breakage(
        ENTRY,
        "venv",
        "the virtual environment has lost its programs",
        dead_venv,
        Proof(LOGS, "virtualenv not created, please erase any venv directory"),
        heal=without_old,
        slow=True,
    ),
)
