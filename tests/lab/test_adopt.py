"""Stacks that somebody made by hand become ours: compared file by file, cut short, and taken back.

Three of them (lab/stacks.py), each planted once; the tests of a class go through its story in order.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from conftest import SERVICES, Ran, Running, World, until

from lab import faults, stacks
from lab.stacks import Entry, Stack

pytestmark = pytest.mark.lab

NVME, SSD = "/mnt/local/nvme/ai", "/mnt/local/ssd/ai"
COMFY, OLLAMA = f"{NVME}/services/comfy-mnt", f"{NVME}/services/ollama"
OUTPUTS, WEBUI = f"{SSD}/outputs/comfy", f"{SSD}/projects/openwebui"
PARTS = ("models", "input", "user", "custom_nodes")
# What a service itself writes when it starts: pip's and git's, a database, the shared models' links, markers.
LIVE = re.compile(
    r"(venv|HF)(/|$)|ComfyUI/\.git(/|$)|(.*/)?__manager(/|$)|(.*/)?models/[^/]+/shared$|.*webui\.db.*|cache/.*"
)
AT_WORK = "pgrep -af 'dict[(]frame=' || true"

Tree = dict[str, Entry]


# ---- file by file


def below(tree: Tree, folder: str) -> Tree:
    """What lies in a directory of a tree, as a tree of its own."""

    def inner(name: str) -> str:
        return "." if name == folder else name.removeprefix(f"{folder}/")

    return {
        inner(name): replace(entry, name=inner(name), twin=inner(entry.twin))
        for name, entry in tree.items()
        if name == folder or name.startswith(f"{folder}/")
    }


def without(tree: Tree, *folders: str) -> Tree:
    return {
        name: entry
        for name, entry in tree.items()
        if not any(name == folder or name.startswith(f"{folder}/") for folder in folders)
    }


def lacks(old: Tree, new: Tree, owner: tuple[int, int] | None, *, whole_seconds: bool = False) -> list[str]:
    """What of `old` is not in `new` as it was. Times of directories, and what services write themselves, do not count;
    nor does the top, which is ours."""
    wrong = []
    for name, was in old.items():
        now = new.get(name)
        if name == "." or LIVE.match(name):
            continue
        if now is None:
            wrong.append(f"{name} is missing")
            continue
        uid, gid = owner or (was.uid, was.gid)
        want = replace(was, uid=uid, gid=gid, twin="", mtime=0 if was.kind == stat.S_IFDIR else was.mtime)
        have = replace(now, twin="", mtime=0 if was.kind == stat.S_IFDIR else now.mtime)
        if whole_seconds:
            want, have = (replace(one, mtime=one.mtime // 10**9) for one in (want, have))
        if want != have:
            wrong.append(f"{name}: {want} is {have}")
        twin = new.get(was.twin)
        if was.twin != name and (twin is None or now.twin not in (was.twin, twin.twin)):
            wrong.append(f"{name} is no longer the same file as {was.twin}")
    return wrong


def complete(world: World, stack: Stack, before: dict[str, Tree]) -> None:
    """All that the stack had is where ours has it."""
    mnt, old = stacks.read_tree(world.lab, COMFY), before["comfy"]
    outputs = stacks.read_tree(world.lab, OUTPUTS)
    if "base" in before:
        old = without(old, *(f"ComfyUI/{part}" for part in (*PARTS, "output", "temp")))
        for part in PARTS:
            assert not lacks(below(before["base"], part), below(mnt, f"ComfyUI/{part}"), (1024, 1024)), part
        assert not lacks(below(before["base"], "output"), outputs, (1024, 1024))
    elif "outputs" in before:
        assert not lacks(before["outputs"], outputs, (1024, 1024))
    else:
        assert not lacks(below(old, "ComfyUI/output"), outputs, (1024, 1024))
        old = without(old, "ComfyUI/output")
    assert not lacks(without(old, "ComfyUI/temp"), mnt, (1024, 1024))
    layer = bool(stack.places["ollama"].container)
    assert not lacks(before["ollama"], stacks.read_tree(world.lab, OLLAMA), (0, 0), whole_seconds=layer)
    assert not lacks(before["openwebui"], stacks.read_tree(world.lab, WEBUI), (0, 0))


def read(world: World, stack: Stack) -> dict[str, Tree]:
    return {name: place.read(world.lab) for name, place in stack.places.items()}


def of_users(trees: dict[str, Tree]) -> dict[str, Any]:
    """What only users write: content, owner and mode by name, for a stack that has run in between."""
    return {
        f"{place}:{name}": (entry.kind, entry.mode, entry.uid, entry.gid, entry.content)
        for place, tree in trees.items()
        for name, entry in tree.items()
        if not LIVE.match(name)
    }


# ---- the host


def inspect(world: World, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(world.docker("inspect", name))
    return found[0]


def started(world: World, name: str) -> str:
    return str(inspect(world, name)["State"]["StartedAt"])


def policies(world: World, names: Iterable[str]) -> dict[str, str]:
    return {name: str(inspect(world, name)["HostConfig"]["RestartPolicy"]["Name"]) for name in names}


def running(world: World) -> set[str]:
    return set(world.docker("ps", "--format", "{{.Names}}").split())


def answers(world: World, stack: Stack) -> None:
    """The old stack is back: each service answers on the port that it had, and whoever was logged in still is."""
    for name, path in (("comfy", "/system_stats"), ("ollama", "/api/tags"), ("openwebui", "/ready")):
        url = f"http://127.0.0.1:{stack.ports[name]}{path}"
        until(partial(world.sh, f"curl -fsS -o /dev/null {url} && echo yes || true"), 60, url)
    assert stack.who(world.lab, stack.ports["openwebui"]) == stacks.LOGIN["email"]


def models(world: World) -> list[str]:
    """What Open WebUI offers: it has Ollama's models only where it reaches Ollama."""
    return [str(model["name"]) for model in json.loads(world.sh("curl -fsS http://127.0.0.1:11434/api/tags"))["models"]]


