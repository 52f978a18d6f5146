"""What is still there after a takeover, and the commands that remove it: shown, never run."""

from __future__ import annotations

import shlex

from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.takeover.record import Record


def after(host: Host, facts: Facts, record: Record | None) -> list[Finding]:
    """What is kept of the old stack, once ours has been validated."""
    if record is None or record.stage != "ready":
        return []
    there = {c.id for c in facts.containers} if isinstance(facts.containers, tuple) else set()
    names = [one.kept for each in record.all() for one in each.containers if one.kept and one.id in there]
    sources = [
        place.source
        for each in record.all()
        for place in each.data
        if place.way == "copied" and not place.source.startswith("container:")
    ]
    sources = [one for one in sources if not any(one.startswith(f"{other}/") for other in sources)]
    found = []
    if names:
        text = f"kept, stopped, for the way back: {', '.join(names)}"
        evidence = (
            f"back: invoke bringup --undo --host {host.name}; `docker system prune` would remove them, "
            "with what lies in them alone"
        )
        remove = host.ssh(f"docker rm {shlex.join(names)}") + "   (when you are sure)"
        found.append(Finding("takeover.kept", "warn", text, evidence, remove))
    projects = {one.project for one in record.containers if one.kept in names and one.project}
    if record.kind == "move" and projects - {host.project}:
        networks = [f"{project}_{name}" for project in sorted(projects) for name in ("comfy", "llm")]
        text = f"the networks of the old project stay with them: {', '.join(networks)}"
        remove = host.ssh(f"docker network rm {shlex.join(networks)}") + "   (after the containers)"
        found.append(Finding("takeover.networks", "warn", text, mend=remove))
    if sources:
        text = f"copied, and still where it was: {', '.join(dict.fromkeys(sources))}"
        found.append(Finding("takeover.sources", "warn", text, "pantheon removes none of it"))
    return found


def after_undo(host: Host, facts: Facts, record: Record) -> list[Finding]:
    """What the takeover has left, once the old stack is back, and the takeover before it: it can be undone, too."""
    found = []
    if record.targets:
        text = f"the copies are still there: {', '.join(record.targets)}"
        evidence = "with what was written while ours ran; the next bringup that takes over sets them aside"
        found.append(Finding("takeover.copies", "warn", text, evidence))
    if (older := record.earlier) is not None:
        there = {c.id for c in facts.containers} if isinstance(facts.containers, tuple) else set()
        names = [one.kept for one in older.containers if one.kept and one.id in there]
        text = f"the {older.what} of {older.when or 'an earlier day'} can be undone, too"
        evidence = f"kept for that: {', '.join(names)}" if names else "none of the old containers is there any more"
        mend = f"invoke bringup --undo --host {host.name}   (once more; what it does is shown first)"
        found.append(Finding("takeover.earlier", "warn", text, evidence, mend))
    return found
