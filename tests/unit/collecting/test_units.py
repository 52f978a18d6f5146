"""Docker's units, its log, its configuration and its own files, from stub commands and a tree of files."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from pantheon.collecting import units
from pantheon.evidence import Evidence, parse
from pantheon.looks import work
from pantheon.looks.text import Unread
from tests.unit.looks.fakes import FakeHost

SHOW = """ActiveState=failed
SubState=failed
Result=exit-code
StateChangeTimestamp=Sat 2026-11-21 22:56:07 UTC
NRestarts=2
UnitFileState=enabled
ExecMainStartTimestamp=Sat 2026-11-21 22:56:06 UTC
LoadState=loaded"""
# A command that does not end is killed and not waited for: it may be stuck in the kernel.
LEFT_BEHIND = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
CLUES = [
    {"text": "failed to start daemon", "where": ["docker"], "pattern": ""},
    {"text": "containerd.sock", "where": ["docker"], "pattern": r"dial.*timeout"},
    {"text": "out of memory", "where": ["kernel"], "pattern": ""},
]


@pytest.fixture(autouse=True)
def path(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{host.bin}:/usr/bin:/bin")
    host.tool("systemctl", f"cat <<'END'\n{SHOW}\nEND")


def as_evidence(name: str, value: Any) -> Evidence:
    """What the host side gives is what the other side reads."""
    return parse({"schema": 1, name: value})


def test_a_unit(host: FakeHost) -> None:
    found = units.units({"units": ["docker.service"]}, str(host.root))
    unit = as_evidence("units", found).units["docker.service"]
    assert (unit.active, unit.result, unit.restarts) == ("failed", "exit-code", 2)  # type: ignore[union-attr]
    assert unit.since == "2026-11-21T22:56:07Z"  # type: ignore[union-attr]
    assert unit.started == "2026-11-21T22:56:06Z"  # type: ignore[union-attr]


def test_none_masked_and_unreadable(host: FakeHost) -> None:
    host.tool(
        "systemctl",
        'case "$*" in *docker.socket*) echo LoadState=not-found; echo ActiveState=inactive;; '
        "*containerd*) echo LoadState=masked; echo ActiveState=inactive;; *) echo denied; exit 1;; esac",
    )
    names = ["docker.service", "docker.socket", "containerd.service"]
    found = as_evidence("units", units.units({"units": names}, str(host.root))).units
    assert found["docker.socket"] is None
    assert found["containerd.service"].enabled == "masked"  # type: ignore[union-attr]
    assert "denied" in found["docker.service"].reason  # type: ignore[union-attr]


def test_no_systemd(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unread, match="systemctl"):
        units.units({"units": ["docker.service"]}, str(host.root))
    with pytest.raises(Unread, match="journalctl"):
        units.engine_log({}, str(host.root))


@pytest.mark.parametrize(
    ("text", "expected"), [("Sat 2026-11-21 22:56:07 UTC", "2026-11-21T22:56:07Z"), ("n/a", ""), ("", "")]
)
def test_iso(text: str, expected: str) -> None:
    assert units.iso(text) == expected


def test_the_engines_log_newest_last_and_only_what_tells(host: FakeHost) -> None:
    host.tool(
        "journalctl",
        r"""echo "$@" >&2; printf 'failed to start daemon: \033[31mtwo password=abc\033[0m\n'
        printf 'Loading containers: done.\nerror dial containerd.sock: timeout\ncontainerd.sock is fine\n'
        printf 'Out of memory\nFAILED TO START DAEMON: one\n'""",
    )
    found = units.engine_log({"clues": CLUES}, str(host.root))
    assert found == [
        "FAILED TO START DAEMON: one",
        "error dial containerd.sock: timeout",
        "failed to start daemon: two password=***",
    ]


@LEFT_BEHIND
def test_a_log_that_is_huge_or_does_not_come(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.tool("journalctl", "yes 'failed to start daemon: again and again' | head -c 20000000")
    began = time.monotonic()
    assert len(units.engine_log({"clues": CLUES}, str(host.root))) == units.KEEP
    assert time.monotonic() - began < 4
    monkeypatch.setattr(units, "LOG_S", 0.2)
    host.tool("journalctl", "sleep 30")
    with pytest.raises(Unread, match="no answer within"):
        units.engine_log({"clues": CLUES}, str(host.root))
    work.end_commands()


def test_the_configuration(host: FakeHost) -> None:
    assert units.engine_config({}, str(host.root)) is None
    path = host.write("/etc/docker/daemon.json", "{,}")
    host.tool("dockerd", 'echo "unable to configure $3: token=abc"; exit 1')
    assert units.engine_config({}, str(host.root)) == {
        "status": 1,
        "output": f"unable to configure {path}: token=***\n",
    }


def keep(host: FakeHost, number: str, name: str, **changes: Any) -> None:
    folder = f"/var/lib/docker/containers/{number * 64}"
    labels = {"pantheon.project": "pantheon-ai", "pantheon.service": name}
    config = {"Name": f"/{name}", "HasBeenManuallyStopped": False, "Config": {"Labels": labels}} | changes
    host.write(f"{folder}/config.v2.json", json.dumps(config))
    host.write(f"{folder}/hostconfig.json", json.dumps({"RestartPolicy": {"Name": "unless-stopped"}}))


def test_kept(host: FakeHost) -> None:
    assert units.kept({}, str(host.root)) == []
    keep(host, "a", "comfy")
    keep(host, "b", "hand\x1b[1m", HasBeenManuallyStopped=True, Config={"Labels": None})
    keep(host, "c", "broken")
    host.write(f"/var/lib/docker/containers/{'c' * 64}/config.v2.json", "{")
    host.write(f"/var/lib/docker/containers/{'d' * 64}/config.v2.json", "[]")
    host.write("/var/lib/docker/containers/not-an-id/config.v2.json", "{}")
    found = as_evidence("kept", units.kept({}, str(host.root))).kept
    assert [(one.name, one.project, one.stopped) for one in found or ()] == [  # type: ignore[union-attr]
        ("comfy", "pantheon-ai", False),
        ("hand", "", True),
    ]


def test_a_container_whose_process_is_gone(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "SETTLE_S", 0)
    host.write("/proc/4242/cgroup", "0::/")
    keep(host, "a", "comfy", State={"Running": True, "Pid": 4242})
    keep(host, "b", "ollama", State={"Running": True, "Pid": 4243})
    keep(host, "c", "openwebui", State={"Running": False, "Pid": 0})
    keep(host, "d", "odd", State={"Running": True, "Pid": "x"})
    keep(host, "e", "loop", State={"Running": True, "Restarting": True, "Pid": 4244})
    found = as_evidence("kept", units.kept({}, str(host.root))).kept
    assert [one.name for one in found or () if one.gone] == ["ollama"]  # type: ignore[union-attr]


def test_one_that_ends_just_now_is_not_gone(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(host, "b", "ollama", State={"Running": True, "Pid": 4243})
    monkeypatch.setattr(time, "sleep", lambda _: keep(host, "b", "ollama", State={"Running": False, "Pid": 0}))
    found = as_evidence("kept", units.kept({}, str(host.root))).kept
    assert [one.gone for one in found or ()] == [False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"data-root": "/srv/docker/"}', "/srv/docker"),
        ("{,", "/var/lib/docker"),
        ('{"data-root": 3}', "/var/lib/docker"),
        ("[]", "/var/lib/docker"),
    ],
)
def test_data_root(host: FakeHost, text: str, place: str) -> None:
    host.write("/etc/docker/daemon.json", text)
    assert units.data_root(str(host.root)) == place
