"""What the lab's tasks do: parse their options, call the machine, print. Each returns an exit code (0, 1 or 130)."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec

from lab import image, machine
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
    image.ensure("auto", Progress())


@command
def up(name: str, port: str, base: str, comfy_first_run: str) -> None:
    say = Progress()
    seconds = number(comfy_first_run, "--comfy-first-run") if comfy_first_run else None
    number_of_port = whole(port, "--port") if port else None
    lab = machine.up(name, port=number_of_port, base=base, comfy_first_run=seconds, say=say)
    say(f"lab {lab.name} is ready: {lab.os_id} {lab.os_version}, ssh on 127.0.0.1:{lab.port}")
    write(next_steps(lab))


def next_steps(lab: machine.Lab) -> str:
    """What to type now. Labs other than the one that hosts.toml ships with need a hosts.toml of their own."""
    if lab.is_as_shipped:
        return "Next: invoke bringup --host lab"
    return f"Next: invoke bringup --host lab --hosts-file {shlex.quote(str(lab.hosts_file()))}"


@command
def down(name: str) -> None:
    machine.down(name, say=write)


@command
def reset(name: str) -> None:
    say = Progress()
    lab = machine.reset(name, say=say)
    say(f"lab {lab.name} is fresh: {lab.os_id} {lab.os_version}, ssh on 127.0.0.1:{lab.port}")


@command
def status() -> None:
    labs = machine.status()
    if not labs:
        write("No lab is up. Next: invoke lab.up")
    for one in labs:
        stale = "" if one.current else "   (sources have changed since: invoke lab.reset takes them up)"
        write(f"{one.name:<16} {one.state:<9} 127.0.0.1:{one.port:<6} {one.os}{stale}")


@command
def shell(name: str) -> int:
    lab = machine.running(name)
    status = subprocess.call(lab.ssh_argv())
    return 1 if status == SSH_FAILED else 0  # what the last command typed there ended with is no error of ours


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
