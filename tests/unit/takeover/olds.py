"""Stacks that somebody made by hand, as a look sees them, and what the host counts of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from pantheon import layout
from pantheon.belongings import Belongings, Layer, Place, Volume
from pantheon.facts import Container, ContainerMount, EnvValue, Facts, Listener, Port, digest
from pantheon.inventory import Host
from pantheon.takeover import old, plan, record
from pantheon.takeover.plan import Taking
from tests.unit import world
from tests.unit.world import HOST, NONCE, fresh, having

GIB = 1 << 30
IMAGES = {"comfy": HOST.comfy.image, "ollama": HOST.ollama.image, "openwebui": HOST.openwebui.image}
INSIDE = {"comfy": (8188, "8188/tcp"), "ollama": (11434, "11434/tcp"), "openwebui": (8080, "8080/tcp")}


def bind(source: str, target: str, *, ro: bool = False) -> ContainerMount:
    return ContainerMount("bind", source, target, not ro, "")


def volume(name: str, target: str) -> ContainerMount:
    return ContainerMount("volume", f"/var/lib/docker/volumes/{name}/_data", target, True, name)


def tmpfs(target: str) -> ContainerMount:
    return ContainerMount("tmpfs", "", target, True, "")


def hand_made(
    service: str,
    *mounts: ContainerMount,
    name: str = "",
    env: dict[str, str] | None = None,
    compose: str = "",
    project: str = "",
    **more: Any,
) -> Container:
    """A container of somebody's, by `docker run` or, with `compose`, of that file."""
    name = name or {"comfy": "comfyui", "ollama": "my-ollama", "openwebui": "open-webui"}[service]
    port, inside = INSIDE[service]
    labels: dict[str, str] = dict(more.pop("labels", {}))
    if compose:
        labels |= {
            "com.docker.compose.project": project or "home",
            "com.docker.compose.service": more.pop("label", name),
            "com.docker.compose.project.config_files": compose,
            "com.docker.compose.project.working_dir": compose.split(",")[0].rpartition("/")[0],
        }
    plain = (
        "BASE_DIRECTORY",
        "OLLAMA_MODELS",
        "DATA_DIR",
        "COMFY_CMDLINE_EXTRA",
        "OLLAMA_KEEP_ALIVE",
        "TZ",
        "USE_OLLAMA_DOCKER",
    )
    values = {n: EnvValue(v if n in plain else None, digest(NONCE, v), False) for n, v in (env or {}).items()}
    made = world.container(HOST, service)
    defaults: dict[str, Any] = {
        "id": hashlib.sha256(f"old {name}".encode()).hexdigest(),
        "name": name,
        "image": IMAGES[service],
        "image_id": f"sha256:{service}",
        "mounts": tuple(mounts),
        "env": values,
        "labels": labels,
        "ports": (Port(inside, "127.0.0.1", port),),
        "networks": ("bridge",),
        "restart_policy": "always",
        "command": (),
    }
    return replace(made, **{**defaults, **more})


def seen(*containers: Container, facts: Facts | None = None) -> Facts:
    """A host on which these run, each heard on its port."""
    facts = having(facts or fresh(), **{c.name.replace("-", "_"): c for c in containers})
    up = [c for c in containers if c.state == "running"]
    heard = tuple(Listener(p.address or "0.0.0.0", p.port, 900, "docker-proxy", c.name) for c in up for p in c.ports)
    return replace(facts, listeners=(*(facts.listeners or ()), *heard))  # type: ignore[misc]


def place(path: str, size: int = 0, *, free: int = 400 * GIB, disk: str = "1", **more: Any) -> Place:
    entries = more.pop("entries", ("something",) if size else ())
    return Place(
        path=path,
        kind=more.pop("kind", "dir" if size or entries else ""),
        real=more.pop("real", path),
        reading=more.pop("reading", "dir 0:0 0755" if size or entries else "missing"),
        bytes=size,
        entries=entries,
        owners=more.pop("owners", {"0:0": 5}),
        disk=disk,
        free_bytes=free,
        **more,
    )


def counted(asked: dict[str, Any], *places: Place, **more: Any) -> Belongings:
    """What the host answers: everything that was asked about, missing unless it is given."""
    given = {one.path: one for one in places}
    ssd = HOST.storage.ssd
    found = {path: given.get(path) or place(path, disk="2" if path.startswith(ssd) else "1") for path in asked["paths"]}
    layers = {number: Layer(2 * GIB, dict.fromkeys(paths, "dir")) for number, paths in asked["layers"].items()}
    volumes = {name: Volume(f"/var/lib/docker/volumes/{name}/_data", plain=True) for name in asked["volumes"]}
    return Belongings(
        places={**found, **more.get("places", {})},
        layers={**layers, **more.get("layers", {})},
        volumes={**volumes, **more.get("volumes", {})},
        copied=more.get("copied", {}),
        units=more.get("units", ()),
    )


def taking(
    facts: Facts,
    *places: Place,
    host: Host = HOST,
    adopt: bool = True,
    take: tuple[str, ...] = (),
    **more: Any,
) -> Taking:
    """The takeover as it would be planned on these facts."""
    before = record.known(facts)
    found = old.find(host, facts, before, adopt=adopt, take=take)
    answer = counted(plan.ask(host, facts, found.olds), *places, **more)
    kind = "adopt" if any(one.kind == "theirs" for one in found.olds) else "move"
    return plan.plan(host, facts, found, answer, record=before, kind=kind, when="2026-11-22 05:00 UTC")


def comfy_source(path: str, size: int = 20 * GIB, **more: Any) -> Place:
    """A ComfyUI that has had its first run."""
    return place(path, size, entries=("ComfyUI", "HF", "venv"), **more)


TARGETS = {
    "comfy": layout.comfy_mnt(HOST),
    "outputs": layout.comfy_outputs(HOST),
    "models": layout.models(HOST),
    "ollama": layout.ollama_data(HOST),
    "openwebui": layout.openwebui_data(HOST),
}
