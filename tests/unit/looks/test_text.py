"""Text on its way off a host."""

from __future__ import annotations

import random

import pytest

from pantheon.looks.engine import LogLines
from pantheon.looks.text import masked, masked_argv, seconds
from tests.unit.looks.fakes import (
    cases,
    framed,
)


@pytest.mark.parametrize(("raw", "expect"), [pytest.param(*case[1:], id=case[0]) for case in cases("lines")])
def test_log_lines_are_shown_plain(raw: str, expect: str) -> None:
    lines = LogLines(tty=False, keep=10)
    lines.feed(framed(raw.encode("latin-1") + b"\n"))
    assert list(lines.tail) == [expect]


@pytest.mark.parametrize(("argv", "expect"), [pytest.param(*case[1:], id=case[0]) for case in cases("argv")])
def test_secrets_in_command_lines_are_masked(argv: list[str], expect: list[str]) -> None:
    assert masked_argv(argv) == expect


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("x --password hunter2 -p 1", "x --password *** -p 1"),
        ("(--token hf_abc)", "(--token ***"),
        ("-auth-key k8", "-auth-key ***"),
        ("PermitRootLogin without-password\nPasswordAuthentication yes", None),
        ("root logs in with a key: prohibit-password said so", None),
        ("a pre-auth check and no-secret here", None),
        ("/root/.cache/huggingface/token is mode 0600", None),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, expect: str | None) -> None:
    assert masked(text) == (text if expect is None else expect)


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("2026-11-21T20:05:49.151014443Z", 1795291549.151014443),
        ("1970-01-01T00:00:00Z", 0.0),
        ("2024-02-29T23:59:59+02:00", 1709243999 - 0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_docker_times(text: str, expect: float) -> None:
    assert seconds(text) == pytest.approx(expect, abs=1e-6)


def test_docker_times_agree_with_datetime() -> None:
    from datetime import UTC, datetime

    rng = random.Random(2)
    for _ in range(300):
        when = datetime.fromtimestamp(rng.randrange(4_000_000_000), tz=UTC)
        assert seconds(when.strftime("%Y-%m-%dT%H:%M:%SZ")) == when.timestamp()
