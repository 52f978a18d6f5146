"""An audit as one page that stands for itself: no script, nothing loaded, for a phone, a screen and paper alike."""

from __future__ import annotations

from html import escape

from pantheon.audit import Audit, worst_first
from pantheon.comparison import Comparison, Difference
from pantheon.control import SEVERITIES, Result, Status
from pantheon.report.markup import fit
from pantheon.report.text import count, seconds

# Every pair of colours has a contrast of at least 4.5:1, in the light and in the dark.
STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #545d68; --line: #d5dae0; --code: #eef1f4;
  --pass: #17692f; --fail: #b3181f; --unknown: #7a2e9e; --waived: #7d5300; --other: #545d68; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1d2126; --ink: #e7ebf0; --soft: #a3adb8; --line: #363d45; --code: #14171b;
  --pass: #6fd38a; --fail: #ff8f8a; --unknown: #d9a3f2; --waived: #eabf62; --other: #a3adb8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; } pre + p { margin-top: .25rem; } article > :last-child { margin-bottom: 0; }
p { margin: 0 0 .5rem; }
.soft { color: var(--soft); }
.sum { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 1rem 0; list-style: none; }
.sum li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; }
.sum b { font-size: 1.25rem; margin-right: .3rem; }
.verdict { font-weight: 600; font-size: 1.1rem; }
article { background: var(--card); border: 1px solid var(--line); border-left: .3rem solid var(--other);
  border-radius: .5rem; padding: .8rem 1rem; margin: 0 0 .75rem; }
