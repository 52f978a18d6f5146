"""Puts containers back on the directories that lie on the host now, after a disk was mounted under them.

Arguments: {"restart": [NAME, ...], "start": [NAME, ...], "disks": [PATH, ...]}. Of `restart`, those are restarted that
have something else than the host at a mount point below one of `disks`; the others are left running. `start` are
started. A name that is not there any more is passed over.
"""

from __future__ import annotations

import json
import os
import sys

from pantheon.mending.commands import docker
from pantheon.mending.words import Failed


def inspected(name: str) -> dict[str, object]:
    """What the engine says of a container; {} when there is none."""
    status, text = docker("container", "inspect", "--", name, timeout_s=30)
    if status:
        if "no such container" in text.lower():
            return {}
        raise Failed(f"docker inspect {name}: {text.splitlines()[-1] if text else status}")
    found = json.loads(text[text.index("[") :])[0]
    return found if isinstance(found, dict) else {}


def is_elsewhere(found: dict[str, object], disks: list[str]) -> bool:
    """Whether it has another directory at one of its mounts than the host has at the source."""
    state = found.get("State")
    pid = state.get("Pid", 0) if isinstance(state, dict) else 0
    mounts = found.get("Mounts")
    for mount in mounts if isinstance(mounts, list) else ():
        source, target = str(mount.get("Source") or ""), str(mount.get("Destination") or "")
        if mount.get("Type") != "bind" or not any(f"{source}/".startswith(f"{disk}/") for disk in disks):
            continue
        try:
            inside, here = os.stat(f"/proc/{pid}/root{target}"), os.stat(source)
        except OSError:
            return True  # a restart says what is the matter
        if (inside.st_dev, inside.st_ino) != (here.st_dev, here.st_ino):
            return True
        if mount.get("RW") and os.statvfs(f"/proc/{pid}/root{target}").f_flag & os.ST_RDONLY:
            return True
    return False


def main(arguments: dict[str, list[str]]) -> int:
    wrong = []
    try:
        for name in arguments.get("restart") or ():
            found = inspected(name)
            state = found.get("State")
            if not isinstance(state, dict) or not state.get("Running"):
                continue
            if not is_elsewhere(found, arguments.get("disks") or []):
                print(f"{name}: has the right directories, and runs on", flush=True)
                continue
            print(f"{name}: restarting", flush=True)
            status, said = docker("restart", name)
            wrong += [f"{name}: {said.splitlines()[0] if said else status}"] if status else []
        for name in arguments.get("start") or ():
            found = inspected(name)
            state = found.get("State")
            if not isinstance(state, dict) or state.get("Running"):
                continue
            status, said = docker("start", name)
            print(f"{name}: started" if status == 0 else f"{name}: {said}", flush=True)
            wrong += [f"{name}: {said.splitlines()[0] if said else status}"] if status else []
    except Failed as error:
        wrong.append(str(error))
    if wrong:
        print("; ".join(wrong), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
