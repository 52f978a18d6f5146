"""The NVIDIA driver of the branch that hosts.toml names (procedure §2), from Ubuntu's packages.

The branch is never believed by a package's name: the metapackages of one branch may pull another (DOMAIN.md, NVIDIA).
Before anything is installed apt's own simulation must bring that branch alone; afterwards the library's file and the
module of the kernel that boots next are looked at.

The module is Ubuntu's own, signed and prebuilt for the kernel, where there is one (linux-modules-nvidia-BRANCH-FLAVOUR,
which follows the kernel's upgrades); else dkms builds it, with the kernel's headers: the order of Ubuntu's server
documentation.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pantheon import foreign
from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.inventory import Host
from pantheon.kernels import Kernels, Offer
from pantheon.options import Options
from pantheon.packages import Packages
from pantheon.plan import Change, Run

SOURCE = "procedure §2"
FRESH_S = 3600.0  # lists of packages that are older may not know yet what there is
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


def name(host: Host) -> str:
    """What Ubuntu's packages of this driver end in: 590-server."""
    return f"{host.gpu.driver}-{host.gpu.variant}" if host.gpu.variant else host.gpu.driver


def package(host: Host) -> str:
    """nvidia-driver-590-server."""
    return f"nvidia-driver-{name(host)}"


def upstream(version: str) -> str:
    """The driver's version in a package's: 590.48.01 of 590.48.01-0ubuntu0.24.04.1."""
    return version.partition(":")[2].partition("-")[0] if ":" in version else version.partition("-")[0]


def is_branch(host: Host, version: str) -> bool:
    return version == host.gpu.driver or version.startswith(f"{host.gpu.driver}.")


# ---- what there is


def _offer(evidence: Evidence) -> Offer | None:
    return evidence.driver_offer if isinstance(evidence.driver_offer, Offer) else None


def _next_module(evidence: Evidence) -> tuple[str, str | Unknown | None]:
    """The kernel that boots next, and the version of the driver's module for it (None: it has none)."""
    kernels = evidence.kernels
    if not isinstance(kernels, Kernels):
        return "", kernels if isinstance(kernels, Unknown) else Unknown("not looked at")
    kernel = kernels.next_kernel
    if kernel is None:
        return "", kernels.next if isinstance(kernels.next, Unknown) else Unknown("which kernel boots next")
    return kernel.release, kernel.module


def wanted(host: Host, facts: Facts, evidence: Evidence) -> str:
    """Why packages of the driver are to be installed, "" when not."""
    library = facts.library_version
    if isinstance(library, Unknown):
        return ""
    if library is None:
        return "no NVIDIA driver is installed"
    if not is_branch(host, library):
        return f"the driver is {library}, hosts.toml asks for {host.gpu.driver}"
    release, module = _next_module(evidence)
    if module is None:
        return f"kernel {release}, which boots next, has no NVIDIA module"
    if isinstance(module, str) and module != library:
        return f"kernel {release}, which boots next, has module {module}, the driver is {library}"
    return "nvidia-smi, which belongs to the driver, is not there" if facts.nvidia_smi is None else ""


def _modules(host: Host, evidence: Evidence) -> tuple[str, ...]:
    """The packages that bring the module for the kernel that boots next, of those that apt knows."""
    offer = _offer(evidence)
    if offer is None:
        return ()
    known = {each for each, versions in offer.versions.items() if versions}
    prebuilt = f"linux-modules-nvidia-{name(host)}"
    if f"{prebuilt}-{offer.kernel}" in known:
        follows = f"{prebuilt}-{offer.flavour}"
        return (follows,) if offer.flavour and follows in known else (f"{prebuilt}-{offer.kernel}",)
    dkms = f"nvidia-dkms-{name(host)}"
    if dkms not in known:
        return ()
    headers = (f"linux-headers-{tail}" for tail in (offer.flavour, offer.kernel) if tail)
    return (dkms, *(each for each in headers if each in known))


