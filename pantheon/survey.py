"""What was found on a host, for a human to read or to put into hosts.toml. Pure: facts in, lines or a Host out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pantheon import foreign, layout
from pantheon.facts import Docker, Entry, Facts, Nvml, OsRelease, Space, Unknown
from pantheon.inventory import SERVICES, Host

GIB = 1 << 30
Line = tuple[str, str, str]  # sign, name, text


def as_found(host: Host, facts: Facts) -> Host:
    """`host` with what was found there in place of what hosts.toml says; what is unknown stays as it is."""
    if isinstance(facts.os, OsRelease):
        host = replace(host, os=replace(host.os, id=facts.os.id, version=facts.os.version))
    if isinstance(facts.nvml, Nvml) and facts.nvml.gpus:
        gpu = facts.nvml.gpus[0]
        memory = gpu.memory_total_mib // 1000 * 1000
        branch = facts.nvml.driver.split(".")[0]
        host = replace(host, gpu=replace(host.gpu, name=gpu.name, min_memory_mib=memory, driver=branch))
    types = {}
    for name in ("nvme", "ssd"):
        entry = facts.paths.get(getattr(host.storage, name))
        if isinstance(entry, Entry) and entry.is_mount and entry.mount:
            types[f"{name}_fstype"] = entry.mount.fstype
    host = replace(host, storage=replace(host.storage, **types))  # type: ignore[arg-type]
    for name in SERVICES:
        container = foreign.named(facts, name)
        if container is not None and len(container.ports) == 1:
            service = replace(host.service(name), image=container.image, port=container.ports[0].port)
            host = replace(host, **{name: service})  # type: ignore[arg-type]
    return host


def sheet(host: Host, facts: Facts) -> Iterator[Line]:
    """The facts in lines, grouped as an operator looks for them."""
    if isinstance(facts.os, OsRelease):
        yield " ", "os", f"{facts.os.pretty}, kernel {facts.os.kernel}, up {facts.os.uptime_s / 3600:.1f} h"
    else:
        yield _unknown("os", facts.os)
    if isinstance(facts.nvml, Nvml):
        yield " ", "driver", f"{facts.nvml.driver}, CUDA {facts.nvml.cuda}, module {_text(facts.module_version)}"
        for gpu in facts.nvml.gpus:
            used = f"{gpu.memory_used_mib}/{gpu.memory_total_mib} MiB"
            extra = [f"{gpu.utilisation} %" if gpu.utilisation is not None else "",
                     f"{gpu.temperature_c} °C" if gpu.temperature_c is not None else "",
                     f"{gpu.power_w:.0f} W" if gpu.power_w is not None else "", *gpu.event_reasons]  # fmt: skip
            yield " ", f"gpu {gpu.index}", ", ".join(part for part in (gpu.name, used, *extra) if part)
            for process in gpu.processes:
                where = process.container or "host"
                yield " ", "", f"  {process.name} (pid {process.pid}, {where}): {process.memory_mib or '?'} MiB"
    else:
        yield _unknown("gpu", facts.nvml)
    if isinstance(facts.docker, Docker):
        parts = (f"engine {_text(facts.docker.engine)}", f"client {_text(facts.docker.client)}",
                 f"Compose {_text(facts.docker.compose)}", f"root {_text(facts.docker.root)}",
                 f"runtimes {' '.join(facts.docker.runtimes)}")  # fmt: skip
        yield " ", "docker", ", ".join(parts)
        if facts.docker.tcp:
            yield "!", "docker", f"its API listens on {', '.join(facts.docker.tcp)}"
    else:
        yield _unknown("docker", facts.docker)
    yield " ", "toolkit", _text(facts.toolkit)
    yield from _storage(host, facts)
    yield from _containers(host, facts)
    yield from _ports(facts)


def _storage(host: Host, facts: Facts) -> Iterator[Line]:
    for directory in layout.directories(host):
        entry = facts.paths.get(directory.path)
        if isinstance(entry, Entry):
            yield " ", "storage", f"{entry.path}  {entry.uid}:{entry.gid} {entry.mode:04o}"
        else:
            yield "?" if isinstance(entry, Unknown) else "-", "storage", f"{directory.path}  {_text(entry, 'missing')}"
    for name, space in facts.spaces.items():
        if isinstance(space, Space):
            yield " ", "space", f"{name}  {space.free_bytes / GIB:.1f} of {space.total_bytes / GIB:.1f} GiB free"
        else:
            yield _unknown("space", space, name)


def _containers(host: Host, facts: Facts) -> Iterator[Line]:
    if not isinstance(facts.containers, tuple):
        yield _unknown("containers", facts.containers)
        return
    for container in facts.containers:
        ports = ", ".join(f"{port.address or '*'}:{port.port}" for port in container.ports)
        whose = "" if foreign.is_ours(host, container) else "  (not ours)"
        state = f"{container.state}{', ' + container.health if container.health else ''}"
        yield " ", "container", f"{container.name}  {state}  {ports or 'no port'}  {container.image}{whose}"


def _ports(facts: Facts) -> Iterator[Line]:
    for name in SERVICES:
        answer = facts.http.get(name)
        if answer is not None and not isinstance(answer, Unknown):
            yield " ", "http", f"{answer.url}  {answer.status or answer.error}"
    if not isinstance(facts.listeners, tuple):
        yield _unknown("listeners", facts.listeners)
        return
    for listener in facts.listeners:
        yield " ", "listener", f"{listener.address}:{listener.port}  {listener.container or listener.process or '?'}"


def _unknown(name: str, value: object, label: str = "") -> Line:
    return "?" if isinstance(value, Unknown) else "-", name, f"{label}  {_text(value)}".strip()


def _text(value: object, absent: str = "none") -> str:
    if isinstance(value, Unknown):
        return f"not known: {value.reason}"
    return absent if value is None else str(value)
