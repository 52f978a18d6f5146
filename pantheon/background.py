"""Tunnels without a terminal: opened in a process of their own that outlives it, listed, and closed by service.

    python -m pantheon.background SERVICE HOST PORT DESCRIPTOR RECORD HOSTS_FILE

is that process. It has the record of its tunnel (remote/ledger.py) from the one that starts it, with the lock; whoever
waits for it, and whoever asks later, reads there how it is and why it was given up."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pantheon import __version__
from pantheon.errors import PantheonError, UsageError
from pantheon.inventory import SERVICES, Host
from pantheon.record import Entry
from pantheon.remote import ledger, ports
from pantheon.remote.ledger import Record
from pantheon.report.journal import Log
from pantheon.tunnel import Event, Seen

if TYPE_CHECKING:
    from pantheon.options import Options
    from pantheon.remote.tunnel import Tunnel
    from pantheon.report.console import Console
    from pantheon.report.tunnels import Display
    from pantheon.tunnels import Wish

ROOT = Path(__file__).resolve().parent.parent
FILES = ("PANTHEON_HOSTS", "PANTHEON_KNOWN_HOSTS")  # of the environment: they may be relative
SOON_S, TICK_S = 0.05, 1.0
END_S = 8.0  # for a process that was asked to close its tunnels; an ssh that hangs takes it 3
KILLED_S = 5.0


# ---- opening


@dataclass
class Awaited:
    """A tunnel that is opened in the background: by the process that was started for it, or (`process` None) by one
    that was there already."""

    entry: Entry
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_ready(self) -> bool:
        return self.entry.is_open and self.entry.seen.phase == "ready"

    def is_shown(self, display: Display) -> bool:
        """Whether it is part of what is drawn anew, or news; in a pipe one that is ready is said once, in the end."""
        return display.is_drawn or not self.is_ready

    def look(self) -> None:
        """Read its record again. Raises what ended it, in the same words in which it would have ended in a terminal."""
        now = ledger.read(self.entry.path)
        if now and now.is_open:
            self.entry = now
            return
        seen = self.entry.seen
        if now and now.failure:
            ledger.forget(now)  # it is told here
            raise now.failure.as_error()
        code = self.process.poll() if self.process else 0
        if code is None:  # it ends in a moment, or puts its record back where somebody has removed it
            return
        if now is None and not code:
            raise PantheonError(
                f"{seen.host}: the tunnel to {seen.service} was closed before it was ready",
                next_commands=[f"invoke tunnel {seen.service} --background --host {seen.host}"],
            )
        if now:
            ledger.forget(now)
        raise PantheonError(
            f"{seen.host}: the process that opens the tunnel to {seen.service} ended without a word",
            details=Log(Path(self.entry.log)).last(),
            next_commands=[f"invoke tunnel {seen.service} --host {seen.host}"],
        )

    def see_off(self) -> None:
        """Wait for the end of one that was told to end, if it was started here."""
        if self.process is None:
            return
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if (now := ledger.read(self.entry.path)) and not now.is_open:
            ledger.forget(now)


def open_(host: Host, wish: Wish, *, options: Options, report: Console) -> int:
    """Open in the background and wait until all of them are ready. Ctrl-C meanwhile closes what was started; what is
    open already stays as it is, and is waited for too."""
    from pantheon import tunnels
    from pantheon.report import ledger as shown
    from pantheon.report.tunnels import Display

    if options.ask_password:
        raise UsageError(
            "--background and --ask-sudo-password exclude each other: nobody could be asked for it",
            next_commands=[f"invoke tunnel {wish.service} --background --host {host.name}"],
        )
    display = Display(report, host)
    stop = tunnels.Stop(queue.SimpleQueue())
    awaited: list[Awaited] = []
    with stop:
        try:
            for service in wish.services:
                if not stop.came:
                    found = _already(host, service, wish.port)
                    awaited.append(found or _start(host, service, wish.port, report.hosts_file))
            while not stop.came and not all(one.is_ready for one in awaited):
                for one in awaited:
                    one.look()
                stop.printing(
                    partial(display.show, [_shown(one.entry.seen) for one in awaited if one.is_shown(display)])
                )
                if not all(one.is_ready for one in awaited):
                    time.sleep(SOON_S)
        except BaseException:
            _stop(awaited, display)
            raise
        if stop.came:
            _stop(awaited, display)
            kept = ", ".join(one.entry.seen.service for one in awaited if not one.process)
            left = f"{kept} was open already, and still is" if kept else "nothing was left open"
            report.line("·", host.name, f"closed before ready: {left}")
            return tunnels.INTERRUPTED
    display.end()
    new = [one.entry for one in awaited if one.process]
    try:
        shown.opened(report, host, [one.entry for one in awaited], new)
    except BrokenPipeError:  # `| head -1`: who has read that much knows of them
        raise
    except Exception:  # nobody has heard of them: exit code 1 leaves none open
        _stop(awaited, display)
        raise
    if wish.open:
        _browse(report, [one.entry.seen for one in awaited])
    return 0


def _shown(seen: Seen) -> Seen:
    """As it is shown while it is awaited: what belongs to the end is said there."""
    return replace(seen, note="", port=0 if seen.phase == "opening" else seen.port)


def _stop(awaited: Sequence[Awaited], display: Display) -> None:
    display.end()
    for one in awaited:
        if one.process:
            one.process.terminate()
    for one in awaited:
        one.see_off()


def _browse(report: Console, seen: Sequence[Seen]) -> None:
    from pantheon import browser, tunnels

    for one in seen:
        if one.service in tunnels.PAGES and (trouble := browser.show(one.url)):
            report.line("!", one.service, f"no browser was opened: {trouble}")


def _already(host: Host, service: str, port: int) -> Awaited | None:
    """The same tunnel, where it is open in the background."""
    for entry in ledger.entries(keep=True):
        same = (entry.seen.service, entry.seen.host, entry.label) == (service, host.name, ledger.label(host))
        if entry.is_open and entry.background and same and port in (0, entry.asked, entry.seen.port):
            return Awaited(entry)
    return None


def _start(host: Host, service: str, port: int, hosts_file: str) -> Awaited:
    """Start its process, which has the record before it runs: of two that are started at once, one has it. Raises
    PantheonError."""
    name = ledger.stem(host, service, asked=port)
    given, remote = ledger.absolute(hosts_file), host.service(service).port
    try:
        log = Log(ledger.folder() / f"{name}.log")
        seen = Seen(service, host.name, port or remote, remote, opened=time.time())
        entry = Entry(seen, os.getpid(), ledger.label(host), True, port, given, str(log.path))
        record = Record.make(entry, name)
    except ledger.Held as held:  # somebody else has been quicker
        if (other := ledger.read(held.path)) and other.is_open:
            return Awaited(other)
        raise PantheonError(
            f"{held.path} is locked, and is no record of a tunnel", next_commands=[f"rm {held.path}"]
        ) from None
    except OSError as error:
        raise PantheonError(
            f"a tunnel in the background needs a record: {error.filename}: {error.strerror}",
            next_commands=['export XDG_RUNTIME_DIR="$(mktemp -d)"'],
        ) from error
    program = [sys.executable, "-m", "pantheon.background"]
    told = [service, host.name, str(port), str(record.fd), str(record.entry.path), given]
    try:
        output = log.open()
        process = subprocess.Popen(
            [*program, *told],
            cwd=ROOT,  # where the package is, and what never goes away
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(record.fd,),
            start_new_session=True,  # a terminal that is closed is no end of it
        )
    except OSError as error:
        record.remove()
        raise PantheonError(
            f"the process of a tunnel cannot be started: {error.filename or sys.executable}: {error.strerror}",
            next_commands=["ulimit -a", "df -h ~ /tmp"],
        ) from error
    finally:
        log.close()
    record.hand_over(process.pid)
    return Awaited(replace(record.entry, is_open=True), process)


def _environment() -> dict[str, str]:
    """This process's, made to mean the same in another directory."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    for name in FILES:
        if found.get(name):
            found[name] = str(Path(found[name]).expanduser().absolute())
    return found


