"""The NVIDIA driver of the branch that hosts.toml names (procedure §2), from Ubuntu's packages.

The branch is never believed by a package's name: the metapackages of one branch may pull another (DOMAIN.md, NVIDIA).
Before anything is installed apt's own simulation must bring that branch alone; afterwards the library's file and the
module of the kernel that boots next are looked at.

The module is Ubuntu's own, signed and prebuilt for the kernel, where there is one (linux-modules-nvidia-BRANCH-FLAVOUR,
which follows the kernel's upgrades); else dkms builds it, with the kernel's headers: the order of Ubuntu's server
documentation. What is missing, and what brings it, is remedy.py's to say.
"""

from __future__ import annotations

import shlex
from fnmatch import fnmatchcase

from pantheon import foreign
from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.install.remedy import (
    Remedy,
    dkms_source,
    ending_of,
    in_front,
    is_branch,
    is_fresh,
    is_installed,
    missing,
    name,
    next_module,
    offer_of,
    package,
    perhaps,
    remedy,
    wanted,
)
from pantheon.inventory import Host
from pantheon.kernels import Kernels, Offer
from pantheon.options import Options
from pantheon.packages import Packages, upstream
from pantheon.plan import Change, Run

SOURCE = "procedure §2"
GPU_SERVICES = ("comfy", "ollama")
BUILD_S = 30 * 60
# What carries the driver's version in its own. (Prebuilt modules carry the kernel's.)
DRIVER = (
    *("nvidia-driver-[0-9]*", "nvidia-dkms-[0-9]*", "nvidia-kernel-source-[0-9]*", "nvidia-kernel-common-[0-9]*"),
    *("nvidia-utils-[0-9]*", "nvidia-compute-utils-[0-9]*", "nvidia-firmware-[0-9]*", "libnvidia-*-[0-9]*"),
)
# What may have to go for it: the packages of another branch.
OTHERS = (
    *DRIVER,
    *("linux-modules-nvidia-*", "linux-objects-nvidia-*", "linux-signatures-nvidia-*"),
    *("xserver-xorg-video-nvidia-[0-9]*", "nvidia-headless-*", "nvidia-prime", "nvidia-settings"),
)
# What the library comes with, whoever packaged it: Ubuntu, Debian, NVIDIA's own repository.
PACKAGED = ("nvidia-driver", "nvidia-headless", "libnvidia-compute", "libnvidia-ml")
MOK = "/var/lib/shim-signed/mok/MOK.der"


# ---- what is in the way


def _finding(key: str, level: str, text: str, evidence: str, mend: str) -> Finding:
    return Finding(f"prereqs.{key}", "unknown" if level == "unknown" else "fail", text, evidence, mend, SOURCE)


