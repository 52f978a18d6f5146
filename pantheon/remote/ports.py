"""Ports on this machine's loopback: which are free, and who holds the others."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pantheon.errors import UsageError
from pantheon.looks import system
from pantheon.looks.text import plain

PORTS_TRIED = 50
LSOF_S = 3.0
BEYOND_ROOT = 8000  # added to a port that only root may have: 80 becomes 8080


@dataclass(frozen=True)
class Holder:
    """Who holds a port. `text` is `firefox (pid 4711)`, or as much of it as this machine says; `see` is what to type
    to see more of it, or to end it."""

    text: str
    see: str


def loopback() -> tuple[str, ...]:
    """This machine's loopback addresses: 127.0.0.1, and ::1 where it has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ("127.0.0.1",)
    return ("127.0.0.1", "::1")


def free_port(wanted: int, *, only: bool = False) -> int:
    """`wanted` or, unless `only` that will do, the next port that is free on all of this machine's loopback addresses.
    Raises UsageError, naming who holds it, when there is none."""
    if not only:
        first = wanted + BEYOND_ROOT if _taken(wanted) == errno.EACCES else wanted
        for port in range(first, min(first + PORTS_TRIED, 65536)):
            if not _taken(port):
                return port
        raise UsageError(
            f"ports {first} to {min(first + PORTS_TRIED, 65536) - 1} are taken on this machine",
            next_commands=["ss -ltnp", "give another one with --port"],
        )
    error = _taken(wanted)
    if not error:
        return wanted
    other = "give another one with --port"
    with suppress(UsageError):
        other = f"--port {free_port(wanted + 1 if wanted < 65535 else 8188)} is free"
    if error == errno.EACCES:
        raise UsageError(f"port {wanted} needs root on this machine", next_commands=[other])
    holder = find_holder(wanted)
    raise UsageError(
        f"port {wanted} is taken on this machine by {holder.text}", next_commands=[*filter(None, [holder.see]), other]
    )


def why_not(port: int) -> str:
    """Why that port is not free: `port 8188 here is held by firefox (pid 4711)`; "" when it is."""
    error = _taken(port)
    if error == errno.EACCES:
        return f"port {port} here needs root"
    return f"port {port} here is held by {holder_of(port)}" if error else ""


def _taken(port: int) -> int:
    """The error of binding it, as ssh would; 0 when it is free."""
    with ExitStack() as stack:
        for address in loopback():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            probe = stack.enter_context(socket.socket(family))
            # As ssh does: connections of an earlier tunnel that are still being seen off are no reason to move.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                return error.errno or -1
    return 0


def holder_of(port: int) -> str:
    """`firefox (pid 4711)`; "another program" where this system does not say."""
    return find_holder(port).text


def find_holder(port: int) -> Holder:
    """Who holds that port of this machine. One of our own tunnels is named as such, with what closes it."""
    try:
        return _in_proc(port) if sys.platform == "linux" else _by_lsof(port)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return Holder("another program", _see(port))


def _holder(port: int, name: str, pid: int, *, parent: int) -> Holder:
    with suppress(Exception):  # whatever lies in that folder, the port is held
        from pantheon.remote import ledger

        for entry in ledger.entries(keep=True) if name == "ssh" else ():
            if entry.is_open and (entry.seen.port, entry.pid) == (port, parent):
                service, host = entry.seen.service, shlex.quote(entry.seen.host)
                text = f"a tunnel to {service} of {entry.seen.host} (pid {parent})"
                return Holder(text, f"invoke tunnel.close {service} --host {host}")
    return Holder(f"{plain(name)} (pid {pid})", _see(port))


def _in_proc(port: int) -> Holder:
    """From /proc. What belongs to another user shows whose it is, and no more."""
    rows = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii", errors="replace").splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    rows.append((fields[3] != "0A", fields[9], int(fields[7])))  # listening first
    if not rows:
        return Holder("another program", _see(port))
    rows.sort()
    owners = system.socket_owners("", {inode for _, inode, _ in rows if inode != "0"})
    pids = [owners[inode] for _, inode, _ in rows if inode in owners]
    if not pids:
        owner = rows[0][2]
        if owner == os.getuid():
            return Holder("another program", _see(port))
        return Holder(f"a program of {_user(owner)}, which does not show itself", f"sudo {_see(port)}")
    name = Path(f"/proc/{pids[0]}/comm").read_text(encoding="utf-8", errors="replace").strip()
    # pid (comm, which may hold anything) state ppid
    parent = Path(f"/proc/{pids[0]}/stat").read_bytes().rpartition(b")")[2].split()[1]
    return _holder(port, name, pids[0], parent=int(parent))


def _by_lsof(port: int) -> Holder:
    """Where there is no /proc."""
    see = _see(port)
    argv = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-FpcR"]  # pid, command, parent
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=LSOF_S, check=False
    )
    said = {line[0]: line[1:] for line in reversed(done.stdout.splitlines()) if line}
    if not {"p", "c"} <= said.keys():
        return Holder("another program", f"sudo {see}")
    return _holder(port, said["c"], int(said["p"]), parent=int(said.get("R", "0")))


def _see(port: int) -> str:
    return f"ss -ltnp 'sport = :{port}'" if sys.platform == "linux" else f"lsof -nP -iTCP:{port} -sTCP:LISTEN"


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
