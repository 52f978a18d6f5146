"""Another address on the same interface, by DHCP as far as the kernel knows; programs that listen."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from lab import planting
from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation

SERVERS, ADDRESS = "10.0.60.0/24", "10.0.60.10"
FOR_AN_HOUR = "valid_lft 3600 preferred_lft 3600"
FOR_GOOD = "valid_lft forever preferred_lft forever"
CHANGE = 'at=$(ip -4 -o addr show dev eth0 primary | grep -v "$2" | tr -s " " | cut -d" " -f4 | head -1); '
CHANGE += 'ip addr change "$at" dev eth0 $1'
DECLARED = {"servers_network": SERVERS}

VIOLATIONS = (
    Violation("net.cards", "SERVERS and MGMT are both on eth0", sh(f"ip addr add {ADDRESS}/24 dev eth0 {FOR_AN_HOUR}"),
              sh(f"ip addr del {ADDRESS}/24 dev eth0 2>/dev/null || true"), host=DECLARED),
    Violation("net.mgmt-address", "dhcp", sh(CHANGE, FOR_AN_HOUR, ADDRESS), sh(CHANGE, FOR_GOOD, ADDRESS)),
    Violation("net.dhcp", f"bound to it: {ADDRESS}", lambda lab: planting.listen(lab, "v-bound", ADDRESS, 8000),
              lambda lab: planting.stop(lab, "v-bound"), host=DECLARED),
    Violation("net.listeners", "9999", lambda lab: planting.listen(lab, "v-open", planting.EVERYWHERE, 9999),
              lambda lab: planting.stop(lab, "v-open")),
    Violation("net.datagrams", "0.0.0.0:161/udp: python3",
              lambda lab: planting.listen(lab, "v-snmp", planting.EVERYWHERE, 161, protocol="udp"),
              lambda lab: planting.stop(lab, "v-snmp")),
)  # fmt: skip


def inventory(lab: Lab) -> dict[str, Any]:
    """The lab's own network is that of administration."""
    return {"mgmt_network": str(ip_network(f"{lab.address}/16", strict=False))}
