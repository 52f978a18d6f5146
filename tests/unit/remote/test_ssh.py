"""The command line of a tunnel's ssh, given to the real ssh to be read (`ssh -G`), which is not connected."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pantheon.inventory import Host
from pantheon.remote import ssh
from pantheon.remote.endpoint import resolve, ssh_defaults
from tests.unit.remote.server import HOST_KEY, key_of

LISTEN = ssh.forwards(("127.0.0.1", "::1"), 8188, 8188)

# What must never come from a user's configuration.
HOSTILE = """
 LocalForward 9001 localhost:22
 RemoteForward 9002 localhost:22
 DynamicForward *:9003
 GatewayPorts yes
 ControlMaster auto
 ControlPath ~/.ssh/cm-%C
 ControlPersist 10m
 PermitLocalCommand yes
 LocalCommand touch /tmp/no
 RemoteCommand sleep 1000
 RequestTTY force
 SessionType none
 ForkAfterAuthentication yes
 StdinNull yes
 Tunnel yes
 ForwardAgent yes
 ForwardX11 yes
 BatchMode no
 StrictHostKeyChecking no
 UserKnownHostsFile ~/.ssh/kh
 GlobalKnownHostsFile ~/.ssh/kh2
 KnownHostsCommand /bin/cat /etc/passwd
 VerifyHostKeyDNS yes
 NoHostAuthenticationForLocalhost yes
 CheckHostIP yes
 UpdateHostKeys yes
 ExitOnForwardFailure no
 ServerAliveInterval 0
 ConnectTimeout 1
 ConnectionAttempts 50
 AddKeysToAgent yes
 ClearAllForwardings yes
 LogLevel QUIET
 SendEnv *
 SetEnv A=B
 EscapeChar none
 PasswordAuthentication yes
 NumberOfPasswordPrompts 9
