"""sshd told to let in what it must not. Its files alone are written: the one that runs is not told, and lets us in."""

from __future__ import annotations

from lab import planting
from lab.planting import sh
from lab.violations import Violation
from lab.violations.network import DECLARED


def told(control: str, says: str, setting: str) -> Violation:
    """A file that sshd reads before the others, of which the first counts."""
    path = f"/etc/ssh/sshd_config.d/00-v-{control.partition('.')[2]}.conf"
    return Violation(control, says, sh('printf "%s\\n" "$2" >"$1"', path, setting), sh('rm -f "$1"', path))


VIOLATIONS = (
    told("ssh.root", "root logs in with a key", "PermitRootLogin prohibit-password"),
    told("ssh.keys", "PasswordAuthentication yes", "PasswordAuthentication yes"),
    told("ssh.forwarding", "its files forbid it", "AllowTcpForwarding no"),
    Violation("ssh.only", "VNC", lambda lab: planting.listen(lab, "v-vnc", planting.EVERYWHERE, 5901),
              lambda lab: planting.stop(lab, "v-vnc")),
    Violation("ssh.listen", "10.0.60.10:22 on eth0", host=DECLARED),  # the address of net.cards
)  # fmt: skip
