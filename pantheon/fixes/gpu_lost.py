"""A container without its GPU: which link between the card and the container is gone (DOMAIN.md, NVIDIA and Docker).

The host's own card is judged first; a container cannot have what the host has not. Then Docker, which hands the card
on; then each container that asks for it. A driver whose library and module differ is an entry of its own.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from pantheon import foreign, service
from pantheon.facts import Command, Container, Docker, Facts, Nvml, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES, Comfy, Host, Ollama
from pantheon.plan import Change, Run, SectionPlan

ID = "gpu-lost"
CAUSE = (
    "The host has its card and a container does not: a daemon-reload took the container's devices, Docker does not "
    "know the NVIDIA toolkit, or the image wants a newer driver. Or the host itself has lost the card."
)
RISK = (
    "Recreates only the container that lost its card: its running job ends, its models are loaded anew. Where Docker "
    "itself must be restarted, every container on the host stops for some seconds, and the plan says so. Data, images, "
    "models and containers of others are never touched."
)
SOURCE = "DOMAIN.md, NVIDIA"
PREVENT = "CDI, or Docker's cgroupfs driver, prevents it (invoke runbook fix.gpu-lost)"

SELECT = "could not select device driver"
# Least drivers of mmartial/comfyui-nvidia-docker's tags, oldest first (DOMAIN.md, ComfyUI).
COMFY_CUDA = {"12.9": "575.51.03", "13.0": "580.65.06", "13.1": "590.44.01", "13.2": "595.45.04"}
# Of the many Xids those of the card itself, in words.
XIDS = {
    48: "an uncorrectable memory error",
    61: "its microcontroller halted",
    62: "its microcontroller halted",
    64: "a memory row could not be replaced",
    74: "an NVLink error",
    79: "it fell off the bus",
    92: "many memory errors",
    95: "an uncontained memory error",
    109: "a context switch never ended",
    119: "its GSP does not answer",
    120: "its GSP failed",
    140: "an unrecovered memory error",
    143: "its initialisation failed",
    154: "it asks for a reset",
}
NOT_SEEN = re.compile(r"^!! ERROR: (nvidia-smi not found|failed to run nvidia-smi)", re.IGNORECASE)
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Lost:
    """What one container says. `kind`: engine (Docker has no driver for it), cuda (image newer than the driver), device
    (it asks for a card that is not there), refused (the toolkit, for another reason), unasked (it was made without a
    card), nvml, unseen (its program finds none as it starts), cpu."""

    name: str
    kind: str
    said: str


def diagnose(case: Case) -> list[Finding]:
    """What keeps the card from each container; a finding for the host alone where the host has none."""
    if _mismatch(case.facts):
        return []
    if (of_host := _host(case)) is not None:
        return [of_host]
    if not isinstance(case.facts.nvml, Nvml):
        return []  # not known: the checklist says so
    lost = _lost(case)
    engine = [one for one in lost if one.kind == "engine"]
    findings = [_engine(case, engine)] if engine else []
    findings += [_container(case, one) for one in (*lost, *_theirs(case)) if one.kind != "engine"]
    return findings + _xid_warning(case)


def plan(case: Case) -> SectionPlan:
    """The containers concerned, recreated; Docker restarted where it started before the toolkit was there."""
    host, facts = case.host, case.facts
    findings = [finding for finding in diagnose(case) if finding.level == "fail"]
    if not findings:
        return SectionPlan(ID, reason="every container that asks for the card has it")
    by_hand = tuple(replace(finding, mend=mend) for finding in findings if (mend := _by_hand(case, finding)))
    if by_hand:
        return SectionPlan(ID, blocked=by_hand)
    lost = _lost(case)
    changes: list[Change] = []
    if any(one.kind == "engine" for one in lost) and case.evidence.engine_has_hook is not True:
        changes.append(_restart_docker(case, [one.name for one in lost if one.kind == "engine"]))
        lost = [one for one in lost if one.kind != "engine"]
    for one in lost:
        section = service.anew(host, facts, one.name, why=f"{_TEXTS[one.kind]}: {one.said}")
        if section.blocked:
            return SectionPlan(ID, blocked=section.blocked)
        changes += [change for change in section.changes if change not in changes]
    starts = tuple(dict.fromkeys((*(one.name for one in _lost(case)), *_stopped_by(changes))))
    return SectionPlan(ID, tuple(changes), starts=starts)


# ---- the host


def _mismatch(facts: Facts) -> bool:
    """Then fix.driver-mismatch has the word."""
    module, library = facts.module_version, facts.library_version
    if isinstance(module, str) and isinstance(library, str) and module != library:
        return True
    said = [facts.nvml.reason if isinstance(facts.nvml, Unknown) else "", _smi(facts)]
    return any("version mismatch" in text.lower() for text in said)


def _smi(facts: Facts) -> str:
    """What nvidia-smi says on the host where it fails, in a line."""
    smi = facts.nvidia_smi
    if isinstance(smi, Unknown):
        return smi.reason
    if smi is None:
        return "not installed"
    return _first(smi.output, f"exit {smi.status}") if smi.status or "No devices were found" in smi.output else ""


def _first(text: str, otherwise: str = "") -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), otherwise)


def _host(case: Case) -> Finding | None:
    """The card, where the host itself has lost it: no container can help it."""
    facts = case.facts
    nvml, smi = facts.nvml, facts.nvidia_smi
    if (isinstance(nvml, Nvml) and nvml.gpus) or not _users(case):
        return None
    if isinstance(nvml, Unknown) and isinstance(smi, Command) and not smi.status and "No devices" not in smi.output:
        return None  # one of two did not answer: a busy host
    said = _smi(facts)
    reasons = [
        f"nvidia-smi: {said}" if said else "",
        nvml.reason if isinstance(nvml, Unknown) else "",
        *_xid_lines(case),
    ]
    if nvml is None:
        reasons.append("no NVML library on the host")
    evidence = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    text = f"the host itself has no GPU: {_host_cause(case, evidence)}"
    explains = ["prereqs.gpu", "prereqs.driver", "prereqs.module", "prereqs.nvidia-smi"]
    for name in _users(case):
        explains += _follows(facts, name)
    return Finding(f"{ID}.host", "fail", text, evidence, command(case, ID), SOURCE, explains=tuple(explains))


def _host_cause(case: Case, evidence: str) -> str:
    low = evidence.lower()
    if case.facts.module_version is None:
        return "its driver is not loaded"
    if "is lost" in low or "fallen off the bus" in low or any(code == 79 for code in _xids(case)):
        return "the card fell off the bus"
    if "couldn't communicate" in low or "driver not loaded" in low or "(code 9)" in low:
        return "its driver is not loaded"
    if "no devices" in low or "no answer" in low:
        return "the driver sees no card" if "no devices" in low else "the driver does not come back"
    return "the driver cannot use the card"


def _host_mend(case: Case, finding: Finding) -> str:
    host = case.host
    if "driver is not loaded" in finding.text:
        load = host.ssh("sudo modprobe nvidia && nvidia-smi")
        install = f"invoke prereqs --install --reboot --host {host.name}"
        return f"{load}; if that fails: {install}  (it gets the module that is missing, or says why it is not let in)"
    return f"{host.ssh('sudo reboot')}  (and if the card is not back then, power the host off and on)"


def _xid_lines(case: Case) -> list[str]:
    lines = case.evidence.kernel_log if isinstance(case.evidence.kernel_log, tuple) else ()
    wanted = [line for line in lines if _XID.search(line) or "fallen off the bus" in line]
    return wanted[-2:]


def _xids(case: Case) -> list[int]:
    lines = case.evidence.kernel_log if isinstance(case.evidence.kernel_log, tuple) else ()
    return [int(found[1]) for line in lines if (found := _XID.search(line))]


def _xid_warning(case: Case) -> list[Finding]:
    """The card works now, and the driver has noted that something was wrong with it since the boot."""
    codes = [code for code in _xids(case) if code in XIDS]
    if not codes:
        return []
    times = "once" if len(codes) == 1 else f"{len(codes)} times"
    text = f"the driver has logged Xid {codes[-1]} ({XIDS[codes[-1]]}), {times} since the boot"
    return [
        Finding(f"{ID}.xid", "warn", text, _xid_lines(case)[-1], case.host.ssh("sudo journalctl -k -g NVRM"), SOURCE)
    ]


# ---- the containers


def _users(case: Case) -> list[str]:
    """The services that are to use the card and have a container of ours."""
    names = [name for name in SERVICES if _wants_gpu(case.host, name)]
    found = [(name, foreign.named(case.facts, name)) for name in names]
    return [name for name, c in found if c is not None and foreign.is_ours(case.host, c)]


def _wants_gpu(host: Host, name: str) -> bool:
    configured = host.service(name)
    return isinstance(configured, Comfy | Ollama) and bool(configured.gpus)


def _lost(case: Case) -> list[_Lost]:
    made = [(name, foreign.named(case.facts, name)) for name in _users(case)]
    return [one for name, container in made if container is not None and (one := _look_at(name, container)) is not None]


def _theirs(case: Case) -> list[_Lost]:
    """Of containers that somebody started by hand under a service's name: what a restart or an edit of theirs mends."""
    made = [(name, foreign.named(case.facts, name)) for name in SERVICES if _wants_gpu(case.host, name)]
    hand_made = [(name, c) for name, c in made if c is not None and not foreign.is_ours(case.host, c)]
    found = [_look_at(name, container) for name, container in hand_made]
    return [one for one in found if one is not None and one.kind in ("unasked", "nvml", "unseen", "cpu")]


