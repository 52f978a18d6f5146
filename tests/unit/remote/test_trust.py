"""`invoke trust`: look without logging in, record after a yes, replace only when told to."""

from __future__ import annotations

import base64
import hmac
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pantheon.errors import NotTrusted
from pantheon.inventory import Host
from pantheon.places import state_directory
from pantheon.remote import known_hosts, trust
from pantheon.remote.connection import HostConnection
from pantheon.remote.endpoint import resolve
from pantheon.remote.verified import runtime_dir, verified_file
from tests.unit.remote.server import HOST_KEY, LOGIN_KEY, SshServer, ed25519_key, key_of

OLD = key_of(ed25519_key())


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    parts = (salt, hmac.new(salt, name.encode(), "sha1").digest())
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


@pytest.fixture
def theirs(own_home: Path) -> Path:
    (own_home / ".ssh").mkdir(mode=0o700)
    return own_home / ".ssh/known_hosts"


def test_an_unknown_key_is_shown_and_recorded(server: SshServer, host: Host, known: Path) -> None:
    known.unlink()
    found = trust.examine(host)
    assert (found.state, found.key, found.old, found.file) == ("unknown", key_of(HOST_KEY), (), known)
    assert found.label == f"box (ops@127.0.0.1:{host.port})"
    assert not server.offered, "somebody logged in"
    assert not known.exists(), "looking has written something"
    trust.record(found)
    trust.record(found)
    assert known.read_text() == f"[127.0.0.1]:{host.port} {key_of(HOST_KEY)}\n"
    with HostConnection.to(host) as connection:
        connection.open()
    assert trust.examine(host).state == "known"


