"""A takeover in words: for each container and each datum old → new, as it is shown before anybody agrees."""

from __future__ import annotations

from pantheon.inventory import Host
from pantheon.takeover import steps
from pantheon.takeover.copies import Copy, minutes, owner_of, size
from pantheon.takeover.data import Datum, Piece
from pantheon.takeover.old import Old


def lines(
    host: Host, olds: tuple[Old, ...], judged: list[Datum], made: list[Copy], to_stop: tuple[Old, ...]
) -> tuple[str, ...]:
    """For each container and each datum old → new, as it is shown."""
    free = {part.piece: copy.place.free_bytes for copy in made for part in copy.parts}
    said = []
    groups: dict[str, list[Datum]] = {}
    for datum in judged:
        groups.setdefault(datum.piece.service, []).append(datum)
    for service in dict.fromkeys([*(old.service for old in olds), *groups]):
        old = next((one for one in olds if one.service == service), None)
        said.append(_title(old, service))
        own = sorted(groups.get(service, ()), key=lambda datum: datum.piece.inside)
        said += [f"  {line}" for datum in own if (line := _line(host, datum, free))]
    said += [f"{copy.target} makes room: set aside as {copy.aside.new}" for copy in made if copy.aside]
    total = sum(copy.bytes for copy in made)
    up = [old.name for old in to_stop if old.is_up]
    if up:
        ahead = bool(steps.ahead(host, made, to_stop))
        long = minutes(total) if total and not ahead else "a few minutes" if ahead else "less than a minute"
        said.append(f"down meanwhile: {', '.join(up)}, {long} and until ours answer")
    return tuple(said)


def _title(old: Old | None, service: str) -> str:
    if old is None:
        return f"{service} (no container)"
    if old.kind == "ours":
        return f"{old.name}, ours, stays {service}"
    by = old.container.compose_files or ("docker run" if not old.container.project else old.container.project)
    if old.name == old.kept:
        return f"{old.kept} ({by}) → {service}; put away already"
    return f"{old.name} ({by}) → {service}; kept as {old.kept}"


def _line(host: Host, datum: Datum, free: dict[Piece, int]) -> str:
    piece = datum.piece
    source = f"{piece.inside} in the container" if piece.source.container else piece.source.path
    if piece.via == "volume":  # by the name that its owner knows
        source = f"{piece.inside} in volume {piece.volume[:20]}"
    least = "" if datum.complete else "at least "
    if datum.way == "in place":
        owner = owner_of(host, datum.target)
        others = ", ".join(sorted(set(datum.owners) - {f"{owner[0]}:{owner[1]}"})) if owner else ""
        change = f"; owner {others} → {owner[0]}:{owner[1]}" if owner and others else ""
        return f"{datum.target}: used in place{change}"
    if datum.way == "copied":
        most = "at most " if piece.via == "layer" else least
        return f"{source} → {datum.target}: copied ({most}{size(datum.bytes)}, {size(free.get(piece, 0))} free)"
    if datum.way == "stays":
        return f"{source}: stays where it is, and is not used: {datum.why}"
    return f"{source} → {datum.target}: {datum.why}" if datum.why else ""
