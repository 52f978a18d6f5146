"""What is on the host and is not ours: a stack that somebody started by hand, a port that another process holds.

Ours is a container with our label. Everything that looks like one of the three services, or uses our directories,
names or ports, without that label belongs to somebody: it is named, and nothing is touched.
"""

from __future__ import annotations

import re
import shlex

from pantheon import layout, stack
from pantheon.facts import Container, Entry, Facts, Image, Listener, Maybe, TextFile, Unknown
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.takeover import record

UP = ("running", "restarting", "paused")
DOWN = ("exited", "created", "dead")
# Repositories by which a hand-made container is known, whatever it is called.
REPOSITORIES = {
    "mmartial/comfyui-nvidia-docker": "comfy",
    "ollama/ollama": "ollama",
    "open-webui/open-webui": "openwebui",
}
# `ai-comfyui-1`, `open-webui`, `comfy`: names that Compose or a human gives.
_NAMES = re.compile(r"(?:.*[-_])?(comfy(?:ui)?|ollama|open-?webui)(?:[-_]\d+)?", re.IGNORECASE)


def named(facts: Facts, name: str) -> Container | None:
    """The container of that name. None also where containers are unknown: that is a finding of its own."""
    found = facts.container(name)
    return found if isinstance(found, Container) else None


def is_down(host: Host, found: Maybe[Container | None]) -> bool:
    """Whether a service of ours does not run: its container is not there, or is ours and stands still. Not where it is
    somebody else's, or not known."""
    if isinstance(found, Container):
        return is_ours(host, found) and found.state in DOWN
    return found is None


def is_ours(host: Host, container: Container) -> bool:
    return container.labels.get(stack.OURS) == host.project and container.project == host.project


def half_made(host: Host, facts: Facts) -> list[Container]:
    """Containers called `<12 hex>_NAME`, left by a `docker compose up` that was killed in the middle of a recreate."""
    containers = facts.containers if isinstance(facts.containers, tuple) else ()
    return [c for c in containers if is_ours(host, c) and re.fullmatch(r"[0-9a-f]{12}_.+", c.name)]


def renamed(host: Host, facts: Facts, name: str) -> Container | None:
    """Our container of that service when it was given another name by hand, and none has the right one."""
    if not isinstance(facts.containers, tuple) or facts.container(name) is not None:
        return None
    halves = half_made(host, facts)
    of_service = [c for c in facts.containers if is_ours(host, c) and c.labels.get("pantheon.service") == name]
    return next((c for c in of_service if c not in halves), None)


def repository(image: str) -> str:
    """`mirror.lan:5000/ollama/ollama:0.13@sha256:..` -> `ollama/ollama`: whichever registry it came from."""
    head, _, tail = image.split("@")[0].rpartition("/")
    registry, _, rest = head.partition("/")
    if registry == "localhost" or "." in registry or ":" in registry:
        head = rest
    return f"{head}/{tail.split(':')[0]}".removeprefix("/")


# What a container must have to be one of the services, besides a name: where its data lies, or the port inside.
_SIGNS = {
    "comfy": ("/comfy/mnt", ""),
    "ollama": ("/root/.ollama", "11434/tcp"),
    "openwebui": ("/app/backend/data", "8080/tcp"),
}


