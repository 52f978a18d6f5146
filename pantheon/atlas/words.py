"""How findings on Atlas are told."""

from __future__ import annotations

import shlex

from pantheon.atlas.present import server_of
from pantheon.facts import Unknown
from pantheon.finding import Finding
from pantheon.inventory import AtlasMount, Host
from pantheon.nfs import Atlas

NAME = "atlas"
SOURCE = "system page, Storage Layout"
VERIFY_S = 10


def blocked(host: Host, seen: Atlas) -> tuple[Finding, ...]:
    """What only a human can put right."""
    if not host.atlas:
        return ()
    found = []
    if isinstance(seen.client, Unknown):
        text = "whether NFS's programs are installed is not known"
        found.append(Finding(f"{NAME}.client", "unknown", text, seen.client.reason, "", SOURCE))
    if not seen.autofs:
        text = "this kernel has no automounts: without them a dead server could hold up a boot"
        mend = host.ssh("sudo apt install linux-modules-extra-$(uname -r)")
        found.append(Finding(f"{NAME}.autofs", "fail", text, "there is no /dev/autofs", mend, SOURCE))
    return tuple(found)


def finding(
    host: Host, path: str, word: str, level: str, text: str, evidence: str = "", mend: str | None = None
) -> Finding:
    mend = f"invoke atlas --host {host.name}" if mend is None and level != "ok" else mend or ""
    key = f"{NAME}.{word}:{path}" if word else f"{NAME}:{path}"
    return Finding(key, level, text, evidence, mend, SOURCE)  # type: ignore[arg-type]


def look_at(host: Host, want: AtlasMount) -> str:
    return f"look at Atlas; from the host: {host.ssh(f'ping -c1 {shlex.quote(server_of(want))}')}"
