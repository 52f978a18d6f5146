"""Something of the stack, or Docker's own API, listens beyond the host's loopback (procedure §5). Docker's rules for
published ports come before ufw's, so that `ufw status` shows nothing of them."""

from __future__ import annotations

import json
import re
import shlex

from pantheon import foreign, service
from pantheon.evidence import Dockerd
from pantheon.facts import Container, Docker, Facts, Listener
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import Change, Mend, Run, SectionPlan

ID = "exposed-ports"
CAUSE = (
    "A port was published on all addresses, a container shares the host's network, or dockerd was told to listen on "
    "TCP. A firewall such as ufw does not help: Docker's own rules come before it."
)
RISK = (
    "A container of ours is made anew and stops for a moment. Where Docker's API is taken off the network, Docker is "
    "restarted: every container on the host stops for some seconds. Data, and containers of others, stay as they are."
)
SOURCE = "procedure §5"
DAEMON_JSON = "/etc/docker/daemon.json"
API_PORTS = ("2375", "2376")
SOCKET_DIRS = ("/run", "/var/run")  # mounted as a whole, they hold Docker's socket as well
UFW = "`ufw status` does not show it: Docker's rules come before ufw's"
OLD_ENGINE = "this engine is older than 28: neighbours on the same segment reach ports on 127.0.0.1 too"


def diagnose(case: Case) -> list[Finding]:
    """One finding for each container, process or API that is reachable from elsewhere."""
    return [*_containers(case), *_processes(case), *_api(case), *_api_by_others(case)]


def plan(case: Case) -> SectionPlan:
    """Our containers as hosts.toml has them; the API's address out of daemon.json. What others have made is named, and
    blocks."""
    findings = diagnose(case)
    if not findings:
        return SectionPlan(ID, reason="nothing of the stack, nor Docker's API, listens beyond loopback")
    ours, blocked = [], []
    for container in _exposed(case):
        name = container.labels.get("pantheon.service", "")
        if foreign.is_ours(case.host, container) and name in SERVICES:
            ours.append(name)
        else:
            blocked.append(_by_its_owner(case, container))
    blocked += [_stop_it(case, finding) for finding in (*_processes(case), *_api_by_others(case))]
    section = service.as_in_hosts_toml(case.host, case.facts, *ours) if ours else None
    if section is not None and not section.changes:
        blocked += section.blocked or [finding for finding in findings if finding.id.split(".")[1] in ours]
    restart, by_hand = _close_api(case)
    blocked += by_hand
    if blocked:
        return SectionPlan(ID, blocked=tuple(dict.fromkeys(blocked)))
    changes = (*(section.changes if section else ()), *restart)
    return SectionPlan(ID, changes, starts=tuple(dict.fromkeys((*ours, *(_running(case) if restart else ())))))


# ---- containers


def beyond(address: str) -> bool:
    """Whether who listens there can be reached from another machine; "" is every address."""
    return not (address.startswith(("127.", "::ffff:127.")) or address == "::1")


def _exposed(case: Case) -> list[Container]:
    """Containers of the stack, ours and hand-made ones, and any that passes Docker's API on, open to the network."""
    containers = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    return [c for c in containers if (_concerns_us(case, c) or _passes_api_on(c)) and _open(case.facts, c)]


def _concerns_us(case: Case, container: Container) -> bool:
    ports = {case.host.service(name).port for name in SERVICES}
    known = foreign.repository(container.image) in foreign.REPOSITORIES
    ours = container.name in SERVICES or foreign.is_ours(case.host, container) or known
    return ours or any(port.port in ports for port in container.ports)


def _passes_api_on(container: Container) -> bool:
    socket = any(m.source.endswith("/docker.sock") or m.source in SOCKET_DIRS for m in container.mounts)
    return socket and any(port.container_port.partition("/")[0] in API_PORTS for port in container.ports)


def _open(facts: Facts, container: Container) -> list[str]:
    """Addresses on which it can be reached from elsewhere, as `ADDRESS:PORT`."""
    if container.state not in ("running", "restarting", "paused"):
        return []
    found = [_place(port.address or "0.0.0.0", port.port) for port in container.ports if beyond(port.address)]  # noqa: S104
    listeners = facts.listeners if isinstance(facts.listeners, tuple) else ()
    found += [_place(x.address, x.port) for x in listeners if x.container == container.name and beyond(x.address)]
    return list(dict.fromkeys(found))


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _containers(case: Case) -> list[Finding]:
    return [_container(case, container) for container in _exposed(case)]


