"""Rebooting a host: the step that asks for it, what would not come back, and the wait until the host is back.

The reboot is a step of a plan like any other: it runs under the host's lock and stands in its audit log. It is asked
for a moment ahead, so that the run that asked ends in order.
"""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any, Protocol

from pantheon import foreign
from pantheon.errors import ApplyError, Interrupted, LinkLost, LookFailed, NotReached
from pantheon.evidence import Evidence, FstabLine, Unit
from pantheon.facts import Container, Entry, Facts
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.plan import Change, Run

if TYPE_CHECKING:
    from pantheon.remote.connection import HostConnection

AHEAD_S = 2  # between the step and the reboot
DEADLINE_S = 15 * 60.0  # servers count their memory for minutes
GOING_S = 4 * 60.0  # until it must be down: services have 90 s each to stop
FIRST_S, MOST_S = 0.5, 10.0  # between two attempts to reach it
ENGINE_S = 180.0
COMES_BACK = ("always", "unless-stopped")
STARTED = ("enabled", "enabled-runtime", "static", "indirect")
AGAIN_S = 1.0


class Report(Protocol):
    """Who is told what is waited for."""

    def waiting_for(self, host: Host, text: str) -> None: ...
    def settled(self) -> None: ...


def change(host: Host, facts: Facts, *, why: str) -> Change:
    """The reboot itself. It stops everything; `stops` are the services of ours that run now."""
    up = running(facts)
    ours = tuple(name for name in SERVICES if any(c.name == name and foreign.is_ours(host, c) for c in up))
    timer = ("systemd-run", "--quiet", "--collect", f"--on-active={AHEAD_S}", "--timer-property=AccuracySec=100ms")
    return Change(f"reboot {host.name}", why, (Run((*timer, "systemctl", "reboot"), timeout_s=30),), stops=ours)


def running(facts: Facts) -> list[Container]:
    """The containers that run, whoever made them."""
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    return [container for container in containers if container.state in ("running", "restarting", "paused")]


def others(host: Host, facts: Facts, evidence: Evidence) -> list[str]:
    """What else runs there and ends with a reboot, a line for each: containers that are not ours, and logins."""
    lines = []
    for container in running(facts):
        if not foreign.is_ours(host, container):
            stays = "" if container.restart_policy in COMES_BACK else ", which will not come back by itself"
            lines.append(f"container {container.name} (not ours{stays})")
    if isinstance(evidence.logged_in, tuple):
        lines += [f"logged in: {line}" for line in evidence.logged_in]
    return lines


def engine_units(evidence: Evidence) -> list[str]:
    """What systemd says of the engine's units, as far as it is known: enabled, disabled, .."""
    units = [evidence.units.get(name) for name in ("docker.service", "docker.socket")]
    return [unit.enabled for unit in units if isinstance(unit, Unit)]


def starts_engine(evidence: Evidence) -> bool:
    """Whether a boot starts the engine; True where that is not known."""
    known = engine_units(evidence)
    return not known or any(each in STARTED for each in known)


def losses(host: Host, facts: Facts, evidence: Evidence, *, prefix: str) -> list[Finding]:
    """What of the stack would not be there after a reboot, as warnings: said only of what is known."""
    found = []
    for container in running(facts):
        if foreign.is_ours(host, container) and container.restart_policy not in COMES_BACK:
            text = f"{container.name} will not come back by itself after a reboot"
            said = f"restart policy: {container.restart_policy}"
            found.append(Finding(f"{prefix}.restart", "warn", text, said, f"invoke bringup --host {host.name}"))
    if not starts_engine(evidence):
        mend = host.ssh("sudo systemctl enable docker.service docker.socket")
        said = ", ".join(engine_units(evidence))
        found.append(Finding(f"{prefix}.docker", "warn", "Docker is not started at boot", said, mend))
    if isinstance(evidence.fstab, tuple):
        found += [_not_in_fstab(host, path, prefix) for path in _unlisted(host, facts, evidence.fstab)]
    return found


