"""Section 8, the validation checklist, judged on one look from the host and one request for each service from here."""

from __future__ import annotations

from collections.abc import Mapping

from pantheon import advice, foreign, service
from pantheon.facts import Command, Container, Facts, Http, Port, Unknown
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host

NAME = "validate"
SOURCE = "procedure §8"

OWNERSHIP_ERRORS = ("owned by unexpected user/group", "MUST be running as UID", "!! ERROR: ")
STARTED = "Starting server"


def check(host: Host, facts: Facts, here: Mapping[str, Http | Unknown | None]) -> list[Finding]:
    """The checklist. `here` holds each service's answer to a request that came from the workstation."""
    findings: list[Finding] = []
    for name in SERVICES:
        findings += service.check(host, facts, name)
    for name in SERVICES:
        there, ask = facts.http.get(name), advice.command(host.name)
        findings.append(_http(f"{name}.http", f"{name} answers on the host", there, ask))
        if isinstance(there, Http) and there.status == 200:  # then it is the way that is broken
            ask = advice.fix(host.name, "browser-access")
        findings.append(_http(f"{name}.http-here", f"{name} answers through SSH", here.get(name), ask))
    findings += [_log_errors(host, facts), _log_started(host, facts)]
    findings += [_gpu(host, facts, name) for name in ("comfy", "ollama")]
    findings.append(_loopback(host, facts))
    return findings


def _http(key: str, text: str, answer: Http | Unknown | None, mend: str) -> Finding:
    if answer is None or isinstance(answer, Unknown):
        reason = answer.reason if isinstance(answer, Unknown) else "not asked"
        return Finding(key, "unknown", f"{text}: not known", reason, source=SOURCE)
    got = f"{answer.status} {answer.reason}".strip() if answer.status else answer.error
    if answer.status == 200:
        return Finding(key, "ok", text, f"{answer.url}: {got}", source=SOURCE)
    text = text if answer.status else text.replace(" answers ", " does not answer ")
    return Finding(key, "fail", f"{text}: {got}", answer.url, mend, SOURCE)


def _log_errors(host: Host, facts: Facts) -> Finding:
    key, good = "comfy.log-errors", "ComfyUI's log has no UID/GID error since its start"
    container = foreign.named(facts, "comfy")
    if container is None:
        return Finding(key, "unknown", "ComfyUI's log: not known", _no_container(facts), source=SOURCE)
    markers = container.log_markers
    if not isinstance(markers, tuple):
        reason = markers.reason if isinstance(markers, Unknown) else "no log"
        return Finding(key, "unknown", "ComfyUI's log: not known", reason, source=SOURCE)
    errors = [line for line in markers if any(pattern in line for pattern in OWNERSHIP_ERRORS)]
    if errors:
        return Finding(
            key,
            "fail",
            "ComfyUI's log has errors since its start",
            errors[0],
            advice.command(host.name, errors),
            SOURCE,
        )
    return Finding(key, "ok", good, source=SOURCE)


def _log_started(host: Host, facts: Facts) -> Finding:
    key = "comfy.log-started"
    container = foreign.named(facts, "comfy")
    markers = container.log_markers if container else None
    if isinstance(markers, tuple) and any(STARTED in line for line in markers):
        return Finding(key, "ok", f'ComfyUI\'s log says "{STARTED}"', source=SOURCE)
    if container is None:
        text = f'whether ComfyUI\'s log says "{STARTED}": not known'
        return Finding(key, "unknown", text, _no_container(facts), source=SOURCE)
    answer = facts.http.get("comfy")
    answered = isinstance(answer, Http) and answer.status == 200
    if not container.log_complete and answered:
        # Rotated away: the log cannot say, and the HTTP answer is the evidence.
        return Finding(
            key, "warn", f'"{STARTED}" is rotated out of ComfyUI\'s log', "200 OK is the evidence", source=SOURCE
        )
    if not isinstance(markers, tuple):
        reason = markers.reason if isinstance(markers, Unknown) else "no log"
        return Finding(key, "unknown", f'whether ComfyUI\'s log says "{STARTED}": not known', reason, source=SOURCE)
    return Finding(
        key, "fail", f'ComfyUI\'s log does not say "{STARTED}"', "", f"invoke comfy --host {host.name}", SOURCE
    )


