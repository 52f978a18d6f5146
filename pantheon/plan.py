"""What is going to be done to a host, as data: shown first, then applied, never computed again in between.

A Plan is made of sections, a section of Changes, a Change of Steps. A Step is one command (an argv, never a shell
line) or one file. Each Step carries Guards: readings of the host that it was planned on. The runner takes the same
readings again under the lock and stops when one differs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from dataclasses import dataclass
from typing import Literal

from pantheon.finding import Finding

GuardKind = Literal["path", "sha256", "mount", "container", "image"]


@dataclass(frozen=True)
class Guard:
    """`target` read as `kind` gave `reading` when the plan was made (see probe.reading for the kinds)."""

    kind: GuardKind
    target: str
    reading: str


@dataclass(frozen=True)
class Run:
    """One command on the host, without a shell. `timeout_s` is its deadline in seconds."""

    argv: tuple[str, ...]
    guards: tuple[Guard, ...] = ()
    timeout_s: int = 120
    progress: Literal["", "compose"] = ""  # "compose": stderr is Compose's JSON progress
    cwd: str = "/"

    def show(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Write:
    """One text file: written to a temporary name beside it, then renamed over. `before` is the text that it replaces
    ("" for a new file) and serves the diff only."""

    path: str
    text: str
    mode: int
    uid: int = 0
    gid: int = 0
    before: str = ""
    guards: tuple[Guard, ...] = ()
    secret: bool = False  # neither shown nor logged

    def show(self) -> str:
        size = len(self.text.encode())
        return f"write {shlex.quote(self.path)} ({size} bytes, mode {self.mode:04o}, {self.uid}:{self.gid})"

    def diff(self) -> str:
        """A unified diff, or a line that says that the file is secret."""
        if self.secret:
            return f"{self.path}: secret, not shown\n"
        return "".join(
            difflib.unified_diff(
                self.before.splitlines(keepends=True),
                self.text.splitlines(keepends=True),
                self.path if self.before else "/dev/null",
                self.path,
            )
        )


@dataclass(frozen=True)
class MakeSecret:
    """A random key made on the host, once: an existing file is never touched, and the key never leaves the host."""

    path: str
    size: int = 32  # bytes of randomness, written as hex
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    guards: tuple[Guard, ...] = ()

    def show(self) -> str:
        return f"make a random key in {shlex.quote(self.path)} (mode {self.mode:04o}, kept if it is there)"


@dataclass(frozen=True)
class Mend:
    """Work that no single command does: the module pantheon/mending/NAME, run on the host as a program of its own with
    `arguments` (JSON-ready, no secrets), its lines shown as they come. `says` tells in words what it does."""

    name: str
    arguments: dict[str, object]
    says: str
    guards: tuple[Guard, ...] = ()
    timeout_s: int = 600

    def show(self) -> str:
        return f"{self.says} (pantheon/mending/{self.name}.py)"


@dataclass(frozen=True)
class EndRun:
    """End the run of pantheon that holds the host's lock, so that this plan can take it: the process `pid` that began
    at `started`, for the run of that id. All three are read again on the host first. Only as the first step of all."""

    pid: int
    started: str
    run: str
    guards: tuple[Guard, ...] = ()
    timeout_s: int = 60

    def show(self) -> str:
        return f"end process {self.pid} and what it runs (SIGTERM; SIGKILL if it does not end in {int(END_S)} s)"


END_S = 12.0  # how long a run that is asked to end may take to tidy up

Step = Run | Write | MakeSecret | Mend | EndRun


@dataclass(frozen=True)
class Change:
    """One thing that will be different afterwards: `what` in a line, `why` with the section of the procedure."""

    what: str
    why: str
    steps: tuple[Step, ...]
    stops: tuple[str, ...] = ()  # services that stop or restart for a moment
    sign: Literal["+", "~", "-"] = "~"  # new, changed, removed (only what can be made again)


@dataclass(frozen=True)
class SectionPlan:
    """`reason` says why there is nothing to do; `blocked` holds the findings that forbid doing anything; `waits`:
    blocked by what another section has said already."""

    name: str
    changes: tuple[Change, ...] = ()
    reason: str = ""
    blocked: tuple[Finding, ...] = ()
    waits: bool = False
    starts: tuple[str, ...] = ()  # services to be followed until they answer, besides those that the changes stop
    notes: tuple[str, ...] = ()  # lines that are shown with it: what is done where, for each part of it
    reboots: bool = False  # the host goes down with the last change, and is waited for (reboot.py)

    @property
    def is_ready(self) -> bool:
        """Nothing to do and nothing in the way."""
        return not self.changes and not self.blocked


@dataclass(frozen=True)
class Plan:
    """`hash` identifies exactly what was shown; the host's audit log records it."""

    host: str
    sections: tuple[SectionPlan, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for section in self.sections for change in section.changes)

    @property
    def blocked(self) -> tuple[Finding, ...]:
        return tuple(finding for section in self.sections for finding in section.blocked)

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for change in self.changes for name in change.stops))

    @property
    def ends(self) -> EndRun | None:
        """The run of somebody else that this plan ends before it begins."""
        first = next((step for change in self.changes for step in change.steps), None)
        return first if isinstance(first, EndRun) else None

    @property
    def is_empty(self) -> bool:
        return not self.changes and not self.blocked

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.as_data(reveal=True), sort_keys=True).encode()).hexdigest()[:16]

    def as_data(self, *, reveal: bool = False) -> dict[str, object]:
        """The plan as JSON-ready data. `reveal` includes the text of secret files: for the runner only."""
        return {
            "host": self.host,
            "sections": [
                {
                    "name": section.name,
                    "reason": section.reason,
                    "waits": section.waits,
                    "notes": list(section.notes),
                    "blocked": [vars(finding) for finding in section.blocked],
                    "changes": [
                        {
                            "what": change.what,
                            "why": change.why,
                            "sign": change.sign,
                            "stops": list(change.stops),
                            "steps": [step_data(step, reveal=reveal) for step in change.steps],
                        }
                        for change in section.changes
                    ],
                }
                for section in self.sections
            ],
        }


def step_data(step: Step, *, reveal: bool) -> dict[str, object]:
    """One step as JSON-ready data, the form in which the runner gets it."""
    guards = [vars(guard) for guard in step.guards]
    if isinstance(step, Run):
        return {
            "run": list(step.argv),
            "timeout_s": step.timeout_s,
            "cwd": step.cwd,
            "progress": step.progress,
            "guards": guards,
        }
    if isinstance(step, Mend):
        return {
            "mend": step.name,
            "arguments": step.arguments,
            "timeout_s": step.timeout_s,
            "cwd": "/",
            "guards": guards,
        }
    if isinstance(step, EndRun):
        about = {"pid": step.pid, "started": step.started, "run": step.run, "patience_s": END_S}
        return {"end_run": about, "timeout_s": step.timeout_s, "cwd": "/", "guards": guards}
    if isinstance(step, MakeSecret):
        return {
            "make_secret": step.path,
            "size": step.size,
            "mode": step.mode,
            "uid": step.uid,
            "gid": step.gid,
            "guards": guards,
        }
    text = step.text if reveal or not step.secret else None
    return {
        "write": step.path,
        "text": text,
        "sha256": hashlib.sha256(step.text.encode()).hexdigest() if not step.secret else None,
        "mode": step.mode,
        "uid": step.uid,
        "gid": step.gid,
        "guards": guards,
    }
