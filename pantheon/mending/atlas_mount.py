"""Brings systemd's units of Atlas's mounts to what their files say.

Arguments: {"remove": [UNIT FILE, ...], "renew": [MOUNT POINT, ...], "lift": [..], "enable": [..], "start": [..],
"units": {MOUNT POINT: NAME without .mount}}. In this order:

- `remove`: files that pantheon wrote and nobody wants any more: stopped, disabled, and the file removed.
- `renew`: the units' files have changed: what is mounted there is unmounted first, so that it is mounted as they say.
- `lift`: a dead mount is taken out of the way (umount -l): who works on it keeps it, nobody else meets it.
- `enable`: its automount, from now on and at each boot.
- `start`: mounted now.

A mount in use is never taken away: it is said, and what was to become of it waits for the next boot. A server that
does not answer is said as well, and is no failure: the mount comes when somebody uses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

from pantheon.mending.folders import mounts
from pantheon.mending.words import say

HEADER = "# Written by pantheon"
PLACE = "/etc/systemd/system"
CALL_S = 20.0
MOUNT_S = 45.0  # more than a unit's own TimeoutSec
NOTES: list[str] = []


def run(*argv: str, timeout_s: float = CALL_S) -> tuple[int, str]:
    """Exit status and the last line of what it said. What does not end is left behind, stuck in the kernel or not."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        text, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        if child.stdout:
            child.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
        return 124, f"no end within {timeout_s:g} s"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return child.returncode, lines[-1] if lines else ""


def mounted(path: str) -> bool:
    """Whether something other than a waiting automount lies there."""
    return any(mount.target == path and mount.kind != "autofs" for mount in mounts())


def unmount(path: str, unit: str) -> bool:
    """Ends the automount and the mount. False where somebody works there: then both stay."""
    if mounted(path):
        # Not by systemd, which would stop every service that needs the mount.
        status, said = run("umount", "--", path)
        if mounted(path):
            NOTES.append(f"{path}: in use, it stays as it is until the next boot ({said or status})")
            return False
    run("systemctl", "stop", "--", f"{unit}.automount")
    return True


def remove(paths: list[str], units: dict[str, str]) -> list[str]:
    """Units of pantheon's, by their files. Returns what went wrong."""
    wrong = []
    ours = []
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                ours += [path] if file.read(len(HEADER)) == HEADER and os.path.dirname(path) == PLACE else []
        except FileNotFoundError:
            continue
    names = {os.path.basename(path).rpartition(".")[0] for path in ours}
    wheres = {unit: where for where, unit in units.items()}
    for name in sorted(names):
        run("systemctl", "disable", "--", f"{name}.automount")
        if name in wheres:
            unmount(wheres[name], name)
    for path in ours:
        try:
            os.unlink(path)
            say(f"removed {path}")
        except OSError as error:
            wrong.append(f"{path}: {error.strerror}")
    return wrong


def lift(path: str) -> None:
    status, said = run("umount", "-l", "--", path)
    if status == 0:
        say(f"{path}: the mount that did not answer is out of the way")
    else:
        say(f"{path}: {said or status}")


def start(path: str, unit: str) -> None:
    if mounted(path):
        say(f"{path}: mounted")
        return
    run("systemctl", "reset-failed", "--", f"{unit}.mount")
    status, said = run("systemctl", "start", "--", f"{unit}.mount", timeout_s=MOUNT_S)
    if status == 0 and mounted(path):
        say(f"{path}: mounted")
        return
    _, text = run("journalctl", "-q", "-o", "cat", "-n", "8", "-u", f"{unit}.mount", "-t", "mount", timeout_s=5)
    say(f"{path}: not mounted: {text or said or status}")


def main(arguments: dict[str, object]) -> int:
    given = {name: [str(one) for one in value] for name, value in arguments.items() if isinstance(value, list)}
    told = arguments.get("units")
    units = {str(path): str(name) for path, name in told.items()} if isinstance(told, dict) else {}
    wrong = remove(given.get("remove", []), units)
    for path in given.get("lift", []):
        lift(path)
    for path in given.get("renew", []):
        unmount(path, units[path])
    status, said = run("systemctl", "daemon-reload", timeout_s=60)
    if status:
        wrong.append(f"systemctl daemon-reload: {said or status}")
    for path in given.get("enable", []):
        status, said = run("systemctl", "enable", "--quiet", "--", f"{units[path]}.automount")
        if status:
            wrong.append(f"{path}: {said or status}")
        if not mounted(path):  # over a mount there can be no automount: it begins at the next boot
            status, said = run("systemctl", "start", "--", f"{units[path]}.automount")
            wrong += [f"{path}: {said or status}"] if status else []
    for path in given.get("start", []):
        start(path, units[path])
    for note in NOTES:  # last, where they are not missed
        say(note)
    if wrong:
        say("; ".join(wrong))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
