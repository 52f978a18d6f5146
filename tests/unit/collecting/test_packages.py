"""Packages as dpkg has them, and whether a reboot is wanted, safe and any use."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pantheon.collecting import packages
from pantheon.looks.text import Unread

STATUS = """\
Package: nvidia-driver-590-server
Status: install ok installed
Version: 590.48.01-0ubuntu1
Description: a driver
 Package: nvidia-driver-999 is named in here

Package: libnvidia-compute-590-server
Status: hold ok installed
Version: 590.48.01-0ubuntu1

Package: nvidia-dkms-590-server
Status: install ok half-configured
Version: 590.48.01-0ubuntu1

Package: nvidia-driver-580
Status: deinstall ok config-files
Version: 580.95.05-0ubuntu1

Package: docker-ce
Status: install ok installed
Version: 5:29.1.3-1~ubuntu

Package: nvidia-settings
Status: install ok installed
Version: 510
"""


def put(root: Path, path: str, text: str) -> Path:
    file = Path(f"{root}{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_installed(tmp_path: Path) -> None:
    put(tmp_path, "/var/lib/dpkg/status", STATUS)
    assert packages.installed({"installed": ["docker-ce", "docker.io"]}, str(tmp_path)) == {
        "docker-ce": "5:29.1.3-1~ubuntu",
        "docker.io": None,
        "nvidia-driver-590-server": "590.48.01-0ubuntu1",
        "libnvidia-compute-590-server": "590.48.01-0ubuntu1",
        "nvidia-dkms-590-server": "590.48.01-0ubuntu1 (half-configured)",
    }


def test_a_host_without_dpkg_is_not_one_without_packages(tmp_path: Path) -> None:
    with pytest.raises(Unread):
        packages.installed({"installed": ["docker-ce"]}, str(tmp_path))


def test_hostile_records(tmp_path: Path) -> None:
    broken = "\n\n\n\nPackage: \x1b[31mdocker-ce\nVersion\n\n"
    text = broken + "Package: docker-ce\nStatus: install ok installed\nVersion: \x1b[1m1\x07"
    put(tmp_path, "/var/lib/dpkg/status", text)
    assert packages.installed({"installed": ["docker-ce"]}, str(tmp_path)) == {"docker-ce": "1"}


def test_reboot_required(tmp_path: Path) -> None:
    assert packages.reboot_required({}, str(tmp_path)) is None
    put(tmp_path, "/run/reboot-required", "*** System restart required ***\n")
    assert packages.reboot_required({}, str(tmp_path)) == "*** System restart required ***"
    put(tmp_path, "/run/reboot-required.pkgs", "linux-image-6.8\nnvidia-driver-590\nlinux-image-6.8\n")
    said = "*** System restart required *** (linux-image-6.8, nvidia-driver-590)"
    assert packages.reboot_required({}, str(tmp_path)) == said


def test_who_changes_packages(tmp_path: Path) -> None:
    with pytest.raises(Unread):
        packages.installing({}, str(tmp_path))
    lock = put(tmp_path, "/var/lib/dpkg/lock-frontend", "")
    about = lock.stat()
    row = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    put(tmp_path, "/proc/locks", f"1: FLOCK  ADVISORY  WRITE 7 {row} 0 EOF\n2: POSIX\n")
    assert packages.installing({}, str(tmp_path)) is None
    put(tmp_path, "/proc/locks", f"1: POSIX  ADVISORY  WRITE 7 {row} 0 EOF\n")
    put(tmp_path, "/proc/7/comm", "unattended-upgr\n")
    assert packages.installing({}, str(tmp_path)) == "unattended-upgr (pid 7)"


def test_a_real_lock_is_seen_in_the_kernel_s_own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = put(tmp_path, "/lock", "")
    monkeypatch.setattr(packages, "LOCKS", (str(lock),))
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        pid = os.fork()
        if pid == 0:  # a lock of one's own is seen like any other's: asked from a child, as dpkg's would be
            os._exit(0 if str(packages.installing({}, "")).endswith(f"(pid {os.getppid()})") else 1)
        assert os.waitpid(pid, 0)[1] == 0


def engine(root: Path, *, hook: str = "", path: str = "/usr/local/bin:/usr/bin", since_boot_s: float = 10.0) -> str:
    ticks = int(since_boot_s * os.sysconf("SC_CLK_TCK"))
    put(root, "/run/docker.pid", "154\n")
    put(root, "/proc/154/stat", f"154 (dockerd (x) y) S {' '.join('0' * 18)} {ticks} 0\n")
    put(root, "/proc/154/environ", f"A=1\0PATH={path}\0B=2")
    if hook:
        put(root, hook, "#!/bin/sh\n")
    return str(root)


def test_whether_the_engine_found_the_hook(tmp_path: Path) -> None:
    assert packages.engine_has_hook({}, str(tmp_path)) is None
    root = engine(tmp_path)
    put(tmp_path, "/proc/uptime", "10.00 1.0\n")  # the engine starts just now
    assert packages.engine_has_hook({}, root) is False
    engine(tmp_path, hook="/opt/elsewhere/nvidia-container-runtime-hook")
    assert packages.engine_has_hook({}, root) is False
    engine(tmp_path, hook="/usr/bin/nvidia-container-runtime-hook")
    put(tmp_path, "/proc/uptime", "5.00 1.0\n")  # it starts in 5 s
    assert packages.engine_has_hook({}, root) is True
    put(tmp_path, "/proc/uptime", "100.00 1.0\n")  # it has run for 90 s, the hook is new
    assert packages.engine_has_hook({}, root) is False
