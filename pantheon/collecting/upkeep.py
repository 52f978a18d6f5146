"""Whether the host looks after itself as it should: its clock, its journal, what apt upgrades without being asked."""

from __future__ import annotations

import ctypes
import os
import re

from pantheon.collecting import packages
from pantheon.looks import work
from pantheon.looks.files import read_bytes, read_text, which
from pantheon.looks.text import Json, Object, Unread, plain, shown

TIME_SERVICES = ("systemd-timesyncd", "chrony", "chronyd", "ntp", "ntpd", "ntpsec", "openntpd")
STA_UNSYNC = 0x40  # of struct timex's status: the clock is not synchronised
STATUS_AT = 40  # the offset of that field: an unsigned, padding, and four longs before it
CONFIG_DIRS = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
JOURNALD = "systemd/journald.conf"
COMMAND_S = 3.0
ENGINE = re.compile(
    r"docker-ce(?:-cli)?|docker\.io|containerd(?:\.io)?|docker-(?:buildx|compose)-plugin|nvidia-container-toolkit(?:-base)?"
    r"|libnvidia-container1|libnvidia-container-tools"
)


def clock(spec: Object, root: str) -> Json:
    """upkeep.Clock"""
    del spec
    container = plain((read_text(f"{root}/run/systemd/container") or "").strip())
    active: list[str] = []
    if not root and which("systemctl"):
        found = work.command(["systemctl", "is-active", "--", *TIME_SERVICES], COMMAND_S)
        states = found["output"].split()
        if len(states) != len(TIME_SERVICES):
            raise Unread(f"systemctl is-active: {found['output'][:200]}")
        active = [name for name, state in zip(TIME_SERVICES, states, strict=True) if state == "active"]
    return {"synchronised": synchronised(), "services": active, "container": container}


def synchronised() -> bool:
    """By the kernel: read with adjtimex(2), which changes nothing where nothing is asked of it."""
    room = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).adjtimex(room) < 0:
        raise Unread(f"adjtimex: {os.strerror(ctypes.get_errno())}")
    return not int.from_bytes(room.raw[STATUS_AT : STATUS_AT + 4], "little") & STA_UNSYNC


def journal(spec: Object, root: str) -> Json:
    """upkeep.Journal: the drop-ins of systemd in their order, the last word wins; a file in /etc hides those of the
    same name further down."""
    del spec
    if not os.path.isdir(f"{root}/run/systemd") and not os.path.isdir(f"{root}/usr/lib/systemd"):
        raise Unread("this host is not run by systemd")
    said: dict[str, tuple[str, str]] = {}
    for path in config_files(root):
        for line in (read_text(root + path) or "").splitlines():
            key, found, value = line.strip().partition("=")
            if found and key.strip() in ("SystemMaxUse", "Storage"):
                said[key.strip()] = (plain(value.strip()), shown(path))
    place = "/var/log/journal" if os.path.isdir(f"{root}/var/log/journal") else "/run"
    room = os.statvfs(f"{root}{place}" if os.path.isdir(root + place) else root or "/")
    most, at = said.get("SystemMaxUse", ("", ""))
    storage, storage_at = said.get("Storage", ("", ""))
    return {
        "most": most,
        "at": at if most else "",
        "storage": storage or "auto",
        "storage_at": storage_at if storage else "",
        "total_bytes": room.f_blocks * room.f_frsize,
    }


def config_files(root: str) -> list[str]:
    """journald.conf, then its drop-ins by their names."""
    main = next((f"{top}/{JOURNALD}" for top in CONFIG_DIRS if os.path.lexists(f"{root}{top}/{JOURNALD}")), "")
    found: dict[str, str] = {}
    for top in CONFIG_DIRS:
        folder = f"{top}/{JOURNALD}.d"
        try:
            names = os.listdir(root + folder)
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return [*([main] if main else []), *(found[name] for name in sorted(found))]


def upgrades(spec: Object, root: str) -> Json:
    """upkeep.Upgrades; None where there is no apt."""
    del spec
    if not which("apt-config"):
        return None
    argv = ["apt-config", *(["-o", f"Dir={root}"] if root else []), "dump"]
    found = work.command(argv, COMMAND_S, 1 << 20)
    if found["status"]:
        raise Unread(f"apt-config dump: exit {found['status']}: {found['output'].strip()[:200]}")
    values = re.findall(r'^(\S+) "(.*)";$', found["output"], re.MULTILINE)

    def all_of(*names: str) -> list[str]:
        return [plain(value) for key, value in values if key in names and value]

    periodic = dict(values).get("APT::Periodic::Unattended-Upgrade", "0")
    enabled = dict(values).get("APT::Periodic::Enable", "1") != "0"
    there = any(os.path.lexists(f"{root}/usr/bin/{name}") for name in ("unattended-upgrade", "unattended-upgrades"))
    held, ours = record(root)
    return {
        "runs": there and enabled and periodic not in ("0", "") and timer(root),
        "origins": all_of("Unattended-Upgrade::Allowed-Origins::", "Unattended-Upgrade::Origins-Pattern::"),
        "blacklist": all_of("Unattended-Upgrade::Package-Blacklist::"),
        "held": held,
        "ours": ours,
    }


def timer(root: str) -> bool:
    """Whether apt-daily-upgrade.timer starts it: neither masked nor disabled. That it is enabled is a link."""
    unit = "apt-daily-upgrade.timer"
    places = [f"{root}{place}/{unit}" for place in ("/etc/systemd/system", "/run/systemd/system")]
    masked = any(os.path.islink(path) and os.readlink(path) == "/dev/null" for path in places)
    return not masked and os.path.lexists(f"{root}/etc/systemd/system/timers.target.wants/{unit}")


def record(root: str) -> tuple[list[str], list[str]]:
    """Packages on hold, and those installed that the stack depends on, as dpkg has them."""
    data = read_bytes(f"{root}/var/lib/dpkg/status", packages.STATUS_BYTES)
    if data is None:
        raise Unread("there is no /var/lib/dpkg/status")
    held, ours = [], []
    for stanza in data.split(b"\n\n"):
        name, status = packages._field(stanza, b"Package"), packages._field(stanza, b"Status")
        if status.startswith("hold "):
            held.append(name)
        if status.endswith(" installed") and (ENGINE.fullmatch(name) or packages.LIKE.fullmatch(name)):
            ours.append(name)
    return sorted(held), sorted(ours)
