"""What an operator sees: a live display on a terminal, plain lines elsewhere. Nothing else in pantheon prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pantheon.errors import PantheonError
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.plan import EndRun, Mend, Plan, SectionPlan, Write
from pantheon.report import incidents
from pantheon.report.journal import Journal
from pantheon.report.live import Applying, Watching
from pantheon.report.text import NAME_WIDTH, STYLE, Pull, clean, count, seconds, typed
from pantheon.symptoms import SYMPTOMS
from pantheon.watched import Watched

if TYPE_CHECKING:
    from pantheon.audit import Audit
    from pantheon.clues import Matches
    from pantheon.diagnosis import Diagnosis
    from pantheon.tunnel import Seen

SIGN = {"ok": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


class Console:
    """A Report (engine.py) for people. `out` is where the answer goes, notes and progress included; `hosts_file` the
    one that was given, which commands to type repeat."""

    hosts_file = ""

    def __init__(self, out: RichConsole | None = None) -> None:
        self.out = out or RichConsole(highlight=False)
        self._live: Live | None = None
        self._waiting = ""
        self._journal: Journal | None = None
        self._entry: list[Finding] = []  # what a fix has shown already

    # ---- the parts of a screen

    def line(self, sign: str, name: str, text: str) -> None:
        """`✓ storage    text`: wrapped under itself on a terminal, one line in a pipe."""
        if not self.out.is_terminal:
            self.out.print(Text(f"{sign} {name:<{NAME_WIDTH}} {clean(text)}".rstrip()), soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=max(NAME_WIDTH, len(name)), no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(sign, STYLE.get(sign, "")), Text(name), Text(clean(text)))
        self.out.print(grid)

    def say(self, text: str = "", style: str = "") -> None:
        self.out.print(Text(clean(text), style), soft_wrap=True)

    def prose(self, head: str, text: str, style: str = "") -> None:
        """Words behind `head`, wrapped under themselves on a terminal. Not for commands: those stay in one piece, so
        that they can be copied."""
        if not self.out.is_terminal or not head:
            self.out.print(Text(f"{head}{clean(text)}", style), soft_wrap=not self.out.is_terminal)
            return
        grid = Table.grid()
        grid.add_column(width=len(head))
        grid.add_column(overflow="fold")
        grid.add_row(Text(head, STYLE.get(head.strip(), "")), Text(clean(text), style))
        self.out.print(grid)

    def headline(self, text: str, right: str = "") -> None:
        room = max(1, min(self.out.width, 80) - len(text) - len(right)) if right else 0
        self.out.print(Text.assemble((clean(text), "bold"), " " * room, (right, "dim")), soft_wrap=True)

    def next(self, commands: Iterable[str]) -> None:
        for number, command in enumerate(commands):
            self.out.print(Text(f"{'Next: ' if not number else '      '}{clean(self.typed(command))}"), soft_wrap=True)

    def typed(self, text: str) -> str:
        return typed(text, self.hosts_file)

    def finding(self, finding: Finding) -> None:
        """A finding with its evidence and what mends it."""
        self.prose(f"{SIGN[finding.level]} ", finding.text)
        if finding.level != "ok":
            source = f"  ({finding.source})" if finding.source else ""
            if finding.evidence:
                self.prose("    ", f"{finding.evidence}{source}", "dim")
            if finding.mend:
                self.say(f"    → {self.typed(finding.mend)}")

    # ---- Report

    def connecting(self, host: Host, what: str) -> None:
        self.show(Spinner("dots", Text(f"{what} {host.name}: looking")), stays=False)

    def plan(
        self, host: Host, plan: Plan, warnings: list[Finding], *, took_s: float, details: bool, final: bool
    ) -> None:
        del final
        self.settled()
        where = f"{host.user}@{host.address}" if host.user else host.address
        self.headline(f"PLAN {host.name} ({where})", f"looked {seconds(took_s)}")
        for finding in warnings:
            self.finding(finding)
        for section in plan.sections:
            self._section(section, details=details)
        if plan.blocked:
            self.say(f"Nothing on {host.name} was touched.")
            if incidents.is_fix(plan):
                self.next(dict.fromkeys(finding.mend for finding in plan.blocked if finding.mend))
            return
        if plan.is_empty:
            if incidents.is_fix(plan):  # what it found stands above: it could not be judged, or is no fault
                self.line("·", host.name, "nothing to change")
            else:
                self.line("✓", host.name, "nothing to do")
            return
        for_good = any(section.changes for section in plan.sections if section.name in ("takeover", "undo"))
        stops = (
            f"Stops {', '.join(plan.stops)}{'' if for_good else ' for a moment'}." if plan.stops else "Stops nothing."
        )
        if plan.changes and any(section.reboots for section in plan.sections) and not plan.stops:
            stops = "Stops what runs on the host."
        removed = [change for change in plan.changes if change.sign == "-"]
        deletes = f"Removes {count(len(removed), 'thing')} that can be made again; no data." if removed else ""
        deletes = deletes or "Deletes nothing."
        self.say(f"{stops} {deletes}{'' if details else ' Commands: --details'}")

    def _section(self, section: SectionPlan, *, details: bool) -> None:
        if section.name in SYMPTOMS and (section.blocked or not details):
            if section.blocked:
                incidents.blocked(self, section, self._entry)
            else:
                incidents.changes(self, section)
            return
        for finding in section.blocked:
            self.line(SIGN[finding.level], section.name, finding.text)
            indent = " " * (NAME_WIDTH + 3)
            if finding.evidence:
                self.prose(indent, finding.evidence, "dim")
            if finding.mend:
                self.say(f"{indent}→ {self.typed(finding.mend)}")
        if section.blocked:
            return
        if not section.changes:
            self.line("·" if section.waits else "✓", section.name, section.reason)
            return
        signs = {change.sign for change in section.changes}
        sign = signs.pop() if len(signs) == 1 else "~"
        if not details and section.name == "prereqs":  # packages by their names: one line for all would be a page
            for number, change in enumerate(section.changes):
                self.line(change.sign, "" if number else section.name, change.what)
            return
        if section.notes:
            self.line(sign, section.name, count(len(section.changes), "change"))
            for note in section.notes:
                indent = " " * (len(note) - len(note.lstrip()))
                self.prose(f"    {indent}", note.lstrip())
        if not details:
            if not section.notes:
                self.line(sign, section.name, "; ".join(change.what for change in section.changes))
            return
        for change in section.changes:
            if section.name in SYMPTOMS:
                self.prose(f"{change.sign} ", f"{change.what}: {change.why}")
            else:
                self.line(change.sign, section.name, f"{change.what}: {change.why}")
            for step in change.steps:
                prompt = "" if isinstance(step, EndRun | Mend | Write) else "$ "
                self.say(f"    {prompt}{step.show()}", "cyan")
                if isinstance(step, Write):
                    self._diff(step.diff())

    def _diff(self, diff: str) -> None:
        for line in diff.splitlines():
            style = {"+": "green", "-": "red", "@": "magenta"}.get(line[:1], "dim")
            self.say(f"      {line}", style)

    def ask(self, question: str, *, instead: str = "") -> bool:
        """A yes or no on the terminal. Raises Declined, naming what to type `instead`, when there is none to ask on."""
        from pantheon.report.ask import AGREE, yes_or_no

        self.settled()
        return yes_or_no(question, self.out, instead=instead or AGREE)

    def ask_password(self, prompt: str) -> str:
        """A password, not echoed, and nothing drawn over the prompt. Raises Declined where there is no terminal."""
        from pantheon.report.ask import password

        self.settled()
        return password(prompt)

    def applying(self, host: Host, plan: Plan, what: str) -> Callable[[dict[str, Any]], None]:
        display = Applying(self, host, plan, what)
        self.show(display)
        self._journal = display.journal
        return display.on_event

    def watching(self, host: Host, what: str, services: tuple[str, ...]) -> Callable[[dict[str, Watched]], None]:
        display = Watching(self, host, what, services)
        self.show(display)
        return display.on_services

    def settled(self) -> None:
        if self._journal:
            self._journal.close()
            self._journal = None
        if self._live:
            self._live.stop()
            self._live = None

    def show(self, renderable: RenderableType, *, stays: bool = True) -> None:
        """Draw `renderable` again and again until the display is settled; its last state `stays` on the screen. Nothing
        is drawn where there is no terminal."""
        if not self.out.is_terminal:
            return
        self.settled()
        self._live = Live(renderable, console=self.out, transient=not stays, refresh_per_second=8)
        self._live.start()

    def nothing_to_do(self, host: Host, findings: list[Finding], *, took_s: float) -> None:
        self.settled()
        bad = [finding for finding in findings if finding.level != "ok"]
        if any(not finding.is_good for finding in bad):
            self.line("✗", host.name, f"nothing to change, but not as it should be ({seconds(took_s)})")
        else:
            self.line("✓", host.name, f"nothing to do ({seconds(took_s)})")
        for finding in bad:
            self.finding(finding)

    def done(self, host: Host, plan: Plan, findings: list[Finding], *, took_s: float) -> None:
        self.settled()
        if incidents.is_fix(plan):
            incidents.done(self, host, plan, findings, took_s=took_s)
            return
        bad = [finding for finding in findings if finding.level != "ok"]
        failed = any(not finding.is_good for finding in bad)
        changes = count(len(plan.changes), "change") if plan.changes else "nothing changed"
        text = f"{changes}, {seconds(took_s)}. Looked again: nothing to do"
        self.line("✗" if failed else "✓", host.name, text)
        self._services(findings)
        for finding in bad:
            self.finding(finding)
        if not failed and any(finding.id == "comfy.http-here" for finding in findings):
            self.say("  Loopback only; logs clean.")
            self.next([f"invoke tunnel comfy --host {host.name}"])

    def _services(self, findings: list[Finding]) -> None:
        """`comfy  healthy  200 host  200 here  GPU`, for what was checked."""
        by_id = {finding.id: finding for finding in findings}
        columns = (("up", "healthy"), ("http", "200 host"), ("http-here", "200 here"), ("gpu", "GPU"))
        for name in SERVICES:
            if f"{name}.up" not in by_id:
                continue
            cells = []
            for key, word in columns:
                finding = by_id.get(f"{name}.{key}")
                if finding:
                    cells.append(word if finding.is_good else f"{SIGN[finding.level]} {word}")
            self.say(f"  {name:<{NAME_WIDTH}} {'  '.join(cells)}")

    def survival(self, host: Host, findings: list[Finding], ends: list[str], *, took_s: float) -> None:
        """Whether the stack will be there after a reboot, and what else ends with it (rebooting.Report)."""
        self.settled()
        self.headline(f"REBOOT {host.name}: will it all be back?", f"looked {seconds(took_s)}")
        for finding in findings:
            if finding.level == "fail":  # its plan says it, with what mends it
                self.prose("✗ ", finding.text)
            else:
                self.finding(finding)
        for line in ends:
            self.prose("", f"ends with it: {line}")

    # ---- incidents (repair.Report)

    def diagnosis(self, host: Host, found: Diagnosis, *, took_s: float) -> None:
        incidents.diagnosis(self, host, found, took_s=took_s)

    def entry(self, host: Host, name: str, findings: list[Finding], risk: str) -> None:
        self._entry = findings
        incidents.entry(self, host, name, findings, risk)

    def busy(self, host: Host, lines: list[str]) -> None:
        del host
        for line in lines:
            self.prose("", f"running there: {line}")

    def waiting_for(self, host: Host, text: str) -> None:
        if self._waiting == text:
            return
        self.settled()
        self._waiting = text
        if self.out.is_terminal:
            self.show(Spinner("dots", Text(f"{host.name}: {clean(text)}")), stays=False)
        else:
            self.line("·", host.name, text)

    def nothing_to_fix(self, host: Host, name: str, reason: str, *, took_s: float) -> None:
        del name
        self.settled()
        self.line("✓", host.name, f"nothing to fix: {reason} ({seconds(took_s)})")

    def tunnels(self, host: Host, result: str, seen: Sequence[Seen], failed: Mapping[str, PantheonError]) -> None:
        """Tunnels that are open, or that were tried: data, for whom report/tunnels.py is not enough."""

    def commands(self, host: Host, commands: Mapping[str, str]) -> None:
        """Commands by service, to be copied: on stdout as they are."""
        del host
        sys.stdout.write("".join(f"{command}\n" for command in commands.values()))
        sys.stdout.flush()

    def matches(self, found: Matches, causes: dict[str, str]) -> None:
        """What a pasted text speaks of (pasted.py)."""
        for match in found.found:
            self.prose("✗ ", f"{match.entry}: {match.symptom}")
            for line in match.lines:
                self.prose("    ", line, "dim")
            if causes.get(match.entry):
                self.prose("    ", causes[match.entry])
            self.say(f"    → invoke fix.{match.entry}   (the page: invoke runbook fix.{match.entry})")
        for text in found.given_up:
            self.prose("! ", f"very many lines with {text!r}: not all of them were looked at")
        if not found.found:
            self.line("✓", "text", "matches no entry of the troubleshooting")
        self.next(["invoke diagnose"])

    def audit(self, audit: Audit, form: str) -> None:
        """An audit: as a table, or in `form` on stdout as it is."""
        from pantheon.report import audit as table

        self.settled()
        if form:
            table.write(audit, form)
        else:
            table.show(self, audit)

    def findings(self, host: Host, title: str, findings: list[Finding], *, took_s: float) -> None:
        self.settled()
        self.headline(f"{host.name}: {title}", f"looked {seconds(took_s)}")
        for finding in findings:
            self.finding(finding)
        bad = [finding for finding in findings if not finding.is_good]
        if bad:
            self.line("✗", host.name, f"{len(bad)} of {count(len(findings), 'check')} not as it should be")
            installs = [finding.mend for finding in bad if finding.mend.startswith("invoke prereqs --install")]
            all_of_it = max(installs, key=len, default="")  # with --reboot, where one of them needs that
            self.next([all_of_it or f"invoke diagnose --host {host.name}"])
        else:
            self.line("✓", host.name, f"{count(len(findings), 'check')}, all good")


def error(problem: PantheonError, hosts_file: str = "") -> None:
    """A failure on stderr: what, where, the evidence, and what to type next."""
    console = Console(RichConsole(highlight=False, stderr=True))
    console.hosts_file = hosts_file
    console.prose("✗ ", problem.message)
    words = Pull()  # of a failed step the last lines may be Compose's JSON
    for line in problem.details:
        console.say(f"    {words.line(line) or line}", "dim")
    console.next(problem.next_commands)
    sys.stderr.flush()
