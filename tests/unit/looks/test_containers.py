"""Containers and images as the engine describes them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from pantheon import facts
from pantheon.facts import Unknown
from pantheon.looks import containers
from tests.unit.looks.fakes import (
    FakeDocker,
    FakeHost,
    cases,
    container_of,
    framed,
    never,
    unknown_reason,
)


def test_a_container_as_docker_describes_it(host: FakeHost, docker: FakeDocker) -> None:
    case = cases("container")
    docker.container("comfy", number=case["inspect"]["Id"])
    image = case["inspect"]["Image"]
    docker.routes[f"/images/{image}/json"] = (
        200,
        {"Id": image, "Config": {"Env": ["PATH=/usr/bin:/bin", "WANTED_UID=0"]}},
    )
    done = host.raw({"plain_env": ["WANTED_UID", "PATH"], "log_markers": {}})
    found = json.loads(done.stdout)["facts"]["containers"][0]
    assert found == case["expect"]
    assert b"hf_verysecret" not in done.stdout


def test_a_container_that_was_removed_in_between_and_one_that_cannot_be_inspected(
    host: FakeHost, docker: FakeDocker
) -> None:
    docker.container("gone", number="a" * 64)
    del docker.routes[f"/containers/{'a' * 64}/json"]
    docker.container("stuck", number="b" * 64)
    docker.routes[f"/containers/{'b' * 64}/json"] = never
    docker.container("odd", number="c" * 64)
    docker.routes[f"/containers/{'c' * 64}/json"] = (200, {"Id": "c" * 64})
    docker.container("fine")
    found = host.look(None, "work.PART_S = 0.5")
    assert isinstance(found.containers, tuple)
    assert [container.name for container in found.containers] == ["fine", "odd", "stuck"]
    stuck, odd = container_of(found, "stuck"), container_of(found, "odd")
    assert "no answer" in stuck.unread
    assert "KeyError" in odd.unread
    assert (stuck.state, stuck.labels, stuck.ports) == (
        "running",
        {"a": "b"},
        (facts.Port("80/tcp", "127.0.0.1", 8080),),
    )
    assert isinstance(stuck.log, Unknown)


def test_very_many_containers(host: FakeHost, docker: FakeDocker) -> None:
    for index in range(400):
        docker.container(f"c{index:03}", log=(200, framed(b"hello\n")))
    docker.container("zz", log=(200, framed(b"ours\n")))
    began = time.monotonic()
    found = host.look({"log_markers": {"zz": ["ours"]}})
    assert time.monotonic() - began < 8
    assert isinstance(found.containers, tuple)
    assert len(found.containers) == 401
    assert container_of(found, "zz").log == ("ours",)
    assert sum(isinstance(container.log, tuple) for container in found.containers) == 40


def test_no_image_is_asked_about_twice(host: FakeHost, docker: FakeDocker) -> None:
    reference = cases("container")["inspect"]["Config"]["Image"]
    number = cases("container")["inspect"]["Image"]
    for index in range(5):
        docker.container(f"c{index}")
    docker.routes[f"/images/{reference}/json"] = (200, {"Id": number, "Config": {"Env": ["PATH=/usr/bin:/bin"]}})
    found = host.look({"images": [reference]})
    assert [line for line in docker.asked if "/images/" in line] == [f"GET /images/{reference}/json"]
    assert container_of(found, "c3").env["PATH"].from_image
    docker.routes[f"/images/{reference}/json"] = (200, {"Id": "sha256:moved-on", "Config": {"Env": []}})
    docker.routes[f"/images/{number}/json"] = (200, {"Id": number, "Config": {"Env": ["PATH=/usr/bin:/bin"]}})
    assert container_of(host.look({"images": [reference]}), "c3").env["PATH"].from_image


def test_images_with_hostile_names(host: FakeHost, docker: FakeDocker) -> None:
    hostile = "x/../../containers/json?all=1#\r\nX: y $(reboot)"
    docker.routes["/images/a/b:c/json"] = (200, {"Id": "sha256:1", "RepoDigests": None, "Size": 5, "Created": "t"})
    docker.routes["/images/broken/json"] = (200, b"{")
    docker.routes["/images/refused/json"] = (500, {"message": "no\x1b[31m way"})
    found = host.look({"images": ["a/b:c", hostile, "broken", "refused"]})
    assert found.images["a/b:c"] == facts.Image("sha256:1", (), 5, "t")
    assert found.images[hostile] is None
    assert "not JSON" in unknown_reason(found.images["broken"])
    assert unknown_reason(found.images["refused"]) == "Docker answered 500: no way"


def test_the_gpu_seen_inside(host: FakeHost, docker: FakeDocker) -> None:
    docker.container("comfy")
    docker.exec_in("comfy", (200, framed(b"GPU 0: \x1b[1mNVIDIA\n")))
    docker.container("ollama")
    docker.exec_in("ollama", (200, framed(b"Failed to initialize NVML\n", stream=2)), status=9)
    docker.container("bare")
    docker.exec_in("bare", (400, {"message": "executable file not found"}))
    docker.container("slow")
    docker.exec_in("slow", never)
    docker.container("down", State={"Status": "exited"})
    docker.routes["/containers/down/exec"] = (409, {"message": "container is not running"})
    docker.container("other")
    found = host.look({"gpu_in": ["comfy", "ollama", "bare", "slow", "down", "nope"]}, "work.PART_S = 0.8")
    assert container_of(found, "comfy").gpu_seen == facts.Command(0, "GPU 0: NVIDIA\n")
    assert container_of(found, "ollama").gpu_seen == facts.Command(9, "Failed to initialize NVML\n")
    bare = container_of(found, "bare").gpu_seen
    assert isinstance(bare, facts.Command)
    assert (bare.status, "executable file not found" in bare.output) == (126, True)
    assert "no answer within 0.8 s" in unknown_reason(container_of(found, "slow").gpu_seen)
    assert unknown_reason(container_of(found, "down").gpu_seen) == "the container is not running"
    assert container_of(found, "other").gpu_seen is None


OUT = "OCI runtime exec failed: exec failed: unable to start container process:"


def test_one_that_stops_while_it_is_looked_into_says_nothing_of_the_card(host: FakeHost, docker: FakeDocker) -> None:
    """As in a restart loop: runc's own words, each seen on a host."""
    namespace = (
        "unable to create new parent process: namespace path: lstat /proc/24386/ns/ipc: no such file or directory"
    )
    answers = {
        "a": ((200, framed(b"cannot exec in a stopped state\n", stream=2)), 126),
        "b": ((200, framed(f"OCI runtime exec failed: exec failed: {namespace}\n".encode())), 128),
        "c": ((400, {"message": f"OCI runtime exec failed: exec failed: {namespace}"}), 0),
        "d": ((200, framed(b"")), 137),
        "e": ((200, framed(f"{OUT} error writing config to pipe: write init-p: broken pipe\n".encode())), 128),
        "f": ((500, {"message": "NotFound: task 12ab not found: not found"}), 0),
    }
    for name, (answer, status) in answers.items():
        docker.container(name)
        docker.exec_in(name, answer, status=status)
    found = host.look({"gpu_in": list(answers)})
    for name in answers:
        reason = unknown_reason(container_of(found, name).gpu_seen)
        assert ("stopped in the middle of it" if name < "e" else "could not be entered") in reason


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"ShmSize": 64 << 20, "IpcMode": "private", "Runtime": "nvidia", "Ulimits": None, "PidsLimit": -1}, []),
        (
            {"ShmSize": 8 << 30, "IpcMode": "host", "NanoCpus": 1_500_000_000},
            ["shm_size 8192 MiB", "ipc host", "cpus 1.5"],
        ),
        ({"ExtraHosts": ["a:host-gateway", "b:1.2.3.4"]}, ["extra_hosts a:host-gateway, b:1.2.3.4"]),
        (
            {"Devices": [{"PathOnHost": "/dev/dri"}], "Ulimits": [{"Name": "memlock"}]},
            ["devices /dev/dri", "ulimits memlock"],
        ),
        (
            {"Runtime": "sysbox", "CpusetCpus": "0-3", "Dns": ["1.1.1.1"]},
            ["cpuset 0-3", "runtime sysbox", "dns 1.1.1.1"],
        ),
    ],
)
def test_what_else_a_container_was_given(given: dict[str, Any], expected: list[str]) -> None:
    assert containers.settings(given) == expected


def test_a_part_of_a_volume() -> None:
    mounts = [{"Type": "volume", "Name": "v", "Source": "/v/_data", "Destination": place, "RW": True} for place in "ab"]
    asked: list[dict[str, Any]] = [{"Target": "a", "VolumeOptions": {"Subpath": "x/y"}}, {"Target": "b"}]
    assert [mount["source"] for mount in containers.mounts_of(mounts, {}, asked)] == ["/v/_data/x/y", "/v/_data"]
    assert containers.mounts_of([{"Source": "/", "Destination": "/host"}], {})[0]["source"] == "/"
