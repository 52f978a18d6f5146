"""The ways to a service that are compared, each a process of its own: `invoke tunnel`, plain `ssh -L` as its user has
it by default, and Fabric's forward_local."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import transfers
from bench.common import INVOKE, ROOT
from lab import machine

READY_S = 30.0


class Open:
    """One way in that is open. `ready_s` is the time from the start of its program until it could be used: the URL it
    prints, or, for a program that says nothing, the first answer."""

    def __init__(self, argv: Sequence[str], port: int, ready: re.Pattern[str] | None) -> None:
        self.port, self.lines = port, list[tuple[float, str]]()
        began = time.perf_counter()
        self.process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._heard = threading.Condition()
        threading.Thread(target=self._hear, daemon=True).start()
        if ready:
            if not self.said(ready, READY_S):
                self._give_up()
            self.ready_s = self.lines[-1][0] - began
            return
        while not transfers.answers(port, READY_S):
            if self.process.poll() is not None or time.perf_counter() > began + READY_S:
                self._give_up()
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - began

    def said(self, pattern: re.Pattern[str], timeout_s: float, *, since: float = 0.0) -> float:
        """When it printed such a line after `since` (perf_counter); 0 when it did not in time."""

        def found() -> float:
            return next((at for at, line in self.lines if at > since and pattern.search(line)), 0.0)

        with self._heard:
            self._heard.wait_for(lambda: found() or self.process.poll() is not None, timeout_s)
            return found()

    def _hear(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._heard:
                self.lines.append((time.perf_counter(), line))
                self._heard.notify_all()
        self.process.wait()
        with self._heard:
            self._heard.notify_all()

    def _give_up(self) -> None:
        self.close()
        raise SystemExit("it did not get ready:\n" + "".join(line for _, line in self.lines))

    def close(self) -> float:
        """End it. Returns how long that took."""
        began = time.perf_counter()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.perf_counter() - began

    def tree(self) -> list[int]:
        """Its process and those below it."""
        pids = [self.process.pid]
        for pid in pids:
            for file in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += [int(word) for word in file.read_text().split()]
        return pids

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used so far, with its children."""
        ticks = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """What is in memory of it and its children and not shared with others."""
        lines = [line for pid in self.tree() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@dataclass(frozen=True)
class Way:
    """A way by name. `share` of the bytes is what it is given to carry: of a slow one that says enough."""

    name: str
    open: Callable[[], Open]
    share: float = 1.0


def all_ways(lab: machine.Lab, known: Path, remote_port: int) -> list[Way]:
    """The three, and plain ssh a second time: what that differs from the first is noise."""

    def pantheon() -> Open:
        port = machine.free_port()
        argv = [str(INVOKE), "tunnel", "comfy", "--port", str(port)]
        return Open(argv, port, re.compile(f"http://127.0.0.1:{port}/"))

    def ssh() -> Open:
        port = machine.free_port()
        argv = ["ssh", "-F", os.devnull, "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}"]
        argv += ["-i", str(lab.keys.identity), "-N", "-L", f"{port}:127.0.0.1:{remote_port}"]
        return Open([*argv, f"{machine.USER}@{lab.address}"], port, None)

    def fabric() -> Open:
        port = machine.free_port()
        where = [lab.address, machine.USER, str(lab.keys.identity), str(port), str(remote_port)]
        return Open([sys.executable, str(Path(__file__).with_name("forward_local.py")), *where], port, None)

    return [
        Way("invoke tunnel", pantheon),
        Way("ssh -L", ssh),
        Way("ssh -L again", ssh),
        Way("forward_local", fabric, share=0.04),
    ]