def _look_at(name: str, container: Container) -> _Lost | None:
    found = _found_in(name, container)
    if found is not None and found.kind in ("nvml", "unseen", "cpu") and not container.gpus:
        return replace(found, kind="unasked")
    return found


def _found_in(name: str, container: Container) -> _Lost | None:
    if container.state in ("created", "exited", "dead", "restarting"):
        error = " ".join(container.error.split())
        if SELECT in error:
            return _Lost(name, "engine", error)
        at = error.find("nvidia-container-cli")  # what stands before it is how Docker came to ask
        if "version mismatch" in error:
            return None
        if at < 0:
            return _at_start(name, container)
        if "unsatisfied condition: cuda" in error:
            return _Lost(name, "cuda", error[at:])
        return _Lost(name, "device" if "unknown device" in error else "refused", error[at:])
    if container.state != "running":
        return None
    cpu = _fell_back(container)
    if cpu:
        return _Lost(name, "cpu", cpu)
    seen = container.gpu_seen
    if isinstance(seen, Command) and not (seen.status == 0 and "GPU 0" in seen.output):
        return _Lost(name, "nvml", f"nvidia-smi inside: {_first(seen.output, f'exit {seen.status}')}")
    return None if isinstance(seen, Command) else _at_start(name, container)


def _at_start(name: str, container: Container) -> _Lost | None:
    """ComfyUI's image looks for the card at every start, and ends where there is none: between two starts its log is
    all that tells."""
    markers = container.log_markers if isinstance(container.log_markers, tuple) else ()
    said = next((line.strip() for line in markers if NOT_SEEN.search(line)), "")
    return _Lost(name, "unseen", f"its log: {said}") if name == "comfy" and said else None


