"""What the attempts to write say of an export."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from pantheon.atlas.present import top
from pantheon.atlas.words import VERIFY_S, finding, look_at
from pantheon.finding import Finding
from pantheon.inventory import AtlasMount, Host
from pantheon.layout import COMFY
from pantheon.nfs import Atlas, Share, Tried

NOBODY = (65534, 65533, 4294967294)
REFUSED = ("EROFS", "EACCES", "EPERM")


def attempts(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    """What became of the attempts to write, as root and as the AI stack's user (system page: RO/RW intent is enforced
    by NFS; UID and GID are the same on Prometheus and Atlas)."""
    mine = [one for one in seen.tried if one.mount == want.mount]
    root = next((one for one in mine if one.uid == 0), None)
    user = next((one for one in mine if one.uid == COMFY), None)
    if root is None or user is None:
        row = top(share)
        text = f"{want.mount} was not tried" + ("" if row else ": it is not mounted")
        return [finding(host, want.mount, "write", "unknown", text, mend=f"invoke atlas --verify --host {host.name}")]
    found = [_left(host, one) for one in mine if one.left]
    stuck = [one for one in mine if one.error == "stuck"]
    if stuck:
        text = f"{want.mount}: writing had no answer within {VERIFY_S} s"
        said = ", ".join(f"as {one.uid}" for one in stuck)
        return [*found, finding(host, want.mount, "write", "fail", text, said, look_at(host, want))]
    return [*found, *(_read_only if want.mode == "ro" else _read_write)(host, want, root, user)]


def _left(host: Host, one: Tried) -> Finding:
    text = f"{one.left} is pantheon's, and could not be removed again"
    if one.error == "stuck":
        text = f"{one.left} is pantheon's, and may have been left: the next --verify removes it"
    return finding(host, one.mount, "left", "warn", text, one.error, host.ssh(f"sudo rm -- {shlex.quote(one.left)}"))


def _read_only(host: Host, want: AtlasMount, root: Tried, user: Tried) -> list[Finding]:
    wrote = [one for one in (root, user) if one.error not in REFUSED]
    if not wrote:
        text = f"{want.mount}: writing is refused, as it is to be"
        return [finding(host, want.mount, "write", "ok", text, f"root {root.error}, {COMFY} {user.error}")]
    said = ", ".join(f"as {one.uid}: {one.error or 'written'}" for one in wrote)
    text = f"{want.mount} is to be read-only, and was written"
    return [finding(host, want.mount, "write", "fail", text, said)]


def _read_write(host: Host, want: AtlasMount, root: Tried, user: Tried) -> list[Finding]:
    export = f"the export {want.export} on Atlas"
    if "EROFS" in (user.error, root.error):
        text = f"{want.mount} is to be written, and Atlas exports it read-only"
        return [
            finding(host, want.mount, "write", "fail", text, "EROFS", f'{export}: rw; or mode = "ro" in hosts.toml')
        ]
    whose = f"the directory is {_owner(user.shares_owner or root.shares_owner)}"
    if user.error:
        text = f"{want.mount}: user {COMFY} cannot write there ({user.error})"
        mend = f"on Atlas: chown {COMFY}:{COMFY} the directory of {want.export}, or give it a group that may write"
        return [finding(host, want.mount, "write", "fail", text, f"{whose}; {_squash(root)}", mend)]
    if user.owner[:1] == (COMFY,):
        text = f"{want.mount}: files of user {COMFY} are {COMFY}'s on Atlas; {_squash(root)}"
        return [finding(host, want.mount, "write", "ok", text, whose)]
    text = f"{want.mount}: what user {COMFY} writes becomes {_owner(user.owner)}'s"
    if user.owner[:1] and user.owner[0] in NOBODY:
        text += " (nobody)"
        same = root.owner[:1] == user.owner[:1]
        why = "all users are squashed (all_squash)" if same and root.shares_owner[:1] != user.owner[:1] else ""
        why = why or "its ids are not understood (the Domain of /etc/idmapd.conf differs), or all_squash"
        mend = f"{export}: without all_squash; or the same Domain in /etc/idmapd.conf on both sides"
        return [finding(host, want.mount, "write", "fail", text, f"{why}; {whose}", mend)]
    why = "Atlas gives every file to one user (all_squash with anonuid)"
    mend = f"{export}: without all_squash, or anonuid={COMFY},anongid={COMFY}"
    return [finding(host, want.mount, "write", "fail", text, f"{why}; {whose}", mend)]


def _owner(owner: Iterable[int]) -> str:
    numbers = [*owner]
    text = ":".join(str(number) for number in numbers[:2]) or "not known"
    return f"{text}, mode {numbers[2]:o}" if len(numbers) > 2 else text


def _squash(root: Tried) -> str:
    if root.error and root.error not in REFUSED:
        return f"root's attempt failed ({root.error})"
    if root.error:
        return f"root cannot write there ({root.error}: root is squashed)"
    if root.owner[:1] == (0,):
        return "root stays root (no_root_squash)"
    return f"root becomes {_owner(root.owner)} (root_squash)"
