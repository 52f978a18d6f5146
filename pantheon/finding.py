"""A judgement about one thing on one host: what was seen, whether that is right, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True)
class Finding:
    """`id` is stable (`prereqs.driver`), `evidence` is what was read on the host, `mend` the command or step to take.

    `unknown` is never fine: the thing could not be looked at, and `evidence` says why. `explains` are patterns
    (fnmatch) of the ids of findings that follow from this one, for a diagnosis: causes come before consequences.
    """

    id: str
    level: Level
    text: str
    evidence: str = ""
    mend: str = ""
    source: str = ""  # e.g. "procedure §2"
    explains: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.level in ("ok", "warn")