"""


@pytest.fixture
def config(own_home: Path) -> Path:
    (own_home / ".ssh").mkdir(mode=0o700)
    return own_home / ".ssh/config"


def made(host: Host, **options: Any) -> list[str]:
    return ssh.command(resolve(host), Path("/run/my dir/known"), forwards=LISTEN, **options)


def read(argv: list[str]) -> dict[str, list[str]]:
    """What ssh makes of a command line."""
    done = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def differs(host: Host, plain: Host) -> dict[str, list[str]]:
    """What a configuration has changed in what ssh would do."""
    with_it, without = read(made(host)), read(made(plain))
    return {key: values for key, values in with_it.items() if values != without.get(key)}


BOX = Host("box", "10.0.0.5", "ops", 2222)


def test_nothing_of_a_configuration_is_read_again(config: Path) -> None:
    config.write_text('Host *\n IdentityAgent "~/a b.sock"\n')
    found = resolve(Host("box", "10.0.0.5", "ops", 2222, "~/my key", gateway="hop@bastion"))
    command = ssh.command(found, Path("/run/my dir/known"), forwards=LISTEN)
    assert command[:5] == ["ssh", "-F", "/dev/null", "-S", "none"]
    assert command[-2:] == ["--", "10.0.0.5"]
    options = {word.partition("=")[0]: word.partition("=")[2] for word in command if "=" in word}
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["BatchMode"] == "yes"
    assert options["UserKnownHostsFile"] == '"/run/my dir/known"'
    assert options["GlobalKnownHostsFile"] == "/dev/null"
    assert options["HostKeyAlias"] == "pantheon-1"
    interval, count = int(options["ServerAliveInterval"]), int(options["ServerAliveCountMax"])
    assert interval >= 2
    assert interval * (count + 1) <= 10, "seconds until a dead link is noticed"
    assert "HostKeyAlias=pantheon-0" in options["ProxyCommand"]
    assert "-W '[10.0.0.5]:2222'" in options["ProxyCommand"]
    assert options["ProxyCommand"].endswith("-- bastion")


def test_it_listens_on_loopback_alone_whatever_a_configuration_says(config: Path) -> None:
    plain = made(BOX)
    config.write_text(f"Host 10.0.0.5{HOSTILE}")
    assert made(BOX) == plain
    said = read(plain)
    assert said["localforward"] == [f"[{a}]:8188 [127.0.0.1]:8188" for a in ("127.0.0.1", "::1")]
    assert not said.keys() & {"remoteforward", "dynamicforward", "controlpath", "remotecommand"}
    assert (said["gatewayports"], said["controlmaster"], said["forwardagent"]) == (["no"], ["false"], ["no"])
    assert said["exitonforwardfailure"] == ["yes"]


def test_what_is_for_getting_in_and_for_the_wire_is_kept(config: Path) -> None:
    """Each in whatever way ssh reads it: the same value comes out at the other end."""
    kept = {
        "Ciphers": "aes256-ctr,aes128-ctr",
        "MACs": "hmac-sha2-256",
        "KexAlgorithms": "curve25519-sha256",
        "HostKeyAlgorithms": "rsa-sha2-512,ssh-ed25519",
        "PubkeyAcceptedAlgorithms": "ssh-ed25519",
        "PreferredAuthentications": "publickey,password",
        "GSSAPIAuthentication": "yes",
        "IPQoS": "af21 cs1",
        "RekeyLimit": "1G 1h",
        "Compression": "yes",
        "RequiredRSASize": "3072",
        "BindAddress": "127.0.0.2",
        "BindInterface": "lo",
        "PKCS11Provider": '"/usr/lib/a b.so"',
        "SecurityKeyProvider": "/usr/lib/sk.so",
        "RevokedHostKeys": '"~/.ssh/re voked"',
    }
    config.write_text("Host 10.0.0.5\n" + "".join(f" {name} {value}\n" for name, value in kept.items()))
    theirs = resolve(BOX).said
    found = differs(BOX, Host("plain", "10.0.0.6", "ops", 2222))
    assert found.pop("host") == ["10.0.0.5"]
    assert found.pop("hostname") == ["10.0.0.5"]
    assert found == {name.lower(): theirs[name.lower()] for name in kept}
    assert found["rekeylimit"] == ["1073741824 3600"]
    assert found["revokedhostkeys"] == ["~/.ssh/re voked"]


def test_a_configuration_that_says_what_is_so_anyway_changes_nothing(config: Path) -> None:
    plain = made(BOX)
    same = ("ciphers", "macs", "ipqos", "compression", "addressfamily")
    config.write_text("Host *\n" + "".join(f" {key} {ssh_defaults()[key][0]}\n" for key in same))
    assert made(BOX) == plain


def test_a_login_by_key_stays_possible_as_for_every_other_command(config: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(f"pantheon-0 {key_of(HOST_KEY)}\npantheon-0 ssh-rsa AAAA\npantheon-1 other AAAA\n@revoked x\n")
    config.write_text(
        "Host *\n PubkeyAuthentication no\n PreferredAuthentications password\n HostKeyAlgorithms ecdsa-sha2-nistp256\n"
    )
    found = ssh.carried(resolve(BOX), recorded=ssh._recorded(known, "pantheon-0"))
    assert found["PreferredAuthentications"] == "password,publickey"
    assert found["HostKeyAlgorithms"] == "ssh-ed25519,rsa-sha2-512,rsa-sha2-256,ecdsa-sha2-nistp256"
    assert "PubkeyAuthentication" not in found


def test_every_hop_has_its_own(config: Path) -> None:
    config.write_text(
        'Host hop\n HostName 10.1.0.1\n User guest\n IdentityFile "~/.ssh/hop key"\n Ciphers aes192-ctr\n'
        f" LocalForward 9001 localhost:22\n{HOSTILE}"
        "Host box\n HostName 10.0.0.5\n ProxyJump hop\n Ciphers aes256-ctr\n"
    )
    argv = made(Host("box", "box", "ops"))
    assert "Ciphers=aes256-ctr" in argv
    inner = shlex.split(read(argv)["proxycommand"][0].replace("%%", "%"))
    assert "Ciphers=aes192-ctr" in inner
    assert f'IdentityFile="{Path.home()}/.ssh/hop key"' in inner
    assert (inner[inner.index("-l") + 1], inner[inner.index("-W") + 1]) == ("guest", "[10.0.0.5]:22")
    said = read(inner)
    assert said["clearallforwardings"] == ["yes"]  # -W
    assert "localforward" not in said


def test_two_gateways_with_percent_signs_and_quotes(config: Path) -> None:
    config.write_text('Host a\n IdentityFile "~/k\'%% a"\nHost b\n IdentityFile ~/b%%b\n ProxyJump a\n')
    argv = made(Host("box", "10.0.0.5", "ops", identity='~/100% "mine"', gateway="b"))
    assert read(argv)["identityfile"] == [f'{Path.home()}/100%% "mine"']
    middle = shlex.split(read(argv)["proxycommand"][0].replace("%%", "%"))
    assert read(middle)["identityfile"] == [f"{Path.home()}/b%%b"]
    first = shlex.split(read(middle)["proxycommand"][0].replace("%%", "%"))
    assert read(first)["identityfile"] == [f"{Path.home()}/k'%% a"]
    assert first[-1] == "a"


def test_tokens_mean_what_they_meant(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """%n and %k would be other names in the tunnel's own command."""
    monkeypatch.setenv("WHERE", "/else where")
    config.write_text(
        "Host prometheus\n HostName 10.0.0.5\n HostKeyAlias the-box\n IdentityFile ~/.ssh/%n-%k-%r-%p-%%\n"
        " CertificateFile ${WHERE}/%h.pub\n CertificateFile ~/.ssh/two.pub\n IdentityAgent ~/%n.sock\n"
        " ProxyCommand nc -X 5 %h %p %n %%\n ProxyUseFdpass yes\n"
    )
    found = resolve(Host("box", "prometheus", "ops"))
    said = read(ssh.command(found, Path("/known"), forwards=LISTEN))
    assert found.identities == (Path.home() / ".ssh/prometheus-the-box-ops-22-%",)
    assert said["certificatefile"] == ["/else where/10.0.0.5.pub", f"{Path.home()}/.ssh/two.pub"]
    assert said["identityagent"][0].endswith("/prometheus.sock")
    assert said["proxycommand"] == ["nc -X 5 10.0.0.5 22 prometheus %%"]
    assert said["proxyusefdpass"] == ["yes"]
    assert found.proxy_command == "nc -X 5 10.0.0.5 22 prometheus %"


