"""Faults of an installation, planted on a bare lab host for real: apt, dpkg, the package sites, what is there already.

    with install_faults.apt_lock_held(lab): ...        install_faults.interrupt_dpkg(lab)

As in faults.py, a fault counts as planted when apt, dpkg, curl or dockerd fails with its own text. What a context
manager plants is mended at its end; what a function plants stays, for the program under test to deal with.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from lab.machine import Lab
from lab.outer import LabError

FRONTEND = "/var/lib/dpkg/lock-frontend"
LISTS = "/var/lib/apt/lists/lock"
LOCK_UNIT = "lab-apt-lock"
HALF = "lab-half"
WWW = "/var/lib/lab-vendors/www"
DAEMON_JSON = "/etc/docker/daemon.json"
BROKEN_JSON = '{\n    "log-driver": "json-file"\n    "log-opts": {"max-size": "10m"}\n}\n'  # a comma is missing
OLD_SOURCE = "/etc/apt/sources.list.d/docker-old.list"
OLD_KEYRING = "/usr/share/keyrings/docker-archive-keyring.gpg"

# Takes the locks as apt does (fcntl, not flock), under the name of the program that usually holds them at a bad moment.
HOLDER = """
import ctypes, fcntl, sys, time
name, seconds, *locks = sys.argv[1:]
ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)
held = [open(path, "r+" if path.startswith("/var/lib/dpkg") else "a+") for path in locks]
for file in held:
    fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(seconds))
"""

# In a package's postinst's place, once: dpkg dies in the middle of it, as when the power goes.
KILLER = """#!/bin/sh
mv -f "$0.own" "$0"
kill -KILL $PPID
kill -KILL $$
"""


# ---- locks


@contextlib.contextmanager
def apt_lock_held(
    lab: Lab, *, name: str = "unattended-upgr", locks: tuple[str, ...] = (FRONTEND,), seconds: float = 600
) -> Iterator[int]:
    """Another program holds dpkg's lock (or `locks`), until the end of the block or for so long. Yields its pid."""
    pid = hold_apt_lock(lab, name=name, locks=locks, seconds=seconds)
    try:
        yield pid
    finally:
        free_apt_lock(lab)


def hold_apt_lock(
    lab: Lab, *, name: str = "unattended-upgr", locks: tuple[str, ...] = (FRONTEND,), seconds: float = 600
) -> int:
    """Start the program that holds the locks, and return its pid."""
    lab.sh(f"systemctl reset-failed {LOCK_UNIT} 2>/dev/null || true; mkdir -p /var/lib/apt/lists")
    run = ["systemd-run", "-q", f"--unit={LOCK_UNIT}", "--collect", "python3", "-c", HOLDER]
    lab.exec(*run, name, str(seconds), *locks)
    said = lab.sh(
        f'pid=$(systemctl show -p MainPID --value {LOCK_UNIT}); for n in $(seq 100); do '
        'inode=$(stat -c %i "$1"); if grep -q "POSIX.* $pid .*:$inode " /proc/locks; then echo "$pid"; exit; fi; '
        "sleep 0.05; done",
        locks[-1],
    )  # fmt: skip
    if not said.strip():
        raise LabError(f"the lock {locks[-1]} could not be taken on lab {lab.name}: is apt at work there?")
    return int(said)


def free_apt_lock(lab: Lab) -> None:
    lab.sh(f"systemctl stop {LOCK_UNIT}.service 2>/dev/null || true")


@contextlib.contextmanager
def slow_dpkg(lab: Lab, seconds: float) -> Iterator[None]:
    """Every run of dpkg that installs or removes begins with a pause, the locks held: time to interrupt something."""
    path = "/etc/dpkg/dpkg.cfg.d/lab-slow"
    lab.sh('printf "pre-invoke=sleep %s\\n" "$1" >"$2"', str(seconds), path)
    try:
        yield
    finally:
        lab.exec("rm", "-f", path)


# ---- interrupted


def interrupt_dpkg(lab: Lab, package: str = HALF) -> None:
    """dpkg was killed while it configured a package: `dpkg --audit` names it, and apt refuses to go on.

    The package is one of no use, made on the spot, unless another is named: that one is fetched from the lab's sources,
    and what it depends on must be installed.
    """
    make = (
        'd=$(mktemp -d); cd "$d"; if [ "$1" = lab-half ]; then mkdir -p p/DEBIAN; '
        "printf 'Package: lab-half\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: lab <lab@invalid>\\n"
        "Description: half\\n' >p/DEBIAN/control; printf '#!/bin/sh\\nexit 0\\n' >p/DEBIAN/postinst; "
        'chmod 755 p/DEBIAN/postinst; dpkg-deb -b p half.deb >/dev/null; '
        'else chmod 755 "$d"; apt-get update -qq; apt-get download -qq "$1" 2>/dev/null; fi; '
        'dpkg --unpack ./*.deb >/dev/null; info="/var/lib/dpkg/info/$1.postinst"; cp -p "$info" "$info.own"; '
        'cat >"$info"; dpkg --configure "$1" >/dev/null 2>&1 || true; rm -rf "$d"; dpkg --audit'
    )  # fmt: skip
    done = lab.exec("sh", "-ceu", make, "sh", package, stdin=KILLER.encode(), timeout=120)
    if package not in done.stdout:
        raise LabError(f"dpkg was not interrupted on lab {lab.name}: {done.stdout or done.stderr or 'it says nothing'}")


