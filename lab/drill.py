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
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from lab.breakages import Breakage, Proof
from lab.machine import Lab


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


def drill(lab: Lab, breakage: Breakage, invoke: Invoke, *, say: Callable[[str], None] = lambda _: None) -> Times:
    """One breakage, from broken to repaired, on a lab where the stack is up. `invoke(*argv)` runs the program. Raises
    DrillFailed."""
    times = Times()
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


def plant(lab: Lab, breakage: Breakage) -> None:
    """Break it, and see that a vendor's own command says so."""
    breakage.plant(lab)
    see(lab, breakage.proof)


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


def _stage(times: Times, say: Callable[[str], None], name: str, work: Callable[[], None]) -> None:
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
    done = invoke("diagnose")
    if done.code != 0:
        raise DrillFailed(f"proven: diagnose ended with {done.code}{done.seen}")


def _again(lab: Lab, breakage: Breakage, invoke: Invoke) -> None:
    before = lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout
    done = invoke(f"fix.{breakage.entry}", "--yes", *breakage.options)
    if done.code != 0 or "nothing to fix" not in done.out:
        raise DrillFailed(f"again: ended with {done.code}{done.seen}")
    if lab.exec("docker", "ps", "-aq", "--no-trunc", check=False).stdout != before:
        raise DrillFailed(f"again: it changed the containers{done.seen}")
