"""The toolkit gone, and the card away from containers that run."""

from __future__ import annotations

from collections.abc import Callable

from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation

CTK = "/usr/bin/nvidia-ctk"
CDI = "/run/cdi/nvidia.yaml"  # nvidia-cdi-refresh makes it at each boot


def lose(name: str) -> Callable[[Lab], None]:
    """What a `systemctl daemon-reload` does under the systemd cgroup driver: the container's devices are gone."""
    return sh(
        'id=$(docker inspect -f "{{.Id}}" "$1"); mkdir -p /run/lab/containers/$id; '
        'printf "unknown\\n" >"/run/lab/containers/$id/gpu-fault"',
        name,
    )


def find(name: str) -> Callable[[Lab], None]:
    return sh('id=$(docker inspect -f "{{.Id}}" "$1"); rm -f "/run/lab/containers/$id/gpu-fault"', name)


VIOLATIONS = (
    Violation("toolkit.installed", "Toolkit is not installed", sh(f"mv {CTK} {CTK}.away"),
              sh(f"[ ! -e {CTK}.away ] || mv {CTK}.away {CTK}")),
    Violation("toolkit.comfy-gpu", "comfy does not see the GPU", lose("comfy"), find("comfy")),
    Violation("toolkit.ollama-gpu", "ollama does not see the GPU", lose("ollama"), find("ollama")),
    Violation("toolkit.cdi", "no CDI specification", sh(f"mv {CDI} {CDI}.away"),
              sh(f"[ ! -e {CDI}.away ] || mv {CDI}.away {CDI}")),
)  # fmt: skip
