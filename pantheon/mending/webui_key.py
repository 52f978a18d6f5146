"""Puts the key of Open WebUI's sessions where it is kept: a file outside the container.

arguments: container; path (of the key); carry (whether a running server's key replaces one that is there already);
stopped (whether the key of a server that does not run is looked for as well: in its environment, and in the file that
its start-up script keeps it in, inside the container or on a mount of it).
The key that the running server signs with is carried over, so that nobody is logged out. Where there is none, the key
that is there stays, and an empty or missing one is made anew. No key is ever printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time

NAME = b"WEBUI_SECRET_KEY"
OTHER_NAME = "WEBUI_JWT_SECRET_KEY"  # its name in earlier versions
OWN_FILE, HOME = ".webui_secret_key", "/app/backend"
MOST = 4096


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        mend(told["container"], told["path"], carry=bool(told["carry"]), stopped=bool(told.get("stopped")))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"{told['path']} could not be put right: {error}", flush=True)
        return 1
    return 0


def mend(container: str, path: str, *, carry: bool, stopped: bool = False) -> None:
    kept = read(path)
    used = key_in_use("/proc", pid_of(container)) or (key_of_stopped(container) if stopped else b"")
    if stopped:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if kept and (not carry or not used or used == kept):
        own(path)
        other = ", another than the server had: who is logged in there logs in again" if used not in (b"", kept) else ""
        print(f"{path} has its key{other if stopped else ''}", flush=True)
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
        return file.read(MOST).rstrip(b"\n")


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


def key_of_stopped(container: str) -> bytes:
    """The key that a server which does not run now would sign with again; b"" where none is found."""
    argv = ["docker", "inspect", "--type", "container", container]
    done = subprocess.run(argv, capture_output=True, timeout=30, check=False)
    if done.returncode:
        return b""
    about = json.loads(done.stdout)[0]
    config = about["Config"]
    env = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    if key := env.get(NAME.decode()) or env.get(OTHER_NAME):
        return str(key).encode("utf-8", "surrogateescape")
    path = os.path.normpath(
        os.path.join(config.get("WorkingDir") or HOME, env.get("WEBUI_SECRET_KEY_FILE") or OWN_FILE)
    )
    mounts = sorted(about.get("Mounts") or (), key=lambda mount: -len(mount["Destination"]))
    for mount in mounts:
        if f"{path}/".startswith(f"{mount['Destination'].rstrip('/')}/"):
            found = b""
            with contextlib.suppress(
                OSError
            ):  # a link in it leads elsewhere in the container, and elsewhere on the host
                found = read(f"{mount['Source']}{path[len(mount['Destination'].rstrip('/')) :]}")
            return found or inside(container, path)
    return inside(container, path)


def inside(container: str, path: str) -> bytes:
    """A small file in the container's own layer."""
    argv = ["docker", "cp", "--follow-link", f"{container}:{path}", "-"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    if done.returncode or len(done.stdout) > 64 * MOST:
        return b""
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
        for member in packed:
            file = packed.extractfile(member) if member.isreg() else None
            if file:
                return file.read(MOST).rstrip(b"\n")
    return b""


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
