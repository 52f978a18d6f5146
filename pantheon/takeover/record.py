"""What is written down before anything is taken over: enough to bring it all back, from any moment on. No secrets.

It lies on the host (layout.TAKEOVER), and everyone who looks there reads it. `stage`:
  begun     containers are being stopped, data is being copied: nothing else may start there
  ready     the data is in place: our services may start
  undoing   the old stack is on its way back
  undone    it is back; kept for what still lies beside it

A takeover after a takeover (a move of what was adopted, say) keeps the record before it in its own, and gives way to
that once it is undone: the way back goes on from one to the next older.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pantheon import layout
from pantheon.facts import Facts, TextFile, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host

SCHEMA = 1
STAGES = ("begun", "ready", "undoing", "undone")
SUFFIX = "-before-pantheon"  # of a container that is kept
FILE_SUFFIX = ".before-pantheon"  # of a file or directory that is kept


@dataclass(frozen=True)
class Kept:
    """A container as it was. `policy` as `docker update --restart` takes it; `kept` is its name now ("": it keeps its
    own, being ours); `running`: it ran when it was taken over, and `state`, "restarting" if it ended again and again.
    Of a Compose project besides: its name, the service in it, the directory, and the files and environment files,
    comma-separated, so that Compose can make it again where it has been removed."""

    id: str
    name: str
    kept: str
    service: str
    running: bool
    policy: str
    image: str = ""
    image_id: str = ""
    project: str = ""
    label: str = ""
    folder: str = ""
    files: str = ""
    env: str = ""
    state: str = ""


@dataclass(frozen=True)
class Moved:
    """A file or directory that has another name now."""

    old: str
    new: str


@dataclass(frozen=True)
class Place:
    """Where a datum was, and where it is now. `source` is a path, or `container:ID:/path` for one in a container's own
    layer or a volume that only the engine can read. `way`: "copied", "in place", or "nothing" where
    nothing was there to be copied."""

    service: str
    source: str
    target: str
    way: str


@dataclass(frozen=True)
class Record:
    """`files` are Compose files that were renamed, `aside` directories that made room, `databases` copies of databases
    that a newer image may migrate; `owners` lists by directory, of who owned what in it; `left` ids of containers that
    stay as they are although they look like one of the services. `earlier` is the takeover before this one, as long as
    that can be undone, too; `strays` are copies that takeovers have left which are undone since."""

    kind: str  # adopt, move
    stage: str
    when: str = ""
    containers: tuple[Kept, ...] = ()
    files: tuple[Moved, ...] = ()
    aside: tuple[Moved, ...] = ()
    databases: tuple[Moved, ...] = ()
    owners: tuple[Moved, ...] = ()  # old: the directory; new: the list
    data: tuple[Place, ...] = ()
    left: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    earlier: Record | None = None

    @property
    def what(self) -> str:
        return "takeover" if self.kind == "adopt" else "move"

    @property
    def is_open(self) -> bool:
        """Begun in one direction or the other, and not at its end."""
        return self.stage in ("begun", "undoing")

    @property
    def targets(self) -> tuple[str, ...]:
        """Where copies were made, without what lies in another of them."""
        copied = list(dict.fromkeys(place.target for place in self.data if place.way == "copied"))
        return tuple(one for one in copied if not any(one.startswith(f"{other}/") for other in copied))

    @property
    def copies_left(self) -> tuple[str, ...]:
        """Copies that nobody uses: the next takeover sets them aside."""
        own = (place.target for place in self.data) if self.stage == "undone" else ()
        return tuple(dict.fromkeys((*self.strays, *own)))

    def kept_ids(self) -> set[str]:
        """Containers that are no strangers: they are kept for the way back, or stay on somebody's word."""
        kept = () if self.stage == "undone" else (kept.id for kept in self.containers if kept.kept)
        return {*kept, *self.left}

    def at(self, stage: str) -> Record:
        return replace(self, stage=stage)

    def all(self) -> tuple[Record, ...]:
        """This one and those before it that can be undone, too."""
        return (self, *(self.earlier.all() if self.earlier else ()))

    def undone(self) -> Record:
        """The record once this one is undone."""
        if self.earlier is None:
            return self.at("undone")
        return replace(self.earlier, strays=tuple(dict.fromkeys((*self.earlier.strays, *self.strays, *self.targets))))

    def text(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


_PARTS = {
    "containers": Kept, "files": Moved, "aside": Moved, "databases": Moved, "owners": Moved, "data": Place,
}  # fmt: skip


def read(facts: Facts) -> Record | Unknown | None:
    """The record on the host. Unknown where it cannot be read: then nobody knows what may start there."""
    file = facts.files.get(layout.TAKEOVER)
    if not isinstance(file, TextFile):
        return file
    try:
        data = json.loads(file.text or "")
        if data["schema"] != SCHEMA:
            raise ValueError("of another pantheon")
        return _parsed(data)
    except (ValueError, KeyError, TypeError) as error:
        return Unknown(f"{layout.TAKEOVER} cannot be read as one of ours: {error}")


def _parsed(data: dict[str, object]) -> Record:
    if data["stage"] not in STAGES or data["kind"] not in ("adopt", "move"):
        raise ValueError("of another pantheon")
    parts: dict[str, Any] = {
        name: tuple(_made(kind, entry) for entry in _listed(data, name)) for name, kind in _PARTS.items()
    }
    names: dict[str, Any] = {name: tuple(str(one) for one in _listed(data, name)) for name in ("left", "strays")}
    before = data.get("earlier")
    if before is not None and not isinstance(before, dict):
        raise TypeError("earlier is no object")
    earlier = None if before is None else _parsed(before)
    return Record(str(data["kind"]), str(data["stage"]), str(data.get("when", "")), **parts, **names, earlier=earlier)


def _listed(data: dict[str, object], name: str) -> list[object]:
    found = data.get(name, [])
    if not isinstance(found, list):
        raise TypeError(f"{name} is no list")
    return found


def _made(kind: type, entry: object) -> object:
    if not isinstance(entry, dict):
        raise TypeError(f"{kind.__name__} is no object")
    known = {each.name: each.type for each in fields(kind)}
    for name, value in entry.items():
        if name in known and type(value).__name__ != known[name]:
            raise TypeError(f"{name} is no {known[name]}")
    return kind(**{name: value for name, value in entry.items() if name in known})


def known(facts: Facts) -> Record | None:
    """The record where there is one that can be read."""
    found = read(facts)
    return found if isinstance(found, Record) else None


def open_finding(host: Host, facts: Facts) -> Finding | None:
    """Nothing starts while a takeover, or the way back from one, is half done."""
    found = read(facts)
    if isinstance(found, Unknown):
        mend = host.ssh(f"sudo cat {layout.TAKEOVER}") + "; a pantheon of the version that wrote it can go on"
        return Finding("takeover.record", "unknown", "what was taken over here: not known", found.reason, mend)
    if found is None or not found.is_open:
        return None
    adopt = f"invoke bringup{' --adopt' if found.kind == 'adopt' else ''} --host {host.name}"
    undo = f"invoke bringup --undo --host {host.name}"
    if found.stage == "begun":
        what = "the takeover" if found.kind == "adopt" else "the move of the stack"
        text, mend = f"{what} of {found.when or 'an earlier day'} has not come to its end", f"{adopt}; or back: {undo}"
    else:
        text, mend = "the old stack is only half brought back", f"{undo}; or forward: {adopt}"
    names = ", ".join(kept.name for kept in found.containers)
    return Finding("takeover.open", "fail", text, names, mend)
