"""The driver, the toolkit, and NVML that answers, fails, hangs or crashes."""

from __future__ import annotations

import os

import pytest

from pantheon import facts
from tests.unit.looks.fakes import (
    FakeHost,
    unknown_reason,
)


def test_driver_versions_come_from_the_module_and_from_the_file_name_of_the_library(host: FakeHost) -> None:
    folder = f"/usr/lib/{os.uname().machine}-linux-gnu"
    host.write(f"{folder}/libnvidia-ml.so.595.45.04", "")
    host.at(f"{folder}/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.595.45.04")
    host.write("/sys/module/nvidia/version", "590.48.01\n")
    found = host.look()
    assert (found.module_version, found.library_version) == ("590.48.01", "595.45.04")


STATUS = """Package: {0}
Status: install ok installed
Version: 1.18.1-1

Package: other
Status: install ok installed
Version: 9
"""


def test_the_toolkit_by_dpkg_then_by_its_own_command(host: FakeHost) -> None:
    host.write("/var/lib/dpkg/status", STATUS.format("nvidia-container-toolkit"))
    host.tool("nvidia-ctk", "echo NVIDIA Container Toolkit CLI version 9.9.9; echo commit: 1")
    host.tool("nvidia-container-runtime-hook", "")
    found = host.look()
    assert (found.toolkit, found.hook) == ("1.18.1", str(host.bin / "nvidia-container-runtime-hook"))
    host.write("/var/lib/dpkg/status", STATUS.format("nvidia-container-toolkit-base"))
    assert host.look().toolkit == "9.9.9"
    host.tool("nvidia-ctk", "echo broken >&2; exit 3")
    assert "exit 3: broken" in unknown_reason(host.look().toolkit)


PYNVML = """
class NVMLError(Exception):
    def __init__(self, value): self.value = value
    def __str__(self): return "Driver/library version mismatch"
NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_NO_PERMISSION = 3, 13, 4
NVML_ERROR_LIBRARY_NOT_FOUND, NVML_TEMPERATURE_GPU = 12, 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, nvmlMemory_v2 = 1, 0, 2
class It:
    def __init__(self, **more): self.__dict__.update(more)
def unsupported(*arguments): raise NVMLError(3)
def missing(*arguments): raise NVMLError(13)
def nvmlInit(): INIT
def nvmlSystemGetDriverVersion(): return "590.48.01"
def nvmlSystemGetNVMLVersion(): return b"13.590.48.01"
def nvmlSystemGetCudaDriverVersion_v2(): return 13010
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(gpu): return b"NVIDIA RTX 4000 Ada Generation"
def nvmlDeviceGetUUID(gpu): return "GPU-1"
def nvmlDeviceGetMemoryInfo(gpu, version=None):
    if version: raise NVMLError(13)
    return It(total=20475 << 20, used=475 << 20, free=20000 << 20)
nvmlDeviceGetUtilizationRates = nvmlDeviceGetPowerUsage = nvmlDeviceGetEnforcedPowerLimit = unsupported
nvmlDeviceGetEccMode = nvmlDeviceGetTotalEccErrors = unsupported
def nvmlDeviceGetTemperature(gpu, sensor): return 38
def nvmlDeviceGetCurrentClocksEventReasons(gpu): return 0x44
def nvmlDeviceGetComputeRunningProcesses(gpu): return [It(pid=PID, usedGpuMemory=None)]
nvmlDeviceGetGraphicsRunningProcesses = missing
"""


def test_nvml_with_everything_that_a_card_may_not_support(host: FakeHost) -> None:
    found = host.look(pynvml=PYNVML.replace("INIT", "pass").replace("PID", str(os.getpid())))
    assert isinstance(found.nvml, facts.Nvml)
    gpu = found.nvml.gpus[0]
    assert (found.nvml.driver, found.nvml.library, found.nvml.cuda) == ("590.48.01", "13.590.48.01", "13.1")
    assert (gpu.name, gpu.memory_total_mib, gpu.memory_used_mib) == ("NVIDIA RTX 4000 Ada Generation", 20475, 475)
    assert (gpu.utilisation, gpu.power_w, gpu.power_limit_w, gpu.ecc, gpu.temperature_c) == (None, None, None, None, 38)
    assert gpu.event_reasons == ("sw_power_cap", "hw_thermal_slowdown")
    assert [(process.pid, process.memory_mib, process.container) for process in gpu.processes] == [
        (os.getpid(), None, "")
    ]


@pytest.mark.parametrize(
    ("init", "expect"),
    [
        ("raise NVMLError(18)", "NVML: Driver/library version mismatch (code 18)"),
        ("raise NVMLError(12)", None),
        ("import time; time.sleep(60)", "no answer within 0.5 s (NVML)"),
        ("import os; os.abort()", "what read it died (signal 6)"),
    ],
)
def test_nvml_that_fails_hangs_or_crashes(host: FakeHost, init: str, expect: str | None) -> None:
    found = host.look(None, "work.PART_S = 0.5", PYNVML.replace("INIT", init))
    assert found.nvml is None if expect is None else expect in unknown_reason(found.nvml)
