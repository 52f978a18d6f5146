"""How many round trips a login and one command cost: pantheon's connection, stock Fabric and OpenSSH, one sshd.

    python bench/ssh_roundtrips.py USER@HOST:PORT IDENTITY [--rtt-ms 100] [--times 5]

A relay on loopback delays every byte by half a round trip each way, whatever the kernel has; what is counted is the
time with the delay less the time without, divided by the round trip. The host's key must be known (`invoke trust`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.relay import Relay

COMMAND = "true"


def main() -> None:
    options = arguments()
    user, _, place = options.target.rpartition("@")
    address, _, port = place.rpartition(":")
    key = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", port, address], capture_output=True, text=True, check=True
    )
    print(f"{'':24}{'no delay':>10}{f'{options.rtt_ms:.0f} ms':>10}{'round trips':>13}")
    for name, make in CLIENTS.items():
        took = {}
        for delay in (0.0, options.rtt_ms / 1000):
            with Relay((address, int(port)), delay_s=delay) as relay, tempfile.TemporaryDirectory() as folder:
                known = Path(folder) / "known_hosts"
                known.write_text(
                    "".join(
                        f"[127.0.0.1]:{relay.port} {line.split(' ', 1)[1]}\n"
                        for line in key.stdout.splitlines()
                        if not line.startswith("#")
                    )
                )
                os.environ["PANTHEON_KNOWN_HOSTS"] = str(known)
                work = make(user, relay.port, options.identity, str(known))
                work()  # imports and caches are not what is measured
                took[delay] = statistics.median(timed(work) for _ in range(options.times))
        plain, delayed = took.values()
        trips = (delayed - plain) / (options.rtt_ms / 1000)
        print(f"{name:24}{plain * 1000:7.1f} ms{delayed * 1000:7.1f} ms{trips:13.1f}", flush=True)
    print(f"threads left: {threading.active_count() - 1}")


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pantheon(user: str, port: int, identity: str, _: str) -> Callable[[], None]:
    from pantheon.inventory import Host
    from pantheon.remote.connection import HostConnection

    host = Host("bench", "127.0.0.1", user=user, port=port, identity=identity)

    def work() -> None:
        connection = HostConnection.to(host)
        connection.open()
        channel = connection.execute(COMMAND)
        channel.recv_exit_status()
        connection.close()

    return work


def fabric(user: str, port: int, identity: str, _: str) -> Callable[[], None]:
    import fabric

    def work() -> None:
        with fabric.Connection("127.0.0.1", user=user, port=port, connect_kwargs={"key_filename": identity}) as link:
            link.run(COMMAND, hide=True, in_stream=False)

    return work


def openssh(user: str, port: int, identity: str, known: str) -> Callable[[], None]:
    command = ["ssh", "-F", os.devnull, "-S", "none", "-i", identity, "-o", f"UserKnownHostsFile={known}", "-o",
               "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-p", str(port), f"{user}@127.0.0.1", COMMAND]  # fmt: skip

    def work() -> None:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return work


CLIENTS = {"pantheon": pantheon, "stock Fabric": fabric, "OpenSSH": openssh}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("identity")
    parser.add_argument("--rtt-ms", type=float, default=100)
    parser.add_argument("--times", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
