"""How containers are run: what engineers check of any Docker host. All containers, ours and everybody's."""

from __future__ import annotations

from collections.abc import Callable

from pantheon.control import Control, Verdict
from pantheon.facts import Container, Unknown
from pantheon.incident import Case

SOURCE = "practice"
MOVING = ("latest", "main", "master", "edge", "nightly", "dev", "stable")
GOOD_POLICIES = ("always", "unless-stopped", "on-failure")


def _each(case: Case, says: Callable[[Container], str], *, good: str, mend: str) -> Verdict:
    """A verdict on all containers: `says` gives what is wrong with one, "" for nothing."""
    found = case.facts.containers
    if isinstance(found, Unknown):
        return Verdict("unknown", found.reason, f"invoke diagnose --host {case.host.name}")
    if not found:
        return Verdict("not applicable", "there are no containers")
    unread = [c for c in found if c.unread]
    wrong = [f"{c.name}: {text}" for c in found if not c.unread and (text := says(c))]
    if wrong:
        return Verdict("fail", "\n".join(wrong), mend)
    if unread:
        return Verdict("unknown", "\n".join(f"{c.name}: {c.unread}" for c in unread), "invoke diagnose")
    return Verdict("pass", good)


def _bring_up(case: Case) -> str:
    return f"invoke bringup --host {case.host.name}"


def log_rotation(case: Case) -> Verdict:
    return _each(case, _unbounded_log, good="every container's log is bounded", mend=_bring_up(case))


def _unbounded_log(container: Container) -> str:
    driver, options = container.log_driver, container.log_options
    if driver in ("none", "local", "journald", "syslog"):  # local rotates by itself; the others are not Docker's files
        return ""
    if driver == "json-file" and not options.get("max-size"):
        return "json-file without max-size: its log grows until the disk is full"
    return ""


def restart(case: Case) -> Verdict:
    return _each(case, _does_not_return, good="every service comes back after a reboot", mend=_bring_up(case))


def _does_not_return(container: Container) -> str:
    if container.state != "running" or container.restart_policy in GOOD_POLICIES:
        return ""
    return f"restart policy {container.restart_policy or 'no'!r}: it does not come back after a reboot"


CONTROLS = (
    Control("containers.log-rotation", "Every container's log is bounded", "medium", SOURCE, log_rotation),
    Control("containers.restart", "Every running container comes back after a reboot", "medium", SOURCE, restart),
)
