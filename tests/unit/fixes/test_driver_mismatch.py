"""Library and module of the driver differ: a reboot, and only when it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import FstabLine, Unit
from pantheon.facts import Command, Facts, Unknown
from pantheon.fixes import driver_mismatch
from pantheon.incident import Case, Choices
from pantheon.plan import Run
from tests.unit.world import HOST, case, container, finished, fresh, having

REBOOT = Choices(reboot=True)
SMI = Command(18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 590.48\n")
NVML = Unknown("NVML: RM has detected an NVML/RM version mismatch. (code 18)")
API = (
    "2026-11-21T01:02:03Z NVRM: API mismatch: the client has the version 590.48.01, but this kernel module has the "
    "version 590.44.01. Please make sure that this kernel module and all NVIDIA driver components agree."
)
PACKAGES = {"nvidia-driver-590-server": "590.48.01-0ubuntu1", "docker-ce": "5:29.1", "nvidia-dkms-590": None}
UNIT = Unit("active", "running", "success", "2026-11-21T00:00:00Z", 0, "enabled")


def upgraded(facts: Facts | None = None) -> Facts:
    return replace(facts or finished(), module_version="590.44.01", nvml=NVML, nvidia_smi=SMI)


@pytest.mark.parametrize(
    "facts",
    [
        fresh(),
        finished(),
        replace(finished(), module_version=None),
        replace(finished(), library_version=Unknown("no version in its name")),
        replace(finished(), nvml=Unknown("NVML: Driver Not Loaded (code 9)")),
        replace(finished(), nvidia_smi=Command(255, "Failed to initialize NVML: Unknown Error")),
    ],
    ids=["fresh", "good", "unloaded", "unknown", "code-9", "unknown-error"],
)
def test_no_fault(facts: Facts) -> None:
    # A line in the kernel's log alone is of a program that was started in between, and is over.
    made = case(facts, kernel_log=(API,), installed=PACKAGES, choices=REBOOT)
    assert driver_mismatch.diagnose(made) == []
    assert driver_mismatch.plan(made).is_ready


@pytest.mark.parametrize(
    "facts",
    [
        upgraded(),
        replace(finished(), module_version="580.95.05"),
        replace(finished(), nvml=NVML),
        replace(finished(), nvidia_smi=SMI),
    ],
)
def test_it_is_seen_by_any_of_its_signs(facts: Facts) -> None:
    [finding] = driver_mismatch.diagnose(case(facts))
    assert finding.id == "driver-mismatch.driver"
    assert finding.mend == "invoke fix.driver-mismatch --host prometheus"


def test_it_explains_what_follows() -> None:
    lost = container(HOST, "comfy", gpu_seen=SMI)
    down = container(
        HOST, "ollama", state="exited", health=None, exit_code=128, gpu_seen=None,
        error="nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
    )  # fmt: skip
    made = case(upgraded(having(finished(), comfy=lost, ollama=down)), kernel_log=(API,))
    told = diagnosis.diagnose(made)
    assert [cause.finding.id for cause in told.causes] == ["driver-mismatch.driver"]
    assert API in told.causes[0].finding.evidence
    assert {"prereqs.gpu", "prereqs.module", "comfy.gpu", "ollama.up"} <= {f.id for f in told.causes[0].consequences}


def test_nothing_is_rebooted_unless_it_is_asked_for() -> None:
    theirs = replace(container(HOST, "ollama", labels={}, ports=(), mounts=()), name="db", restart_policy="no")
    made = case(upgraded(having(finished(), db=theirs)), logged_in=("ada pts/0 2026-11-21 01:00 (10.0.0.5)",))
    section = driver_mismatch.plan(made)
    assert section.reboots
    assert not section.changes
    [finding] = section.blocked
    assert finding.mend == "invoke fix.driver-mismatch --reboot --host prometheus"
    assert "container db (not ours, which will not come back by itself)" in finding.evidence
    assert "logged in: ada pts/0" in finding.evidence


def test_the_reboot_is_a_step_of_the_plan() -> None:
    section = driver_mismatch.plan(case(upgraded(), choices=REBOOT))
    assert section.reboots
    assert not section.blocked
    [change] = section.changes
    assert change.stops == ("comfy", "ollama", "openwebui") == section.starts
    [step] = change.steps
    assert isinstance(step, Run)
    assert step.argv[0] == "systemd-run"
    assert step.argv[-2:] == ("systemctl", "reboot")


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ({"installing": "apt-get (pid 7)"}, "wait for apt-get (pid 7) to end"),
        ({"next_module": "590.44.01"}, "invoke prereqs --install --reboot --host prometheus"),
        ({"next_module": None, "installed": {"nvidia-dkms-590": "590.48"}}, "invoke prereqs --install --reboot"),
    ],
    ids=["apt", "old module", "no module"],
)
def test_a_reboot_that_would_not_help_or_would_harm_is_refused(evidence: dict[str, Any], says: str) -> None:
    section = driver_mismatch.plan(case(upgraded(), choices=REBOOT, **evidence))
    assert not section.changes
    assert says in "; ".join(finding.mend for finding in section.blocked)


@pytest.mark.parametrize("module", ["590.48.01", Unknown("modinfo: not there"), None])
def test_a_module_that_is_not_known_forbids_nothing(module: Any) -> None:
    assert driver_mismatch.plan(case(upgraded(), choices=REBOOT, next_module=module)).changes


def test_a_boot_that_is_not_known_could_not_be_told_from_the_next() -> None:
    made = case(replace(upgraded(), os=Unknown("denied")), choices=REBOOT)
    assert [finding.id for finding in driver_mismatch.plan(made).blocked] == ["driver-mismatch.boot"]


def warnings(made: Case) -> list[str]:
    return [finding.id.partition(".")[2] for finding in driver_mismatch.diagnose(made) if finding.level == "warn"]


def test_what_would_not_come_back_is_said_before() -> None:
    fstab = tuple(
        FstabLine("LABEL=x", path, "ext4", "defaults") for path in ("/", "/mnt/local/nvme/", "/mnt/local/ssd")
    )
    units = {"docker.service": UNIT, "docker.socket": UNIT}
    assert warnings(case(upgraded(), fstab=fstab, units=units)) == []
    assert warnings(case(upgraded(), fstab=fstab[:2])) == ["fstab"]
    off = {name: replace(UNIT, enabled="disabled") for name in units}
    assert warnings(case(upgraded(), units=off)) == ["docker"]
    assert warnings(case(upgraded(), units={**off, "docker.socket": UNIT})) == []
    once = having(finished(), comfy=container(HOST, "comfy", restart_policy="no"))
    assert warnings(case(upgraded(once))) == ["restart"]


def test_the_packages_to_hold_are_named() -> None:
    [hold] = [f for f in driver_mismatch.diagnose(case(upgraded(), installed=PACKAGES)) if f.id.endswith(".hold")]
    assert hold.evidence == "sudo apt-mark hold nvidia-driver-590-server"
