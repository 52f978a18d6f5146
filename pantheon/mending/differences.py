"""A copied directory against its source, entry by entry: by what the file system says of them, not by their content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from pantheon.mending.entries import Owner, same_time
from pantheon.mending.folders import joined, lstat, walked
from pantheon.mending.progress import Progress
from pantheon.mending.words import Failed, shown

OwnerOf = Callable[[os.stat_result], Owner]


def compare(
    source: str, copy: str, skip: list[str], ways: frozenset[str], owner_of: OwnerOf, progress: Progress
) -> None:
    """Every entry of the copy against the source's, and as many of them; without those in `skip`, and of directories
    that only lead there (`ways`) no more than that they are there. Raises Failed with the first difference."""
    count = 0
    for path, there in walked(copy, skip):
        rel = path[len(copy) + 1 :]
        place = joined(source, rel)
        found = lstat(place)
        if found is None and rel in ways:
            continue
        count += 1
        wrong = "is not there any more" if found is None else ""
        if found is not None:
            wrong = kind_differs(place, path, found, there)
            wrong = wrong or ("" if rel in ways else dress_differs(found, there, owner_of(found)))
        if wrong:
            raise Failed(f"{shown(place)} {wrong}: it changes while it is copied")
        progress.tell(f"comparing: {count} of {progress.tally.entries} entries")
    expected = sum(1 for _, found in walked(source, skip) if is_data(found))
    if count != expected:
        raise Failed(f"{shown(source)} has {expected} entries, the copy {count}: it changes while it is copied")


def is_data(found: os.stat_result) -> bool:
    mode = found.st_mode
    return not (stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


def kind_differs(source: str, copy: str, found: os.stat_result, there: os.stat_result) -> str:
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(there.st_mode):
        return "is something else now"
    if stat.S_ISREG(found.st_mode) and found.st_size != there.st_size:
        return "has another size now"
    if stat.S_ISLNK(found.st_mode) and os.readlink(copy) != os.readlink(source):
        return "leads elsewhere now"
    return ""


def dress_differs(found: os.stat_result, there: os.stat_result, owner: Owner) -> str:
    if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) != stat.S_IMODE(there.st_mode):
        return "has another mode"
    if owner != (there.st_uid, there.st_gid):
        return "has another owner"
    if not same_time(found.st_mtime_ns, there.st_mtime_ns):
        return "has another time"
    return ""
