"""Tunnels in the background: opened by a command that ends, listed, closed, and what is left when they die."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import INVOKE, ROOT, Ran, World, toml, until

from lab import faults
from pantheon.remote import ports

pytestmark = pytest.mark.lab
SPREAD = True

# Below the ports that the kernel hands out to clients, and not those of another file.
_candidates = itertools.count(22000 + os.getpid() % 97 * 100)


def a_port() -> int:
    """A local port for one test."""
    return next(port for port in _candidates if ports.free_port(port) == port)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def ssh_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid), "-x", "ssh"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    """A process that has ended may wait for the init of this machine to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def records(world: World) -> Path:
    return world.directory / "state" / "pantheon" / "tunnels"


def opened(world: World) -> list[dict[str, Any]]:
    listed = world.invoke("tunnel.list", "--json")
    assert listed.code == 0, listed.seen
    tunnels: list[dict[str, Any]] = listed.json["tunnels"]
    return tunnels


def background(world: World, service: str = "comfy", *options: str, code: int = 0) -> Ran:
    done = world.invoke("tunnel", service, "--background", *options)
    assert done.code == code, done.seen
    return done


@pytest.fixture
def lab(brought_up: World) -> Iterator[World]:
    """A host with three services, and nothing left open."""
    try:
        yield brought_up
    finally:
        brought_up.inventory()
        for host in {tunnel["host"] for tunnel in opened(brought_up)}:
            brought_up.invoke("tunnel.close", "all", "--host", host)
        shutil.rmtree(records(brought_up), ignore_errors=True)


def test_open_again_listed_and_closed(lab: World) -> None:
    port = a_port()
    done = background(lab, "comfy", "--port", str(port))
    assert f"http://127.0.0.1:{port}/  ready" in done.out, done.seen
    assert "invoke tunnel.close comfy --host lab\n" in done.out, done.seen
    assert answers(port)
    (tunnel,) = opened(lab)
    assert (tunnel["service"], tunnel["host"], tunnel["phase"]) == ("comfy", "lab", "ready")
    assert (tunnel["port"], tunnel["background"]) == (port, True)
    assert tunnel["address"] == f"ops@127.0.0.1:{lab.lab.port}"
    pid, (ssh,) = tunnel["pid"], ssh_of(tunnel["pid"])
    files = {file.suffix: stat.S_IMODE(file.stat().st_mode) for file in records(lab).iterdir()}
    assert files == {".json": 0o600, ".log": 0o600}
    assert stat.S_IMODE(records(lab).stat().st_mode) == 0o700
    assert f"http://127.0.0.1:{port}/ ready" in Path(tunnel["log"]).read_text()
    held = [str(link.readlink()) for link in Path(f"/proc/{ssh}/fd").iterdir()]
    assert not any(".json" in name or ".log" in name for name in held), held
    assert str(lab.lab.keys.identity) not in Path(f"/proc/{pid}/cmdline").read_text()

    again = background(lab)
    assert "already" in again.out, again.seen
    assert f"http://127.0.0.1:{port}/" in again.out, again.seen
    as_data = background(lab, "comfy", "--json").json
    assert [(one["pid"], one["port"], one["new"]) for one in as_data["tunnels"]] == [(pid, port, False)]
    shown = lab.invoke("tunnel.list")
    assert "in the background, pid" in shown.out, shown.seen

    lab.hosts.write_text("no inventory")  # none is read
    closed = lab.invoke("tunnel.close", "comfy")
    assert (closed.code, "✓ comfy" in closed.out) == (0, True), closed.seen
    assert not listens(port)
    assert not alive(ssh)
    until(lambda: not alive(pid), 5)
    assert opened(lab) == []
    none = lab.invoke("tunnel.close", "comfy")
    assert (none.code, "no tunnel to comfy is open" in none.out) == (0, True), none.seen


def test_it_outlives_its_terminal_and_nothing_outlives_it(lab: World) -> None:
    port = a_port()
    with lab.running("tunnel", "comfy", "--background", "--port", str(port), terminal=True) as terminal:
        ran = terminal.end()
        assert ran.code == 0, ran.seen
        assert f"http://127.0.0.1:{port}/" in ran.out, ran.seen
    # The terminal is closed: its session has ended.
    (tunnel,) = opened(lab)
    os.kill(tunnel["pid"], signal.SIGHUP)
    assert answers(port)
    (ssh,) = ssh_of(tunnel["pid"])
    os.kill(tunnel["pid"], signal.SIGKILL)
    until(lambda: not alive(ssh) and not listens(port), 10, "ssh gone with the process that kept it")
    listed = lab.invoke("tunnel.list")
    assert "was killed" in listed.out, listed.seen
    assert "none open" in listed.out, listed.seen
    again = lab.invoke("tunnel.list")
    assert "killed" not in again.out, again.seen
    assert [file.suffix for file in records(lab).iterdir()] == [".log"]


