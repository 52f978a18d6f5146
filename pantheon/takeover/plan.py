"""What is done in a takeover, and in which order: written down first, copied ahead, stopped and renamed, copied,
compared, ready. Whatever stops in between, the old data is where it was, and the record says how it all was.

Planned from the facts and from what the host counted; what is done already is not planned again, so that the same
command goes on from any moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pantheon import layout, owners
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Entry, Facts, TextFile
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step, Write
from pantheon.sections import storage
from pantheon.takeover import after, copies, data, moves, neighbours, settings
from pantheon.takeover.copies import Copy, minutes, owner_of, size
from pantheon.takeover.data import Datum, Piece, Source
from pantheon.takeover.old import Found, Old
from pantheon.takeover.record import Kept, Moved, Record
from pantheon.takeover.record import Place as Noted

NAME = "takeover"
NOTES = "/var/lib/pantheon/owners"  # lists of who owned what (mending/keep_owners.py)
STOP_S = {"openwebui": 120}  # a database must not be cut short
DEAF_S = 10  # the others have none, and ComfyUI without an init process is deaf to the signal
ORDER = ("openwebui", "comfy", "ollama")  # who needs another goes first
DATABASE = ("webui.db", "webui.db-wal", "webui.db-shm")


@dataclass(frozen=True)
class Taking:
    """A takeover as planned: its sections, and the facts that the sections behind it are planned on. `settled` are the
    services whose data is there afterwards."""

    record: Record
    sections: tuple[SectionPlan, ...]
    facts: Facts
    warnings: tuple[Finding, ...] = ()
    settled: tuple[str, ...] = ()

    @property
    def blocked(self) -> tuple[Finding, ...]:
        return tuple(finding for section in self.sections for finding in section.blocked)


def pieces(host: Host, facts: Facts, olds: Iterable[Old]) -> list[tuple[str, Piece]]:
    """All data that is concerned, with the id of the container that has it ("": none has it any more)."""
    moved = {(one.service, one.old) for one in moves.elsewhere(host, facts)}
    found = []
    for old in olds:
        for piece in data.pieces(host, old):
            if old.kind == "theirs" or (old.service, piece.source.path) in moved:
                found.append((old.container.id, piece))
    for one in moves.elsewhere(host, facts):
        if one.container is None:
            found.append(("", Piece(one.service, one.name, Source(one.old), one.new, "bind")))
    return found


def ask(host: Host, facts: Facts, olds: tuple[Old, ...]) -> dict[str, object]:
    """What the host is to count for `plan`, JSON-ready."""
    files = [path for old in olds for path in neighbours.compose_files(old.container)]
    targets = [piece.target for _, piece in pieces(host, facts, olds)]
    kept = [f"{layout.openwebui_data(host)}/{name}" for name in DATABASE]
    more = [*files, *kept, *(f"{path}.before-pantheon" for path in [*files, *kept])]
    more += [name for target in targets for name in copies.spare_names(target)]
    asked = data.ask(host, (), more)
    paths, layers, volumes = set(more), dict[str, list[str]](), set()
    for container, piece in pieces(host, facts, olds):
        paths.add(piece.target)
        if piece.via == "layer":
            layers.setdefault(container, []).append(piece.source.path)
        elif piece.via != "tmpfs":
            paths.add(piece.source.path)
        if piece.via == "volume":
            volumes.add(piece.volume)
    return {**asked, "paths": sorted(paths), "layers": layers, "volumes": sorted(volumes)}


def plan(
    host: Host, facts: Facts, found: Found, seen: Belongings, *, record: Record | None, kind: str, when: str
) -> Taking:
    """The takeover of the containers that old.find found, with what the host counted. Blocked as a whole where one part
    of it is: nothing is touched by halves."""
    begun = record if record and record.stage == "begun" else None
    olds = _concerned(host, facts, found.olds, begun)
    blocked, warned = list(found.blocked), list[Finding]()
    judged: list[Datum] = []
    for container, piece in pieces(host, facts, olds):
        datum = data.judge(piece, seen, container=container)
        if isinstance(datum, Datum):
            judged.append(datum)
        else:
            blocked.append(Finding(f"takeover.data.{piece.target}", "unknown", "not known what there is", datum))
    judged, problems = _sorted_out(host, judged, seen, olds)
    blocked += problems
    made, problems = copies.group(judged, seen, record)
    blocked += problems
    made, stay, problems = copies.room(made)
    blocked += problems
    judged = [d for d in judged if d.way != "copied"] + [p for c in made for p in c.parts] + stay
    for old in olds:
        own = tuple(piece for container, piece in pieces(host, facts, olds) if container == old.container.id)
        told = settings.findings(host, facts, old, own) + settings.images(host, facts, old)
        blocked += [finding for finding in told if not finding.is_good]
        warned += [finding for finding in told if finding.is_good]
    beside = neighbours.look(host, facts, olds, seen)
    warned += beside.findings
    blocked += beside.blocked
    noted = _record(host, olds, judged, made, found, beside.renamed, seen, begun or record, kind, begun, when)
    if blocked:
        return Taking(noted, (SectionPlan(NAME, blocked=tuple(dict.fromkeys(blocked))),), facts, tuple(warned))
    return _planned(host, facts, olds, judged, made, noted, seen, beside, begun=begun, warned=warned)


def _concerned(host: Host, facts: Facts, olds: tuple[Old, ...], begun: Record | None) -> tuple[Old, ...]:
    """Ours concern a move only where something of theirs is elsewhere."""
    ids = {kept.id for kept in begun.containers} if begun else set()
    away = {one.service for one in moves.elsewhere(host, facts)}
    file = layout.compose_file(host)
    return tuple(
        old
        for old in sorted(olds, key=lambda old: ORDER.index(old.service))
        if old.kind != "ours"
        or old.service in away
        or old.container.id in ids
        or (old.container.compose_files.startswith("/") and old.container.compose_files != file)
    )


def _sorted_out(
    host: Host, judged: list[Datum], seen: Belongings, olds: tuple[Old, ...]
) -> tuple[list[Datum], list[Finding]]:
    """Two sources for one place, data of ours that is gone, and parts of a ComfyUI that is not installed yet."""
    kinds = {old.service: old.kind for old in olds}
    result, blocked, taken = list[Datum](), list[Finding](), set[str]()
    installed = _has_comfyui(host, judged, seen)
    for datum in judged:
        piece = datum.piece
        if datum.way == "copied" and piece.target in taken:
            datum = replace(datum, way="stays", why=f"{piece.target} is filled from elsewhere already")
        elif datum.way == "copied" and not installed and piece.target.startswith(f"{layout.comfy_mnt(host)}/ComfyUI/"):
            why = "ComfyUI itself is not there yet, and would not be installed beside it: copy it after its first run"
            datum = replace(datum, way="stays", why=why)
        elif datum.way in ("copied", "nothing") and kinds.get(piece.service) in ("ours", "renamed"):
            datum, problem = _of_ours(host, datum, seen)
            blocked += [problem] if problem else []
        taken |= {piece.target} if datum.way == "copied" else set()
        result.append(datum)
    return result, blocked


def _has_comfyui(host: Host, judged: list[Datum], seen: Belongings) -> bool:
    whole = next((d for d in judged if d.target == layout.comfy_mnt(host)), None)
    if whole is None or whole.piece.source.container:
        return True
    place = seen.places.get(whole.piece.source.path)
    return not isinstance(place, Place) or "ComfyUI" in place.entries or len(place.entries) >= 100


def _of_ours(host: Host, datum: Datum, seen: Belongings) -> tuple[Datum, Finding | None]:
    """Data of ours that is to move: it may have been moved by hand, or its disk may not be there."""
    source, target = (seen.places.get(path) for path in (datum.piece.source.path, datum.target))
    is_gone = not isinstance(source, Place) or source.is_empty
    if not is_gone:
        return datum, None
    if isinstance(target, Place) and not target.is_empty:
        return replace(datum, way="nothing", why="moved by hand"), None
    if datum.target == layout.models(host) and isinstance(source, Place) and source.kind:
        return replace(datum, way="nothing"), None  # no shared models yet
    if isinstance(source, Place) and source.kind:
        return replace(datum, way="nothing"), None  # empty, as it was
    text = f"{datum.piece.service}'s data is not in {datum.piece.source.path}, where it was, nor in {datum.target}"
    mend = "mount the disk that holds it; if it is lost for good: " + host.ssh(f"docker rm -f {datum.piece.service}")
    return datum, Finding(f"takeover.lost.{datum.target}", "fail", text, "is its disk mounted?", mend, "procedure §3")


# ---- the record


def _record(
    host: Host,
    olds: tuple[Old, ...],
    judged: list[Datum],
    made: list[Copy],
    found: Found,
    files: tuple[Moved, ...],
    seen: Belongings,
    before: Record | None,
    kind: str,
    begun: Record | None,
    when: str,
) -> Record:
    """What is written first. Of a takeover that goes on, how the containers were is what was noted then."""
    if begun:
        known = {kept.id for kept in begun.containers}
        new = tuple(_kept(old) for old in olds if old.container.id not in known)
        aside = dict.fromkeys((*begun.aside, *(copy.aside for copy in made if copy.aside)))
        return replace(
            begun,
            containers=(*begun.containers, *new),
            files=tuple(dict.fromkeys((*begun.files, *files))),
            aside=tuple(aside),
            data=tuple(dict.fromkeys((*begun.data, *_noted(judged)))),
            left=tuple(sorted({*begun.left, *found.left})),
        )
    del before
    in_place = [d for d in judged if d.way == "in place"]
    return Record(
        kind=kind,
        stage="begun",
        when=when,
        containers=tuple(_kept(old) for old in olds),
        files=files,
        aside=tuple(copy.aside for copy in made if copy.aside),
        databases=_databases(host, in_place, seen, olds),
        owners=tuple(
            Moved(d.target, f"{NOTES}/{d.target.strip('/').replace('/', '-')}.gz")
            for d in in_place
            if _is_of_others(host, d)
        ),
        data=_noted(judged),
        left=found.left,
    )


def _kept(old: Old) -> Kept:
    c = old.container
    retries = f":{c.restart_retries}" if c.restart_policy == "on-failure" and c.restart_retries else ""
    policy = f"{c.restart_policy or 'no'}{retries}"
    compose = "com.docker.compose."
    return Kept(
        id=c.id,
        name=c.name,
        kept=old.kept,
        service=old.service,
        running=old.is_up,
        policy=policy,
        image=c.image,
        image_id=c.image_id,
        project=c.project,
        label=c.labels.get(f"{compose}service", ""),
        folder=c.labels.get(f"{compose}project.working_dir", ""),
        files=c.compose_files,
    )


def _noted(judged: list[Datum]) -> tuple[Noted, ...]:
    return tuple(
        Noted(d.piece.service, str(d.piece.source), d.target, d.way) for d in judged if d.way in ("in place", "copied")
    )


def _is_of_others(host: Host, datum: Datum) -> bool:
    """Whether something in it has another owner than it must have."""
    owner = owner_of(host, datum.target)
    return owner is not None and bool(set(datum.owners) - {f"{owner[0]}:{owner[1]}"})


def _databases(host: Host, in_place: list[Datum], seen: Belongings, olds: tuple[Old, ...]) -> tuple[Moved, ...]:
    """A newer Open WebUI migrates its database, one way: in place, a copy of it is kept first."""
    top = layout.openwebui_data(host)
    if not any(d.target == top for d in in_place) or not any(o.service == "openwebui" for o in olds):
        return ()
    found = [f"{top}/{name}" for name in DATABASE]
    there = [path for path in found if isinstance(place := seen.places.get(path), Place) and place.kind == "file"]
    return tuple(Moved(path, f"{path}.before-pantheon") for path in there)


# ---- the changes


def rename(*moves_: Moved, guards: tuple[Guard, ...] = ()) -> Mend:
    """Other names for files and directories; nothing is ever replaced."""
    told = [{"from": moved.old, "to": moved.new, "over_empty": False} for moved in moves_]
    says = "; ".join(f"{moved.old} → {moved.new}" for moved in moves_)
    return Mend("rename_path", {"moves": told}, f"rename {says}", guards=guards)


def _planned(
    host: Host,
    facts: Facts,
    olds: tuple[Old, ...],
    judged: list[Datum],
    made: list[Copy],
    record: Record,
    seen: Belongings,
    beside: neighbours.Beside,
    *,
    begun: Record | None,
    warned: list[Finding],
) -> Taking:
    services = tuple(dict.fromkeys([*(o.service for o in olds), *(d.piece.service for d in judged)]))
    at_rest = after.stopped(facts, olds)
    first = storage.plan(host, facts, settled=services)
    created = tuple(change for change in first.changes if change.sign == "+")
    there = after.made(host, at_rest)
    own = [d for d in judged if d.way == "in place" and _is_of_others(host, d)]
    mine = after.owned(host, there, [d.target for d in own])
    final = after.owned(host, mine, [copy.target for copy in made])
    key, folders, key_change = _login_key(host, facts, olds)
    to_stop = tuple(
        old
        for old in olds
        if old.kind != "ours" or any(d.way == "copied" and d.piece.service == old.service for d in judged)
    )
    changes = [
        *_write(facts, record, "note what is there", "so that it can all be brought back"),
        *_ahead(host, made, to_stop),
        *(change for old in to_stop if (change := _stop(old))),
        *_files(beside.renamed, seen),
        *_owners(host, own, record),
        *(c for c in storage.plan(host, mine, settled=services).changes if c.sign != "+"),
        *_asides(host, facts, made),
        *_database_copies(record, seen),
        *_copies(host, made),
        *key_change,
    ]
    ready = after.ready(host, final, record, gone=[m.old for m in record.files], key=key, folders=folders)
    ready = after.filled(host, ready, _comfy_names(host, made, seen))
    changes += _write_ready(record)
    if len(changes) == 1 and begun is None and not olds:
        changes = []
    section = SectionPlan(
        NAME, tuple(changes), reason="nothing to take over", notes=_notes(host, olds, judged, made, to_stop)
    )
    return Taking(
        record,
        (SectionPlan("storage", created, reason=first.reason, blocked=first.blocked), section),
        ready,
        tuple(warned),
        services,
    )


def _write(facts: Facts, record: Record, what: str, why: str) -> list[Change]:
    guard = Guard("sha256", layout.TAKEOVER, facts.reading("sha256", layout.TAKEOVER))
    file = facts.files.get(layout.TAKEOVER)
    before = file.text or "" if isinstance(file, TextFile) else ""
    text = record.text()
    if text == before:
        return []
    return [Change(what, why, (Write(layout.TAKEOVER, text, 0o600, before=before, guards=(guard,)),), sign="+")]


def _write_ready(record: Record) -> list[Change]:
    ready = record.at("ready")
    step = Write(layout.TAKEOVER, ready.text(), 0o600, before=record.text())
    return [Change("note that the data is in its place", "from here on our services may start", (step,), sign="+")]


def _ahead(host: Host, made: list[Copy], olds: tuple[Old, ...]) -> list[Change]:
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
    patience = STOP_S.get(service, 30)
    guards = (Guard("container", container.name, container.id),)
    return Run(("docker", "stop", "-t", str(patience), container.id), guards=guards, timeout_s=patience + 60)


def _stop(old: Old) -> Change | None:
    """Its restart policy noted and off, stopped, under another name: it stays so through any restart of the engine."""
    c, steps = old.container, list[Step]()
    guard, patience = (Guard("container", c.name, c.id),), STOP_S.get(old.service, DEAF_S)
    if old.kind == "ours":
        if not old.is_up:
            return None
        stop = Run(("docker", "stop", "-t", str(patience), c.id), guards=guard, timeout_s=patience + 60)
        return Change(f"stop {c.name}", "nothing may write while its data is copied", (stop,), stops=(c.name,))
    if c.restart_policy not in ("no", ""):
        steps.append(Run(("docker", "update", "--restart=no", c.id), guards=guard))
    if c.state == "paused":
        steps.append(Run(("docker", "unpause", c.id), guards=guard))
    if old.is_up:
        steps.append(Run(("docker", "stop", "-t", str(patience), c.id), guards=guard, timeout_s=patience + 60))
    if c.name != old.kept:
        free = Guard("container", old.kept, "missing")
        steps.append(Run(("docker", "rename", c.id, old.kept), guards=(*guard, free)))
    if not steps:
        return None
    did = "stop and keep" if old.is_up else "keep"
    stops = (c.name,) if old.is_up else ()
    return Change(f"{did} {c.name} as {old.kept}", "kept until you remove it", tuple(steps), stops=stops)


def _files(renamed: tuple[Moved, ...], seen: Belongings) -> list[Change]:
    """Compose files under another name, so that nobody starts the old stack beside ours by habit."""
    todo = [m for m in renamed if isinstance(place := seen.places.get(m.old), Place) and place.kind]
    steps = tuple(_rename(moved, seen) for moved in todo)
    names = ", ".join(moved.old for moved in todo)
    return (
        [Change(f"keep {names} as ..before-pantheon", "two stacks must not be started by habit", steps)] if todo else []
    )


def _rename(moved: Moved, seen: Belongings) -> Mend:
    place = seen.places.get(moved.old)
    guards = (Guard("path", moved.old, place.reading),) if isinstance(place, Place) and place.kind else ()
    return rename(moved, guards=guards)


def _owners(host: Host, own: list[Datum], record: Record) -> list[Change]:
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
            {"path": datum.target, "list": lists[datum.target], "uid": uid, "gid": gid},
            f"note who owns what in {datum.target}, in {lists[datum.target]}",
            timeout_s=layout.WALK_S,
        )
        arguments: dict[str, object] = {"path": datum.target, "uid": uid, "gid": gid, "usable": []}
        give = Mend("own_tree", arguments, f"{datum.target}: everything in it to {uid}:{gid}", timeout_s=layout.WALK_S)
        what = f"{datum.target} owner {others} → {uid}:{gid}, and inside; noted for the way back"
        changes.append(Change(what, "our containers need it (§6.2)", (note, give)))
    return changes


def _asides(host: Host, facts: Facts, made: list[Copy]) -> list[Change]:
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


def _database_copies(record: Record, seen: Belongings) -> list[Change]:
    todo = [m for m in record.databases if not (isinstance(p := seen.places.get(m.new), Place) and p.kind)]
    if not todo:
        return []  # the first copy is the one that counts
    files = [{"from": moved.old, "to": moved.new} for moved in todo]
    says = f"keep a copy of {', '.join(moved.old for moved in todo)}, as ..before-pantheon"
    step = Mend("copy_files", {"files": files}, says, timeout_s=3600)
    return [Change("keep a copy of Open WebUI's database", "a newer image migrates it, one way", (step,), sign="+")]


def _copies(host: Host, made: list[Copy]) -> list[Change]:
    return [
        Change(
            f"copy {', '.join(copy.sources)} → {copy.target}",
            "copied and compared, never moved (§3)",
            (copy.step(host, "final"),),
            sign="+",
        )
        for copy in made
    ]


def _login_key(host: Host, facts: Facts, olds: tuple[Old, ...]) -> tuple[bool, list[str], list[Change]]:
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


def _comfy_names(host: Host, made: list[Copy], seen: Belongings) -> list[str]:
    copy = next((copy for copy in made if copy.target == layout.comfy_mnt(host)), None)
    place = seen.places.get(copy.parts[0].piece.source.path) if copy else None
    return [name for name in ("ComfyUI", "venv") if isinstance(place, Place) and name in place.entries]


# ---- the words


def _notes(
    host: Host, olds: tuple[Old, ...], judged: list[Datum], made: list[Copy], to_stop: tuple[Old, ...]
) -> tuple[str, ...]:
    """For each container and each datum old → new, as it is shown."""
    free = {part.piece: copy.place.free_bytes for copy in made for part in copy.parts}
    lines = []
    groups: dict[str, list[Datum]] = {}
    for datum in judged:
        groups.setdefault(datum.piece.service, []).append(datum)
    for service in dict.fromkeys([*(old.service for old in olds), *groups]):
        old = next((one for one in olds if one.service == service), None)
        lines.append(_title(old, service))
        own = sorted(groups.get(service, ()), key=lambda datum: datum.piece.inside)
        lines += [f"  {line}" for datum in own if (line := _line(datum, free))]
    lines += [f"{copy.target} makes room: set aside as {copy.aside.new}" for copy in made if copy.aside]
    total = sum(copy.bytes for copy in made)
    up = [old.name for old in to_stop if old.is_up]
    if up:
        ahead = bool(_ahead(host, made, to_stop))
        long = minutes(total) if total and not ahead else "a few minutes" if ahead else "less than a minute"
        lines.append(f"down meanwhile: {', '.join(up)}, {long} and until ours answer")
    return tuple(lines)


def _title(old: Old | None, service: str) -> str:
    if old is None:
        return f"{service} (no container)"
    if old.kind == "ours":
        return f"{old.name}, ours, stays {service}"
    by = old.container.compose_files or ("docker run" if not old.container.project else old.container.project)
    return f"{old.name} ({by}) → {service}; kept as {old.kept}"


def _line(datum: Datum, free: dict[Piece, int]) -> str:
    piece = datum.piece
    source = f"{piece.inside} in the container" if piece.source.container else piece.source.path
    if piece.via == "volume":  # by the name that its owner knows
        source = f"{piece.inside} in volume {piece.volume[:20]}"
    least = "" if datum.complete else "at least "
    if datum.way == "in place":
        return f"{datum.target}: used in place"
    if datum.way == "copied":
        most = "at most " if piece.via == "layer" else least
        return f"{source} → {datum.target}: copied ({most}{size(datum.bytes)}, {size(free.get(piece, 0))} free)"
    if datum.way == "stays":
        return f"{source}: stays where it is, and is not used: {datum.why}"
    return f"{source} → {datum.target}: {datum.why}" if datum.why else ""
