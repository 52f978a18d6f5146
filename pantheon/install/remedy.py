"""What mends a driver that is not as hosts.toml has it, or a kernel without its module: packages, the same ones again,
a module that dkms builds, or newer lists of packages.

Where the driver is there already and only a kernel has no module, the module comes from where the others came: its
variant and its packaging may be others than those of hosts.toml, and are left as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pantheon.evidence import Evidence
from pantheon.facts import Facts, Unknown
from pantheon.inventory import Host
from pantheon.kernels import Kernels, Offer
from pantheon.packages import Packages

FRESH_S = 3600.0  # lists of packages that are older may not know yet what there is
HEADS = ("nvidia-driver", "nvidia-headless", "nvidia-headless-no-dkms", "nvidia-dkms")
NOT_UBUNTUS = ("nvidia-driver", "nvidia-open", "libnvidia-compute", "libnvidia-ml1", "nvidia-kernel-dkms")
NAMED = re.compile(r"(nvidia[\w-]*)(?:/|, *)(\d[\w.]*)")  # a line of dkms's status, from its version 3 on and before


def name(host: Host) -> str:
    """What Ubuntu's packages of this driver end in: 590-server."""
    return f"{host.gpu.driver}-{host.gpu.variant}" if host.gpu.variant else host.gpu.driver


def package(host: Host) -> str:
    """nvidia-driver-590-server."""
    return f"nvidia-driver-{name(host)}"


def is_branch(host: Host, version: str) -> bool:
    return version == host.gpu.driver or version.startswith(f"{host.gpu.driver}.")


# ---- what there is


def offer_of(evidence: Evidence) -> Offer | None:
    return evidence.driver_offer if isinstance(evidence.driver_offer, Offer) else None


def next_module(evidence: Evidence) -> tuple[str, str | Unknown | None]:
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
    release, module = next_module(evidence)
    if module is None:
        return f"kernel {release}, which boots next, has no NVIDIA module"
    if isinstance(module, str) and module != library:
        return f"kernel {release}, which boots next, has module {module}, the driver is {library}"
    return "nvidia-smi, which belongs to the driver, is not there" if facts.nvidia_smi is None else ""


def is_installed(evidence: Evidence, package_name: str) -> bool:
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
    if library is None and is_installed(evidence, package(host)):
        return Remedy(again=tuple(each for each in (_library(host), package(host)) if is_installed(evidence, each))[:1])
    if library is None or not is_branch(host, library):
        # The package itself in any case: installed, it may be one that has become another branch.
        modules = _modules(evidence, name(host))
        return Remedy((package(host), *(each for each in modules if not is_installed(evidence, each))))
    _, module = next_module(evidence)
    if module is None or (isinstance(module, str) and module != library):
        found = _module_remedy(host, evidence, library)
        return Remedy(look=True) if found == Remedy() and not is_fresh(evidence) else found
    utils = f"nvidia-utils-{(ending_of(host, evidence) or name(host)).removesuffix('-open')}"
    return Remedy(again=(utils,)) if is_installed(evidence, utils) else Remedy((utils,))


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages to install; () when the driver is there, in its branch, with a module for the next boot."""
    return remedy(host, facts, evidence).install


def needs_lists(host: Host, facts: Facts, evidence: Evidence) -> bool:
    """Whether apt is to fetch its lists: to install from, or to tell what there is at all."""
    mends = remedy(host, facts, evidence)
    return bool(mends.install or mends.again or mends.look)


def _library(host: Host) -> str:
    return f"libnvidia-compute-{name(host).removesuffix('-open')}"  # open is the module alone


def ending_of(host: Host, evidence: Evidence) -> str:
    """What the packages of the installed driver end in, if they are Ubuntu's: 590-open, where hosts.toml may ask for
    590-server. "" where they are named otherwise, as those of NVIDIA's own repository."""
    ours = [host.gpu.driver + variant for variant in ("", "-server", "-open", "-server-open")]
    there = [each for each in ours if any(is_installed(evidence, f"{head}-{each}") for head in HEADS)]
    if not there and any(is_installed(evidence, each) for each in NOT_UBUNTUS):
        return ""
    return name(host) if name(host) in there or not there else there[0]


