"""The kernels, which one boots next, the driver's module for each; and what apt says that it would bring."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import kernels
from pantheon.evidence import parse
from pantheon.kernels import Kernels, Offer
from pantheon.looks.text import Unread

OLD, NEW = "6.8.0-9-generic", "6.8.0-45-generic"
RUNNING = os.uname().release

GRUBENV = "# GRUB Environment Block\nsaved_entry={}\nnext_entry={}\n####"


def host(
    root: Path, files: dict[str, str] | None = None, *, link: str = "", images: tuple[str, ...] = (OLD, NEW)
) -> str:
    for release in (OLD, NEW):
        (root / "lib/modules" / release).mkdir(parents=True)
    (root / "boot").mkdir()
    for release in images:
        (root / f"boot/vmlinuz-{release}").touch()
    if link:
        (root / "boot/vmlinuz").symlink_to(f"vmlinuz-{link}")
    for path, text in (files or {}).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


ADVANCED = f"gnulinux-advanced-1f2e>gnulinux-{OLD}-advanced-1f2e"
TITLE = f"Advanced options for Ubuntu>Ubuntu, with Linux {OLD}"


@pytest.mark.parametrize(
    ("link", "env", "default", "expected"),
    [
        (NEW, "", "", NEW),
        (OLD, "", "", OLD),
        ("", "", "", NEW),  # 45 is newer than 9
        (NEW, GRUBENV.format("", ""), "0", NEW),
        (NEW, GRUBENV.format(ADVANCED, ""), "saved", OLD),
        (NEW, GRUBENV.format(TITLE, ""), "saved", OLD),
        (NEW, GRUBENV.format(ADVANCED, ""), "0", NEW),  # nobody asks for what is saved
        (NEW, GRUBENV.format("", TITLE), "0", OLD),  # grub-reboot: once
        (NEW, GRUBENV.format("", ""), TITLE, OLD),
        (NEW, GRUBENV.format("", f"{TITLE} (recovery mode)".replace(" (", "-(")), "0", NEW),  # not understood
        (NEW, GRUBENV.format("", "Ubuntu, with Linux 9.9.9-gone"), "0", NEW),  # a kernel that is not there
    ],
    ids=range(11),
)
def test_the_kernel_that_boots_next(tmp_path: Path, link: str, env: str, default: str, expected: str) -> None:
    grub = {"boot/grub/grubenv": env, "etc/default/grub": f'A=1\nGRUB_DEFAULT="{default}"\n'}
    root = host(tmp_path, grub, link=link)
    assert kernels.next_release(root) == expected


def test_without_any_kernel_in_boot_it_is_the_one_that_runs(tmp_path: Path) -> None:
    assert kernels.next_release(str(tmp_path)) == RUNNING


def answers(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any]) -> list[list[str]]:
    """Commands answered from a table by a piece of their line; the first that fits."""
    ran: list[list[str]] = []

    def command(argv: list[str], deadline_s: float, limit: int = 0) -> dict[str, Any]:
        ran.append(argv)
        line = " ".join(argv)
        for piece, (status, output) in table.items():
            if piece in line:
                return {"status": status, "output": output}
        raise AssertionError(line)

    monkeypatch.setattr("pantheon.looks.work.command", command)
    monkeypatch.setattr(kernels, "which", lambda name: f"/usr/bin/{name}")
    return ran


def test_each_kernel_with_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = host(tmp_path, {f"lib/modules/{OLD}/build/Makefile": "x"}, link=NEW)
    answers(
        monkeypatch,
        {
            f"-k {NEW} -F version": (1, "modinfo: ERROR: Module nvidia not found.\n"),
            f"-k {OLD} -F version": (0, "590.48.01\n"),
            "-F signer": (0, "Canonical Ltd. Kernel Module Signing\n"),
        },
    )
    found = parse({"schema": 1, "kernels": kernels.kernels({}, root)}).kernels
    assert isinstance(found, Kernels)
    assert [(k.release, k.module, k.headers) for k in found.installed] == [(NEW, None, False), (OLD, "590.48.01", True)]
    assert found.installed[1].signer.startswith("Canonical")
    assert found.next_kernel is found.installed[0]
    assert (found.dkms, found.secure_boot, found.mok) == (None, None, None)


def test_secure_boot(tmp_path: Path) -> None:
    for value, expected in ((b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False)):
        file = Path(f"{tmp_path}{kernels.SECURE_BOOT}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)
        assert kernels._secure_boot(str(tmp_path)) is expected


@pytest.mark.parametrize(
    ("said", "enrolled", "asked"),
    [
        ("MOK.der is already enrolled\n", True, False),
        ("SKIP: MOK.der is already in the enrollment request\n", False, True),
        ("MOK.der is not enrolled\n", False, False),
        (None, None, False),
    ],
)
def test_the_key_with_which_this_host_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, enrolled: bool | None, asked: bool
) -> None:
    key = tmp_path / "MOK.der"
    monkeypatch.setattr(kernels, "MOK", str(key))
    answers(monkeypatch, {"mokutil": (0, said), "modinfo": (1, "not found"), "dkms": (0, "")})
    if said is not None:
        key.touch()
    monkeypatch.setattr(kernels, "next_release", lambda root: RUNNING)
    monkeypatch.setattr(kernels, "_installed", lambda root: [])
    found = parse({"schema": 1, "kernels": kernels.kernels({}, "")}).kernels
    assert isinstance(found, Kernels)
    assert (found.mok, found.mok_asked) == (enrolled, asked)


def test_a_module_that_cannot_be_asked_about_is_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = host(tmp_path)
    with pytest.raises(Unread, match="there is no /lib/modules/7"):
        kernels.module_of(root, "7")
    answers(monkeypatch, {"modinfo": (1, "modinfo: Permission denied")})
    with pytest.raises(Unread, match="Permission denied"):
        kernels.module_of(root, NEW)
    monkeypatch.setattr(kernels, "which", lambda name: None)
    with pytest.raises(Unread, match="modinfo"):
        kernels.module_of(root, NEW)


MADISON = """\
nvidia-driver-590-server | 590.48.01-0ubuntu0.24.04.1 | https://archive.example.test/ubuntu noble-updates/restricted amd64 Packages
nvidia-driver-590-server | 590.44.01-0ubuntu0.24.04.1 | https://archive.example.test/ubuntu noble/restricted amd64 Packages
nvidia-driver-590-server | 590.44.01-0ubuntu0.24.04.1 | https://archive.example.test/ubuntu noble/restricted Sources
nvidia-dkms-590-server | 590.48.01-0ubuntu0.24.04.1 | https://archive.example.test/ubuntu noble/restricted amd64 Packages
"""  # noqa: E501
SIMULATED = """\
NOTE: This is only a simulation!
Inst libnvidia-compute-590-server (590.48.01-0ubuntu1 Ubuntu:24.04/noble [amd64])
Inst nvidia-driver-590-server [590.44.01-0ubuntu1] (590.48.01-0ubuntu1 Ubuntu:24.04/noble [amd64]) []
Conf libnvidia-compute-590-server (590.48.01-0ubuntu1 Ubuntu:24.04/noble [amd64])
"""


def test_what_apt_would_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "next_release", lambda root: NEW)
    monkeypatch.setattr(kernels, "_flavour", lambda root: "generic")
    monkeypatch.setattr(kernels, "_lists_age", lambda root: None)
    ran = answers(monkeypatch, {"madison": (0, MADISON), "-s -q install": (0, SIMULATED)})
    spec = {"driver": {"branch": "590", "variant": "server"}}
    found = parse({"schema": 1, "driver_offer": kernels.driver_offer(spec, "")}).driver_offer
    assert isinstance(found, Offer)
    assert found.package == "nvidia-driver-590-server"
    assert found.versions[found.package] == ("590.48.01-0ubuntu0.24.04.1", "590.44.01-0ubuntu0.24.04.1")
    assert found.versions[f"linux-modules-nvidia-590-server-{NEW}"] == ()
    assert "linux-headers-generic" in found.versions
    assert found.brings == (
        "libnvidia-compute-590-server 590.48.01-0ubuntu1",
        "nvidia-driver-590-server 590.48.01-0ubuntu1",
    )
    assert found.lists_age_s is None
    assert all("Dir::Cache::pkgcache=" in argv for argv in ran), "apt's own cache is left as it is"


def test_what_cannot_be_installed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Reading package lists...\n x : Depends: y but it is not installable\nE: Unable to correct problems\n"
    answers(monkeypatch, {"install": (100, text)})
    with pytest.raises(Unread, match="x : Depends: y but it is not installable; E: Unable to correct problems"):
        kernels._brings("x")


def test_the_flavour_is_that_of_the_metapackage(tmp_path: Path) -> None:
    names = ("linux-image-6.8.0-45-generic", "linux-image-generic", "linux-image-generic-hwe-24.04", "linux-image-gone")
    states = ("install ok installed",) * 3 + ("deinstall ok config-files",)
    text = "\n\n".join(f"Package: {n}\nStatus: {s}\nVersion: 1" for n, s in zip(names, states, strict=True))
    root = host(tmp_path, {"var/lib/dpkg/status": text})
    assert kernels._flavour(root) == "generic-hwe-24.04"
    assert kernels._flavour("/nowhere") == ""


def test_how_old_the_lists_are(tmp_path: Path) -> None:
    assert kernels._lists_age(str(tmp_path)) is None
    file = tmp_path / "var/lib/apt/lists/archive.example.test_dists_noble_InRelease"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (1, 1))  # of the archive
    age = kernels._lists_age(str(tmp_path))
    assert age is not None
    assert age < 60


def test_lists_that_had_nothing_new_were_fetched_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = tmp_path / "run/pantheon/apt-updated"
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    assert kernels._lists_age(str(tmp_path)) is None, "there are none"
    file = tmp_path / "var/lib/apt/lists/archive.example.test_dists_noble_InRelease"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr("time.time", lambda: stamp.stat().st_mtime + 5)
    os.utime(stamp, (stamp.stat().st_mtime, stamp.stat().st_mtime + 5))
    monkeypatch.setattr("time.time", lambda: stamp.stat().st_mtime + 2)
    assert kernels._lists_age(str(tmp_path)) == 2.0
