"""Somebody ran out of memory: a container of its own limit, the host of all it has, or the card of its own.

Exit code 137 alone says only that a process was killed, and every stop that takes too long ends so: what counts is
Docker's OOMKilled, the kernel's own line about it, and CUDA's words in a log while the card is still full.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from pantheon import foreign, service
from pantheon.evidence import Busy, Killed, Memory
from pantheon.facts import Container, GpuDevice, GpuProcess, Nvml
from pantheon.finding import Finding
from pantheon.grammar import memory_bytes
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import Change, Guard, Mend, SectionPlan

ID = "out-of-memory"
CAUSE = (
    "A container met its own memory limit, the whole host ran out of memory, or the card is full: ComfyUI and Ollama "
    "share one card, and each keeps its models there."
)
RISK = (
    "Freeing the card unloads the models of ComfyUI and Ollama: a running job ends first, and the next use loads them "
    "anew. A container is recreated only where its limit is not the one in hosts.toml. No process of anybody else's is "
    "ended, no model file or other data is touched."
)
SOURCE = "DOMAIN.md"
DAY_S = 86_400  # kills longer ago say nothing about now
RECURRING = 2
SPARE = 0.10  # of the card: with less than that free nothing can be loaded
GPU_SERVICES = ("comfy", "ollama")
# PyTorch and ComfyUI, llama.cpp in Ollama.
VRAM = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaMalloc failed: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|would exceed allowed memory|Allocation on device",
    re.IGNORECASE,
)
_TRIED = re.compile(r"tried to allocate ([\d.]+) (GiB|MiB)|allocating ([\d.]+) (MiB) on device", re.IGNORECASE)


def diagnose(case: Case) -> list[Finding]:
    """A finding for each service that was killed for want of memory, one for the card; others' kills as a warning."""
    findings = [finding for name in SERVICES if (finding := _service(case, name)) is not None]
    full = _full(case)
    if full:
        findings.append(_vram(case, full))
    return findings + _others(case)


def plan(case: Case) -> SectionPlan:
    """The card's memory freed; a limit that is not the one in hosts.toml put back. A limit that is too small, a host
    that is, and a process of somebody else's are for a human."""
    failed = [finding for finding in diagnose(case) if finding.level == "fail"]
    if not failed:
        return SectionPlan(ID, reason="nobody ran out of memory, or it is over")
    by_hand = tuple(replace(finding, mend=mend) for finding in failed if (mend := _by_hand(case, finding)))
    if by_hand:
        return SectionPlan(ID, blocked=by_hand)
    changes: list[Change] = []
    starts: list[str] = []
    for name in (name for name in SERVICES if any(finding.id == f"{ID}.{name}" for finding in failed)):
        section = service.anew(case.host, case.facts, name, why="it was killed for want of memory")
        if section.blocked:
            return SectionPlan(ID, blocked=section.blocked)
        changes += [change for change in section.changes if change not in changes]
        starts.append(name)
    full = _full(case)
    if full:
        changes.append(_free(case, full))
    return SectionPlan(ID, tuple(changes), starts=tuple(starts))


# ---- memory of the host and of containers


@dataclass(frozen=True)
class _Kills:
    """What is known of the kills in one service's container. `limit`: its own limit did it; `set_by_hand`: that limit
    is not the one in hosts.toml."""

    container: Container
    kills: tuple[Killed, ...]
    count: int
    limit: bool
    set_by_hand: bool

    @property
    def is_up(self) -> bool:
        return self.container.state == "running"


def _killed(case: Case) -> list[Killed]:
    known = case.evidence.killed if isinstance(case.evidence.killed, tuple) else ()
    return [kill for kill in known if kill.ago_s <= DAY_S]


def _kills(case: Case, name: str) -> _Kills | None:
    """None where nothing says that this service's container was short of memory."""
    container = foreign.named(case.facts, name)
    if container is None or not foreign.is_ours(case.host, container):
        return None
    kills = tuple(kill for kill in _killed(case) if kill.container == name)
    if not kills and not container.oom_killed:
        return None
    count = len({(kill.when, kill.pid) for kill in kills}) or 1
    limit = kills[-1].limit if kills else container.memory > 0
    set_by_hand = container.memory != memory_bytes(case.host.service(name).memory)
    return _Kills(container, kills, count, limit and container.memory > 0, set_by_hand)


