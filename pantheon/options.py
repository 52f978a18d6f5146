"""What the options that tasks share say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """What the shared options say. `yes` agrees to the plan that is shown, and to nothing else."""

    yes: bool = False
    plan_only: bool = False
    details: bool = False
    older: bool = False
    ask_password: Callable[[str], str] | None = None
    ahead: Any = None  # remote.ahead.Ahead, where the first look has begun already
