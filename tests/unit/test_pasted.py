"""`invoke diagnose --text`, through the real program: no host, no hosts.toml, no network, and nothing hostile shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import re, sys
from invoke.program import Program
sys.argv = ["invoke", *sys.argv[1:]]
try:
    Program().run(exit=True)
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # ru_maxrss counts the parent's too
    sys.stderr.write(f"\\nRSS {int(peak[1]) // 1024}")
"""


def invoke(*argv: str, stdin: bytes = b"", program: tuple[str, ...] = ("-m", "invoke")) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *program, *argv],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PANTHEON_HOSTS": "/nonexistent/hosts.toml"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_message() -> None:
    code, out, err = invoke("diagnose", "--text", "curl: (35) error:0A00010B:SSL routines::wrong version number")
    assert (code, err) == (2, "")
    assert "wrong-version-number" in out
    assert "→ invoke fix.wrong-version-number" in out
    assert "invoke runbook fix.wrong-version-number" in out


def test_a_log_on_standard_input_as_data() -> None:
    code, out, err = invoke("diagnose", "--text", "-", "--json", stdin=b"x\nFailed to initialize NVML: Unknown Error\n")
    assert (code, err) == (2, "")
    found = json.loads(out)
    assert [match["entry"] for match in found["matches"]] == ["gpu-lost"]
    assert found["matches"][0]["next"][0] == "invoke fix.gpu-lost"


def test_no_match() -> None:
    code, out, _ = invoke("diagnose", "--text", "usermod: no changes")
    assert code == 0
    assert "matches no entry" in out
    assert "Next: invoke diagnose" in out


def test_hostile_text() -> None:
    code, out, _ = invoke("diagnose", "--text=\x1b[2J\x1b]0;x\x07no \x1b[1mspace left on device\x1b[31m \udcff\u202e")
    assert code == 2
    assert "no space left on device" in out
    assert not any(ord(char) < 32 and char != "\n" for char in out)
    assert "\u202e" not in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--text", ""), "--text is empty"),
        (("--text", "  "), "--text is empty"),
        (("--text", "-"), "standard input is empty"),
        (("--text", "x", "--host", "lab"), "--host has no place beside it"),
        (("--text", "x", "--hosts-file", "y"), "--hosts-file has no place beside it"),
        (("--text",), "needed value and was not given one"),
    ],
)
def test_called_wrongly(argv: tuple[str, ...], says: str) -> None:
    code, out, err = invoke("diagnose", *argv)
    assert code == 1
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_the_whole_program_on_a_large_log_stays_small() -> None:
    log = b"2026-11-21T22:48:55Z INFO  executing node KSampler, model to load took 1.23 s, device cuda:0\n" * 220_000
    code, out, err = invoke("diagnose", "--text", "-", stdin=log + b"CUDA out of memory", program=("-c", MEASURE))
    assert code == 2
    assert "out-of-memory" in out
    assert int(err.rpartition("RSS ")[2]) < 100
