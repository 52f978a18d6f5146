"""AES-GCM first where both ends are known to have AES instructions, and nothing lost where they are not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pantheon import places
from pantheon.inventory import Host
from pantheon.remote import ciphers, ssh
from pantheon.remote.endpoint import resolve, ssh_defaults
from tests.unit.remote.server import HOST_KEY, SshServer, ed25519_key, key_of

FAST = "aes128-gcm@openssh.com,aes256-gcm@openssh.com"


@pytest.fixture(autouse=True)
def aes_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ciphers, "has_aes", lambda: True)
    ciphers._answered.clear()
    yield
    ciphers._answered.clear()


def forget() -> None:
    """What another process would not know."""
    ciphers._answered.clear()


@pytest.fixture
def grep(bin: Path) -> Path:
    """The host's grep, which finds AES instructions."""
    file = bin / "grep"
    file.write_text(f'#!/bin/sh\necho "$@" >>{bin}/asked\necho aes\n')
    file.chmod(0o755)
    return file


def memory() -> Path:
    (file,) = (places.state_directory() / "aes").iterdir()
    return file


def test_what_is_remembered_is_this_users_alone(server: SshServer, host: Host, grep: Path) -> None:
    before = os.umask(0)
    try:
        ciphers.preferred(resolve(host))
    finally:
        os.umask(before)
    for path in (memory(), memory().parent, places.state_directory()):
        assert path.stat().st_mode & 0o077 == 0


def test_a_host_is_asked_once_and_remembered(server: SshServer, host: Host, grep: Path) -> None:
    found = ciphers.preferred(resolve(host))
    assert found.keys() == {0}
    assert found[0].startswith(f"{FAST},")
    assert sorted(found[0].split(",")) == sorted(ssh_defaults()["ciphers"][0].split(","))
    assert f"Ciphers={found[0]}" in ssh.command(resolve(host), Path("/known"), ciphers=found)
    forget()
    assert ciphers.preferred(resolve(host)) == found
    assert ciphers.preferred(resolve(replace(host, name="other")), ask=False) == found, "it is the same host"
    assert grep.with_name("asked").read_text().splitlines() == ["-m1 -ow aes /proc/cpuinfo"]
    assert len(server.offered) == 1
    assert memory().stat().st_mode & 0o777 == 0o600
    assert memory().parent.stat().st_mode & 0o077 == 0


def test_nothing_is_asked_when_it_is_not_to_be(server: SshServer, host: Host, grep: Path) -> None:
    assert ciphers.preferred(resolve(host), ask=False) == {}
    assert not server.transports


@pytest.mark.parametrize("answer", ["exit 1", "echo no such file >&2; exit 2", "echo AES", "yes aes | head -99"])
def test_a_host_without_keeps_what_it_has(server: SshServer, host: Host, grep: Path, answer: str) -> None:
    grep.write_text(f"#!/bin/sh\n{answer}\n")
    assert ciphers.preferred(resolve(host)) == {}
    assert memory().read_text() == "no\n"
    forget()
    assert ciphers.preferred(resolve(host)) == {}
    assert len(server.offered) == 1
    forget()
    long_ago = time.time() - ciphers.NO_HOLDS_S - 1
    os.utime(memory(), (long_ago, long_ago))
    grep.write_text("#!/bin/sh\necho aes\n")
    assert ciphers.preferred(resolve(host)).keys() == {0}


def test_another_key_is_another_host(server: SshServer, host: Host, known: Path, grep: Path) -> None:
    assert ciphers.preferred(resolve(host))
    forget()
    known.write_text(f"[127.0.0.1]:{host.port} {key_of(ed25519_key())}\n")
    assert ciphers.preferred(resolve(host)) == {}, "it shows another key than is known now"
    known.write_text("")
    assert ciphers.preferred(resolve(host)) == {}
    known.write_text(f"[127.0.0.1]:{host.port} {key_of(HOST_KEY)}\n")
    assert ciphers.preferred(resolve(host))


def test_a_host_that_is_down_is_left_to_ssh(host: Host, grep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    from pantheon.remote import known_hosts

    monkeypatch.setattr(known_hosts, "of", lambda _, of=known_hosts.of: of(resolve(host)))
    began = time.monotonic()
    assert ciphers.preferred(resolve(replace(host, port=port))) == {}
    assert time.monotonic() - began < 2
    assert not (places.state_directory() / "aes").exists()


def test_a_login_that_only_ssh_can_do_costs_one_connection(server: SshServer, host: Host, grep: Path) -> None:
    server.accepts.clear()
    for _ in range(3):
        assert ciphers.preferred(resolve(host)) == {}
        forget()
    assert len(server.offered) == 1


def test_a_memory_that_cannot_be_trusted_is_none(server: SshServer, host: Host, grep: Path, tmp_path: Path) -> None:
    assert ciphers.preferred(resolve(host))
    file = memory()

    def again(expected: int) -> None:
        forget()
        assert len(ciphers.preferred(resolve(host), ask=False)) == expected

    again(1)
    for text in (b"", b"yes", b"yes\nyes\n", b"\xff" * 100_000, b"YES\n"):
        file.write_bytes(text)
        again(0)
    file.write_bytes(b"yes\n")
    file.chmod(0o622)
    again(0)
    file.chmod(0o600)
    again(1)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    again(0)
    file.unlink()
    os.mkfifo(file)
    again(0)
    file.unlink()
    file.mkdir()
    again(0)
    assert ciphers.preferred(resolve(host)), "asked anew, though it cannot be remembered"
    assert ciphers.preferred(resolve(host)), "but in this process it is"
    assert len(server.offered) == 2


def test_a_choice_of_the_users_own_stays(server: SshServer, host: Host, grep: Path, own_home: Path) -> None:
    (own_home / ".ssh").mkdir()
    (own_home / ".ssh/config").write_text("Host *\n Ciphers aes256-ctr\n")
    assert ciphers.preferred(resolve(host)) == {}
    assert not server.transports


def test_an_ssh_that_knows_no_gcm_or_says_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ({}, {"ciphers": ["aes128-ctr,chacha20-poly1305@openssh.com"]}):
        monkeypatch.setattr(ciphers, "ssh_defaults", lambda said=said: said)
        assert ciphers.preferred(resolve(host)) == {}


def test_a_machine_without_aes_asks_nobody(server: SshServer, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ciphers, "has_aes", lambda: False)
    assert ciphers.preferred(resolve(host)) == {}
    assert not server.transports


def test_a_gateway_has_its_default_until_it_is_known(server: SshServer, host: Host, known: Path, grep: Path) -> None:
    """It is not asked on the way; once it had a tunnel of its own, both have the faster one."""
    known.write_text(known.read_text() + f"10.0.0.9 {key_of(ed25519_key())}\n")
    far = resolve(Host("far", "10.0.0.9", gateway=f"ops@127.0.0.1:{host.port}", identity=host.identity))
    assert ciphers.preferred(far, ask=False) == {}
    assert ciphers.preferred(resolve(host)).keys() == {0}
    assert ciphers.preferred(far, ask=False).keys() == {0}


def test_this_machines_own_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    words = Path("/proc/cpuinfo").read_text(errors="replace").split() if Path("/proc/cpuinfo").exists() else ["aes"]
    assert ciphers.has_aes() == ("aes" in words)
