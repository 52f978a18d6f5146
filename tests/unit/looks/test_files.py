"""Mounts, paths, files and trees of a host made of files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import pytest

from pantheon import facts
from pantheon.looks.files import Mounts
from tests.unit.looks.fakes import (
    SECRET,
    SLOW_PATHS,
    FakeHost,
    cases,
    unknown_reason,
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("mounts")])
def test_the_mount_a_path_lies_on(case: dict[str, Any]) -> None:
    mounts = Mounts("\n".join(case["table"]).encode())
    for path, number in case["on"].items():
        place = mounts.of(path)
        assert place is not None
        assert place["id"] == number, path


def test_directories_files_links_and_what_is_not_there(host: FakeHost) -> None:
    host.write("/etc/passwd", "root:x:0:0::/:/bin/sh\ncomfy:x:1024:1024::/:/bin/sh\n:broken\n")
    host.write("/etc/group", "docker:x:104:ops\nbroken\nworse:x:y\n")
    host.mount("/mnt/local/nvme", "xfs", "/dev/nvme0n1p1")
    host.at("/mnt/local/nvme/ai").mkdir(parents=True)
    host.at("/mnt/local/nvme/ai").chmod(0o775)
    os.chown(host.at("/mnt/local/nvme/ai"), 1024, 104)
    host.at("/mnt/link").symlink_to("/mnt/local/nvme")  # absolute: it must stay under the root prefix
    host.at("/mnt/loop").symlink_to("loop")
    os.mkfifo(host.at("/mnt/fifo"))
    host.write("/mnt/file", "x")
    hostile = "/mnt/a b'\"$(touch pwned)\n\u00fc"
    host.at(hostile).mkdir()
    paths = [
        "/mnt/local/nvme",
        "/mnt/local/nvme/ai",
        "/mnt/link/ai",
        "/mnt/link",
        "/mnt/loop/x",
        "/mnt/fifo",
        "/mnt/file/x",
    ]
    found = host.look({"paths": [*paths, "/nowhere/at/all", hostile], "groups": ["docker", "nobody-has-it"]})
    nvme, ai, through, link = (found.paths[path] for path in paths[:4])
    assert isinstance(nvme, facts.Entry)
    assert isinstance(ai, facts.Entry)
    assert isinstance(through, facts.Entry)
    assert isinstance(link, facts.Entry)
    assert (nvme.is_mount, nvme.mount) == (True, facts.Mount("/mnt/local/nvme", "/dev/nvme0n1p1", "xfs", "rw"))
    assert (ai.uid, ai.owner, ai.gid, ai.group, ai.mode, ai.is_mount) == (1024, "comfy", 104, "docker", 0o775, False)
    assert ai.mount == nvme.mount
    assert (link.kind, link.real, link.is_mount) == ("symlink", "/mnt/local/nvme", False)
    assert (through.kind, through.real) == ("dir", "/mnt/local/nvme/ai")
    assert "too many levels" in unknown_reason(found.paths["/mnt/loop/x"])
    assert getattr(found.paths["/mnt/fifo"], "kind", "") == "other"
    assert found.paths["/mnt/file/x"] is None
    assert found.paths["/nowhere/at/all"] is None
    assert getattr(found.paths[hostile], "kind", "") == "dir"
    assert found.groups == {"docker": 104, "nobody-has-it": None}


def test_a_dead_network_mount_costs_its_own_paths_and_nothing_else(host: FakeHost) -> None:
    host.mount("/mnt/dead", "nfs4", "atlas:/appdata")
    host.at("/mnt/dead/x").mkdir(parents=True)
    host.at("/mnt/link").symlink_to("/mnt/dead/x")
    host.at("/srv").mkdir()
    asked = ["/mnt/dead", "/mnt/dead/x", "/mnt/link/y", "/srv"]
    spec = {"paths": asked, "spaces": ["/mnt/dead", "/srv"], "trees": [{"path": "/mnt/dead/x", "uid": 0, "gid": 0}]}
    began = time.monotonic()
    found = host.look({**spec, "files": [{"path": "/mnt/dead/x/f"}]}, SLOW_PATHS)
    assert time.monotonic() - began < 3
    for value in (
        found.paths["/mnt/dead/x"],
        found.spaces["/mnt/dead"],
        found.trees["/mnt/dead/x"],
        found.files["/mnt/dead/x/f"],
    ):
        assert "/mnt/dead (nfs4)" in unknown_reason(value)
    assert "network mount /mnt/dead" in unknown_reason(found.paths["/mnt/link/y"])
    assert isinstance(found.paths["/srv"], facts.Entry)
    assert isinstance(found.spaces["/srv"], facts.Space)
    assert isinstance(found.mounts, tuple)


def test_a_live_network_mount_is_read(host: FakeHost) -> None:
    host.mount("/mnt/atlas", "fuse.nfs4", "atlas:/x")
    host.at("/mnt/atlas/x").mkdir(parents=True)
    found = host.look({"paths": ["/mnt/atlas/x"]})
    assert getattr(found.paths["/mnt/atlas/x"], "kind", "") == "dir"


def test_an_automount_is_not_triggered(host: FakeHost) -> None:
    host.mount("/mnt/dead", "autofs", "systemd-1")
    host.at("/mnt/dead").mkdir(parents=True)
    found = host.look({"paths": ["/mnt/dead"]}, SLOW_PATHS)
    assert "automount" in unknown_reason(found.paths["/mnt/dead"])


def test_a_dying_disk_keeps_only_its_own_questions_waiting(host: FakeHost) -> None:
    host.at("/dead").mkdir()
    host.at("/srv").mkdir()
    began = time.monotonic()
    found = host.look({"paths": ["/srv", "/dead", "/tmp"]}, SLOW_PATHS)
    assert time.monotonic() - began < 3
    assert isinstance(found.paths["/srv"], facts.Entry)
    assert "no answer within 0.5 s (/dead)" in unknown_reason(found.paths["/dead"])


def test_files_with_their_hashes_and_secrets_without_anything(host: FakeHost) -> None:

    host.write("/opt/a/compose.yaml", "services: {}\n", 0o640)
    host.write("/opt/a/bad-utf8", b"\xff\xfe")
    host.write("/opt/a/large", b"x" * 300_000)
    host.write("/opt/a/key", SECRET, 0o600)
    host.at("/opt/a/link").symlink_to("compose.yaml")
    host.at("/opt/elsewhere").symlink_to("/opt/a")
    os.mkfifo(host.at("/opt/a/fifo"))
    names = ["compose.yaml", "bad-utf8", "large", "link", "fifo", "none"]
    spec = {"files": [*({"path": f"/opt/a/{name}", "secret": False} for name in names),
                      {"path": "/opt/a/key", "secret": True}, {"path": "/opt/elsewhere/compose.yaml"}]}  # fmt: skip
    done = host.raw(spec)
    found = facts.parse(json.loads(done.stdout)["facts"])
    compose, bad, large = (found.files[f"/opt/a/{name}"] for name in names[:3])
    assert isinstance(compose, facts.TextFile)
    assert isinstance(bad, facts.TextFile)
    assert isinstance(large, facts.TextFile)
    assert compose.sha256 == hashlib.sha256(b"services: {}\n").hexdigest()
    assert (compose.text, compose.mode, compose.size) == ("services: {}\n", 0o640, 13)
    assert found.files["/opt/elsewhere/compose.yaml"] == facts.TextFile(
        **vars(compose) | {"path": "/opt/elsewhere/compose.yaml"}
    )
    assert bad.text == "\ufffd\ufffd"
    assert (large.text, large.size) == (None, 300_000)
    assert "symlink" in unknown_reason(found.files["/opt/a/link"])
    assert "FIFO" in unknown_reason(found.files["/opt/a/fifo"])
    assert found.files["/opt/a/none"] is None
    key = found.files["/opt/a/key"]
    assert isinstance(key, facts.TextFile)
    assert (key.text, key.sha256, key.digest) == (None, "", facts.digest("00ff", SECRET))
    assert SECRET.encode() not in done.stdout


def test_a_tree_is_looked_at_within_bounds(host: FakeHost) -> None:
    top = host.at("/data/top")
    (top / "sub" / "deep").mkdir(parents=True)
    host.write("/data/top/sub/\u00fc\n", "x")
    (top / "sub" / os.fsdecode(b"bad\xff")).write_text("")
    (top / "away").symlink_to("/")
    host.mount("/data/top/other")
    host.write("/data/top/other/of-another-mount", "")
    for path in top.rglob("*"):
        os.chown(path, 1024, 1024, follow_symlinks=False)
    os.chown(top / "sub" / "deep", 0, 0)
    os.chown(top / "sub" / os.fsdecode(b"bad\xff"), 7, 8)
    spec = {
        "trees": [
            {"path": path, "uid": 1024, "gid": 1024} for path in ("/data/top", "/data/none", "/data/link", "/data/file")
        ]
    }
    host.at("/data/link").symlink_to("top")
    host.write("/data/file", "")
    found = host.look(spec)
    tree = found.trees["/data/top"]
    assert isinstance(tree, facts.Tree)
    assert (tree.looked, tree.wrong, tree.complete) == (5, 2, True)
    assert sorted(tree.examples) == ["/data/top/sub/bad\\xff (7:8)", "/data/top/sub/deep (0:0)"]
    assert found.trees["/data/none"] is None
    assert "symlink" in unknown_reason(found.trees["/data/link"])
    assert "not a directory" in unknown_reason(found.trees["/data/file"])


def test_a_large_tree_is_not_walked_to_its_end(host: FakeHost) -> None:
    for index in range(300):
        host.write(f"/data/{index:03}", "")
    found = host.look({"trees": [{"path": "/data", "uid": 0, "gid": 0}]}, "files.TREE_ENTRIES = 100")
    tree = found.trees["/data"]
    assert isinstance(tree, facts.Tree)
    assert (tree.looked, tree.complete) == (100, False)
