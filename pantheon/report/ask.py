"""Questions on the terminal. Without a terminal nothing is asked and nothing is agreed to."""

from __future__ import annotations

import getpass
import sys

from rich.console import Console
from rich.text import Text

from pantheon.errors import Declined

AGREE = "the same command with --yes agrees to the plan shown; --plan only shows it"


def yes_or_no(question: str, console: Console, *, instead: str = AGREE) -> bool:
    """True for yes; anything else is no. Raises Declined, naming what to type `instead`, when there is no terminal to
    ask on."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise Declined(
            f"not done: there is no terminal to ask on: {question}",
            next_commands=[instead],
        )
    console.print(Text(f"{question} [y/N] ", "bold"), end="")
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


def password(prompt: str) -> str:
    """A password, not echoed. Raises Declined when there is no terminal."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise Declined(
            f"not done: there is no terminal to type on: {prompt.rstrip(': ')}",
            next_commands=["the same command on a terminal, or NOPASSWD for this user in the host's sudoers"],
        )
    return getpass.getpass(prompt)
