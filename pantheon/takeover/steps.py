"""The steps of a takeover, one function for each part of it. What is done already is not planned again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pantheon import layout, owners
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Entry, Facts, TextFile
from pantheon.inventory import Host
from pantheon.plan import Change, Guard, Mend, Run, Step, Write
from pantheon.takeover import copies
from pantheon.takeover.copies import Copy, owner_of, size
from pantheon.takeover.data import Datum
from pantheon.takeover.old import Old
from pantheon.takeover.record import Moved, Record

STOP_S = {"openwebui": 120}  # a database must not be cut short
DEAF_S = 10  # the others have none, and ComfyUI without an init process is deaf to the signal


def rename(*moves_: Moved, guards: tuple[Guard, ...] = ()) -> Mend:
    """Other names for files and directories; nothing is ever replaced."""
    told = [{"from": moved.old, "to": moved.new, "over_empty": False} for moved in moves_]
    says = "; ".join(f"{moved.old} → {moved.new}" for moved in moves_)
    return Mend("rename_path", {"moves": told}, f"rename {says}", guards=guards)


def note(facts: Facts, record: Record, what: str, why: str) -> list[Change]:
    guard = Guard("sha256", layout.TAKEOVER, facts.reading("sha256", layout.TAKEOVER))
    file = facts.files.get(layout.TAKEOVER)
    before = file.text or "" if isinstance(file, TextFile) else ""
    text = record.text()
    if text == before:
        return []
    return [Change(what, why, (Write(layout.TAKEOVER, text, 0o600, before=before, guards=(guard,)),), sign="+")]


def note_ready(record: Record) -> list[Change]:
    ready = record.at("ready")
    step = Write(layout.TAKEOVER, ready.text(), 0o600, before=record.text())
    return [Change("note that the data is in its place", "from here on our services may start", (step,), sign="+")]


def ahead(host: Host, made: list[Copy], olds: tuple[Old, ...]) -> list[Change]:
    """Large copies are begun while the old services run: they are down for the rest alone."""
    up = {old.service for old in olds if old.is_up}
    large = [c for c in made if c.bytes >= copies.AHEAD and c.is_from_host and c.aside is None and c.place.is_empty]
    return [
        Change(
            f"begin to copy {', '.join(copy.sources)} ({size(copy.bytes)}), while it is still in use",
            "so that the old services are down for a short time only",
            (copy.step(host, "ahead"),),
            sign="+",
        )
        for copy in large
        if copy.parts[0].piece.service in up
    ]


def stop(container: Container, service: str) -> Run:
    """Asks a container to end, and gives it the time that it needs."""
    patience = STOP_S.get(service, DEAF_S)
    guards = (Guard("container", container.name, container.id),)
    return Run(("docker", "stop", "-t", str(patience), container.id), guards=guards, timeout_s=patience + 60)


def put_away(old: Old) -> Change | None:
    """Its restart policy noted and off, under another name, stopped: it stays so through any restart of the engine. The
    name first: a unit or a script that keeps it running would start it again the moment it stops, or remove it."""
    c, steps = old.container, list[Step]()
    guard = (Guard("container", c.name, c.id),)
    if old.kind == "ours":
        if not old.is_up:
            return None
        why = "nothing may write while its data is copied"
        return Change(f"stop {c.name}", why, (stop(c, old.service),), stops=(c.name,))
    if c.restart_policy not in ("no", ""):
        steps.append(Run(("docker", "update", "--restart=no", c.id), guards=guard))
    if c.name != old.kept:
        free = Guard("container", old.kept, "missing")
        steps.append(Run(("docker", "rename", c.id, old.kept), guards=(*guard, free)))
    if c.state == "paused":
        steps.append(Run(("docker", "unpause", c.id)))
    if old.is_up:
        steps.append(stop(replace(c, name=old.kept), old.service))
    if not steps:
        return None
    did = "stop and keep" if old.is_up else "keep"
    stops = (c.name,) if old.is_up else ()
    return Change(f"{did} {c.name} as {old.kept}", "kept until you remove it", tuple(steps), stops=stops)


def reload_units(files: Iterable[Moved]) -> tuple[Run, ...]:
    """systemd forgets a service file that is gone, with what it would do when the container stops."""
    return (Run(("systemctl", "daemon-reload")),) if any(moved.old.endswith(".service") for moved in files) else ()


def keep_files(renamed: tuple[Moved, ...], seen: Belongings) -> list[Change]:
    """Compose files, and units that start the stack, under another name: nobody starts it beside ours by habit."""
    todo = [m for m in renamed if isinstance(place := seen.places.get(m.old), Place) and place.kind]
    steps: tuple[Step, ...] = tuple(_rename(moved, seen) for moved in todo)
    steps = (*steps, *reload_units(todo))
    names = ", ".join(moved.old for moved in todo)
    return (
        [Change(f"keep {names} as ..before-pantheon", "two stacks must not be started by habit", steps)] if todo else []
    )


def _rename(moved: Moved, seen: Belongings) -> Mend:
    place = seen.places.get(moved.old)
    guards = (Guard("path", moved.old, place.reading),) if isinstance(place, Place) and place.kind else ()
    return rename(moved, guards=guards)


def own(host: Host, own: list[Datum], record: Record) -> list[Change]:
    """What is used in place gets the owner that our containers need; whose it was is noted first, and given back by
    --undo."""
    lists = {moved.old: moved.new for moved in record.owners}
    changes = []
    for datum in own:
        owner = owner_of(host, datum.target)
        if owner is None or datum.target not in lists:
            continue
        uid, gid = owner
        others = ", ".join(sorted(set(datum.owners) - {f"{uid}:{gid}"}))
        note = Mend(
            "keep_owners",
            {"path": datum.target, "list": lists[datum.target]},
            f"note who owns what in {datum.target}, in {lists[datum.target]}",
            timeout_s=layout.WALK_S,
        )
        arguments: dict[str, object] = {"path": datum.target, "uid": uid, "gid": gid, "usable": []}
        give = Mend("own_tree", arguments, f"{datum.target}: everything in it to {uid}:{gid}", timeout_s=layout.WALK_S)
        what = f"{datum.target} owner {others} → {uid}:{gid}, and inside; noted for the way back"
        changes.append(Change(what, "our containers need it (§6.2)", (note, give)))
    return changes


def make_room(host: Host, facts: Facts, made: list[Copy]) -> list[Change]:
    """What is in the place of a copy makes room; one of our directories is made anew, as §3 says."""
    changes = []
    directories = {directory.path: directory for directory in layout.directories(host)}
    for copy in made:
        if copy.aside:
            guard = Guard("path", copy.target, copy.place.reading)
            what = f"set {copy.aside.old} aside as {copy.aside.new}"
            why = "what goes there comes from elsewhere, and nothing is replaced"
            steps: list[Step] = [rename(copy.aside, guards=(guard,))]
            if d := directories.get(copy.target):
                owner = (f"-m{d.mode:04o}", f"-o{d.uid}", f"-g{owners.gid(facts, d)}")
                steps.append(Run(("install", "-d", *owner, "--", d.path), guards=(Guard("path", d.path, "missing"),)))
            changes.append(Change(what, why, tuple(steps)))
    return changes


def keep_databases(record: Record, seen: Belongings) -> list[Change]:
    todo = [m for m in record.databases if not (isinstance(p := seen.places.get(m.new), Place) and p.kind)]
    if not todo:
        return []  # the first copy is the one that counts
    files = [{"from": moved.old, "to": moved.new} for moved in todo]
    says = f"keep a copy of {', '.join(moved.old for moved in todo)}, as ..before-pantheon"
    step = Mend("copy_files", {"files": files}, says, timeout_s=3600)
    return [Change("keep a copy of Open WebUI's database", "a newer image migrates it, one way", (step,), sign="+")]


def copy_all(host: Host, made: list[Copy]) -> list[Change]:
    return [
        Change(
            f"copy {', '.join(copy.sources)} → {copy.target}",
            "copied and compared, never moved (§3)",
            (copy.step(host, "final"),),
            sign="+",
        )
        for copy in made
    ]


def login_key(host: Host, facts: Facts, olds: tuple[Old, ...]) -> tuple[bool, list[str], list[Change]]:
    """The key of Open WebUI's sessions comes along, on the host and without leaving it: nobody is logged out. Whether
    there is one now, the directories that were made for it, and the change."""
    old = next((old for old in olds if old.service == "openwebui"), None)
    path = layout.secret_key(host)
    file = facts.files.get(path)
    has_one = isinstance(file, TextFile) and file.size > 0
    if old is None or (has_one and old.kind != "theirs"):
        return has_one, [], []
    steps: list[Step] = []
    folders = []
    for folder, mode in ((host.stack_dir, 0o755), (layout.secrets(host), 0o700)):
        entry = facts.paths.get(folder)
        if not (isinstance(entry, Entry) and entry.kind == "dir" and entry.mode == mode and entry.uid == 0):
            guard = Guard("path", folder, facts.reading("path", folder))
            steps.append(Run(("install", "-d", f"-m{mode:04o}", "-o0", "-g0", "--", folder), guards=(guard,)))
            folders.append(folder)
    arguments: dict[str, object] = {
        "container": old.container.id,
        "path": path,
        "carry": old.kind == "theirs",
        "stopped": True,
    }
    steps.append(Mend("webui_key", arguments, f"the login key of {old.name} → {path}, without showing it"))
    change = Change("carry over the login key", "so that nobody is logged out (§4)", tuple(steps), sign="+")
    return True, folders, [change]


def comfy_names(host: Host, made: list[Copy], seen: Belongings) -> list[str]:
    copy = next((copy for copy in made if copy.target == layout.comfy_mnt(host)), None)
    place = seen.places.get(copy.parts[0].piece.source.path) if copy else None
    return [name for name in ("ComfyUI", "venv") if isinstance(place, Place) and name in place.entries]
