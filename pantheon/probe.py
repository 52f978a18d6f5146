"""What is true on a host, looked at from the host itself. The only code that looks; it writes nothing.

This file and those of pantheon/looks are sent to the host and run there as root (`python3 -I`), with the standard
library and pynvml alone, on Python 3.10 and later. A look prints one JSON document, the shape of facts.Facts: an
unknown value is {"unknown": reason}, an absent one null. To try it by hand, make a program of it, which needs nothing
but Python (remote/shipped.py):

    plain_program("pantheon.probe", questions.questions(host, nonce="00")) > look.py;  sudo python3 -I - < look.py

`look` below is the table of what is looked at. Three rules hold it together:
- Every part has a deadline of its own, and a part that fails or hangs is Unknown without taking the others with it.
- Whatever can block in the kernel for good is asked in a child process, made before any thread is (looks/work.py).
- No path is touched before /proc/self/mountinfo has said which mount it lies on (looks/files.py).

Start-up counts, since this runs on every command: no dataclasses, typing, http.client or urllib (each some 3 to 15 ms).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator

from pantheon.looks import docker, http, nvidia, system, work
from pantheon.looks.containers import Containers
from pantheon.looks.engine import Engine, Images, Missing
from pantheon.looks.files import Ground, read_text, reading_of, which, widen_path
from pantheon.looks.http import quoted
from pantheon.looks.text import Json, Object, Unread, unknown
from pantheon.looks.watch import Watch, bark
from pantheon.looks.work import Child, Part, Say, attempt, is_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, TextIO

SCHEMA = 1
STATE_FILE = "/var/lib/pantheon/state.json"
ON_DISK = ("paths", "spaces", "trees", "files")  # what children answer, by path


def main(spec: Object, stdin: BinaryIO, stdout: TextIO) -> int:
    """Looks (or watches, with spec["watch"]) and prints frames as JSON lines. Returns the exit status; as the process
    of its own that it is on a host it ends that process itself, since a thread may be stuck."""
    guard = threading.Lock()
    own = work.is_own(stdout)

    def write(frame: Object) -> None:
        text = json.dumps(frame, separators=(",", ":")) + "\n"
        with guard:
            stdout.write(text)
            stdout.flush()

    if "watch" in spec:
        watch = Watch(spec["watch"], str(spec.get("root") or ""), write)
        if own:
            threading.Thread(target=bark, args=(watch,), daemon=True).start()
        watch.run(stdin)
    else:
        write({"frame": "facts", "facts": look(spec)})
    work.end_commands()
    if own:
        os._exit(0)
    return 0


# ---- the look --------------------------------------------------------------------------------------------------------


def look(spec: Object) -> Object:
    """The document: see facts.Facts for its shape and questions.questions for `spec`."""
    began = time.monotonic()
    root = str(spec.get("root") or "")
    end = began + float(spec.get("deadline_s") or 10)
    if not root:
        widen_path()
    document: Object = {"schema": SCHEMA, "nonce": str(spec.get("nonce", "")), **{part: {} for part in ON_DISK}}
    children = fork_children(spec, root, document)

    engine = Engine(root)
    images = Images(engine, spec.get("images") or ())
    containers = Containers(engine, images, spec)
    here = os.path.exists(engine.path)
    installed = here or bool(which("docker") or which("dockerd"))

    def engine_part(name: str, ask: Callable[..., Json], *about: Json, deadline_s: float | None = None) -> Part:
        return Part(name, ask if installed else lambda *_: None, *about, deadline_s=deadline_s)

    later, smi = work.PART_S + 0.5, ["nvidia-smi", "-L"]
    parts: dict[str, Part | dict[str, Part]] = {
        "docker": {
            "client": Part("docker client", work.version_of, "docker", "--version"),
            "compose": Part("docker compose", docker.compose, root),
            "version": engine_part("docker version", engine.get, "/version"),
            "info": engine_part("docker info", engine.get, "/info"),
            "daemon_json": Part("daemon.json", docker.daemon_json, root),
            "cdi": Part("CDI", docker.cdi, root),
        },
        "os": Part("os", system.release, root),
        "nvidia_smi": Part("nvidia-smi", nvidia.smi),
        "module_version": Part("module version", nvidia.module_version, root),
        "library_version": Part("library version", nvidia.library_version, root),
        "toolkit": Part("toolkit", nvidia.toolkit, root),
        "hook": Part("runtime hook", which, "nvidia-container-runtime-hook"),
        "containers": engine_part("containers", containers.look, deadline_s=later),
        "listeners": Part("listening sockets", system.listeners, root),
        "mounts": Part("mounts", lambda: Ground(root).mounts.visible()),  # noqa: PLW0108 (read there)
        "state": Part("state", read_text, root + STATE_FILE),
        "lock": Part("lock", system.lock, root),
        "groups": Part("groups", system.groups, root, spec.get("groups") or ()),
        "images": {ref: engine_part(f"image {ref}", images.look, ref) for ref in spec.get("images") or ()},
        "http": {
            name: Part(f"GET {url}", http.http_get, url, deadline_s=http.HTTP_S + 0.5)
            for name, url in (spec.get("http") or {}).items()
        },
        "gpu": {
            name: Part(f"nvidia-smi in {name}", engine.run_in, name, smi, work.PART_S, deadline_s=later)
            for name in (spec.get("gpu_in") or ())
            if here
        },
    }
    listening = {
        name: Part(name, child.listen, document, work.PART_S, deadline_s=work.PART_S + 0.2) for name, child in children
    }

    for part in listening.values():
        part.result(end)
    found = results(parts, end)
    answers, seen = found.pop("docker"), found.pop("gpu")
    # Copies: whatever a late child still says goes to the old ones
    document = {**document, **{part: dict(document[part]) for part in ON_DISK}, **found}
    if is_unknown(document["groups"]):
        document["groups"] = dict.fromkeys(spec.get("groups") or (), document["groups"])
    for container in document["containers"] if isinstance(document["containers"], list) else ():
        if container["name"] in seen:
            running = container["state"] == "running"
            container["gpu_seen"] = seen[container["name"]] if running else unknown("the container is not running")
    api = docker.name_containers(root, document, containers.addresses, answers["daemon_json"])
    document["docker"] = docker.join(root, answers, api) if installed else None
    spaces = Part("Docker's disk", docker.spaces, root, answers["info"], deadline_s=work.PART_S / 2).result(end)
    document["spaces"].update({"docker": spaces, "images": spaces} if is_unknown(spaces) else spaces)
    document["took_s"] = round(time.monotonic() - began, 4)
    if spec.get("timings"):  # for the benchmark: milliseconds a part
        document["timings"] = {part.name: round(part.took * 1000, 1) for part in flat({**parts, **listening})}
    for _, child in children:
        child.end()
    return document


def results(parts: dict[str, Part | dict[str, Part]], end: float) -> Object:
    return {
        name: part.result(end) if isinstance(part, Part) else {key: one.result(end) for key, one in part.items()}
        for name, part in parts.items()
    }


def flat(parts: dict[str, Part | dict[str, Part]]) -> Iterator[Part]:
    for part in parts.values():
        yield from [part] if isinstance(part, Part) else part.values()


def fork_children(spec: Object, root: str, document: Object) -> list[tuple[str, Child]]:
    """The children that read the file system and ask NVML: one for this host's own disks, one for each network mount
    that was asked about, one for each tree. Fills `document` with what stands if they never answer."""
    mounts = Ground(root).mounts
    asked: dict[str, list[tuple[str, str, Callable[..., Json], Object]]] = {"": []}

    def ask(part: str, path: str, read: Callable[..., Json], apart: str = "", **more: Json) -> None:
        mount = mounts.of(path)
        remote = mount if mounts.remote(mount) else None
        asked.setdefault(remote["id"] if remote else apart, []).append((part, path, read, more))
        where = f" on {remote['target']} ({remote['fstype']})" if remote else ""
        document[part][path] = unknown(f"no answer within {work.PART_S:g} s ({path}{where})")

    for path in spec.get("paths") or ():
        ask("paths", path, Ground.entry)
    for path in spec.get("spaces") or ():
        ask("spaces", path, Ground.space)
    for file in spec.get("files") or ():
        ask("files", file["path"], Ground.file, secret=bool(file.get("secret")), nonce=document["nonce"])
    for index, tree in enumerate(spec.get("trees") or ()):
        ask("trees", tree["path"], Ground.tree, apart=f"t{index}", uid=tree["uid"], gid=tree["gid"])

    def reader(place: str) -> Callable[[Say], None]:
        def read_all(say: Say) -> None:
            ground = Ground(root, place)
            for part, path, read, more in asked[place]:
                say(part, path, attempt(read, ground, path, **more))

        return read_all

    document["nvml"] = unknown(f"no answer within {work.PART_S:g} s (NVML)")
    children = [("nvml", Child(lambda say: say("nvml", "", attempt(nvidia.nvml)), [("nvml", "")]))]
    for place, asks in asked.items():
        if asks:
            children.append((f"files {place}", Child(reader(place), [(part, path) for part, path, *_ in asks])))
    return children


# ---- one reading, for the guards of a plan ---------------------------------------------------------------------------


def reading(kind: str, target: str, *, root: str = "") -> str:
    """One reading of the host as plan.Guard states it; facts.Facts.reading gives the same for what was looked at.
    kinds: "path" (missing | dir 0:0 0755 | file .. | symlink -> X | other .. | elsewhere: REALPATH), "sha256" (hex or
    missing), "mount" (SOURCE FSTYPE or "not a mount point"), "container" (by name: id or missing), "image" (by
    reference: id or missing). "unknown: REASON" when it cannot be read, which never equals a reading of a plan."""
    value = attempt(lambda: READINGS[kind](root, target))
    return f"unknown: {value['unknown']}" if is_unknown(value) else str(value)


def path_reading(root: str, path: str) -> str:
    return reading_of(on_its_mount(root, path, Ground.entry))


def sha256_reading(root: str, path: str) -> str:
    file = on_its_mount(root, path, Ground.file, secret=False, nonce="")
    return str(file["sha256"]) if file else "missing"


def mount_reading(root: str, path: str) -> str:
    entry = on_its_mount(root, path, Ground.entry)
    if not entry or not entry["is_mount"]:
        return "not a mount point"
    return f"{entry['mount']['source']} {entry['mount']['fstype']}"


def container_reading(root: str, name: str) -> str:
    try:
        found = Engine(root).get(f"/containers/{quoted(name)}/json")
    except Missing:
        return "missing"
    return str(found["Id"]) if found["Name"] == f"/{name}" else "missing"  # an id's first digits are found as well


def image_reading(root: str, reference: str) -> str:
    return str((Images(Engine(root)).get(reference) or {"Id": "missing"})["Id"])


READINGS = {
    "path": path_reading,
    "sha256": sha256_reading,
    "mount": mount_reading,
    "container": container_reading,
    "image": image_reading,
}


def on_its_mount(root: str, path: str, read: Callable[..., Json], **more: Json) -> Json:
    """What `read` gives here, or in a child that can be killed when the path lies on a network mount."""
    ground = Ground(root)
    mount = ground.mounts.of(path)
    if not mount or not ground.mounts.remote(mount):
        return read(ground, path, **more)
    place = mount["id"]
    document: Object = {"it": unknown(f"no answer within {work.PART_S:g} s ({path} on {mount['target']})")}
    child = Child(lambda say: say("it", "", attempt(read, Ground(root, place), path, **more)), [("it", "")])
    child.listen(document, work.PART_S)
    if is_unknown(document["it"]):
        raise Unread(document["it"]["unknown"])
    return document["it"]
