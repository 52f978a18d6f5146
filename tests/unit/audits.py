"""Audits as a test wants them: made of rows, without a host."""

from __future__ import annotations

from datetime import date
from typing import Any

from pantheon.audit import Audit
from pantheon.control import Control, Result, Severity, Status, Verdict
from pantheon.inventory import Waiver

TODAY = date(2026, 11, 22)


def result(
    name: str,
    status: Status = "pass",
    severity: Severity = "medium",
    evidence: str = "",
    mend: str = "",
    *,
    title: str = "",
    rules: str = "",
    waiver: Waiver | None = None,
) -> Result:
    verdict = Verdict(status, evidence, mend)
    control = Control(name, title or f"Title of {name}", severity, "procedure §5", lambda case: verdict, rules)
    return Result(control, verdict, waiver)


def audit(*results: Result, **more: Any) -> Audit:
    given: dict[str, Any] = {
        "host": "prometheus",
        "address": "ops@10.0.99.10",
        "when": "2026-11-22T05:20:26Z",
        "today": TODAY,
        "version": "0.4.0",
        "took_s": 1.23,
        "fail_on": "low",
        "results": results,
        **more,
    }
    return Audit(**given)


SOME = (
    result("hw.gpu", evidence="NVIDIA RTX 4000 Ada Generation"),
    result("net.bind", "fail", "critical", "comfy: 0.0.0.0:8188", "invoke fix.exposed-ports --host prometheus"),
    result("net.dhcp", "not applicable", "low", "hosts.toml names no servers_network"),
    result("ssh.root", "unknown", "high", "sshd -T: exit 1", "invoke diagnose --host prometheus"),
    result("ssh.keys", "fail", "low", "passwordauthentication yes", "ssh -t ops@10.0.99.10 sudo sshd -T"),
    result("beyond.vlans", "not checkable", "medium", "VLANs end at the switch", "on the switch: the ports' VLANs"),
    result(
        "upkeep.reboot", "waived", "medium", "*** System restart required ***",
        waiver=Waiver("upkeep.reboot", "at the weekend", date(2026, 12, 1)),
    ),
)  # fmt: skip