def _no_container(facts: Facts) -> str:
    """Why a container is not at hand: the engine may just not have answered."""
    return facts.containers.reason if isinstance(facts.containers, Unknown) else "no container"


def _gpu(host: Host, facts: Facts, name: str) -> Finding:
    key = f"{name}.gpu"
    container = foreign.named(facts, name)
    seen = container.gpu_seen if container else None
    if _fell_back(container):
        evidence = "its log says library=cpu, and nothing of CUDA"
        return Finding(key, "fail", f"{name} computes on the CPU", evidence, _gpu_mend(host), SOURCE)
    if isinstance(seen, Command) and seen.status == 0 and "GPU 0" in seen.output:
        return Finding(key, "ok", f"{name} sees the GPU", seen.output.splitlines()[0].split(" (UUID")[0], source=SOURCE)
    if isinstance(seen, Command):
        said = (seen.output.strip().splitlines() or [f"exit {seen.status}"])[0]
        text, evidence = f"{name} does not see the GPU", f"nvidia-smi inside: {said}"
        return Finding(key, "fail", text, evidence, _gpu_mend(host, said), SOURCE)
    if container is None:
        reason = _no_container(facts)
    else:
        reason = seen.reason if isinstance(seen, Unknown) else "the container does not run"
    return Finding(key, "unknown", f"whether {name} sees the GPU: not known", reason, source=SOURCE)


def _gpu_mend(host: Host, said: str = "") -> str:
    """The entry that tells apart what keeps the card from a container; a driver at odds with itself is another's."""
    entry = "driver-mismatch" if "version mismatch" in said else "gpu-lost"
    return f"invoke fix.{entry} --host {host.name}"


def _fell_back(container: Container | None) -> bool:
    """Ollama falls back to the CPU in silence; only its log says so (DOMAIN.md)."""
    markers = container.log_markers if container else None
    found = [line for line in markers if "inference compute" in line] if isinstance(markers, tuple) else []
    return any("library=cpu" in line for line in found) and not any("library=CUDA" in line for line in found)


def _loopback(host: Host, facts: Facts) -> Finding:
    """Nothing of the stack may listen beyond loopback (§5): neither a port nor a process of its containers."""
    key, good = "stack.loopback", "nothing of the stack listens beyond loopback"
    if not isinstance(facts.listeners, tuple) or not isinstance(facts.containers, tuple):
        reasons = [v.reason for v in (facts.listeners, facts.containers) if isinstance(v, Unknown)]
        return Finding(key, "unknown", f"whether {good}: not known", "; ".join(reasons), source="procedure §5")
    kept = foreign.kept(facts)
    concerned = [c for c in facts.containers if c.id not in kept]
    mine = {c.name: c for c in concerned if c.name in SERVICES or _is_of_the_stack(host, c)}
    open_ports = [f"{c.name} {port.address or '*'}:{port.port}" for c in mine.values() for port in _exposed(c)]
    ours = {host.service(name).port for name in SERVICES}
    for listener in facts.listeners:
        if _beyond(listener.address) and (listener.container in mine or listener.port in ours):
            open_ports.append(
                f"{listener.container or listener.process or 'a process'} {listener.address}:{listener.port}"
            )
    if not open_ports:
        return Finding(key, "ok", good, source="procedure §5")
    return Finding(
        key,
        "fail",
        "the stack listens beyond loopback",
        ", ".join(dict.fromkeys(open_ports)),
        f"invoke fix.exposed-ports --host {host.name}",
        "procedure §5",
    )


def _is_of_the_stack(host: Host, container: Container) -> bool:
    """Ours, or one of its programs that somebody started by hand under whatever name."""
    return foreign.is_ours(host, container) or foreign.repository(container.image) in foreign.REPOSITORIES


def _exposed(container: Container) -> list[Port]:
    return [port for port in container.ports if _beyond(port.address)]


def _beyond(address: str) -> bool:
    return not (address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1"))
