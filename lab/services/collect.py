"""Runs in the builder stage: copies chosen packages, and the libraries they need, into /layers/NAME.

A file that an earlier layer of the same image has is not copied again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

LAYERS = Path("/layers")
SHELL = (
    "base-files", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep", "hostname",
    "libc-bin", "libpam-modules", "libpam-modules-bin", "libpam-runtime", "login", "mawk", "mount", "ncurses-base",
    "passwd", "procps", "sed", "util-linux",
)  # fmt: skip
WEB = ("curl",)
SUDO = ("sudo",)
JQ = ("jq",)
EXTRA = (
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/pam.d", "/etc/nsswitch.conf", "/etc/login.defs",
    "/usr/bin/awk",
)  # fmt: skip
SKIPPED = re.compile(r"/usr/share/(?!terminfo/)|/usr/(src|include)/|/usr/lib/(systemd|tmpfiles\.d)/|/var/|/etc/cron")
# What the three services never import. Without _ssl and _hashlib no OpenSSL is needed: hashlib has its own SHA-256.
UNUSED = re.compile(
    r"(^|/)(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|distutils|pydoc_data|unittest|xmlrpc|wsgiref|curses"
    r"|dbm|config-[^/]*|__pycache__|multiprocessing|asyncio|lib-dynload/_(ssl|hashlib|curses\w*|dbm|crypt|codecs_\w+"
    r"|testcapi|xxtestfuzz|decimal)\.[^/]*)(/|$)"
)
# Opened by name at run time, so no program names them.
OPENED = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")


def package_files(packages: Iterable[str]) -> Iterator[str]:
    for package in packages:
        if subprocess.run(["dpkg", "-L", package], capture_output=True, check=False).returncode:
            continue  # util-linux and login divide their programs differently in Debian and Ubuntu
        listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout
        yield from (path for path in listed.splitlines() if path.startswith("/") and not SKIPPED.match(path))


def libraries(files: Iterable[Path]) -> set[str]:
    """The shared libraries, and the loader, that these programs and modules name."""
    programs = [str(path) for path in files if path.is_file() and path.open("rb").read(4) == b"\x7fELF"]
    found = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", found, re.MULTILINE))


class Layer:
    """A folder of files on their way into an image."""

    def __init__(self, name: str, below: tuple[Layer, ...] = ()) -> None:
        self.root = LAYERS / name
        self.root.mkdir(parents=True, exist_ok=True)
        self.below = below

    def has(self, path: str) -> bool:
        return os.path.lexists(f"{self.root}{path}") or any(layer.has(path) for layer in self.below)

    def add(self, path: str, target: str | None = None) -> None:
        """Copies one file, link or (empty) folder of the builder to the same place, through merged /usr."""
        folder, name = os.path.split(path)
        place = target or os.path.join(os.path.realpath(folder), name)
        if path == "/" or self.has(place):
            return
        copy = Path(f"{self.root}{place}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(path):
            copy.symlink_to(os.readlink(path))
            step = os.path.normpath(os.path.join(folder, os.readlink(path)))
            if os.path.isfile(step):
                self.add(step)  # one step of the chain: awk -> /etc/alternatives/awk -> mawk
        elif os.path.isdir(path):
            copy.mkdir(exist_ok=True)
            shutil.copystat(path, copy)
        elif os.path.isfile(path):
            shutil.copy2(path, copy)

    def add_packages(self, packages: Iterable[str]) -> None:
        for path in package_files(packages):
            self.add(path)
        self.add_libraries()

    def add_libraries(self) -> None:
        for path in sorted(libraries(self.root.rglob("*"))):
            self.add(path)


def shell_layer() -> Layer:
    layer = Layer("shell")
    for name in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(name):
            layer.add(name)
    layer.add_packages(SHELL)
    for name in EXTRA:
        for path in (Path(name), *(Path(name).rglob("*") if Path(name).is_dir() else ())):
            layer.add(str(path))
    for name in OPENED:
        for path in Path("/usr/lib").glob(f"*-linux-gnu/{name}"):
            layer.add(str(path))
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("run", 0o755), ("proc", 0o555)):
        (layer.root / name).mkdir(parents=True, exist_ok=True)
        (layer.root / name).chmod(mode)
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if loader.exists():
        layer.add(str(loader.parent.resolve() / loader.name))
    return layer


def python_layer(shell: Layer) -> Layer:
    """Under /opt/stand-in and not on the PATH; byte code only, since a read-only root could not keep it."""
    layer = Layer("python", (shell,))
    layer.add(os.path.realpath(sys.executable), "/opt/stand-in/bin/python3")
    source = Path(sysconfig.get_path("stdlib"))
    target = layer.root / "opt/stand-in/lib" / source.name
    skip = lambda folder, names: {name for name in names if UNUSED.search(f"{folder}/{name}".removeprefix(str(source)))}  # noqa: E731
    shutil.copytree(source, target, ignore=skip, symlinks=False, ignore_dangling_symlinks=True)
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash", target], check=True
    )
    for path in target.rglob("*.py"):
        path.unlink()
    layer.add_libraries()
    return layer


def main() -> None:
    shell = shell_layer()
    python = python_layer(shell)
    web = Layer("web", (shell, python))
    web.add_packages(WEB)
    Layer("jq", (shell, python, web)).add_packages(JQ)
    Layer("sudo", (shell, python, web)).add_packages(SUDO)


if __name__ == "__main__":
    main()
