"""daemon.json merged, checked, put in place and taken back: with an engine of a few lines of shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import daemon_json
from tests.unit import programs

ROTATION = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "5"}}
NVIDIA = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
STUBS = {
    # --validate finds fault with what holds `invalid`
    "dockerd": 'grep -q invalid "$3" && { echo "unable to configure: invalid" >&2; exit 1; }; exit 0',
    # the engine comes up unless the file holds `fatal` or HOME/down is there; each restart is noted
    "systemctl": """echo "$*" >>"$HOME/systemctl"
[ "$1" = restart ] || exit 0
[ -e "$HOME/slow" ] && { touch "$HOME/restarting"; sleep 1; }
rm -f "$HOME/up"
if [ -e "$HOME/down" ] || grep -qs fatal "$HOME/etc/daemon.json"; then
  echo "Job for docker.service failed because the control process exited with error code." >&2; exit 1
fi
touch "$HOME/up" """,
    "docker": '[ -e "$HOME/up" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }; echo 29.1.3',
    "journalctl": """echo 'time="T" level=info msg="Starting up"'
echo 'failed to start daemon: the word is fatal'
echo 'docker.service: Failed with result exit-code.'""",
}
CTK = """#!{python}
import json, sys
path = sys.argv[-1].removeprefix("--config=")
assert sys.argv[1:-1] == ["runtime", "configure", "--runtime=docker"], sys.argv
config = json.load(open(path))
config.setdefault("runtimes", {{}}).setdefault("nvidia", {{"args": [], "path": "nvidia-container-runtime"}})
json.dump(dict(sorted(config.items())), open(path, "w"))
"""


class Engine:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "etc" / "daemon.json"
        (home / "bin").mkdir()
        for name, text in STUBS.items():
            self.program(name, f"#!/bin/sh\n{text}\n")
        self.program("nvidia-ctk", CTK.format(python=sys.executable))
        self.environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(home)}

    def program(self, name: str, text: str) -> None:
        (self.home / "bin" / name).write_text(text)
        (self.home / "bin" / name).chmod(0o755)

    def write(self, text: str) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(text)

    def start(self, **more: Any) -> subprocess.Popen[str]:
        told = {"path": str(self.path), "log": True, "nvidia": True, "restart": False, "answer_s": 2, **more}
        return subprocess.Popen(
            programs.argv(daemon_json, told),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def run(self, **more: Any) -> tuple[int, str]:
        process = self.start(**more)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output, output
        return process.returncode, output

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())

    @property
    def restarts(self) -> int:
        notes = self.home / "systemctl"
        return notes.read_text().count("restart docker.service") if notes.exists() else 0


@pytest.fixture(name="engine")
def made(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_a_host_without_the_file_gets_one(engine: Engine) -> None:
    status, output = engine.run()
    assert status == 0, output
    assert json.loads(engine.path.read_text()) == {**ROTATION, "runtimes": NVIDIA}
    assert "log rotation, runtimes.nvidia; dockerd takes it" in output
    assert engine.files() == ["daemon.json"]
    assert engine.restarts == 1
    assert engine.run() == (0, f"{engine.path} is right already\n")
    assert engine.restarts == 1
    assert engine.path.stat().st_mode & 0o777 == 0o644


def test_what_is_there_stays_as_and_where_it_is(engine: Engine) -> None:
    before: dict[str, Any] = {
        "zeta": {"b": 1, "a": [2]},
        "runtimes": {"kata": {"path": "/kata"}},
        "proxies": {"http-proxy": "ü"},
    }
    engine.write(json.dumps(before, indent=2))
    engine.path.chmod(0o640)
    assert engine.run()[0] == 0
    text = engine.path.read_text()
    assert json.loads(text) == {**before, "runtimes": {**before["runtimes"], **NVIDIA}, **ROTATION}
    assert list(json.loads(text)) == ["zeta", "runtimes", "proxies", "log-driver", "log-opts"]
    assert '\n  "zeta"' in text
    assert engine.path.stat().st_mode & 0o777 == 0o640
    kept = engine.path.with_name("daemon.json.before-pantheon")
    assert json.loads(kept.read_text()) == before


@pytest.mark.parametrize(
    ("logs", "after"),
    [
        ({}, ROTATION),
        ({"log-driver": "local"}, {"log-driver": "local"}),
        ({"log-driver": "journald", "log-opts": {"tag": "x"}}, {"log-driver": "journald", "log-opts": {"tag": "x"}}),
        ({"log-opts": {"max-size": "1g"}}, {"log-opts": {"max-size": "1g"}}),
        (
            {"log-driver": "json-file", "log-opts": {"max-file": "9"}},
            {"log-driver": "json-file", "log-opts": {"max-file": "9", "max-size": "10m"}},
        ),
        ({"log-opts": None}, ROTATION),  # null is as good as nothing to dockerd
    ],
)
def test_logs_are_bounded_where_nobody_has_said_otherwise(logs: dict[str, Any], after: dict[str, Any]) -> None:
    config = dict(logs)
    daemon_json.rotate(config)
    assert config == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"debug": true,}', "line 1, column"),
        ('{\n  "debug": true\n  "x": 1\n}', "line 3, column 3"),
        ("// mine\n{}", "line 1, column 1"),
        ("[]", "holds no object"),
        ('{"debug": true, "debug": false}', "debug is in it twice"),
        ('{"key": "invalid"}', "unable to configure: invalid"),
    ],
)
def test_what_is_broken_is_never_overwritten(engine: Engine, text: str, said: str) -> None:
    engine.write(text)
    status, output = engine.run()
    assert status == 1
    assert said in output
    assert engine.path.read_text() == text
    assert engine.files() == ["daemon.json"]
    assert engine.restarts == 0


def test_an_empty_file_and_a_link(engine: Engine) -> None:
    engine.write(" \n")
    assert engine.run(nvidia=False)[0] == 0
    assert json.loads(engine.path.read_text()) == ROTATION
    engine.path.unlink()
    engine.path.symlink_to("elsewhere")
    assert engine.run()[0] == 1
    assert engine.path.is_symlink()
    status, said = engine.run(log=False, nvidia=False, restart=True)
    assert status == 0, said
    assert engine.path.is_symlink(), "only the engine was to be restarted"


def test_without_nvidia_ctk_nothing_is_changed(engine: Engine) -> None:
    (engine.home / "bin" / "nvidia-ctk").unlink()
    status, output = engine.run()
    assert status == 1
    assert "nvidia-ctk could not be asked" in output
    assert not engine.path.exists()


def test_a_file_that_is_right_and_an_engine_that_must_read_it(engine: Engine) -> None:
    engine.write(json.dumps({**ROTATION, "runtimes": NVIDIA}))
    assert engine.run(restart=True)[0] == 0
    assert engine.restarts == 1
    assert engine.files() == ["daemon.json"]


@pytest.mark.parametrize("before", ["", '{"debug": true}'])
def test_an_engine_that_does_not_come_up_gets_the_old_file_back(engine: Engine, before: str) -> None:
    if before:
        engine.write(before)
    engine.program("nvidia-ctk", CTK.format(python=sys.executable).replace('"nvidia-container-runtime"', '"fatal"', 1))
    status, output = engine.run()
    assert status == 1
    assert "the engine does not come up: Job for docker.service failed" in output
    assert "dockerd: failed to start daemon: the word is fatal" in output
    assert "Starting up" not in output
    assert output.splitlines()[-1] == "the engine runs again, as before"
    assert engine.restarts == 2
    if before:
        assert engine.path.read_text() == before
        assert engine.files() == ["daemon.json", "daemon.json.before-pantheon", "daemon.json.refused"]
    else:
        assert engine.files() == ["daemon.json.refused"]


def test_a_socket_that_an_engine_of_others_has_left_is_restarted_too(engine: Engine) -> None:
    engine.program(
        "systemctl",
        """#!/bin/sh
