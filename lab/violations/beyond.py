"""Nothing on a host can violate what cannot be checked from one."""

from __future__ import annotations

from lab.violations import Violation
from pantheon.controls import beyond

VIOLATIONS: tuple[Violation, ...] = ()

IMPOSSIBLE = dict.fromkeys((control.id for control in beyond.CONTROLS), "not checkable from the host, by its nature")
