"""Host keys: which are trusted, and how an operator comes to trust a new one (`invoke trust`)."""

from __future__ import annotations

from pantheon.errors import NotTrusted
from pantheon.remote.endpoint import Endpoint
from pantheon.remote.known_hosts import Key, Known


def refuse(endpoint: Endpoint, known: Known, key: Key) -> None:
    """Raises NotTrusted unless the files know exactly this key for this host."""
    state = known.judge(key)
    shown = f"{key.type} {key.fingerprint}"
    trust = f"invoke trust --host {endpoint.inventory_host or endpoint.name}"
    if state == "known":
        return
    if state == "revoked":
        lines = [f"revoked by {entry.file}:{entry.line}" for entry in known.revoked if entry.key == key]
        raise NotTrusted(f"{endpoint.label}: its host key was revoked", details=[f"shown now: {shown}", *lines],
                         next_commands=["do not connect; ask who revoked it, and give the host a new key"])  # fmt: skip
    if state == "changed":
        old = [f"recorded:  {entry.key.type} {entry.key.fingerprint} in {entry.file}:{entry.line}"
               for entry in known.binding]  # fmt: skip
        raise NotTrusted(f"{endpoint.label}: its host key has changed (rebuilt, or somebody in between)",
                         details=[f"shown now: {shown}", *old], next_commands=[f"{trust} --replace"])  # fmt: skip
    notes = [f"{entry.file}:{entry.line} trusts it through a certificate authority, which is not read here"
             for entry in known.authorities]  # fmt: skip
    raise NotTrusted(f"{endpoint.label}: its host key is unknown", details=[f"shown now: {shown}", *notes],
                     next_commands=[trust])  # fmt: skip