def _container(case: Case, container: Container) -> Finding:
    places = ", ".join(_open(case.facts, container))
    text = f"{container.name} is reachable from the network, on {places}"
    if _passes_api_on(container):
        text += ": it passes Docker's API on, which is root on this host for everyone"
    host_network = container.networks == ("host",)  # ufw sees that one
    evidence = _published_by(container) + ("" if host_network else f"\n{UFW}")
    if _lets_neighbours_in(case.facts):
        evidence += f"\n{OLD_ENGINE}"
    down = [name for name in _ports_taken(case, container) if not _is_up(case, name)]
    explains = ("stack.loopback", *(f"{name}.*" for name in down), *_not_on_loopback(case, container))
    return Finding(f"{ID}.{container.name}", "fail", text, evidence, command(case, ID), SOURCE, explains)


def _not_on_loopback(case: Case, container: Container) -> tuple[str, ...]:
    """What follows for a service of ours that is published elsewhere only: on the host's loopback nobody answers."""
    name = container.labels.get("pantheon.service", "")
    if not foreign.is_ours(case.host, container) or name not in SERVICES or container.networks == ("host",):
        return ()
    loopback = ("", "0.0.0.0", "127.0.0.1")  # noqa: S104
    if any(port.address in loopback and port.port == case.host.service(name).port for port in container.ports):
        return ()
    return (f"{name}.http", f"{name}.http-here", f"browser-access.{name}.silent")


def _ports_taken(case: Case, container: Container) -> dict[str, int]:
    """Services of ours, with a container of their own, whose port on the host this other container has."""
    ours = {case.host.service(name).port: name for name in SERVICES}
    listeners = case.facts.listeners if isinstance(case.facts.listeners, tuple) else ()
    held = [port.port for port in container.ports] + [x.port for x in listeners if x.container == container.name]
    found = {ours[port]: port for port in held if port in ours}
    made = {name: foreign.named(case.facts, name) for name in found}
    return {
        name: port
        for name, port in found.items()
        if (c := made[name]) is not None and c.name != container.name and foreign.is_ours(case.host, c)
    }


def _is_up(case: Case, name: str) -> bool:
    container = foreign.named(case.facts, name)
    return container is not None and container.state == "running"


def _lets_neighbours_in(facts: Facts) -> bool:
    """Said where something is open anyway; on its own it is no fault of a container, and only the page tells of it."""
    version = facts.docker.engine if isinstance(facts.docker, Docker) else None
    major = version.partition(".")[0] if isinstance(version, str) else ""
    return major.isdigit() and int(major) < 28


def _published_by(container: Container) -> str:
    how = "network_mode: host" if container.networks == ("host",) else "published"
    if container.compose_files:
        return f"{how} by {container.compose_files}"
    return f"{how} by docker run" if how == "published" else f"{how}, by docker run"


def _by_its_owner(case: Case, container: Container) -> Finding:
    """A container of somebody else's: what he would change. It is never touched."""
    host = case.host
    text = f"{container.name} was started by hand, and is left alone"
    taken = _ports_taken(case, container)
    inside = [(p.port, p.container_port.partition("/")[0]) for p in container.ports if beyond(p.address)]
    ports = [f"127.0.0.1:{'PORT' if port in taken.values() else port}:{within}" for port, within in inside]
    if container.compose_files:
        instead = ", ".join(f'"{port}"' for port in ports) or "ports on 127.0.0.1 in place of network_mode: host"
        mend = f"in {container.compose_files} on {host.name}: ports: [{instead}]; then docker compose up -d there"
    else:
        instead = " ".join(f"-p {port}" for port in ports) or "-p 127.0.0.1:PORT:PORT in place of --network host"
        mend = f"start it again with {instead}; what it runs with: {host.ssh(f'docker inspect {container.name}')}"
    if taken:
        mend += "; with another PORT than " + ", ".join(f"{port}, which is {name}'s" for name, port in taken.items())
    return Finding(f"{ID}.{container.name}", "fail", text, _published_by(container), mend, SOURCE)


# ---- processes that hold a service's port, on all addresses


def _processes(case: Case) -> list[Finding]:
    facts, host = case.facts, case.host
    ours = {host.service(name).port: name for name in SERVICES}
    named = {container.name for container in _exposed(case)}
    found: dict[str, Listener] = {}
    for one in facts.listeners if isinstance(facts.listeners, tuple) else ():
        docker = one.process in ("docker-proxy", "dockerd", "")
        if one.port in ours and beyond(one.address) and one.container not in named and not (docker and named):
            found.setdefault(f"port-{one.port}", one)
    return [_process(case, key, one, ours[one.port]) for key, one in found.items()]


