"""What `invoke tunnel` makes of its tunnels, with tunnels that do as they are told: codes, ends, what is said once."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from rich.console import Console as RichConsole

from pantheon import access, browser, tunnels
from pantheon.errors import LoginRefused, NotReached, NotTrusted, PantheonError, UsageError
from pantheon.inventory import SERVICES
from pantheon.options import Options
from pantheon.report.console import Console
from pantheon.report.data import Json
from pantheon.tunnel import Event, Seen
from pantheon.tunnels import Opened, Wish, sensible
from tests.unit.world import HOST

Script = Callable[["Fake"], None]
CHANGED = NotTrusted("prometheus (ops@10.0.99.10:22): its host key has changed", next_commands=["ssh-keygen -R x"])


class Fake:
    """A tunnel that plays a script in its thread, and then stays open until it is closed."""

    scripts: dict[str, Script] = {}  # noqa: RUF012 - a fixture gives each test its own

    def __init__(self, host: Any, service: str, *, port: int = 0, tell: Callable[[Event], None], watch: Any) -> None:
        self.service, self.tell, self.watch = service, tell, watch
        self.seen = Seen(service, host.name, port, host.service(service).port, opened=time.time())
        self.failed: PantheonError | None = None
        self.defect: BaseException | None = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self) -> None:
        self.thread.start()

    @property
    def is_running(self) -> bool:
        return self.thread.is_alive()

    def work(self) -> None:
        try:
            self.scripts.get(self.service, ready)(self)
            self.closing.wait(30)
        except PantheonError as error:
            self.failed = error
        except Exception as error:
            self.defect = error
        self.seen = replace(self.seen, phase="ended")

    def close(self) -> None:
        self.closing.set()
        self.thread.join()

    def note(self, **changes: Any) -> None:
        self.seen = replace(self.seen, **changes)

    def happened(self, sign: str, text: str, mend: str = "") -> None:
        self.tell(Event(time.time(), self.service, sign, text, mend))


def ready(tunnel: Fake) -> None:
    now = time.time()
    tunnel.note(phase="ready", port=tunnel.seen.remote_port, since=now, latency_ms=3.0, state="ready")


def waiting(tunnel: Fake) -> None:
    tunnel.note(phase="waiting", port=8188, since=time.time(), state="6/9 installing torch")


def raising(error: BaseException, *, late: bool = False) -> Script:
    def script(tunnel: Fake) -> None:
        if late:
            ready(tunnel)
            time.sleep(0.2)
        raise error

    return script


def then(*numbers: int) -> Script:
    """Ready, and then somebody presses Ctrl-C, or the like."""

    def script(tunnel: Fake) -> None:
        ready(tunnel)
        time.sleep(0.15)
        for number in numbers:
            os.kill(os.getpid(), number)

    return script


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals are handled to the end of the process otherwise; waits are short."""
    monkeypatch.setattr("pantheon.remote.tunnel.Tunnel", Fake)
    monkeypatch.setattr(tunnels, "TICK_S", 0.01)
    monkeypatch.setattr(tunnels, "CALM_S", 0.02)
    monkeypatch.setattr(Fake, "scripts", {})
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def run(
    wish: Wish, report: Console | None = None, out: io.StringIO | None = None, **scripts: Script
) -> tuple[int, str]:
    Fake.scripts.update(scripts)
    out = out or io.StringIO()
    report = report or Console(RichConsole(file=out, width=80, highlight=False))
    code = tunnels.open_(HOST, wish, options=Options(), report=report)
    return code, out.getvalue()


# ---- the end


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 2, [signal.SIGINT] * 20],
    ids=["ctrl-c", "term", "hup", "twice", "often"],
)
def test_a_signal_ends_it_with_0_and_one_line(numbers: list[int]) -> None:
    code, out = run(Wish("comfy"), comfy=then(*numbers))
    assert code == 0
    assert out.splitlines()[-2].startswith("✓ comfy      http://127.0.0.1:8188/  ready, 3 ms")
    assert out.splitlines()[-1] == "✓ prometheus closed after 0 s"
    # The process is on its way out: one more must not turn its 0 into that of a killed one.
    assert signal.getsignal(numbers[0]) == signal.SIG_IGN


def test_ctrl_c_before_anything_has_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[hosts.box]\naddress = "127.0.0.1"\n')

    def pressed(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(tunnels, "open_", pressed)
    with pytest.raises(Exit) as ended:
        access.open_(Context(), "comfy", hosts_file=str(hosts))
    assert ended.value.code == 0


def test_ctrl_c_before_it_is_ready() -> None:
    def pressed(tunnel: Fake) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    code, out = run(Wish("all"), comfy=pressed, ollama=lambda _: None, openwebui=lambda _: None)
    assert (code, out.splitlines()[-1]) == (0, "· prometheus 3 tunnels closed before they were ready")


def test_ctrl_c_is_not_held_up_by_a_tunnel_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "END_S", 0.1)
    monkeypatch.setattr(Fake, "close", lambda self: time.sleep(20))
    began = time.monotonic()
    assert run(Wish("comfy"), comfy=then(signal.SIGINT))[0] == 0
    assert time.monotonic() - began < 5


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    code, _ = run(Wish("comfy"), comfy=then(signal.SIGHUP, signal.SIGINT))
    assert code == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_print_that_hangs_is_broken_off() -> None:
    class Stopped(io.StringIO):
        """A terminal after Ctrl-S."""

        def write(self, text: str) -> int:
            if "ready" in text:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                time.sleep(20)
            return super().write(text)

    began = time.monotonic()
    assert run(Wish("comfy"), out=Stopped())[0] == 0
    assert time.monotonic() - began < 10