def _service(case: Case, name: str) -> Finding | None:
    found = _kills(case, name)
    if found is None:
        return None
    container, limit = found.container, f"{found.container.memory >> 20} MiB"
    whose = f"its own limit of {limit}" if found.limit else "the host's memory"
    evidence = [*(_told(kill) for kill in found.kills[-2:])]
    if container.oom_killed:
        evidence.append(f"docker inspect: OOMKilled, exit code {container.exit_code}, {container.restarts} restarts")
    if not found.limit:
        evidence.append(_host_memory(case))
    said = "; ".join(filter(None, evidence))
    if found.is_up and found.count < RECURRING:
        text = f"{name} was short of {whose} once, and is up again"
        return Finding(f"{ID}.{name}", "warn", text, said, _raise_limit(case, name, found), SOURCE)
    again = "over and over" if found.count >= RECURRING or container.restarts >= RECURRING else "once"
    text = f"{name} was killed for want of memory {again}: {whose}"
    if found.limit and found.set_by_hand:
        text += ", which is not the one in hosts.toml"
    healthy = found.is_up and container.health in ("healthy", None)
    follows = {"comfy": ("comfy-first-run.*", "gpu-lost.comfy"), "ollama": ("openwebui-ollama.*", "gpu-lost.ollama")}
    explains = () if healthy else (f"{name}.*", *follows.get(name, ()))
    return Finding(f"{ID}.{name}", "fail", text, said, command(case, ID), SOURCE, explains=explains)


def _told(kill: Killed) -> str:
    """One kill in words."""
    if not kill.process:
        return f"{kill.when} oom (docker events)"
    return f"{kill.when} the kernel killed {kill.process} (pid {kill.pid}, {kill.rss_mib} MiB)".strip()


def _host_memory(case: Case) -> str:
    memory = case.evidence.memory
    if not isinstance(memory, Memory):
        return ""
    swap = f"swap {memory.swap_free_mib} of {memory.swap_total_mib} MiB free" if memory.swap_total_mib else "no swap"
    return f"host: {memory.available_mib} of {memory.total_mib} MiB available, {swap}"


def _others(case: Case) -> list[Finding]:
    """Kills that hit nothing of ours: worth knowing, and not our matter."""
    kills = [kill for kill in _killed(case) if kill.container not in SERVICES and (kill.process and not kill.limit)]
    if not kills:
        return []
    names = Counter(f"{kill.process}{f' in {kill.container}' if kill.container else ''}" for kill in kills)
    who = ", ".join(f"{name} ({times}x)" if times > 1 else name for name, times in names.most_common(3))
    text = f"the host ran out of memory, and the kernel killed {who}"
    said = "; ".join(filter(None, (_told(kills[-1]), _host_memory(case))))
    return [Finding(f"{ID}.host", "warn", text, said, case.host.ssh("ps aux --sort=-rss | head"), SOURCE)]


def _raise_limit(case: Case, name: str, found: _Kills) -> str:
    now = case.host.service(name).memory
    if found.limit and found.set_by_hand:
        return f"invoke {name} --host {case.host.name} gives it the limit of hosts.toml again ({now or 'none'})"
    if found.limit and not found.set_by_hand:
        line = f'[hosts.{case.host.name}.{name}] memory = "{now}"'
        return f"in hosts.toml, raise {line}, then invoke {name} --host {case.host.name}"
    look = case.host.ssh("ps aux --sort=-rss | head")
    line = f'[hosts.{case.host.name}.{name}] memory = "16g"'
    return f"in hosts.toml, limit what may eat it ({line}), or give the host more memory or swap; who has it: {look}"


# ---- memory of the card


@dataclass(frozen=True)
class _Full:
    """The card, its memory in MiB, and the service that said that it was short of it."""

    who: str
    line: str
    gpu: GpuDevice
    needed: int

    @property
    def holders(self) -> list[GpuProcess]:
        return sorted(self.gpu.processes, key=lambda process: -(process.memory_mib or 0))


