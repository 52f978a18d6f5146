"""Which link between the card and a container is gone, and whose matter it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import Evidence
from pantheon.facts import Command, Docker, Facts, Nvml, Unknown
from pantheon.fixes import gpu_lost
from pantheon.incident import Case
from pantheon.inventory import Comfy
from pantheon.plan import Run
from tests.unit.world import HOST, case, container, finished, fresh, having

HOOK = "/usr/bin/nvidia-container-runtime-hook"
SELECT = 'could not select device driver "nvidia" with capabilities: [[gpu]]'
REFUSED = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: error running prestart hook #0: exit status 1, "
    "stdout: , stderr: Auto-detected mode as 'legacy'\nnvidia-container-cli: "
)
CUDA = REFUSED + "requirement error: unsatisfied condition: cuda>=13.2, please update your driver to a newer version"
NO_NVML = Command(255, "Failed to initialize NVML: Unknown Error\n")
ON_CPU = ('time=2026 level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu',)
ON_CUDA = ('msg="inference compute" id=GPU-7c library=CUDA compute=8.9 name=CUDA0',)
XID = "2026-11-21T01:02:03Z NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus."


def with_one(name: str, **changes: Any) -> Facts:
    return having(finished(), **{name: container(HOST, name, **changes)})


def failed(name: str, error: str, **changes: Any) -> Facts:
    made = container(HOST, name, state="exited", health=None, exit_code=128, error=error, gpu_seen=None, **changes)
    return having(finished(), **{name: made})


def found(made: Case) -> dict[str, str]:
    return {finding.id: f"{finding.level}: {finding.text}" for finding in gpu_lost.diagnose(made)}


def commands(made: Case) -> list[str]:
    steps = [step for change in gpu_lost.plan(made).changes for step in change.steps]
    return [" ".join(step.argv) for step in steps if isinstance(step, Run)]


def blocked(made: Case) -> str:
    section = gpu_lost.plan(made)
    assert not section.changes
    return "; ".join(finding.mend for finding in section.blocked)


@pytest.mark.parametrize(
    "facts",
    [
        fresh(),
        finished(),
        with_one("ollama", log_markers=ON_CUDA),
        with_one("ollama", log_markers=(*ON_CPU, *ON_CUDA)),
        with_one("ollama", log_markers=(), health="starting"),
        with_one("ollama", log_markers=("a user asked: library=cpu",)),
        with_one("ollama", gpu_seen=Unknown("no answer within 5 s")),
        with_one("comfy", state="exited", exit_code=137, gpu_seen=None),
        failed("comfy", "driver failed programming external connectivity: bind for 127.0.0.1:8188 failed"),
        replace(finished(), containers=Unknown("no answer")),
        replace(finished(), nvml=Unknown("no answer within 5 s (NVML)")),
    ],
    ids=[
        "fresh",
        "good",
        "cuda",
        "both",
        "starting",
        "hearsay",
        "hung",
        "stopped",
        "port",
        "engine",
        "busy",
    ],
)
def test_no_fault(facts: Facts) -> None:
    made = case(facts)
    assert gpu_lost.diagnose(made) == []
    assert not gpu_lost.plan(made).changes
    assert not gpu_lost.plan(made).blocked


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("comfy", {"gpu_seen": NO_NVML}, "it has lost the card"),
        ("ollama", {"gpu_seen": NO_NVML}, "it has lost the card"),
        ("ollama", {"log_markers": ON_CPU}, "it computes on the CPU"),
        ("comfy", {"gpu_seen": Command(127, "exec: nvidia-smi: executable file not found")}, "it has lost the card"),
        ("comfy", {"gpu_seen": Command(0, "No devices were found\n")}, "it has lost the card"),
    ],
)
def test_only_the_container_concerned_is_made_anew(name: str, changes: dict[str, Any], says: str) -> None:
    made = case(with_one(name, **changes))
    assert found(made) == {f"gpu-lost.{name}": f"fail: {name}: {says}, while the host has it"}
    [command] = commands(made)
    assert "--force-recreate" in command
    assert command.endswith(f" {name}")
    assert "--no-deps" in command
    assert gpu_lost.plan(made).starts == (name,)
    told = diagnosis.diagnose(made)
    assert [cause.entry for cause in told.causes] == ["gpu-lost"]
    assert {finding.id for finding in told.causes[0].consequences} == {f"{name}.gpu"}


def test_hostile_words_from_a_container_stay_words() -> None:
    made = case(with_one("comfy", gpu_seen=Command(1, "$(reboot) `x` 'q' \"\n" + "y" * 100_000)))
    [command] = commands(made)
    assert "reboot" not in command


# ---- Docker and the toolkit


def select(hook: str | None, *, toolkit: str | None = "1.18.1", has: Any = False, snap: str | None = None) -> Case:
    facts = failed("comfy", SELECT)
    assert isinstance(facts.docker, Docker)
    docker = replace(facts.docker, snap=snap)
    return case(replace(facts, hook=hook, toolkit=toolkit, docker=docker), engine_has_hook=has)


def test_docker_started_before_the_toolkit_is_restarted() -> None:
    made = select(HOOK)
    assert "started before the NVIDIA toolkit" in found(made)["gpu-lost.engine"]
    first, second = commands(made)
    assert first == "systemctl restart docker"
    assert second.endswith(" up -d --no-deps comfy")
    section = gpu_lost.plan(made)
    assert section.changes[0].stops == ("ollama", "openwebui")
    assert set(section.starts) == {"comfy", "ollama", "openwebui"}
    [cause] = diagnosis.diagnose(made).causes
    assert cause.entry == "gpu-lost"


def test_a_restart_names_what_is_not_ours() -> None:
    made = select(HOOK)
    theirs = container(HOST, "ollama", labels={}, ports=(), mounts=())
    facts = having(made.facts, their_db=replace(theirs, name="their db", image="postgres:16"))
    assert "'their db'" in gpu_lost.plan(replace(made, facts=facts)).changes[0].what


def test_docker_that_has_the_toolkit_by_now_only_starts_the_container() -> None:
    made = select(HOOK, has=True)
    [command] = commands(made)
    assert command.endswith(" up -d --no-deps comfy")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (select(None, toolkit=None), "invoke prereqs --install --host prometheus"),
        (select(None), "ssh -t ops@10.0.99.10 'sudo apt-get install --reinstall -y nvidia-container-toolkit "),
        (select(None, snap="/snap/bin/docker"), "invoke prereqs --install --remove-snap --host prometheus"),
    ],
    ids=["none", "no hook", "snap"],
)
def test_what_is_to_be_installed_is_for_a_human(made: Case, says: str) -> None:
    assert says in blocked(made)


# ---- image and driver


def comfy_image(image: str, cuda: str = "13.1") -> Case:
    host = replace(HOST, comfy=Comfy(image=image))
    facts = failed("comfy", CUDA)
    assert isinstance(facts.nvml, Nvml)
    return case(replace(facts, nvml=replace(facts.nvml, cuda=cuda)), host=host)


@pytest.mark.parametrize(
    ("image", "cuda", "takes"),
    [
        ("mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.2-latest", "13.1", "cuda13.1-latest"),
        ("mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.2-20261006", "13.0", "cuda13.0-latest"),
        ("mmartial/comfyui-nvidia-docker@sha256:" + "a" * 64, "12.9", "cuda12.9-latest"),
    ],
)
def test_the_newest_image_that_the_driver_takes(image: str, cuda: str, takes: str) -> None:
    said = blocked(comfy_image(image, cuda))
    assert f'[hosts.prometheus.comfy] image = "mmartial/comfyui-nvidia-docker:ubuntu24_{takes}"' in said
    assert "a driver >= 595.45.04" in said


def test_a_mirror_stays_the_mirror() -> None:
    said = blocked(comfy_image("mirror.lan:5000/mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.2-latest"))
    assert '"mirror.lan:5000/mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest"' in said


def test_no_image_for_a_very_old_driver() -> None:
    assert "one for CUDA 12.2 or older" in blocked(comfy_image(HOST.comfy.image, "12.2"))


def test_a_driver_that_was_upgraded_since_takes_it() -> None:
    facts = failed("comfy", CUDA)
    assert isinstance(facts.nvml, Nvml)
    made = case(replace(facts, nvml=replace(facts.nvml, cuda="13.2")))
    assert "has not been started since" in found(made)["gpu-lost.comfy"]
    [command] = commands(made)
    assert command.endswith(" up -d --no-deps comfy")


def test_a_card_that_is_not_in_this_host() -> None:
    made = case(failed("ollama", REFUSED + "device error: GPU-dead: unknown device: unknown"))
    assert "[hosts.prometheus.ollama] gpus" in blocked(made)
    assert "GPU-1" in gpu_lost.diagnose(made)[0].evidence


def test_another_word_of_the_toolkit_is_tried_again() -> None:
    made = case(failed("ollama", REFUSED + "initialization error: load library failed: libnvidia-ml.so.1"))
    assert "toolkit refused it" in found(made)["gpu-lost.ollama"]
    assert len(commands(made)) == 1


# ---- the host


def without_card(reason: str, smi: Command | None = None, **evidence: Any) -> Case:
    seen = with_one("comfy", gpu_seen=Command(255, "Unable to determine the device handle\n"))
    return case(replace(seen, nvml=Unknown(reason), nvidia_smi=smi), **evidence)


@pytest.mark.parametrize(
    ("made", "text", "mend"),
    [
        (without_card("NVML: GPU is lost (code 15)"), "the card fell off the bus", "sudo reboot"),
        (without_card("NVML: Unknown Error (code 999)", kernel_log=(XID,)), "the card fell off the bus", "sudo reboot"),
        (
            without_card("NVML: Driver Not Loaded (code 9)", Command(9, "it couldn't communicate")),
            "its driver is not loaded", "modprobe",
        ),
        (without_card("no answer within 5 s (NVML)"), "does not come back", "power the host off"),
        (without_card("NVML: Not Found (code 6)", Command(6, "No devices were found")), "sees no card", "sudo reboot"),
    ],
    ids=["lost", "xid", "unloaded", "hang", "nodevice"],
)  # fmt: skip
def test_a_host_without_a_card_is_no_container_s_matter(made: Case, text: str, mend: str) -> None:
    [finding] = gpu_lost.diagnose(made)
    assert finding.id == "gpu-lost.host"
    assert text in finding.text
    assert mend in blocked(made)
    [cause] = diagnosis.diagnose(made).causes
    assert cause.finding.id == "gpu-lost.host"


def test_the_xid_is_evidence() -> None:
    made = without_card("NVML: GPU is lost (code 15)", kernel_log=("nothing", XID))
    assert XID in gpu_lost.diagnose(made)[0].evidence


@pytest.mark.parametrize(
    ("line", "warned"),
    [(XID, True), (XID.replace("79,", "31,"), False), ("NVRM: Xid of nothing", False), ("", False)],
)
def test_a_card_that_works_again_is_a_warning(line: str, warned: bool) -> None:
    findings = gpu_lost.diagnose(case(finished(), kernel_log=(line,)))
    assert [finding.level for finding in findings] == ["warn"] * warned
    assert not gpu_lost.plan(case(finished(), kernel_log=(line,))).changes


def test_one_that_does_not_answer_on_a_busy_host_is_no_fault() -> None:
    made = case(replace(finished(), nvml=Unknown("no answer within 5 s"), nvidia_smi=Command(0, "NVIDIA-SMI 590")))
    assert gpu_lost.diagnose(made) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"module_version": "590.44.01"},
        {"nvml": Unknown("NVML: RM has detected an NVML/RM version mismatch. (code 18)")},
        {"nvidia_smi": Command(18, "Failed to initialize NVML: Driver/library version mismatch")},
    ],
)
def test_a_driver_at_odds_with_itself_is_another_entry(changes: dict[str, Any]) -> None:
    made = case(replace(with_one("comfy", gpu_seen=NO_NVML), **changes))
    assert gpu_lost.diagnose(made) == []


def test_without_evidence_a_docker_of_unknown_age_is_restarted() -> None:
    made = select(HOOK, has=Unknown("no pid"))
    assert commands(made)[0] == "systemctl restart docker"
    assert Evidence().engine_has_hook is None


# ---- made without a card, and between two starts

NO_SMI = ("== Running as comfy", "!! ERROR: nvidia-smi not found", "!! Exiting script (ID: 7)")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ollama", {"log_markers": ON_CPU}),
        ("comfy", {"gpu_seen": Command(127, 'exec: "nvidia-smi": executable file not found in $PATH')}),
        ("comfy", {"state": "restarting", "gpu_seen": None, "log_markers": NO_SMI, "restarts": 4, "exit_code": 1}),
        ("comfy", {"health": "starting", "gpu_seen": Unknown("it is not running"), "log_markers": NO_SMI}),
    ],
)
def test_a_container_that_never_asked_for_the_card(name: str, changes: dict[str, Any]) -> None:
    made = case(with_one(name, gpus="", **changes))
    text = f"fail: {name}: it was made without asking for the card, while the host has it"
    assert found(made) == {f"gpu-lost.{name}": text}
    assert "daemon-reload" not in gpu_lost.diagnose(made)[0].evidence
    assert gpu_lost.plan(made).changes[0].what == f"{name}: recreate: GPU: none → all"
    assert [cause.finding.id for cause in diagnosis.diagnose(made).causes] == [f"gpu-lost.{name}"]


def test_comfyui_that_finds_no_card_at_each_start() -> None:
    said = ("!! ERROR: Failed to run nvidia-smi", "!! Exiting script (ID: 8)")
    made = case(with_one("comfy", state="restarting", health="unhealthy", gpu_seen=None, log_markers=said, restarts=5))
    assert found(made) == {"gpu-lost.comfy": "fail: comfy: it finds no card as it starts, while the host has it"}
    assert "Failed to run nvidia-smi" in gpu_lost.diagnose(made)[0].evidence
    assert len(diagnosis.diagnose(made).causes) == 1


def test_a_container_without_a_card_that_has_one_all_the_same() -> None:
    """Docker's default runtime may be NVIDIA's."""
    assert found(case(with_one("comfy", gpus=""))) == {}


def test_what_was_stopped_by_hand_is_no_consequence_of_a_lost_card() -> None:
    stopped = container(HOST, "ollama", state="exited", exit_code=137, health="unhealthy", gpu_seen=None)
    facts = replace(
        having(finished(), ollama=stopped),
        nvml=Unknown("GPU is lost (code 15)"),
        nvidia_smi=Command(15, "GPU is lost"),
    )
    causes = [cause.finding.id for cause in diagnosis.diagnose(case(facts)).causes]
    assert causes == ["gpu-lost.host", "ollama.up"]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("comfy", {"gpu_seen": NO_NVML}, "docker restart comfy gives it back"),
        ("ollama", {"log_markers": ON_CPU}, "docker restart ollama gives it back"),
        ("ollama", {"log_markers": ON_CPU, "gpus": ""}, "start it again with --gpus all"),
    ],
)
def test_one_that_somebody_made_is_named_and_left_alone(name: str, changes: dict[str, Any], says: str) -> None:
    theirs = container(HOST, name, **changes, labels={})
    made = case(having(finished(), **{name: theirs}))
    assert list(found(made)) == [f"gpu-lost.{name}"]
    assert says in blocked(made)


def test_one_of_somebodys_compose_file_is_told_the_lines() -> None:
    file = {"com.docker.compose.project.config_files": "/home/ops/my stack/compose.yml"}
    theirs = container(HOST, "ollama", log_markers=ON_CPU, gpus="", labels=file)
    assert "in /home/ops/my stack/compose.yml on prometheus: deploy." in blocked(
        case(having(finished(), ollama=theirs))
    )
