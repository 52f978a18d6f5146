"""The verbs against a real server: what an operator reads where there is no terminal, or no answer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole

from pantheon import cli, verbs
from pantheon.errors import Declined, LookFailed, NotTrusted, UsageError
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.remote.known_hosts import Key
from pantheon.report import ask
from pantheon.report.console import Console
from tests.unit.remote.server import HOST_KEY, SshServer, key_of

FINGERPRINT = key_of(HOST_KEY).fingerprint


def report(*, terminal: bool = False) -> Console:
    return Console(RichConsole(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False))


def trust(host: Host, **given: Any) -> int:
    options: dict[str, Any] = {"fingerprint": "", "new_key": False, "yes": False} | given
    return verbs.trust(host, **options, report=report())


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_trust_without_a_terminal_names_what_a_script_types(host: Host, known: Path) -> None:
    known.unlink()
    with pytest.raises(Declined, match="no terminal to ask on: Trust this key for box") as caught:
        trust(host)
    (instead,) = caught.value.next_commands
    assert instead.startswith("invoke trust --host box --fingerprint SHA256:")
    assert "--plan" not in instead
    assert not known.exists()


@pytest.mark.parametrize(
    "text", ["nonsense", "SHA256:short", "MD5:00:11", FINGERPRINT.removeprefix("SHA256:")], ids=range(4)
)
def test_what_is_no_fingerprint_is_called_so(host: Host, known: Path, text: str) -> None:
    known.unlink()
    with pytest.raises(UsageError, match="takes SHA256: and 43 characters"):
        trust(host, fingerprint=text)
    assert not known.exists()


def test_another_fingerprint_is_refused_and_its_own_is_taken(host: Host, known: Path) -> None:
    known.unlink()
    with pytest.raises(NotTrusted, match="not the fingerprint given; nothing was recorded"):
        trust(host, fingerprint="SHA256:" + "A" * 43)
    assert not known.exists()
    assert trust(host, fingerprint=f"{FINGERPRINT}=") == 0
    assert known.read_text() == f"[127.0.0.1]:{host.port} {key_of(HOST_KEY)}\n"


@pytest.mark.parametrize(
    ("type", "kind"),
    [("ssh-ed25519", "ed25519"), ("ecdsa-sha2-nistp256", "ecdsa"), ("ssh-rsa", "rsa"),
     ("sk-ssh-ed25519@openssh.com", "ed25519")],
)  # fmt: skip
def test_the_file_in_which_the_host_keeps_that_key(type: str, kind: str) -> None:
    assert Key(type, b"").kind == kind


def history(host: Host) -> int:
    return verbs.history(host, last="5", as_json=False, options=Options(), report=report())


def test_history_of_a_host_that_nobody_changed(host: Host, bin: Path) -> None:
    (bin / "tail").write_text("#!/bin/sh\necho \"tail: cannot open '$3': No such file or directory\" >&2; exit 1\n")
    (bin / "tail").chmod(0o755)
    assert history(host) == 0


def test_a_history_that_cannot_be_read_is_not_an_empty_one(server: SshServer, host: Host, bin: Path) -> None:
    (bin / "env").unlink()
    (bin / "env").write_text("#!/bin/sh\necho This account is currently not available.; exit 1\n")
    (bin / "env").chmod(0o755)
    with pytest.raises(LookFailed, match=r"history\.jsonl cannot be read") as caught:
        history(host)
    assert caught.value.details == ("This account is currently not available.",)


def test_nothing_is_drawn_over_the_question_for_a_password(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = report(terminal=True)
    shown.connecting(host, "facts")
    monkeypatch.setattr(ask, "password", lambda prompt: f"{prompt}{shown._live}")
    call = cli.Call("facts", {"ask_sudo_password": True})
    call.__dict__["report"] = shown
    assert call.options.ask_password is not None
    assert call.options.ask_password("password: ") == "password: None"


def test_a_password_and_no_terminal_to_type_it_on() -> None:
    with pytest.raises(Declined, match=r"no terminal to type on: sudo password of ops on box$") as caught:
        report().ask_password("sudo password of ops on box: ")
    assert caught.value.next_commands
