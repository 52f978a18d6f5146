"""`invoke reboot`: shows what runs, waits for it, reboots, waits for the host, validates."""

from __future__ import annotations

from pantheon.errors import UsageError
from pantheon.inventory import Host
from pantheon.options import Options


def reboot(host: Host, *, options: Options, report: object) -> int:
    """Returns 0 when the host is back and the checklist holds, else 2."""
    del host, options, report
    raise UsageError("reboot is not built yet")
