"""ComfyUI refuses /comfy/mnt, or cannot write in it: who owns it, how it is mounted, and as whom the container runs.

Procedure §6 and §9. The image wants one bind mount whose directory belongs to WANTED_UID:WANTED_GID, and judges a
symlink by the link's own owner. It looks at the top level only: what is wrong deeper shows as `Permission denied`, as
`detected dubious ownership`, or not before the next upgrade.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from pantheon import foreign, layout, owners, service, stack, starting
from pantheon.facts import Container, Entry, Image, Mount, Tree, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.layout import Directory
from pantheon.plan import Change, SectionPlan
from pantheon.questions import COMFY_CHECKS

ID = "comfy-ownership"
CAUSE = (
    "The image wants /comfy/mnt as one bind mount that belongs to 1024:1024. Here it is mounted in pieces, belongs to "
    "somebody else (itself, or something in it), cannot be written, or the container runs as somebody else."
)
RISK = (
    "Stops ComfyUI if it is failing, until the owners are right (seconds; minutes for millions of files); one that is "
    "well goes on. Only owners are changed, and the mode of directories at the top: nothing is moved or deleted, no "
    "link is followed, and what is not ours is not touched."
)
SOURCE = "procedure §6, §9"
MNT = "/comfy/mnt"
NO_OWNERS = {"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs"}
NETWORK = {"nfs", "nfs4", "cifs", "smb3"}

# The words of the image, of git and of Python about it (DOMAIN.md).
COMPLAINTS = re.compile(
    r"owned by unexpected user/group|MUST be running as UID|Directory \S+ not (writeable|readable|executable|found)"
    r"|Failed to write to /comfy/mnt|detected dubious ownership"
    r"|[Pp]ermission denied.*/comfy/mnt|/comfy/mnt.*[Pp]ermission denied"
    r"|[Rr]ead-only file system.*/comfy/mnt|/comfy/mnt.*[Rr]ead-only file system"
)
COMFY_REPOSITORIES = {name for name, service in foreign.REPOSITORIES.items() if service == "comfy"}
OTHER_END = re.compile(r"!! ERROR: (?!subscript failed)|fatal: ")
INSIDE = re.compile(r"detected dubious ownership|[Pp]ermission denied|Directory /comfy/mnt/")


@dataclass(frozen=True)
class Trouble:
    """A cause. `by_hand`: only a human can mend it, and the finding says how. `recreate`: the container is made anew
    for it."""

    finding: Finding
    by_hand: bool = False
    recreate: bool = False


def diagnose(case: Case) -> list[Finding]:
    return [trouble.finding for trouble in _troubles(case)] + _overrides(case)


def plan(case: Case) -> SectionPlan:
    troubles = _troubles(case)
    if not troubles:
        return SectionPlan(ID, reason="/comfy/mnt is one mount, and everything seen in it belongs to 1024:1024")
    blocked = tuple(trouble.finding for trouble in troubles if trouble.by_hand)
    if blocked:
        return SectionPlan(ID, blocked=blocked)
    host, facts = case.host, case.facts
    container = starting.ours(case)
    changes: list[Change] = []
    for directory in _trees(case):
        unseen = facts.partly_seen(directory.path) or isinstance(facts.trees.get(directory.path), Unknown)
        entry = facts.paths.get(directory.path)
        wrong = isinstance(entry, Entry) and (entry.uid, entry.gid) != (directory.uid, directory.gid)
        deep = unseen and (wrong or any(INSIDE.search(line) for line in _complaints(case, container)))
        changes += owners.mend(host, facts, directory, all_inside=deep)
    anew = container is not None and (
        starting.is_failing(case, container) or any(trouble.recreate for trouble in troubles)
    )
    if container is None or not anew:
        return SectionPlan(ID, tuple(changes))
    files = service.common(host, facts)
    start = service.plan(host, facts, "comfy", anew="what kept it from starting is mended")
    if files.blocked or start.blocked:
        return SectionPlan(ID, blocked=tuple(dict.fromkeys(files.blocked + start.blocked)))
    stop = [service.stop(container)] if container.state in ("running", "restarting", "paused") else []
    return SectionPlan(ID, (*stop, *files.changes, *changes, *start.changes), starts=("comfy",))


def _troubles(case: Case) -> list[Trouble]:
    if not _on_its_disk(case, case.host.storage.nvme):
        return []  # what lies there now is not comfy-mnt but what stands in its place: mounts-missing
    found = [trouble for directory in _trees(case) for trouble in _directory(case, directory)]
    container = starting.ours(case)
    if container is not None and not container.unread:  # of one that Docker would not show, hardly anything is known
        found = [*_mounts(case, container), *_user(case, container), *_wanted(case, container), *found]
        if not found and starting.is_failing(case, container) and (lines := _complaints(case, container)):
            found = [Trouble(_complaint(case, lines), recreate=True)]
    return _foreign(case) + found


# ---- what is there


def _on_its_disk(case: Case, root: str) -> bool:
    entry = case.facts.paths.get(root)
    return isinstance(entry, Entry) and entry.kind == "dir" and (entry.is_mount or not case.host.storage.require_mounts)


def _trees(case: Case) -> list[Directory]:
    trees = [directory for directory in layout.directories(case.host) if directory.tree_owner]
    return [directory for directory in trees if _on_its_disk(case, owners.root_of(case.host, directory))]


def _complaints(case: Case, container: Container | None) -> list[str]:
    lines = starting.lines(case, container) if container else []
    # Of a custom node's own trouble ComfyUI goes on to run.
    return [line for line in lines if COMPLAINTS.search(line) and "custom_nodes" not in line]


# ---- the directories


def _directory(case: Case, directory: Directory) -> list[Trouble]:
    entry = case.facts.paths.get(directory.path)
    if not isinstance(entry, Entry):
        return []
    if entry.kind == "symlink" or entry.real != directory.path:
        return [Trouble(_link(case, directory, entry), by_hand=True)]
    if entry.kind != "dir":
        return []
    if entry.mount and "ro" in entry.mount.options.split(","):
        return [Trouble(_read_only(case, directory, entry.mount), by_hand=True)]
    wrong = (entry.uid, entry.gid) != (directory.uid, directory.gid)
    inside, shut = owners.wrong_inside(case.facts, directory), owners.unusable(case.facts, directory)
    if (wrong or inside) and entry.mount and entry.mount.fstype in NO_OWNERS | NETWORK:
        return [Trouble(_no_owners(case, directory, entry.mount, f"{entry.uid}:{entry.gid}"), by_hand=True)]
    found = []
    if wrong:
        text = f"{directory.name} belongs to {entry.uid}:{entry.gid}, not to {owners.OWNER}"
        what = f"{entry.owner}:{entry.group}, mode {entry.mode:04o}"
        found.append(_trouble(case, directory, "owner", text, f"{entry.path} {what}", inside=inside))
    elif inside:
        found.append(_trouble(case, directory, "inside", _count(case, directory), _examples(case, directory)))
    if entry.mode & 0o700 != 0o700 or shut:
        tails = ([""] if entry.mode & 0o700 != 0o700 else []) + [f"/{name}" for name in shut]
        text = f"{', '.join(f'{directory.name}{tail}' for tail in tails)}: the mode keeps the owner out"
        evidence = ", ".join(_mode(case, f"{directory.path}{tail}") for tail in tails)
        found.append(_trouble(case, directory, "mode", text, evidence))
    return found


def _mode(case: Case, path: str) -> str:
    entry = case.facts.paths.get(path)
    return f"mode {entry.mode:04o} of {path}" if isinstance(entry, Entry) else path


def _trouble(case: Case, directory: Directory, name: str, text: str, evidence: str, *, inside: int = 0) -> Trouble:
    if inside:
        text, evidence = f"{text}; besides, {_count(case, directory)}", f"{evidence}; {_examples(case, directory)}"
    key = f"{ID}.{name}" if directory.name == "comfy-mnt" else f"{ID}.{directory.name.replace('/', '-')}-{name}"
    sure = (name != "inside" and directory.name == "comfy-mnt") or _is_checked(case, directory)
    return Trouble(_finding(case, key, text, evidence, places=(directory.name,), sure=sure))


def _is_checked(case: Case, directory: Directory) -> bool:
    """Whether the image stumbles over it for certain: it looks at the owner of these and of nothing below them."""
    places = [case.facts.paths.get(f"{directory.path}/{name}") for name in COMFY_CHECKS]
    owners_of = [(entry.uid, entry.gid) for entry in places if isinstance(entry, Entry)]
    return any(owner != (directory.uid, directory.gid) for owner in owners_of)


def _count(case: Case, directory: Directory) -> str:
    tree = case.facts.trees.get(directory.path)
    if not isinstance(tree, Tree) or not tree.wrong:
        named = owners.wrong_inside(case.facts, directory)
        return f"{named} of the directories at the top of {directory.name} with another owner than {owners.OWNER}"
    partly = "" if tree.complete else " (not all of it was looked at)"
    some = "1 entry" if tree.wrong == 1 else f"{tree.wrong} entries"
    return f"{some} of {tree.looked} in {directory.name} with another owner than {owners.OWNER}{partly}"


def _examples(case: Case, directory: Directory) -> str:
    tree = case.facts.trees.get(directory.path)
    if isinstance(tree, Tree) and tree.wrong:
        return ", ".join(tree.examples[:3])
    return ", ".join(f"{e.path} ({e.uid}:{e.gid})" for e in owners.named_wrong(case.facts, directory)[:3])


def _link(case: Case, directory: Directory, entry: Entry) -> Finding:
    path, real = shlex.quote(directory.path), shlex.quote(entry.real)
    if entry.kind == "symlink":
        # Docker mounts what a link leads to: the image judges that, and the link's own owner is nothing to it.
        text = f"{directory.path} is a link; pantheon follows none, and does not know whose what it leads to is"
    else:
        text = f"{directory.path} lies behind a link"
    mend = (
        f"mount the directory there instead of linking it, once comfy is stopped: sudo rm {path} && "
        f"sudo install -d -m0775 -o{layout.COMFY} -g{layout.COMFY} {path} && sudo mount --bind {real} {path} "
        f"(and a line for it in /etc/fstab); then {command(case, ID)}"
    )
    if entry.kind != "symlink":
        mend = f"name the real place in hosts.toml (storage), or mount {real} at {path}; pantheon follows no link"
    return _finding(case, f"{ID}.link", text, f"really {entry.real}", mend=mend, places=(directory.name,))


def _read_only(case: Case, directory: Directory, mount: Mount) -> Finding:
    text = f"{directory.path} lies on a disk that is mounted read-only"
    mend = (
        f"look why (`sudo dmesg`: a disk with errors goes read-only by itself), then "
        f"sudo mount -o remount,rw {shlex.quote(mount.target)}"
    )
    evidence = f"{mount.source} on {mount.target}, {mount.fstype} ({mount.options})"
    return _finding(
        case, f"{ID}.read-only", text, evidence, mend=mend, places=(directory.name, "nvme-root", "ssd-root")
    )


def _no_owners(case: Case, directory: Directory, mount: Mount, has: str) -> Finding:
    evidence = f"{directory.path} {has}; {mount.source} on {mount.target}, {mount.fstype} ({mount.options})"
    if mount.fstype.startswith("nfs"):
        text = f"{directory.path} lies on NFS, where root of this host may own nothing (root_squash)"
        mend = (
            f"on the server, in what {mount.source} exports: chown -R {owners.OWNER} DIRECTORY; or keep ComfyUI on a "
            "local disk (hosts.toml, storage.nvme), as §3 says"
        )
    else:
        text = f"{directory.path} lies on {mount.fstype}, which keeps no owners"
        mend = (
            f"keep it on ext4 or xfs, as §3 says; until then mount it with uid={layout.COMFY},gid={layout.COMFY} in "
            "/etc/fstab (a virtual environment needs links, which such a disk may not hold either)"
        )
    return _finding(case, f"{ID}.file-system", text, evidence, mend=mend, places=(directory.name,))


# ---- the container


def _mounts(case: Case, container: Container) -> list[Trouble]:
    at = next((mount for mount in container.mounts if mount.target == MNT), None)
    inside = [mount for mount in container.mounts if mount.target.startswith(f"{MNT}/")]
    parts = ", ".join(f"{mount.source or mount.name} at {mount.target}" for mount in inside)
    if at is None:
        text = f"{MNT} is no mount: Docker makes it, and it belongs to root"
        text = f"{text}; mounted are parts of it" if inside else text
        name, evidence = "sub-mounts", parts or "nothing is mounted there"
    elif at.type != "bind":
        text, name = f"{MNT} is a {at.type} of Docker's, and not a directory of the host", "volume"
        evidence = f"{at.name or at.source} at {MNT}; what is in it stays there"
    elif not at.writable:
        text, name, evidence = f"{MNT} is mounted read-only", "read-only-mount", f"{at.source}:{MNT}:ro"
    elif inside and not starting.is_well(container):
        text, name, evidence = (
            f"something is mounted inside {MNT}, and Docker makes the way to it as root",
            "sub-mounts",
            parts,
        )
    elif at.source != layout.comfy_mnt(case.host) and not starting.is_well(container):
        text, name, evidence = f"{MNT} is another directory than hosts.toml says", "elsewhere", at.source
    else:
        return []
    return [Trouble(_finding(case, f"{ID}.{name}", text, f"{evidence}{_origin(case, container)}"), recreate=True)]


def _origin(case: Case, container: Container) -> str:
    """Which file says so, where that is not ours alone."""
    files = [path for path in container.compose_files.split(",") if path and path != layout.compose_file(case.host)]
    file = case.facts.files.get(layout.compose_file(case.host))
    text = getattr(file, "text", None)
    if files:
        return f" (by {', '.join(files)})"
    changed = isinstance(text, str) and text != stack.compose_text(case.host)
    return f" (by {layout.compose_file(case.host)}, which was changed by hand)" if changed else ""


def _user(case: Case, container: Container) -> list[Trouble]:
    want = stack.wanted(case.host, "comfy")
    image = case.facts.images.get(want.image)
    right = want.user or (image.user if isinstance(image, Image) else container.user)
    if container.user == right or starting.is_well(container):
        return []
    text = f"comfy runs as user {container.user or '(of the image)'}, and {MNT} belongs to {owners.OWNER}"
    evidence = f"user: {container.user or 'not set'}, wanted {right or 'not set'}{_origin(case, container)}"
    return [Trouble(_finding(case, f"{ID}.user", text, evidence), recreate=True)]


def _wanted(case: Case, container: Container) -> list[Trouble]:
    wrong = []
    for name in ("WANTED_UID", "WANTED_GID"):
        has = container.env.get(name)
        if has is not None and has.value is not None and has.value != str(layout.COMFY):
            wrong.append(f"{name}={has.value}")
    if not wrong:
        return []
    text = f"comfy was told to be another user than {owners.OWNER}, to whom {MNT} belongs"
    evidence = f"{', '.join(wrong)}{_origin(case, container)}"
    return [Trouble(_finding(case, f"{ID}.wanted", text, evidence), recreate=True)]


def _complaint(case: Case, lines: list[str]) -> Finding:
    """Nothing is wrong any more, or nothing that a look can see: it has only not been started since."""
    text = f"ComfyUI stopped at {MNT}, whose owner and mounts are right now as far as they were looked at"
    return _finding(case, f"{ID}.stopped", text, lines[0])


# ---- what is not ours


def _foreign(case: Case) -> list[Trouble]:
    """Containers of somebody else's that run ComfyUI and fail for it: explained, and left alone."""
    found = []
    for container in case.facts.containers if isinstance(case.facts.containers, tuple) else ():
        repositories = {foreign.repository(case.host.comfy.image), *COMFY_REPOSITORIES}
        is_comfy = container.name == "comfy" or foreign.repository(container.image) in repositories
        if not is_comfy or foreign.is_ours(case.host, container) or starting.is_well(container):
            continue
        if container.id in foreign.kept(case.facts):
            continue
        at = next((mount for mount in container.mounts if mount.target == MNT), None)
        inside = [mount for mount in container.mounts if mount.target.startswith(f"{MNT}/")]
        lines = _complaints(case, container)
        if lines or (inside and at is None):
            found.append(Trouble(_not_ours(case, container, lines), by_hand=True))
    return found


