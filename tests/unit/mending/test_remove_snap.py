"""A snap that goes, and one that stays because it could not be saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from pantheon.mending import remove_snap
from pantheon.mending.words import Failed

STUB = """#!/bin/sh
echo "$*" >>"$HOME/calls"
case "$1" in
list) test ! -e "$HOME/gone" ;;
save) test ! -e "$HOME/full" || { echo 'error: cannot save: no space left on device' >&2; exit 1; }; echo '1  docker' ;;
remove) touch "$HOME/gone" ;;
esac
"""


@pytest.fixture(name="home")
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/snap").write_text(STUB)
    (tmp_path / "bin/snap").chmod(0o755)
    (tmp_path / "data/docker/common").mkdir(parents=True)
    (tmp_path / "data/docker/common/file").write_bytes(b"x" * 100_000)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(remove_snap, "DATA", str(tmp_path / "data"))
    monkeypatch.setattr(remove_snap, "SNAPSHOTS", str(tmp_path))
    monkeypatch.setattr(remove_snap, "SPARE_BYTES", 0)
    return tmp_path


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines()


def test_it_is_saved_before_it_goes(home: Path) -> None:
    remove_snap.remove("docker", 10)
    assert calls(home) == ["list docker", "stop docker", "save docker", "remove --purge docker"]
    remove_snap.remove("docker", 10)
    assert calls(home)[4:] == ["list docker"]


def test_what_cannot_be_saved_stays_and_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "full").touch()
    with pytest.raises(Failed, match="could not be saved") as caught:
        remove_snap.remove("docker", 10)
    assert "no space left on device" in caught.value.args[1]
    assert calls(home) == ["list docker", "stop docker", "save docker", "start docker"]
    assert "started again, and stays" in capsys.readouterr().out


def test_without_room_nothing_is_touched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove_snap, "SPARE_BYTES", 1 << 60)
    with pytest.raises(Failed, match="does not fit"):
        remove_snap.remove("docker", 10)
    assert calls(home) == ["list docker"]


def test_sizes(home: Path) -> None:
    assert 100_000 <= remove_snap.size(str(home / "data")) < 200_000
    assert remove_snap.size(str(home / "nonesuch")) == 0