def ours(world: World, stack: Stack) -> None:
    """Our stack serves with the old stack's data, and its containers are kept."""
    done = world.invoke("validate")
    assert done.code == 0, done.seen
    assert stack.who(world.lab, 3000) == stacks.LOGIN["email"], "nobody is logged out"
    assert models(world) == [f"{stacks.MODEL}:latest"]
    kept = {f"{name}-before-pantheon" for name in stack.containers.values()}
    assert set(SERVICES) | kept <= set(world.ids())
    assert running(world) & kept == set()
    assert set(policies(world, kept).values()) == {"no"}


class Cut:
    """A run under way, followed by what its plan says it does."""

    def __init__(self, world: World, *argv: str) -> None:
        self.world, self.argv = world, argv
        self.before = set(world.logs.glob("logs/*.log"))

    def journal(self) -> str:
        files = set(self.world.logs.glob("logs/*.log")) - self.before
        return files.pop().read_text() if files else ""

    def at(self, matches: Callable[[dict[str, Any]], bool], by: Callable[[Running], None]) -> None:
        """Start it, and end it with `by` when the first step that matches is under way."""
        plan = self.world.invoke(*self.argv[:2], "--plan", "--json").json
        index = next(n for n, step in enumerate(_steps(plan)) if matches(step))
        with self.world.running(*self.argv) as under_way:
            until(
                lambda: f'"step", "index": {index}' in self.journal() or under_way.process.poll() is not None,
                90,
                f"step {index}",
            )
            by(under_way)
            under_way.end(60)
        until(lambda: not self.world.sh(AT_WORK), 40, "nothing is at work on the host")


def _steps(plan: Any) -> list[dict[str, Any]]:
    """All steps of a plan as JSON, in order, wherever in the document it lies."""
    if isinstance(plan, dict):
        if "sections" in plan:
            return [step for section in plan["sections"] for change in section["changes"] for step in change["steps"]]
        return next((found for value in plan.values() if (found := _steps(value))), [])
    if isinstance(plan, list):
        return next((found for value in plan if (found := _steps(value))), [])
    return []


def copies(step: dict[str, Any]) -> bool:
    return step.get("mend") == "copy_tree" and step["arguments"]["mode"] == "final"


