"""The three services: up, bound to loopback, made as the procedure says (§4 to §8)."""

from __future__ import annotations

from collections.abc import Callable

from pantheon import foreign, layout, stack
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import (
    beyond,
    command,
    container,
    containers,
    not_applicable,
    of,
    passed,
    place,
    remade,
    unknown,
)
from pantheon.evidence import ComfyTree
from pantheon.facts import Container, Image, TextFile, Unknown
from pantheon.fixes import comfy_first_run, comfy_ownership, exposed_ports, openwebui_ollama
from pantheon.incident import Case
from pantheon.inventory import SERVICES
from pantheon.sections import validate

NAMES = {"comfy": "ComfyUI", "ollama": "Ollama", "openwebui": "Open WebUI"}
BIND_RULES = (
    "The procedure says 127.0.0.1 only, the system page addresses of the SERVERS VLAN. The procedure rules: it is the "
    "authoritative one, and services without a login must not be on a network. They are reached by `invoke tunnel`."
)
STATE_RULES = (
    "The procedure puts Open WebUI's state on the local SSD, the system page container state on /mnt/atlas/appdata. "
    "The procedure rules: the AI stack works without Atlas."
)
UID_RULES = (
    "The procedure says that 1024:1024 cannot be bypassed. The image can be told otherwise (WANTED_UID), so it is a "
    "rule by policy; the procedure rules, and pantheon sets both to 1024."
)
COMFY = "/comfy/mnt"


# ---- the checklist (§8)


def _line(key: str, *, needs: str = "") -> Callable[[Case], Verdict]:
    """A line of the checklist; not applicable where the container that it is about is not there."""

    def judge(case: Case) -> Verdict:
        if needs and containers(case) is not None and foreign.named(case.facts, needs) is None:
            return not_applicable(f"there is no container {needs}")
        if case.facts.docker is None:
            return Verdict("fail", "there is no Docker", command(case, "bringup", "--install"))
        found = validate.check(case.host, case.facts, case.here.http)
        service = key.partition(".")[0]
        verdict = of(case, found, key, *((f"stack.foreign.{service}",) if key.endswith(".up") else ()))
        if verdict.status == "pass" and key.endswith(".up"):
            return passed(next(f.text for f in found if f.id == key))  # without when it was started
        return verdict

    return judge


# ---- binds (§5)


def _bind(name: str) -> Callable[[Case], Verdict]:
    def judge(case: Case) -> Verdict:
        everything, listeners = containers(case), case.facts.listeners
        if everything is None:
            return unknown(case.facts.containers)
        if not isinstance(listeners, tuple):
            return unknown(listeners)
        mine = [c for c in everything if _belongs(case, c, name)]
        port = case.host.service(name).port
        keys = {f"exposed-ports.{c.name}" for c in mine} | {f"exposed-ports.port-{port}"}
        found = [f for f in exposed_ports.diagnose(case) if f.id in keys]
        if found:
            return of(case, found, *keys)
        later = [(c, p) for c in mine for p in c.ports if beyond(p.address)]
        if later:
            told = "\n".join(f"{c.name} ({c.state}) will publish {place(p.address, p.port)}" for c, p in later)
            return Verdict("fail", told, remade(case, (c for c, _ in later)))
        if not mine:
            return not_applicable(f"there is no container of {NAMES[name]}")
        return passed("; ".join(f"{c.name}: {_ports(c)}" for c in mine))

    return judge


def _belongs(case: Case, one: Container, name: str) -> bool:
    """Whether it is this service, whoever started it and whatever it is called."""
    known = foreign.REPOSITORIES | {foreign.repository(case.host.service(name).image): name}
    is_named = one.name == name or one.labels.get("pantheon.service") == name
    by_port = any(port.port == case.host.service(name).port for port in one.ports)
    return is_named or known.get(foreign.repository(one.image)) == name or by_port


def _ports(one: Container) -> str:
    if one.networks == ("host",):
        return "on the host's network, and listens on loopback"
    return ", ".join(f"{place(p.address, p.port)} -> {p.container_port}" for p in one.ports) or "publishes nothing"


