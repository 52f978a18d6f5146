"""What judges have in common."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from pantheon import controls
from pantheon.circumstances import Address
from pantheon.control import Verdict
from pantheon.controls import verdicts
from pantheon.evidence import Evidence
from pantheon.finding import Finding
from pantheon.here import Here
from pantheon.incident import Case
from pantheon.inventory import Waiver
from tests.unit.takeover.olds import hand_made
from tests.unit.takeover.test_undo import noted, there
from tests.unit.world import HOST, finished

CASE = Case(HOST, finished(), Evidence(), Here())
OK = Finding("a", "ok", "fine", "it is")
WARN = Finding("b", "warn", "not nice")
UNKNOWN = Finding("c", "unknown", "not known")
DIAGNOSE = "invoke diagnose --host prometheus"
FAIL = Finding("d", "fail", "wrong", mend="sudo mend it")


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([OK], Verdict("pass", "fine\nit is")),
        ([OK, WARN], Verdict("pass", "not nice")),
        ([OK, UNKNOWN], Verdict("unknown", "not known", DIAGNOSE)),
        ([UNKNOWN, FAIL, OK], Verdict("fail", "wrong", "on prometheus: sudo mend it")),
        ([replace(FAIL, id="z")], Verdict("unknown", "nothing was found out about a, b, c, d", DIAGNOSE)),
    ],
)  # fmt: skip
def test_the_worst_counts(findings: list[Finding], expected: Verdict) -> None:
    assert verdicts.of(CASE, findings, "a", "b", "c", "d") == expected


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False), ("::ffff:127.0.0.1", False),
        ("", True), ("0.0.0.0", True), ("::", True), ("10.0.99.10", True), ("172.17.0.1", True), ("1270::1", True),
    ],
)  # fmt: skip
def test_who_reaches_an_address(address: str, reached: bool) -> None:
    assert verdicts.beyond(address) == reached


def test_bridges_of_dockers_and_loopback_lead_to_nobody() -> None:
    kinds = ("lo", "bridge", "nic", "vpn")
    addresses = [Address(f"{kind}0", "10.0.0.1", 24, kind, "static") for kind in kinds]
    assert [one.kind for one in verdicts.outward(addresses)] == ["nic", "vpn"]


def test_containers_that_are_kept_from_a_takeover_are_judged_by_nobody() -> None:
    it = noted()
    old = hand_made("comfy", name="comfyui-before-pantheon", id=it.containers[0].id, state="exited")
    found = verdicts.containers(replace(CASE, facts=there(it, old)))
    assert found is not None
    assert old.id not in {one.id for one in found}
    assert "comfy" in {one.name for one in found}


def test_a_waiver_of_the_waivers_themselves_counts_for_nothing() -> None:
    waivers = tuple(Waiver(name, "so", date(2030, 1, 1)) for name in (controls.NEVER_WAIVED, "hw.nothing"))
    results = controls.judge(replace(CASE, host=replace(HOST, waivers=waivers)), today=date(2026, 1, 1))
    mine = next(one for one in results if one.control.id == controls.NEVER_WAIVED)
    assert (mine.verdict.status, mine.waiver) == ("fail", None)
