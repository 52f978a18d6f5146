"""What stops a bring-up before anything is touched: prerequisites, disks, ports, and stacks that somebody else started.

Each test plants its obstacle, takes a listing of the host, runs `invoke bringup --yes`, and finds the host as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import pytest
from conftest import Ran, World, until

from lab import faults

pytestmark = pytest.mark.lab

OLLAMA = "ollama/ollama:latest"
COMFY = "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest"


def refused(world: World, *, code: int = 2) -> Ran:
    """`bringup --yes` that ends with that code and touches nothing."""
    with world.unchanged():
        done = world.invoke("bringup", "--yes")
    assert done.code == code, done.seen
    assert "Nothing on lab was touched." in done.out, done.seen
    assert world.sh("ls -d /var/lib/pantheon /run/pantheon /var/log/pantheon 2>/dev/null || true") == ""
    return done


class TestPrerequisites:
    def test_another_driver_or_card(self, untouched: World) -> None:
        with faults.card(untouched.lab, driver="580.95.05"):
            done = refused(untouched)
            assert "driver is 580.95.05, not 590.x" in done.out, done.seen
            assert "invoke prereqs --install --reboot --host lab" in done.out, done.seen
        with faults.card(untouched.lab, name="NVIDIA RTX A4000", total="16376"):
            done = refused(untouched)
            assert "GPU is NVIDIA RTX A4000, not NVIDIA RTX 4000 Ada Generation" in done.out, done.seen

    def test_a_driver_that_does_not_match_its_module(self, untouched: World) -> None:
        with faults.gpu(untouched.lab, "mismatch"):
            done = refused(untouched)
            alone = untouched.invoke("prereqs")
        assert "mismatch" in done.out.lower(), done.seen
        assert "invoke fix.driver-mismatch --host lab" in done.out, done.seen
        assert alone.code == 2, alone.seen
        assert "no GPU can be used" in alone.out, alone.seen

    def test_docker_from_the_snap(self, untouched: World) -> None:
        untouched.sh("mkdir -p /snap/bin; ln -s /usr/bin/snap /snap/bin/docker")
        try:
            done = refused(untouched)
        finally:
            untouched.sh("rm -r /snap")
        assert "Docker is the snap" in done.out, done.seen
        assert "prereqs --install --remove-snap" in done.out, done.seen

    def test_an_engine_that_does_not_answer(self, untouched: World) -> None:
        with faults.without_engine(untouched.lab):
            done = untouched.invoke("bringup", "--yes")
        assert done.code == 2, done.seen
        assert "Docker Engine does not answer" in done.out, done.seen
        assert "→ invoke fix.docker-down --host lab" in done.out, done.seen


class TestDisks:
    def test_an_unmounted_disk(self, untouched: World) -> None:
        """Nothing may be made beneath the mount point: it would fill the root disk, and hide when the disk is back."""
        for disk in ("nvme", "ssd"):
            with faults.unmounted(untouched.lab, disk):
                done = refused(untouched)
                assert untouched.sh(f"ls -A /mnt/local/{disk}") == ""
            assert f"/mnt/local/{disk} is not a mount point" in done.out, done.seen
            assert "→ invoke fix.mounts-missing --host lab" in done.out, done.seen

    def test_a_disk_with_too_little_room(self, untouched: World) -> None:
        with faults.small_disk(untouched.lab, "/mnt/local/ssd", mib=4):
            done = refused(untouched)
        assert "/mnt/local/ssd has too little room" in done.out, done.seen

    def test_a_link_in_the_place_of_a_directory_of_ours(self, untouched: World) -> None:
        """It is not followed, and what it points to keeps its owner."""
        untouched.sh("mkdir -p /mnt/local/nvme/ai /srv/elsewhere; ln -s /srv/elsewhere /mnt/local/nvme/ai/models")
        try:
            done = refused(untouched)
        finally:
            untouched.sh("rm -r /mnt/local/nvme/ai /srv/elsewhere")
        assert "/mnt/local/nvme/ai/models is a" in done.out, done.seen
        assert "follows no link" in done.out, done.seen


class TestPorts:
    def test_a_port_that_another_process_holds(self, untouched: World) -> None:
        """Named with that process, on loopback as well as on all addresses."""
        code = "import socket,time; s=socket.socket(); s.bind(('{}', {})); s.listen(); time.sleep(600)"
        for number, (address, port) in enumerate((("127.0.0.1", 8188), ("0.0.0.0", 3000))):
            unit = f"squatter{number}"
            untouched.sh(f'systemd-run -q --unit={unit} python3 -c "{code.format(address, port)}"')
            try:
                pid = untouched.sh(f"systemctl show -P MainPID {unit}")
                until(partial(untouched.sh, f"ss -ltnH 'sport = :{port}'"), what=f"port {port} is taken")
                done = refused(untouched)
            finally:
                untouched.sh(f"systemctl stop {unit}")
            assert f"port {port} on {address} is taken by python3 (pid {pid})" in done.out, done.seen


HAND_MADE = f"""
services:
  comfyui:
    image: {COMFY}
    ports: ["8188:8188"]
    volumes: ["./mnt:/comfy/mnt"]
    command: sleep infinity
    entrypoint: [sleep, infinity]
  ollama:
    image: {OLLAMA}
    entrypoint: [sleep, infinity]
    volumes: ["./ollama:/root/.ollama"]
