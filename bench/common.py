"""What the benchmarks share: a lab host, commands that must succeed, and how times are laid out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import machine

ROOT = Path(__file__).resolve().parents[1]
INVOKE = Path(sys.executable).with_name("invoke")


@contextmanager
def running_lab(name: str, folder: Path) -> Iterator[machine.Lab]:
    """The lab of that name, or one that lives as long as this."""
    if name:
        yield machine.get(name)
        return
    own = f"bench-{os.getpid()}"
    try:
        yield machine.up(own, port=machine.free_port(), known_hosts=folder / "unused", comfy_first_run=1, say=print)
    finally:
        machine.down(own, forget=True, known_hosts=folder / "unused")


def at_its_own_address(lab: machine.Lab, folder: Path) -> None:
    """Have every command talk to the container itself, with state of its own: there the network's faults are met."""
    os.environ["PANTHEON_HOSTS"] = str(lab.hosts_file(folder / "hosts.toml", direct=True))
    os.environ["PANTHEON_KNOWN_HOSTS"] = str(folder / "known_hosts")
    os.environ["XDG_STATE_HOME"] = str(folder)
    lab.trust(folder / "known_hosts", direct=True)


def once(argv: list[str], cwd: Path = ROOT) -> str:
    """What it printed. Ends the benchmark when it fails."""
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
