"""A message or a log that somebody pasted, matched against the troubleshooting (symptoms.CLUES).

A log may be large, have no line ends or be no text at all: it is read in pieces, of which only a few are held, and each
literal text is searched for before any pattern is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pantheon.looks.text import ESCAPES, masked, plain
from pantheon.symptoms import CLUES, SYMPTOMS, Clue

WINDOW = 1000  # bytes on either side of a text that belong to its line at most: patterns see these, and no more
PIECE = 1 << 20
LINES = 3  # of an entry that are kept
LINE_CHARS = 200
MOST_ALIKE = 1000  # matching lines after which no further ones that differ are looked for
MOST_TRIED = 50_000  # lines (long ones count more) that have a clue's text and not its pattern: then it is given up
_ESCAPES = re.compile(ESCAPES.pattern.encode())
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
_ESCAPE_BYTES = 256  # of an escape sequence that may lie across two pieces


@dataclass(frozen=True)
class Match:
    """An entry that a text speaks of, with the first lines that do, fit for a terminal."""

    entry: str
    lines: tuple[str, ...]

    @property
    def symptom(self) -> str:
        return SYMPTOMS[self.entry]


@dataclass(frozen=True)
class Matches:
    """`found` in the order of symptoms.SYMPTOMS, causes before consequences. `given_up`: texts of clues that stand in
    so many lines, none of them the right one, that the rest was not looked at."""

    found: tuple[Match, ...]
    size: int  # bytes
    given_up: tuple[str, ...] = ()

    def as_data(self) -> dict[str, object]:
        return {
            "good": not self.found,
            "size": self.size,
            "matches": [{"entry": m.entry, "symptom": m.symptom, "lines": list(m.lines)} for m in self.found],
            "given_up": list(self.given_up),
        }


@dataclass
class _Search:
    """One clue while it is searched for."""

    clue: Clue
    text: bytes
    pattern: re.Pattern[str] | None
    tried: int = 0


@dataclass
class _State:
    lines: dict[str, dict[str, None]] = field(default_factory=lambda: {name: {} for name in SYMPTOMS})
    count: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SYMPTOMS, 0))

    def is_full(self, entry: str) -> bool:
        return len(self.lines[entry]) >= LINES or self.count[entry] >= MOST_ALIKE


def match(pieces: Iterable[bytes], clues: Iterable[Clue] = CLUES) -> Matches:
    """What the text in `pieces` speaks of. Bounded in memory by the largest piece, whatever the text."""
    searches = [
        _Search(clue, clue.text.lower().encode(), re.compile(clue.pattern, re.IGNORECASE) if clue.pattern else None)
        for clue in clues
    ]
    state = _State()
    size, held, looked = 0, b"", 0  # `looked`: how far into `held` all texts were searched for
    for piece in _cleaned(pieces):
        size += piece[1]
        data = held + piece[0]
        upto = len(data) - WINDOW  # beyond, a line may go on in the next piece
        if upto > looked:
            _look(data, looked, upto, searches, state)
            start = max(0, upto - WINDOW)
            held, looked = data[start:], upto - start
        else:
            held = data
    _look(held, looked, len(held), searches, state)
    found = tuple(Match(entry, tuple(lines)) for entry, lines in state.lines.items() if lines)
    given_up = tuple(dict.fromkeys(search.clue.text for search in searches if search.tried >= MOST_TRIED))
    return Matches(found, size, given_up)


def _cleaned(pieces: Iterable[bytes]) -> Iterable[tuple[bytes, int]]:
    """Pieces without escape sequences (which may stand in the middle of a phrase) and NUL bytes (UTF-16 of what is
    mostly ASCII is that with NULs in it), and the size that each had."""
    rest, is_first = b"", True
    for piece in pieces:
        for at in range(0, len(piece), PIECE):
            part = rest + piece[at : at + PIECE]
            size, rest = len(part) - len(rest), b""
            if b"\x1b" in part:
                last = part.rfind(b"\x1b", max(0, len(part) - _ESCAPE_BYTES))
                if last >= 0:
                    part, rest = part[:last], part[last:]
                part = _ESCAPES.sub(b"", part)
            part = part.replace(b"\0", b"").replace(b"\r", b"\n")
            yield _without_mark(part) if is_first else part, size
            is_first = False
    yield _ESCAPES.sub(b"", rest).replace(b"\0", b"").replace(b"\r", b"\n"), 0


def _without_mark(data: bytes) -> bytes:
    """A text without the byte order mark with which it begins."""
    return next((data[len(mark) :] for mark in _MARKS if data.startswith(mark)), data)


def _look(data: bytes, start: int, end: int, searches: list[_Search], state: _State) -> None:
    """Search for every text that begins in data[start:end]."""
    lower = data.lower()
    for search in searches:
        if state.is_full(search.clue.entry) or search.tried >= MOST_TRIED:
            continue
        at = lower.find(search.text, start)
        while 0 <= at < end:
            line, beyond = _line(data, at, len(search.text))
            if search.pattern is None or search.pattern.search(line):
                state.count[search.clue.entry] += 1
                state.lines[search.clue.entry][_shown(line, search.clue.text)] = None
                if state.is_full(search.clue.entry):
                    break
            else:
                search.tried += 1 + len(line) // 100
                if search.tried >= MOST_TRIED:
                    break
            at = lower.find(search.text, beyond)


def _line(data: bytes, at: int, size: int) -> tuple[str, int]:
    """The line around a text, at most WINDOW to either side, and where to go on behind it."""
    start = data.rfind(b"\n", max(0, at - WINDOW), at) + 1 or max(0, at - WINDOW)
    end = data.find(b"\n", at, at + size + WINDOW)
    if end >= 0:
        return data[start:end].decode("utf-8", "replace"), end
    end = min(len(data), at + size + WINDOW)
    # A line that goes on: half of what was seen is context for the next text in it as well.
    return data[start:end].decode("utf-8", "replace"), max(at + size, end - WINDOW // 2)


def _shown(line: str, text: str) -> str:
    """A line as a terminal may have it, without secrets, cut to LINE_CHARS around `text`."""
    line = masked(plain(line.strip()))
    if len(line) <= LINE_CHARS:
        return line
    at = max(0, line.lower().find(text.lower()) - LINE_CHARS // 3)
    cut = line[at : at + LINE_CHARS].strip()
    return f"{'...' if at else ''}{cut}{'...' if at + LINE_CHARS < len(line) else ''}"
