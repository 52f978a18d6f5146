"""The way back: ours away, the old containers under their old names, with their restart policies, and started.

Planned from the record and from what is there, so that it goes on from any moment, whether the takeover was at its end
or half-way. Copies stay where they are, and so does everything that was set aside.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from pantheon import foreign, layout, stack
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Facts, Image, TextFile
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step, Write
from pantheon.takeover import moves, neighbours
from pantheon.takeover.data import COMFY, ROOT
from pantheon.takeover.old import UP
from pantheon.takeover.record import FILE_SUFFIX, Kept, Moved, Record
from pantheon.takeover.steps import reload_units, rename, stop

NAME = "undo"
ORDER = ("ollama", "comfy", "openwebui")
OURS, OURS_ASIDE = "compose.yaml", ".of-pantheon"
UNNAMED = re.compile(r"/volumes/[0-9a-f]{64}/_data(/|$)")


def ask(record: Record) -> dict[str, object]:
    """What the host is to say for `plan`, JSON-ready."""
    moved = [*record.files, *record.databases]
    paths = [path for one in moved for path in (one.old, one.new, one.old + OURS_ASIDE)]
    files = {path for kept in record.containers for path in kept.files.split(",") if path.startswith("/")}
    paths += [name for path in files for name in (path, path + FILE_SUFFIX)]
    paths += [f"{moved.old.rpartition('/')[0]}/{OURS}" for moved in record.files]
    return {"paths": sorted(paths), "layers": {}, "volumes": []}


def plan(host: Host, facts: Facts, record: Record | None, seen: Belongings) -> SectionPlan:
    """What brings the old stack back. Nothing to do where nothing was taken over, or all of it is back."""
    if record is None:
        return SectionPlan(NAME, reason="nothing was taken over on this host")
    if not isinstance(facts.containers, tuple):
        reason = getattr(facts.containers, "reason", "Docker is not there")
        return SectionPlan(NAME, blocked=(Finding("undo.containers", "unknown", "containers: not known", reason),))
    if record.stage == "undone":
        return SectionPlan(NAME, reason=f"the stack of {record.when or 'an earlier day'} is back already")
    there = {container.id: container for container in facts.containers}
    kept = sorted(record.containers, key=lambda one: ORDER.index(one.service) if one.service in ORDER else 9)
    back = [(one, there[one.id]) for one in kept if one.id in there]
    gone = [one for one in kept if one.id not in there and one.kept]
    away = _ours(host, facts, record)
    mine = _our_files(host, facts, record.files, seen, away)
    blocked = _names_taken(host, facts, back, away) + _cannot(gone, seen) + _in_their_place(host, record, seen, mine)
    if blocked:
        return SectionPlan(NAME, blocked=tuple(blocked))
    changes = [
        *_note(facts, record, "undoing", "note that the old stack is on its way back"),
        *(_away(container) for container in away),
        *_files_back(record.files, seen, mine),
        *_owners_back(record),
        *_databases_back(host, facts, record, seen),
        *(change for one, container in back if (change := _container_back(one, container))),
        *(_made_again(one, seen) for one in gone),
    ]
    undone = Write(layout.TAKEOVER, record.undone().text(), 0o600, before=record.text())
    changes.append(Change("note that it is back", "so that nothing is taken for ours", (undone,)))
    return SectionPlan(NAME, tuple(changes), notes=_notes(host, record, gone))


def started(record: Record) -> tuple[str, ...]:
    """Containers that run again afterwards."""
    return tuple(kept.name for kept in record.containers if kept.running)


def _names_taken(
    host: Host, facts: Facts, back: Iterable[tuple[Kept, Container]], away: list[Container]
) -> list[Finding]:
    found, free = [], {container.id for container in away}
    for one, container in back:
        holder = foreign.named(facts, one.name)
        if holder is not None and holder.id not in (container.id, *free):
            text = f"the name {one.name} belongs to another container now"
            found.append(
                Finding(f"undo.{one.name}", "fail", text, holder.image, host.ssh(f"docker inspect {one.name}"))
            )
    return found


def _cannot(gone: list[Kept], seen: Belongings) -> list[Finding]:
    """A container that was removed is made again by Compose; one of `docker run` is not."""
    found = []
    for one in gone:
        if not _files_of(one, seen):
            text = f"{one.kept} has been removed, and no Compose file is there that would make it again"
            evidence = f"it ran {one.image}; its data is where it was, but for what lay in the container itself"
            mend = f"docker run it again as {one.name} on the same data; invoke runbook adopt names where all is"
            found.append(Finding(f"undo.{one.name}", "fail", text, evidence, mend))
    return found


def _files_of(one: Kept, seen: Belongings) -> tuple[str, ...]:
    """The Compose files of a container, where all of them are on the host, under this name or the one they had."""
    files = tuple(path for path in one.files.split(",") if path.startswith("/"))
    there = [path for path in files if _is_there(seen, path) or _is_there(seen, path + FILE_SUFFIX)]
    return files if files and len(there) == len(files) else ()


def _is_there(seen: Belongings, path: str) -> bool:
    place = seen.places.get(path)
    return isinstance(place, Place) and bool(place.kind)


def _taken(record: Record) -> set[str]:
    """Services whose container, or whose data out of another one's, was taken over."""
    found = {one.service for one in record.containers if one.kept}
    return found | {place.service for place in record.data} if record.kind == "adopt" else found


