"""What fills which disk: the engine's own figures, and files by what they are, counted in bounded time.

Files are counted by `find`, a process of its own that is killed when time is up: then the figure is "at least".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress

from pantheon.collecting.listing import Listing
from pantheon.collecting.units import data_root
from pantheon.looks import work
from pantheon.looks.docker import image_store
from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import Ground, which
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, plain, shown, why

USAGE_S = 3.0
DF_API = "/v1.44"  # the shape of /system/df that every engine from 25 on gives
OLD_S = 3600  # a partial download that nothing has written to for so long is left over
MOST_PIECES, MOST_ITEMS, MOST_LOGS = 1000, 100, 200
TIGHT = 0.05
LEAST = 64 * 1024  # what is smaller is not worth a line
LARGE_LOG = 50 << 20
STORE = "/var/lib/containerd"
DATA = {
    "comfy": "comfy_mnt",
    "ollama": "ollama_data",
    "openwebui": "openwebui_data",
    "outputs": "outputs",
    "models": "models",
}

OLLAMA_PARTIAL = re.compile(r"models/blobs/sha256-[0-9a-f]{64}-partial(-\d+)?")
INCOMPLETE = re.compile(r"(?:HF|cache)/.*\.incomplete")
OLD_VENV = re.compile(r"venv-[^/]+")
# What a virtual environment holds at its top; anything else in one was put there by somebody (mending/remove.py).
OF_A_VENV = {
    *("bin", "etc", "include", "lib", "lib64", "man", "share", "pyvenv.cfg"),
    *(".build_base.txt", ".gitignore", ".lock", ".testfile"),
}
LARGE_FILES = 5

Take = Callable[[str, str, int, int], None]  # path below the top, kind of entry, bytes, when it was written


def rooms(spec: Object, root: str) -> Json:
    """evidence.Evidence.rooms"""
    ground = Ground(root)
    out: dict[int, Object] = {}
    for name, path in places(spec, root).items():
        with suppress(Unread, OSError):
            real, found = ground.walk(path, follow_last=True)
            mount = ground.mounts.of(real)
            if found is None or mount is None or ground.mounts.remote(mount):
                continue
            room = out.get(found.st_dev)
            if room is None and (space := ground.space(real)):
                about = {key: shown(mount[key]) for key in ("source", "fstype")}
                room = out[found.st_dev] = {"mount": shown(mount["target"]), **about, **space, "holds": []}
            if room is not None:
                room["holds"].append(name)
    return list(out.values())


def places(spec: Object, root: str) -> dict[str, str]:
    """Directories that must be writable for the stack to work, by what they hold."""
    disks = spec.get("disks") or {}
    docker = data_root(root)
    return {
        **{name: str(path) for name, path in disks.items()},
        **{name: str(spec[key]) for name, key in DATA.items() if spec.get(key)},
        "images": STORE if os.path.isdir(root + STORE) else docker,
        "docker": docker,
        "logs": "/var/log",
        "stack": str(spec.get("stack_dir") or "/opt"),
        "tmp": "/tmp",  # noqa: S108 (looked at only)
        "run": "/run",
        "root": "/",
    }


def usage(spec: Object, root: str) -> Json:
    """evidence.Evidence.usage"""
    end = time.monotonic() + USAGE_S
    found: list[Object] = []

    def add(part: tuple[str, Callable[[], list[Object]]]) -> None:
        try:
            found.extend(part[1]())
        except FileNotFoundError:
            pass  # no such log, no such tree
        except Exception as error:
            found.append(item("unread", part[0], "/", 0, complete=False, detail=why(error)))

    ground = Ground(root)
    parts: list[tuple[str, Callable[[], list[Object]]]] = [
        ("images", lambda: images(spec, root, end)),
        ("container logs", lambda: container_logs(root, end)),
        ("ComfyUI's tree", lambda: comfy(str(spec["comfy_mnt"]), root, end)),
        (
            "Ollama's data",
            lambda: service_data(
                "Ollama", "models", "Ollama's models", OLLAMA_PARTIAL, str(spec["ollama_data"]), root, end
            ),
        ),
        (
            "Open WebUI's data",
            lambda: service_data(
                "Open WebUI", "other", "Open WebUI's data", INCOMPLETE, str(spec["openwebui_data"]), root, end
            ),
        ),
        ("outputs", lambda: whole("outputs", "ComfyUI's outputs", str(spec["outputs"]), root, end)),
        ("models", lambda: whole("models", "shared models", str(spec["models"]), root, end)),
        ("journal", lambda: whole("journal", "the journal", "/var/log/journal", root, end)),
        ("logs", lambda: logs(root, end)),
        ("apt", lambda: packages(root, end)),
        ("large files", lambda: large_files(spec, root, end)),
    ]
    work.each(parts, add)
    mounts: dict[int, str] = {}
    for path in places(spec, root).values():
        with suppress(Unread, OSError):
            real, about = ground.walk(path, follow_last=True)
            mount = ground.mounts.of(real)
            if about is not None and mount is not None:
                mounts.setdefault(about.st_dev, shown(mount["target"]))
    for one in found:
        place = one.pop("at", one["place"])
        one["disk"] = _disk(ground, place, mounts)
    # What the cache shares with images that nobody uses is its own once they are gone: it counts however small it is.
    large = [one for one in found if one["bytes"] >= LEAST or one["kind"] in ("unread", "build-cache")]
    return sorted(large, key=lambda one: (-one["bytes"], one["place"]))[:MOST_ITEMS]


def _disk(ground: Ground, place: str, mounts: dict[int, str]) -> str:
    """The Room.mount on which a path lies."""
    with suppress(Unread, OSError):
        real, about = ground.walk(place if place.startswith("/") else "/", follow_last=True)
        mount = ground.mounts.of(real)
        if about is not None and about.st_dev in mounts:
            return mounts[about.st_dev]
        return shown(mount["target"]) if mount else "/"
    return "/"


def item(kind: str, name: str, place: str, size: int, *, remade: bool = False, **more: Json) -> Object:
    """evidence.Usage, its disk still to come; `at` is a path on it where `place` is none."""
    return {"kind": kind, "name": plain(name), "place": shown(place), "bytes": size, "remade": remade, **more}


# ---- the engine's figures


def images(spec: Object, root: str, end: float) -> list[Object]:
    """Images and the build cache."""
    engine = Engine(root)
    try:
        found = engine.get(f"{DF_API}/system/df?type=image&type=build-cache", end)
    except (Unread, Missing):  # counting takes too long: the images alone, with what they share counted in each
        found = {"Images": engine.get("/images/json", end + 1), "BuildCache": []}
    store = {"at": image_store(engine.get("/info", end + 1)) or data_root(root)}
    used: dict[str, str] = {}
    for summary in engine.get("/containers/json?all=1", end + 1):
        used.setdefault(str(summary.get("ImageID")), (summary.get("Names") or ["?"])[0].lstrip("/"))
    named = {_id(engine, str(reference)) for reference in (spec.get("images") or {}).values()}
    pulled = _pulled(store["at"])
    out = [_image(one, used, named, pulled, store) for one in found.get("Images") or ()]
    cache = [one for one in found.get("BuildCache") or () if not one.get("InUse")]
    if cache:
        size = sum(int(one.get("Size") or 0) for one in cache if not one.get("Shared"))
        out.append(item("build-cache", "build cache", "build cache", size, remade=True, **store))
    return out


def _id(engine: Engine, reference: str) -> str:
    with suppress(Missing, Unread):
        return str(engine.get(f"/images/{quoted(reference)}/json")["Id"])
    return ""


def _image(one: Object, used: dict[str, str], named: set[str], pulled: set[str] | None, store: Object) -> Object:
    """An image can be made again when it came from a registry: one that was built or loaded here may be the only one
    there is."""
    number, tags = str(one["Id"]), [str(tag) for tag in one.get("RepoTags") or () if tag != "<none>:<none>"]
    size, shared = int(one.get("Size") or 0), int(one.get("SharedSize") or 0)
    from_registry = number in pulled if pulled is not None else bool(one.get("RepoDigests"))
    if number in used or int(one.get("Containers") or 0) > 0:
        detail = f"used by {used.get(number, 'a container')}"
    elif number in named:
        detail = "named in hosts.toml"
    elif not from_registry:
        detail = "built or loaded here"
    else:
        detail = ""
    about = {"detail": plain(detail), "names": [plain(tag) for tag in tags], **store}
    return item("image", tags[0] if tags else "no name", number, size - max(0, shared), remade=not detail, **about)


def _pulled(store: str) -> set[str] | None:
    """Digests of the images in containerd that came from a registry: it notes from which. None where the engine keeps
    images itself: there only those have a digest by repository."""
    if store != STORE:
        return None
    if not which("ctr"):
        return set()
    found = work.command(["ctr", "-n", "moby", "content", "ls"], USAGE_S, 8 << 20)
    rows = (line.split() for line in found["output"].splitlines() if "containerd.io/distribution.source." in line)
    return {row[0] for row in rows if row}


def container_logs(root: str, end: float) -> list[Object]:
    engine, out = Engine(root), []
    for summary in engine.get("/containers/json?all=1", end)[:MOST_LOGS]:
        if time.monotonic() > end:
            break
        with suppress(Missing, Unread, OSError):
            found = engine.get(f"/containers/{summary['Id']}/json", end)
            path = str(found.get("LogPath") or "")
            folder, _, name = path.rpartition("/")
            if not name:
                continue
            sizes = [
                os.lstat(f"{root}{folder}/{entry}").st_size
                for entry in os.listdir(root + folder)
                if entry == name or entry.startswith(name + ".")
            ]
            config = found["HostConfig"].get("LogConfig") or {}
            endless = config.get("Type") == "json-file" and not (config.get("Config") or {}).get("max-size")
            detail = "without rotation" if endless else ""
            out.append(item("container-log", found["Name"].lstrip("/"), path, sum(sizes), detail=detail))
    return out


# ---- files


def comfy(top: str, root: str, end: float) -> list[Object]:
    """ComfyUI's own tree: the venv in use, old ones, caches, what it made, what is half downloaded."""
    sizes: dict[str, int] = {}
    venvs: dict[str, int] = {}  # with the mark of a venv in it -> when the directory was last written
    written: dict[str, int] = {}
    foreign: dict[str, str] = {}  # what lies in an old one and is none of it
    partial: list[Object] = []
    old = time.time() - OLD_S

    def take(path: str, kind: str, size: int, mtime: int) -> None:
        head, _, rest = path.partition("/")
        if head == "ComfyUI" and rest.startswith(("models/", "output/", "user/")):
            head = f"ComfyUI/{rest.partition('/')[0]}"
        sizes[head] = sizes.get(head, 0) + size
        if rest == "" and kind == "d":
            written[head] = mtime
        if rest == "pyvenv.cfg" and kind == "f":
            venvs[head] = 1
        if rest and "/" not in rest and rest not in OF_A_VENV and head.startswith("venv-"):
            foreign.setdefault(head, rest)
        if kind == "f" and mtime < old and INCOMPLETE.fullmatch(path) and len(partial) < MOST_PIECES:
            partial.append({"path": path, "bytes": size, "mtime": mtime})

    complete = walk(root + top, end, take)
    out = []
    for head, size in sizes.items():
        place = f"{top}/{head}" if head else top
        kind = {"ComfyUI/models": "models", "ComfyUI/output": "outputs"}.get(head, "other")
        if OLD_VENV.fullmatch(head) and head in venvs and head in written:
            pieces = [{"path": head, "bytes": size, "mtime": written[head]}]
            ready = "venv" in venvs and head not in foreign and _printable(head)
            detail = "an old virtual environment"
            if head in foreign:
                detail = f"a virtual environment, and {plain(foreign[head])} in it, which is none of it"
            elif not ready:
                detail = "a virtual environment, and there is no other"
            more = {"complete": complete, "detail": detail, "pieces": pieces if ready else []}
            out.append(item("venv", head, top, size, remade=ready, **more))
        elif size:
            name = f"ComfyUI's {head}" if head else "comfy-mnt"
            out.append(item(kind, name, place, size, complete=complete))
    return out + _partial("ComfyUI", top, partial)


