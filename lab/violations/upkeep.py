"""A host that nobody looks after."""

from __future__ import annotations

from datetime import date

from lab.machine import Lab
from lab.violations import Violation

APT = "/etc/apt/apt.conf.d/99lab-unattended"
PROGRAM = "/usr/bin/unattended-upgrade"
UNITS, TIMER = "/etc/systemd/system", "apt-daily-upgrade.timer"  # masked in the lab's image
JOURNALD = "/etc/systemd/journald.conf.d/90-lab.conf"
NODES = "/mnt/local/nvme/ai/services/comfy-mnt/ComfyUI/custom_nodes"


def pending(lab: Lab) -> None:
    """As the kernel's package leaves it."""
    lab.sh(
        """
        echo '*** System restart required ***' >/run/reboot-required
        echo linux-image-6.8.0-99-generic >/run/reboot-required.pkgs
        """
    )


def not_pending(lab: Lab) -> None:
    lab.sh("rm -f /run/reboot-required /run/reboot-required.pkgs")


def boundless(lab: Lab) -> None:
    lab.sh('mkdir -p "${1%/*}" && printf "[Journal]\\nSystemMaxUse=100T\\n" >"$1"', JOURNALD)


def bounded(lab: Lab) -> None:
    lab.sh('rm -f "$1" && rmdir "${1%/*}" 2>/dev/null || true', JOURNALD)


def unattended(lab: Lab) -> None:
    """As Ubuntu's installer switches it on, and allowed to upgrade Docker too; the audit does not run it."""
    lab.sh(
        """
        rm -f "$3/$4"; mkdir -p "$3/timers.target.wants"
        ln -sf "/usr/lib/systemd/system/$4" "$3/timers.target.wants/$4"
        [ -e "$2" ] || { printf '#!/bin/sh\n' >"$2" && chmod 755 "$2"; }
        cat >"$1" <<'END'
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Allowed-Origins { "${distro_id}:${distro_codename}-security"; "Docker:${distro_codename}"; };
END
        """,
        APT,
        PROGRAM,
        UNITS,
        TIMER,
    )


def attended(lab: Lab) -> None:
    lab.sh(
        'rm -f "$1" "$3/timers.target.wants/$4"; ln -sf /dev/null "$3/$4"; dpkg -S "$2" >/dev/null 2>&1 || rm -f "$2"',
        APT,
        PROGRAM,
        UNITS,
        TIMER,
    )


def node(lab: Lab) -> None:
    """A custom node as people get one: `git clone`, and it stays on its branch."""
    lab.sh(
        """
        mkdir -p "$1/lab-node/.git/refs/heads"
        echo 'ref: refs/heads/main' >"$1/lab-node/.git/HEAD"
        echo 0123456789012345678901234567890123456789 >"$1/lab-node/.git/refs/heads/main"
        echo 'NODE_CLASS_MAPPINGS = {}' >"$1/lab-node/__init__.py"
        chown -R 1024:1024 "$1/lab-node"
        """,
        NODES,
    )


def no_node(lab: Lab) -> None:
    lab.sh('rm -rf "$1/lab-node"', NODES)


VIOLATIONS = (
    Violation("upkeep.reboot", "System restart required *** (linux-image-6.8.0-99-generic)", pending, not_pending),
    Violation("upkeep.journal", "SystemMaxUse=100T in /etc/systemd/journald.conf.d/90-lab.conf", boundless, bounded),
    Violation(
        "upkeep.unattended", "it may upgrade containerd.io, docker-buildx-plugin, docker-ce", unattended, attended
    ),
    Violation("upkeep.hold", "not on hold: containerd.io, docker-ce, docker-ce-cli", host={"install": {"hold": True}}),
    Violation("upkeep.custom-nodes", "lab-node: on branch main (0123456789)", node, no_node),
    Violation(
        "audit.waivers",
        "net.dchp: there is no such control",
        host={"waivers": [{"control": "net.dchp", "reason": "mistyped", "until": date(2099, 1, 1)}]},
    ),
)

IMPOSSIBLE = {"upkeep.clock": "a container has no clock of its own: the kernel's is the workstation's"}
