"""A drill: break a lab host for real, and have pantheon find it, mend it and prove it.

planted   a vendor's own command fails with the real text
found     `invoke diagnose` names exactly this entry, first
shown     `invoke fix.NAME --plan` changes nothing
fixed     `invoke fix.NAME --yes`
proven    `invoke validate` is clean, and so is diagnose
again     the same fix changes nothing
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab import machine
from lab.breakages import Breakage, Proof
from lab.machine import Lab
from lab.outer import LabError, Say

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("planted", "found", "shown", "fixed", "proven", "again")
SERVICES = ("comfy", "ollama", "openwebui")
BRING_UP_S = 300.0


class Ran(Protocol):
    """One `invoke ...` that has ended."""

    code: int
    out: str
    err: str

    @property
    def seen(self) -> str: ...


Invoke = Callable[..., Any]


class DrillFailed(AssertionError):
    """The message says at which stage, and what was seen."""


@dataclass
class Times:
    """Seconds that each stage took."""

    stages: dict[str, float] = field(default_factory=dict)


def drill(
    lab: Lab,
    breakage: Breakage,
    invoke: Invoke,
    *,
    times: Times | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Times:
    """One breakage, from broken to repaired, on a lab where the stack is up. `invoke(*argv)` runs the program. `times`
    is filled as it goes. Raises DrillFailed."""
    times = times or Times()
    try:
        _stage(times, say, "planted", lambda: plant(lab, breakage))
        _stage(times, say, "found", lambda: _found(breakage, invoke))
        _stage(times, say, "shown", lambda: _shown(lab, breakage, invoke))
        _stage(times, say, "fixed", lambda: _fixed(lab, breakage, invoke))
        _stage(times, say, "proven", lambda: _proven(invoke))
        _stage(times, say, "again", lambda: _again(lab, breakage, invoke))
    finally:
        breakage.heal(lab)
    return times


def plant(lab: Lab, breakage: Breakage) -> str:
    """Break it, and see that a vendor's own command says so. Returns what it said."""
    breakage.plant(lab)
    return see(lab, breakage.proof)


def see(lab: Lab, proof: Proof) -> str:
    """The output of the proof's command once the text stands in it. Raises DrillFailed when it never does."""
    deadline = time.monotonic() + proof.within_s
    while True:
        done = lab.exec(*proof.argv, check=False)
        said = done.stdout + done.stderr
        if proof.text in said:
            return said
        if time.monotonic() > deadline:
            raise DrillFailed(f"planted: {' '.join(proof.argv)} does not say {proof.text!r} but:\n{said}")
        time.sleep(0.2)


def _stage(times: Times, say: Callable[[str], None], name: str, work: Callable[[], object]) -> None:
    say(name)
    began = time.monotonic()
    work()
    times.stages[name] = round(time.monotonic() - began, 2)


def _found(breakage: Breakage, invoke: Invoke) -> None:
    done = invoke("diagnose", "--json")
    if done.code != 2:
        raise DrillFailed(f"found: diagnose ended with {done.code}{done.seen}")
    causes = [cause["entry"] or cause["id"] for cause in json.loads(done.out)["causes"]]
    wanted = breakage.first or breakage.entry
    if not causes or causes[0] != wanted:
        raise DrillFailed(f"found: diagnose names {causes}, not {wanted} first{done.seen}")
    extra = set(causes) - {wanted, breakage.entry, *breakage.also}
    if extra:
        raise DrillFailed(f"found: diagnose names {sorted(extra)} besides{done.seen}")


def _shown(lab: Lab, breakage: Breakage, invoke: Invoke) -> None:
    before = lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout
    done = invoke(f"fix.{breakage.entry}", "--plan", *breakage.options)
    if done.code != 2 or not done.out.strip():
        raise DrillFailed(f"shown: the plan ended with {done.code}{done.seen}")
    if lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout != before:
        raise DrillFailed(f"shown: --plan changed the containers{done.seen}")


def _fixed(lab: Lab, breakage: Breakage, invoke: Invoke) -> None:
    done = invoke(f"fix.{breakage.entry}", "--yes", *breakage.options, timeout=300)
    if breakage.by_hand:
        if done.code != 2:
            raise DrillFailed(f"fixed: it was to say what a human must do, and ended with {done.code}{done.seen}")
        breakage.heal(lab)
    elif done.code != 0:
        raise DrillFailed(f"fixed: ended with {done.code}{done.seen}")


