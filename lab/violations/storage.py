"""The storage model: owners and modes that somebody changed, disks that are short, data in other places."""

from __future__ import annotations

from lab import faults, planting
from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation
from lab.violations.containers import remove, run

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


def taken(name: str) -> Violation:
    """Somebody has made it his own."""
    path = PLAIN[name]
    return Violation(f"storage.{name}", path, sh('chown ops: "$1"', path), sh('chown root: "$1"', path))


def fill(lab: Lab) -> None:
    faults.lay_small_disk(lab, MODELS, mib=2)
    faults.fill(lab, MODELS)


def forget(lab: Lab) -> None:
    remove(lab, "v-state")
    lab.sh("docker volume rm v-state >/dev/null 2>&1 || true")


def on_a_nas(lab: Lab) -> None:
    """One of ours works on another machine's disk."""
    planting.mount_fuse(lab, "nas:/ai", "sshfs", NAS)
    run(lab, "v-nas", "--label", "pantheon.project=pantheon-ai", "-v", f"{NAS}:/nas")


def off_the_nas(lab: Lab) -> None:
    remove(lab, "v-nas")
    planting.unmount(lab, NAS)
    lab.sh('rmdir "$1" 2>/dev/null || true', NAS)


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
    *(taken(name) for name in PLAIN),
    Violation("storage.models", MODELS, sh(f"chgrp root {MODELS}"), sh(f"chgrp docker {MODELS}")),
    Violation("storage.comfy-mnt", COMFY, sh(f"touch {COMFY}/v-roots"), sh(f"rm -f {COMFY}/v-roots")),
    Violation("storage.outputs-comfy", OUTPUTS, sh(f"touch {OUTPUTS}/v-roots"), sh(f"rm -f {OUTPUTS}/v-roots")),
    Violation("storage.models-read-only", "v-models: ",
              lambda lab: run(lab, "v-models", "-v", f"{MODELS}:/m"),
              lambda lab: remove(lab, "v-models")),
    Violation("storage.local", "fuse.sshfs", on_a_nas, off_the_nas),
    Violation("storage.state", "v-state: /data is volume",
              lambda lab: run(lab, "v-state", "--label", "pantheon.project=pantheon-ai", "-v", "v-state:/data"),
              forget),
    Violation("storage.pressure", MODELS, fill, lambda lab: faults.lift_small_disk(lab, MODELS)),
    Violation("storage.uid", "v-user", sh("useradd -u 1024 -M -s /bin/bash v-user"),
              sh("userdel v-user 2>/dev/null || true")),
)  # fmt: skip
