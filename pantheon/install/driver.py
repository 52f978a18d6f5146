"""The NVIDIA driver of the branch that hosts.toml names (procedure §2), from Ubuntu's packages.

The branch is never believed by a package's name: the metapackages of one branch may pull another (DOMAIN.md, NVIDIA).
Before anything is installed apt's own simulation must bring that branch alone; afterwards the library's file and the
module of the kernel that boots next are looked at.

The module is Ubuntu's own, signed and prebuilt for the kernel, where there is one (linux-modules-nvidia-BRANCH-FLAVOUR,
which follows the kernel's upgrades); else dkms builds it, with the kernel's headers: the order of Ubuntu's server
documentation. Where the driver is there already and only a kernel has no module, the module comes from where the others
came: its variant and its packaging may be others than those of hosts.toml, and are left as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
HEADS = ("nvidia-driver", "nvidia-headless", "nvidia-headless-no-dkms", "nvidia-dkms")
NOT_UBUNTUS = ("nvidia-driver", "nvidia-open", "libnvidia-compute", "libnvidia-ml1", "nvidia-kernel-dkms")
NAMED = re.compile(r"(nvidia[\w-]*)(?:/|, *)(\d[\w.]*)")  # a line of dkms's status, from its version 3 on and before
MOK = "/var/lib/shim-signed/mok/MOK.der"


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


def _is_installed(evidence: Evidence, package_name: str) -> bool:
    if not isinstance(evidence.packages, Packages):
        return False
    found = evidence.packages.installed.get(package_name)
    return found is not None and found.status == "installed"


# ---- what mends it


@dataclass(frozen=True)
class Remedy:
    """Packages to install; installed ones to install again, since something of theirs is gone; a module, as dkms names
    it, to be built; apt's lists, which are too old to tell. At most one of these; none where nothing would help."""

    install: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    build: str = ""
    look: bool = False


def remedy(host: Host, facts: Facts, evidence: Evidence) -> Remedy:
    """What mends what `wanted` says."""
    library = facts.library_version
    if not wanted(host, facts, evidence) or isinstance(library, Unknown):
        return Remedy()
    if library is None and _is_installed(evidence, package(host)):
        return Remedy(
            again=tuple(each for each in (_library(host), package(host)) if _is_installed(evidence, each))[:1]
        )
    if library is None or not is_branch(host, library):
        # The package itself in any case: installed, it may be one that has become another branch.
        modules = _modules(evidence, name(host))
        return Remedy((package(host), *(each for each in modules if not _is_installed(evidence, each))))
    _, module = _next_module(evidence)
    if module is None or (isinstance(module, str) and module != library):
        found = _module_remedy(host, evidence, library)
        return Remedy(look=True) if found == Remedy() and not is_fresh(evidence) else found
    utils = f"nvidia-utils-{(_ending(host, evidence) or name(host)).removesuffix('-open')}"
    return Remedy(again=(utils,)) if _is_installed(evidence, utils) else Remedy((utils,))


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages to install; () when the driver is there, in its branch, with a module for the next boot."""
    return remedy(host, facts, evidence).install


def needs_lists(host: Host, facts: Facts, evidence: Evidence) -> bool:
    """Whether apt is to fetch its lists: to install from, or to tell what there is at all."""
    mends = remedy(host, facts, evidence)
    return bool(mends.install or mends.again or mends.look)


def _library(host: Host) -> str:
    return f"libnvidia-compute-{name(host).removesuffix('-open')}"  # open is the module alone


def _ending(host: Host, evidence: Evidence) -> str:
    """What the packages of the installed driver end in, if they are Ubuntu's: 590-open, where hosts.toml may ask for
    590-server. "" where they are named otherwise, as those of NVIDIA's own repository."""
    ours = [host.gpu.driver + variant for variant in ("", "-server", "-open", "-server-open")]
    there = [each for each in ours if any(_is_installed(evidence, f"{head}-{each}") for head in HEADS)]
    if not there and any(_is_installed(evidence, each) for each in NOT_UBUNTUS):
        return ""
    return name(host) if name(host) in there or not there else there[0]


def _known_packages(evidence: Evidence) -> set[str]:
    offer = _offer(evidence)
    return {each for each, versions in offer.versions.items() if versions} if offer else set()


def _headers(evidence: Evidence) -> tuple[str, ...]:
    """The packages with the headers of the kernel that boots next, of those that apt knows."""
    offer, known = _offer(evidence), _known_packages(evidence)
    names = [f"linux-headers-{tail}" for tail in (offer.flavour, offer.kernel) if tail] if offer else []
    return tuple(each for each in names if each in known)


