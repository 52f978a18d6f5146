"""Our own stack under another project, in another directory, on other disks: moved with all its data.

No service starts on an empty directory because a path has changed.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from conftest import SERVICES, World, until
from test_adopt import Cut, copies, kill, lacks, models

from lab import stacks
from lab.stacks import Stack

pytestmark = pytest.mark.lab

OLD = {"nvme": "/mnt/local/nvme", "ssd": "/mnt/local/ssd"}
NEW = {"nvme": "/srv/fast", "ssd": "/srv/large"}
TREES = {
    "comfy": ("nvme", "ai/services/comfy-mnt"),
    "models": ("nvme", "ai/models"),
    "ollama": ("nvme", "ai/services/ollama"),
    "outputs": ("ssd", "ai/outputs/comfy"),
    "openwebui": ("ssd", "ai/projects/openwebui"),
}


def read(world: World, roots: dict[str, str]) -> dict[str, dict[str, stacks.Entry]]:
    return {name: stacks.read_tree(world.lab, f"{roots[root]}/{place}") for name, (root, place) in TREES.items()}


def used(world: World) -> Stack:
    """A stack of ours with somebody's data in it."""
    services = {name: name for name in SERVICES}
    places = {
        "comfy": stacks.Place(f"{OLD['nvme']}/ai/services/comfy-mnt"),
        "openwebui": stacks.Place(f"{OLD['ssd']}/ai/projects/openwebui"),
    }
    stack = Stack("ours", services, {"comfy": 8188, "ollama": 11434, "openwebui": 3000}, places, key="")
    stacks.fill(world.lab, stack)
    world.sh(
        "cp -a /mnt/local/nvme/ai/services/comfy-mnt/ComfyUI/output/. /mnt/local/ssd/ai/outputs/comfy\n"
        "chown -R 1024:1024 /mnt/local/nvme/ai/services/comfy-mnt /mnt/local/ssd/ai/outputs/comfy\n"
        "mkdir -p /mnt/local/nvme/ai/models/vae && head -c 100000 /dev/urandom >/mnt/local/nvme/ai/models/vae/v.pt"
    )
    return stack


def test_its_place_and_then_everything_moves(spare: World) -> None:
    world, stack = spare, used(spare)
    (first,) = of_project(world)
    world.inventory(project="house", stack_dir="/srv/stacks/house")
    inodes = world.sh("stat -c %i " + " ".join(f"{OLD[root]}/{place}" for root, place in TREES.values()))
    done = world.invoke("bringup", "--yes", timeout=150)
    assert done.code == 0, done.seen
    assert stack.who(world.lab, 3000) == stacks.LOGIN["email"], "nobody is logged out"
    assert "copy_tree" not in [step.get("mend") for step in world.commands()]
    assert world.sh("stat -c %i " + " ".join(f"{OLD[root]}/{place}" for root, place in TREES.values())) == inodes
    assert of_project(world) == {"house"}

    before = read(world, OLD)
    world.sh(f"mkdir -p {NEW['nvme']} {NEW['ssd']}")
    changes: dict[str, Any] = {"storage": {**NEW, "require_mounts": False}, "openwebui": {"port": 3100}}
    world.inventory(project="home", stack_dir="/srv/stacks/home", **changes)
    with world.unchanged("/srv"):
        shown = world.invoke("bringup", "--plan")
    assert shown.code == 2, shown.seen
    for root, place in TREES.values():
        assert f"{NEW[root]}/{place}" in shown.all, shown.seen

    # Cut short in the middle of the copy: nothing of ours has started on a directory that is not complete.
    Cut(world, "bringup", "--yes").at(copies, kill)
    for name in world.docker("ps", "--format", "{{.Names}}").split():
        mounts = json.loads(world.docker("inspect", "-f", "{{json .Mounts}}", name))
        assert all(not mount["Source"].startswith((NEW["nvme"], NEW["ssd"])) for mount in mounts)
    stopped = read(world, OLD)
    for name, tree in before.items():
        assert not lacks(tree, stopped[name], None), name

    done = world.invoke("bringup", "--yes", timeout=150)
    assert done.code == 0, done.seen
    after = read(world, NEW)
    for name, tree in stopped.items():
        assert not lacks(tree, after[name], None), name
    assert read(world, OLD) == stopped, "the old data is as it was"
    assert stack.who(world.lab, 3100) == stacks.LOGIN["email"], "nobody is logged out"
    assert models(world) == [f"{stacks.MODEL}:latest"]
    assert of_project(world) == {"home"}
    assert world.invoke("validate").code == 0
    again = world.invoke("bringup", "--plan")
    assert again.code == 0, again.seen

    # Back, one after the other: where it was under its second name, and where it was in the beginning.
    for project, port in (("house", 3000), (first, 3000)):
        back = world.invoke("bringup", "--undo", "--yes")
        assert back.code == 0, back.seen
        assert ("can be undone, too" in back.all) is (project == "house"), back.seen
        assert of_project(world) == {project}
        until(partial(stack.who, world.lab, port), what=f"a session on port {port}")
        assert models(world) == [f"{stacks.MODEL}:latest"]
    assert "nothing" in world.invoke("bringup", "--undo", "--yes").all
    world.inventory()
    again = world.invoke("bringup", "--plan")
    assert again.code == 0, again.seen
    assert world.invoke("validate").code == 0


def of_project(world: World) -> set[str]:
    return {world.docker("inspect", "-f", '{{index .Config.Labels "pantheon.project"}}', name) for name in SERVICES}