# ---- the process that keeps one open


def main(argv: Sequence[str]) -> int:
    service, host, port, fd, path, hosts_file = argv
    news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: news.put(None))
    signal.signal(signal.SIGHUP, lambda *_: None)
    record = Record.taken_over(Path(path), int(fd))
    if record is None:
        sys.stderr.write(f"{path} is no record of a tunnel\n")
        return 1
    log = Log(Path(record.entry.log))
    record.tell = lambda text: log.line(f"! {text}")
    try:
        return _keep_open(record, log, news, _tunnel(_host(hosts_file, host), service, int(port), news))
    except PantheonError as error:
        return _given_up(record, log, error)
    except Exception as defect:
        import traceback

        for line in traceback.format_exc().splitlines():
            log.line(line)
        problem = PantheonError(
            f"a defect in pantheon: {type(defect).__name__}: {defect}", details=[f"its traceback is in {log.path}"]
        )
        return _given_up(record, log, problem)


def _host(hosts_file: str, name: str) -> Host:
    from pantheon import inventory

    return inventory.load(Path(hosts_file) if hosts_file else None).host(name)


def _tunnel(host: Host, service: str, port: int, news: queue.SimpleQueue[Event | None]) -> Tunnel:
    from pantheon.remote import watcher
    from pantheon.remote.tunnel import Tunnel

    return Tunnel(host, service, port=port, tell=news.put, watch=watcher.factory())


