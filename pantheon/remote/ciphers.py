"""AES-GCM before ssh's own first choice, where it is the faster one: where both ends have AES instructions. Without
them it is several times slower, so whoever is not known to have them keeps ssh's defaults.

Whether a host has them is asked once and remembered under the keys that it is known by."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from pantheon import places
from pantheon.errors import HostError, NotReached, NotTrusted
from pantheon.remote import known_hosts
from pantheon.remote.endpoint import Endpoint, ssh_defaults

FAST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
ASK = "grep -m1 -ow aes /proc/cpuinfo"
KNOCK_S, ASK_S = 2.0, 5.0
NO_HOLDS_S = 30 * 24 * 3600.0  # an answer "no" may have been another host, or a login that has changed since

_asking = threading.Lock()
_answered: dict[str, bool] = {}  # in this process, even where nothing can be remembered


def preferred(endpoint: Endpoint, *, ask: bool = True) -> dict[int, str]:
    """The Ciphers of each server in the chain that gets other ones than ssh's own, by its place. With `ask`, a host of
    which it is not known is asked, over a connection of its own: once, and without an error, whatever comes of it."""
    ours = ssh_defaults().get("ciphers", [""])[0].split(",")
    if not set(FAST) <= set(ours) or not has_aes():
        return {}
    fast = ",".join(dict.fromkeys([*FAST, *ours]))
    chain = endpoint.chain()
    found = {}
    for place, hop in enumerate(chain):
        if hop.said.get("ciphers", [""])[0].split(",") != ours:
            continue  # the user has chosen
        if _host_has_aes(hop, ask=ask and hop is chain[-1]):
            found[place] = fast
    return found


@cache
def has_aes() -> bool:
    """Whether this machine has AES instructions."""
    if sys.platform == "darwin":  # Intel's name and Apple's; sysctl passes over the one that it does not know
        argv = ["sysctl", "-n", "hw.optional.aes", "hw.optional.arm.FEAT_AES"]
        with suppress(OSError, subprocess.SubprocessError):
            return b"1" in subprocess.run(argv, capture_output=True, timeout=2, check=False).stdout.split()
        return False
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        return re.search(r"\baes\b", file.read(1 << 16)) is not None
    return False


def _host_has_aes(hop: Endpoint, *, ask: bool) -> bool:
    with suppress(NotTrusted):
        keys = sorted(str(key) for key in known_hosts.of(hop).accepted())
        if keys:
            file = places.state_directory() / "aes" / hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
            with _asking:
                known = _remembered(file)
                if known is None and ask:
                    known = _answered[file.name] = _ask(hop, file)
                return bool(known)
    return False


def _ask(endpoint: Endpoint, file: Path) -> bool:
    """Ask the host and remember its answer. A host that does not even answer a knock is left to ssh, which will say
    so: nobody waits twice for it."""
    first = endpoint.chain()[0]
    if not first.proxy_command:
        try:
            socket.create_connection((first.hostname, first.port), KNOCK_S).close()
        except (OSError, UnicodeError):
            return False
    from pantheon.remote.connection import HostConnection

    try:
        with HostConnection(endpoint) as connection:
            has = bool(connection.run(ASK, warn=True, timeout=ASK_S).stdout.strip() == "aes")
    except (NotReached, NotTrusted):
        return False
    except Exception as error:  # no session, another login: it is not to cost a connection each time
        if not isinstance(error, HostError) and "imed out" not in str(error):
            return False
        has = False
    with suppress(OSError):
        places.private(file.parent)
        known_hosts.write(file, b"yes\n" if has else b"no\n", mode=0o600)
    return has


def _remembered(file: Path) -> bool | None:
    """What was answered; None when nothing was, and for a file that is not one of ours."""
    if file.name in _answered:
        return _answered[file.name]
    try:
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
            return None
        answer = os.read(number, 8)
    except OSError:
        return None
    finally:
        os.close(number)
    if answer == b"no\n" and time.time() - about.st_mtime < NO_HOLDS_S:
        return False
    return True if answer == b"yes\n" else None
