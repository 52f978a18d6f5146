"""Tries Atlas's mounts: writes a file of its own into each as root and as the AI stack's user, looks whose it became,
and removes it again.

Arguments: {"shares": [{"mount": PATH, "source": HOST:/PATH}, ...], "uids": [0, 1024], "deadline_s": 10}. Each attempt
is a child of its own that is killed at the deadline; one that the kernel does not let go is left behind, and said. The
outcome is kept in /run/pantheon/atlas.json, for the look that follows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import select
import signal
import stat
import sys
import time

from pantheon.mending.folders import mounts
from pantheon.mending.words import say

KEPT = "/run/pantheon/atlas.json"
NAME = ".pantheon-verify-"
OURS = re.compile(rf"{re.escape(NAME)}[0-9a-f]{{16}}")
TEXT = b"written by `invoke atlas --verify`; to be removed\n"


def row_of(path: str) -> tuple[str, str]:
    """The device number and source of what is mounted there; "" for nothing."""
    there = [mount for mount in mounts() if mount.target == path and mount.kind != "autofs"]
    return (there[-1].device, there[-1].source) if there else ("", "")


def attempt(share: dict[str, str], uid: int, name: str, left: list[str]) -> dict[str, object]:
    """In the child: the attempt itself. The directory is held open, and must be the mount: never what lies under it.
    `left` are files of ours that an attempt which was stuck may have left."""
    if uid:  # first of all: root may be nobody to the server, and not be let in
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    told: dict[str, object] = {"mount": share["mount"], "source": share["source"], "uid": uid, "error": ""}
    folder = os.open(share["mount"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    about = os.fstat(folder)
    told["shares_owner"] = [about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)]
    device, _ = row_of(share["mount"])
    if device != f"{os.major(about.st_dev)}:{os.minor(about.st_dev)}":
        return {**told, "error": "not mounted"}
    for old in left:
        with contextlib.suppress(OSError):
            os.unlink(old, dir_fd=folder)
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        return {**told, "error": errno.errorcode.get(error.errno or 0, str(error.errno))}
    try:
        os.write(file, TEXT)
        os.fsync(file)
    except OSError as error:
        told["error"] = errno.errorcode.get(error.errno or 0, str(error.errno))
    finally:
        os.close(file)
    try:
        made = os.stat(name, dir_fd=folder, follow_symlinks=False)
        told["owner"] = [made.st_uid, made.st_gid]
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        told["left"] = f"{share['mount']}/{name}"
        told["error"] = told["error"] or errno.errorcode.get(error.errno or 0, str(error.errno))
    return told


class Child:
    def __init__(self, share: dict[str, str], uid: int, left: list[str] | None = None) -> None:
        self.share, self.uid, self.name = share, uid, NAME + secrets.token_hex(8)
        self.pipe, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        try:  # the child does not return
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):  # one that is stuck must hold nobody's output open
                os.dup2(null, standard)
            try:
                told = attempt(share, uid, self.name, left or [])
            except OSError as error:
                told = {**share, "uid": uid, "error": errno.errorcode.get(error.errno or 0, str(error.errno))}
            os.write(writer, json.dumps(told).encode())
        finally:
            os._exit(0)

    def outcome(self, deadline: float) -> dict[str, object]:
        data = b""
        while (left := deadline - time.monotonic()) > 0 and select.select([self.pipe], [], [], left)[0]:
            piece = os.read(self.pipe, 65536)
            if not piece:
                break
            data += piece
        os.close(self.pipe)
        os.kill(self.pid, signal.SIGKILL)
        end = time.monotonic() + 0.5
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > end:
                about = f"{self.share['mount']}: the attempt as {self.uid}"
                say(f"{about} is stuck in the kernel (process {self.pid}): left behind")
                break
            time.sleep(0.01)
        try:
            return dict(json.loads(data))
        except ValueError:
            kept = f"{self.share['mount']}/{self.name}"  # it may have got as far as that
            return {**self.share, "uid": self.uid, "error": "stuck", "left": kept}


def told(one: dict[str, object], patience_s: float) -> str:
    owner = one.get("owner")
    if one["error"] == "stuck":
        what = f"no answer within {patience_s:g} s"
    elif one["error"]:
        what = f"could not write ({one['error']})"
    else:
        what = (
            f"wrote a file, which became {':'.join(map(str, owner))}'s" if isinstance(owner, list) else "wrote a file"
        )
    maybe = "MAY BE " if one["error"] == "stuck" else ""
    return f"{one['mount']}: as {one['uid']}: {what}" + (f"; {maybe}LEFT: {one['left']}" if one.get("left") else "")


def left_before(share: dict[str, str], place: str = KEPT) -> list[str]:
    """Names of our own files that the attempts before this one may have left in that mount."""
    try:
        with open(place, encoding="utf-8") as file:
            before = json.load(file)
        paths = [str(one.get("left") or "") for one in before if one.get("mount") == share["mount"]]
    except (OSError, ValueError, AttributeError):
        return []
    return [name for name in map(os.path.basename, paths) if OURS.fullmatch(name)]


def keep(outcomes: list[dict[str, object]], place: str = KEPT) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    file = os.open(f"{place}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(file, "w") as stream:
        json.dump(outcomes, stream)
    os.rename(f"{place}.new", place)


def main(arguments: dict[str, object]) -> int:
    shares, uids, patience = arguments.get("shares"), arguments.get("uids"), arguments.get("deadline_s")
    patience_s = float(patience) if isinstance(patience, int | float) else 10.0
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    both = (
        [(share, int(uid)) for share in shares for uid in uids]
        if isinstance(shares, list) and isinstance(uids, list)
        else []
    )
    deadline = time.monotonic() + patience_s
    children = [Child(share, uid, left_before(share)) for share, uid in both]
    outcomes = []
    for child in children:
        outcome = {**child.outcome(deadline), "at": at}
        say(told(outcome, patience_s))
        outcomes.append(outcome)
    keep(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
