"""What is installed, and whether the host can be rebooted: packages, who is logged in, what the next boot loads."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

from pantheon.collecting import kernels
from pantheon.looks import work
from pantheon.looks.files import USUAL_PATH, read_bytes, read_text, which
from pantheon.looks.text import Json, Object, Unread, plain

STATUS_BYTES = 64 << 20
# Packages that matter to the stack whatever they are called exactly: the driver has its version in the name.
LIKE = re.compile(
    r"(?:linux-modules-nvidia|nvidia-(?:driver|dkms|kernel|utils|compute-utils|firmware)|libnvidia-(?:compute|cfg1|gl))-"
    r"[\w.+-]*"
)
HOOK = "nvidia-container-runtime-hook"
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")


def installed(spec: Object, root: str) -> Json:
    """evidence.Evidence.installed: the packages asked for (None: not installed), and those of the driver."""
    record = read_bytes(f"{root}/var/lib/dpkg/status", STATUS_BYTES)
    if record is None:
        raise Unread("there is no /var/lib/dpkg/status")
    found: Object = dict.fromkeys(spec.get("installed") or ())
    for stanza in record.split(b"\n\n"):
        name = _field(stanza, b"Package")
        if name not in found and not LIKE.fullmatch(name):
            continue
        version, status = _field(stanza, b"Version"), _field(stanza, b"Status")
        if status.endswith(" installed"):
            found[name] = version
        elif status.endswith((" half-installed", " half-configured", " unpacked")):
            found[name] = f"{version} ({status.rpartition(' ')[2]})"
    return found


def _field(stanza: bytes, name: bytes) -> str:
    _, found, rest = (b"\n" + stanza).partition(b"\n" + name + b": ")
    return plain(rest.partition(b"\n")[0].decode("utf-8", "replace").strip()) if found else ""


def reboot_required(spec: Object, root: str) -> Json:
    """evidence.Evidence.reboot_required: the distribution's own note, with the packages that asked for it."""
    del spec
    text = read_text(f"{root}/run/reboot-required", 64 * 1024)
    if text is None:
        return None
    packages = read_text(f"{root}/run/reboot-required.pkgs", 64 * 1024) or ""
    names = ", ".join(dict.fromkeys(plain(line).strip() for line in packages.splitlines() if line.strip()))
    said = " ".join(plain(line) for line in text.splitlines()).strip()
    return f"{said} ({names})" if names else said or "required"


def logged_in(spec: Object, root: str) -> Json:
    """evidence.Evidence.logged_in: a line of `who` for each login with a terminal. Ours has none."""
    del spec, root
    if not which("who"):
        raise Unread("who: not there")
    done = work.command(["who"], 2.0)
    if done["status"]:
        raise Unread(f"who: exit {done['status']}: {done['output'].strip()[:200]}")
    return [" ".join(line.split()) for line in done["output"].splitlines() if line.strip()][:50]


def installing(spec: Object, root: str) -> Json:
    """evidence.Evidence.installing: the process that changes packages now, by dpkg's own lock; None: nobody does."""
    del spec
    locks = read_text(f"{root}/proc/locks", 16 << 20)
    if locks is None:
        raise Unread("/proc/locks cannot be read")
    held = {
        words[5]: words[4] for words in map(str.split, locks.splitlines()) if len(words) > 5 and words[1] == "POSIX"
    }
    for path in LOCKS:
        try:
            about = os.stat(root + path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        pid = held.get(f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}")
        if pid:
            name = plain((read_text(f"{root}/proc/{pid}/comm") or "").strip())
            return f"{name or 'a process'} (pid {pid})"
    return None


def next_module(spec: Object, root: str) -> Json:
    """evidence.Evidence.next_module: the version of the driver's module that the next boot loads; None: there is none
    on disk for that kernel."""
    del spec
    if root:
        raise Unread("modinfo: not there")
    return kernels.module_of(root, kernels.next_release(root))


def engine_has_hook(spec: Object, root: str) -> Json:
    """evidence.Evidence.engine_has_hook: whether dockerd, when it started, found the toolkit's hook on its PATH: it
    looks once (DOMAIN.md, Docker). None: the engine does not run."""
    del spec
    pid = (read_text(f"{root}/run/docker.pid") or "").strip()
    if not pid.isdigit():
        return None
    status = read_text(f"{root}/proc/{pid}/stat")
    uptime = read_text(f"{root}/proc/uptime")
    if status is None or uptime is None:
        return None
    ticks = int(status.rpartition(")")[2].split()[19])
    started = time.time() - float(uptime.split()[0]) + ticks / os.sysconf("SC_CLK_TCK")
    told = (read_bytes(f"{root}/proc/{pid}/environ", 1 << 20) or b"").decode("utf-8", "replace").split("\0")
    path = next((one.partition("=")[2] for one in told if one.startswith("PATH=")), USUAL_PATH)
    for folder in filter(None, path.split(":")):
        with suppress(FileNotFoundError, NotADirectoryError):
            about = os.stat(f"{root}{folder}/{HOOK}")
            return about.st_ctime <= started + 0.3  # the time of its installation, which the file's own date is not
    return False
