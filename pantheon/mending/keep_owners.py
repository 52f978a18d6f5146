"""Notes owner, group and mode of everything in a directory, before they are changed (own_tree.py); give_owners.py gives
them back.

Arguments: {"path": absolute, "list": absolute}. The list is a gzip file of records `UID:GID:MODE:KIND NAME NUL`, names
relative to the path and each directory ahead of what is in it, written beside and renamed when it is whole; one that is
there is never replaced, since what it says was true before anything was changed. Memory is bounded by the depth of the
tree.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import sys
import time
from contextlib import suppress

from pantheon.mending.folders import walked
from pantheon.mending.words import PROGRESS_S, Failed, Say, say, shown

KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


def note(path: str, place: str, say: Say) -> None:
    if os.path.lexists(place):
        say(f"the owners in {shown(path)} are noted already, in {shown(place)}")
        return
    with suppress(FileExistsError):
        os.makedirs(os.path.dirname(place), mode=0o700)
    part = f"{place}.part"
    with suppress(FileNotFoundError):
        os.unlink(part)
    count = 0
    last = time.monotonic()
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, filename="", mtime=0) as out:
            for where, found in walked(path, ()):
                name = where[len(path) + 1 :] or "."
                count += 1
                kind = KINDS.get(stat.S_IFMT(found.st_mode), "f")
                about = f"{found.st_uid}:{found.st_gid}:{stat.S_IMODE(found.st_mode):o}:{kind} "
                out.write(about.encode() + os.fsencode(name) + b"\0")
                if time.monotonic() - last >= PROGRESS_S:
                    last = time.monotonic()
                    say(f"{count} entries")
        raw.flush()
        os.fsync(fd)
    os.rename(part, place)
    say(f"the owners of {count} entries in {shown(path)} are noted in {shown(place)}")


def main(arguments: str, say: Say) -> int:
    told = json.loads(arguments)
    try:
        note(os.path.normpath(told["path"]), told["list"], say)
    except (Failed, OSError) as error:
        why = error if isinstance(error, Failed) else f"{shown(str(error.filename or told['list']))}: {error.strerror}"
        say(f"{why}; no owner was noted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], say))
