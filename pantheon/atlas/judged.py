"""What is there, judged: one finding or more for each mount."""

from __future__ import annotations

import shlex

from pantheon.atlas.present import (
    REALLY_NFS,
    Served,
    is_misplaced,
    is_mode,
    is_silent,
    is_stale,
    ours_to_serve,
    pairs,
    same_source,
    served,
    server_of,
    top,
    unfit_parents,
    unwanted,
)
from pantheon.atlas.tried import attempts
from pantheon.atlas.wanted import LONGEST
from pantheon.atlas.words import NAME, SOURCE, blocked, finding, look_at
from pantheon.facts import Command, Mount, Unknown
from pantheon.finding import Finding
from pantheon.inventory import AtlasMount, Host
from pantheon.looks.text import unit_name
from pantheon.nfs import Atlas, Line, Share


def check(host: Host, seen: Atlas, *, tried: bool = False) -> list[Finding]:
    """One finding or more for each mount. With `tried`, what the last attempts to write say, too."""
    found = [*blocked(host, seen), *_root(host, seen)]
    if host.atlas and seen.client is None:
        text = "NFS cannot be mounted: its programs are not installed"
        found.append(
            Finding(f"{NAME}.client", "fail", text, "no mount.nfs4", f"invoke atlas --host {host.name}", SOURCE)
        )
    for want, share in pairs(host, seen):
        about = _place(host, want, share, seen) or _mounted(host, want, share, seen)
        found += about
        if tried and about[-1].level == "ok":
            found += attempts(host, want, share, seen)
    for unit in unwanted(host, seen):
        if unit.name.endswith(".mount"):
            text = f"{unit.where} is pantheon's, and hosts.toml does not name it any more"
            found.append(finding(host, unit.where, "unwanted", "warn", text, unit.path))
    return found


def standing(host: Host, seen: Atlas) -> list[Finding]:
    """What the plan does not mend, for a human: said with it."""
    mended = {f"{NAME}:{want.mount}" for want, _ in ours_to_serve(host, seen)}
    found = [one for one in check(host, seen) if one.level != "ok" and one.id not in mended]
    return [one for one in found if not one.id.startswith((f"{NAME}.unwanted", f"{NAME}.client"))]


def _root(host: Host, seen: Atlas) -> list[Finding]:
    """The directories above the mount points: real ones, and root's."""
    found = []
    for path, reading in seen.parents.items():
        if reading.startswith("dir ") and not reading.startswith("dir 0:") and _is_own(host, path):
            mend = host.ssh(f"sudo chown root:root {shlex.quote(path)}")
            text = f"{path} belongs to {reading.split()[1]}, not to root"
            found.append(finding(host, path, "owner", "warn", text, reading, mend))
        elif not reading.startswith(("missing", "dir ")):
            mend = host.ssh(f"ls -ld {shlex.quote(path)}") + "; or name the real place in hosts.toml"
            text = f"{path} is no directory of its own: nothing is mounted behind it"
            found.append(finding(host, path, "place", "fail", text, reading, mend))
    return found


def _is_own(host: Host, path: str) -> bool:
    """A directory that is there for Atlas alone (/mnt/atlas), not one of the system's (/mnt, /srv)."""
    return path.count("/") > 1 and all(w.mount.startswith(f"{path}/") for w in host.atlas)