"""


@contextlib.contextmanager
def by_hand(world: World, directory: str, text: str, *, project: str) -> Iterator[str]:
    """A stack that an operator wrote and started. Yields its Compose file."""
    file = f"{directory}/docker-compose.yml"
    world.sh('mkdir -p "$1"; printf %s "$2" >"$3"', directory, text, file)
    compose = ("compose", "-p", project, "-f", file)
    try:
        world.lab.exec("docker", *compose, "up", "-d", timeout=120)
        yield file
    finally:
        world.lab.exec("docker", *compose, "down", "-t", "0", check=False)
        world.sh('rm -rf "$1"', directory)


class TestStacksOfOthers:
    @pytest.fixture(autouse=True)
    def without_their_images(self, untouched: World) -> Iterator[None]:
        """A host that has them has less to pull than a fresh one."""
        yield
        untouched.docker("image", "prune", "-af")

    def test_another_style_is_recognised_and_left_alone(self, untouched: World) -> None:
        """Project `ai`, containers ai-comfyui-1 and ai-ollama-1, in a home: named with the file, for each section."""
        with by_hand(untouched, "/home/ops/ai", HAND_MADE, project="ai") as file:
            before = untouched.docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "ai-comfyui-1", "ai-ollama-1")
            done = refused(untouched)
            with untouched.unchanged():
                alone = untouched.invoke("ollama", "--yes")
                data = untouched.invoke("bringup", "--yes", "--json")
            after = untouched.docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "ai-comfyui-1", "ai-ollama-1")
        assert before == after
        for name in ("ai-comfyui-1", "ai-ollama-1"):
            assert f"container {name} was started by hand (Compose file {file}); nothing is touched" in done.out, (
                done.seen
            )
        assert alone.code == 2, alone.seen
        assert "ai-ollama-1 was started by hand" in alone.out, alone.seen
        assert data.code == 2, data.seen
        assert data.json["result"] == "blocked"

    def test_even_in_our_directory_and_under_our_project_name(self, untouched: World) -> None:
        with by_hand(untouched, "/opt/stacks/ai", HAND_MADE, project="pantheon-ai") as file:
            done = refused(untouched)
        assert f"(Compose file {file})" in done.out, done.seen
        assert "pantheon-ai-comfyui-1" in done.out, done.seen

    def test_a_single_container_of_that_name(self, untouched: World) -> None:
        """By name, by port, by mount: `docker run` without any Compose file, stopped or running."""
        runs = {
            "comfy": ("--entrypoint", "sleep", OLLAMA, "infinity"),
            "other-web": ("--entrypoint", "sleep", "-p", "127.0.0.1:3000:80", OLLAMA, "infinity"),
        }
        for name, arguments in runs.items():
            untouched.docker("run", "-d", "--name", name, *arguments)
            try:
                done = refused(untouched)
            finally:
                untouched.docker("rm", "-f", name)
            assert f"container {name} was started by hand (started with docker run)" in done.out, done.seen

    def test_a_compose_file_that_is_not_ours(self, untouched: World) -> None:
        """Where ours would lie, with nothing running: it may be all that somebody has of his stack."""
        text = "services:\n  mine:\n    image: nginx\n"
        untouched.sh('mkdir -p /opt/stacks/ai; printf %s "$1" >/opt/stacks/ai/compose.yaml', text)
        try:
            done = refused(untouched)
            assert untouched.sh("cat /opt/stacks/ai/compose.yaml") == text.strip()
        finally:
            untouched.sh("rm -r /opt/stacks")
        assert "/opt/stacks/ai/compose.yaml was not written by pantheon" in done.out, done.seen

    def test_a_container_of_another_purpose_is_no_obstacle(self, untouched: World) -> None:
        # Another image, not the same one under another name: that would rightly be taken for Ollama.
        untouched.sh("docker pull -q ollama/ollama:latest; docker create --name made ollama/ollama:latest")
        untouched.sh("docker commit made tools/unrelated:1; docker rm made")
        untouched.docker("run", "-d", "--name", "unrelated", "--entrypoint", "sleep", "tools/unrelated:1", "infinity")
        try:
            planned = untouched.invoke("bringup", "--plan", "--json")
        finally:
            untouched.sh("docker rm -f unrelated; docker rmi tools/unrelated:1")
        assert planned.json["result"] == "planned", planned.seen
