"""The key of Open WebUI's sessions put back, the one in use where there is one, and never shown."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from pantheon.mending import webui_key


@pytest.fixture(autouse=True)
def _as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.chown", lambda *_: None)
    monkeypatch.setattr(webui_key, "pid_of", lambda _: 10)


@pytest.mark.parametrize(
    ("kept", "used", "carry", "then"),
    [
        (b"0ld\n", b"us3d", True, b"us3d\n"),
        (b"0ld\n", b"0ld", True, b"0ld\n"),
        (b"0ld\n", b"us3d", False, b"0ld\n"),
        (b"0ld\n", b"", True, b"0ld\n"),
        (b"", b"us3d", True, b"us3d\n"),
        (None, b"us3d", False, b"us3d\n"),
    ],
    ids=range(6),
)
def test_which_key_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bytes | None,
    used: bytes,
    carry: bool,
    then: bytes,
) -> None:
    monkeypatch.setattr(webui_key, "key_in_use", lambda *_: used)
    path = tmp_path / "key"
    if kept is not None:
        path.write_bytes(kept)
    for _ in range(2):  # again, it changes nothing
        webui_key.mend("openwebui", str(path), carry=carry)
        assert path.read_bytes() == then
    assert path.stat().st_mode & 0o777 == 0o600
    copies = [copy.read_bytes() for copy in tmp_path.glob("key.before-*")]
    assert copies == ([b"0ld\n"] if kept and then != kept else [])
    said = capsys.readouterr().out
    assert "0ld" not in said
    assert "us3d" not in said


def test_a_new_key_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webui_key, "key_in_use", lambda *_: b"")
    path = tmp_path / "key"
    path.touch()
    webui_key.mend("openwebui", str(path), carry=True)
    assert len(path.read_bytes()) == 65
    assert [found.name for found in tmp_path.iterdir()] == ["key"]


def test_no_key_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webui_key, "key_in_use", lambda *_: b"used")
    (tmp_path / "target").write_text("mine")
    (tmp_path / "key").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        webui_key.mend("openwebui", str(tmp_path / "key"), carry=True)
    assert (tmp_path / "target").read_text() == "mine"


def test_the_server_is_found_below_its_container(tmp_path: Path) -> None:
    for pid, parent, environment in (
        (10, 1, b"WEBUI_SECRET_KEY=\0"),
        (11, 10, b"PATH=/bin\0"),
        (12, 11, b"WEBUI_SECRET_KEY=a=b\0"),
        (13, 1, b"WEBUI_SECRET_KEY=another's\0"),
    ):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
        (folder / "environ").write_bytes(environment)
    (tmp_path / "self").mkdir()
    (tmp_path / "99").mkdir()  # gone between two readings
    assert webui_key.family(str(tmp_path), 10) == [10, 11, 12]
    assert webui_key.key_in_use(str(tmp_path), 10) == b"a=b"
    assert webui_key.key_in_use(str(tmp_path), 0) == b""


DOCKER = """#!/bin/sh
case $1 in
inspect) cat "$FAKE/inspect" ;;
cp) [ "$3" = "my-webui:/app/backend/.webui_secret_key" ] && [ -e "$FAKE/layer" ] && cat "$FAKE/layer" ;;
esac
"""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container that does not run, as `docker` tells of it."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "docker").write_text(DOCKER)
    (fake / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.setattr(webui_key, "pid_of", lambda _: 0)
    return fake


def described(fake: Path, *env: str, mounts: tuple[tuple[Path, str], ...] = (), home: str = "/app/backend") -> None:
    told = {
        "Config": {"Env": list(env), "WorkingDir": home},
        "Mounts": [{"Source": str(source), "Destination": target} for source, target in mounts],
    }
    (fake / "inspect").write_text(json.dumps([told]))


def packed(fake: Path, data: bytes) -> None:
    with tarfile.open(fake / "layer", "w") as tar:
        info = tarfile.TarInfo(".webui_secret_key")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def carried(path: Path) -> bytes:
    webui_key.mend("my-webui", str(path), carry=False, stopped=True)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["WEBUI_SECRET_KEY", "WEBUI_JWT_SECRET_KEY"])
def test_a_stopped_server_s_key_from_its_environment(stopped: Path, tmp_path: Path, name: str) -> None:
    described(stopped, "PATH=/bin", f"{name}=k=y $x")
    path = tmp_path / "secrets" / "key"
    assert carried(path) == b"k=y $x\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_stopped_server_s_key_from_its_own_layer(stopped: Path, tmp_path: Path) -> None:
    described(stopped, "WEBUI_SECRET_KEY=")
    packed(stopped, b"l4yer\n")
    assert carried(tmp_path / "key") == b"l4yer\n"


@pytest.mark.parametrize(
    ("env", "mount"),
    [
        ("WEBUI_SECRET_KEY_FILE=/app/backend/data/.key", "/app/backend/data"),
        ("WEBUI_SECRET_KEY_FILE=data/.key", "/app/backend/data"),
        ("WEBUI_SECRET_KEY_FILE=/run/secrets/key", "/run/secrets/key"),
    ],
)
def test_a_stopped_server_s_key_from_a_mount(stopped: Path, tmp_path: Path, env: str, mount: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".key").write_bytes(b"m0unted\n")
    source = tmp_path / "data" if mount.endswith("data") else tmp_path / "data" / ".key"
    described(stopped, env, mounts=((tmp_path / "nothing", "/app"), (source, mount)))
    assert carried(tmp_path / "key") == b"m0unted\n"


@pytest.mark.parametrize("is_link", [True, False])
def test_a_key_that_the_host_does_not_see_is_read_through_the_engine(
    stopped: Path, tmp_path: Path, is_link: bool
) -> None:
    """A link leads elsewhere inside; a volume of a driver is mounted only while its container runs."""
    source = tmp_path / "backend"
    source.mkdir()
    if is_link:
        (source / ".webui_secret_key").symlink_to("/nowhere/on/the/host")
    described(stopped, mounts=((source, "/app/backend"),))
    packed(stopped, b"thr0ugh\n")
    assert carried(tmp_path / "key") == b"thr0ugh\n"


def test_a_key_of_ours_is_not_replaced(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described(stopped, "WEBUI_SECRET_KEY=theirs")
    (tmp_path / "key").write_bytes(b"0urs\n")
    assert carried(tmp_path / "key") == b"0urs\n"
    said = capsys.readouterr().out
    assert "another than the server had: who is logged in there logs in again" in said
    assert "theirs" not in said


def test_no_container_and_no_key(stopped: Path, tmp_path: Path) -> None:
    (stopped / "docker").write_text("#!/bin/sh\nexit 1\n")
    assert len(carried(tmp_path / "key")) == 65
