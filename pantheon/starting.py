"""ComfyUI's container while it starts, or fails to: whether it can go on, and what its log says of it. No I/O."""

from __future__ import annotations

from pantheon import firstrun, foreign, service
from pantheon.facts import Container
from pantheon.incident import Case


def ours(case: Case) -> Container | None:
    container = foreign.named(case.facts, "comfy")
    return container if container is not None and foreign.is_ours(case.host, container) else None


def is_well(container: Container) -> bool:
    """Whether it can be used, or, where it has no healthcheck (others start it so), may still get there."""
    if container.state != "running" or service.is_crash_loop(container):
        return False
    unchecked = not container.restarts or firstrun.read(_now(container)).ready
    return container.health == "healthy" or (container.health is None and unchecked)


def is_failing(case: Case, container: Container) -> bool:
    """Whether it cannot go on as it is. A first run that is under way is well; one that was stopped is not asked."""
    if is_well(container):
        return False
    if container.state in ("restarting", "dead") or service.is_crash_loop(container):
        return True
    said, before = firstrun.read(_now(container)), firstrun.read(_before(case, container))
    return container.health == "unhealthy" or (not said.ready and bool(said.fatal or before.fatal))


def lines(case: Case, container: Container) -> list[str]:
    """What is at hand of its log since it last failed: of this start, after that of the one before, where this one has
    not come further yet."""
    return list(dict.fromkeys((*_before(case, container), *_now(container))))


def last_words(case: Case, container: Container) -> list[str]:
    """What stands right above its end, of this start or of the one before."""
    now = container.log if isinstance(container.log, tuple) else ()
    before = _before(case, container)
    return firstrun.last_words(before if before and not firstrun.read(now).fatal else now)


def _now(container: Container) -> list[str]:
    log = [lines for lines in (container.log_markers, container.log) if isinstance(lines, tuple)]
    return list(dict.fromkeys(line for lines in log for line in lines))


def _before(case: Case, container: Container) -> tuple[str, ...]:
    evidence = case.evidence
    before = evidence.comfy_before if container.name == "comfy" else evidence.others_before.get(container.name)
    if not isinstance(before, tuple) or is_well(container):
        return ()
    then, now = firstrun.read(before), firstrun.read(_now(container))
    return () if now.ready or (now.stage > then.stage and then.fatal) else before
