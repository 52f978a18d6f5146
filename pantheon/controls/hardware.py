"""The hardware: the card, and the disks (procedure §2 and §3, system page)."""

from __future__ import annotations

import re

from pantheon.circumstances import Drive
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import command, not_applicable, not_checkable, of, passed, unknown
from pantheon.facts import Nvml, Unknown
from pantheon.fixes import gpu_lost
from pantheon.incident import Case
from pantheon.sections import prereqs
from pantheon.upkeep import Clock

XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+)", re.IGNORECASE)
GPU_RULES = (
    "The procedure says RTX 4000 Ada Generation, the system page RTX A4000 Ada, a card that there is not (RTX A4000 is "
    "Ampere). The procedure rules, being authoritative; the name is the one that the driver itself gives."
)


def gpu(case: Case) -> Verdict:
    return of(case, prereqs.check(case.host, case.facts), "prereqs.gpu")


def nvidia_smi(case: Case) -> Verdict:
    found = prereqs.check(case.host, case.facts)
    smi = case.facts.nvidia_smi
    if any(finding.id == "prereqs.nvidia-smi" for finding in found):
        return of(case, found, "prereqs.nvidia-smi")
    if isinstance(smi, Unknown):
        return unknown(smi, mend=command(case, "prereqs"))
    if smi is None:
        return Verdict("fail", "nvidia-smi is not installed", command(case, "prereqs", "--install"))
    said = (smi.output.strip().splitlines() or [""])[-1]
    if smi.status:
        return Verdict("fail", f"nvidia-smi: exit {smi.status}: {said}", command(case, "diagnose"))
    return passed("nvidia-smi answers")


def gpu_errors(case: Case) -> Verdict:
    """§2: "No errors". The driver logs a card's own faults as Xid, and counts what its memory could not correct."""
    nvml, log, clock = case.facts.nvml, case.evidence.kernel_log, case.evidence.clock
    if nvml is None:
        return not_applicable("no NVIDIA driver is installed")
    look = case.host.ssh("sudo journalctl -k -g NVRM")
    codes = [int(found[1]) for line in log if (found := XID.search(line))] if isinstance(log, tuple) else []
    wrong = [f"the driver has logged Xid {code} ({gpu_lost.XIDS[code]})" for code in codes if code in gpu_lost.XIDS]
    cards = nvml.gpus if isinstance(nvml, Nvml) else ()
    wrong += [f"GPU {gpu.index}: {gpu.ecc_uncorrected} uncorrected memory errors" for gpu in cards
              if gpu.ecc_uncorrected]  # fmt: skip
    if wrong:
        return Verdict("fail", "\n".join(dict.fromkeys(wrong)), look)
    if not isinstance(nvml, Nvml):
        return unknown(nvml, mend=command(case, "prereqs"))
    if not isinstance(log, tuple) and isinstance(clock, Clock) and clock.container:
        return not_applicable(f"this host is a container ({clock.container}): the kernel's log is another machine's")
    if not isinstance(log, tuple):
        return unknown(log, mend=look)
    return passed("no Xid of the card in the kernel's log since the boot, no uncorrected memory error")


def disks(case: Case) -> Verdict:
    found = case.evidence.drives
    if not isinstance(found, tuple):
        return unknown(found)
    roots = {case.host.storage.nvme: ("nvme",), case.host.storage.ssd: ("ssd", "nvme"), "/": ("ssd", "nvme")}
    there = {drive.mount: drive for drive in found if drive.mount in roots}
    if not there:
        return not_applicable("none of the disks is mounted")
    wrong = [_told(drive) for mount, drive in there.items() if drive.kind and drive.kind not in roots[mount]]
    told = "; ".join(_told(drive) for drive in there.values())
    if wrong:
        return Verdict(
            "fail", "; ".join(wrong), "move it to a disk of that kind, or name the right one in hosts.toml: storage"
        )
    if all(not drive.kind for drive in there.values()):
        look = case.host.ssh("lsblk -o NAME,TRAN,ROTA,MODEL,MOUNTPOINTS")
        return not_checkable(f"the kernel does not say what kind of disks these are: {told}", look)
    return passed(told)


def _told(drive: Drive) -> str:
    return f"{drive.mount}: {drive.device} ({drive.kind or 'kind not told'})"


CONTROLS = (
    Control("hw.gpu", "The card and its memory are those of the procedure, as in hosts.toml", "high",
            "procedure §2; system page, Hardware", gpu, GPU_RULES),
    Control("hw.nvidia-smi", "nvidia-smi finds the card and reports no error", "high",
            "procedure §2; system page, Monitoring", nvidia_smi),
    Control("hw.gpu-errors", "The card has logged no fault since the boot", "medium", "procedure §2", gpu_errors),
    Control("hw.disks", "The NVMe root lies on NVMe, the SSD root and the system on SSD", "low",
            "procedure §3.1, §3.2; system page, Hardware", disks),
)  # fmt: skip
