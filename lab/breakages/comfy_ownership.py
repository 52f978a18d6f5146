"""/comfy/mnt that ComfyUI refuses: the ways in which people get there."""

from __future__ import annotations

from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "comfy-ownership"
MNT = "/mnt/local/nvme/ai/services/comfy-mnt"
STACK = "/opt/stacks/ai"
REFUSED = "Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0"
LOGS = ("docker", "logs", "--tail=40", "comfy")


def root_owned(lab: Lab) -> None:
    """As after `cp -a` of a backup by root, or a restore."""
    lab.sh('docker stop comfy && chown 0:0 "$1" && docker start comfy', MNT)


def sub_mounts(lab: Lab) -> None:
    """Somebody took the one volume apart in our file, and started it."""
    lab.sh(
        r"""
        cd "$1"
        mkdir -p "$2/ComfyUI/models"
        sed -i -e "s#source: $2\$#source: $2/ComfyUI/models#" -e "s#target: /comfy/mnt\$#&/models#" compose.yaml
        grep -q "target: /comfy/mnt/models" compose.yaml
        docker compose -p pantheon-ai up -d --no-deps comfy
        """,
        STACK,
        MNT,
    )


def override(lab: Lab) -> None:
    """A file of somebody's own, laid over ours, that makes it run as another user and puts a directory inside."""
    lab.sh(
        """
        mkdir -p /srv/loras
        cd "$1"
        printf '%s\\n' >compose.override.yaml 'services:' '  comfy:' '    user: "0:0"' \\
            '    volumes: [ "/srv/loras:/comfy/mnt/loras:ro" ]'
        docker compose -p pantheon-ai up -d --no-deps comfy
        """,
        STACK,
    )


def without_override(lab: Lab) -> None:
    lab.sh('rm -rf "$1/compose.override.yaml" /srv/loras; rmdir "$2/loras" 2>/dev/null || true', STACK, MNT)


def deep(lab: Lab) -> None:
    """`sudo git pull` in ComfyUI and `sudo pip` in its venv."""
    lab.sh('docker stop comfy && chown -R 0:0 "$1/ComfyUI/.git" "$1/venv/lib" && docker start comfy', MNT)


def other_ids(lab: Lab) -> None:
    """The image's own default was put in place of ours."""
    lab.sh(
        """
        cd "$1"
        sed -i -e 's/WANTED_UID: "1024"/WANTED_UID: "1000"/' -e 's/WANTED_GID: "1024"/WANTED_GID: "1000"/' compose.yaml
        docker compose -p pantheon-ai up -d --no-deps comfy
        """,
        STACK,
    )


def by_hand(lab: Lab) -> None:
    """Our container is gone, and one of somebody else's stands in its place, mounted in pieces."""
    lab.sh(
        """
        image=$(docker inspect -f '{{.Config.Image}}' comfy)
        docker rm -f comfy
        mkdir -p /srv/comfy/models
        docker run -d --name comfy --gpus all --restart unless-stopped -v /srv/comfy/models:/comfy/mnt/models "$image"
        """
    )


def ours_again(lab: Lab) -> None:
    """What the fix says: theirs away, ours started."""
    lab.sh(
        """
        if [ -z "$(docker ps -aq --filter name=^comfy$ --filter label=pantheon.project)" ]; then
            docker rm -f comfy
            docker compose -p pantheon-ai -f "$1/compose.yaml" up -d --no-deps --wait comfy
        fi
        rm -rf /srv/comfy
        """,
        STACK,
    )


BREAKAGES = (
    Breakage(
        ENTRY, "root-owned", "root owns comfy-mnt, and ComfyUI restarts over and over", root_owned, Proof(LOGS, REFUSED)
    ),
    Breakage(
        ENTRY, "sub-mounts", "our compose.yaml mounts a part of /comfy/mnt only", sub_mounts, Proof(LOGS, REFUSED)
    ),
    Breakage(
        ENTRY,
        "deep",
        "root owns ComfyUI/.git and venv/lib",
        deep,
        Proof(LOGS, "fatal: detected dubious ownership in repository at '/comfy/mnt/ComfyUI'"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "wanted",
        "WANTED_UID and WANTED_GID are 1000",
        other_ids,
        Proof(LOGS, "comfy MUST be running as UID 1000 GID 1000, current UID 1024 GID 1024"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "override",
        "an override file sets another user and mounts inside /comfy/mnt",
        override,
        Proof(LOGS, "comfy MUST be running as UID 1024 GID 1024, current UID 0 GID 0"),
        heal=without_override,
        slow=True,
    ),
    Breakage(
        ENTRY,
        "foreign",
        "a container that is not ours mounts parts of /comfy/mnt",
        by_hand,
        Proof(LOGS, REFUSED),
        by_hand=True,
        heal=ours_again,
        slow=True,
    ),
)
