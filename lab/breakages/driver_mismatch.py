"""fix.driver-mismatch: the driver was upgraded under the running kernel. A reboot of the lab takes the fault away."""

from __future__ import annotations

from lab import faults
from lab.breakages import Breakage, Proof
from lab.machine import Lab

MODULE = "/sys/module/nvidia/version"
OLD = "590.44.01"
TEXT = "Failed to initialize NVML: Driver/library version mismatch"


def upgrade(lab: Lab) -> None:
    """The library is the new one; the module in the kernel is still the old one."""
    lab.sh(f"echo {OLD} >{MODULE}")
    faults.set_gpu_fault(lab, "mismatch")


def upgrade_and_restart(lab: Lab) -> None:
    """The same, and Ollama was started anew since: Docker cannot give it the card."""
    upgrade(lab)
    lab.sh("docker stop -t 5 ollama >/dev/null; ! docker start ollama 2>/dev/null")


def heal(lab: Lab) -> None:
    """What the reboot does, where there was none."""
    faults.clear_gpu_fault(lab)
    lab.sh(f"echo 590.48.01 >{MODULE}")
    lab.sh('for name in comfy ollama openwebui; do docker start "$name" >/dev/null; done', check=False)


BREAKAGES = (
    Breakage(
        "driver-mismatch",
        "upgrade",
        "the driver's library and kernel module differ, as after an unattended upgrade",
        upgrade,
        Proof(("nvidia-smi",), TEXT),
        options=("--reboot",),
        heal=heal,
    ),
    Breakage(
        "driver-mismatch",
        "restart",
        "the same, and Ollama was restarted since and cannot start",
        upgrade_and_restart,
        Proof(("docker", "inspect", "--format", "{{.State.Error}}", "ollama"), "driver/library version mismatch"),
        options=("--reboot",),
        heal=heal,
        slow=True,
    ),
)
