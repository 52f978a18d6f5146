"""Atlas for a lab host: a real NFSv4 server on the host itself, and what can go wrong with it.

    with atlas.served(lab, atlas.EXPORTS): ...     the server runs; afterwards it is gone, and so are mounts of it
    atlas.hang(lab); atlas.wake(lab)               the server stops answering, as a machine that froze
    atlas.orphan(lab, "/mnt/atlas/appdata")        the client of one mount dies: Transport endpoint is not connected
    atlas.remake(lab, "appdata")                   an export's directory is made anew: Stale file handle

The kernel's client is played by a FUSE file system over libnfs (host/rootfs/usr/lib/lab/nfs-client.py): options, users
and errors are real, and a mount shows as fuse.nfs4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from lab.machine import ATLAS, Lab

ADDRESS = "127.0.0.9"
STORE = "/srv/atlas"
CONFIGURATION = "/run/lab/ganesha.conf"
PID = "/run/lab/ganesha.pid"


@dataclass(frozen=True)
class Export:
    """One directory that Atlas exports. `squash` as ganesha has it: Root_Squash, No_Root_Squash, All_Squash."""

    name: str
    access: str = "RW"
    squash: str = "Root_Squash"
    owner: str = "1024:1024"
    anonymous: int = 65534


EXPORTS = (Export("appdata"), Export("datasets"), Export("managed-media", "RO", owner="0:0"))


def configuration(exports: tuple[Export, ...], *, numeric: bool = True) -> str:
    """ganesha's configuration. Not `numeric`: owners go out as names that nobody at the other end knows."""
    lines = [
        "NFS_CORE_PARAM { Protocols = 4; NFS_Port = 2049; Bind_addr = " + ADDRESS + "; mount_path_pseudo = true;",
        "  Enable_NLM = false; Enable_RQUOTA = false; }",
        "NFSv4 { Graceless = true; Lease_Lifetime = 10; RecoveryBackend = fs;",
        f"  Only_Numeric_Owners = {str(numeric).lower()}; Allow_Numeric_Owners = {str(numeric).lower()}; }}",
    ]
    for number, export in enumerate(exports, 1):
        lines.append(
            f"EXPORT {{ Export_Id = {number}; Path = {STORE}/{export.name}; Pseudo = /{export.name}; SecType = sys;"
            f" Access_Type = {export.access}; Squash = {export.squash}; FSAL {{ Name = VFS; }}"
            f" Anonymous_Uid = {export.anonymous}; Anonymous_Gid = {export.anonymous}; }}"
        )
    return "\n".join(lines) + "\n"


# The store is a file system of its own: the server needs file handles, which an overlay has none of.
START = """
mountpoint -q "$1" || { mkdir -p "$1"; mount -t tmpfs -o mode=755,size=16m atlas "$1"; }
mkdir -p /run/lab /run/ganesha /var/lib/nfs/ganesha; cat >/run/lab/ganesha.conf
ganesha.nfsd -f /run/lab/ganesha.conf -L /run/lab/ganesha.log -p /run/lab/ganesha.pid
until grep -q 'NFS SERVER INITIALIZED' /run/lab/ganesha.log; do sleep 0.02; done
"""
STOP = """
[ -s /run/lab/ganesha.pid ] || exit 0
kill -KILL "$(cat /run/lab/ganesha.pid)" 2>/dev/null || true
while kill -0 "$(cat /run/lab/ganesha.pid)" 2>/dev/null; do sleep 0.02; done
rm -f /run/lab/ganesha.pid /run/lab/ganesha.log
"""


def start(lab: Lab, exports: tuple[Export, ...] = EXPORTS, *, numeric: bool = True) -> None:
    """Start the server, or start it anew with other exports. What lies in them stays."""
    lab.sh(STOP)
    made = [f"mkdir -p {STORE}/{one.name}; chown {one.owner} {STORE}/{one.name}" for one in exports]
    text = configuration(exports, numeric=numeric)
    prepare, begin = START.split("mkdir -p /run/lab", 1)
    script = prepare + "\n".join(made) + "\nmkdir -p /run/lab" + begin
    lab.exec("timeout", "20", "sh", "-ceu", script, "sh", STORE, stdin=text.encode())


def stop(lab: Lab) -> None:
    """The server is gone: connections are refused."""
    lab.sh(STOP)


@contextlib.contextmanager
def served(lab: Lab, exports: tuple[Export, ...] = EXPORTS, *, numeric: bool = True) -> Iterator[None]:
    """The server runs with these exports."""
    start(lab, exports, numeric=numeric)
    try:
        yield
    finally:
        forget(lab)


def hang(lab: Lab) -> None:
    """The server takes connections and answers nothing; who waits for it on a hard mount is stuck in the kernel."""
    lab.sh('kill -STOP "$(cat /run/lab/ganesha.pid)"')


def wake(lab: Lab) -> None:
    lab.sh('kill -CONT "$(cat /run/lab/ganesha.pid)"')


# The clients are python3 by name: found by the mount point that they were given.
CLIENTS = """
for link in /proc/[0-9]*/cmdline; do
    tr '\\0' '\\n' <"$link" 2>/dev/null | grep -q 'mount[.]nfs4' || continue
    [ -z "$1" ] || tr '\\0' '\\n' <"$link" | grep -qxF "$1" || continue
    pid=${link#/proc/}; kill -KILL "${pid%/cmdline}" 2>/dev/null || true
done
"""


def orphan(lab: Lab, mount: str) -> None:
    """The client of that mount dies."""
    lab.sh(CLIENTS, mount)


def remake(lab: Lab, name: str, exports: tuple[Export, ...] = EXPORTS) -> None:
    """The directory behind an export is made anew, as after a restore on the server: what is mounted is stale."""
    lab.sh(STOP)
    lab.sh(f'mv -- {STORE}/"$1" {STORE}/"$1".old', name)
    start(lab, exports)


def forget(lab: Lab) -> None:
    """The server and all mounts of it are gone, with the units that made them and what was stored."""
    lab.sh(STOP)
    lab.sh(CLIENTS, "")
    lab.sh(
        """
        for unit in /etc/systemd/system/*.automount /etc/systemd/system/*.mount; do
            grep -q "^# Written by pantheon" "$unit" 2>/dev/null || continue
            systemctl disable -q --now -- "$(basename "$unit")" 2>/dev/null || true
            rm -f -- "$unit"
        done
        findmnt -rno TARGET -t fuse.nfs4,autofs | tac | while read -r place; do
            case "$place" in /proc/*) ;; *) umount -l -- "$(printf %b "$place")" ;; esac
        done
        ! mountpoint -q /srv/atlas || umount -l /srv/atlas
        rm -rf /run/pantheon/atlas.json; systemctl daemon-reload; systemctl reset-failed
        """
    )


def inventory(*shares: tuple[str, str]) -> list[dict[str, str]]:
    """hosts.toml's atlas for (name, mode) of exports."""
    return [{"export": f"{ATLAS}:/{name}", "mount": f"/mnt/atlas/{name}", "mode": mode} for name, mode in shares]
