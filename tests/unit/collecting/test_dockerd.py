"""dockerd's own command line, and the lines of its unit."""

from __future__ import annotations

import pytest

from pantheon.collecting import dockerd
from tests.unit.looks.fakes import FakeHost

UNIT = "/usr/lib/systemd/system/docker.service"
DROP_IN = "/etc/systemd/system/docker.service.d/tcp.conf"


def process(host: FakeHost, pid: int, name: str, *argv: str, cgroup: str = "0::/system.slice/docker.service") -> None:
    host.write(f"/proc/{pid}/comm", f"{name}\n")
    host.write(f"/proc/{pid}/cmdline", "\0".join(argv) + "\0")
    host.write(f"/proc/{pid}/cgroup", cgroup + "\n")


def test_none_runs(host: FakeHost) -> None:
    process(host, 1, "systemd", "/sbin/init")
    assert dockerd.dockerd({}, str(host.root)) is None


def test_the_hosts_own_and_not_one_in_a_container(host: FakeHost) -> None:
    process(host, 5, "dockerd", "dockerd", "--inside", cgroup=f"0::/system.slice/docker-{'a' * 64}.scope")
    process(host, 9, "dockerd", "/usr/bin/dockerd", "-H", "fd://", "--log-opt", "splunk-token=abc\x1b[1m")
    found = dockerd.dockerd({}, str(host.root))
    assert found["argv"] == ["/usr/bin/dockerd", "-H", "fd://", "--log-opt", "splunk-token=***"]
    assert found["lines"] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Service]\nExecStart=/usr/bin/dockerd -H fd:// -H unix:///x\n", []),
        ("[Service]\n# -H tcp://1.2.3.4:1\nExecStart=/usr/bin/dockerd -H fd://\n", []),
        (
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// \\\n  -H tcp://0.0.0.0:2375 \\\n  --debug\n",
            [f"{DROP_IN}:4: -H tcp://0.0.0.0:2375 \\"],
        ),
        ("[Service]\nExecStart=dockerd --host=tcp://:1\n", [f"{DROP_IN}:2: ExecStart=dockerd --host=tcp://:1"]),
        ("[Service]\nExecStart=dockerd -H=:2375\n", [f"{DROP_IN}:2: ExecStart=dockerd -H=:2375"]),
    ],
)
def test_lines_of_the_unit(host: FakeHost, text: str, expected: list[str]) -> None:
    host.write(UNIT, "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n")
    host.write(DROP_IN, text)
    assert dockerd.lines(str(host.root)) == expected


def test_lines_of_the_socket(host: FakeHost) -> None:
    host.write("/etc/systemd/system/docker.socket.d/tcp.conf", "[Socket]\nListenStream=2375\nListenStream=/run/x\n")
    assert dockerd.lines(str(host.root)) == ["/etc/systemd/system/docker.socket.d/tcp.conf:2: ListenStream=2375"]
