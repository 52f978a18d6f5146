"""Docker's engine is stopped, cannot start, hangs, or came back without the containers that had been up."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

from pantheon import foreign
from pantheon.evidence import Kept, Unit
from pantheon.facts import Command, Container, Docker, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import Change, Mend, Run, SectionPlan

ID = "docker-down"
CAUSE = (
    "Docker's engine is stopped, was given a configuration that it cannot read, lost containerd under it, or died and "
    "came back without its containers."
)
RISK = (
    "An engine that is stopped holds nothing that could be stopped. Containers that run on are left alone, unless the "
    "engine hangs or has lost hold of them: it is restarted then, and every container with it, for up to three "
    "minutes. No configuration, image, volume or container is changed or removed."
)

JSON_FILE = "/etc/docker/daemon.json"
# What the engine finds wrong between its command line and the file, which `dockerd --validate` cannot know.
TWICE = re.compile(r"specified both as a flag and in the configuration file: ([\w-]+)")
START_S, RESTART_S, ANSWER_S = 150, 300, 60  # a stop waits for the longest of its containers
GRACE = timedelta(seconds=1)  # systemd's times are whole seconds
CONSEQUENCES = (
    *("prereqs.docker", "prereqs.compose", "prereqs.runtime", "stack.containers", "stack.loopback"),
    *("storage.docker-room", "storage.nvme-room", "storage.ssd-room"),
    *(f"{name}.*" for name in SERVICES),
    *("gpu-lost.*", "openwebui-ollama.*", "browser-access.*", "comfy-first-run.*", "wrong-version-number.*"),
)


def diagnose(case: Case) -> list[Finding]:
    docker = case.facts.docker
    if not isinstance(docker, Docker) or isinstance(docker.snap, str):
        return []  # the prerequisites speak of these
    if isinstance(docker.engine, str):
        return _without_containerd(case) or [*_left_behind(case), *_lost(case), *_at_boot(case)]
    return [_down(case, docker)]


# ---- the engine does not answer


def _down(case: Case, docker: Docker) -> Finding:
    reason = docker.engine.reason if isinstance(docker.engine, Unknown) else "no word of the engine"
    unit = _unit(case, "docker.service")
    key, mend = f"{ID}.engine", command(case, ID)
    if unit is None:
        why = _why_no_unit(case)
        text = "Docker's engine does not answer"
        return Finding(key, "fail", text, f"{reason}; {why}", mend, "procedure §2", CONSEQUENCES)
    state = f"docker.service: {unit.active} ({unit.sub})" + (f", result {unit.result}" if unit.result else "")
    state += f", since {unit.since}" if unit.since else ""
    if unit.active == "active" and "no answer" in reason:
        text = "Docker's engine runs and does not answer"
        return Finding(f"{ID}.hangs", "fail", text, f"{reason}; {state}", mend, "procedure §2", CONSEQUENCES)
    if unit.active == "active" and "No such file" in reason:  # it is active once it listens
        text = "Docker's engine runs, and somebody has taken its socket away"
        return Finding(f"{ID}.socket", "fail", text, f"{reason}; {state}", mend, "procedure §2", CONSEQUENCES)
    if unit.active in ("active", "activating", "reloading") and not _cannot_start(case, unit):
        text = "Docker's engine is just starting"
        return Finding(key, "unknown", text, f"{reason}; {state}", "look again in a moment: invoke diagnose")
    text, more = _why_down(case, unit)
    evidence = "; ".join(part for part in (reason, state, *more) if part)
    return Finding(key, "fail", text, evidence, mend, "procedure §2", CONSEQUENCES)


def _cannot_start(case: Case, unit: Unit) -> bool:
    """systemd says activating between two attempts of an engine that dies at once."""
    return unit.active == "activating" and bool(unit.restarts or _config_error(case) or _last_words(case))


def _why_down(case: Case, unit: Unit) -> tuple[str, list[str]]:
    if error := _config_error(case):
        return f"Docker's engine does not start: {JSON_FILE} is not valid", [error, *_last_words(case)[-1:]]
    masked = _masked(case)
    if masked:
        return f"Docker's engine is stopped, and {masked[0]} is masked", []
    contained = _unit(case, "containerd.service")
    words = _last_words(case)
    if contained is not None and contained.active not in ("active", "activating"):
        said = f"containerd.service: {contained.active} ({contained.sub}), since {contained.since}"
        return "Docker's engine does not run, nor does containerd under it", [said, *words[-1:]]
    if words and (unit.active in ("failed", "activating") or unit.result not in ("", "success")):
        return "Docker's engine does not start", words[-2:]
    if unit.active == "failed":
        limit = " (systemd gave up: too many starts in a minute)" if "start-limit" in unit.result else ""
        return f"Docker's engine does not start{limit}", []
    return "Docker's engine is stopped", []


def _last_words(case: Case) -> list[str]:
    """The engine's own; systemd's only where there are none."""
    log = case.evidence.engine_log if isinstance(case.evidence.engine_log, tuple) else ()
    lines = [line for line in dict.fromkeys(log) if "docker.service:" not in line]
    own = [line for line in lines if "failed to start docker.service" not in line.lower()]
    return (own or lines)[-3:]


def _config_error(case: Case) -> str:
    """What is wrong in daemon.json, with its line; "" when nothing is, or nobody knows."""
    checked = case.evidence.engine_config
    if not isinstance(checked, Command) or checked.status == 0:
        return _said_twice(case)
    said = " ".join(checked.output.split())
    if "daemon" not in said and "config" not in said:
        return ""  # not a word about the file: dockerd itself could not be run
    where = _line_of(case, said)
    return f"{said}{f' ({where})' if where else ''}"


def _said_twice(case: Case) -> str:
    """A setting that the unit's command line has too, as long as the file still has it."""
    docker = case.facts.docker
    text = docker.daemon_json if isinstance(docker, Docker) and isinstance(docker.daemon_json, str) else ""
    for line in reversed(_last_words(case)):
        found = TWICE.search(line)
        if found and f'"{found[1]}"' in text:
            where = _line_of(case, f":{found[1]}")
            return f"{line}{f' ({where})' if where else ''}"
    return ""


