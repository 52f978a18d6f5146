"""The host keys that OpenSSH may accept for a tunnel: those that every other connection of ours accepts, in a file of
their own. Without Fabric, which a tunnel that opens at once does not need."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from pantheon import places
from pantheon.errors import NotTrusted
from pantheon.remote import known_hosts
from pantheon.remote.endpoint import Endpoint


def alias(index: int) -> str:
    """The name (HostKeyAlias) under which the verified file knows the server of that place in the chain."""
    return f"pantheon-{index}"


def verified_file(endpoint: Endpoint) -> Path:
    """A known_hosts file for OpenSSH that holds only what would be accepted here, for each server on the way under
    its alias: given both the user's file and the project's, OpenSSH would accept either of two keys.

    It lies in the user's runtime directory, mode 0600. Raises NotTrusted for a server without a known key."""
    lines = []
    for index, hop in enumerate(endpoint.chain()):
        known = known_hosts.of(hop)
        if not known.accepted():
            raise _not_known(hop, known)
        lines += [f"{alias(index)} {key}\n" for key in known.accepted()]
        lines += [f"@revoked {alias(index)} {entry.key}\n" for entry in known.revoked]
    host, file = endpoint.inventory_host, Path(_name(endpoint))
    try:
        file = runtime_dir() / file
        _write(file, "".join(lines).encode())
    except OSError as error:
        raise NotTrusted(
            f"{host}: the keys that ssh may trust cannot be written: {error.filename or file}: {error.strerror}",
            next_commands=['export XDG_RUNTIME_DIR="$(mktemp -d)"'],
        ) from error
    return file


def _not_known(hop: Endpoint, known: known_hosts.Known) -> NotTrusted:
    if known.binding or known.near:
        lines = [f"revoked by {entry.file}:{entry.line}" for entry in known.revoked]
        return NotTrusted(f"{hop.label}: its host key was revoked", details=lines, next_commands=[known_hosts.REVOKED])
    return NotTrusted(
        f"{hop.label}: its host key is unknown",
        details=known.notes,
        next_commands=[f"invoke trust --host {hop.inventory_host or hop.name}"],
    )


def _name(endpoint: Endpoint) -> str:
    """One for each host and each set of files that say what is accepted: two inventories may each have a host of that
    name, or of that address and a known_hosts of their own, and both may have tunnels open."""
    host = endpoint.inventory_host
    names = [name for hop in endpoint.chain() for name in hop.key_names]
    files = [file for hop in endpoint.chain() for file in (*hop.user_known_hosts, *hop.global_known_hosts)]
    whole = "\0".join([host, *names, str(known_hosts.project_file().absolute()), *map(str, files)])
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", host)[:60]
    return f"known_hosts-{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _write(file: Path, data: bytes) -> None:
    """A file that says just that already is left alone: a link is made anew on a disk that has filled up meanwhile,
    too."""
    with suppress(OSError):
        about = file.lstat()
        ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077
        if ours and file.read_bytes() == data:
            return
    if file.is_symlink():
        file.unlink()
    known_hosts.write(file, data, mode=0o600)
    file.chmod(0o600)


def runtime_dir() -> Path:
    """$XDG_RUNTIME_DIR/pantheon, or one under the user's state directory; ours alone (0700). Raises OSError, also for
    a folder that somebody else has made or may write to."""
    given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    folder = given / "pantheon" if given.is_absolute() and given.is_dir() else places.state_directory()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if {about.st_uid, folder.lstat().st_uid} != {os.getuid()}:
        raise PermissionError(errno.EPERM, "it is another user's", str(folder))
    if about.st_mode & 0o022:
        folder.chmod(about.st_mode & 0o755)
    return folder
