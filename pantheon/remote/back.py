"""Whether a host that goes down comes back, and which boot it is in."""

from __future__ import annotations

from invoke.exceptions import CommandTimedOut

from pantheon.errors import LinkLost, LoginRefused, NotAllowed, NotReached
from pantheon.remote.connection import HostConnection

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
ANSWER_S = 10


def boot_id(connection: HostConnection) -> tuple[str, str]:
    """The host's boot id over a connection that is made anew for it and stays open; "" and why where there is no answer
    now: it is down, or in the middle of its way down or up. Raises NotTrusted when another host answers."""
    connection.close()
    try:
        connection.open()
        done = connection.run(BOOT_ID, timeout=ANSWER_S, warn=True)
        if done.ok and done.stdout.strip():
            return str(done.stdout.strip()), ""
        return "", f"{BOOT_ID}: exit {done.exited}"
    except (NotReached, LinkLost, LoginRefused, NotAllowed) as error:  # sshd refuses logins early in a boot
        return "", error.message
    except CommandTimedOut:
        return "", f"{BOOT_ID}: no answer within {ANSWER_S} s"