def containerised(case: Case) -> Verdict:
    """A service that somebody installed on the host itself has its own data, and takes the port of ours."""
    listeners, programs = (
        case.facts.listeners,
        {"ollama": "Ollama", "open-webui": "Open WebUI", "open_webui": "Open WebUI"},
    )
    if not isinstance(listeners, tuple):
        return unknown(listeners)
    ports = {case.host.service(name).port: NAMES[name] for name in SERVICES}
    docker = ("docker-proxy", "dockerd", "rootlesskit", "")
    wrong = []
    for one in listeners:
        name = programs.get(one.process) or (ports.get(one.port) if one.process not in docker else None)
        if name and not one.container:
            wrong.append(f"{one.process} listens on {place(one.address, one.port)}, outside any container: {name}?")
    if wrong:
        look = case.host.ssh("sudo ss -ltnp")
        return Verdict(
            "fail", "\n".join(wrong), f"stop and remove it (such as: systemctl disable --now ollama); {look}"
        )
    return passed("no program on the host itself is one of the services, or has their ports")


# ---- the pattern (§5, §6)


def compose_file(case: Case) -> Verdict:
    host, path = case.host, layout.compose_file(case.host)
    found = case.facts.files.get(path)
    if isinstance(found, Unknown):
        return unknown(found)
    everything = foreign.stack_findings(host, case.facts)
    theirs = [f for f in everything if f.id.startswith(("stack.compose-file", "stack.dir"))]
    if theirs:
        return of(case, theirs, *(f.id for f in theirs))
    if not isinstance(found, TextFile):
        return Verdict("fail", f"{path} is not there", command(case, "bringup"))
    if found.text != stack.compose_text(host):
        return Verdict("fail", f"{path} is another than hosts.toml makes: it was edited, or hosts.toml was",
                       command(case, "bringup"))  # fmt: skip
    return passed(f"{path} is as hosts.toml makes it")


def declared(case: Case) -> Verdict:
    """Property by property, as bringup compares them."""
    everything, host = containers(case), case.host
    if everything is None:
        return unknown(case.facts.containers)
    wrong, unread, seen = [], [], 0
    for name in SERVICES:
        one = foreign.named(case.facts, name)
        if one is None or not foreign.is_ours(host, one):
            continue
        if one.unread:
            unread.append(f"{name}: {one.unread}")
            continue
        seen += 1
        want, image = stack.wanted(host, name), case.facts.images.get(host.service(name).image)
        known = image if isinstance(image, Image) else None
        wrong += [f"{name}: {text}" for text in stack.differences(host, want, one, nonce=case.facts.nonce, image=known)]
    if wrong:
        return Verdict("fail", "\n".join(wrong), command(case, "bringup"))
    if unread:
        return unknown(Unknown("; ".join(unread)))
    return passed("the containers are as hosts.toml says") if seen else not_applicable("none of the containers is ours")


def alone(case: Case) -> Verdict:
    found = foreign.stack_findings(case.host, case.facts)
    if containers(case) is None:
        return unknown(case.facts.containers)
    theirs = [f for f in found if f.id.startswith("stack.foreign.")]
    if not theirs:
        return passed("no container of the services but ours")
    told = "\n".join(f"{finding.text.removesuffix('; nothing is touched')}" for finding in theirs)
    return Verdict("fail", told, theirs[0].mend)


def single_mount(case: Case) -> Verdict:
    one = container(case, "comfy")
    if isinstance(one, Verdict):
        return one
    source = layout.comfy_mnt(case.host)
    at = [mount for mount in one.mounts if mount.target.rstrip("/") == COMFY]
    mend = command(case, "fix.comfy-ownership")
    if not at:
        return Verdict("fail", f"nothing is mounted at {COMFY}", mend)
    mount = at[0]
    if mount.type != "bind" or mount.source.rstrip("/") != source:
        what = f"the volume {mount.name}" if mount.type == "volume" else mount.source or mount.type
        return Verdict("fail", f"{COMFY} is {what}, not a bind of {source}", mend)
    if not mount.writable:
        return Verdict("fail", f"{COMFY} is mounted read-only", mend)
    return passed(f"{source} -> {COMFY}")


def no_sub_mounts(case: Case) -> Verdict:
    one = container(case, "comfy")
    if isinstance(one, Verdict):
        return one
    inside = [m for m in one.mounts if m.target.startswith(f"{COMFY}/")]
    if inside:
        told = "; ".join(f"{m.source or m.name or m.type} -> {m.target}" for m in inside)
        return Verdict("fail", f"mounted inside {COMFY}: {told}", command(case, "fix.comfy-ownership"))
    asked = [f for f in comfy_ownership.diagnose(case) if f.id == "comfy-ownership.override"]
    if asked:
        return Verdict("fail", f"{asked[0].text}\n{asked[0].evidence}", asked[0].mend)
    return passed(f"nothing is mounted inside {COMFY}")


