"""curl works on the host, the browser on the workstation does not (procedure §9): by design, so the chain from the
container to the browser is checked link by link, and the way in is a tunnel. Nothing is ever published."""

from __future__ import annotations

import re
import shlex

from pantheon import foreign, service
from pantheon.circumstances import SshdLine
from pantheon.evidence import Sshd
from pantheon.facts import Container, EnvValue, Http, Unknown
from pantheon.finding import Finding, Level
from pantheon.here import NOT_ALLOWED, LocalPort
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES
from pantheon.plan import Change, SectionPlan

ID = "browser-access"
CAUSE = (
    "By design the services listen on the host's loopback only: a browser elsewhere comes in through an SSH tunnel. "
    "A link of that chain may be broken besides."
)
RISK = (
    "A container that keeps browsers out is made anew from hosts.toml and stops for a moment; its data stays. sshd's "
    "settings are yours to change, and no port is ever published on the network."
)
SOURCE = "procedure §5, §9"

BROWSED = ("comfy", "openwebui")
# Settings that can keep a browser out, by service, as the container has them.
SUSPECTS = {
    "comfy": ("COMFY_CMDLINE_BASE", "COMFY_CMDLINE_EXTRA"),
    "openwebui": ("CORS_ALLOW_ORIGIN",),
}


def diagnose(case: Case) -> list[Finding]:
    """The links that are broken and that nothing else here is about: forwarding, and containers that are healthy and
    keep a browser out all the same. A dead tunnel on this side is worth a warning."""
    made = steps(case)
    dead = [finding for finding in made if finding.id.endswith(".local-port") and finding.mend]
    return [finding for finding in made if finding.level == "fail" and finding.id in _own(finding)] + dead


def steps(case: Case) -> list[Finding]:
    """Every link from the container to the browser, in order; of a service nothing is said after its first break."""
    text = "by design the services listen on the host's loopback only; a browser elsewhere comes in through a tunnel"
    found = [Finding(f"{ID}.design", "ok", text, source=SOURCE)]
    on_host = {name: [_container(case, name)] for name in BROWSED}
    for name, links in on_host.items():
        if _whole(links):
            links.append(_host(case, name))
    forwarding = _forwarding(case)
    further: dict[str, list[Finding]] = {name: [] for name in BROWSED}
    for name, links in on_host.items():
        if _whole(links) and not _refused(case, name):
            further[name].append(_local_port(case, name))
            for link in (_through, _websocket, _browser):
                if _whole(further[name]):
                    further[name].append(link(case, name))
    after = [link for links in further.values() for link in links]
    return [*found, *(link for links in on_host.values() for link in links), forwarding, *after]


def plan(case: Case) -> SectionPlan:
    """Containers that keep a browser out are made anew from hosts.toml; whatever else breaks the chain is named, with
    what to type, and blocks."""
    broken = [finding for finding in steps(case) if finding.level in ("fail", "unknown")]
    if not broken:
        return SectionPlan(ID, reason=f"every link to a browser works. The way in: {_way_in(case)}")
    changes: list[Change] = []
    blocked: list[Finding] = []
    for finding in broken:
        name = finding.id.split(".")[1]
        if finding.id == f"{ID}.forwarding":
            blocked += forwarding_by_hand(case, finding)
        elif name in BROWSED and finding.level == "fail" and finding.id in _own(finding):
            section = service.as_in_hosts_toml(case.host, case.facts, name)
            blocked += section.blocked or (() if section.changes else _by_hand(case, name, finding))
            changes += [change for change in section.changes if change not in changes]
        else:
            blocked.append(finding)
    return SectionPlan(ID, () if blocked else tuple(changes), blocked=tuple(blocked))


def _own(finding: Finding) -> tuple[str, ...]:
    """The ids of links that are this entry's to judge: what a container is, and whether it answers, has others."""
    name = finding.id.split(".")[1]
    own = (f"{ID}.{name}.{link}" for link in ("websocket", "browser", "silent"))
    return (f"{ID}.forwarding", *own)


def _whole(links: list[Finding]) -> bool:
    return all(link.is_good for link in links)


def _link(case: Case, key: str, level: Level, text: str, *, evidence: str = "", mend: str = "") -> Finding:
    """A link's finding; a broken one explains that its service does not answer."""
    name, _, last = key.partition(".")
    explains: tuple[str, ...] = ()
    if level == "fail":
        mend = mend or command(case, ID)
        explains = (f"{name}.http", f"{name}.http-here") if last == "silent" else ()
    return Finding(f"{ID}.{key}", level, text, evidence, mend, SOURCE, explains)


