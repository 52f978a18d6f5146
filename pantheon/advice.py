"""What to type after something failed: the fix whose symptom the last words are, else a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable


def entry(lines: Iterable[str]) -> str:
    """The entry of the troubleshooting that these lines speak of, "" for none; of several the cause of the others."""
    text = "\n".join(lines)
    if not text.strip():
        return ""
    from pantheon import clues  # a table of patterns, which only a failure needs

    found = clues.match([text.encode("utf-8", "replace")]).found
    return found[0].entry if found else ""


def fix(host: str, name: str) -> str:
    """`invoke fix.NAME --host HOST`."""
    return f"invoke fix.{name} --host {host}"


def command(host: str, lines: Iterable[str] = ()) -> str:
    """The fix that `lines` speak of, else `invoke diagnose`."""
    name = entry(lines)
    return fix(host, name) if name else f"invoke diagnose --host {host}"
