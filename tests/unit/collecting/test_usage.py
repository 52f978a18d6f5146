"""What fills which disk: on trees of files, and on the engine's own figures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pantheon.collecting import usage
from pantheon.evidence import Room, Usage, parse
from pantheon.looks import work
from tests.unit.looks.fakes import FakeDocker, FakeHost

NVME, SSD = "/mnt/local/nvme", "/mnt/local/ssd"
MNT, OLLAMA, WEBUI = f"{NVME}/ai/services/comfy-mnt", f"{NVME}/ai/services/ollama", f"{SSD}/ai/projects/openwebui"
SPEC = {
    "disks": {"nvme": NVME, "ssd": SSD},
    "comfy_mnt": MNT,
    "ollama_data": OLLAMA,
    "openwebui_data": WEBUI,
    "outputs": f"{SSD}/ai/outputs/comfy",
    "models": f"{NVME}/ai/models",
    "stack_dir": "/opt/stacks/ai",
    "images": {"ollama": "ollama/ollama:latest"},
}
BLOB = f"models/blobs/sha256-{'0f' * 32}-partial"
K = 1024


@pytest.fixture(autouse=True)
def path(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")


@pytest.fixture
def docker(host: FakeHost) -> Iterator[FakeDocker]:
    server = FakeDocker(host.at("/var/run/docker.sock"))
    server.routes["/v1.44/system/df"] = (200, {"Images": [], "BuildCache": []})
    yield server
    server.shutdown()
    server.server_close()


def fill(host: FakeHost, path: str, kib: int, *, hours: float = 0) -> None:
    file = host.write(path, b"\1" * kib * K)
    when = time.time() - hours * 3600
    os.utime(file, (when, when))


def found(host: FakeHost) -> dict[str, Usage]:
    made = parse({"schema": 1, "usage": usage.usage(SPEC, str(host.root))}).usage
    assert isinstance(made, tuple)
    assert [one.bytes for one in made] == sorted((one.bytes for one in made), reverse=True)
    return {f"{one.kind} {one.name}": one for one in made}


def test_an_empty_host(host: FakeHost, docker: FakeDocker) -> None:
    assert found(host) == {}


def test_what_cannot_be_counted_is_said(host: FakeHost) -> None:
    """Without an engine: neither images nor container logs are "none"."""
    unread = [one for one in found(host).values() if one.kind == "unread"]
    assert {one.name for one in unread} == {"images", "container logs"}
    assert all("socket" in one.detail for one in unread)


def test_old_environments(host: FakeHost, docker: FakeDocker) -> None:
    for name in ("venv", "venv-cuda12.4", "my venv-2", "venv-no-mark"):
        fill(host, f"{MNT}/{name}/lib/torch.so", 100)
    for name in ("venv", "venv-cuda12.4", "my venv-2"):
        host.write(f"{MNT}/{name}/pyvenv.cfg", "home = /usr/bin\n")
    host.at(f"{MNT}/venv-link").symlink_to("venv")
    remade = {name: one for name, one in found(host).items() if one.remade}
    assert list(remade) == ["venv venv-cuda12.4"]
    (piece,) = remade["venv venv-cuda12.4"].pieces
    assert (piece.path, piece.mtime) == ("venv-cuda12.4", int(host.at(f"{MNT}/venv-cuda12.4").stat().st_mtime))
    assert remade["venv venv-cuda12.4"].place == MNT


def test_the_only_environment_is_not_old(host: FakeHost, docker: FakeDocker) -> None:
    fill(host, f"{MNT}/venv-cuda12.4/lib/torch.so", 100)
    host.write(f"{MNT}/venv-cuda12.4/pyvenv.cfg", "")
    one = found(host)["venv venv-cuda12.4"]
    assert (one.remade, one.pieces, one.detail) == (False, (), "a virtual environment, and there is no other")


def test_an_environment_with_something_of_a_users_in_it(host: FakeHost, docker: FakeDocker) -> None:
    for name in ("venv", "venv-old"):
        fill(host, f"{MNT}/{name}/lib/torch.so", 100)
        host.write(f"{MNT}/{name}/pyvenv.cfg", "home = /usr/bin\n")
    host.write(f"{MNT}/venv-old/my-workflows/a.json", "{}")
    one = found(host)["venv venv-old"]
    assert (one.remade, one.pieces) == (False, ())
    assert one.detail == "a virtual environment, and my-workflows in it, which is none of it"


def test_large_files_are_named_where_a_disk_is_nearly_full(
    host: FakeHost, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(host, "/home/bob/backup.tar", 3000)
    fill(host, "/home/bob/evil\nname", 3000)
    fill(host, f"{WEBUI}/my movie.mkv", 2000)
    fill(host, "/var/lib/docker/overlay2/x", 4000)
    fill(host, "/home/bob/small", 500)
    assert not [one for one in found(host).values() if one.kind == "file"]
    room = {"mount": "/", "free_bytes": 1, "total_bytes": 1000}
    monkeypatch.setattr(usage, "rooms", lambda *_: [room])
    files = [(one.name, one.remade) for one in found(host).values() if one.kind == "file"]
    assert files == [("/home/bob/backup.tar", False), (f"{WEBUI}/my movie.mkv", False)]


def test_downloads_that_broke_off(host: FakeHost, docker: FakeDocker) -> None:
    fill(host, f"{OLLAMA}/{BLOB}", 100, hours=2)
    fill(host, f"{OLLAMA}/{BLOB}-0", 100, hours=2)
    fill(host, f"{OLLAMA}/{BLOB}-1", 100)  # a moment ago: it goes on
    fill(host, f"{OLLAMA}/models/blobs/sha256-{'0f' * 32}", 100, hours=2)  # a model
    fill(host, f"{OLLAMA}/models/sha256-x-partial", 100, hours=2)
    fill(host, f"{MNT}/HF/hub/models--a/blobs/x.incomplete", 100, hours=2)
    fill(host, f"{MNT}/ComfyUI/models/vae/mine.incomplete", 100, hours=2)  # a user's
    fill(host, f"{MNT}/HF/hub/evil\nname.incomplete", 100, hours=2)  # cannot be named as it is
    fill(host, f"{WEBUI}/cache/embedding/y.incomplete", 100, hours=2)
    fill(host, f"{WEBUI}/uploads/z.incomplete", 100, hours=2)
    fill(host, f"{NVME}/ai/models/vae/w.safetensors.incomplete", 100, hours=2)
    pieces = {f"{one.place}/{piece.path}" for one in found(host).values() if one.remade for piece in one.pieces}
    assert pieces == {
        f"{OLLAMA}/{BLOB}",
        f"{OLLAMA}/{BLOB}-0",
        f"{MNT}/HF/hub/models--a/blobs/x.incomplete",
        f"{WEBUI}/cache/embedding/y.incomplete",
    }


def test_what_is_a_users(host: FakeHost, docker: FakeDocker) -> None:
    fill(host, f"{NVME}/ai/models/vae/a.safetensors", 300)
    fill(host, f"{SSD}/ai/outputs/comfy/b.png", 200)
    fill(host, f"{MNT}/ComfyUI/output/c.png", 100)
    fill(host, f"{WEBUI}/webui.db", 150)
    fill(host, "/var/log/journal/x/system.journal", 120)
    fill(host, "/var/log/syslog", 80)
    fill(host, "/var/cache/apt/archives/a.deb", 90)
    host.tool("apt-get", "exit 1")
    seen = found(host)
    assert {name for name, one in seen.items() if one.remade} == {"apt apt's cache"}
    assert set(seen) == {
        "models shared models",
        "outputs ComfyUI's outputs",
        "other Open WebUI's data",
        "journal the journal",
        "outputs ComfyUI's ComfyUI/output",
        "apt apt's cache",
        "log other logs",
    }


def test_a_file_with_two_names_counts_once(host: FakeHost, docker: FakeDocker) -> None:
    fill(host, f"{OLLAMA}/a", 100)
    os.link(host.at(f"{OLLAMA}/a"), host.at(f"{OLLAMA}/b"))
    host.at(f"{OLLAMA}/elsewhere").symlink_to("/usr")
    assert found(host)["models Ollama's models"].bytes < 130 * K


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_a_tree_without_end(host: FakeHost, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "USAGE_S", 0.5)
    host.at(OLLAMA).mkdir(parents=True)
    host.tool("find", r"printf '800 1 5 1700000000.5 f a\0'; sleep 30")
    began = time.monotonic()
    one = found(host)["models Ollama's models"]
    assert time.monotonic() - began < 3
    assert (one.bytes, one.complete) == (800 * 512, False)
    work.end_commands()


def test_hostile_names(host: FakeHost, docker: FakeDocker) -> None:
    host.at("/var/log").mkdir(parents=True)
    fill(host, "/var/log/a\x1b[31m b", 100)
    for number in range(300):
        fill(host, f"/var/log/x/{number}", 0)
    assert "\x1b" not in str(found(host))


# ---- the engine's figures


def image(number: str, *tags: str, size: int = 900 * K, **more: Any) -> dict[str, Any]:
    about = {
        "Id": f"sha256:{number}",
        "RepoTags": list(tags),
        "RepoDigests": ["r@sha256:1"],
        "Size": size,
        "SharedSize": 0,
    }
    return about | more


def test_images(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy")  # of the image sha256:1
    docker.routes["/images/ollama/ollama:latest/json"] = (200, {"Id": "sha256:2"})
    cache = [
        {"Size": 70 * K, "InUse": False, "Shared": False},
        {"Size": 500 * K, "InUse": True},
        {"Size": 9 * K, "Shared": True},
    ]
    docker.routes["/v1.44/system/df"] = (
        200,
        {
            "BuildCache": cache,
            "Images": [
                image("1", "comfy:1"),
                image("2", "ollama/ollama:latest"),
                image("3", "old:1", "old:2", SharedSize=100 * K),
                image("4", "mine:1", RepoDigests=[]),
                image("5", "<none>:<none>"),
                image("6", "busy:1", Containers=1),
            ],
        },
    )
    seen = [one for one in found(host).values() if one.kind in ("image", "build-cache")]
    assert {one.place: one.detail for one in seen if not one.remade} == {
        "sha256:1": "used by comfy",
        "sha256:2": "named in hosts.toml",
        "sha256:4": "built or loaded here",
        "sha256:6": "used by a container",
    }
    assert {one.place: (one.names, one.bytes) for one in seen if one.remade} == {
        "sha256:3": (("old:1", "old:2"), 800 * K),
        "sha256:5": ((), 900 * K),
        "build cache": ((), 70 * K),
    }


def test_with_containerd_only_what_came_from_a_registry(host: FakeHost, docker: FakeDocker) -> None:
    """There a name alone gives an image a digest by repository."""
    status = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    docker.routes["/info"] = (200, status)
    docker.routes["/v1.44/system/df"] = (200, {"Images": [image("3", "pulled:1"), image("4", "built:1")]})
    host.tool(
        "ctr",
        "echo 'DIGEST SIZE AGE LABELS'; echo 'sha256:4 8B 1s containerd.io/gc.ref=x'; "
        "echo 'sha256:3 9B 2m containerd.io/distribution.source.docker.io=pulled,containerd.io/gc.ref=y'",
    )
    assert [one.place for one in found(host).values() if one.remade] == ["sha256:3"]
    host.tool("ctr", "exit 1")
    assert [one.place for one in found(host).values() if one.remade] == []


def test_an_engine_that_counts_too_slowly(host: FakeHost, docker: FakeDocker) -> None:
    docker.routes["/v1.44/system/df"] = (500, {"message": "context deadline exceeded"})
    docker.routes["/images/json"] = (200, [image("3", "old:1", SharedSize=-1)])
    assert found(host)["image old:1"].bytes == 900 * K


def test_container_logs(host: FakeHost, docker: FakeDocker) -> None:
    folder = "/var/lib/docker/containers/a"
    fill(host, f"{folder}/a-json.log", 100)
    fill(host, f"{folder}/a-json.log.1", 100)
    fill(host, f"{folder}/a-json.logbook", 100)
    docker.container(
        "hand", LogPath=f"{folder}/a-json.log", HostConfig={"LogConfig": {"Type": "json-file", "Config": {}}}
    )
    docker.container("gone", LogPath="/nowhere/x.log")
    one = found(host)["container-log hand"]
    assert (one.bytes, one.remade, one.detail) == (200 * K, False, "without rotation")


# ---- rooms


def test_rooms(host: FakeHost) -> None:
    for path in (NVME, SSD, "/var/log", "/var/lib/docker"):
        host.at(path).mkdir(parents=True)
    made = parse({"schema": 1, "rooms": usage.rooms(SPEC, str(host.root))}).rooms
    assert isinstance(made, tuple)
    (room,) = made  # one file system
    assert isinstance(room, Room)
    assert room.holds == ("nvme", "ssd", "images", "docker", "logs", "root")
    assert room.total_bytes >= room.free_bytes > 0


def test_a_network_mount_is_not_asked(host: FakeHost) -> None:
    host.mount(NVME, "nfs4")
    host.at(NVME).mkdir(parents=True)
    made = usage.rooms(SPEC, str(host.root))
    assert "nvme" not in [name for room in made for name in room["holds"]]
