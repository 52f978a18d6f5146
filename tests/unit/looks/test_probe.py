"""Whole looks at hosts made of files, and the readings that guards are made of."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import time

import pytest

from pantheon import facts, questions
from pantheon.errors import LookFailed
from pantheon.inventory import Host
from pantheon.probe import reading
from tests.unit.looks.fakes import (
    ID,
    FakeDocker,
    FakeHost,
    free_port,
    never,
    unknown_reason,
)


def test_its_start_does_not_pay_for_heavy_modules(host: FakeHost) -> None:
    loaded = host.document({}, "probe.look = lambda spec: sorted(sys.modules)")
    heavy = {"dataclasses", "typing", "inspect", "http.client", "ssl", "urllib.parse", "ctypes", "pynvml"}
    assert not set(loaded) & heavy


def test_a_host_with_nothing_on_it(host: FakeHost) -> None:
    asked = questions.questions(Host(name="h", address="a"), nonce="00ff") | {"root": str(host.root)}
    # ports on which nothing listens
    asked["http"] = {"comfy": f"http://127.0.0.1:{free_port()}/"}
    found = host.look(asked)
    assert "os-release" in unknown_reason(found.os)
    assert (found.docker, found.containers, found.nvidia_smi, found.toolkit, found.hook) == (None,) * 5
    assert (found.module_version, found.library_version, found.state, found.lock) == (None,) * 4
    assert "pynvml was not sent" in unknown_reason(found.nvml)
    assert set(found.paths.values()) == {None}
    assert set(found.files.values()) == {None}
    assert set(found.images.values()) == {None}
    assert found.spaces == dict.fromkeys(("/mnt/local/nvme", "/mnt/local/ssd", "docker", "images"))
    assert found.groups == {"docker": None}
    http = found.http["comfy"]
    assert isinstance(http, facts.Http)
    assert (http.status, http.error) == (0, "Connection refused")
    assert "/proc/net/tcp" in unknown_reason(found.listeners)


def test_everything_hangs_and_the_look_ends(host: FakeHost, docker: FakeDocker) -> None:
    marker = f"{random.randrange(10**9)}.5"
    for name in ("docker", "nvidia-smi", "nvidia-ctk"):
        host.tool(name, f"/bin/sleep {marker} & /bin/sleep {marker}")
    for path in [*docker.routes, "/images/a:b/json"]:
        docker.routes[path] = never
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        found = host.look(
            {"images": ["a:b"], "http": {"silent": url}, "gpu_in": ["comfy"]},
            "work.PART_S, http.HTTP_S = 0.6, 0.4\nsystem.release = lambda root: time.sleep(60)",
        )
    assert time.monotonic() - began < 4
    assert isinstance(found.docker, facts.Docker)
    hung = [found.os, found.nvidia_smi, found.toolkit, found.docker.client, found.docker.engine, found.docker.compose]
    for value in [*hung, found.docker.root, found.containers, found.images["a:b"], found.spaces["docker"]]:
        assert "no answer within" in unknown_reason(value)
    http = found.http["silent"]
    assert isinstance(http, facts.Http)
    assert (http.status, http.error) == (0, "no answer within 0.4 s")
    # Their process groups are gone, the children of the children too
    left = subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_a_failing_part_takes_no_other_with_it(host: FakeHost) -> None:
    host.write("/etc/os-release", "ID=ubuntu\nVERSION_ID='24.04'\n")
    found = host.look({"paths": ["/etc"]}, "def fail(root): raise RuntimeError('what\\nnow')\nsystem.listeners = fail")
    assert unknown_reason(found.listeners) == "listening sockets: RuntimeError: what now"
    assert isinstance(found.os, facts.OsRelease)
    assert isinstance(found.paths["/etc"], facts.Entry)


def test_output_that_is_no_text_from_a_command(host: FakeHost) -> None:
    host.tool(
        "nvidia-smi", r"printf '\033[31m\377\000driver\007 mismatch\n'; /usr/bin/yes | /usr/bin/head -c 100000; exit 18"
    )
    smi = host.look().nvidia_smi
    assert isinstance(smi, facts.Command)
    assert smi.status == 18
    assert smi.output.startswith("\ufffddriver mismatch\ny\n")
    assert len(smi.output) <= 16 * 1024


def test_looking_changes_nothing(host: FakeHost, docker: FakeDocker) -> None:
    host.write("/opt/stacks/ai/compose.yaml", "x")
    docker.container("comfy")

    def state() -> list[tuple[str, int, int, int]]:
        found = ((str(path), path.lstat()) for path in sorted(host.root.rglob("*")))
        return [(path, about.st_mode, about.st_size, about.st_mtime_ns) for path, about in found]

    before = state()
    host.look(questions.questions(Host(name="h", address="a"), nonce="1") | {"root": str(host.root)})
    assert state() == before
    assert {line.partition(" ")[0] for line in docker.asked if "exec" not in line} == {"GET"}


def random_tree(host: FakeHost, rng: random.Random) -> list[str]:
    """Directories, files, links to anything, mounts; and every path there, with some that are not."""
    folders = ["/d"]
    paths = ["/d", "/d/none", "/d/none/below"]
    host.at("/d").mkdir()
    for index in range(25):
        folder = rng.choice(folders)
        path = f"{folder}/{rng.choice(['x', 'a b', 'ü', chr(34), '$(id)'])}{index}"
        paths.append(path)
        paths.append(f"{path}/inside")
        what = rng.choice(["dir", "dir", "file", "link", "fifo", "mount"])
        if what in ("dir", "mount"):
            host.at(path).mkdir()
            folders.append(path)
            if what == "mount":
                host.mount(path, rng.choice(["ext4", "xfs"]), f"/dev/sd{index}")
        elif what == "file":
            host.write(path, f"text {index}", rng.choice([0o600, 0o644, 0o755]))
        elif what == "link":
            host.at(path).symlink_to(rng.choice([*paths, "..", "none", path.rpartition("/")[2]]))
        else:
            os.mkfifo(host.at(path))
        if rng.random() < 0.5:
            os.chown(host.at(path), rng.choice([0, 1024]), rng.choice([0, 104]), follow_symlinks=False)
    return paths


@pytest.mark.parametrize("seed", range(6))
def test_a_reading_now_is_what_the_facts_say(host: FakeHost, docker: FakeDocker, seed: int) -> None:
    paths = random_tree(host, random.Random(seed))
    docker.container("comfy", number=ID)
    docker.routes["/images/a:b/json"] = (200, {"Id": "sha256:1"})
    docker.routes["/containers/fff/json"] = docker.routes[f"/containers/{ID}/json"]  # an id's beginning is no name
    images = ["a:b", "c:d"]
    found = host.look({"paths": paths, "files": [{"path": path} for path in paths], "images": images})
    targets = [(kind, path) for kind in ("path", "sha256", "mount") for path in paths]
    targets += [
        ("container", "comfy"),
        ("container", "nope"),
        ("container", "fff"),
        *(("image", name) for name in images),
    ]
    seen = set()
    for kind, target in targets:
        now = reading(kind, target, root=str(host.root))
        if now.startswith("unknown: "):
            with pytest.raises(LookFailed, match=re.escape(now.removeprefix("unknown: "))):
                found.reading(kind, target)
            continue
        assert found.reading(kind, target) == now, (kind, target)
        seen.add(f"{kind} {now.split(' ')[0]}")
    assert {"path missing", "path dir", "sha256 missing", "mount not", f"container {ID}", "container missing"} <= seen
    assert {"image sha256:1", "image missing"} <= seen


def test_readings_by_example(host: FakeHost) -> None:
    host.mount("/mnt/local/nvme", "xfs", "LABEL=nvme")
    host.at("/mnt/local/nvme/ai").mkdir(parents=True)
    host.at("/mnt/local/nvme/ai").chmod(0o775)
    host.write("/f", "x", 0o600)
    host.at("/link").symlink_to("/mnt/local")
    root = str(host.root)
    assert reading("path", "/mnt/local/nvme/ai", root=root) == f"dir {os.getuid()}:{os.getgid()} 0775"
    assert reading("path", "/link/nvme/ai", root=root) == "elsewhere: /mnt/local/nvme/ai"
    assert reading("path", "/link", root=root) == "symlink -> /mnt/local"
    assert reading("path", "/nope", root=root) == "missing"
    assert reading("mount", "/mnt/local/nvme", root=root) == "LABEL=nvme xfs"
    assert reading("mount", "/mnt/local", root=root) == "not a mount point"
    assert reading("mount", "/nope", root=root) == "not a mount point"
    assert reading("sha256", "/f", root=root).startswith("2d711642b726b044")
    assert "No such file" in reading("container", "comfy", root=root)
    assert reading("container", "comfy", root=root).startswith("unknown: ")