def _process(case: Case, key: str, one: Listener, name: str) -> Finding:
    who = one.container or one.process or "a process"
    pid = f" (pid {one.pid})" if one.pid else ""
    text = f"{name}'s port {one.port} is open to the network: {who}{pid} listens on {_place(one.address, one.port)}"
    evidence = f"sudo ss -ltnp 'sport = :{one.port}' shows it"
    container = foreign.named(case.facts, name)
    keeps_it_down = container is None or not _is_up(case, name)
    explains = ("stack.loopback", f"{name}.*") if keeps_it_down else ("stack.loopback",)
    return Finding(f"{ID}.{key}", "fail", text, evidence, command(case, ID), SOURCE, explains)


def _stop_it(case: Case, finding: Finding) -> Finding:
    port = finding.id.rpartition("-")[2]
    look = f"sudo ss -ltnp 'sport = :{port}'"
    mend = f"stop what {case.host.ssh(look)} shows, or have it listen on 127.0.0.1"
    listeners = case.facts.listeners if isinstance(case.facts.listeners, tuple) else ()
    if any(str(one.port) == port and one.process == "systemd" for one in listeners):
        units = case.host.ssh(f"systemctl list-sockets --all --full | grep {port}")
        mend = f"systemd listens there for a unit: {units} shows its socket; then sudo systemctl disable --now SOCKET"
    return Finding(finding.id, "fail", "that is no container of ours, and is left alone", "", mend, SOURCE)


# ---- Docker's own API


def _api_by_others(case: Case) -> list[Finding]:
    """A process that is not dockerd on one of the API's ports: a relay to its socket, such as socat."""
    listeners = case.facts.listeners if isinstance(case.facts.listeners, tuple) else ()
    known = {container.name for container in _exposed(case)}
    told = bool(_tcp(case))  # then systemd holds the port for dockerd
    found: dict[str, Finding] = {}
    for one in listeners:
        own = one.process in ("", "dockerd", "docker-proxy") or (told and one.process == "systemd")
        if str(one.port) not in API_PORTS or not beyond(one.address) or own or one.container in known:
            continue
        pid = f" (pid {one.pid})" if one.pid else ""
        where = f" in container {one.container}" if one.container else ""
        text = f"{one.process}{pid}{where} listens on {_place(one.address, one.port)}, Docker's API's own port: "
        text += "if it passes the API on, whoever reaches it is root on this host"
        evidence = f"sudo ss -ltnp 'sport = :{one.port}' shows it"
        key = f"{ID}.port-{one.port}"
        found.setdefault(key, Finding(key, "fail", text, evidence, command(case, ID), SOURCE, ()))
    return list(found.values())


def _tcp(case: Case) -> list[tuple[str, str]]:
    """Where Docker's API is told to listen, or does, beyond loopback: address and place."""
    docker = case.facts.docker
    found = []
    for entry in docker.tcp if isinstance(docker, Docker) else ():
        address, _, place = entry.partition(" (")
        if beyond(_host_of(address)):
            found.append((address, place.rstrip(")")))
    return found


def _host_of(address: str) -> str:
    """`tcp://[::1]:2375` -> `::1`; `2375` and `:2375` are every address."""
    bare = address.partition("://")[2] or address
    inside = re.match(r"\[([^]]*)\]", bare)
    if inside:
        return inside[1]
    name = bare.rpartition(":")[0]
    return "127.0.0.1" if name == "localhost" else name


def _api(case: Case) -> list[Finding]:
    tcp = _tcp(case)
    if not tcp:
        return []
    listening = any(place.startswith("dockerd listens") for _, place in tcp)
    addresses = ", ".join(dict.fromkeys(_normal(address) for address, _ in tcp))
    verb = "listens" if listening else "is told to listen, from its next start on,"
    if _asks_for_certificate(case):
        text = f"Docker's API {verb} on {addresses}: whoever has a client certificate is root on this host"
    else:
        text = f"Docker's API {verb} on {addresses}, without any login: whoever reaches it is root on this host"
    places = [place for _, place in tcp if not place.startswith("dockerd listens")]
    dockerd = case.evidence.dockerd
    lines = list(dockerd.lines) if isinstance(dockerd, Dockerd) else []
    json_too = [f'{DAEMON_JSON}: "hosts"'] if DAEMON_JSON in places else []
    told = [*json_too, *lines] or places or [_told_by_nobody(dockerd)]
    evidence = "\n".join(dict.fromkeys(told))
    return [Finding(f"{ID}.docker-api", "fail", text, evidence, command(case, ID), SOURCE, ())]


def _told_by_nobody(dockerd: object) -> str:
    if isinstance(dockerd, Dockerd) and not _has_tcp_flag(dockerd.argv):
        return "nothing tells it to any more: it was not restarted since"
    return "where it is told to is not known"


