"""Connecting to a real sshd with a real sudo: what unit tests play in-process, shown for real."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import faults, machine
from lab.machine import Lab
from pantheon.errors import HostError, LinkLost, LoginRefused, NotAllowed, NotReached, NotTrusted
from pantheon.inventory import Host
from pantheon.remote import session, shipped, trust
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import http_through

pytestmark = pytest.mark.lab

REGISTRY_PORT = 443  # something on the host that listens on loopback, whatever its answer


@pytest.fixture(scope="module")
def lab(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of this module's own: its sshd and its sudoers are changed all the time."""
    known = tmp_path_factory.mktemp("known") / "known_hosts"
    name = f"t-conn-{os.getpid()}"
    try:
        yield machine.up(name, port=machine.free_port(), known_hosts=known)
    finally:
        machine.down(name, forget=True, known_hosts=known)


@pytest.fixture
def known(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's known_hosts of a workstation that has nothing else; it knows the lab by both ways."""
    file = tmp_path / "known_hosts"
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("PANTHEON_KNOWN_HOSTS", str(file))
    lab.trust(file)
    lab.trust(file, direct=True)
    return file


@pytest.fixture
def host(lab: Lab, known: Path) -> Host:
    """Over the container's own address: through the published port the outer engine's proxy would answer."""
    return Host("lab", lab.address, "ops", 22, str(lab.keys.identity))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    def make(body: str) -> str:
        text = f"import json, os, subprocess, sys, time\ndef main(spec, stdin, stdout):\n    {body}\n"
        real = shipped.source
        monkeypatch.setattr(shipped, "source", lambda name: text.encode() if name == "shipped" else real(name))
        shipped.digest.cache_clear()
        return "shipped"

    return make


WHO = 'print(json.dumps({"frame": "who", "uid": os.getuid()}), file=stdout)'


def run(connection: HostConnection, main: str, **options: Any) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    options = {"deadline_s": 60.0, "on_frame": frames.append, **options}
    session.run_module(connection, main, {}, **options)
    return frames


def fails(host: Host, kind: type[HostError], main: str = "", **options: Any) -> HostError:
    """The error of connecting and, with `main`, of running it. Shows that nothing is left of the connection."""

    def attempt() -> None:
        with HostConnection.to(host, **options) as connection:
            connection.open()
            if main:
                run(connection, main)

    with pytest.raises(kind) as caught:
        attempt()
    deadline = time.monotonic() + 2
    while any("paramiko.Transport" in repr(thread) for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
    assert caught.value.next_commands
    return caught.value


@contextlib.contextmanager
def sshd(lab: Lab, *lines: str) -> Iterator[None]:
    """sshd with these settings before all others."""
    file = "/etc/ssh/sshd_config.d/00-test.conf"
    restart = "systemctl reset-failed ssh.service; systemctl restart ssh.service"  # or the fifth meets a start limit
    lab.sh(f'printf "%s\\n" "$@" >{file}; {restart}', *lines)
    try:
        yield
    finally:
        lab.sh(f"rm {file}; {restart}")


@contextlib.contextmanager
def sudoers(lab: Lab, *lines: str) -> Iterator[None]:
    """ops with a password, and these lines instead of what sudo allows him."""
    hide = "mkdir -p /root/sudoers; mv /etc/sudoers.d/* /root/sudoers/; echo ops:s3cret | chpasswd"
    lab.sh(f'{hide}; printf "%s\\n" "$@" >/etc/sudoers.d/test; chmod 440 /etc/sudoers.d/test; visudo -cq', *lines)
    try:
        yield
    finally:
        lab.sh(
            "rm /etc/sudoers.d/test; mv /root/sudoers/* /etc/sudoers.d/; rm -rf /run/sudo/ts/ops /var/lib/sudo/ts/ops"
        )


def processes(lab: Lab, text: str) -> str:
    return lab.sh('pgrep -af -- "$1" | grep -v pgrep || true', text)


# -- it works


def test_root_in_one_exec(host: Host, module: Callable[[str], str]) -> None:
    with HostConnection.to(host) as connection:
        assert run(connection, module(WHO)) == [{"frame": "who", "uid": 0}]


def test_through_the_published_port(lab: Lab, known: Path, module: Callable[[str], str]) -> None:
    with HostConnection.to(Host("lab", "127.0.0.1", "ops", lab.port, str(lab.keys.identity))) as connection:
        assert run(connection, module(WHO))[0]["uid"] == 0


def test_a_look_leaves_nothing_on_the_host(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    listing = "find /var/lib/pantheon /tmp /root /opt -newer /root/mark 2>/dev/null | sort"
    lab.sh("touch /root/mark; sleep 0.05")
    with HostConnection.to(host) as connection:
        run(connection, module(WHO))
    assert [line for line in lab.sh(listing).splitlines() if line not in ("/root", "/root/mark")] == []


def test_many_modules_share_a_connection(host: Host, module: Callable[[str], str]) -> None:
    main = module(WHO)
    with HostConnection.to(host) as connection:
        assert all(run(connection, main)[0]["uid"] == 0 for _ in range(5))


def test_a_child_that_keeps_stdout_open_does_not_hold_us(host: Host, module: Callable[[str], str]) -> None:
    main = module('subprocess.Popen(["sleep", "20"])')
    began = time.monotonic()
    with HostConnection.to(host) as connection:
        run(connection, main)
    assert time.monotonic() - began < 6


def test_the_end_of_input_reaches_the_host(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    main = module("print('{\"frame\":\"up\"}', flush=True); stdin.read(); open('/root/seen-eof', 'w')")

    def interrupt(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with HostConnection.to(host) as connection, pytest.raises(KeyboardInterrupt):
        run(connection, main, on_frame=interrupt)
    lab.sh("for i in $(seq 50); do [ -e /root/seen-eof ] && exit; sleep 0.1; done; exit 1")


# -- a link that dies


def test_a_blackholed_link_is_noticed(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    main = module("time.sleep(60)")
    with HostConnection.to(host) as connection:
        connection.open()
        with faults.blackhole(lab):
            began = time.monotonic()
            with pytest.raises(LinkLost, match=r"lab \(ops@.*:22\): the connection was lost \(no answer for \d+ s\)"):
                run(connection, main)
            assert time.monotonic() - began < 14


def test_a_host_that_stands_still_is_noticed(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    """Its kernel still acknowledges: only a question at SSH's own level tells."""
    main = module("time.sleep(60)")
    with HostConnection.to(host) as connection:
        connection.open()
        with faults.paused(lab):
            began = time.monotonic()
            with pytest.raises(LinkLost):
                run(connection, main)
            assert time.monotonic() - began < 14


def test_sshd_that_is_killed_in_mid_session(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    main = module('print(json.dumps({"frame": "up"}), flush=True); time.sleep(60)')

    def kill(_: dict[str, Any]) -> None:
        lab.exec("pkill", "-KILL", "-f", "sshd: ops")

    with HostConnection.to(host) as connection, pytest.raises(LinkLost):
        run(connection, main, on_frame=kill)


# -- not reached


def test_a_paused_host(lab: Lab, host: Host) -> None:
    with faults.paused(lab):
        began = time.monotonic()
        assert "it accepts connections but says nothing for 10 s" in str(fails(host, NotReached))
        assert time.monotonic() - began < 13


def test_dropped_packets(lab: Lab, host: Host) -> None:
    with faults.blackhole(lab):
        assert "no answer within 10 s (host down, or a firewall)" in str(fails(host, NotReached))


def test_sshd_is_down(lab: Lab, host: Host, known: Path) -> None:
    with faults.without_sshd(lab):
        assert "connection refused" in str(fails(host, NotReached))
        published = Host("lab", "127.0.0.1", "ops", lab.port, str(lab.keys.identity))
        assert "it hung up before a word was said" in str(fails(published, NotReached))


# -- not trusted


def test_another_host_key(lab: Lab, host: Host, known: Path) -> None:
    """The host is rebuilt: what is shown, what replaces it, and that it works again."""
    with faults.other_host_keys(lab):
        error = fails(host, NotTrusted)
        assert "its host key has changed" in str(error)
        assert error.next_commands == ("invoke trust --host lab --replace",)
        found = trust.examine(host)
        assert found.state == "changed"
        assert {entry.file for entry in found.old} == {known}
        trust.replace(found)
        with HostConnection.to(host) as connection:
            connection.open()


def test_an_unknown_key_and_how_it_becomes_known(host: Host, known: Path) -> None:
    known.write_text("")
    assert "its host key is unknown" in str(fails(host, NotTrusted))
    trust.record(trust.examine(host))
    with HostConnection.to(host) as connection:
        connection.open()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "ed25519"])
def test_a_host_known_by_one_type(lab: Lab, host: Host, known: Path, kind: str) -> None:
    lab.sh(f"[ -e /etc/ssh/ssh_host_{kind}_key ] || ssh-keygen -q -t {kind} -N '' -f /etc/ssh/ssh_host_{kind}_key")
    with sshd(lab, *(f"HostKey /etc/ssh/ssh_host_{each}_key" for each in ("ed25519", kind))):
        key = lab.sh(f"cut -d' ' -f1,2 /etc/ssh/ssh_host_{kind}_key.pub").strip()
        known.write_text(f"{lab.address} {key}\n")
        with HostConnection.to(host) as connection:
            connection.open()


# -- the login, sessions and sudo


def test_a_refused_login(host: Host) -> None:
    error = fails(Host("lab", host.address, "nobody", 22, host.identity), LoginRefused)
    assert "the server refused to let nobody in" in str(error)
    assert error.details[0].startswith("offered ssh-ed25519 SHA256:")


def test_six_wrong_keys(host: Host, tmp_path: Path) -> None:
    """sshd hangs up at the sixth: the error says so and not "No existing session"."""
    home = tmp_path / "home/.ssh"
    home.mkdir()
    for number in range(7):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / f"k{number}"], check=True)
    (home / "config").write_text("".join(f"IdentityFile {home}/k{number}\n" for number in range(7)))
    error = fails(Host("lab", host.address, "ops", 22), LoginRefused)
    assert "the server refused to let ops in" in str(error)
    assert sum(line.startswith("offered") for line in error.details) == 6
    assert any("identity" in command for command in error.next_commands)


def test_no_further_session(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    with sshd(lab, "MaxSessions 1"), HostConnection.to(host) as connection:
        connection.open()
        first = connection.create_session()
        first.exec_command("sleep 20")
        with pytest.raises(NotAllowed, match="opens no further session"):
            run(connection, module(WHO))
        first.close()


def test_no_session_at_all(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    """The first session's command leaves before the server has answered; its refusal is heard all the same."""
    with sshd(lab, "MaxSessions 0"):
        assert "opens no further session" in str(fails(host, NotAllowed, module(WHO)))


def test_a_forced_command(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    with sshd(lab, "ForceCommand echo backups only"):
        error = fails(host, NotAllowed, module(WHO))
    assert "ForceCommand" in str(error)
    assert error.details == ("backups only",)


def test_forwarding_is_not_allowed(lab: Lab, host: Host) -> None:
    with sshd(lab, "AllowTcpForwarding no"), HostConnection.to(host) as connection:
        connection.open()
        found = http_through(connection, "http://127.0.0.1:8188/")
    assert "AllowTcpForwarding" in found.error


def test_a_sudo_password(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    main = module(WHO)
    with sudoers(lab, "ops ALL=(ALL) ALL", "Defaults timestamp_timeout=0", "Defaults lecture=always"):
        error = fails(host, NotAllowed, main)
        assert "sudo asks for the password of ops" in str(error)
        assert "--ask-sudo-password" in error.next_commands[0]
        with HostConnection.to(host, ask_password=lambda _: "s3cret") as connection:
            assert run(connection, main)[0]["uid"] == 0
            assert run(connection, main)[0]["uid"] == 0
        began = time.monotonic()
        wrong = fails(host, NotAllowed, main, ask_password=lambda _: "wrong")
        assert "sudo did not accept the password of ops" in str(wrong)
        assert time.monotonic() - began < 8
    log = lab.sh("journalctl -q --no-pager -t sudo -t sshd | tail -100")
    assert "s3cret" not in log


def test_no_password_goes_to_a_sudo_that_wants_none(host: Host, module: Callable[[str], str]) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "s3cret"

    with HostConnection.to(host, ask_password=ask) as connection:
        assert run(connection, module(WHO))[0]["uid"] == 0
    assert asked == []


def test_not_in_the_sudoers_file(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    lab.sh(
        "useradd -m -s /bin/bash guest; echo guest:s3cret | chpasswd; cp -a /home/ops/.ssh /home/guest/.ssh;"
        "chown -R guest: /home/guest/.ssh"
    )
    try:
        guest = Host("lab", host.address, "guest", 22, host.identity)
        error = fails(guest, NotAllowed, module(WHO), ask_password=lambda _: "s3cret")
        assert "guest may not use sudo there" in str(error)
    finally:
        lab.sh("userdel -rf guest 2>/dev/null")
    with sudoers(lab, "ops ALL=(ALL:ALL) !ALL", "Defaults timestamp_timeout=0"):
        error = fails(host, NotAllowed, module(WHO), ask_password=lambda _: "s3cret")
        assert "ops may not use sudo there" in str(error)


def test_sudo_with_requiretty_and_use_pty(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    main = module(WHO)
    with sudoers(lab, "ops ALL=(ALL) NOPASSWD: ALL", "Defaults use_pty"), HostConnection.to(host) as connection:
        assert run(connection, main)[0]["uid"] == 0
    with sudoers(lab, "ops ALL=(ALL) NOPASSWD: ALL", "Defaults requiretty"):
        assert "sudo demands a terminal (requiretty)" in str(fails(host, NotAllowed, main))


@pytest.mark.parametrize(("program", "expected"), [("python3", "python3 is missing"), ("sudo", "sudo is missing")])
def test_a_missing_program(lab: Lab, host: Host, module: Callable[[str], str], program: str, expected: str) -> None:
    lab.sh(f"mv $(command -v {program}) /root/away")
    try:
        assert expected in str(fails(host, NotAllowed, module(WHO)))
    finally:
        lab.sh(f"mv /root/away /usr/bin/{program}")


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_login_shells_and_what_they_print(lab: Lab, host: Host, module: Callable[[str], str], shell: str) -> None:
    lab.sh('chsh -s "$1" ops; sed -i "1i echo Welcome to the host" /home/ops/.bashrc', shell)
    try:
        with HostConnection.to(host) as connection:
            assert run(connection, module(WHO))[0]["uid"] == 0
    finally:
        lab.sh("chsh -s /bin/bash ops; sed -i 1d /home/ops/.bashrc")


# -- gateways and ways in


def test_through_itself_as_a_gateway(lab: Lab, host: Host, module: Callable[[str], str]) -> None:
    inner = Host("behind", "127.0.0.1", "ops", 22, host.identity, gateway=f"ops@{host.address}")
    error = fails(inner, NotTrusted)
    assert "behind (ops@127.0.0.1:22): its host key is unknown" in str(error)
    trust.record(trust.examine(inner))
    with HostConnection.to(inner) as connection:
        assert run(connection, module(WHO))[0]["uid"] == 0
        with faults.blackhole(lab):
            began = time.monotonic()
            with pytest.raises(LinkLost):
                run(connection, module("time.sleep(60)"))
            assert time.monotonic() - began < 14


SERVER = (
    "systemd-run -q --unit=test-web --collect python3 -m http.server --bind 127.0.0.1 --directory /var/empty 8188"
    " && for i in $(seq 50); do curl -fso /dev/null 127.0.0.1:8188 && exit; sleep 0.1; done; exit 1"
)


@pytest.fixture
def web(lab: Lab) -> Iterator[None]:
    lab.sh(f"mkdir -p /var/empty; {SERVER}")
    yield
    lab.sh("systemctl stop test-web")


def test_http(host: Host, web: None) -> None:
    with HostConnection.to(host) as connection:
        connection.open()
        assert http_through(connection, "http://127.0.0.1:8188/").status == 200
        assert "nothing listens there" in http_through(connection, "http://127.0.0.1:1/").error


# -- speed


def test_fewer_round_trips_than_openssh(lab: Lab, host: Host, known: Path) -> None:
    """A login and one command, with and without 40 ms: the difference counts the round trips."""

    def ours() -> None:
        with HostConnection.to(host) as connection:
            connection.open()
            channel = connection.execute("true")
            assert channel.recv_exit_status() == 0

    def openssh() -> None:
        options = ["-oBatchMode=yes", f"-oUserKnownHostsFile={known}", "-oIdentitiesOnly=yes", "-i", host.identity]
        argv = ["ssh", "-F", os.devnull, *options, f"ops@{host.address}", "true"]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def best(work: Callable[[], None]) -> float:
        def once() -> float:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began

        return min(once() for _ in range(5))

    for _ in range(3):  # a machine that is busy takes its time, which no round trip has to answer for
        plain = best(ours), best(openssh)
        with faults.delay(lab, 40):
            slow = best(ours), best(openssh)
        trips = [(after - before) / 0.040 for before, after in zip(plain, slow, strict=True)]
        print(f"pantheon {plain[0] * 1000:.0f} ms, {trips[0]:.1f} trips; ssh {plain[1] * 1000:.0f} ms, {trips[1]:.1f}")
        if trips[0] < 7.5:
            break
    assert trips[0] < 7.5
    assert trips[0] < trips[1]
