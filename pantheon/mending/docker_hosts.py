"""Takes addresses out of `hosts` in Docker's daemon.json. Everything else in it stays; dockerd checks the result before
it takes the old one's place. Whoever runs this restarts Docker afterwards. Run again, it finds nothing left to do."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tempfile

DOCKERD_S = 30
MOST_BYTES = 1 << 20


class Refused(Exception):
    """One line for people: why nothing was changed."""


def without(text: str, remove: list[str]) -> str | None:
    """The text of daemon.json without these addresses; None when it has none of them. Raises Refused."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise Refused(f"it is not plain JSON: {error}") from None
    hosts = config.get("hosts") if isinstance(config, dict) else None
    if hosts is None:
        return None
    if not isinstance(hosts, list):
        raise Refused('its "hosts" is no list')
    kept = [host for host in hosts if host not in remove]
    if len(kept) == len(hosts):
        return None
    if kept:
        config["hosts"] = kept
    else:
        del config["hosts"]  # an empty list is refused; without it dockerd has its usual socket
    indent = re.search(r"^([ \t]+)\"", text, re.MULTILINE)
    return json.dumps(config, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"


def check(path: str) -> None:
    """Raises Refused when dockerd does not take the file."""
    try:
        done = subprocess.run(
            ["dockerd", "--validate", "--config-file", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOCKERD_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"dockerd could not check it: {error}") from None
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Refused(f"dockerd does not take it without them: {said[-1]}")


def mend(path: str, remove: list[str]) -> str:
    """What was done, in a line. Raises Refused and OSError."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Refused("it is not a regular file")
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read(MOST_BYTES)
    new = without(text, remove)
    if new is None:
        return f"{path}: nothing left to take out"
    handle, beside = tempfile.mkstemp(prefix=".daemon.json.", dir=os.path.dirname(path))
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(new)
            os.fchown(handle, found.st_uid, found.st_gid)
            os.fchmod(handle, stat.S_IMODE(found.st_mode))
            file.flush()
            os.fsync(handle)
        check(beside)
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return f"{path}: took out {', '.join(remove)}"


def main() -> int:
    given = json.loads(sys.argv[1])
    path = given["path"]
    try:
        print(mend(path, given["remove"]), flush=True)
    except FileNotFoundError:
        print(f"{path}: it is not there any more", flush=True)
    except (Refused, OSError, ValueError) as error:
        print(f"{path} was not changed: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