def _unlisted(host: Host, facts: Facts, fstab: tuple[FstabLine, ...]) -> list[str]:
    listed = {line.target.rstrip("/") for line in fstab if line.comes}
    roots = dict.fromkeys((host.storage.nvme, host.storage.ssd))
    found = {path: facts.paths.get(path) for path in roots}
    return [path for path, at in found.items() if isinstance(at, Entry) and at.is_mount and path not in listed]


def _not_in_fstab(host: Host, path: str, prefix: str) -> Finding:
    text = f"{path} is mounted, and /etc/fstab does not mount it at boot: unless a unit does, it is gone after a reboot"
    return Finding(f"{prefix}.fstab", "warn", text, "", host.ssh(f"findmnt {shlex.quote(path)}"))


def obstacles(host: Host, evidence: Evidence, *, prefix: str) -> list[Finding]:
    """Why the host must not be rebooted now."""
    if not isinstance(evidence.installing, str):
        return []
    text = f"packages are being changed on {host.name}: a reboot now could leave it unable to boot"
    mend = f"wait for {evidence.installing} to end, then the same command again"
    return [Finding(f"{prefix}.installing", "fail", text, f"{evidence.installing} holds dpkg's lock", mend)]


def wait(
    connection: HostConnection,
    host: Host,
    *,
    before: str,
    report: Report,
    deadline_s: float = DEADLINE_S,
    engine: bool = True,
) -> bool:
    """Until `host` has gone down and answers in another boot than `before`, and its engine answers (`engine`: a boot
    starts it). Returns whether that answers: else no service of it need be waited for. The connection is open anew
    then. Raises ApplyError when it does not go down, NotReached when it does not come back in time, NotTrusted when
    another host answers, and Interrupted."""
    try:
        end = time.monotonic() + deadline_s
        _wait_for_boot(connection, host, before, report, end)
        return engine and _wait_for_engine(connection, host, report, min(end, time.monotonic() + ENGINE_S))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{host.name}: stopped waiting; the host goes on with its reboot by itself",
            next_commands=[f"invoke diagnose --host {host.name}"],
        ) from None
    finally:
        report.settled()


def _wait_for_boot(connection: Any, host: Host, before: str, report: Report, end: float) -> None:
    from pantheon.remote.back import boot_id

    began, pause, gone = time.monotonic(), FIRST_S, False
    last, why = "", ""
    report.waiting_for(host, "it goes down for its reboot")
    while time.monotonic() < end:
        now, why = boot_id(connection)
        if now and now not in ("", before) and now == last:
            report.waiting_for(host, "it is back; its services start")
            return
        if not now and not gone:
            gone = True
            report.waiting_for(host, "it is down; waiting for it to come back")
        if now == before and time.monotonic() > began + GOING_S:  # also where only the link was down for a moment
            raise ApplyError(
                f"{host.name}: it has not gone down within {GOING_S / 60:.0f} minutes of the order to reboot",
                next_commands=[host.ssh("systemctl list-jobs; systemd-inhibit --list")],
            )
        # Seen twice: on its way down a host may answer once more, and strangely.
        pause = AGAIN_S if now and now != before else min(MOST_S, pause * 1.3)
        last = now
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
    minutes = (time.monotonic() - began) / 60
    raise NotReached(
        f"{host.name}: it went down for its reboot and has not come back within {minutes:.0f} minutes",
        details=[why] if why else [],
        next_commands=[
            "look at its console: it may wait for a passphrase, or a disk",
            f"invoke diagnose --host {host.name}",
        ],
    )


def _wait_for_engine(connection: Any, host: Host, report: Report, end: float) -> bool:
    """The engine starts the containers before it answers; a look that gets no answer from it is not yet a fault."""
    from pantheon.remote import gather

    while time.monotonic() < end:
        try:
            facts = gather.look(connection, host)
        except (LinkLost, LookFailed):
            connection.close()
            connection.open()
        else:
            if facts.docker is None or isinstance(facts.containers, tuple):
                return True
            report.waiting_for(host, "it is back; waiting for Docker")
        time.sleep(AGAIN_S)
    return False
