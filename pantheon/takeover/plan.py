"""What is done in a takeover, and in which order: written down first, copied ahead, stopped and renamed, copied,
compared, ready. Whatever stops in between, the old data is where it was, and the record says how it all was.

Planned from the facts and from what the host counted; what is done already is not planned again, so that the same
command goes on from any moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pantheon import foreign, layout
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan
from pantheon.sections import storage
from pantheon.takeover import after, copies, data, moves, neighbours, settings, steps, words
from pantheon.takeover.copies import Copy, owner_of
from pantheon.takeover.data import Datum, Piece, Source
from pantheon.takeover.old import Found, Old
from pantheon.takeover.record import FILE_SUFFIX, Kept, Moved, Record
from pantheon.takeover.record import Place as Noted

NAME = "takeover"
NOTES = "/var/lib/pantheon/owners"  # lists of who owned what (mending/keep_owners.py)
ORDER = ("openwebui", "comfy", "ollama")  # who needs another goes first
DATABASE = ("webui.db", "webui.db-wal", "webui.db-shm")
WHEN = "%Y-%m-%d %H:%M UTC"
LOOPS, YOUNG = 3, timedelta(minutes=3)  # one that was restarted as often, and came up no longer ago, ends over and over


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
    everyone = facts.containers if isinstance(facts.containers, tuple) else ()
    alone = not any(foreign.service_of(host, facts, container) == "ollama" for container in everyone)
    for old in olds:
        if alone:
            found += [(old.container.id, piece) for piece in data.bundled(host, old)]
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
    more = [*files, *kept, *(f"{path}{FILE_SUFFIX}" for path in files)]
    more += [name for target in [*targets, *kept] for name in copies.spare_names(target)]
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
    theirs = [old.container for old in olds if old.kind == "theirs"]
    units: dict[str, object] = {
        "names": [container.name for container in theirs],
        "files": sorted({path for container in theirs for path in neighbours.compose_files(container)}),
        "suffix": FILE_SUFFIX,
    }
    return {**asked, "paths": sorted(paths), "layers": layers, "volumes": sorted(volumes), "units": units}


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
            text, mend = "not known what there is", ""
            if "network mount" in datum:
                text = f"{piece.inside} of {piece.service} lies on another machine, and is not copied from there"
                mend = "copy it to a disk of the host and start the old one on that, then the same command"
            blocked.append(Finding(f"takeover.data.{piece.target}", "unknown", text, datum, mend))
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
        if datum.way == "stays" and datum.target in [f"{layout.openwebui_data(host)}/{name}" for name in DATABASE]:
            text = f"{piece.inside} is mounted as a file by itself: ours would start on an empty database"
            mend = "start the old one with the directory mounted that the file is to lie in, then the same command"
            blocked.append(Finding(f"takeover.data.{datum.target}", "fail", text, piece.source.path, mend))
        taken |= {piece.target} if datum.way == "copied" else set()
        result.append(datum)
    return result, blocked


def _has_comfyui(host: Host, judged: list[Datum], seen: Belongings) -> bool:
    whole = next((d for d in judged if d.target == layout.comfy_mnt(host)), None)
    if whole is not None and whole.way == "nothing":
        there = seen.places.get(whole.target)
        return isinstance(there, Place) and "ComfyUI" in there.entries
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
        new = tuple(_kept(old, when) for old in olds if old.container.id not in known)
        aside = dict.fromkeys((*begun.aside, *(copy.aside for copy in made if copy.aside)))
        return replace(
            begun,
            containers=(*begun.containers, *new),
            files=tuple(dict.fromkeys((*begun.files, *files))),
            aside=tuple(aside),
            data=tuple(dict.fromkeys((*begun.data, *_noted(judged)))),
            left=tuple(sorted({*begun.left, *found.left})),
        )
    # What an earlier takeover keeps stays known, if only as nothing to worry about.
    known_before = before.kept_ids() if before else set()
    targets = {copy.target for copy in made}
    stamp = "".join(filter(str.isdigit, when))
    in_place = [d for d in judged if d.way == "in place"]
    return Record(
        kind=kind,
        stage="begun",
        when=when,
        containers=tuple(_kept(old, when) for old in olds),
        files=files,
        aside=tuple(copy.aside for copy in made if copy.aside),
        databases=_databases(host, in_place, seen, olds),
        owners=tuple(
            Moved(d.target, f"{NOTES}/{d.target.strip('/').replace('/', '-')}-{stamp}.gz")
            for d in in_place
            if _is_of_others(host, d)
        ),
        data=_noted(judged),
        left=tuple(sorted({*found.left, *known_before} - {old.container.id for old in olds})),
        strays=tuple(path for path in before.copies_left if not any(data.within(path, one) for one in targets))
        if before
        else (),
        earlier=before if before and before.stage == "ready" else None,
    )


def _kept(old: Old, when: str) -> Kept:
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
        files=",".join(neighbours.compose_files(c)),
        env=",".join(neighbours.env_files(c)),
        state="restarting" if _ends_again_and_again(c, when) else c.state,
    )


def _ends_again_and_again(container: Container, when: str) -> bool:
    """In a crash loop a container is `running` now and then."""
    if container.state != "running":
        return container.state == "restarting"
    try:
        started = datetime.fromisoformat(container.started_at[:19] + "+00:00")
        now = datetime.strptime(when, WHEN).replace(tzinfo=UTC)
    except ValueError:
        return False
    return container.restarts >= LOOPS and now - started < YOUNG


def _noted(judged: list[Datum]) -> tuple[Noted, ...]:
    return tuple(
        Noted(d.piece.service, str(d.piece.source), d.target, d.way)
        for d in judged
        if d.way in ("in place", "copied") or (d.way == "nothing" and not d.piece.source.container)
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
    files = [f"{top}/{name}" for name in DATABASE]
    there = [path for path in files if isinstance(place := seen.places.get(path), Place) and place.kind == "file"]
    free = [copies.spare(seen, path) for path in there]
    # Where no name is left, the last copy that was kept stands.
    number = max((copies.spare_names(path).index(to) for path, to in zip(there, free, strict=True) if to), default=-1)
    return tuple(Moved(path, copies.spare_names(path)[number]) for path in there)


# ---- the sections


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
    there = after.made(host, at_rest, anew=[copy.target for copy in made if copy.aside])
    own = [d for d in judged if d.way == "in place" and _is_of_others(host, d)]
    mine = after.owned(host, there, [d.target for d in own])
    final = after.owned(host, mine, [copy.target for copy in made])
    key, folders, key_change = steps.login_key(host, facts, olds)
    to_stop = tuple(
        old
        for old in olds
        if old.kind != "ours" or any(d.way == "copied" and d.piece.service == old.service for d in judged)
    )
    changes = [
        *steps.note(facts, record, "note what is there", "so that it can all be brought back"),
        *steps.ahead(host, made, to_stop),
        *steps.keep_files(beside.renamed, seen),
        *(change for old in to_stop if (change := steps.put_away(old))),
        *steps.make_room(host, facts, made),
        *steps.own(host, own, record),
        *(c for c in storage.plan(host, mine, settled=services).changes if c.sign != "+"),
        *steps.keep_databases(record, seen),
        *steps.copy_all(host, made),
        *key_change,
    ]
    ready = after.ready(host, final, record, gone=[m.old for m in record.files], key=key, folders=folders)
    ready = after.filled(host, ready, steps.comfy_names(host, made, seen))
    changes += steps.note_ready(record)
    if len(changes) == 1 and begun is None and not olds:
        changes = []
    section = SectionPlan(
        NAME,
        tuple(changes),
        reason="" if changes else "nothing to take over",
        notes=words.lines(host, olds, judged, made, to_stop),
    )
    return Taking(
        record,
        (SectionPlan("storage", created, reason=first.reason, blocked=first.blocked), section),
        ready,
        tuple(warned),
        services,
    )
