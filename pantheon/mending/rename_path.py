"""Renames files and directories, and never replaces anything.

Arguments: {"moves": [{"from": absolute, "to": absolute, "over_empty": bool}, ...]}. All of them are looked at before
the first is made: where both names are there, or neither, nothing is done. `over_empty`: `to` may be an empty
directory. A move that was made before is passed over, so that it can be run again.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from typing import Any

from pantheon.mending.words import Failed, Say, say, shown, tried

AT_FDCWD, NOREPLACE = -100, 1


def state(move: dict[str, Any]) -> str:
    """ "todo" or "done". Raises Failed when it can be neither."""
    old, new = str(move["from"]), str(move["to"])
    is_old, is_new = os.path.lexists(old), os.path.lexists(new)
    if is_old and is_new and not (move.get("over_empty") and is_empty(new)):
        raise Failed(f"{shown(old)} and {shown(new)} are both there: nothing was renamed")
    if not is_old and not is_new:
        raise Failed(f"neither {shown(old)} nor {shown(new)} is there: nothing was renamed")
    return "todo" if is_old else "done"


def is_empty(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)


def rename(old: str, new: str, *, over_empty: bool) -> None:
    if over_empty and os.path.lexists(new):
        os.rename(old, new)  # refused by the kernel where it is not empty by now
        return
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError:
        call = None
    if call and not call(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), NOREPLACE):
        return
    number = ctypes.get_errno() if call else errno.ENOSYS
    if number not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(number, os.strerror(number), new)
    if os.path.lexists(new):  # a file system that cannot refuse by itself
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new)


def make(moves: list[dict[str, Any]], say: Say) -> None:
    for move, found in [(move, state(move)) for move in moves]:
        old, new = move["from"], move["to"]
        if found == "done":
            say(f"{shown(new)} has its name already")
            continue
        try:
            rename(old, new, over_empty=bool(move.get("over_empty")))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise Failed(f"{shown(new)}: lies on another file system") from None
        say(f"{shown(old)} is {shown(new)} now")


def main(arguments: str, say: Say) -> int:
    moves = json.loads(arguments)["moves"]
    return tried(lambda: make(moves, say), say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