def _line_of(case: Case, said: str) -> str:
    docker = case.facts.docker
    text = docker.daemon_json if isinstance(docker, Docker) else None
    if not isinstance(text, str):
        return ""
    lines = text.splitlines()
    try:
        json.loads(text)
    except ValueError as error:
        number = int(getattr(error, "lineno", 0))
        shown = lines[number - 1].strip()[:80] if 0 < number <= len(lines) else ""
        if shown[:1] in ("}", "]") and number > 1:  # a comma too many stands in the line above
            shown += f" after {lines[number - 2].strip()[:80]}"
        return f"line {number}, column {getattr(error, 'colno', 0)}: {shown}"
    # Valid JSON with something in it that the engine does not know: it names the key.
    for name in re.findall(r"[\w-]+", said.rpartition(":")[2]):
        for number, line in enumerate(lines, 1):
            if f'"{name}"' in line:
                return f"line {number}: {line.strip()[:80]}"
    return ""


def _masked(case: Case) -> list[str]:
    names = ("docker.service", "docker.socket", "containerd.service")
    return [name for name in names if (unit := _unit(case, name)) is not None and unit.enabled.startswith("masked")]


def _unit(case: Case, name: str) -> Unit | None:
    found = case.evidence.units.get(name)
    return found if isinstance(found, Unit) else None


def _why_no_unit(case: Case) -> str:
    found = case.evidence.units.get("docker.service")
    return found.reason if isinstance(found, Unknown) else "there is no docker.service"


# ---- the engine answers, and something under it does not


def _without_containerd(case: Case) -> list[Finding]:
    """containerd stopped under an engine that runs on: it lists containers, and can start, stop or enter none."""
    unit = _unit(case, "containerd.service")
    if unit is None:
        return []
    runs = unit.active in ("active", "reloading")
    signs = [value.reason for value in case.facts.images.values() if isinstance(value, Unknown)]
    for container in _ours(case):
        seen = container.gpu_seen
        # An error is of the container's last start: it tells nothing of a containerd that runs by now.
        signs += [seen.output if isinstance(seen, Command) and seen.status else "", "" if runs else container.error]
    mark = "containerd.sock" if runs else "containerd"
    said = next((" ".join(sign.split()) for sign in signs if mark in sign), "")
    if not said:
        return []  # this engine has a containerd of its own
    text = "containerd does not answer Docker's engine" if runs else "containerd is stopped under Docker's engine"
    evidence = f"containerd.service: {unit.active} ({unit.sub}), since {unit.since}; {said[:300]}"
    mend = command(case, ID)
    # What is said of a container cannot be trusted then: not even what its image sets by itself can be read.
    explains = (*CONSEQUENCES, "openwebui-logins.*")
    return [Finding(f"{ID}.containerd", "fail", text, evidence, mend, "procedure §2", explains)]


