"""The full local log of a run that changes a host, under the user's state directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TextIO

from pantheon.plan import Plan, Write
from pantheon.report.text import clean


def state_directory() -> Path:
    """$XDG_STATE_HOME/pantheon, by default ~/.local/state/pantheon."""
    root = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(root).expanduser() / "pantheon"


class Journal:
    """Lines with their time, in a file of mode 0600. A journal that cannot be written never stops a run."""

    def __init__(self, host: str, what: str) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S")
        self._file: TextIO | None = None
        self.path = state_directory() / "logs" / f"{stamp}-{host}-{what}.log"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(fd, "w", encoding="utf-8", errors="replace")
        except OSError:
            return

    def line(self, text: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(f"{time.strftime('%H:%M:%S')} {clean(text)}\n")
            self._file.flush()
        except OSError:
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def plan(self, plan: Plan) -> None:
        """What is about to be applied, with commands and differences; secrets are masked by the steps themselves."""
        self.line(f"plan {plan.hash} for {plan.host}")
        for section in plan.sections:
            for change in section.changes:
                self.line(f"{section.name}: {change.what}: {change.why}")
                for step in change.steps:
                    self.line(f"  {step.show()}")
                    for line in step.diff().splitlines() if isinstance(step, Write) else ():
                        self.line(f"    {line}")
