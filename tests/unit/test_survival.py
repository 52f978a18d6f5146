"""Will it all be back after a reboot? A line for each thing that decides it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import survival
from pantheon.evidence import Evidence, FstabLine, Unit
from pantheon.facts import Facts, Unknown
from pantheon.inventory import Host, Install
from pantheon.kernels import Kernel, Kernels
from pantheon.packages import Package, Packages
from tests.unit.world import HOST, container, finished, fresh, having

K = "6.8.0-45-generic"
HOLDS = replace(HOST, install=Install(hold=True))
FSTAB = tuple(FstabLine(f"LABEL={name}", f"/mnt/local/{name}", "ext4", "defaults") for name in ("nvme", "ssd"))
UNITS = {"docker.service": Unit("active", "running", "success", "", 0, "enabled")}
CLEAN = Packages({"nvidia-driver-590-server": Package("590.48.01-0ubuntu1", "installed")}, "amd64", "noble")


def kernels(module: str | Unknown | None = "590.48.01", **more: Any) -> Kernels:
    signer = more.pop("signer", "Canonical Ltd. Kernel Module Signing")
    return Kernels("6.8.0-40-generic", K, (Kernel(K, module, signer),), **more)


def evidence(**changes: Any) -> Evidence:
    whole: dict[str, Any] = {"kernels": kernels(), "packages": CLEAN, "fstab": FSTAB, "units": UNITS}
    return Evidence(**(whole | changes))


def levels(facts: Facts, seen: Evidence, host: Host = HOST) -> dict[str, str]:
    """The worst level by the finding's last word."""
    order = ["ok", "warn", "unknown", "fail"]
    found: dict[str, str] = {}
    for finding in survival.check(host, facts, seen):
        key = finding.id.removeprefix("reboot.")
        found[key] = max(found.get(key, "ok"), finding.level, key=order.index)
        assert finding.level == "ok" or finding.text
        assert finding.level != "fail" or finding.mend
    return found


GOOD = {"dpkg": "ok", "module": "ok", "fstab": "ok", "docker": "ok", "restart": "ok"}


def test_all_of_it_will_be_back() -> None:
    assert levels(finished(), evidence()) == GOOD
    texts = [finding.text for finding in survival.check(HOST, finished(), evidence())]
    assert f"driver 590.48.01 has its module for kernel {K}, which boots next" in texts
    assert "comfy, ollama, openwebui come back by themselves" in texts


@pytest.mark.parametrize(
    ("changes", "key", "level"),
    [
        ({"kernels": kernels(None)}, "module", "fail"),
        ({"kernels": kernels("580.95.05")}, "module", "fail"),
        ({"kernels": kernels(Unknown("modinfo: not there"))}, "module", "unknown"),
        ({"kernels": Kernels("x", Unknown("no /boot"), ())}, "module", "unknown"),
        ({"kernels": Unknown("no answer")}, "module", "unknown"),
        (
            {"kernels": kernels(secure_boot=True, signer="prometheus Secure Boot Module Signature key")},
            "signed",
            "warn",
        ),
        ({"packages": replace(CLEAN, broken=("linux-image-6.8.0-45-generic",))}, "dpkg", "fail"),
        ({"packages": replace(CLEAN, interrupted=True)}, "dpkg", "fail"),
        ({"packages": replace(CLEAN, holder="unattended-upgr (pid 812)")}, "installing", "fail"),
        ({"packages": Unknown("no answer")}, "dpkg", "unknown"),
        ({"installing": "apt-get (pid 9)"}, "installing", "fail"),
        ({"fstab": FSTAB[:1]}, "fstab", "warn"),
        ({"fstab": (FSTAB[0], replace(FSTAB[1], options="defaults,noauto"))}, "fstab", "warn"),
        ({"kernels": kernels(secure_boot=True, mok=True, signer="")}, "signed", "warn"),
        ({"kernels": kernels(secure_boot=True, mok=False, mok_asked=True, signer="x")}, "signed", "warn"),
        ({"units": {"docker.service": replace(UNITS["docker.service"], enabled="disabled")}}, "docker", "warn"),
    ],
    ids=range(16),
)
def test_what_is_in_the_way(changes: dict[str, Any], key: str, level: str) -> None:
    found = levels(finished(), evidence(**changes))
    assert found[key] == level
    assert all(GOOD.get(other, "") == told for other, told in found.items() if other != key)


def test_a_key_that_is_enrolled_is_fine() -> None:
    for given in ({"mok": True, "signer": "prometheus"}, {"signer": "Canonical Ltd."}):
        assert levels(finished(), evidence(kernels=kernels(secure_boot=True, **given))) == GOOD


def test_a_host_without_driver_and_stack_has_nothing_to_lose() -> None:
    bare = replace(fresh(), library_version=None, module_version=None)
    assert levels(bare, evidence(kernels=kernels(None), units={})) == {"dpkg": "ok", "fstab": "ok"}


def test_a_container_that_stays_down() -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", restart_policy="no"))
    found = [f for f in survival.check(HOST, facts, evidence()) if f.id == "reboot.restart"]
    assert [f.level for f in found] == ["warn", "ok"]
    assert found[1].text == "ollama, openwebui come back by themselves"


def test_nothing_comes_back_by_itself_without_its_engine() -> None:
    off = {"docker.service": Unit("active", "running", "success", "", 0, "disabled")}
    found = [
        f for f in survival.check(HOST, finished(), evidence(units=off)) if f.id in ("reboot.docker", "reboot.restart")
    ]
    assert [(f.id, f.level, f.evidence) for f in found] == [("reboot.docker", "warn", "disabled")]


def test_holds_are_looked_at_where_hosts_toml_asks_for_them() -> None:
    assert levels(finished(), evidence(), HOLDS)["hold"] == "warn"
    held = Packages({name: replace(about, held=True) for name, about in CLEAN.installed.items()}, "amd64", "noble")
    assert levels(finished(), evidence(packages=held), HOLDS)["hold"] == "ok"


def test_what_secure_boot_will_say_and_what_to_do_about_it() -> None:
    mine = "prometheus Secure Boot Module Signature key"
    for given, said in (
        ({"mok": False}, "sudo mokutil --import /var/lib/shim-signed/mok/MOK.der"),
        ({"mok": False, "mok_asked": True}, "be at the console"),
        ({"mok": None}, "mokutil --list-enrolled"),
    ):
        seen = evidence(kernels=kernels(secure_boot=True, signer=mine, **given))
        [finding] = [each for each in survival.check(HOST, finished(), seen) if each.id == "reboot.signed"]
        assert said in finding.mend


def test_a_disk_that_is_mounted_at_its_first_use_is_there() -> None:
    lines = tuple(replace(line, options="noauto,x-systemd.automount") for line in FSTAB)
    assert levels(finished(), evidence(fstab=lines)) == GOOD
