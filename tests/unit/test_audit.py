"""An audit: what it ends with, what it asks for next, waivers, the flow of the command and its errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from pantheon import auditing, collect, controls, engine, repair
from pantheon.audit import Audit, by_subject
from pantheon.control import SEVERITIES, Control, Severity, Status, Verdict
from pantheon.errors import NotReached, UsageError
from pantheon.incident import Case, Choices
from pantheon.inventory import Host, Waiver
from pantheon.options import Options
from tests.unit.audits import SOME, TODAY, audit, result
from tests.unit.world import HOST, case, finished


class TestTheControls:
    def test_ids_are_of_one_shape_and_unique(self) -> None:
        ids = [control.id for control in controls.every()]
        assert len(ids) == len(set(ids))
        for control in controls.every():
            assert control.id.count(".") == 1, control.id
            assert control.id == control.id.lower()
            assert " " not in control.id
            assert control.severity in SEVERITIES
            assert control.title[:1].isupper() or control.title.split()[0].islower(), control.id
            assert not control.title.endswith("."), control.id
            assert control.source, control.id

    def test_a_subject_is_one_block(self) -> None:
        """Else the table would begin a subject twice."""
        order = [control.id.partition(".")[0] for control in controls.every()]
        assert order == sorted(order, key=order.index)

    def test_a_waiver_can_name_each_of_them(self) -> None:
        from pantheon.hostsfile import KEYS
        from pantheon.inventory import Waiver as Kind

        for control in controls.every():
            assert KEYS[Kind]["control"].check(control.id) == control.id

    def test_what_they_are_judged_on_is_gathered(self) -> None:
        assert set(controls.MORE) <= set(collect.MORE)

    @pytest.mark.parametrize("facts", ["finished", "nothing known"])
    def test_none_stumbles(self, facts: str) -> None:
        """A mistake in a judge would be an unknown that says so."""
        from pantheon.facts import Unknown

        seen = finished()
        if facts != "finished":
            unknown = Unknown("denied")
            seen = replace(
                seen, os=unknown, nvml=unknown, docker=unknown, containers=unknown, listeners=unknown, mounts=unknown,
                paths=dict.fromkeys(seen.paths, unknown), files=dict.fromkeys(seen.files, unknown),
                toolkit=unknown, module_version=unknown, library_version=unknown, nvidia_smi=unknown,
            )  # fmt: skip
        results = controls.judge(case(seen), today=TODAY)
        assert [r.verdict.evidence for r in results if "could not be judged" in r.verdict.evidence] == []
        said = [r.control.id for r in results if r.verdict.status in ("fail", "unknown") and not r.verdict.evidence]
        assert said == [], "a fail or an unknown without evidence"


class TestJudging:
    def judged(self, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, *waivers: Waiver) -> Any:
        control = Control("net.bind", "T", "high", "practice", lambda case: verdict)
        monkeypatch.setattr(controls, "every", lambda: [control])
        host = replace(HOST, waivers=waivers)
        return controls.judge(case(finished(), host=host), today=TODAY)[0]

    @pytest.mark.parametrize(
        ("status", "until", "becomes"),
        [
            ("fail", TODAY, "waived"),
            ("fail", TODAY + timedelta(days=400), "waived"),
            ("fail", TODAY - timedelta(days=1), "fail"),
            ("unknown", TODAY + timedelta(days=400), "unknown"),
            ("pass", TODAY + timedelta(days=400), "pass"),
            ("not applicable", TODAY + timedelta(days=400), "not applicable"),
        ],
    )
    def test_a_waiver(self, monkeypatch: pytest.MonkeyPatch, status: Status, until: date, becomes: str) -> None:
        waiver = Waiver("net.bind", "reason", until)
        judged = self.judged(monkeypatch, Verdict(status, "seen", "mend"), waiver)
        assert judged.verdict == Verdict(becomes, "seen", "mend")  # type: ignore[arg-type]
        assert judged.waiver == waiver

    def test_of_two_waivers_the_first_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ended, later = Waiver("net.bind", "a", date(2020, 1, 1)), Waiver("net.bind", "b", date(2099, 1, 1))
        assert self.judged(monkeypatch, Verdict("fail"), ended, later).verdict.status == "fail"
        assert self.judged(monkeypatch, Verdict("fail"), later, ended).verdict.status == "waived"

    def test_a_waiver_for_another_control_does_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        judged = self.judged(monkeypatch, Verdict("fail"), Waiver("net.dhcp", "a", date(2099, 1, 1)))
        assert (judged.verdict.status, judged.waiver) == ("fail", None)

    def test_a_judge_that_raises_is_an_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(case: Case) -> Verdict:
            raise KeyError("token=abc")

        monkeypatch.setattr(controls, "every", lambda: [Control("a.b", "T", "low", "practice", broken)])
        verdict = controls.judge(case(finished()), today=TODAY)[0].verdict
        assert verdict.status == "unknown"
        assert "KeyError" in verdict.evidence
        assert "abc" not in verdict.evidence

    def test_a_secret_in_evidence_is_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "HF_TOKEN=hf_abcdef and https://me:geheim@host/x"
        judged = self.judged(monkeypatch, Verdict("fail", text))
        assert judged.verdict.evidence == "HF_TOKEN=*** and https://***@host/x"


class TestOutcome:
    @pytest.mark.parametrize(
        ("status", "severity", "fail_on", "good"),
        [
            ("fail", "low", "low", True),
            ("fail", "low", "medium", False),
            ("fail", "critical", "critical", True),
            ("unknown", "high", "high", True),
            ("unknown", "medium", "high", False),
            ("waived", "critical", "low", False),
            ("not applicable", "critical", "low", False),
            ("not checkable", "critical", "low", False),
            ("pass", "critical", "low", False),
        ],
    )
    def test_fail_on(self, status: Status, severity: Severity, fail_on: Severity, good: bool) -> None:
        done = audit(result("a.b", status, severity), fail_on=fail_on)
        assert done.is_good is not good

    def test_the_worst_comes_first_and_a_fail_before_an_unknown(self) -> None:
        done = audit(
            result("a.one", "unknown", "high"), result("a.two", "fail", "low"), result("b.one", "fail", "high"),
            result("b.two", "fail", "critical"), result("b.three", "fail", "high"),
        )  # fmt: skip
        assert [r.control.id for r in done.bad] == ["b.two", "b.one", "b.three", "a.one", "a.two"]

    def test_next_has_commands_once_worst_first_and_few(self) -> None:
        done = audit(
            result("a.one", "fail", "low", mend="invoke bringup --host p"),
            result("a.two", "fail", "high", mend="invoke bringup --host p"),
            result("a.three", "fail", "critical", mend="in hosts.toml: give it a reason"),
            result("a.four", "fail", "medium", mend="ssh -t p sudo true"),
            result("a.five", "fail", "low", mend="invoke reboot --host p"),
            result("a.six", "fail", "low", mend="invoke atlas --host p"),
            result("a.seven", "pass", "critical", mend="invoke never"),
        )
        assert done.next == ("invoke bringup --host p", "ssh -t p sudo true", "invoke reboot --host p")

    def test_next_is_the_whole_where_several_sections_are_to_be_run(self) -> None:
        done = audit(
            result("a.one", "fail", "low", mend="invoke storage --host prometheus"),
            result("a.two", "fail", "high", mend="invoke comfy --host prometheus"),
            result("a.three", "fail", "critical", mend="invoke fix.docker-down --host prometheus"),
        )
        assert done.next == ("invoke fix.docker-down --host prometheus", "invoke bringup --host prometheus")
        alone = audit(result("a.one", "fail", "low", mend="invoke storage --host prometheus"))
        assert alone.next == ("invoke storage --host prometheus",)

    def test_next_leaves_out_what_another_does_as_well(self) -> None:
        done = audit(
            result("a.one", "fail", "high", mend="invoke prereqs --install --host p"),
            result("a.two", "fail", "low", mend="invoke prereqs --install --reboot --host p"),
            result("a.three", "unknown", "low", mend="invoke prereqs --host p"),
            result("a.four", "fail", "low", mend="invoke reboot --host p"),
        )
        assert done.next == ("invoke prereqs --install --reboot --host p", "invoke reboot --host p")

    def test_what_is_not_known_for_one_reason_is_together(self) -> None:
        done = audit(
            result("a.one", "unknown", "low", "whether: not known\nrefused"),
            result("a.two", "unknown", "high", "refused"),
            result("a.three", "fail", "medium", "refused"),
            result("a.four", "unknown", "medium", "denied"),
            result("a.five", "unknown", "medium", ""),
            result("a.six", "unknown", "medium", ""),
        )
        together = [[one.control.id for one in group] for group in done.causes]
        assert together == [["a.two", "a.one"], ["a.three"], ["a.four"], ["a.five"], ["a.six"]]

    @pytest.mark.parametrize(
        ("until", "status", "says"),
        [
            (TODAY - timedelta(days=1), "fail", "the waiver expired on 2026-11-21: why"),
            (TODAY, "waived", "waived until 2026-11-22, which is today: why"),
            (TODAY + timedelta(days=1), "waived", "waived until 2026-11-23, which is in 1 day: why"),
            (TODAY + timedelta(days=30), "waived", "waived until 2026-12-22, which is in 30 days: why"),
            (TODAY + timedelta(days=31), "waived", "waived until 2026-12-23: why"),
            (TODAY + timedelta(days=31), "unknown", "has a waiver until 2026-12-23 (why)"),
        ],
    )
    def test_what_is_said_of_a_waiver(self, until: date, status: Status, says: str) -> None:
        one = result("a.b", status, waiver=Waiver("a.b", "why", until))
        assert audit(one).waiver_says(one) == says

    def test_subjects_in_order(self) -> None:
        assert list(by_subject(SOME)) == ["hw", "net", "ssh", "beyond", "upkeep"]


class TestDocument:
    def test_its_shape(self) -> None:
        document = json.loads(json.dumps(audit(*SOME).as_data()))
        assert list(document) == [
            "schema", "result", "host", "when", "version", "took_s", "fail_on", "good", "counts", "controls", "changes",
            "notes", "next",
        ]  # fmt: skip
        assert (document["schema"], document["result"], document["good"]) == (1, "audit", False)
        assert document["counts"] == {
            "fail": 2, "unknown": 1, "pass": 1, "waived": 1, "not_applicable": 1, "not_checkable": 1
        }  # fmt: skip
        assert [one["id"] for one in document["controls"]] == [r.control.id for r in SOME]
        assert document["controls"][1] == {
            "id": "net.bind", "title": "Title of net.bind", "severity": "critical", "source": "procedure §5",
            "status": "fail", "evidence": "comfy: 0.0.0.0:8188", "mend": "invoke fix.exposed-ports --host prometheus",
            "rules": "", "waiver": None,
        }  # fmt: skip
        assert document["controls"][-1]["waiver"] == {
            "reason": "at the weekend", "until": "2026-12-01", "expired": False
        }  # fmt: skip


class Screen:
    def __init__(self) -> None:
        self.audits: list[tuple[Audit, str]] = []
        self.connected = 0

    def connecting(self, host: Host, what: str) -> None:
        self.connected += 1

    def audit(self, audit: Audit, form: str) -> None:
        self.audits.append((audit, form))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Which parts of the evidence were asked for, look by look."""
    asked: list[tuple[str, ...]] = []

    @contextlib.contextmanager
    def connected(host: Host, options: Options) -> Iterator[object]:
        yield object()

    def examine(connection: object, host: Host, choices: Choices, *more: str) -> Case:
        asked.append(more)
        return case(finished(), host=host)

    monkeypatch.setattr(engine, "connected", connected)
    monkeypatch.setattr(repair, "examine", examine)
    return asked