def test_a_folder_that_cannot_be_written(host: Host, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(NotTrusted, match="cannot be written: /proc") as caught:
        verified_file(resolve(host))
    assert "XDG_RUNTIME_DIR" in caught.value.next_commands[0]
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", "/proc/nowhere/known_hosts")
    with pytest.raises(NotTrusted, match="/proc/nowhere/known_hosts cannot be changed") as caught:
        trust.record(trust.examine(host))
    assert caught.value.next_commands[0] == "ls -ld /proc/nowhere"


def test_a_rebuilt_host_in_both_files(host: Host, known: Path, theirs: Path) -> None:
    name = f"[127.0.0.1]:{host.port}"
    theirs.write_text(f"# mine\nother {OLD}\n{hashed(name)} {OLD}\n{name},10.0.0.1 {OLD}\n")
    theirs.chmod(0o600)
    known.write_text(f"{name} {OLD}\n{name} {key_of(HOST_KEY)}\nzeus {OLD}\n")
    found = trust.examine(host)
    assert found.state == "changed"
    places = [(entry.file, entry.line, entry.key) for entry in found.old]
    assert places == [(theirs, 3, OLD), (theirs, 4, OLD), (known, 1, OLD)]
    with pytest.raises(NotTrusted, match="has changed"):
        trust.record(found)
    assert theirs.read_text().count("\n") == 4
    trust.replace(found)
    assert theirs.read_text() == f"# mine\nother {OLD}\n"
    assert theirs.with_name("known_hosts.old").read_text().count("\n") == 4
    assert known.read_text() == f"{name} {key_of(HOST_KEY)}\nzeus {OLD}\n"
    assert theirs.stat().st_mode & 0o777 == 0o600
    with HostConnection.to(host) as connection:
        connection.open()


def test_a_file_that_changed_meanwhile_is_left_alone(host: Host, theirs: Path) -> None:
    theirs.write_text(f"[127.0.0.1]:{host.port} {OLD}\n")
    found = trust.examine(host)
    theirs.write_text(f"zeus {OLD}\n[127.0.0.1]:{host.port} {OLD}\n")
    with pytest.raises(NotTrusted, match="was changed meanwhile"):
        trust.replace(found)
    assert theirs.read_text().count("\n") == 2


def test_a_revoked_key_can_be_neither_recorded_nor_replaced(host: Host, known: Path) -> None:
    known.write_text(f"@revoked * {key_of(HOST_KEY)}\n")
    found = trust.examine(host)
    assert found.state == "revoked"
    for change in (trust.record, trust.replace):
        with pytest.raises(NotTrusted, match="was revoked"):
            change(found)


def test_a_file_that_cannot_be_written(host: Host, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known.write_text("")
    found = trust.examine(host)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(known))

    monkeypatch.setattr(known_hosts, "write", full)
    with pytest.raises(NotTrusted, match="cannot be changed: No space left on device"):
        trust.record(found)


@pytest.fixture
def behind(bin: Path) -> Iterator[SshServer]:
    made = SshServer(ed25519_key(), accepts=[LOGIN_KEY], bin=bin)
    yield made
    made.close()


def test_a_gateway_is_examined_first(server: SshServer, behind: SshServer, host: Host, known: Path) -> None:
    known.write_text("")
    far = replace(host, port=behind.port, gateway=f"jump@127.0.0.1:{server.port}")
    found = trust.examine(far)
    assert found.is_gateway
    assert (found.key, found.label) == (key_of(HOST_KEY), f"gateway of box (jump@127.0.0.1:{server.port})")
    trust.record(found)
    found = trust.examine(far)
    assert not found.is_gateway
    assert found.key == key_of(behind.host_keys[0])
    assert trust.fetch_key(far) == found.key
    trust.record(found)
    assert trust.examine(far).state == "known"
    assert trust.lookup(far).accepted() == (found.key,)


def test_the_verified_file_holds_only_what_is_accepted(host: Host, known: Path, theirs: Path) -> None:
    name = f"[127.0.0.1]:{host.port}"
    theirs.write_text(f"{hashed(name)} {key_of(HOST_KEY)}\nother {OLD}\n@revoked * {OLD}\n")
    known.write_text(f"{name} {OLD}\n")
    file = verified_file(resolve(host))
    assert file.read_text() == f"pantheon-0 {key_of(HOST_KEY)}\n@revoked pantheon-0 {OLD}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o077 == 0
    found = subprocess.run(["ssh-keygen", "-F", "pantheon-0", "-f", file], capture_output=True, check=False)
    assert found.returncode == 0


def test_no_verified_file_for_an_unknown_host(host: Host, known: Path) -> None:
    known.write_text("")
    with pytest.raises(NotTrusted, match="its host key is unknown") as caught:
        verified_file(resolve(host))
    assert caught.value.next_commands == ("invoke trust --host box",)


def test_what_is_said_of_a_host_that_only_an_authority_or_a_revocation_knows(host: Host, known: Path) -> None:
    name = f"[127.0.0.1]:{host.port}"
    known.write_text(f"@cert-authority {name} {OLD}\n")
    with pytest.raises(NotTrusted, match="its host key is unknown") as caught:
        verified_file(resolve(host))
    assert f"{known}:1 trusts it through a certificate authority, which is not read here" in caught.value.details
    known.write_text(f"{name} {OLD}\n@revoked * {OLD}\n")
    with pytest.raises(NotTrusted, match="its host key was revoked") as caught:
        verified_file(resolve(host))
    assert caught.value.details == (f"revoked by {known}:2",)
    assert "do not connect" in caught.value.next_commands[0]


def test_a_verified_file_that_says_the_same_is_left_alone(
    host: Host, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is made anew on a disk that has filled up; a key that has changed meanwhile is not written over."""
    file = verified_file(resolve(host))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # of a write, without the name of the file

    with monkeypatch.context() as patch:
        patch.setattr(known_hosts, "write", full)
        assert verified_file(resolve(host)) == file
        known.write_text(f"[127.0.0.1]:{host.port} {OLD}\n")
        with pytest.raises(NotTrusted, match=r"cannot be written: /\S+/known_hosts-\S+: No space left on device"):
            verified_file(resolve(host))
    assert str(OLD) not in file.read_text()
    # Nor is what somebody else may have written taken for ours.
    assert str(OLD) in verified_file(resolve(host)).read_text()
    file.chmod(0o666)
    assert verified_file(resolve(host)).stat().st_mode & 0o777 == 0o600
    elsewhere = known.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    elsewhere.write_text("mine\n")
    assert not verified_file(resolve(host)).is_symlink()
    assert elsewhere.read_text() == "mine\n"


def test_hosts_of_one_name_have_files_of_their_own(
    host: Host, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two inventories, each with its known_hosts: a tunnel of one is not trusted by what the other knows."""
    first = verified_file(resolve(host))
    other = tmp_path / "other"
    other.write_text(f"[127.0.0.1]:{host.port} {OLD}\n")
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", str(other))
    second = verified_file(resolve(host))
    assert first != second
    assert str(key_of(HOST_KEY)) in first.read_text()
    assert str(key_of(HOST_KEY)) not in second.read_text()
    other.write_text(f"[127.0.0.1]:{host.port} {OLD}\n" * 2 + f"10.0.0.9 {OLD}\n")
    third = verified_file(resolve(replace(host, address="10.0.0.9", port=22)))
    assert len({first, second, third}) == 3


def test_the_runtime_directory_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "run"
    given.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    (given / "pantheon").mkdir(mode=0o777)
    (given / "pantheon").chmod(0o777)
    assert runtime_dir() == given / "pantheon"
    assert runtime_dir().stat().st_mode & 0o022 == 0
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(PermissionError, match="it is another user's"):
        runtime_dir()


def test_a_relative_directory_of_the_environment_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in the background runs in another directory, and must find the same files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert runtime_dir() == state_directory() == tmp_path / "home" / ".local" / "state" / "pantheon"


def test_hostile_names_stay_file_names(host: Host) -> None:
    with pytest.raises(NotTrusted):
        verified_file(resolve(replace(host, name="../../x $(y)", port=1)))
    odd = runtime_dir()
    assert [path for path in odd.parent.iterdir() if path != odd] == []
