"""Pasted texts: real ones find exactly their entry, near misses none, whatever the text and however large."""

from __future__ import annotations

import random
import re
import time
import tomllib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pantheon import clues
from pantheon.report.text import clean
from pantheon.symptoms import CLUES, SYMPTOMS, Clue

CASES: dict[str, list[str]] = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "cases" / "clues.toml").read_text(encoding="utf-8")
)
REAL = [(entry, line) for entry, lines in CASES.items() if entry != "none" for line in lines]
NOISE = b"2026-11-21T22:48:55Z INFO  executing node KSampler, model to load took 1.23 s, device cuda:0\n"


def entries(text: str | bytes, *, cut: int = 0) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)] if cut else [data]
    return [found.entry for found in clues.match(pieces).found]


@pytest.mark.parametrize(("entry", "line"), REAL)
def test_a_real_text_finds_exactly_its_entry(entry: str, line: str) -> None:
    assert entries(line) == [entry]


@pytest.mark.parametrize(("entry", "line"), REAL)
def test_in_the_middle_of_a_log(entry: str, line: str) -> None:
    """Among other lines, cut anywhere, in another encoding."""
    log = NOISE * 20 + f"{line}\r\n".encode() + NOISE * 20
    assert entries(log) == [entry]
    assert entries(log, cut=37) == [entry]
    assert entries(line.encode("utf-16")) == [entry]


@pytest.mark.parametrize("line", CASES["none"])
def test_near_misses(line: str) -> None:
    assert entries(line) == []


def test_there_are_enough_of_them() -> None:
    assert len(REAL) >= 60
    assert len(CASES["none"]) >= 40
    assert CASES.keys() - {"none"} == SYMPTOMS.keys()


def test_every_clue_can_be_met() -> None:
    """Its text in lower letters, its pattern a good one, and a name of an entry."""
    assert len({(clue.entry, clue.text) for clue in CLUES}) == len(CLUES), "one pattern for each text of an entry"
    for clue in CLUES:
        assert clue.text == clue.text.lower(), clue
        assert clue.entry in SYMPTOMS, clue
        re.compile(clue.pattern)
        assert len(clue.text) >= 10 or clue.pattern, clue


def test_causes_come_before_consequences() -> None:
    text = "\n".join(line for _, line in reversed(REAL))
    assert entries(text) == [name for name in SYMPTOMS if name in CASES]


def test_lines_are_few_short_and_different() -> None:
    text = "\n".join(
        ["write x: no space left on device"] * 5 + [f"write {n}: no space left on device" for n in range(9)]
    )
    (found,) = clues.match([text.encode()]).found
    assert len(found.lines) == clues.LINES == len(set(found.lines))
    long = "a" * 5000 + " no space left on device " + "b" * 5000
    (found,) = clues.match([long.encode()]).found
    assert "no space left on device" in found.lines[0]
    assert len(found.lines[0]) <= clues.LINE_CHARS + 6


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[31mno space \x1b[1mleft on\x1b[0m device\x1b[2J\x1b]0;title\x07",
        "\x1b]52;c;ZXZpbA==\x07no space left on device\x9b31m\u202egnol",
        "no space left on device\x08\x08\x08\x00\x7f\x85",
        "\rhidden\rno space left on device\r",
        "\ud800 no space left on device",
    ],
)
def test_control_sequences_never_reach_the_terminal(hostile: str) -> None:
    (found,) = clues.match([hostile.encode("utf-8", "surrogatepass")]).found
    for line in found.lines:
        assert line == clean(line)
        assert line.isprintable()


def test_an_escape_sequence_across_two_pieces() -> None:
    text = b"no space \x1b[1mleft on\x1b[0m device"
    for cut in range(1, len(text)):
        assert [m.entry for m in clues.match([text[:cut], text[cut:]]).found] == ["disk-pressure"]


def test_secrets_are_masked() -> None:
    line = "pull http://ana:hunter2@10.0.0.5/x API_KEY=abcdef123: no space left on device"
    (found,) = clues.match([line.encode()]).found
    assert "hunter2" not in found.lines[0]
    assert "abcdef123" not in found.lines[0]


@pytest.mark.parametrize("seed", range(4))
def test_any_cut_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    lines = [line for _, line in rng.sample(REAL, 12)] + rng.sample(CASES["none"], 12)
    rng.shuffle(lines)
    text = "\n".join("x" * rng.randrange(3000) + " " + line for line in lines).encode()
    text = text.replace(b"x ", b"x\n")
    whole = clues.match([text])
    pieces = []
    while text:
        size = rng.randrange(1, 4000)
        pieces.append(text[:size])
        text = text[size:]
    assert [m.entry for m in clues.match(pieces).found] == [m.entry for m in whole.found]


def large(line: bytes, megabytes: int) -> Iterator[bytes]:
    block = (line * (65536 // len(line) + 1))[:65536]
    for _ in range(megabytes * 16):
        yield block
    yield b"\nwrite /x: no space left on device"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a log", NOISE),
        ("no line ends", NOISE.replace(b"\n", b" ")),
        ("no text", bytes(range(256))),
        ("escape sequences", b"\x1b[31mx\x1b[0m\n"),
        ("zeros", b"\0" * 64),
        ("near misses", b"killed 137 xid directory listen ]: failed to start permission denied no module\n"),
        ("near misses without line ends", b"killed 137 xid directory listen ]: failed to start permission denied "),
        ("a hit in every line", b"no module named x\n"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_large_text_in_bounded_memory_and_time(name: str, line: bytes) -> None:
    """100 MB of each take 1 to 5 s by hand; the gate takes 4."""
    tracemalloc.start()
    began = time.thread_time()
    found = clues.match(large(line, 4))
    took = time.thread_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "disk-pressure" in [match.entry for match in found.found], name
    assert found.size > 4 << 20
    assert peak < 16 << 20
    assert took < 6, name


def test_a_clue_that_stands_everywhere_is_given_up_and_told() -> None:
    clue = Clue("gpu-lost", "xid", pattern=r"xid \d+")
    found = clues.match(large(b"xid\n", 1), (clue,))
    assert found.given_up == ("xid",)
    assert found.found == ()
