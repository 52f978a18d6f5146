"""The operating system: its release, its groups, our lock on it, and who listens."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from pantheon.looks.files import ids, read_text
from pantheon.looks.text import Object, Unread, plain

LOCK_FILE = "/run/pantheon/lock"


def release(root: str) -> Object:
    """facts.OsRelease"""
    text = read_text(f"{root}/etc/os-release") or read_text(f"{root}/usr/lib/os-release")
    if not text:
        raise Unread("there is no /etc/os-release")
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals:
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            values[name] = plain(value)

    def first(path: str) -> str:
        return (read_text(root + path) or "").strip()

    uptime = first("/proc/uptime").split(" ")[0]
    return {
        "id": values.get("ID", "linux"),
        "version": values.get("VERSION_ID", ""),
        "pretty": values.get("PRETTY_NAME", values.get("NAME", "")),
        "kernel": first("/proc/sys/kernel/osrelease"),
        "boot_id": first("/proc/sys/kernel/random/boot_id"),
        "uptime_s": float(uptime) if re.fullmatch(r"\d+(\.\d+)?", uptime) else 0.0,
        "hostname": first("/proc/sys/kernel/hostname"),
    }


def groups(root: str, names: Iterable[str]) -> Object:
    """name -> gid, from /etc/group and then from the host's name service."""
    table = dict(reversed(ids(f"{root}/etc/group")))
    out: Object = {}
    for name in names:
        out[name] = table.get(name)
        if out[name] is None and not root:
            import grp

            with suppress(KeyError):
                out[name] = grp.getgrnam(name).gr_gid
    return out


def lock(root: str) -> str | None:
    """The lock's text when somebody holds it."""
    held = lock_held(root)
    return held[1] if held else None


def lock_held(root: str) -> tuple[int, str] | None:
    """Who holds the lock: the process that took it, and the lock's text. /proc/locks is read rather than the lock
    tried: for the moment of a try we would hold it ourselves, and an apply that starts just then would be refused."""
    path = root + LOCK_FILE
    try:
        about = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    locks = read_text(f"{root}/proc/locks", 16 << 20)
    if locks is None:
        raise Unread("/proc/locks cannot be read")
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == device:
            return int(words[4]) if words[4].isdigit() else 0, read_text(path, 65536) or "{}"
    return None


def listeners(root: str) -> list[Object]:
    """facts.Listener: the kernel's table joined with the open files of every process. `container` is an id here; names
    are filled in by docker.name_containers. `argv` is for that too."""
    rows: list[tuple[str, int, str]] = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        text = read_text(f"{root}/proc/net/{table}", 32 << 20)
        if text is None and table == "tcp":
            raise Unread("/proc/net/tcp cannot be read")
        for line in (text or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == "0A":
                where, _, number = fields[1].partition(":")
                rows.append((kernel_address(where, family), int(number, 16), fields[9]))
    owners = socket_owners(root, {inode for _, _, inode in rows})
    out = []
    for address, port, inode in rows:
        pid = owners.get(inode)
        process, argv = "", ""
        if pid is not None:
            process = (read_text(f"{root}/proc/{pid}/comm") or "").strip()
            if process.startswith("docker-proxy"):
                argv = (read_text(f"{root}/proc/{pid}/cmdline", 65536) or "").replace("\0", " ")
        row: Object = {"address": address, "port": port, "pid": pid, "process": plain(process)}
        runs = cgroup_of(root, pid) if pid else ""
        unit, user = service_of(runs)
        out.append({**row, "container": container_in(runs), "unit": unit, "user": user, "argv": argv})
    unique = {(row["address"], row["port"]): row for row in reversed(out)}
    return sorted(unique.values(), key=lambda row: (row["port"], row["address"]))


def kernel_address(text: str, family: int) -> str:
    words = struct.unpack(f">{len(text) // 8}L", bytes.fromhex(text))
    return socket.inet_ntop(family, struct.pack(f"={len(words)}L", *words))


def socket_owners(root: str, inodes: set[str]) -> dict[str, int]:
    """inode -> process id. Process 1 comes last: it holds sockets only until the service that owns them has them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    out: dict[str, int] = {}
    pids = sorted((int(name) for name in os.listdir(f"{root}/proc") if name.isdigit()), key=lambda pid: (pid == 1, pid))
    for pid in pids:
        if not wanted:
            break
        folder = f"{root}/proc/{pid}/fd"
        try:
            for name in os.listdir(folder):
                try:
                    inode = wanted.pop(os.readlink(f"{folder}/{name}"), None)
                except OSError:
                    continue
                if inode:
                    out[inode] = pid
        except OSError:
            continue
    return out


def cgroup_of(root: str, pid: int) -> str:
    try:
        return read_text(f"{root}/proc/{pid}/cgroup", 65536) or ""
    except OSError:
        return ""


def container_of(root: str, pid: int) -> str:
    """The id of the container that a process runs in, "" for none."""
    return container_in(cgroup_of(root, pid))


def container_in(cgroup: str) -> str:
    """The last 64 hex digits in its path, which cgroup v1 and v2 and both cgroup drivers have in common."""
    found = re.findall(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", cgroup)
    return str(found[-1]) if found else ""


def service_of(cgroup: str) -> tuple[str, str]:
    """facts.Listener's unit and user, by the path of systemd's tree."""
    path = next((line for line in cgroup.splitlines() if line.startswith(("0::", "1:name=systemd:"))), "")
    user = re.search(r"/user-([0-9]+)\.slice/", path)
    units = [part for part in path.split("/") if part.endswith(".service") and not part.startswith("user@")]
    return plain(units[-1]) if units else "", user[1] if user else ""
