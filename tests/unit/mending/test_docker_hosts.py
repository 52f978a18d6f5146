"""Docker's API out of daemon.json, and everything else left in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pantheon.mending import docker_hosts
from pantheon.mending.docker_hosts import without
from pantheon.mending.words import Failed
from tests.unit import programs

TCP = "tcp://0.0.0.0:2375"
UNIX = "unix:///var/run/docker.sock"


def test_only_the_address_goes() -> None:
    hosts = json.dumps([UNIX, TCP])
    text = f'{{\n  "zeta": {{"a": [1, 2]}},\n  "hosts": {hosts},\n  "log-driver": "json-file", "ü": "\\u00fc"\n}}'
    made = without(text, [TCP])
    assert made is not None
    assert json.loads(made) == {**json.loads(text), "hosts": [UNIX]}
    assert list(json.loads(made)) == ["zeta", "hosts", "log-driver", "ü"]
    assert '\n  "zeta"' in made


def test_a_list_that_is_empty_goes_too() -> None:
    assert without(json.dumps({"hosts": [TCP], "debug": True}), [TCP]) == '{\n    "debug": true\n}\n'


@pytest.mark.parametrize("text", ["{}", '{"hosts": null}', json.dumps({"hosts": [UNIX]}), "[]"])
def test_nothing_left_to_do(text: str) -> None:
    assert without(text, [TCP]) is None


@pytest.mark.parametrize("text", ["", "{hosts", '{"hosts": "tcp://0.0.0.0:2375"}', '// a comment\n{"hosts": []}'])
def test_what_is_odd_is_refused(text: str) -> None:
    with pytest.raises(Failed):
        without(text, [TCP])


@pytest.fixture(name="config")
def daemon_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A daemon.json, and a dockerd on PATH that finds fault with what holds the word `wrong`."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "dockerd"
    stub.write_text(
        '#!/bin/sh\ncp "$3" "$(dirname "$0")/seen"\n! grep -q wrong "$3" || { echo "no: wrong" >&2; exit 1; }\n'
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    path = tmp_path / "etc" / "daemon.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"hosts": [UNIX, TCP], "debug": False}))
    path.chmod(0o640)
    return path


def run(path: Path) -> subprocess.CompletedProcess[str]:
    argv = programs.argv(docker_hosts, {"path": str(path), "remove": [TCP]})
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ})


def test_as_a_program_and_again(config: Path) -> None:
    done = run(config)
    assert (done.returncode, done.stdout) == (0, f"{config}: took out {TCP}\n")
    assert json.loads(config.read_text())["hosts"] == [UNIX]
    assert config.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in config.parent.iterdir()] == ["daemon.json"]
    done = run(config)
    assert (done.returncode, done.stdout) == (0, f"{config}: nothing left to take out\n")


def test_what_dockerd_does_not_take_changes_nothing(config: Path) -> None:
    before = json.dumps({"hosts": [UNIX, TCP], "wrong": 1})
    config.write_text(before)
    done = run(config)
    assert done.returncode == 1
    assert done.stderr == f"{config} was not changed: dockerd does not take it without them: no: wrong\n"
    assert config.read_text() == before
    assert [path.name for path in config.parent.iterdir()] == ["daemon.json"]


def test_a_link_is_not_written_through(config: Path) -> None:
    link = config.with_name("link.json")
    link.symlink_to(config)
    done = run(link)
    assert (done.returncode, link.is_symlink()) == (1, True)
    assert "not a regular file" in done.stderr


def test_one_that_is_gone_has_nothing_to_take_out(config: Path) -> None:
    config.unlink()
    assert run(config).returncode == 0


def test_without_dockerd_nothing_is_changed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config.read_text()
    monkeypatch.setenv("PATH", "/nowhere")
    done = run(config)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert config.read_text() == before
