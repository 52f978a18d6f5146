"""Tunnels on the screen: what each looks like at each moment, on terminals of any width and in a pipe."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from pantheon.errors import LoginRefused, NotTrusted
from pantheon.report import tunnels
from pantheon.report.console import Console
from pantheon.report.data import Json
from pantheon.report.text import lasted
from pantheon.report.tunnels import Display
from pantheon.tunnel import Event, Seen
from tests.unit.world import HOST

NOW = time.mktime((2026, 11, 21, 14, 30, 0, 0, 0, -1))
READY = Seen("comfy", "prometheus", 8188, 8188, "ready", NOW - 60, NOW - 60, latency_ms=3.2, state="ready")
HOSTILE = "a\x1b[31mred\x1b]0;title\x07b\x00\x08c\x9b2Jd\u202e[bold]\n" + "x" * 5000


def display(*, width: int = 80, terminal: bool = False, quiet: bool = False) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    rich = RichConsole(file=out, force_terminal=terminal, width=width, highlight=False, _environ={"TERM": "xterm"})
    return Display(Console(rich), HOST, quiet=quiet), out


def screen(text: str) -> list[str]:
    """What stands on the screen in the end, where the cursor goes up and lines are erased."""
    lines, row = [""], 0
    for word in re.split(r"(\n|\x1b\[[0-9;?]*[A-Za-z]|\r)", text):
        code = re.fullmatch(r"\x1b\[([0-9;?]*)([A-Za-z])", word)
        if word == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code and code[2] == "A":
            row -= int(code[1] or 1)
        elif code and code[2] == "K":
            lines[row] = ""
        elif not code and word != "\r":
            lines[row] += word
    return [line.rstrip() for line in lines]


def line(seen: Seen, *, since: float = NOW, was_ready: bool = False) -> str:
    made = tunnels.status(seen, NOW, since=since, was_ready=was_ready)
    return f"{made.sign}|{made.text}|{made.mend}"


@pytest.mark.parametrize(
    ("changes", "extra", "expected"),
    [
        ({}, {}, "✓|http://127.0.0.1:8188/  ready, 3 ms, since 14:29|"),
        ({"reconnects": 2}, {}, "✓|http://127.0.0.1:8188/  ready, 3 ms, since 14:29, 2 reconnects|"),
        ({"since": NOW - 86400, "latency_ms": 0.1}, {}, "✓|http://127.0.0.1:8188/  ready, 1 ms, since Fri 14:30|"),
        ({"since": NOW - 10 * 86400}, {}, "✓|http://127.0.0.1:8188/  ready, 3 ms, since 11 Nov 14:30|"),
        ({"phase": "opening", "state": "", "port": 0}, {}, "|logging in|"),
        ({"phase": "opening", "state": "", "port": 0}, {"since": NOW - 9}, "|logging in, 9 s|"),
        ({"phase": "waiting", "state": ""}, {}, "|asking comfy|"),
        ({"phase": "waiting", "state": "ready"}, {"was_ready": True}, "!|http://127.0.0.1:8188/  asking comfy|"),
        ({"phase": "waiting", "state": "6/9 installing torch"}, {"since": NOW - 130},
         "|waiting for comfy, 2 min: 6/9 installing torch|"),
        ({"phase": "waiting", "state": "502 Bad Gateway", "mend": "invoke diagnose"}, {"was_ready": True},
         "!|http://127.0.0.1:8188/  waiting for comfy: 502 Bad Gateway|invoke diagnose --host prometheus"),
        ({"phase": "lost", "state": "no answer"}, {"since": NOW - 72},
         "!|http://127.0.0.1:8188/  no link for 1 min, trying again: no answer|"),
        ({"websocket": "403"}, {},
         "!|http://127.0.0.1:8188/  takes no websocket: 403|invoke fix.browser-access --host prometheus"),
        ({"phase": "ended"}, {}, "·|closed|"),
    ],
)  # fmt: skip
def test_each_moment_in_words(changes: dict[str, Any], extra: dict[str, Any], expected: str) -> None:
    assert line(replace(READY, **changes), **extra) == expected


@pytest.mark.parametrize("width", [80, 40])
def test_one_line_each_that_is_drawn_in_place(width: int) -> None:
    made, out = display(width=width, terminal=True)
    names = ("comfy", "openwebui")
    opening = [replace(READY, service=name, phase="opening", state="", port=0) for name in names]
    ready = [replace(READY, service=name) for name in names]
    made.show(opening, now=NOW)
    made.show([ready[0], opening[1]], now=NOW)
    made.show(ready, [Event(NOW, "comfy", "✓", "link back")], now=NOW)
    seen = screen(out.getvalue())
    assert all(len(row) <= width for row in seen)
    assert seen[0] == "✓ comfy      14:30:00 link back"
    assert re.fullmatch(r"tunnel prometheus +Ctrl-C closes it", seen[1])
    if width == 80:
        assert seen[2:4] == [
            "✓ comfy      http://127.0.0.1:8188/  ready, 3 ms, since 14:29",
            "✓ openwebui  http://127.0.0.1:8188/  ready, 3 ms, since 14:29",
        ]
    assert sum("http://127.0.0.1:8188/" in row for row in seen) == 2  # a URL stays in one piece
    made.end()
    assert [row for row in screen(out.getvalue()) if row] == seen[:1]  # what happened stays, the rest goes


def test_nothing_is_drawn_when_nothing_changes() -> None:
    made, out = display(terminal=True)
    made.show([READY], now=NOW)
    before = len(out.getvalue())
    for second in range(30):
        made.show([READY], now=NOW + second)
    assert len(out.getvalue()) == before
    assert not made.turns
    made.show([replace(READY, latency_ms=9.0)], now=NOW)
    assert "9 ms" in out.getvalue()


def test_what_is_awaited_turns_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, out = display(terminal=True)
    clock = iter(range(100))
    monkeypatch.setattr(shown.report.out, "get_time", lambda: next(clock) * 0.11)
    for _ in range(3):
        shown.show([replace(READY, phase="opening", port=0, state="")], now=NOW)
    assert len(set(re.findall(r"(\S) comfy      logging in", out.getvalue()))) == 3
    shown.end()


def test_a_stopped_or_killed_tunnel_leaves_the_terminal_its_cursor() -> None:
    shown, out = display(terminal=True)
    shown.show([READY], now=NOW)
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")
    shown.end()


def test_in_a_pipe_a_line_for_each_change() -> None:
    made, out = display()
    waiting = replace(READY, phase="waiting", state="closed without an answer", latency_ms=None)
    lost = replace(READY, phase="lost", state="no answer", latency_ms=None)
    made.show([replace(READY, phase="opening", state="", port=0)], now=NOW)
    made.show([replace(waiting, state="")], now=NOW)
    for second in range(9):
        made.show([waiting], now=NOW + second)
    for ms in (3.0, 30.0, 300.0):
        made.show([replace(READY, latency_ms=ms)], now=NOW)
    made.show([lost], [Event(NOW, "comfy", "!", "link lost: no answer")], now=NOW)
    made.show([replace(lost, state="No route to host")], now=NOW + 5)
    made.show([replace(waiting, state="")], [Event(NOW + 9, "comfy", "✓", "link back after 9 s")], now=NOW + 9)
    made.show([replace(READY, reconnects=1)], now=NOW + 9)
    made.show([waiting], [Event(NOW, "comfy", "!", "comfy does not answer: 502", "invoke diagnose --host x")], now=NOW)
    made.show([replace(READY, reconnects=1)], [Event(NOW, "comfy", "✓", "answers again after 1 s")], now=NOW)
    made.closed([replace(READY, opened=NOW - 8040, reconnects=1)], now=NOW)
    assert out.getvalue().splitlines() == [
        "· comfy      logging in",
        "· comfy      waiting for comfy: closed without an answer",
        "✓ comfy      http://127.0.0.1:8188/  ready, 3 ms, since 14:29 (prometheus; Ctrl-C closes it)",
        "! comfy      14:30:00 link lost: no answer",
        "✓ comfy      14:30:09 link back after 9 s",
        "✓ comfy      http://127.0.0.1:8188/  ready, 3 ms, since 14:29, 1 reconnect",
        "! comfy      14:30:00 does not answer: 502",
        "             → invoke diagnose --host x",
        "✓ comfy      14:30:00 answers again after 1 s",
        "✓ prometheus closed after 2 h 14 min, 1 reconnect",
    ]


def test_why_the_local_port_is_another_one_is_said_once_and_before() -> None:
    made, out = display()
    moved = replace(READY, port=8189, note="port 8188 here is held by python3 (pid 7), so 8189")
    for _ in range(3):
        made.show([moved], now=NOW)
    assert out.getvalue().splitlines() == [
        "· comfy      port 8188 here is held by python3 (pid 7), so 8189",
        "✓ comfy      http://127.0.0.1:8189/  ready, 3 ms, since 14:29 (prometheus; Ctrl-C closes it)",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_dumb_terminal_is_treated_like_a_pipe(terminal: bool) -> None:
    out = io.StringIO()
    rich = RichConsole(file=out, force_terminal=terminal, width=80, highlight=False, _environ={"TERM": "dumb"})
    made = Display(Console(rich), HOST)
    made.show([READY], now=NOW)
    assert "http://127.0.0.1:8188/  ready" in out.getvalue()
    assert "\x1b[?25l" not in out.getvalue()


def test_what_happens_to_several_at_once_is_said_once() -> None:
    made, out = display()
    names = ("comfy", "ollama", "openwebui")
    events = [Event(NOW + at / 10, name, "!", "link lost: no answer for 8 s") for at, name in enumerate(names)]
    events += [Event(NOW, name, "!", f"{name} does not answer: 502", f"invoke {name}") for name in names[:2]]
    made.show((), events, now=NOW)
    assert out.getvalue().splitlines() == [
        "! comfy, ollama, openwebui 14:30:00 link lost: no answer for 8 s",
        "! comfy      14:30:00 does not answer: 502",
        "             → invoke comfy",
        "! ollama     14:30:00 does not answer: 502",
        "             → invoke ollama",
    ]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("phase", ["opening", "waiting", "ready", "lost"])
def test_hostile_words_of_a_host_reach_nobody(terminal: bool, phase: Any) -> None:
    made, out = display(terminal=terminal)
    seen = replace(READY, phase=phase, state=HOSTILE, websocket=HOSTILE, note=HOSTILE, mend=f"invoke x {HOSTILE[:40]}")
    made.show([seen], [Event(NOW, "comfy", "!", HOSTILE, HOSTILE[:40])], now=NOW)
    made.closed([seen], now=NOW)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Zhlm]", "", out.getvalue())
    assert not set("\x1b\x00\x08\x9b\u202e") & set(shown)
    assert "[31m" not in out.getvalue().replace("\x1b[31m✗", "")
    assert shown.count("x") < 2500  # of a text without end only the beginning


def test_a_failure_while_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    made, out = display(terminal=True)
    made.show([READY], now=NOW)
    made.failed(LoginRefused("prometheus: refused", next_commands=["ssh-copy-id prometheus"]))
    assert capsys.readouterr().err.splitlines() == ["✗ prometheus: refused", "Next: ssh-copy-id prometheus"]
    made.show([READY], now=NOW)
    assert screen(out.getvalue())[1] == "✓ comfy      http://127.0.0.1:8188/  ready, 3 ms, since 14:29"


def test_closed_before_it_was_ready() -> None:
    made, out = display()
    made.closed([replace(READY, phase="opening")], now=NOW)
    assert out.getvalue() == "· prometheus closed before it was ready\n"
    made, out = display()
    made.closed([replace(READY, phase="opening")] * 3, now=NOW)
    assert out.getvalue() == "· prometheus 3 tunnels closed before they were ready\n"


def test_a_check_says_what_it_found() -> None:
    made, out = display(quiet=True)
    stage = replace(READY, service="ollama", phase="waiting", state="its container is stopped (exit code 137)",
                    mend="invoke fix.out-of-memory --host prometheus")  # fmt: skip
    made.show([READY], [Event(NOW, "comfy", "!", "something")], now=NOW)
    assert out.getvalue() == ""
    refuses, lost = replace(READY, websocket="403 Forbidden"), replace(READY, phase="lost", state="no answer")
    made.checked([READY, stage, refuses, lost], {})
    made.checked([READY], {"comfy": NotTrusted("prometheus: its host key has changed")})
    made.checked([replace(READY, remote_port=8190)], {})
    made.checked([replace(READY, state="ready, behind a login (401 Unauthorized)")], {})
    assert out.getvalue().splitlines() == [
        "✓ comfy      answers through the tunnel in 3 ms",
        "✗ ollama     does not answer: its container is stopped (exit code 137)",
        "             → invoke fix.out-of-memory --host prometheus",
        "✗ comfy      takes no websocket (403 Forbidden): its page stays dead",
        "             → invoke fix.browser-access --host prometheus",
        "✗ comfy      the link was lost: no answer",
        "             → invoke diagnose --host prometheus",
        "✗ comfy      prometheus: its host key has changed",
        "✓ comfy      answers through the tunnel in 3 ms, on port 8190 of the host; hosts.toml says 8188",
        "             → set port = 8190 for comfy in hosts.toml",
        "✓ comfy      answers through the tunnel in 3 ms, behind a login (401 Unauthorized)",
    ]


def test_commands_to_type_reach_the_same_host() -> None:
    made, out = display()
    made.report.hosts_file = "/tmp/other hosts.toml"
    made.show([replace(READY, phase="waiting", state="its container is stopped", mend="invoke diagnose")], now=NOW)
    assert "→ invoke diagnose --host prometheus --hosts-file '/tmp/other hosts.toml'" in out.getvalue()


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    refused = LoginRefused("refused", next_commands=["ssh-copy-id x"], details=["offered none"])
    ended = replace(READY, service="ollama", phase="ended", port=0, mend="", latency_ms=None)
    Json().tunnels(HOST, "open", [READY, ended], {"ollama": refused})
    document = json.loads(capsys.readouterr().out)
    assert (document["host"], document["result"], document["good"]) == ("prometheus", "open", False)
    comfy, ollama = document["tunnels"]
    assert comfy["url"] == "http://127.0.0.1:8188/"
    assert (comfy["good"], comfy["phase"], comfy["latency_ms"], comfy["next"]) == (True, "ready", 3.2, [])
    assert (ollama["url"], ollama["good"], ollama["error"], ollama["next"]) == ("", False, "refused", ["ssh-copy-id x"])


def test_commands_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Console().commands(HOST, {"comfy": "ssh " + "-o X=y " * 40, "ollama": "ssh b"})
    assert capsys.readouterr().out == "ssh " + "-o X=y " * 40 + "\nssh b\n"
    Json().commands(HOST, {"comfy": "ssh"})
    assert json.loads(capsys.readouterr().out)["commands"] == {"comfy": "ssh"}


@pytest.mark.parametrize(
    ("took", "expected"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (8040, "2 h 14 min"), (273600, "3 d 4 h")],
)
def test_how_long(took: float, expected: str) -> None:
    assert lasted(took) == expected
