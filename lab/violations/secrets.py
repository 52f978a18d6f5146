"""Files that too many may read or write."""

from __future__ import annotations

from lab.machine import Lab
from lab.violations import Violation

SECRETS = "/opt/stacks/ai/secrets"
MNT = "/mnt/local/nvme/ai/services/comfy-mnt"
TOKEN = f"{MNT}/HF/token"
LEFT = "/mnt/local/ssd/ai/outputs/comfy/drop box"
KEY = "/etc/ssh/ssh_host_ecdsa_key"


def readable_stack(lab: Lab) -> None:
    """`chmod -R` by somebody who could not read a log there."""
    lab.sh('chmod 755 "$1" && chmod 644 "$1/webui_secret_key"', SECRETS)


def closed_stack(lab: Lab) -> None:
    lab.sh('chmod 700 "$1" && chmod 600 "$1/webui_secret_key"', SECRETS)


def token(lab: Lab) -> None:
    """As huggingface-cli writes it under the image's umask, where everybody may look."""
    lab.sh('echo hf_aaaaaaaaaaaaaaaaaaaa >"$1" && chown 1024:1024 "$1" && chmod 644 "$1"', TOKEN)


def no_token(lab: Lab) -> None:
    lab.sh('rm -f "$1"', TOKEN)


def readable_key(lab: Lab) -> None:
    """A second key, come with a restored /etc. sshd passes it over, and lets nobody in where it is the only one."""
    lab.sh('[ -e "$1" ] || ssh-keygen -q -t ecdsa -N "" -f "$1"; chmod 644 "$1"', KEY)


def no_second_key(lab: Lab) -> None:
    lab.sh('rm -f "$1" "$1.pub"', KEY)


def drop_box(lab: Lab) -> None:
    lab.sh('install -d -o1024 -g1024 -m0777 "$1"', LEFT)


def no_drop_box(lab: Lab) -> None:
    lab.sh('rm -rf "$1"', LEFT)


VIOLATIONS = (
    Violation("secrets.stack", "webui_secret_key is mode 0644", readable_stack, closed_stack),
    Violation("secrets.tokens", f"{TOKEN} is mode 0644", token, no_token),
    Violation("secrets.host-keys", f"{KEY} is mode 0644", readable_key, no_second_key),
    Violation("secrets.world-writable", f"{LEFT} (0777)", drop_box, no_drop_box),
)
