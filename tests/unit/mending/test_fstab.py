"""Lines at the end of /etc/fstab: one file written, atomically, and nothing else in it changed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from pantheon.mending import fstab
from pantheon.mending.words import Failed

LINE = "LABEL=nvme /mnt/local/nvme ext4 defaults,nofail,x-systemd.device-timeout=30s 0 2"
OTHER = "UUID=bb /mnt/local/ssd ext4 defaults,nofail 0 2"
BEFORE = "# /etc/fstab: somebody's\nUUID=1  /  ext4  errors=remount-ro  0  1\n/swap.img none swap sw 0 0\n"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fstab, "faults", lambda path: [])
    file = tmp_path / "fstab"
    file.write_text(BEFORE)
    file.chmod(0o640)
    return file


def test_lines_are_added_and_nothing_else_changes(place: Path) -> None:
    said = fstab.put([LINE, OTHER], sha(BEFORE), str(place))
    assert place.read_text() == f"{BEFORE}{LINE}\n{OTHER}\n"
    assert place.stat().st_mode & 0o777 == 0o640
    assert LINE in said
    assert (place.parent / "fstab.before-pantheon").read_text() == BEFORE
    assert sorted(path.name for path in place.parent.iterdir()) == ["fstab", "fstab.before-pantheon"]


def test_again_does_nothing(place: Path) -> None:
    fstab.put([LINE], sha(BEFORE), str(place))
    assert fstab.put([LINE], "whatever", str(place)).endswith("has it already")
    fstab.put([LINE, OTHER], "", str(place))
    assert place.read_text() == f"{BEFORE}{LINE}\n{OTHER}\n"
    assert (place.parent / "fstab.before-pantheon").read_text() == BEFORE, "kept once"


@pytest.mark.parametrize("before", ["", "no newline at the end", "UUID=1 / ext4 x 0 1 \udcff"])
def test_odd_files(place: Path, before: str) -> None:
    place.write_text(before, errors="surrogateescape")
    fstab.put([LINE], sha(before), str(place))
    end = "\n" if before else ""
    assert place.read_text(errors="surrogateescape") == f"{before}{end}{LINE}\n"


def test_none_at_all(tmp_path: Path, place: Path) -> None:
    new = tmp_path / "none"
    fstab.put([LINE], "missing", str(new))
    assert new.read_text() == f"{LINE}\n"
    assert new.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("line", "expected", "why"),
    [
        (LINE, "another hash", "has been changed since"),
        ("/dev/x / ext4 defaults 0 1", "", "has another line for /"),
        ("one two", "", "not a line of fstab"),
        (f"{LINE}\n{LINE}", "", "not a line of fstab"),
    ],
)
def test_what_is_refused(place: Path, line: str, expected: str, why: str) -> None:
    with pytest.raises(Failed, match=why):
        fstab.put([line], expected, str(place))
    assert place.read_text() == BEFORE
    assert [path.name for path in place.parent.iterdir()] == ["fstab"]


def test_a_link_is_left_alone(place: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(Failed, match="not a plain file"):
        fstab.put([LINE], "", str(link))
    assert place.read_text() == BEFORE


def test_only_faults_count_and_not_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    said = """/mnt/x
   [W] non-canonical target path (real: /mnt/y)
   [E] unreachable on boot required source: LABEL=x
findmnt: /etc/fstab: parse error at line 3 -- ignored

0 parse errors, 1 error, 1 warning
"""
    done = subprocess.CompletedProcess([], 1, said.encode())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert [line.partition(" ")[0] for line in fstab.faults("/etc/fstab")] == ["[E]", "findmnt:"]


def test_a_line_that_would_make_it_faulty(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fstab, "faults", lambda path: ["[E] unreachable"] if "new" in path else [])
    with pytest.raises(Failed, match="would be faulty"):
        fstab.put([LINE], sha(BEFORE), str(place))
    assert place.read_text() == BEFORE
    monkeypatch.setattr(fstab, "faults", lambda path: ["[E] somebody's own, and an old one"])
    fstab.put([LINE], sha(BEFORE), str(place))
