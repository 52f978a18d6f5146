"""Puts lines at the end of /etc/fstab, and changes nothing else in it.

Arguments: {"lines": [TEXT, ...], "sha256": what the file was when that was planned, "missing", or "" for any}.
Nothing is done where the file has another line for one of the mount points, has changed since, or would be faulty with
the new lines.
The file as it was before pantheon's first line is kept as /etc/fstab.before-pantheon. Written to a new file, checked,
and renamed: owner and mode stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys

from pantheon.mending.words import Failed, say

FSTAB = "/etc/fstab"
KEPT = "before-pantheon"


def faults(path: str) -> list[str]:
    """What findmnt finds wrong in a file of that kind; [] where it cannot be asked."""
    try:
        done = subprocess.run(
            ["findmnt", "--verify", "--tab-file", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if "[E]" in line or "parse error at" in line]  # and not how many there are


def targets(text: str) -> list[str]:
    """The mount points of its lines, as they are written there."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [row[1].rstrip("/") or "/" for row in rows if len(row) > 1]


def changed(before: str, lines: list[str]) -> str:
    return before + ("" if not before or before.endswith("\n") else "\n") + "".join(f"{line}\n" for line in lines)


def put(lines: list[str], expected: str, place: str = FSTAB) -> str:
    """What was done, in words. Raises Failed."""
    for line in lines:
        if len(line.split()) != 6 or "\n" in line:
            raise Failed(f"not a line of fstab: {line!r}")
    about, data = None, b""
    if os.path.lexists(place):
        about = os.lstat(place)
        if not stat.S_ISREG(about.st_mode):
            raise Failed(f"{place} is not a plain file: it is left alone")
        with open(place, "rb") as file:
            data = file.read()
    before = data.decode("utf-8", "surrogateescape")
    lines = [line for line in lines if line not in before.splitlines()]
    if not lines:
        return f"{place} has it already"
    taken = [line.split()[1] for line in lines if line.split()[1] in targets(before)]
    if taken:
        raise Failed(f"{place} has another line for {taken[0]}: it is left alone")
    if expected not in ("", "missing" if about is None else hashlib.sha256(data).hexdigest()):
        raise Failed(f"{place} has been changed since this was planned: it is left alone")
    new = f"{place}.pantheon-new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(changed(before, lines))
            file.flush()
            os.fchown(file.fileno(), about.st_uid if about else 0, about.st_gid if about else 0)
            os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode) if about else 0o644)
            os.fsync(file.fileno())
        more = [fault for fault in faults(new) if fault not in (faults(place) if about else [])]
        if more:
            raise Failed(f"with the line {place} would be faulty: {more[0]}")
        if about is not None and not os.path.lexists(f"{place}.{KEPT}"):
            shutil.copy2(place, f"{place}.{KEPT}")
        os.rename(new, place)
    except BaseException:
        if os.path.lexists(new):
            os.unlink(new)
        raise
    return "; ".join(f"{place}: {line}" for line in lines)


def main(arguments: dict[str, object]) -> int:
    lines = arguments.get("lines")
    try:
        asked = [str(line) for line in lines] if isinstance(lines, list) else []
        say(put(asked, str(arguments.get("sha256"))))
        # systemd makes its units of the file, and else goes by the old one.
        subprocess.run(["systemctl", "daemon-reload"], stdin=subprocess.DEVNULL, timeout=60, check=False)
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        say(str(getattr(error, "strerror", None) or error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
