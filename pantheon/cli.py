"""Between Invoke and the engine: the shared options, and a clean end for everything that can go wrong.

Options are strings or flags that we parse ourselves: Invoke turns a bad int into a traceback. Nothing heavy is imported
here before a task runs, so that `invoke --list` stays quick.
"""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.executor import Executor
from invoke.tasks import Task, task

if TYPE_CHECKING:
    from pantheon.errors import PantheonError
    from pantheon.inventory import Host, Inventory
    from pantheon.options import Options
    from pantheon.remote.ahead import Ahead
    from pantheon.report.console import Console

HELP = {
    "host": "which host of hosts.toml (default: its `default`)",
    "hosts_file": "another hosts.toml ($PANTHEON_HOSTS does the same)",
    "ask_sudo_password": "ask for the sudo password, where the host wants one",
    "plan": "show the plan and stop: exit 2 when there is something to do, 0 when not",
    "yes": "agree to the plan that is shown, without being asked",
    "details": "show commands and file differences too",
    "older": "with --yes: go on although this version or hosts.toml is older than what the host last saw",
    "json": "data on stdout, progress on stderr",
}
RUN_OUT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
FLAGS = {"ask_sudo_password", "plan", "yes", "details", "older", "json"}

Body = Callable[..., int | None]

# At its end Python would look through all that was ever imported for cycles to free: 30 ms, a tenth of a whole command.
atexit.register(gc.freeze)


@dataclass(frozen=True)
class Call:
    """One call of a command: its options, and what follows from them."""

    name: str
    given: dict[str, Any]
    looks: bool = False

    @functools.cached_property
    def inventory(self) -> Inventory:
        from pathlib import Path

        from pantheon import inventory

        file = self.given.get("hosts_file")
        return inventory.load(Path(file).expanduser() if file else None)

    @functools.cached_property
    def host(self) -> Host:
        return self.inventory.host(self.given.get("host") or None)

    @functools.cached_property
    def ahead(self) -> Ahead | None:
        """The first look at the host, which begins when this is first read; None for a call that does not look, or that
        may have to ask for a password."""
        if not self.looks or self.given.get("ask_sudo_password"):
            return None
        from pantheon.remote.ahead import Ahead

        return Ahead(self.host)

    @functools.cached_property
    def options(self) -> Options:
        from pantheon.options import Options

        given = self.given
        ask: Callable[[str], str] | None = None
        if given.get("ask_sudo_password"):
            ask = self.report.ask_password
        return Options(
            yes=given.get("yes", False),
            plan_only=given.get("plan", False),
            details=given.get("details", False),
            older=given.get("older", False),
            ask_password=ask,
            ahead=self.ahead,
        )

    @functools.cached_property
    def report(self) -> Console:
        if self.given.get("json"):
            from pantheon.report.data import Json

            report: Console = Json()
        else:
            from pantheon.report.console import Console

            report = Console()
        report.hosts_file = self.given.get("hosts_file") or ""
        return report