def _place(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    """Why pantheon does not mount there, where it does not."""
    path = shlex.quote(want.mount)
    if len(unit_name(want.mount, "automount").encode()) > LONGEST:
        text = f"{want.mount} is too long for the name of a systemd unit"
        return [finding(host, want.mount, "", "fail", text, mend="a shorter path in hosts.toml")]
    if unfit_parents(want, seen) and not share.rows:
        return [finding(host, want.mount, "", "fail", f"{want.mount} cannot be mounted: see above", mend="")]
    if not share.at.startswith(("missing", "dir ", "mounted")):
        if share.at.startswith("unknown: "):
            return [finding(host, want.mount, "", "unknown", f"{want.mount}: not known", share.at[9:])]
        mend = (
            f"on the host: sudo mv {path} {shlex.quote(want.mount + '.aside')} && sudo mkdir {path}; or the real path"
        )
        text = f"{want.mount} is no directory of its own: nothing is mounted there"
        return [finding(host, want.mount, "", "fail", text, share.at, f"{mend} in hosts.toml")]
    by = served(share)
    if by.by in ("fstab", "unit"):
        return _judged(host, want, share, by)
    if is_misplaced(want, share) and (row := top(share)):
        text = f"something else is mounted at {want.mount}"
        if same_source(row.source, want.export):
            text = f"{want.mount} was mounted by hand, {_mode(row)}, not {want.mode}"
        mend = (
            f"{host.ssh(f'findmnt {path}')}; when nobody needs it: {host.ssh(f'sudo umount {path}')}, then this again"
        )
        return [finding(host, want.mount, "", "fail", text, _about(row), mend)]
    return []


def _judged(host: Host, want: AtlasMount, share: Share, by: Served) -> list[Finding]:
    """Somebody's own line or unit for the place: right or wrong, never touched. [] where it is right: the mount itself
    is judged as any other."""
    wrong = []
    if not same_source(by.source, want.export):
        wrong.append(f"it mounts {by.source}, not {want.export}")
    if by.fstype not in ("nfs", "nfs4"):
        wrong.append(f"its type is {by.fstype}, not {want.type}")
    if not is_mode(by.options, want.mode):
        wrong.append(f"its options are {by.options}: not {want.mode}")
    if wrong:
        text = f"{want.mount}: {by.where} is not as hosts.toml says: {'; '.join(wrong)}"
        mend = f"edit it on the host, or hosts.toml: pantheon does not touch {by.where.split(' line ')[0]}"
        return [finding(host, want.mount, "conflict", "fail", text, f"{by.source} {by.fstype} {by.options}", mend)]
    if len(share.lines) > 1:
        numbers = ", ".join(str(line.number) for line in share.lines)
        text = f"{want.mount} stands in /etc/fstab more than once (lines {numbers})"
        return [finding(host, want.mount, "conflict", "fail", text, mend="keep one of them")]
    return []


def waits_at_boot(share: Share) -> Line | None:
    """A line of fstab without nofail: a boot would stop for a server that is gone."""
    listed = [(line, line.options.split(",")) for line in share.lines]
    return next((line for line, words in listed if not {"nofail", "noauto"} & {*words}), None)


def _mounted(host: Host, want: AtlasMount, share: Share, seen: Atlas) -> list[Finding]:
    by, row, path = served(share), top(share), want.mount
    out = []
    line = waits_at_boot(share)
    if line:
        text = f"{path}: /etc/fstab line {line.number} has no nofail: a boot waits for Atlas"
        out.append(finding(host, path, "boot", "warn", text, line.options, "add nofail to it on the host"))
    whose = f", by {by.where}" if by.where else ""
    down = seen.servers.get(server_of(want), "")
    if row is None:
        text, said = f"{path} is not mounted{whose}", f"{server_of(want)}: {down}" if down else share.failed
        if share.beneath:
            out.append(_hides(host, want, share))
        if down:
            text = f"Atlas does not answer: {want.export} is not mounted at {path}"
        elif share.failed:
            text = f"{path} could not be mounted{whose}, though Atlas answers"
        elif share.waits:
            text = f"{path} is not mounted yet: at its first use"
        mend = host.ssh(f"sudo mount {shlex.quote(path)}") if by.by == "fstab" else None
        mend = look_at(host, want) if down else mend
        if share.failed and not down:
            mend = f"the export {want.export} on Atlas, or its line in hosts.toml; then invoke atlas --host {host.name}"
        level = "fail" if down or share.failed or not share.waits else "warn"
        return [*out, finding(host, path, "", level, text, said, mend)]
    if is_silent(share):
        text = f"{path} is mounted, and Atlas does not answer"
        said = share.answers.reason if isinstance(share.answers, Unknown) else ""
        said = f"{said}; {server_of(want)}: {down}" if down else said
        return [*out, finding(host, path, "", "fail", text, said, look_at(host, want))]
    if isinstance(share.answers, Command) and share.answers.status:
        text = f"{path} is stale: what is mounted there is dead" if is_stale(share) else f"{path} cannot be read"
        mend = None
        if by.by in ("fstab", "unit"):
            mend = host.ssh(f"sudo umount -l {shlex.quote(path)}; sudo mount {shlex.quote(path)}")
        return [*out, finding(host, path, "", "fail", text, share.answers.output, mend)]
    wrong = []
    if row.fstype not in REALLY_NFS:
        wrong.append(f"it is {row.fstype}, not NFS")
    if not same_source(row.source, want.export):
        wrong.append(f"it is {row.source}, not {want.export}")
    if not is_mode(row.options, want.mode):
        wrong.append(f"it is {_mode(row)}, not {want.mode}")
    if wrong:
        return [*out, finding(host, path, "", "fail", f"{path}: {'; '.join(wrong)}", _about(row))]
    return [*out, finding(host, path, "", "ok", f"{path} is {want.export}, {want.mode}{whose}", _about(row))]


def _hides(host: Host, want: AtlasMount, share: Share) -> Finding:
    some = f"{share.beneath} entr{'ies' if share.beneath != 1 else 'y'}"
    text = f"{want.mount} holds {some} of its own on the root disk: out of sight once it is mounted"
    return finding(host, want.mount, "beneath", "warn", text, "", host.ssh(f"ls -la {shlex.quote(want.mount)}"))


def _mode(row: Mount) -> str:
    return "read-write" if is_mode(row.options, "rw") else "read-only"


def _about(row: Mount) -> str:
    return f"{row.source} {row.fstype} {row.options}"


def warnings(host: Host, seen: Atlas) -> list[Finding]:
    """One line on Atlas for a bring-up, which does not depend on it: [] when all is well."""
    found = [one for one in check(host, seen) if one.level in ("fail", "unknown")]
    if not found:
        return []
    down = {server_of(want): seen.servers.get(server_of(want)) for want in host.atlas}
    silent = [f"{name}: {said}" for name, said in down.items() if said]
    places = ", ".join(dict.fromkeys(one.id.partition(":")[2] for one in found if ":" in one.id))
    text = "Atlas does not answer" if silent else f"mounts of Atlas are not as hosts.toml says: {places}"
    if silent:
        text += f" ({places})" if places else ""
    said = "; ".join(silent) or found[0].text
    mend = f"invoke atlas --host {host.name}"
    return [Finding(f"{NAME}.mounts", "warn", f"{text}; the AI stack does not need it", said, mend, SOURCE)]
