"""What a copy has done, and its lines about how far it is."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from pantheon.mending.words import PROGRESS_S, Say, shown, size_text, time_text

NAMED = 10


@dataclass
class Tally:
    files: int = 0
    directories: int = 0
    others: int = 0
    written: int = 0  # bytes of this run
    copied: int = 0  # files of this run
    cloned: int = 0
    moving: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # attributes that the target does not take

    @property
    def counted(self) -> tuple[int, int, int]:
        return self.files, self.directories, self.others

    @counted.setter
    def counted(self, counts: tuple[int, int, int]) -> None:
        self.files, self.directories, self.others = counts

    @property
    def entries(self) -> int:
        return sum(self.counted)


class Progress:
    """How far it is, told about once a second."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.tally = Tally()
        self.last = self.began = time.monotonic()
        self.recent = deque([(self.began, 0)], maxlen=20)  # when how much was written, of the last seconds
        self.total = self.done = 0  # bytes, of all runs

    def tell(self, line: str = "") -> None:
        now = time.monotonic()
        if now - self.last < PROGRESS_S:
            return
        self.last = now
        if line:
            self.say(line)
            return
        self.recent.append((now, self.tally.written))
        since, before = self.recent[0]
        rate = (self.tally.written - before) / max(0.001, now - since)
        left = max(0, self.total - self.done)
        percent = f" ({100 * self.done / self.total:.0f} %)" if self.total and self.done <= self.total else ""
        eta = f", {time_text(left / rate)} left" if rate and left else ""
        self.say(f"{self.share}{percent}, {self.tally.entries} entries, {size_text(rate)}/s{eta}")

    @property
    def share(self) -> str:
        return f"{size_text(self.done)} of {size_text(max(self.total, self.done))}"

    def summary(self) -> None:
        tally = self.tally
        took = time.monotonic() - self.began
        how = f"{tally.copied} files ({size_text(tally.written)}) copied now, each read back and compared"
        if tally.cloned:
            how = f"{tally.copied} files copied now, {tally.cloned} of them sharing their blocks"
        self.say(
            f"{tally.files} files, {tally.directories} directories, {tally.others} links: {how}, {time_text(took)}"
        )
        for names, text in (
            (tally.left_out, "left out, since they are no data"),
            (tally.moving, "written to while they were copied, and copied again once the services have stopped"),
            (sorted(set(tally.lost)), "attributes that the file system does not take"),
        ):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                self.say(f"{text}: {', '.join(map(shown, names[:NAMED]))}{more}")
