"""Who ran out of which memory, who held it, and what may be done about that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import Busy, Killed, Loaded, Memory
from pantheon.facts import Facts, GpuProcess, Nvml, Unknown
from pantheon.fixes import out_of_memory
from pantheon.incident import Case
from pantheon.inventory import Comfy, Host
from pantheon.plan import Mend, Run
from tests.unit.world import HOST, case, container, finished, fresh, having

GIB = 1 << 30
LIMITED = replace(HOST, comfy=Comfy(memory="4g"))
WHEN = "2026-11-21T01:02:03Z"
TORCH = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 6.00 GiB. GPU 0 has a total capacity of 20 GiB"
LLAMA = "ggml_backend_cuda_alloc_buffer: allocating 5000.00 MiB on device 0: cudaMalloc failed: out of memory"
DRIVER = "torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)"
COMFY, OLLAMA = GpuProcess(11, "python3", 312, "comfy"), GpuProcess(12, "ollama", 19000, "ollama")
THEIRS = GpuProcess(13, "python3 train.py", 19000, "")


def kill(name: str = "comfy", **changes: Any) -> Killed:
    return replace(Killed(WHEN, "python3", 4711, 4090, name, limit=True, ago_s=60), **changes)


def one(name: str = "comfy", host: Host = HOST, **changes: Any) -> Facts:
    return having(finished(host), **{name: container(host, name, **changes)})


def down(host: Host = HOST, **changes: Any) -> Facts:
    state = {"state": "restarting", "health": "unhealthy", "exit_code": 137, "oom_killed": True, "restarts": 4}
    return one(host=host, gpu_seen=Unknown("the container is not running"), **{**state, **changes})


def levels(made: Case) -> dict[str, str]:
    return {finding.id.partition(".")[2]: finding.level for finding in out_of_memory.diagnose(made)}


def commands(made: Case) -> list[str]:
    steps = [step for change in out_of_memory.plan(made).changes for step in change.steps]
    return [" ".join(step.argv) if isinstance(step, Run) else step.show() for step in steps]


def blocked(made: Case) -> str:
    section = out_of_memory.plan(made)
    assert not section.changes
    return "; ".join(finding.mend for finding in section.blocked)


# ---- memory of containers and of the host


@pytest.mark.parametrize(
    ("facts", "evidence"),
    [
        (fresh(), {}),
        (finished(), {"memory": Memory(64000, 100, 0, 0)}),
        (one(state="exited", exit_code=137, health=None), {}),
        (one(state="exited", exit_code=137, health=None), {"killed": ()}),
        (one(state="exited", exit_code=137, health=None), {"killed": Unknown("denied")}),
        (finished(), {"killed": (kill(ago_s=90_000), kill(ago_s=90_001))}),
        (finished(), {"killed": (kill("0123456789ab"),)}),
        (one(labels={}, oom_killed=True, state="exited"), {}),
        (replace(finished(), containers=Unknown("no answer")), {}),
    ],
    ids=["fresh", "low", "137", "137 quiet", "137 unread", "last week", "gone", "foreign", "engine"],
)
def test_no_fault(facts: Facts, evidence: dict[str, Any]) -> None:
    made = case(facts, **evidence)
    assert out_of_memory.diagnose(made) == []
    assert out_of_memory.plan(made).is_ready


def test_once_and_up_again_is_a_warning() -> None:
    made = case(one(memory=4 * GIB, host=LIMITED), host=LIMITED, killed=(kill(),))
    assert levels(made) == {"comfy": "warn"}
    assert "4711, 4090 MiB" in out_of_memory.diagnose(made)[0].evidence
    assert out_of_memory.plan(made).is_ready


@pytest.mark.parametrize(
    "killed",
    [(kill(), kill(pid=4712)), (kill(process="", pid=0), kill(process="", pid=0, when="2026-11-21T01:03:03Z"))],
    ids=["kernel", "engine"],
)
def test_over_and_over_is_a_fault_though_it_is_up(killed: tuple[Killed, ...]) -> None:
    made = case(one(memory=4 * GIB, host=LIMITED), host=LIMITED, killed=killed)
    assert levels(made) == {"comfy": "fail"}


def test_the_engine_says_one_kill_twice() -> None:
    made = case(one(memory=4 * GIB), killed=(kill(process="", pid=0), kill(process="", pid=0)))
    assert levels(made) == {"comfy": "warn"}


def test_a_limit_that_is_too_small_is_named_by_its_line() -> None:
    made = case(down(LIMITED, memory=4 * GIB), host=LIMITED)
    assert levels(made) == {"comfy": "fail"}
    assert 'raise [hosts.prometheus.comfy] memory = "4g", then invoke comfy' in blocked(made)


def test_a_limit_set_by_hand_that_was_met_once_names_what_puts_it_back() -> None:
    made = case(one(memory=4 * GIB), killed=(kill(limit=True),))
    [warning] = out_of_memory.diagnose(made)
    assert warning.mend == "invoke comfy --host prometheus gives it the limit of hosts.toml again (none)"


def test_a_limit_set_by_hand_is_put_back() -> None:
    made = case(down(memory=8 << 20))
    [finding] = out_of_memory.diagnose(made)
    assert "its own limit of 8 MiB, which is not the one in hosts.toml" in finding.text
    [command] = commands(made)
    assert command.endswith("--force-recreate comfy")
    [cause] = diagnosis.diagnose(made).causes
    assert cause.entry == "out-of-memory"


def test_the_host_s_memory_is_no_matter_of_a_limit() -> None:
    memory = Memory(64000, 512, 2048, 0)
    made = case(down(), memory=memory, killed=(kill(limit=False), kill(limit=False, pid=5)))
    [finding] = out_of_memory.diagnose(made)
    assert "the host's memory" in finding.text
    assert "512 of 64000 MiB available, swap 0 of 2048 MiB free" in finding.evidence
    assert "ps aux --sort=-rss" in blocked(made)


def test_killed_once_with_the_host_and_not_back_is_started() -> None:
    made = case(down(state="exited", health=None, restarts=0), killed=(kill(limit=False),))
    [command] = commands(made)
    assert command.endswith(" up -d --no-deps comfy")


def test_what_the_kernel_killed_elsewhere_is_worth_a_word() -> None:
    killed = (kill("", process="chrome", limit=False), kill("db", process="postgres", limit=False))
    [finding] = out_of_memory.diagnose(case(finished(), killed=killed))
    assert (finding.level, finding.id) == ("warn", "out-of-memory.host")
    assert "chrome, postgres in db" in finding.text


# ---- memory of the card


def card(*processes: GpuProcess, free: int = 200, line: str = TORCH, name: str = "comfy", **changes: Any) -> Facts:
    facts = one(name, log_markers=("Starting server", line), **changes)
    assert isinstance(facts.nvml, Nvml)
    gpu = replace(facts.nvml.gpus[0], memory_free_mib=free, memory_used_mib=20475 - free, processes=processes)
    return replace(facts, nvml=replace(facts.nvml, gpus=(gpu,)))


@pytest.mark.parametrize(
    "facts",
    [
        card(COMFY, OLLAMA, line="an image called out of memory.png"),
        card(COMFY, OLLAMA, line="Killed: Out of memory"),
        card(COMFY, free=19000),
        card(COMFY, OLLAMA, state="exited", health=None, gpu_seen=None),
        replace(card(COMFY, OLLAMA), nvml=Unknown("no answer")),
    ],
    ids=["a name", "other words", "room now", "not running", "no card"],
)
def test_a_card_that_is_in_use_is_no_fault(facts: Facts) -> None:
    assert "vram" not in levels(case(facts))


@pytest.mark.parametrize(("name", "line"), [("comfy", TORCH), ("comfy", DRIVER), ("ollama", LLAMA)])
def test_a_full_card_is_freed_over_the_services_own_ways(name: str, line: str) -> None:
    facts = card(COMFY, OLLAMA, line=line, name=name)
    made = case(facts, busy=Busy(0, 0, (Loaded("llama3.3:latest", 43000, 19000, "later"),)))
    [finding] = out_of_memory.diagnose(made)
    assert f"{name} ran out of it, 200 of 20475 MiB are free" in finding.text
    assert "ollama 19000 MiB (llama3.3:latest), comfy 312 MiB" in finding.evidence
    [change] = out_of_memory.plan(made).changes
    [step] = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["ports"] == {"comfy": 8188, "ollama": 11434}
    assert {guard.target for guard in step.guards} == {"comfy", "ollama"}
    assert not change.stops


@pytest.mark.parametrize(
    ("free", "line", "fault"),
    [
        (6000, TORCH, True),  # 6 GiB were asked for
        (6200, TORCH, False),
        (6200, TORCH.replace("6.00 GiB", "300.00 GiB"), True),  # half a card at most counts as asked for
        (10300, TORCH.replace("6.00 GiB", "300.00 GiB"), False),
        (2000, DRIVER, True),
        (2100, DRIVER, False),
        (2100, TORCH.replace("6.00 GiB", "20.00 MiB"), False),
        (100, TORCH.replace("6.00", "6.0.0"), True),
    ],
)
def test_full_is_less_than_what_was_asked_for(free: int, line: str, fault: bool) -> None:
    assert ("vram" in levels(case(card(COMFY, OLLAMA, free=free, line=line)))) is fault


def test_somebody_else_s_process_is_named_and_left_alone() -> None:
    made = case(card(COMFY, THEIRS))
    [finding] = out_of_memory.diagnose(made)
    assert "python3 train.py (pid 13, of the host, not ours) 19000 MiB" in finding.evidence
    assert "ps -fp 13" in blocked(made)


def test_ours_are_freed_where_that_is_enough() -> None:
    small = replace(THEIRS, memory_mib=4000, container="notebook")
    made = case(card(COMFY, replace(OLLAMA, memory_mib=15000), small))
    assert "in container notebook, not ours" in out_of_memory.diagnose(made)[0].evidence
    assert len(commands(made)) == 1


def test_sizes_that_the_driver_does_not_tell() -> None:
    made = case(card(replace(COMFY, memory_mib=None), replace(THEIRS, memory_mib=None)))
    assert "comfy ? MiB" in out_of_memory.diagnose(made)[0].evidence
    assert len(commands(made)) == 1


def test_a_stopped_service_is_not_asked() -> None:
    facts = card(COMFY)
    stopped = container(HOST, "ollama", state="exited", health=None, gpu_seen=None)
    [change] = out_of_memory.plan(case(having(facts, ollama=stopped))).changes
    [step] = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["ports"] == {"comfy": 8188}


def test_a_foreign_container_of_a_service_s_name_is_foreign() -> None:
    facts = card(COMFY, OLLAMA)
    made = case(having(facts, ollama=container(HOST, "ollama", labels={})))
    assert "not ours) 19000 MiB" in out_of_memory.diagnose(made)[0].evidence