def _fell_back(container: Container) -> str:
    """The line in which Ollama says that it computes on the CPU; "" where one says CUDA."""
    markers = container.log_markers if isinstance(container.log_markers, tuple) else ()
    found = [line for line in markers if "inference compute" in line]
    if any(re.search(r"library=cuda", line, re.IGNORECASE) for line in found):
        return ""
    return next((f"its log: {_short(line)}" for line in found if re.search(r"library=cpu\b", line)), "")


def _short(line: str) -> str:
    found = re.search(r"\binference compute\b.*?library=cpu\b", line)
    return found[0].replace('"', "")[:80] if found else ""


_TEXTS = {
    "engine": "Docker could not give it the card",
    "cuda": "its image wants a newer driver",
    "device": "it asks for a card that is not in this host",
    "refused": "the NVIDIA toolkit refused it",
    "unasked": "it was made without asking for the card",
    "nvml": "it has lost the card",
    "unseen": "it finds no card as it starts",
    "cpu": "it computes on the CPU",
}


def _follows(facts: Facts, name: str) -> list[str]:
    """What else is seen of a service that has no card: all that is said of it while it does not run."""
    container = foreign.named(facts, name)
    if container is not None and service.stopped_by_hand(container):
        return [f"{name}.gpu"]
    if container is not None and container.state == "running" and container.health in ("healthy", None):
        return [f"{name}.gpu"]
    return [f"{name}.*", *(["comfy-first-run.*"] if name == "comfy" else ["openwebui-ollama.*"])]


