"""An audit as JUnit XML, for a CI system: fail is a failure, unknown an error, and what says nothing is skipped."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pantheon.audit import Audit, by_subject
from pantheon.control import Result
from pantheon.report.markup import fit

KIND = {
    "fail": "failure", "unknown": "error", "waived": "skipped", "not applicable": "skipped", "not checkable": "skipped",
}  # fmt: skip


def render(audit: Audit) -> str:
    """The whole document. A suite for each subject, a case for each control; names and order are stable."""
    took = f"{audit.took_s:.3f}"
    counts = _counts(audit.results)
    del counts["skipped"]  # which Jenkins' schema has for a suite alone
    root = Element("testsuites", {"name": f"audit {fit(audit.host)}", **counts, "time": took})
    for name, results in by_subject(audit.results).items():
        attributes = {"name": f"{fit(audit.host)}.{name}", **_counts(results), "time": "0"}
        suite = SubElement(root, "testsuite", attributes | {"hostname": fit(audit.host), "timestamp": audit.when[:19]})
        properties = SubElement(suite, "properties")
        for key, value in (("pantheon", audit.version), ("fail-on", audit.fail_on)):
            SubElement(properties, "property", {"name": key, "value": value})
        for result in results:
            _case(suite, audit, result)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _counts(results: Iterable[Result]) -> dict[str, str]:
    kinds = [KIND.get(result.verdict.status, "") for result in results]
    counted = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    return {"tests": str(len(kinds))} | {name: str(kinds.count(kind)) for name, kind in counted.items()}


def _case(suite: Element, audit: Audit, result: Result) -> None:
    control, verdict = result.control, result.verdict
    name = f"{control.id}: {fit(control.title)}"
    case = SubElement(suite, "testcase", {"classname": str(suite.get("name")), "name": name, "time": "0"})
    said, waiver = fit(verdict.evidence), fit(audit.waiver_says(result))
    if verdict.status == "pass":
        if said:
            SubElement(case, "system-out").text = said
        return
    kind = KIND[verdict.status]
    first = waiver if verdict.status == "waived" else next(iter(said.splitlines()), "")
    message = f"{verdict.status}: {first}" if kind == "skipped" else first or fit(control.title)
    problem = SubElement(case, kind, {"message": message})
    if kind != "skipped":
        problem.set("type", control.severity)
    parts = [said, waiver, f"mend: {fit(verdict.mend)}" if verdict.mend else "", f"source: {fit(control.source)}"]
    problem.text = "\n".join(part for part in [*parts, fit(control.rules)] if part)