def _normal(address: str) -> str:
    """`tcp://[::]:2375`, as dockerd shows 0.0.0.0 on a host with IPv6, and `2375` of a socket are one."""
    bare = address.partition("://")[2] or address
    name = _host_of(address)
    return f"tcp://{_place('0.0.0.0' if name in ('', '::') else name, 0)[:-1]}{bare.rpartition(':')[2]}"  # noqa: S104


def _asks_for_certificate(case: Case) -> bool:
    dockerd, docker = case.evidence.dockerd, case.facts.docker
    argv = dockerd.argv if isinstance(dockerd, Dockerd) else ()
    given = _daemon_json(docker) if isinstance(docker, Docker) else None
    flag = any(word in ("--tlsverify", "--tlsverify=true", "--tlsverify=1") for word in argv)
    return flag or (given or {}).get("tlsverify") is True


def _daemon_json(docker: Docker) -> dict[str, object] | None:
    """daemon.json as an object; None when it is not one in plain JSON."""
    try:
        found = json.loads(docker.daemon_json) if isinstance(docker.daemon_json, str) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _close_api(case: Case) -> tuple[tuple[Change, ...], list[Finding]]:
    """The change that takes the API off the network, or what a human must do for it."""
    tcp = _tcp(case)
    if not tcp:
        return (), []
    assert isinstance(case.facts.docker, Docker)
    elsewhere = [place for _, place in tcp if place != DAEMON_JSON and not place.startswith("dockerd listens")]
    if elsewhere:
        return (), [_unit_by_hand(case, elsewhere)]
    remove = [address for address, place in tcp if place == DAEMON_JSON]
    if remove and _daemon_json(case.facts.docker) is None:
        mend = case.host.ssh(f"sudoedit {DAEMON_JSON}")
        return (), [Finding(f"{ID}.docker-api", "fail", f"{DAEMON_JSON} is not plain JSON", "", mend, SOURCE)]
    dockerd = case.evidence.dockerd
    flags = dockerd.argv if isinstance(dockerd, Dockerd) else ()
    if not remove and (not flags or _has_tcp_flag(flags)):
        # Neither daemon.json nor the unit: a variable of the unit, or another way of starting it.
        look = (
            "systemctl cat docker.service docker.socket; systemctl show docker -p Environment; cat /etc/default/docker"
        )
        text = "what tells dockerd to listen is neither in daemon.json nor in its unit"
        mend = f"find it: {case.host.ssh(look)}"
        return (), [Finding(f"{ID}.docker-api", "fail", text, " ".join(flags), mend, SOURCE)]
    return (_restart(case, remove),), []


def _has_tcp_flag(argv: tuple[str, ...]) -> bool:
    return any(re.match(r"(-H=?|--host=)?(tcp://|http://|:\d)", word) for word in argv)


def _unit_by_hand(case: Case, places: list[str]) -> Finding:
    dockerd = case.evidence.dockerd
    lines = dockerd.lines if isinstance(dockerd, Dockerd) else ()
    where = "; ".join(lines) or ", ".join(dict.fromkeys(places))
    paths = dict.fromkeys(line.split(":")[0] for line in lines) or dict.fromkeys(places)
    units = "docker.socket docker.service" if any("docker.socket" in path for path in paths) else "docker.service"
    restart = f"sudo systemctl daemon-reload && sudo systemctl restart {units}"
    mend = case.host.ssh(f"{shlex.join(['sudoedit', *paths])} && {restart}")
    text = "a systemd unit tells dockerd so, and is left alone: take the address out of the line shown"
    return Finding(f"{ID}.docker-api", "fail", text, where, mend, SOURCE)


def _running(case: Case) -> list[str]:
    containers = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    up = [c.name for c in containers if c.state == "running" and foreign.is_ours(case.host, c)]
    return [name for name in SERVICES if name in up]


def _restart(case: Case, remove: list[str]) -> Change:
    containers = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    stops = tuple(_running(case))
    others = [c.name for c in containers if c.state == "running" and c.name not in stops]
    besides = f"; {', '.join(others)} stop with it" if others else ""
    restart = Run(("systemctl", "restart", "docker.service"), timeout_s=180)
    if not remove:
        what = f"restart Docker: nothing tells it to listen on TCP any more{besides}"
        return Change(what, "its configuration was changed after its start", (restart,), stops=stops)
    says = f"take {', '.join(remove)} out of {DAEMON_JSON}, keep the rest, check it with dockerd --validate"
    mend = Mend("docker_hosts", {"path": DAEMON_JSON, "remove": remove}, says)
    what = f"take Docker's API off the network ({', '.join(remove)}) and restart Docker{besides}"
    return Change(what, f"{SOURCE}: root on this host for everyone who can reach it", (mend, restart), stops=stops)