def test_none_means_none(config: Path) -> None:
    config.write_text("Host *\n IdentityFile none\n CertificateFile none\n ProxyCommand none\n IdentityAgent none\n")
    found = resolve(BOX)
    assert (found.identities, found.certificates, found.proxy_command) == ((), (), "")
    said = read(made(BOX))
    assert said["identityfile"] == ["none"]
    assert said["identityagent"] == ["none"]
    assert "proxycommand" not in said


def test_the_address_family_does_not_decide_where_this_side_listens(config: Path) -> None:
    """As an option, `inet` would have ssh fail on ::1."""
    config.write_text("Host localhost\n AddressFamily inet\nHost 10.0.0.5\n AddressFamily inet6\n")
    argv = made(Host("box", "localhost"))
    assert argv[-1] == "127.0.0.1"
    assert read(argv)["addressfamily"] == ["any"]
    assert made(BOX)[-1] == "10.0.0.5", "what has no such address is left to ssh"


def test_keys_of_the_usual_names_are_found_in_this_home(own_home: Path) -> None:
    assert "identityfile" in read(made(BOX))
    (own_home / ".ssh").mkdir()
    (own_home / ".ssh/id_ed25519_sk").write_text("x")
    (own_home / ".ssh/id_rsa.pub").write_text("x")  # its private half is an agent's
    assert read(made(BOX))["identityfile"] == [f"{own_home}/.ssh/{name}" for name in ("id_rsa", "id_ed25519_sk")]


def test_ciphers_are_those_of_their_place_unless_the_user_has_chosen(config: Path) -> None:
    fast = "aes128-gcm@openssh.com,aes256-ctr"
    argv = made(Host("box", "10.0.0.5", gateway="hop"), ciphers={1: fast})
    assert read(argv)["ciphers"] == [fast]
    assert fast not in read(argv)["proxycommand"][0]
    assert fast in read(made(Host("box", "10.0.0.5", gateway="hop"), ciphers={0: fast}))["proxycommand"][0]
    config.write_text("Host *\n Ciphers aes256-ctr\n")
    assert read(made(BOX, ciphers={0: fast}))["ciphers"] == ["aes256-ctr"]


def test_the_command_for_people() -> None:
    line = ssh.plain(resolve(Host("box", "10.0.0.5", "ops", gateway="hop")), Path("/a b/k"), forwards=LISTEN)
    assert "\n" not in line
    argv = shlex.split(line)
    assert argv[0] == "ssh"
    assert not any(word in line for word in ("LocalCommand", "ControlMaster", "LogLevel"))
    assert read(argv)["localforward"] == read(made(BOX))["localforward"]
    done = subprocess.run(["bash", "-c", line.replace("ssh ", "printf '%s\\n' ", 1)], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == argv[1:]


def test_an_ssh_that_does_not_say_what_it_does_by_itself(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "ssh_defaults", dict)
    config.write_text("Host *\n Ciphers aes256-ctr\n")
    assert "Ciphers=aes256-ctr" not in made(BOX)


# ---- a touch that is waited for


def test_a_key_that_waits_for_a_touch_says_so() -> None:
    """What ssh tells through SSH_ASKPASS comes out of its stderr, which is closed at once; it ends when it is ended."""
    env = ssh.environment() | {"SSH_ASKPASS_PROMPT": "none"}
    assert env["SSH_ASKPASS_REQUIRE"] == "force"
    words = "Confirm user presence for key ED25519-SK SHA256:abc"
    began = time.monotonic()
    with subprocess.Popen([env["SSH_ASKPASS"], words], env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.read()
        assert process.poll() is None
        process.terminate()
    assert said.splitlines() == [words]
    assert ssh.wants_touch(said.splitlines())
    assert not ssh.wants_touch([words, "Permission denied (publickey)."])
    assert not ssh.wants_touch([])
    assert time.monotonic() - began < 10


def test_what_ssh_asks_gets_no_answer() -> None:
    done = subprocess.run(
        [ssh.ASKPASS, "Enter PIN"], env=dict(os.environ), capture_output=True, timeout=10, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_session_at_the_host_itself_and_nowhere_else(config: Path) -> None:
    config.write_text("")
    argv = made(Host("box", "10.0.0.5", "ops", 2222, gateway="hop@bastion"), session=True)
    assert argv[-3:] == ["--", "10.0.0.5", ssh.SESSION]
    assert "-N" not in argv
    assert read(argv)["ipqos"] == ["af21 af21"]  # what -N would give it
    assert ssh.SESSION not in next(word for word in argv if word.startswith("ProxyCommand="))
    config.write_text("Host 10.0.0.5\n IPQoS none\n")
    assert read(made(BOX, session=True))["ipqos"] == ["none none"]
