"""The driver: by what is really there and by what apt would really bring, never by a package's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pantheon.circumstances import CdiSpec
from pantheon.evidence import Evidence, Unit
from pantheon.facts import Facts, Unknown
from pantheon.install import driver, remedy, toolkit
from pantheon.inventory import Gpu, Host, Install
from pantheon.kernels import Kernel, Kernels, Offer
from pantheon.options import Options
from pantheon.packages import Package, Packages, upstream
from pantheon.plan import Mend, Run
from tests.unit.world import HOST, finished, fresh

K = "6.8.0-45-generic"
DRIVER = "nvidia-driver-590-server"
OPTIONS = Options(install=True)
OPEN = replace(HOST, gpu=Gpu(variant="open"))
PLAIN = replace(HOST, gpu=Gpu(variant="", driver="580"))
HOLDS = replace(HOST, install=Install(hold=True))


def bare() -> Facts:
    return replace(fresh(), nvml=None, nvidia_smi=None, module_version=None, library_version=None, docker=None,
                   toolkit=None, containers=())  # fmt: skip


def with_driver(library: str | Unknown, loaded: str | None) -> Facts:
    return replace(fresh(), library_version=library, module_version=loaded)


def offer(versions: Mapping[str, tuple[str, ...]] | None = None, **changes: Any) -> Offer:
    known = {DRIVER: ("590.48.01-0ubuntu1",)} if versions is None else dict(versions)
    given: dict[str, Any] = {"versions": known, "brings": (f"{DRIVER} 590.48.01-0ubuntu1",), "lists_age_s": 60.0}
    return Offer(DRIVER, K, "generic", **(given | changes))


def packages(*installed: str, held: tuple[str, ...] = ()) -> Packages:
    return Packages({name: Package("590", "installed", name in held) for name in (*installed, *held)}, "amd64", "noble")


def seen(module: str | Unknown | None = "590.48.01", **more: Any) -> Evidence:
    kernel = Kernel(K, module, more.pop("signer", ""), more.pop("headers", False))
    boot = {key: more.pop(key) for key in ("secure_boot", "mok", "mok_asked") if key in more}
    kernels = Kernels("6.8.0-40-generic", K, (kernel,), dkms=more.pop("dkms", None), **boot)
    return Evidence(kernels=kernels, driver_offer=more.pop("offer", offer()), packages=more.pop("packages", packages()),
                    **more)  # fmt: skip


PREBUILT: Mapping[str, tuple[str, ...]] = {
    DRIVER: ("590.48.01-0ubuntu1",),
    f"linux-modules-nvidia-590-server-{K}": ("6.8.0-45.45",),
}
FOLLOWING: dict[str, tuple[str, ...]] = {**PREBUILT, "linux-modules-nvidia-590-server-generic": ("6.8.0-45.45",)}
DKMS: Mapping[str, tuple[str, ...]] = {
    DRIVER: ("590.48.01-0ubuntu1",),
    "nvidia-dkms-590-server": ("590.48.01-0ubuntu1",),
}
HEADERS: dict[str, tuple[str, ...]] = {
    **DKMS,
    f"linux-headers-{K}": ("6.8.0-45.45",),
    "linux-headers-generic": ("6.8.0-45.45",),
}


@pytest.mark.parametrize(
    ("host", "package"), [(HOST, DRIVER), (OPEN, "nvidia-driver-590-open"), (PLAIN, "nvidia-driver-580")]
)
def test_the_variants(host: Host, package: str) -> None:
    assert remedy.package(host) == package


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (None, (DRIVER,)),
        ({}, (DRIVER,)),
        (PREBUILT, (DRIVER, f"linux-modules-nvidia-590-server-{K}")),
        (FOLLOWING, (DRIVER, "linux-modules-nvidia-590-server-generic")),
        (FOLLOWING | HEADERS, (DRIVER, "linux-modules-nvidia-590-server-generic")),  # signed ones first
        (DKMS, (DRIVER, "nvidia-dkms-590-server")),
        (HEADERS, (DRIVER, "nvidia-dkms-590-server", "linux-headers-generic", f"linux-headers-{K}")),
        (
            HEADERS | {"linux-modules-nvidia-590-server-generic": ("6.8.0-50.50",)},  # for another kernel than boots
            (DRIVER, "nvidia-dkms-590-server", "linux-headers-generic", f"linux-headers-{K}"),
        ),
    ],
    ids=["driver", "nothing-known", "prebuilt", "metapackage", "both", "dkms", "headers", "other-kernel"],
)
def test_a_fresh_host(versions: Mapping[str, tuple[str, ...]] | None, expected: tuple[str, ...]) -> None:
    evidence = seen(None, offer=offer(versions, lists_age_s=None))
    assert remedy.missing(HOST, bare(), evidence) == expected
    assert driver.blocked(HOST, bare(), evidence, OPTIONS) == []
    [change] = driver.changes(HOST, bare(), evidence, OPTIONS)
    assert (change.sign, change.stops) == ("+", ())
    [step] = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["packages"] == list(expected)
    expect: Any = step.arguments["expect"]
    assert set(expect.values()) == {"590."}
    assert step.arguments["pin"] == {"*nvidia*": "590.*"}
    assert "branch 590" in step.says
    assert driver.will_reboot(HOST, bare(), evidence)
    assert driver.reboot(HOST, bare(), evidence) == ""  # there is nothing yet that a boot would load


def test_the_prebuilt_modules_own_version_is_the_kernels() -> None:
    from fnmatch import fnmatchcase

    names = ("linux-modules-nvidia-590-server-generic", "nvidia-container-toolkit", "libnvidia-container1", "dkms")
    for name in (*names, "libnvidia-container-tools"):
        assert not any(fnmatchcase(name, pattern) for pattern in driver.DRIVER), name
    assert not any(fnmatchcase("libnvidia-container1", pattern) for pattern in driver.OTHERS)
    for name in ("libnvidia-compute-595-server", "nvidia-dkms-590", "nvidia-driver-595", "nvidia-utils-590-server"):
        assert any(fnmatchcase(name, pattern) for pattern in driver.DRIVER), name


def test_the_right_driver_plans_nothing() -> None:
    for facts in (finished(), with_driver("590.48.01", None)):  # not loaded: that is the reboot's
        for evidence in (seen(), seen(Unknown("no modinfo")), Evidence()):
            assert remedy.missing(HOST, facts, evidence) == ()
            assert driver.changes(HOST, facts, evidence, OPTIONS) == []
            assert driver.blocked(HOST, facts, evidence, OPTIONS) == []


def test_another_branch_is_changed_and_says_what_stops() -> None:
    facts = replace(finished(), library_version="595.45.04", module_version="595.45.04")
    [change] = driver.changes(HOST, facts, seen("595.45.04"), OPTIONS)
    assert change.what == "driver 595.45.04 → 590"
    assert change.stops == ("comfy", "ollama")
    assert "boot" in driver.will_reboot(HOST, facts, seen("595.45.04"))
    [step] = change.steps
    assert isinstance(step, Mend)
    remove: Any = step.arguments["may_remove"]
    assert "nvidia-driver-[0-9]*" in remove


def test_5901_is_not_590() -> None:
    assert not remedy.is_branch(HOST, "5901.1")
    assert remedy.is_branch(HOST, "590")
    assert upstream("3:590.48.01-0ubuntu0.24.04.1") == "590.48.01"


OTHER = offer(
    {DRIVER: ("595.45.04-0ubuntu1",)},
    brings=("libnvidia-compute-595-server 595.45.04-0ubuntu1", f"{DRIVER} 595.45.04-0ubuntu1", "dkms 3.0"),
)


def test_a_package_that_would_bring_another_branch_is_refused() -> None:
    [finding] = driver.blocked(HOST, bare(), seen(None, offer=OTHER), OPTIONS)
    assert finding.level == "fail"
    assert finding.text == f"{DRIVER} would bring 595.45.04, not 590: it is not installed"
    assert "libnvidia-compute-595-server 595.45.04" in finding.evidence
    assert "dkms" not in finding.evidence
    assert "gpu.driver" in finding.mend
    assert "gpu.variant" in finding.mend


def test_a_version_of_the_branch_that_apt_knows_too_is_taken() -> None:
    both = offer({DRIVER: ("595.45.04-0ubuntu1", "590.48.01-0ubuntu1")}, brings=OTHER.brings)
    assert driver.blocked(HOST, bare(), seen(None, offer=both), OPTIONS) == []
    assert driver.changes(HOST, bare(), seen(None, offer=both), OPTIONS)


@pytest.mark.parametrize("age", [None, Unknown("x"), 2 * remedy.FRESH_S])
def test_lists_that_are_old_or_not_there_decide_nothing(age: Any) -> None:
    for versions in ({}, {DRIVER: ("595.45.04-0ubuntu1",)}):
        assert driver.blocked(HOST, bare(), seen(None, offer=offer(versions, lists_age_s=age)), OPTIONS) == []


def test_a_package_that_apt_does_not_know() -> None:
    [finding] = driver.blocked(HOST, bare(), seen(None, offer=offer({})), OPTIONS)
    assert f"knows no {DRIVER}" in finding.text
    assert "apt-get update" in finding.mend


def test_a_hold_of_somebody_else_is_his() -> None:
    facts = with_driver("580.1", "580.1")
    theirs = seen("580.1", packages=packages(held=("nvidia-driver-580-server",)))
    [finding] = driver.blocked(HOST, facts, theirs, OPTIONS)
    assert "apt-mark unhold nvidia-driver-580-server" in finding.mend
    assert driver.blocked(HOLDS, facts, theirs, OPTIONS) == []
    [change] = driver.changes(HOLDS, facts, theirs, OPTIONS)
    first = change.steps[0]
    assert isinstance(first, Mend)
    assert "unhold" in first.says


def test_without_lists_the_signed_module_comes_if_there_is_one() -> None:
    [change] = driver.changes(HOST, bare(), seen(None, offer=offer({DRIVER: ()})), OPTIONS)
    [step] = change.steps
    assert isinstance(step, Mend)
    module = "linux-modules-nvidia-590-server"
    assert step.arguments["also"] == {f"{module}-generic": f"{module}-{K}"}
    assert f"and {module}-generic, if apt has it" in step.says
    [change] = driver.changes(HOST, bare(), seen(None), OPTIONS)
    assert getattr(change.steps[-1], "arguments", {})["also"] == {}


def test_a_driver_that_no_package_has_is_not_installed_over() -> None:
    facts = with_driver("580.1", "580.1")
    [finding] = driver.blocked(HOST, facts, seen("580.1"), OPTIONS)
    assert finding.id == "prereqs.driver-by-hand"
    assert "nvidia-uninstall" in finding.mend
    for theirs in ("libnvidia-compute-580", "libnvidia-ml1", "nvidia-driver"):
        assert driver.blocked(HOST, facts, seen("580.1", packages=packages(theirs)), OPTIONS) == []
    assert driver.blocked(HOST, with_driver("590.48.01", "590.48.01"), seen(), OPTIONS) == []


def test_what_nothing_would_mend_is_said() -> None:
    facts = with_driver("590.48.01", "590.48.01")
    [finding] = driver.blocked(HOST, facts, seen(None, offer=offer({})), OPTIONS)
    assert f"kernel {K}, which boots next, has no NVIDIA module" in finding.text
    assert "dkms" in finding.mend
    [finding] = driver.blocked(HOST, facts, seen(None, offer=Unknown("apt-cache: exit 1")), OPTIONS)
    assert finding.level == "unknown"
    assert driver.blocked(HOST, facts, seen(None, offer=None), OPTIONS) == [], "apt's sources are mended first"


def test_lists_that_are_too_old_to_tell_are_fetched_first() -> None:
    facts = with_driver("590.48.01", "590.48.01")
    for age in (None, 2 * remedy.FRESH_S):
        stale = seen(None, offer=offer({}, lists_age_s=age))
        assert driver.blocked(HOST, facts, stale, OPTIONS) == []
        assert driver.changes(HOST, facts, stale, OPTIONS) == []
        assert remedy.needs_lists(HOST, facts, stale)
    assert not remedy.needs_lists(HOST, facts, seen(None, offer=offer({})))


LIBRARY = "libnvidia-compute-590-server"
UBUNTUS = packages(DRIVER, LIBRARY)
BUILT = packages(DRIVER, LIBRARY, "nvidia-dkms-590-server", "nvidia-kernel-source-590-server")
SOURCE = "nvidia-srv/590.48.01"
FOR_OLD = f"{SOURCE}, 6.8.0-40-generic, x86_64: installed"
FOR_NEXT = f"{SOURCE}, {K}, x86_64: installed"
OLDER = "nvidia-srv/590.44.01"
ANY: Mapping[str, tuple[str, ...]] = {**FOLLOWING, **HEADERS}
KERNELS = (f"linux-modules-nvidia-590-server-{K}", "linux-modules-nvidia-590-server-generic")
OPENS = {
    **{name.replace("590-server", "590-open"): versions for name, versions in FOLLOWING.items()},
    **FOLLOWING,
}
Remedy = remedy.Remedy


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), headers=True, offer=offer(ANY)), Remedy(build=SOURCE)),
        (seen(None, packages=BUILT, dkms=(f"{SOURCE}: added",), headers=True, offer=offer(ANY)), Remedy(build=SOURCE)),
        (seen(None, packages=BUILT, dkms=("nvidia, 590.48.01: added",), headers=True),
         Remedy(build="nvidia/590.48.01")),
        (seen(None, packages=BUILT, dkms=(FOR_NEXT,), headers=True, offer=offer(ANY)), Remedy(build=SOURCE)),
        (seen("590.44.01", packages=BUILT, dkms=(f"{OLDER}, {K}, x86_64: installed", FOR_OLD), headers=True),
         Remedy(build=SOURCE)),
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), offer=offer(HEADERS)),
         Remedy(("linux-headers-generic", f"linux-headers-{K}"))),
        (seen(None, packages=packages(*BUILT.installed, "linux-headers-generic"), dkms=(FOR_OLD,),
              offer=offer(HEADERS)),
         Remedy((f"linux-headers-{K}",))),
        (seen(None, packages=packages(*BUILT.installed, *HEADERS), dkms=(FOR_OLD,), offer=offer(HEADERS)),
         Remedy(again=(f"linux-headers-{K}",))),
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), offer=offer(FOLLOWING)), Remedy(KERNELS[1:])),
        (seen(None, packages=BUILT, dkms=Unknown("dkms: exit 1"), headers=True, offer=offer(DKMS)),
         Remedy(again=("nvidia-kernel-source-590-server", "nvidia-dkms-590-server"))),
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), headers=True, offer=offer(ANY), secure_boot=True, mok=False),
         Remedy(KERNELS[1:])),
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), headers=True, offer=offer(ANY), secure_boot=True, mok=True),
         Remedy(build=SOURCE)),
        (seen(None, packages=BUILT, dkms=(), offer=offer(HEADERS)),
         Remedy(("linux-headers-generic", f"linux-headers-{K}"))),
        (seen(None, packages=packages(*BUILT.installed, *HEADERS), dkms=("zfs/2.2.2: added",), offer=offer(HEADERS)),
         Remedy(again=("nvidia-kernel-source-590-server", "nvidia-dkms-590-server"))),
        (seen(None, packages=BUILT, dkms=(f"{SOURCE}: broken",), offer=offer(DKMS)),
         Remedy(again=("nvidia-kernel-source-590-server", "nvidia-dkms-590-server"))),
        (seen(None, packages=packages(*UBUNTUS.installed, KERNELS[1]), offer=offer(ANY)), Remedy(KERNELS[:1])),
        (seen(None, packages=packages(*UBUNTUS.installed, *KERNELS), offer=offer(ANY)), Remedy(again=KERNELS[:1])),
        (seen("580.1", packages=packages(*UBUNTUS.installed, *KERNELS), offer=offer(ANY)), Remedy(again=KERNELS[:1])),
        (seen("580.1", packages=UBUNTUS, offer=offer(ANY)), Remedy(KERNELS[1:])),
        (seen("580.1", packages=packages(*UBUNTUS.installed, *KERNELS), offer=offer(ANY),
              dkms=(f"nvidia/580.1, {K}, x86_64: installed",)), Remedy()),
        (seen(None, packages=packages("nvidia-driver-590-open", "libnvidia-compute-590"), offer=offer(OPENS)),
         Remedy(("linux-modules-nvidia-590-open-generic",))),
        (seen(None, packages=packages("nvidia-open", "libnvidia-compute", "nvidia-driver"), offer=offer(ANY),
              dkms=("nvidia/590.48.01, 6.8.0-40-generic, x86_64: installed",), headers=True),
         Remedy(build="nvidia/590.48.01")),
        (seen(None, packages=packages("nvidia-open", "libnvidia-compute", "nvidia-driver"), offer=offer(ANY)),
         Remedy()),
        (seen(None, packages=BUILT, dkms=(FOR_OLD,), offer=offer(DKMS)), Remedy()),
    ],
    ids=["built for the old kernel", "added", "named as dkms did", "gone from the disk", "an older one is installed",
         "no headers", "not this kernel's headers", "headers without files", "headers that apt does not know",
         "dkms says nothing", "Secure Boot", "Secure Boot with our key", "dkms knows nothing", "only zfs", "broken",
         "held back", "lost", "another version, lost", "another branch", "another branch in front", "open",
         "NVIDIA's repository", "NVIDIA's repository without dkms", "nothing to build with"],
)  # fmt: skip
def test_how_the_next_kernel_gets_its_module(evidence: Evidence, expected: remedy.Remedy) -> None:
    """Whatever is the matter with it: the command that a finding names does something about it, or says what to do."""
    facts = with_driver("590.48.01", "590.48.01")
    assert remedy.remedy(HOST, facts, evidence) == expected
    blocked = driver.blocked(HOST, facts, evidence, OPTIONS)
    planned = driver.changes(HOST, facts, evidence, OPTIONS)
    assert bool(blocked) != bool(planned), "one or the other"
    assert all(finding.mend and K in finding.text for finding in blocked)


def test_headers_are_nothing_of_the_drivers() -> None:
    """Packages of the driver that are held are not in their way."""
    held = packages("nvidia-kernel-source-590-server", "nvidia-dkms-590-server", held=(DRIVER, LIBRARY))
    evidence = seen(None, packages=held, dkms=(FOR_OLD,), offer=offer(HEADERS))
    for host in (HOST, HOLDS):
        assert driver.blocked(host, finished(), evidence, OPTIONS) == []
        [change] = driver.changes(host, finished(), evidence, OPTIONS)
        assert len(change.steps) == 1


def test_what_dkms_has_left_in_front_is_named() -> None:
    there = packages(*UBUNTUS.installed, *KERNELS)
    evidence = seen("580.1", packages=there, offer=offer(ANY), dkms=(f"nvidia/580.1, {K}, x86_64: installed",))
    [finding] = driver.blocked(HOST, finished(), evidence, OPTIONS)
    assert f"sudo dkms remove nvidia/580.1 -k {K}" in finding.mend
    evidence = seen(None, packages=BUILT, dkms=(FOR_OLD,), offer=offer(DKMS))
    [finding] = driver.blocked(HOST, finished(), evidence, OPTIONS)
    assert "without that kernel's headers" in finding.text


def test_a_library_that_its_package_has_lost_is_put_back() -> None:
    there = seen(None, packages=packages(DRIVER, LIBRARY), offer=offer(FOLLOWING))
    assert remedy.remedy(HOST, bare(), there) == Remedy(again=(LIBRARY,))
    [change] = driver.changes(HOST, bare(), there, OPTIONS)
    [step] = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["again"] is True
    assert "again" in step.says


def test_a_package_that_has_become_another_branch_is_taken_back() -> None:
    """nvidia-driver-590-server is installed, at 595."""
    facts = replace(finished(), library_version="595.45.04", module_version="595.45.04")
    both = offer({**FOLLOWING, DRIVER: ("595.45.04-0ubuntu1", "590.48.01-0ubuntu1")})
    there = seen("595.45.04", packages=packages(DRIVER, LIBRARY, *KERNELS), offer=both)
    assert remedy.missing(HOST, facts, there) == (DRIVER,)
    assert driver.blocked(HOST, facts, there, OPTIONS) == []
    [change] = driver.changes(HOST, facts, there, OPTIONS)
    assert change.what == "driver 595.45.04 → 590"
    [finding] = driver.blocked(HOST, facts, replace(there, driver_offer=OTHER), OPTIONS)
    assert finding.id == "prereqs.driver-offer"


def test_what_secure_boot_refuses_is_not_rebooted_for() -> None:
    facts = with_driver("590.48.01", None)
    mine: dict[str, Any] = {"secure_boot": True, "mok": False, "signer": "prometheus Secure Boot Module Signature key"}
    [finding] = driver.blocked(HOST, facts, seen(**mine), OPTIONS)
    assert "mokutil --import /var/lib/shim-signed/mok/MOK.der" in finding.mend
    assert "invoke reboot --host prometheus" in finding.mend
    [finding] = driver.blocked(HOST, facts, seen(secure_boot=True, mok=True, dkms=(FOR_NEXT,)), OPTIONS)
    assert "nobody has signed it" in finding.text
    assert f"sudo dkms install --force {SOURCE} -k {K}" in finding.mend
    for fine in (
        {**mine, "mok": True},
        {**mine, "mok": Unknown("mokutil: not there")},
        {**mine, "mok_asked": True},
        {**mine, "secure_boot": False},
        {**mine, "signer": "Canonical Ltd. Kernel Module Signing"},
        {**mine, "signer": "of our own key"},
    ):
        assert driver.blocked(HOST, facts, seen(**fine), OPTIONS) == [], fine
    assert driver.blocked(HOST, finished(), seen(**mine), OPTIONS) == [], "it is loaded: somebody enrolled it"


def test_a_library_that_cannot_be_read_is_not_a_missing_one() -> None:
    facts = with_driver(Unknown("its name shows no version"), None)
    assert driver.changes(HOST, facts, seen(), OPTIONS) == []
    assert [f.level for f in driver.blocked(HOST, facts, seen(), OPTIONS)] == ["unknown"]


def test_the_next_kernel_has_no_module() -> None:
    facts = finished()
    evidence = seen(None, offer=offer(FOLLOWING), packages=packages(DRIVER))
    assert remedy.missing(HOST, facts, evidence) == ("linux-modules-nvidia-590-server-generic",)
    [change] = driver.changes(HOST, facts, evidence, OPTIONS)
    assert K in change.what
    assert driver.will_reboot(HOST, facts, evidence) == "", "what is loaded is right"
    built = seen(None, offer=offer(HEADERS), dkms=("nvidia/590.48.01: added",), headers=True,
                 packages=packages(DRIVER, *HEADERS))  # fmt: skip
    [change] = driver.changes(HOST, facts, built, OPTIONS)
    [step] = change.steps
    assert isinstance(step, Run)
    assert step.argv == ("dkms", "install", "--force", "nvidia/590.48.01", "-k", K)
    other = seen("580.1", offer=offer(HEADERS), packages=packages(DRIVER))
    assert remedy.missing(HOST, facts, other)[0] == "nvidia-dkms-590-server"


@pytest.mark.parametrize(
    ("library", "loaded", "said"),
    [
        ("590.48.01", "590.48.01", ""),
        ("590.48.01", None, "the driver 590.48.01 is installed, and its kernel module is not loaded"),
        ("590.48.01", "580.1", "the kernel has module 580.1 loaded, the installed driver is 590.48.01"),
        (None, None, ""),
        (Unknown("x"), None, ""),
    ],
)
def test_when_a_reboot_is_needed(library: Any, loaded: Any, said: str) -> None:
    assert driver.reboot(HOST, with_driver(library, loaded), Evidence()) == said


def test_what_is_held() -> None:
    evidence = seen(None, offer=offer(FOLLOWING))
    assert driver.holds(HOST, bare(), evidence) == (DRIVER, "libnvidia-compute-590-server"), "the module follows"
    there = seen(packages=packages(DRIVER, "libnvidia-compute-590-server"), offer=None)
    assert driver.holds(HOST, finished(), there) == (DRIVER, "libnvidia-compute-590-server")
    there = seen(packages=packages("nvidia-driver-590-open", "libnvidia-compute-590"), offer=None)
    for host in (OPEN, HOST):  # what is there, whatever variant hosts.toml asks for
        assert driver.holds(host, finished(), there) == ("nvidia-driver-590-open", "libnvidia-compute-590")


# ---- the toolkit


def test_the_toolkit() -> None:
    [change] = toolkit.changes(HOST, bare(), seen(None), OPTIONS)
    [step] = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["packages"] == ["nvidia-container-toolkit"]
    assert toolkit.present(HOST, bare(), seen(None))
    assert toolkit.after(HOST, bare(), seen(None), OPTIONS) == []
    assert toolkit.changes(HOST, finished(), seen(), OPTIONS) == []
    unknown = replace(bare(), toolkit=Unknown("nvidia-ctk: exit 1"))
    assert [f.level for f in toolkit.blocked(HOST, unknown, Evidence(), OPTIONS)] == ["unknown"]
    assert toolkit.blocked(HOST, unknown, seen(packages=packages("nvidia-container-toolkit")), OPTIONS)
    assert toolkit.missing(HOST, unknown, seen()) == ("nvidia-container-toolkit",), "dpkg knows"


def test_a_driver_without_nvidia_smi_gets_the_package_that_has_it() -> None:
    """nvidia-headless-590 is a driver, and has none."""
    without = replace(finished(), nvidia_smi=None)
    assert remedy.missing(HOST, without, seen()) == ("nvidia-utils-590-server",)
    there = seen(packages=packages("nvidia-utils-590-server"))
    assert remedy.remedy(HOST, without, there) == Remedy(again=("nvidia-utils-590-server",))
    assert remedy.missing(HOST, finished(), seen()) == ()
    assert not driver.will_reboot(HOST, without, seen())


def test_half_of_the_toolkit_is_not_the_toolkit() -> None:
    """nvidia-ctk is in the -base package, the hook that dockerd looks for is not."""
    half = seen(packages=packages("nvidia-container-toolkit-base"))
    assert toolkit.missing(HOST, finished(), half) == ("nvidia-container-toolkit",)
    whole = seen(packages=packages("nvidia-container-toolkit-base", "nvidia-container-toolkit"))
    assert toolkit.missing(HOST, finished(), whole) == ()
    assert toolkit.missing(HOST, finished(), Evidence()) == ()


def test_the_cdi_specification_comes_when_the_driver_is_loaded() -> None:
    [change] = toolkit.after(HOST, finished(), seen(), OPTIONS)
    [step] = change.steps
    assert isinstance(step, Run)
    assert step.argv == ("nvidia-ctk", "cdi", "generate", "--output=/etc/cdi/nvidia.yaml")
    unit = Unit("inactive", "dead", "success", "", 0, "enabled")
    [change] = toolkit.after(HOST, finished(), seen(units={toolkit.REFRESH: unit}), OPTIONS)
    [step] = change.steps
    assert isinstance(step, Run)
    assert step.argv == ("systemctl", "restart", "nvidia-cdi-refresh.service")


def test_no_cdi_specification_is_made_for_a_driver_that_is_not_loaded() -> None:
    facts: Any = finished()
    there = replace(facts, docker=replace(facts.docker, cdi=("/var/run/cdi/nvidia.yaml",)))
    assert toolkit.after(HOST, there, seen(), OPTIONS) == []
    assert toolkit.after(HOST, replace(facts, module_version=None), seen(), OPTIONS) == []
    assert toolkit.after(HOST, replace(facts, nvml=Unknown("NVML: driver not loaded")), seen(), OPTIONS) == []
    assert toolkit.after(HOST, replace(facts, toolkit=None), seen(), OPTIONS) == []


STATIC, MADE_AT_BOOT = "/etc/cdi/nvidia.yaml", "/var/run/cdi/nvidia.yaml"


@pytest.mark.parametrize(
    ("specs", "enabled", "expected"),
    [
        ((CdiSpec(STATIC, ("590.48.01",)),), "", []),
        ((CdiSpec(STATIC),), "", []),  # of no library: nobody can tell
        ((CdiSpec(STATIC, ("590.44.01",)), CdiSpec(MADE_AT_BOOT, ("590.48.01",))), "", []),  # the latter goes before
        ((), "", [f"nvidia-ctk cdi generate --output={STATIC}"]),  # somebody else's devices are no card of NVIDIA's
        ((), "enabled", ["systemctl restart nvidia-cdi-refresh.service"]),
        ((CdiSpec(STATIC, ("590.44.01",)),), "enabled", ["systemctl restart nvidia-cdi-refresh.service"]),
        (
            (CdiSpec("/etc/cdi/my card.json", ("590.44.01",)),),
            "masked",
            [
                "cp -a --backup=numbered -T -- '/etc/cdi/my card.json' '/etc/cdi/my card.json.before-pantheon'",
                "nvidia-ctk cdi generate '--output=/etc/cdi/my card.json'",
            ],
        ),
    ],
)
def test_a_specification_of_an_earlier_driver_is_made_anew(
    specs: tuple[CdiSpec, ...], enabled: str, expected: list[str]
) -> None:
    facts: Any = finished()
    facts = replace(facts, docker=replace(facts.docker, cdi=("/etc/cdi/some.yaml",)))
    units = {toolkit.REFRESH: Unit("inactive", "dead", "success", "", 0, enabled)} if enabled else {}
    found = toolkit.after(HOST, facts, seen(cdi=specs, units=units), OPTIONS)
    assert [step.show() for change in found for step in change.steps] == expected
    assert all(change.sign == ("~" if specs else "+") for change in found)
    assert toolkit.after(HOST, facts, seen(cdi=Unknown("denied"), units=units), OPTIONS) == []
