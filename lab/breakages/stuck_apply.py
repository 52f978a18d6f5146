"""A real run of pantheon, stuck in a step that hangs, its process stopped, and its workstation killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab.breakages import Breakage, Proof
from lab.machine import Lab
from lab.outer import LabError

ROOT = Path(__file__).resolve().parents[2]
PLACE = "/mnt/local/ssd/ai/outputs"  # a directory of section 3, whose owner the run is to put right
HANGS = "/usr/local/sbin/chown"  # first on the runner's PATH: what makes that step hang
PROOF = Proof(("lslocks", "--noheadings", "-o", "COMMAND,TYPE,MODE,PATH"), "/run/pantheon/lock")

HANG = """
/bin/chown 1:1 "$1"
printf '#!/bin/sh\\nexec sleep 600\\n' >"$2"
chmod 755 "$2"
"""
# Who holds the lock, once its step hangs. The step's parent is the runner.
STUCK = """
step=$(pgrep -x -f 'sleep 600' | head -n 1)
[ -n "$step" ] && ps -o ppid= -p "$step" | tr -d ' '
"""
MENDED = """
rm -f "$2"
/bin/chown 0:0 "$1"
"""
# What heals: nothing of the run is left, whether it was ended or not.
END = """
for step in $(pgrep -x -f 'sleep 600'); do
    runner=$(ps -o ppid= -p "$step" | tr -d ' ')
    kill -CONT "$step" || true
    [ "$runner" = 1 ] || kill -KILL "$runner"
    kill -KILL "$step" || true
done
"""


@contextlib.contextmanager
def run(lab: Lab, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """`invoke ...` against the lab, from a workstation of its own that is gone at the end, with kill -9."""
    with tempfile.TemporaryDirectory(prefix="pantheon-lab-") as folder:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "PANTHEON_HOSTS": str(lab.hosts_file(Path(folder) / "hosts.toml")),
            "PANTHEON_KNOWN_HOSTS": str(lab.keys.known_hosts),
        }
        client = subprocess.Popen(
            [sys.executable, "-m", "invoke", *argv],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield client
        finally:
            client.kill()
            client.wait()


def stuck_step(lab: Lab, client: subprocess.Popen[bytes], deadline_s: float = 30) -> str:
    """The process id, on the lab host, of the runner whose step hangs."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end and client.poll() is None:
        if pid := lab.sh(STUCK, check=False).strip():
            return pid
        time.sleep(0.1)
    raise LabError(f"no step of the run hangs (exit status {client.poll()})")


def stopped(lab: Lab) -> None:
    lab.sh(HANG, PLACE, HANGS)
    try:
        with run(lab, "storage", "--yes") as client:
            lab.sh('kill -STOP "$1"', stuck_step(lab, client))
    finally:
        lab.sh(MENDED, PLACE, HANGS)


def stopped_whole(lab: Lab) -> None:
    """The step's own process as well: it does not hear a SIGTERM either."""
    lab.sh(HANG, PLACE, HANGS)
    try:
        with run(lab, "storage", "--yes") as client:
            runner = stuck_step(lab, client)
            lab.sh('kill -STOP $(pgrep -P "$1") "$1"', runner)
    finally:
        lab.sh(MENDED, PLACE, HANGS)


def heal(lab: Lab) -> None:
    lab.sh(END, check=False)
    lab.sh(MENDED, PLACE, HANGS)


BREAKAGES = (
    Breakage(
        "stuck-apply",
        "stopped",
        "stops a run of pantheon in the middle of a step, and kills its workstation",
        stopped,
        PROOF,
        options=("--end",),
        heal=heal,
    ),
    Breakage(
        "stuck-apply",
        "stopped-with-its-step",
        "stops a run of pantheon and the command that it runs, and kills its workstation",
        stopped_whole,
        PROOF,
        options=("--end",),
        heal=heal,
        slow=True,
    ),
)
