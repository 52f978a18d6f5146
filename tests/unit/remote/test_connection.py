"""Connecting: every way in which it fails has its own words, and leaves nothing behind."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from pantheon.errors import HostError, LinkLost, LoginRefused, NotReached, NotTrusted
from pantheon.inventory import Host
from pantheon.remote import connection as module
from pantheon.remote import transport
from pantheon.remote.connection import HostConnection
from tests.unit.remote.server import HOST_KEY, LOGIN_KEY, SshServer, ed25519_key, ed25519_text, key_of


def refusal(host: Host, kind: type[HostError]) -> HostError:
    with pytest.raises(kind) as caught:
        HostConnection.to(host).open()
    assert caught.value.next_commands, "an error without a next command"
    assert caught.value.exit_code == 3
    return caught.value


def test_a_known_host_is_entered_in_one_try(server: SshServer, connection: HostConnection) -> None:
    connection.open()
    connection.open()
    assert connection.is_connected
    assert server.offered == [LOGIN_KEY.asbytes()]
    assert connection.run("echo one; exit 3", warn=True).exited == 3


def test_close_is_quick_and_may_come_twice(connection: HostConnection) -> None:
    connection.open()
    began = time.monotonic()
    connection.close()
    connection.close()
    assert time.monotonic() - began < 0.05
    assert not connection.is_connected


# -- the key


def test_unknown_key(host: Host, known: Path) -> None:
    known.write_text("")
    error = refusal(host, NotTrusted)
    assert f"box (ops@127.0.0.1:{host.port}): its host key is unknown" in str(error)
    assert error.details == (f"shown now: ssh-ed25519 {key_of(HOST_KEY).fingerprint}",)
    assert error.next_commands == ("invoke trust --host box",)


def test_changed_key(host: Host, known: Path) -> None:
    old = key_of(ed25519_key())
    known.write_text(f"# ours\n[127.0.0.1]:{host.port} {old}\n")
    error = refusal(host, NotTrusted)
    assert "its host key has changed" in str(error)
    assert error.details == (
        f"shown now: ssh-ed25519 {key_of(HOST_KEY).fingerprint}",
        f"recorded:  ssh-ed25519 {old.fingerprint} in {known}:2",
    )
    assert error.next_commands == ("invoke trust --host box --replace",)


def test_revoked_key_is_never_merely_unknown(host: Host, known: Path) -> None:
    known.write_text(f"@revoked * {key_of(HOST_KEY)}\n")
    error = refusal(host, NotTrusted)
    assert "its host key was revoked" in str(error)
    assert f"revoked by {known}:1" in error.details
    assert not any("invoke trust" in command for command in error.next_commands)


def test_revoked_wins_over_known(host: Host, known: Path) -> None:
    known.write_text(known.read_text() + f"@revoked [127.0.0.1]:* {key_of(HOST_KEY)}\n")
    assert "revoked" in str(refusal(host, NotTrusted))


def test_the_users_file_wins(host: Host, own_home: Path) -> None:
    theirs = own_home / ".ssh/known_hosts"
    theirs.parent.mkdir()
    theirs.write_text(f"[127.0.0.1]:{host.port} {key_of(ed25519_key())}\n")
    error = refusal(host, NotTrusted)
    assert "has changed" in str(error)
    assert f"{theirs}:1" in error.details[1]


def test_a_certificate_authority_is_named(host: Host, known: Path) -> None:
    known.write_text(f"@cert-authority * {key_of(ed25519_key())}\n")
    error = refusal(host, NotTrusted)
    assert "is unknown" in str(error)
    assert "certificate authority" in error.details[1]


def test_the_type_on_record_is_asked_for(bin: Path, known: Path, identity: Path) -> None:
    ecdsa = paramiko.ECDSAKey.generate()
    server = SshServer(HOST_KEY, ecdsa, accepts=[LOGIN_KEY], bin=bin)
    known.write_text(f"[127.0.0.1]:{server.port} {key_of(ecdsa)}\n")
    with HostConnection.to(Host("box", "127.0.0.1", "ops", server.port, str(identity))) as connection:
        connection.open()
        assert connection.transport.server_key == key_of(ecdsa)
    server.close()


def test_another_type_than_recorded_counts_as_changed(host: Host, known: Path) -> None:
    known.write_text(f"[127.0.0.1]:{host.port} {key_of(paramiko.ECDSAKey.generate())}\n")
    assert "has changed" in str(refusal(host, NotTrusted))


def test_an_rsa_key(bin: Path, known: Path, identity: Path) -> None:
    rsa = paramiko.RSAKey.generate(2048)
    server = SshServer(rsa, accepts=[LOGIN_KEY], bin=bin)
    known.write_text(f"[127.0.0.1]:{server.port} {key_of(rsa)}\n")
    with HostConnection.to(Host("box", "127.0.0.1", "ops", server.port, str(identity))) as connection:
        connection.open()
    server.close()


def test_an_unreadable_known_hosts_is_not_an_empty_one(host: Host, known: Path) -> None:
    known.unlink()
    known.mkdir()
    assert f"{known} cannot be read" in str(refusal(host, NotTrusted))


# -- the login


def test_refused_login_says_what_was_offered(server: SshServer, host: Host) -> None:
    server.accepts = []
    error = refusal(host, LoginRefused)
    assert "the server refused to let ops in" in str(error)
    assert error.details[0] == f"offered ssh-ed25519 {key_of(LOGIN_KEY).fingerprint} ({host.identity})"
    assert "the server accepts: publickey" in error.details
    assert error.next_commands[0] == f"ssh-copy-id -i {host.identity} -p {host.port} ops@127.0.0.1"


def test_an_identity_that_is_named_is_the_only_one_offered(server: SshServer, host: Host, own_home: Path) -> None:
    (own_home / ".ssh").mkdir()
    (own_home / ".ssh/id_ed25519").write_text(ed25519_text())
    server.accepts = []
    refusal(host, LoginRefused)
    assert server.offered == [LOGIN_KEY.asbytes()]


def test_a_missing_identity_is_noticed_before_connecting(server: SshServer, host: Host) -> None:
    error = refusal(replace(host, identity="~/nowhere"), LoginRefused)
    assert re.search(r"the identity /.*/nowhere cannot be read: No such file", str(error))
    assert not server.transports


def test_an_identity_that_is_a_directory(host: Host, tmp_path: Path) -> None:
    assert "is not a file" in str(refusal(replace(host, identity=str(tmp_path)), LoginRefused))


def test_a_locked_key_without_an_agent(host: Host, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_text(ed25519_text("secret"))
    error = refusal(replace(host, identity=str(locked)), LoginRefused)
    assert f"{locked} is protected by a passphrase and no ssh-agent holds it" in str(error)
    assert error.next_commands == (f"ssh-add {locked}",)


def test_a_public_key_names_one_that_an_agent_holds(host: Host, identity: Path, agent: Path, server: SshServer) -> None:
    public = identity.with_name("work.pub")
    public.write_text(f"{LOGIN_KEY.get_name()} {LOGIN_KEY.get_base64()} me@here\n")
    error = refusal(replace(host, identity=str(public)), LoginRefused)
    assert f"{public} is a public key, and no ssh-agent holds the private one" in str(error)
    assert error.next_commands == (f"ssh-add {identity.with_name('work')}",)
    subprocess.run(["ssh-add", "-q", str(identity)], check=True, stdin=subprocess.DEVNULL)
    with HostConnection.to(replace(host, identity=str(public))) as connection:
        connection.open()
    assert server.offered == [LOGIN_KEY.asbytes()]


def test_a_file_that_is_no_key(host: Host, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("not a key")
    error = refusal(replace(host, identity=str(tmp_path / "odd")), LoginRefused)
    assert "there is no key to offer" in str(error)
    assert "is no key that can be used here" in error.details[0]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    process.terminate()
    process.wait()


def test_a_locked_key_that_the_agent_holds(
    server: SshServer, host: Host, tmp_path: Path, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, ask = tmp_path / "locked", tmp_path / "ask"
    text = ed25519_text("secret")
    locked.write_text(text)
    locked.chmod(0o600)
    ask.write_text("#!/bin/sh\necho secret\n")
    ask.chmod(ask.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    subprocess.run(["ssh-add", "-q", locked], check=True, stdin=subprocess.DEVNULL)
    import io

    server.accepts = [paramiko.Ed25519Key.from_private_key(io.StringIO(text), "secret").asbytes()]
    with HostConnection.to(replace(host, identity=str(locked))) as connection:
        connection.open()
    assert server.offered == server.accepts


def test_too_many_keys_are_not_offered(server: SshServer, host: Host, tmp_path: Path, agent: Path) -> None:
    for number in range(8):
        key = tmp_path / f"k{number}"
        key.write_text(ed25519_text())
        key.chmod(0o600)
        subprocess.run(["ssh-add", "-q", key], check=True, stdin=subprocess.DEVNULL)
    server.accepts = []
    error = refusal(replace(host, identity=""), LoginRefused)
    assert len(server.offered) == 6
    assert "refused to let ops in" in str(error)
    assert any("hung up after 6 keys" in line or "more keys were not tried" in line for line in error.details)


def test_an_agent_that_is_gone(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    with HostConnection.to(host) as connection:
        connection.open()


# -- the way there


def test_connection_refused(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = refusal(replace(host, port=port), NotReached)
    assert f"box (ops@127.0.0.1:{port}): connection refused, no SSH server listens on port {port}" in str(error)


def test_no_dns(host: Host) -> None:
    error = refusal(replace(host, address="box.invalid"), NotReached)
    assert "no address is known for 'box.invalid'" in str(error)
    assert error.next_commands[0] == "getent hosts box.invalid"


def test_no_route(host: Host) -> None:
    assert "no route to it (Network is unreachable)" in str(refusal(replace(host, address="192.0.2.1"), NotReached))


def test_connect_timeout(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(module, "dial", silence)
    assert "no answer within 10 s (host down, or a firewall)" in str(refusal(host, NotReached))


def test_a_paused_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BANNER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refusal(replace(host, port=silent.getsockname()[1]), NotReached)
    assert "it accepts connections but says nothing" in str(error)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"", "it hung up before a word was said"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x\r\n" * 200, "something else than an SSH server"),
        (b"SSH-1.5-old\r\n", "no common SSH algorithm"),
        (b"SSH-2.0-broken\r\n\x00\x00\x00\x01garbage-garbage", "the connection broke while it was made"),
    ],
)
def test_odd_servers(host: Host, words: bytes, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.sendall(words)
            sock.recv(64)
            sock.close()

        threading.Thread(target=answer, daemon=True).start()
        assert expected in str(refusal(replace(host, port=listener.getsockname()[1]), NotReached))


def test_a_server_that_freezes_in_the_key_exchange(
    server: SshServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BANNER_S", 0.2)
    monkeypatch.setattr(transport, "HANDSHAKE_S", 0.2)
    server.frozen = True
    assert "the connection broke while it was made" in str(refusal(host, NotReached))


# -- a link that dies


def test_a_dropped_link(server: SshServer, connection: HostConnection) -> None:
    connection.open()
    threading.Timer(0.1, server.drop).start()
    with pytest.raises(LinkLost, match=r"box .*: the connection was lost") as caught:
        connection.run("exec sleep 5")
    assert caught.value.next_commands


def test_a_frozen_host_is_noticed(
    server: SshServer, connection: HostConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BEAT_S", 0.1)
    monkeypatch.setattr(transport, "SILENCE_S", 0.5)
    connection.open()
    time.sleep(0.6)
    assert connection.is_connected, "an idle link is not a dead one"
    server.frozen = True
    began = time.monotonic()
    with pytest.raises(LinkLost):
        connection.run("echo never")
    assert 0.2 < time.monotonic() - began < 2


# -- gateways


def test_a_gateway_is_as_strict(server: SshServer, host: Host, known: Path, bin: Path) -> None:
    behind = SshServer(ed25519_key(), accepts=[LOGIN_KEY], bin=bin)
    far = replace(host, port=behind.port, gateway=f"jump@127.0.0.1:{server.port}")
    error = refusal(far, NotTrusted)
    assert f"box (ops@127.0.0.1:{behind.port}): its host key is unknown" in str(error)
    with known.open("a") as file:
        file.write(f"[127.0.0.1]:{behind.port} {key_of(behind.host_keys[0])}\n")
    with HostConnection.to(far) as connection:
        connection.open()
        assert isinstance(connection.gateway, HostConnection)
        assert connection.run("echo through").stdout == "through\n"
        gateway = connection.gateway
    assert not gateway.is_connected
    known.write_text("")
    error = refusal(far, NotTrusted)
    assert f"gateway of box (jump@127.0.0.1:{server.port}): its host key is unknown" in str(error)
    assert error.next_commands == ("invoke trust --host box",)
    behind.close()


def test_a_gateway_that_does_not_forward(server: SshServer, host: Host) -> None:
    far = replace(host, address="127.0.0.2", gateway=f"jump@127.0.0.1:{server.port}")
    assert "cannot connect to it" in str(refusal(replace(far, port=1), NotReached))
    server.forwards = False
    assert "does not forward connections (AllowTcpForwarding)" in str(refusal(far, NotReached))


# -- the runner


def test_bulk_output_and_stdin(connection: HostConnection) -> None:
    import io

    began = time.monotonic()
    text = "äöü" * 30000
    assert connection.run("cat", in_stream=io.StringIO(text)).stdout == text
    assert len(connection.run("yes | head -c 5000000").stdout) == 5_000_000
    assert time.monotonic() - began < 4


def test_connect_kwargs_are_not_shared(host: Host) -> None:
    one, two = HostConnection.to(host), HostConnection.to(host)
    assert one.connect_kwargs is not two.connect_kwargs
