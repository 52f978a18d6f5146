"""The NVIDIA driver, its library, the container toolkit and the cards as NVML sees them (DOMAIN.md, NVIDIA)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pantheon.looks import work
from pantheon.looks.files import read_bytes, read_text, which
from pantheon.looks.system import container_of
from pantheon.looks.text import Json, Object, Unread

EVENT_REASONS = (  # in the order of their bits
    *("gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal_slowdown"),
    *("hw_thermal_slowdown", "hw_power_brake_slowdown", "display_clock_setting", "board_limit", "reliability"),
)


def smi() -> Object | None:
    if not which("nvidia-smi"):
        return None
    return work.command(["nvidia-smi"], work.PART_S - 0.1, 16 * 1024)


def module_version(root: str) -> str | None:
    """The version of the kernel module that is loaded; None when none is."""
    text = read_text(f"{root}/sys/module/nvidia/version")
    return text.strip() if text is not None else None


def library_version(root: str) -> str | None:
    """The version in the name of the file that libnvidia-ml.so.1 leads to: what NVML would be, without calling it."""
    machine = os.uname().machine
    for folder in (
        f"/usr/lib/{machine}-linux-gnu",
        f"/lib/{machine}-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/lib64",
        "/usr/local/lib",
        f"/usr/lib/{machine}-linux-gnu/nvidia/current",
        "/usr/lib/wsl/lib",
    ):
        path = f"{root}{folder}/libnvidia-ml.so.1"
        if os.path.lexists(path):
            found = re.search(r"\.so\.(\d+(?:\.\d+)+)$", os.path.realpath(path))
            if found:
                return found[1]
            raise Unread(f"the file name of {folder}/libnvidia-ml.so.1 shows no version")
    return None


def toolkit(root: str) -> str | None:
    """The NVIDIA Container Toolkit's version: dpkg's own record, which is quicker than a command, else nvidia-ctk."""
    record = b"\n" + (read_bytes(f"{root}/var/lib/dpkg/status", 64 << 20) or b"")
    at = record.find(b"\nPackage: nvidia-container-toolkit\n")
    if at >= 0:
        stanza = record[at + 1 :].partition(b"\n\n")[0].decode("utf-8", "replace")
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed"):
            return fields.get("Version", "").split(":")[-1].split("-")[0]
    return work.version_of("nvidia-ctk", "--version")


def nvml() -> Object | None:
    """facts.Nvml; None when the host has no NVML library. NOT_SUPPORTED and functions that an older library lacks are
    None too (DOMAIN.md, NVIDIA)."""
    try:
        import pynvml as nv
    except ModuleNotFoundError:
        raise Unread("pynvml was not sent") from None

    def maybe(function: str, *arguments: Json) -> Json:
        call = getattr(nv, function, None)
        if call is None:
            return None
        try:
            value = call(*arguments)
        except nv.NVMLError as error:
            if error.value in (
                nv.NVML_ERROR_NOT_SUPPORTED,
                nv.NVML_ERROR_FUNCTION_NOT_FOUND,
                nv.NVML_ERROR_NO_PERMISSION,
            ):
                return None
            raise
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    try:
        nv.nvmlInit()
        cuda = maybe("nvmlSystemGetCudaDriverVersion_v2") or 0
        return {
            "driver": maybe("nvmlSystemGetDriverVersion") or "",
            "library": maybe("nvmlSystemGetNVMLVersion") or "",
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            "gpus": [gpu_device(nv, maybe, index) for index in range(maybe("nvmlDeviceGetCount") or 0)],
        }
    except nv.NVMLError as error:
        if error.value == nv.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        raise Unread(f"NVML: {error} (code {error.value})") from None


def gpu_device(nv: Json, maybe: Callable[..., Json], index: int) -> Object:
    """facts.GpuDevice"""
    gpu = nv.nvmlDeviceGetHandleByIndex(index)
    memory = maybe("nvmlDeviceGetMemoryInfo", gpu, getattr(nv, "nvmlMemory_v2", None))
    memory = memory or maybe("nvmlDeviceGetMemoryInfo", gpu)
    use = maybe("nvmlDeviceGetUtilizationRates", gpu)
    power = maybe("nvmlDeviceGetPowerUsage", gpu)
    limit = maybe("nvmlDeviceGetEnforcedPowerLimit", gpu)
    ecc = maybe("nvmlDeviceGetEccMode", gpu)
    errors = None
    if ecc and ecc[0]:
        errors = maybe("nvmlDeviceGetTotalEccErrors", gpu, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC)
    reasons = maybe("nvmlDeviceGetCurrentClocksEventReasons", gpu)
    if reasons is None:  # the name that the call had before driver 535
        reasons = maybe("nvmlDeviceGetCurrentClocksThrottleReasons", gpu) or 0
    processes = {}
    for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in maybe(function, gpu) or ():
            used = process.usedGpuMemory
            processes[process.pid] = {
                "pid": process.pid,
                "name": (read_text(f"/proc/{process.pid}/comm") or "").strip(),
                "memory_mib": None if used is None else used >> 20,
                "container": container_of("", process.pid),
            }
    return {
        "index": index,
        "name": maybe("nvmlDeviceGetName", gpu) or "",
        "uuid": maybe("nvmlDeviceGetUUID", gpu) or "",
        "memory_total_mib": memory.total >> 20 if memory else 0,
        "memory_used_mib": memory.used >> 20 if memory else 0,
        "memory_free_mib": memory.free >> 20 if memory else 0,
        "utilisation": use.gpu if use else None,
        "temperature_c": maybe("nvmlDeviceGetTemperature", gpu, nv.NVML_TEMPERATURE_GPU),
        "power_w": None if power is None else power / 1000,
        "power_limit_w": None if limit is None else limit / 1000,
        "ecc": None if ecc is None else "on" if ecc[0] else "off",
        "ecc_uncorrected": errors,
        "event_reasons": [name for bit, name in enumerate(EVENT_REASONS) if reasons >> bit & 1],
        "processes": list(processes.values()),
    }
