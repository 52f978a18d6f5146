"""What the lab's tasks do: parse their options, call the machine, print. Each returns an exit code (0, 1 or 130)."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TextIO

from lab import breakages, image, machine
from lab import drill as drilling
from lab.outer import LabError, Progress

P = ParamSpec("P")
SSH_FAILED = 255


def command(body: Callable[P, int | None]) -> Callable[P, int]:
    """Turn an expected failure into one paragraph on stderr and exit code 1, and Ctrl-C into 130."""

    @functools.wraps(body)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return body(*args, **kwargs) or 0
        except LabError as error:
            sys.stderr.write(f"✗ {error}\n")
            return 1
        except OSError as error:
            sys.stderr.write(f"✗ {error.filename or 'the lab'}: {error.strerror or error}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return 130

    return wrapped


@command
def build() -> None:
    """Only the images, as far as the cache does not have them: `python -m lab.commands`."""
    say = Progress()
    image.ensure("auto", say)
    image.ensure("auto", say, bare=True)


@command
def up(name: str, port: str, base: str, comfy_first_run: str, bare: bool = False) -> None:
    say = Progress()
    seconds = number(comfy_first_run, "--comfy-first-run") if comfy_first_run else None
    number_of_port = whole(port, "--port") if port else None
    lab = machine.up(name, port=number_of_port, base=base, bare=bare, comfy_first_run=seconds, say=say)
    state = "bare" if lab.bare else "ready"
    say(f"lab {lab.name} is {state}: {lab.os_id} {lab.os_version}, ssh on 127.0.0.1:{lab.port}")
    write(next_steps(lab))


def next_steps(lab: machine.Lab) -> str:
    """What to type now. Labs other than the one that hosts.toml ships with need a hosts.toml of their own."""
    return f"Next: {bringup(lab)}"


def bringup(lab: machine.Lab) -> str:
    return f"invoke bringup {'--install --reboot ' if lab.bare else ''}{to(lab)}"


@command
def down(name: str) -> None:
    machine.down(name, say=write)


@command
def reset(name: str) -> None:
    say = Progress()
    lab = machine.reset(name, say=say)
    say(f"lab {lab.name} is fresh: {lab.os_id} {lab.os_version}, ssh on 127.0.0.1:{lab.port}")
    write(next_steps(lab))  # with the keys of the image that it is of now


@command
def status() -> None:
    labs = machine.status()
    if not labs:
        write("No lab is up. Next: invoke lab.up")
    for one in labs:
        stale = "" if one.current else "   (sources have changed since: invoke lab.reset takes them up)"
        write(f"{one.name:<16} {one.state:<9} 127.0.0.1:{one.port:<6} {one.os}{', bare' if one.bare else ''}{stale}")


@command
def shell(name: str) -> int:
    lab = machine.running(name)
    status = subprocess.call(lab.ssh_argv())
    return 1 if status == SSH_FAILED else 0  # what the last command typed there ended with is no error of ours


@command
def break_(fault: str, name: str) -> None:
    if fault == "list":
        write(faults_list())
        return
    breakage = breakages.get(fault)
    lab = machine.running(name)
    absent = drilling.missing(lab)
    if absent:
        raise LabError(
            f"the stack is not up on lab {name} ({absent}), so nothing was broken. Next: {bringup(lab)}; or "
            f"invoke diagnose {to(lab)}, if something is broken already"
        )
    write(f"{breakage.name}: {breakage.says}")
    try:
        said = drilling.plant(lab, breakage)
    except drilling.DrillFailed as failed:
        raise LabError(f"{failed}\nNext: invoke lab.reset --name {name}") from None
    write(f"$ {shlex.join(breakage.proof.argv)}")
    write(telling(said, breakage.proof.text))
    write(f"Next: invoke diagnose {to(lab)}")


def faults_list() -> str:
    """Every fault with what it does; the first of an entry is the one that its name alone means."""
    every = breakages.every()
    width = max((len(one.name) for one in every), default=0)
    return "\n".join(f"{one.name:<{width}}  {one.says}{' (slow)' if one.slow else ''}" for one in every)


def telling(said: str, text: str) -> str:
    """The lines of a vendor's command that say what is wrong."""
    lines = [line.strip() for line in said.splitlines()]
    found = list(dict.fromkeys(line for line in lines if text in line)) or [line for line in lines if line]
    return "\n".join(found[-3:])


def to(lab: machine.Lab) -> str:
    """The options of a command to type that reach this lab."""
    return "--host lab" if lab.is_as_shipped else f"--host lab --hosts-file {shlex.quote(str(lab.hosts_file()))}"


@command
def drill(name: str, only: list[str], every: bool) -> int:
    chosen = choose(only, every=every)
    lab = machine.running(name)
    table = Table(sys.stdout, [one.name for one in chosen])
    say = Progress() if not table.live else table.now
    began = time.monotonic()
    try:
        results = drilling.drills(lab, chosen, drilling.Program(lab), say=say, on_result=table.row)
    finally:
        table.now("")
    failed = [result for result in results if result.reason]
    took = time.monotonic() - began
    write(f"{'✗' if failed else '✓'} {len(results) - len(failed)} of {len(results)} drills, {took:.0f} s")
    for result in failed:
        write(f"\n✗ {result.breakage.name}\n{indented(result.reason)}")
    return 1 if failed else 0


def choose(only: list[str], *, every: bool) -> list[breakages.Breakage]:
    """The faults that were named (several with commas, too), or the first of each entry, or with `every` all."""
    names = [name for given in only for name in given.split(",") if name.strip()]
    if names:
        found = []
        for name in names:
            first = breakages.get(name)
            found += list(breakages.of(first.entry)) if every and "." not in name else [first]
        return list(dict.fromkeys(found))
    if every:
        return breakages.every()
    quick = [[one for one in breakages.of(entry) if not one.slow] for entry in breakages.modules()]
    return [ones[0] for ones in quick if ones]


class Table:
    """A row for each drill as it ends. On a terminal the one that goes on stands below, until it has ended."""

    def __init__(self, out: TextIO, names: list[str]) -> None:
        self._out, self.live = out, out.isatty()
        self._width = max((len(name) for name in names), default=0)
        self._header = ["", *drilling.STAGES, "total"]

    def row(self, result: drilling.Result) -> None:
        self.now("")
        if self._header:
            self._line(" ", *self._header)
            self._header = []
        cells = [f"{result.stages[stage]:.1f}" if stage in result.stages else "-" for stage in drilling.STAGES]
        self._line("✗" if result.reason else "✓", result.breakage.name, *cells, f"{result.total_s:.1f}")

    def _line(self, sign: str, name: str, *cells: str) -> None:
        write(f"{sign} {name:<{self._width}}" + "".join(f"{cell:>8}" for cell in cells))

    def now(self, text: str) -> None:
        """What goes on at the moment: over what went on before."""
        if self.live:
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


def whole(text: str, option: str) -> int:
    if not text.isdecimal():
        raise LabError(f"{option} takes a whole number, not {text!r}.")
    return int(text)


def number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e6:
        raise LabError(f"{option} takes a number of seconds, not {text!r}.")
    return value


def write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(build())
