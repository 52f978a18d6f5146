"""Small things that people leave on a host, for lab/violations: a program that listens, a network file system, a
package that is only a name. Each has its opposite, which may be run whether or not the thing is there."""

from __future__ import annotations

from collections.abc import Callable

from lab.machine import Lab

# Listens for good, and says that it does by being there for `ss`.
LISTEN = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
tcp = sys.argv[3] == "tcp"
server = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
if tcp:
    server.listen()
time.sleep(1e6)
"""
# An empty file system that says what it is called; killed, it leaves a dead mount behind.
EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a lab
FUSE = """
import errno, stat, sys
import fusepy
class Empty(fusepy.Operations):
    def getattr(self, path, handle=None):
        if path != "/":
            raise fusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
source, kind, place, options = sys.argv[1:]
more = {"ro": True} if "ro" in options.split(",") else {}
fusepy.FUSE(Empty(), place, foreground=True, fsname=source, subtype=kind, allow_other=True, **more)
"""


def sh(script: str, *args: str) -> Callable[[Lab], None]:
    """A script as something to plant, or to undo."""

    def run(lab: Lab) -> None:
        lab.sh(script, *args)

    return run


def run(lab: Lab, service: str, name: str, *options: str) -> None:
    """A container of somebody's own, from that service's image under its name in full; it only sleeps."""
    lab.sh(
        """
        image=$(docker inspect -f '{{.Config.Image}}' "$1"); name=$2; shift 2
        docker run -d --init --name "$name" --entrypoint sleep "$@" "$image" infinity
        """,
        service,
        name,
        *options,
    )


def away(lab: Lab, name: str) -> None:
    """That container and its volumes."""
    lab.sh('docker rm -fv "$1" >/dev/null 2>&1 || true', name)


def listen(lab: Lab, unit: str, address: str, port: int, *, program: str = "python3", protocol: str = "tcp") -> None:
    """A program that listens there, as a unit of that name; `program` is what it is called by, `protocol` udp or
    tcp."""
    lab.sh(
        """
        systemctl reset-failed "$1" 2>/dev/null || true
        systemd-run -q --unit="$1" "$5" -c "$4" "$2" "$3" "$6"
        for _ in $(seq 100); do ss -ln "--$6" | grep -qF "$2:$3 " && exit; sleep 0.05; done; exit 1
        """,
        unit,
        address,
        str(port),
        LISTEN,
        program,
        protocol,
    )


def stop(lab: Lab, unit: str) -> None:
    lab.sh('systemctl stop "$1" 2>/dev/null || true', unit)


def mount_fuse(lab: Lab, source: str, kind: str, place: str, options: str = "rw") -> None:
    """A mount that the kernel calls fuse.KIND, from `source`: such as a user-space client of NFS or sshfs makes."""
    lab.sh(
        """
        mkdir -p "$3"; unit=v-fuse-$(systemd-escape "$3")
        [ -c /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemd-run -q --unit="$unit" python3 -c "$5" "$1" "$2" "$3" "$4"
        for _ in $(seq 100); do mountpoint -q "$3" && exit; sleep 0.05; done; exit 1
        """,
        source,
        kind,
        place,
        options,
        FUSE,
    )


def kill_fuse(lab: Lab, place: str) -> None:
    """Its program is gone, the mount is not: `Transport endpoint is not connected`."""
    lab.sh('systemctl kill -s KILL "v-fuse-$(systemd-escape "$1")"', place)


def unmount(lab: Lab, place: str) -> None:
    """Whatever is mounted there is not any more. The directory stays."""
    lab.sh(
        """
        while grep -qF " $1 " /proc/self/mountinfo; do umount -l "$1"; done
        systemctl stop "v-fuse-$(systemd-escape "$1")" 2>/dev/null || true
        """,
        place,
    )


def install(lab: Lab, package: str) -> None:
    """A package of that name with nothing in it, which dpkg takes for the real one."""
    lab.sh(
        """
        folder=$(mktemp -d); mkdir "$folder/DEBIAN"
        printf 'Package: %s\\nVersion: 0.lab\\nArchitecture: all\\nMaintainer: lab <l@b>\\nDescription: a name\\n' \
            "$1" >"$folder/DEBIAN/control"
        dpkg-deb -b "$folder" "$folder.deb" >/dev/null
        dpkg -i "$folder.deb" >/dev/null 2>&1
        rm -r "$folder" "$folder.deb"
        """,
        package,
    )


def remove(lab: Lab, package: str) -> None:
    lab.sh('dpkg -P "$1" >/dev/null 2>&1 || true', package)
