"""An entry of the troubleshooting is a symptom, a module, a task, a page and a fault of the lab: one to one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tasks
from lab import breakages
from pantheon import fixes, incidents
from pantheon.cli import HELP
from pantheon.errors import UsageError
from pantheon.report import overview, runbooks
from pantheon.symptoms import CLUES, SYMPTOMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "runbooks"
NAMED = re.compile(r"(?:invoke )?\bfix\.([a-z]+(?:-[a-z]+)*)")
ENTRIES = list(SYMPTOMS)
NOT_NAMES = {"NAME", "name"}


def modules(package: str) -> set[str]:
    return {path.stem.replace("_", "-") for path in (ROOT / package).glob("*.py") if not path.stem.startswith("_")}


def test_every_entry_has_its_module() -> None:
    assert modules("pantheon/fixes") == set(SYMPTOMS)
    assert [entry.ID for entry in fixes.entries()] == ENTRIES


def test_every_entry_has_its_task() -> None:
    named = {name for name in incidents.fix.task_names if name != "overview"}
    assert named == set(SYMPTOMS)
    every = set(tasks.ns.task_names)
    assert {f"fix.{name}" for name in SYMPTOMS} <= every
    assert {"diagnose", "runbook", "lab.break", "lab.drill", "fix.overview"} <= every


def test_every_entry_has_its_page() -> None:
    assert {path.stem.removeprefix("fix.") for path in PAGES.glob("fix.*.md")} == set(SYMPTOMS)


def test_every_entry_has_its_faults() -> None:
    assert set(breakages.modules()) == set(SYMPTOMS)
    names = [one.name for one in breakages.every()]
    assert len(names) == len(set(names))
    for entry in breakages.modules():
        assert breakages.of(entry), entry
        assert {one.entry for one in breakages.of(entry)} == {entry}
        assert breakages.get(entry) == breakages.of(entry)[0]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_says_what_people_must_know(entry: str) -> None:
    module = fixes.load(entry)
    assert module.CAUSE.strip()
    assert module.RISK.strip()
    assert module.RISK.strip().endswith(".")


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_page_names_its_fix_and_its_symptom(entry: str) -> None:
    text = (PAGES / f"fix.{entry}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# fix.{entry}")
    assert f"invoke fix.{entry}" in text
    flat = " ".join(text.split())
    quoted = re.findall(r"`([^`]+)`", SYMPTOMS[entry])
    assert [words for words in quoted if words not in flat] == []


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_page_names_no_option_that_its_fix_does_not_have(entry: str) -> None:
    text = (PAGES / f"fix.{entry}.md").read_text(encoding="utf-8")
    task = incidents.fix.tasks[entry]
    known = {f"--{argument.name}" for argument in task.get_arguments()} | {f"--{key}" for key in HELP}
    for line in re.findall(rf"invoke fix\.{entry}\b([^`\n]*)", text):
        assert {option.partition("=")[0].replace("_", "-") for option in re.findall(r"--[a-z-]+", line)} <= {
            name.replace("_", "-") for name in known
        }, line


def test_every_clue_is_of_an_entry() -> None:
    assert {clue.entry for clue in CLUES} <= set(SYMPTOMS)


# ---- what is named anywhere exists


def written() -> list[tuple[str, str]]:
    """Every string in the program (f-strings in their parts), and every page."""
    found = []
    for path in [*sorted((ROOT / "pantheon").rglob("*.py")), *sorted((ROOT / "lab").rglob("*.py")), ROOT / "tasks.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    for path in [*sorted(PAGES.glob("*.md")), ROOT / "README.md", ROOT / "lab/README.md", ROOT / "CHANGELOG.md"]:
        found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
    return found


def test_a_fix_that_is_named_exists() -> None:
    wrong = []
    for where, text in written():
        for name in NAMED.findall(text):
            if name not in SYMPTOMS and f"fix.{name}.md" not in text and name != "overview":
                wrong.append(f"{where}: fix.{name}")
    assert wrong == []


def test_a_task_that_is_named_exists() -> None:
    known = set(tasks.ns.task_names) | set(tasks.ns.collections) | {"TASK", "SERVICE"}
    wrong = [
        f"{where}: invoke {name}"
        for where, text in written()
        for name in re.findall(r"`invoke ([a-z][a-z-]*(?:\.[a-z]+(?:-[a-z]+)*)?)[` ]", text)
        if name not in known
    ]
    assert wrong == []


# ---- names that were agreed on, and what shows them


def test_the_agreed_names() -> None:
    """The entries of the procedure (§9) and the others, as the first users learned them."""
    assert set(SYMPTOMS) == {
        "wrong-version-number", "comfy-ownership", "browser-access", "gpu-lost", "driver-mismatch", "exposed-ports",
        "disk-pressure", "mounts-missing", "openwebui-ollama", "openwebui-logins", "comfy-first-run", "out-of-memory",
        "docker-down", "stuck-apply",
    }  # fmt: skip


def test_the_list_of_fixes_shows_all_with_their_symptoms(capsys: pytest.CaptureFixture[str]) -> None:
    assert overview.fixes() == 0
    shown = capsys.readouterr().out
    for entry, symptom in SYMPTOMS.items():
        assert re.search(rf"^fix\.{entry} +{re.escape(symptom)}$", shown, re.MULTILINE), entry


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_page_is_read_by_its_name(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert runbooks.show(f"fix.{entry}") == 0
    assert capsys.readouterr().out == (PAGES / f"fix.{entry}.md").read_text(encoding="utf-8")


def test_the_list_of_pages_says_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert runbooks.show("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.strip()] == [
        *(name for name in runbooks.names() if not name.startswith("fix.")),
        *(f"fix.{entry}" for entry in ENTRIES),
    ]
    assert all(len(line) <= 110 for line in lines)
    assert all(len(line.split()) > 1 for line in lines if line.strip())


@pytest.mark.parametrize(
    ("typed", "near"), [("fix.gpulost", "fix.gpu-lost"), ("gpu-lost", "fix.gpu-lost"), ("comfi", "comfy")]
)
def test_a_page_that_is_not_there(typed: str, near: str) -> None:
    with pytest.raises(UsageError, match=re.escape(near)) as refused:
        runbooks.show(typed)
    assert refused.value.next_commands == ("invoke runbook list",)


def test_the_readme_lists_the_fixes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`fix\.([a-z-]+)`\]\(runbooks/fix\.([a-z-]+)\.md\) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(entry, entry, symptom) for entry, symptom in SYMPTOMS.items()]
