"""The checklist (§8): each line of it fails for its own reason, and says which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon.facts import Command, Docker, Facts, Http, Listener, Port, Unknown
from pantheon.here import NOT_ALLOWED
from pantheon.sections import validate
from tests.unit.world import HOST, container, finished, having

OK = {name: Http("", 200, "OK", "", "", 1.0) for name in ("comfy", "ollama", "openwebui")}


def bad(facts: Facts, here: dict[str, Http] | None = None) -> dict[str, str]:
    findings = validate.check(HOST, facts, OK if here is None else here)
    return {
        finding.id: f"{finding.level}: {finding.text} {finding.evidence}"
        for finding in findings
        if finding.level != "ok"
    }


def comfy(**changes: Any) -> Facts:
    return having(finished(), comfy=container(HOST, "comfy", **changes))


def test_a_good_host() -> None:
    assert bad(finished()) == {}


CASES: list[tuple[Facts, str, str]] = [
    (comfy(state="exited", exit_code=1), "comfy.up", "fail: comfy is exited (exit code 1)"),
    (comfy(health="unhealthy"), "comfy.up", "fail: comfy is Up but unhealthy"),
    (comfy(health="starting"), "comfy.up", "fail: comfy is still starting"),
    (
        comfy(health="starting", log_markers=("== Cloning ComfyUI",), log=("== Pre-installing/Upgrading torch",)),
        "comfy.up",
        "fail: comfy is still starting: 6/9 installing torch; a first run takes 10-20 min (§7)",
    ),
    (having(finished(), ollama=None), "ollama.up", "fail: ollama is not there"),
    (
        replace(finished(), http={**OK, "comfy": Http("", 502, "Bad Gateway", "", "", 1)}),
        "comfy.http",
        "502 Bad Gateway",
    ),
    (replace(finished(), http={**OK, "comfy": Unknown("no answer within 2 s")}), "comfy.http", "unknown"),
    (comfy(log_markers=("!! ERROR: Directory /comfy/mnt owned by unexpected user/group",)), "comfy.log-errors", "fail"),
    (comfy(log_markers=Unknown("no answer")), "comfy.log-errors", "unknown"),
    (comfy(log_markers=()), "comfy.log-started", "fail"),
    (comfy(log_markers=(), log_complete=False), "comfy.log-started", "warn"),
    (
        comfy(gpu_seen=Command(255, "Failed to initialize NVML: Unknown Error")),
        "comfy.gpu",
        "Failed to initialize NVML",
    ),
    (comfy(gpu_seen=Unknown("no answer within 3 s")), "comfy.gpu", "unknown"),
    (
        having(finished(), ollama=container(HOST, "ollama", log_markers=('msg="inference compute" library=cpu',))),
        "ollama.gpu",
        "fail: ollama computes on the CPU",
    ),
    (comfy(ports=(Port("8188/tcp", "0.0.0.0", 8188),)), "stack.loopback", "comfy 0.0.0.0:8188"),
    (comfy(ports=(Port("8188/tcp", "", 8188),)), "stack.loopback", "comfy *:8188"),
    (
        replace(finished(), listeners=(Listener("10.0.60.5", 8188, 1, "socat", ""),)),
        "stack.loopback",
        "socat 10.0.60.5:8188",
    ),
    (replace(finished(), listeners=Unknown("denied")), "stack.loopback", "unknown"),
]


@pytest.mark.parametrize(("facts", "key", "expected"), CASES, ids=[case[1] + " " + case[2][:20] for case in CASES])
def test_each_line_fails_for_its_own_reason(facts: Facts, key: str, expected: str) -> None:
    found = bad(facts)
    assert expected in found[key]


def test_from_here_is_a_line_of_its_own() -> None:
    found = bad(finished(), {**OK, "openwebui": Http("", 0, "", "", "forwarding refused", 1.0)})
    assert found == {"openwebui.http-here": "fail: openwebui does not answer through SSH: forwarding refused "}


def test_what_was_not_asked_is_unknown() -> None:
    assert all(text.startswith("unknown") for text in bad(finished(), {}).values())
    assert len(bad(finished(), {})) == 3


def test_ssh_on_the_network_is_not_of_the_stack() -> None:
    facts = finished()
    assert isinstance(facts.listeners, tuple)
    assert bad(replace(facts, listeners=(*facts.listeners, Listener("0.0.0.0", 22, 1, "sshd", "")))) == {}


def test_an_engine_that_does_not_answer_is_not_a_missing_container() -> None:
    found = validate.check(HOST, replace(finished(), containers=Unknown("no answer within 5 s")), {})
    about = {one.id: one for one in found}
    for key in ("comfy.up", "comfy.log-errors", "comfy.log-started", "comfy.gpu", "ollama.gpu", "stack.loopback"):
        assert (about[key].level, about[key].evidence) == ("unknown", "no answer within 5 s")
    assert about["comfy.up"].mend == "invoke prereqs --host prometheus"
    docker = finished().docker
    assert isinstance(docker, Docker)
    silent = replace(finished(), containers=Unknown("no"), docker=replace(docker, engine=Unknown("no")))
    (up,) = [one for one in validate.check(HOST, silent, {}) if one.id == "comfy.up"]
    assert up.mend == "invoke fix.docker-down --host prometheus"


def test_a_card_that_the_host_has_lost_is_not_mended_by_a_restart() -> None:
    output = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 590.48"
    facts = replace(comfy(gpu_seen=Command(18, output)), nvml=Unknown("version mismatch"))
    about = next(one for one in validate.check(HOST, facts, {}) if one.id == "comfy.gpu")
    assert about.evidence == "nvidia-smi inside: Failed to initialize NVML: Driver/library version mismatch"
    assert about.mend == "invoke fix.driver-mismatch --host prometheus"


def test_a_container_without_its_card_has_a_fix_of_its_own() -> None:
    lost = comfy(gpu_seen=Command(255, "Failed to initialize NVML: Unknown Error\n"))
    about = next(one for one in validate.check(HOST, lost, {}) if one.id == "comfy.gpu")
    assert about.mend == "invoke fix.gpu-lost --host prometheus"


def test_what_an_entry_mends_names_it() -> None:
    exposed = validate.check(HOST, comfy(ports=(Port("8188/tcp", "", 8188),)), {})
    mends = {finding.id: finding.mend for finding in exposed}
    assert mends["stack.loopback"] == "invoke fix.exposed-ports --host prometheus"
    refused = {name: Http("", 0, "", "", NOT_ALLOWED, 1.0) for name in OK}
    mends = {finding.id: finding.mend for finding in validate.check(HOST, finished(), refused)}
    assert mends["comfy.http-here"] == "invoke fix.browser-access --host prometheus"
