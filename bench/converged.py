"""A converged `invoke bringup --yes`, as a whole process, against plain ssh that is fed the same probe.

    python bench/converged.py                    starts a lab of its own, brings it up, measures, takes it down
    python bench/converged.py --lab NAME         on a lab that is up (it is brought up by the way)
    python bench/converged.py --host NAME        a real host of hosts.toml, which must have nothing left to do

The two take turns in one run, so that a busy machine slows both. Plain ssh gets a cold connection and the probe's own
text on stdin (`sudo -n python3 -I -`), as an operator would do it without pantheon; that both see the same is checked
first. A second round adds 20 ms to the round trip (labs only, over the container's own address), `invoke diagnose` and
`invoke audit` stand against the bring-up, and `invoke --list` against that of a bare collection.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import INVOKE, at_its_own_address, once, running_lab
from lab import faults
from pantheon import inventory, questions
from pantheon.inventory import Host
from pantheon.remote import session, shipped
from pantheon.remote.connection import HostConnection
from pantheon.remote.endpoint import resolve

BARE = """from invoke import Collection, task


@task
def one(c):
    '''The only task.'''


ns = Collection(one)
"""
# What differs between any two looks, by key, wherever it stands in the document.
VOLATILE = {"nonce", "took_s", "uptime_s", "ms", "memory_used_mib", "memory_free_mib", "utilisation", "temperature_c"}
VOLATILE |= {"power_w", "event_reasons", "free_bytes", "free_inodes", "log", "nvidia_smi", "lock", "body", "looked"}
Work = Callable[[], object]


def main() -> int:
    options = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = None
        if not options.host:
            lab = stack.enter_context(running_lab(options.lab, folder))
            at_its_own_address(lab, folder)
        os.environ["XDG_STATE_HOME"] = str(folder)
        host = inventory.load(None).host(options.host or None)
        bringup = [str(INVOKE), "bringup", "--yes", "--host", host.name]
        if lab:
            once([*bringup, "--older"])  # whatever there is to do
        plain = plain_ssh(host, folder)
        same_document(host, plain)
        print(f"{'':34}{'min':>9}{'median':>9}{'max':>9}")
        rounds = [("", 0.0)] + ([(f", {options.delay_ms:.0f} ms more", options.delay_ms)] if lab else [])
        for label, delay in rounds:
            with faults.delay(lab, delay) if lab and delay else ExitStack():
                pair(
                    ("invoke bringup, converged" + label, lambda: converged(bringup)),
                    ("ssh + the same probe" + label, plain),
                    times=options.times,
                    aim=1.2,
                )
        for verb in (["diagnose"], ["audit", "--fail-on", "high"]):
            argv = [str(INVOKE), *verb, "--host", host.name]
            pair(
                (f"invoke {verb[0]}", partial(once, argv)),
                ("invoke bringup, converged", partial(converged, bringup)),
                times=options.times,
                aim=4.0,
            )
        (folder / "tasks.py").write_text(BARE)
        pair(
            ("invoke --list", lambda: once([str(INVOKE), "--list"])),
            ("invoke --list, bare collection", lambda: once([str(INVOKE), "--list"], cwd=folder)),
            times=options.times,
            aim=1.5,
        )
    return 0


def converged(argv: list[str]) -> None:
    said = once(argv)
    if "nothing to do" not in said:
        raise SystemExit(f"the host was not converged:\n{said}")


# ---- plain ssh


def spec_of(host: Host) -> dict[str, Any]:
    return dict(questions.questions(host, nonce="0123456789abcdef"))


def plain_ssh(host: Host, folder: Path) -> Callable[[], str]:
    """What runs the probe on the host with nothing but OpenSSH, a cold connection each time."""
    endpoint = resolve(host)
    strict = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ControlPath": "none"}
    if "PANTHEON_KNOWN_HOSTS" in os.environ:
        strict |= {"UserKnownHostsFile": os.environ["PANTHEON_KNOWN_HOSTS"], "IdentitiesOnly": "yes"}
    identities = [word for path in endpoint.identities for word in ("-i", str(path))]
    target = ["-p", str(endpoint.port), f"{endpoint.user}@{endpoint.hostname}"]
    config = [] if host.gateway or not endpoint.identities else ["-F", os.devnull]
    argv = ["ssh", *config, *(f"-o{key}={value}" for key, value in strict.items()), *identities, *target]
    argv += ["sudo", "-n", "python3", "-I", "-"] if endpoint.user != "root" else ["python3", "-I", "-"]
    text = folder / "probe-and-question.py"
    text.write_bytes(shipped.plain_program("pantheon.probe", spec_of(host)))

    def work() -> str:
        with text.open("rb") as stdin:
            done = subprocess.run(argv, stdin=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{shlex.join(argv)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    return work


def same_document(host: Host, plain: Callable[[], str]) -> None:
    """Both ways must see the same host. Ends the benchmark where they do not."""
    frames: list[dict[str, Any]] = []
    with HostConnection.to(host) as connection:
        connection.open()
        session.run_module(connection, "pantheon.probe", spec_of(host), deadline_s=60, on_frame=frames.append)
    ours, theirs = steady(frames[-1]["facts"]), steady(json.loads(plain().splitlines()[-1])["facts"])
    if ours != theirs:
        differ = [key for key in ours if ours[key] != theirs.get(key)]
        raise SystemExit(
            f"the two looks differ in {differ}: " + "; ".join(f"{ours[k]} / {theirs.get(k)}" for k in differ)
        )
    print(f"both ways give the same document: {len(json.dumps(frames[-1]))} bytes, {len(ours)} parts\n")


def steady(value: Any) -> Any:
    """A document without what differs between any two looks. Processes and sockets of the looks themselves go too."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [steady(each) for each in value if not (isinstance(each, dict) and each.get("process") == "sshd")]
    return value


# ---- time


def pair(one: tuple[str, Work], other: tuple[str, Work], *, times: int, aim: float) -> None:
    """Both in turns, the first of each not counted: it warms the caches of both."""
    took: dict[str, list[float]] = {one[0]: [], other[0]: []}
    for count in range(times + 1):
        for name, work in (one, other) if count % 2 else (other, one):
            began = time.perf_counter()
            work()
            if count:
                took[name].append(time.perf_counter() - began)
    for name, each in took.items():
        print(
            f"{name:34}"
            + "".join(f"{value * 1000:6.0f} ms" for value in (min(each), statistics.median(each), max(each)))
        )
    ratios = [mine / its for mine, its in zip(*took.values(), strict=True)]
    by_median = statistics.median(took[one[0]]) / statistics.median(took[other[0]])
    by_min = min(took[one[0]]) / min(took[other[0]])
    spread = f"of the minima {by_min:.2f}, of the pairs {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{'':4}ratio {by_median:.2f} (aim: at most {aim}); {spread}\n", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--lab", default="", help="a lab that is up, instead of one that lives as long as this")
    where.add_argument("--host", default="", help="a host of hosts.toml, instead of a lab")
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--delay-ms", type=float, default=20, help="added to the round trip in the second round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
