"""A plan, applied: its steps go to the runner on the host in one exec, under one lock."""

from __future__ import annotations

import getpass
import os
import platform
import secrets
from collections.abc import Callable
from typing import Any

from pantheon import __version__, advice
from pantheon.errors import ApplyError, HostChanged, Locked, StepFailed
from pantheon.inventory import Host
from pantheon.plan import Change, Plan, Step, step_data
from pantheon.remote.connection import HostConnection
from pantheon.remote.session import run_module

RUNNER = "pantheon.runner"
MARGIN_S = 120.0

Listener = Callable[[dict[str, Any]], None]


def who() -> str:
    """Who is at this end, for the lock and the audit log: user@workstation."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def steps_of(plan: Plan) -> list[tuple[Change, Step]]:
    """The steps in the order in which they are applied, each with the change that it belongs to."""
    return [(change, step) for change in plan.changes for step in change.steps]


def apply(
    connection: HostConnection, host: Host, plan: Plan, *, what: str, state: dict[str, object], on_event: Listener
) -> None:
    """Apply exactly `plan`. `state` is what the host is to remember when all steps are done.

    Raises Locked, HostChanged, StepFailed, or a HostError when the link is lost; then the host stops by itself."""
    steps = steps_of(plan)
    spec = {
        "run": secrets.token_hex(4),
        "who": who(),
        "what": what,
        "version": __version__,
        "plan": plan.hash,
        "services": list(dict.fromkeys((*plan.stops, *(name for part in plan.sections for name in part.starts)))),
        "project": host.project,
        "steps": [step_data(step, reveal=True) for _, step in steps],
        "state": {} if plan.ends else state,  # it ends something, and brings nothing up
    }
    ended: dict[str, dict[str, Any]] = {}

    def on_frame(frame: dict[str, Any]) -> None:
        ended[frame["frame"]] = frame
        on_event(frame)

    deadline = sum(getattr(step, "timeout_s", 30) for _, step in steps) + MARGIN_S
    status = run_module(connection, RUNNER, spec, deadline_s=deadline, heartbeat=True, on_frame=on_frame)
    if "locked" in ended:
        raise locked(host, ended["locked"].get("holder"))
    if "changed" in ended:
        raise _changed(host, ended["changed"], steps, what)
    if "failed" in ended:
        raise _failed(host, ended["failed"], steps, what)
    if status:
        why = ended.get("end", {}).get("why")
        raise ApplyError(
            f"{host.name}: the run on the host ended with status {status}",
            details=[str(why)] if why else [],
            next_commands=[f"invoke {what} --host {host.name}"],
        )


def locked(host: Host, holder: object) -> Locked:
    """The error for a host that somebody else is changing; `holder` is what the lock says."""
    said = holder if isinstance(holder, dict) else {}
    by, since = said.get("who", "somebody who left no name"), said.get("since")
    about = ", ".join(filter(None, (said.get("what"), f"since {since}" if since else "")))
    pid = f" (pid {said['pid']} on the host)" if said.get("pid") else ""
    stuck = "fix.stuck-apply" if said.get("gone") and not said.get("ending") else "diagnose"
    return Locked(
        f"{host.name} is being changed by {by}: {about or 'the lock says no more'}{pid}",
        next_commands=[f"invoke {stuck} --host {host.name}"],
    )


def _changed(host: Host, frame: dict[str, Any], steps: list[tuple[Change, Step]], what: str) -> HostChanged:
    change, _ = steps[frame["index"]]
    return HostChanged(
        f"{host.name} is no longer what the plan was made from; stopped before: {change.what}",
        details=[f"{frame['kind']} {frame['target']}: planned on {frame['planned']}, is now {frame['now']}"],
        next_commands=[f"invoke {what} --host {host.name}"],
    )


def _failed(host: Host, frame: dict[str, Any], steps: list[tuple[Change, Step]], what: str) -> StepFailed:
    """The command that failed, its last lines, and the fix that they speak of."""
    change, step = steps[frame["index"]]
    named = advice.entry(frame["lines"])
    return StepFailed(
        f"{host.name}: step {frame['index'] + 1} of {len(steps)} failed with status {frame['status']}: {change.what}",
        details=[step.show(), *frame["lines"]],
        next_commands=[advice.fix(host.name, named) if named else f"invoke {what} --host {host.name}"],
    )
