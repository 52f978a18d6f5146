"""Docker itself: client, Compose, engine and how it is configured."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pantheon import facts
from pantheon.looks.docker import configured_tcp, daemon_json
from tests.unit.looks.fakes import (
    FakeDocker,
    FakeHost,
    cases,
    unknown_reason,
)


def test_the_proxys_password_in_daemon_json_stays_on_the_host(host: FakeHost) -> None:
    assert daemon_json(str(host.root)) is None
    host.write("/etc/docker/daemon.json", '{"proxies": {"http-proxy": "http://bob:hunter2@proxy:3128"}}')
    assert daemon_json(str(host.root)) == '{"proxies": {"http-proxy": "http://***@proxy:3128"}}'


def test_docker_and_its_parts(host: FakeHost, docker: FakeDocker) -> None:
    host.tool("docker", 'case "$*" in --version) echo Docker version 29.1.3, build f52814d;; *) echo 2.40.3;; esac')
    host.write("/etc/docker/daemon.json", "{}")
    host.write("/etc/cdi/nvidia.yaml", "")
    host.at("/var/lib/docker").mkdir(parents=True)
    found = host.look()
    assert found.docker == facts.Docker(
        "29.1.3", "29.1.3", "1.52", "2.40.3", None, "/var/lib/docker", "overlay2", ("nvidia", "runc"),
        ("/etc/cdi/nvidia.yaml",), "{}", ())  # fmt: skip
    assert isinstance(found.spaces["docker"], facts.Space)
    assert found.containers == ()


def test_images_in_containerd_need_room_there(host: FakeHost, docker: FakeDocker) -> None:
    answer: Any = docker.routes["/info"]
    answer[1]["DriverStatus"] = [["driver-type", "io.containerd.snapshotter.v1"]]
    host.at("/var/lib/containerd").mkdir(parents=True)
    found = host.look()
    assert found.spaces["docker"] is None
    assert isinstance(found.spaces["images"], facts.Space)


@pytest.mark.parametrize(
    ("plugin", "client", "expect"),
    [
        ("echo v2.40.3", "exit 9", "2.40.3"),
        ("exit 1", "echo 2.30.1", "2.30.1"),
        ("echo boom; exit 1", "echo boom; exit 1", "exit 1: boom"),
        (None, "echo docker: unknown command; exit 1", None),
        (None, "echo 2.30.1", "2.30.1"),
    ],
)
def test_compose_by_its_plugin_then_by_the_client(
    host: FakeHost, plugin: str | None, client: str, expect: str | None
) -> None:
    host.tool("docker", f'case "$*" in --version) echo Docker version 28.2.2, build 1;; *) {client};; esac')
    if plugin:
        host.write("/usr/libexec/docker/cli-plugins/docker-compose", f"#!/bin/sh\n{plugin}\n", 0o755)
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    if expect and "boom" in expect:
        assert expect in unknown_reason(found.compose)
    else:
        assert found.compose == expect


def test_a_client_without_an_engine(host: FakeHost) -> None:
    host.tool("docker", 'case "$*" in --version) echo Docker version 28.2.2, build 1;; *) echo 2.24.5;; esac')
    found = host.look({"images": ["a"], "gpu_in": ["comfy"]})
    assert isinstance(found.docker, facts.Docker)
    assert (found.docker.client, found.docker.compose) == ("28.2.2", "2.24.5")
    for value in (found.docker.engine, found.docker.root, found.containers, found.images["a"]):
        assert "docker.sock: No such file" in unknown_reason(value)


def test_a_socket_that_nobody_serves(host: FakeHost) -> None:
    socket_file = host.at("/run/docker.sock")
    socket_file.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(socket_file))
    found = host.look()
    assert isinstance(found.docker, facts.Docker)
    assert found.docker.client is None
    assert "Connection refused" in unknown_reason(found.docker.engine)


@pytest.mark.parametrize(
    ("root_dir", "path", "expect"),
    [
        ("/var/snap/docker/common/var-lib-docker", "", "/var/snap/docker"),
        ("/var/lib/docker", "/snap/bin/docker", "/snap/bin/docker exists"),
        ("/var/lib/docker", "", None),
    ],
)
def test_the_snap(host: FakeHost, docker: FakeDocker, root_dir: str, path: str, expect: str | None) -> None:
    answer: Any = docker.routes["/info"]
    answer[1]["DockerRootDir"] = root_dir
    if path:
        host.write(path, "")
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    assert found.snap is None if expect is None else expect in str(found.snap)


def test_a_docker_command_that_leads_into_a_snap(host: FakeHost) -> None:
    target = host.write("/snap/docker/current/bin/docker", "#!/bin/sh\necho Docker version 28.1.1, build 1\n", 0o755)
    (host.bin / "docker").symlink_to(target)
    found = host.look().docker
    assert isinstance(found, facts.Docker)
    assert str(found.snap).startswith("the docker command is ")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases("tcp")])
def test_docker_on_tcp_by_configuration(host: FakeHost, case: dict[str, Any]) -> None:
    for path, text in case["files"].items():
        host.write(path, text)
    assert configured_tcp(str(host.root), case["files"].get("/etc/docker/daemon.json")) == case["expect"]
