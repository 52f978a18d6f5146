"""The key of Open WebUI's sessions: missing, changed, or in the container; who logs in once more is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis, layout, stack
from pantheon.evidence import LoginKey
from pantheon.facts import Container, EnvValue, Facts, Http, TextFile, Unknown, digest
from pantheon.finding import Finding
from pantheon.fixes import openwebui_logins as entry
from pantheon.incident import Case
from pantheon.plan import MakeSecret, Mend, SectionPlan
from tests.unit import world

KEY = layout.secret_key(world.HOST)
MADE = "2026-11-21T23:01:04.788987961Z"
BEFORE, AFTER = "2026-11-21T23:01:04Z", "2026-11-21T23:02:00Z"
GENERATED = "Generating WEBUI_SECRET_KEY"


def env_value(value: str, *, from_image: bool = False) -> EnvValue:
    return EnvValue(None, digest(world.NONCE, value), from_image)


def having(*, size: int | None = 64, env: dict[str, EnvValue | None] | None = None, **changes: Any) -> Facts:
    facts = world.finished()
    made = facts.container("openwebui")
    assert isinstance(made, Container)
    file = TextFile(KEY, "", 0, 0, 0o600, size, None) if size is not None else None
    told = {name: value for name, value in {**made.env, **(env or {})}.items() if value is not None}
    facts = world.having(facts, openwebui=replace(made, env=told, **changes))
    entries = {**facts.paths, KEY: world.entry(KEY, kind="file", mode=0o600) if file else None}
    return replace(facts, paths=entries, files={**facts.files, KEY: file})


def without_secret(**changes: Any) -> Facts:
    """Made by hand: neither the mount nor the name of the file."""
    made = world.finished().container("openwebui")
    assert isinstance(made, Container)
    mounts = tuple(m for m in made.mounts if m.target != stack.SECRET_IN_CONTAINER)
    return having(mounts=mounts, env={entry.FILE: None}, **changes)


def case(facts: Facts, in_use: str = "same", changed: str = BEFORE) -> Case:
    return world.case(facts, login=LoginKey(changed, MADE, in_use) if in_use else None)


def ids(found: list[Finding]) -> list[str]:
    return [finding.id.removeprefix("openwebui-logins.") for finding in found]


@pytest.mark.parametrize(
    ("facts", "in_use", "changed", "found"),
    [
        (having(), "same", BEFORE, []),
        (having(), "same", AFTER, []),
        (having(), "none", AFTER, []),
        (having(), "other", BEFORE, []),  # older than the container: not of our making, and not in a start yet
        (having(), "other", AFTER, ["changed"]),
        (having(size=0), "other", AFTER, ["missing"]),
        (having(size=1), "other", "", ["missing"]),  # a line's end alone
        (having(size=None), "other", "", ["missing"]),
        (having(size=None, state="exited", health=None), "none", "", ["missing"]),
        (without_secret(), "other", BEFORE, ["inside"]),
        (without_secret(size=None), "other", "", ["missing", "inside"]),
        (having(env={entry.FILE: EnvValue("/app/key", "", False)}), "other", BEFORE, ["inside"]),
        (having(env={entry.KEY: env_value("x")}), "other", BEFORE, ["inside"]),
        (having(env={entry.KEY: env_value("", from_image=True)}), "same", BEFORE, []),
        (having(labels={}), "other", AFTER, []),
        (world.fresh(), "", "", []),
    ],
)
def test_what_became_of_the_key(facts: Facts, in_use: str, changed: str, found: list[str]) -> None:
    assert ids(entry.diagnose(case(facts, in_use, changed))) == found


@pytest.mark.parametrize(
    ("facts", "in_use", "changed", "stake"),
    [
        (having(), "same", BEFORE, False),
        (having(), "none", BEFORE, False),
        (having(size=None), "other", "", True),
        (having(), "other", AFTER, True),
        (without_secret(), "other", BEFORE, False),
        (having(size=None, state="exited"), "other", "", False),
        (having(size=None, labels={}), "other", "", False),
        (having(size=None), "", "", False),
    ],
)
def test_when_stopping_it_would_lose_the_key(facts: Facts, in_use: str, changed: str, stake: bool) -> None:
    finding = entry.at_stake(case(facts, in_use, changed))
    assert bool(finding) == stake
    assert finding is None or "invoke fix.openwebui-logins" in finding.mend


def test_what_the_image_sets_is_not_taken_for_somebodys_while_nobody_knows_it() -> None:
    facts = having(env={entry.KEY: env_value("")})  # as every container looks where containerd does not answer
    assert ids(entry.diagnose(case(facts, "same", BEFORE))) == ["inside"]
    unknown = replace(facts, images={image: Unknown("Docker answered 503") for image in facts.images})
    assert entry.diagnose(case(unknown, "same", BEFORE)) == []


def test_a_directory_that_docker_made_in_its_place_is_a_humans_to_move() -> None:
    facts = having(size=None)
    facts = replace(facts, files={**facts.files, KEY: Unknown(f"not a regular file but a directory: {KEY}")})
    facts = replace(facts, paths={**facts.paths, KEY: world.entry(KEY, kind="dir", mode=0o755)})
    (finding,) = entry.diagnose(case(facts, "other", ""))
    assert (finding.id, "a directory" in finding.evidence) == ("openwebui-logins.missing", True)
    section = entry.plan(case(facts, "other", ""))
    assert (section.changes, len(section.blocked)) == ((), 1)
    linked = replace(facts, files={**facts.files, KEY: Unknown(f"not a regular file but a symlink: {KEY}")})
    assert entry.diagnose(case(linked, "same", BEFORE)) == []


def test_a_key_that_cannot_be_looked_at_is_not_missing() -> None:
    facts = having()
    facts = replace(facts, files={**facts.files, KEY: Unknown("permission denied")})
    assert entry.diagnose(world.case(facts, login=Unknown("no answer"))) == []


def test_the_log_tells_of_a_key_that_was_made_inside() -> None:
    (finding,) = entry.diagnose(case(without_secret(log_markers=(GENERATED,)), "other"))
    assert GENERATED in finding.evidence


def test_a_key_of_hosts_toml_is_the_users_own() -> None:
    host = replace(world.HOST, openwebui=replace(world.HOST.openwebui, env={entry.KEY: "x" * 30}))
    facts = world.finished(host)
    assert entry.diagnose(replace(case(facts), host=host)) == []


def key_steps(section: SectionPlan) -> list[Mend]:
    return [step for change in section.changes for step in change.steps if isinstance(step, Mend)]


@pytest.mark.parametrize(
    ("facts", "in_use", "says", "why"),
    [
        (having(size=None), "other", "the running server signs with", "nobody is logged out"),
        (having(), "other", "keep the one that is there", "nobody is logged out"),
        (having(size=0), "none", "make a random key", "everybody logs in once more"),
    ],
)
def test_the_key_in_use_is_carried_over(facts: Facts, in_use: str, says: str, why: str) -> None:
    section = entry.plan(case(facts, in_use, AFTER))
    (step,) = key_steps(section)
    assert says in step.show()
    assert why in section.changes[0].why
    assert step.arguments == {"container": "openwebui", "path": KEY, "carry": True}
    assert not any(isinstance(s, MakeSecret) for change in section.changes for s in change.steps)


def test_an_older_key_stays_when_the_container_was_made_by_hand() -> None:
    section = entry.plan(case(without_secret(), "other"))
    assert key_steps(section) == []
    (change,) = section.changes
    assert "recreate" in change.what
    assert "logs in once more" in change.why
    assert change.stops == ("openwebui",)


def test_missing_and_inside_at_once_carries_and_recreates() -> None:
    section = entry.plan(case(without_secret(size=None), "other", ""))
    assert [isinstance(change.steps[0], Mend) for change in section.changes] == [True, False]


def test_never_in_a_migration() -> None:
    facts = without_secret(log_markers=("INFO  [alembic.runtime.migration] Running upgrade a -> b, c",))
    facts = replace(facts, http={**facts.http, "openwebui/ready": Http("", 503, "", "", "", 1.0)})
    section = entry.plan(case(facts, "other"))
    assert (section.changes, [f.id for f in section.blocked]) == ((), ["openwebui-logins.migration"])


def test_nothing_to_do_has_a_reason() -> None:
    for facts in (having(), world.fresh()):
        section = entry.plan(case(facts))
        assert (section.changes, section.blocked, bool(section.reason)) == ((), (), True)


def test_a_missing_key_explains_the_container_that_does_not_start() -> None:
    facts = having(size=None, state="exited", health=None, error="bind source path does not exist")
    closed = Http("", 0, "", "", "connection refused", 1.0)
    facts = replace(facts, http={**facts.http, "openwebui": closed})
    found = diagnosis.diagnose(case(facts, "none", ""))
    assert [cause.finding.id for cause in found.causes] == ["openwebui-logins.missing"]
