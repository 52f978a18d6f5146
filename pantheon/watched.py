"""A service on its way up, as the frames of a watch (pantheon.probe) tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pantheon import advice, firstrun
from pantheon.inventory import Host

# Answers 200 on the host's loopback once the service can be used.
READY_PATHS = {"comfy": "/system_stats", "ollama": "/api/version", "openwebui": "/ready"}


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
    trouble, mend = "", f"invoke {name}"
    if progress.fatal:
        trouble, mend = progress.fatal, progress.mend
    elif (state == "restarting" and restarts >= base + 2) or (restarts >= base + 5 and not ready):
        # Between two starts the newest line of the log is what it died of.
        trouble = f"it restarts over and over ({restarts} times, last exit code {container.get('exit_code')})"
    elif state in ("exited", "dead", "missing"):
        trouble = (
            f"its container is {state}, exit code {container.get('exit_code')} {container.get('error') or ''}".rstrip()
        )
    elif name != "comfy" and ((state == "running" and health == "unhealthy") or late) and not ready:
        # Docker calls a container that has just died unhealthy too; that is a restart, and counted as one.
        trouble = "it runs but does not get healthy"
    if trouble and not progress.fatal:
        named = advice.entry([*lines, last, str(container.get("error") or "")])
        mend = f"invoke fix.{named}" if named else "invoke diagnose"
        trouble += f": {last}" if last else ""
    label = "ready" if ready else state if state == "restarting" else health or state
    return Watched(label, ready, trouble, mend, progress, base, last)
