"""The copies of a takeover: which pieces make one target, whether it is free and whether there is room for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pantheon import layout
from pantheon.belongings import Belongings, Place
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Mend
from pantheon.takeover.data import COMFY, ROOT, Datum, within
from pantheon.takeover.record import FILE_SUFFIX, Moved, Record

COPY_S = 24 * 3600
SPARE = 128 << 20  # what stays free besides; copy_tree.py insists on half of it
AHEAD = 1 << 30  # as much is copied once while the old services run, so that they are down for what has changed since
SPEED = 150e6  # bytes a second, for saying how long about


@dataclass(frozen=True)
class Copy:
    """One target, filled whole from its parts. `aside`: what is in its place now makes room under another name."""

    target: str
    parts: tuple[Datum, ...]
    place: Place
    aside: Moved | None = None

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def complete(self) -> bool:
        return all(part.complete for part in self.parts)

    @property
    def is_from_host(self) -> bool:
        return all(not part.piece.source.container for part in self.parts)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(str(part.piece.source) for part in self.parts)

    def step(self, host: Host, mode: str) -> Mend:
        arguments: dict[str, object] = {
            "target": self.target,
            "parts": [
                {
                    "source": part.piece.source.path,
                    "container": part.piece.source.container,
                    "into": part.target[len(self.target) :].strip("/"),
                    "skip": list(part.piece.skip),
                    "optional": False,
                }
                for part in self.parts
            ],
            "owner": list(owner) if (owner := owner_of(host, self.target)) else None,
            "mode": mode,
        }
        begun = "begin to copy, while the old one runs" if mode == "ahead" else "copy, and compare"
        return Mend("copy_tree", arguments, f"{begun}: {', '.join(self.sources)} → {self.target}", timeout_s=COPY_S)


def owner_of(host: Host, target: str) -> tuple[int, int] | None:
    """Who must own everything there: ComfyUI's image demands 1024, and root without capabilities, as which the others
    run, writes what is root's own only."""
    if within(target, layout.comfy_mnt(host)) or within(target, layout.comfy_outputs(host)):
        return COMFY
    if within(target, layout.ollama_data(host)) or within(target, layout.openwebui_data(host)):
        return ROOT
    return None


def group(data: Iterable[Datum], found: Belongings, record: Record | None) -> tuple[list[Copy], list[Finding]]:
    """The copies, each with all that goes below its target; and what forbids one."""
    copies: list[Copy] = []
    blocked: list[Finding] = []
    for datum in sorted((d for d in data if d.way == "copied"), key=lambda d: (len(d.target), d.target)):
        over = next((one for one in copies if within(datum.target, one.target)), None)
        if over is not None:
            copies[copies.index(over)] = replace(over, parts=(*over.parts, datum))
            continue
        place = found.places.get(datum.target)
        if not isinstance(place, Place):
            reason = getattr(place, "reason", "not looked at")
            blocked.append(Finding(f"takeover.target.{datum.target}", "unknown", f"{datum.target}: not known", reason))
            continue
        copies.append(Copy(datum.target, (datum,), place))
    result = []
    for copy in copies:
        aside, problem = _free(copy, data, found, record)
        problem = _entwined(copy, found) or problem
        if problem:
            blocked.append(problem)
        result.append(replace(copy, aside=aside))
    return result, blocked


def _entwined(copy: Copy, found: Belongings) -> Finding | None:
    """A directory cannot be copied into itself, nor out of itself."""
    here = copy.place.real
    for part in copy.parts:
        place = found.places.get(part.piece.source.path)
        real = place.real if isinstance(place, Place) and not part.piece.source.container else ""
        if real and (within(here, real) or within(real, here)):
            text = f"{part.piece.source.path} and {copy.target}, where it is to go, lie in each other"
            mend = "give another storage root in hosts.toml, or start the old one on a directory beside it"
            return Finding(f"takeover.target.{copy.target}", "fail", text, "nothing is moved", mend, "procedure §3")
    return None


