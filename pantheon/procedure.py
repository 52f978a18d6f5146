"""The procedure as a whole: its sections in order, and one plan for as many of them as were asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pantheon import service
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.plan import Plan, SectionPlan
from pantheon.sections import comfy, ollama, openwebui, prereqs, storage
from pantheon.takeover import moves

if TYPE_CHECKING:
    from pantheon.takeover.plan import Taking  # loaded for a takeover alone

# The order of the work: what others need first; ComfyUI last, because its first run takes longest (§7).
ORDER = ("prereqs", "storage", "ollama", "openwebui", "comfy")
_SERVICE = {"comfy": comfy, "ollama": ollama, "openwebui": openwebui}


def plan(host: Host, facts: Facts, names: tuple[str, ...], *, taking: Taking | None = None) -> Plan:
    """The plan for the named sections. Unmet prerequisites, or anything that blocks a section, block the whole run:
    nothing is touched by halves. With a takeover (all sections), what comes behind it is planned on the host as that
    leaves it."""
    names = tuple(name for name in ORDER if name in names)
    sections = [prereqs.plan(host, facts)]
    if taking:
        sections += taking.sections
        if taking.blocked:
            return Plan(host.name, _once(sections))
        facts = taking.facts
    done: tuple[str, ...] = ()
    for name in names:
        if name == "storage":
            sections += [] if taking else [storage.plan(host, facts)]
        elif name in SERVICES:
            if not set(done) & set(SERVICES):
                first = "storage" not in names and not moves.is_pending(host, facts)
                sections += _storage_first(host, facts, names) if first else []
                sections.append(service.common(host, facts))
            after = names[names.index(name) + 1 :]
            sections.append(_SERVICE[name].plan(host, facts, before=done, after=after))
        done = (*done, name)
    return Plan(host.name, _once(sections))


def check(host: Host, facts: Facts, names: tuple[str, ...]) -> list[Finding]:
    """The findings of the named sections on one look."""
    modules = {"prereqs": prereqs, "storage": storage, **_SERVICE}
    return [finding for name in ORDER if name in names for finding in modules[name].check(host, facts)]


def _storage_first(host: Host, facts: Facts, names: tuple[str, ...]) -> list[SectionPlan]:
    """A service alone never starts on directories that are not right: it says what to do first."""
    ahead = storage.plan(host, facts, services=tuple(name for name in names if name in SERVICES))
    if ahead.is_ready:
        return []
    todo = "; ".join(change.what for change in ahead.changes)
    text, mend = "the directories are not as §3 says", f"invoke storage --host {host.name}"
    first = Finding("storage.first", "fail", text, todo, mend, "procedure §3")
    return [SectionPlan("storage", blocked=ahead.blocked or (first,))]


def _once(sections: list[SectionPlan]) -> tuple[SectionPlan, ...]:
    """A finding that blocks several sections is shown with the first."""
    seen: set[str] = set()
    result = []
    for section in sections:
        blocked = tuple(finding for finding in section.blocked if finding.id not in seen)
        seen |= {finding.id for finding in blocked}
        waits = bool(section.blocked) and not blocked
        reason = "waits for the above" if waits else section.reason
        section = replace(section, blocked=blocked, waits=waits, reason=reason)
        result.append(section)
    return tuple(result)
