"""Open WebUI, sections 4 and 5 of the procedure."""

from __future__ import annotations

from dataclasses import replace

from pantheon import advice, foreign, layout, service
from pantheon.facts import Facts, Unknown
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "openwebui"


def plan(host: Host, facts: Facts, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> SectionPlan:
    """What brings openwebui to what hosts.toml says; `before` and `after` name the sections applied
    ahead and behind."""
    section = service.plan(host, facts, NAME, before=before, after=after)
    lost = _key_at_stake(host, facts)
    return replace(section, changes=(), blocked=(*section.blocked, lost)) if lost else section


def _key_at_stake(host: Host, facts: Facts) -> Finding | None:
    """The key is gone while the server still signs with it: a new one would log everybody out at its next start."""
    container, path = foreign.named(facts, NAME), layout.secret_key(host)
    file = facts.files.get(path)
    if container is None or not foreign.is_ours(host, container) or container.state != "running":
        return None
    if isinstance(file, Unknown) or (file is not None and file.size):
        return None
    text = "the login key is gone, and the running server alone still has it"
    return Finding(f"{NAME}.key", "fail", text, path, advice.fix(host.name, "openwebui-logins"), "procedure §4")


def check(host: Host, facts: Facts) -> list[Finding]:
    """Whether openwebui is there, Up, healthy and alone on its port."""
    return service.check(host, facts, NAME)
