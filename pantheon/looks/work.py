"""Deadlines: parts in threads of their own, children that can be killed, commands that end.

Whatever can block in the kernel for good (a dead NFS server, a hung driver, a dying disk) is asked in a child process.
A thread stuck there would keep the whole process from ending, a child is left behind and killed."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from pantheon.looks.files import which
from pantheon.looks.text import Json, Object, Unread, plain, unknown, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

Say = Callable[[str, str, Json], None]  # part, key ("" for the whole part), value

PART_S = 5.0  # deadline of a part, in seconds: well above what a busy host needs, for a false Unknown stops a bring-up
WORKERS = 8
RUNNING: set[int] = set()  # process groups of commands under way, for the last moment of the process


def is_unknown(value: Json) -> bool:
    return isinstance(value, dict) and set(value) == {"unknown"}


def attempt(work: Callable[..., Json], *about: Json, **more: Json) -> Json:
    """What `work` gives, or why it could not."""
    try:
        return work(*about, **more)
    except Unread as error:
        return unknown(str(error))
    except Exception as error:
        return unknown(why(error))


class Part(threading.Thread):
    """One part of the look, in a thread of its own: its value is "no answer" until the work has given one."""

    def __init__(self, name: str, work: Callable[..., Json], *about: Json, deadline_s: float | None = None) -> None:
        super().__init__(daemon=True, name=name)
        deadline_s = PART_S if deadline_s is None else deadline_s
        self.deadline = time.monotonic() + deadline_s
        self.work, self.about = work, about
        self.value: Json = unknown(f"no answer within {deadline_s:g} s ({name})")
        self.took = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.value = self.work(*self.about)
        except Unread as error:
            self.value = unknown(str(error))
        except Exception as error:
            self.value = unknown(f"{self.name}: {why(error)}")
        self.took = time.monotonic() - began

    def result(self, end: float) -> Json:
        """The value, waited for until the part's own deadline or `end`, whichever is first."""
        self.join(max(0.0, min(self.deadline, end) - time.monotonic()))
        return dict(self.value) if isinstance(self.value, dict) else self.value


def each(items: Iterable[Json], work: Callable[[Json], None]) -> None:
    """`work` on every item, WORKERS at a time, in daemon threads. An exception ends that item alone; `work` itself
    records what became of it."""
    queue = deque(items)

    def drain() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item)

    threads = [threading.Thread(target=drain, daemon=True) for _ in range(min(WORKERS, len(queue)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Child:
    """A forked child that says what it finds, line by line, until it has said all that it `owes` (part and key, "" for
    a whole part). Made before any thread starts."""

    def __init__(self, work: Callable[[Say], None], owes: Iterable[tuple[str, str]]) -> None:
        self.owes = set(owes)
        self.pipe, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.be(work, writer)
        os.close(writer)

    def be(self, work: Callable[[Say], None], writer: int) -> None:
        """The child's life: it does not return."""
        try:
            os.setsid()
            os.close(self.pipe)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):  # a child that is stuck must not hold the SSH session's streams open
                os.dup2(null, standard)

            def say(part: str, key: str, value: Json) -> None:
                data = json.dumps([part, key, value]).encode() + b"\n"
                while data:
                    data = data[os.write(writer, data) :]

            work(say)
        finally:
            os._exit(0)

    def listen(self, document: Object, deadline_s: float) -> None:
        """Puts what the child says into document[part] (or [part][key]) until it is done or time is up. What stands
        there when time is up stays; of a child that died it is said."""
        end = time.monotonic() + deadline_s
        held = b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.pipe], [], [], left)[0]:
                break
            data = os.read(self.pipe, 1 << 20)
            if not data:
                status = self.end()
                for part, key in self.owes:
                    put(document, part, key, unknown(f"what read it died ({status})"))
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                part, key, value = json.loads(line)
                put(document, part, key, value)
                self.owes.discard((part, key))
        self.end()

    def end(self) -> str:
        """Kills the child if it still runs, and says how it ended: one that is stuck in the kernel has not."""
        pid, self.pid = self.pid, 0
        if not pid:
            return ""
        with suppress(ProcessLookupError, ChildProcessError):
            for wait in (0, 0.001, 0.01, 0.05):  # one that has closed its pipe is about to end by itself
                time.sleep(wait)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return f"signal {status & 127}" if status & 127 else f"status {status >> 8}"
                if wait == 0.01 or self.owes:
                    os.kill(pid, signal.SIGKILL)
        return "killed"


def put(document: Object, part: str, key: str, value: Json) -> None:
    if key:
        document[part][key] = value
    else:
        document[part] = value


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def command(argv: list[str], deadline_s: float, limit: int = 64 * 1024) -> Object:
    """facts.Command: exit status and output together. The command leads a process group of its own, which is killed
    at the deadline. Raises Unread when it does not start or does not end."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        bufsize=0,
    )
    RUNNING.add(child.pid)
    end, output = time.monotonic() + deadline_s, bytearray()
    pipe: Json = child.stdout
    try:
        while (left := end - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                break
            data = pipe.read(65536)
            if not data:
                break
            output += data[: max(0, limit - len(output))]
        try:
            status = child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Unread(f"no answer within {deadline_s:g} s ({' '.join(argv)})") from None
    finally:
        kill_group(child.pid)
        RUNNING.discard(child.pid)
        pipe.close()
    text = output.decode("utf-8", "replace")
    return {"status": status, "output": "\n".join(plain(line) for line in text.split("\n"))}


def version_of(program: str, *options: str) -> str | None:
    """The version that a program says it has; None when it is not there. Raises Unread when it says none."""
    if not which(program):
        return None
    result = command([program, *options], PART_S - 0.1)
    found = re.search(r"version\s+v?(\d[\w.+~-]*)", result["output"])
    if result["status"] or not found:
        raise Unread(f"{' '.join([program, *options])}: exit {result['status']}: {result['output'][:200]}")
    return found[1]


def is_own(out: TextIO) -> bool:
    """Whether `out` is this process's standard output, and the process therefore ours to end."""
    try:
        return out.fileno() == 1
    except (OSError, ValueError, AttributeError):
        return False


def end_commands() -> None:
    for group in list(RUNNING):
        kill_group(group)