def _known_packages(evidence: Evidence) -> set[str]:
    offer = offer_of(evidence)
    return {each for each, versions in offer.versions.items() if versions} if offer else set()


def _headers(evidence: Evidence) -> tuple[str, ...]:
    """The packages with the headers of the kernel that boots next, of those that apt knows."""
    offer, known = offer_of(evidence), _known_packages(evidence)
    names = [f"linux-headers-{tail}" for tail in (offer.flavour, offer.kernel) if tail] if offer else []
    return tuple(each for each in names if each in known)


def _prebuilt(evidence: Evidence, ending: str) -> tuple[str, ...]:
    """The package with the module that Ubuntu has built for the kernel that boots next; where that follows the kernel
    and is there already, the one for this kernel alone."""
    offer, known = offer_of(evidence), _known_packages(evidence)
    head = f"linux-modules-nvidia-{ending}"
    if offer is None or not ending or f"{head}-{offer.kernel}" not in known:
        return ()
    follows = f"{head}-{offer.flavour}"
    comes = offer.flavour and follows in known and not is_installed(evidence, follows)
    return (follows,) if comes else (f"{head}-{offer.kernel}",)


def _modules(evidence: Evidence, ending: str) -> tuple[str, ...]:
    """The packages that bring the module for the kernel that boots next, of those that apt knows."""
    dkms = f"nvidia-dkms-{ending}"
    built = (dkms, *_headers(evidence)) if dkms in _known_packages(evidence) else ()
    return _prebuilt(evidence, ending) or built


def _module_remedy(host: Host, evidence: Evidence, library: str) -> Remedy:
    """What gets the kernel that boots next its module of that version."""
    kernels, ending = evidence.kernels, ending_of(host, evidence)
    source = dkms_source(evidence, library)
    kernel = kernels.next_kernel if isinstance(kernels, Kernels) else None
    signed = isinstance(kernels, Kernels) and kernels.secure_boot is True and kernels.mok is not True
    ready = _prebuilt(evidence, ending)
    if source and not (signed and ready):
        if kernel is not None and kernel.headers:
            return Remedy(build=source)
        headers = _headers(evidence)
        if headers:
            new = tuple(each for each in headers if not is_installed(evidence, each))
            return Remedy(new) if new else Remedy(again=headers[-1:])
    if offer_of(evidence) is None:
        return Remedy()  # what apt has is not known yet, or cannot be
    if ready and not in_front(evidence):
        new = tuple(each for each in ready if not is_installed(evidence, each))
        return Remedy(new) if new else Remedy(again=ready)
    names = _modules(evidence, ending) if not ready else ()
    if new := tuple(each for each in names if not is_installed(evidence, each)):
        return Remedy(new)
    heads = () if source or ready else ("nvidia-kernel-source", "nvidia-dkms")
    return Remedy(again=tuple(f"{head}-{ending}" for head in heads if is_installed(evidence, f"{head}-{ending}")))


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


def in_front(evidence: Evidence) -> str:
    """A module of dkms's, in another version, that the kernel which boots next would take before Ubuntu's own; "" for
    none."""
    release, module = next_module(evidence)
    same = (each for each, version, line in _dkms(evidence) if version == module and release in re.split(", *", line))
    return next(same, "")


def is_fresh(evidence: Evidence) -> bool:
    """Whether apt's lists tell what there is. Where it is not known what apt would bring, newer ones would not help."""
    offer = offer_of(evidence)
    return offer is None or (isinstance(offer.lists_age_s, float | int) and offer.lists_age_s < FRESH_S)


def perhaps(host: Host, evidence: Evidence) -> dict[str, str]:
    """The module that Ubuntu has built and signed, where apt has no lists yet to tell whether there is one: else dkms
    would build one, which Secure Boot refuses."""
    offer = offer_of(evidence)
    if offer is None or any(offer.versions.values()):
        return {}
    prebuilt = f"linux-modules-nvidia-{name(host)}"
    return {f"{prebuilt}-{offer.flavour or offer.kernel}": f"{prebuilt}-{offer.kernel}"}
