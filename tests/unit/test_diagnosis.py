"""Causes before consequences, whatever the findings are."""

from __future__ import annotations

from dataclasses import replace

from pantheon import diagnosis, fixes, layout
from pantheon.diagnosis import rank
from pantheon.facts import Http
from pantheon.finding import Finding
from pantheon.symptoms import SYMPTOMS
from tests.unit import world


def test_nothing_is_found_on_a_healthy_host() -> None:
    found = diagnosis.diagnose(world.case(world.finished()))
    assert found.is_good, found


def test_a_fix_plans_nothing_on_a_healthy_host() -> None:
    case = world.case(world.finished())
    for entry in fixes.entries():
        section = entry.plan(case)
        assert (section.changes, section.blocked) == ((), ()), entry.ID
        assert section.reason, entry.ID


def test_a_bare_host_has_one_cause() -> None:
    found = diagnosis.diagnose(world.case(world.fresh()))
    assert [cause.finding.id for cause in found.causes] == ["bare"]


def test_a_service_that_is_stopped_is_one_cause() -> None:
    """By hand, with nothing wrong: no entry's, and all that its silence brings stands below it."""
    silent = Http("http://127.0.0.1:3000/", 0, "", "", "connection refused", 1.0)
    stopped = world.container(world.HOST, "openwebui", state="exited", health="unhealthy", exit_code=0)
    facts = world.having(world.finished(), openwebui=stopped)
    facts = replace(facts, http={**facts.http, "openwebui": silent})
    found = diagnosis.diagnose(world.case(facts))
    assert [(cause.entry, cause.finding.id) for cause in found.causes] == [("", "openwebui.up")]
    assert found.causes[0].finding.mend == "invoke openwebui --host prometheus"
    assert [finding.id for finding in found.causes[0].consequences] == ["openwebui.http", "openwebui.http-here"]


def test_a_directory_that_is_gone_is_why_its_container_does_not_start() -> None:
    stopped = world.container(world.HOST, "comfy", state="exited", health="unhealthy", exit_code=143)
    facts = world.having(world.finished(), comfy=stopped)
    facts = replace(facts, paths={**facts.paths, layout.comfy_mnt(world.HOST): None})
    found = diagnosis.diagnose(world.case(facts))
    assert [cause.finding.id for cause in found.causes] == ["storage.comfy-mnt"]
    assert "comfy.up" in [finding.id for finding in found.causes[0].consequences]


def fail(name: str, *explains: str) -> Finding:
    return Finding(name, "fail", name, explains=explains)


def causes(*findings: Finding) -> dict[str, list[str]]:
    return {cause.finding.id: [f.id for f in cause.consequences] for cause in rank(list(findings)).causes}


def test_a_consequence_of_a_consequence_stands_under_the_root() -> None:
    disk = fail("mounts-missing.nvme", "comfy-ownership.*")
    owner = fail("comfy-ownership.owner", "comfy.*")
    up = fail("comfy.up")
    assert causes(up, owner, disk) == {"mounts-missing.nvme": ["comfy-ownership.owner", "comfy.up"]}


def test_two_faults_are_two_causes_in_order() -> None:
    gpu, owner, up = fail("gpu-lost.nvml", "ollama.*"), fail("comfy-ownership.owner", "comfy.*"), fail("comfy.up")
    assert causes(owner, up, gpu) == {"gpu-lost.nvml": [], "comfy-ownership.owner": ["comfy.up"]}


def test_two_that_explain_each_other_keep_the_order_of_entries() -> None:
    full, down = fail("disk-pressure.docker", "docker-down.*"), fail("docker-down.failed", "disk-pressure.*")
    assert causes(down, full) == {"disk-pressure.docker": ["docker-down.failed"]}


def test_what_a_warning_would_explain_stays_a_cause() -> None:
    warn = Finding("disk-pressure.nvme", "warn", "nearly full", explains=("comfy.*",))
    assert causes(warn, fail("comfy.up")) == {"comfy.up": []}
    assert rank([warn]).warnings == (warn,)


def test_an_unknown_under_a_cause_is_no_question_of_its_own() -> None:
    down = fail("docker-down.stopped", "stack.*")
    what = Finding("stack.containers", "unknown", "containers: not known")
    assert rank([down, what]).unknown == ()
    assert rank([what]).unknown == (what,)


def test_every_entry_has_its_words() -> None:
    for name, entry in zip(SYMPTOMS, fixes.entries(), strict=True):
        assert name == entry.ID
        assert all((entry.CAUSE, entry.RISK)), name