def _note(facts: Facts, record: Record, stage: str, what: str) -> list[Change]:
    if record.stage == stage:
        return []
    guard = Guard("sha256", layout.TAKEOVER, facts.reading("sha256", layout.TAKEOVER))
    write = Write(layout.TAKEOVER, record.at(stage).text(), 0o600, before=record.text(), guards=(guard,))
    return [Change(what, "whatever stops it, the same command goes on", (write,))]


def _ours(host: Host, facts: Facts, record: Record) -> list[Container]:
    """Our containers in the place of the old ones, by whatever project name hosts.toml has now: those that were ours
    before, and those that an earlier takeover keeps, are none."""
    services, halves = _taken(record), foreign.half_made(host, facts)
    others = {*(one.id for one in record.containers), *record.left}
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    mine = [c for c in containers if stack.OURS in c.labels and c.id not in others]
    return [c for c in mine if c.labels.get("pantheon.service", "") in services or c in halves]


def _away(container: Container) -> Change:
    steps: list[Step] = []
    if container.state in UP:
        steps.append(stop(container, container.labels.get("pantheon.service", "")))
    guards = (Guard("container", container.name, container.id),)
    steps.append(Run(("docker", "rm", "-f", container.id), guards=guards))
    stops = (container.name,) if container.state in UP else ()
    why = "ours makes room; nothing is kept in it"
    return Change(f"remove our container {container.name}", why, tuple(steps), stops=stops, sign="-")


def _our_files(
    host: Host, facts: Facts, files: tuple[Moved, ...], seen: Belongings, away: list[Container]
) -> list[tuple[str, Guard]]:
    """Compose files of ours beside the old ones: Compose would take ours first. By the header, and by our containers'
    labels where hosts.toml has another stack_dir by now."""
    ours = layout.compose_file(host)
    file = facts.files.get(ours)
    by_label = {c.compose_files for c in away} - {ours}
    found = []
    for path in dict.fromkeys(f"{moved.old.rpartition('/')[0]}/{OURS}" for moved in files):
        place = seen.places.get(path)
        if path == ours and isinstance(file, TextFile) and (file.text or "").startswith(stack.HEADER):
            found.append((path, Guard("sha256", path, facts.reading("sha256", path))))
        elif path in by_label and isinstance(place, Place) and place.kind == "file":
            found.append((path, Guard("path", path, place.reading)))
    return found


def _in_their_place(host: Host, record: Record, seen: Belongings, mine: list[tuple[str, Guard]]) -> list[Finding]:
    """Files that somebody has put where the old ones go back to: nothing is replaced."""
    ours = {path for path, _ in mine}
    there = [m.old for m in record.files if _is_there(seen, m.new) and _is_there(seen, m.old) and m.old not in ours]
    return [
        Finding(
            f"undo.{path}",
            "fail",
            f"{path} is there, and the old stack's file goes back to that name",
            "nothing is replaced",
            f"look whose it is; to make room: {host.ssh(shlex.join(['sudo', 'mv', path, f'{path}.new']))}",
        )
        for path in there
    ]


def _files_back(files: tuple[Moved, ...], seen: Belongings, mine: list[tuple[str, Guard]]) -> list[Change]:
    """Compose files get their names back, and ours beside one of them is set aside."""
    steps: list[Step] = [Run(("mv", "-f", "-T", "--", path, path + OURS_ASIDE), (guard,)) for path, guard in mine]
    todo = [moved for moved in files if _is_there(seen, moved.new)]
    steps += [*(rename(Moved(moved.new, moved.old)) for moved in todo), *reload_units(todo)]
    return [Change("give the Compose files their names back", "as they were", tuple(steps))] if steps else []


def _owners_back(record: Record) -> list[Change]:
    """As they were; what our container has made in it meanwhile is made over to whoever goes on there."""
    changes = []
    for moved in record.owners:
        service = next((place.service for place in record.data if place.target == moved.old), "")
        uid, gid = COMFY if service == "comfy" else ROOT
        arguments: dict[str, object] = {"path": moved.old, "list": moved.new, "uid": uid, "gid": gid}
        says = f"give {moved.old} the owners back that {moved.new} has, and to what is new those of its directory"
        step = Mend("give_owners", arguments, says, timeout_s=layout.WALK_S)
        what = f"{moved.old}: owners as they were, and of what is new those of its directory"
        changes.append(Change(what, "the old containers need them", (step,)))
    return changes


