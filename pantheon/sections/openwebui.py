"""Open WebUI, sections 4 and 5 of the procedure."""

from __future__ import annotations

from pantheon import service
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "openwebui"


def plan(host: Host, facts: Facts, *, before: tuple[str, ...] = ()) -> SectionPlan:
    """What brings openwebui to what hosts.toml says; `before` names the sections applied ahead."""
    return service.plan(host, facts, NAME, before=before)


def check(host: Host, facts: Facts) -> list[Finding]:
    """Whether openwebui is there, Up, healthy and alone on its port."""
    return service.check(host, facts, NAME)
