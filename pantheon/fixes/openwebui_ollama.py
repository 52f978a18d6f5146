"""Open WebUI shows no models: it has another address than Ollama's, is not on its network, or Ollama does not answer.

What counts is what curl says inside Open WebUI's container. An address that somebody set on purpose and that answers is
no fault, wherever it leads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pantheon import foreign, service, stack, webui
from pantheon.evidence import WebuiSettings
from pantheon.facts import Container, Http, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.plan import Change, Guard, Run, SectionPlan

ID = "openwebui-ollama"
CAUSE = "Open WebUI is told of another address than http://ollama:11434, or does not reach that one"
RISK = (
    "Open WebUI stops for about a minute, and Ollama too where it hangs. Accounts, chats and models are not touched: "
    "of the database only the wrong addresses change, and a copy is kept beside it."
)
SOURCE = "procedure §4"
RESTART_S = 120
REFUSED = "from inside the container the host's 127.0.0.1 is out of reach"


@dataclass(frozen=True)
class Tried:
    """Ollama's addresses in use, by what became of them. `unclear` could not be tried."""

    works: tuple[str, ...]
    wrong: tuple[str, ...]
    dead: tuple[str, ...]
    unclear: tuple[str, ...]
    says: dict[str, str]


def diagnose(case: Case) -> list[Finding]:
    findings = _of_its_settings(case)
    stopped = webui.broke_off(case, ID) if not any(finding.level == "fail" for finding in findings) else None
    return [stopped, *findings] if stopped else findings


def _of_its_settings(case: Case) -> list[Finding]:
    found = webui.container(case)
    if found is None or webui.is_starting(case, found):
        return _while_it_migrates(case)
    force = webui.in_force(case, found)
    if force is None:
        return _unread(case, found)
    if found.state == "running" and not force.used:
        return [_switched_off(case, force)]
    tried = _try(case, force.used, running=found.state == "running")
    if tried.wrong:
        return [_wrong_address(case, force, tried)]
    if found.state != "running":
        return []
    if tried.dead and not tried.works:
        if any(webui.is_right(url) for url in tried.dead):
            return _between(case, found, next(tried.says[url] for url in tried.dead if webui.is_right(url)))
        if not tried.unclear:
            return [_wrong_address(case, force, replace(tried, wrong=tried.dead))]
    return [_dead_one(url, tried.says[url]) for url in tried.dead]


def _try(case: Case, urls: tuple[str, ...], *, running: bool) -> Tried:
    """One that answers is never wrong. One that does not, or could not be tried, is wrong where it means our Ollama and
    is not its address; `localhost` and the like can never work from inside."""
    works, wrong, dead, unclear, says = [], [], [], [], {}
    for url in dict.fromkeys(urls):
        answers, says[url] = webui.answer(case, url) if running else (None, "")
        if answers:
            works.append(url)
        elif webui.leads_to(case.host, url) == "ollama" and not webui.is_right(url):
            wrong.append(url)
        elif answers is None:
            unclear.append(url)
        else:
            dead.append(url)
    if any(webui.leads_to(case.host, url) == "ollama" for url in works):
        dead, wrong = dead + wrong, []  # it has our Ollama: the others are a nuisance, no fault
    return Tried(tuple(works), tuple(wrong), tuple(dead), tuple(unclear), says)


def _while_it_migrates(case: Case) -> list[Finding]:
    """Nothing is judged while it starts. What is certain all the same is said as a warning: it waits for its moment."""
    found = webui.container(case)
    if found is None or not webui.migration(case) or not _certain(case, found):
        return []
    return [replace(webui.not_now(case, ID), level="warn")]


def _certain(case: Case, found: Container) -> bool:
    force = webui.in_force(case, found)
    return force is not None and bool(_try(case, force.used, running=False).wrong)


def _unread(case: Case, found: Container) -> list[Finding]:
    """The database decides and could not be read."""
    markers = found.log_markers if isinstance(found.log_markers, tuple) else ()
    complaint = next((line for line in reversed(markers) if "Cannot connect to host" in line), "")
    if found.state != "running":
        return []
    evidence = case.evidence.webui.reason if isinstance(case.evidence.webui, Unknown) else ""
    evidence += f"; its log says: {complaint}" if complaint else ""
    mend = case.host.ssh(f"docker logs --tail=50 {webui.NAME}")
    text = "which Ollama Open WebUI is told of: not known"
    return [Finding(f"{ID}.settings", "unknown", text, evidence, mend, SOURCE)]