def _databases_back(host: Host, facts: Facts, record: Record, seen: Belongings) -> list[Change]:
    """A database that a newer image has migrated is of no use to the older one: the copy that was kept is put back,
    and the migrated one stays beside it. Of the same image it goes on with what there is now."""
    old = next((one for one in record.containers if one.service == "openwebui"), None)
    image = facts.images.get(host.openwebui.image)
    same = old is not None and isinstance(image, Image) and image.id == old.image_id
    kept = [moved for moved in record.databases if _is_there(seen, moved.new)]
    if same or not kept or record.stage == "begun":
        return []
    away = [
        Moved(moved.old, moved.old + OURS_ASIDE)
        for moved in record.databases
        if _is_there(seen, moved.old) and not _is_there(seen, moved.old + OURS_ASIDE)
    ]
    steps = [rename(*away)] if away else []
    steps.append(rename(*(Moved(moved.new, moved.old) for moved in kept)))
    why = "another Open WebUI may have migrated it; what was written since stays beside it"
    return [Change("put Open WebUI's database back as it was", why, tuple(steps))]


def _container_back(one: Kept, container: Container) -> Change | None:
    guard = (Guard("container", container.name, container.id),)
    steps: list[Step] = []
    if one.kept and container.name != one.name:
        free = Guard("container", one.name, "missing")
        steps.append(Run(("docker", "rename", container.id, one.name), guards=(*guard, free)))
    if one.kept and one.policy not in ("no", "") and container.restart_policy != one.policy.partition(":")[0]:
        steps.append(Run(("docker", "update", f"--restart={one.policy}", container.id)))
    if one.running and container.state not in UP:
        steps.append(Run(("docker", "start", container.id), timeout_s=180))
        if one.state == "paused":
            steps.append(Run(("docker", "pause", container.id)))
    if not steps:
        return None
    did = "rename back and start" if one.running else "rename back"
    what = f"{did} {one.name}" if container.name == one.name else f"{did}: {container.name} → {one.name}"
    return Change(what, "as it was", tuple(steps))


def _made_again(one: Kept, seen: Belongings) -> Change:
    files = _files_of(one, seen)
    env = [path for path in one.env.split(",") if path]
    argv = neighbours.compose(one.project, one.folder, files, env, "up", "-d", "--no-deps", one.label)
    why = f"{one.kept} has been removed; its Compose file makes it again, on the same data"
    return Change(f"make {one.name} again", why, (Run(argv, timeout_s=600, progress="compose"),), sign="+")


def _again(one: Kept, record: Record) -> str:
    """What a container that was removed has left: its layer went with it, and an unnamed volume is not found again."""
    of_it = [place for place in record.data if place.service == one.service and place.way == "copied"]
    lost = [place for place in of_it if place.source.startswith("container:") or UNNAMED.search(place.source)]
    if not lost:
        return f"{one.name} is made again, on the data that it had"
    where = ", ".join(place.target for place in lost)
    volumes = [place.source for place in lost if place.source.startswith("/")]
    there = f", and may be in {', '.join(volumes)}" if volumes else ""
    return f"{one.name} is made again, and starts without what it had: that is in {where}{there}"


def _names_new(host: Host, record: Record) -> bool:
    """Whether hosts.toml still has what was moved to, rather than what it was before."""
    if record.kind != "move":
        return False
    there = set(moves.wanted(host).values())
    projects = {kept.project for kept in record.containers if kept.kept}
    folders = {kept.folder for kept in record.containers if kept.kept and kept.folder}
    copied = any(place.way == "copied" and place.target in there for place in record.data)
    return copied or bool(projects - {host.project}) or bool(folders - {host.stack_dir})


def _notes(host: Host, record: Record, gone: list[Kept]) -> tuple[str, ...]:
    lines = [
        f"{kept.name}: as it was, on the data that it had"
        for kept in record.containers
        if kept.kept and kept not in gone
    ]
    is_new = _names_new(host, record)
    until = "stays where it is until hosts.toml is as before" if is_new else "the next bringup puts it on its old data"
    lines += [f"{kept.name}: ours, {until}" for kept in record.containers if not kept.kept]
    lines += [_again(one, record) for one in gone]
    lines += [f"{target}: the copy stays, with what was written since" for target in record.targets]
    lines += [f"{moved.new}: stays" for moved in record.aside]
    units = [moved.old.rpartition("/")[2] for moved in record.files if moved.old.endswith(".service")]
    lines += [f"{name}: as it was, for the next boot; now the containers are started by themselves" for name in units]
    if is_new:
        lines.append("hosts.toml still says the new place: change it back, or the next bringup moves again")
    concerned = _taken(record) | {kept.service for kept in record.containers}
    others = [name for name in ORDER if name not in concerned]
    lines += [f"{name}: ours from the beginning, stays as it is" for name in others]
    if record.earlier:
        lines.append(
            f"the {record.earlier.what} of {record.earlier.when} stays done; --undo once more undoes that, too"
        )
    return tuple(lines)
