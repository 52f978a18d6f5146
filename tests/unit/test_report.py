# ruff: noqa: E501 - cases are tables
"""What is printed: hostile text is harmless, commands to type stay in one piece, secrets and traces stay out."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console as RichConsole

from pantheon import procedure
from pantheon.errors import PantheonError
from pantheon.finding import Finding
from pantheon.firstrun import Progress
from pantheon.plan import Plan, SectionPlan
from pantheon.report import data
from pantheon.report.console import Console, error
from pantheon.report.data import Json
from pantheon.report.text import Pull, clean, clock, seconds
from pantheon.sections import validate
from pantheon.watched import Watched
from tests.unit.test_validate import OK
from tests.unit.world import HOST, container, finished, fresh, having


def console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(RichConsole(file=out, force_terminal=terminal, width=width, highlight=False)), out


@pytest.mark.parametrize("details", [False, True])
def test_plan_of_a_fresh_host(details: bool) -> None:
    report, out = console()
    plan = procedure.plan(HOST, fresh(), procedure.ORDER)
    report.plan(HOST, plan, [], took_s=0.61, details=details, final=False)
    text = out.getvalue()
    assert "PLAN prometheus (ops@10.0.99.10)" in text
    assert "looked 0.6 s" in text
    assert "+ storage    create 11 directories" in text
    assert "Stops nothing. Deletes nothing." in text
    assert ("$ install -d -m0755" in text) is details
    assert ("+++ /opt/stacks/ai/compose.yaml" in text) is details


def test_plan_says_what_stops() -> None:
    report, out = console()
    facts = having(finished(), comfy=container(HOST, "comfy", user="0:0"))
    report.plan(HOST, procedure.plan(HOST, facts, procedure.ORDER), [], took_s=1, details=False, final=False)
    assert "Stops comfy for a moment. Deletes nothing." in out.getvalue()
    assert "user: 0:0 → 1024:1024" in out.getvalue()


def test_a_blocked_plan_says_that_nothing_was_touched() -> None:
    report, out = console()
    report.plan(
        HOST,
        procedure.plan(HOST, replace(fresh(), docker=None), procedure.ORDER),
        [],
        took_s=1,
        details=False,
        final=True,
    )
    assert "✗ prereqs    Docker Engine is not installed" in out.getvalue()
    assert "Nothing on prometheus was touched." in out.getvalue()


def test_words_wrap_and_commands_do_not() -> None:
    report, out = console(terminal=True)
    words, command = "somebody in between " * 6, "ssh -p 2222 ops@prometheus " + "docker rm -f comfy " * 5
    report.finding(Finding("x", "fail", words, words, command, "procedure §5"))
    report.plan(HOST, Plan("h", (SectionPlan("stack", blocked=(Finding("x", "fail", words, words, command),)),)), [],
                took_s=1, details=False, final=True)  # fmt: skip
    lines = clean(out.getvalue()).split("\n")
    assert all(len(line) <= 80 for line in lines if "→" not in line)
    assert not any(line.rstrip().endswith(("betwee", "some", "somebod")) for line in lines)
    assert sum(command.strip() in line for line in lines) == 2


def test_composes_json_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["docker compose up", '{"id":"Container ollama","status":"Starting"}',
             '{"error":true,"message":"Bind for 127.0.0.1:3000 failed: port is already allocated"}']  # fmt: skip
    error(PantheonError("lab: step 1 failed", details=lines))
    assert capsys.readouterr().err.split("\n")[1:4] == [
        "    docker compose up",
        "    Container ollama Starting",
        "    Bind for 127.0.0.1:3000 failed: port is already allocated",
    ]


def test_done_shows_the_services() -> None:
    report, out = console()
    report.done(HOST, procedure.plan(HOST, fresh(), procedure.ORDER), validate.check(HOST, finished(), OK), took_s=842)
    text = out.getvalue()
    assert "14:02. Looked again: nothing to do" in text
    assert "  comfy      healthy  200 host  200 here  GPU\n" in text
    assert "  openwebui  healthy  200 host  200 here\n" in text
    assert "Next: invoke tunnel comfy --host prometheus" in text


def test_nothing_to_do_in_one_line() -> None:
    report, out = console()
    report.nothing_to_do(HOST, procedure.check(HOST, finished(), procedure.ORDER), took_s=0.5)
    assert out.getvalue() == "✓ prometheus nothing to do (0.5 s)\n"


HOSTILE = "a\x1b[31mred\x1b]0;title\x07b\x00\x08c\x9b2Jd\u202ee[bold]f"


def test_hostile_text_reaches_nobody() -> None:
    report, out = console(terminal=True)
    report.line("✓", "x", HOSTILE)
    report.say(HOSTILE)
    report.next([HOSTILE])
    shown = out.getvalue().replace("\x1b[32m✓\x1b[0m", "")
    assert "\x1b]0" not in shown
    assert "\x1b[31m" not in shown
    assert not set("\x00\x08\x9b\u202e") & set(shown)
    assert "[bold]" in shown  # markup is text
    assert clean(HOSTILE) == "aredbc2Jde[bold]f"


def test_watching_in_a_pipe_prints_each_stage_once() -> None:
    report, out = console()
    show = report.watching(HOST, "comfy", ("comfy",))
    for stage in (0, 4, 4, 6, 6):  # the first stages can be over before the first frame
        show({"comfy": Watched("starting", progress=Progress(stage=stage))})
    show({"comfy": Watched("ready", ready=True, progress=Progress(stage=9))})
    assert out.getvalue().splitlines() == [
        "· comfy      starting (00:00)",
        "· comfy      4/9 cloning ComfyUI (00:00, 10-20 min is normal)",
        "· comfy      6/9 installing torch (00:00)",
        "✓ comfy      ready (00:00)",
    ]


def test_watching_on_a_terminal_says_what_is_normal() -> None:
    report, out = console(terminal=True)
    show = report.watching(HOST, "bringup", ("ollama", "comfy"))
    show(
        {
            "ollama": Watched("ready", ready=True),
            "comfy": Watched(progress=Progress(stage=6, detail="Downloading torch")),
        }
    )
    report.settled()
    text = out.getvalue()
    assert "6/9 installing torch" in text
    assert "10-20 min is normal" in text
    assert "Downloading torch" in text
    assert "Ctrl-C stops watching, not the services. Resume: invoke comfy" in text


def test_json_is_one_document_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, env={"HF_TOKEN": "hf_sesame"}))
    report = Json()
    report.plan(host, procedure.plan(host, fresh(host), procedure.ORDER), [], took_s=0.1, details=False, final=True)
    out = capsys.readouterr().out
    document = json.loads(out)
    assert document["result"] == "planned"
    assert document["plan"]["changes"] > 0
    assert "hf_sesame" not in out


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['{"id":"a","parent_id":"Image x","text":"Downloading","current":500000,"total":1000000}'], "Downloading 500 kB/1 MB"),
        (['{"id":"a","text":"Downloading","current":1,"total":2000000000}',
          '{"id":"b","text":"Downloading","current":999999999,"total":1000000000}'], "Downloading 1.0 GB/3.0 GB"),
        (['{"error":true,"message":"manifest unknown"}'], "manifest unknown"),
        (["{not json"], "{not json"),
        (["plain"], "plain"),
    ],
)  # fmt: skip
def test_pull_progress(lines: list[str], expected: str) -> None:
    pull = Pull()
    assert [pull.line(line) for line in lines][-1] == expected


@pytest.mark.parametrize(("took", "expected"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (842, "14:02"), (3723, "1:02:03")])
def test_durations(took: float, expected: str) -> None:
    assert seconds(took) == expected


def test_clock() -> None:
    assert clock(7) == "00:07"


def test_a_document_is_fit_for_a_terminal_and_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"ü\u202e": ["\x9b31m", "\x1b]52;c;aa\x07", "\u2028", "x\ny", "日本", "\U000e0001"]}
    data.write(document)
    out = capsys.readouterr().out
    assert json.loads(out) == document
    assert all(line.isprintable() for line in out.splitlines())
    assert "日本" in out