def service_of(host: Host, facts: Facts, container: Container) -> str:
    """Which of the services a container is, whoever made it and whatever it is called; "" for none. A name alone says
    little: by that it counts only with the data or the port of such a service. (Another ComfyUI image keeps its things
    elsewhere: one that runs counts where its mounts or its working directory show where.)"""
    known = REPOSITORIES | {repository(host.service(name).image): name for name in SERVICES}
    if name := known.get(repository(container.image), ""):
        return name
    for service in SERVICES:
        image = facts.images.get(host.service(service).image)
        if isinstance(image, Image) and image.id == container.image_id:
            return service
    called = (container.labels.get("com.docker.compose.service", ""), container.name)
    found = next((match for text in called if (match := _NAMES.fullmatch(text))), None)
    if found is None:  # built at home, and called anything: then both must be there
        inside, targets = {one.container_port for one in container.ports}, {mount.target for mount in container.mounts}
        return next((name for name, (data, port) in _SIGNS.items() if data in targets and port in {"", *inside}), "")
    service = re.sub(r"ui$", "", found[1].lower()) if "comfy" in found[1].lower() else found[1].lower().replace("-", "")
    data, port = _SIGNS[service]
    has = any(mount.target == data for mount in container.mounts)
    has = has or (service == "comfy" and container.state in UP and bool(comfyui_home(container)))
    return service if has or any(one.container_port == port for one in container.ports) else ""


def is_known(container: Container) -> bool:
    """Whether its image is one whose places are known here."""
    return repository(container.image) in REPOSITORIES


def comfyui_home(container: Container) -> str:
    """Where the image of another author has ComfyUI; "" for one like ours, and where that is not to be seen."""
    if is_known(container) or any(f"{mount.target}/".startswith("/comfy/mnt/") for mount in container.mounts):
        return ""
    told = container.env.get("COMFYUI_PATH")
    if told and told.value and told.value.startswith("/"):
        return told.value.rstrip("/")
    for path in (*(mount.target for mount in container.mounts), container.workdir):
        parts = path.split("/")
        at = next((at for at, part in enumerate(parts) if part.lower() == "comfyui"), 0)
        if at:
            return "/".join(parts[: at + 1])
    return ""


def kept(facts: Facts) -> set[str]:
    """Ids of containers that were taken over and are kept, stopped, for the way back: they judge nobody."""
    known = record.known(facts)
    return known.kept_ids() if known else set()


def stack_findings(host: Host, facts: Facts) -> list[Finding]:
    """A finding for each container and file of a stack that is not ours, and for a takeover that is half done. What was
    taken over, and is kept for the way back, is in nobody's way."""
    if unfinished := record.open_finding(host, facts):
        return [unfinished]
    before = kept(facts)
    if facts.containers is None or isinstance(facts.containers, Unknown):
        reason = facts.containers.reason if isinstance(facts.containers, Unknown) else "Docker is not there"
        return [Finding("stack.containers", "unknown", "containers: not known", reason)]
    findings = []
    for container in facts.containers:
        if container.id in before or is_ours(host, container):
            continue
        if why := _looks_like_ours(host, facts, container):
            findings.append(_container_finding(host, container, why, service_of(host, facts, container)))
    return findings + _files(host, facts) + _stack_dir(host, facts)


def _files(host: Host, facts: Facts) -> list[Finding]:
    """Compose files of somebody else's in our directory, and files of ours that could not be read as files."""
    findings = []
    file = facts.files.get(layout.compose_file(host))
    if isinstance(file, TextFile) and not (file.text or "").startswith(stack.HEADER):
        text = f"{file.path} was not written by pantheon, and is left alone"
        mend = "move it away, or give another stack_dir in hosts.toml"
        findings.append(Finding("stack.compose-file", "fail", text, mend=mend, source="procedure §5"))
    if file is None:
        for path in layout.other_compose_files(host):
            if isinstance(facts.paths.get(path), Entry):
                text = f"{path} is there: a stack of somebody else's, and it is left alone"
                mend = "move it away, or give another stack_dir in hosts.toml"
                findings.append(Finding(f"stack.compose-file.{path}", "fail", text, mend=mend, source="procedure §5"))
    for path, found in facts.files.items():
        if isinstance(found, Unknown):
            mend = host.ssh(shlex.join(["sudo", "ls", "-ld", path])) + "; move what is in the way"
            findings.append(Finding(f"stack.file.{path}", "unknown", f"{path}: not known", found.reason, mend))
    return findings