def test_what_keeps_it_from_opening_is_said_as_in_a_terminal(lab: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        here, there = lab.invoke("tunnel", "comfy", "--port", port), background(lab, "comfy", "--port", port, code=1)
        assert (there.err, there.code) == (here.err, here.code), here.seen + there.seen
        assert f"port {port} is taken" in there.err, there.seen
    known = lab.directory / "known_hosts"
    text = known.read_text()
    try:
        known.write_text("")
        here, there = lab.invoke("tunnel", "comfy"), background(lab, "comfy", "--json", code=3)
        assert there.err.endswith(here.err), here.seen + there.seen
        assert there.json["kind"] == "NotTrusted", there.seen
    finally:
        known.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
    lab.inventory(port=closed)
    here, there = lab.invoke("tunnel", "comfy"), background(lab, code=3)
    assert there.err == here.err, here.seen + there.seen
    assert lab.invoke("tunnel.list", "--json").json == {"result": "tunnels", "tunnels": [], "ended": []}


def test_the_reason_is_kept_when_nobody_looks(lab: World) -> None:
    port = a_port()
    background(lab, "ollama", "--port", str(port))
    with faults.without_login_keys(lab.lab):
        faults.end_sessions(lab.lab)
        ended = until(lambda: lab.invoke("tunnel.list", "--json").json["ended"], 30, "given up")
    assert [(one["service"], one["kind"], one["exit_code"]) for one in ended] == [("ollama", "LoginRefused", 3)]
    assert not listens(port)
    for _ in range(2):
        listed = lab.invoke("tunnel.list")
        assert "ollama" in listed.out, listed.seen
        assert "ended" in listed.out, listed.seen
        assert ended[0]["error"] in listed.out, listed.seen
    assert ended[0]["error"] in Path(ended[0]["log"]).read_text()
    background(lab, "ollama", "--port", str(port))
    assert lab.invoke("tunnel.list", "--json").json["ended"] == []


def test_two_at_once_are_one_tunnel(lab: World) -> None:
    argv = [str(INVOKE), "tunnel", "openwebui", "--background", "--json"]
    both = [
        subprocess.Popen(argv, cwd=ROOT, env=lab.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    said = [json.loads(one.communicate(timeout=60)[0])["tunnels"][0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert said[0]["pid"] == said[1]["pid"]
    assert sorted(one["new"] for one in said) == [False, True]
    assert len(opened(lab)) == 1


def test_two_hosts_side_by_side(lab: World) -> None:
    """One host by two names: each has its own tunnel, on a port of its own, and which is to be closed must be said."""
    table = {"address": "127.0.0.1", "port": lab.lab.port, "user": "ops", "identity": str(lab.lab.keys.identity)}
    text = 'default = "one"\n' + toml(table, "hosts.one") + "\n" + toml(table, "hosts.two")
    lab.hosts.write_text(text, encoding="utf-8")
    background(lab, "ollama", "--host", "one")
    background(lab, "ollama", "--host", "two")
    tunnels = {one["host"]: one for one in opened(lab)}
    assert tunnels.keys() == {"one", "two"}
    assert tunnels["one"]["port"] != tunnels["two"]["port"]
    assert all(answers(one["port"]) for one in tunnels.values())
    refused = lab.invoke("tunnel.close", "ollama")
    assert refused.code == 1, refused.seen
    assert "invoke tunnel.close ollama --host one\n" in refused.err, refused.seen
    assert "invoke tunnel.close ollama --host two\n" in refused.err, refused.seen
    assert len(opened(lab)) == 2
    closed = lab.invoke("tunnel.close", "ollama", "--host", "one", "--json")
    assert [one["host"] for one in closed.json["tunnels"]] == ["one"], closed.seen
    assert [one["host"] for one in opened(lab)] == ["two"]
    closed = lab.invoke("tunnel.close", "all")
    assert closed.code == 0, closed.seen
    assert opened(lab) == []


def test_one_in_a_terminal_is_listed_and_closed_too(lab: World) -> None:
    port = a_port()
    with lab.running("tunnel", "comfy", "--port", str(port)) as terminal:
        terminal.wait_for("Ctrl-C closes it")
        (tunnel,) = until(lambda: [one for one in opened(lab) if one["phase"] == "ready"], 10)
        assert (tunnel["background"], tunnel["pid"]) == (False, terminal.process.pid)
        closed = lab.invoke("tunnel.close", "comfy")
        assert closed.code == 0, closed.seen
        assert terminal.end().code == 0
    assert not listens(port)
    assert [*records(lab).glob("*.json")] == []


def test_a_record_never_gets_another_process_killed(lab: World) -> None:
    port = a_port()
    background(lab, "comfy", "--port", str(port))
    (tunnel,) = opened(lab)
    os.kill(tunnel["pid"], signal.SIGKILL)
    (file,) = records(lab).glob("*.json")
    other = subprocess.Popen(["sleep", "60"])
    try:
        until(lambda: not alive(tunnel["pid"]), 10)
        data = file.read_bytes()
        file.write_bytes(data.replace(str(tunnel["pid"]).encode(), str(other.pid).encode()))
        closed = lab.invoke("tunnel.close", "comfy")
        assert closed.code == 0, closed.seen
        assert "no tunnel to comfy is open" in closed.out, closed.seen
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_service_that_is_down_is_waited_for_and_ctrl_c_leaves_nothing(spare: World) -> None:
    spare.docker("stop", "-t", "1", "comfy")
    port = a_port()
    with spare.running("tunnel", "comfy", "--background", "--port", str(port), terminal=True) as terminal:
        terminal.wait_for("waiting for comfy")
        until(lambda: any(one["phase"] == "waiting" for one in opened(spare)), 20)
        (tunnel,) = opened(spare)
        terminal.signal(signal.SIGINT)
        ran = terminal.end()
        assert ran.code == 130, ran.seen
        assert "nothing was left open" in ran.out, ran.seen
    until(lambda: not alive(tunnel["pid"]), 5)
    assert not listens(port)
    assert opened(spare) == []
    with spare.running("tunnel", "comfy", "--background", "--port", str(port)) as waiting:
        waiting.wait_for("waiting for comfy")
        spare.docker("start", "comfy")
        ran = waiting.end()
        assert ran.code == 0, ran.seen
        assert f"http://127.0.0.1:{port}/  ready" in ran.out, ran.seen
    assert answers(port)
    closed = spare.invoke("tunnel.close", "all")
    assert closed.code == 0, closed.seen
