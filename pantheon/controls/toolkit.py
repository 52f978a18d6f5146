"""NVIDIA Container Toolkit: the card in containers (procedure §2, system page)."""

from __future__ import annotations

from pantheon import foreign
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import command, containers, missing, not_applicable, of, passed, unknown
from pantheon.facts import Docker, Unknown
from pantheon.incident import Case
from pantheon.install import toolkit
from pantheon.sections import prereqs, validate

NO_DOCKER = not_applicable("there is no Docker")
SOURCE = "procedure §2; system page, Services Hosted"


def installed(case: Case) -> Verdict:
    return of(case, prereqs.check(case.host, case.facts), "prereqs.toolkit")


def runtime(case: Case) -> Verdict:
    docker = case.facts.docker
    if docker is None:
        return NO_DOCKER
    if not isinstance(docker, Docker) or not isinstance(docker.engine, str):
        reason = docker.engine if isinstance(docker, Docker) else docker
        return unknown(missing(reason, "the engine does not answer"), mend=command(case, "diagnose"))
    found = prereqs.check(case.host, case.facts)
    if any(finding.id == "prereqs.runtime" for finding in found):
        return of(case, found, "prereqs.runtime")
    if "nvidia" in docker.runtimes:
        return passed(f"runtimes: {', '.join(docker.runtimes)}")
    text = f"Docker does not know the nvidia runtime; runtimes: {', '.join(docker.runtimes)}"
    return Verdict("fail", text, command(case, "prereqs", "--install"))


def cdi(case: Case) -> Verdict:
    """Devices by CDI outlive a `systemctl daemon-reload`, which takes the card away from containers otherwise. A
    file that somebody has generated stays as it is when the driver is upgraded; one in /var/run goes before it."""
    docker = case.facts.docker
    if docker is None:
        return NO_DOCKER
    if not isinstance(docker, Docker):
        return unknown(docker)
    specs, install = case.evidence.cdi, command(case, "prereqs", "--install")
    if not docker.cdi:
        return Verdict("fail", "no CDI specification in /etc/cdi or /var/run/cdi", install)
    if not isinstance(specs, tuple):
        return unknown(specs)
    if isinstance(library := case.facts.library_version, Unknown):
        return unknown(library)
    if not specs:
        text = f"none of NVIDIA's cards: {', '.join(docker.cdi)}"
        return Verdict("fail", text, install)
    if old := toolkit.outdated(case.facts, case.evidence):
        told = [f"{one.path} is for driver {', '.join(one.drivers)}, and {library} is installed" for one in old]
        return Verdict("fail", "\n".join(told), install)
    return passed("\n".join(" ".join([one.path, *one.drivers]) for one in toolkit.used(specs)))


def hook(case: Case) -> Verdict:
    """dockerd looks for the toolkit's hook once, as it starts (DOMAIN.md)."""
    found = case.evidence.engine_has_hook
    if case.facts.docker is None:
        return NO_DOCKER
    if isinstance(found, Unknown):
        return unknown(found)
    if found is None:
        return unknown(Unknown("the engine does not run"), mend=command(case, "fix.docker-down"))
    if found:
        return passed("dockerd found nvidia-container-runtime-hook when it started")
    text = "dockerd started without nvidia-container-runtime-hook on its PATH"
    return Verdict("fail", text, command(case, "fix.gpu-lost"))


def _gpu_in(name: str) -> Control:
    def judge(case: Case) -> Verdict:
        if containers(case) is not None and foreign.named(case.facts, name) is None:
            return not_applicable(f"there is no container {name}")
        return of(case, validate.check(case.host, case.facts, case.here.http), f"{name}.gpu")

    title = f"{'ComfyUI' if name == 'comfy' else 'Ollama'} computes on the card"
    return Control(f"toolkit.{name}-gpu", title, "high", "procedure §1, §4", judge)


CONTROLS = (
    Control("toolkit.installed", "NVIDIA Container Toolkit is installed", "high", SOURCE, installed),
    Control("toolkit.runtime", "Docker knows the nvidia runtime", "high", SOURCE, runtime),
    Control("toolkit.hook", "Docker was started with the toolkit in place", "high", SOURCE, hook),
    Control(
        "toolkit.cdi",
        "There is a CDI specification of the card, for the driver that is installed",
        "low",
        "procedure §2",
        cdi,
    ),
    _gpu_in("comfy"),
    _gpu_in("ollama"),
)
