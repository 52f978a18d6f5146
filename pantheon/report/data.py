"""The same as data: JSON on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole

from pantheon.errors import PantheonError
from pantheon.finding import Finding
from pantheon.inventory import Host
from pantheon.plan import Plan
from pantheon.report.console import Console

if TYPE_CHECKING:
    from pantheon.audit import Audit
    from pantheon.clues import Matches
    from pantheon.diagnosis import Diagnosis
    from pantheon.tunnel import Seen


def write(document: object) -> None:
    """One JSON document on stdout."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():  # a terminal may be reading along: as JSON has them, as escapes
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Text on stdout as it is, for a file or a pipe."""
    sys.stdout.write(text)
    sys.stdout.flush()


def failure(problem: PantheonError) -> None:
    """The document of a command that failed, for a script: what stderr says in words."""
    write(
        {
            "result": "failed",
            "kind": type(problem).__name__,
            "error": problem.message,
            "details": list(problem.details),
            "next": list(problem.next_commands),
            "exit_code": problem.exit_code,
        }
    )


class Json(Console):
    """A Report whose answers are JSON. What a person would watch goes to stderr."""

    def __init__(self) -> None:
        super().__init__(RichConsole(stderr=True, highlight=False))
        self._plan: dict[str, object] | None = None
        self._fix: dict[str, object] | None = None
        self._survival: dict[str, object] | None = None

    def plan(
        self, host: Host, plan: Plan, warnings: list[Finding], *, took_s: float, details: bool, final: bool
    ) -> None:
        del details  # data is always complete
        self.settled()
        self._plan = {
            "hash": plan.hash,
            "changes": len(plan.changes),
            "stops": list(plan.stops),
            **plan.as_data(),
            "warnings": [vars(finding) for finding in warnings],
        }
        if final:
            self._write(host, "blocked" if plan.blocked else "planned", [], took_s)

    def nothing_to_do(self, host: Host, findings: list[Finding], *, took_s: float) -> None:
        self.settled()
        self._write(host, "nothing to do", findings, took_s)

    def done(self, host: Host, plan: Plan, findings: list[Finding], *, took_s: float) -> None:
        del plan
        self.settled()
        self._write(host, "done", findings, took_s)

    def findings(self, host: Host, title: str, findings: list[Finding], *, took_s: float) -> None:
        self.settled()
        self._write(host, title, findings, took_s)

    def diagnosis(self, host: Host, found: Diagnosis, *, took_s: float) -> None:
        self.settled()
        write({"host": host.name, "result": "diagnosis", "took_s": round(took_s, 3), **found.as_data()})

    def audit(self, audit: Audit, form: str) -> None:
        del form  # auditing.py refuses one beside --json
        self.settled()
        write(audit.as_data())

    def entry(self, host: Host, name: str, findings: list[Finding], risk: str) -> None:
        del host
        self.settled()
        shown = [vars(finding) for finding in findings]
        self._fix = {"entry": name, "risk": risk, "findings": shown, "running": []}

    def survival(self, host: Host, findings: list[Finding], ends: list[str], *, took_s: float) -> None:
        del host, took_s
        self.settled()
        self._survival = {"findings": [vars(finding) for finding in findings], "ends": ends, "running": []}

    def busy(self, host: Host, lines: list[str]) -> None:
        super().busy(host, lines)
        if self._survival is not None:
            self._survival["running"] = lines
        if self._fix is not None:
            self._fix["running"] = lines

    def tunnels(self, host: Host, result: str, seen: Sequence[Seen], failed: Mapping[str, PantheonError]) -> None:
        from pantheon.report.tunnels import as_data

        documents = [as_data(one, failed.get(one.service)) for one in seen]
        good = all(document["good"] for document in documents)
        write({"host": host.name, "result": result, "good": good, "tunnels": documents})

    def commands(self, host: Host, commands: Mapping[str, str]) -> None:
        write({"host": host.name, "result": "commands", "commands": dict(commands)})

    def matches(self, found: Matches, causes: dict[str, str]) -> None:
        document = found.as_data()
        matches: Any = document["matches"]
        for match in matches:
            name = match["entry"]
            match["cause"] = causes.get(name, "")
            match["next"] = [f"invoke fix.{name}", f"invoke runbook fix.{name}"]
        write({"result": "text", **document})

    def nothing_to_fix(self, host: Host, name: str, reason: str, *, took_s: float) -> None:
        self.settled()
        write(
            {
                "host": host.name,
                "result": "nothing to fix",
                "took_s": round(took_s, 3),
                "entry": name,
                "reason": reason,
                "findings": self._fix["findings"] if self._fix else [],
            }
        )

    def _write(self, host: Host, result: str, findings: list[Finding], took_s: float) -> None:
        document: dict[str, Any] = {"host": host.name, "result": result, "took_s": round(took_s, 3)}
        document |= self._fix or {}
        if self._survival is not None:
            document["survival"] = self._survival
        if self._plan is not None:
            document["plan"] = self._plan
        if self._fix is not None:  # `findings` are the entry's own; `left` is what else is not as it should be
            document["left"] = [vars(finding) for finding in findings if finding.level != "ok"]
            document["good"] = result == "done" and all(finding.is_good for finding in findings)
        elif findings:
            document["findings"] = [vars(finding) for finding in findings]
            document["good"] = all(finding.is_good for finding in findings)
        write(document)