def service_data(
    who: str, kind: str, name: str, broken_off: re.Pattern[str], top: str, root: str, end: float
) -> list[Object]:
    """What a service keeps under `top`, and apart from it the downloads that broke off."""
    partial: list[Object] = []
    total, old = 0, time.time() - OLD_S

    def take(path: str, is_a: str, size: int, mtime: int) -> None:
        nonlocal total
        if broken_off.fullmatch(path) and is_a == "f" and mtime < old and len(partial) < MOST_PIECES:
            partial.append({"path": path, "bytes": size, "mtime": mtime})
        else:
            total += size

    complete = walk(root + top, end, take)
    return [item(kind, name, top, total, complete=complete), *_partial(who, top, partial)]


def _partial(who: str, top: str, pieces: list[Object]) -> list[Object]:
    """What is left of downloads that broke off: one line for each service."""
    pieces = [piece for piece in pieces if _printable(piece["path"])]
    if not pieces:
        return []
    size = sum(piece["bytes"] for piece in pieces)
    about = {"detail": f"{len(pieces)} files of downloads that broke off", "pieces": pieces}
    return [item("partial", f"{who}'s partial downloads", top, size, remade=True, **about)]


def _printable(path: str) -> bool:
    """Whether a path can be named in a plan as it is: what cannot is left alone."""
    return path.isprintable() and len(path) < 1000


