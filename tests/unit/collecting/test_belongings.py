"""Counting what a takeover would copy, on real directories."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon import belongings as typed
from pantheon.collecting import belongings
from pantheon.facts import decode
from pantheon.looks.files import Ground

MOUNTS = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    return tmp_path


def counted(root: Path, *paths: str, **asked: Any) -> typed.Belongings:
    found = belongings.belongings({"belongings": {"paths": list(paths), **asked}}, str(root))
    made = decode(typed.Belongings, found, "belongings")
    assert isinstance(made, typed.Belongings)
    return made


def place(root: Path, path: str) -> typed.Place:
    found = counted(root, path).places[path]
    assert isinstance(found, typed.Place)
    return found


def test_a_directory(root: Path) -> None:
    (root / "data/deep").mkdir(parents=True)
    (root / "data/deep/large").write_bytes(b"x" * 100_000)
    os.link(root / "data/deep/large", root / "data/twin")
    with (root / "data/sparse").open("wb") as file:
        file.truncate(1 << 30)
    found = place(root, "/data")
    assert (found.kind, found.entries, found.complete) == ("dir", ("deep", "sparse", "twin"), True)
    assert 100_000 <= found.bytes < 200_000, "a file of two names once, holes not at all"
    assert found.owners == {f"{os.getuid()}:{os.getgid()}": 5}
    assert found.free_bytes > 0
    assert found.reading.startswith("dir ")


def test_what_is_not_there_has_room_where_it_would_be(root: Path) -> None:
    found = place(root, "/not/there/yet")
    assert (found.kind, found.reading, found.is_empty) == ("", "missing", True)
    assert found.disk == str((root).stat().st_dev)


def test_empty_is_empty_whatever_a_copy_has_left_beside(root: Path) -> None:
    (root / "t").mkdir()
    (root / "t.pantheon-copy/tree").mkdir(parents=True)
    (root / "t.pantheon-copy/tree/half").write_bytes(b"x" * 50_000)
    found = place(root, "/t")
    assert found.is_empty
    assert found.staged_bytes >= 50_000


def test_links_are_told_and_where_they_lead(root: Path) -> None:
    (root / "real").mkdir()
    (root / "real/file").write_text("x")
    (root / "link").symlink_to("/real")
    found = place(root, "/link")
    assert (found.kind, found.real, found.reading) == ("dir", "/real", "symlink -> /real")
    assert found.entries == ("file",)
    inside = place(root, "/link/file")
    assert (inside.kind, inside.real, inside.reading) == ("file", "/real/file", "elsewhere: /real/file")


def test_a_network_mount_is_not_touched(root: Path) -> None:
    (root / "proc/self/mountinfo").write_text(MOUNTS + "21 20 0:9 / /nas rw - nfs4 atlas:/x rw\n")
    (root / "nas").mkdir()
    found = counted(root, "/nas/models").places["/nas/models"]
    assert "network mount /nas" in getattr(found, "reason", "")


def test_hostile_names(root: Path) -> None:
    name = "a b\n\"'$(x)ü"
    (root / name).mkdir()
    (root / name / "f").write_bytes(b"x" * 9000)
    assert place(root, f"/{name}").bytes >= 9000


def test_time_is_up(root: Path) -> None:
    (root / "data").mkdir()
    found = belongings.place(Ground(str(root)), "/data", time.monotonic() - 1)
    assert found["complete"] is False


def test_finished_copies_by_target(root: Path) -> None:
    file = root / "var/lib/pantheon/copies.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"/t": {"parts": [{"source": "/a"}, {"source": "/b", "container": "cc"}]}}')
    assert counted(root).copied == {"/t": ("/a", "container:cc:/b")}
    for text in ("", "[]", "{", '{"/t": 3}', '{"/t": {"parts": [{}]}}'):
        file.write_text(text)
        assert counted(root).copied == {}


@pytest.mark.parametrize(
    ("options", "device", "plain"),
    [
        (None, "", True),
        ({"type": "none", "o": "bind", "device": "/data/x/"}, "/data/x", True),
        ({"type": "none", "o": "rbind,ro", "device": "/data/x"}, "/data/x", True),
        ({"type": "nfs", "o": "addr=10.0.0.1,rw", "device": ":/x"}, "", False),
        ({"type": "tmpfs", "device": "tmpfs"}, "", False),
        ({"type": "ext4", "device": "/dev/sdb1"}, "", False),
    ],
)
def test_a_volume_that_is_another_name_for_a_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str] | None, device: str, plain: bool
) -> None:
    top = "/var/lib/docker/volumes/v/_data"

    class Engine:
        def __init__(self, root: str) -> None: ...

        def get(self, path: str, end: float) -> dict[str, Any]:
            del path, end
            return {"Driver": "local", "Options": options, "Mountpoint": top}

    monkeypatch.setattr(belongings, "Engine", Engine)
    (root / "data/x/models").mkdir(parents=True)
    (root / "data/x/models/m").write_bytes(b"x" * 9000)
    (root / top[1:]).mkdir(parents=True)
    found = counted(root, f"{top}/models", volumes=["v"])
    assert found.volumes["v"] == typed.Volume(top, plain=plain, device=device)
    inside = found.places[f"{top}/models"]
    assert isinstance(inside, typed.Place)
    assert (inside.kind, inside.path) == ("dir" if device else "", f"{top}/models")
    assert inside.real == ("/data/x/models" if device else f"{top}/models")
    assert ("/data/x/models" in found.places) is bool(device)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ExecStart=/usr/bin/docker run --rm -p 8188:8188 --name my-comfy x", True),
        ("ExecStart=/usr/bin/docker container create --name='my-comfy' x", True),
        ("ExecStart=/usr/bin/docker start -a \\\n  my-comfy", True),
        ("WorkingDirectory=/srv/ai/\nExecStart=/usr/bin/docker compose up", True),
        ("ExecStart=/usr/bin/docker compose -f /srv/ai/docker-compose.yml up", True),
        ("ExecStart=/usr/bin/docker-compose --project-directory /srv/ai up", True),
        ('ExecStart=/bin/sh -c "cd /srv/ai && docker compose up -d"', True),
        ("ExecStart=/usr/bin/docker start -a my-comfy-2", False),
        ("ExecStart=/usr/bin/docker start -a not-my-comfy", False),
        ("ExecStart=/usr/bin/docker compose -f /old/srv/ai/docker-compose.yml up", False),
        ("ExecStart=/usr/bin/docker run --name other my-comfy/image", False),
        ("ExecStart=/usr/bin/docker run --name other -v /srv/ai/docs:/d nginx", False),
        ("ExecStart=/usr/bin/docker exec my-comfy true", False),
        ("WorkingDirectory=/srv/ai-old\nExecStart=/usr/bin/docker compose up", False),
        ("WorkingDirectory=/srv/ai\nExecStart=/usr/bin/docker compose pull", False),
        ("WorkingDirectory=/srv/ai\nExecStart=/usr/bin/backup", False),
        ("ExecStop=/usr/bin/docker stop my-comfy\nExecStart=/bin/true", False),
        ("Description=docker start my-comfy\nExecStart=/bin/true", False),
        ("", False),
    ],
)
def test_units_that_start_it(root: Path, text: str, found: bool) -> None:
    folder = root / "etc/systemd/system"
    (folder / "multi-user.target.wants").mkdir(parents=True)
    (folder / "ai.service").write_text(f"[Service]\n{text}\n")
    (folder / "multi-user.target.wants/ai.service").symlink_to("../ai.service")
    (folder / "masked.service").symlink_to("/dev/null")
    asked = {"names": ["my-comfy", "a.b$(c)"], "files": ["/srv/ai/docker-compose.yml"], "suffix": ".kept"}
    path = "/etc/systemd/system/ai.service"
    told = counted(root, units=asked)
    assert told.units == ((path,) if found else ())
    assert ({path, f"{path}.kept"} <= set(told.places)) is found
    assert counted(root).units == ()