def _keep_open(record: Record, log: Log, news: queue.SimpleQueue[Event | None], tunnel: Tunnel) -> int:
    """Until it ends, or there is a None among the news."""
    log.line(f"· pid {os.getpid()}, pantheon {__version__}: the tunnel to {tunnel.service} on {tunnel.host.name}")
    told, is_asked = set[tuple[str, str]](), False
    tunnel.start()
    try:
        while tunnel.is_running and not is_asked:
            with contextlib.suppress(queue.Empty):
                event = news.get(timeout=TICK_S if tunnel.seen.phase == "ready" else SOON_S)
                is_asked = event is None
                if event:
                    log.line(f"{event.sign} {event.text}{f' → {event.mend}' if event.mend else ''}")
            seen = tunnel.seen
            if seen.phase != "ended":
                record.see(seen)
                # Until it is ready: from then on events tell all, and what comes and goes would fill the log.
                kind = (seen.phase, re.sub(r"\d", "", seen.state.partition(":")[0]))
                if kind not in told and not any(phase == "ready" for phase, _ in told):
                    told.add(kind)
                    log.line(_words(seen))
    finally:
        tunnel.close()
    if tunnel.defect:
        raise tunnel.defect
    if tunnel.failed and not is_asked:
        raise tunnel.failed
    log.line("· closed")
    record.remove()
    return 0


def _words(seen: Seen) -> str:
    if seen.phase == "ready":
        state = f"does not take a websocket: {seen.websocket}" if seen.websocket else seen.state
        return f"{'!' if seen.websocket else '✓'} {seen.url} {state}{f' ({seen.note})' if seen.note else ''}"
    return f"· {seen.phase} {seen.state}".rstrip()


def _given_up(record: Record, log: Log, error: PantheonError) -> int:
    for line in (f"✗ {error.message}", *error.details, *(f"→ {command}" for command in error.next_commands)):
        log.line(line)
    record.fail(error)
    record.leave()
    return error.exit_code


# ---- those that are open


def list_(*, report: Console) -> int:
    from pantheon.report import ledger as shown

    shown.listing(report, ledger.entries())
    return 0


def close(service: str, host: str, *, report: Console) -> int:
    """Close those of a service, in the background or in a terminal, or `all`. With tunnels to several hosts open and no
    `host` given, none. `host` is a name of hosts.toml, which may not be there any more, or user@address:port."""
    from pantheon.report import ledger as shown

    if service not in (*SERVICES, "all"):
        raise UsageError(f"no service {service!r}: {', '.join(SERVICES)}, all", next_commands=["invoke tunnel.list"])
    everything = ledger.entries(keep=True)
    meant = [
        entry
        for entry in everything
        if service in (entry.seen.service, "all") and (not host or host in (entry.seen.host, entry.label))
    ]
    running = [entry for entry in meant if entry.is_open]
    hosts = list(dict.fromkeys((entry.seen.host, entry.label) for entry in running))
    if len(hosts) > 1:
        names = [name for name, _ in hosts]
        typed = [name if names.count(name) == 1 else label for name, label in hosts]
        raise UsageError(
            f"{service}: tunnels to {len(hosts)} hosts are open, and none was closed: say which",
            next_commands=[f"invoke tunnel.close {service} --host {shlex.quote(one)}" for one in typed],
        )
    for entry in meant:
        if not entry.is_open:
            ledger.forget(entry)
    pids = {entry.pid for entry in running}
    also = [entry for entry in everything if entry.is_open and entry.pid in pids and entry not in running]
    ends = _end([*running, *also])
    left = [entry for entry in everything if entry.is_open and entry.pid not in pids]
    shown.closed(report, service, host, ends, left, {entry.path for entry in also})
    return 1 if any(end.trouble for end in ends) else 0


@dataclass(frozen=True)
class End:
    """How a tunnel was closed. `trouble` says why it was not."""

    entry: Entry
    killed: bool = False
    trouble: str = ""


def _end(entries: Sequence[Entry]) -> list[End]:
    """Ask all of them to end, then see to it that each has."""
    asked = {entry.path: _asked(entry) for entry in entries}
    ends = []
    for entry in entries:
        killed = False
        if asked[entry.path] and not ledger.wait_free(entry, END_S):
            killed = ledger.send(entry, signal.SIGKILL)
            ledger.wait_free(entry, KILLED_S)
        now = ledger.read(entry.path)
        trouble = ""
        if now and now.is_open and now.pid == entry.pid:
            trouble = f"pid {entry.pid} does not end"
            if not asked[entry.path]:
                trouble = f"{entry.path} names pid {entry.pid}, which does not have it open: nothing was ended"
        elif now and not now.is_open:
            ledger.forget(now)
        if not trouble and entry.seen.since and _listens(entry.seen.port):
            trouble = f"port {entry.seen.port} is still held by {ports.holder_of(entry.seen.port)}"
        ends.append(End(entry, killed, trouble))
    return ends


def _asked(entry: Entry) -> bool:
    """Whether it was told to end. A record that is being handed over names the right process in a moment."""
    for _ in range(20):
        if ledger.send(entry, signal.SIGTERM):
            ledger.send(entry, signal.SIGCONT)  # one that was stopped (Ctrl-Z) hears nothing else
            return True
        now = ledger.read(entry.path)
        if not now or not now.is_open:
            return False
        time.sleep(SOON_S)
        entry = now
    return False


def _listens(port: int) -> bool:
    """Whether something still does, a moment after it should have ended."""
    end = time.monotonic() + KILLED_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            return False
        if time.monotonic() > end:
            return True
        time.sleep(SOON_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