def _stack_dir(host: Host, facts: Facts) -> list[Finding]:
    """Nothing of ours is written through a link that somebody put there."""
    findings = []
    for path in (*layout.ancestors(host.stack_dir), layout.secrets(host), layout.userscripts(host)):
        entry = facts.paths.get(path)
        if isinstance(entry, Entry) and (entry.kind != "dir" or entry.real != entry.path):
            text = f"{path} is a {entry.kind}" + (f", really {entry.real}" if entry.real != path else "")
            findings.append(
                Finding("stack.dir", "fail", text, mend="it must be a directory of its own: hosts.toml, stack_dir")
            )
    return findings[:1]


def _looks_like_ours(host: Host, facts: Facts, container: Container) -> str:
    """Why a container that is not ours concerns us; "" when it does not."""
    roots = (f"{host.storage.nvme}/ai/", f"{host.storage.ssd}/ai/", f"{host.stack_dir}/")
    ours = {host.service(name).port: name for name in SERVICES}
    label = container.labels.get("com.docker.compose.service", "")
    known = REPOSITORIES | {repository(host.service(name).image): name for name in SERVICES}
    # `docker run sha256:...`: the image is known by what its name leads to here.
    by_id = re.fullmatch(r"(sha256:)?[0-9a-f]{12,64}", container.image)
    images = facts.images.items() if by_id else ()
    same = [name for name, image in images if isinstance(image, Image) and image.id == container.image_id]
    # Models and results are there for others, too.
    shared = (f"{layout.models(host)}/", f"{host.storage.ssd}/ai/outputs/")
    writable = [f"{m.source}/" for m in container.mounts if m.writable]
    mounted = [path[:-1] for path in writable if path.startswith(roots) and not path.startswith(shared)]
    ports = [port.port for port in container.ports if port.port in ours]
    # One that does not run and is none of the services holds nothing but its name.
    alive = container.state in UP or bool(service_of(host, facts, container))
    other = container.labels.get(stack.OURS)
    checks = (
        (other is not None, f"a stack of ours under the project name {other}"),
        (container.name in SERVICES, "it has the name of one of our services"),
        (repository(container.image) in known, f"it runs {container.image}"),
        (bool(same), f"it runs {same[0] if same else ''}"),
        (
            alive and bool(_NAMES.fullmatch(label) or _NAMES.fullmatch(container.name)),
            "its name is that of such a service",
        ),
        (alive and bool(ports), f"it publishes port {ports[0] if ports else ''}"),
        (alive and bool(mounted), f"it mounts {mounted[0] if mounted else ''}"),
        (container.project == host.project, f"it is in the Compose project {host.project}"),
        (
            alive and any(path.startswith(f"{host.stack_dir}/") for path in container.compose_files.split(",")),
            f"its Compose file lies in {host.stack_dir}",
        ),
    )
    return next((why for applies, why in checks if applies), "")


def _container_finding(host: Host, container: Container, why: str, service: str) -> Finding:
    by = f"Compose file {container.compose_files}" if container.compose_files else "started with docker run"
    text = f"container {container.name} was started by hand ({by}); nothing is touched"
    evidence = f"{why}; state {container.state}; image {container.image}; project {container.project or 'none'}"
    if stack.OURS in container.labels:
        text = f"container {container.name} is ours under the project name {container.labels[stack.OURS]}"
        mend = f"invoke bringup --host {host.name}   (moves it to {host.project})"
        return Finding(f"stack.foreign.{container.name}", "fail", text, evidence, mend, "procedure §5")
    name = shlex.quote(container.name)
    if service:
        mend = f"take it over, with its data: invoke bringup --adopt --host {host.name}"
    elif container.project == host.project:
        mend = 'give ours another name in hosts.toml (project = "..."): Compose would take it for an orphan'
    elif container.state in UP:
        evidence += "; its image is none whose data --adopt knows"
        mend = f"leave it, and let it make room: {host.ssh(f'docker stop {name}')}"
    else:
        mend = f"give it another name: {host.ssh(f'docker rename {name} {name}-old')}"
    return Finding(f"stack.foreign.{container.name}", "fail", text, evidence, mend, "procedure §5")