def command(
    *,
    host: bool = True,
    changes: bool = False,
    looks: bool = False,
    json: bool = False,
    alone: str = "",
    interrupt_code: int = 130,
    last: bool = False,
    needs: dict[str, str] | None = None,
    name: str = "",
    help: dict[str, str] | None = None,  # Invoke's own word for it
) -> Callable[[Body], Task[Any]]:
    """A task from a body `(call, ...) -> exit code`. `host` adds the options of a task that contacts a host, `changes`
    those of one that changes it; one that `looks` begins by looking at it, unless the option `alone` is given, which
    does without any host. One that is `last` lets no other follow it. The body's own parameters stay in front; strings
    and flags only; `needs` says what may be given for those that must be."""
    shared = [
        *(("host", "hosts_file", "ask_sudo_password") if host else ()),
        *(("plan", "yes", "details", "older") if changes else ()),
        *(("json",) if json else ()),
    ]

    def decorate(body: Body) -> Task[Any]:
        title = name or body.__name__

        @functools.wraps(body)
        def run(context: Context, *args: Any, **kwargs: Any) -> None:
            given = {key: kwargs.pop(key) for key in shared if key in kwargs}
            call = Call(title, given, looks and kwargs.get(alone) is None)

            def work() -> int | None:
                _ = call.ahead  # before the body imports what it needs to judge what is seen
                return body(call, *args, **kwargs)

            hosts_file, as_json = call.given.get("hosts_file") or "", bool(call.given.get("json"))
            code = guarded(work, context, interrupt_code=interrupt_code, hosts_file=hosts_file, as_json=as_json)
            if code or last:
                raise Exit(code=code)

        own = list(inspect.signature(body).parameters.values())[1:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        options = [inspect.Parameter(key, kind, default=False if key in FLAGS else "") for key in shared]
        first = inspect.Parameter("c", kind)
        run.__signature__ = inspect.Signature([first, *own, *options])  # type: ignore[attr-defined]
        texts = {key: HELP[key] for key in shared} | (help or {})
        made = cast("_Task", task(run, name=title, help=texts, auto_shortflags=False, klass=_Task))
        made.needs, made.last = needs or {}, last
        return made

    return decorate


class _Task(Task[Any]):
    """A task whose missing argument is told with what may be given for it."""

    needs: dict[str, str]
    last = False

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        opts: dict[str, Any] = super().arg_opts(name, default, taken_names)
        if name in self.needs:
            said = _Name(name)
            said.said = self.needs[name]
            opts["names"] = [said]
        return opts


class _Name(str):
    """Invoke tells of a missing argument by its name, with str.format: this one then says what it may be."""

    said = ""

    def __format__(self, spec: str) -> str:
        return f"{self.upper()}: {self.said}"


class OneTunnel(Executor):
    """Invoke's executor (invoke.json names it), which runs one task after the other: `invoke tunnel comfy ollama` would
    open a tunnel to ComfyUI and, once that is closed, bring Ollama up."""

    def execute(self, *tasks: Any) -> Any:
        calls = self.normalize(tasks)
        for place, call in enumerate(calls[:-1]):
            if getattr(call.task, "last", False):
                _refuse([(other.called_as or other.task.name, other.kwargs) for other in calls[place:]])
        return super().execute(*tasks)


def _refuse(calls: list[tuple[str, dict[str, Any]]]) -> None:
    """Raises Exit: the first of these would stay, and the others run when it has ended."""
    from pantheon.errors import UsageError
    from pantheon.inventory import SERVICES

    given = {key: value for _, kwargs in calls for key, value in kwargs.items() if value}
    host = f" --host {given['host']}" if given.get("host") else ""
    following = [name for name, _ in calls[1:]]
    service = "all" if set(following) <= set(SERVICES) else calls[0][1].get("service")
    text = f"a tunnel is the last command of a line: {', '.join(following)} would run once it is closed"
    problem = UsageError(text, next_commands=[f"invoke tunnel {service}{host}"])
    raise Exit(code=_told(problem, given.get("hosts_file") or "", as_json=bool(given.get("json"))))


def guarded(
    work: Callable[[], int | None],
    context: Context,
    *,
    interrupt_code: int = 130,
    hosts_file: str = "",
    as_json: bool = False,
) -> int:
    """The exit code of `work`. Every expected failure is told in plain words on stderr (and `as_json` on stdout), every
    unexpected one in a line that names the file in which its traceback was put; Ctrl-C gives `interrupt_code`."""
    from pantheon.errors import PantheonError, UsageError

    _sound_streams()
    try:
        if context.config.run.dry:
            raise UsageError(
                "--dry is Invoke's own and would show nothing true", next_commands=["the same command with --plan"]
            )
        return work() or 0
    except PantheonError as problem:
        return _told(problem, hosts_file, as_json=as_json)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n" if interrupt_code else "\n")
        return interrupt_code
    except BrokenPipeError:
        # `invoke ... | head`: nobody reads any more. Python must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, RuntimeError) as problem:
        if getattr(problem, "errno", 0) in RUN_OUT or "start new thread" in str(problem):
            text = f"this machine has run out of something: {getattr(problem, 'strerror', '') or problem}"
            return _told(PantheonError(text, next_commands=["ulimit -a", "free -m"]), hosts_file, as_json=as_json)
        if not isinstance(problem, OSError) or problem.errno != errno.ENOSPC:
            return _unexpected(problem)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output must not fail again at exit
        sys.stderr.write(
            f"✗ {problem.filename or 'the file that the output goes to'}: {problem.strerror}\nNext: df -h\n"
        )
        return 1
    except Exit:
        raise
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("", "pantheon"):
            return _unexpected(missing)
        # Somebody's own invoke, first on the PATH: rich may be what is missing, so this is said without it.
        sys.stderr.write(
            f"✗ {sys.executable} does not have {missing.name}: this invoke is not the one that make setup installed\n"
            'Next: make setup && export PATH="$PWD/.venv/bin:$PATH"\n'
        )
        return 1
    except Exception as unexpected:
        return _unexpected(unexpected)


def _sound_streams() -> None:
    """Streams that can be written to, whatever we were started with."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed (`>&-`): the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign is no reason to die
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "1").strip("0"):  # as some terminals say it; Rich would show nothing at all
            del os.environ[name]


def _told(problem: PantheonError, hosts_file: str, *, as_json: bool) -> int:
    """Its exit code, once it has been told."""
    from pantheon.report.console import error

    error(problem, hosts_file)
    if as_json:
        from pantheon.report.data import failure

        failure(problem)
    return problem.exit_code


def _unexpected(problem: Exception) -> int:
    """A defect of ours: no traceback on the screen, all of it in a file."""
    import traceback

    from pantheon.errors import PantheonError
    from pantheon.places import state_directory
    from pantheon.report.console import error

    text = "".join(traceback.format_exception(problem))
    try:
        where = state_directory() / "last-error.txt"
        where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")
        where.chmod(0o600)
        kept = f"its traceback is in {where}"
    except (OSError, PantheonError):
        kept = "its traceback could not be kept"
    error(PantheonError(f"a defect in pantheon: {type(problem).__name__}: {problem}", details=[kept]))
    return 1


def port_number(text: str, option: str) -> int:
    """A TCP port from an option; 0 for an empty one. Raises UsageError."""
    from pantheon.errors import UsageError

    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise UsageError(f"{option} must be a port from 1 to 65535, not {text!r}")
    return int(text)
