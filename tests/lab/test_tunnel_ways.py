"""Tunnels by the ways in that people have: their ssh_config with all that may stand in it, gateways, agents, keys with
a passphrase, certificates. Whatever it says, nothing listens but the tunnel's own port on loopback, and not for longer.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import requests
from conftest import SERVICES, World, toml, until
from test_tunnel import a_port, ask, bound, children, is_alive, listens, opened

from pantheon.remote import ciphers

pytestmark = pytest.mark.lab
SPREAD = True


@dataclass
class Ways:
    """A workstation whose ~/.ssh is this test's own, and a host that hosts.toml knows by a name of ssh_config."""

    world: World
    files: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ways")))

    @property
    def folder(self) -> Path:
        return self.world.directory / "home/.ssh"

    def hosts(self, address: str = "prometheus", **more: str) -> None:
        """hosts.toml with nothing but the name: the rest is ssh_config's."""
        small = {"image_gib": 0.05, "data_gib": 0.01}
        host = {"address": address, **more, **dict.fromkeys(SERVICES, small)}
        if self.world.lab.os_id != "ubuntu":
            host["os"] = {"id": self.world.lab.os_id, "version": self.world.lab.os_version}
        self.world.hosts.write_text('default = "lab"\n' + toml(host, "hosts.lab"))

    def config(self, *lines: str, name: str = "prometheus") -> None:
        """A Host of ssh_config; the lab's own address, port and user, unless the lines say other."""
        usual = [f"HostName {self.world.lab.address}", "User ops"]
        said = {line.split()[0] for line in lines}
        with (self.folder / "config").open("a") as file:
            file.write(f"Host {name}\n")
            file.writelines(
                f"  {line}\n" for line in [*lines, *(line for line in usual if line.split()[0] not in said)]
            )

    @property
    def identity(self) -> Path:
        return self.world.lab.keys.identity

    def key(self, name: str, *options: str) -> Path:
        """A new key that is not known to the host yet."""
        file = self.files / name
        run("ssh-keygen", "-q", "-t", "ed25519", "-f", str(file), *(options or ("-N", "")))
        return file

    @contextlib.contextmanager
    def authorized(self, line: str, user: str = "ops") -> Iterator[None]:
        """A line of authorized_keys, for as long as it takes."""
        file = f"/home/{user}/.ssh/authorized_keys"
        self.world.sh('cp -p "$1" "$1.before"; printf "%s\\n" "$2" >>"$1"', file, line)
        try:
            yield
        finally:
            self.world.sh('mv "$1.before" "$1"', file)


def run(*argv: str, **variables: str) -> str:
    done = subprocess.run(
        argv,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stdout}"
    return done.stdout


@pytest.fixture
def ways(brought_up: World) -> Iterator[Ways]:
    made = Ways(brought_up)
    brought_up.lab.trust(brought_up.directory / "known_hosts", direct=True)
    made.folder.mkdir(mode=0o700)
    made.hosts()
    try:
        yield made
    finally:
        run("rm", "-rf", str(made.folder), str(made.files))


@contextlib.contextmanager
def agent(socket: Path) -> Iterator[None]:
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists, 10, "ssh-agent's socket")
        yield
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int, address: str) -> int:
    return requests.get(f"http://{address}:{port}/system_stats", timeout=10).status_code


def listening(pids: list[int]) -> set[str]:
    """`address:port` of all that these processes listen on."""
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3] for line in lines if any(f"pid={pid}," in line for pid in pids)}


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


# ---- ssh_config, with all that may stand in it


def hostile(ways: Ways, port: int, others: list[int]) -> list[str]:
    first, second, third = others
    return [
        f"LocalForward {port} localhost:22",
        f"LocalForward *:{first} localhost:22",
        f"DynamicForward *:{second}",
        f"RemoteForward {third} localhost:22",
        "GatewayPorts yes",
        "ExitOnForwardFailure no",
        "RequestTTY force",
        "RemoteCommand sleep 1000",
        "ForkAfterAuthentication yes",
        "SessionType none",
        "ForwardAgent yes",
        "ForwardX11 yes",
        "PermitLocalCommand yes",
        f"LocalCommand touch '{ways.folder}/local-command-ran'",
        "ControlMaster auto",
        f'ControlPath "{ways.folder}/master-%C"',
        "ControlPersist yes",
        "BatchMode no",
        "LogLevel QUIET",
        "ServerAliveInterval 0",
        "ConnectTimeout 1",
        "StrictHostKeyChecking no",
        "UserKnownHostsFile /dev/null",
        "NoHostAuthenticationForLocalhost yes",
        "PreferredAuthentications password",
        "PubkeyAuthentication no",
        "EscapeChar none",
        "VisualHostKey yes",
        "SendEnv LANG",
    ]


