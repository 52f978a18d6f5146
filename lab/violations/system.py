"""An Ubuntu that is not the one, and a desktop on it."""

from __future__ import annotations

from lab import planting
from lab.machine import Lab
from lab.violations import Violation

RELEASE = "/etc/os-release"
MANAGER = "/etc/systemd/system/display-manager.service"
DESKTOP = "ubuntu-desktop-minimal"


def release(lab: Lab, change: str) -> None:
    """The file is a link to the distribution's own: a copy of it, edited."""
    lab.sh('[ ! -L "$1" ] || cp --remove-destination "$(readlink -f "$1")" "$1"; sed -i "$2" "$1"', RELEASE, change)


def as_shipped(lab: Lab) -> None:
    lab.sh('ln -sf ../usr/lib/os-release "$1"', RELEASE)


VIOLATIONS = (
    Violation("os.release", "ubuntu 22.04", lambda lab: release(lab, 's/^VERSION_ID=.*/VERSION_ID="22.04"/'),
              as_shipped),
    Violation("os.lts", "Ubuntu 25.10", lambda lab: release(lab, 's/^PRETTY_NAME=.*/PRETTY_NAME="Ubuntu 25.10"/'),
              as_shipped),
    Violation("os.desktop", DESKTOP, lambda lab: planting.install(lab, DESKTOP),
              lambda lab: planting.remove(lab, DESKTOP)),
    Violation("os.display-manager", "gdm3.service",
              planting.sh(f"ln -sf /usr/lib/systemd/system/gdm3.service {MANAGER}"),
              planting.sh(f"rm -f {MANAGER}")),
)  # fmt: skip
