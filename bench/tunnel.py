"""The same transfers through `invoke tunnel`, plain `ssh -L` and Fabric's forward_local, taking turns in one run.

    python bench/tunnel.py                    on a lab host of its own, which is gone afterwards
    python bench/tunnel.py --lab NAME         on a lab that is up; its services are left alone
    python bench/tunnel.py --only speed       or start, network, idle

Each way is a program of its own and leads to a small service on the host's loopback (bench/far.py). Plain ssh is what a
user has without configuration: the same key and known_hosts, ssh's own ciphers. It stands there twice, and what its
second differs from its first is noise. A row is `behind` or `ahead` where both the median of the rounds' ratios and
the ratio of the best differ from 1 by more than 5 %, and by more than the second ssh's do; otherwise it is `level`.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import transfers
from bench.common import at_its_own_address, running_lab
from bench.ways import Open, Way, all_ways
from lab import faults, machine

FAR_PORT = 18188
FAR_UNIT = "bench-far"
MARGIN = 0.05
PARTS = ("speed", "start", "network", "idle")
MB = 1e6
LOST = re.compile("link lost")


def main() -> int:
    options = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = stack.enter_context(running_lab(options.lab, folder))
        prepare(lab, folder)
        stack.enter_context(far_service(lab))
        ways = all_ways(lab, folder / "known_hosts", FAR_PORT)
        verdicts: list[str] = []
        for delay in (0.0, options.delay_ms):
            label = f"with {delay:.0f} ms more round trip" if delay else "as it is"
            if "speed" in options.only or "start" in options.only:
                with faults.delay(lab, delay) if delay else ExitStack():
                    if "speed" in options.only:
                        verdicts += speed(ways, label, options.megabytes / (4 if delay else 1), options.times)
                    if "start" in options.only:
                        start(ways, label, options.times)
        if "network" in options.only:
            network(lab, ways[:2], options.cuts)
        if "idle" in options.only:
            idle(ways[:2], options.idle_s)
        if verdicts:
            print("\nagainst plain ssh -L: " + "; ".join(verdicts))
    return 0


def prepare(lab: machine.Lab, folder: Path) -> None:
    """Let every command mean this lab, at its own address, where comfy has the port of the benchmark's service."""
    at_its_own_address(lab, folder)
    file = Path(os.environ["PANTHEON_HOSTS"])
    text = file.read_text()
    file.write_text(text.replace("comfy = { ", f"comfy = {{ port = {FAR_PORT}, "))
    (folder / "run").mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")


@contextmanager
def far_service(lab: machine.Lab) -> Iterator[None]:
    lab.exec("sh", "-c", "cat >/run/bench-far.py", stdin=Path(__file__).with_name("far.py").read_bytes())
    unit = ("systemd-run", "-q", "--collect", f"--unit={FAR_UNIT}")
    lab.exec(*unit, "python3", "-I", "/run/bench-far.py", str(FAR_PORT))
    try:
        yield
    finally:
        lab.sh(f"systemctl stop {FAR_UNIT} || true; rm -f /run/bench-far.py")


# ---- speed


@dataclass(frozen=True)
class Row:
    """What is measured: seconds from `work`, for a way's port and share. `shown` makes of them what is printed.
    `slow` is how often a way with a small share takes its turn."""

    name: str
    work: Callable[[int, float], float]
    shown: Callable[[float, float], str]
    slow: int = 2


def milliseconds(seconds: float, _share: float = 1.0) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"


def rows(megabytes: float, names: dict[int, str]) -> list[Row]:

    def rate(seconds: float, share: float) -> str:
        return f"{megabytes * share / seconds:.0f} MB/s"

    def size(share: float) -> int:
        return int(megabytes * MB * share)

    def at_once(port: int, _: float) -> float:
        found = transfers.many(port)
        slowest.append(found.worst)
        if found.failed:
            print(f"    ({names[port]}: {found.failed} of 64 got no answer)", flush=True)
        return found.total

    slowest: list[float] = []
    return [
        Row(f"{megabytes:.0f} MB down", lambda port, share: transfers.down(port, size(share)), rate),
        Row(f"{megabytes:.0f} MB up", lambda port, share: transfers.up(port, size(share)), rate),
        Row("64 requests at once, all", at_once, milliseconds, slow=1),
        # The same requests; `many` is not to be run twice for its two numbers.
        Row("64 requests at once, the slowest", lambda *_: slowest.pop(0), milliseconds, slow=1),
        Row("100 pushed messages, how late", lambda port, _: transfers.pushed(port), milliseconds),
        Row("first byte", lambda port, _: transfers.first_byte(port), milliseconds),
    ]


def speed(ways: Sequence[Way], label: str, megabytes: float, times: int) -> list[str]:
    """Prints all rows, and returns a verdict for each."""
    print(f"\n{label + f', load {os.getloadavg()[0]:.1f}':50}{'best':>11}{'median':>11}{'worst':>11}", flush=True)
    verdicts = []
    with ExitStack() as stack:
        doors = {}
        for way in ways:
            doors[way.name] = door = way.open()
            stack.callback(door.close)
            transfers.check_sums(door.port, int(megabytes * MB * way.share))
        for row in rows(megabytes, {door.port: name for name, door in doors.items()}):
            took = in_turns(row, ways, doors, times)
            for way in ways:
                each = took[way.name]
                values = (min(each), statistics.median(each), max(each))
                print(f"{row.name:34}{way.name:16}" + "".join(f"{row.shown(v, way.share):>11}" for v in values))
            verdict, why = judged(*(took[name] for name in ("invoke tunnel", "ssh -L", "ssh -L again")))
            print(f"{'':4}{verdict}: {why}\n", flush=True)
            verdicts.append(f"{row.name}, {label}: {verdict}")
    return verdicts