def _wrong_address(case: Case, force: webui.InForce, tried: Tried) -> Finding:
    kept = case.evidence.webui
    where = "its database" if force.where == "database" else "its environment"
    lines = [f"{url}: {tried.says[url] or 'it is not the address of ours'}" for url in tried.wrong]
    names = [found.host for url in tried.wrong if (found := webui.address(url))]
    if any(name in webui.HERE or name.startswith("127.") for name in names):
        lines.append(REFUSED)
    if force.where == "database" and isinstance(kept, WebuiSettings):
        lines.append(kept.path)
    text = f"Open WebUI is told of a wrong Ollama, in {where}"
    if not any(webui.leads_to(case.host, url) for url in tried.wrong):
        text = f"Open WebUI is told, in {where}, of an Ollama that does not answer"
        lines.append("it is not the one of this host, which the fix puts in its place")
    mend = command(case, ID)
    return Finding(f"{ID}.{force.where}", "fail", text, "; ".join(lines), mend, SOURCE)


def _dead_one(url: str, says: str) -> Finding:
    text = f"{url}, one of Ollama's addresses in Open WebUI, does not answer"
    return Finding(f"{ID}.other", "warn", text, says, "Open WebUI, Admin Settings, Connections", SOURCE)


def _switched_off(case: Case, force: webui.InForce) -> Finding:
    """A user with another provider may have meant it."""
    kept = case.evidence.webui
    other = isinstance(kept, WebuiSettings) and force.where == "database" and kept.openai_enabled is True
    text = "Open WebUI's connection to Ollama is switched off"
    evidence = f"ollama.enable is {str(force.enabled).lower()} in its {force.where}"
    there = [url for url in force.urls if url.strip()]
    if force.enabled and there:
        evidence = f"switched off in its {force.where}: {', '.join(there)}"
    elif force.enabled:
        text, evidence = "Open WebUI has no address of an Ollama", f"the list is empty in its {force.where}"
    return Finding(f"{ID}.switched-off", "warn" if other else "fail", text, evidence, command(case, ID), SOURCE)


def _between(case: Case, found: Container, says: str) -> list[Finding]:
    """The address is right, and nothing answers there."""
    ollama = foreign.named(case.facts, "ollama")
    wanted = f"{case.host.project}_{stack.wanted(case.host, 'ollama').network}"
    up = ollama is not None and ollama.state == "running"
    apart = [c for c in (found, ollama) if up and c is not None and wanted not in c.networks]
    if apart:
        names = " and ".join(c.name for c in apart)
        evidence = "; ".join(f"{c.name} is on {', '.join(c.networks) or 'no network'}" for c in apart)
        explains = tuple(f"{c.name}.{what}" for c in apart for what in ("up", "http", "http-here"))
        return [
            Finding(
                f"{ID}.network",
                "fail",
                f"{names} is not on the network {wanted}",
                f"{evidence}; inside Open WebUI: {says}",
                command(case, ID),
                SOURCE,
                explains=(*explains, *(f"browser-access.{c.name}*" for c in apart)),
            )
        ]
    if ollama is None or not up:
        state = f"{ollama.state}, exit code {ollama.exit_code}" if ollama else "there is no container"
        mend = f"invoke ollama --host {case.host.name}"
        return [Finding(f"{ID}.down", "fail", "Ollama is not running", f"{state}; {says}", mend, SOURCE)]
    if ollama.health == "starting":
        return []
    if ollama.health == "unhealthy" or not _answers(case):
        follow = ("ollama.up", "ollama.http", "ollama.http-here", "browser-access.ollama*")
        evidence = f"{ollama.state}, {ollama.health}; inside Open WebUI: {says}"
        return [
            Finding(
                f"{ID}.hangs", "fail", "Ollama runs and does not answer", evidence, command(case, ID), SOURCE, follow
            )
        ]
    mend = case.host.ssh("sudo systemctl restart docker") + ", which makes the engine's network rules anew"
    text = "Ollama answers on the host, and not to Open WebUI on the same network"
    return [Finding(f"{ID}.unreachable", "fail", text, says, mend, SOURCE)]


def _answers(case: Case) -> bool:
    answer = case.facts.http.get("ollama")
    return isinstance(answer, Http) and answer.status == 200