def _proven(invoke: Invoke) -> None:
    done = invoke("validate")
    if done.code != 0:
        raise DrillFailed(f"proven: validate ended with {done.code}{done.seen}")


def _again(lab: Lab, breakage: Breakage, invoke: Invoke) -> None:
    before = lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout
    done = invoke(f"fix.{breakage.entry}", "--yes", *breakage.options)
    if done.code != 0 or "nothing to fix" not in done.out:
        raise DrillFailed(f"again: ended with {done.code}{done.seen}")
    if lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout != before:
        raise DrillFailed(f"again: it changed the containers{done.seen}")


# ---- the program, run on a lab as an operator would


@dataclass(frozen=True)
class Ended:
    """A Ran."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def seen(self) -> str:
        return f"\n$ invoke {' '.join(self.argv)}\n{self.out}{self.err}[exit {self.code}]"


@dataclass(frozen=True)
class Program:
    """`invoke ...` with an inventory whose default host is the lab."""

    lab: Lab

    def __call__(self, *argv: str, timeout: float = 120) -> Ended:
        """Run it to its end, without a terminal. Raises DrillFailed when it does not end."""
        environment = {
            **os.environ,
            "PANTHEON_HOSTS": str(self.lab.hosts_file()),
            "PANTHEON_KNOWN_HOSTS": str(self.lab.keys.known_hosts),
        }
        command = [str(Path(sys.executable).with_name("invoke")), *argv]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DrillFailed(f"`invoke {' '.join(argv)}` did not end within {timeout:.0f} s") from None
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Ended(argv, done.returncode, out, err)


def missing(lab: Lab) -> str:
    """Why no fault can be planted: what of the stack is not up. "" when all of it is."""
    form = "{{.Names}} {{.State}} {{.Status}}"
    done = lab.exec("docker", "ps", "-a", "--format", form, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["docker does not answer"])[0]
    states = {name: rest for name, _, rest in (line.partition(" ") for line in done.stdout.splitlines())}
    absent = [name for name in SERVICES if name not in states]
    if absent:
        return f"{', '.join(absent)} not there"
    bad = [f"{name} is {states[name]}" for name in SERVICES if "(healthy)" not in states[name]]
    return "; ".join(bad)


def make_right(lab: Lab, invoke: Invoke, *, say: Say) -> None:
    """Bring the stack up on the lab unless it is up and nothing is wrong there; on a fresh host where that is not
    enough. Raises LabError."""
    if not missing(lab) and invoke("diagnose").code == 0:
        return
    say(f"bringing the stack up on lab {lab.name}")
    done = invoke("bringup", "--yes", timeout=BRING_UP_S)
    if done.code == 0 and invoke("diagnose").code == 0:
        return
    say(f"lab {lab.name} is not as it should be: a fresh one")
    machine.reset(lab.name, say=say)
    done = invoke("bringup", "--yes", timeout=BRING_UP_S)
    if done.code:
        raise LabError(
            f"the stack does not come up on lab {lab.name}:{done.seen}\nNext: invoke lab.reset --name {lab.name}"
        )


@dataclass(frozen=True)
class Result:
    """One drill that has ended. `reason` is why it failed, "" when it did not."""

    breakage: Breakage
    stages: dict[str, float]
    reason: str = ""

    @property
    def total_s(self) -> float:
        return sum(self.stages.values())


def drills(
    lab: Lab, chosen: Sequence[Breakage], invoke: Invoke, *, say: Say, on_result: Callable[[Result], None]
) -> list[Result]:
    """All of them, one after the other; after one that failed the host is made right before the next."""
    results: list[Result] = []
    for number, breakage in enumerate(chosen, 1):
        if number == 1 or results[-1].reason:
            make_right(lab, invoke, say=say)
        times = Times()
        reason = ""
        try:
            drill(lab, breakage, invoke, times=times, say=_prefixed(say, f"{number}/{len(chosen)} {breakage.name}"))
        except (DrillFailed, LabError, ValueError) as failed:
            reason = str(failed) or type(failed).__name__
        results.append(Result(breakage, times.stages, reason))
        on_result(results[-1])
    return results


def _prefixed(say: Say, name: str) -> Say:
    return lambda stage: say(f"{name}: {stage}")
