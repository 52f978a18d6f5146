"""Which browser the lab tests take, how it is started, and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import browser, engine
from lab.outer import LabError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(browser, "ON_A_MAC", ())
    return folder


def program(file: Path, content: str = '#!/bin/sh\nexec /usr/lib/chromium/chromium "$@"\n') -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(0o755)


def test_the_first_that_can_be_driven(path: Path) -> None:
    assert browser.find() == ""
    program(path / "google-chrome")
    assert browser.find() == str(path / "google-chrome")
    program(path / "chromium")
    assert browser.find() == str(path / "chromium")


def test_a_snap_is_passed_over(path: Path) -> None:
    program(path / "chromium-browser", '#!/bin/sh\nexec /snap/bin/chromium "$@"\n')
    program(path.parent / "snap/chromium/current/chromium")
    (path / "chromium").symlink_to(path.parent / "snap/chromium/current/chromium")
    assert browser.find() == ""
    program(path / "google-chrome")
    assert browser.find() == str(path / "google-chrome")


@pytest.mark.parametrize(("uid", "has"), [(0, True), (1000, False)])
def test_the_sandbox_is_given_up_for_root_alone(monkeypatch: pytest.MonkeyPatch, uid: int, has: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    flags = browser.flags(Path("/a profile"))
    assert ("--no-sandbox" in flags) is has
    assert "--user-data-dir=/a profile" in flags
    assert not [flag for flag in flags if flag.startswith("--remote-debugging-port")]


@pytest.mark.parametrize(
    ("system", "uid", "says"),
    [
        ({"ID": "debian"}, 1000, "sudo apt-get install --no-install-recommends chromium"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, 0, "is a snap"),
        ({"ID": "fedora"}, 0, "install one of them"),
    ],
)
def test_where_none_is_installed(
    path: Path, monkeypatch: pytest.MonkeyPatch, system: dict[str, str], uid: int, says: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(browser, "os_release", lambda: system)
    monkeypatch.setattr(engine, "os_release", lambda: system)
    monkeypatch.setattr(engine, "apt", lambda *_: pytest.fail("nothing is to be installed here"))
    with pytest.raises(LabError, match=says):
        browser.ensure(lambda _: None)


def test_installed_and_looked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def apt(*argv: str) -> None:
        ran.append(argv)
        if argv[0] == "install":
            program(path / "chromium", "#!/bin/sh\necho Chromium 1.2\n")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(browser, "os_release", lambda: {"ID": "debian"})
    monkeypatch.setattr(engine, "os_release", lambda: {"ID": "debian"})
    monkeypatch.setattr(engine, "apt", apt)
    lines: list[str] = []
    assert browser.ensure(lines.append) == str(path / "chromium")
    assert ran == [("update",), ("install", "-y", "--no-install-recommends", "chromium")]
    assert lines[-1] == f"Chromium 1.2 at {path / 'chromium'}"


def test_one_that_does_not_start(path: Path) -> None:
    program(path / "chromium", "#!/bin/sh\necho 'libnss3.so: cannot open shared object file' >&2; exit 127\n")
    with pytest.raises(LabError, match=r"does not start: libnss3\.so"):
        browser.ensure(lambda _: None)
