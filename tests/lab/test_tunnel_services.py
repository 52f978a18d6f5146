"""What happens to a service while a tunnel to it is open: said, waited for, followed. The link lives on all the while,
and the local port stays the same."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import requests
from conftest import QUICK, Running, World, until

from lab import faults

COMFY_TREE = "/mnt/local/nvme/ai/services/comfy-mnt"
MADE_SLOW = 0.35  # seconds for each of the stand-in's steps: a first run that can be watched


class Tunnel:
    """A running `invoke tunnel SERVICE`, read as it writes."""

    def __init__(self, running: Running) -> None:
        self.running, self.at = running, 0

    def says(self, text: str, deadline_s: float = 30) -> str:
        """Read on until `text` has come, after what was read before. Returns that part."""
        end = time.monotonic() + deadline_s
        while (found := self.running.seen.find(text, self.at)) < 0:
            came = self.running._read(end - time.monotonic())
            assert came, f"{text!r} did not come after {self.running.seen[: self.at]!r}: {self.running.seen[self.at :]}"
        part, self.at = self.running.seen[self.at : found + len(text)], found + len(text)
        return part

    def ready(self) -> str:
        """The URL, once it says ready."""
        found = re.findall(r"http://127\.0\.0\.1:\d+", self.says("/  ready"))
        return str(found[-1])

    @property
    def seen(self) -> str:
        return self.running.seen


@contextlib.contextmanager
def tunnel(world: World, service: str) -> Iterator[Tunnel]:
    with world.running("tunnel", service) as running:
        yield Tunnel(running)
        assert "link lost" not in running.seen, running.seen


def answers(url: str) -> bool:
    """Whether a client gets something; never a hang."""
    try:
        return requests.get(url, timeout=(3, 10)).status_code < 500
    except (requests.ConnectionError, requests.Timeout):
        return False


def logins(world: World) -> int:
    """How many connections sshd has."""
    return int(world.sh("ss -Htn state established '( sport = :22 )' | wc -l"))


def test_a_first_run_is_watched_and_waited_for(brought_up: World) -> None:
    world = brought_up
    world.docker("stop", "-t", "0", "comfy")
    world.sh('find "$1" -mindepth 1 -delete', COMFY_TREE)
    try:
        world.lab.set_stand_in(**(QUICK | {"comfy_step_seconds": MADE_SLOW}))
        world.docker("start", "comfy")
        with tunnel(world, "comfy") as opened:
            opened.says("/9 ")
            url = opened.ready()
            assert re.search(r"[1-8]/9 \w+", opened.seen)  # how many of them shows how quick the machine is
            assert requests.get(f"{url}/system_stats", timeout=10).json()["system"]
            assert "→" not in opened.seen  # nothing to type about what comes by itself
    finally:
        world.lab.set_stand_in(**QUICK)
    world.wait_healthy("comfy")


def test_a_container_that_is_stopped_and_started(brought_up: World) -> None:
    world = brought_up
    with tunnel(world, "ollama") as opened:
        url = opened.ready()
        world.docker("kill", "ollama")
        assert not answers(url)
        opened.says("does not answer")
        opened.says("its container is stopped (exit code 137)")
        opened.says("invoke diagnose --host lab")
        assert logins(world) == 2  # the tunnel's, and one to look with
        world.docker("start", "ollama")
        opened.says("answers again")
        assert answers(url)
        until(lambda: logins(world) == 1)
    until(lambda: logins(world) == 0)


def test_a_container_that_is_missing_until_it_is_made(brought_up: World) -> None:
    world = brought_up
    world.docker("rm", "-f", "comfy")
    done = world.invoke("tunnel", "comfy", "--check")
    assert done.code == 2, done.seen
    assert "its container is missing" in done.all
    with tunnel(world, "comfy") as opened:
        opened.says("its container is missing")
        opened.says("invoke comfy --host lab")
        done = world.invoke("comfy", "--yes")
        assert done.code == 0, done.seen
        assert answers(opened.ready())


def test_docker_restart(brought_up: World) -> None:
    world = brought_up
    with tunnel(world, "openwebui") as opened:
        url = opened.ready()
        world.docker("restart", "-t", "0", "openwebui")
        until(lambda: answers(url), 30)
        world.wait_healthy("openwebui")


def test_an_engine_that_is_stopped(brought_up: World) -> None:
    world = brought_up
    with tunnel(world, "ollama") as opened:
        url = opened.ready()
        with faults.without_engine(world.lab):
            assert not answers(url)
            opened.says("the Docker engine does not answer")
            opened.says("invoke fix.docker-down --host lab")
        opened.says("answers again", 60)
        assert answers(url)
    world.wait_healthy()


def test_an_answer_that_is_none(brought_up: World) -> None:
    """Open WebUI answers 503 until its database is there."""
    world = brought_up
    try:
        world.lab.set_stand_in(**(QUICK | {"openwebui_start_seconds": 3}))
        world.docker("restart", "-t", "0", "openwebui")
        with tunnel(world, "openwebui") as opened:
            opened.says("503 Service Unavailable")
            url = opened.ready()
            assert requests.get(f"{url}/ready", timeout=10).status_code == 200
    finally:
        world.lab.set_stand_in(**QUICK)
    world.wait_healthy("openwebui")


def test_sudo_that_is_not_allowed(brought_up: World) -> None:
    """Whoever may only forward still gets a tunnel; why a service does not answer cannot be seen then."""
    world = brought_up
    world.docker("stop", "-t", "0", "ollama")
    world.sh("mkdir /root/away; mv /etc/sudoers.d/* /root/away/")
    try:
        with tunnel(world, "ollama") as opened:
            opened.says("why cannot be seen: sudo asks for the password of ops")
            opened.says("--ask-sudo-password")
            world.docker("start", "ollama")
            assert answers(opened.ready())
    finally:
        world.sh("mv /root/away/* /etc/sudoers.d/; rmdir /root/away")
        world.docker("start", "ollama")
    world.wait_healthy("ollama")


def test_a_bring_up_from_elsewhere_moves_it(brought_up: World) -> None:
    """Another operator's hosts.toml: ComfyUI gets another port, and Ollama the one that ComfyUI had."""
    world = brought_up
    with tunnel(world, "comfy") as opened:
        url = opened.ready()
        world.inventory(comfy={"port": 8190}, ollama={"port": 8188})
        world.bring_up()
        assert "system" in until(lambda: stats(url), 30)
        opened.says("moved from port 8188 to 8190 on the host, followed; hosts.toml here says 8188")
        opened.says("answers again")
        world.inventory()
        world.bring_up("--older")
        assert "system" in until(lambda: stats(url), 30)
        opened.says("moved from port 8190 to 8188 on the host, followed, as hosts.toml says")


def stats(url: str) -> dict[str, object]:
    """ComfyUI's own answer; {} as long as there is none, or it is another's."""
    with contextlib.suppress(requests.RequestException, ValueError):
        found = requests.get(f"{url}/system_stats", timeout=(3, 10)).json()
        return found if isinstance(found, dict) else {}
    return {}


def test_a_websocket_that_is_refused(brought_up: World) -> None:
    world = brought_up
    from lab.breakages import browser_access

    browser_access.another_origin(world.lab)
    try:
        done = world.invoke("tunnel", "openwebui", "--check")
        assert done.code == 2, done.seen
        assert "takes no websocket (403 Forbidden)" in done.all, done.seen
        with tunnel(world, "openwebui") as opened:
            opened.says("takes no websocket (403 Forbidden)")
            opened.says("invoke fix.browser-access --host lab")
    finally:
        world.bring_up()
