"""Will the host, with the stack on it, be there after a reboot? A finding for each thing that decides it, the good ones
included: `fail` forbids the reboot, `warn` is said before the question."""

from __future__ import annotations

from pantheon import foreign, reboot
from pantheon.evidence import Evidence
from pantheon.facts import Entry, Facts, Unknown
from pantheon.finding import Finding, Level
from pantheon.install import driver, toolkit
from pantheon.inventory import Host
from pantheon.kernels import Kernel, Kernels
from pantheon.packages import Packages

ID = "reboot"
PARTS = ("units", "installing", "fstab", "logged_in", "kernels", "packages", "reboot_required", "busy")
MOST = 5


def check(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """What must hold, in the order of the boot: packages, kernel and driver, disks, engine, containers."""
    found = [*_packages(host, evidence), *_module(host, facts, evidence), *_holds(host, facts, evidence)]
    return [
        *found,
        *_disks(host, facts, evidence),
        *_engine(host, facts, evidence),
        *_containers(host, facts, evidence),
    ]


def _finding(key: str, level: Level, text: str, evidence: str = "", mend: str = "") -> Finding:
    return Finding(f"{ID}.{key}", level, text, evidence, mend)


def _install(host: Host) -> str:
    return f"invoke prereqs --install --host {host.name}"


def _packages(host: Host, evidence: Evidence) -> list[Finding]:
    found = reboot.obstacles(host, evidence, prefix=ID)
    packages = evidence.packages
    if found:
        return found
    if not isinstance(packages, Packages):
        why = packages.reason if isinstance(packages, Unknown) else "no dpkg"
        return [_finding("dpkg", "unknown", "whether packages are half-way installed: not known", why)]
    if isinstance(packages.holder, str):
        text = f"packages are being changed on {host.name}: a reboot now could leave it unable to boot"
        return [
            _finding("installing", "fail", text, packages.holder, "wait for it to end, then the same command again")
        ]
    if packages.broken or packages.interrupted:
        names = ", ".join(packages.broken[:MOST]) + (", .." if len(packages.broken) > MOST else "")
        text = "dpkg stopped half-way: the host may not boot with what it left"
        return [_finding("dpkg", "fail", text, names or "dpkg's journal has entries", _install(host))]
    return [_finding("dpkg", "ok", "no package is half-way installed")]


def _module(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    library, kernels = facts.library_version, evidence.kernels
    if library is None:
        return []  # no driver: there is nothing that could be lost
    kernel = kernels.next_kernel if isinstance(kernels, Kernels) else None
    if kernel is None or isinstance(kernel.module, Unknown) or isinstance(library, Unknown):
        doubts = [library, kernel.module if kernel else None, kernels, getattr(kernels, "next", None)]
        why = next((doubt.reason for doubt in doubts if isinstance(doubt, Unknown)), "")
        text = "whether the kernel that boots next has the driver's module: not known"
        return [_finding("module", "unknown", text, why, host.ssh("modinfo -F version nvidia"))]
    said = f"modinfo -k {kernel.release} nvidia: {kernel.module or 'not found'}"
    if kernel.module is None:
        text = f"kernel {kernel.release}, which boots next, has no NVIDIA module: there would be no GPU"
        return [_finding("module", "fail", text, said, _install(host))]
    if kernel.module != library:
        text = f"kernel {kernel.release} boots next with module {kernel.module}, and the driver is {library}"
        return [_finding("module", "fail", text, said, _install(host))]
    text = f"driver {library} has its module for kernel {kernel.release}, which boots next"
    assert isinstance(kernels, Kernels)
    return [_finding("module", "ok", text, said), *_signed(host, kernels, kernel)]


def _signed(host: Host, kernels: Kernels, kernel: Kernel) -> list[Finding]:
    """With Secure Boot a module that this host has built is loaded only if its key was enrolled at the console."""
    if kernels.secure_boot is not True or "canonical" in kernel.signer.lower():
        return []
    if kernels.mok is True and kernel.signer:
        return []
    text = "Secure Boot is on, and the key that signed the driver's module is not known to be enrolled"
    said, mend = f"signer: {kernel.signer or 'none'}", host.ssh("mokutil --list-enrolled")
    if kernels.mok_asked:
        text = "Secure Boot: the boot asks at the console whether to enrol the key of the driver's module (Enroll MOK)"
        mend = "be at the console then: it goes on without after ten seconds, and the driver is not loaded"
    elif kernels.refuses(kernel):
        text = "Secure Boot will refuse the driver's module: the key that signed it is not enrolled"
        mend = f"{host.ssh(f'sudo mokutil --import {driver.MOK}')}, then this again, and at the console Enroll MOK"
    return [_finding("signed", "warn", text, said, mend)]


def _holds(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    if not host.install.hold or not isinstance(evidence.packages, Packages):
        return []
    installed = evidence.packages.installed
    wanted = [*driver.holds(host, facts, evidence), *toolkit.holds(host, facts, evidence)]
    loose = [name for name in wanted if name in installed and not installed[name].held]
    if loose:
        text = "hosts.toml says that these are held, and they are not"
        return [_finding("hold", "warn", text, ", ".join(loose), _install(host))]
    return [_finding("hold", "ok", "the driver's packages are held")]


def _disks(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    found = [finding for finding in reboot.losses(host, facts, evidence, prefix=ID) if finding.id == f"{ID}.fstab"]
    if not isinstance(evidence.fstab, tuple):
        return found
    listed = {line.target.rstrip("/"): line for line in evidence.fstab if line.comes}
    for path in dict.fromkeys((host.storage.nvme, host.storage.ssd)):
        at = facts.paths.get(path)
        if isinstance(at, Entry) and at.is_mount and path in listed:
            by = listed[path].unit or "/etc/fstab"
            found.append(_finding("fstab", "ok", f"{path} is mounted at boot", f"{by}: {listed[path].source}"))
    return found


def _engine(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    known = reboot.engine_units(evidence)
    if known and reboot.starts_engine(evidence):
        return [_finding("docker", "ok", "Docker is started at boot", ", ".join(known))]
    return [finding for finding in reboot.losses(host, facts, evidence, prefix=ID) if finding.id == f"{ID}.docker"]


def _containers(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    found = [finding for finding in reboot.losses(host, facts, evidence, prefix=ID) if finding.id == f"{ID}.restart"]
    ours = [container for container in reboot.running(facts) if foreign.is_ours(host, container)]
    back = [container.name for container in ours if container.restart_policy in reboot.COMES_BACK]
    if back and reboot.starts_engine(evidence):
        verb = "comes back by itself" if len(back) == 1 else "come back by themselves"
        found.append(_finding("restart", "ok", f"{', '.join(sorted(back))} {verb}"))
    return found
