"""The tunnels of this machine as an operator sees them: what is open, what has ended and why, what was closed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pantheon.inventory import SERVICES, Host
from pantheon.report import data
from pantheon.report.text import NAME_WIDTH, lasted, typed
from pantheon.report.tunnels import as_data, status, time_of_day

if TYPE_CHECKING:
    from pantheon.background import End
    from pantheon.record import Entry
    from pantheon.report.console import Console

INDENT = " " * (NAME_WIDTH + 3)


def opened(report: Console, host: Host, entries: Sequence[Entry], new: Collection[Entry]) -> None:
    """Open in the background, all of them ready."""
    if isinstance(report, data.Json):
        tunnels = [document(entry) | {"new": entry in new} for entry in entries]
        data.write({"host": host.name, "result": "open", "tunnels": tunnels})
        return
    for entry in _sorted(entries):
        _open(report, entry, "in the background" if entry in new else "in the background already")
    service = entries[0].seen.service if len(entries) == 1 else "all"
    report.say("This terminal may be closed.")
    report.next(["invoke tunnel.list", f"invoke tunnel.close {service} --host {host.name}"])


def _open(report: Console, entry: Entry, how: str) -> None:
    line = status(entry.seen, time.time(), since=entry.changed, was_ready=True)
    report.line(line.sign or "·", entry.seen.service, line.text)
    if line.mend:
        report.say(f"{INDENT}→ {typed(line.mend, entry.hosts_file)}")
    if entry.seen.note:
        report.prose(INDENT, entry.seen.note)
    report.prose(INDENT, f"{where(entry)}; {how}, pid {entry.pid}")
    if entry.log:
        report.say(f"{INDENT}log: {entry.log}", "dim")


def listing(report: Console, entries: Sequence[Entry]) -> None:
    """Those that are open, and those that were given up."""
    entries = _sorted(entries)
    running, ended = ([entry for entry in entries if entry.is_open is is_open] for is_open in (True, False))
    if isinstance(report, data.Json):
        data.write({"result": "tunnels", "tunnels": [*map(document, running)], "ended": [*map(document, ended)]})
        return
    for entry in running:
        _open(report, entry, "in the background" if entry.background else "in a terminal")
    for entry in ended:
        _ended(report, entry)
    if not running:
        report.line("·", "tunnels", "none open")
    if not entries:
        report.next(["invoke tunnel comfy"])


def _sorted(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.seen.host, entry.label, SERVICES.index(entry.seen.service)))


def _ended(report: Console, entry: Entry) -> None:
    assert entry.failure
    at = time_of_day(entry.changed, time.time())
    known = entry.failure.error.startswith(entry.seen.host) or f"({entry.label})" in entry.failure.error
    report.line("✗", entry.seen.service, f"{'' if known else f'{where(entry)}: '}ended {at}: {entry.failure.error}")
    for line in entry.failure.details:
        report.prose(INDENT, line, "dim")
    if entry.log:
        report.say(f"{INDENT}log: {entry.log}", "dim")
    for command in entry.failure.next:
        report.say(f"{INDENT}→ {typed(command, entry.hosts_file)}")


def closed(
    report: Console, service: str, host: str, ends: Sequence[End], left: Sequence[Entry], also: Collection[Path]
) -> None:
    """What came of closing them. `also`: records of tunnels that were open in the same terminal."""
    if isinstance(report, data.Json):
        tunnels = [document(end.entry) | {"killed": end.killed, "trouble": end.trouble} for end in ends]
        data.write({"result": "closed" if ends else "none open", "tunnels": tunnels, "left": [*map(document, left)]})
        return
    now = time.time()
    for end in ends:
        seen = end.entry.seen
        if end.trouble:
            report.line("✗", seen.service, f"not closed: {end.trouble}")
            continue
        text = f"{where(end.entry)}: closed after {lasted(now - seen.opened)}"
        if end.entry.path in also:
            text += "; it was open in the same terminal"
        if end.killed:
            text += "; killed, since it did not end when asked to"
        report.line("!" if end.killed else "✓", seen.service, text)
    if not ends:
        what = "tunnel" if service == "all" else f"tunnel to {service}"
        report.line("·", service, f"nothing to close: no {what} is open{f' for host {host}' if host else ''}")
    if left:
        report.say(f"Still open: {', '.join(f'{entry.seen.service} ({entry.seen.host})' for entry in left)}")


def where(entry: Entry) -> str:
    """The host's name, and where that is."""
    return f"{entry.seen.host} ({entry.label})" if entry.label else entry.seen.host


def document(entry: Entry) -> dict[str, Any]:
    """A tunnel on record for --json."""
    found = as_data(entry.seen, entry.failure.as_error() if entry.failure else None)
    found |= {"address": entry.label, "background": entry.background, "pid": entry.pid, "log": entry.log}
    found |= {"version": entry.version, "hosts_file": entry.hosts_file, "written": entry.written}
    if entry.failure:
        found |= {"kind": entry.failure.kind, "exit_code": entry.failure.exit_code}
    return found