def _container(case: Case, one: _Lost) -> Finding:
    facts = case.facts
    text = f"{one.name}: {_TEXTS[one.kind]}, while the host has it"
    evidence = one.said
    if one.kind == "nvml" and "NVML" in one.said:
        evidence += f"; a systemctl daemon-reload does this; {PREVENT}"
    if one.kind == "cuda":
        driver = facts.nvml.driver if isinstance(facts.nvml, Nvml) else ""
        text = f"{one.name}: its image wants CUDA {_wanted_cuda(one.said)}, the driver {driver} has {_cuda(facts)}"
        if _version(_wanted_cuda(one.said)) <= _version(_cuda(facts)):
            text = f"{one.name} was refused by an older driver, and has not been started since"
    if one.kind == "device":
        there = ", ".join(f"{gpu.index} {gpu.uuid}" for gpu in facts.nvml.gpus) if isinstance(facts.nvml, Nvml) else ""
        evidence += f"; there is {there}"
    if one.kind == "refused":
        text = f"{one.name} could not be started: {_TEXTS[one.kind]}"
    explains = tuple(_follows(facts, one.name))
    return Finding(f"{ID}.{one.name}", "fail", text, evidence, command(case, ID), SOURCE, explains=explains)


def _engine(case: Case, lost: list[_Lost]) -> Finding:
    facts = case.facts
    names = " and ".join(one.name for one in lost)
    has = case.evidence.engine_has_hook
    snap = facts.docker.snap if isinstance(facts.docker, Docker) else None
    if isinstance(snap, str):
        text, more = f"Docker is the snap, which cannot give {names} the card", snap
    elif facts.hook is None and facts.toolkit is None:
        text, more = f"Docker cannot give {names} the card: the NVIDIA Container Toolkit is not installed", ""
    elif facts.hook is None:
        text = f"Docker cannot give {names} the card: the toolkit's hook is missing"
        version = facts.toolkit if isinstance(facts.toolkit, str) else "not known"
        more = f"toolkit {version}, and no nvidia-container-runtime-hook on PATH"
    elif has is True:
        text, more = (
            f"{names} could not be given the card, and has not been started since",
            "Docker has the toolkit now",
        )
    else:
        text = f"Docker cannot give {names} the card: it was started before the NVIDIA toolkit was there"
        more = f"{facts.hook} is newer than dockerd, which looks for it once"
    evidence = "; ".join(filter(None, (lost[0].said, more)))
    explains = ["prereqs.toolkit", "prereqs.runtime", "prereqs.docker-snap"]
    for one in lost:
        explains += _follows(facts, one.name)
    return Finding(f"{ID}.engine", "fail", text, evidence, command(case, ID), SOURCE, explains=tuple(explains))


# ---- what only a human can do


def _by_hand(case: Case, finding: Finding) -> str:
    """The commands for what is no container's matter; "" for what can be mended here."""
    if finding.id == f"{ID}.host":
        return _host_mend(case, finding)
    if finding.id == f"{ID}.engine":
        return _engine_mend(case)
    for one in _theirs(case):
        if finding.id == f"{ID}.{one.name}":
            return _by_its_owner(case, one)
    lost = next(one for one in _lost(case) if finding.id == f"{ID}.{one.name}")
    if lost.kind == "cuda":
        return _cuda_mend(case, lost)
    if lost.kind == "device":
        path = f"[hosts.{case.host.name}.{lost.name}] gpus"
        return f'in hosts.toml, {path}: "all", or an id from: {case.host.ssh("nvidia-smi -L")}'
    return ""


