"""The host keys that OpenSSH may accept for a tunnel: those that every other connection of ours accepts, in a file of
their own. Without Fabric, which a tunnel that opens at once does not need."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

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
            raise NotTrusted(
                f"{hop.label}: its host key is unknown",
                next_commands=[f"invoke trust --host {endpoint.inventory_host}"],
            )
        lines += [f"{alias(index)} {key}\n" for key in known.accepted()]
        lines += [f"@revoked {alias(index)} {entry.key}\n" for entry in known.revoked]
    host = endpoint.inventory_host
    # Two inventories may each have a host of that name.
    whole = " ".join([host, *(name for hop in endpoint.chain() for name in hop.key_names)])
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", host)
    name = f"known_hosts-{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    try:
        file = runtime_dir() / name
        known_hosts.write(file, "".join(lines).encode(), mode=0o600)
    except OSError as error:
        raise NotTrusted(
            f"{host}: the keys that ssh may trust cannot be written: {error.filename}: {error.strerror}",
            next_commands=['export XDG_RUNTIME_DIR="$(mktemp -d)"'],
        ) from error
    return file


def runtime_dir() -> Path:
    """$XDG_RUNTIME_DIR/pantheon, or one under the user's state directory; ours alone (0700)."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(given) if given and Path(given).is_dir() else Path("~/.local/state").expanduser()
    folder = base / "pantheon"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
