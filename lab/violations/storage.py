"""The storage model: owners and modes that somebody changed, disks that are short, data in other places."""

from __future__ import annotations

from lab import faults, planting
from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation

NVME, SSD = "/mnt/local/nvme", "/mnt/local/ssd"
MODELS, COMFY = f"{NVME}/ai/models", f"{NVME}/ai/services/comfy-mnt"
NAS = "/srv/v-nas"
OUTPUTS = f"{SSD}/ai/outputs/comfy"
# Directories that only have to be there and be root's, by control.
PLAIN = {
    "nvme-ai": f"{NVME}/ai",
    "cache": f"{NVME}/ai/cache",
    "services": f"{NVME}/ai/services",
    "ollama": f"{NVME}/ai/services/ollama",
    "ssd-ai": f"{SSD}/ai",
    "outputs": f"{SSD}/ai/outputs",
    "projects": f"{SSD}/ai/projects",
    "projects-openwebui": f"{SSD}/ai/projects/openwebui",
}


# Somebody has made the directories his own, and left a file of root's in each of ComfyUI's.
TAKE = sh(f'chgrp root {MODELS}; touch {COMFY}/v-roots {OUTPUTS}/v-roots; chown ops: "$@"', *PLAIN.values())
GIVE_BACK = sh(f'chgrp docker {MODELS}; rm -f {COMFY}/v-roots {OUTPUTS}/v-roots; chown root: "$@"', *PLAIN.values())


def fill(lab: Lab) -> None:
    faults.lay_small_disk(lab, MODELS, mib=2)
    faults.fill(lab, MODELS)


def on_a_nas(lab: Lab) -> None:
    """One of ours works on another machine's disk, and in a volume."""
    planting.mount_fuse(lab, "nas:/ai", "sshfs", NAS)
    label = ("--label", "pantheon.project=pantheon-ai")
    planting.run(lab, "ollama", "v-ours", *label, "-v", f"{NAS}:/nas", "-v", "v-state:/data")


def off_the_nas(lab: Lab) -> None:
    planting.away(lab, "v-ours")
    planting.unmount(lab, NAS)
    lab.sh('rmdir "$1" 2>/dev/null || true; docker volume rm v-state >/dev/null 2>&1 || true', NAS)


def read_only(path: str) -> Violation:
    name = "nvme" if path == NVME else "ssd"
    remount = 'mount -o "remount,bind,$2" "$1"'
    return Violation(f"storage.{name}-root", "is mounted read-only", sh(remount, path, "ro"), sh(remount, path, "rw"),
                     round="read-only")  # fmt: skip


VIOLATIONS = (
    read_only(NVME),
    read_only(SSD),
    Violation("storage.at-boot", f"{NVME} is neither", sh(f"sed -i '\\|{NVME}|s/^/#v#/' /etc/fstab"),
              sh("sed -i 's/^#v#//' /etc/fstab")),
    Violation("storage.models", MODELS, TAKE, GIVE_BACK),
    Violation("storage.comfy-mnt", COMFY),
    Violation("storage.outputs-comfy", OUTPUTS),
    *(Violation(f"storage.{name}", path) for name, path in PLAIN.items()),
    Violation("storage.models-read-only", "v-ollama: "),  # of services.py
    Violation("storage.local", "fuse.sshfs", on_a_nas, off_the_nas),
    Violation("storage.state", "v-ours: /data is volume"),
    Violation("storage.pressure", MODELS, fill, lambda lab: faults.lift_small_disk(lab, MODELS)),
    Violation("storage.uid", "v-user", sh("useradd -u 1024 -M -s /bin/bash v-user"),
              sh("userdel v-user 2>/dev/null || true")),
)  # fmt: skip