def test_an_ssh_config_that_means_well(ways: Ways) -> None:
    """Forwards of the same port, a master, commands: none of it disturbs or listens. What is for the wire is kept."""
    port, *others = [a_port() for _ in range(4)]
    ways.config(
        f'IdentityFile "{ways.identity}"',
        "Ciphers aes256-ctr",
        "MACs hmac-sha2-512-etm@openssh.com",
        "AddressFamily inet",
        "Compression yes",
        "RekeyLimit 1G 1h",
        "IPQoS af21 cs1",
        *hostile(ways, port, others),
    )
    with opened(ways.world, port=port) as tunnel:
        pids = [tunnel.program.process.pid, *children(tunnel.program.process.pid)]
        assert listening(pids) == {f"127.0.0.1:{port}", f"[::1]:{port}"}
        assert bound(port) == {"127.0.0.1", "[::1]"}
        assert [answers(port, address) for address in ("127.0.0.1", "[::1]")] == [200, 200]
        assert not any(map(bound, others))
        assert ways.world.sh(f"ss -Hltn 'sport = :{others[2]}'") == ""
        said = argv_of(pids[1])
        for option in ("Ciphers=aes256-ctr", "Compression=yes", "RekeyLimit=1073741824 3600", "IPQoS=af21 cs1"):
            assert option in said
        tunnel.interrupt()
    assert sorted(file.name for file in ways.folder.iterdir()) == ["config"]
    assert bound(port) == set()


