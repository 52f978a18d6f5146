"""How large the things are that a takeover would use or copy, whose they are, and what room there is for them.

Asked by path, by container and by volume (spec["belongings"]); counted by `find`, which is killed when time is up: then
a figure is "at least". Nothing is written.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress

from pantheon.collecting.listing import Listing
from pantheon.looks import work
from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import Ground, kind, read_bytes, read_text
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, shown, unknown, why

COUNT_S = 20.0
MOST_ENTRIES, MOST_OWNERS = 100, 20
STAGING = ".pantheon-copy"  # mending/copy_tree.py makes a copy there
COPIES = "/var/lib/pantheon/copies.json"
UNITS = "/etc/systemd/system"
USUAL = (STAGING, "lost+found")
BLOCKS_LIE = ("zfs", "btrfs")  # compressed there, it may need more elsewhere


def belongings(spec: Object, root: str) -> Json:
    """belongings.Belongings"""
    asked = spec.get("belongings") or {}
    end = time.monotonic() + COUNT_S
    engine, ground = Engine(root), Ground(root)
    wanted = asked.get("units") or {}
    found = units(root, wanted.get("names") or (), wanted.get("files") or ())
    out: Object = {"places": {}, "layers": {}, "volumes": {}, "copied": copied(root), "units": found}

    def look(item: tuple[str, str, Json]) -> None:
        table, key, about = item
        try:
            if table == "places":
                real = beneath(out["volumes"], key)
                out[table][real] = place(ground, real, end)
                out[table][key] = {**out[table][real], "path": key}
            elif table == "layers":
                out[table][key] = layer(engine, key, about, end)
            else:
                out[table][key] = volume(engine, key, end)
        except Missing:
            out[table][key] = None
        except Unread as error:
            out[table][key] = unknown(str(error))
        except Exception as error:
            out[table][key] = unknown(why(error))

    work.each([("volumes", str(name), None) for name in asked.get("volumes") or ()], look)
    beside = [name for path in found for name in (path, path + str(wanted.get("suffix") or ""))]
    items: list[tuple[str, str, Json]] = [
        ("places", str(path), None) for path in (*(asked.get("paths") or ()), *beside)
    ]
    items += [("layers", str(number), paths) for number, paths in (asked.get("layers") or {}).items()]
    work.each(items, look)
    return out


def beneath(volumes: Object, path: str) -> str:
    """A path in a volume that is a directory of the host by another name, as a path in that directory."""
    for about in volumes.values():
        top = str(about.get("mountpoint") or "") if isinstance(about, dict) and about.get("device") else ""
        if top and f"{path}/".startswith(f"{top}/"):
            return str(about["device"]) + path[len(top) :]
    return path


def place(ground: Ground, path: str, end: float) -> Object:
    """belongings.Place"""
    real, found = ground.walk(path, follow_last=True)
    own = ground.walk(path)[1]
    about: Object = {"path": path, "kind": "", "real": shown(real), "reading": "missing", "entries": [], "owners": {}}
    parent = real
    while ground.walk(parent)[1] is None and parent != "/":
        parent = parent.rpartition("/")[0] or "/"
    mount = ground.mounts.of(parent)
    if ground.mounts.remote(mount):
        raise Unread(f"{path} lies on the network mount {mount['target']}" if mount else path)
    room = os.statvfs(ground.root + parent)
    about |= {"disk": str(os.stat(ground.root + parent).st_dev), "free_bytes": room.f_bavail * room.f_frsize}
    about["is_mount"] = bool(mount) and found is not None and mount is not None and mount["target"] == real
    staging = f"{path}/{STAGING}" if about["is_mount"] else path + STAGING
    about["staged_bytes"] = count(ground.root + staging, end)["bytes"] if os.path.isdir(ground.root + staging) else 0
    if found is None or own is None:
        return about
    about["kind"] = kind(found.st_mode)
    about["reading"] = reading(path, real, own)
    if stat.S_ISREG(found.st_mode):
        return about | {"bytes": found.st_blocks * 512, "owners": {f"{found.st_uid}:{found.st_gid}": 1}}
    if not stat.S_ISDIR(found.st_mode):
        return about
    names = sorted(name for name in os.listdir(ground.root + real) if name not in USUAL)
    about["entries"] = [shown(name) for name in names[:MOST_ENTRIES]]
    apparent = mount is not None and mount["fstype"] in BLOCKS_LIE
    return about | count(ground.root + real, end, apparent=apparent)


def reading(path: str, real: str, own: os.stat_result) -> str:
    """As probe.path_reading has it, for a guard."""
    if stat.S_ISLNK(own.st_mode):
        return f"symlink -> {real}"
    if real != path:
        return f"elsewhere: {real}"
    return f"{kind(own.st_mode)} {own.st_uid}:{own.st_gid} {stat.S_IMODE(own.st_mode):04o}"


def count(top: str, end: float, *, apparent: bool = False) -> Object:
    """Bytes and owners of everything below a directory, other mounts in it included, as a container that has it sees
    them; a file with several names once."""
    listing = Listing(top, form=r"%b %s %n %D:%i %y %U:%G", end=end)
    owners: dict[str, int] = {}
    seen: set[bytes] = set()
    total = 0
    for row in listing:
        blocks, size, names, number, is_a, owner = row.split(b" ", 5)
        who = owner.decode()
        if who in owners or len(owners) < MOST_OWNERS:
            owners[who] = owners.get(who, 0) + 1
        if names != b"1" and is_a != b"d":
            if number in seen:
                continue
            seen.add(number)
        total += max(int(size) if apparent else 0, int(blocks) * 512)
    return {"bytes": total, "owners": owners, "complete": listing.complete}


def layer(engine: Engine, number: str, paths: list[str], end: float) -> Object:
    """belongings.Layer"""
    found = engine.get(f"/containers/{quoted(number)}/json?size=1", end)
    there = {}
    for path in paths:
        with suppress(Missing):
            # The first bytes of the archive tell: what they are of stands in its first header.
            head = bytearray()

            def take(data: bytes, head: bytearray = head) -> bool:
                head.extend(data[:512])
                return len(head) < 512

            engine.ask("GET", f"/containers/{quoted(number)}/archive?path={quoted(path)}", end=end, sink=take)
            there[path] = "dir" if bytes(head[156:157]) in (b"5", b"g", b"x", b"") else "other"
    return {"bytes": int(found.get("SizeRw") or 0), "there": there}


def volume(engine: Engine, name: str, end: float) -> Object:
    """belongings.Volume"""
    found = engine.get(f"/volumes/{quoted(name)}", end)
    options = found.get("Options") or {}
    local, kinds = found.get("Driver") == "local", str(options.get("o") or "").split(",")
    device = str(options.get("device") or "").rstrip("/")
    is_bind = local and device.startswith("/") and ("bind" in kinds or "rbind" in kinds)
    plain = local and (not options or is_bind)
    return {"mountpoint": str(found.get("Mountpoint") or ""), "plain": plain, "device": device if is_bind else ""}


def copied(root: str) -> Object:
    """Sources of finished copies, by target."""
    try:
        found = json.loads(read_bytes(root + COPIES) or b"{}")
        return {
            str(target): [
                f"container:{part['container']}:{part['source']}" if part.get("container") else str(part["source"])
                for part in about["parts"]
            ]
            for target, about in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return {}


def units(root: str, names: Iterable[str], files: Iterable[str]) -> list[str]:
    """Service files of the administrator's that start a container of these names, or Compose on one of these files."""
    files = [path for path in files if path]
    name = "|".join(map(re.escape, filter(None, names))) or "(?!)"
    file = "|".join(map(re.escape, files)) or "(?!)"
    folder = "|".join(re.escape(path.rpartition("/")[0]) for path in files) or "(?!)"
    starts = re.compile(
        rf"docker( container)? (run|create) .*--name[= ]({name})( |$)"
        rf"|docker( container)? (re)?start (.* )?({name})( |$)"
        rf"|compose (.*[= ])?(({file})( |$)|--project-directory[= ]({folder})/?( |$))|cd ({folder})/?[ ;&].*compose "
    )
    there = re.compile(rf"WorkingDirectory=({folder})/?")
    out = []
    with suppress(OSError):
        for entry in sorted(os.listdir(root + UNITS)):
            path = f"{UNITS}/{entry}"
            if entry.endswith(".service") and not os.path.islink(root + path):
                text = (read_text(root + path, 1 << 16) or "").replace("\\\n", " ")
                lines = [" ".join(line.replace('"', "").replace("'", "").split()) for line in text.splitlines()]
                run = [line for line in lines if line.startswith("ExecStart") and "docker" in line]
                compose = any(re.search(r"compose .*\bup\b|compose .*\bstart\b", line) for line in run)
                if any(starts.search(line) for line in run) or (compose and any(map(there.fullmatch, lines))):
                    out.append(path)
    return out