def _not_ours(case: Case, container: Container, lines: list[str]) -> Finding:
    inside = [mount for mount in container.mounts if mount.target.startswith(f"{MNT}/")]
    at = next((mount for mount in container.mounts if mount.target == MNT), None)
    where = container.compose_files or "the `docker run` that made it"
    name, path = shlex.quote(container.name), layout.comfy_mnt(case.host)
    parts = ", ".join(f"{mount.source or mount.name}:{mount.target}" for mount in inside)
    text = f"container {container.name}, which is not ours, has no usable {MNT}"
    evidence = "; ".join(part for part in (parts, lines[0] if lines else "") if part)
    if at is None or at.type != "bind":
        instead = f"instead of {parts}" if parts else f"instead of what is mounted at {MNT}"
        what = f"under volumes, one line {instead}:" if container.compose_files else f"{instead}, one -v"
        first = f"in {where}, {what} {path}:{MNT}"
        source = path
    else:
        first, source = f"in {where}: user 1024:1024 (or none), WANTED_UID and WANTED_GID 1024, and no :ro", at.source
    chown = f"sudo chown -R -h {owners.OWNER} {shlex.quote(source)}"
    bring = f"invoke bringup --host {case.host.name}"
    mend = f"{first}; then {case.host.ssh(chown)}, and make {name} anew. Or remove it, and: {bring}"
    finding = _finding(case, f"{ID}.foreign", text, evidence, mend=mend)
    return replace(finding, explains=(*finding.explains, f"stack.foreign.{container.name}", "comfy.*"))


