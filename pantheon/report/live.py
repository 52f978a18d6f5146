"""What is shown while it goes on: the steps of an apply, and services that are on their way up."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.spinner import Spinner
from rich.text import Text

from pantheon.firstrun import STAGES
from pantheon.inventory import Host
from pantheon.plan import Change, Mend, Plan, Run, Step
from pantheon.report.journal import Journal
from pantheon.report.text import NAME_WIDTH, STYLE, Pull, clean, clock, count
from pantheon.watched import Watched

if TYPE_CHECKING:
    from pantheon.report.console import Console


class Applying:
    """The steps of an apply as they run: drawn on a terminal, a line for each section elsewhere."""

    def __init__(self, console: Console, host: Host, plan: Plan, what: str) -> None:
        self._console, self._title, self._host = console, f"{what} {host.name}", host.name
        self.journal = Journal(host.name, what)
        self.journal.plan(plan)
        self._began = time.monotonic()
        self._sections = [section for section in plan.sections if section.changes]
        self._steps = [
            (section.name, change, step)
            for section in self._sections
            for change in section.changes
            for step in change.steps
        ]
        self._left = {s.name: sum(len(change.steps) for change in s.changes) for s in self._sections}
        self._current = self._detail = self._result = self._waited = ""
        self._pull = Pull()

    def on_event(self, frame: dict[str, Any]) -> None:
        self.journal.line(json.dumps(frame, ensure_ascii=False))
        kind = frame["frame"]
        if kind == "step":
            section, change, step = self._steps[frame["index"]]
            if section != self._current:
                self._plain("·", section, change.what)
            self._current, self._detail, self._pull = section, _doing(change, step), Pull()
            self._result = ""
        elif kind == "out":
            self._result = frame["line"]
            self._detail = self._pull.line(frame["line"]) or self._detail
            self._wait(frame)
        elif kind == "warning":
            self._console.line("!", self._host, frame["text"])
        elif kind == "done":
            section, _, step = self._steps[frame["index"]]
            if isinstance(step, Mend) and self._result:  # its last line says what came of it
                self._console.line("·", section, self._result)
            self._left[section] -= 1
            if not self._left[section]:
                self._plain("✓", section, self._count(section))

    def _wait(self, frame: dict[str, Any]) -> None:
        """What work on the host waits for is said at once, in a pipe too: each thing once, whatever the seconds."""
        line, waited = frame["line"], frame["line"].rpartition(" (")[0]
        if line.startswith("waiting for ") and waited != self._waited:
            self._waited = waited
            self._plain("·", self._steps[frame["index"]][0], line)

    def _plain(self, sign: str, section: str, text: str) -> None:
        if not self._console.out.is_terminal:
            self._console.line(sign, section, text)

    def _count(self, name: str) -> str:
        return count(next(len(s.changes) for s in self._sections if s.name == name), "change")

    def __rich__(self) -> RenderableType:
        rows: list[RenderableType] = [_title(self._console, self._title, self._began)]
        for section in self._sections:
            name = f"{section.name:<{NAME_WIDTH}}"
            if not self._left[section.name]:
                rows.append(Text.assemble(("✓", "green"), f" {name} {self._count(section.name)}"))
            elif section.name == self._current:
                room = max(20, self._console.out.width - NAME_WIDTH - 4)
                rows.append(Spinner("dots", Text(f"{name} {self._detail[:room]}")))
        return Group(*rows)


def _doing(change: Change, step: Step) -> str:
    """What a step does, in a few words, until its own output says more."""
    if isinstance(step, Run) and "pull" in step.argv:
        return "pulling"
    if isinstance(step, Run) and "up" in step.argv:
        return "starting"
    return change.what


class Watching:
    """The services on their way up; ComfyUI's first run with its stages (§7)."""

    def __init__(self, console: Console, host: Host, what: str, services: tuple[str, ...]) -> None:
        self._console, self._title, self._services = console, f"{what} {host.name}", services
        self._host = host.name
        self._began = time.monotonic()
        self._watched: dict[str, Watched] = {}
        self._last: dict[str, str] = {}
        self._normal = ", 10-20 min is normal"  # said once, with the first stage that is seen (§7)

    def on_services(self, watched: dict[str, Watched]) -> None:
        self._watched = watched
        if self._console.out.is_terminal:
            return
        for name, now in watched.items():
            text = _state(name, now)
            if self._last.get(name) != text:
                self._last[name] = text
                elapsed = clock(time.monotonic() - self._began)
                normal = ""
                if name == "comfy" and now.progress.stage and not now.ready:
                    normal, self._normal = self._normal, ""
                self._console.line(
                    "✓" if now.ready else "✗" if now.trouble else "·", name, f"{text} ({elapsed}{normal})"
                )

    def __rich__(self) -> RenderableType:
        rows: list[RenderableType] = [_title(self._console, self._title, self._began)]
        waiting = False
        for name, now in self._watched.items():
            if now.ready or now.trouble:
                sign = "✓" if now.ready else "✗"
                rows.append(Text.assemble((sign, STYLE[sign]), f" {name:<{NAME_WIDTH}} {_state(name, now)}"))
                continue
            waiting = True
            elapsed = clock(time.monotonic() - self._began)
            normal = f", {elapsed} (10-20 min is normal)" if name == "comfy" else f", {elapsed}"
            rows.append(Spinner("dots", Text(f"{name:<{NAME_WIDTH}} {_state(name, now)}{normal}")))
            if now.progress.detail:
                room = max(20, self._console.out.width - NAME_WIDTH - 4)
                rows.append(Text(f"  {'':<{NAME_WIDTH}} {clean(now.progress.detail)[:room]}", "dim"))
        if waiting:
            name = "comfy" if "comfy" in self._services else self._services[0]
            resume = f"invoke {name} --host {self._host}"
            rows.append(Text(f"Ctrl-C stops watching, not the services. Resume: {self._console.typed(resume)}", "dim"))
        return Group(*rows)


def _state(name: str, watched: Watched) -> str:
    if watched.trouble:
        return clean(watched.trouble)
    if name == "comfy" and not watched.ready and watched.progress.stage:
        return f"{watched.progress.stage}/{len(STAGES)} {watched.progress.label}"
    return watched.state


def _title(console: Console, text: str, began: float) -> Text:
    elapsed = clock(time.monotonic() - began)
    room = max(1, min(console.out.width, 80) - len(text) - len(elapsed))
    return Text.assemble((text, "bold"), " " * room, (elapsed, "dim"))
