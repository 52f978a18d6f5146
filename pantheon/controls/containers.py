"""How containers are run: what engineers check of any Docker host. All containers are judged, ours and everybody's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from pantheon import foreign, stack
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import remade
from pantheon.facts import Container, Docker, Image, Unknown
from pantheon.grammar import memory_bytes
from pantheon.incident import Case
from pantheon.inventory import SERVICES

SOURCE = "practice"
# Tags under which a registry has another image tomorrow. `X-latest` is as good as `latest`.
MOVING = re.compile(r"(?:.*[-_.])?(?:latest|main|master|edge|nightly|dev|develop|stable|rolling|unstable)")
ROTATED = ("none", "local", "journald", "syslog", "gelf", "fluentd", "awslogs", "splunk", "gcplogs", "etwlogs")
MOST_LOG = 20 << 30  # bytes; a bound above this is none
GOOD_POLICIES = ("always", "unless-stopped")
SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
# Capabilities that are as good as root on the host, and those that Docker gives to every container.
USUAL = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}


def each(case: Case, says: Callable[[Container], str], good: str) -> Verdict:
    """A verdict on all containers: `says` gives what is wrong with one, "" for nothing."""
    found = case.facts.containers
    if isinstance(found, Unknown):
        return Verdict("unknown", found.reason, _diagnose(case))
    if not found:
        return Verdict("not applicable", "there are no containers")
    wrong = [(c, text) for c in sorted(found, key=_place) if not c.unread and (text := says(c))]
    if wrong:
        return Verdict("fail", "\n".join(f"{c.name}: {text}" for c, text in wrong), remade(case, (c for c, _ in wrong)))
    unread = [f"{c.name}: {c.unread}" for c in found if c.unread]
    return Verdict("unknown", "\n".join(unread), _diagnose(case)) if unread else Verdict("pass", good)


def _place(container: Container) -> tuple[int, str]:
    known = SERVICES.index(container.name) if container.name in SERVICES else len(SERVICES)
    return known, container.name


def _diagnose(case: Case) -> str:
    return f"invoke diagnose --host {case.host.name}"


def is_pinned(reference: str) -> bool:
    """Whether that image is the same tomorrow: it has a digest, or a tag that says a version."""
    if "@sha256:" in reference or re.fullmatch(r"sha256:[0-9a-f]{64}|[0-9a-f]{64}", reference):
        return True
    tag = reference.rpartition("/")[2].partition(":")[2]
    return bool(tag) and not MOVING.fullmatch(tag)


def image_pinned(case: Case) -> Verdict:
    """What hosts.toml asks for first: a container is made from it again. Those of others by what they run."""
    wrong, hints = [], []
    for name in SERVICES:
        reference = case.host.service(name).image
        if not is_pinned(reference):
            wrong.append(f"{name}: {reference} is another image tomorrow")
            image = case.facts.images.get(reference)
            digest = image.digests[0].partition("@")[2] if isinstance(image, Image) and image.digests else ""
            if digest:
                hints.append(f"[hosts.{case.host.name}.{name}]\nimage = {json.dumps(f'{reference}@{digest}')}")
    containers = case.facts.containers if isinstance(case.facts.containers, tuple) else ()
    for container in sorted(containers, key=_place):
        ours = foreign.is_ours(case.host, container) and container.name in SERVICES
        if not ours and container.state == "running" and not is_pinned(container.image):
            wrong.append(f"{container.name}: {container.image} is another image tomorrow")
    if wrong:
        mend = "\n".join(["in hosts.toml:", *hints]) if hints else "give each a version or a digest in hosts.toml"
        return Verdict("fail", "\n".join(wrong), mend)
    if isinstance(case.facts.containers, Unknown):
        return Verdict("unknown", case.facts.containers.reason, _diagnose(case))
    return Verdict("pass", "each has a digest or a tag that says a version")


def log_rotation(case: Case) -> Verdict:
    return each(case, _unbounded_log, "every container's log is bounded")


def _unbounded_log(container: Container) -> str:
    if container.log_driver in ROTATED:
        return ""
    size, files = container.log_options.get("max-size", ""), container.log_options.get("max-file", "1")
    most = memory_bytes(size) * (int(files) if files.isdecimal() else 1)
    if not most:
        return f"{container.log_driver or 'its log'} without max-size: it grows until the disk is full"
    return f"its log may take {most >> 30} GiB (max-size {size}, max-file {files})" if most > MOST_LOG else ""


def restart(case: Case) -> Verdict:
    return each(case, _does_not_return, "every running container comes back after a reboot")


def _does_not_return(container: Container) -> str:
    if container.state not in ("running", "restarting", "paused") or container.restart_policy in GOOD_POLICIES:
        return ""
    return f"restart policy {container.restart_policy or 'no'}: it does not come back after a reboot"


def privileged(case: Case) -> Verdict:
    return each(case, lambda c: "it runs privileged" if c.privileged else "", "none runs privileged")


def capabilities(case: Case) -> Verdict:
    def added(container: Container) -> str:
        allowed: set[str] = set(USUAL)
        if container.name in SERVICES and foreign.is_ours(case.host, container):
            allowed = set(stack.wanted(case.host, container.name).cap_add)
        more = sorted(set(container.cap_add) - allowed)
        return f"has {', '.join(more)}, which it was given besides" if more else ""

    return each(case, added, "none has a capability that it was given besides")


def docker_socket(case: Case) -> Verdict:
    def holds(container: Container) -> str:
        sources = [mount.source for mount in container.mounts if mount.type == "bind"]
        over = [s for s in sources if any(sock == s or sock.startswith(f"{s.rstrip('/')}/") for sock in SOCKETS)]
        return f"{over[0]} is mounted in it: whoever is in there is root here" if over else ""

    return each(case, holds, "none has the engine's socket")


def namespaces(case: Case) -> Verdict:
    shared = case.evidence.namespaces
    if isinstance(shared, Unknown):
        return Verdict("unknown", shared.reason, _diagnose(case))
    by_name = {one.name: one.shares for one in shared or ()}

    def shares(container: Container) -> str:
        names = list(by_name.get(container.name, ()))
        if "host" in container.networks and "network" not in names:
            names.insert(0, "network")
        return f"shares the host's {', '.join(names)}" if names else ""

    return each(case, shares, "each has namespaces of its own")


def no_new_privileges(case: Case) -> Verdict:
    if _by_default(case):
        return Verdict("pass", "daemon.json: no-new-privileges, for every container")

    def gains(container: Container) -> str:
        ours = container.name in SERVICES and foreign.is_ours(case.host, container)
        if ours and not stack.wanted(case.host, container.name).security_opt:
            return ""  # image_user_switch: sudo inside cannot work under it
        given = any(re.fullmatch(r"no-new-privileges(?:[:=]true)?", option) for option in container.security_opt)
        return "" if given else "a setuid program in it can gain privileges"

    return each(case, gains, "none can gain privileges")


def _by_default(case: Case) -> bool:
    text = case.facts.docker.daemon_json if isinstance(case.facts.docker, Docker) else None
    try:
        document = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("no-new-privileges") is True


CONTROLS = (
    Control(
        "containers.image-pinned", "Images are the same tomorrow: a digest or a version", "low", SOURCE, image_pinned
    ),
    Control("containers.log-rotation", "Every container's log is bounded", "medium", SOURCE, log_rotation),
    Control("containers.restart", "Every running container comes back after a reboot", "medium", SOURCE, restart),
    Control("containers.privileged", "No container runs privileged", "high", SOURCE, privileged),
    Control(
        "containers.capabilities", "No container has capabilities that it does not need", "medium", SOURCE, capabilities
    ),
    Control("containers.docker-socket", "No container has the engine's socket", "high", SOURCE, docker_socket),
    Control(
        "containers.namespaces", "No container shares the host's network or processes", "medium", SOURCE, namespaces
    ),
    Control("containers.new-privileges", "No container can gain privileges", "low", SOURCE, no_new_privileges),
)
