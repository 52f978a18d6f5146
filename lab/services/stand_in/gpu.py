"""The card as a program in a container sees it: through libnvidia-ml.so.1, if the toolkit brought one."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
MIB = 1 << 20


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True)
class Gpu:
    """One reading; memory in bytes."""

    name: str
    uuid: str
    cuda: str
    total: int
    free: int


def look() -> Gpu | None:
    """The first card, or None where there is no library, no driver or no card."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    if nvml.nvmlInit_v2():
        return None
    try:
        device, cuda, memory = ctypes.c_void_p(), ctypes.c_int(), _Memory()
        name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
        failed = (
            nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
            or nvml.nvmlDeviceGetName(device, name, 96)
            or nvml.nvmlDeviceGetUUID(device, uuid, 96)
            or nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
            or nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
        )
        if failed:
            return None
        version = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
        return Gpu(name.value.decode(), uuid.value.decode(), version, memory.total, memory.free)
    finally:
        nvml.nvmlShutdown()


class Vram:
    """Memory held on the card, for all to see: a thread named `vram N MiB`, which the stand-in NVML on the host counts.

    A thread's name is the one thing that crosses containers and users and is gone with the process.
    """

    def __init__(self) -> None:
        self._named = threading.Event()
        self._task = ""
        threading.Thread(target=self._stay, daemon=True).start()
        self._named.wait(1)

    def _stay(self) -> None:
        self._task = f"/proc/self/task/{threading.get_native_id()}/comm"
        self._named.set()
        threading.Event().wait()

    def hold(self, mib: int) -> None:
        """From now on this process holds so much, and nothing where it is 0."""
        with contextlib.suppress(OSError), open(self._task, "w", encoding="utf-8") as file:
            file.write(f"vram {mib} MiB" if mib else "idle")
