"""hosts.toml over ~/.ssh/config, as OpenSSH itself reads it."""

from __future__ import annotations

import getpass
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pantheon.errors import LoginRefused, NotReached
from pantheon.inventory import Host
from pantheon.remote.connection import HostConnection
from pantheon.remote.endpoint import Early, Endpoint, resolve
from tests.unit.remote.server import SshServer


@pytest.fixture
def config(own_home: Path) -> Path:
    (own_home / ".ssh").mkdir(mode=0o700)
    return own_home / ".ssh/config"


def names(endpoint: Endpoint) -> list[str]:
    return [f"{hop.user}@{hop.address}" for hop in endpoint.chain()]


def test_nothing_configured() -> None:
    found = resolve(Host("box", "10.0.99.10"))
    assert (found.hostname, found.port, found.user) == ("10.0.99.10", 22, getpass.getuser())
    assert (found.identities, found.identities_only, found.gateway) == ((), False, None)
    assert found.user_known_hosts[0] == Path.home() / ".ssh/known_hosts"
    assert found.global_known_hosts[0] == Path("/etc/ssh/ssh_known_hosts")
    assert found.label == f"box ({getpass.getuser()}@10.0.99.10:22)"


def test_a_user_whom_this_machine_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, or with a directory that is down: ssh itself says "No user exists for uid 54321"."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(NotReached, match="this machine knows no user 54321"):
        resolve(Host("box", "10.0.99.10", identity="~/.ssh/id"))


def test_ssh_config_fills_what_hosts_toml_leaves_out(config: Path) -> None:
    config.with_name("more").write_text("Host pro*\n HostName 10.0.0.5\n HostKeyAlias the-box\n")
    config.write_text(
        f"Include {config.with_name('more')}\nHost prometheus\n User ops\n Port 2200\n IdentityFile ~/.ssh/work\n"
        " IdentitiesOnly yes\n ProxyJump hop@bastion:2201\n UserKnownHostsFile ~/.ssh/kh\n"
    )
    found = resolve(Host("prometheus", "prometheus"))
    assert names(found) == ["hop@bastion:2201", "ops@10.0.0.5:2200"]
    assert found.identities == (Path.home() / ".ssh/work",)
    assert found.identities_only
    assert found.key_names == ("the-box",)
    assert found.user_known_hosts == (Path.home() / ".ssh/kh",)


def test_hosts_toml_wins(config: Path) -> None:
    config.write_text("Host *\n User nobody\n Port 1\n IdentityFile ~/.ssh/other\n ProxyJump bastion\n")
    found = resolve(Host("box", "10.0.0.5", "ops", 2222, "~/key", gateway="none"))
    assert names(found) == ["ops@10.0.0.5:2222"]
    assert found.identities == (Path.home() / "key",)
    assert found.identities_only


def test_a_jump_host_that_is_its_own(config: Path) -> None:
    config.write_text("Host *\n ProxyJump bastion\n")
    with pytest.raises(NotReached) as caught:
        resolve(Host("box", "10.0.0.5"))
    assert "jumphost loop" in " ".join(caught.value.details)


def test_a_chain_of_gateways_gets_the_identity() -> None:
    found = resolve(Host("box", "fd00::5", "ops", identity="~/key", gateway="a@one, b@[fd00::1]:2200,ssh://c@three:7"))
    assert names(found) == ["a@one:22", "b@[fd00::1]:2200", "c@three:7", "ops@[fd00::5]:22"]
    assert all(hop.identities == (Path.home() / "key",) for hop in found.chain())
    assert {hop.inventory_host for hop in found.chain()} == {"box"}
    assert found.gateway is not None
    assert found.gateway.label == "gateway of box (c@three:7)"


def test_a_gateways_own_identity_stays(config: Path) -> None:
    config.write_text("Host bastion\n IdentityFile ~/.ssh/hop\n")
    found = resolve(Host("box", "10.0.0.5", identity="~/key", gateway="bastion"))
    assert found.gateway is not None
    assert found.gateway.identities == (Path.home() / ".ssh/hop",)


def test_gateways_in_a_circle(config: Path) -> None:
    config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(NotReached, match="gateways lead in a circle"):
        resolve(Host("a", "a"))


@pytest.mark.parametrize("gateway", ["host:port", "user@", "a,@b:x"])
def test_a_gateway_that_is_none(gateway: str) -> None:
    with pytest.raises(NotReached, match=r"is not \[user@\]host\[:port\]"):
        resolve(Host("box", "10.0.0.5", gateway=gateway))


def test_a_config_that_ssh_cannot_read(config: Path) -> None:
    config.write_text("Hots x\n")
    with pytest.raises(NotReached, match="OpenSSH cannot read its configuration") as caught:
        resolve(Host("box", "10.0.0.5"))
    assert "Bad configuration option: hots" in " ".join(caught.value.details)


@pytest.mark.parametrize("address", ["-oProxyCommand=touch /tmp/no", "$(touch /tmp/no)", "a b", "x;touch /tmp/no"])
def test_a_hostile_address_stays_an_address(address: str) -> None:
    try:
        found = resolve(Host("box", address))
    except NotReached:
        return  # newer versions of OpenSSH refuse such names themselves
    assert found.hostname == address.lower() or found.hostname == address
    assert not found.proxy_command


def test_without_openssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert names(resolve(Host("box", "10.0.0.5", "ops"))) == ["ops@10.0.0.5:22"]


# -- the first steps, while Fabric is being imported


def test_an_early_connection_is_used(server: SshServer, host: Host) -> None:
    with HostConnection.to(host, early=Early(host)) as connection:
        connection.open()
        assert connection.run("echo early").stdout == "early\n"
    assert len(server.transports) == 1


def test_an_early_connection_that_nobody_takes_is_closed(host: Host) -> None:
    early = Early(host)
    HostConnection.to(host, early=early).close()
    assert early.sock is None
    assert not early.thread.is_alive()


def test_an_early_failure_is_the_same_error(host: Host, config: Path) -> None:
    with pytest.raises(NotReached, match="connection refused"):
        HostConnection.to(host, early=Early(replace(host, port=1))).open()
    with pytest.raises(LoginRefused, match="cannot be read"):
        HostConnection.to(host, early=Early(replace(host, identity="/nowhere"))).open()
    config.write_text("Hots x\n")
    with pytest.raises(NotReached, match="cannot read its configuration"):
        HostConnection.to(host, early=Early(host))