def _container(case: Case, name: str) -> Finding:
    container, host = foreign.named(case.facts, name), case.host
    key = f"{name}.container"
    if isinstance(case.facts.containers, Unknown):
        reason = case.facts.containers.reason
        return _link(case, key, "unknown", f"{name}: whether its container runs is not known", evidence=reason)
    if container is None:
        return _link(case, key, "fail", f"{name} has no container", mend=f"invoke {name} --host {host.name}")
    state = f"{container.state}, {container.health or 'no healthcheck'}"
    if container.state == "running" and container.health in ("healthy", None):
        return _link(case, key, "ok", f"{name}: its container is Up ({state})")
    mend = f"invoke diagnose --host {host.name}"
    if container.state == "running" and container.health == "starting":
        mend = f"wait for it: invoke {name} --host {host.name}"
    return _link(case, key, "fail", f"{name}: its container is not ready", evidence=state, mend=mend)


def _host(case: Case, name: str) -> Finding:
    """Whether the port on the host's loopback answers there. A healthy container that does not is bound wrongly."""
    answer, place = case.facts.http.get(name), f"127.0.0.1:{case.host.service(name).port}"
    key, there = f"{name}.host", f"on {case.host.name}"
    if not isinstance(answer, Http):
        reason = answer.reason if isinstance(answer, Unknown) else "not asked"
        return _link(case, key, "unknown", f"{name}: whether {place} answers {there} is not known", evidence=reason)
    if 200 <= answer.status < 400:
        return _link(case, key, "ok", f"{name}: {place} answers {there} ({answer.status})")
    said = f"{answer.status} {answer.reason}".strip() if answer.status else answer.error
    text = f"{name}: {place} does not answer {there}, although its container is healthy"
    if answer.status or answer.error.startswith("no answer"):  # it is reached, and has a trouble of its own
        mend = f"read its log: {case.host.ssh(f'docker logs --tail=50 {name}')}"
        return _link(case, key, "fail", text, evidence=said, mend=mend)
    container = foreign.named(case.facts, name)
    ports = container.ports if container else ()
    published = [f"{f'[{p.address}]' if ':' in p.address else p.address or '*'}:{p.port}" for p in ports]
    says = f"it publishes {', '.join(published) or 'no port'}"
    evidence = "\n".join([said, says, *_suspicious(case, name)])
    return _link(case, f"{name}.silent", "fail", text, evidence=evidence)


def _refused(case: Case, name: str) -> bool:
    answer = case.here.http.get(name)
    return isinstance(answer, Http) and answer.error == NOT_ALLOWED


def _forwarding(case: Case) -> Finding:
    """Whether sshd carries a forward for this login: tried, and what its settings say."""
    host, sshd, key = case.host, case.evidence.sshd, "forwarding"
    refused = [name for name in SERVICES if _refused(case, name)]
    says = _settings(sshd)
    if refused:
        which = "" if len(refused) == len(SERVICES) else f" to {', '.join(refused)}"
        text = f"sshd on {host.name} refuses to forward{which}: no tunnel can carry a browser"
        evidence = "\n".join(part for part in (says, *_why_refused(sshd)) if part)
        explains = tuple(f"{name}.http-here" for name in refused)
        return Finding(f"{ID}.{key}", "fail", text, evidence, command(case, ID), SOURCE, explains)
    if not any(isinstance(answer, Http) for answer in case.here.http.values()):
        return _link(case, key, "unknown", f"whether sshd on {host.name} forwards is not known", evidence="not tried")
    if isinstance(sshd, Sshd) and not _allows(sshd):
        text = f"sshd on {host.name} forwards still, and its files forbid it from its next reload on"
        return _link(case, key, "warn", text, evidence="\n".join((says, *_why_refused(sshd))))
    return _link(case, key, "ok", f"sshd on {host.name} forwards" + (f" ({says})" if says else ""))


def _settings(sshd: object) -> str:
    if not isinstance(sshd, Sshd):
        return ""
    names = ("allowtcpforwarding", "disableforwarding", "permitopen")
    return ", ".join(f"{name} {sshd.settings[name]}" for name in names if name in sshd.settings)


def _allows(sshd: Sshd) -> bool:
    return (
        sshd.settings.get("allowtcpforwarding", "yes") in ("yes", "local", "all")
        and sshd.settings.get("disableforwarding", "no") == "no"
        and sshd.settings.get("permitopen", "any") != "none"
    )


def _why_refused(sshd: object) -> list[str]:
    if isinstance(sshd, Unknown):
        return [f"sshd's settings are not known: {sshd.reason}"]
    if not isinstance(sshd, Sshd):
        return []
    line = _deciding(sshd)
    if line:
        block = f" (in Match {line.match})" if line.match else ""
        return [f"{line.path}:{line.line}: {line.keyword} {line.value}{block}"]
    return [f"{sshd.user}'s key is restricted: {key}" for key in sshd.keys[:3]]


