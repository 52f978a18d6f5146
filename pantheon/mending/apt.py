"""Packages, by apt and dpkg, without questions.

arguments: do (update, fetch, install, remove, hold, unhold, configure); packages; lock_s, fetch_s, dpkg_s, update_s
(deadlines in seconds); for update: need (URIs of repositories); for install: expect, may_remove, pin, also, recommends,
again, stop (units); for fetch: may_remove; for remove: stop; as install/apt.py has them.

Whoever has apt's or dpkg's lock is named and waited for. What an earlier installation left half-way is finished first.
Lists and packages are fetched as a part of this run, and end with it. What dpkg does is not: a dpkg that is killed
leaves packages half-way. It works in a session of its own, its output in a file, and finishes by itself when the run
that began it is gone; the next run waits for its lock. (Where systemd ends all processes of a login with it,
KillUserProcesses=yes, dpkg is killed all the same, and the next run finishes its work.) Done again, nothing is left to
do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from typing import Any

from pantheon.collecting.dpkg import HALF_WAY, holder
from pantheon.mending.commands import run as run_quietly
from pantheon.mending.words import Failed, say

ROOT = os.environ.get("DPKG_ROOT", "")  # dpkg's own variable
LOG = "/var/log/pantheon/apt.log"
LOG_BYTES = 4 << 20
PREFERENCES = "/run/pantheon/apt-preferences"
UPDATED = "/run/pantheon/apt-updated"
SAY_S, QUICK_S = 5.0, 0.5  # between two lines about a lock; about what is done
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBIAN_PRIORITY": "critical",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_MODE": "l",  # needrestart names services, and restarts none
    "NEEDRESTART_SUSPEND": "1",
    "UCF_FORCE_CONFFOLD": "1",
    "LC_ALL": "C.UTF-8",
}
KEEP = ("--force-confdef", "--force-confold")  # configuration that somebody changed stays as it is
OPTIONS = (
    *("Dpkg::Use-Pty=0", "DPkg::Lock::Timeout=20", *(f"Dpkg::Options::={option}" for option in KEEP)),
    *("Acquire::Retries=2", "Acquire::http::Timeout=30", "Acquire::https::Timeout=30"),
)
DOING = (  # how apt's reports of dpkg's work begin
    ("removing", re.compile(r"Preparing (?:for removal|to completely)|Remov|Completely")),
    ("setting up", re.compile(r"Preparing to configure|Configuring|Installed")),
    ("unpacking", re.compile(r"Preparing|Unpacking|Installing")),
    ("triggers of", re.compile(r"Running post-installation trigger")),
)
EXPIRED = "its key has expired: rename the file that Signed-By names, and the same command again fetches it anew"
FETCHING = re.compile(r"E: |Err:|W: (?:.*Failed to fetch|.*GPG error|An error occurred)")


class Busy(Exception):
    """Somebody took the lock just before us."""


def main() -> int:
    told = json.loads(sys.argv[1])
    work = {"update": update, "fetch": fetch, "install": install, "remove": remove, "hold": mark, "unhold": mark}
    end = time.monotonic() + told["lock_s"]
    try:
        while True:
            wait(end)
            try:
                finish(told)
                if told["do"] != "configure":
                    work[told["do"]](told)
            except Busy as error:
                if time.monotonic() > end:
                    raise Failed(*error.args) from None
                time.sleep(1.0)
            else:
                return 0
    except Failed as failed:
        for line in failed.args:
            say(line)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        say(f"{told['do']}: {error}")
    return 1


# ---- locks


def wait(end: float) -> None:
    """Returns when nobody has a lock of apt's or dpkg's. Raises Failed at `end` (of time.monotonic)."""
    began = last = 0.0
    while who := holder(ROOT):
        now = time.monotonic()
        began = began or now
        if now > end:
            raise Failed(
                f"{who} has had apt's lock for {now - began:.0f} s",
                "let it end, or see what it waits for (ps -fH, /var/log/apt/term.log, /var/log/unattended-upgrades);",
                "then the same command again",
            )
        if now > last + SAY_S:
            last = now
            say(f"waiting for {who}, which has apt's lock ({now - began:.0f} s)")
        time.sleep(0.2)


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


# ---- what is there


def query(*names: str) -> dict[str, tuple[str, str, str]]:
    """Packages that dpkg has (all, or of those names), with state, what else it says of it, and version."""
    form = "${Package}\t${db:Status-Status}\t${db:Status-Eflag}\t${Version}\n"
    done = quiet(["dpkg-query", "-W", f"-f={form}", *names])
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {row[0]: (row[1], row[2], row[3]) for row in rows if len(row) == 4}


def quiet(argv: list[str], deadline_s: float = 120) -> subprocess.CompletedProcess[str]:
    return run_quietly(argv, deadline_s, os.environ | ENVIRONMENT)


def half_way() -> list[str]:
    return sorted(name for name, (state, flag, _) in query().items() if state in HALF_WAY or flag == "reinstreq")


def is_interrupted() -> bool:
    """dpkg was ended while it wrote down what it did: apt does nothing before `dpkg --configure -a`."""
    try:
        return any(name.isdigit() for name in os.listdir(f"{ROOT}/var/lib/dpkg/updates"))
    except FileNotFoundError:
        return False


def finish(told: dict[str, Any]) -> None:
    """What an installation that was cut short has left half-way is finished."""
    left = half_way()
    if not left and not is_interrupted():
        if told["do"] == "configure":
            say("nothing is half-way: dpkg is done with every package")
        return
    say(f"an installation was cut short{': ' + some(left) if left else ''}; finishing it")
    _, lines = run(["dpkg", *KEEP, "--configure", "-a"], told["dpkg_s"], apart=True)
    if half_way():
        _, goes = simulate("install", "--fix-broken")
        check_removals(goes, [])
        lines += run(apt("install", "--fix-broken"), told["dpkg_s"], apart=True)[1]
    if left := half_way():
        raise Failed(
            *errors(lines),
            f"still half-way: {some(left)}",
            f"on the host: sudo dpkg --configure -a; where that fails: sudo apt-get install --reinstall {left[0]}",
        )
    say("finished")


def short(version: str) -> str:
    """The program's own version, of `5:29.1.3-1~ubuntu.24.04~noble` for instance."""
    return version.rpartition(":")[2].partition("-")[0]