def test_a_full_disk_behind_the_output_closes_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run(Wish("comfy"), out=Full(), comfy=then(signal.SIGINT)) == (0, "")


# ---- failures


def test_what_ends_the_only_one_is_raised() -> None:
    with pytest.raises(NotTrusted, match="has changed"):
        run(Wish("comfy"), comfy=raising(CHANGED))


def test_when_it_ended_is_said_of_one_that_was_open(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(Wish("comfy"), comfy=raising(CHANGED, late=True))
    assert code == 3
    assert re.fullmatch(r"✗ prometheus \d\d:\d\d:\d\d ended after 0 s", out.splitlines()[-1])
    assert capsys.readouterr().err == f"✗ {CHANGED.message}\nNext: ssh-keygen -R x\n"


def test_the_same_reason_for_all_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotTrusted, match="has changed"):
        run(Wish("all"), comfy=raising(CHANGED), ollama=raising(CHANGED), openwebui=raising(CHANGED))
    assert capsys.readouterr().err == ""


def test_different_reasons_are_all_said_and_the_worst_counts(capsys: pytest.CaptureFixture[str]) -> None:
    taken = raising(UsageError("port 3000 is taken"))
    with pytest.raises(NotTrusted, match="has changed"):
        run(Wish("all"), comfy=raising(CHANGED), ollama=raising(CHANGED), openwebui=taken)
    assert capsys.readouterr().err == "✗ port 3000 is taken\n"


def test_one_that_fails_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    refused = LoginRefused("prometheus: refused", next_commands=["ssh-copy-id prometheus"])
    code, out = run(Wish("all"), comfy=raising(refused), openwebui=then(signal.SIGINT))
    assert code == 0
    assert capsys.readouterr().err == "✗ prometheus: refused\nNext: ssh-copy-id prometheus\n"
    assert "✓ openwebui  http://127.0.0.1:3000/  ready" in out
    assert "✓ ollama     http://127.0.0.1:11434/  ready" in out
    assert "2 tunnels closed after" in out


def test_when_the_last_has_ended_the_worst_code_counts(capsys: pytest.CaptureFixture[str]) -> None:
    gone = raising(CHANGED, late=True)
    code, _ = run(Wish("all"), report=Json(), comfy=raising(UsageError("port")), ollama=gone, openwebui=gone)
    captured = capsys.readouterr()
    assert code == 3
    assert captured.err.count("has changed") == 1
    assert captured.err.count("✗ port") == 1
    assert json.loads(captured.out)["result"] == "open"  # one document, whatever comes later


def test_a_defect_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Wish("comfy"), comfy=raising(ZeroDivisionError()))


# ---- --json, --open


def test_json_when_all_are_ready(capsys: pytest.CaptureFixture[str]) -> None:
    def slow(tunnel: Fake) -> None:
        time.sleep(0.2)
        then(signal.SIGINT)(tunnel)

    code, _ = run(Wish("all"), report=Json(), comfy=slow, openwebui=raising(LoginRefused("no")))
    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (document["host"], document["result"], document["good"]) == ("prometheus", "open", False)
    phases = {one["service"]: one["phase"] for one in document["tunnels"]}
    assert phases == {"comfy": "ready", "ollama": "ready", "openwebui": "ended"}
    assert document["tunnels"][2]["error"] == "no"


def test_the_browser_is_opened_when_a_page_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(url: str) -> str:
        shown.append(url)
        return "this machine has no display"

    monkeypatch.setattr(browser, "show", show)
    code, out = run(Wish("all", open=True), comfy=waiting, openwebui=then(signal.SIGINT))
    assert code == 0
    assert shown == ["http://127.0.0.1:3000/"]  # ComfyUI is not ready, Ollama has no page
    assert "no browser was opened: this machine has no display" in out


def test_no_display_and_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert browser.show("http://127.0.0.1:1/") == "this machine has no display"
    monkeypatch.setenv("BROWSER", "/nonexistent/browser")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert browser.show("http://127.0.0.1:1/") == "there is none that could be started"


