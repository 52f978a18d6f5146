"""Commands that a program that mends runs to their end: with nothing to read, and a deadline."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from pantheon.mending.words import Failed


def run(argv: list[str], deadline_s: float, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Status and texts. Raises OSError where it cannot be started, and subprocess.TimeoutExpired."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_s,
        check=False,
        env=env,
    )


def docker(*argv: str, timeout_s: float = 180) -> tuple[int, str]:
    """Its status and what it said; 124 where it gave no answer. Raises Failed where there is no docker."""
    try:
        done = subprocess.run(
            ["docker", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"docker {argv[0]}: no answer within {timeout_s:g} s"
    except OSError as error:
        raise Failed(f"docker: {error.strerror}") from None
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()
