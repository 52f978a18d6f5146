"""`invoke diagnose --text`: a pasted message, or a log on standard input, matched against the troubleshooting. No host,
no hosts.toml and no network are needed for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from pantheon import clues
from pantheon.errors import UsageError

EXAMPLE = ("invoke diagnose --text 'wrong version number'", "docker logs comfy 2>&1 | invoke diagnose --text -")


class Report(Protocol):
    def matches(self, found: clues.Matches, causes: dict[str, str]) -> None: ...


def diagnose(text: str, given: Mapping[str, Any], *, report: Report) -> int:
    """Match `text`, or standard input for `-`. Returns 2 when an entry matches, 0 when none does. Raises UsageError
    for options that speak of a host, and for an empty text."""
    for option in ("host", "hosts_file", "ask_sudo_password"):
        if given.get(option):
            name = f"--{option.replace('_', '-')}"
            raise UsageError(f"--text looks at no host, so {name} has no place beside it", next_commands=EXAMPLE[:1])
    # What a shell hands over need not be UTF-8.
    pieces: Iterable[bytes] = _standard_input() if text == "-" else [os.fsencode(text)]
    found = clues.match(pieces)
    if not found.size or (text != "-" and not text.strip()):
        what = "standard input is empty" if text == "-" else "--text is empty"
        raise UsageError(f"{what}: there is nothing to match", next_commands=EXAMPLE)
    report.matches(found, _causes(found))
    return 2 if found.found else 0


def _causes(found: clues.Matches) -> dict[str, str]:
    from pantheon import fixes

    return {match.entry: fixes.load(match.entry).CAUSE for match in found.found}


def _standard_input() -> Iterator[bytes]:
    if sys.stdin is None or sys.stdin.closed:
        return
    if sys.stdin.isatty():
        sys.stderr.write("Paste the text, then a line with Ctrl-D.\n")
    while piece := os.read(sys.stdin.fileno(), clues.PIECE):
        yield piece
