"""The kernels of a host with the NVIDIA module that each would load, and what apt would bring as the driver: parts of
the evidence (evidence.py) that only installing, rebooting and the audit ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.facts import Maybe


@dataclass(frozen=True)
class Kernel:
    """An installed kernel. `module` is the version of its NVIDIA module (None: it has none), `signer` who signed that,
    `headers`: what dkms needs to build one is there."""

    release: str
    module: Maybe[str]
    signer: str = ""
    headers: bool = False


@dataclass(frozen=True)
class Kernels:
    """`next` is the release that boots next, as far as the boot loader's files tell; `dkms` the lines of its status
    (None: no dkms). `secure_boot`: None where the firmware has none; `mok`: whether the key with which this host signs
    modules is enrolled (None: it has no such key); `mok_asked`: somebody has asked for that, and the console of the
    next boot asks back."""

    running: str
    next: Maybe[str]
    installed: tuple[Kernel, ...] = ()
    dkms: Maybe[tuple[str, ...]] = None
    secure_boot: Maybe[bool] = None
    mok: Maybe[bool] = None
    mok_asked: bool = False

    @property
    def next_kernel(self) -> Kernel | None:
        """The kernel that boots next; None where that is not known."""
        return next((kernel for kernel in self.installed if kernel.release == self.next), None)

    def refuses(self, kernel: Kernel) -> bool:
        """Whether Secure Boot will not let its module in: nobody has signed it, or this host has, with its own key, and
        nobody has enrolled that. False where it is not known."""
        ours = self.mok is False and "secure boot module signature" in kernel.signer.lower()
        return self.secure_boot is True and (ours or not kernel.signer) and not self.mok_asked


@dataclass(frozen=True)
class Offer:
    """What apt knows, by the lists it has, of the driver that hosts.toml asks for. `versions` are those of each package
    that was asked about, newest first, () for a package that apt does not know; `brings` what installing `package`
    would install now, as "NAME VERSION"; `lists_age_s` how old the lists are (None: there are none)."""

    package: str
    kernel: str  # that boots next
    flavour: str  # of its metapackage: "generic", "generic-hwe-24.04"; "" where that is not known
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    brings: Maybe[tuple[str, ...]] = None
    lists_age_s: Maybe[float] = None
