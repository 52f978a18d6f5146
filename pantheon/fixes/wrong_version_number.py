"""HTTPS spoken to a service that speaks HTTP only (procedure §9): who does it, and the address that is right.

Looked through: the address that somebody tried (--url), the environment of our containers, Open WebUI's settings, and
hosts.toml. What pantheon owns is corrected; for the rest the right value is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pantheon import foreign, service, stack, webui
from pantheon.evidence import Evidence, WebuiSettings
from pantheon.facts import Container, Facts, Http
from pantheon.finding import Finding, Level
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES, Host, is_secret_name
from pantheon.plan import SectionPlan

ID = "wrong-version-number"
CAUSE = "https is spoken to a service that speaks http only: OpenSSL reads its plain answer as a wrong version number"
RISK = (
    "Open WebUI stops for about a minute where its own settings are wrong; of its database only these addresses "
    "change, and a copy is kept beside it. Nothing gets a certificate, and nothing is published."
)
SOURCE = "procedure §9"
TITLES = {"comfy": "ComfyUI", "ollama": "Ollama", "openwebui": "Open WebUI"}
SECURE = ("https", "wss")
OLLAMAS = ("OLLAMA_BASE_URL", "OLLAMA_BASE_URLS")
_HTTPS = re.compile(r"https:/*[^\s;,'\"<>]+", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """One https address of ours and where it stands: "database", "environment" or "inventory". `key` is the name of the
    setting; `counts`: it is what the service uses now."""

    where: str
    owner: str
    key: str
    url: str
    leads_to: str
    counts: bool = True


def https_to(host: Host, facts: Facts, evidence: Evidence, url: str) -> tuple[str, ...]:
    """The services that are worth a TLS handshake: those that something speaks https to."""
    found = [place.leads_to for place in _places(host, facts, evidence)]
    asked = webui.address(url) if url else None
    if asked is not None and asked.scheme in SECURE:
        found.append(webui.leads_to(host, url))
    return tuple(name for name in SERVICES if name in found)


def diagnose(case: Case) -> list[Finding]:
    places = [place for place in _places(case.host, case.facts, case.evidence) if not _speaks_tls(case, place.leads_to)]
    findings = [_given(case)] if case.choices.url and _is_meant(case) else []
    for where in ("database", "environment", "inventory"):
        here = [place for place in places if place.where == where]
        if here:
            findings.append(_finding(case, where, here))
    if not findings and (stopped := webui.broke_off(case, ID)):
        findings.append(stopped)
    return findings


def plan(case: Case) -> SectionPlan:
    findings = diagnose(case)
    places = [place for place in _places(case.host, case.facts, case.evidence) if not _speaks_tls(case, place.leads_to)]
    mine = [place for place in places if place.where != "inventory"]
    stuck = tuple(f for f in findings if f.id == f"{ID}.inventory" and f.level == "fail")
    if any(finding.id == f"{ID}.stopped" for finding in findings):
        return replace(service.as_in_hosts_toml(case.host, case.facts, webui.NAME), name=ID)
    if not mine:
        return SectionPlan(ID, reason=_reason(case, findings), blocked=stuck)
    if webui.migration(case):
        return SectionPlan(ID, blocked=(webui.not_now(case, ID),))
    kept = [place for place in mine if place.where == "database"]
    owners = dict.fromkeys(place.owner for place in mine if place.where == "environment")
    why = "the services speak http only (§9)"
    changes = [webui.change(case, [_change(case.host, place) for place in kept], why)] if kept else []
    if not owners:
        return SectionPlan(ID, tuple(changes), blocked=(), starts=("openwebui",))
    section = service.as_in_hosts_toml(case.host, case.facts, *owners)
    if section.blocked:
        return replace(section, name=ID)
    starts = tuple(dict.fromkeys((*(["openwebui"] if kept else []), *owners)))
    return SectionPlan(ID, (*changes, *section.changes), starts=starts)


def _change(host: Host, place: Place) -> dict[str, object]:
    return {"key": place.key, "from": place.url, "to": _plain(host, place)}


def _plain(host: Host, place: Place) -> str:
    """The same with http, as it is reached from another container: by the service's name. What is hidden of an address
    (a login, a query) is none of these services', and stays away."""
    found, port = webui.address(place.url), stack.wanted(host, place.leads_to).container_port
    assert found is not None
    rest = re.split(r"[?#]", found.rest)[0].rstrip("/")
    if place.owner == place.leads_to and found.host != place.owner:
        return f"http://{found.host}:{found.port}{rest}"
    return f"http://{place.leads_to}:{port}{rest}"


# ---- who speaks https


def _places(host: Host, facts: Facts, evidence: Evidence) -> list[Place]:
    found = [place for name in SERVICES for place in _in_the_environment(host, facts, evidence, name)]
    kept = evidence.webui
    ours = foreign.named(facts, "openwebui")
    if isinstance(kept, WebuiSettings) and ours is not None and foreign.is_ours(host, ours) and webui.persistent(ours):
        urls = {"ollama.base_urls": kept.ollama_urls or ()}
        urls["image_generation.comfyui.base_url"] = (kept.comfyui_url or "",)
        if kept.openai_enabled is not False:
            urls["openai.api_base_urls"] = kept.openai_urls or ()
        found += [
            Place("database", "openwebui", key, url, to)
            for key, several in urls.items()
            for url in dict.fromkeys(several)
            if (to := _leads_to(host, url))
        ]
    return found


