"""The kernels that are installed, the one that boots next, the driver's module for each; and what apt would bring."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

from pantheon.looks import work
from pantheon.looks.files import read_bytes, read_text, which
from pantheon.looks.text import Json, Object, Unread, plain

MOST_KERNELS = 8  # the newest
MODINFO_S, DKMS_S, APT_S = 3.0, 4.0, 8.0
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
MOK = "/var/lib/shim-signed/mok/MOK.der"  # with which Ubuntu's dkms signs what it builds
# apt looks into its files and leaves them as they are: its cache is made in memory.
AS_THEY_ARE = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
VARIANTS = ("", "-server", "-open", "-server-open")
INSTALLS = re.compile(r"Inst (\S+) (?:\[[^]]*\] )?\((\S+)")


def kernels(spec: Object, root: str) -> Json:
    """evidence.Evidence.kernels"""
    del spec
    following = work.attempt(next_release, root)
    releases = _installed(root)
    if isinstance(following, str) and following not in releases:
        releases = [following, *releases]
    mok = work.attempt(_mok, root)
    return {
        "running": os.uname().release,
        "next": following,
        "installed": [_kernel(root, release) for release in releases[:MOST_KERNELS]],
        "dkms": work.attempt(_dkms, root),
        "secure_boot": work.attempt(_secure_boot, root),
        "mok": None if mok is None else mok if work.is_unknown(mok) else mok == "enrolled",
        "mok_asked": mok == "asked",
    }


def next_release(root: str) -> str:
    """The release of the kernel that boots next: what the boot loader was told by name, else where Ubuntu's
    /boot/vmlinuz leads, else the newest in /boot, else the one that runs."""
    named = _chosen(root)
    if named and os.path.isdir(f"{root}/lib/modules/{named}"):
        return named
    with suppress(OSError):
        return os.path.basename(os.readlink(f"{root}/boot/vmlinuz")).partition("-")[2]
    images = [name.partition("-")[2] for name in _names(f"{root}/boot") if name.startswith("vmlinuz-")]
    return max(images, key=_order) if images else os.uname().release


def _chosen(root: str) -> str:
    """The release that GRUB was told to boot: once (grub-reboot), or until told otherwise (GRUB_DEFAULT=saved, or a
    name); "" where it takes the newest."""
    env = read_text(f"{root}/boot/grub/grubenv") or ""
    default = re.search(
        r"^\s*GRUB_DEFAULT=[\"']?([^\"'\n]*)", read_text(f"{root}/etc/default/grub") or "", re.MULTILINE
    )
    wanted = default[1] if default else ""
    once = re.search(r"^next_entry=(.+)$", env, re.MULTILINE)
    saved = re.search(r"^saved_entry=(.+)$", env, re.MULTILINE)
    entry = once[1] if once else saved[1] if saved and wanted == "saved" else wanted
    found = re.search(r"(?:with Linux |gnulinux-)(\d[\w.+~-]*?)(?:-(?:advanced|recovery)\b.*)?$", entry.strip())
    return found[1] if found else ""


def _order(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d]+", release)]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _installed(root: str) -> list[str]:
    """Releases with modules, newest first. Where kernels are in /boot, those alone: of a removed one a directory of
    modules may be left."""
    releases = [name for name in _names(f"{root}/lib/modules") if os.path.isdir(f"{root}/lib/modules/{name}")]
    bootable = {name.partition("-")[2] for name in _names(f"{root}/boot") if name.startswith("vmlinuz-")}
    kept = [name for name in releases if not bootable or name in bootable or name == os.uname().release]
    return sorted(kept, key=_order, reverse=True)


def _kernel(root: str, release: str) -> Object:
    headers = os.path.exists(f"{root}/lib/modules/{release}/build/Makefile")
    module = work.attempt(module_of, root, release)
    signer = _modinfo(root, release, "signer") if isinstance(module, str) else None
    return {"release": plain(release), "module": module, "signer": signer or "", "headers": headers}


def module_of(root: str, release: str) -> str | None:
    """The version of the NVIDIA module that this kernel would load; None: there is none on disk."""
    if not os.path.isdir(f"{root}/lib/modules/{release}"):
        raise Unread(f"there is no /lib/modules/{release}")
    return _modinfo(root, release, "version")


def _modinfo(root: str, release: str, field: str) -> str | None:
    if not which("modinfo"):
        raise Unread("modinfo: not there")
    base = ["-b", root] if root else []
    done = work.command(["modinfo", *base, "-k", release, "-F", field, "nvidia"], MODINFO_S)
    if done["status"]:
        if "not found" in done["output"]:
            return None
        raise Unread(f"modinfo: exit {done['status']}: {done['output'].strip()[:200]}")
    return plain(done["output"].strip())[:200]


def _dkms(root: str) -> list[str] | None:
    if root or not which("dkms"):
        return None
    done = work.command(["dkms", "status"], DKMS_S)
    if done["status"]:
        raise Unread(f"dkms: exit {done['status']}: {done['output'].strip()[:200]}")
    return [plain(line).strip() for line in done["output"].splitlines() if line.strip()][:50]


def _secure_boot(root: str) -> bool | None:
    value = read_bytes(root + SECURE_BOOT, 16)  # four bytes of attributes, then the value
    return None if not value or len(value) < 5 else value[4] == 1


def _mok(root: str) -> str | None:
    """Whether the key is "enrolled", or "asked" to be at the next boot, or "not"; None: there is no such key."""
    if root or not os.path.exists(MOK):
        return None
    if not which("mokutil"):
        raise Unread("mokutil: not there")
    said = work.command(["mokutil", "--test-key", MOK], 2.0)["output"]  # exit status 1 for a key that is enrolled
    return "enrolled" if "already enrolled" in said else "asked" if "already in the enrollment" in said else "not"


# ---- what apt would bring


def driver_offer(spec: Object, root: str) -> Json:
    """evidence.Evidence.driver_offer"""
    asked = spec.get("driver") or {}
    if root or not which("apt-cache"):
        raise Unread("apt: not there")
    branch = str(asked["branch"])
    name = f"{branch}-{asked['variant']}" if asked.get("variant") else branch
    package, kernel = f"nvidia-driver-{name}", next_release(root)
    flavour = _flavour(root)
    # The driver that is there may be of another variant: its modules are asked for as well.
    endings = [name, *(branch + more for more in VARIANTS if branch + more != name)]
    tails = [kernel, *([flavour] if flavour else [])]
    heads = ["linux-headers", *(f"linux-modules-nvidia-{ending}" for ending in endings)]
    names = [package, *(f"nvidia-dkms-{ending}" for ending in endings)]
    known = _versions([*names, *(f"{head}-{tail}" for head in heads for tail in tails)])
    return {
        "package": package,
        "kernel": kernel,
        "flavour": flavour,
        "versions": known,
        "brings": work.attempt(_brings, package) if known[package] else None,
        "lists_age_s": work.attempt(_lists_age, root),
    }


def _flavour(root: str) -> str:
    """Of the kernel's metapackage, which brings each next kernel: linux-image-FLAVOUR."""
    record = (read_bytes(f"{root}/var/lib/dpkg/status", 64 << 20) or b"").decode("utf-8", "replace")
    found = re.findall(r"^Package: linux-image-([a-z][\w.-]*)\nStatus: \S+ ok installed$", record, re.MULTILINE)
    return max((name for name in found if not name.startswith(("unsigned", "uc-"))), key=len, default="")