def blocked(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """Why the driver cannot be installed, before anything is touched."""
    del options
    library = facts.library_version
    if isinstance(library, Unknown):
        text = "which driver is installed: not known"
        return [_finding("driver", "unknown", text, library.reason, host.ssh("ldconfig -p | grep nvidia-ml"))]
    mends = remedy(host, facts, evidence)
    if mends == Remedy():
        return [*_left(host, facts, evidence), *_refused(host, facts, evidence)]
    if not mends.install and not mends.again:
        return []
    offer = offer_of(evidence)
    if _is_headers((*mends.install, *mends.again)):
        return []
    found = [_held(host, evidence), _by_hand(host, library, evidence)]
    there = isinstance(library, str) and is_branch(host, library)
    offered = any(is_branch(host, upstream(v)) for v in _known(offer, package(host))) if offer else True
    if offer and is_fresh(evidence) and package(host) in mends.install and not there and not offered:
        found.append(_not_offered(host, offer))
    return [finding for finding in found if finding]


def _is_headers(names: tuple[str, ...]) -> bool:
    return all(each.startswith("linux-headers-") for each in names)


def _left(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """What is wrong with the driver, where there is nothing to install and nothing to build that would mend it."""
    why = wanted(host, facts, evidence)
    offer = evidence.driver_offer
    if not why or offer is None:
        return []
    if isinstance(offer, Unknown):
        text = f"{why}, and what apt has for it is not known"
        return [_finding("driver-offer", "unknown", text, offer.reason, host.ssh("sudo apt-get update"))]
    library, (release, _) = str(facts.library_version), next_module(evidence)
    if front := in_front(evidence):
        text = f"{why}: dkms has put it there, where it comes before any other"
        return [_finding("driver", "fail", text, front, host.ssh(f"sudo dkms remove {front} -k {release}"))]
    if source := dkms_source(evidence, library):
        text = f"{why}: dkms has {source}, and cannot build it without that kernel's headers, which apt does not know"
        mend = f"boot a kernel of Ubuntu's: {host.ssh('sudo apt-get install linux-generic')}"
        return [_finding("driver", "fail", text, f"linux-headers-{release}", mend)]
    text = f"{why}, and apt on {host.name} knows nothing to install for it"
    mend = "the module must be built as the driver was installed (dkms, or NVIDIA's .run file)"
    return [_finding("driver", "fail", text, "", mend)]


def _refused(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """A module that is there, and that Secure Boot will not let in: another reboot would not change that."""
    kernels = evidence.kernels
    if facts.module_version is not None or facts.library_version is None or not isinstance(kernels, Kernels):
        return []
    kernel = kernels.next_kernel
    if kernel is None or not isinstance(kernel.module, str) or not kernels.refuses(kernel):
        return []
    text = f"Secure Boot refuses the driver's module for kernel {kernel.release}"
    if not kernel.signer:
        again = shlex.join(("dkms", "install", "--force", dkms_source(evidence, kernel.module), "-k", kernel.release))
        mend = host.ssh(f"sudo update-secureboot-policy --new-key && sudo {again}")
        return [_finding("driver-signed", "fail", f"{text}: nobody has signed it", "signer: none", mend)]
    text, said = f"{text}: its key is not enrolled", f"signer: {kernel.signer}; {MOK} is not enrolled"
    mend = f"{host.ssh(f'sudo mokutil --import {MOK}')}; then {_reboot(host)}, and at its console Enroll MOK"
    return [_finding("driver-signed", "fail", text, said, mend)]


def _reboot(host: Host) -> str:
    return f"invoke reboot --host {host.name}"


def _by_hand(host: Host, library: str | None, evidence: Evidence) -> Finding | None:
    """A driver that no package has: installed over it, the files of two would be mixed."""
    if library is None or not isinstance(evidence.packages, Packages):
        return None
    if any(each.startswith(PACKAGED) for each in evidence.packages.installed):
        return None
    text = f"the driver {library} is there, and no package has it: it was put there by hand"
    mend = f"remove it as it was installed (NVIDIA's .run file: {host.ssh('sudo nvidia-uninstall')})"
    return _finding("driver-by-hand", "fail", text, "", f"{mend}, then the same command again")


def _known(offer: Offer, package_name: str) -> tuple[str, ...]:
    return offer.versions.get(package_name, ())


def _not_offered(host: Host, offer: Offer) -> Finding:
    """apt knows the package not at all, or in other branches alone."""
    others = f'hosts.toml: gpu.driver, or another gpu.variant than "{host.gpu.variant}"'
    versions = [upstream(version) for version in _known(offer, offer.package)]
    if not versions:
        text = f"apt on {host.name} knows no {offer.package}"
        age = f"its lists of packages are {float(str(offer.lists_age_s)) / 3600:.1f} h old"
        return _finding("driver-offer", "fail", text, age, f"{host.ssh('sudo apt-get update')}; {others}")
    coming = ", ".join(_wrong(host, offer)[:3]) or versions[0]
    text = f"{offer.package} would bring {versions[0]}, not {host.gpu.driver}: it is not installed"
    said = f"apt-get -s install {offer.package}: {coming}"
    branch = versions[0].partition(".")[0]
    mend = f'{others}; "{branch}" takes what it brings. If apt has newer lists: {host.ssh("sudo apt-get update")}'
    return _finding("driver-offer", "fail", text, said, mend)


def _wrong(host: Host, offer: Offer) -> list[str]:
    """What the simulation brings of another branch."""
    found = []
    for line in offer.brings if isinstance(offer.brings, tuple) else ():
        what, _, version = line.partition(" ")
        if any(fnmatchcase(what, pattern) for pattern in DRIVER) and not is_branch(host, upstream(version)):
            found.append(f"{what} {upstream(version)}")
    return found


def _held(host: Host, evidence: Evidence) -> Finding | None:
    """Packages of the driver that somebody holds: they stay as they are until he says otherwise."""
    if not isinstance(evidence.packages, Packages) or host.install.hold:
        return None
    held = [
        each
        for each, about in evidence.packages.installed.items()
        if about.held and any(fnmatchcase(each, pattern) for pattern in OTHERS)
    ]
    if not held:
        return None
    text = "packages of the driver are held, and hosts.toml does not say so (install.hold)"
    mend = host.ssh(f"sudo apt-mark unhold {' '.join(sorted(held))}")
    return _finding("driver-held", "fail", text, ", ".join(sorted(held)), mend)


# ---- what is done


def changes(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """The driver's packages, or its module built again for the kernel that boots next."""
    del options
    mends = remedy(host, facts, evidence)
    why = f"{wanted(host, facts, evidence)} (§2)"
    if mends.build:
        return [_build(evidence, mends.build, why)]
    names = mends.install or mends.again
    if not names:
        return []
    expect = dict.fromkeys(DRIVER, f"{host.gpu.driver}.")
    also = perhaps(host, evidence) if mends.install else {}
    says = f"install {', '.join(names)}{' again' if mends.again else ''}: of branch {host.gpu.driver} or not at all"
    says += f"; and {', '.join(also)}, if apt has it" if also else ""
    pin = {"*nvidia*": f"{host.gpu.driver}.*"}
    held = () if _is_headers(names) else let_go(host, evidence)
    steps = [apt.unhold(held)] if held else []
    again = bool(mends.again)
    steps.append(apt.install(names, expect=expect, may_remove=OTHERS, says=says, pin=pin, also=also, again=again))
    library = facts.library_version
    what, sign = (f"driver {library} → {host.gpu.driver}", "~") if isinstance(library, str) else (_what(host), "+")
    if isinstance(library, str) and is_branch(host, library):
        what = f"the driver's module for kernel {next_module(evidence)[0]}"
        what = f"the driver's nvidia-smi: {', '.join(names)}" if facts.nvidia_smi is None else what
    stops = _stops(host, facts) if sign == "~" else ()
    return [Change(what, why, tuple(steps), stops=stops, sign="~" if sign == "~" else "+")]


def _what(host: Host) -> str:
    variant = f" ({host.gpu.variant})" if host.gpu.variant else ""
    return f"NVIDIA driver {host.gpu.driver}{variant}"


def let_go(host: Host, evidence: Evidence) -> tuple[str, ...]:
    """What is held, as hosts.toml says, and must not be while the driver is changed."""
    if not isinstance(evidence.packages, Packages) or not host.install.hold:
        return ()
    installed = evidence.packages.installed
    return tuple(n for n, about in installed.items() if about.held and any(fnmatchcase(n, p) for p in OTHERS))


def _build(evidence: Evidence, source: str, why: str) -> Change:
    """All packages are there and the module is not: dkms has not built it, or failed to. By its own name: others that
    dkms has, and cannot build, are none of ours; --force, where it thinks that it is there."""
    release, _ = next_module(evidence)
    step = Run(("dkms", "install", "--force", source, "-k", release), timeout_s=BUILD_S)
    return Change(f"the driver's module built for kernel {release}", why, (step,), sign="+")


def _stops(host: Host, facts: Facts) -> tuple[str, ...]:
    """The services on the GPU that run: what they have open is of the old driver, and they end with the reboot."""
    found = []
    for service in GPU_SERVICES:
        container = foreign.named(facts, service)
        if container is not None and container.state == "running" and foreign.is_ours(host, container):
            found.append(service)
    return tuple(found)


def holds(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages whose upgrade would change the driver under a running stack: the metapackage, the library that it
    pins, and what dkms builds the module from. What brings Ubuntu's own modules is let go on: it follows the kernel,
    which would boot without a module else, and cannot come in another version than the driver's."""
    coming = missing(host, facts, evidence)
    ending = ending_of(host, evidence) if package(host) not in coming else name(host)
    library = f"libnvidia-compute-{ending.removesuffix('-open')}"
    if package(host) in coming:
        coming = (*coming, library)  # on which it depends
    ours = (f"nvidia-driver-{ending}", library, f"nvidia-dkms-{ending}")
    return tuple(each for each in ours if each in coming or is_installed(evidence, each))


# ---- the reboot


def reboot(host: Host, facts: Facts, evidence: Evidence) -> str:
    """Why the host must be rebooted now, "" when not: only a boot loads another module."""
    del host, evidence
    library, loaded = facts.library_version, facts.module_version
    if not isinstance(library, str) or isinstance(loaded, Unknown):
        return ""
    if loaded is None:
        return f"the driver {library} is installed, and its kernel module is not loaded"
    if loaded != library:
        return f"the kernel has module {loaded} loaded, the installed driver is {library}"
    return ""


def will_reboot(host: Host, facts: Facts, evidence: Evidence) -> str:
    """Why a reboot will be needed when the changes are made, "" when not."""
    library = facts.library_version
    if missing(host, facts, evidence) and not (isinstance(library, str) and is_branch(host, library)):
        return "the new driver's kernel module is loaded by a boot"
    return reboot(host, facts, evidence)