def _prebuilt(evidence: Evidence, ending: str) -> tuple[str, ...]:
    """The package with the module that Ubuntu has built for the kernel that boots next; where that follows the kernel
    and is there already, the one for this kernel alone."""
    offer, known = _offer(evidence), _known_packages(evidence)
    head = f"linux-modules-nvidia-{ending}"
    if offer is None or not ending or f"{head}-{offer.kernel}" not in known:
        return ()
    follows = f"{head}-{offer.flavour}"
    comes = offer.flavour and follows in known and not _is_installed(evidence, follows)
    return (follows,) if comes else (f"{head}-{offer.kernel}",)


def _modules(evidence: Evidence, ending: str) -> tuple[str, ...]:
    """The packages that bring the module for the kernel that boots next, of those that apt knows."""
    dkms = f"nvidia-dkms-{ending}"
    built = (dkms, *_headers(evidence)) if dkms in _known_packages(evidence) else ()
    return _prebuilt(evidence, ending) or built


def _module_remedy(host: Host, evidence: Evidence, library: str) -> Remedy:
    """What gets the kernel that boots next its module of that version."""
    kernels, ending = evidence.kernels, _ending(host, evidence)
    source = dkms_source(evidence, library)
    kernel = kernels.next_kernel if isinstance(kernels, Kernels) else None
    signed = isinstance(kernels, Kernels) and kernels.secure_boot is True and kernels.mok is not True
    ready = _prebuilt(evidence, ending)
    if source and not (signed and ready):
        if kernel is not None and kernel.headers:
            return Remedy(build=source)
        headers = _headers(evidence)
        if headers:
            new = tuple(each for each in headers if not _is_installed(evidence, each))
            return Remedy(new) if new else Remedy(again=headers[-1:])
    if _offer(evidence) is None:
        return Remedy()  # what apt has is not known yet, or cannot be
    if ready and not _in_front(evidence):
        new = tuple(each for each in ready if not _is_installed(evidence, each))
        return Remedy(new) if new else Remedy(again=ready)
    names = _modules(evidence, ending) if not ready else ()
    if new := tuple(each for each in names if not _is_installed(evidence, each)):
        return Remedy(new)
    heads = () if source or ready else ("nvidia-kernel-source", "nvidia-dkms")
    return Remedy(again=tuple(f"{head}-{ending}" for head in heads if _is_installed(evidence, f"{head}-{ending}")))


def dkms_source(evidence: Evidence, library: str) -> str:
    """The driver of that version as dkms names it, if it has it: nvidia-srv/590.48.01."""
    return next((module for module, version, _ in _dkms(evidence) if version == library), "")


def _dkms(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The lines of dkms about the driver: its name there, its version, and the line."""
    lines = evidence.kernels.dkms if isinstance(evidence.kernels, Kernels) else None
    matches = (
        [(re.match(NAMED, line), line) for line in lines if "broken" not in line] if isinstance(lines, tuple) else []
    )
    return [(f"{match[1]}/{match[2]}", match[2], line) for match, line in matches if match]


def _in_front(evidence: Evidence) -> str:
    """A module of dkms's, in another version, that the kernel which boots next would take before Ubuntu's own; "" for
    none."""
    release, module = _next_module(evidence)
    same = (each for each, version, line in _dkms(evidence) if version == module and release in re.split(", *", line))
    return next(same, "")


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
    offer = _offer(evidence)
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
    library, (release, _) = str(facts.library_version), _next_module(evidence)
    if front := _in_front(evidence):
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
    text = f"Secure Boot refuses the driver's module for kernel {kernel.release}: its key is not enrolled"
    said = f"signer: {kernel.signer or 'none'}; {MOK} is not enrolled"
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


def is_fresh(evidence: Evidence) -> bool:
    """Whether apt's lists tell what there is. Where it is not known what apt would bring, newer ones would not help."""
    offer = _offer(evidence)
    return offer is None or (isinstance(offer.lists_age_s, float | int) and offer.lists_age_s < FRESH_S)


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
    also = _perhaps(host, evidence) if mends.install else {}
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
        what = f"the driver's module for kernel {_next_module(evidence)[0]}"
        what = f"the driver's nvidia-smi: {', '.join(names)}" if facts.nvidia_smi is None else what
    stops = _stops(host, facts) if sign == "~" else ()
    return [Change(what, why, tuple(steps), stops=stops, sign="~" if sign == "~" else "+")]


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


def _build(evidence: Evidence, source: str, why: str) -> Change:
    """All packages are there and the module is not: dkms has not built it, or failed to. By its own name: others that
    dkms has, and cannot build, are none of ours; --force, where it thinks that it is there."""
    release, _ = _next_module(evidence)
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
    ending = _ending(host, evidence) if package(host) not in coming else name(host)
    library = f"libnvidia-compute-{ending.removesuffix('-open')}"
    if package(host) in coming:
        coming = (*coming, library)  # on which it depends
    ours = (f"nvidia-driver-{ending}", library, f"nvidia-dkms-{ending}")
    return tuple(each for each in ours if each in coming or _is_installed(evidence, each))


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