def starts(step: dict[str, Any]) -> bool:
    return "up" in step.get("run", ())


def kill(running: Running) -> None:
    running.process.kill()


@pytest.fixture(scope="module")
def planted(world: World) -> Iterator[Callable[[str], tuple[Stack, dict[str, Tree]]]]:
    """Plants each stack once, one after the other on the same host, and keeps what was there."""
    made: dict[str, tuple[Stack, dict[str, Tree]]] = {}

    def plant(kind: str) -> tuple[Stack, dict[str, Tree]]:
        if kind not in made:
            if made:
                stacks.clear(world.lab)
            else:
                world.make("fresh")
            world.state = "dirty"
            stack = stacks.plant(world.lab, kind)
            made[kind] = stack, read(world, stack)
        return made[kind]

    yield plant
    faults.heal(world.lab)
    world.state = "dirty"


Planted = Callable[[str], tuple[Stack, dict[str, Tree]]]


def adopted(world: World) -> Ran:
    done = world.invoke("bringup", "--adopt", "--yes", timeout=150)
    assert done.code == 0, done.seen
    return done


class TestAnotherStyle:
    """A Compose project of another name and place, named volumes, other ports on all addresses, and a service in the
    same file that is none of ours."""

    def test_nothing_is_done_unasked(self, world: World, planted: Planted) -> None:
        stack, _ = planted("compose")
        with world.unchanged("/srv"):
            for argv in (("bringup", "--yes"), ("ollama", "--yes")):
                done = world.invoke(*argv)
                assert done.code == 2, done.seen
                assert "invoke bringup --adopt" in done.all
            done = world.invoke("bringup", "--adopt")
            assert done.code != 0, done.seen
            shown = world.invoke("bringup", "--adopt", "--plan")
            assert shown.code == 2, shown.seen
        for name in stack.containers.values():
            assert f"{name}-before-pantheon" in shown.all
        for place in (COMFY, OUTPUTS, OLLAMA, WEBUI):
            assert place in shown.all
        assert stack.key not in shown.all

    def test_no_room(self, world: World, planted: Planted) -> None:
        planted("compose")
        with faults.small_disk(world.lab, "/mnt/local/nvme", mib=4), world.unchanged("/srv"):
            done = world.invoke("bringup", "--adopt", "--yes")
        assert done.code == 2, done.seen
        assert "MiB" in done.all

    def test_killed_while_it_copies_and_taken_back(self, world: World, planted: Planted) -> None:
        stack, before = planted("compose")
        notes = started(world, stack.foreign)
        Cut(world, "bringup", "--adopt", "--yes").at(copies, kill)
        assert read(world, stack) == before, "the old data is as it was"
        assert stack.foreign in running(world)
        back = world.invoke("bringup", "--undo", "--yes")
        assert back.code == 0, back.seen
        answers(world, stack)
        assert set(stack.containers.values()) <= running(world)
        assert policies(world, stack.containers.values()) == {
            "my-comfy": "always", "homelab-llm-1": "unless-stopped", "open-webui": "unless-stopped",
        }  # fmt: skip
        assert of_users(read(world, stack)) == of_users(before)
        assert started(world, stack.foreign) == notes

    def test_killed_on_the_host_and_finished(self, world: World, planted: Planted) -> None:
        stack, before = planted("compose")
        notes = started(world, stack.foreign)

        def kill_runner(_: Running) -> None:
            world.sh("pkill -9 -f '^python3 .*dict[(]frame='")

        Cut(world, "bringup", "--adopt", "--yes").at(starts, kill_runner)
        stopped = read(world, stack)
        assert of_users(stopped) == of_users(before)
        done = adopted(world)
        ours(world, stack)
        complete(world, stack, stopped)
        assert read(world, stack) == stopped, "the old data is as it was"
        assert started(world, stack.foreign) == notes
        kept = f"{stack.compose_file}.before-pantheon"
        assert world.sh(f"test -e {stack.compose_file} || ls {kept}") == kept
        project = stack.foreign.rpartition("-notes")[0]
        world.sh(f"docker compose -p {project} -f {kept} up -d --no-deps notes 2>&1")  # as the plan says
        assert started(world, stack.foreign) == notes
        assert stack.key not in done.all
        assert stack.key not in world.sh("cat /var/log/pantheon/* /var/lib/pantheon/*.json")
        assert world.sh("stat -c %a:%u /opt/stacks/ai/secrets/webui_secret_key") == "600:0"

    def test_taken_back_afterwards(self, world: World, planted: Planted) -> None:
        stack, before = planted("compose")
        notes = started(world, stack.foreign)
        world.sh(f"echo new >{OUTPUTS}/new.png")
        back = world.invoke("bringup", "--undo", "--yes")
        assert back.code == 0, back.seen
        answers(world, stack)
        assert set(stack.containers.values()) | {stack.foreign} == running(world)
        assert of_users(read(world, stack)) == of_users(before)
        assert started(world, stack.foreign) == notes
        assert world.sh(f"cat {OUTPUTS}/new.png") == "new", "the copies stay"
        assert not set(world.ids()) & set(SERVICES)