def _is_installed(evidence: Evidence, package_name: str) -> bool:
    if not isinstance(evidence.packages, Packages):
        return False
    found = evidence.packages.installed.get(package_name)
    return found is not None and found.status == "installed"


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages to install; () when the driver is there, in its branch, with a module for the next boot."""
    if not wanted(host, facts, evidence):
        return ()
    library = facts.library_version
    change = not isinstance(library, str) or not is_branch(host, library)
    names = (package(host), *_modules(host, evidence)) if change else _modules(host, evidence)
    if not change and facts.nvidia_smi is None:
        names = (*names, f"nvidia-utils-{name(host)}")
    return tuple(each for each in names if not _is_installed(evidence, each))


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
    if not missing(host, facts, evidence):
        return _left(host, facts, evidence)
    offer = _offer(evidence)
    found = [_held(host, evidence), _by_hand(host, library, evidence)]
    if offer and _is_fresh(offer) and not any(is_branch(host, upstream(v)) for v in _known(offer, package(host))):
        found.append(_not_offered(host, offer))
    return [finding for finding in found if finding]


def _left(host: Host, facts: Facts, evidence: Evidence) -> list[Finding]:
    """What is wrong with the driver, where there is nothing to install and nothing to build that would mend it."""
    why = wanted(host, facts, evidence)
    offer = evidence.driver_offer
    if not why or offer is None or _build(host, facts, evidence):
        return []
    if isinstance(offer, Unknown):
        text = f"{why}, and what apt has for it is not known"
        return [_finding("driver-offer", "unknown", text, offer.reason, host.ssh("sudo apt-get update"))]
    mend = "the module must be built as the driver was installed (dkms, or NVIDIA's .run file)"
    ours = (f"nvidia-dkms-{name(host)}", package(host))  # the first of them builds the module
    if there := [each for each in ours if _is_installed(evidence, each)]:
        mend = host.ssh(f"sudo apt-get install --reinstall {there[0]}")
    text = f"{why}, and apt on {host.name} knows nothing to install for it"
    return [_finding("driver", "fail", text, "", f"{host.ssh('sudo apt-get update')}; else {mend}")]


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


def _is_fresh(offer: Offer) -> bool:
    return isinstance(offer.lists_age_s, float | int) and offer.lists_age_s < FRESH_S


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
    names = missing(host, facts, evidence)
    why = wanted(host, facts, evidence)
    if not names:
        return _build(host, facts, evidence) if why else []
    expect = dict.fromkeys(DRIVER, f"{host.gpu.driver}.")
    also = _perhaps(host, evidence)
    says = f"install {', '.join(names)}: of branch {host.gpu.driver} or not at all"
    says += f"; and {', '.join(also)}, if apt has it" if also else ""
    pin = {"*nvidia*": f"{host.gpu.driver}.*"}
    held = let_go(host, evidence)
    steps = [apt.unhold(held)] if held else []
    steps.append(apt.install(names, expect=expect, may_remove=OTHERS, says=says, pin=pin, also=also))
    library = facts.library_version
    what, sign = (f"driver {library} → {host.gpu.driver}", "~") if isinstance(library, str) else (_what(host), "+")
    if isinstance(library, str) and is_branch(host, library):
        what = f"the driver's module for kernel {_next_module(evidence)[0]}"
    stops = _stops(host, facts) if sign == "~" else ()
    return [Change(what, f"{why} (§2)", tuple(steps), stops=stops, sign="~" if sign == "~" else "+")]


def _perhaps(host: Host, evidence: Evidence) -> dict[str, str]:
    """The module that Ubuntu has built and signed, where apt has no lists yet to tell whether there is one: else dkms
    would build one, which Secure Boot refuses."""
    offer = _offer(evidence)
    if offer is None or any(offer.versions.values()):
        return {}
    prebuilt = f"linux-modules-nvidia-{name(host)}"
    return {f"{prebuilt}-{offer.flavour or offer.kernel}": f"{prebuilt}-{offer.kernel}"}


def _what(host: Host) -> str:
    variant = f" ({host.gpu.variant})" if host.gpu.variant else ""
    return f"NVIDIA driver {host.gpu.driver}{variant}"


def let_go(host: Host, evidence: Evidence) -> tuple[str, ...]:
    """What is held, as hosts.toml says, and must not be while the driver is changed."""
    if not isinstance(evidence.packages, Packages) or not host.install.hold:
        return ()
    installed = evidence.packages.installed
    return tuple(n for n, about in installed.items() if about.held and any(fnmatchcase(n, p) for p in OTHERS))


def _build(host: Host, facts: Facts, evidence: Evidence) -> list[Change]:
    """All packages are there and the module is not: dkms has not built it, or failed to."""
    del host, facts
    release, _ = _next_module(evidence)
    if not isinstance(evidence.kernels, Kernels) or not isinstance(evidence.kernels.dkms, tuple):
        return []
    step = Run(("dkms", "autoinstall", "-k", release), timeout_s=BUILD_S)
    why = f"kernel {release}, which boots next, has no NVIDIA module (§2)"
    return [Change(f"the driver's module built for kernel {release}", why, (step,), sign="+")]


def _stops(host: Host, facts: Facts) -> tuple[str, ...]:
    """The services on the GPU that run: what they have open is of the old driver, and they end with the reboot."""
    found = []
    for service in GPU_SERVICES:
        container = foreign.named(facts, service)
        if container is not None and container.state == "running" and foreign.is_ours(host, container):
            found.append(service)
    return tuple(found)


def holds(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages whose upgrade would change the driver under a running stack: the metapackage and the library that
    it pins, and what brings the module."""
    coming = missing(host, facts, evidence)
    library = f"libnvidia-compute-{name(host).removesuffix('-open')}"  # open is the module alone
    if package(host) in coming:
        coming = (*coming, library)  # on which it depends
    ours: tuple[str, ...] = (package(host), library, f"nvidia-dkms-{name(host)}")
    ours += tuple(each for each in _modules(host, evidence) if each.startswith("linux-modules-nvidia-"))
    return tuple(dict.fromkeys(each for each in ours if each in coming or _is_installed(evidence, each)))


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
