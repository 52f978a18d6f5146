"""A drill tells at which stage it failed, and a round of drills goes on after one on a host that was made right."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lab import breakages, commands, drill, machine
from lab.breakages import Breakage, Proof
from lab.drill import DrillFailed, Ended, Result
from lab.outer import LabError, silent

UP = "comfy running Up 2 minutes (healthy)\nollama running Up 2 minutes (healthy)\nopenwebui running Up 1 s (healthy)\n"


class FakeLab:
    """A lab whose commands answer from a table: the program's name, or `docker ps` in the form asked for."""

    name = "fake"
    bare = False

    def __init__(self, **answers: str) -> None:
        self.answers = {"ids": "a\nb\n", "ps": UP, "proof": "the real text\n", **answers}
        self.ran: list[tuple[str, ...]] = []

    def exec(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.ran.append(argv)
        key = "ids" if "-aq" in argv else "ps" if "--format" in argv else "proof"
        text = self.answers[key]
        return subprocess.CompletedProcess(argv, int(text.startswith("!")), "" if text[:1] == "!" else text, text[1:])


class Invoke:
    """The program: what each command ends with, in turn."""

    def __init__(self, **codes: list[tuple[int, str]]) -> None:
        good = {"diagnose": [(2, found("gpu-lost")), (0, "")], "plan": [(2, "PLAN")], "validate": [(0, "")]}
        self.codes = {**good, "fix": [(0, "done"), (0, "nothing to fix")], "bringup": [(0, "")], **codes}
        self.ran: list[str] = []

    def __call__(self, *argv: str, timeout: float = 1) -> Ended:
        self.ran.append(" ".join(argv))
        key = "plan" if "--plan" in argv else argv[0].partition(".")[0]
        answers = self.codes[key]
        code, out = answers.pop(0) if len(answers) > 1 else answers[0]
        return Ended(argv, code, out, "")


def found(*entries: str) -> str:
    return json.dumps({"causes": [{"entry": entry, "id": f"{entry}.x"} for entry in entries]})


def breakage(**more: Any) -> Breakage:
    given: dict[str, Any] = {"plant": lambda lab: None, "proof": Proof(("nvidia-smi",), "the real text", 0), **more}
    return Breakage("gpu-lost", given.pop("variant", "container"), "the devices are gone", **given)


def run(invoke: Invoke, lab: Any = None, **more: Any) -> dict[str, float]:
    host: Any = lab or FakeLab()
    return drill.drill(host, breakage(**more), invoke).stages


def test_from_broken_to_repaired() -> None:
    invoke = Invoke()
    assert list(run(invoke)) == list(drill.STAGES)
    assert invoke.ran == [
        "diagnose --json", "fix.gpu-lost --plan", "fix.gpu-lost --yes", "validate", "fix.gpu-lost --yes",
    ]  # fmt: skip


def test_what_only_a_human_can_mend_is_healed_as_the_fix_says() -> None:
    healed: list[str] = []
    invoke = Invoke(fix=[(2, "by hand"), (0, "nothing to fix")])
    run(invoke, by_hand=True, heal=lambda lab: healed.append("healed"))
    assert healed == ["healed", "healed"]  # as the fix says, and at the end in any case


STAGES: list[tuple[dict[str, Any], str]] = [
    ({"diagnose": [(0, "")]}, "found: diagnose ended with 0"),
    ({"diagnose": [(2, found())]}, r"found: diagnose names \[\], not gpu-lost first"),
    ({"diagnose": [(2, found("docker-down", "gpu-lost"))]}, "not gpu-lost first"),
    ({"diagnose": [(2, found("gpu-lost", "exposed-ports"))]}, r"found: diagnose names \['exposed-ports'\] besides"),
    ({"plan": [(0, "")]}, "shown: the plan ended with 0"),
    ({"fix": [(1, "boom")]}, "fixed: ended with 1"),
    ({"validate": [(2, "bad")]}, "proven: validate ended with 2"),
    ({"fix": [(0, "done"), (0, "done again")]}, "again: ended with 0"),
]


@pytest.mark.parametrize(("codes", "text"), STAGES)
def test_a_drill_that_fails_says_where(codes: dict[str, Any], text: str) -> None:
    healed: list[str] = []
    with pytest.raises(DrillFailed, match=text):
        run(Invoke(**codes), heal=lambda lab: healed.append("healed"))
    assert healed


def test_a_fault_that_no_command_of_a_vendor_shows_is_not_planted() -> None:
    with pytest.raises(DrillFailed, match="planted: nvidia-smi does not say 'the real text' but:\nall is well"):
        run(Invoke(), FakeLab(proof="all is well"))


def test_what_may_be_named_besides() -> None:
    run(Invoke(diagnose=[(2, found("docker-down", "gpu-lost")), (0, "")]), first="docker-down")
    run(Invoke(diagnose=[(2, found("gpu-lost", "exposed-ports")), (0, "")]), also=("exposed-ports",))


# ---- a round


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(machine, "reset", lambda name, say: done.append(name))
    return done


def round_of(lab: Any, invoke: Invoke, *chosen: Breakage) -> list[Result]:
    seen: list[Result] = []
    results = drill.drills(lab, chosen, invoke, say=silent, on_result=seen.append)
    assert results == seen
    return results


def test_after_a_failed_drill_the_host_is_made_right(resets: list[str]) -> None:
    healthy, wrong = (0, ""), (2, found("gpu-lost"))
    invoke = Invoke(diagnose=[healthy, (2, found("exposed-ports")), wrong, wrong, wrong, healthy])
    results = round_of(FakeLab(), invoke, breakage(variant="one"), breakage(variant="two"))
    assert [bool(result.reason) for result in results] == [True, False]
    assert results[0].reason.startswith("found: diagnose names ['exposed-ports']")
    assert "found" not in results[0].stages
    assert resets == ["fake"]  # bringing it up was not enough
    assert invoke.ran.count("bringup --yes") == 2


def test_a_stack_that_is_not_there_is_brought_up(resets: list[str]) -> None:
    invoke = Invoke(diagnose=[(0, ""), (2, found("gpu-lost")), (0, "")])
    assert round_of(FakeLab(ps=""), invoke, breakage())[0].reason == ""
    assert invoke.ran[0] == "bringup --yes"
    assert resets == []


def test_a_stack_that_does_not_come_up_ends_the_round(resets: list[str]) -> None:
    with pytest.raises(LabError, match="the stack does not come up on lab fake"):
        round_of(FakeLab(ps=""), Invoke(bringup=[(1, "no")]), breakage())


@pytest.mark.parametrize(
    ("ps", "text"),
    [
        (UP, ""),
        ("", "comfy, ollama, openwebui not there"),
        (UP.replace("ollama running Up 2 minutes (healthy)", "x running Up"), "ollama not there"),
        (UP.replace("running Up 2 minutes (healthy)", "exited Exited (137)", 1), "comfy is exited Exited (137)"),
        ("!Cannot connect to the Docker daemon\nmore", "Cannot connect to the Docker daemon"),
    ],
)  # fmt: skip
def test_what_of_the_stack_is_not_up(ps: str, text: str) -> None:
    lab: Any = FakeLab(ps=ps)
    assert drill.missing(lab) == text


# ---- what is typed, and what is shown


def test_names_of_faults() -> None:
    first = breakages.every()[0]
    assert breakages.get(first.name) == first
    assert breakages.get(f"fix.{first.entry}").entry == first.entry
    for typed in (f"{first.entry}x", f"{first.entry}.nonsense", f"{first.entry}.{first.variant}x"):
        with pytest.raises(LabError, match=rf"did you mean {first.entry}.*Next: invoke lab\.break list"):
            breakages.get(typed)
    with pytest.raises(LabError, match="no fault ''"):
        breakages.get("")


def test_which_drills_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [one.name for one in commands.choose([], every=False)]
    assert len({name.partition(".")[0] for name in quick}) == len(quick)
    assert commands.choose([], every=True) == breakages.every()
    entry = breakages.modules()[0]
    assert commands.choose([entry, f"{entry},{entry}"], every=False) == [breakages.of(entry)[0]]
    assert commands.choose([entry], every=True) == list(breakages.of(entry))


def test_the_lines_that_say_what_is_wrong() -> None:
    said = "CONTAINER ID   IMAGE\n  Error: x: no such thing\nError: x: no such thing\nlast\n"
    assert commands.telling(said, "no such") == "Error: x: no such thing"
    assert commands.telling("a\nb\n", "over\nlines") == "a\nb"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RESULTS = [
    Result(breakage(), {"planted": 0.31, "found": 1.0, "shown": 1, "fixed": 12.34, "proven": 2.5, "again": 1}),
    Result(breakage(variant="cpu"), {"planted": 0.3}, "found: diagnose ended with 0"),
]
TABLE = """\
                     planted   found   shown   fixed  proven   again   total
✓ gpu-lost.container     0.3     1.0     1.0    12.3     2.5     1.0    18.1
✗ gpu-lost.cpu           0.3       -       -       -       -       -     0.3
"""


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_table(
    kind: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = kind()
    monkeypatch.setattr("sys.stdout", out)
    table = commands.Table(out, [result.breakage.name for result in RESULTS])
    table.now("1/2 gpu-lost: planted")
    for result in RESULTS:
        table.row(result)
    if kind is io.StringIO:
        assert out.getvalue() == TABLE
    else:
        assert "\x1b[K1/2 gpu-lost: planted\r\x1b[K" in out.getvalue()


def test_a_round_with_a_failure_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "running", lambda name: FakeLab())
    monkeypatch.setattr(drill, "Program", lambda lab: Invoke())
    monkeypatch.setattr(drill, "drills", lambda lab, chosen, invoke, *, say, on_result: RESULTS)
    assert commands.drill("fake", [], False) == 1
    assert capsys.readouterr().out.endswith("✗ gpu-lost.cpu\n    found: diagnose ended with 0\n")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("gpu-lots", "lab"), "✗ there is no fault 'gpu-lots' (did you mean gpu-lost"),
        (("gpu-lost", "fake"), "✗ the stack is not up on lab fake (ollama not there), so nothing was broken. Next:"),
    ],
)  # fmt: skip
def test_nothing_is_broken_where_it_could_not_be_seen(
    argv: tuple[str, str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = FakeLab(ps=UP.replace("ollama", "other"))
    monkeypatch.setattr(machine, "running", lambda name: lab)
    monkeypatch.setattr(commands, "to", lambda lab: "--host lab")
    assert commands.break_(*argv) == 1
    assert text in capsys.readouterr().err
