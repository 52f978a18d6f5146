"""ComfyUI, sections 4 to 7 of the procedure."""

from __future__ import annotations

from pantheon import service
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "comfy"


def plan(host: Host, facts: Facts, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> SectionPlan:
    """What brings comfy to what hosts.toml says; `before` and `after` name the sections applied
    ahead and behind."""
    return service.plan(host, facts, NAME, before=before, after=after)


def check(host: Host, facts: Facts) -> list[Finding]:
    """Whether comfy is there, Up, healthy and alone on its port."""
    return service.check(host, facts, NAME)