def _deciding(sshd: Sshd) -> SshdLine | None:
    """The line that forbids it: in the global part the first of its keyword wins, a Match block's beats it."""
    for keyword, bad in (("disableforwarding", ("yes",)), ("allowtcpforwarding", ("no", "remote")), ("permitopen", ())):
        value = sshd.settings.get(keyword, "")
        if not (value in bad or (keyword == "permitopen" and value not in ("", "any"))):
            continue
        lines = [line for line in sshd.lines if line.keyword == keyword]
        first = next((line for line in lines if not line.match), None)
        if first and first.value.lower() == value.lower():
            return first
        return next((line for line in lines if line.match and line.value.lower() == value.lower()), first)
    return None


def forwarding_by_hand(case: Case, finding: Finding) -> list[Finding]:
    """What a human changes in sshd's files: pantheon does not edit them, since a slip there locks everybody out."""
    host, sshd = case.host, case.evidence.sshd
    line = _deciding(sshd) if isinstance(sshd, Sshd) else None
    if line:
        wanted = {"disableforwarding": "DisableForwarding no", "permitopen": _permitted(case, line)}
        setting = wanted.get(line.keyword, "AllowTcpForwarding local")
        edit = shlex.join(["sudo", "sed", "-i", f"{line.line}s/.*/{setting}/", line.path])
        mend = host.ssh(f"{edit} && sudo sshd -t && sudo systemctl reload ssh")
        text = f"{line.path}, line {line.line}, must allow it; a file of ours cannot, since the first value counts"
    elif isinstance(sshd, Sshd) and sshd.keys and _allows(sshd):
        text = f"the key of {sshd.user} must be allowed to forward"
        place = sshd.keys[0].split(": ")[0]
        mend = f"take the restriction out at {place} on the host, or add port-forwarding behind `restrict`"
    else:
        text = "sshd must be told to allow it, or to read its files again"
        mend = host.ssh("sudo sshd -t && sudo systemctl reload ssh")
    return [Finding(finding.id, "fail", text, "", mend, SOURCE)]


def _permitted(case: Case, line: SshdLine) -> str:
    """What the line allowed already, and our ports."""
    ports = [f"127.0.0.1:{case.host.service(name).port}" for name in SERVICES]
    words = [] if line.value.lower() == "none" else line.value.split()
    return " ".join(["PermitOpen", *dict.fromkeys([*words, *ports])]).replace("/", "\\/")


def _local_port(case: Case, name: str) -> Finding:
    port, local = case.host.service(name).port, case.here.ports.get(name)
    key = f"{name}.local-port"
    if not isinstance(local, LocalPort):
        reason = local.reason if isinstance(local, Unknown) else "not tried"
        return _link(case, key, "warn", f"{name}: whether port {port} is free here is not known", evidence=reason)
    if local.free == port:
        return _link(case, key, "ok", f"{name}: port {port} is free here")
    if _is_open(case, name):
        text = f"{name}: a tunnel to it is open here: http://127.0.0.1:{port}/"
        return _link(case, key, "warn" if local.silent else "ok", text, evidence=local.silent)
    other = f"a tunnel takes {local.free} instead" if local.free else "and no port near it is free"
    text = f"{name}: port {port} here is held by {local.holder}: {other}"
    if not local.silent:
        evidence = f"http://127.0.0.1:{port}/ reaches that program; {case.host.name} only if it is a tunnel to it"
        evidence += " (invoke tunnel.list shows those of pantheon)"
        return _link(case, key, "warn", text, evidence=evidence)
    pid = re.fullmatch(r"ssh \(pid (\d+)\)", local.holder)
    end = local.close or (f"kill {pid[1]}" if pid else f"ss -ltnp 'sport = :{port}' shows it")
    text = f"{name}: port {port} here is held by {local.holder}, and nothing answers there"
    text += ": a dead ssh -L?" if pid else ""
    evidence = f"http://127.0.0.1:{port}/: {local.silent}; {other}"
    mend = f"invoke tunnel {name} --host {case.host.name}, once the old one is ended: {end}"
    return _link(case, key, "warn", text, evidence=evidence, mend=mend)


def _is_open(case: Case, name: str) -> bool:
    """Whether the service's own port is held here by a tunnel of ours to that very service."""
    local = case.here.ports.get(name)
    ours = f"invoke tunnel.close {name} --host {shlex.quote(case.host.name)}"
    return isinstance(local, LocalPort) and local.close == ours


