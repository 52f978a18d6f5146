from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pantheon import memory
from tests.unit.world import HOST, fresh


def remembered(state: object) -> list[str]:
    facts = replace(fresh(), state=state if isinstance(state, str) or state is None else json.dumps(state))
    return [finding.text + " " + finding.evidence for finding in memory.warnings(HOST, facts)]


def test_nothing_remembered_nothing_said() -> None:
    assert remembered(None) == []


@pytest.mark.parametrize("state", ["", "{", "[]", "null", '{"version": null, "seen": "x"}', '{"seen": {}}'])
def test_a_broken_state_file_is_no_obstacle(state: str) -> None:
    assert remembered(state) == []


def test_what_was_just_applied_is_not_older() -> None:
    assert remembered(memory.remember(HOST, fresh(), who="me@here")) == []


def test_a_newer_pantheon_was_here() -> None:
    state = memory.remember(HOST, fresh(), who="you@there") | {"version": "99.0.0"}
    (text,) = remembered(state)
    assert "older than the one that brought prometheus up (99.0.0)" in text
    assert "you@there" in text


def test_an_inventory_that_was_replaced_since() -> None:
    first = memory.remember(HOST, fresh(), who="me@here")
    moved = replace(HOST, comfy=replace(HOST.comfy, port=9000))
    second = memory.remember(moved, replace(fresh(), state=json.dumps(first)), who="you@there")
    (text,) = remembered(second)
    assert "would undo newer state" in text
    assert "comfy.port: 9000 → 8188" in text


def test_a_new_inventory_is_just_a_change() -> None:
    moved = replace(HOST, comfy=replace(HOST.comfy, port=9000))
    assert remembered(memory.remember(moved, fresh(), who="you@there")) == []


def test_secrets_are_not_remembered() -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, env={"HF_TOKEN": "hf_sesame"}))
    assert "hf_sesame" not in json.dumps(memory.remember(host, fresh(), who="me@here"), default=str)
