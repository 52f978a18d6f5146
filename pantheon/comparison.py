"""Two audits of one host held against each other (`invoke audit --compare OLD.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pantheon.control import STATUSES, Result
from pantheon.errors import UsageError

SCHEMA = 1  # pantheon/audit.py writes it
WRONG = ("fail", "unknown")
KINDS = ("now failing", "mended", "other verdict", "other evidence", "new control", "gone control")


@dataclass(frozen=True)
class Was:
    """A control in the earlier audit."""

    id: str
    title: str
    status: str
    evidence: str


@dataclass(frozen=True)
class Old:
    """The earlier audit, as far as it is compared."""

    path: str
    host: str
    when: str
    controls: tuple[Was, ...]


@dataclass(frozen=True)
class Difference:
    """One control that is not as it was. `kind` is one of KINDS; `before` and `after` are verdicts, "" where the
    control was not there, and the evidence that goes with them."""

    kind: str
    id: str
    title: str
    before: str
    after: str
    evidence_before: str
    evidence_after: str


@dataclass(frozen=True)
class Comparison:
    """What has changed since `since` (ISO 8601, UTC), which `path` tells of; in the order of KINDS and of controls."""

    path: str
    since: str
    differences: tuple[Difference, ...]

    def of(self, kind: str) -> tuple[Difference, ...]:
        return tuple(one for one in self.differences if one.kind == kind)

    def as_data(self) -> dict[str, object]:
        return {
            "since": self.since,
            "counts": {kind.replace(" ", "_"): len(self.of(kind)) for kind in KINDS},
            "differences": [vars(one) for one in self.differences],
        }


def read(text: str, *, path: str, host: str) -> Old:
    """An audit that `invoke audit --json` wrote. Raises UsageError when it is none, of another schema or of another
    host: what differs between two hosts has not changed on either."""
    again = [f"invoke audit --json --host {host} > FILE"]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--compare {path}: not JSON ({error})", next_commands=again) from None
    if not isinstance(document, dict) or document.get("result") != "audit":
        what = f'a result of "{document["result"]}"' if _has_result(document) else "no audit"
        raise UsageError(f"--compare {path}: {what}, not what `invoke audit --json` writes", next_commands=again)
    if document.get("schema") != SCHEMA:
        raise UsageError(
            f"--compare {path}: an audit of schema {document.get('schema')!r}; this pantheon compares schema {SCHEMA}",
            next_commands=again,
        )
    if document.get("host") != host:
        raise UsageError(
            f"--compare {path}: that is an audit of {document.get('host')!r}, not of {host!r}", next_commands=again
        )
    controls = document.get("controls")
    if not isinstance(controls, list):
        raise UsageError(f"--compare {path}: there are no controls in it", next_commands=again)
    try:
        found = tuple(_was(item) for item in controls)
    except (TypeError, KeyError) as error:
        raise UsageError(f"--compare {path}: a control in it has no {error}", next_commands=again) from None
    return Old(path, host, str(document.get("when") or ""), found)


def _has_result(document: object) -> bool:
    return isinstance(document, dict) and isinstance(document.get("result"), str)


def _was(item: object) -> Was:
    if not isinstance(item, dict):
        raise TypeError("id")
    for key in ("id", "status"):
        if not isinstance(item[key], str):
            raise TypeError(f"proper {key}")
    if item["status"] not in STATUSES:
        raise TypeError(f"verdict known here ({item['status'][:40]!r})")
    return Was(item["id"], str(item.get("title", "")), item["status"], str(item.get("evidence", "")))


def compare(old: Old, results: Iterable[Result]) -> Comparison:
    """What is not as it was."""
    before = {was.id: was for was in old.controls}
    found = []
    seen = set()
    for result in results:
        seen.add(result.control.id)
        found += _difference(before.get(result.control.id), result)
    for was in old.controls:
        if was.id not in seen:
            found.append(Difference("gone control", was.id, was.title, was.status, "", was.evidence, ""))
    found.sort(key=lambda one: KINDS.index(one.kind))  # stable: within a kind the order of the controls
    return Comparison(old.path, old.when, tuple(found))


def _difference(was: Was | None, result: Result) -> list[Difference]:
    control, verdict = result.control, result.verdict
    now, then = str(verdict.status), was.status if was else ""
    if was is None:
        kind = "new control"
    elif now in WRONG and then not in WRONG:
        kind = "now failing"
    elif then in WRONG and now == "pass":
        kind = "mended"
    elif then != now:
        kind = "other verdict"
    elif was.evidence != verdict.evidence:
        kind = "other evidence"
    else:
        return []
    return [Difference(kind, control.id, control.title, then, now, was.evidence if was else "", verdict.evidence)]
