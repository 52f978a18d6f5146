"""Services on their way up: containers, their logs and their HTTP answers, followed as they change."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pantheon.looks.containers import condition, ports
from pantheon.looks.engine import Engine, LogLines, Missing
from pantheon.looks.http import http_get, quoted
from pantheon.looks.logs import LOG_LINES, last_lines, secrets_of, start_of_log
from pantheon.looks.text import Json, Object, Unread, seconds, unknown, why, without
from pantheon.looks.work import is_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


SILENCE_S = 20.0
CALM_PACE_S = 10.0
MOST_LINES = 200  # of a log, in one frame
WORDS, WORDS_S = 60, 2.0  # lines that a container said last, and how long they may take


class Watch:
    """Follows containers, their logs and HTTP addresses, and prints a frame at every change and every second. An HTTP
    answer counts for the start it was given in: it is forgotten when the container of its name starts anew."""

    def __init__(self, spec: Object, root: str, write: Callable[[Object], None]) -> None:
        self.engine = Engine(root)
        self.names: list[str] = list(spec.get("containers") or ())
        self.urls: dict[str, str] = dict(spec.get("http") or {})
        self.calm_s = float(spec.get("calm_s") or 1 << 30)  # without news, after which it looks less often
        self.with_log = bool(spec.get("log"))
        self.markers: dict[str, list[str]] = dict(spec.get("markers") or {})  # lines that are never left out, by name
        self.began = time.monotonic()
        self.deadline = self.began + float(spec.get("deadline_s") or 3600)
        self.news = self.began
        self.write = write
        self.changed = threading.Event()
        self.states: Object = {}
        self.starts: dict[str, Object] = {}  # the last inspection, by container
        self.since: dict[str, float] = {}  # when that start was first seen
        self.words: dict[str, tuple[str, list[str]]] = {}  # what was said last before which end, by container
        self.answers: dict[str, int] = {}
        self.lines: dict[str, deque[str]] = {name: deque(maxlen=MOST_LINES) for name in self.names}
        self.marked: dict[str, deque[str]] = {name: deque(maxlen=MOST_LINES) for name in self.names}
        self.stop = False

    def run(self, stdin: BinaryIO) -> None:
        """Until `stdin` ends or the deadline."""
        for name in self.names:
            self.start(self.poll, name)
            if self.with_log:
                self.start(self.follow, name)
        for key in self.urls:
            self.start(self.ask, key)
        self.start(self.listen, stdin)
        while len(self.states) < len(self.names) and time.monotonic() < self.began + 1:
            time.sleep(0.02)  # a first frame without the containers would say nothing
        said: Json = None
        last = 0.0
        while not self.stop and (now := time.monotonic()) < self.deadline:
            self.changed.clear()
            news = (dict(self.states), dict(self.answers))
            if news != said or any(self.lines.values()):
                self.news = now
            if self.news == now or now - last >= self.pace(0.9):
                self.say(*news)
                said, last = news, now
            self.changed.wait(max(0.0, min(last + self.pace(0.9), self.deadline) - time.monotonic()))
            time.sleep(0.05)  # what changes together is said together

    def start(self, work: Callable[..., None], *arguments: Json) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def pace(self, usual_s: float) -> float:
        return usual_s if time.monotonic() - self.news < self.calm_s else CALM_PACE_S

    def say(self, states: Object, answers: dict[str, int]) -> None:
        containers: Object = {}
        for name, state in states.items():
            log = [lines.popleft() for lines in (self.marked[name], self.lines[name]) for _ in range(len(lines))]
            containers[name] = {**state, "log": log} if state and not is_unknown(state) else state
        t = round(time.monotonic() - self.began, 2)
        self.write({"frame": "watch", "t": t, "containers": containers, "http": answers})

    def poll(self, name: str) -> None:
        while not self.stop:
            state: Json = None
            try:
                found = self.engine.get(f"/containers/{quoted(name)}/json")
                self.note_start(name, found)
                published = found.get("NetworkSettings") or {}
                state = {**condition(found), "ports": ports(published.get("Ports"), None)}
                if self.with_log:
                    state["words"] = self.last_words(name, found)
            except Missing:
                self.note_start(name, None)
            except (Unread, KeyError, TypeError) as error:
                state = unknown(why(error))
            if name not in self.states or self.states[name] != state:
                self.states[name] = state
                self.changed.set()
            time.sleep(self.pace(0.5))

    def last_words(self, name: str, found: Object) -> list[str]:
        """What it said last before its newest end: one that fails at once is between two starts most of the time, and
        the stream that `follow` reads may not have come that far. [] where it has not ended yet, or nobody saw it."""
        runs, since = found["State"].get("Status") == "running", start_of_log(found["State"])
        which, words = self.words.get(name, ("", []))
        if not since or (runs and not found.get("RestartCount")):
            return []
        with suppress(Unread, Missing):
            end = time.monotonic() + WORDS_S
            if runs and not which:  # it had begun before anybody looked
                self.words[name] = ("?", last_lines(self.engine, found, keep=WORDS, end=end, until=since))
            elif not runs and which != start_id(found):
                words = last_lines(self.engine, found, keep=WORDS, end=end)
                now = self.engine.get(f"/containers/{quoted(name)}/json")
                if start_id(now) == start_id(found):  # else the next start may have spoken already
                    self.words[name] = (start_id(found), words)
        return self.words.get(name, ("", []))[1]

    def note_start(self, name: str, found: Object | None) -> None:
        if start_id(found) != start_id(self.starts.get(name)):
            self.since[name] = time.monotonic()
            for key in [key for key in self.answers if key.partition("/")[0] == name]:
                del self.answers[key]
        if found:
            self.starts[name] = found
        else:
            self.starts.pop(name, None)

    def follow(self, name: str) -> None:
        """The log since the current start; again from the next start when the stream has ended."""
        followed = ""
        while not self.stop:
            found = self.starts.get(name)
            if not found or start_id(found) == followed or not seconds(found["State"].get("StartedAt") or ""):
                time.sleep(0.1)
                continue
            followed = start_id(found)
            lines = Followed(self.lines[name], self.changed, tty=bool(found["Config"].get("Tty")))
            lines.markers, lines.marked = tuple(self.markers.get(name, ())), self.marked[name]
            lines.secrets = secrets_of(found["Config"])
            since, tail = start_of_log(found["State"]), LOG_LINES if lines.markers else MOST_LINES
            try:
                self.engine.log(found["Id"], since=since, tail=tail, end=self.deadline, lines=lines, follow=True)
                lines.finish()
            except (Unread, Missing):
                time.sleep(0.5)
                if not lines.count:
                    followed = ""  # the stream never began: try it again

    def ask(self, key: str) -> None:
        name = key.partition("/")[0]
        while not self.stop:
            began = time.monotonic()
            status = int(http_get(self.urls[key])["status"])
            if began >= self.since.get(name, 0.0) and self.answers.get(key) != status:
                self.answers[key] = status
                self.changed.set()
            time.sleep(self.pace(1.0))

    def listen(self, stdin: BinaryIO) -> None:
        """The other side is gone when its stream ends, or when no heartbeat has come for SILENCE_S: a link that goes
        dead ends no stream, and sshd would keep us for hours."""
        with suppress(OSError, ValueError):
            handle = stdin.fileno()
            while select.select([handle], [], [], SILENCE_S)[0] and os.read(handle, 4096):
                pass
        self.stop = True
        self.changed.set()


def start_id(found: Object | None) -> str:
    """Which start of which container an inspection shows."""
    return f"{found['Id']} {found['State'].get('StartedAt')}" if found else ""


class Followed(LogLines):
    """Log lines that go to a watcher as they come. Of more than a frame can hold, the oldest are left out, but for
    those with a marker: they go to `marked`."""

    def __init__(self, lines: deque[str], changed: threading.Event, *, tty: bool) -> None:
        super().__init__(tty=tty, keep=MOST_LINES)
        self.tail = lines
        self.marked: deque[str] = deque(maxlen=MOST_LINES)
        self.secrets: list[str] = []
        self.changed = changed

    def line(self, raw: bytes) -> None:
        with suppress(IndexError):  # drained meanwhile
            if len(self.tail) == self.tail.maxlen and any(marker in self.tail[0] for marker in self.markers):
                self.marked.append(self.tail[0])
        super().line(without(raw.decode("utf-8", "replace"), self.secrets).encode())

    def feed(self, data: bytes) -> bool:
        before = self.count
        more = super().feed(data)
        if self.count != before:
            self.changed.set()
        return more


def bark(watch: Watch) -> None:
    """Ends the process when the watch should have ended and has not: its last write is stuck on a dead link."""
    while not watch.stop and time.monotonic() < watch.deadline:
        time.sleep(0.2)
    time.sleep(2)
    os._exit(0)