def test_a_master_of_the_users_own_keeps_nothing_open(ways: Ways) -> None:
    """With one that is alive, a plain ssh -L would hand its forward to it, and Ctrl-C would leave it."""
    port = a_port()
    config, path = ways.folder / "config", ways.files / "m"
    ways.config(
        f'IdentityFile "{ways.identity}"', "ControlMaster auto", f"ControlPath {path}", "ControlPersist yes",
        "StrictHostKeyChecking yes", f'UserKnownHostsFile "{ways.world.directory}/known_hosts"',
    )  # fmt: skip
    ssh = ["ssh", "-F", str(config), "prometheus"]
    master = subprocess.Popen(
        [*ssh, "-M", "-N", "-oControlPersist=no"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(path.exists, 20, "the master's socket")
        with opened(ways.world, port=port) as tunnel:
            assert listening([master.pid]) == set()
            tunnel.interrupt()
        assert not listens(port)
        assert master.poll() is None
        run(*ssh, "-O", "check")
    finally:
        master.terminate()
        master.wait(10)


def test_through_a_gateway_with_a_login_of_its_own(ways: Ways) -> None:
    """Each server on the way by its own user, key and cipher, and nothing of it left."""
    key, port = ways.key("hop key"), a_port()
    public = Path(f"{key}.pub").read_text().strip()
    address = ways.world.lab.address
    ways.config(
        f'IdentityFile "{key}"', "User guest", "Ciphers aes192-ctr", f"LocalForward {port} localhost:22", name="hop"
    )
    ways.config(
        "HostName 127.0.0.1", f"HostKeyAlias {address}", f'IdentityFile "{ways.identity}"', "ProxyJump hop",
        f"LocalForward {port} localhost:22", "Ciphers aes256-ctr",
    )  # fmt: skip
    ways.world.sh(
        'useradd -m -s /bin/bash guest; mkdir -m 700 /home/guest/.ssh; printf "%s\\n" "$1" '
        ">/home/guest/.ssh/authorized_keys; chown -R guest: /home/guest/.ssh",
        public,
    )
    try:
        with opened(ways.world, port=port) as tunnel:
            pids = children(tunnel.program.process.pid)
            assert len(pids) == 2
            assert listening(pids) == {f"127.0.0.1:{port}", f"[::1]:{port}"}
            outer, inner = (argv_of(pid) for pid in sorted(pids, key=lambda pid: "-W" in argv_of(pid)))
            assert ("Ciphers=aes256-ctr" in outer, "Ciphers=aes192-ctr" in inner) == (True, True)
            tunnel.interrupt()
        # The same way as people wrote it before there was ProxyJump: a command, here one that trusts on its own.
        (ways.folder / "config").rename(ways.folder / "old")
        options = f'-F "{ways.folder}/old" -o "UserKnownHostsFile \\"{ways.world.directory}/known_hosts\\""'
        ways.config(
            "HostName 127.0.0.1", f"HostKeyAlias {address}", f'IdentityFile "{ways.identity}"',
            f"ProxyCommand ssh {options} -W %h:%p hop",
        )  # fmt: skip
        for command in (("tunnel", "comfy", "--check", "--port", str(port)), ("validate",)):
            done = ways.world.invoke(*command)
            assert done.code == 0, done.seen
        (ways.folder / "old").rename(ways.folder / "config")
        # The gateway's own key is gone: that is what is said, and no door is left open.
        ways.world.sh("rm /home/guest/.ssh/authorized_keys")
        done = ways.world.invoke("tunnel", "comfy", "--check", "--port", str(port))
        assert done.code == 3, done.seen
        assert f"gateway of lab (guest@{address}:22)" in done.all
        assert "refused to let guest in" in done.all
        assert not listens(port)
    finally:
        ways.world.sh("pkill -KILL -u guest || true; userdel -rf guest 2>/dev/null")


# ---- keys


def test_a_key_that_only_an_agent_has(ways: Ways) -> None:
    """ssh_config names the public half and the agent's socket; no private key lies anywhere."""
    socket, port = ways.files / "an agent.sock", a_port()
    public = ways.files / "work key.pub"
    public.write_text(Path(f"{ways.identity}.pub").read_text())
    ways.config(f'IdentityFile "{public}"', "IdentitiesOnly yes", f'IdentityAgent "{socket}"')
    with agent(socket):
        run("ssh-add", "-q", str(ways.identity), SSH_AUTH_SOCK=str(socket))
        with opened(ways.world, port=port) as tunnel:
            tunnel.interrupt()
        checked = ways.world.invoke("tunnel", "comfy", "--check", "--port", str(port))
        assert checked.code == 0, checked.seen
        asked = ways.world.invoke("validate")
        assert asked.code == 0, asked.seen
    done = ways.world.invoke("tunnel", "comfy", "--check", "--port", str(port))
    assert done.code == 3, done.seen
    assert "no ssh-agent holds the private one" in done.all
    assert f"ssh-add '{ways.files}/work key'" in done.all, done.seen


def test_a_passphrase_is_not_asked_for(ways: Ways) -> None:
    """Without an agent: exit 3 and what to type; once that was typed, the same command works."""
    key, port, socket = ways.key("with a passphrase", "-N", "s3cret"), a_port(), ways.files / "agent.sock"
    ways.config(f'IdentityFile "{key}"', "IdentitiesOnly yes", f'IdentityAgent "{socket}"')
    helper = ways.files / "askpass"
    helper.write_text("#!/bin/sh\necho s3cret\n")
    helper.chmod(0o700)
    with ways.authorized(Path(f"{key}.pub").read_text().strip()):
        with ways.world.running("tunnel", "comfy", "--port", str(port), terminal=True) as program:
            done = program.end(30)
        assert done.code == 3, done.seen
        assert f"ssh-add '{key}'" in " ".join(done.out.split()), done.seen
        assert "is protected by a passphrase" in " ".join(done.out.split())
        assert "Enter passphrase" not in done.out
        with agent(socket):
            run(
                "ssh-add",
                "-q",
                str(key),
                SSH_AUTH_SOCK=str(socket),
                SSH_ASKPASS=str(helper),
                SSH_ASKPASS_REQUIRE="force",
            )
            done = ways.world.invoke("tunnel", "comfy", "--check", "--port", str(port))
            assert done.code == 0, done.seen


def test_a_certificate(ways: Ways) -> None:
    """Only OpenSSH can log in so; the tunnel does."""
    authority, key, port = ways.key("ca"), ways.key("id"), a_port()
    run("ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "ops", f"{key}.pub")
    certificate = ways.files / "my cert-prometheus-ops.pub"
    Path(f"{key}-cert.pub").rename(certificate)
    ways.config(f'IdentityFile "{key}"', f'CertificateFile "{ways.files}/my cert-%n-%r.pub"')
    with ways.authorized("cert-authority " + Path(f"{authority}.pub").read_text().strip()):
        with opened(ways.world, port=port) as tunnel:
            tunnel.interrupt()
        certificate.unlink()
        done = ways.world.invoke("tunnel", "comfy", "--check", "--port", str(port))
        assert done.code == 3, done.seen
        assert "refused to let ops in" in done.all, done.seen


def test_a_cipher_that_both_machines_have_instructions_for(ways: Ways) -> None:
    """Asked once over a connection of its own; the second tunnel knows it."""
    port = a_port()
    ways.config(f'IdentityFile "{ways.identity}"')
    both = ciphers.has_aes() and ways.world.sh("grep -m1 -ow aes /proc/cpuinfo || true") == "aes"
    memory = ways.world.logs / "aes"
    run("rm", "-rf", str(memory))
    for _ in range(2):
        with opened(ways.world, port=port) as tunnel:
            said = " ".join(argv_of(tunnel.ssh))
            assert ("Ciphers=aes128-gcm@openssh.com," in said) == both
            tunnel.interrupt()
    if ciphers.has_aes():
        (file,) = memory.iterdir()
        assert (file.read_text(), file.stat().st_mode & 0o777) == ("yes\n" if both else "no\n", 0o600)


# ---- the plain command


def test_the_command_that_is_shown_works_when_it_is_pasted(ways: Ways) -> None:
    port = a_port()
    ways.config(f'IdentityFile "{ways.identity}"', *hostile(ways, port, [a_port() for _ in range(3)]))
    shown = ways.world.invoke("tunnel", "comfy", "--print-ssh", "--port", str(port))
    assert shown.code == 0, shown.seen
    line = shown.out.strip()
    assert "\n" not in line
    assert "LocalCommand" not in line
    assert not listens(port)
    pasted = subprocess.Popen(["bash", "-c", f"exec {line}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(partial(ask, port, "/"), 20, f"an answer through: {line}")
        assert bound(port) == {"127.0.0.1", "[::1]"}
        pasted.send_signal(signal.SIGINT)
    finally:
        pasted.terminate()
        pasted.wait(10)
    assert not is_alive(pasted.pid)
    assert not listens(port)
