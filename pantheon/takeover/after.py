"""The host as it will be between the parts of a takeover: planning goes on from there. Only what the plan itself
changes is different; everything else is as it was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pantheon import layout, owners
from pantheon.facts import Container, Entry, Facts, Http, TextFile, Tree
from pantheon.inventory import Host
from pantheon.takeover.old import Old
from pantheon.takeover.record import Record


def stopped(facts: Facts, olds: Iterable[Old]) -> Facts:
    """The old containers stopped, those that are kept under another name, their ports free."""
    by_id = {old.container.id: old for old in olds}
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    listeners = facts.listeners
    if isinstance(listeners, tuple):
        gone = {old.name for old in by_id.values()}
        # Docker's proxy is nobody's once its container has stopped.
        ports = {port.port for old in by_id.values() for port in old.container.ports}
        proxies = ("", "docker-proxy", "dockerd")
        listeners = tuple(
            one
            for one in listeners
            if one.container not in gone and not (not one.container and one.port in ports and one.process in proxies)
        )
    silent = {name: replace(a, status=0, body="") for name, a in facts.http.items() if isinstance(a, Http)}
    return replace(
        facts,
        containers=tuple(_stopped(c, by_id[c.id]) if c.id in by_id else c for c in containers),
        listeners=listeners,
        http={**facts.http, **silent} if by_id else facts.http,
    )


def _stopped(container: Container, old: Old) -> Container:
    if old.kind == "ours":
        return replace(container, state="exited", health=None, exit_code=0) if old.is_up else container
    return replace(container, name=old.kept, state="exited", health=None, exit_code=0, restart_policy="no")


def made(host: Host, facts: Facts, *, anew: Iterable[str] = ()) -> Facts:
    """The directories of procedure §3 made where they were missing, and `anew` where they made room for a copy."""
    anew = set(anew)
    missing = [d for d in layout.directories(host) if facts.paths.get(d.path) is None or d.path in anew]
    below = {path: None for path in facts.paths if path.rpartition("/")[0] in anew}
    fresh = {d.path: _directory(facts, d) for d in missing}
    trees = {d.path: Tree(d.path, 0, True, 0, ()) for d in missing if d.tree_owner}
    return replace(facts, paths={**facts.paths, **below, **fresh}, trees={**facts.trees, **trees})


def owned(host: Host, facts: Facts, paths: Iterable[str]) -> Facts:
    """Those directories of ours, and everything in them, with the owner that they must have."""
    found, trees = dict(facts.paths), dict(facts.trees)
    for directory in layout.directories(host):
        if directory.path not in paths:
            continue
        entry = found.get(directory.path)
        if isinstance(entry, Entry):
            found[directory.path] = replace(entry, uid=directory.uid, gid=owners.gid(facts, directory))
        else:
            found[directory.path] = _directory(facts, directory)
        if directory.tree_owner:
            trees[directory.path] = Tree(directory.path, 1, True, 0, ())
            uid, gid = directory.tree_owner
            for path, below in found.items():
                if path.startswith(f"{directory.path}/") and isinstance(below, Entry):
                    found[path] = replace(below, uid=uid, gid=gid)
    return replace(facts, paths=found, trees=trees)


def _directory(facts: Facts, d: layout.Directory) -> Entry:
    return Entry(d.path, "dir", d.uid, owners.gid(facts, d), "", "", d.mode, d.path, False, None)


def filled(host: Host, facts: Facts, names: Iterable[str]) -> Facts:
    """ComfyUI's directories of these names in place: what is there needs no first run."""
    top, found = layout.comfy_mnt(host), dict(facts.paths)
    for name in names:
        path = f"{top}/{name}"
        if path in found and found[path] is None:
            found[path] = Entry(path, "dir", layout.COMFY, layout.COMFY, "", "", 0o755, path, False, None)
    return replace(facts, paths=found)


def ready(host: Host, facts: Facts, record: Record, *, gone: Iterable[str], key: bool, folders: Iterable[str]) -> Facts:
    """The record says ready, Compose files that were renamed are gone, and the login key is there."""
    files, paths = dict(facts.files), dict(facts.paths)
    for path in gone:
        for table in (files, paths):
            if path in table:
                table[path] = None
    text = record.at("ready").text()
    files[layout.TAKEOVER] = TextFile(layout.TAKEOVER, "", 0, 0, 0o600, len(text), text)
    if key:
        at = layout.secret_key(host)
        files[at] = TextFile(at, "", 0, 0, 0o600, 64, None)
    for path in folders:
        mode = 0o700 if path == layout.secrets(host) else 0o755
        paths[path] = Entry(path, "dir", 0, 0, "root", "root", mode, path, False, None)
    return replace(facts, files=files, paths=paths)