# ---- the package sites


def site_folder(lab: Lab, site: str) -> tuple[str, str, str]:
    """For docker, toolkit or archive: the folder, the key in it, and the folder of the signed index."""
    codename = lab.sh(". /etc/os-release; echo $VERSION_CODENAME").strip()
    if site == "docker":
        root = f"{WWW}/download.docker.com/linux/{lab.os_id}"
        return root, f"{root}/gpg", f"{root}/dists/{codename}"
    if site == "toolkit":
        root = f"{WWW}/nvidia.github.io/libnvidia-container"
        return root, f"{root}/gpgkey", f"{root}/stable/deb/amd64"
    if site == "archive":
        root = f"{WWW}/archive.lab.test/{lab.os_id}"
        return root, "", f"{root}/dists/{codename}"
    raise LabError(f"{shlex.quote(site)} is no site; there are docker, toolkit and archive.")


@contextlib.contextmanager
def swapped(lab: Lab, path: str, other: str) -> Iterator[None]:
    """Another file (or folder) is served in a path's place."""
    lab.sh('mv "$1" "$1.own"; cp -a "$2" "$1"', path, other)
    try:
        yield
    finally:
        lab.sh('rm -rf "$1"; mv "$1.own" "$1"', path)


@contextlib.contextmanager
def bad_key(lab: Lab, site: str = "docker") -> Iterator[None]:
    """The site hands out another key than the one that signs its packages. `site` is docker or toolkit."""
    key = site_folder(lab, site)[1]
    if not key:
        raise LabError("the archive's key comes with the system; nobody fetches it.")
    with swapped(lab, key, f"{key}.stranger"):
        yield


@contextlib.contextmanager
def other_key_signs(lab: Lab, site: str = "docker") -> Iterator[None]:
    """The index is signed by a stranger: apt says NO_PUBKEY. `site` is docker, toolkit or archive."""
    index = f"{site_folder(lab, site)[2]}/InRelease"
    with swapped(lab, index, f"{index}.stranger"):
        yield


@contextlib.contextmanager
def another_branch(lab: Lab, *, alone: bool = False) -> Iterator[None]:
    """The archive has a newer nvidia-driver-590.. that brings 595, as a distribution renames its packages; `alone`:
    it has nothing of branch 590 any more."""
    root = site_folder(lab, "archive")[0]
    with swapped(lab, f"{root}/dists", f"{root}/dists.{'alone' if alone else 'renamed'}"):
        yield


@contextlib.contextmanager
def sites_down(lab: Lab) -> Iterator[None]:
    """No package site answers: connection refused."""
    lab.exec("systemctl", "stop", "lab-vendors.service")
    try:
        yield
    finally:
        lab.exec("systemctl", "start", "lab-vendors.service")
        lab.wait_ready()


# ---- what is there already


def conflicting_source(lab: Lab) -> None:
    """Docker's repository is there in the old way, with a keyring of its own. With the new one beside it apt says
    `Conflicting values set for option Signed-By` and does nothing more."""
    key = site_folder(lab, "docker")[1]
    line = f"deb [arch=amd64 signed-by={OLD_KEYRING}] https://download.docker.com/linux/{lab.os_id}"
    lab.sh(
        'gpg --batch --yes --dearmor -o "$1" "$2"; . /etc/os-release; '
        'printf "%s %s stable\\n" "$3" "$VERSION_CODENAME" >"$4"',
        OLD_KEYRING, key, line, OLD_SOURCE,
    )  # fmt: skip


def conflicting_packages(lab: Lab, *packages: str) -> None:
    """The distribution's own engine is installed and runs (docker.io and Compose, unless others are named)."""
    compose = "docker-compose-v2" if lab.os_id == "ubuntu" else "docker-compose"
    chosen = packages or ("docker.io", compose)
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    lab.exec("apt-get", "update", "-qq", timeout=60)
    lab.exec(*install, *chosen, timeout=120)


def snap_docker(lab: Lab) -> None:
    """Docker is there as a snap, with `snap` to list and remove it. Its daemon does not run."""
    lab.sh("install -m 755 /usr/lib/lab/snap.py /usr/bin/snap; snap lab-plant")


def break_daemon_json(lab: Lab, text: str = BROKEN_JSON) -> None:
    """daemon.json is no JSON (or is `text`). An engine that runs goes on until it is restarted."""
    lab.exec("sh", "-c", f"mkdir -p /etc/docker; cat >{DAEMON_JSON}", stdin=text.encode())


def new_kernel(lab: Lab, kernel: str = "6.8.0-999-generic", *, module: bool = True) -> None:
    """A newer kernel was installed and boots next; without `module` the driver's build for it failed, as DKMS's can."""
    lab.exec("/usr/lib/lab/kernel", "add", kernel)
    if not module:
        without_module(lab, kernel)


def without_module(lab: Lab, kernel: str = "") -> None:
    """The driver has no module for that kernel (the running one unless named). What is loaded stays until a reboot."""
    lab.sh('k=${1:-$(uname -r)}; rm -f "/lib/modules/$k/updates/dkms/nvidia.ko"; depmod "$k"', kernel)