class TestDockerRun:
    """Three `docker run`: BASE_DIRECTORY, data in a container's own layer, a login key in another's."""

    def test_adopted(self, world: World, planted: Planted) -> None:
        stack, before = planted("run")
        adopted(world)
        ours(world, stack)
        complete(world, stack, before)
        after = read(world, stack)
        assert of_users(after) == of_users(before)
        assert not lacks(before["base"], after["base"], None)
        assert not world.sh("ls -d /mnt/local/*/ai/*.pantheon* /mnt/local/*/ai/*/*.pantheon* 2>/dev/null || true")

    def test_moved_and_then_all_of_it_taken_back(self, world: World, planted: Planted) -> None:
        """hosts.toml names the new project to the end; a container that ended again and again does so again."""
        stack, before = planted("run")
        assert set(SERVICES) <= running(world)
        world.inventory(project="house", stack_dir="/srv/stacks/house")
        done = world.invoke("bringup", "--yes", timeout=150)
        assert done.code == 0, done.seen
        first = world.invoke("bringup", "--undo", "--yes")
        assert first.code == 0, first.seen
        assert "the takeover of" in first.all
        assert set(SERVICES) <= running(world)
        shown = world.invoke("bringup", "--undo", "--plan")
        assert shown.code == 2, shown.seen
        assert all(name in shown.all for name in stack.containers.values())
        second = world.invoke("bringup", "--undo", "--yes")
        assert second.code == 0, second.seen
        answers(world, stack)
        assert not {name for name in running(world) if name in SERVICES}
        assert set(stack.containers.values()) <= running(world)
        assert of_users(read(world, stack)) == of_users(before)


class TestInPlace:
    """Already where ours is, with other owners."""

    def test_used_in_place_and_taken_back(self, world: World, planted: Planted) -> None:
        stack, before = planted("in-place")
        inodes = world.sh(f"stat -c %i {COMFY} {OLLAMA} {OUTPUTS} {WEBUI}")
        assert "in place" in adopted(world).all
        ours(world, stack)
        complete(world, stack, before)
        assert world.sh(f"stat -c %i {COMFY} {OLLAMA} {OUTPUTS} {WEBUI}") == inodes, "nothing was copied"
        assert world.sh("ls /opt/stacks/ai/docker-compose.yml.before-pantheon")
        world.sh(f"install -d -o1024 -g1024 {OUTPUTS}/2027 && install -o1024 -g1024 /dev/null {OUTPUTS}/2027/new.png")
        back = world.invoke("bringup", "--undo", "--yes")
        assert back.code == 0, back.seen
        answers(world, stack)
        assert world.sh("ls /opt/stacks/ai/docker-compose.yml")
        now = of_users(read(world, stack))
        assert {name: now.get(name) for name in of_users(before)} == of_users(before), "owners and all"
        made = world.sh(f"stat -c %u:%g {OUTPUTS}/2027 {OUTPUTS}/2027/new.png").split()
        assert made == ["1000:1000"] * 2, "the old stack can go on in what ours has made"
