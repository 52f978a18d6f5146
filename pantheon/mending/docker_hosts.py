"""Takes addresses out of `hosts` in Docker's daemon.json. Everything else in it stays; dockerd checks the result before
it takes the old one's place. Whoever runs this restarts Docker afterwards. Run again, it finds nothing left to do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

from pantheon.mending.dockerd import MOST_BYTES, refusal, rendered, staged
from pantheon.mending.words import Failed


def without(text: str, remove: list[str]) -> str | None:
    """The text of daemon.json without these addresses; None when it has none of them. Raises Failed."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise Failed(f"it is not plain JSON: {error}") from None
    hosts = config.get("hosts") if isinstance(config, dict) else None
    if hosts is None:
        return None
    if not isinstance(hosts, list):
        raise Failed('its "hosts" is no list')
    kept = [host for host in hosts if host not in remove]
    if len(kept) == len(hosts):
        return None
    if kept:
        config["hosts"] = kept
    else:
        del config["hosts"]  # an empty list is refused; without it dockerd has its usual socket
    return rendered(config, text)


def check(path: str) -> None:
    """Raises Failed when dockerd does not take the file."""
    try:
        why = refusal(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"dockerd could not check it: {error}") from None
    if why:
        raise Failed(f"dockerd does not take it without them: {why[-1]}")


def mend(path: str, remove: list[str]) -> str:
    """What was done, in a line. Raises Failed and OSError."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Failed("it is not a regular file")
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read(MOST_BYTES)
    new = without(text, remove)
    if new is None:
        return f"{path}: nothing left to take out"
    beside = staged(path, new)
    try:
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
    except (Failed, OSError, ValueError) as error:
        print(f"{path} was not changed: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