def _full(case: Case) -> _Full | None:
    """A service has run out of the card's memory since it started, and the card has no room for it now."""
    if not isinstance(case.facts.nvml, Nvml) or not case.facts.nvml.gpus:
        return None
    gpu = min(case.facts.nvml.gpus, key=lambda gpu: gpu.memory_free_mib)
    for name in GPU_SERVICES:
        container = foreign.named(case.facts, name)
        if container is None or container.state != "running" or not isinstance(container.log_markers, tuple):
            continue
        said = [line for line in container.log_markers if VRAM.search(line)]
        needed = max((_tried(line) for line in said), default=0)
        needed = max(min(needed, gpu.memory_total_mib // 2), int(gpu.memory_total_mib * SPARE))
        if said and gpu.memory_free_mib < needed:
            return _Full(name, said[-1], gpu, needed)
    return None


def _tried(line: str) -> int:
    """MiB that could not be had, 0 where the line does not say."""
    found = _TRIED.search(line)
    if not found:
        return 0
    size, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    try:
        return int(float(size) * (1024 if unit.lower() == "gib" else 1))
    except ValueError:
        return 0


def _vram(case: Case, full: _Full) -> Finding:
    gpu = full.gpu
    free = f"{gpu.memory_free_mib} of {gpu.memory_total_mib} MiB are free"
    text = f"the card's memory is full: {full.who} ran out of it, {free}"
    evidence = f"{_shares(case, full)}; {full.who} says: {_short(full.line)}"
    return Finding(f"{ID}.vram", "fail", text, evidence, command(case, ID), SOURCE)


def _short(line: str) -> str:
    found = VRAM.search(line)
    start = found.start() if found else 0
    text = line[start:].strip()
    return text if len(text) <= 110 else text[:110].rpartition(" ")[0] + " ..."


def _shares(case: Case, full: _Full) -> str:
    """Who holds how much of the card, the largest first."""
    lines = []
    for process in full.holders[:8]:
        size = "?" if process.memory_mib is None else f"{process.memory_mib}"
        if _is_ours(case, process):
            lines.append(f"{process.container} {size} MiB{_models(case) if process.container == 'ollama' else ''}")
        else:
            where = f"in container {process.container}" if process.container else "of the host"
            lines.append(f"{process.name or 'a process'} (pid {process.pid}, {where}, not ours) {size} MiB")
    return ", ".join(lines) or "NVML names no holder"


def _models(case: Case) -> str:
    busy = case.evidence.busy
    names = [model.name for model in busy.ollama] if isinstance(busy, Busy) and busy.ollama else []
    return f" ({', '.join(names)})" if names else ""


def _is_ours(case: Case, process: GpuProcess) -> bool:
    container = foreign.named(case.facts, process.container) if process.container in GPU_SERVICES else None
    return container is not None and foreign.is_ours(case.host, container)


def _foreigners(case: Case, full: _Full) -> list[GpuProcess]:
    return [process for process in full.holders if not _is_ours(case, process)]


def _is_for_others(case: Case, full: _Full) -> bool:
    """Whether there would be no room even if our services let go of all that they hold."""
    ours = [process.memory_mib for process in full.holders if _is_ours(case, process)]
    if not _foreigners(case, full) or any(size is None for size in ours):
        return False
    return full.gpu.memory_free_mib + sum(size or 0 for size in ours) < full.needed


def _free(case: Case, full: _Full) -> Change:
    ours = [foreign.named(case.facts, name) for name in GPU_SERVICES]
    up = [c for c in ours if c is not None and foreign.is_ours(case.host, c) and c.state == "running"]
    guards = tuple(Guard("container", c.name, c.id) for c in up)
    ports = {c.name: case.host.service(c.name).port for c in up}
    names = " and ".join(ports)
    told = {"ports": ports, "ids": {c.id: c.name for c in up}}
    step = Mend("free_vram", told, f"unload the models of {names}", guards, timeout_s=1200)
    what = f"free the card's memory: {names} unload their models (now {_shares(case, full)})"
    return Change(what, f"{full.who} ran out of it", (step,))


# ---- what only a human can do


def _by_hand(case: Case, finding: Finding) -> str:
    """What to type for what is not ours to decide; "" for what can be mended here."""
    if finding.id == f"{ID}.vram":
        full = _full(case)
        if full is None or not _is_for_others(case, full):
            return ""
        pids = " ".join(str(process.pid) for process in _foreigners(case, full)[:5])
        return (
            f"ask whose they are, and end them: {case.host.ssh(f'ps -fp {pids}')}; pantheon ends no process of others"
        )
    name = finding.id.rpartition(".")[2]
    found = _kills(case, name)
    if found is None:
        return ""
    if found.limit:
        return "" if found.set_by_hand else _raise_limit(case, name, found)
    return "" if not found.is_up and found.count < RECURRING else _raise_limit(case, name, found)
