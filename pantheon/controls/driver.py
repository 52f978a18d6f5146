"""The NVIDIA driver: its branch, what is loaded, and what the next boot will load (procedure §2, system page)."""

from __future__ import annotations

from pantheon.circumstances import Cards
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import command, missing, of, passed, unknown
from pantheon.facts import Nvml, Unknown
from pantheon.incident import Case
from pantheon.kernels import Kernel, Kernels
from pantheon.sections import prereqs

PROPRIETARY_RULES = (
    "The system page says proprietary driver. NVIDIA's open kernel module is part of the same driver, from the same "
    "vendor: hosts.toml (gpu.variant) says which of the two; nouveau is neither."
)


def branch(case: Case) -> Verdict:
    """What runs, not what the package is called: nvidia-driver-590 may bring 595 (DOMAIN.md)."""
    nvml = case.facts.nvml
    if nvml is None:
        return Verdict("fail", "no NVIDIA driver is installed", command(case, "prereqs", "--install", "--reboot"))
    if not isinstance(nvml, Nvml):
        return unknown(nvml, mend=command(case, "prereqs"))
    return of(case, prereqs.check(case.host, case.facts), "prereqs.driver")


def module(case: Case) -> Verdict:
    return of(case, prereqs.check(case.host, case.facts), "prereqs.module")


def vendor(case: Case) -> Verdict:
    found = case.evidence.cards
    if not isinstance(found, Cards):
        return unknown(found)
    others = [f"{card.address} ({card.ids}) has {card.driver}" for card in found.cards
              if card.driver not in ("", "nvidia", "vfio-pci")]  # fmt: skip
    if found.nouveau:
        others.append("the module nouveau is loaded")
    install = command(case, "prereqs", "--install", "--reboot")
    if others and isinstance(case.facts.module_version, str):  # both are loaded: nothing is to be installed
        line = "echo blacklist nouveau | sudo tee /etc/modprobe.d/no-nouveau.conf && sudo update-initramfs -u"
        return Verdict("fail", "; ".join(others), f"{case.host.ssh(line)}  (then: {command(case, 'reboot')})")
    if others:
        return Verdict("fail", "; ".join(others), install)
    if case.facts.module_version is None:
        return Verdict("fail", "NVIDIA's module is not loaded", install)
    if not found.module and isinstance(case.facts.module_version, Unknown):
        return unknown(case.facts.module_version)
    return passed(found.module or f"module nvidia {case.facts.module_version}")


def running_kernel(case: Case) -> Verdict:
    found = case.evidence.kernels
    loaded = case.facts.module_version
    if isinstance(loaded, str):
        name = found.running if isinstance(found, Kernels) else "the running kernel"
        return passed(f"{name}: module {loaded} is loaded")
    if not isinstance(found, Kernels):
        return unknown(found)
    kernel = next((kernel for kernel in found.installed if kernel.release == found.running), None)
    return _built(case, kernel, found.running, "--reboot")


def next_kernel(case: Case) -> Verdict:
    """An upgrade of the kernel without the driver's module for it is found out at the next boot, or here."""
    found = case.evidence.kernels
    if not isinstance(found, Kernels):
        return unknown(found)
    if not isinstance(found.next, str):
        return unknown(missing(found.next, "which kernel boots next is not known"))
    return _built(case, found.next_kernel, found.next)


def _built(case: Case, kernel: Kernel | None, release: str, *more: str) -> Verdict:
    built = kernel.module if kernel else Unknown(f"kernel {release} is not among those that are installed")
    library, mend = case.facts.library_version, command(case, "prereqs", "--install", *more)
    if isinstance(built, Unknown):
        return unknown(built, mend=mend)
    if built is None:
        return Verdict("fail", f"kernel {release} has no NVIDIA module", mend)
    if isinstance(library, str) and library != built:
        return Verdict("fail", f"kernel {release}: module {built}, and the driver's library is {library}", mend)
    return passed(f"kernel {release}: module {built}")


CONTROLS = (
    Control("driver.branch", "The driver is of the branch that the procedure names, as in hosts.toml", "high",
            "procedure §2", branch),
    Control("driver.module", "The driver is loaded, and its module and library are of one version", "high",
            "procedure §2; system page, Known Limitations", module),
    Control("driver.vendor", "The card is driven by NVIDIA's own driver, not by nouveau", "medium",
            "system page, Hardware", vendor, PROPRIETARY_RULES),
    Control("driver.running-kernel", "The driver's module is built for the running kernel", "high",
            "system page, Known Limitations", running_kernel),
    Control("driver.next-kernel", "The driver's module is built for the kernel that boots next", "high",
            "system page, Known Limitations", next_kernel),
)  # fmt: skip
