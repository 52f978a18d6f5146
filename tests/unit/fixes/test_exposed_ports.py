"""What is open to the network, who made it so, and what may be changed about it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis, stack
from pantheon.evidence import Dockerd
from pantheon.facts import Container, ContainerMount, Docker, Facts, Listener, Port, Unknown
from pantheon.fixes import exposed_ports
from pantheon.incident import Case
from pantheon.plan import Mend, Run
from tests.unit.world import HOST, case, container, finished, fresh, having

JSON_TCP = "tcp://0.0.0.0:2375 (/etc/docker/daemon.json)"
LISTENS = "tcp://[::]:2375 (dockerd listens there)"
DROP_IN = "/etc/systemd/system/docker.service.d/tcp.conf"
UNIT_TCP = f"tcp://0.0.0.0:2375 ({DROP_IN})"
QUIET = Dockerd(("/usr/bin/dockerd", "-H", "fd://"))


def published(address: str = "0.0.0.0", name: str = "comfy") -> Facts:
    port = HOST.service(name).port
    inside = stack.wanted(HOST, name).container_port
    return having(finished(), **{name: container(HOST, name, ports=(Port(f"{inside}/tcp", address, port),))})


def theirs_called(name: str, **changes: Any) -> Container:
    """A container that somebody else has started."""
    return replace(container(HOST, "ollama", labels={}, mounts=(), ports=()), name=name, **changes)


def with_api(*tcp: str, config: Any = None, facts: Facts | None = None) -> Facts:
    facts = facts or finished()
    assert isinstance(facts.docker, Docker)
    text = config if isinstance(config, str) else json.dumps(config or {})
    return replace(facts, docker=replace(facts.docker, tcp=tcp, daemon_json=text))


def ids(made: Case) -> list[str]:
    return [finding.id for finding in exposed_ports.diagnose(made)]


@pytest.mark.parametrize("facts", [fresh(), finished()], ids=["fresh", "finished"])
def test_a_good_host_gives_nothing(facts: Facts) -> None:
    made = case(facts, dockerd=QUIET)
    assert ids(made) == []
    assert exposed_ports.plan(made).is_ready


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::", "10.0.99.10", "fd00::1"])
def test_a_port_of_ours_on_another_address(address: str) -> None:
    made = case(published(address))
    (finding,) = exposed_ports.diagnose(made)
    assert finding.id == "exposed-ports.comfy"
    assert "compose.yaml" in finding.evidence
    assert "ufw" in finding.evidence
    section = exposed_ports.plan(made)
    assert [change.stops for change in section.changes if change.stops] == [("comfy",)]
    assert section.starts == ("comfy",)
    found = diagnosis.diagnose(made)
    assert [cause.entry for cause in found.causes] == ["exposed-ports"]
    assert [finding.id for finding in found.causes[0].consequences] == ["stack.loopback"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "::1"])
def test_loopback_is_where_it_belongs(address: str) -> None:
    assert ids(case(published(address))) == []


def test_one_that_is_stopped_listens_nowhere() -> None:
    comfy = container(HOST, "comfy", state="exited", ports=(Port("8188/tcp", "0.0.0.0", 8188),))
    assert ids(case(having(finished(), comfy=comfy))) == []


def test_the_hosts_own_network() -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", ports=(), networks=("host",)))
    assert isinstance(facts.listeners, tuple)
    facts = replace(facts, listeners=(*facts.listeners, Listener("0.0.0.0", 8188, 4, "python3", "comfy")))
    (finding,) = exposed_ports.diagnose(case(facts))
    assert "network_mode: host" in finding.evidence
    assert "ufw" not in finding.evidence  # which does see this one
    assert exposed_ports.plan(case(facts)).changes


def test_all_of_ours_at_once_are_made_in_their_order() -> None:
    facts = finished()
    for name in ("openwebui", "ollama"):
        port = Port(f"{stack.wanted(HOST, name).container_port}/tcp", "", HOST.service(name).port)
        facts = having(facts, **{name: container(HOST, name, ports=(port,))})
    section = exposed_ports.plan(case(facts))
    assert [change.stops for change in section.changes] == [("ollama",), ("openwebui",)]


def test_a_hand_made_one_is_named_and_left_alone() -> None:
    theirs = container(HOST, "ollama", labels={}, ports=(Port("11434/tcp", "0.0.0.0", 11434),))
    made = case(having(finished(), ollama=theirs))
    section = exposed_ports.plan(made)
    assert not section.changes
    assert "-p 127.0.0.1:11434:11434" in section.blocked[0].mend


def test_one_of_theirs_beside_one_of_ours_blocks_both() -> None:
    theirs = theirs_called("web", image="ollama/ollama", ports=(Port("11434/tcp", "0.0.0.0", 9999),))
    section = exposed_ports.plan(case(having(published(), web=theirs)))
    assert not section.changes
    assert any(finding.id == "exposed-ports.web" for finding in section.blocked)


def test_a_container_of_somebody_elses_is_his_own_affair() -> None:
    theirs = theirs_called("blog", image="nginx", ports=(Port("80/tcp", "0.0.0.0", 80),))
    assert ids(case(having(finished(), blog=theirs))) == []


def test_a_container_that_passes_the_api_on() -> None:
    socket = (ContainerMount("bind", "/var/run/docker.sock", "/var/run/docker.sock", True, ""),)
    proxy = theirs_called("proxy", image="tecnativa/x", mounts=socket, ports=(Port("2375/tcp", "0.0.0.0", 9000),))
    (finding,) = exposed_ports.diagnose(case(having(finished(), proxy=proxy)))
    assert "root on this host" in finding.text


def test_a_process_on_a_port_of_ours() -> None:
    facts = finished()
    assert isinstance(facts.listeners, tuple)
    other = Listener("0.0.0.0", 3000, 77, "socat", "")
    made = case(replace(facts, listeners=(*facts.listeners, other)))
    (finding,) = exposed_ports.diagnose(made)
    assert "socat (pid 77) listens on 0.0.0.0:3000" in finding.text
    section = exposed_ports.plan(made)
    assert not section.changes
    assert "ss -ltnp" in section.blocked[0].mend


def test_what_is_not_known_is_left_to_the_checklist() -> None:
    facts = replace(finished(), containers=Unknown("no answer"), listeners=Unknown("no answer"), docker=Unknown("-"))
    assert ids(case(facts)) == []


# ---- Docker's own API


def test_the_api_in_daemon_json_is_taken_out_of_it() -> None:
    config = {"hosts": ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2375"], "runtimes": {}}
    made = case(with_api(JSON_TCP, LISTENS, config=config), dockerd=QUIET)
    (finding,) = exposed_ports.diagnose(made)
    assert finding.id == "exposed-ports.docker-api"
    assert "without any login" in finding.text
    assert finding.text.count("2375") == 1
    (change,) = exposed_ports.plan(made).changes
    mend, restart = change.steps
    assert isinstance(mend, Mend)
    assert mend.arguments == {"path": "/etc/docker/daemon.json", "remove": ["tcp://0.0.0.0:2375"]}
    assert isinstance(restart, Run)
    assert restart.argv == ("systemctl", "restart", "docker.service")
    assert change.stops == ("comfy", "ollama", "openwebui")


def test_containers_of_others_that_stop_with_docker_are_said() -> None:
    blog = theirs_called("blog", image="nginx")
    facts = with_api(JSON_TCP, config={"hosts": ["tcp://0.0.0.0:2375"]}, facts=having(finished(), blog=blog))
    (change,) = exposed_ports.plan(case(facts, dockerd=QUIET)).changes
    assert "blog stop with it" in change.what


def test_a_fix_that_was_cut_short_restarts_docker() -> None:
    made = case(with_api(LISTENS), dockerd=QUIET)
    assert "not restarted since" in exposed_ports.diagnose(made)[0].evidence
    (change,) = exposed_ports.plan(made).changes
    assert [step.show() for step in change.steps] == ["systemctl restart docker.service"]


@pytest.mark.parametrize("dockerd", [Dockerd(("dockerd", "-H", "tcp://0.0.0.0:2375")), Unknown("no answer"), None])
def test_what_nobody_knows_the_origin_of_is_a_humans(dockerd: Any) -> None:
    section = exposed_ports.plan(case(with_api(LISTENS), dockerd=dockerd))
    assert not section.changes
    assert "/etc/default/docker" in section.blocked[0].mend


def test_a_units_drop_in_is_named_by_file_and_line() -> None:
    line = f"{DROP_IN}:4: -H tcp://0.0.0.0:2375"
    made = case(with_api(UNIT_TCP, LISTENS), dockerd=Dockerd(("dockerd", "-H", "tcp://0.0.0.0:2375"), (line,)))
    section = exposed_ports.plan(made)
    assert not section.changes
    assert section.blocked[0].evidence == line
    assert f"sudoedit {DROP_IN}" in section.blocked[0].mend
    assert line in exposed_ports.diagnose(made)[0].evidence


@pytest.mark.parametrize("config", ["{hosts", "[]", '"tcp"'])
def test_a_daemon_json_that_is_odd_is_not_edited(config: str) -> None:
    section = exposed_ports.plan(case(with_api(JSON_TCP, config=config), dockerd=QUIET))
    assert not section.changes
    assert section.blocked


@pytest.mark.parametrize(
    ("config", "argv"), [({"tlsverify": True}, ()), ({}, ("dockerd", "--tlsverify", "-H", "tcp://0.0.0.0:2376"))]
)
def test_a_certificate_that_is_asked_for_is_said(config: Any, argv: tuple[str, ...]) -> None:
    made = case(with_api(UNIT_TCP, config=config), dockerd=Dockerd(argv))
    assert "client certificate" in exposed_ports.diagnose(made)[0].text


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("tcp://0.0.0.0:2375", True),
        ("tcp://:2375", True),
        (":2375", True),
        ("2375", True),
        ("tcp://10.0.99.10:2376", True),
        ("tcp://[::]:2375", True),
        ("tcp://[fd00::1]:2375", True),
        ("http://host.lan:2375", True),
        ("tcp://127.0.0.1:2375", False),
        ("127.0.0.1:2375", False),
        ("tcp://localhost:2375", False),
        ("tcp://[::1]:2375", False),
    ],
)
def test_addresses_of_the_api(address: str, is_open: bool) -> None:
    made = case(with_api(f"{address} (/lib/systemd/system/docker.socket)"), dockerd=QUIET)
    assert bool(ids(made)) == is_open


def test_two_faults_at_once_are_mended_together() -> None:
    config = {"hosts": ["fd://", "tcp://0.0.0.0:2375"]}
    made = case(with_api(JSON_TCP, LISTENS, config=config, facts=published()), dockerd=QUIET)
    assert ids(made) == ["exposed-ports.comfy", "exposed-ports.docker-api"]
    section = exposed_ports.plan(made)
    assert len(section.changes) == 2
    assert section.starts == ("comfy", "ollama", "openwebui")


@pytest.mark.parametrize(("engine", "is_told"), [("27.5.1", True), ("28.0.0", False), ("29.1.3", False), (None, False)])
def test_an_old_engine_is_told_of_where_something_is_open(engine: str | None, is_told: bool) -> None:
    facts = published()
    assert isinstance(facts.docker, Docker)
    facts = replace(facts, docker=replace(facts.docker, engine=engine))
    assert ("neighbours" in exposed_ports.diagnose(case(facts))[0].evidence) == is_told
    assert ids(case(replace(finished(), docker=facts.docker))) == []


@pytest.mark.parametrize(("address", "follows"), [("::", True), ("10.0.99.10", True), ("0.0.0.0", False), ("", False)])
def test_one_that_left_the_loopback_is_one_cause(address: str, follows: bool) -> None:
    finding = exposed_ports.diagnose(case(published(address)))[0]
    assert ("browser-access.comfy.silent" in finding.explains) == follows


# ---- what others have beside us


def beside(address: str = "0.0.0.0", port: int = 8188, inside: str = "8080/tcp", *, up: bool = True) -> Facts:
    """Somebody's container on a port; ours of that service runs, or was stopped."""
    theirs = theirs_called("stranger", ports=(Port(inside, address, port),))
    state = {} if up else {"state": "exited", "exit_code": 143, "health": None, "gpu_seen": None}
    return having(finished(), stranger=theirs, comfy=container(HOST, "comfy", **state))


