"""Where each datum of an old container lies, and where it is to lie: procedure §3 gives the places, DOMAIN.md what
each image keeps where.

Everything inside a container has one place in ours. A container's own mounts cut that into pieces, each with a source
of its own: a directory on the host, a volume, or the container's layer. What is there already is used in place, what
lies elsewhere is copied.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pantheon import foreign, layout
from pantheon.belongings import Belongings, Layer, Place, Volume
from pantheon.facts import Container, ContainerMount
from pantheon.inventory import Host
from pantheon.takeover.old import Old

MNT = "/comfy/mnt"
BASE_PARTS = ("models", "input", "user", "custom_nodes")  # what BASE_DIRECTORY moves, besides the output
FLAGS = {
    "--base-directory": "base",
    "--output-directory": "output",
    "--input-directory": "input",
    "--user-directory": "user",
}
MODEL_KINDS = (
    *("checkpoints", "clip", "clip_vision", "configs", "controlnet", "diffusers", "diffusion_models", "embeddings"),
    *("gligen", "hypernetworks", "loras", "photomaker", "style_models", "text_encoders", "unet", "upscale_models"),
    *("vae", "vae_approx", "audio_encoders", "model_patches"),
)
OWN_MOUNTS = ("/userscripts_dir", "/etc/localtime", "/etc/timezone", "/var/run/docker.sock")
COMFY = (layout.COMFY, layout.COMFY)
ROOT = (0, 0)


@dataclass(frozen=True)
class Source:
    """A directory: on the host, or of a container (its layer, or a volume that only the engine can read)."""

    path: str
    container: str = ""

    def __str__(self) -> str:
        return f"container:{self.container}:{self.path}" if self.container else self.path


@dataclass(frozen=True)
class Piece:
    """A part of the old data with a source of its own. `inside` is where the old container has it, `target` where it
    is to lie; `skip` what is left out of it, relative to it. `may_stay`: a library of models that is too large to be
    copied may stay where it is, and is said to."""

    service: str
    inside: str
    source: Source
    target: str
    via: str  # bind, volume, layer, tmpfs
    volume: str = ""
    skip: tuple[str, ...] = ()
    may_stay: bool = False


def pieces(host: Host, old: Old) -> tuple[Piece, ...]:
    """The data of a container, outer pieces before those that lie in them."""
    return _cut(host, old, _places(host, old))


def bundled(host: Host, old: Old) -> tuple[Piece, ...]:
    """The data of the Ollama that some images of Open WebUI bring along; none for the others."""
    container = old.container
    data = next((m.target for m in container.mounts if m.target.endswith("/.ollama")), "")
    has_one = data or _env(container, "USE_OLLAMA_DOCKER").lower() == "true"
    if old.service != "openwebui" or old.kind != "theirs" or not has_one:
        return ()
    return pieces(host, replace(old, service="ollama"))


def _places(host: Host, old: Old) -> dict[str, str]:
    """Directories inside the old container that have a place in ours, and that place."""
    container = old.container
    if old.service == "ollama":
        data = next((m.target for m in container.mounts if m.target.endswith("/.ollama")), "/root/.ollama")
        places = {data: layout.ollama_data(host)}
        if models := _directory(container, "OLLAMA_MODELS"):
            places.setdefault(models, f"{layout.ollama_data(host)}/models")
        return places
    if old.service == "openwebui":
        return {_directory(container, "DATA_DIR") or "/app/backend/data": layout.openwebui_data(host)}
    if old.kind != "theirs":
        return {MNT: layout.comfy_mnt(host), "/outputs": layout.comfy_outputs(host), "/models": layout.models(host)}
    return _comfy_places(host, container)


def _comfy_places(host: Host, container: Container) -> dict[str, str]:
    ours, told, home = layout.comfy_mnt(host), _told(container), foreign.comfyui_home(container)
    base = told.pop("base", "") or _directory(container, "BASE_DIRECTORY") or home or f"{MNT}/ComfyUI"
    live = {part: f"{base}/{part}" for part in (*BASE_PARTS, "output")} | told
    places = {MNT: ours, live["output"]: layout.comfy_outputs(host)}
    if home:  # models can be used before ours has had its first run, nodes and workflows cannot
        places.setdefault(live["models"], layout.models(host))
    for part in BASE_PARTS:
        places.setdefault(live[part], f"{ours}/ComfyUI/{part}")
    for mount in container.mounts:
        name = mount.target.rpartition("/")[2]
        if any(within(mount.target, known) for known in places) or mount.target in OWN_MOUNTS:
            continue
        if name in MODEL_KINDS:
            places[mount.target] = f"{layout.models(host)}/{name}"
        elif "model" in name.lower():
            places[mount.target] = layout.models(host)
    return places


def _told(container: Container) -> dict[str, str]:
    """Directories that ComfyUI's command line names."""
    try:
        words = [*shlex.split(_env(container, "COMFY_CMDLINE_EXTRA")), *container.command]
    except ValueError:
        words = list(container.command)
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag in FLAGS and (value if equals else following).startswith("/"):
            found[FLAGS[flag]] = _clean(value if equals else following)
    return found


def _env(container: Container, name: str) -> str:
    found = container.env.get(name)
    return found.value or "" if found else ""


def _directory(container: Container, name: str) -> str:
    """A directory that the environment names, from where the container works."""
    value = _env(container, name)
    return _clean(posixpath.join(container.workdir or "/", value)) if value else ""


def _clean(path: str) -> str:
    return "/" + posixpath.normpath(path).strip("/")


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _target(places: dict[str, str], inside: str) -> str:
    """Where a path of the old container belongs in ours."""
    known = max((place for place in places if within(inside, place)), key=len)
    return places[known] + inside[len(known) :]


