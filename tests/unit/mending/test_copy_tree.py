"""Copies of real directories, compared name by name; killed, changed under the copy, and refused."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import content, copy_tree, directories, entries, progress
from pantheon.mending import engine as docker_engine

ROOT = os.geteuid() == 0
DAY = 86_400 * 10**9


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record but one of our own; nothing has to stay free."""
    monkeypatch.setattr(copy_tree, "RECORD", str(tmp_path / "record" / "copies.json"))
    monkeypatch.setattr(copy_tree, "SPARE", 0)


def run(target: Path, *parts: Any, **more: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    told = [part if isinstance(part, dict) else {"source": str(part)} for part in parts]
    return copy_tree.main(json.dumps({"target": str(target), "parts": told, **more}), said.append), said


def good(target: Path, *parts: Any, **more: Any) -> list[str]:
    status, said = run(target, *parts, **more)
    assert status == 0, said
    return said


def snapshot(top: Path, *, owner: tuple[int, int] | None = None, with_top: bool = False) -> dict[str, Any]:
    """Everything that can be told of a tree, by name; hard links as groups of names."""
    found: dict[str, Any] = {}
    names: dict[int, str] = {}
    for path in sorted([*top.rglob("*"), *([top] if with_top else [])]):
        about, rel = path.lstat(), os.path.relpath(path, top)
        content: Any = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        first = names.setdefault(about.st_ino, rel) if about.st_nlink > 1 and not path.is_dir() else rel
        found[rel] = (
            stat.S_IFMT(about.st_mode), stat.S_IMODE(about.st_mode), owner or (about.st_uid, about.st_gid),
            about.st_size if content else 0, about.st_mtime_ns, content, first,
        )  # fmt: skip
    return found


def old(path: Path, ago_ns: int = 30 * DAY) -> None:
    when = time.time_ns() - ago_ns + 123_456_789
    os.utime(path, ns=(when, when), follow_symlinks=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one of each."""
    top = tmp_path / "somebody's $(data)"
    (top / "ComfyUI" / "user" / "default" / "workflows").mkdir(parents=True)
    (top / "ComfyUI" / "output").mkdir()
    (top / "empty").mkdir(mode=0o750)
    (top / "ComfyUI" / "user" / "default" / "workflows" / "a b'c\n.json").write_text("{}")
    (top / "ComfyUI" / "output" / "é\x1b[31m.png").write_bytes(b"\x89PNG" * 1000)
    os.close(os.open(os.fsencode(top) + b"/not-utf8-\xff\xfe", os.O_CREAT | os.O_WRONLY, 0o600))
    (top / "model").write_bytes(random.Random(1).randbytes(3 * content.BLOCK + 17))
    (top / "zero").write_bytes(bytes(2 * content.BLOCK))
    (top / "none").touch()
    os.link(top / "model", top / "ComfyUI" / "model again")
    os.link(top / "model", top / "a third")
    (top / "link").symlink_to("/nowhere/at all")
    (top / "dirlink").symlink_to("ComfyUI")
    os.mkfifo(top / "pipe", 0o640)
    with (top / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
        file.truncate(9 << 20)
    (top / "set").write_text("x")
    (top / "set").chmod(0o4755)
    for path in [*sorted(top.rglob("*"), reverse=True), top]:
        old(path)
    return top


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if "pantheon" in path.name)


def test_all_of_it_as_it_is(source: Path, tmp_path: Path) -> None:
    before = snapshot(source, with_top=True)
    target = tmp_path / "target"
    said = good(target, source)
    assert snapshot(target, with_top=True) == before
    assert snapshot(source, with_top=True) == before, "the source stays as it was"
    assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (target / "model").stat().st_nlink == 3
    assert left(target) == []
    assert said[-1] == f"{target} is complete"
    assert any("each read back and compared" in line or "sharing their blocks" in line for line in said)
    assert all("\n" not in line and "\x1b" not in line for line in said)


def test_an_empty_directory_of_ours_gives_owner_and_mode(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o2775)
    good(target, source)
    assert stat.S_IMODE(target.stat().st_mode) == 0o2775
    assert snapshot(target) == snapshot(source)


def test_one_owner_for_all(source: Path, tmp_path: Path) -> None:
    uid, gid = (1024, 1024) if ROOT else (os.getuid(), os.getgid())
    good(tmp_path / "target", source, owner=[uid, gid])
    assert snapshot(tmp_path / "target", with_top=True) == snapshot(source, owner=(uid, gid), with_top=True)


def test_attributes_are_kept(source: Path, tmp_path: Path) -> None:
    try:
        os.setxattr(source / "none", "user.note", b"\0\xff")
    except OSError:
        pytest.fail("this file system takes no attributes: run the tests on one that does")
    os.setxattr(source / "ComfyUI", "user.dir", b"1")
    good(tmp_path / "target", source)
    assert os.getxattr(tmp_path / "target" / "none", "user.note") == b"\0\xff"
    assert os.getxattr(tmp_path / "target" / "ComfyUI", "user.dir") == b"1"


def test_sockets_and_devices_are_named_and_left_out(source: Path, tmp_path: Path) -> None:
    short = Path("/tmp") / f"pantheon-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short))
        short.rename(source / "live.sock")
    said = good(tmp_path / "target", source)
    assert "left out, since they are no data: live.sock (a socket)" in said
    assert not (tmp_path / "target" / "live.sock").exists()


# ---- several sources, one place


def test_parts_do_not_overlap(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "basedir"
    (other / "workflows").mkdir(parents=True)
    (other / "workflows" / "mine.json").write_text("{1}")
    (other / "left").write_text("")
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "x").write_text("")
    target = tmp_path / "target"
    good(
        target,
        {"source": str(source), "skip": ["ComfyUI/output", "model"]},
        {"source": str(other), "into": "ComfyUI/user", "skip": ["left"]},
        {"source": str(deep), "into": "new/place/deep"},
        {"source": str(tmp_path / "gone"), "into": "gone", "optional": True},
    )
    assert (target / "ComfyUI" / "user" / "workflows" / "mine.json").read_text() == "{1}"
    assert (target / "new" / "place" / "deep" / "x").exists()
    for name in ("ComfyUI/output", "ComfyUI/user/default", "ComfyUI/user/left", "model", "gone"):
        assert not (target / name).exists()
    assert (target / "a third").stat().st_nlink == 2
    assert (target / "ComfyUI").stat().st_mtime_ns == (source / "ComfyUI").stat().st_mtime_ns


# ---- what was there is never touched


def test_what_is_there_is_not_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("x")
    status, said = run(target, source)
    assert status == 1
    assert said == [f"{target} is not empty, and nothing in it is replaced: move it away first"]
    assert sorted(path.name for path in target.iterdir()) == ["precious"]
    assert left(target) == []


@pytest.mark.parametrize("kind", ["file", "directory", "other"])
def test_a_place_beside_that_is_not_ours(source: Path, tmp_path: Path, kind: str) -> None:
    beside = tmp_path / "target.pantheon-copy"
    if kind == "file":
        beside.write_text("x")
    elif kind == "directory":
        beside.mkdir()
        (beside / "precious").write_text("x")
    else:
        (tmp_path / "other").mkdir()
        good(tmp_path / "target", tmp_path / "other", mode="ahead")
    before = snapshot(tmp_path)
    status, said = run(tmp_path / "target", source)
    assert status == 1
    assert "in the way" in said[-1] or "of something else" in said[-1]
    assert {name: found for name, found in snapshot(tmp_path).items() if "pantheon" in name} == {
        name: found for name, found in before.items() if "pantheon" in name
    }


@pytest.mark.parametrize("target", ["inside", "ComfyUI/x", "."])
def test_no_copy_into_itself(source: Path, target: str) -> None:
    status, said = run(source / target, source)
    assert status == 1
    assert "lie in each other" in said[-1]


def test_a_target_behind_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "real")
    status, said = run(tmp_path / "way" / "target", source)
    assert status == 1
    assert "way: a link" in said[-1]


def test_a_source_behind_a_link_is_that_directory(source: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(source)
    good(tmp_path / "target", tmp_path / "way")
    assert snapshot(tmp_path / "target") == snapshot(source)


@pytest.mark.parametrize("place", ["../x", "a/../../x"])
def test_places_that_lead_out(source: Path, tmp_path: Path, place: str) -> None:
    assert run(tmp_path / "target", {"source": str(source), "into": place})[0] == 1
    assert not (tmp_path / "target").exists()


def test_no_room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_tree, "SPARE", 1 << 60)
    monkeypatch.setattr(copy_tree.Copy, "clones", lambda *_: False)
    before = snapshot(source)
    status, said = run(tmp_path / "target", source)
    assert status == 1
    assert "no room for the copy" in said[-1]
    assert not (tmp_path / "target").exists()
    assert snapshot(source) == before


# ---- run again


def test_ahead_and_then_the_rest(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    good(target, source, mode="ahead")
    assert list(target.iterdir()) == []
    assert stat.S_IMODE((tmp_path / "target.pantheon-copy").stat().st_mode) == 0o700
    shutil.rmtree(source / "ComfyUI" / "output")
    (source / "none").write_text("now")
    (source / "new").mkdir()
    (source / "new" / "file").write_text("1")
    (source / "set").unlink()
    (source / "set").symlink_to("x")
    (source / "model").chmod(0o600)
    (source / "link").unlink()
    (source / "link").mkdir()
    said = good(target, source)
    assert snapshot(target) == snapshot(source)
    assert any("2 files (4 bytes) copied now" in line for line in said) or any("sharing" in line for line in said)
    assert left(target) == []
    assert "is complete" in good(target, source)[0], "what changed before the second pass is no change since"


def test_a_change_that_neither_size_nor_time_show(source: Path, tmp_path: Path) -> None:
    path = source / "ComfyUI" / "output" / "é\x1b[31m.png"
    good(tmp_path / "target", source, mode="ahead")
    about = path.stat()
    path.write_bytes(b"\x88PNG" * 1000)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    good(tmp_path / "target", source)
    assert snapshot(tmp_path / "target") == snapshot(source)


def test_nothing_is_read_twice(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "RACY_NS", -DAY)  # what was made a moment ago counts as old
    good(tmp_path / "target", source, mode="ahead")
    monkeypatch.setattr(entries.Maker, "digest", lambda *_: pytest.fail("read again"))
    good(tmp_path / "target", source)
    assert snapshot(tmp_path / "target") == snapshot(source)


def test_after_a_power_cut_everything_is_compared(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "RACY_NS", -DAY)
    good(tmp_path / "target", source, mode="ahead")
    staging = tmp_path / "target.pantheon-copy"
    about = json.loads((staging / "about.json").read_text())
    (staging / "about.json").write_text(json.dumps({**about, "synced": False, "boot": "another"}))
    times = (staging / "tree" / "model").stat()
    (staging / "tree" / "model").write_bytes(bytes(times.st_size))
    os.utime(staging / "tree" / "model", ns=(times.st_atime_ns, times.st_mtime_ns))
    good(tmp_path / "target", source)
    assert snapshot(tmp_path / "target") == snapshot(source)


def test_done_is_done(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    good(target, source)
    (target / "service's own").write_text("")
    before = snapshot(target)
    said = good(target, source)
    assert len(said) == 1
    assert "is complete" in said[0]
    assert snapshot(target) == before
    (source / "none").write_text("meanwhile")
    status, said = run(target, source)
    assert status == 1
    assert "none has changed since: move the copy away first" in said[0]
    assert snapshot(target) == before


def test_the_record(source: Path, tmp_path: Path) -> None:
    good(tmp_path / "target", source)
    record = json.loads(Path(copy_tree.RECORD).read_text())[str(tmp_path / "target")]
    assert record["parts"] == [{"source": str(source), "container": "", "into": "", "skip": []}]
    assert record["entries"] == len(snapshot(source, with_top=True))


def test_a_source_that_is_written_to(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ahead it is left for later, in the end it is said."""
    real, path = entries.Maker.fill, source / "model"

    def fill(self: entries.Maker, origin: int, fd: int, size: int) -> None:
        real(self, origin, fd, size)
        if os.fstat(origin).st_ino == path.stat().st_ino:
            with path.open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr(entries.Maker, "fill", fill)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    said = good(tmp_path / "target", source, mode="ahead")
    assert any(line.startswith("written to while they were copied") for line in said)
    status, said = run(tmp_path / "target", source)
    assert status == 1
    assert "is being written to while it is copied: stop what uses it" in said[-1]
    assert not (tmp_path / "target").exists()
    monkeypatch.setattr(entries.Maker, "fill", real)
    good(tmp_path / "target", source)
    assert snapshot(tmp_path / "target") == snapshot(source)


def test_a_disk_that_lies(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries.Maker, "clones", lambda *_: False)
    monkeypatch.setattr(entries, "pwrite_all", lambda fd, data, at: os.pwrite(fd, b"?" + data[1:], at))
    status, said = run(tmp_path / "target", source)
    assert status == 1
    assert "reads back differently" in said[-1]
    assert not (tmp_path / "target").exists()


def test_into_a_mount_point(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be renamed over one: it is filled from inside, and taken up again where it was left."""
    target = tmp_path / "disk"
    (target / "lost+found").mkdir(parents=True)
    number = target.stat().st_ino
    monkeypatch.setattr(copy_tree, "mount_of", lambda fd: "disk" if os.fstat(fd).st_ino == number else "root")
    real, count = os.rename, 0

    def cut(*told: Any, **more: Any) -> None:
        nonlocal count
        if more.get("dst_dir_fd") is not None and os.fstat(more["dst_dir_fd"]).st_ino == number:
            count += 1
            if count == 4:
                raise OSError(5, "Input/output error")
        real(*told, **more)

    monkeypatch.setattr(os, "rename", cut)
    assert run(target, source)[0] == 1
    assert (target / ".pantheon-copy").is_dir()
    good(target, source)
    assert not (target / ".pantheon-copy").exists()
    found = {name: about for name, about in snapshot(target).items() if name != "lost+found"}
    assert found == snapshot(source)
    assert "is complete" in good(target, source)[0]


def test_deep_trees(tmp_path: Path) -> None:
    source = tmp_path / "deep"
    (source / "/".join(["d"] * 700)).mkdir(parents=True)
    (source / "/".join(["d"] * 700) / "end").write_text("x")
    good(tmp_path / "target", source)
    assert (tmp_path / "target" / "/".join(["d"] * 700) / "end").read_text() == "x"


# ---- killed

SLOW = """
import os, sys, time
sys.path.insert(0, {root!r})
from pantheon.mending import copy_tree
copy_tree.RECORD, copy_tree.SPARE = {record!r}, 0
for name in ("rename", "link", "mkdir", "chown", "utime", "open"):
    def slow(*a, _real=getattr(os, name), **k):
        time.sleep(0.0004)
        return _real(*a, **k)
    setattr(os, name, slow)
sys.exit(copy_tree.main(sys.argv[1], copy_tree.say))
"""


def test_killed_right_at_the_end(source: Path, tmp_path: Path) -> None:
    good(tmp_path / "target", source)
    (tmp_path / "target.pantheon-copy").mkdir()
    assert "is complete" in good(tmp_path / "target", source)[-1]
    assert left(tmp_path / "target") == []


@pytest.mark.parametrize("seed", range(int(os.environ.get("PANTHEON_KILLS", "5"))))
def test_killed_at_any_moment(source: Path, tmp_path: Path, seed: int) -> None:
    """It ends as if nothing had happened, the source untouched, and the target there only when it is whole."""
    rng = random.Random(seed)
    for number in range(60):
        folder = source / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(rng.randrange(70_000)))
    before, target = snapshot(source, with_top=True), tmp_path / "target"
    target.mkdir()
    top = {"target": str(target), "parts": [{"source": str(source)}]}
    program = SLOW.format(root=str(Path(copy_tree.__file__).parents[2]), record=copy_tree.RECORD)
    for attempt in range(40):
        process = subprocess.Popen([sys.executable, "-c", program, json.dumps(top)], stdout=subprocess.DEVNULL)
        try:
            status = process.wait(0.12 + rng.random() * 0.15 + 0.06 * attempt)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            assert status == 0
            break
        names = snapshot(target)
        assert not names or names == {k: v for k, v in before.items() if k != "."}
    else:
        pytest.fail("never came to its end")
    assert snapshot(target) == {name: about for name, about in before.items() if name != "."}
    assert snapshot(source, with_top=True) == before
    assert left(target) == []
    good(target, source)


# ---- size


def test_memory_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    source = tmp_path / "many"
    peaks = []
    for count in (100, 1200):
        for number in range(count):
            folder = source / str(number % 5)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"file-{count}-{number}").touch()
        tracemalloc.start()
        good(tmp_path / f"target{count}", source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_holes_do_not_count() -> None:
    whole, holes = content.Digest(), content.Digest()
    data = b"x" * 100 + bytes(content.BLOCK - 100)
    whole.feed(0, data)
    whole.feed(content.BLOCK, content.ZEROS)
    whole.feed(2 * content.BLOCK, bytes(5000) + b"y")
    holes.feed(0, b"x" * 50)
    holes.feed(50, b"x" * 50)
    holes.feed(2 * content.BLOCK + 5000, b"y")
    assert whole.value() == holes.value()
    other = content.Digest()
    other.feed(0, b"x" * 100)
    other.feed(3 * content.BLOCK, bytes(5000) + b"y")
    assert other.value() != whole.value()


def test_progress(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_S", 0)
    monkeypatch.setattr(entries.Maker, "clones", lambda *_: False)
    said = good(tmp_path / "target", source)
    lines = [line for line in said if "/s" in line]
    assert lines
    assert any("MiB of" in line and "%" in line and "left" in line for line in lines)
    assert any(line.startswith("comparing: ") for line in said)


# ---- out of a container

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes in the middle is none of ours."""


class Engine:
    """The two answers of the Docker Engine that are asked for."""

    def __init__(self, path: str) -> None:
        self.state: dict[str, Any] = {"Running": False, "StartedAt": "1", "FinishedAt": "2"}
        self.tars: list[bytes] = []
        self.cut = 0
        engine = self

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if "/archive?" not in self.path:
                    body = json.dumps({"Id": "abc", "State": engine.state, "SizeRw": 1000}).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                if not engine.tars:
                    self.send_error(404)
                    return
                data = engine.tars.pop(0) if len(engine.tars) > 1 else engine.tars[0]
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                data = data[: engine.cut or len(data)]
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                if not engine.cut:
                    self.wfile.write(b"0\r\n\r\n")
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

            def address_string(self) -> str:
                return ""

        self.server = UnixServer(path, Answers)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    path = f"/tmp/pantheon-engine-{os.getpid()}"
    Path(path).unlink(missing_ok=True)
    monkeypatch.setattr(docker_engine, "SOCKET", path)
    made = Engine(path)
    yield made
    made.server.shutdown()
    made.server.server_close()
    Path(path).unlink()


def packed(source: Path, name: str) -> bytes:
    """As the engine packs it: whole seconds, names below the directory's own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def whole(info: tarfile.TarInfo) -> tarfile.TarInfo:
            info.mtime = int(info.mtime)
            return info

        tar.add(source, name, filter=whole)
    return out.getvalue()


LAYER = {"source": "/root/.ollama", "container": "my-ollama"}


def by_second(found: dict[str, Any]) -> dict[str, Any]:
    return {name: (*about[:4], about[4] // 10**9, *about[5:]) for name, about in found.items()}


def test_out_of_a_container(source: Path, tmp_path: Path, engine: Engine) -> None:
    engine.tars = [packed(source, ".ollama")]
    good(tmp_path / "target", LAYER)
    found = by_second(snapshot(tmp_path / "target"))
    assert found == by_second(snapshot(source))
    assert (tmp_path / "target" / "sparse").stat().st_blocks * 512 < 3 << 20
    good(tmp_path / "target", LAYER)
    assert left(tmp_path / "target") == []


def test_skip_and_owner_out_of_a_container(source: Path, tmp_path: Path, engine: Engine) -> None:
    engine.tars = [packed(source, "mnt")]
    user = tmp_path / "user"
    user.mkdir()
    (user / "mine").write_text("1")
    me = [1024, 1024] if ROOT else [os.getuid(), os.getgid()]
    layer = {"source": "/comfy/mnt", "container": "c", "skip": ["model", "ComfyUI/output"]}
    target = tmp_path / "target"
    good(target, layer, {"source": str(user), "into": "ComfyUI/user"}, owner=me)
    assert not (target / "model").exists()
    assert not (target / "ComfyUI" / "output").exists()
    assert sorted(path.name for path in (target / "ComfyUI" / "user").iterdir()) == ["mine"]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in target.rglob("*")} == {tuple(me)}


def test_a_container_that_still_runs(source: Path, tmp_path: Path, engine: Engine) -> None:
    engine.tars = [packed(source, ".ollama")]
    engine.state["Running"] = True
    assert "is copied when the container has stopped" in good(tmp_path / "target", LAYER, mode="ahead")[0]
    status, said = run(tmp_path / "target", LAYER)
    assert status == 1
    assert "still runs" in said[-1]


def test_a_stream_that_breaks_off(source: Path, tmp_path: Path, engine: Engine) -> None:
    data = packed(source, ".ollama")
    engine.tars, engine.cut = [data], len(data) // 2
    status, said = run(tmp_path / "target", LAYER)
    assert status == 1
    assert "broke off" in said[-1]
    assert not (tmp_path / "target").exists()
    engine.cut = 0
    good(tmp_path / "target", LAYER)
    assert by_second(snapshot(tmp_path / "target")) == by_second(snapshot(source))


def test_two_streams_that_differ(source: Path, tmp_path: Path, engine: Engine) -> None:
    first = packed(source, ".ollama")
    (source / "none").write_text("later")
    engine.tars = [first, packed(source, ".ollama")]
    status, said = run(tmp_path / "target", LAYER)
    assert status == 1
    assert "is not what was copied" in said[-1]
    good(tmp_path / "target", LAYER)
    assert (tmp_path / "target" / "none").read_text() == "later"


def test_a_container_that_ran_in_between_is_copied_anew(source: Path, tmp_path: Path, engine: Engine) -> None:
    data = packed(source, ".ollama")
    engine.tars, engine.cut = [data], len(data) - 2000
    assert run(tmp_path / "target", LAYER)[0] == 1
    (source / "model").unlink()
    engine.tars, engine.cut, engine.state = [packed(source, ".ollama")], 0, {"StartedAt": "3", "FinishedAt": "4"}
    good(tmp_path / "target", LAYER)
    assert not (tmp_path / "target" / "model").exists()


def test_no_such_directory_in_it(tmp_path: Path, engine: Engine) -> None:
    status, said = run(tmp_path / "target", LAYER)
    assert (status, said[-1]) == (1, "container my-ollama has no /root/.ollama")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one in ("x", "x/a"):
            info = tarfile.TarInfo(one)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        info = tarfile.TarInfo("x/a/out")
        info.type, info.linkname = tarfile.SYMTYPE, "/tmp"
        tar.addfile(info)
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 0
        tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    "hostile",
    [
        member("x/../../evil"),
        member("x/a/out/evil"),
        member("/x/a/../../../evil"),
        member("x/hard", tarfile.LNKTYPE, "x/a/out/../../secret"),
        member("x/hard", tarfile.LNKTYPE, "x/nowhere"),
        member("x/hard", tarfile.LNKTYPE, "../secret"),
    ],
)
def test_no_name_leads_out(tmp_path: Path, engine: Engine, hostile: bytes) -> None:
    (tmp_path / "secret").write_text("s")
    engine.tars = [hostile]
    status, said = run(tmp_path / "target", LAYER)
    assert status == 1, said
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.rglob("evil"))
    assert not Path("/tmp/evil").exists()
