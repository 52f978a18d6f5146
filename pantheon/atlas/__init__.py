"""The mounts of Atlas (system page, Storage Layout): what hosts.toml wants, as units of systemd, and what is there.

Each is a pair of units of our own, a mount and its automount: nothing is mounted at boot and nothing waits for the
server then; it is mounted when somebody first goes there, or by `invoke atlas`. What somebody else has set up for a
mount point (a line of fstab, a unit) is judged and never touched. The AI stack uses none of it (procedure §1).
"""

from __future__ import annotations

from pantheon.atlas.judged import check, standing, waits_at_boot, warnings
from pantheon.atlas.planned import plan
from pantheon.atlas.present import REALLY_NFS, pairs, served, top
from pantheon.atlas.tried import attempts
from pantheon.atlas.wanted import options, units
from pantheon.atlas.words import NAME, SOURCE

__all__ = [
    "NAME",
    "REALLY_NFS",
    "SOURCE",
    "attempts",
    "check",
    "options",
    "pairs",
    "plan",
    "served",
    "standing",
    "top",
    "units",
    "waits_at_boot",
    "warnings",
]
