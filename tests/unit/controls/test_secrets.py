"""Who may read what is secret, and who may write where the stack lives."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from pantheon import layout
from pantheon.control import Status, Verdict
from pantheon.controls import secrets
from pantheon.facts import TextFile, Unknown
from pantheon.upkeep import OpenTree, SecretFile
from tests.unit.world import HOST, case, entry, finished, fresh

FOLDER, KEY = layout.secrets(HOST), layout.secret_key(HOST)


def judged(name: str, facts: Any = None, **evidence: Any) -> Verdict:
    given = {"secret_files": (), **evidence}
    control = next(c for c in secrets.CONTROLS if c.id == f"secrets.{name}")
    return control.judge(case(facts or finished(), **given))


def as_typed(*argv: str) -> str:
    return case(finished()).host.ssh(shlex.join(argv))


def key(**changes: Any) -> Any:
    facts = finished()
    file = TextFile(KEY, "", 0, 0, 0o600, 64, None)
    return replace(facts, files={**facts.files, KEY: replace(file, **changes)})


class TestStack:
    def test_ours(self) -> None:
        assert judged("stack").status == "pass"

    def test_nothing_is_there_yet(self) -> None:
        assert judged("stack", fresh()).status == "not applicable"

    @pytest.mark.parametrize("changes", [{"mode": 0o644}, {"mode": 0o640}, {"mode": 0o604}, {"uid": 1000}])
    def test_an_open_key(self, changes: dict[str, int]) -> None:
        verdict = judged("stack", key(**changes))
        assert verdict.status == "fail"
        assert verdict.evidence.startswith(f"{KEY} is mode")
        assert verdict.mend == "invoke bringup --host prometheus"

    def test_an_open_folder(self) -> None:
        facts = finished()
        facts = replace(facts, paths={**facts.paths, FOLDER: entry(FOLDER, mode=0o755)})
        assert judged("stack", facts).evidence == f"{FOLDER} is 0's, mode 0755: it should be root's, 0700"

    def test_an_env_file_that_somebody_put_beside(self) -> None:
        path = "/opt/stacks/ai/my keys.env"
        verdict = judged("stack", secret_files=(SecretFile(path, "stack", 0, 0, 0o644, True),))
        assert verdict.evidence == f"{path} is mode 0644, of user 0: it should be root's, 0600"
        assert verdict.mend == as_typed("sudo", "chmod", "0600", path)

    def test_the_same_file_is_told_once(self) -> None:
        verdict = judged("stack", key(mode=0o644), secret_files=(SecretFile(KEY, "stack", 0, 0, 0o644, False),))
        assert len(verdict.evidence.splitlines()) == 1

    def test_not_known(self) -> None:
        assert judged("stack", secret_files=Unknown("denied")) == Verdict(
            "unknown", "denied", "invoke diagnose --host prometheus"
        )
        facts = finished()
        facts = replace(facts, files={**facts.files, KEY: Unknown("denied")})
        assert judged("stack", facts).status == "unknown"

    def test_what_is_wrong_beats_what_is_not_known(self) -> None:
        assert judged("stack", key(mode=0o644), secret_files=Unknown("denied")).status == "fail"


@pytest.mark.parametrize(
    ("name", "file", "status"),
    [
        ("tokens", SecretFile("/root/.netrc", "token", 0, 0, 0o600, False), "pass"),
        ("tokens", SecretFile("/root/.netrc", "token", 0, 0, 0o644, False), "pass"),  # in a folder of his own
        ("tokens", SecretFile("/srv/a b/token", "token", 1024, 1024, 0o644, True), "fail"),
        ("tokens", SecretFile("/etc/ssh/k", "host key", 0, 0, 0o644, True), "not applicable"),
        ("host-keys", SecretFile("/etc/ssh/k", "host key", 0, 0, 0o600, False), "pass"),
        ("host-keys", SecretFile("/etc/ssh/k", "host key", 0, 0, 0o640, False), "fail"),
        ("host-keys", SecretFile("/etc/ssh/k", "host key", 1, 0, 0o600, False), "fail"),
    ],
)
def test_modes(name: str, file: SecretFile, status: Status) -> None:
    verdict = judged(name, secret_files=(file,))
    assert verdict.status == status
    if status == "fail":
        assert f"{file.path} is mode {file.mode:04o}" in verdict.evidence
        assert verdict.mend == as_typed("sudo", "chmod", "0600", file.path)


@pytest.mark.parametrize("name", ["tokens", "host-keys"])
def test_not_known(name: str) -> None:
    assert judged(name, secret_files=Unknown("denied")).status == "unknown"


def tree(path: str = "/mnt/a b", **changes: Any) -> OpenTree:
    return replace(OpenTree(path, 100, True, 0, ()), **changes)


class TestWorldWritable:
    def test_closed(self) -> None:
        assert judged("world-writable", open_trees={"/x": tree("/x"), "/y": None}).status == "pass"

    def test_open(self) -> None:
        found = tree(count=3, examples=("/mnt/a b/x (0777)", "/mnt/a b/y (0666)"))
        verdict = judged("world-writable", open_trees={"/mnt/a b": found, "/x": Unknown("denied")})
        assert verdict.status == "fail"
        assert verdict.evidence.splitlines() == ["/mnt/a b/x (0777)", "/mnt/a b/y (0666)", "and 1 more"]
        assert verdict.mend == as_typed("sudo", "chmod", "-R", "o-w", "/mnt/a b")

    @pytest.mark.parametrize(
        ("trees", "status"),
        [
            ({}, "unknown"),
            ({"/x": Unknown("denied")}, "unknown"),
            ({"/x": tree("/x"), "/y": Unknown("denied")}, "unknown"),
            ({"/x": tree("/x", complete=False)}, "unknown"),
            ({"/x": None}, "not applicable"),
        ],
    )
    def test_not_known(self, trees: dict[str, Any], status: Status) -> None:
        assert judged("world-writable", open_trees=trees).status == status
