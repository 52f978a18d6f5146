"""A service on its way up, as the frames of a watch (pantheon.probe) tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pantheon import advice, firstrun
from pantheon.inventory import Host

# Answers 200 on the host's loopback once the service can be used.
READY_PATHS = {"comfy": "/system_stats", "ollama": "/api/version", "openwebui": "/ready"}
INSIDE = {"comfy": "8188/tcp", "ollama": "11434/tcp", "openwebui": "8080/tcp"}  # its port in the container


@dataclass(frozen=True)
class Watched:
    """One service while it comes up. `trouble` says why it cannot; `mend` the command to type next."""

    state: str = "starting"
    ready: bool = False
    trouble: str = ""
    mend: str = ""
    progress: firstrun.Progress = field(default_factory=firstrun.Progress)
    restarts: int | None = None  # how many there had been when the watch began
    last: str = ""  # the newest line of its log


def ready_url(host: Host, name: str) -> str:
    """The loopback URL on the host that answers 200 once the service can be used."""
    return f"http://127.0.0.1:{host.service(name).port}{READY_PATHS[name]}"


def follow(name: str, watched: Watched, frame: dict[str, Any], *, late: bool) -> Watched:
    """One service after one frame of the watch (pantheon.probe)."""
    container = frame.get("containers", {}).get(name) or {}
    if "unknown" in container:  # the engine does not answer at the moment, which says nothing about the service
        return watched
    state, health = container.get("state", "missing"), container.get("health")
    restarts = int(container.get("restarts") or 0)
    base = restarts if watched.restarts is None else watched.restarts
    lines = [line for line in container.get("log", ()) if line.strip()]
    last = lines[-1] if lines else watched.last
    progress = watched.progress
    if name == "comfy":
        for line in lines:
            progress = firstrun.follow(progress, line)
    status = frame.get("http", {}).get(name)
    answered = status == 200 or (name == "openwebui" and status == 404)  # before it had /ready; its health counts then
    ready = state == "running" and answered and health in ("healthy", None)
    words = _last_words(container)
    fatal = progress if progress.fatal or name != "comfy" else firstrun.read(words)
    trouble, reason, mend = "", words[-1] if words else last, f"invoke {name}"
    # What it died of is worth a moment: Docker waits longer before each next start.
    enough = base + (2 if words or "words" not in container else 4)
    if (state == "restarting" and restarts >= enough) or (restarts >= base + 5 and not ready):
        trouble = f"it restarts over and over ({restarts} times, last exit code {container.get('exit_code')})"
    elif state in ("exited", "dead", "missing"):
        trouble = (
            f"its container is {state}, exit code {container.get('exit_code')} {container.get('error') or ''}".rstrip()
        )
    elif name != "comfy" and ((state == "running" and health == "unhealthy") or late) and not ready:
        # Docker calls a container that has just died unhealthy too; that is a restart, and counted as one.
        trouble, reason = "it runs but does not get healthy", last
    if progress.fatal or (trouble and fatal.fatal):
        trouble, mend = fatal.fatal, fatal.mend
    elif trouble:
        named = advice.entry([*lines, last, *words, str(container.get("error") or "")])
        mend = f"invoke fix.{named}" if named else "invoke diagnose"
        trouble += f": {reason}" if reason else ""
    label = "ready" if ready else state if state == "restarting" else health or state
    return Watched(label, ready, trouble, mend, progress, base, last)


# ---- one that does not answer at the end of a tunnel


@dataclass(frozen=True)
class Words:
    """What can be said of it, and the command to type when it does not mend itself. No text: nothing is known. `well`:
    nothing is wrong with its container."""

    text: str = ""
    mend: str = ""
    well: bool = False


@dataclass(frozen=True)
class Published:
    """Where a container's port is published: `here` on 127.0.0.1, `beyond` where others on the network can reach it,
    `aside` on loopback, but not there (address:port)."""

    here: tuple[int, ...] = ()
    beyond: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()


def _last_words(container: dict[str, Any]) -> list[str]:
    """What it said before its newest end. The stream of its log may not have come that far, or be in its next start."""
    return [line for line in container.get("words", ()) if line.strip()]


def published(name: str, frame: dict[str, Any]) -> Published | None:
    """Of the service's own port, while its container runs. None: not known, or it does not run."""
    container = frame.get("containers", {}).get(name) or {}
    if container.get("state") != "running" or "ports" not in container:
        return None
    places = [
        (p["address"], p["port"]) for p in container["ports"] if p["container_port"] == INSIDE[name] and p["port"]
    ]
    here = {port for address, port in places if address in ("127.0.0.1", "0.0.0.0", "")}  # noqa: S104
    others: dict[bool, list[str]] = {True: [], False: []}
    for address, port in places:
        text = f"[{address}]:{port}" if ":" in address else f"{address or '*'}:{port}"
        others[address.startswith("127.") or address == "::1"] += [text] if address != "127.0.0.1" else []
    return Published(tuple(sorted(here)), tuple(others[False]), tuple(others[True]))


def in_words(host: Host, name: str, watched: Watched, frame: dict[str, Any]) -> Words:
    """Why it does not answer, after `frame`. Words without a command to type are about what ends by itself."""
    containers = frame.get("containers", {})
    if name not in containers:
        return Words()
    container, here = containers[name], f"--host {host.name}"
    if container is None:
        return Words(f"its container is missing (none is named {name})", f"invoke {name} {here}")
    if "unknown" in container:
        return Words(f"the Docker engine does not answer: {container['unknown']}", f"invoke fix.docker-down {here}")
    said = [*_last_words(container)[-1:], watched.last, str(container.get("error") or "")]
    if container.get("state") == "running":
        said = said[-2:]
    last = next((f": {line}" for line in said if line), "")
    named = advice.entry(said)
    mend = f"invoke fix.{named} {here}" if named else f"invoke diagnose {here}"
    state, code, progress = container.get("state"), container.get("exit_code"), watched.progress
    if progress.fatal:
        typed = progress.mend if "runbook" in progress.mend else f"{progress.mend} {here}"
        return Words(f"cannot start: {progress.fatal}", typed)
    if state == "restarting":
        often = "over and over " if int(container.get("restarts") or 0) > 1 else ""
        return Words(f"restarts {often}(exit code {code}){last}", mend)
    if state in ("exited", "dead"):
        return Words(f"its container is stopped (exit code {code}){last if code not in (0, 143) else ''}", mend)
    if state != "running":
        return Words(f"its container is {state}", f"invoke diagnose {here}")
    return _running(name, watched, container, mend, last)


def _running(name: str, watched: Watched, container: dict[str, Any], mend: str, last: str) -> Words:
    progress, health = watched.progress, container.get("health")
    if name == "comfy" and progress.stage and not progress.ready:
        return Words(f"{progress.stage}/{len(firstrun.STAGES)} {progress.label}")
    if health == "starting":
        return Words("starting")
    if health == "unhealthy":
        return Words(f"runs, and is not healthy{last}", mend)
    if not container.get("ports"):
        return Words("runs, publishes no port, and does not answer", mend)
    text = "runs, healthy, and does not answer (busy?)" if health else "runs, and does not answer (busy?)"
    return Words(text, mend, well=True)