def mount_of(container: Container, inside: str) -> ContainerMount | None:
    """The mount that a path inside a container lies on; None: its layer."""
    over = [mount for mount in container.mounts if within(inside, mount.target)]
    return max(over, key=lambda one: len(one.target), default=None)


def _source(container: Container, inside: str) -> tuple[Source, ContainerMount | None]:
    mount = mount_of(container, inside)
    if mount is None:
        return Source(inside, container.id), None
    path = mount.source.rstrip("/") + inside[len(mount.target.rstrip("/")) :]
    return Source(path or mount.source), mount


def _cut(host: Host, old: Old, places: dict[str, str]) -> tuple[Piece, ...]:
    container = old.container
    mounted = [m.target for m in container.mounts if any(within(m.target, place) for place in places)]
    found: list[Piece] = []
    for inside in sorted({*places, *mounted}, key=lambda path: (len(path.split("/")), path)):
        source, mount = _source(container, inside)
        target = _target(places, inside)
        outer = _outer(found, inside)
        rest = inside[len(outer.inside) :] if outer else ""
        if outer and target == outer.target + rest and source == _below(outer.source, rest):
            continue  # what the outer piece has there already
        via = mount.type if mount else "layer"
        shared = within(target, layout.models(host)) and old.kind == "theirs"
        may_stay = shared or (mount is not None and not mount.writable and "/models" in target)
        found.append(Piece(old.service, inside, source, target, via, mount.name if mount else "", may_stay=may_stay))
    return tuple(replace(piece, skip=_skip(piece, found)) for piece in found)


def _outer(found: Iterable[Piece], inside: str) -> Piece | None:
    over = [piece for piece in found if piece.inside != inside and within(inside, piece.inside)]
    return max(over, key=lambda piece: len(piece.inside), default=None)


def _below(source: Source, rest: str) -> Source:
    return replace(source, path=source.path + rest)


def _skip(piece: Piece, found: list[Piece]) -> tuple[str, ...]:
    """What lies in a piece and comes from elsewhere, or goes elsewhere."""
    left_out = set()
    for other in found:
        if other is piece:
            continue
        if within(other.inside, piece.inside):
            left_out.add(other.inside[len(piece.inside) :].strip("/"))
        if within(other.target, piece.target):
            left_out.add(other.target[len(piece.target) :].strip("/"))
    return tuple(sorted(left_out - {""}))


# ---- with what the host said


@dataclass(frozen=True)
class Datum:
    """A piece with its way: "in place", "copied", "stays" (too large, or in memory alone), "nothing" (there is none).
    `bytes` None: not counted to the end, `at_least` what was."""

    piece: Piece
    way: str
    bytes: int = 0
    complete: bool = True
    owners: tuple[str, ...] = ()
    shadowed: bool = False  # the target has something there now that the old container did not show
    why: str = ""

    @property
    def target(self) -> str:
        return self.piece.target


def ask(host: Host, olds: Iterable[Old], more: Iterable[str] = ()) -> dict[str, object]:
    """What the host is to count (collecting/belongings.py), JSON-ready; `more` are further paths."""
    paths, volumes = set(more), set()
    layers: dict[str, list[str]] = {}
    for old in olds:
        for piece in pieces(host, old):
            paths.add(piece.target)
            if piece.via == "layer":
                layers.setdefault(old.container.id, []).append(piece.source.path)
            elif piece.via != "tmpfs":
                paths.add(piece.source.path)
            if piece.via == "volume":
                volumes.add(piece.volume)
    return {"paths": sorted(paths), "layers": layers, "volumes": sorted(volumes)}


def judge(piece: Piece, found: Belongings, *, container: str = "") -> Datum | str:
    """The way of a piece of that container (by its id), or why that is not known."""
    if piece.via == "tmpfs":
        return Datum(piece, "stays", why="it is kept in memory, and lost whenever the container stops")
    if piece.via == "layer":
        layer = found.layers.get(piece.source.container)
        if not isinstance(layer, Layer):
            return f"{piece.inside} in the container: {getattr(layer, 'reason', 'not looked at')}"
        if layer.there.get(piece.source.path) != "dir":
            return Datum(piece, "nothing")
        return Datum(piece, "copied", layer.bytes)
    if piece.via == "volume":
        volume = found.volumes.get(piece.volume)
        if not isinstance(volume, Volume):
            return f"volume {piece.volume}: {getattr(volume, 'reason', 'it is gone')}"
        if not volume.plain:  # its files are there only while a container has it: the engine reads it
            place = found.places.get(piece.source.path)  # mounted now, perhaps: then it can be counted
            size = place.bytes if isinstance(place, Place) else 0
            return Datum(replace(piece, source=Source(piece.inside, container)), "copied", size, complete=False)
        if volume.device:
            source = replace(piece.source, path=volume.device + piece.source.path[len(volume.mountpoint) :])
            piece = replace(piece, source=source)
    place = found.places.get(piece.source.path)
    if not isinstance(place, Place):
        reason = getattr(place, "reason", "not looked at")
        if piece.may_stay:
            return Datum(piece, "stays", why=reason)
        return f"{piece.source.path}: {reason}"
    target = found.places.get(piece.target)
    same = isinstance(target, Place) and bool(target.kind) and target.real == place.real
    owners = tuple(sorted(place.owners))
    if same:
        return Datum(piece, "in place", place.bytes, place.complete, owners)
    if not place.kind:
        return Datum(piece, "nothing")
    if place.kind != "dir":
        return Datum(piece, "stays", why=f"it is a {place.kind}, no directory: copy it by hand if it is needed")
    return Datum(piece, "copied", place.bytes, place.complete, owners)
