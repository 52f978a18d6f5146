"""Builds the stand-in GPU: NVML, nvidia-smi and the container toolkit, as a tree to lay over the lab host's root."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "src"
TOOLKIT = HERE / "toolkit"
VERSION = "590.48.01"
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
INSTALLED = {
    "hook.py": "usr/bin/nvidia-container-runtime-hook",
    "runtime.py": "usr/bin/nvidia-container-runtime",
    "ctk.py": "usr/bin/nvidia-ctk",
    "cli.sh": "usr/bin/nvidia-container-cli",
    "nvidia-cdi-refresh.service": "usr/lib/systemd/system/nvidia-cdi-refresh.service",
    "plant.sh": "usr/lib/lab/gpu/plant.sh",
}
LIBRARY_SOURCES = ("nvml.c", "state.c")
SMI_SOURCES = ("smi.c", "smi_show.c", "smi_query.c")
# No _GNU_SOURCE and no newer C: on glibc 2.38 they bind strtoul to a symbol that older containers lack.
FLAGS = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra")


def inputs() -> list[Path]:
    """The files that decide what `build` makes."""
    return sorted([Path(__file__).resolve(), *SOURCE.glob("*.[ch]"), *(TOOLKIT / name for name in INSTALLED)])


def commands(source: str, out: str, version: str = VERSION) -> list[list[str]]:
    """The compiler's argument lists, for a source folder and an output root as the compiler sees them."""
    library = f"{out}/{LIBRARIES}/libnvidia-ml.so.{version}"
    branch = f"r{version.partition('.')[0]}_00"
    names = {"LIBRARY_VERSION": version, "LIBRARY_BRANCH": branch, "SMI_VERSION": version}
    defined = [f'-D{name}="{value}"' for name, value in names.items()]
    shared = ("-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1")
    return [
        ["gcc", *FLAGS, *defined, *shared, "-o", library, *(f"{source}/{name}" for name in LIBRARY_SOURCES)],
        [
            "gcc",
            *FLAGS,
            *defined,
            "-o",
            f"{out}/usr/bin/nvidia-smi",
            *(f"{source}/{name}" for name in SMI_SOURCES),
            "-ldl",
        ],
    ]


def build(out: Path, base_image: str, version: str = VERSION) -> None:
    """Writes the tree into `out`; compiles with the workstation's gcc, or in a container of `base_image` without one.

    Raises subprocess.CalledProcessError, with the compiler's words in its stderr.
    """
    (out / LIBRARIES).mkdir(parents=True, exist_ok=True)
    for name, target in INSTALLED.items():
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOOLKIT / name, out / target)
        (out / target).chmod(0o755 if "bin/" in target or target.endswith(".sh") else 0o644)
    if platform.system() == "Linux" and platform.machine() == "x86_64" and shutil.which("gcc"):
        for command in commands(str(SOURCE), str(out), version):
            subprocess.run(command, check=True, capture_output=True, text=True)
    else:
        _compile_in_container(out, base_image, version)
    link = out / LIBRARIES / "libnvidia-ml.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(f"libnvidia-ml.so.{version}")
    (out / "usr/lib/lab/gpu/driver").write_text(f"{version} open\n")  # of which /usr/lib/lab/kernel builds the module


def _compile_in_container(out: Path, base_image: str, version: str) -> None:
    """Through `docker cp`, not bind mounts: an engine in a virtual machine does not see the workstation's folders."""
    script = "set -e; apt-get update -qq; apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null; "
    script += f"mkdir -p /out/usr/bin /out/{LIBRARIES}; "
    script += "; ".join(shlex.join(command) for command in commands("/src", "/out", version))
    create = ["docker", "create", "--env", "DEBIAN_FRONTEND=noninteractive", base_image, "sh", "-c", script]
    container = subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()
    try:
        for command in (
            ["docker", "cp", str(SOURCE), f"{container}:/src"],
            ["docker", "start", "--attach", container],
            ["docker", "cp", f"{container}:/out/.", str(out)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        subprocess.run(["docker", "rm", "-f", container], check=False, capture_output=True)