def _free(
    copy: Copy, data: Iterable[Datum], found: Belongings, record: Record | None
) -> tuple[Moved | None, Finding | None]:
    """What must make room for a copy, or why it cannot be made: nothing that is there is ever replaced."""
    place = copy.place
    noted = next((moved for moved in record.aside if moved.old == copy.target), None) if record else None
    is_ours = found.copied.get(copy.target) == copy.sources and record is not None
    if noted and record and record.is_open:
        return (None if _exists(found, noted.new) else noted), None
    if place.is_empty or (is_ours and record is not None and record.is_open):
        return None, None
    inner = any(d.way == "in place" and within(copy.target, d.target) for d in data)
    undone = record is not None and copy.target in record.copies_left
    if (inner or undone) and not place.is_mount and place.kind == "dir":
        kept = spare(found, copy.target)
        return (Moved(copy.target, kept), None) if kept else (None, _too_many(copy.target))
    names = ", ".join(place.entries[:5]) + (", .." if len(place.entries) > 5 else "")
    text = f"{copy.target} is not empty, and nothing in it is replaced"
    mend = f"look whose it is; to make room: sudo mv {copy.target} {copy.target}.before, then the same command"
    return None, Finding(f"takeover.target.{copy.target}", "fail", text, names or place.kind, mend, "procedure §3")


def spare_names(target: str) -> tuple[str, ...]:
    """Names under which what is in the way may be kept: asked about beforehand."""
    return (f"{target}{FILE_SUFFIX}", *(f"{target}{FILE_SUFFIX}-{number}" for number in range(2, 10)))


def _exists(found: Belongings, path: str) -> bool:
    place = found.places.get(path)
    return isinstance(place, Place) and bool(place.kind)


def spare(found: Belongings, target: str) -> str:
    """The first of these names that is free; "" where none is."""
    return next((name for name in spare_names(target) if not _exists(found, name)), "")


def _too_many(target: str) -> Finding:
    names = spare_names(target)
    text = f"{target} was set aside {len(names)} times, and no name is left to keep this one under"
    mend = f"look which of {target}{FILE_SUFFIX}* nobody needs any more, and move them away; then the same command"
    return Finding(f"takeover.target.{target}", "fail", text, names[-1], mend, "procedure §3")


def room(copies: list[Copy]) -> tuple[list[Copy], list[Datum], list[Finding]]:
    """The copies that fit, the libraries of models that do not and stay where they are, and what forbids the rest."""
    copies, stay = list(copies), list[Datum]()
    while (short := _short(copies)) is not None:
        there = [(copy, part) for copy in copies if copy.place.disk == short.disk for part in copy.parts]
        may = [(copy, part) for copy, part in there if part.piece.may_stay]
        if not may:
            return copies, stay, [short.finding(copies)]
        copy, part = max(may, key=lambda pair: pair[1].bytes)
        rest = tuple(other for other in copy.parts if other is not part)
        copies[copies.index(copy)] = replace(copy, parts=rest)
        copies = [one for one in copies if one.parts]
        why = f"{size(part.bytes)} do not fit into the {size(copy.place.free_bytes)} that are free"
        stay.append(replace(part, way="stays", why=why))
    return copies, stay, []


@dataclass(frozen=True)
class _Short:
    disk: str
    need: int
    free: int

    def finding(self, copies: list[Copy]) -> Finding:
        mine = [copy for copy in copies if copy.place.disk == self.disk]
        text = f"no room for the copies: {size(self.need)} are needed and {size(self.free)} are free"
        evidence = "; ".join(f"{', '.join(copy.sources)} → {copy.target}: {size(copy.bytes)}" for copy in mine)
        mend = "make room there, or give another storage root in hosts.toml; nothing is ever moved instead of copied"
        return Finding("takeover.room", "fail", text, evidence, mend, "procedure §3")


def _short(copies: list[Copy]) -> _Short | None:
    for disk in dict.fromkeys(copy.place.disk for copy in copies):
        mine = [copy for copy in copies if copy.place.disk == disk]
        need = sum(0 if _is_there(copy) else max(0, copy.bytes - copy.place.staged_bytes) for copy in mine)
        free = min(copy.place.free_bytes for copy in mine)
        if need and need + SPARE > free:
            return _Short(disk, need, free)
    return None


def _is_there(copy: Copy) -> bool:
    """Complete already, and in its place."""
    return not copy.place.is_empty and copy.aside is None


def size(count: float) -> str:
    """Bytes for people: 12.3 GiB."""
    for unit, least in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def minutes(count: float) -> str:
    """About how long as many bytes take to be copied and read back."""
    whole = count / SPEED / 60
    return "less than a minute" if whole < 1 else f"about {whole:.0f} minutes" if whole >= 2 else "about a minute"
