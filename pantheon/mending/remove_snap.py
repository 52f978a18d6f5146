"""A snap removed, its data saved first.

arguments: name; save_s (how long saving may take). Its services are stopped, `snap save` keeps its data (until `snap
forget`), and only then it is removed; without a second copy, which snapd would drop after a month. When it cannot be
saved, for want of room for instance, its services are started again and it stays. Done again, nothing is left to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

from pantheon.mending.commands import run
from pantheon.mending.words import Failed, say

COMMAND_S = 600
SPARE_BYTES = 2 << 30
COUNT_S = 120.0
DATA, SNAPSHOTS = "/var/snap", "/var/lib/snapd"


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        remove(told["name"], told["save_s"])
    except Failed as refused:
        say("\n".join(refused.args))
        return 1
    except (OSError, subprocess.SubprocessError) as error:
        say(f"the snap {told['name']}: {error}")
        return 1
    return 0


def remove(name: str, save_s: float) -> None:
    if snap("list", name, deadline_s=60).returncode:
        say(f"there is no snap {name} any more")
        return
    room(name)
    checked(snap("stop", name, deadline_s=COMMAND_S), f"the snap {name} could not be stopped")
    say(f"saving the data of the snap {name}")
    try:
        saved = checked(snap("save", name, deadline_s=save_s), f"the data of the snap {name} could not be saved")
    except BaseException:
        snap("start", name, deadline_s=COMMAND_S)
        say(f"the snap {name} was started again, and stays")
        raise
    say("\n".join(saved))
    checked(snap("remove", "--purge", name, deadline_s=COMMAND_S), f"the snap {name} could not be removed")
    say(f"removed; its data: snap saved; back with: snap install {name}, snap restore SET")


def snap(*words: str, deadline_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return run(["snap", *words], deadline_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"snap {' '.join(words)}: no end within {deadline_s:.0f} s") from None


def checked(done: subprocess.CompletedProcess[str], what: str) -> list[str]:
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode:
        raise Failed(what, *lines[-5:])
    return lines


def room(name: str) -> None:
    """Raises Failed where its data, as it is, would not fit beside itself."""
    needed = size(f"{DATA}/{name}")
    free = shutil.disk_usage(SNAPSHOTS).free
    if needed + SPARE_BYTES > free:
        raise Failed(
            f"the data of the snap {name} ({needed / 2**30:.1f} GiB) does not fit into {SNAPSHOTS}"
            f" ({free / 2**30:.1f} GiB free): nothing was touched",
            f"make room; or save what is needed of it, and remove it by hand: sudo snap remove {name}",
        )


def size(folder: str) -> int:
    """Bytes of the files below, as far as they can be counted in time."""
    total, waiting, end = 0, [folder], time.monotonic() + COUNT_S
    while waiting and time.monotonic() < end:
        try:
            for entry in os.scandir(waiting.pop()):
                about = entry.stat(follow_symlinks=False)
                total += about.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
        except OSError:
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