def _lost(case: Case) -> list[Finding]:
    """Containers that the engine shows as up and that have no process: what held them (containerd's shims) was killed,
    and the engine was not told. It can neither enter, stop nor restart them."""
    kept = case.evidence.kept if isinstance(case.evidence.kept, tuple) else ()
    gone = {one.name for one in kept if one.gone}
    # In a restart loop a process may have ended a moment ago, and a busy engine is late to notice.
    steady = [c for c in _ours(case) if not (c.restarts and c.health == "starting")]
    names = [c.name for c in steady if c.name in gone and c.state in ("running", "paused")]
    if not names:
        return []
    text = f"Docker shows {', '.join(names)} as up, and no process of {'them is' if len(names) > 1 else 'it is'} there"
    evidence = "its process has ended without the engine's notice, as when containerd is killed with all that it holds"
    explains = (
        *(f"{name}.*" for name in names),
        *("gpu-lost.*", "openwebui-ollama.*", "openwebui-logins.*", "browser-access.*", "comfy-first-run.*"),
        *("wrong-version-number.*", "out-of-memory.*", "stack.loopback", "openwebui.*"),
    )
    return [Finding(f"{ID}.lost", "fail", text, evidence, command(case, ID), "procedure §2", explains)]


def _at_boot(case: Case) -> list[Finding]:
    unit, listener = _unit(case, "docker.service"), _unit(case, "docker.socket")
    if unit is None or unit.enabled != "disabled" or (listener is not None and listener.enabled == "enabled"):
        return []
    mend = case.host.ssh("sudo systemctl enable docker.service")
    return [Finding(f"{ID}.boot", "warn", "Docker's engine is not started at boot", "it is disabled", mend)]


def _left_behind(case: Case) -> list[Finding]:
    """Our containers that the engine ended while it was starting, after a death of its own: nobody can have stopped
    them, since nobody could talk to it then."""
    down = _fallen(case)
    if not down:
        return []
    unit = _unit(case, "docker.service")
    assert unit is not None
    names = ", ".join(container.name for container in down)
    text = f"Docker's engine died and came back at {unit.since} without {names}"
    ended = "; ".join(f"{c.name} ended {c.finished_at[:19]}Z, exit code {c.exit_code}" for c in down)
    evidence = f"{ended}, while the engine was starting ({unit.started} to {unit.since})"
    explains = (
        *(f"{container.name}.*" for container in down),
        *("gpu-lost.*", "openwebui-ollama.*", "browser-access.*", "comfy-first-run.*", "out-of-memory.*"),
        *("stack.loopback", "openwebui.*"),
    )
    return [Finding(f"{ID}.left-behind", "fail", text, evidence, command(case, ID), "procedure §8", explains)]


def _fallen(case: Case) -> list[Container]:
    unit = _unit(case, "docker.service")
    began, up = (
        (_time(unit.started), _time(unit.since)) if unit is not None and unit.active == "active" else (None, None)
    )
    if began is None or up is None:
        return []
    return [
        container
        for container in _ours(case)
        if container.state == "exited"
        and container.restart_policy in ("unless-stopped", "always")
        and not container.error
        and (ended := _time(container.finished_at)) is not None
        and began - GRACE <= ended <= up + GRACE
    ]


def _time(text: str) -> datetime | None:
    """Docker's or systemd's time (UTC), to the second."""
    try:
        return datetime.fromisoformat(text[:19])
    except ValueError:
        return None


def _ours(case: Case) -> list[Container]:
    found = case.facts.containers
    return [c for c in found if foreign.is_ours(case.host, c)] if isinstance(found, tuple) else []


# ---- what mends it


def plan(case: Case) -> SectionPlan:
    wrong = [finding for finding in diagnose(case) if finding.level == "fail"]
    if not wrong:
        return SectionPlan(ID, reason="Docker's engine answers, and has its containers")
    blocked = _blocked(case)
    if blocked:
        return SectionPlan(ID, blocked=blocked)
    names = _wanted(case)
    services = tuple(name for name in SERVICES if names is None or name in names)
    changes: list[Change] = []
    for finding in wrong:
        if finding.id == f"{ID}.hangs":
            step = Run(("systemctl", "restart", "docker.service"), timeout_s=RESTART_S)
            changes.append(Change("restart Docker's engine", "it runs and does not answer", (step,), stops=services))
        elif finding.id == f"{ID}.socket":
            units = [name for name in ("docker.socket", "docker.service") if _is_there(case, name)]
            step = Run(("systemctl", "restart", *units), timeout_s=RESTART_S)
            changes.append(Change("restart Docker's engine", "that makes its socket anew", (step,), stops=services))
        elif finding.id == f"{ID}.engine":
            changes.append(_start(case))
        elif finding.id == f"{ID}.lost":
            step = Run(("systemctl", "restart", "docker.service"), timeout_s=RESTART_S)
            why = f"it has lost hold of its containers{_others(case)}"
            changes.append(Change("restart Docker's engine", why, (step,), stops=services))
        elif finding.id == f"{ID}.containerd":
            verb = "restart" if "does not answer" in finding.text else "start"
            step = Run(("systemctl", verb, "containerd.service"), timeout_s=START_S)
            changes.append(Change(f"{verb} containerd", finding.text, (step,)))
    if names is None or names:
        changes.append(_bring_back(case, names))
    return SectionPlan(ID, tuple(changes), starts=services)


