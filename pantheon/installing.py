"""`--install`: from whatever the host has to the prerequisites of section 2, with a reboot where one is needed."""

from __future__ import annotations

from typing import Any

from pantheon.errors import UsageError
from pantheon.facts import Facts
from pantheon.inventory import Host
from pantheon.options import Options


def install(
    connection: Any, host: Host, facts: Facts, *, what: str, options: Options, report: object
) -> tuple[Facts | None, int]:
    """Brings section 2 about: looks for what it needs, plans, shows, asks, applies, reboots where that is needed and
    agreed, and looks again. Returns (the new facts, 0) when every prerequisite holds; (None, exit code) when the
    command ends here: it was a --plan, or something is not as it should be. Raises what engine.bring raises."""
    del connection, host, facts, what, options, report
    raise UsageError("--install is not built yet")
