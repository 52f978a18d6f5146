"""The operating system, the lock and who listens."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pantheon import facts
from pantheon.looks import system
from tests.unit.looks.fakes import (
    ID,
    FakeDocker,
    FakeHost,
)


def test_the_operating_system(host: FakeHost) -> None:
    host.write(
        "/usr/lib/os-release", b'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu \\"24.04\\" \xff"\n# x\nbroken\n'
    )
    host.at("/etc").mkdir()
    host.at("/etc/os-release").symlink_to("../usr/lib/os-release")
    for name, text in (("osrelease", "6.8.0\n"), ("hostname", "h\n"), ("random/boot_id", "b-1\n")):
        host.write(f"/proc/sys/kernel/{name}", text)
    host.write("/proc/uptime", "12.50 3.00\n")
    assert host.look().os == facts.OsRelease("ubuntu", "24.04", 'Ubuntu "24.04" \ufffd', "6.8.0", "b-1", 12.5, "h")


def test_the_lock_counts_only_while_somebody_holds_it(host: FakeHost) -> None:
    text = '{"who": "ops@laptop"}'
    file = host.write("/run/pantheon/lock", text)
    host.write("/proc/locks", "1: POSIX  ADVISORY  WRITE 1 00:1a:1 0 EOF\n")
    assert host.look().lock is None
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        host.write("/proc/locks", Path("/proc/locks").read_text())
        assert host.look().lock == text
    about = file.stat()
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    host.write("/proc/locks", f"1: -> FLOCK  ADVISORY  WRITE 1 {device} 0 EOF\n")  # waits for it, does not hold it
    assert host.look().lock is None


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   2: 00000000:0947 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0
   3: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1 0 100 0 0 10 0
   4: 00000000:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 999 1 0 100 0 0 10 0
   6: 0100007F:246B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 107 1 0 100 0 0 10 0
   5: 0100007F:1FFC 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 105 1 0 100 0 0 10 0
"""


TCP6 = """  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1FFD 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 106 1 0
"""


def test_who_listens(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy", number=ID)
    network = {"Ports": {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3000"}]}, "Networks": {}}
    docker.container("web", number="e" * 64, NetworkSettings=network)
    docker.container("inside", number="d" * 64, NetworkSettings={"Networks": {}})
    host.write("/proc/net/tcp", TCP)
    host.write("/proc/net/tcp6", TCP6)
    host.write("/etc/docker/daemon.json", '{"metrics-addr": "127.0.0.1:9323"}')
    processes = [
        (10, "docker-proxy", "docker-proxy\0-container-ip\x00172.18.0.2\0-host-port\x008188", "0::/system.slice", 101),
        (1, "systemd", "", "", 102),
        (20, "sshd", "", "", 102),
        (30, "dockerd", "", "", 103),
        (31, "dockerd", "", "", 104),
        (32, "dockerd", "", "", 107),
        (40, "ollama\x1b[31m", "", f"0::/system.slice/docker-{'d' * 64}.scope", 106),
    ]
    for pid, name, argv, cgroup, inode in processes:
        host.write(f"/proc/{pid}/comm", name + "\n")
        host.write(f"/proc/{pid}/cmdline", argv)
        host.write(f"/proc/{pid}/cgroup", cgroup)
        fd = host.at(f"/proc/{pid}/fd/3")
        fd.parent.mkdir()
        fd.symlink_to(f"socket:[{inode}]")
    found = host.look()
    assert isinstance(found.listeners, tuple)
    assert [(row.address, row.port, row.pid, row.process, row.container) for row in found.listeners] == [
        ("0.0.0.0", 22, 20, "sshd", ""),
        ("0.0.0.0", 2375, 30, "dockerd", ""),
        ("0.0.0.0", 3000, 31, "dockerd", "web"),
        ("0.0.0.0", 3001, None, "", ""),
        ("127.0.0.1", 8188, 10, "docker-proxy", "comfy"),
        ("::1", 8189, 40, "ollama", "inside"),
        ("127.0.0.1", 9323, 32, "dockerd", ""),
    ]
    assert isinstance(found.docker, facts.Docker)
    assert found.docker.tcp == ("tcp://0.0.0.0:2375 (dockerd listens there)",)


@pytest.mark.parametrize(
    ("cgroup", "unit", "user"),
    [
        ("0::/system.slice/ollama.service\n", "ollama.service", ""),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/ollama.service\n", "ollama.service", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n", "web.service", "1000"),
        ("0::/user.slice/user-1000.slice/session-4.scope\n", "", "1000"),
        ("0::/machine.slice/libpod-conmon-abc.scope\n", "", ""),
        ("", "", ""),
    ],
)
def test_who_runs_a_process(cgroup: str, unit: str, user: str) -> None:
    assert system.service_of(cgroup) == (unit, user)


@pytest.mark.parametrize(
    ("cgroup", "expect"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:pids:/docker/{ID}\n11:cpu:/docker/{ID}\n", ID),
        (f"1:name=systemd:/docker/{'a' * 64}/docker/{ID}\n", ID),
        (f"0::/../docker/{ID}/init\n", ID),
        ("0::/user.slice\n", ""),
        (f"0::/{ID}0\n", ""),
    ],
)
def test_the_container_of_a_process(host: FakeHost, cgroup: str, expect: str) -> None:
    host.write("/proc/7/cgroup", cgroup)
    assert system.container_of(str(host.root), 7) == expect
    assert system.container_of(str(host.root), 8) == ""
