"""`invoke audit`: one look, every control judged on it, shown or written. Reads only."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

import pantheon
from pantheon import comparison, controls, engine, repair
from pantheon.audit import Audit
from pantheon.control import SEVERITIES, Result, Severity
from pantheon.errors import UsageError
from pantheon.hostsfile import nearest
from pantheon.incident import Choices
from pantheon.inventory import Host
from pantheon.options import Options

FORMATS = ("", "junit", "html")
LARGEST_OLD = 16 << 20  # bytes; an audit has about 60,000


class Report(Protocol):
    """What an audit shows."""

    def connecting(self, host: Host, what: str) -> None: ...
    def audit(self, audit: Audit, form: str) -> None: ...


def audit(host: Host, *, form: str, compare: str, fail_on: str, as_json: bool, options: Options, report: Report) -> int:
    """Returns 0 when every control of at least the severity `fail_on` holds, else 2. Raises UsageError, and what
    engine.look raises."""
    _check(form, fail_on, as_json=as_json)
    old = _old(compare, host) if compare else None
    began = engine.began_at(options)
    if not form:  # else stdout is for a file
        report.connecting(host, "audit")
    with engine.connected(host, options) as connection:
        case = repair.examine(connection, host, Choices(), *controls.MORE)
    now = datetime.now(UTC)
    today = now.date()
    results = tuple(controls.judge(case, today=today))
    done = Audit(
        host=host.name,
        address=f"{host.user}@{host.address}" if host.user else host.address,
        when=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        today=today,
        version=pantheon.__version__,
        took_s=time.monotonic() - began,
        fail_on=cast(Severity, fail_on),
        results=results,
        changes=comparison.compare(old, results) if old else None,
        notes=tuple(_notes(results)),
    )
    report.audit(done, form)
    return 0 if done.is_good else 2


def _notes(results: tuple[Result, ...]) -> list[str]:
    """Waivers of what holds without them."""
    return [
        f"{result.control.id} holds: its waiver (until {result.waiver.until}) is not needed any more, "
        "take it out of hosts.toml"
        for result in results
        if result.waiver and result.verdict.status == "pass"
    ]


def _check(form: str, fail_on: str, *, as_json: bool) -> None:
    """Raises UsageError for options that say nothing, or two things."""
    if form not in FORMATS:
        hint = "; for JSON there is --json" if form == "json" else ""
        raise UsageError(f"--format takes junit or html, not {form!r}{hint}")
    if form and as_json:
        raise UsageError(f"--json and --format {form} are two answers on one stdout: give one of them")
    if fail_on not in SEVERITIES:
        guess = nearest(fail_on, SEVERITIES)
        hint = f" (did you mean {guess}?)" if guess else ""
        raise UsageError(f"--fail-on takes {', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}, not {fail_on!r}{hint}")


def _old(path: str, host: Host) -> comparison.Old:
    """The earlier audit in that file. Raises UsageError."""
    again = [f"invoke audit --json --host {host.name} > FILE"]
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(LARGEST_OLD + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"--compare {path}: {why}", next_commands=again) from None
    if len(content) > LARGEST_OLD:
        raise UsageError(f"--compare {path}: larger than any audit", next_commands=again)
    return comparison.read(content.decode("utf-8-sig", "replace"), path=path, host=host.name)