def test_nothing_of_the_browser_is_seen_and_it_gets_the_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "loud"
    program.write_text(f'#!/bin/sh\necho "$1 $TERM" >{tmp_path}/got\necho noise\necho noise >&2\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    assert browser.show("http://127.0.0.1:8188/") == ""
    assert (tmp_path / "got").read_text() == "http://127.0.0.1:8188/ \n"
    assert capfd.readouterr() == ("", "")


# ---- --check


def test_a_check_that_finds_all_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(Wish("all", check=True))
    assert code == 0
    assert out.splitlines() == [f"✓ {name:<10} answers through the tunnel in 3 ms" for name in SERVICES]
    code, _ = run(Wish("comfy", check=True), report=Json())
    document = json.loads(capsys.readouterr().out)
    assert (code, document["result"], document["good"]) == (0, "checked", True)


def test_a_check_does_not_wait_for_a_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "CHECK_S", 0.1)
    code, out = run(Wish("all", check=True), comfy=waiting)
    assert code == 2
    assert out.splitlines()[:2] == [
        "✗ comfy      does not answer: 6/9 installing torch",
        "             → invoke diagnose --host prometheus",
    ]


def test_a_check_ends_sooner_where_something_has_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(tunnel: Fake) -> None:
        tunnel.note(phase="waiting", since=time.time(), state="its container is stopped", mend="invoke diagnose")

    monkeypatch.setattr(tunnels, "TROUBLE_S", 0.1)
    code, out = run(Wish("ollama", check=True), ollama=stopped)
    assert (code, out.splitlines()[0]) == (2, "✗ ollama     does not answer: its container is stopped")


def test_a_check_of_a_login_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "LOGIN_S", 0.1)
    with pytest.raises(NotReached, match="no login within"):
        run(Wish("comfy", check=True), comfy=lambda _: None)


def test_a_check_that_fails_says_so_and_of_the_others_how_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def dead(tunnel: Fake) -> None:
        ready(tunnel)
        tunnel.note(websocket="403 Forbidden")

    code, out = run(Wish("all", check=True), comfy=dead, ollama=raising(CHANGED))
    assert code == 3
    assert out.splitlines() == [
        "✗ comfy      takes no websocket (403 Forbidden): its page stays dead",
        "             → invoke fix.browser-access --host prometheus",
        f"✗ ollama     {CHANGED.message}",
        "             → ssh-keygen -R x",
        "✓ openwebui  answers through the tunnel in 3 ms",
    ]
    assert capsys.readouterr().err == ""


def test_ctrl_c_during_a_check_is_no_good_news() -> None:
    code, out = run(Wish("comfy", check=True), comfy=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert (code, out) == (130, "· prometheus closed before it was ready\n")


# ---- called wrongly


@pytest.mark.parametrize(
    ("wish", "text", "command"),
    [
        (Wish("list"), "no service 'list'", "invoke tunnel.list"),
        (Wish("close"), "no service 'close'", "invoke tunnel.close comfy"),
        (Wish("--help"), "'--help' is no service", "invoke --help tunnel"),
        (Wish("Comfy"), "no service 'Comfy': comfy, ollama, openwebui or all", "invoke tunnel comfy --host prometheus"),
        (Wish("olama"), "no service 'olama'", "invoke tunnel ollama --host prometheus"),
        (Wish("\x1b[2J" * 999), "no service", "invoke tunnel comfy --host prometheus"),
        (Wish("all", port=9000), "--port is for one service", "invoke tunnel all --host prometheus"),
        (Wish("ollama", open=True), "ollama has no page", "invoke tunnel ollama --host prometheus"),
        (Wish("comfy", check=True, background=True), "--background and --check exclude each other",
         "invoke tunnel comfy --host prometheus --background"),
        (Wish("comfy", check=True, print_ssh=True), "--check and --print-ssh exclude", "--check"),
        (Wish("comfy", check=True, open=True), "--open is for a tunnel that stays", "--open"),
        (Wish("comfy", print_ssh=True, open=True), "--open is for a tunnel that stays", "--open"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(wish: Wish, text: str, command: str) -> None:
    with pytest.raises(UsageError, match=text.replace("(", r"\(")) as raised:
        sensible(HOST, wish)
    assert raised.value.next_commands[0].endswith(command)


def test_what_can_be_meant() -> None:
    for service in (*SERVICES, "all"):
        sensible(HOST, Wish(service))
    sensible(HOST, Wish("comfy", port=9000, open=True, background=True))
    sensible(HOST, Wish("all", open=True))


def test_a_sudo_password_is_asked_for_once_and_first() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "sesame"

    report = Console(RichConsole(file=io.StringIO()))
    opened = Opened(HOST, Wish("all"), Options(ask_password=ask), report)
    assert asked == ["sudo password on prometheus: "]
    assert len(opened.tunnels) == 3


def test_it_ends_when_nobody_reads_any_more() -> None:
    theirs, ours = os.pipe()
    threading.Timer(0.3, os.close, (theirs,)).start()
    with os.fdopen(ours, "w") as file, pytest.raises(BrokenPipeError):
        run(Wish("comfy"), report=Console(RichConsole(file=file, width=80)))
