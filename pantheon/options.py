"""What the options that tasks share say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pantheon.errors import UsageError


@dataclass(frozen=True)
class Options:
    """What the options say. `yes` agrees to the plan that is shown, and to nothing else: what may only be done on
    somebody's word (`install` to `now`) has an option of its own each."""

    yes: bool = False
    plan_only: bool = False
    details: bool = False
    older: bool = False
    install: bool = False  # packages, repositories, the engine's configuration
    remove_snap: bool = False  # with install: a Docker that came as a snap is removed
    reboot: bool = False
    adopt: bool = False  # take over a stack that somebody made by hand
    take: tuple[str, ...] = ()  # with adopt: which container, where several are of one service
    undo: bool = False  # bring back the stack that was taken over
    now: bool = False  # do not wait for a job that runs in what will be stopped
    ask_password: Callable[[str], str] | None = None
    ahead: Any = None  # remote.ahead.Ahead, where the first look has begun already

    def check(self) -> None:
        """Raises UsageError for options that make no sense together."""
        if self.adopt and self.undo:
            raise UsageError("--adopt takes over and --undo goes back: one of them")
        if self.take and not self.adopt:
            raise UsageError("--take says which containers to take over: it goes with --adopt")
