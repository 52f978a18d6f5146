"""Section 2, system prerequisites: operating system, GPU, driver, Docker, toolkit. Looks, judges, changes nothing."""

from __future__ import annotations

import re

from pantheon import advice
from pantheon.facts import Docker, Facts, Nvml, Unknown
from pantheon.finding import Finding, Level
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "prereqs"
SOURCE = "procedure §2"

MIN_ENGINE = (25, 0)  # start_interval in healthchecks
MIN_COMPOSE = (2, 20)


def install(host: Host, *more: str) -> str:
    """What brings it about: `invoke prereqs --install --host HOST`."""
    return " ".join(["invoke prereqs --install", *more, "--host", host.name])


def plan(host: Host, facts: Facts) -> SectionPlan:
    """Nothing to change here: unmet prerequisites block whatever comes after."""
    findings = check(host, facts)
    unmet = tuple(finding for finding in findings if not finding.is_good)
    return SectionPlan(NAME, reason=summary(facts), blocked=unmet)


def summary(facts: Facts) -> str:
    """What the host is, in one line."""
    parts = []
    if isinstance(facts.nvml, Nvml):
        parts += [gpu.name.removeprefix("NVIDIA ").removesuffix(" Generation") for gpu in facts.nvml.gpus[:1]]
        parts.append("driver " + ".".join(facts.nvml.driver.split(".")[:2]))
    if isinstance(facts.docker, Docker) and isinstance(facts.docker.engine, str):
        parts.append("Docker " + ".".join(facts.docker.engine.split(".")[:2]))
    return ", ".join(parts) or "not known"


def check(host: Host, facts: Facts) -> list[Finding]:
    """A finding for each line of section 2, in its order."""
    return [_os(host, facts), *_gpu(host, facts), _module(host, facts), *_docker(host, facts), *_toolkit(host, facts)]


def _finding(key: str, level: Level, text: str, *, evidence: str = "", mend: str = "") -> Finding:
    return Finding(f"{NAME}.{key}", level, text, evidence=evidence, mend=mend, source=SOURCE)


def _unknown(key: str, what: str, value: object, *, mend: str = "") -> Finding:
    reason = value.reason if isinstance(value, Unknown) else "not there"
    return _finding(key, "unknown", f"{what}: not known", evidence=reason, mend=mend)


def _os(host: Host, facts: Facts) -> Finding:
    if facts.os is None or isinstance(facts.os, Unknown):
        return _unknown("os", "operating system", facts.os)
    has, should = f"{facts.os.id} {facts.os.version}", f"{host.os.id} {host.os.version}"
    evidence = f"/etc/os-release: {facts.os.pretty}, kernel {facts.os.kernel}"
    if has == should:
        return _finding("os", "ok", facts.os.pretty, evidence=evidence)
    mend = f'install {should}, or in hosts.toml: os = {{ id = "{facts.os.id}", version = "{facts.os.version}" }}'
    return _finding("os", "fail", f"operating system is {has}, not {should}", evidence=evidence, mend=mend)


def _gpu(host: Host, facts: Facts) -> list[Finding]:
    nvml = facts.nvml
    if nvml is None or isinstance(nvml, Unknown):
        reason = nvml.reason if isinstance(nvml, Unknown) else "no NVML library on the host"
        smi = facts.nvidia_smi
        if smi is None:
            reason += "; nvidia-smi: not installed"
        elif not isinstance(smi, Unknown) and smi.status:
            reason += (
                f"; nvidia-smi: exit {smi.status}: {smi.output.strip().splitlines()[0] if smi.output.strip() else ''}"
            )
        return [_finding("gpu", "fail", "no GPU can be used", evidence=reason, mend=_gpu_mend(host, facts, reason))]
    findings = [_gpu_device(host, nvml), _driver(host, nvml)]
    smi = facts.nvidia_smi
    if smi is None:
        findings.append(
            _finding(
                "nvidia-smi",
                "fail",
                "nvidia-smi is not installed",
                mend=install(host),
            )
        )
    elif isinstance(smi, Unknown):
        findings.append(_unknown("nvidia-smi", "nvidia-smi", smi))
    elif smi.status:
        last = smi.output.strip().splitlines()[-1:] or [""]
        findings.append(
            _finding(
                "nvidia-smi",
                "fail",
                f"nvidia-smi fails with status {smi.status}",
                evidence=last[0],
                mend=advice.command(host.name, smi.output.splitlines()),
            )
        )
    else:
        findings.append(_finding("nvidia-smi", "ok", "nvidia-smi answers"))
    return findings


def _gpu_mend(host: Host, facts: Facts, reason: str) -> str:
    if "mismatch" in reason.lower():
        return advice.fix(host.name, "driver-mismatch")
    if facts.nvml is None or facts.module_version is None:
        return install(host, "--reboot")
    # The driver is there and loaded: it, or the card, has got stuck. The kernel's log has the reason (NVRM: Xid).
    return "look for Xid on the host (sudo journalctl -k -g NVRM), then reboot it; power it off if that is not enough"