def _in_the_environment(host: Host, facts: Facts, evidence: Evidence, name: str) -> list[Place]:
    """What the container was told, or what hosts.toml would tell it."""
    container = foreign.named(facts, name)
    if container is not None and not foreign.is_ours(host, container):
        container = None
    wanted = stack.wanted(host, name).env
    told = {key: value.value for key, value in container.env.items() if value.value} if container else {}
    found = []
    for key, value in sorted({**wanted, **told}.items()):
        for url in map(webui.clean, _HTTPS.findall(value)) if value and not is_secret_name(key) else ():
            if to := _leads_to(host, url):
                said = host.service(name).env.get(key)  # what the container has is shown without its login
                is_said = said == wanted.get(key) and said is not None and webui.clean(said) == webui.clean(value)
                where = "inventory" if is_said else "environment"
                found.append(Place(where, name, key, url, to, _counts(container, evidence, key)))
    return [place for place in found if place.counts or place.where == "inventory"]


def _counts(container: Container | None, evidence: Evidence, key: str) -> bool:
    """Whether a value of the environment is in force: Open WebUI's database beats it once it has one of its own."""
    kept = evidence.webui
    if container is None or container.name != "openwebui" or not isinstance(kept, WebuiSettings):
        return True
    if not webui.persistent(container):
        return True
    mine = {**dict.fromkeys(OLLAMAS, kept.ollama_urls), "COMFYUI_BASE_URL": kept.comfyui_url}
    return mine.get(key) is None


def _leads_to(host: Host, url: str) -> str:
    found = webui.address(url)
    return webui.leads_to(host, url) if found is not None and found.scheme in SECURE else ""


def _speaks_tls(case: Case, name: str) -> bool:
    """Somebody put something that does in front of it."""
    answer = case.here.https.get(name)
    if not isinstance(answer, Http):
        return False
    said = answer.error.lower()  # an alert is an answer in TLS, too
    return answer.status == 200 or "alert" in said or said.startswith(("tlsv1", "sslv3"))


# ---- what is said of it


def _finding(case: Case, where: str, places: list[Place]) -> Finding:
    owners = " and ".join(dict.fromkeys(TITLES[place.owner] for place in places))
    to = " and ".join(dict.fromkeys(TITLES[place.leads_to] for place in places))
    lines = [f"{place.key} = {place.url}" for place in places]
    proof = [said for name in dict.fromkeys(place.leads_to for place in places) if (said := _proof(case, name))]
    evidence = "; ".join([*lines, *proof])
    explains: tuple[str, ...] = ()
    if any(place.leads_to == "ollama" and place.owner == "openwebui" and place.counts for place in places):
        explains = ("openwebui-ollama.*",)
    if where == "inventory":
        level: Level = "fail" if any(place.counts for place in places) else "warn"
        values = "; ".join(f'[hosts.{case.host.name}.{p.owner}.env] {p.key} = "{_plain(case.host, p)}"' for p in places)
        mend = f"in hosts.toml: {values}; then invoke bringup --host {case.host.name}"
        text = f"hosts.toml has {owners} speak https to {to}: there is http only"
        return Finding(f"{ID}.inventory", level, text, evidence, mend, SOURCE, explains)
    text = f"{owners} speaks https to {to} by its {where}: there is http only"
    return Finding(f"{ID}.{where}", "fail", text, evidence, command(case, ID), SOURCE, explains)


def _proof(case: Case, name: str) -> str:
    """Both schemes tried through SSH."""
    secure, plain = case.here.https.get(name), case.here.http.get(name)
    port = case.host.service(name).port
    said = []
    if isinstance(secure, Http) and secure.error:
        said.append(f"https://127.0.0.1:{port} from here: {secure.error}")
    if isinstance(plain, Http) and plain.status:
        said.append(f"http://127.0.0.1:{port}: {plain.status} {plain.reason}".rstrip())
    return ", ".join(said)


def _is_meant(case: Case) -> bool:
    """Whether the given address is https and leads to a service of ours."""
    name = _leads_to(case.host, case.choices.url)
    return bool(name) and not _speaks_tls(case, name)


def _given(case: Case) -> Finding:
    name = webui.leads_to(case.host, case.choices.url)
    port = case.host.service(name).port
    found = webui.address(case.choices.url)
    assert found is not None
    rest = re.split(r"[?#]", found.rest)[0]  # what follows may be a key
    right = f"{'ws' if found.scheme == 'wss' else 'http'}://127.0.0.1:{port}{rest}"
    text = f"{TITLES[name]} speaks http only: use {right}, on the host or through `invoke tunnel {name}`"
    return Finding(f"{ID}.url", "fail", text, _proof(case, name), right, SOURCE)


def _reason(case: Case, findings: list[Finding]) -> str:
    url = case.choices.url
    if not url:
        return "nothing here speaks https to a service; --url ADDRESS judges the address that somebody tried"
    shown, found = webui.clean(url).replace("***@", "")[:200], webui.address(url)
    name = webui.leads_to(case.host, url) if found else ""
    if findings:
        return "there is nothing to change on the host: the address is what is wrong"
    if found is None or found.scheme not in ("", "http", "ws", *SECURE):
        return f"{shown!r} is no address of a service"
    if not name:
        services = ", ".join(f"http://127.0.0.1:{case.host.service(one).port}" for one in SERVICES)
        return f"{shown} is none of the services of {case.host.name}, which are {services}"
    if found.scheme in SECURE:
        return f"{shown} answers with TLS: it is not this"
    return f"{shown} is spoken to with http, which is right: `wrong version number` does not come from there"