def models_outside(case: Case) -> Verdict:
    one = container(case, "comfy")
    if isinstance(one, Verdict):
        return one
    path = layout.models(case.host)
    at = [m for m in one.mounts if f"{m.source}/".startswith(f"{path}/")]
    if not at:
        return Verdict("fail", f"{path} is not mounted in ComfyUI", command(case, "comfy"))
    inside = [m.target for m in at if f"{m.target}/".startswith(f"{COMFY}/")]
    if inside:
        return Verdict("fail", f"{path} is mounted inside {COMFY}, at {inside[0]}", command(case, "comfy"))
    base = one.env.get("BASE_DIRECTORY")
    if base is not None and (base.value or base.digest):
        text = "BASE_DIRECTORY is set: the image then writes to the models, which are read-only"
        return Verdict("fail", text, command(case, "comfy"))
    script = case.facts.files.get(layout.userscript(case.host))
    if not isinstance(script, TextFile) or script.text != stack.USERSCRIPT_TEXT:
        if isinstance(script, Unknown):
            return unknown(script)
        text = f"{layout.userscript(case.host)}, which links the models into ComfyUI, is not as pantheon writes it"
        return Verdict("fail", text, command(case, "comfy"))
    return passed(f"{path} -> {at[0].target}, linked in by {layout.userscript(case.host)}")


def numbers(case: Case) -> Verdict:
    one = container(case, "comfy")
    if isinstance(one, Verdict):
        return one
    mine = str(layout.COMFY)
    wrong = []
    for name in ("WANTED_UID", "WANTED_GID"):
        value = one.env.get(name)
        if value is None or value.value != mine:
            wrong.append(f"{name} is {value.value if value else 'not set'}, not {mine}")
    if one.user not in ("", f"{mine}:{mine}"):
        wrong.append(f"it runs as user {one.user}")
    if wrong:
        return Verdict("fail", "; ".join(wrong), command(case, "comfy"))
    return passed(f"WANTED_UID and WANTED_GID are {mine}; user {one.user or 'switched to by the image itself'}")


def _kept(name: str, target: str, source: Callable[..., str]) -> Callable[[Case], Verdict]:
    """Where a service keeps what it writes."""

    def judge(case: Case) -> Verdict:
        one = container(case, name)
        if isinstance(one, Verdict):
            return one
        wanted = source(case.host)
        at = next((mount for mount in one.mounts if mount.target.rstrip("/") == target), None)
        if at is None:
            text = f"nothing is mounted at {target}: what is written there is lost with the container"
        elif at.type != "bind" or at.source.rstrip("/") != wanted:
            text = f"{target} is {at.source or at.name or at.type}, not {wanted}"
        elif not at.writable:
            text = f"{target} is mounted read-only"
        else:
            return passed(f"{wanted} -> {target}")
        return Verdict("fail", text, command(case, name))

    return judge


def local_models(case: Case) -> Verdict:
    one = container(case, "ollama")
    if isinstance(one, Verdict):
        return one
    value = one.env.get("OLLAMA_NO_CLOUD")
    if value is not None and value.value in ("1", "true"):
        return passed(f"OLLAMA_NO_CLOUD={value.value}")
    text = "OLLAMA_NO_CLOUD is not set: Ollama offers models that run elsewhere"
    return Verdict("fail", text, command(case, "ollama"))


def talks_to_ollama(case: Case) -> Verdict:
    one = container(case, "openwebui")
    if isinstance(one, Verdict):
        return one
    found = openwebui_ollama.diagnose(case)
    bad = [f for f in found if f.level in ("fail", "unknown")]
    if bad:
        return of(case, bad, *(f.id for f in bad))
    value, wanted = one.env.get("OLLAMA_BASE_URL"), stack.wanted(case.host, "openwebui").env["OLLAMA_BASE_URL"]
    if value is None or value.value != wanted:
        has = value.value if value else "not set"
        return Verdict("fail", f"Open WebUI's OLLAMA_BASE_URL is {has}, not {wanted}", command(case, "openwebui"))
    return passed(f"OLLAMA_BASE_URL is {wanted}")


def first_run(case: Case) -> Verdict:
    """§7: the clone, the virtual environment, PyTorch."""
    tree = case.evidence.comfy
    if isinstance(tree, Unknown):
        return unknown(tree, mend=command(case, "fix.comfy-first-run"))
    if tree is None:
        return not_applicable(f"{layout.comfy_mnt(case.host)} is not there")
    bad = [f for f in comfy_first_run.diagnose(case) if f.level == "fail"]
    wrong = _unfinished(tree)
    if wrong:
        return Verdict("fail", "; ".join(wrong), _first_run_mend(case))
    if bad:
        return of(case, bad, *(f.id for f in bad))
    return passed("; ".join(["ComfyUI is cloned, its virtual environment complete", *tree.torch[:1]]))


