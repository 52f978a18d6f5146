"""What failed names the entry whose symptom it shows; and that entry, asked, finds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pantheon import advice, diagnosis, fixes, procedure
from pantheon.errors import HostChanged, StepFailed
from pantheon.evidence import Room
from pantheon.facts import Docker, Facts, Http, Space, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case
from pantheon.plan import Change, Guard, Plan, Run, SectionPlan
from pantheon.remote import apply
from pantheon.sections import validate
from pantheon.watched import Watched, follow
from tests.unit import world
from tests.unit.test_validate import OK
from tests.unit.world import HOST, container, finished, having

OWNER = "!! ERROR: Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0"
CPU = 'level=INFO source=types.go:130 msg="inference compute" id=cpu library=cpu total="31.2 GiB"'
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NO_RUNTIME = 'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]'
FULL = "failed to register layer: write /usr/lib/libcuda.so: no space left on device"


@pytest.mark.parametrize(
    ("lines", "entry"),
    [
        ([], ""),
        (["", "  "], ""),
        (["everything is fine"], ""),
        ([OWNER, "!! Exiting script (ID: 1)"], "comfy-ownership"),
        ([NO_RUNTIME], "gpu-lost"),
        ([MISMATCH, NO_RUNTIME], "driver-mismatch"),  # the cause of the other
        ([FULL], "disk-pressure"),
        (["Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?"], "docker-down"),
        (["curl: (35) OpenSSL/3.0.13: error:0A00010B:SSL routines::wrong version number"], "wrong-version-number"),
        (['{"error":true,"message":"no space left on device"}'], "disk-pressure"),
        (["\udc80\x1b[31m" + FULL], "disk-pressure"),
    ],
)  # fmt: skip
def test_the_entry_that_lines_speak_of(lines: list[str], entry: str) -> None:
    assert advice.entry(lines) == entry
    wanted = f"invoke fix.{entry} --host h" if entry else "invoke diagnose --host h"
    assert advice.command("h", lines) == wanted


# ---- a service that is not up


SERVICE: list[tuple[dict[str, Any], str]] = [
    ({"state": "exited", "exit_code": 137, "oom_killed": True}, "invoke fix.out-of-memory --host prometheus"),
    ({"state": "exited", "exit_code": 0}, "invoke comfy --host prometheus"),
    ({"state": "exited", "exit_code": 143}, "invoke comfy --host prometheus"),  # docker stop
    ({"state": "exited", "exit_code": 137}, "invoke diagnose --host prometheus"),
    ({"state": "exited", "exit_code": 1}, "invoke diagnose --host prometheus"),
    ({"state": "created", "exit_code": 128, "error": NO_RUNTIME}, "invoke fix.gpu-lost --host prometheus"),
    ({"state": "restarting", "exit_code": 1, "log": (OWNER, "!! Exiting script (ID: 1)")},
     "invoke fix.comfy-ownership --host prometheus"),
    ({"state": "restarting", "exit_code": 2, "log": ("strange words",)}, "invoke diagnose --host prometheus"),
    ({"state": "restarting", "exit_code": 2, "log": Unknown("no answer")}, "invoke diagnose --host prometheus"),
    ({"state": "running", "health": "unhealthy", "log": ()}, "invoke diagnose --host prometheus"),
    ({"state": "running", "health": "starting", "restarts": 4, "log": (OWNER,)},
     "invoke fix.comfy-ownership --host prometheus"),
    # Said long ago, before all that has come since.
    ({"state": "restarting", "exit_code": 2, "log": (OWNER, *["later"] * 30)}, "invoke diagnose --host prometheus"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "mend"), SERVICE)
def test_a_service_that_is_not_up(changes: dict[str, Any], mend: str) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", **changes))
    about = {finding.id: finding for finding in validate.check(HOST, facts, OK)}
    assert about["comfy.up"].mend == mend


def test_a_service_that_answers_there_and_not_here() -> None:
    refused = Http("http://127.0.0.1:8188/", 0, "", "", "administratively prohibited", 1.0)
    about = {finding.id: finding for finding in validate.check(HOST, finished(), {**OK, "comfy": refused})}
    assert about["comfy.http-here"].mend == "invoke fix.browser-access --host prometheus"
    down = replace(finished(), http={**finished().http, "comfy": refused})
    about = {finding.id: finding for finding in validate.check(HOST, down, {**OK, "comfy": refused})}
    assert about["comfy.http-here"].mend == "invoke diagnose --host prometheus"


def test_a_diagnosis_does_not_send_to_a_diagnosis() -> None:
    odd = having(finished(), openwebui=container(HOST, "openwebui", state="restarting", exit_code=3, log=("odd",)))
    found = diagnosis.diagnose(world.case(odd))
    commands = [cause.finding.mend for cause in found.causes]
    assert commands == ["ssh ops@10.0.99.10 docker logs --tail=50 openwebui"]
    odd = having(finished(), openwebui=container(HOST, "openwebui", state="exited", exit_code=3, log=("odd",)))
    found = diagnosis.diagnose(world.case(odd))
    assert [cause.finding.mend for cause in found.causes] == ["invoke openwebui --host prometheus"]


# ---- a bring-up that fails


def frames(**container_facts: Any) -> Watched:
    watched = Watched()
    for restarts in (0, 2):
        frame = {"containers": {"ollama": {**container_facts, "restarts": restarts}}, "http": {"ollama": 0}}
        watched = follow("ollama", watched, frame, late=False)
    return watched


def test_a_service_that_cannot_start_names_the_entry() -> None:
    looping = frames(state="restarting", exit_code=1, log=["Error: listen", "write /root/.ollama/x: " + FULL])
    assert looping.mend == "invoke fix.disk-pressure"
    assert frames(state="exited", exit_code=128, error=NO_RUNTIME).mend == "invoke fix.gpu-lost"
    assert frames(state="restarting", exit_code=1, log=["odd"]).mend == "invoke diagnose"


def ended_with(monkeypatch: pytest.MonkeyPatch, frame: dict[str, Any], what: str) -> None:
    def run(connection: object, module: str, spec: object, **given: Any) -> int:
        given["on_frame"](frame)
        return 1

    monkeypatch.setattr(apply, "run_module", run)
    step = Run(("docker", "compose", "up"), guards=(Guard("path", "/x", "missing"),))
    plan = Plan("prometheus", (SectionPlan("comfy", (Change("start", "why", (step,)),)),))
    connection: Any = None
    apply.apply(connection, HOST, plan, what=what, state={}, on_event=lambda frame: None)


@pytest.mark.parametrize(
    ("lines", "mend"),
    [
        (["pulling", FULL], "invoke fix.disk-pressure --host prometheus"),
        ([NO_RUNTIME], "invoke fix.gpu-lost --host prometheus"),
        (["manifest unknown"], "invoke bringup --host prometheus"),
    ],
)
def test_a_failed_step_names_the_entry(monkeypatch: pytest.MonkeyPatch, lines: list[str], mend: str) -> None:
    with pytest.raises(StepFailed) as failed:
        ended_with(monkeypatch, {"frame": "failed", "index": 0, "status": 1, "lines": lines}, "bringup")
    assert failed.value.next_commands == (mend,)
    assert failed.value.details == ("docker compose up", *lines)


def test_a_host_that_changed_meanwhile_is_planned_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = {"frame": "changed", "index": 0, "kind": "path", "target": "/x", "planned": "missing", "now": "dir"}
    with pytest.raises(HostChanged) as failed:
        ended_with(monkeypatch, frame, "fix.gpu-lost")
    assert failed.value.next_commands == ("invoke fix.gpu-lost --host prometheus",)


# ---- what is named finds something: nobody is sent to a fix that says that nothing is wrong


def engine(answer: Any) -> Facts:
    docker = finished().docker
    assert isinstance(docker, Docker)
    return replace(finished(), docker=replace(docker, engine=answer), containers=answer)


def unmounted() -> Facts:
    root = world.entry(HOST.storage.nvme)
    return replace(finished(), paths={**finished().paths, HOST.storage.nvme: root})


def full() -> Facts:
    """An image still to be pulled, and no room for it."""
    facts = having(finished(), comfy=None)
    tight = Space(1 << 20, 400 << 30, 1000, 2000)
    return replace(facts, images={**facts.images, HOST.comfy.image: None}, spaces={**facts.spaces, "images": tight})


ROOMS = (Room("/", "/dev/sda2", "ext4", 1 << 20, 400 << 30, 1000, 2000, ("images", "docker", "root")),)


NAMED: list[Callable[[], Facts]] = [
    unmounted,
    full,
    lambda: engine(Unknown("Cannot connect to the Docker daemon at unix:///var/run/docker.sock")),
    lambda: replace(finished(), nvml=Unknown(f"NVML: {MISMATCH} (code 18)"), module_version="590.44.01"),
    lambda: having(finished(), comfy=container(HOST, "comfy", state="exited", exit_code=137, oom_killed=True)),
    lambda: having(finished(), comfy=container(HOST, "comfy", state="created", exit_code=128, error=NO_RUNTIME)),
    lambda: having(finished(), comfy=container(HOST, "comfy", state="restarting", exit_code=1, restarts=5,
                                               health="unhealthy", log=(OWNER,), log_markers=(OWNER,))),
    lambda: having(finished(), ollama=container(HOST, "ollama", log_markers=(CPU,))),
]  # fmt: skip


@pytest.mark.parametrize("facts", NAMED)
def test_a_fix_that_the_checklist_names_finds_something(facts: Callable[[], Facts]) -> None:
    case: Case = world.case(facts(), rooms=ROOMS if facts is full else None)
    found = procedure.check(HOST, case.facts, ("prereqs", "storage")) + validate.check(HOST, case.facts, OK)
    bad: list[Finding] = [finding for finding in found if not finding.is_good]
    assert bad
    for finding in bad:
        for name in re.findall(r"invoke fix\.([a-z-]+)", finding.mend):
            said = fixes.load(name).diagnose(case)
            assert [one for one in said if not one.is_good], f"{finding.id} sends to fix.{name}, which finds nothing"