def in_turns(row: Row, ways: Sequence[Way], doors: dict[str, Open], times: int) -> dict[str, list[float]]:
    """Seconds of each round, of every way. A way that carries a small share takes few turns."""
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for count in range(times):
        order = [way for way in ways if way.share == 1 or count < row.slow]
        turn = count % len(order)
        for way in (*order[turn:], *order[:turn]):
            took[way.name].append(row.work(doors[way.name].port, way.share))
    return took


def judged(ours: list[float], theirs: list[float], again: list[float]) -> tuple[str, str]:
    """`ahead`, `level` or `behind`, and why. Ratios are of speed: above 1, ours is the faster one."""

    def ratios(mine: list[float]) -> tuple[float, float]:
        return statistics.median(b / a for a, b in zip(mine, theirs, strict=True)), min(theirs) / min(mine)

    (by_median, by_best), noise = ratios(ours), ratios(again)
    margin = 1 + max(MARGIN, *(abs(one - 1) for one in noise))
    verdict = "level"
    if min(by_median, by_best) > margin:
        verdict = "ahead"
    elif max(by_median, by_best) < 1 / margin:
        verdict = "behind"
    numbers = f"{by_median:.2f} times as fast as ssh -L by the median, {by_best:.2f} by the best"
    return verdict, f"{numbers} (ssh against itself {noise[0]:.2f}, {noise[1]:.2f})"


# ---- other times


def start(ways: Sequence[Way], label: str, times: int) -> None:
    """From the start of the program until it says that it is ready, or answers; and until it has ended."""
    ready: dict[str, list[float]] = {way.name: [] for way in ways if way.name != "ssh -L again"}
    ended: dict[str, list[float]] = {name: [] for name in ready}
    for count in range(times + 1):
        for way in ways:
            if way.name in ready:
                door = way.open()
                took = (door.ready_s, door.close())
                if count:  # the first warms caches
                    ready[way.name].append(took[0])
                    ended[way.name].append(took[1])
    for what, found in (("start to ready", ready), ("told to end, to the end", ended)):
        for name, each in found.items():
            line(f"{what}, {label}", name, each)
    print(flush=True)


def network(lab: machine.Lab, ways: Sequence[Way], cuts: Sequence[float]) -> None:
    """The network is gone for a while: when that is noticed, and when the first request is answered again. Clients ask
    all the time. Counted from the call that plants or mends the fault, which takes a few tenths itself."""
    noticed: list[float] = []
    back: dict[str, list[float]] = {way.name: [] for way in ways}
    with ExitStack() as stack:
        doors = {way.name: way.open() for way in ways}
        for door in doors.values():
            stack.callback(door.close)
        clients = {name: stack.enter_context(Client(door.port)) for name, door in doors.items()}
        for cut in cuts:
            time.sleep(2.0)
            began = time.perf_counter()
            with faults.blackhole(lab):
                time.sleep(cut)
                mended = time.perf_counter()
            found = {name: client.answered_after(mended) - mended for name, client in clients.items()}
            seen = doors["invoke tunnel"].said(LOST, 1.0, since=began)
            if seen:
                noticed.append(seen - began)
            for name, value in found.items():
                back[name].append(value)
            said = f"noticed after {seen - began:.1f} s" if seen else "the link outlived it"
            print(
                f"network gone for {cut:4.1f} s: first answer after "
                + ", ".join(f"{value:.2f} s ({name})" for name, value in found.items())
                + f"; {said}",
                flush=True,
            )
    for name, each in back.items():
        line("network back to first answer", name, each)
    if noticed:
        line("network gone to noticed", "invoke tunnel", noticed)


class Client:
    """Somebody who asks again and again, and gives each request a second."""

    def __init__(self, port: int) -> None:
        self.port, self._times = port, list[float]()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ending.wait(0.03):
            if transfers.answers(self.port, 1.0):
                self._times.append(time.perf_counter())

    def answered_after(self, moment: float, patience_s: float = 60.0) -> float:
        while time.perf_counter() < moment + patience_s:
            found = next((at for at in self._times if at > moment), 0.0)
            if found:
                return found
            time.sleep(0.01)
        raise SystemExit(f"no answer within {patience_s:.0f} s after the network was back")


def idle(ways: Sequence[Way], seconds: float) -> None:
    """What an open tunnel costs that nobody uses."""
    with ExitStack() as stack:
        doors = {way.name: way.open() for way in ways}
        for door in doors.values():
            stack.callback(door.close)
        time.sleep(2.0)
        before = {name: door.cpu_s() for name, door in doors.items()}
        time.sleep(seconds)
        for name, door in doors.items():
            used = (door.cpu_s() - before[name]) * 60 / seconds
            print(f"idle, {name:28}{used * 1000:7.0f} ms of processor time a minute, {door.memory_mib():.0f} MiB")


def line(what: str, name: str, each: Sequence[float]) -> None:
    values = "".join(f"{value * 1000:>8.0f} ms" for value in (min(each), statistics.median(each), max(each)))
    print(f"{what:50}{values}  {name}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", default="", help="a lab that is up, instead of one that lives as long as this")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--times", type=int, default=9, help="rounds")
    parser.add_argument("--megabytes", type=float, default=200, help="each way; a quarter of it on the slow link")
    parser.add_argument("--delay-ms", type=float, default=20, help="added to the round trip in the second part")
    parser.add_argument("--cuts", type=float, nargs="+", default=[10, 10.3, 10.6, 11, 5, 7, 20], help="seconds")
    parser.add_argument("--idle-s", type=float, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