def whole(kind: str, name: str, top: str, root: str, end: float) -> list[Object]:
    """A directory as one figure."""
    total = 0

    def take(_path: str, _kind: str, size: int, _mtime: int) -> None:
        nonlocal total
        total += size

    complete = walk(root + top, end, take)
    return [item(kind, name, top, total, complete=complete)]


def logs(root: str, end: float) -> list[Object]:
    """/var/log without the journal; a large file of its own line."""
    total, large = 0, []

    def take(path: str, kind: str, size: int, _mtime: int) -> None:
        nonlocal total
        if path.startswith("journal/"):
            return
        if kind == "f" and size >= LARGE_LOG and _printable(path):
            large.append(item("log", f"/var/log/{path}", f"/var/log/{path}", size, detail="a large log"))
        else:
            total += size

    complete = walk(f"{root}/var/log", end, take)
    return [item("log", "other logs", "/var/log", total, complete=complete), *large]


def packages(root: str, end: float) -> list[Object]:
    """What apt downloaded and has installed since."""
    total = 0

    def take(path: str, kind: str, size: int, _mtime: int) -> None:
        nonlocal total
        total += size if kind == "f" and path.endswith(".deb") else 0

    complete = walk(f"{root}/var/cache/apt/archives", end, take)
    about = {"complete": complete, "detail": "packages that apt downloaded"}
    return [item("apt", "apt's cache", "/var/cache/apt/archives", total, remade=bool(which("apt-get")), **about)]