def run(screen: Screen, host: Host = HOST, **options: Any) -> int:
    given: dict[str, Any] = {"form": "", "compare": "", "fail_on": "low", "as_json": False, **options}
    return auditing.audit(host, **given, options=Options(), report=screen)


def only(monkeypatch: pytest.MonkeyPatch, status: Status, severity: Severity = "medium") -> None:
    control = Control("net.bind", "T", severity, "practice", lambda case: Verdict(status, "seen"))
    monkeypatch.setattr(controls, "every", lambda: [control])


class TestTheFlow:
    def test_one_look_with_all_that_controls_need(self, looked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        only(monkeypatch, "pass")
        screen = Screen()
        assert run(screen) == 0
        assert looked == [controls.MORE]
        ((done, form),) = screen.audits
        assert (form, done.host, done.address, done.fail_on) == ("", "prometheus", "ops@10.0.99.10", "low")
        assert screen.connected == 1

    @pytest.mark.parametrize(
        ("status", "fail_on", "code"),
        [("fail", "low", 2), ("unknown", "low", 2), ("fail", "high", 0), ("pass", "low", 0), ("fail", "medium", 2)],
    )
    def test_its_code(
        self, looked: list[Any], monkeypatch: pytest.MonkeyPatch, status: Status, fail_on: str, code: int
    ) -> None:
        only(monkeypatch, status)
        assert run(Screen(), fail_on=fail_on) == code

    @pytest.mark.parametrize("form", ["junit", "html"])
    def test_nothing_is_drawn_where_stdout_is_for_a_file(
        self, looked: list[Any], monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        only(monkeypatch, "pass")
        screen = Screen()
        run(screen, form=form)
        assert screen.connected == 0
        assert screen.audits[0][1] == form

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"form": "pdf"}, "--format takes junit or html, not 'pdf'"),
            ({"form": "json"}, "--format takes junit or html, not 'json'; for JSON there is --json"),
            (
                {"form": "html", "as_json": True},
                "--json and --format html are two answers on one stdout: give one of them",
            ),
            ({"fail_on": "hihg"}, "--fail-on takes low, medium, high or critical, not 'hihg' (did you mean high?)"),
            ({"fail_on": ""}, "--fail-on takes low, medium, high or critical, not ''"),
            ({"fail_on": "HIGH"}, "--fail-on takes low, medium, high or critical, not 'HIGH'"),
            ({"compare": "/nowhere/old.json"}, "--compare /nowhere/old.json: No such file or directory"),
            ({"compare": "/"}, "--compare /: Is a directory"),
            ({"compare": "a\0b"}, "--compare a\0b: embedded null byte"),
        ],
    )  # fmt: skip
    def test_an_error_in_its_options_comes_before_any_look(
        self, looked: list[Any], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            run(Screen(), **options)
        assert caught.value.message == message
        assert looked == []

    def test_a_file_beyond_all_measure(
        self, looked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(auditing, "LARGEST_OLD", 10)
        (tmp_path / "old").write_text("x" * 11)
        with pytest.raises(UsageError, match="larger than any audit"):
            run(Screen(), compare=str(tmp_path / "old"))

    def test_compared_with_itself_nothing_has_changed(
        self, looked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "fail")
        screen = Screen()
        run(screen)
        old = tmp_path / "old one.json"
        old.write_text(
            "\ufeff" + json.dumps(screen.audits[0][0].as_data()), encoding="utf-8"
        )  # as PowerShell writes it
        assert run(screen, compare=str(old)) == 2
        changes = screen.audits[1][0].changes
        assert changes is not None
        assert changes.differences == ()

    def test_a_host_that_is_not_reached(self, looked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        def connected(host: Host, options: Options) -> Any:
            raise NotReached("prometheus: no route")

        monkeypatch.setattr(engine, "connected", connected)
        with pytest.raises(NotReached):
            run(Screen())

    def test_a_waiver_that_nothing_needs_any_more_is_said(
        self, looked: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        only(monkeypatch, "pass")
        screen = Screen()
        run(screen, replace(HOST, waivers=(Waiver("net.bind", "why", date(2020, 1, 1)),)))
        assert screen.audits[0][0].notes == (
            "net.bind holds: its waiver (until 2020-01-01) is not needed any more, take it out of hosts.toml",
        )
