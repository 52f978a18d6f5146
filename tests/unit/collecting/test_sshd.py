"""sshd's word on a login, its files and the keys that it takes."""

from __future__ import annotations

from typing import Any

import pytest

from pantheon.collecting import sshd
from pantheon.evidence import Sshd
from pantheon.facts import decode
from pantheon.looks.text import Unread
from tests.unit.looks.fakes import FakeHost

CONFIG = "/etc/ssh/sshd_config"
SAYS = "port 22\nallowtcpforwarding yes\ndisableforwarding no\npermitopen any\nauthorizedkeysfile .ssh/authorized_keys"


@pytest.fixture(name="at")
def somewhere(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host.tool("sshd", f"printf '%s\\n' \"$*\" >{host.root}/asked; cat <<'END'\n{SAYS}\nEND")
    host.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nops:x:1000:1000::/home/ops:/bin/sh\nbad:line\n")
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
    monkeypatch.setenv("SUDO_USER", "ops")
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 50000 10.0.99.10 2222")
    return host


def gathered(host: FakeHost) -> Sshd:
    found = decode(Sshd, sshd.settings({}, str(host.root)), "sshd")
    assert isinstance(found, Sshd)
    return found


def test_settings_are_those_of_this_login(at: FakeHost) -> None:
    found = gathered(at)
    assert found.settings["allowtcpforwarding"] == "yes"
    assert found.user == "ops"
    asked = at.at("/asked").read_text().strip()
    assert asked == "-T -C user=ops,host=10.0.0.7,addr=10.0.0.7,laddr=10.0.99.10,lport=2222"


@pytest.mark.parametrize(
    ("user", "place"),
    [("a,addr=1.2.3.4", "10.0.0.7 1 10.0.0.1 22"), ("ops", ""), ("ops", "odd words"), ("", "a b c d")],
)
def test_a_login_that_is_not_known_is_not_made_up(
    at: FakeHost, monkeypatch: pytest.MonkeyPatch, user: str, place: str
) -> None:
    monkeypatch.setenv("SUDO_USER", user)
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setenv("SSH_CONNECTION", place)
    sshd.settings({}, str(at.root))
    assert at.at("/asked").read_text().strip() == "-T -C lport=1"


def test_no_sshd_is_absent(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.bin))
    assert sshd.settings({}, str(host.root)) is None


def test_an_sshd_that_fails_is_not_known(at: FakeHost) -> None:
    at.tool("sshd", "echo /etc/ssh/sshd_config: line 3: Bad configuration option: Nonsense; exit 255")
    with pytest.raises(Unread, match=r"exit 255: .*Bad configuration option"):
        sshd.settings({}, str(at.root))


def told(host: FakeHost) -> list[tuple[Any, ...]]:
    return [(one.path, one.line, one.keyword, one.value, one.match) for one in gathered(host).lines]


def test_lines_in_the_order_in_which_sshd_reads_them(at: FakeHost) -> None:
    at.write(CONFIG, "# AllowTcpForwarding no\nInclude /etc/ssh/sshd_config.d/*.conf\nallowtcpforwarding yes\n")
    at.write("/etc/ssh/sshd_config.d/20-late.conf", "PermitOpen 127.0.0.1:1\n")
    at.write("/etc/ssh/sshd_config.d/10-early.conf", "X11Forwarding no\n  AllowTcpForwarding=no # hardening\n")
    at.write("/etc/ssh/sshd_config.d/30.conf.off", "DisableForwarding yes\n")
    assert told(at) == [
        ("/etc/ssh/sshd_config.d/10-early.conf", 2, "allowtcpforwarding", "no", ""),
        ("/etc/ssh/sshd_config.d/20-late.conf", 1, "permitopen", "127.0.0.1:1", ""),
        (CONFIG, 3, "allowtcpforwarding", "yes", ""),
    ]


def test_match_blocks_end_with_their_file(at: FakeHost) -> None:
    at.write("/etc/ssh/sshd_config.d/a.conf", "Match User ops\nAllowTcpForwarding no\n")
    at.write(CONFIG, "Include sshd_config.d/*.conf\nDisableForwarding no\nMatch Address 10.*\nPermitOpen none\n")
    assert [row[2:] for row in told(at)] == [
        ("allowtcpforwarding", "no", "User ops"),
        ("disableforwarding", "no", ""),
        ("permitopen", "none", "Address 10.*"),
    ]


def test_files_that_include_each_other_end(at: FakeHost) -> None:
    at.write(CONFIG, "Include /etc/ssh/sshd_config\nAllowTcpForwarding no\n" * 3)
    assert len(told(at)) <= sshd.MOST_LINES


def test_hostile_text_is_cleaned(at: FakeHost) -> None:
    at.write(CONFIG, b"AllowTcpForwarding \x1b[31mno\xff\x1b]0;x\x07\n" + b"PermitOpen " + b"a" * 10_000 + b"\n")
    values = [row[3] for row in told(at)]
    assert values[0].startswith("no")
    assert all("\x1b" not in value and len(value) < 3000 for value in values)


KEYS: list[tuple[str, list[str]]] = [
    ("ssh-ed25519 AAAA restrict@home\n", []),
    ("no-port-forwarding ssh-ed25519 AAAA me\n", ["no-port-forwarding"]),
    ('restrict,command="a b, restrict" ssh-rsa AAAA\n', ["restrict"]),
    ("restrict,port-forwarding ssh-rsa AAAA\n", ["restrict, port-forwarding"]),
    ('permitopen="127.0.0.1:8188",no-pty ecdsa-sha2-nistp256 A\n', ['permitopen="127.0.0.1:8188"']),
    ('command="no-port-forwarding" ssh-rsa AAAA\n', []),
    ("# no-port-forwarding ssh-rsa AAAA\n", []),
    ("\n\nNo-Port-Forwarding ssh-rsa AAAA\n", ["No-Port-Forwarding"]),
]


@pytest.mark.parametrize(("text", "expected"), KEYS)
def test_options_of_keys(at: FakeHost, text: str, expected: list[str]) -> None:
    at.write("/home/ops/.ssh/authorized_keys", text)
    found = gathered(at).keys
    assert [line.partition(": ")[2] for line in found] == expected
    assert not any("AAAA" in line for line in found)


def test_keys_on_a_network_mount_are_not_waited_for(at: FakeHost) -> None:
    at.mount("/home", "nfs4", "nas:/home")
    assert "not read" in gathered(at).keys[0]