def large_files(spec: Object, root: str, end: float) -> list[Object]:
    """The largest files on a disk that is nearly full: what a user put there belongs to no tree of ours."""
    out: list[Object] = []
    for room in rooms(spec, root):
        if room["total_bytes"] and room["free_bytes"] < room["total_bytes"] * TIGHT:
            out += _large_on(room["mount"], max(1 << 20, room["total_bytes"] // 100), root, end)
    return out


def _large_on(mount: str, least: int, root: str, end: float) -> list[Object]:
    files: list[tuple[int, str]] = []
    docker = (f"{data_root(root)}/{name}/" for name in ("overlay2", "image", "containers", "buildkit", "containerd"))
    stores = (f"{STORE}/io.containerd.", *docker, "/var/log/journal/")

    def take(path: str, kind: str, size: int, _mtime: int) -> None:
        whole = f"{mount.rstrip('/')}/{path}"
        if kind == "f" and size >= least and _printable(path) and not whole.startswith(stores):
            files.append((size, whole))
            files.sort(reverse=True)
            del files[LARGE_FILES:]

    walk(root + mount, end, take)
    return [item("file", path, path, size, at=mount) for size, path in files]


def walk(top: str, end: float, take: Take) -> bool:
    """Everything below `top` on its file system, no link followed, a file with several names counted once. Returns
    whether all of it was seen."""
    if not os.path.isdir(top) or os.path.islink(top):
        return True
    listing = Listing(top, "-mindepth", "1", "-xdev", form="%b %n %i %T@ %y %P", end=end)
    seen: set[bytes] = set()
    for row in listing:
        blocks, names, inode, when, kind, path = row.split(b" ", 5)
        if names != b"1" and kind != b"d":
            if inode in seen:
                continue
            seen.add(inode)
        size, mtime = int(blocks) * 512, int(when.partition(b".")[0])
        take(os.fsdecode(path), kind.decode(), size, mtime)
    return listing.complete
