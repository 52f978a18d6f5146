"""Another card, one that has logged errors, one that nothing can be asked of."""

from __future__ import annotations

from lab.machine import Lab
from lab.violations import Violation

CONF = "/run/lab/gpu.conf"  # the card that the stand-in library shows (lab/gpu)


def says(lab: Lab, *lines: str) -> None:
    """The card is another in this."""
    lab.sh('mkdir -p /run/lab; for line in "$@"; do printf "%s\\n" "$line" >>' + CONF + "; done", *lines)


def unsay(lab: Lab) -> None:
    lab.sh(f"rm -f {CONF}")


def hide_smi(lab: Lab) -> None:
    lab.sh("mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.away")


def show_smi(lab: Lab) -> None:
    lab.sh("[ ! -e /usr/bin/nvidia-smi.away ] || mv /usr/bin/nvidia-smi.away /usr/bin/nvidia-smi")


VIOLATIONS = (
    Violation("hw.gpu", "NVIDIA RTX A4000", lambda lab: says(lab, "name=NVIDIA RTX A4000"), unsay),
    Violation("hw.gpu-errors", "3 uncorrected", lambda lab: says(lab, "ecc=on", "ecc_uncorrected=3"), unsay),
    Violation("hw.nvidia-smi", "nvidia-smi is not installed", hide_smi, show_smi),
)

IMPOSSIBLE = {"hw.disks": "a container has the workstation's disks, of which its kernel says no kind"}
