"""Where Docker's API is told to listen: dockerd's own command line, and the lines of its unit's files."""

from __future__ import annotations

import os

from pantheon.looks.docker import is_tcp, unit_values
from pantheon.looks.files import read_text
from pantheon.looks.system import container_of
from pantheon.looks.text import Json, Object, Unread, masked_argv, plain, shown

MOST_WORDS = 100
UNITS = (("docker.service", "ExecStart"), ("docker.socket", "ListenStream"))


def dockerd(spec: Object, root: str) -> Json:
    """evidence.Dockerd; None while no dockerd runs."""
    del spec
    argv = running(root)
    if argv is None:
        return None
    return {"argv": argv, "lines": lines(root)}


def running(root: str) -> list[str] | None:
    """The command line of the host's engine; one that runs in a container is not meant."""
    pids = sorted(int(name) for name in os.listdir(f"{root}/proc") if name.isdigit())
    for pid in pids:
        try:
            if (read_text(f"{root}/proc/{pid}/comm", 256) or "").strip() != "dockerd" or container_of(root, pid):
                continue
            text = read_text(f"{root}/proc/{pid}/cmdline", 65536) or ""
        except (OSError, Unread):
            continue
        return [plain(word) for word in masked_argv(text.rstrip("\0").split("\0")[:MOST_WORDS])]
    return None


def lines(root: str) -> list[str]:
    """`FILE:LINE: text` for each line of the unit and its drop-ins that gives the API a TCP address, of those files
    that systemd takes."""
    out = []
    for unit, key in UNITS:
        values = unit_values(root, unit, key)
        for path in dict.fromkeys(path for _, path in values):
            for number, line in enumerate((read_text(root + path) or "").splitlines(), 1):
                if any(addresses(line)) and any(line.strip().rstrip("\\").strip() in f"{key}={v}" for v, _ in values):
                    out.append(f"{shown(path)}:{number}: {plain(line.strip())}")
    return out


def addresses(line: str) -> list[str]:
    """TCP addresses in one line of a unit."""
    key, equals, value = line.strip().partition("=")
    if equals and key.strip() == "ListenStream":
        return [value.strip()] if value.strip() and not value.strip().startswith("/") else []
    words = line.replace("=", " ").split()
    found = []
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        address = after if word in ("-H", "--host") else word[2:] if word.startswith("-H") else ""
        if is_tcp(address.strip("\"'")):
            found.append(address)
    return found
