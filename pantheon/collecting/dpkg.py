"""Who works on packages now, and which of dpkg's states are half-way. Goes with the programs that mend as well, and so
needs nothing of ours."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time

LOCKS = (
    *("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"),
    *("/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"),
)
HALF_WAY = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")


def holder(root: str) -> str | None:
    """The process that has one of apt's or dpkg's locks; None: nobody. The kernel is asked who would be in the way."""
    for path in LOCKS:
        try:
            fd = os.open(root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        finally:
            os.close(fd)
        if kind != fcntl.F_UNLCK:
            return named(pid) if pid > 0 else "a process in another container"
    return None


def named(pid: int) -> str:
    """`unattended-upgrade (pid 812, since 05:10:11 UTC)`"""
    name = program(_text(f"/proc/{pid}/cmdline").split("\0"), _text(f"/proc/{pid}/comm").strip())
    words = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    since = ""
    if len(words) > 19:
        began = time.time() - float(_text("/proc/uptime").split()[0]) + int(words[19]) / os.sysconf("SC_CLK_TCK")
        since = time.strftime(", since %H:%M:%S UTC", time.gmtime(began))
    return f"{''.join(c if c.isprintable() else '?' for c in name)} (pid {pid}{since})"


def program(argv: list[str], comm: str) -> str:
    """What people call a process: the kernel's name for it, which is cut at 15 characters, made whole; a script by its
    own name."""
    words = [os.path.basename(word) for word in argv if word and not word.startswith("-")]
    words = [word for word in words if re.fullmatch(r"[\w.+-]{1,60}", word)]
    name = next((word for word in words if comm and word.startswith(comm)), comm)
    if re.match(r"(?:python|perl)[\d.]*$|(?:ba|da)?sh$", name):
        name = next((word for word in words if word != name), name)
    return name or "a process"


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(65536).decode("utf-8", "replace")
    except OSError:
        return ""