def _others(case: Case) -> str:
    """Containers of somebody else's that a restart of the engine concerns."""
    found = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    up = [c for c in found if c.state == "running" and not foreign.is_ours(case.host, c)]
    return f"; {', '.join(c.name for c in up)}, which is not pantheon's, is restarted with it" if up else ""


def _start(case: Case) -> Change:
    units = [name for name in ("docker.service", "docker.socket", "containerd.service") if _is_there(case, name)]
    failed = [name for name in units if (unit := _unit(case, name)) is not None and unit.active == "failed"]
    given_up = [name for name in units if (unit := _unit(case, name)) is not None and "start-limit" in unit.result]
    reset = tuple(dict.fromkeys([*failed, *given_up]))
    steps = [Run(("systemctl", "reset-failed", *reset))] if reset else []
    first = [name for name in ("containerd.service", "docker.socket", "docker.service") if name in units]
    steps.append(Run(("systemctl", "start", *first), timeout_s=START_S))
    return Change("start Docker's engine", "it does not run (§2)", tuple(steps))


def _is_there(case: Case, name: str) -> bool:
    return case.evidence.units.get(name) is not None or name == "docker.service"


def _bring_back(case: Case, names: list[str] | None) -> Change:
    """The containers that had been up: the engine itself brings back what it shut down in good order, and leaves alone
    what it found dead."""
    arguments: dict[str, object] = {"project": case.host.project, "names": names, "deadline_s": ANSWER_S}
    who = ", ".join(names) if names is not None else f"the containers of {case.host.project}"
    says = f"wait for the engine, then start what is not up of {who}"
    why = "they were up, and are to be up again (§5)"
    return Change(f"bring back {who}", why, (Mend("start_stack", arguments, says, timeout_s=START_S + 240),))


def _wanted(case: Case) -> list[str] | None:
    """Our containers that were up and were not stopped by hand. None: while the engine is down nobody knows."""
    if isinstance(case.facts.containers, tuple):
        up = [c.name for c in _ours(case) if c.state in ("running", "restarting", "paused")]
        return [*up, *(c.name for c in _fallen(case))]
    kept = case.evidence.kept
    if not isinstance(kept, tuple):
        return None
    return [one.name for one in kept if _should_run(case, one)]


def _should_run(case: Case, one: Kept) -> bool:
    mine = one.project == case.host.project and one.name in SERVICES
    return mine and not one.stopped and one.policy in ("unless-stopped", "always")


def _blocked(case: Case) -> tuple[Finding, ...]:
    """What only a human can put right: nothing of Docker's configuration is pantheon's."""
    host, then = case.host, command(case, ID)
    if isinstance(case.facts.docker, Docker) and isinstance(case.facts.docker.engine, str):
        masked = [name for name in _masked(case) if name == "containerd.service"]
    else:
        if error := _config_error(case):
            check = f"sudo dockerd --validate --config-file {JSON_FILE}"
            mend = f"on the host: sudoedit {JSON_FILE}, until `{check}` says OK; then {then}"
            text = f"{JSON_FILE} must be corrected by hand: it is not pantheon's"
            return (Finding(f"{ID}.config", "fail", text, error, mend),)
        if _unit(case, "docker.service") is None:
            look = host.ssh("systemctl status docker.service")
            text = "how Docker's engine is started on this host is not known"
            return (Finding(f"{ID}.unit", "fail", text, _why_no_unit(case), f"{look}; start it as it was meant to be"),)
        masked = _masked(case)
    if masked:
        units = " ".join(masked)
        mend = f"{host.ssh(f'sudo systemctl unmask {units}')}, if that was not on purpose; then {then}"
        return (Finding(f"{ID}.masked", "fail", f"{units}: somebody masked it, and knows why", "", mend),)
    return ()
