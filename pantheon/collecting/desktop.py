"""Whether somebody has put a desktop on the server."""

from __future__ import annotations

import os
import re

from pantheon.collecting.packages import STATUS_BYTES, _field
from pantheon.looks.files import read_bytes
from pantheon.looks.text import Json, Object, Unread, shown

# What makes a desktop, of Ubuntu and of others. Its libraries are none, which headless tools need; nor is an X server
# alone, which NVIDIA's driver does (nvidia-driver-590-server, by way of xserver-xorg-video-nvidia).
PACKAGES = re.compile(
    r"(?:k|x|l|ed)?ubuntu-desktop(?:-minimal|-raspi)?"
    r"|ubuntu(?:studio|-mate|-budgie|-unity|-cinnamon|cinnamon|kylin)-desktop|kde-(?:full|standard|plasma-desktop)"
    r"|task-.*desktop|plasma-desktop|gnome-(?:shell|session|core)|xfce4|xfce4-session|lxqt-session|lxde-core"
    r"|mate-(?:session-manager|desktop-environment)|cinnamon-session|budgie-desktop"
    r"|gdm3?|lightdm|sddm|lxdm|xdm|slim|weston|sway"
)
UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")


def desktop(spec: Object, root: str) -> Json:
    """circumstances.Desktop"""
    del spec
    record = read_bytes(f"{root}/var/lib/dpkg/status", STATUS_BYTES)
    if record is None:
        raise Unread("there is no /var/lib/dpkg/status")
    packages = []
    for stanza in record.split(b"\n\n"):
        name = _field(stanza, b"Package")
        if PACKAGES.fullmatch(name) and not _field(stanza, b"Status").endswith((" not-installed", " config-files")):
            packages.append(name)
    manager = link(root, "display-manager.service", UNITS[:1])
    return {"packages": sorted(packages), "manager": manager, "target": link(root, "default.target", UNITS)}


def link(root: str, name: str, folders: tuple[str, ...]) -> str:
    """What the first link of that name leads to, its last part; "" for none."""
    for folder in folders:
        try:
            return shown(os.path.basename(os.readlink(f"{root}{folder}/{name}")))
        except OSError:
            continue
    return ""