echo "$*" >>"$HOME/systemctl"
case "$*" in
"restart docker.service") echo "Job for docker.service failed" >&2; exit 1 ;;
"restart docker.socket docker.service") touch "$HOME/up" ;;
esac
""",
    )
    engine.program(
        "journalctl",
        "#!/bin/sh\necho 'failed to load listeners: no sockets found via socket activation: make sure ..'\n",
    )
    assert engine.run()[0] == 0
    assert json.loads(engine.path.read_text())["runtimes"] == NVIDIA


def test_an_engine_that_comes_up_with_neither(engine: Engine) -> None:
    engine.write("{}")
    (engine.home / "down").touch()
    status, output = engine.run()
    assert status == 1
    assert "with that it does not come up either" in output
    assert engine.path.read_text() == "{}"


def test_what_was_kept_before_is_not_overwritten(engine: Engine) -> None:
    engine.write('{"debug": true}')
    (engine.path.parent / "daemon.json.before-pantheon").write_text("older")
    assert engine.run()[0] == 0
    assert (engine.path.parent / "daemon.json.before-pantheon").read_text() == "older"
    assert (engine.path.parent / "daemon.json.before-pantheon.~1~").read_text() == '{"debug": true}'


def test_a_run_that_is_ended_in_the_middle_leaves_an_engine_that_runs(engine: Engine) -> None:
    (engine.home / "slow").touch()
    process = engine.start()
    end = time.monotonic() + 20
    while not (engine.home / "restarting").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.stdout is not None
    process.stdout.close()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(5)
    while not (engine.home / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert json.loads(engine.path.read_text()) == {**ROTATION, "runtimes": NVIDIA}


def test_what_somebody_set_of_a_runtime_stays_as_it_is() -> None:
    config: dict[str, Any] = {"runtimes": {"nvidia": {"path": "/opt/mine"}, "kata": {"path": "kata"}}}
    ctk = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}, "default-runtime": "nvidia"}
    assert daemon_json.merge(config, ctk) == ["default-runtime"]
    assert config["runtimes"] == {"nvidia": {"path": "/opt/mine"}, "kata": {"path": "kata"}}
    config = {"runtimes": None}
    assert daemon_json.merge(config, ctk) == ["runtimes.nvidia", "default-runtime"]
    assert config["runtimes"] == ctk["runtimes"]
