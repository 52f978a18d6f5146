#!/usr/bin/python3
"""mount.nfs4 for a kernel without an NFS client: a FUSE file system over libnfs, which speaks NFSv4 to a real server.

mount(8) calls it as `mount.nfs4 HOST:/PATH DIRECTORY [-sfnv] [-o OPTIONS]`. Requests go out as the user who makes
them, so that squashing, modes and read-only exports are the server's own work. `soft` gives up after timeo x retrans,
`hard` never does. The mount shows as fuse.nfs4, from HOST:/PATH.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import stat
import sys
import time
from typing import Any

import fusepy as fuse  # type: ignore[import-not-found]  # a package of the lab host's

LIBRARY = max(glob.glob("/usr/lib/*/libnfs.so.1[0-9]"))
LIBNFS = ctypes.CDLL(LIBRARY)
BUFFER_FIRST = not LIBRARY.endswith((".13", ".14"))  # libnfs 6 has its arguments in another order
NFS_V4 = 4
STAT = (
    *("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"),
    *("atime", "mtime", "ctime", "atime_nsec", "mtime_nsec", "ctime_nsec", "used"),
)


class Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in STAT]


class Entry(ctypes.Structure):
    _fields_ = [("next", ctypes.c_void_p), ("name", ctypes.c_char_p)]


LIBNFS.nfs_init_context.restype = ctypes.c_void_p
LIBNFS.nfs_get_error.restype = ctypes.c_char_p
LIBNFS.nfs_readdir.restype = ctypes.POINTER(Entry)


class Client:
    """One user's connection to the server. Calls raise FuseOSError with the server's own error."""

    def __init__(self, server: str, export: str, uid: int, gid: int, timeout_ms: int) -> None:
        self.about = (server, export, uid, gid, timeout_ms)
        self.connect()

    def connect(self) -> None:
        server, export, uid, gid, timeout_ms = self.about
        self.context = ctypes.c_void_p(LIBNFS.nfs_init_context())
        # libnfs takes pid and second for its name: two users would be one client to the server.
        name = f"lab-{os.getpid()}-{uid}-{gid}-{time.monotonic_ns()}".encode()
        LIBNFS.nfs4_set_client_name(self.context, ctypes.create_string_buffer(name))
        LIBNFS.nfs_set_version(self.context, NFS_V4)
        LIBNFS.nfs_set_uid(self.context, uid)
        LIBNFS.nfs_set_gid(self.context, gid)
        LIBNFS.nfs_set_timeout(self.context, timeout_ms)
        self.call("mount", server.encode(), export.encode())

    def call(self, name: str, *arguments: Any, again: bool = True) -> int:
        given = [ctypes.c_uint64(one) if isinstance(one, int) else one for one in arguments]
        result = getattr(LIBNFS, f"nfs_{name}")(self.context, *given)
        if result == -errno.ERANGE and again and name in ("open", "create"):
            # Client and server no longer count alike, as after a server that stood still. libnfs does not begin anew.
            self.connect()
            return self.call(name, *arguments, again=False)
        if result < 0:
            number = -result if -result < 4096 else errno.EIO
            if number in (errno.EINTR, errno.ETIMEDOUT):
                number = errno.EIO
            raise fuse.FuseOSError(errno.ESTALE if "NFS4ERR_STALE" in self.said() else number)
        return int(result)

    def said(self) -> str:
        return (LIBNFS.nfs_get_error(self.context) or b"").decode(errors="replace")


class Files(fuse.Operations):  # type: ignore[misc]
    def __init__(self, server: str, export: str, timeout_ms: int) -> None:
        self.about = (server, export)
        self.timeout_ms = timeout_ms
        self.root = 0
        self.clients: dict[tuple[int, int], Client] = {}
        self.open_files: dict[int, tuple[Client, ctypes.c_void_p]] = {}

    def client(self) -> Client:
        uid, gid, _ = fuse.fuse_get_context()
        if (uid, gid) not in self.clients:
            self.clients[uid, gid] = self.connected(uid, gid)
        return self.clients[uid, gid]

    def connected(self, uid: int, gid: int) -> Client:
        """A connection, waited for on a hard mount. libnfs goes by names, a kernel by the handle of the directory that
        it has mounted: when that is another one by now, what is mounted is stale."""
        while True:
            try:
                client, found = Client(*self.about, uid, gid, self.timeout_ms), Stat()
                client.call("lstat64", b"/", ctypes.byref(found))
                break
            except fuse.FuseOSError as error:
                if self.timeout_ms or error.errno in (errno.EACCES, errno.EPERM):
                    raise
                time.sleep(0.2)
        self.root = self.root or found.ino
        if found.ino != self.root:
            raise fuse.FuseOSError(errno.ESTALE)
        return client

    def call(self, name: str, path: str, *more: Any) -> int:
        try:
            return self.client().call(name, path.encode("utf-8", "surrogateescape"), *more)
        except fuse.FuseOSError as error:
            if error.errno != errno.EIO or not any("nfs_service" in one.said() for one in self.clients.values()):
                raise
        self.clients.clear()  # the server was away, and knows none of them any more
        return self.client().call(name, path.encode("utf-8", "surrogateescape"), *more)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
        del fh
        found = Stat()
        self.call("lstat64", path, ctypes.byref(found))
        about = {f"st_{name}": getattr(found, name) for name in STAT[:10]}
        times = {f"st_{name}": getattr(found, name) + getattr(found, f"{name}_nsec") / 1e9 for name in STAT[10:13]}
        if not stat.S_IFMT(int(about["st_mode"])):
            about["st_mode"] |= stat.S_IFREG
        return about | times

    def readdir(self, path: str, fh: int) -> list[str]:
        del fh
        client, folder = self.client(), ctypes.c_void_p()
        client.call("opendir", path.encode(), ctypes.byref(folder))
        names = []
        while entry := LIBNFS.nfs_readdir(client.context, folder):
            names.append(entry.contents.name.decode("utf-8", "surrogateescape"))
        LIBNFS.nfs_closedir(client.context, folder)
        return list(dict.fromkeys([".", "..", *names]))

    def statfs(self, path: str) -> dict[str, int]:
        self.getattr(path)  # a server that is gone is met here, too
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": 4096,
            "f_bfree": 2048,
            "f_bavail": 2048,
            "f_namemax": 255,
        }

    def _opened(self, client: Client, handle: ctypes.c_void_p) -> int:
        number = max(self.open_files, default=0) + 1
        self.open_files[number] = client, handle
        return number

    def open(self, path: str, flags: int) -> int:
        client, handle = self.client(), ctypes.c_void_p()
        client.call("open", path.encode(), flags & (os.O_ACCMODE | os.O_TRUNC), ctypes.byref(handle))
        return self._opened(client, handle)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        del fi
        client, handle = self.client(), ctypes.c_void_p()
        client.call("create", path.encode(), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, ctypes.byref(handle))
        return self._opened(client, handle)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        del path
        client, handle = self.open_files[fh]
        data = ctypes.create_string_buffer(size)
        about = (data, size, offset) if BUFFER_FIRST else (offset, size, data)
        return data.raw[: client.call("pread", handle, *about)]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        del path
        client, handle = self.open_files[fh]
        about = (data, len(data), offset) if BUFFER_FIRST else (offset, len(data), data)
        return client.call("pwrite", handle, *about)

    def release(self, path: str, fh: int) -> None:
        del path
        client, handle = self.open_files.pop(fh)
        client.call("close", handle)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        del fh
        self.call("truncate", path, length)

    def unlink(self, path: str) -> None:
        self.call("unlink", path)

    def mkdir(self, path: str, mode: int) -> None:
        self.call("mkdir2", path, mode)

    def rmdir(self, path: str) -> None:
        self.call("rmdir", path)

    def rename(self, old: str, new: str) -> None:
        self.call("rename", old, new.encode("utf-8", "surrogateescape"))

    def chmod(self, path: str, mode: int) -> None:
        self.call("chmod", path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self.call("lchown", path, uid, gid)

    def utimens(self, path: str, times: Any = None) -> None:
        """Not kept: nobody here asks."""


def timeout_ms(options: dict[str, str]) -> int:
    """0 for a hard mount, which waits for ever; else timeo (tenths of a second) for the call and each retrans."""
    if "soft" not in options:
        return 0
    return int(options.get("timeo", "600")) * 100 * (1 + int(options.get("retrans", "2")))


def refused(text: str) -> int:
    print(f"mount.nfs4: {text}", file=sys.stderr)
    return 32


def main(arguments: list[str]) -> int:
    source, directory = arguments[:2]
    given = [arguments[n + 1] for n, word in enumerate(arguments[:-1]) if word == "-o"]
    pairs = (part.partition("=") for part in ",".join(given).split(",") if part)
    options = {name: value for name, _, value in pairs}
    server, _, export = source.partition(":")
    if not os.path.isdir(directory):
        return refused(f"mount point {directory} does not exist")
    wait_ms = timeout_ms(options)
    try:  # as root, and not for ever: like mount.nfs, which gives up after two minutes unless told otherwise
        Client(server, export, 0, 0, min(wait_ms or 20_000, 20_000))
    except fuse.FuseOSError as error:
        reasons = {errno.ENOENT: "No such file or directory", errno.EACCES: "access denied by server"}
        if error.errno in reasons:
            return refused(f"mounting {source} failed, reason given by server: {reasons[error.errno]}")
        return refused(
            "Connection timed out" if error.errno in (errno.EIO, errno.ETIMEDOUT) else os.strerror(error.errno)
        )
    more: dict[str, Any] = {name: True for name in ("ro", "nosuid", "nodev", "noexec") if name in options}
    more |= {"nonempty": True, "allow_other": True, "use_ino": True, "attr_timeout": 0, "entry_timeout": 0}
    fuse.FUSE(Files(server, export, wait_ms), directory, nothreads=True, fsname=source, subtype="nfs4", **more)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
