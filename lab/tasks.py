"""`invoke lab.up`, `lab.down`, `lab.status`, `lab.reset`, `lab.shell`: the disposable Prometheus."""

from __future__ import annotations

from invoke import Collection, Context, Exit, task

NAME = "the lab's name; several can be up at once"


@task(
    help={
        "name": NAME,
        "port": "port on 127.0.0.1 for its sshd (2222)",
        "base": "auto, ubuntu, debian, or an image to start from",
        "comfy-first-run": "seconds that the stand-in ComfyUI's first run takes",
    }
)
def up(c: Context, name: str = "lab", port: str = "", base: str = "auto", comfy_first_run: str = "") -> None:
    """Start a lab host, or find it running."""
    del c
    from lab import commands

    report(commands.up(name, port, base, comfy_first_run))


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


def report(code: int) -> None:
    """End the program with a command's exit code."""
    if code:
        raise Exit(code=code)


ns = Collection(up, down, reset, status, shell)