def port_finding(host: Host, facts: Facts, name: str) -> Finding | None:
    """A finding when somebody else holds the service's port on the host."""
    port = host.service(name).port
    if not isinstance(facts.listeners, tuple):
        return None
    for listener in facts.listeners:
        if listener.port != port or not _same_address(listener.address):
            continue
        holder = named(facts, listener.container) if listener.container else None
        if holder is not None and is_ours(host, holder):
            continue
        if not listener.container and _is_own_proxy(host, facts, name, listener.process):
            continue
        who, mend = (
            (f"container {holder.name}", host.ssh(shlex.join(["docker", "stop", holder.name])))
            if holder
            else _process(host, listener)
        )
        text = f"port {port} on {listener.address} is taken by {who}"
        evidence = "" if holder or not listener.process else "it is none of Docker's containers, and not taken over"
        mend += f"; or another port for {name} in hosts.toml ({name}.port)"
        return Finding(f"{name}.port", "fail", text, evidence, mend, "procedure §5")
    return None


# Programs that listen for containers of which Docker's engine knows nothing, and how these are listed.
_RUNTIMES = {
    "conmon": ("Podman", "podman ps"),
    "rootlessport": ("Podman", "podman ps"),
    "pasta": ("Podman", "podman ps"),
    "rootlesskit": ("rootless Docker", "docker --context rootless ps"),
}


def _process(host: Host, listener: Listener) -> tuple[str, str]:
    """Who listens there, in words, and what ends it."""
    name = next((name for name in _RUNTIMES if listener.process.startswith(name)), "")
    runtime, listed = _RUNTIMES.get(name, ("", ""))
    told = [listener.process] if runtime else []
    told += [f"pid {listener.pid}"] if listener.pid else []
    told += [f"user {listener.user}"] if listener.user else []
    who = (runtime or listener.process or "an unknown process") + (f" ({', '.join(told)})" if told else "")
    there = f"as user {listener.user} on {host.name}: " if listener.user else ""
    if listener.unit and listener.process not in ("docker-proxy", "dockerd"):
        argv = ["systemctl", "--user"] if there else ["sudo", "systemctl"]
        stop = shlex.join([*argv, "disable", "--now", listener.unit])
        return f"{who}, which is {listener.unit}", there + stop if there else host.ssh(stop)
    if listed:
        return who, f"stop what this shows: {there + listed if there else host.ssh('sudo ' + listed)}"
    look = host.ssh(f"sudo ss -ltnp 'sport = :{listener.port}'")
    return who, f"stop what this shows: {look}"


def _is_own_proxy(host: Host, facts: Facts, name: str, process: str) -> bool:
    """While a container restarts, what listens for it may be Docker's proxy of its last or next moment, or have gone
    between two readings."""
    own = named(facts, name)
    is_up = own is not None and is_ours(host, own) and own.state in ("running", "restarting")
    return is_up and process in ("", "docker-proxy", "dockerd")


def port_holder(host: Host, facts: Facts, name: str) -> Container | None:
    """Our container of another service that publishes the port which hosts.toml now gives to this one."""
    port = host.service(name).port
    for container in facts.containers if isinstance(facts.containers, tuple) else ():
        other = container.labels.get("pantheon.service")
        is_up = container.state in UP
        if is_ours(host, container) and other != name and is_up and any(p.port == port for p in container.ports):
            return container
    return None


def _same_address(address: str) -> bool:
    """Whether a listener there keeps us from binding 127.0.0.1."""
    return address in ("127.0.0.1", "0.0.0.0", "::", "*", "::ffff:127.0.0.1", "")  # noqa: S104
