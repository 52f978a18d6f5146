"""The host's side of the protocol, run as it is run there: python3 -IBS, header on stdin."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from pantheon.remote import boot, session, shipped

MAIN = b"""
import json
def main(spec, stdin, stdout):
    print(json.dumps({"frame": "ran", "from": globals().get("__file__", "sent")}), file=stdout)
"""


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def store(lib: Path, name: str, text: bytes) -> Path:
    folder = lib / digest(text)
    folder.mkdir(parents=True, mode=0o755)
    file = folder / f"{name.rpartition('.')[2]}.py"
    file.write_bytes(text)
    return file


def run(
    lib: Path, text: bytes = MAIN, *, sources: dict[str, bytes] | None = None, also: dict[str, bytes] | None = None
) -> tuple[list[dict[str, Any]], Any]:
    modules = {name: digest(body) for name, body in {**(also or {}), "pantheon.probe": text}.items()}
    header = {"boot": Path(boot.__file__).read_text(), "modules": modules,
              "main": "pantheon.probe", "spec": {}, "lib": str(lib)}  # fmt: skip
    texts = {name: base64.b64encode(zlib.compress(body)).decode() for name, body in (sources or {}).items()}
    lines = json.dumps(header) + "\n\n\n" + json.dumps({"sources": texts}) + "\n"
    done = subprocess.run([*session.PYTHON], input=lines, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()], done


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    folder = tmp_path / "pantheon/lib"
    folder.mkdir(parents=True, mode=0o755)
    return folder


def test_missing_modules_are_asked_for_and_nothing_is_written(lib: Path) -> None:
    frames, _ = run(lib, sources={"pantheon.probe": MAIN})
    assert [frame["frame"] for frame in frames] == ["start", "missing", "ran"]
    assert frames[1]["modules"] == ["pantheon.probe"]
    assert frames[2]["from"] == "sent"
    assert list(lib.iterdir()) == []


def test_a_cached_module_is_used_and_leaves_no_bytecode(lib: Path) -> None:
    file = store(lib, "pantheon.probe", MAIN)
    frames, _ = run(lib)
    assert frames[1:] == [{"frame": "ran", "from": str(file)}]
    assert [path.name for path in file.parent.iterdir()] == ["probe.py"]


def test_bytecode_that_an_apply_left_is_used(lib: Path) -> None:
    file = store(lib, "pantheon.probe", MAIN)
    subprocess.run(["python3", "-I", "-m", "py_compile", file], check=True)
    assert run(lib)[0][1]["frame"] == "ran"


@pytest.mark.parametrize("spoil", ["text", "mode", "folder", "link", "bytecode"])
def test_a_copy_that_somebody_else_could_have_written_is_not_used(lib: Path, spoil: str) -> None:
    file = store(lib, "pantheon.probe", MAIN)
    if spoil == "text":
        file.write_bytes(MAIN + b"#")
    elif spoil == "mode":
        file.chmod(0o666)
    elif spoil == "folder":
        lib.chmod(0o777)
    elif spoil == "link":
        file.rename(lib / "real")
        file.symlink_to(lib / "real")
    else:
        (file.parent / "__pycache__").mkdir()
        (file.parent / "__pycache__/probe.cpython-311.pyc").write_bytes(b"x")
        (file.parent / "__pycache__/probe.cpython-311.pyc").chmod(0o666)
    frames, _ = run(lib, sources={"pantheon.probe": MAIN})
    assert frames[1]["frame"] == "missing"
    assert frames[2]["from"] == "sent"


@pytest.mark.parametrize("stored", [(), ("pantheon.a.same",), ("pantheon.a.same", "pantheon.b.same", "pantheon.probe")])
def test_modules_of_one_name_in_two_packages(lib: Path, stored: tuple[str, ...]) -> None:
    main = b"""
import json
import pantheon.a.same
from pantheon.b import same
def main(spec, stdin, stdout):
    print(json.dumps({"frame": "ran", "says": [pantheon.a.same.SAYS, same.SAYS]}), file=stdout)
"""
    texts = {"pantheon.a.same": b"SAYS = 'a'", "pantheon.b.same": b"SAYS = 'b'"}
    for name in stored:
        store(lib, name, {**texts, "pantheon.probe": main}[name])
    frames, _ = run(lib, main, sources={**texts, "pantheon.probe": main}, also=texts)
    assert frames[-1] == {"frame": "ran", "says": ["a", "b"]}


def test_a_program_of_its_own_needs_no_answers(tmp_path: Path) -> None:
    text = shipped.plain_program("pantheon.probe", {"root": str(tmp_path), "nonce": "1", "groups": ["docker"]})
    done = subprocess.run(["python3", "-I", "-"], input=text, capture_output=True, check=True)
    frame = json.loads(done.stdout)
    assert (frame["frame"], frame["facts"]["groups"], frame["facts"]["lock"]) == ("facts", {"docker": None}, None)
    assert "sent" not in str(frame["facts"]["nvml"]), "pynvml goes with it"


def test_a_text_that_did_not_arrive_whole(lib: Path) -> None:
    frames, done = run(lib, sources={"pantheon.probe": b"other"})
    assert frames[-1]["frame"] == "died"
    assert done.returncode == 1
    assert "pantheon.probe did not arrive whole" in done.stderr


def test_a_module_that_raises(lib: Path) -> None:
    text = b"def main(*_):\n raise OSError('odd')\n"
    frames, done = run(lib, text, sources={"pantheon.probe": text})
    assert frames[-1] == {"frame": "died", "error": "OSError: odd"}
    assert "Traceback" in done.stderr


def test_the_command_line_holds_only_the_first_step() -> None:
    assert len(session.BOOT) < 200
    assert not set(session.BOOT) & set("\\'!\n"), "characters that some login shell does not pass on"
