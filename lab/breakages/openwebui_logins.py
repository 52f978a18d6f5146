"""Everybody is logged out of Open WebUI."""

from __future__ import annotations

from lab import webui
from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "openwebui-logins"
KEY = "/opt/stacks/ai/secrets/webui_secret_key"


def key_in_the_container(lab: Lab) -> None:
    """The secret is taken out of the Compose file, and the container made anew."""
    webui.sign_in(lab)
    lab.sh(f"sed -i -e '/WEBUI_SECRET_KEY_FILE/d' -e '/^    secrets:$/,+1d' {webui.COMPOSE}")
    lab.exec("docker", "compose", "-f", webui.COMPOSE, "up", "-d", "--no-deps", "openwebui")
    webui.wait_ready(lab)


def key_emptied(lab: Lab) -> None:
    lab.sh(f": >{KEY}; docker restart openwebui")


def key_removed(lab: Lab) -> None:
    lab.sh(f"rm {KEY}; docker stop openwebui")


BREAKAGES = (
    Breakage(
        ENTRY,
        "inside",
        "the key is no longer given to the container, which makes one of its own",
        key_in_the_container,
        Proof(
            ("curl", "-sS", "-H", f"@{webui.SESSION}", f"{webui.URL}/api/v1/auths/"),
            "Your session has expired or the token is invalid. Please sign in again.",
        ),
    ),
    Breakage(
        ENTRY,
        "removed",
        "the key's file is gone, and the container was stopped",
        key_removed,
        Proof(("docker", "start", "openwebui"), "bind source path does not exist"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "empty",
        "the key's file is empty",
        key_emptied,
        Proof(("docker", "logs", "--tail", "20", "openwebui"), "Required environment variable not found"),
        slow=True,
    ),
)
