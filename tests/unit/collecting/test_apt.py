"""What dpkg and apt have on a host, read from their files."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pantheon import facts
from pantheon.collecting import apt, dpkg
from pantheon.looks.files import USUAL_PATH
from pantheon.packages import HALF_WAY, DaemonJson, Packages, Source

STATUS = """\
Package: docker.io
Status: install ok installed
Version: 28.2.2-0ubuntu1
Description: engine
 more

Package: containerd
Status: hold ok installed
Version: 1.7

Package: lab-half
Status: install ok half-configured
Version: 1

Package: nvidia-driver-590-server
Status: install reinstreq half-installed
Version: 590.48.01

Package: docker-ce
Status: deinstall ok config-files
Version: 5:28

Package: bash
Status: install ok installed
Version: 5.2

Package: runc
Status: unknown ok not-installed

"""


@pytest.fixture(name="root")
def made(tmp_path: Path) -> Path:
    for folder in ("var/lib/dpkg/updates", "etc/apt/sources.list.d", "etc/docker", "var/lib/apt/lists"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "etc/os-release").write_text('ID=ubuntu\nVERSION_CODENAME=noble\nUBUNTU_CODENAME="noble"\n')
    return tmp_path


def look(root: Path, **spec: Any) -> Packages:
    document = json.loads(json.dumps(apt.packages(spec, str(root))))
    found = facts.decode(Packages, document, "packages")
    assert isinstance(found, Packages)
    return found


def test_packages_with_their_states(root: Path) -> None:
    found = look(root)
    assert {name: (one.version, one.status, one.held) for name, one in found.installed.items()} == {
        "docker.io": ("28.2.2-0ubuntu1", "installed", False),
        "containerd": ("1.7", "installed", True),
        "nvidia-driver-590-server": ("590.48.01", "half-installed", False),
    }
    assert found.broken == ("lab-half", "nvidia-driver-590-server")
    assert (found.interrupted, found.holder, found.codename) == (False, None, "noble")
    (root / "var/lib/dpkg/updates/tmp.i").touch()
    assert not look(root).interrupted
    (root / "var/lib/dpkg/updates/0003").touch()
    assert look(root).interrupted


def test_a_host_without_dpkg(tmp_path: Path) -> None:
    assert apt.packages({}, str(tmp_path)) is None


@pytest.mark.parametrize(
    "name",
    [
        *("docker-ce", "docker-buildx-plugin", "containerd.io", "podman-docker", "runc", "nvidia-utils-590-server"),
        *("libnvidia-compute-590", "linux-modules-nvidia-590-server-generic", "linux-image-6.8.0-1-generic", "dkms"),
        *("linux-headers-generic", "nvidia-container-toolkit-base", "libnvidia-container1", "ca-certificates"),
    ],
)
def test_what_concerns_the_stack(name: str) -> None:
    assert apt.LIKE.fullmatch(name)


def test_sources_in_both_forms(root: Path) -> None:
    folder = root / "etc/apt/sources.list.d"
    (folder / "docker.list").write_text(
        "# deb https://old.example/ x y\n\n"
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.gpg] https://download.docker.com/linux/ubuntu noble stable"
        " # mine\n"
        "deb-src https://download.docker.com/linux/ubuntu noble stable extra\nnonsense\n"
    )
    (folder / "b.sources").write_text(
        "# a comment\n\nTypes: deb deb-src\nURIs: https://a.example/\n  https://b.example/\n"
        "Suites: noble noble-updates\n"
        "# within\nComponents: main\nSigned-By: /a.gpg,/b.gpg\n\n\n"
        "Enabled: no\nTypes: deb\nURIs: https://c.example/\nSuites: /\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    (folder / "docker.list.before-pantheon").write_text("deb https://no.example/ x y\n")
    (folder / "bad name.list").write_text("deb https://no.example/ x y\n")
    found = look(root)
    at = "/etc/apt/sources.list.d"
    docker = ("https://download.docker.com/linux/ubuntu",)
    assert found.sources == (
        Source(
            f"{at}/b.sources",
            3,
            ("deb", "deb-src"),
            ("https://a.example/", "https://b.example/"),
            ("noble", "noble-updates"),
            ("main",),
            "/a.gpg /b.gpg",
        ),
        Source(f"{at}/b.sources", 12, ("deb",), ("https://c.example/",), ("/",), (), "embedded", False),
        Source(f"{at}/docker.list", 3, ("deb",), docker, ("noble",), ("stable",), "/etc/apt/keyrings/docker.gpg"),
        Source(f"{at}/docker.list", 4, ("deb-src",), docker, ("noble",), ("stable", "extra")),
    )
    assert set(found.files) == {f"{at}/b.sources", f"{at}/docker.list"}
    assert found.keys == {}


def test_keys_that_a_source_names_and_that_are_asked_for(root: Path) -> None:
    (root / "etc/apt/sources.list").write_text("deb [signed-by=/k/bad.gpg] https://a.example/ x y\n")
    (root / "k").mkdir()
    (root / "k/bad.gpg").write_bytes(b"\x00nonsense")
    (root / "k/empty.asc").write_bytes(b"")
    found = look(root, key_files=["/k/empty.asc", "/k/nonesuch.gpg"])
    assert {path: key.fingerprints for path, key in found.keys.items()} == {"/k/bad.gpg": (), "/k/empty.asc": ()}
    assert found.keys["/k/bad.gpg"].reason
    assert found.keys["/k/empty.asc"].reason == "there is no key in it"


def test_whoever_has_a_lock_is_named(root: Path) -> None:
    path = root / "var/lib/apt/lists/lock"
    script = root / "unattended-upgrade"
    program = "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
    script.write_text(f"{program}print(flush=True)\ninput()\n")
    argv = [sys.executable, str(script), str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        holder = look(root).holder
        process.kill()
    assert isinstance(holder, str)
    assert re.fullmatch(rf"unattended-upgrade \(pid {process.pid}, since \d\d:\d\d:\d\d UTC\)", holder)
    assert look(root).holder is None


def test_a_lock_of_our_own_is_no_sign_of_somebody(root: Path) -> None:
    with (root / "var/lib/dpkg/lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert look(root).holder is None


def test_the_snap_and_daemon_json(root: Path) -> None:
    assert look(root).snap is None
    assert look(root).daemon_json is None
    (root / "snap/docker/current/meta").mkdir(parents=True)
    assert look(root).snap == "of a version that is not known"
    (root / "snap/docker/current/meta/snap.yaml").write_text("name: docker\nversion: 28.4.0\n")
    assert look(root).snap == "28.4.0"
    text = '{"proxies": {"http-proxy": "http://me:secret@proxy/"}}'
    (root / "etc/docker/daemon.json").write_text(text)
    found = look(root).daemon_json
    assert isinstance(found, DaemonJson)
    assert "secret" not in repr(found)
    assert "http-proxy" in found.text
    assert found.odd == ""


@pytest.mark.parametrize(
    ("data", "odd"),
    [(b"\xef\xbb\xbf{}", "it begins with a byte order mark"), (b'{"\xe9": 1}', "it is not UTF-8 (byte 2)")],
)
def test_a_daemon_json_that_is_left_alone(root: Path, data: bytes, odd: str) -> None:
    path = root / "etc/docker/daemon.json"
    path.write_bytes(data)
    assert getattr(look(root).daemon_json, "odd", None) == odd
    path.rename(root / "etc/docker/d.json")
    path.symlink_to("d.json")
    assert getattr(look(root).daemon_json, "odd", None) == "it is a symbolic link to d.json"


def test_what_both_sides_call_half_way_is_the_same() -> None:
    assert dpkg.HALF_WAY == HALF_WAY


@pytest.mark.parametrize(
    ("argv", "comm", "name"),
    [
        (
            ["/usr/bin/python3", "/usr/bin/unattended-upgrade", "--download-only"],
            "unattended-upgr",
            "unattended-upgrade",
        ),
        (["/usr/bin/python3", "-u", "/x/aptd"], "python3", "aptd"),
        (["apt-get", "install", "x"], "apt-get", "apt-get"),
        (["python3", "-c", "import os; os.x()", "1"], "holder", "holder"),
        (["/bin/sh", "-c", "sleep 1 && true"], "sh", "sh"),
        ([""], "", "a process"),
        (["\x1b[2J"], "\x1b[2J", "\x1b[2J"),
    ],
)
def test_what_a_process_is_called(argv: list[str], comm: str, name: str) -> None:
    assert dpkg.program(argv, comm) == name


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", USUAL_PATH)
    found = look(Path("/"))
    said = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    assert found.arch == said