def _by_its_owner(case: Case, one: _Lost) -> str:
    """What somebody does about a container of his; pantheon leaves it alone."""
    container = foreign.named(case.facts, one.name)
    files = container.compose_files if container else ""
    if one.kind != "unasked":
        return f"it was started by hand, and is left alone; {case.host.ssh(f'docker restart {one.name}')} gives it back"
    if not files:
        return "it was started by hand, and is left alone: start it again with --gpus all"
    device = "driver: nvidia, count: all, capabilities: [gpu]"
    where = f"in {files} on {case.host.name}"
    return f"{where}: deploy.resources.reservations.devices: [{{{device}}}]; then docker compose up -d there"


def _engine_mend(case: Case) -> str:
    """The command that installs what is missing; "" where Docker only has to be started again. What a package has
    lost, and apt thinks there, comes back by its being installed again."""
    facts, install = case.facts, "invoke prereqs --install"
    if isinstance(facts.docker, Docker) and isinstance(facts.docker.snap, str):
        return f"{install} --remove-snap --host {case.host.name}"
    if facts.hook is not None:
        return ""
    if facts.toolkit is None:
        return f"{install} --host {case.host.name}"
    packages = "nvidia-container-toolkit nvidia-container-toolkit-base"
    return case.host.ssh(f"sudo apt-get install --reinstall -y {packages} && sudo systemctl restart docker")


def _wanted_cuda(said: str) -> str:
    found = re.search(r"unsatisfied condition: cuda ?>=? ?(\d+(?:\.\d+)*)", said)
    return found[1] if found else ""


def _cuda(facts: Facts) -> str:
    return facts.nvml.cuda if isinstance(facts.nvml, Nvml) else ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _cuda_mend(case: Case, lost: _Lost) -> str:
    """The newest image that this driver takes, and the line of hosts.toml that names it. "" where the driver has been
    upgraded since: then it only has to be started."""
    host, has, wanted = case.host, _cuda(case.facts), _wanted_cuda(lost.said)
    if wanted and _version(wanted) <= _version(has):
        return ""
    configured = host.service(lost.name)
    fitting = [cuda for cuda in COMFY_CUDA if _version(cuda) <= _version(has)]
    driver = COMFY_CUDA.get(wanted)
    newer = f"or a driver {f'>= {driver}' if driver else f'for CUDA {wanted}'} on the host, and a reboot"
    if not isinstance(configured, Comfy) or not fitting:
        return f"in hosts.toml, [hosts.{host.name}.{lost.name}] image: one for CUDA {has} or older; {newer}"
    repository = re.split(r"[:@]", configured.image.rpartition("/")[2])[0]
    prefix = configured.image.rpartition("/")[0]
    image = f"{prefix}/{repository}:ubuntu24_cuda{fitting[-1]}-latest".removeprefix("/")
    line = f'[hosts.{host.name}.comfy] image = "{image}"'
    return f"in hosts.toml: {line}, then invoke comfy --host {host.name}; {newer}"


# ---- what is done


def _restart_docker(case: Case, names: list[str]) -> Change:
    host, facts = case.host, case.facts
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    up = [c for c in containers if c.state in ("running", "restarting", "paused")]
    ours = tuple(name for name in SERVICES if any(c.name == name and foreign.is_ours(host, c) for c in up))
    others = [shlex.quote(c.name) for c in up if c.name not in ours]
    and_others = f" (and {', '.join(others)}, not ours, too)" if others else ""
    starts = tuple(service.start(host, facts, name) for name in names)
    steps = (Run(("systemctl", "restart", "docker"), timeout_s=300), *starts)
    what = f"restart docker{and_others}, start {' and '.join(names)}"
    return Change(what, "dockerd looks for the toolkit once, when it starts", steps, stops=ours)


def _stopped_by(changes: list[Change]) -> list[str]:
    return [name for change in changes for name in change.stops]