def some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ---- the work


def apt(*words: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["apt-get", "-q", "-y", *(f"-o{option}" for option in (*OPTIONS, *options)), *words]


def update(told: dict[str, Any]) -> None:
    status, lines = run(apt("update"), told["update_s"], apart=False)
    bad = [line for line in lines if FETCHING.match(line)]
    got = [line for line in lines if line.startswith(("Hit:", "Get:"))]
    need = [uri.replace("$(ARCH)", "").rstrip("/") for uri in told["need"]]
    missed = [uri for uri in need if any(uri in line for line in bad) or not any(uri in line for line in got)]
    if missed or (status and not got):
        old = [EXPIRED] if missed and any("EXPKEYSIG" in line for line in lines) else []
        raise Failed(*errors(lines), *(f"nothing could be had from {uri}" for uri in missed), *old)
    for line in bad:
        say(f"another repository: {line}")
    with contextlib.suppress(OSError):  # the lists themselves keep their times where there was nothing new
        os.makedirs(os.path.dirname(ROOT + UPDATED), mode=0o755, exist_ok=True)
        open(ROOT + UPDATED, "w").close()
    say("the lists are up to date")


def parameters(told: dict[str, Any]) -> list[str]:
    return [*([] if told.get("recommends", True) else ["--no-install-recommends"]), "--", *told["packages"]]


def simulate(*words: str, options: tuple[str, ...] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """What apt would install or upgrade, and what it would remove, with their versions. Raises Failed."""
    done = quiet(apt("--simulate", *words, options=("Debug::NoLocking=1", *options)))
    if done.returncode:
        raise Failed(*errors((done.stdout + done.stderr).splitlines()))
    comes = re.findall(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)", done.stdout, re.MULTILINE)
    goes = re.findall(r"^(?:Remv|Purg) (\S+) \[([^\]]*)\]", done.stdout, re.MULTILINE)
    return {name.partition(":")[0]: version for name, version in comes}, dict(goes)


def unexpected(comes: dict[str, str], expect: dict[str, str]) -> list[str]:
    """A line for each package that would not have the version it should."""
    lines = []
    for name, version in sorted(comes.items()):
        for pattern, prefix in expect.items():
            if fnmatchcase(name, pattern) and not version.rpartition(":")[2].startswith(prefix):
                lines.append(f"{name} would bring {version}, not {prefix}*")
                break
    return lines


def pinned(pins: dict[str, str]) -> tuple[str, ...]:
    """The option with which apt sees these pins beside its own."""
    text = read(f"{ROOT}/etc/apt/preferences").rstrip("\n")
    for names, version in pins.items():
        text += f"\n\nPackage: {names}\nPin: version {version}\nPin-Priority: 1001\n"
    path = ROOT + PREFERENCES
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.lstrip("\n"))
    return (f"Dir::Etc::Preferences={path}",)


def offered(also: dict[str, str]) -> list[str]:
    """Those of them that apt knows, where it knows what they are for, too."""
    if not also:
        return []
    done = quiet(["apt-cache", "madison", "--", *also, *also.values()])
    known = {line.partition("|")[0].strip() for line in done.stdout.splitlines()}
    return [name for name, what in also.items() if {name, what} <= known]


def install(told: dict[str, Any]) -> None:
    options: tuple[str, ...] = ()
    told = {**told, "packages": [*told["packages"], *offered(told.get("also", {}))]}
    words = ("install", *(["--reinstall"] if told.get("again") else []), *parameters(told))
    there = {name: version for name, (state, _, version) in query(*told["packages"]).items() if state == "installed"}
    try:
        comes, goes = simulate(*words)
        wrong = unexpected(there | comes, told["expect"])
    except Failed as failed:
        if not told["pin"]:
            raise
        wrong = [*failed.args] or ["apt finds no way"]  # it keeps what is newer, of itself
    if wrong and told["pin"]:
        options = pinned(told["pin"])
        words = (words[0], "--allow-downgrades", *words[1:])
        comes, goes = simulate(*words, options=options)
        if unexpected(there | comes, told["expect"]):
            raise Failed(*wrong[:6], "nothing was installed")
        say(f"apt of itself would not do: {wrong[0]}; told to take {', '.join(told['pin'].values())}")
    elif wrong:
        raise Failed(*wrong[:6], "nothing was installed")
    check_removals(goes, told["may_remove"])
    if not comes and not goes:
        if told.get("again"):
            raise Failed(f"apt has no longer what is installed of {', '.join(told['packages'])}: not installed again")
        say(f"installed already: {', '.join(told['packages'])}")
        return
    say(f"{len(comes)} packages: {some([f'{name} {short(version)}' for name, version in comes.items()])}")
    download(words, told, options)
    stop(told)
    careful = () if goes else ("APT::Get::Remove=false",)
    status, lines = run(
        apt(*words, options=(*options, *careful)), told["dpkg_s"], apart=True, count=len(comes) + len(goes)
    )
    found = query(*told["packages"])
    absent = [name for name in told["packages"] if found.get(name, ("",))[0] != "installed"]
    if status or absent:
        left = half_way()
        raise Failed(
            *errors(lines),
            *([f"not installed: {', '.join(absent)}"] if absent else []),
            *([f"half-way: {some(left)}; the next run finishes it, or says why not"] if left else []),
        )
    say(f"installed {', '.join(f'{name} {short(found[name][2])}' for name in told['packages'])}")


def check_removals(goes: dict[str, str], allowed: list[str]) -> None:
    more = [name for name in goes if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    if more:
        raise Failed(
            f"apt would also remove {some(more)}: nothing was done",
            f"if they are not needed: sudo apt-get remove {' '.join(more[:5])}, then the same command again",
        )


def download(words: tuple[str, ...], told: dict[str, Any], options: tuple[str, ...] = ()) -> None:
    status, lines = run(apt("--download-only", *words, options=options), told["fetch_s"], apart=False)
    if status:
        raise Failed(*errors(lines), "nothing was installed")


def fetch(told: dict[str, Any]) -> None:
    words = ("install", *parameters(told))
    _, goes = simulate(*words)
    check_removals(goes, told.get("may_remove", []))
    download(words, told)
    say(f"fetched: {', '.join(told['packages'])}")


def remove(told: dict[str, Any]) -> None:
    there = query(*told["packages"])
    names = [
        name
        for name in told["packages"]
        if there.get(name, ("config-files",))[0] not in ("config-files", "not-installed")
    ]
    if not names:
        say(f"gone already: {', '.join(told['packages'])}")
        return
    _, goes = simulate("remove", "--", *names)
    check_removals(goes, names)
    stop(told)
    status, lines = run(apt("remove", "--", *names), told["dpkg_s"], apart=True, count=len(goes))
    if status:
        raise Failed(*errors(lines))
    say(f"removed {', '.join(names)}; their configuration and data are kept")


def stop(told: dict[str, Any]) -> None:
    for unit in told.get("stop", []):
        quiet(["systemctl", "stop", unit], 120)  # one that is not there is stopped as well


def mark(told: dict[str, Any]) -> None:
    """Hold or unhold those that are there."""
    there = query(*told["packages"])
    names = [name for name in told["packages"] if there.get(name, ("",))[0] == "installed"]
    if not names:
        say("none of them is installed")
        return
    done = quiet(["apt-mark", told["do"], *names])
    if done.returncode:
        raise Failed(*errors((done.stdout + done.stderr).splitlines()))
    say(f"{'on hold' if told['do'] == 'hold' else 'no longer on hold'}: {', '.join(names)}")


def errors(lines: list[str]) -> list[str]:
    """What apt and dpkg said that went wrong, and a package's script before it failed (a full /boot, a module that
    dkms could not build), at most eight lines. Raises Busy when it was the lock."""
    locked = any(re.match(r"E: (?:Could not get lock|Unable to (?:acquire|lock))", line) for line in lines)
    if locked and not any("Could not open lock file" in line for line in lines):  # a disk that is read-only, or full
        raise Busy(*[line for line in lines if line.startswith("E:")][:4])
    places = [at for at, line in enumerate(lines) if re.match(r"\s*(?:E:|Err:|.*dpkg: error)", line)]
    scripts = [at for at in places if "dpkg: error processing" in lines[at]]
    near = {each for at in scripts for each in (at - 2, at - 1, at + 1) if 0 <= each < len(lines)}
    near = {at for at in near if not lines[at].endswith("...")}  # `Setting up ..` says nothing of it
    why = (at + 1 for at in places if lines[at].startswith("Err:"))  # the line below says it
    near |= {at for at in why if at < len(lines) and lines[at].startswith(" ")}
    told = [lines[at].strip() for at in sorted({*places, *near}) if lines[at].strip()]
    told = told or [line for line in lines if line.startswith("W:")] or [line for line in lines if line.strip()]
    return list(dict.fromkeys(told))[-7:]


# ---- running it


def log() -> int:
    """A file that takes what a program prints, for it may outlive this one."""
    path = ROOT + LOG
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if os.path.exists(path) and os.path.getsize(path) > LOG_BYTES:
            os.rename(path, f"{path}.1")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError:
        return os.dup(tempfile.TemporaryFile().fileno())  # the copy keeps it open


class Tail:
    """What is written to a file from now on, whole lines at a time. The place is kept here: the file's own is shared
    with whoever writes."""

    def __init__(self, fd: int) -> None:
        self.fd, self.at, self.rest = fd, os.fstat(fd).st_size, b""

    def lines(self) -> list[str]:
        found = b""
        while data := os.pread(self.fd, 1 << 16, self.at):
            self.at += len(data)
            found += data
        *whole, self.rest = (self.rest + found).split(b"\n")
        return [line.decode("utf-8", "replace").rstrip() for line in whole]


def run(argv: list[str], deadline_s: float, *, apart: bool, count: int = 0) -> tuple[int, list[str]]:
    """A program's status and lines. `apart`: it goes on when this one is ended, and is not ended at the deadline."""
    output, status_file = log(), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    try:
        note = f"---- {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {' '.join(argv)}\n"
        os.write(output, note.encode())
        said, progress = Tail(output), Progress(status_file.fileno(), count)
        if argv[0] == "apt-get":
            argv = [argv[0], f"-oAPT::Status-Fd={status_file.fileno()}", *argv[1:]]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=os.environ | ENVIRONMENT,
            pass_fds=(status_file.fileno(),),
            start_new_session=apart,
        )
        end = time.monotonic() + deadline_s
        while process.poll() is None:
            progress.look()
            if time.monotonic() > end:
                late(process, argv, deadline_s, apart=apart)
            time.sleep(0.1)
        return process.returncode, said.lines()
    finally:
        os.close(output)
        status_file.close()


def late(process: subprocess.Popen[bytes], argv: list[str], deadline_s: float, *, apart: bool) -> None:
    if apart:
        raise Failed(
            f"{argv[0]} (pid {process.pid}) is still at work after {deadline_s:.0f} s, and is left to finish",
            f"its output on the host: {ROOT + LOG}; the same command again waits for it",
        )
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(5)
            break
        except subprocess.TimeoutExpired:
            continue
    raise Failed(f"no end within {deadline_s:.0f} s: {' '.join(argv[:1] + argv[-3:])}")


class Progress:
    """apt's reports of where it is, as short lines: `setting up docker-ce 3/5 (62 %)`."""

    def __init__(self, fd: int, count: int) -> None:
        self.tail, self.count = Tail(fd), count
        self.seen: dict[str, list[str]] = {}
        self.last, self.when = "", 0.0

    def look(self) -> None:
        text = ""
        for line in self.tail.lines():
            text = self.text(line) or text
        if text and text != self.last and time.monotonic() > self.when + QUICK_S:
            self.last, self.when = text, time.monotonic()
            say(text)

    def text(self, line: str) -> str:
        kind, _, rest = line.partition(":")
        if kind not in ("dlstatus", "pmstatus"):
            return ""
        found = re.match(r"([^:]*(?::\w+)?):(\d+)(?:\.\d+)?:(.*)", rest)
        if not found:
            return ""
        name, percent, about = found[1].partition(":")[0], found[2], found[3]
        if kind == "dlstatus":
            files = re.search(r"file (\d+) of (\d+)", about)
            return f"fetching {files[1]}/{files[2]} ({percent} %)" if files else ""
        doing = next((word for word, pattern in DOING if pattern.match(about)), "")
        if not doing:
            return ""
        names = self.seen.setdefault(doing, [])
        if name not in names:
            names.append(name)
        return f"{doing} {name} {len(names)}/{max(self.count, len(names))} ({percent} %)"


if __name__ == "__main__":
    sys.exit(main())
