"""A disk of the stack is full, or too full for what is to be done: what fills it, what of it can be made again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pantheon import foreign
from pantheon.evidence import Room, Usage
from pantheon.facts import Container, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import Change, Guard, Mend, Run, SectionPlan, Step

ID = "disk-pressure"
CAUSE = (
    "A disk is full: images that nobody uses, build cache, old virtual environments, downloads that broke off, logs."
)
RISK = (
    "Stops nothing. Only what can be made again is removed, and only on the disk that is short of room: images from a "
    "registry that no container uses and hosts.toml does not name, unused build cache, old venv-* directories, what "
    "is left of downloads that broke off an hour ago or more, apt's cache. Models, outputs, logs, volumes and anything "
    "of a user's are never touched."
)

SOURCE = "procedure §3"
GIB, MIB = 1 << 30, 1 << 20
FULL_BYTES, FULL_SHARE = 256 * MIB, 0.01  # whichever is less: no room to work in
TIGHT_BYTES, TIGHT_SHARE = 20 * GIB, 0.05
NO_ROOM = ("no space left on device", "database or disk is full", "disk quota exceeded")
LISTED, FILES = 6, 3
# What fills a disk and is nobody's but the user's to remove, with how to do it.
BY_HAND = {
    "image": "docker image rm {name}",
    "container-log": "truncate -s 0 {place}",
    "journal": "journalctl --vacuum-size=200M",
    "log": "truncate -s 0 {place}",
}


@dataclass(frozen=True)
class Pressed:
    """A disk that is short of room. `state`: full, short (for what is to be pulled or set up), failing (something could
    not write), or tight."""

    room: Room
    name: str
    state: str
    said: str = ""


def diagnose(case: Case) -> list[Finding]:
    return [_finding(case, pressed) for pressed in pressed_disks(case)]


# ---- which disks are short of room


def pressed_disks(case: Case) -> list[Pressed]:
    found = case.evidence.rooms
    if not isinstance(found, tuple):
        return []  # the sections say where a disk could not be looked at
    out = []
    for room in found:
        state, said = _state(case, room)
        if state:
            out.append(Pressed(room, _name(room), state, said))
    return out


def _name(room: Room) -> str:
    return "root" if room.mount == "/" or "root" in room.holds else room.holds[0]


def _state(case: Case, room: Room) -> tuple[str, str]:
    few_inodes = min(1000, room.total_inodes // 1000)
    if room.free_bytes < min(FULL_BYTES, room.total_bytes * FULL_SHARE):
        return "full", _last_word(case, room)
    if room.total_inodes and room.free_inodes <= few_inodes:
        return "full", "no inode is free: there are too many small files"
    need = _needed(case, room)
    if room.free_bytes < need * GIB:
        return "short", f"{need:.1f} GiB are needed for what is still to be pulled or set up"
    tight_inodes = room.total_inodes and room.free_inodes < room.total_inodes * TIGHT_SHARE / 2
    if (room.free_bytes < TIGHT_BYTES and room.free_bytes < room.total_bytes * TIGHT_SHARE) or tight_inodes:
        said = _last_word(case, room)
        return ("failing", said) if said else ("tight", "")
    return "", ""


def _last_word(case: Case, room: Room) -> str:
    """The newest line that tells of a full disk, from Docker or from a container that writes to it."""
    lines: list[str] = []
    for container in _ours(case):
        if any(_lies_on(case, room, mount.source) for mount in container.mounts):
            log = container.log if isinstance(container.log, tuple) else ()
            lines += [f"{container.name}: {line}" for line in (*log, container.error)]
    if {"docker", "images"} & set(room.holds) and isinstance(case.evidence.engine_log, tuple):
        lines += [f"docker: {line}" for line in case.evidence.engine_log]
    return next((line[:300] for line in reversed(lines) if any(text in line.lower() for text in NO_ROOM)), "")


def _lies_on(case: Case, room: Room, path: str) -> bool:
    """Whether a directory of ours is on that disk, as far as its place tells."""
    rooms = case.evidence.rooms if isinstance(case.evidence.rooms, tuple) else ()
    above = [one for one in rooms if f"{path}/".startswith(f"{one.mount.rstrip('/')}/")]
    return bool(above) and max(above, key=lambda one: len(one.mount)) == room


def _ours(case: Case) -> list[Container]:
    found = case.facts.containers
    return [c for c in found if foreign.is_ours(case.host, c)] if isinstance(found, tuple) else []


def _needed(case: Case, room: Room) -> float:
    """GiB for images that are still to be pulled, and for services that were never started here (procedure §3)."""
    host, facts, need = case.host, case.facts, 0.0
    if isinstance(facts.containers, Unknown) or facts.containers is None:
        return 0.0
    for name in SERVICES:
        service, disk = host.service(name), "ssd" if name == "openwebui" else "nvme"
        if "images" in room.holds and facts.images.get(service.image, "not asked") is None:
            need += service.image_gib
        if disk in room.holds and not isinstance(facts.container(name), Container):
            need += service.data_gib
    return need


# ---- findings


def _finding(case: Case, pressed: Pressed) -> Finding:
    room, key = pressed.room, f"{ID}.{pressed.name}"
    percent = 100 * (1 - room.free_bytes / room.total_bytes) if room.total_bytes else 100
    free = f"{size(room.free_bytes)} of {size(room.total_bytes)} free, {percent:.0f} % in use"
    evidence = "; ".join(part for part in (free, pressed.said, _what_fills(case, room)) if part)
    mend = command(case, ID)
    where = f"{room.mount} ({', '.join(room.holds)})"
    if pressed.state == "tight":
        return Finding(key, "warn", f"{where} is nearly full", evidence, mend, SOURCE)
    texts = {"full": "is full", "short": "has too little room", "failing": "has no room for what was to be written"}
    return Finding(key, "fail", f"{where} {texts[pressed.state]}", evidence, mend, SOURCE, _follows(room))


def _what_fills(case: Case, room: Room) -> str:
    found = case.evidence.usage
    if not isinstance(found, tuple):
        return f"what fills it is not known: {found.reason}" if isinstance(found, Unknown) else ""
    mine = [one for one in found if one.disk == room.mount and one.kind not in ("unread", "file")]
    shown = [f"{one.name} {'' if one.complete else 'at least '}{size(one.bytes)}" for one in mine[:LISTED]]
    files = [one for one in found if one.disk == room.mount and one.kind == "file"]
    shown += [f"the file {one.place} {size(one.bytes)}" for one in files[:FILES]]
    unread = [f"{one.name}: not counted ({one.detail})" for one in found if one.kind == "unread"]
    return ", ".join([*shown, *unread])


def _follows(room: Room) -> tuple[str, ...]:
    """What else goes wrong on a host whose disk has no room left."""
    holds = set(room.holds)
    out = ["browser-access.*", "comfy-first-run.*", "comfy-ownership.*", "openwebui-ollama.*"]
    if holds & {"images", "docker", "root", "logs", "tmp", "run"}:  # a program in a container needs the last two
        out += [f"gpu-lost.{name}" for name in SERVICES]
        out += ["docker-down.*", "prereqs.docker", "stack.containers", "stack.loopback", "storage.docker-room"]
        out += [f"{name}.*" for name in SERVICES]
    if holds & {"nvme", "comfy", "ollama", "models"}:
        out += ["storage.nvme-room", "comfy.*", "ollama.*"]
    if holds & {"ssd", "outputs", "openwebui"}:
        out += ["storage.ssd-room", "comfy.*", "openwebui.*", "openwebui-logins.*"]
    return tuple(dict.fromkeys(out))


# ---- what mends it


def plan(case: Case) -> SectionPlan:
    pressed = pressed_disks(case)
    if not pressed:
        return SectionPlan(ID, reason="every disk of the stack has room")
    disks = {one.room.mount for one in pressed}
    usage = case.evidence.usage if isinstance(case.evidence.usage, tuple) else ()
    items = sorted((one for one in usage if one.remade and one.disk in disks), key=lambda one: -one.bytes)
    changes = [change for one in items if (change := _remove(one))]
    if changes:
        return SectionPlan(ID, tuple(changes))
    failing = [one for one in pressed if one.state != "tight"]
    blocked = tuple(_by_hand(case, one) for one in failing)
    return SectionPlan(ID, blocked=blocked, reason="nearly full, and nothing on it can be made again")


def _remove(item: Usage) -> Change | None:
    steps: tuple[Step, ...]
    least = "" if item.complete else "at least "
    if item.kind == "image":
        names = item.names or (item.place,)
        guards = tuple(Guard("image", name, item.place) for name in names)
        # Without force: the engine itself refuses when a container uses it after all.
        steps = (Run(("docker", "image", "rm", "--", *names), guards=guards, timeout_s=600),)
        what, why = f"image {' '.join(names)}", "no container uses it, and it can be pulled again"
    elif item.kind == "build-cache":
        steps = (Run(("docker", "builder", "prune", "--all", "--force"), timeout_s=1800),)
        what, why = "unused build cache", "a build makes it again"
    elif item.kind == "apt":
        steps = (Run(("apt-get", "clean"), timeout_s=300),)
        what, why = "apt's cache of packages", "they are installed, and can be downloaded again"
    elif item.kind in ("venv", "partial") and item.pieces:
        pieces = [{"path": piece.path, "mtime": piece.mtime} for piece in item.pieces]
        arguments: dict[str, object] = {"rule": item.kind, "root": item.place, "items": pieces}
        first = f"{item.place}/{item.pieces[0].path}"
        what = first
        if item.kind == "partial":
            what = f"{item.name}: {len(pieces)} file{'s' if len(pieces) != 1 else ''}, such as {first}"
        why = "an old environment; another is in use" if item.kind == "venv" else "downloads that broke off"
        paths = ", ".join(piece.path for piece in item.pieces[:3]) + (", .." if len(pieces) > 3 else "")
        says = f"remove {paths} in {item.place}: exactly these {len(pieces)}, each looked at once more"
        steps = (Mend("remove", arguments, says, timeout_s=1800),)
    else:
        return None
    return Change(f"{what} ({least}{size(item.bytes)} on {item.disk})", why, steps, sign="-")


def _by_hand(case: Case, pressed: Pressed) -> Finding:
    """Nothing there can be made again: what there is, and how a human may part with some of it."""
    usage = case.evidence.usage if isinstance(case.evidence.usage, tuple) else ()
    mine = [one for one in usage if one.disk == pressed.room.mount and one.kind != "unread"]
    text = f"nothing on {pressed.room.mount} can be made again: somebody must choose what may go"
    lines = [_line(one) for one in mine if one.kind != "file"][:LISTED]
    lines += [_line(one) for one in mine if one.kind == "file"][:FILES]
    hints = [f"sudo {hint}" for one in mine[:LISTED] if (hint := _hint(one))]
    count = "du -x --inodes" if pressed.room.free_bytes > pressed.room.total_bytes * TIGHT_SHARE else "du -xah"
    sort = "sort -n" if "inodes" in count else "sort -h"
    look = f"sudo {count} --max-depth=3 {shlex.quote(pressed.room.mount)} | {sort} | tail"
    look = case.host.ssh(look)
    mend = "; ".join(dict.fromkeys([look, *hints, "or a larger disk"]))
    return Finding(f"{ID}.{pressed.name}-by-hand", "fail", text, ", ".join(lines) or pressed.said, mend, SOURCE)


def _line(one: Usage) -> str:
    if one.kind == "file":
        return f"the file {one.place} {size(one.bytes)}"
    least = "" if one.complete else "at least "
    return f"{one.name} {least}{size(one.bytes)} in {one.place}{f' ({one.detail})' if one.detail else ''}"


def _hint(one: Usage) -> str:
    if one.kind == "image" and one.detail != "built or loaded here":
        return ""
    if one.name in ("other logs", "the journal") and one.kind != "journal":
        return ""
    return BY_HAND.get(one.kind, "").format(name=shlex.quote(one.name), place=shlex.quote(one.place))


def size(count: int) -> str:
    """1.5 GiB, 40 MiB"""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.0f} MiB" if count >= MIB else f"{count / 1024:.0f} KiB"
