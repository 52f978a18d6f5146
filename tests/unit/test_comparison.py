"""Two audits held against each other, and files that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pantheon.comparison import KINDS, compare, read
from pantheon.control import STATUSES, Status
from pantheon.errors import UsageError
from tests.unit.audits import SOME, audit, result


def old(*results: Any, **changes: Any) -> str:
    return json.dumps({**audit(*results).as_data(), **changes})


def compared(before: list[Any], after: list[Any]) -> list[tuple[str, str]]:
    earlier = read(old(*before), path="old.json", host="prometheus")
    return [(one.kind, one.id) for one in compare(earlier, after).differences]


class TestCompare:
    @pytest.mark.parametrize(
        ("before", "after", "kind"),
        [
            ("pass", "fail", "now failing"),
            ("pass", "unknown", "now failing"),
            ("waived", "fail", "now failing"),
            ("not applicable", "fail", "now failing"),
            ("fail", "pass", "mended"),
            ("unknown", "pass", "mended"),
            ("fail", "waived", "other verdict"),
            ("fail", "unknown", "other verdict"),
            ("fail", "not applicable", "other verdict"),
            ("pass", "not applicable", "other verdict"),
            ("waived", "pass", "other verdict"),
        ],
    )
    def test_verdicts(self, before: Status, after: Status, kind: str) -> None:
        assert compared([result("a.b", before)], [result("a.b", after)]) == [(kind, "a.b")]

    @pytest.mark.parametrize("status", STATUSES)
    def test_the_same(self, status: Status) -> None:
        assert compared([result("a.b", status, evidence="x")], [result("a.b", status, evidence="x")]) == []

    def test_other_evidence(self) -> None:
        earlier = read(old(result("a.b", "fail", evidence="one")), path="o", host="prometheus")
        (found,) = compare(earlier, [result("a.b", "fail", evidence="two")]).differences
        assert (found.kind, found.evidence_before, found.evidence_after) == ("other evidence", "one", "two")

    def test_other_words_are_no_change(self) -> None:
        """A new pantheon may word a title or a mend in another way, or weigh it so."""
        before = result("a.b", "fail", "low", "seen", "do this", title="One")
        assert compared([before], [result("a.b", "fail", "high", "seen", "do that", title="Two")]) == []

    def test_new_and_gone_and_the_order(self) -> None:
        before = [result("a.gone"), result("a.same"), result("b.worse"), result("c.better", "fail"), result("d.worse")]
        after = [result("e.new"), result("d.worse", "fail"), result("c.better"), result("b.worse", "fail")]
        assert compared(before, [*after, result("a.same")]) == [
            ("now failing", "d.worse"),
            ("now failing", "b.worse"),
            ("mended", "c.better"),
            ("new control", "e.new"),
            ("gone control", "a.gone"),
        ]

    def test_as_data(self) -> None:
        earlier = read(old(result("a.b", "fail", evidence="x")), path="o", host="prometheus")
        document: Any = compare(earlier, [result("a.b")]).as_data()
        assert document["since"] == "2026-11-22T05:20:26Z"
        assert document["counts"]["mended"] == 1
        assert list(document["counts"]) == [kind.replace(" ", "_") for kind in KINDS]
        assert document["differences"] == [
            {
                "kind": "mended", "id": "a.b", "title": "Title of a.b", "before": "fail", "after": "pass",
                "evidence_before": "x", "evidence_after": "",
            }
        ]  # fmt: skip

    def test_with_itself(self) -> None:
        earlier = read(old(*SOME), path="o", host="prometheus")
        assert compare(earlier, SOME).differences == ()


class TestRead:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not JSON (Expecting value: line 1 column 1 (char 0))"),
            ("AUDIT lab", "not JSON (Expecting value: line 1 column 1 (char 0))"),
            ("[" * 100_000, "not JSON (maximum recursion depth exceeded"),
            ("[]", "no audit, not what `invoke audit --json` writes"),
            ("null", "no audit, not what `invoke audit --json` writes"),
            ("{}", "no audit, not what `invoke audit --json` writes"),
            ('{"result": "diagnosis"}', 'a result of "diagnosis", not what `invoke audit --json` writes'),
            ('{"result": "failed", "exit_code": 3}', 'a result of "failed", not what `invoke audit --json` writes'),
            (old(schema=2), "an audit of schema 2; this pantheon compares schema 1"),
            (old(schema="x"), "an audit of schema 'x'; this pantheon compares schema 1"),
            (old(host="other"), "that is an audit of 'other', not of 'prometheus'"),
            (old(controls={}), "there are no controls in it"),
            (old(controls=[1]), "a control in it has no id"),
            (old(controls=[{"status": "pass"}]), "a control in it has no 'id'"),
            (old(controls=[{"id": 3, "status": "pass"}]), "a control in it has no proper id"),
            (old(controls=[{"id": "a.b"}]), "a control in it has no 'status'"),
            (old(controls=[{"id": "a.b", "status": "ok"}]), "a control in it has no verdict known here ('ok')"),
        ],
    )
    def test_what_is_none(self, text: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            read(text, path="old.json", host="prometheus")
        assert caught.value.message.startswith(f"--compare old.json: {message}")
        assert caught.value.next_commands == ("invoke audit --json --host prometheus > FILE",)
