"""`invoke lab.up`, `.down`, `.status`, `.reset`, `.shell`, and the faults planted there: the disposable Prometheus."""

from __future__ import annotations

from invoke import Collection, Context, Exit, task

NAME = "the lab's name; several can be up at once"


@task(
    help={
        "name": NAME,
        "port": "port on 127.0.0.1 for its sshd (2222)",
        "base": "auto, ubuntu, debian, or an image to start from",
        "bare": "what an installer leaves: no engine, no driver, no toolkit",
        "comfy-first-run": "seconds that the stand-in ComfyUI's first run takes",
    }
)
def up(
    c: Context, name: str = "lab", port: str = "", base: str = "auto", comfy_first_run: str = "", bare: bool = False
) -> None:
    """Start a lab host, or find it running."""
    del c
    from lab import commands

    report(commands.up(name, port, base, comfy_first_run, bare))


@task(help={"name": NAME})
def down(c: Context, name: str = "lab") -> None:
    """Remove a lab host and all that is on it."""
    del c
    from lab import commands

    report(commands.down(name))


@task(help={"name": NAME})
def reset(c: Context, name: str = "lab") -> None:
    """Make a lab host fresh again: same name, port and keys."""
    del c
    from lab import commands

    report(commands.reset(name))


@task
def status(c: Context) -> None:
    """List the lab hosts on this machine."""
    del c
    from lab import commands

    report(commands.status())


@task(help={"name": NAME})
def shell(c: Context, name: str = "lab") -> None:
    """Open a shell on a lab host, over SSH."""
    del c
    from lab import commands

    report(commands.shell(name))


@task(
    name="break",  # a keyword of Python
    help={"fault": "an entry such as gpu-lost, or ENTRY.VARIANT; `list` shows all", "name": NAME},
)
def break_(c: Context, fault: str, name: str = "lab") -> None:
    """Break a lab host for real, as the troubleshooting knows it."""
    del c
    from lab import commands

    report(commands.break_(fault, name))


@task(
    iterable=["only"],
    help={
        "name": NAME,
        "only": "this fault alone (ENTRY or ENTRY.VARIANT); can be given again",
        "all": "all variants of each fault, the slow ones too",
    },
)
def drill(c: Context, name: str = "lab", only: list[str] | None = None, all: bool = False) -> None:
    """Break, diagnose, fix, prove: each fault on a lab host, with times."""
    del c
    from lab import commands

    report(commands.drill(name, list(only or ()), all))


def report(code: int) -> None:
    """End the program with a command's exit code."""
    if code:
        raise Exit(code=code)


ns = Collection(up, down, reset, status, shell, drill, break_)
