"""fix.gpu-lost: the card is in the host, and not in a container."""

from __future__ import annotations

from lab import faults
from lab.breakages import Breakage, Proof
from lab.machine import Lab

HOOK = "/usr/bin/nvidia-container-runtime-hook"
SELECT = "could not select device driver"
ERROR = ("docker", "inspect", "--format", "{{.State.Error}}", "comfy")
SMI = ("docker", "exec", "comfy", "nvidia-smi", "-L")


def lose_devices(lab: Lab) -> None:
    """What a `systemctl daemon-reload` does under the systemd cgroup driver: the container's devices are gone."""
    lab.sh(
        'id=$(docker inspect --format "{{.Id}}" comfy); printf "unknown\\n" >"/run/lab/containers/$id/gpu-fault"',
    )


def ask_for_none(lab: Lab) -> None:
    """What a Compose file from a guide for the CPU does: no device is asked for, and ComfyUI ends at each start."""
    lab.sh(
        r"""
        cd /opt/stacks/ai
        python3 - <<'END'
        import re
        text = open("compose.yaml").read()
        at = text.index("  comfy:")
        made = re.sub(r"    deploy:\n(?:      .*\n)+", "", text[at:], count=1)
        open("compose.yaml", "w").write(text[:at] + made)
        END
        docker compose -p pantheon-ai -f compose.yaml up -d --no-deps comfy 2>&1
        until docker logs comfy 2>&1 | grep -q 'nvidia-smi not found'; do sleep 0.1; done
        """.replace("\n        ", "\n")
    )


def fall_back(lab: Lab) -> None:
    """Ollama starts in a moment in which its container has no card, and stays on the CPU when it is back."""
    lab.sh(
        """
        docker exec ollama sh -c 'mkdir -p /etc/lab; echo unknown >/etc/lab/gpu-fault'
        docker restart -t 5 ollama >/dev/null
        until docker logs --since 20s ollama 2>&1 | grep -q library=cpu; do sleep 0.1; done
        docker exec ollama rm /etc/lab/gpu-fault
        until [ "$(docker inspect --format '{{.State.Health.Status}}' ollama)" = healthy ]; do sleep 0.2; done
        """
    )


def start_without_hook(lab: Lab) -> None:
    """Docker starts while the toolkit is not there."""
    lab.sh(f"mv {HOOK} {HOOK}.away; systemctl reset-failed docker.service; systemctl restart docker")
    lab.sh("systemctl reset-failed docker.service; sleep 0.4")
    wait_healthy(lab, "openwebui")  # which needs no card, and comes back with the engine


def install_too_late(lab: Lab) -> None:
    """The toolkit is installed, and Docker has been started before it."""
    start_without_hook(lab)
    lab.sh(f"mv {HOOK}.away {HOOK}")


def put_back(lab: Lab) -> None:
    """What fix.gpu-lost says: install the toolkit again, restart Docker."""
    lab.sh(
        f"""
        [ -e {HOOK} ] || mv {HOOK}.away {HOOK}
        if [ -n "$(docker inspect --format '{{{{.State.Error}}}}' comfy ollama | tr -d '\\n')" ]; then
            systemctl reset-failed docker.service; systemctl restart docker
            docker start comfy ollama >/dev/null
        fi
        """
    )
    wait_healthy(lab)


def wait_healthy(lab: Lab, *names: str) -> None:
    lab.sh(
        """
        for name in "$@"; do
            until [ "$(docker inspect --format '{{.State.Health.Status}}' "$name")" = healthy ]; do sleep 0.2; done
        done
        """,
        *(names or ("comfy", "ollama", "openwebui")),
    )


def old_driver(lab: Lab) -> None:
    """The driver knows CUDA 13.0, and the image asks for 13.1."""
    lab.sh(
        """
        mkdir -p /run/lab; echo "cuda = 13.0" >/run/lab/gpu.conf
        docker stop -t 5 comfy >/dev/null; ! docker start comfy 2>/dev/null
        """
    )


def newer_driver(lab: Lab) -> None:
    """The other thing that fix.gpu-lost offers: a driver that takes the image."""
    lab.sh("rm -f /run/lab/gpu.conf; docker start comfy >/dev/null")
    wait_healthy(lab)


def lose_card(lab: Lab) -> None:
    faults.set_gpu_fault(lab, "lost")


BREAKAGES = (
    Breakage(
        "gpu-lost",
        "container",
        "the container's devices are gone, as after a systemctl daemon-reload",
        lose_devices,
        Proof(("docker", "exec", "comfy", "nvidia-smi"), "Failed to initialize NVML: Unknown Error"),
    ),
    Breakage(
        "gpu-lost",
        "cpu",
        "Ollama came up without the card, and computes on the CPU",
        fall_back,
        Proof(("docker", "logs", "--tail", "5", "ollama"), "library=cpu"),
    ),
    Breakage(
        "gpu-lost",
        "no-request",
        "comfy was made without asking for the card, and ends at every start",
        ask_for_none,
        Proof(("docker", "logs", "--tail", "20", "comfy"), "nvidia-smi not found"),
        slow=True,
    ),
    Breakage(
        "gpu-lost",
        "late-toolkit",
        "Docker was started before the NVIDIA toolkit was installed",
        install_too_late,
        Proof(ERROR, SELECT),
        heal=put_back,
        slow=True,
    ),
    Breakage(
        "gpu-lost",
        "no-toolkit",
        "the toolkit's hook is not there",
        start_without_hook,
        Proof(ERROR, SELECT),
        by_hand=True,
        heal=put_back,
        slow=True,
    ),
    Breakage(
        "gpu-lost",
        "cuda",
        "the image wants a newer CUDA than the driver has",
        old_driver,
        Proof(ERROR, "unsatisfied condition: cuda>=13.1"),
        by_hand=True,
        heal=newer_driver,
        slow=True,
    ),
    Breakage(
        "gpu-lost",
        "host",
        "the card fell off the bus",
        lose_card,
        Proof(("nvidia-smi",), "GPU is lost"),
        by_hand=True,
        heal=faults.clear_gpu_fault,
        slow=True,
    ),
)
