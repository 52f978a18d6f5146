"""The walls between the rooms (STYLE.md), read from the imports: who may know whom."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pantheon
from pantheon import runner

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pantheon"

# Rooms without I/O: they get facts and give plans and findings.
PURE_FILES = [
    "advice",
    "clues",
    "errors",
    "facts",
    "finding",
    "firstrun",
    "foreign",
    "grammar",
    "inventory",
    "layout",
    "memory",
    "plan",
]
PURE_FILES += ["belongings", "circumstances"]
PURE_FILES += ["attaching", "nfs", "sources"]
PURE_FILES += ["options", "owners", "procedure", "questions", "record", "service", "stack", "starting"]
PURE_FILES += ["kernels", "packages", "survival", "tunnel", "watched"]
PURE_FILES += ["audit", "comparison", "control", "upkeep"]
PURE = [
    *(PACKAGE / f"{name}.py" for name in PURE_FILES),
    *sorted((PACKAGE / "sections").glob("*.py")),
    *sorted((PACKAGE / "takeover").glob("*.py")),
    *sorted((PACKAGE / "atlas").glob("*.py")),
    *sorted((PACKAGE / "fixes").glob("*.py")),
    *sorted((PACKAGE / "install").glob("*.py")),
    *sorted((PACKAGE / "controls").glob("*.py")),
]
IO = {"asyncio", "fabric", "fcntl", "http", "invoke", "io", "logging", "os", "paramiko", "pynvml", "requests", "rich"}
IO |= {"select", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time", "urllib"}
IO |= {"lab", "pantheon.engine", "pantheon.remote", "pantheon.report"}
LOOKS = sorted((PACKAGE / "looks").glob("*.py"))
COLLECTING = sorted((PACKAGE / "collecting").glob("*.py"))
MENDING = sorted((PACKAGE / "mending").glob("*.py"))
HOST_FILES = ("probe.py", "collect.py", "runner.py", "ending.py", "writing.py", "remote/boot.py")
HOST_SIDE = [*(PACKAGE / name for name in HOST_FILES), *LOOKS, *COLLECTING, *MENDING]
SHIPPED = {"pantheon.looks", "pantheon.probe", "pantheon.writing", "pantheon.collecting", "pantheon.ending"}
# What a module of the host's side may know of pantheon; the rest of it may know all that is shipped with it.
KNOWS = {
    "looks": {"pantheon.looks"},
    "collecting": {"pantheon.looks", "pantheon.collecting"},
    "mending": {"pantheon.mending", "pantheon.collecting.dpkg", "pantheon.collecting.openpgp"},
}
# Open WebUI's database, where nothing but a copy can be read while changes wait beside it: a folder of its own, gone
# at the end.
SCRATCH = {"webui.py": {"shutil.rmtree"}}
LISTS_TASKS = {"overview.py"}  # the table of commands, which has a row for the tasks of lab/
HEAVY_LIBRARIES = {"fabric", "paramiko", "requests", "rich", "pynvml"}
HEAVY = HEAVY_LIBRARIES | {"pantheon.remote", "pantheon.report", "pantheon.engine"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules(*, folder: Path = PACKAGE) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of what is imported; `from pantheon import plan` counts as pantheon.plan."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return {name for name in found - {"pantheon"} if not name.startswith("__future__")}


def everywhere(path: Path) -> set[str]:
    return imported(ast.walk(tree(path)))


def at_the_top(path: Path) -> set[str]:
    """Imports that happen when the module is imported: not those inside functions."""

    def outside(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield child
                yield from outside(child)

    return imported(outside(tree(path)))


def within(names: set[str], rooms: set[str]) -> set[str]:
    """Those of `names` that are one of the rooms or in one."""
    return {name for name in names if any(name == room or name.startswith(f"{room}.") for room in rooms)}


def test_errors_imports_nothing() -> None:
    tops = {name.partition(".")[0] for name in everywhere(PACKAGE / "errors.py")}
    assert tops <= {"collections", "typing"}


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_rooms_do_no_io(path: Path) -> None:
    assert within(everywhere(path), IO) == set()
    called = {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called & {"open", "print", "input", "exec", "eval", "__import__"} == set()


def test_only_the_loader_of_the_inventory_reads_files_and_the_environment() -> None:
    assert within(everywhere(PACKAGE / "hostsfile.py"), IO - {"os"}) == set()
    used = {
        node.attr
        for node in ast.walk(tree(PACKAGE / "hostsfile.py"))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert used <= {"environ", "open", "fstat", "read", "O_RDONLY", "O_NONBLOCK", "O_CLOEXEC"}


@pytest.mark.parametrize("room", ["sections", "fixes"])
def test_sections_and_fixes_do_not_know_each_other(room: str) -> None:
    for path in sorted((PACKAGE / room).glob("*.py")):
        if path.stem == "__init__":  # the list of them
            continue
        others = within(everywhere(path), {"pantheon.sections", "pantheon.fixes"})
        assert others == set(), name_of(path)


@pytest.mark.parametrize(
    ("room", "libraries"),
    [("remote", {"fabric", "paramiko", "requests"}), ("report", {"rich"})],
    ids=["remote", "report"],
)
def test_libraries_stay_in_their_room(room: str, libraries: set[str]) -> None:
    for path in [*modules(), ROOT / "tasks.py"]:
        if path.exists() and (PACKAGE / room) not in path.parents:
            assert within(everywhere(path), libraries) == set(), name_of(path)


@pytest.mark.parametrize("path", HOST_SIDE, ids=name_of)
def test_what_runs_on_the_host_needs_nothing_there(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"pynvml"}
    if path.parent.name == "mending":
        allowed -= {"pynvml"}
    found = {name for name in everywhere(path) if name.partition(".")[0] not in allowed}
    assert within(found, KNOWS.get(path.parent.name, SHIPPED)) == found
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


ARGUMENT_BYTES = 100 << 10  # the kernel takes 128 KiB of one
SHARED = within(set().union(*map(everywhere, MENDING)), {"pantheon.mending"})
PROGRAMS = [path for path in MENDING if path.stem != "__init__" and f"pantheon.mending.{path.stem}" not in SHARED]


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_work_on_the_host_is_a_program_of_its_own(path: Path) -> None:
    """It is sent as it stands and run as one: it begins at its own end, and what it is told comes as its argument."""
    text = path.read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in text
    assert "sys.argv[1]" in text
    assert ast.get_docstring(tree(path))
    argv = runner._program({"mend": path.stem, "arguments": {}})
    assert max(len(word.encode()) for word in argv) < ARGUMENT_BYTES
    sent = dict(json.loads(argv[-1]))
    for name, text in sent.items():  # and what it needs is sent
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
        needed = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        needed |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert within({each or "" for each in needed}, {"pantheon"}) <= sent.keys(), name


@pytest.mark.parametrize("path", COLLECTING, ids=name_of)
def test_gathering_evidence_writes_nothing(path: Path) -> None:
    """No call that makes, changes or removes anything on a host, and no file opened but for reading."""
    writers = {"remove", "unlink", "rename", "replace_file", "mkdir", "makedirs", "rmdir", "chown", "chmod", "truncate"}
    writers |= {"symlink", "link", "utime", "rmtree", "write_text", "write_bytes", "mknod", "mkfifo", "lchown", "kill"}
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            name = f"{node.func.value.id}.{node.func.attr}"
            if name in SCRATCH.get(path.name, ()):
                continue
            assert not (node.func.value.id in ("os", "shutil") and node.func.attr in writers), (
                f"line {node.lineno}: {name}"
            )
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            given = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
            modes = [mode.value for mode in given if isinstance(mode, ast.Constant)]
            assert len(modes) == len(given), f"line {node.lineno}"
            assert set(modes) <= {"r", "rb"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "fixes").glob("*.py")), ids=name_of)
def test_an_entry_is_data_in_and_findings_out(path: Path) -> None:
    """An entry does not know who gathers, applies, watches or shows: it is judged on a Case alone."""
    others = {"pantheon.repair", "pantheon.diagnosis", "pantheon.collect", "pantheon.collecting", "pantheon.mending"}
    others |= {"pantheon.probe", "pantheon.looks", "pantheon.runner", "pantheon.cli", "pantheon.incidents"}
    assert within(everywhere(path), others) == set()


def test_looks_depend_on_each_other_in_one_direction() -> None:
    knows = {path.stem: {name.split(".")[2] for name in at_the_top(path) if name.count(".") > 1} for path in LOOKS}
    knows = {name: others & knows.keys() for name, others in knows.items()}
    order = list(graphlib.TopologicalSorter(knows).static_order())  # raises CycleError
    assert set(order) == knows.keys()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_pantheon_does_not_know_the_lab(path: Path) -> None:
    names: list[str] = sorted(everywhere(path))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name not in LISTS_TASKS:
            names.append(node.value)
        elif isinstance(node, ast.Name):
            names.append(node.id)
        elif isinstance(node, ast.Attribute):
            names.append(node.attr)
    assert [name for name in names if re.search(r"\blab\b", name, re.IGNORECASE)] == []


def test_the_command_line_starts_quickly() -> None:
    if (ROOT / "tasks.py").exists():  # the first commits had none
        assert within(at_the_top(ROOT / "tasks.py"), HEAVY) == set()


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert pantheon.__version__ == project["version"] == newest[1]


def test_a_tunnel_to_a_host_that_is_well_needs_no_connection_of_ours() -> None:
    """Nor, in the background, anything to draw with. What has to be explained or watched loads the rest."""
    for display, heavy in (
        ("pantheon.report.tunnels", HEAVY_LIBRARIES - {"rich"}),
        ("pantheon.background", HEAVY_LIBRARIES),
    ):
        program = f"import sys, pantheon.tunnels, pantheon.remote.tunnel, pantheon.remote.watcher, {display}"
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; print(*sys.modules)"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = set(done.stdout.split())
        assert display in loaded
        assert within(loaded, heavy | {"pantheon.engine"}) == set()


def test_an_ordinary_run_does_not_load_what_incidents_need() -> None:
    """The evidence's dataclasses take 25 ms, on every command."""
    program = "import sys, pantheon.engine, pantheon.procedure, pantheon.report.data; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pantheon.report.data" in loaded
    assert loaded & {"pantheon.evidence", "pantheon.diagnosis", "pantheon.incident", "pantheon.clues"} == set()
    assert loaded & {"pantheon.adopting", "pantheon.takeover.plan", "pantheon.install", "pantheon.mounting"} == set()
