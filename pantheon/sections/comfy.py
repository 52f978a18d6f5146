"""ComfyUI, sections 4 to 7 of the procedure."""

from __future__ import annotations

from pantheon import service
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "comfy"


def plan(host: Host, facts: Facts, *, before: tuple[str, ...] = ()) -> SectionPlan:
    """What brings comfy to what hosts.toml says; `before` names the sections applied ahead."""
    return service.plan(host, facts, NAME, before=before)


def check(host: Host, facts: Facts) -> list[Finding]:
    """Whether comfy is there, Up, healthy and alone on its port."""
    return service.check(host, facts, NAME)