def test_somebody_elses_container_on_our_port_must_take_another_one() -> None:
    made = case(beside("::", up=True))
    mend = exposed_ports.plan(made).blocked[0].mend
    assert "-p 127.0.0.1:PORT:8080" in mend
    assert "another PORT than 8188, which is comfy's" in mend
    assert "comfy.*" not in exposed_ports.diagnose(made)[0].explains


def test_the_same_where_a_stack_of_ours_is_not_there() -> None:
    theirs = theirs_called("comfy", ports=(Port("8188/tcp", "0.0.0.0", 8188),))
    facts = replace(finished(), containers=(theirs,))
    assert "-p 127.0.0.1:8188:8188" in exposed_ports.plan(case(facts)).blocked[0].mend


def test_a_stopped_service_whose_port_somebody_has_is_one_cause() -> None:
    found = diagnosis.diagnose(case(beside(up=False)))
    assert [cause.finding.id for cause in found.causes] == ["exposed-ports.stranger"]
    assert "comfy.up" in {finding.id for finding in found.causes[0].consequences}


@pytest.mark.parametrize(("source", "is_api"), [("/run/docker.sock", True), ("/var/run", True), ("/var/runner", False)])
def test_a_container_with_the_socket_on_the_apis_port(source: str, is_api: bool) -> None:
    mount = ContainerMount("bind", source, "/x", True, "")
    facts = having(finished(), relay=theirs_called("relay", mounts=(mount,), ports=(Port("2375/tcp", "", 2375),)))
    assert ("passes Docker's API on" in "".join(f.text for f in exposed_ports.diagnose(case(facts)))) == is_api


@pytest.mark.parametrize(
    ("process", "address", "port", "fires"),
    [
        ("socat", "0.0.0.0", 2375, True),
        ("systemd-socket-", "::", 2376, True),
        ("socat", "127.0.0.1", 2375, False),
        ("socat", "0.0.0.0", 23750, False),
        ("dockerd", "0.0.0.0", 2375, False),
    ],
)
def test_a_relay_to_dockers_socket(process: str, address: str, port: int, fires: bool) -> None:
    facts = finished()
    assert isinstance(facts.listeners, tuple)
    one = replace(facts.listeners[0], address=address, port=port, process=process, pid=77, container="")
    made = case(replace(facts, listeners=(*facts.listeners, one)))
    assert ids(made) == ([f"exposed-ports.port-{port}"] if fires else [])
    if fires:
        assert f"sport = :{port}" in exposed_ports.plan(made).blocked[0].mend
