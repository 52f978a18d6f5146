"""Monitoring that is declared, and not there."""

from __future__ import annotations

from lab.violations import Violation

VIOLATIONS = (Violation("mon.dcgm", "no container or process", host={"monitoring": {"dcgm_exporter": True}}),)

IMPOSSIBLE = dict.fromkeys(("mon.metrics", "mon.alerts"), "not checkable from the host: nothing there can violate it")