article.fail { border-left-color: var(--fail); } article.unknown { border-left-color: var(--unknown); }
article.waived { border-left-color: var(--waived); }
.pass { color: var(--pass); } .fail > .what, li.fail, p.fail { color: var(--fail); }
.unknown > .what, li.unknown { color: var(--unknown); } .waived > .what, li.waived { color: var(--waived); }
.what { font-size: .85rem; font-weight: 600; } .what .soft { font-weight: normal; }
pre, code { font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { background: var(--code); border-radius: .35rem; padding: .5rem .7rem; margin: .5rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
caption { text-align: left; color: var(--soft); padding: 0 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; font-weight: normal; }
thead th { font-size: .85rem; color: var(--soft); border-top: 0; }
tbody th { width: 26%; } td.told { width: 42%; color: var(--soft); font-size: .9rem; white-space: pre-line; }
@media (max-width: 600px) {
  main { padding: 1rem .75rem 3rem; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, tbody th, td, td.told { display: block; width: 100%; }
  tr { border-top: 1px solid var(--line); padding: .4rem 0; } tr:first-child { border-top: 0; }
  tbody th, td { border: 0; padding: .1rem .7rem; } }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #999; --code: #fff;
    --pass: #17692f; --fail: #b3181f; --unknown: #7a2e9e; --waived: #7d5300; --other: #444; }
  html { font-size: 9pt; } main { max-width: none; padding: 0; }
  pre { border: 1px solid var(--line); } h2 { break-after: avoid; }
  article, tr, .sum { break-inside: avoid; } thead { display: table-header-group; }
  @page { margin: 15mm; } }
"""
ORDER: tuple[Status, ...] = ("waived", "pass", "not applicable", "not checkable")
HEADING = {
    "waived": "Waived", "pass": "Passed", "not applicable": "Not applicable here",
    "not checkable": "Not checkable from the host",
}  # fmt: skip
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(audit: Audit) -> str:
    """The whole page: the summary, what is wrong by severity, what has changed, then the rest."""
    title = f"Audit of {audit.host}, {audit.when[:10]}"
    body = [_head(audit), _wrong(audit)]
    if audit.changes:
        body.append(_changes(audit.changes))
    body += [_rest(audit, status) for status in ORDER]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def safe(text: str) -> str:
    """What a host says is text, whatever stands in it."""
    return escape(fit(text), quote=True)


def _head(audit: Audit) -> str:
    when = f'<time datetime="{safe(audit.when)}">{safe(audit.when.replace("T", " ").replace("Z", " UTC"))}</time>'
    about = f"{safe(audit.address)} · {when} · pantheon {safe(audit.version)} · looked {safe(seconds(audit.took_s))}"
    counts = audit.counts
    words = {"fail": "failed", "pass": "passed"}
    items = [
        f'<li class="{_class(status)}"><b>{number}</b> {words.get(status, status)}</li>'
        for status, number in counts.items()
        if number
    ]
    good = audit.is_good
    least = "" if audit.fail_on == SEVERITIES[0] else f" of severity {audit.fail_on} or above"
    verdict = f"Every control{least} that can be checked here holds."
    verdict = verdict if good else f"Not as it should be: {_by_severity(audit)}."
    notes = "".join(f"<p>{safe(note)}</p>" for note in audit.notes)
    return (
        f'<header>\n<h1>Audit of {safe(audit.host)}</h1>\n<p class="soft">{about}</p>\n'
        f'<ul class="sum" aria-label="Summary">{"".join(items)}</ul>\n'
        f'<p class="verdict {"pass" if good else "fail"}">{verdict}</p>\n{notes}</header>'
    )


def _by_severity(audit: Audit) -> str:
    numbers = {name: sum(r.control.severity == name for r in audit.bad) for name in reversed(SEVERITIES)}
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number)


def _wrong(audit: Audit) -> str:
    parts = []
    for severity in reversed(SEVERITIES):
        found = [result for result in audit.bad if result.control.severity == severity]
        if found:
            heading = f"<h2>{severity.capitalize()}: {count(len(found), 'control')}</h2>"
            parts.append(f"<section>\n{heading}\n{''.join(_card(audit, result) for result in found)}</section>")
    return "\n".join(parts)


def _card(audit: Audit, result: Result) -> str:
    control, verdict = result.control, result.verdict
    source = f'<span class="soft">{safe(control.source)}</span>'
    lines = [f'<p class="what">{verdict.status} · {control.severity} · <code>{safe(control.id)}</code> · {source}</p>']
    lines.append(f"<h3>{safe(control.title)}</h3>")
    if verdict.evidence:
        lines.append(f"<pre>{safe(verdict.evidence)}</pre>")
    if said := audit.waiver_says(result):
        lines.append(f"<p>{safe(said)}</p>")
    if verdict.mend:
        lines.append(f'<p class="soft">What mends it:</p><pre>{safe(verdict.mend)}</pre>')
    if control.rules:
        lines.append(f'<p class="soft">{safe(control.rules)}</p>')
    return f'<article class="{_class(verdict.status)}">{"".join(lines)}</article>\n'


def _changes(changes: Comparison) -> str:
    since = f"Changed since {safe(changes.since or changes.path)}"
    if not changes.differences:
        return f"<section>\n<h2>{since}</h2>\n<p>Nothing.</p>\n</section>"
    rows = "".join(
        f'<tr><th scope="row"><code>{safe(one.id)}</code></th><td>{safe(one.kind)}{_verdicts(one)}</td>'
        f'<td class="told">{safe(_evidence(one))}</td></tr>\n'
        for one in changes.differences
    )
    return f"<section>\n<h2>{since}</h2>\n{_table(rows, 'Control', 'What', 'Evidence then and now')}</section>"


def _verdicts(one: Difference) -> str:
    return f": {safe(one.before)} → {safe(one.after)}" if one.before != one.after and one.before and one.after else ""


def _evidence(one: Difference) -> str:
    if one.evidence_before == one.evidence_after:
        return one.evidence_after
    parts = (("then", one.evidence_before), ("now", one.evidence_after))
    return "\n".join(f"{word}: {text}" for word, text in parts if text)


def _rest(audit: Audit, status: Status) -> str:
    found = worst_first(result for result in audit.results if result.verdict.status == status)
    if not found:
        return ""
    heading = f"<h2>{HEADING[status]}: {count(len(found), 'control')}</h2>"
    if status == "waived":
        return f"<section>\n{heading}\n{''.join(_card(audit, result) for result in found)}</section>"
    rows = "".join(_row(audit, result) for result in found)
    return f"<section>\n{heading}\n{_table(rows, 'Control', 'What must hold', 'Evidence')}</section>"


def _row(audit: Audit, result: Result) -> str:
    control, verdict = result.control, result.verdict
    told = [verdict.evidence, audit.waiver_says(result), verdict.mend]
    told.append(control.rules)
    return (
        f'<tr><th scope="row"><code>{safe(control.id)}</code></th>'
        f'<td>{safe(control.title)} <span class="soft">({control.severity}, {safe(control.source)})</span></td>'
        f'<td class="told">{safe(chr(10).join(part for part in told if part))}</td></tr>\n'
    )


def _table(rows: str, *columns: str) -> str:
    head = "".join(f'<th scope="col">{safe(column)}</th>' for column in columns)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def _class(status: str) -> str:
    return status if status in ("pass", "fail", "unknown", "waived") else "other"