def plan(case: Case) -> SectionPlan:
    findings = [finding for finding in diagnose(case) if finding.level == "fail"]
    waiting = [finding for finding in diagnose(case) if finding.id == f"{ID}.migration"]
    if waiting:
        return SectionPlan(ID, blocked=(webui.not_now(case, ID),))
    if not findings:
        return SectionPlan(ID, reason=_reason(case))
    finding, found = findings[0], webui.container(case)
    if finding.id == f"{ID}.stopped":
        return replace(service.as_in_hosts_toml(case.host, case.facts, webui.NAME), name=ID)
    assert found is not None
    what = finding.id.removeprefix(f"{ID}.")
    if what == "network":
        apart = [name for name in ("ollama", "openwebui") if name in finding.text.split(" is not")[0]]
        return replace(service.as_in_hosts_toml(case.host, case.facts, *apart), name=ID)
    if what == "hangs":
        guard = Guard("container", "ollama", case.facts.reading("container", "ollama"))
        step = Run(("docker", "restart", "-t", "5", "ollama"), guards=(guard,), timeout_s=RESTART_S)
        change = Change("restart ollama", "it runs and does not answer", (step,), stops=("ollama",))
        return SectionPlan(ID, (change,))
    if what in ("database", "environment", "switched-off"):
        return _settings(case, found)
    return SectionPlan(ID, blocked=(finding,))


def _reason(case: Case) -> str:
    found = webui.container(case)
    if found is None:
        return "there is no Open WebUI of ours on this host"
    if webui.is_starting(case, found):
        return "Open WebUI is still starting"
    force = webui.in_force(case, found)
    good = [url for url in force.used if webui.answer(case, url)[0]] if force else []
    return f"Open WebUI reaches {', '.join(good)}" if good else "nothing shows that Open WebUI misses its Ollama"


def _settings(case: Case, found: Container) -> SectionPlan:
    """The environment comes from our own file again. The database rules once that is so, and is put right with it."""
    force = webui.in_force(case, found)
    assert force is not None
    changes = _in_the_database(case, force)
    made = (webui.change(case, changes, "the database beats the environment (DOMAIN.md)"),) if changes else ()
    if force.where == "database":
        return SectionPlan(ID, made, starts=("openwebui",))
    name, told = "OLLAMA_BASE_URLS" if force.enabled else "ENABLE_OLLAMA_API", stack.wanted(case.host, "openwebui").env
    if name in told and webui.clean(webui.told(found, name) or "") == webui.clean(told[name]):
        text = f"hosts.toml says so: [hosts.{case.host.name}.openwebui.env] {name} = {webui.clean(told[name])!r}"
        mend = f"take that line out of hosts.toml, then invoke openwebui --host {case.host.name}"
        return SectionPlan(ID, blocked=(Finding(f"{ID}.inventory", "fail", text, mend=mend),))
    section = service.as_in_hosts_toml(case.host, case.facts, "openwebui")
    changes_too = (*made, *section.changes) if not section.blocked else ()
    return replace(section, name=ID, changes=changes_too)


def _in_the_database(case: Case, force: webui.InForce) -> list[dict[str, object]]:
    """What is wrong among the addresses that will be in use, those that are switched on by it included."""
    kept, found = case.evidence.webui, webui.container(case)
    if not isinstance(kept, WebuiSettings) or kept.ollama_urls is None:
        return []
    there = tuple(url for url in kept.ollama_urls if url.strip())
    if not there:
        first: dict[str, object] = {"key": "ollama.base_urls", "to": [webui.OLLAMA]}
        return [first, *_switched_on(force, kept)]
    used = tuple(url for url in there if url not in kept.ollama_off)
    mine = tuple(url for url in there if webui.leads_to(case.host, url) == "ollama") or there[:1]
    tried = _try(case, used or mine, running=found is not None and found.state == "running")
    wrong = tried.wrong
    # With the environment in force, an address of somebody else's is not in use now, and no fault of today's.
    if force.where == "database" and not (wrong or tried.works or tried.unclear):
        wrong = tuple(url for url in tried.dead if not webui.is_right(url))
    changes: list[dict[str, object]] = [{"key": "ollama.base_urls", "from": u, "to": webui.OLLAMA} for u in wrong]
    changes += _switched_on(force, kept)
    if not used:
        on = {webui.OLLAMA if url in wrong else url: True for url in mine}
        changes.append({"key": "ollama.api_configs", "to": on})
    return changes


def _switched_on(force: webui.InForce, kept: WebuiSettings) -> list[dict[str, object]]:
    off = not force.enabled
    if force.where == "environment":
        off = kept.ollama_enabled is False and kept.openai_enabled is not True
    return [{"key": "ollama.enable", "to": True}] if off else []
