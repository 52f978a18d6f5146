"""The driver's library and its kernel module differ: it was upgraded under the running kernel (DOMAIN.md, NVIDIA)."""

from __future__ import annotations

import shlex

from pantheon import foreign, reboot, service
from pantheon.facts import Command, OsRelease, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import SectionPlan

ID = "driver-mismatch"
CAUSE = (
    "The NVIDIA driver was upgraded (most often by unattended upgrades) while its kernel module was loaded: the "
    "library is the new one, the module in the kernel the old one. Only a reboot loads the new module."
)
RISK = (
    "Reboots the host, and only with --reboot: everything that runs there ends, for 1 to 5 minutes. The stack comes "
    "back by itself and is waited for. No package is changed, no file is touched."
)
SOURCE = "DOMAIN.md, NVIDIA"
TEXTS = ("version mismatch", "api mismatch", "but this kernel module has the version")
MODULES = "linux-modules-nvidia-"
HELD = ("nvidia-driver-", "nvidia-dkms-", MODULES, "libnvidia-compute-", "nvidia-kernel-")


def diagnose(case: Case) -> list[Finding]:
    """One finding when they differ, by their versions or in the driver's own words; warnings about what a reboot would
    not bring back."""
    seen = _seen(case)
    if not seen:
        return []
    text = "the driver was upgraded under the running kernel: a reboot mends it"
    if _stays(case):
        text = f"the driver was upgraded, and its module for the next boot is {case.evidence.next_module or 'missing'}"
    required = case.evidence.reboot_required
    evidence = "; ".join([*seen, *([required] if isinstance(required, str) else [])])
    explains = ["prereqs.gpu", "prereqs.driver", "prereqs.module", "prereqs.nvidia-smi", "gpu-lost.*"]
    for name in SERVICES[:2]:
        container = foreign.named(case.facts, name)
        up = container is not None and container.state == "running" and container.health in ("healthy", None)
        fine = up or (container is not None and service.stopped_by_hand(container))
        explains += [f"{name}.gpu"] if fine else [f"{name}.*", "comfy-first-run.*", "openwebui-ollama.*"]
    mend = command(case, ID)
    found = Finding(f"{ID}.driver", "fail", text, evidence, mend, SOURCE, explains=tuple(dict.fromkeys(explains)))
    return [found, *_hold(case), *reboot.losses(case.host, case.facts, case.evidence, prefix=ID)]


def _seen(case: Case) -> list[str]:
    facts = case.facts
    module, library = facts.module_version, facts.library_version
    seen = []
    if isinstance(module, str) and isinstance(library, str) and module != library:
        seen.append(f"kernel module {module}, library {library}")
    if isinstance(facts.nvidia_smi, Command) and facts.nvidia_smi.status:
        seen += [line.strip() for line in facts.nvidia_smi.output.splitlines() if _speaks(line)]
    if isinstance(facts.nvml, Unknown) and _speaks(facts.nvml.reason):
        seen.append(facts.nvml.reason)
    if seen and isinstance(case.evidence.kernel_log, tuple):
        seen += [line for line in case.evidence.kernel_log if _speaks(line)][-1:]
    return seen


def _speaks(line: str) -> bool:
    low = line.lower()
    return any(text in low for text in TEXTS) or "(code 18)" in low


def _stays(case: Case) -> bool:
    """Whether the next boot would load another version than the library's: its module was not built or installed."""
    module, library = case.evidence.next_module, case.facts.library_version
    if isinstance(module, Unknown) or not isinstance(library, str):
        return False
    return module != library if module is not None else _says_none(case)


def _says_none(case: Case) -> bool:
    """Evidence that was not gathered reads as None too: a missing module is believed where packages are known."""
    return any(name.startswith(HELD) for name in case.evidence.installed)


def _hold(case: Case) -> list[Finding]:
    """The driver's packages, by dpkg's record. Ubuntu's modules are not held: they follow the kernel, which would boot
    without one else."""
    found = case.evidence.installed.items()
    held = tuple(head for head in HELD if head != MODULES)
    names = sorted(name for name, version in found if isinstance(version, str) and name.startswith(held))
    if not names:
        return []
    hold = f"sudo apt-mark hold {shlex.join(names)}"
    text = "nothing keeps it from happening again: hold the driver's packages, and upgrade them with a reboot at hand"
    return [Finding(f"{ID}.hold", "warn", text, hold, case.host.ssh(hold), SOURCE)]


def plan(case: Case) -> SectionPlan:
    """A reboot, where the operator asked for one; else what runs there, and the command that does it."""
    host, facts, evidence = case.host, case.facts, case.evidence
    if not _seen(case):
        return SectionPlan(ID, reason="the driver's library and its kernel module are of one version")
    blocked = reboot.obstacles(host, evidence, prefix=ID)
    if _stays(case):
        blocked.append(_reinstall(case))
    if not isinstance(facts.os, OsRelease):
        text = f"in which boot {host.name} is: not known"
        why = facts.os.reason if isinstance(facts.os, Unknown) else ""
        blocked.append(Finding(f"{ID}.boot", "unknown", text, why, f"invoke diagnose --host {host.name}"))
    if not blocked and not case.choices.reboot:
        blocked.append(_ask(case))
    if blocked:
        return SectionPlan(ID, blocked=tuple(blocked), reboots=True)
    change = reboot.change(host, facts, why="; ".join(_seen(case)))
    return SectionPlan(ID, (change,), starts=change.stops, reboots=True)


def _ask(case: Case) -> Finding:
    ends = reboot.others(case.host, case.facts, case.evidence)
    evidence = f"it would end besides the stack: {'; '.join(ends)}" if ends else "nothing else is known to run there"
    text = "a reboot mends it, and is done only with --reboot"
    return Finding(f"{ID}.reboot", "fail", text, evidence, command(case, ID, "--reboot"), SOURCE)


def _reinstall(case: Case) -> Finding:
    library, module = case.facts.library_version, case.evidence.next_module or "missing"
    text = f"a reboot would not mend it: the library is {library}, the module for the next boot is {module}"
    mend = f"invoke prereqs --install --reboot --host {case.host.name}"
    return Finding(f"{ID}.module", "fail", text, f"modinfo nvidia: {module}", mend, SOURCE)
