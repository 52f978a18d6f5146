"""Whether the host is looked after."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from pantheon.control import Status, Verdict
from pantheon.controls import upkeep, waivers
from pantheon.evidence import Evidence
from pantheon.facts import Unknown
from pantheon.install import docker, driver, toolkit
from pantheon.inventory import Install, Waiver
from pantheon.packages import Package, Packages
from pantheon.upkeep import Clock, CustomNode, Journal, Upgrades
from tests.unit.world import HOST, case, finished

GIB = 1 << 30
COMMIT = "0123456789" * 4
UBUNTU = ("${distro_id}:${distro_codename}", "${distro_id}:${distro_codename}-security")
OURS = (
    "containerd.io",
    "docker-ce",
    "libnvidia-compute-590-server",
    "nvidia-container-toolkit",
    "nvidia-driver-590-server",
)


def judged(name: str, host: Any = HOST, **evidence: Any) -> Verdict:
    control = next(c for c in upkeep.CONTROLS if c.id == f"upkeep.{name}")
    return control.judge(case(finished(), host=host, **evidence))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("clock", "clock"), ("reboot", "reboot_required"), ("journal", "journal"), ("unattended", "upgrades"),
        ("custom-nodes", "custom_nodes"),
    ],
)  # fmt: skip
def test_not_known(name: str, field: str) -> None:
    verdict = judged(name, **{field: Unknown("denied")})
    assert verdict == Verdict("unknown", "denied", "invoke diagnose --host prometheus")


class TestClock:
    @pytest.mark.parametrize(
        ("seen", "status", "says", "mend"),
        [
            (Clock(True, ("chrony",)), "pass", "synchronised by chrony", ""),
            (Clock(True, ()), "pass", "synchronised", ""),
            (Clock(False, ("systemd-timesyncd",)), "fail", "systemd-timesyncd runs, and the clock is not in step yet",
             "ssh ops@10.0.99.10 systemctl status systemd-timesyncd"),
            (Clock(False, ()), "fail", "nothing keeps it", "ssh -t ops@10.0.99.10 sudo timedatectl set-ntp true"),
            (Clock(False, (), "docker"), "not applicable", "a container (docker)", ""),
        ],
    )  # fmt: skip
    def test_all(self, seen: Clock, status: Status, says: str, mend: str) -> None:
        verdict = judged("clock", clock=seen)
        assert verdict.status == status
        assert says in verdict.evidence
        assert verdict.mend == mend

    def test_not_looked_at(self) -> None:
        assert judged("clock").status == "unknown"


def test_reboot() -> None:
    assert judged("reboot", reboot_required=None).status == "pass"
    assert judged("reboot", reboot_required="restart (linux-image)") == Verdict(
        "fail", "restart (linux-image)", "invoke reboot --host prometheus"
    )


class TestJournal:
    @pytest.mark.parametrize(
        ("most", "storage", "status"),
        [
            ("", "auto", "pass"),
            ("", "persistent", "pass"),
            ("", "none", "fail"),
            ("", "volatile", "fail"),
            ("4G", "auto", "pass"),
            ("1000M", "auto", "pass"),
            ("19G", "auto", "pass"),
            ("21G", "auto", "fail"),
            ("10%", "auto", "pass"),
            ("50%", "auto", "fail"),
            ("100T", "auto", "fail"),
            ("1024", "auto", "pass"),
            ("infinity", "auto", "fail"),
            ("9" * 40 + "G", "auto", "fail"),
        ],
    )
    def test_on_a_disk_of_100_gib(self, most: str, storage: str, status: Status) -> None:
        at = "/etc/systemd/journald.conf.d/x y.conf"
        verdict = judged("journal", journal=Journal(most, at if most else "", storage, 100 * GIB))
        assert verdict.status == status
        if status == "fail" and most:
            assert verdict.mend == f"ssh -t ops@10.0.99.10 \"sudoedit '{at}'\""

    def test_the_file_that_says_so_is_the_one_to_edit(self) -> None:
        at = "/etc/systemd/journald.conf.d/50-x.conf"
        verdict = judged("journal", journal=Journal("", "", "volatile", 100 * GIB, at))
        assert verdict.mend == f"ssh -t ops@10.0.99.10 sudoedit {at}  (Storage=persistent)"

    def test_four_gib_are_never_too_much(self) -> None:
        assert judged("journal", journal=Journal("4G", "/etc/x", "auto", 8 * GIB)).status == "pass"


class TestUnattended:
    def upgrades(self, **changes: Any) -> Verdict:
        seen = Upgrades(True, UBUNTU, (), (), OURS)
        return judged("unattended", upgrades=replace(seen, **changes))

    def test_the_driver_comes_from_ubuntu_s_security_pocket(self) -> None:
        verdict = self.upgrades()
        assert verdict.status == "fail"
        assert "it may upgrade libnvidia-compute-590-server, nvidia-driver-590-server: " in verdict.evidence
        assert verdict.mend.endswith("sudo apt-mark hold libnvidia-compute-590-server nvidia-driver-590-server")

    @pytest.mark.parametrize(
        "changes",
        [
            {"runs": False},
            {"blacklist": ("nvidia-", "libnvidia-")},
            {"blacklist": ("(lib)?nvidia-",)},
            {"held": ("libnvidia-compute-590-server", "nvidia-driver-590-server")},
            {"ours": ("docker-ce", "containerd.io", "nvidia-container-toolkit")},
            {"origins": ()},
            {"origins": ("origin=Canonical,codename=esm",)},
        ],
    )
    def test_what_does_not_touch_them(self, changes: dict[str, Any]) -> None:
        assert self.upgrades(**changes).status == "pass"

    @pytest.mark.parametrize(
        ("origins", "touched"),
        [
            (("Docker:noble",), "containerd.io, docker-ce:"),
            (("origin=Docker",), "containerd.io, docker-ce:"),
            (("site=nvidia.github.io",), "nvidia-container-toolkit:"),
            (("origin=*",), "containerd.io, docker-ce, lib"),
        ],
    )
    def test_the_vendors_origins(self, origins: tuple[str, ...], touched: str) -> None:
        assert f"it may upgrade {touched}" in self.upgrades(origins=origins).evidence

    def test_ubuntu_s_own_engine(self) -> None:
        assert "it may upgrade containerd, docker.io" in self.upgrades(ours=("containerd", "docker.io")).evidence

    def test_a_pattern_that_is_none(self) -> None:
        assert self.upgrades(blacklist=("*nvidia",)).status == "fail"

    def test_many(self) -> None:
        verdict = self.upgrades(ours=tuple(f"libnvidia-gl-{n}" for n in range(20)))
        assert "and 12 more" in verdict.evidence

    def test_no_apt(self) -> None:
        assert judged("unattended", upgrades=None).status == "pass"


class TestHold:
    def test_not_asked_for(self) -> None:
        assert judged("hold", upgrades=Unknown("denied")).status == "not applicable"

    @pytest.mark.parametrize(
        ("seen", "status"),
        [
            (Upgrades(False, (), (), (), ("docker-ce",)), "fail"),
            (Upgrades(False, (), (), ("docker-ce",), ("docker-ce",)), "pass"),
            (Upgrades(False, (), (), (), ()), "not applicable"),
            (None, "not applicable"),
            (Unknown("denied"), "unknown"),
        ],
    )
    def test_asked_for(self, seen: Any, status: Status) -> None:
        host = replace(HOST, install=Install(hold=True))
        verdict = judged("hold", host, upgrades=seen)
        assert verdict.status == status
        if status == "fail":
            assert verdict.mend == "invoke prereqs --install --host prometheus"

    def test_what_the_mend_holds_is_all_that_is_asked_for(self) -> None:
        host = replace(HOST, install=Install(hold=True))
        names = (
            *("containerd.io", "docker-ce", "docker-ce-cli", "nvidia-container-toolkit", "nvidia-driver-590-server"),
            *("libnvidia-compute-590-server", "nvidia-dkms-590-server"),
        )
        there = {name: Package("1.0", "installed") for name in names}
        evidence = Evidence(packages=Packages(there, "amd64", "noble"))
        held = {name for part in (docker, driver, toolkit) for name in part.holds(host, finished(), evidence)}
        assert held == set(names)
        others = ("docker-buildx-plugin", "docker-compose-plugin", "libnvidia-container1", "nvidia-utils-590-server")
        verdict = judged("hold", host, upgrades=Upgrades(False, (), (), tuple(held), (*names, *others)))
        assert verdict.status == "pass"
        for name in names:
            held_but = tuple(held - {name})
            assert judged("hold", host, upgrades=Upgrades(False, (), (), held_but, names)).status == "fail", name


class TestCustomNodes:
    @pytest.mark.parametrize(
        ("node", "status", "says"),
        [
            (CustomNode("n", True, "", COMMIT, 0), "pass", "n: 0123456789"),
            (CustomNode("n", True, "main", COMMIT, 0), "fail", "n: on branch main (0123456789): the next update"),
            (CustomNode("n", True, "main", "", 0), "fail", "n: on branch main (no commit)"),
            (CustomNode("n", True, "", COMMIT, 2), "fail", "n: 2 files changed since its commit 0123456789"),
            (CustomNode("n", True, "", "", 0), "fail", "n: its commit cannot be told"),
            (CustomNode("n", True, "", COMMIT, Unknown("an index of version 4")), "pass", "n: 0123456789"),
            (CustomNode("n", False), "fail", "n: neither a git checkout nor a version"),
            (CustomNode("n", False, version="1.2.3"), "pass", "n: 1.2.3"),
        ],
    )
    def test_one(self, node: CustomNode, status: Status, says: str) -> None:
        verdict = judged("custom-nodes", custom_nodes=(node,))
        assert verdict.status == status
        assert says in verdict.evidence

    @pytest.mark.parametrize("seen", [None, ()])
    def test_none(self, seen: Any) -> None:
        assert judged("custom-nodes", custom_nodes=seen).status == "not applicable"

    def test_a_hostile_name_in_the_command(self) -> None:
        verdict = judged("custom-nodes", custom_nodes=(CustomNode("a; rm -rf 'x'", True, "main", COMMIT, 0),))
        ssh, terminal, target, remote = shlex.split(verdict.mend)
        assert (ssh, terminal, target) == ("ssh", "-t", "ops@10.0.99.10")
        place = "/mnt/local/nvme/ai/services/comfy-mnt/ComfyUI/custom_nodes/a; rm -rf 'x'"
        words = shlex.split(remote)
        assert words[:2] + words[-5:] == ["sudo", "setpriv", "git", "-C", place, "checkout", "--detach"]


class TestWaivers:
    def judged(self, *names: str) -> Verdict:
        given = tuple(Waiver(name, "why", date(2099, 1, 1)) for name in names)
        return waivers.known(case(finished(), host=replace(HOST, waivers=given)))

    def test_none(self) -> None:
        assert self.judged().status == "not applicable"

    def test_known(self) -> None:
        assert self.judged("upkeep.clock", "upkeep.reboot") == Verdict("pass", "upkeep.clock, upkeep.reboot")

    def test_unknown(self) -> None:
        verdict = self.judged("upkeep.clok")
        assert verdict.evidence == "upkeep.clok: there is no such control (did you mean upkeep.clock?)"
        assert verdict.mend == "put it right in hosts.toml, [[hosts.prometheus.waivers]]"
        assert self.judged("x").evidence == "x: there is no such control"

    def test_twice(self) -> None:
        assert (
            "upkeep.clock: 2 waivers for it; the first counts" in self.judged("upkeep.clock", "upkeep.clock").evidence
        )

    def test_itself(self) -> None:
        assert self.judged("audit.waivers").evidence == "audit.waivers: this one cannot be waived"
