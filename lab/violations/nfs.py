"""Mounts of Atlas that are missing, something else, dead, or in use by the AI stack. Real NFS is in test_atlas.py."""

from __future__ import annotations

from lab import planting
from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation

MISSING, LOCAL, DEAD = (f"/mnt/atlas/v-{name}" for name in ("missing", "local", "dead"))
MEDIA = "/mnt/atlas/managed-media"
DECLARED = {
    "atlas": [
        {"export": f"127.0.0.1:{path}", "mount": path, "mode": mode}
        for path, mode in ((MISSING, "rw"), (LOCAL, "ro"), (DEAD, "rw"), (MEDIA, "rw"))
    ]
}


def die(lab: Lab) -> None:
    planting.mount_fuse(lab, f"127.0.0.1:{DEAD}", "nfs4", DEAD)
    planting.kill_fuse(lab, DEAD)


def bury(lab: Lab) -> None:
    planting.unmount(lab, DEAD)
    lab.sh('rmdir "$1" 2>/dev/null || true', DEAD)


VIOLATIONS = (
    Violation("nfs.intent", f"wants {MEDIA} rw", host=DECLARED),
    Violation("nfs.mounted", f"{MISSING} is not mounted", host=DECLARED),
    Violation("nfs.type", f"{LOCAL} is tmpfs", sh('mkdir -p "$1"; mount -t tmpfs v-local "$1"', LOCAL),
              sh('while mountpoint -q "$1"; do umount "$1"; done; rmdir "$1" 2>/dev/null || true', LOCAL),
              host=DECLARED),
    Violation("nfs.modes", f"{LOCAL} is mounted rw", host=DECLARED),
    Violation("nfs.answers", f"{DEAD}: ", die, bury, host=DECLARED),
    Violation("nfs.at-boot", f"{MISSING}: neither", host=DECLARED),
    Violation("nfs.unused", "v-ollama: /mnt/atlas"),  # of services.py
)  # fmt: skip

IMPOSSIBLE = {"nfs.owners": "an audit writes nothing; `invoke atlas --verify` does (tests/lab/test_atlas.py)"}
