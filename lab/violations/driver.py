"""A driver of another branch, another vendor's, and kernels without its module."""

from __future__ import annotations

from lab.planting import sh
from lab.violations import Violation
from lab.violations.hardware import says, unsay

NOUVEAU = "/sys/module/nouveau"  # /sys/module is writable on a lab host


AWAY = "/usr/lib/lab/gpu/plant.sh remove; /usr/lib/lab/kernel forget"
BACK = "/usr/lib/lab/kernel drivers; /usr/lib/lab/gpu/plant.sh"

VIOLATIONS = (
    Violation("driver.branch", "595.58.03", lambda lab: says(lab, "driver=595.58.03"), unsay),
    Violation("driver.vendor", "nouveau", sh(f"mkdir -p {NOUVEAU}"), sh(f"rmdir {NOUVEAU} 2>/dev/null || true")),
    Violation("driver.module", "is not loaded", sh(AWAY), sh(BACK), round="no-module"),
    Violation("driver.running-kernel", "has no NVIDIA module", round="no-module"),
    Violation("driver.next-kernel", "has no NVIDIA module", round="no-module"),
)