def _through(case: Case, name: str) -> Finding:
    key, what = f"{name}.through", "through SSH, as through a tunnel"
    answer = case.here.http.get(name)
    if not isinstance(answer, Http):
        return _link(case, key, "unknown", f"{name}: whether it answers {what} is not known", evidence="not tried")
    if 200 <= answer.status < 400:
        return _link(case, key, "ok", f"{name} answers {what} ({answer.status})")
    mend = f"invoke diagnose --host {case.host.name}"
    return _link(case, key, "fail", f"{name} does not answer {what}", evidence=_said(answer), mend=mend)


def _websocket(case: Case, name: str) -> Finding:
    answer, key = case.here.websocket.get(name), f"{name}.websocket"
    if not isinstance(answer, Http):
        return _link(case, key, "unknown", f"{name}: whether it takes a websocket is not known", evidence="not tried")
    if answer.status == 101:
        return _link(case, key, "ok", f"{name} takes the websocket of a browser (101)")
    if not answer.status:  # cut off or slow: that is no refusal
        text = f"{name}: whether it takes a websocket is not known"
        return _link(case, key, "unknown", text, evidence=answer.error)
    if _polls(case, name):
        text = f"{name} takes no websocket, as ENABLE_WEBSOCKET_SUPPORT says: its page polls instead"
        return _link(case, key, "warn", text, evidence=_said(answer))
    evidence = "\n".join([_said(answer), *_suspicious(case, name), *_log_says(case, name)])
    text = f"{name} refuses the websocket of a browser: its page loads and stays dead"
    return _link(case, key, "fail", text, evidence=evidence)


def _polls(case: Case, name: str) -> bool:
    """Open WebUI without websockets tells its page to poll: somebody's choice, and no fault."""
    container = foreign.named(case.facts, name)
    value = container.env.get("ENABLE_WEBSOCKET_SUPPORT") if container else None
    return value is not None and (value.value or "").lower() == "false"


def _browser(case: Case, name: str) -> Finding:
    answer, key = case.here.browser.get(name), f"{name}.browser"
    if not isinstance(answer, Http) or not answer.status:
        reason = answer.error if isinstance(answer, Http) else "not tried"
        return _link(case, key, "unknown", f"{name}: whether it takes a browser is not known", evidence=reason)
    if answer.status < 400:
        return _link(case, key, "ok", f"{name} accepts the Host and Origin of a browser ({answer.status})")
    evidence = "\n".join([_said(answer), *_suspicious(case, name), *_log_says(case, name)])
    return _link(case, key, "fail", f"{name} refuses the Host and Origin of a browser", evidence=evidence)


def _said(answer: Http) -> str:
    return f"{answer.url}: {f'{answer.status} {answer.reason}'.strip() if answer.status else answer.error}"


def _suspicious(case: Case, name: str) -> list[str]:
    """Settings of the container that can do this, as it has them."""
    container = foreign.named(case.facts, name)
    if not isinstance(container, Container):
        return []
    set_by_us = {key: value for key, value in container.env.items() if not value.from_image}
    return [f"{key}={_shown(set_by_us[key])}" for key in SUSPECTS[name] if key in set_by_us]


def _shown(value: EnvValue) -> str:
    return value.value if value.value is not None else "(not shown)"


def _log_says(case: Case, name: str) -> list[str]:
    container = foreign.named(case.facts, name)
    markers = container.log_markers if container else None
    words = ("non matching host and origin", "is not an accepted origin")
    said = [line for line in markers if any(w in line for w in words)] if isinstance(markers, tuple) else []
    return [f"its log: {said[-1].strip()}"] if said else []


def _by_hand(case: Case, name: str, finding: Finding) -> tuple[Finding, ...]:
    """The container is as hosts.toml says, so it is hosts.toml that keeps the browser out, or the program itself."""
    given = [key for key in SUSPECTS[name] if key in case.host.service(name).env]
    if given:
        text = f"{finding.text}: hosts.toml itself says so"
        mend = f"change {', '.join(f'{name}.env.{key}' for key in given)} in hosts.toml, then invoke {name} --host "
        mend += case.host.name
    else:
        text = f"{finding.text}, and its container is as hosts.toml says"
        mend = f"read its log: {case.host.ssh(f'docker logs --tail=50 {name}')}"
    return (Finding(finding.id, "fail", text, finding.evidence, mend, SOURCE),)


def _way_in(case: Case) -> str:
    if _is_open(case, "comfy"):
        return f"http://127.0.0.1:{case.host.comfy.port}/ (http, not https), where a tunnel is open"
    local = case.here.ports.get("comfy")
    port = local.free if isinstance(local, LocalPort) and local.free else case.host.comfy.port
    return f"invoke tunnel comfy --host {case.host.name}, then http://127.0.0.1:{port}/ (http, not https)"
