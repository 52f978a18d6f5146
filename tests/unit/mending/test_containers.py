"""start_stack and rejoin, against a docker command that remembers what it was told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import rejoin, start_stack
from tests.unit import programs

DOCKER = """#!{python}
import json, os, sys
state = "{folder}/state.json"
found = json.load(open(state))
argv = sys.argv[1:]
open("{folder}/asked", "a").write(" ".join(argv) + "\\n")
if argv[0] == "version":
    if found["silent"] > 0:
        found["silent"] -= 1
        json.dump(found, open(state, "w"))
        print("Cannot connect to the Docker daemon at unix:///var/run/docker.sock."); sys.exit(1)
    print("29.1.3")
elif argv[0] == "ps":
    for name, about in found["containers"].items():
        print(json.dumps({{"name": name, "state": about["state"]}}))
elif argv[:2] == ["container", "inspect"]:
    about = found["containers"].get(argv[-1])
    if about is None:
        print("[]\\nError response from daemon: No such container: x"); sys.exit(1)
    print(json.dumps([{{"State": {{"Running": about["state"] == "running", "Pid": about.get("pid", 0)}},
        "Mounts": about.get("mounts", [])}}]))
elif argv[0] in ("start", "restart", "unpause"):
    about = found["containers"][argv[-1]]
    if about.get("refuses"):
        print("Error response from daemon: " + about["refuses"]); sys.exit(1)
    about["state"] = "running"
    json.dump(found, open(state, "w"))
    print(argv[-1])
"""


class Docker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docker").write_text(DOCKER.format(python=sys.executable, folder=folder))
        (folder / "docker").chmod(0o755)

    def has(self, silent: int = 0, /, **containers: Any) -> None:
        """`silent`: how often it does not answer first."""
        (self.folder / "state.json").write_text(json.dumps({"silent": silent, "containers": containers}))

    @property
    def did(self) -> list[str]:
        asked = (self.folder / "asked").read_text().splitlines()
        return [line for line in asked if line.split()[0] in ("start", "restart", "unpause")]

    def run(self, module: Any, arguments: dict[str, Any]) -> tuple[int, str]:
        done = subprocess.run(
            programs.argv(module, arguments),
            env={"PATH": f"{self.folder}:/usr/bin:/bin"},
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.stderr == b""
        return done.returncode, done.stdout.decode()


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


def stack(*names: str) -> dict[str, Any]:
    return {"project": "pantheon-ai", "names": list(names) or None, "deadline_s": 5, "calm_s": 0.1}


def test_it_waits_and_starts_what_is_down_in_order(docker: Docker) -> None:
    docker.has(2, openwebui={"state": "exited"}, ollama={"state": "exited"}, comfy={"state": "running"})
    status, said = docker.run(start_stack, stack("openwebui", "comfy", "ollama"))
    assert status == 0, said
    assert docker.did == ["start ollama", "start openwebui"]
    assert "Docker Engine 29.1.3 answers" in said
    assert "comfy: is up" in said


def test_again_it_has_nothing_to_do(docker: Docker) -> None:
    docker.has(0, comfy={"state": "running"}, ollama={"state": "restarting"})
    assert docker.run(start_stack, stack("comfy", "ollama", "gone"))[0] == 0
    assert docker.did == []


def test_without_names_it_takes_what_has_the_label(docker: Docker) -> None:
    docker.has(0, comfy={"state": "paused"}, ollama={"state": "created"})
    assert docker.run(start_stack, stack())[0] == 0
    assert docker.did == ["start ollama", "unpause comfy"]
    assert "label=pantheon.project=pantheon-ai" in (docker.folder / "asked").read_text()


def test_what_cannot_be_started_is_said_in_one_line(docker: Docker) -> None:
    docker.has(0, comfy={"state": "exited", "refuses": "no such device\nmore"}, ollama={"state": "exited"})
    status, said = docker.run(start_stack, stack("comfy", "ollama"))
    assert (status, docker.did) == (1, ["start ollama", "start comfy"])
    last = "cannot be started: comfy: Error response from daemon: no such device"
    assert said.splitlines()[-1] == last


def test_an_engine_that_does_not_come(docker: Docker) -> None:
    docker.has(99)
    status, said = docker.run(start_stack, stack() | {"deadline_s": 0.5})
    assert (status, said.splitlines()[-1][:39]) == (1, "Docker does not answer after 0.5 s: Can")


def test_no_docker_at_all(tmp_path: Path) -> None:
    for module, arguments in ((start_stack, stack("a")), (rejoin, {"restart": ["a"]})):
        done = subprocess.run(
            programs.argv(module, arguments),
            env={"PATH": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, b"")
        assert b"docker: No such file or directory" in done.stdout


# ---- rejoin


def test_only_those_that_work_beside_the_disk_are_restarted(docker: Docker, tmp_path: Path) -> None:
    pid = os.getpid()  # a process that sees the same as the host
    disk = tmp_path / "disk"
    (disk / "a b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    here = {"Type": "bind", "Source": f"{disk}/a b", "Destination": f"{disk}/a b", "RW": True}
    docker.has(
        0,
        right={"state": "running", "pid": pid, "mounts": [here]},
        beside={"state": "running", "pid": pid, "mounts": [here | {"Destination": f"{tmp_path}/other"}]},
        gone={"state": "running", "pid": pid, "mounts": [here | {"Source": f"{disk}/not there"}]},
        elsewhere={"state": "running", "pid": pid, "mounts": [here | {"Source": "/etc", "Destination": "/usr"}]},
        down={"state": "exited"},
        failed={"state": "exited"},
        up={"state": "running"},
    )
    arguments = {
        "restart": ["right", "beside", "gone", "elsewhere", "down", "missing"],
        "start": ["failed", "up", "missing"],
        "disks": [str(disk)],
    }
    status, said = docker.run(rejoin, arguments)
    assert status == 0, said
    assert docker.did == ["restart beside", "restart gone", "start failed"]
    assert "right: has the right directories, and runs on" in said


def test_one_that_cannot_be_started_does_not_keep_the_others(docker: Docker) -> None:
    docker.has(0, a={"state": "exited", "refuses": "bind source path does not exist"}, b={"state": "exited"})
    status, said = docker.run(rejoin, {"start": ["a", "b"]})
    assert (status, docker.did) == (1, ["start a", "start b"])
    assert said.splitlines()[-1] == "a: Error response from daemon: bind source path does not exist"
