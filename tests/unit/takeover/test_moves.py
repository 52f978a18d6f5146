"""Our own stack where hosts.toml has moved it: no service starts on an empty directory because a path changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pantheon import layout, memory, procedure
from pantheon.facts import Facts
from pantheon.inventory import Host, Storage
from pantheon.plan import Mend, Plan
from pantheon.takeover import moves, record
from pantheon.takeover.plan import Taking
from tests.unit import world
from tests.unit.takeover.olds import GIB, comfy_source, place, taking
from tests.unit.world import HOST, finished, having, root

AWAY = replace(HOST, storage=Storage(nvme="/srv/fast", ssd="/srv/large"))
PROJECT = replace(HOST, project="house")
FOLDER = replace(HOST, stack_dir="/srv/stacks/ai")


def looked(host: Host, facts: Facts | None = None) -> Facts:
    """The finished host, looked at with another hosts.toml."""
    facts = facts or finished()
    paths = world.fresh(host).paths | {path: root(path) for path in (host.storage.nvme, host.storage.ssd)}
    files = world.fresh(host).files
    spaces = {**facts.spaces, **dict.fromkeys((host.storage.nvme, host.storage.ssd), facts.spaces["docker"])}
    known = {path: entry for path, entry in facts.paths.items() if path in paths and entry is not None}
    there = {path: file for path, file in facts.files.items() if path in files}
    trees = world.fresh(host).trees | {p: t for p, t in facts.trees.items() if p in world.fresh(host).trees}
    return replace(facts, paths={**paths, **known}, files={**files, **there}, spaces=spaces, trees=trees)


def old_places(size: int = GIB, host: Host = HOST) -> list[Any]:
    wanted = moves.wanted(host)
    return [
        comfy_source(wanted["comfy-mnt"]),
        *(place(path, size) for name, path in wanted.items() if name != "comfy-mnt"),
    ]


def plan(host: Host, facts: Facts, it: Taking) -> Plan:
    return procedure.plan(host, facts, procedure.ORDER, taking=it)


def mends(it: Taking, name: str) -> list[dict[str, Any]]:
    steps = (step for section in it.sections for change in section.changes for step in change.steps)
    return [step.arguments for step in steps if isinstance(step, Mend) and step.name == name]


def text(it: Plan) -> str:
    return "\n".join(step.show() for change in it.changes for step in change.steps)


def test_another_storage_root_is_copied_to() -> None:
    facts = looked(AWAY)
    assert moves.is_pending(AWAY, facts)
    it = taking(facts, *old_places(), host=AWAY, adopt=False)
    assert not it.blocked, it.blocked
    assert {c["target"] for c in mends(it, "copy_tree")} == set(moves.wanted(AWAY).values())
    whole = plan(AWAY, facts, it)
    assert not whole.blocked, whole.blocked
    assert "docker rename" not in text(whole)
    assert text(whole).count("--force-recreate") == 3
    assert it.record.kind == "move"
    sources = {c["parts"][0]["source"] for c in mends(it, "copy_tree")}
    assert sources == set(moves.wanted(HOST).values())


@pytest.mark.parametrize("service", ["comfy", "ollama", "openwebui"])
def test_a_service_alone_never_starts_on_an_empty_directory(service: str) -> None:
    plan = procedure.plan(AWAY, looked(AWAY), (service,))
    assert any("hosts.toml says" in f.text and "invoke bringup" in f.mend for f in plan.blocked)


def test_nor_where_its_container_is_gone() -> None:
    """What the host was last brought up with tells where the data lies."""
    state = json.dumps(memory.remember(HOST, finished(), who="a@b", there=moves.wanted(HOST)))
    facts = replace(having(looked(AWAY), comfy=None, ollama=None, openwebui=None), state=state)
    for service in ("ollama", "comfy"):
        assert any(f.id == f"{service}.moved" for f in procedure.plan(AWAY, facts, (service,)).blocked)
    it = taking(facts, *old_places(), host=AWAY, adopt=False)
    assert not it.blocked, it.blocked
    assert len(mends(it, "copy_tree")) == 5
    assert not plan(AWAY, facts, it).blocked


def test_an_older_memory_knows_the_roots() -> None:
    state = json.dumps({"inventory": {"storage": {"nvme": "/a", "ssd": "/b"}}})
    assert memory.places(replace(finished(), state=state))["openwebui"] == "/b/ai/projects/openwebui"
    for text in ("", "[]", "{}", '{"inventory": 3}', '{"places": 3}', '{"inventory": {"storage": {"nvme": 3}}}'):
        assert memory.places(replace(finished(), state=text)) == {}


def test_another_project_name() -> None:
    facts = looked(PROJECT)
    it = taking(facts, host=PROJECT, adopt=False)
    assert not it.blocked, it.blocked
    assert not mends(it, "copy_tree")
    whole = plan(PROJECT, facts, it)
    assert not whole.blocked, whole.blocked
    assert "comfy-before-pantheon" in text(whole)
    assert "docker compose -p house" in text(whole)
    assert any("under the project name" in f.text for f in procedure.plan(PROJECT, facts, ("comfy",)).blocked)


def test_another_stack_directory_takes_the_login_key_along() -> None:
    facts = looked(FOLDER)
    assert moves.is_pending(FOLDER, facts)
    it = taking(facts, place(layout.compose_file(HOST), kind="file"), host=FOLDER, adopt=False)
    assert not it.blocked, it.blocked
    (key,) = mends(it, "webui_key")
    assert key["path"] == layout.secret_key(FOLDER)
    assert key["carry"] is False
    (moved,) = mends(it, "rename_path")
    assert moved["moves"][0]["from"] == layout.compose_file(HOST)
    whole = plan(FOLDER, facts, it)
    assert not whole.blocked, whole.blocked
    assert "make a random key" not in text(whole)
    assert any(f.id == "openwebui.moved" for f in procedure.plan(FOLDER, facts, ("openwebui",)).blocked)


def test_moved_by_hand_is_taken_as_it_is() -> None:
    there = [comfy_source(moves.wanted(AWAY)["comfy-mnt"]), *old_places(host=AWAY)[1:]]
    it = taking(looked(AWAY), *there, host=AWAY, adopt=False)
    assert not it.blocked, it.blocked
    assert not mends(it, "copy_tree")


def test_both_places_hold_data() -> None:
    it = taking(looked(AWAY), *old_places(), *old_places(host=AWAY), host=AWAY, adopt=False)
    assert all("is not empty" in finding.text for finding in it.blocked)
    assert it.blocked


def test_the_disk_is_not_there() -> None:
    it = taking(looked(AWAY), host=AWAY, adopt=False)
    assert any("is its disk mounted?" in finding.evidence for finding in it.blocked)


def test_once_it_is_there_an_ordinary_plan_goes_on() -> None:
    """Cut short behind the copies: the containers are still made from the old place."""
    facts = looked(AWAY)
    it = taking(facts, *old_places(), host=AWAY, adopt=False)
    file = world.text_file(layout.TAKEOVER, it.record.at("ready").text(), 0o600)
    after = replace(facts, files={**facts.files, layout.TAKEOVER: file})
    assert not moves.elsewhere(AWAY, after)
    assert not procedure.plan(AWAY, after, procedure.ORDER).blocked or not any(
        f.id.endswith(".moved") for f in procedure.plan(AWAY, after, procedure.ORDER).blocked
    )


def test_begun_it_goes_on_without_a_word() -> None:
    facts = looked(AWAY)
    first = taking(facts, *old_places(), host=AWAY, adopt=False)
    file = world.text_file(layout.TAKEOVER, first.record.text(), 0o600)
    half = replace(facts, files={**facts.files, layout.TAKEOVER: file})
    assert moves.is_pending(AWAY, half)
    again = taking(half, *old_places(), host=AWAY, adopt=False)
    assert again.record == first.record
    assert len(mends(again, "copy_tree")) >= 5
    assert "takeover.open" in {f.id for f in procedure.plan(AWAY, half, ("ollama",)).blocked}


def test_an_apply_of_something_else_does_not_forget_where_the_data_is() -> None:
    state = json.dumps(memory.remember(HOST, finished(), who="a@b", there=moves.wanted(HOST)))
    facts = replace(looked(AWAY), state=state)
    storage = Plan("x", tuple(s for s in procedure.plan(AWAY, facts, ("storage",)).sections))
    later = json.dumps(memory.remember(AWAY, facts, who="a@b", there=moves.brought(AWAY, storage)))
    assert moves.elsewhere(AWAY, replace(facts, state=later))


def test_a_mount_that_was_changed_by_hand_is_drift() -> None:
    state = json.dumps(memory.remember(HOST, finished(), who="a@b", there=moves.wanted(HOST)))
    made = world.container(HOST, "ollama")
    drifted = replace(made, mounts=tuple(replace(m, source="/elsewhere") for m in made.mounts))
    facts = replace(having(finished(), ollama=drifted), state=state)
    assert not moves.is_pending(HOST, facts)
    assert len(procedure.plan(HOST, facts, procedure.ORDER).changes) == 1


def test_a_finished_host_moves_nothing() -> None:
    assert not moves.is_pending(HOST, finished())
    it = taking(finished(), adopt=False)
    assert not it.record.containers


def test_undone_it_is_where_it_was() -> None:
    data = tuple(record.Place("x", old, new, "copied") for old, new in
                 zip(moves.wanted(HOST).values(), moves.wanted(AWAY).values(), strict=True))  # fmt: skip
    for host in (AWAY, HOST):  # hosts.toml has the new places still, or the old ones again
        back = {one.name: one.old for one in moves.undone(host, record.Record("move", "ready", data=data))}
        assert back == moves.wanted(HOST)


def test_of_two_in_the_middle_of_a_recreate_the_one_with_the_right_name_counts() -> None:
    real = world.container(HOST, "ollama")
    half = replace(real, id="e" * 64, name="0123456789ab_ollama")
    facts = finished()
    assert isinstance(facts.containers, tuple)
    others = tuple(one for one in facts.containers if one.name != "ollama")
    for order in ((half, real), (real, half)):
        assert moves.ours(replace(facts, containers=(*others, *order)))["ollama"].name == "ollama"
