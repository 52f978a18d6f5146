"""An audit as it is shown: a table, JSON, JUnit XML, a page. Hostile text harms none of them."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console as RichConsole

from pantheon.audit import Audit
from pantheon.comparison import compare, read
from pantheon.inventory import Waiver
from pantheon.report import html, junit
from pantheon.report.audit import summary
from pantheon.report.console import Console
from pantheon.report.data import Json
from tests.unit.audits import SOME, audit, result

HOSTILE = (
    "</pre><script>alert(1)</script>\"'&<b>\x1b[31mred\x1b[0m\x00\x08\x0b\ufffe\udc80\u202egnp.exe ]]> <!-- é €\n\ttab"
)


def changed(*results: Any, before: Any) -> Audit:
    done = audit(*results)
    earlier = read(json.dumps(audit(*before).as_data()), path="old.json", host="prometheus")
    return replace(done, changes=compare(earlier, results))


def shown(done: Audit, *, terminal: bool = False, width: int = 80, hosts_file: str = "") -> str:
    out = io.StringIO()
    console = Console(RichConsole(file=out, force_terminal=terminal, width=width, highlight=False, color_system=None))
    console.hosts_file = hosts_file
    console.audit(done, "")
    return out.getvalue()


class TestTable:
    def test_a_line_for_each_then_what_is_wrong(self) -> None:
        assert shown(audit(*SOME)).splitlines() == [
            "AUDIT prometheus (ops@10.0.99.10)" + " " * 35 + "looked 1.2 s",
            "✓ hw.gpu  Title of hw.gpu",
            "✗ net.bind  Title of net.bind (critical)",
            "· net.dhcp  n/a: hosts.toml names no servers_network",
            "? ssh.root  Title of ssh.root (high)",
            "✗ ssh.keys  Title of ssh.keys (low)",
            "· beyond.vlans  not checkable: VLANs end at the switch",
            "    look: on the switch: the ports' VLANs",
            "~ upkeep.reboot  waived until 2026-12-01, which is in 9 days: at the weekend",
            "Not as it should be, the worst last",
            "✗ low: Title of ssh.keys (ssh.keys, procedure §5)",
            "    passwordauthentication yes",
            "    → ssh -t ops@10.0.99.10 sudo sshd -T",
            "? high: Title of ssh.root (ssh.root, procedure §5)",
            "    sshd -T: exit 1",
            "    → invoke diagnose --host prometheus",
            "✗ critical: Title of net.bind (net.bind, procedure §5)",
            "    comfy: 0.0.0.0:8188",
            "    → invoke fix.exposed-ports --host prometheus",
            f"✗ prometheus {summary(audit(*SOME))}",
            "Next: invoke fix.exposed-ports --host prometheus",
            "      invoke diagnose --host prometheus",
            "      ssh -t ops@10.0.99.10 sudo sshd -T",
        ]

    def test_its_sum(self) -> None:
        assert summary(audit(*SOME)) == (
            "1 of 7 controls passed, 2 failed (1 critical, 1 low), 1 unknown, 1 waived, 1 not applicable, "
            "1 not checkable"
        )

    def test_all_good(self) -> None:
        text = shown(audit(result("hw.gpu"), result("hw.disk")))
        assert text.splitlines()[-1] == "✓ prometheus 2 of 2 controls passed"
        assert "Next" not in text

    def test_below_the_severity_that_counts(self) -> None:
        text = shown(audit(result("a.b", "fail", "low"), fail_on="high"))
        assert "✓ prometheus 0 of 1 control passed, 1 failed (1 low)" in text

    def test_none_at_all(self) -> None:
        assert "0 of 0 controls passed" in shown(audit())

    def test_eighty_columns(self) -> None:
        long = result(
            "containers.new-privileges", "fail", "critical", "word " * 60, "sentence " * 5, title="title " * 20
        )
        for line in shown(audit(*SOME[:4], long, SOME[5]), terminal=True).splitlines():
            assert len(line.rstrip()) <= 80, line

    def test_a_command_stays_in_one_piece(self) -> None:
        command = "ssh -t -p 2222 -i /home/ops/keys/a-long-name ops@10.0.99.10 sudo chmod 600 '/opt/stacks/ai/a b.env'"
        assert f"→ {command}\n" in shown(audit(result("a.b", "fail", mend=command)), terminal=True)

    def test_commands_name_the_hosts_file_that_was_given(self) -> None:
        text = shown(audit(*SOME), hosts_file="/tmp/my hosts.toml")
        assert "Next: invoke fix.exposed-ports --host prometheus --hosts-file '/tmp/my hosts.toml'" in text

    def test_much_evidence(self) -> None:
        text = shown(audit(result("a.b", "fail", evidence="\n".join(f"line {n}" for n in range(50)))))
        assert "line 4" in text
        assert "line 5" not in text
        assert "and 45 lines more" in text

    def test_many_that_are_not_known_for_one_reason_are_told_once(self) -> None:
        rows = [result(f"a.{n}", "unknown", "high", "socket: refused", "invoke diagnose --host p") for n in range(30)]
        rows.append(result("a.x", "unknown", "low", "socket: refused", "invoke fix.docker-down --host p"))
        told = shown(audit(*rows)).partition("the worst last\n")[2].splitlines()
        assert told[:3] == [
            "? high: 31 controls could not be judged (? above)",
            "    socket: refused",
            "    → invoke fix.docker-down --host p",
        ]
        assert told[3].startswith("✗ prometheus 0 of 31")

    def test_a_mend_of_several_lines(self) -> None:
        text = shown(audit(result("a.b", "fail", mend='in hosts.toml:\n[hosts.x.comfy]\nimage = "a:1"')))
        assert '    → in hosts.toml:\n      [hosts.x.comfy]\n      image = "a:1"\n' in text

    def test_an_expired_waiver_is_said(self) -> None:
        text = shown(audit(result("a.b", "fail", waiver=Waiver("a.b", "soon gone", date(2026, 1, 1)))))
        assert "    the waiver expired on 2026-01-01: soon gone" in text

    def test_notes(self) -> None:
        assert "! something to know" in shown(audit(notes=("something to know",)))

    @pytest.mark.parametrize("terminal", [False, True])
    def test_hostile_text(self, terminal: bool) -> None:
        text = shown(audit(result("a.b", "fail", evidence=HOSTILE.replace("\udc80", ""), mend=HOSTILE[:60])))
        assert re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text) is None

    def test_what_has_changed(self) -> None:
        done = changed(
            result("a.worse", "fail", evidence="now\nboth"), result("a.better"), result("a.new"),
            before=(result("a.worse", evidence="then\nboth"), result("a.better", "fail"), result("a.gone")),
        )  # fmt: skip
        lines = shown(done).splitlines()
        start = lines.index("Changed since 2026-11-22T05:20:26Z")
        assert lines[start + 1 : start + 7] == [
            "✗ a.worse: now failing, pass → fail",
            "    - then",
            "    + now",
            "✓ a.better: mended, fail → pass",
            "+ a.new: new control",
            "- a.gone: gone control",
        ]
        assert lines.index("Not as it should be, the worst last") > start

    def test_nothing_has_changed(self) -> None:
        assert "Changed since 2026-11-22T05:20:26Z\n  nothing\n" in shown(changed(*SOME, before=SOME))


class TestJson:
    def test_one_document(self, capsys: pytest.CaptureFixture[str]) -> None:
        Json().audit(changed(*SOME, before=SOME[1:]), "")
        document = json.loads(capsys.readouterr().out)
        assert document["changes"]["counts"]["new_control"] == 1
        assert document["good"] is False

    def test_hostile_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        Json().audit(audit(result("a.b", "fail", evidence=HOSTILE)), "")
        out = capsys.readouterr().out
        assert json.loads(out)["controls"][0]["evidence"] == HOSTILE
        assert "\x1b" not in out


class TestJunit:
    def parsed(self, done: Audit) -> ElementTree.Element:
        return ElementTree.fromstring(junit.render(done).encode())

    def test_what_ci_counts(self) -> None:
        root = self.parsed(audit(*SOME))
        assert root.tag == "testsuites"
        assert {key: value for key, value in root.items() if key not in ("name", "time")} == {
            "tests": "7", "failures": "2", "errors": "1",
        }  # fmt: skip
        assert sum(int(suite.get("skipped", "x")) for suite in root) == 3
        for name in ("tests", "failures", "errors"):
            assert sum(int(suite.get(name, "x")) for suite in root) == int(root.get(name, "x"))
        for suite in root:
            cases = suite.findall("testcase")
            assert len(cases) == int(suite.get("tests", "x"))
            assert len(suite.findall("testcase/failure")) == int(suite.get("failures", "x"))
            assert len(suite.findall("testcase/error")) == int(suite.get("errors", "x"))
            assert len(suite.findall("testcase/skipped")) == int(suite.get("skipped", "x"))

    def test_a_case_for_each(self) -> None:
        root = self.parsed(audit(*SOME))
        names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
        assert names == [
            (f"prometheus.{r.control.id.partition('.')[0]}", f"{r.control.id}: Title of {r.control.id}") for r in SOME
        ]
        (failure,) = root.findall("testsuite[@name='prometheus.net']/testcase/failure")
        assert (failure.get("message"), failure.get("type")) == ("comfy: 0.0.0.0:8188", "critical")
        assert failure.text == (
            "comfy: 0.0.0.0:8188\nmend: invoke fix.exposed-ports --host prometheus\nsource: procedure §5"
        )
        said = [skipped.get("message") for skipped in root.iter("skipped")]
        assert said == [
            "not applicable: hosts.toml names no servers_network",
            "not checkable: VLANs end at the switch",
            "waived: waived until 2026-12-01, which is in 9 days: at the weekend",
        ]

    def test_the_order_in_a_case_is_the_schema_s(self) -> None:
        """Jenkins' and Ant's: properties, then cases; in a case one outcome at most."""
        for suite in self.parsed(audit(*SOME)):
            assert next(child.tag for child in suite) == "properties"
            assert {child.tag for child in suite} == {"properties", "testcase"}
            for case in suite.findall("testcase"):
                assert len([child for child in case if child.tag != "system-out"]) <= 1

    def test_hostile_text(self) -> None:
        root = self.parsed(audit(result("a.b", "fail", evidence=HOSTILE, mend=HOSTILE, title=HOSTILE)))
        text = root.findtext("testsuite/testcase/failure") or ""
        assert "</pre><script>alert(1)</script>\"'&<b>red" in text
        assert "é €\n\ttab" in text

    def test_empty(self) -> None:
        assert self.parsed(audit()).get("tests") == "0"


VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page read strictly: each tag is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def hostile() -> Audit:
    waiver = Waiver("a.c", HOSTILE, date(2026, 12, 1))
    bad = result("a.b", "fail", evidence=HOSTILE, mend=HOSTILE, title=HOSTILE, rules=HOSTILE)
    rest = [
        result("a.c", "waived", evidence=HOSTILE, waiver=waiver), result("a.d", evidence=HOSTILE, title=HOSTILE),
        result("a.e", "not checkable", evidence=HOSTILE, mend=HOSTILE),
    ]  # fmt: skip
    done = changed(bad, *rest, before=(result("a.b", evidence=HOSTILE), result("a.z", evidence=HOSTILE)))
    return replace(done, host="h<i>&", address='"><img src=x>', notes=(HOSTILE,))


class TestPage:
    @pytest.mark.parametrize("done", [audit(*SOME), audit(), changed(*SOME, before=SOME[3:]), hostile()])
    def test_it_stands_for_itself(self, done: Audit) -> None:
        text = html.render(done)
        page = Page(text)
        assert text.startswith("<!DOCTYPE html>\n")
        forbidden = {"script", "img", "iframe", "object", "embed", "form", "base", "svg", "video", "audio", "i", "b<"}
        assert page.names() & forbidden == set()
        for tag, attributes in page.tags:
            for name, value in attributes.items():
                assert not name.startswith("on"), tag
                assert name not in ("src", "srcset", "action", "background", "style"), tag
                if name == "href":
                    assert value == "data:,", tag
        assert "url(" not in text
        assert "@import" not in text

    def test_it_can_be_read_by_everybody(self) -> None:
        page = Page(html.render(changed(*SOME, before=SOME[3:])))
        tags = dict(page.tags)
        assert tags["html"]["lang"] == "en"
        metas = [attributes for tag, attributes in page.tags if tag == "meta"]
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
        assert {"charset": "utf-8"} in metas
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
        assert "main" in page.names()

    def test_the_worst_comes_first_and_nothing_is_lost(self) -> None:
        page = Page(html.render(audit(*SOME)))
        for one in SOME:
            assert one.control.id in page.text
            assert one.verdict.evidence in page.text
        order = [page.text.index(name) for name in ("net.bind", "ssh.root", "ssh.keys", "upkeep.reboot", "hw.gpu")]
        assert order == sorted(order)
        assert "Not as it should be: 1 critical, 1 high, 1 low." in page.text
        assert "2 failed" in page.text

    def test_good(self) -> None:
        assert "Every control that can be checked here holds." in html.render(audit(result("a.b")))
        text = html.render(audit(result("a.b", "fail", "low"), fail_on="high"))
        assert "Every control of severity high or above that can be checked here holds." in text

    def test_hostile_text(self) -> None:
        text = html.render(hostile())
        assert "<script" not in text
        assert re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff\ufffe]", text) is None
        assert text.encode()
        assert "alert(1)" in Page(text).text

    def test_what_has_changed(self) -> None:
        page = Page(html.render(changed(result("a.b", "fail", evidence="x"), before=(result("a.b", evidence="y"),))))
        assert "Changed since 2026-11-22T05:20:26Z" in page.text
        assert "now failing: pass → fail" in page.text
        assert "then: y\nnow: x" in page.text

    def contrast(self, one: str, other: str) -> float:
        def light(colour: str) -> float:
            full = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
            parts = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    @pytest.mark.parametrize("scheme", ["light", "dark", "print"])
    def test_its_colours_can_be_told_apart(self, scheme: str) -> None:
        """WCAG 2, AA: 4.5 to 1 for text, in the light, in the dark and on paper."""
        blocks = [
            dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", block)) for block in re.findall(r":root \{[^}]*\}", html.STYLE)
        ]
        colours = dict(zip(("light", "dark", "print"), blocks, strict=True))[scheme]
        for ink in ("ink", "soft", "pass", "fail", "unknown", "waived"):
            for ground in ("page", "card", "code"):
                assert self.contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


class TestFormats:
    @pytest.mark.parametrize(("form", "start"), [("junit", "<?xml "), ("html", "<!DOCTYPE html>")])
    def test_on_stdout_with_notes_on_stderr(
        self, form: str, start: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        console = Console(RichConsole(file=sys.stdout, highlight=False))
        console.audit(audit(*SOME, notes=("to know",)), form)
        seen = capsys.readouterr()
        assert seen.out.startswith(start)
        assert seen.err == "! to know\n"