def _gpu_device(host: Host, nvml: Nvml) -> Finding:
    names = [gpu.name for gpu in nvml.gpus]
    evidence = (
        "; ".join(f"GPU {g.index}: {g.name}, {g.memory_total_mib} MiB" for g in nvml.gpus) or "NVML counts no GPU"
    )
    right = [gpu for gpu in nvml.gpus if gpu.name == host.gpu.name]
    if not right:
        text = f"GPU is {', '.join(names)}, not {host.gpu.name}" if names else "no GPU is in this host"
        mend = "is this the right host, with its card in it?"
        mend += f' if so, in hosts.toml, [hosts.{host.name}.gpu]: name = "{names[0]}"' if names else ""
        return _finding("gpu", "fail", text, evidence=evidence, mend=mend)
    if max(gpu.memory_total_mib for gpu in right) < host.gpu.min_memory_mib:
        text = f"GPU has {right[0].memory_total_mib} MiB, less than {host.gpu.min_memory_mib}"
        least = f"min_memory_mib = {right[0].memory_total_mib // 1000 * 1000}"
        mend = f"is this the right card? if so, in hosts.toml, [hosts.{host.name}.gpu]: {least}"
        return _finding("gpu", "fail", text, evidence=evidence, mend=mend)
    return _finding("gpu", "ok", f"{right[0].name}, {right[0].memory_total_mib} MiB", evidence=evidence)


def _driver(host: Host, nvml: Nvml) -> Finding:
    branch = host.gpu.driver
    evidence = f"NVML: driver {nvml.driver}, CUDA {nvml.cuda}"
    if nvml.driver == branch or nvml.driver.startswith(branch + "."):
        return _finding("driver", "ok", f"driver {nvml.driver}", evidence=evidence)
    evidence, mend = f"{evidence}; hosts.toml: gpu.driver is {branch}", install(host, "--reboot")
    return _finding("driver", "fail", f"driver is {nvml.driver}, not {branch}.x", evidence=evidence, mend=mend)


def _module(host: Host, facts: Facts) -> Finding:
    module, library = facts.module_version, facts.library_version
    if isinstance(module, str) and isinstance(library, str):
        evidence = f"kernel module {module}, library {library}"
        if module == library:
            return _finding("module", "ok", f"kernel module and library are both {module}", evidence=evidence)
        return _finding(
            "module",
            "fail",
            "the driver's kernel module and its library differ",
            evidence=evidence,
            mend=advice.fix(host.name, "driver-mismatch"),
        )
    if module is None and library is None:
        return _finding(
            "module",
            "fail",
            "no NVIDIA driver is installed",
            mend=install(host, "--reboot"),
        )
    if module is None:
        return _finding(
            "module",
            "fail",
            "the NVIDIA kernel module is not loaded",
            evidence=f"/sys/module/nvidia/version: not there; the library is {library}",
            mend=install(host, "--reboot"),
        )
    return _unknown("module", "kernel module against library", module if isinstance(module, Unknown) else library)


def _version(text: str) -> tuple[int, ...]:
    numbers = re.match(r"v?(\d+)\.(\d+)", text)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)


def _docker(host: Host, facts: Facts) -> list[Finding]:
    docker = facts.docker
    if docker is None:
        return [
            _finding(
                "docker",
                "fail",
                "Docker Engine is not installed",
                mend=install(host),
            )
        ]
    if isinstance(docker, Unknown):
        return [_unknown("docker", "Docker", docker)]
    findings = []
    if isinstance(docker.snap, str):
        findings.append(
            _finding(
                "docker-snap",
                "fail",
                "Docker is the snap, which cannot use the GPU",
                evidence=docker.snap,
                mend=install(host, "--remove-snap"),
            )
        )
    elif isinstance(docker.snap, Unknown):
        findings.append(_unknown("docker-snap", "whether Docker is the snap", docker.snap))
    if not isinstance(docker.engine, str):
        reason = docker.engine.reason if isinstance(docker.engine, Unknown) else "the engine does not answer"
        findings.append(
            _finding(
                "docker",
                "fail",
                "Docker Engine does not answer",
                evidence=reason,
                mend=advice.fix(host.name, "docker-down"),
            )
        )
    elif _version(docker.engine) < MIN_ENGINE:
        findings.append(
            _finding(
                "docker",
                "fail",
                f"Docker Engine {docker.engine} is older than {MIN_ENGINE[0]}",
                mend=install(host),
            )
        )
    else:
        findings.append(_finding("docker", "ok", f"Docker Engine {docker.engine}", evidence=f"root {docker.root}"))
    if not isinstance(docker.compose, str):
        findings.append(
            _finding(
                "compose",
                "fail",
                "Docker Compose v2 is not installed",
                evidence=docker.compose.reason if isinstance(docker.compose, Unknown) else "",
                mend=install(host),
            )
        )
    elif _version(docker.compose) < MIN_COMPOSE:
        findings.append(
            _finding(
                "compose",
                "fail",
                f"Docker Compose {docker.compose} is older than 2.20",
                mend=install(host),
            )
        )
    else:
        findings.append(_finding("compose", "ok", f"Docker Compose {docker.compose}"))
    return findings


def _toolkit(host: Host, facts: Facts) -> list[Finding]:
    if facts.toolkit is None:
        return [
            _finding(
                "toolkit",
                "fail",
                "NVIDIA Container Toolkit is not installed",
                mend=install(host),
            )
        ]
    if isinstance(facts.toolkit, Unknown):
        return [_unknown("toolkit", "NVIDIA Container Toolkit", facts.toolkit)]
    findings = [_finding("toolkit", "ok", f"NVIDIA Container Toolkit {facts.toolkit}")]
    if isinstance(facts.docker, Docker) and isinstance(facts.docker.engine, str):
        runtimes = ", ".join(facts.docker.runtimes)
        if "nvidia" in facts.docker.runtimes:
            findings.append(
                _finding("runtime", "ok", "Docker knows the nvidia runtime", evidence=f"runtimes: {runtimes}")
            )
        else:
            findings.append(
                _finding(
                    "runtime",
                    "fail",
                    "Docker does not know the nvidia runtime",
                    evidence=f"runtimes: {runtimes}",
                    mend=install(host),
                )
            )
    return findings