def _versions(names: list[str]) -> Object:
    done = work.command(["apt-cache", *AS_THEY_ARE, "madison", "--", *names], APT_S, 1 << 20)
    if done["status"] not in (0, 100):  # 100: it knows none of them
        raise Unread(f"apt-cache: exit {done['status']}: {done['output'].strip()[:200]}")
    known: dict[str, list[str]] = {name: [] for name in names}
    for line in done["output"].splitlines():
        name, _, rest = (part.strip() for part in line.partition("|"))
        version = plain(rest.partition("|")[0].strip())
        if name in known and version and version not in known[name]:
            known[name].append(version)
    return known


def _brings(package: str) -> list[str]:
    argv = ["apt-get", *AS_THEY_ARE, "-s", "-q", "install", "--", package]
    done = work.command(argv, APT_S, 1 << 20)
    if done["status"]:
        errors = [line for line in done["output"].splitlines() if line.startswith(("E:", " "))]
        raise Unread(plain("; ".join(line.strip() for line in errors))[:400] or f"apt-get -s: exit {done['status']}")
    return [f"{plain(name)} {plain(version)}" for name, version in INSTALLS.findall(done["output"])][:400]


def _lists_age(root: str) -> float | None:
    """Since apt fetched them. Their own time is that of the archive, which may be months old: what counts is when they
    were put there. (Where the archive had nothing new, only a stamp tells: the distribution's, if it keeps one, or that
    of mending/apt.py.)"""
    folder = f"{root}/var/lib/apt/lists"
    times = [os.stat(f"{folder}/{name}").st_ctime for name in _names(folder) if name.endswith(("Release", "Packages"))]
    for stamp in ("/var/lib/apt/periodic/update-success-stamp", "/run/pantheon/apt-updated"):
        with suppress(OSError):
            times += [os.stat(root + stamp).st_mtime] if times else []
    return round(max(0.0, time.time() - max(times)), 1) if times else None