def _overrides(case: Case) -> list[Finding]:
    """Files that Compose lays over ours when somebody calls it there by hand. Ours are started without them."""
    found = []
    for path, lines in case.evidence.overrides.items():
        inside = [line for line in lines if f"{MNT}/" in line] if isinstance(lines, tuple) else []
        if inside:
            text = (
                f"{path} mounts something inside {MNT}: whoever runs `docker compose up` there makes this fault again"
            )
            mend = f"take it out of the file, which is not ours: {'; '.join(inside[:3])}"
            found.append(Finding(f"{ID}.override", "warn", text, "; ".join(inside[:3]), mend, SOURCE))
    return found


# ---- a finding


def _finding(
    case: Case,
    key: str,
    text: str,
    evidence: str,
    *,
    mend: str = "",
    places: tuple[str, ...] = ("comfy-mnt",),
    sure: bool = True,
) -> Finding:
    """What follows from it: the checklist's word on the directory, and, while comfy is not well, all about comfy. Not
    `sure`: ComfyUI may well run in spite of it, and where it ended over something else it has a fault besides."""
    explains = [f"storage.{name}" for name in places]
    container = foreign.named(case.facts, "comfy")
    lines = starting.lines(case, container) if container is not None else []
    other = not sure and any(OTHER_END.match(line.strip()) for line in lines) and not _complaints(case, container)
    if container is not None and not starting.is_well(container) and not other:
        explains += [
            "comfy.*",
            "comfy-first-run.*",
            "storage.first",
            "browser-access.comfy*",
            "wrong-version-number.comfy*",
        ]
        if lines := _complaints(case, container):
            evidence = f"{evidence}; the log: {lines[0]}" if lines[0] not in evidence else evidence
    return Finding(key, "fail", text, evidence, mend or command(case, ID), SOURCE, tuple(explains))
