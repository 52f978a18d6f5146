"""Docker's engine: what keeps it from answering, as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import Kept, Unit
from pantheon.facts import Command, Docker, Facts, Unknown
from pantheon.fixes import docker_down
from pantheon.incident import Case
from pantheon.plan import Mend, Run
from tests.unit.world import HOST, case, container, finished, fresh, having

REFUSED = Unknown("Docker's socket /var/run/docker.sock: Connection refused")
UP = "2026-11-21T11:00:10Z"
RUNS = Unit("active", "running", "success", UP, 0, "enabled", "2026-11-21T11:00:05Z")
STOPPED = Unit("inactive", "dead", "success", UP, 0, "enabled")
FAILED = Unit("failed", "failed", "exit-code", UP, 2, "enabled")
LIMIT = Unit("failed", "failed", "service-start-limit-hit", UP, 0, "enabled")
SAID = (
    "unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid character '}' looking for "
    "beginning of object key string"
)
KEPT = (
    Kept("comfy", HOST.project, "comfy", "unless-stopped", stopped=False),
    Kept("ollama", HOST.project, "ollama", "unless-stopped", stopped=True),
    Kept("openwebui", HOST.project, "openwebui", "always", stopped=False),
    Kept("comfy", "another", "comfy", "always", stopped=False),
    Kept("db", "", "", "always", stopped=False),
)


def down(reason: Unknown = REFUSED, daemon_json: str = "{}") -> Facts:
    facts = finished()
    assert isinstance(facts.docker, Docker)
    docker = replace(facts.docker, engine=reason, root=reason, runtimes=(), daemon_json=daemon_json)
    images: dict[str, Any] = dict.fromkeys(facts.images, reason)
    return replace(facts, docker=docker, containers=reason, images=images)


def made(facts: Facts, service: Unit = STOPPED, socket: Unit = RUNS, containerd: Unit = RUNS, **evidence: Any) -> Case:
    units = {"docker.service": service, "docker.socket": socket, "containerd.service": containerd}
    return case(facts, **({"units": units} | evidence))


def commands(one: Case) -> list[str]:
    steps = [step for change in docker_down.plan(one).changes for step in change.steps]
    return [
        step.show() if isinstance(step, Run) else f"{step.name} {step.arguments}"
        for step in steps
        if isinstance(step, Run | Mend)
    ]


@pytest.mark.parametrize(
    "facts",
    [finished(), fresh(), replace(fresh(), docker=None), replace(fresh(), docker=Unknown("denied"))],
    ids=["finished", "fresh", "no docker", "not known"],
)
def test_nothing_to_say(facts: Facts) -> None:
    one = made(facts, service=RUNS)
    assert docker_down.diagnose(one) == []
    section = docker_down.plan(one)
    assert section.is_ready
    assert section.reason


def test_the_snap_is_the_prerequisites_matter() -> None:
    facts = down()
    assert isinstance(facts.docker, Docker)
    assert docker_down.diagnose(made(replace(facts, docker=replace(facts.docker, snap="/snap/bin/docker")))) == []


@pytest.mark.parametrize(
    ("units", "evidence", "text"),
    [
        ({}, {}, "Docker's engine is stopped"),
        ({"service": LIMIT}, {}, "Docker's engine does not start (systemd gave up: too many starts in a minute)"),
        ({"service": FAILED}, {"engine_log": ("failed to start daemon: x",)}, "Docker's engine does not start"),
        ({"containerd": STOPPED}, {}, "Docker's engine does not run, nor does containerd under it"),
        ({"service": FAILED}, {"engine_config": Command(1, SAID)}, "daemon.json is not valid"),
        ({"containerd": replace(STOPPED, enabled="masked")}, {}, "containerd.service is masked"),
    ],
)
def test_why_it_does_not_run(units: dict[str, Unit], evidence: dict[str, Any], text: str) -> None:
    one = made(down(), **units, **evidence)
    (finding,) = docker_down.diagnose(one)
    assert finding.id == "docker-down.engine"
    assert finding.level == "fail"
    assert text in finding.text
    assert finding.mend == "invoke fix.docker-down --host prometheus"


def test_it_is_the_one_cause() -> None:
    found = diagnosis.diagnose(made(down(), kept=KEPT))
    assert [cause.finding.id for cause in found.causes] == ["docker-down.engine"]
    assert found.unknown == ()


@pytest.mark.parametrize("active", ["active", "activating"])
def test_one_that_is_just_starting_is_waited_for(active: str) -> None:
    one = made(down(), service=replace(RUNS, active=active))
    assert [finding.level for finding in docker_down.diagnose(one)] == ["unknown"]
    assert docker_down.plan(one).is_ready


def test_one_that_dies_at_every_start_is_not_just_starting() -> None:
    one = made(down(), service=replace(RUNS, active="activating", sub="auto-restart", restarts=2))
    assert [finding.level for finding in docker_down.diagnose(one)] == ["fail"]


def test_start() -> None:
    one = made(down(), kept=KEPT)
    start, back = commands(one)
    assert start == "systemctl start containerd.service docker.socket docker.service"
    assert back.startswith("start_stack {'project': 'pantheon-ai', 'names': ['comfy', 'openwebui']")
    assert docker_down.plan(one).starts == ("comfy", "openwebui")
    assert docker_down.plan(one).changes[0].stops == ()


def test_what_systemd_gave_up_on_is_reset_first() -> None:
    assert commands(made(down(), service=FAILED, socket=LIMIT))[:2] == [
        "systemctl reset-failed docker.service docker.socket",
        "systemctl start containerd.service docker.socket docker.service",
    ]


def test_containers_that_nobody_knows_are_found_by_their_label() -> None:
    one = made(down(), kept=Unknown("denied"))
    assert "'names': None" in commands(one)[-1]
    assert docker_down.plan(one).starts == ("comfy", "ollama", "openwebui")


def test_nothing_was_up() -> None:
    assert len(commands(made(down(), kept=()))) == 1


def test_an_engine_that_hangs_is_restarted_and_says_what_stops() -> None:
    one = made(down(Unknown("Docker gave no answer within 5.0 s (/version)")), service=RUNS, kept=KEPT)
    assert [finding.id for finding in docker_down.diagnose(one)] == ["docker-down.hangs"]
    section = docker_down.plan(one)
    assert commands(one)[0] == "systemctl restart docker.service"
    assert section.changes[0].stops == ("comfy", "openwebui")


def test_an_engine_whose_socket_was_taken_away() -> None:
    """systemd says active once it listens: it is not just starting."""
    one = made(
        down(Unknown("Docker's socket /var/run/docker.sock: No such file or directory")), service=RUNS, kept=KEPT
    )
    assert [(finding.id, finding.level) for finding in docker_down.diagnose(one)] == [("docker-down.socket", "fail")]
    assert commands(one)[0] == "systemctl restart docker.socket docker.service"


@pytest.mark.parametrize(
    ("text", "said", "where"),
    [
        ('{\n  "log-opts": {\n    "max-size": "10m",\n  }\n}', SAID, '"max-size": "10m",'),
        ("", SAID, "line 1, column 1"),
        (
            '{\n "log-optss": {}\n}',
            "unable to configure: the following directives don't match any configuration option: log-optss",
            'line 2: "log-optss": {}',
        ),
        ('{"a": 1}', "unable to configure the Docker daemon: something new", "something new"),
    ],
)
def test_daemon_json_is_for_a_human(text: str, said: str, where: str) -> None:
    one = made(down(daemon_json=text), service=FAILED, engine_config=Command(1, said))
    (blocked,) = docker_down.plan(one).blocked
    assert docker_down.plan(one).changes == ()
    assert where in blocked.evidence
    assert "sudoedit /etc/docker/daemon.json" in blocked.mend
    assert "sudo dockerd --validate --config-file /etc/docker/daemon.json" in blocked.mend


def test_a_dockerd_that_cannot_be_asked_says_nothing_of_the_file() -> None:
    one = made(down(), engine_config=Command(127, "exec format error"))
    assert docker_down.plan(one).blocked == ()


def test_masked_is_on_purpose() -> None:
    (blocked,) = docker_down.plan(made(down(), service=replace(STOPPED, enabled="masked"))).blocked
    assert "sudo systemctl unmask docker.service" in blocked.mend


def test_no_unit() -> None:
    one = case(down(), units={"docker.service": None})
    assert [finding.level for finding in docker_down.diagnose(one)] == ["fail"]
    assert docker_down.plan(one).blocked[0].id == "docker-down.unit"


# ---- the engine answers

DEAF = Unknown("Docker answered 503: Unavailable: dial unix:///run/containerd/containerd.sock: timeout")


def without_containerd(sign: object = DEAF) -> Facts:
    images: dict[str, Any] = dict.fromkeys(finished().images, sign)
    return replace(finished(), images=images)


def test_containerd_under_it() -> None:
    one = made(without_containerd(), service=RUNS, containerd=STOPPED)
    assert [finding.id for finding in docker_down.diagnose(one)] == ["docker-down.containerd"]
    assert commands(one)[0] == "systemctl start containerd.service"


@pytest.mark.parametrize(
    ("unit", "text", "verb"),
    [
        (Unit("activating", "auto-restart", "signal", UP, 1, "enabled"), "is stopped", "start"),
        (RUNS, "does not answer", "restart"),  # it stands still, or is back since a moment
    ],
)
def test_containerd_that_starts_or_stands_still(unit: Unit, text: str, verb: str) -> None:
    one = made(without_containerd(), service=RUNS, containerd=unit)
    (finding,) = docker_down.diagnose(one)
    assert text in finding.text
    assert commands(one)[0] == f"systemctl {verb} containerd.service"


def test_containers_without_a_process() -> None:
    """containerd was killed with all that it holds: the engine still shows its containers as up."""
    gone = tuple(replace(one, gone=one.project == HOST.project) for one in KEPT)
    one = made(finished(), service=RUNS, kept=gone)
    (finding,) = docker_down.diagnose(one)
    assert (finding.id, finding.level) == ("docker-down.lost", "fail")
    assert "comfy, ollama, openwebui" in finding.text
    assert commands(one)[0] == "systemctl restart docker.service"
    assert docker_down.plan(one).changes[0].stops == ("comfy", "ollama", "openwebui")
    theirs = tuple(replace(one, gone=one.project != HOST.project) for one in KEPT if one.name == "db")
    assert docker_down.diagnose(made(finished(), service=RUNS, kept=theirs)) == []


def test_a_process_that_ends_in_a_restart_loop_is_not_lost() -> None:
    """A busy engine is late to notice that it died."""
    loops = container(HOST, "comfy", health="starting", restarts=2)
    gone = tuple(replace(one, gone=one.name == "comfy") for one in KEPT)
    found = docker_down.diagnose(made(having(finished(), comfy=loops), service=RUNS, kept=gone))
    assert found == []


def test_the_engines_own_words_come_first() -> None:
    own, systemd = 'failed to start daemon: driver "x" not available', "Failed to start docker.service - Docker"
    found = docker_down.diagnose(made(down(), service=FAILED, engine_log=(own, systemd, own, systemd, systemd)))
    assert own in found[0].evidence
    assert systemd not in found[0].evidence


def test_a_setting_that_the_command_line_has_too() -> None:
    said = (
        "unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives are "
        "specified both as a flag and in the configuration file: hosts: (from flag: [fd://], from file: [unix:///x])"
    )
    config = Command(status=0, output="configuration OK\n")
    one = made(
        down(daemon_json='{\n "hosts": ["unix:///x"]\n}'), service=FAILED, engine_log=(said,), engine_config=config
    )
    assert "line 2" in docker_down.diagnose(one)[0].evidence
    (blocked,) = docker_down.plan(one).blocked
    assert blocked.id == "docker-down.config"
    corrected = made(down(daemon_json="{}"), service=FAILED, engine_log=(said,), engine_config=config)
    assert not docker_down.plan(corrected).blocked


def test_an_engine_that_the_next_boot_does_not_start() -> None:
    disabled = replace(RUNS, enabled="disabled")
    (finding,) = docker_down.diagnose(made(finished(), service=disabled, socket=disabled))
    assert (finding.id, finding.level) == ("docker-down.boot", "warn")
    assert docker_down.diagnose(made(finished(), service=disabled)) == []  # its socket starts it


def test_an_engine_with_a_containerd_of_its_own() -> None:
    assert docker_down.diagnose(made(finished(), service=RUNS, containerd=STOPPED)) == []
    assert docker_down.diagnose(made(without_containerd(Unknown("no answer")), service=RUNS, containerd=STOPPED)) == []


@pytest.mark.parametrize(
    ("ended", "changes", "is_fallen"),
    [
        ("2026-11-21T11:00:06.325885688Z", {}, True),
        ("2026-11-21T11:00:04.9Z", {}, True),
        ("2026-11-21T11:00:30Z", {}, False),  # stopped by somebody since
        ("2026-11-21T10:59:00Z", {}, False),  # and before
        ("2026-11-21T11:00:06Z", {"restart_policy": "no"}, False),
        ("2026-11-21T11:00:06Z", {"error": "could not select device driver"}, False),
        ("", {}, False),
        ("nonsense", {}, False),
    ],
)
def test_left_behind(ended: str, changes: dict[str, Any], is_fallen: bool) -> None:
    gone = container(HOST, "comfy", state="exited", health=None, exit_code=143, finished_at=ended, **changes)
    one = made(having(finished(), comfy=gone), service=RUNS)
    assert bool(docker_down.diagnose(one)) is is_fallen
    if is_fallen:
        section = docker_down.plan(one)
        assert section.starts == ("comfy", "ollama", "openwebui")
        assert [cause.finding.id for cause in diagnosis.diagnose(one).causes][:1] == ["docker-down.left-behind"]


def test_a_container_of_somebody_elses_is_not_ours_to_start() -> None:
    gone = container(HOST, "comfy", state="exited", finished_at="2026-11-21T11:00:06Z", labels={})
    assert docker_down.diagnose(made(having(finished(), comfy=gone), service=RUNS)) == []
