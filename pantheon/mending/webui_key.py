"""Puts the key of Open WebUI's sessions where it is kept: a file outside the container.

arguments: container; path (of the key); carry (whether a running server's key replaces one that is there already).
The key that the running server signs with is carried over, so that nobody is logged out. Where there is none, the key
that is there stays, and an empty or missing one is made anew. No key is ever printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time

NAME = b"WEBUI_SECRET_KEY"


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        mend(told["container"], told["path"], carry=bool(told["carry"]))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"{told['path']} could not be put right: {error}", flush=True)
        return 1
    return 0


def mend(container: str, path: str, *, carry: bool) -> None:
    kept = read(path)
    used = key_in_use("/proc", pid_of(container))
    if kept and (not carry or not used or used == kept):
        own(path)
        print(f"{path} has its key", flush=True)
        return
    if kept:
        copy = f"{path}.before-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        write(copy, kept)
        print(f"the key that was there is kept as {copy}", flush=True)
    write(path, used or secrets.token_hex(32).encode())
    print(f"{path}: {'the key that is in use' if used else 'a new key'}", flush=True)


def read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(4096).rstrip(b"\n")


def write(path: str, key: bytes) -> None:
    part = f"{path}.part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.chown(part, 0, 0)
    os.rename(part, path)


def own(path: str) -> None:
    os.chown(path, 0, 0)
    os.chmod(path, 0o600)


def pid_of(container: str) -> int:
    """0 where it does not run."""
    argv = ["docker", "inspect", "--type", "container", "--format", "{{.State.Pid}}", container]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return int(done.stdout.strip() or 0) if done.returncode == 0 else 0


def key_in_use(proc: str, pid: int) -> bytes:
    """The key in the environment of the server, which is the container's youngest process that has one."""
    for one in reversed(family(proc, pid) if pid > 1 else []):
        with contextlib.suppress(OSError), open(f"{proc}/{one}/environ", "rb") as file:
            for entry in file.read(1 << 20).split(b"\0"):
                name, _, value = entry.partition(b"=")
                if name == NAME and value:
                    return value
    return b""


def family(proc: str, pid: int) -> list[int]:
    """That process and all below it, parents first."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"{proc}/{name}/stat", "rb") as file:
            children.setdefault(int(file.read(4096).rpartition(b")")[2].split()[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
    return found


if __name__ == "__main__":
    sys.exit(main())
