"""Who must own the directories of the storage model (procedure §3), and the changes that bring that about. No I/O."""

from __future__ import annotations

from pantheon import layout
from pantheon.facts import Entry, Facts, Tree
from pantheon.inventory import Host
from pantheon.layout import Directory
from pantheon.plan import Change, Guard, Mend, Run, Step

OWNER = f"{layout.COMFY}:{layout.COMFY}"


def own_tree(directory: Directory, *, guards: tuple[Guard, ...], usable: tuple[str, ...] = ()) -> Mend:
    """One walk through a tree that belongs to one owner: only what is wrong is changed. `usable` names directories
    right inside it that their owner must be able to use."""
    uid, gid = directory.tree_owner or (directory.uid, directory.gid)
    says = f"{directory.path}: everything in it to {uid}:{gid}, in one walk; no link is followed"
    arguments: dict[str, object] = {"path": directory.path, "uid": uid, "gid": gid, "usable": list(usable)}
    return Mend("own_tree", arguments, says, guards=guards, timeout_s=layout.WALK_S)


def mend(host: Host, facts: Facts, directory: Directory, *, all_inside: bool = False) -> list[Change]:
    """What brings an existing directory's owner and mode right, and the owner of everything in it where that is one.
    `all_inside`: the tree is walked although the look saw nothing wrong in it, since it saw the beginning only."""
    entry = facts.paths.get(directory.path)
    if not isinstance(entry, Entry):
        return []
    guards: tuple[Guard, ...] = (
        root_guard(host, facts, directory),
        Guard("path", directory.path, facts.reading("path", directory.path)),
    )
    owner, has = f"{directory.uid}:{gid(facts, directory)}", f"{entry.uid}:{entry.gid}"
    why = "the ComfyUI image demands it (§6.2)" if directory.tree_owner else "the storage model (§3)"
    changes = []
    shut = unusable(facts, directory)
    step: Step
    if directory.tree_owner and (all_inside or shut or wrong_inside(facts, directory)):
        what = f"{directory.name} owner inside → {owner}"
        if has != owner:
            what = f"{directory.name} owner {has} → {owner}, and inside"
        what += f"; {', '.join(shut)} usable by it" if shut else ""
        changes.append(Change(what, why, (own_tree(directory, guards=guards, usable=shut),)))
    elif has != owner:
        step = Run(("chown", "-h", owner, "--", directory.path), guards=guards)
        changes.append(Change(f"{directory.name} owner {has} → {owner}", why, (step,)))
    if mode_is_wrong(directory, entry):
        if changes:  # by then the owner is right
            guards = (Guard("path", directory.path, f"dir {owner} {entry.mode:04o}"),)
        step = Run(("chmod", f"{directory.mode:04o}", "--", directory.path), guards=guards)
        changes.append(Change(f"{directory.name} mode {entry.mode:04o} → {directory.mode:04o}", why, (step,)))
    return changes


def wrong_inside(facts: Facts, directory: Directory) -> int:
    """How many entries of another owner the look has seen in it: on its way through the tree, which may have ended
    early, and among those that it was asked about one by one."""
    tree = facts.trees.get(directory.path)
    return tree.wrong if isinstance(tree, Tree) and tree.wrong else len(named_wrong(facts, directory))


def named_wrong(facts: Facts, directory: Directory) -> list[Entry]:
    """Those of another owner among what a look asks about by name, where the tree belongs to one owner. What lies
    behind a link is not in it."""
    if not directory.tree_owner:
        return []
    below = [entry for path, entry in facts.paths.items() if path.startswith(f"{directory.path}/")]
    own = [e for e in below if isinstance(e, Entry) and (e.kind == "symlink" or e.real == e.path)]
    return [entry for entry in own if (entry.uid, entry.gid) != directory.tree_owner]


def unusable(facts: Facts, directory: Directory) -> tuple[str, ...]:
    """Directories right inside a tree that was asked about, which their owner cannot read, write and enter."""
    inside = (entry for path, entry in facts.paths.items() if path.rpartition("/")[0] == directory.path)
    shut = (e for e in inside if isinstance(e, Entry) and e.kind == "dir" and e.real == e.path and ~e.mode & 0o700)
    return tuple(sorted(e.path.rpartition("/")[2] for e in shut)) if directory.tree_owner else ()


def root_guard(host: Host, facts: Facts, directory: Directory) -> Guard:
    place = root_of(host, directory)
    return Guard("mount", place, facts.reading("mount", place))


def root_of(host: Host, directory: Directory) -> str:
    return host.storage.ssd if directory.path.startswith(host.storage.ssd + "/") else host.storage.nvme


def gid(facts: Facts, directory: Directory) -> int:
    found = facts.groups.get(directory.group) if directory.group else directory.gid
    return found if isinstance(found, int) else directory.gid


def mode_is_wrong(directory: Directory, entry: Entry) -> bool:
    """Exactly 775 where the image and the models ask for it; elsewhere only what would break or expose something."""
    if directory.tree_owner or directory.group:
        return entry.mode != directory.mode
    return bool(entry.mode & 0o002) or entry.mode & 0o700 != 0o700
