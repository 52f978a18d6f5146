"""Ollama, sections 4 and 5 of the procedure."""

from __future__ import annotations

from pantheon import service
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import SectionPlan

NAME = "ollama"


def plan(host: Host, facts: Facts, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> SectionPlan:
    """What brings ollama to what hosts.toml says; `before` and `after` name the sections applied
    ahead and behind."""
    return service.plan(host, facts, NAME, before=before, after=after)


def check(host: Host, facts: Facts) -> list[Finding]:
    """Whether ollama is there, Up, healthy and alone on its port."""
    return service.check(host, facts, NAME)