def _unfinished(tree: ComfyTree) -> list[str]:
    wrong = []
    if tree.clone not in ("complete", "link"):
        wrong.append(f"ComfyUI/ is {tree.clone}" + (f": {tree.clone_detail}" if tree.clone_detail else ""))
    if tree.venv not in ("complete", "link"):
        wrong.append(f"venv/ is {tree.venv}" + (f": {tree.venv_detail}" if tree.venv_detail else ""))
    if tree.missing_modules:
        wrong.append(f"packages without their files: {', '.join(tree.missing_modules[:5])}")
    return wrong


def _first_run_mend(case: Case) -> str:
    """One that is under way is watched; what was taken from under a ComfyUI that serves is made again by its start."""
    one = foreign.named(case.facts, "comfy")
    health = one.health if one is not None and one.state == "running" else ""
    if health == "healthy":
        return case.host.ssh("sudo docker restart comfy")
    return command(case, "comfy" if health == "starting" else "fix.comfy-first-run")


CONTROLS = (
    *(Control(f"stack.{name}-up", f"{NAMES[name]} is Up", "high", "procedure §4, §8", _line(f"{name}.up"))
      for name in SERVICES),
    *(Control(f"stack.{name}-bind", f"{NAMES[name]} listens on 127.0.0.1 only", "critical",
              "procedure §5; system page, Security Posture", _bind(name), BIND_RULES) for name in SERVICES),
    *(Control(f"stack.{name}-answers", f"{NAMES[name]} answers 200 OK on the host", "high", "procedure §8",
              _line(f"{name}.http", needs=name)) for name in SERVICES),
    *(Control(f"stack.{name}-tunnel", f"{NAMES[name]} answers through SSH", "medium", "procedure §5, §9",
              _line(f"{name}.http-here", needs=name)) for name in SERVICES),
    Control("stack.comfy-log", "ComfyUI's log has no UID/GID error", "high", "procedure §8",
            _line("comfy.log-errors", needs="comfy")),
    Control("stack.comfy-started", 'ComfyUI\'s log says "Starting server"', "medium", "procedure §8",
            _line("comfy.log-started", needs="comfy")),
    Control("stack.containerised", "The services run in containers, not on the host itself", "medium",
            "procedure §1", containerised),
    Control("stack.compose-file", "The Compose file is the one that hosts.toml makes", "medium", "procedure §5",
            compose_file),
    Control("stack.declared", "The containers are made as hosts.toml says", "medium", "procedure §5", declared),
    Control("stack.alone", "No other stack of the same services is on the host", "medium", "procedure §4, §5", alone),
    Control("stack.comfy-mount", "comfy-mnt is one bind mount at /comfy/mnt", "high", "procedure §6.1, §6.2",
            single_mount),
    Control("stack.comfy-sub-mounts", "Nothing is mounted inside /comfy/mnt", "high", "procedure §6.1", no_sub_mounts),
    Control("stack.comfy-models", "Shared models are mounted outside /comfy/mnt and linked in", "medium",
            "procedure §6.2", models_outside),
    Control("stack.comfy-uid", "ComfyUI runs as 1024:1024", "high", "procedure §6.1", numbers, UID_RULES),
    Control("stack.comfy-outputs", "ComfyUI's outputs are on the SSD", "medium", "procedure §3.2",
            _kept("comfy", "/outputs", layout.comfy_outputs)),
    Control("stack.comfy-first-run", "ComfyUI's first run is complete", "medium", "procedure §7", first_run),
    Control("stack.ollama-data", "Ollama's data is on the NVMe", "medium", "procedure §3.1",
            _kept("ollama", "/root/.ollama", layout.ollama_data)),
    Control("stack.ollama-local", "Ollama runs local models only", "medium", "procedure §4", local_models),
    Control("stack.openwebui-data", "Open WebUI's state is on the local SSD", "medium",
            "procedure §3.2; system page, Storage Layout", _kept("openwebui", "/app/backend/data",
            layout.openwebui_data), STATE_RULES),
    Control("stack.openwebui-ollama", "Open WebUI reaches Ollama", "medium", "procedure §4", talks_to_ollama),
)  # fmt: skip
