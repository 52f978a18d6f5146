"""From everything that is not as it should be to the one thing that is wrong: causes first, consequences under them.

Every entry of the troubleshooting is asked, and the checklist of §8 besides: what no entry explains is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pantheon import fixes, foreign, layout, procedure
from pantheon.finding import Finding
from pantheon.incident import Case
from pantheon.inventory import SERVICES
from pantheon.sections import validate as checklist
from pantheon.symptoms import SYMPTOMS

# What follows from what within the checklist itself: a service that is not up does not answer.
FOLLOWS = (
    ("*.up", "{0}.*"),
    ("*.http", "{0}.http-here"),
    ("*.log-errors", "{0}.log-started"),
    ("stack.foreign.*", "{2}.*"),
    ("stack.containers", "*.up"),
    ("prereqs.gpu", "*.gpu"),
    ("prereqs.gpu", "prereqs.nvidia-smi"),
    ("prereqs.docker", "stack.*"),
    ("prereqs.docker", "*.up"),
    ("prereqs.docker", "prereqs.runtime"),
    ("prereqs.docker", "prereqs.compose"),
)


@dataclass(frozen=True)
class Cause:
    """Something that is wrong and that nothing else here explains. `entry` is the fix that mends it, "" for none."""

    finding: Finding
    entry: str
    consequences: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """`unknown`: what could not be judged, and that no cause explains. `warnings`: seen, and no fault."""

    causes: tuple[Cause, ...]
    unknown: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        return not self.causes and not self.unknown

    def as_data(self) -> dict[str, object]:
        return {
            "good": self.is_good,
            "causes": [
                {
                    **vars(cause.finding),
                    "entry": cause.entry,
                    "consequences": [vars(finding) for finding in cause.consequences],
                }
                for cause in self.causes
            ],
            "unknown": [vars(finding) for finding in self.unknown],
            "warnings": [vars(finding) for finding in self.warnings],
        }


def diagnose(case: Case) -> Diagnosis:
    """All entries and the checklist, ranked."""
    findings = [finding for entry in fixes.entries() for finding in entry.diagnose(case)]
    host, facts = case.host, case.facts
    rest = procedure.check(host, facts, ("prereqs", "storage")) + checklist.check(host, facts, case.here.http)
    findings += [_last_resort(case, finding) for finding in rest if not finding.is_good]
    if facts.containers == () and facts.files.get(layout.compose_file(host)) is None:
        bare = (*(f"{name}.*" for name in SERVICES), "storage.*", "stack.*")
        mend = f"invoke bringup --host {host.name}"
        findings.append(Finding("bare", "fail", "nothing of the stack is on this host", mend=mend, explains=bare))
    return rank(list(dict.fromkeys(findings)))


def _last_resort(case: Case, finding: Finding) -> Finding:
    """A finding of the checklist, with what follows from it there; and where it leaves the rest to a diagnosis, which
    this is, with what the service itself says."""
    follows = tuple(pattern for key, pattern in FOLLOWS if fnmatchcase(finding.id, key))
    finding = replace(finding, explains=(*finding.explains, *(p.format(*finding.id.split(".")) for p in follows)))
    name, mend = finding.id.partition(".")[0], f"invoke diagnose --host {case.host.name}"
    if finding.mend != mend:
        return finding
    container = foreign.named(case.facts, name)
    if finding.id == f"{name}.up" and container is not None and container.state in ("created", "exited"):
        return replace(finding, mend=f"invoke {name} --host {case.host.name}")  # nothing speaks against its start
    log = f"docker logs --tail=50 {name}" if name in SERVICES else "sudo journalctl -b -p err -n 50"
    return replace(finding, mend=case.host.ssh(log))


def rank(findings: list[Finding]) -> Diagnosis:
    """Each finding under the first cause that explains it, itself or through others. The order of symptoms.SYMPTOMS
    decides between two that explain each other."""
    causes: list[Cause] = []
    unknown: list[Finding] = []
    ordered = sorted(findings, key=_place)
    parents: dict[int, int] = {}
    pairs = [(i, j) for j in range(len(ordered)) for i in range(len(ordered)) if i != j]
    for cause, index in sorted(pairs, key=lambda pair: pair[0] > pair[1]):  # first those that keep the order
        finding = ordered[index]
        if index in parents or finding.level == "warn" or not explains(ordered[cause], finding):
            continue
        if not _reaches(parents, cause, index):
            parents[index] = cause
    for index, finding in enumerate(ordered):
        if finding.level == "fail" and index not in parents:
            below = [other for i, other in enumerate(ordered) if i != index and _root(parents, i) == index]
            causes.append(Cause(finding, entry_of(finding), tuple(below)))
        elif finding.level == "unknown" and index not in parents:
            unknown.append(finding)
    warnings = tuple(finding for finding in ordered if finding.level == "warn")
    return Diagnosis(tuple(causes), tuple(unknown), warnings)


def explains(cause: Finding, finding: Finding) -> bool:
    """Whether `finding` follows from `cause`, by its own word."""
    return cause.level == "fail" and any(fnmatchcase(finding.id, pattern) for pattern in cause.explains)


def entry_of(finding: Finding) -> str:
    """The entry whose finding this is, "" for one of the checklist."""
    name = finding.id.partition(".")[0]
    return name if name in SYMPTOMS else ""


def _place(finding: Finding) -> int:
    names = list(SYMPTOMS)
    entry = entry_of(finding)
    return names.index(entry) if entry else len(names)


def _root(parents: dict[int, int], index: int) -> int:
    while index in parents:
        index = parents[index]
    return index


def _reaches(parents: dict[int, int], start: int, target: int) -> bool:
    """Whether `target` is `start` or above it: a finding never explains what explains it."""
    while start != target and start in parents:
        start = parents[start]
    return start == target


def own(diagnosis: Diagnosis, name: str) -> tuple[list[Finding], list[Cause]]:
    """Of one entry: its findings that are causes, and the causes of other entries under which it has consequences."""
    mine = [cause.finding for cause in diagnosis.causes if cause.entry == name]
    others = [
        cause
        for cause in diagnosis.causes
        if cause.entry != name and any(entry_of(finding) == name for finding in cause.consequences)
    ]
    return mine, others
