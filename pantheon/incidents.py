"""The tasks of incidents: `diagnose`, and `fix.NAME` for each entry of the troubleshooting."""

from __future__ import annotations

from typing import Any

from invoke import Collection
from invoke.tasks import Task

from pantheon.cli import Call, command
from pantheon.symptoms import SYMPTOMS

NOW = "do not wait for a job that runs in what will be stopped"
# Options that belong to one entry alone; --yes implies none of them.
OWN = {
    "driver-mismatch": ("reboot", "reboot the host, and wait for it and the stack to come back"),
    "stuck-apply": ("end", "end the run that is shown"),
}
URL = "the address that somebody tried, such as https://127.0.0.1:8188"


@command(
    looks=True,
    json=True,
    alone="text",
    help={"text": "match a pasted error message or log instead, without any host (- reads standard input)"},
)
def diagnose(call: Call, text: str | None = None) -> int:
    """What is wrong, the cause first, and the command that mends it."""
    if text is not None:
        from pantheon import pasted

        return pasted.diagnose(text, call.given, report=call.report)
    from pantheon import repair

    return repair.diagnose(call.host, options=call.options, report=call.report)


@command(host=False)
def overview(_: Call) -> int:
    """The fixes, with the symptoms that they mend."""
    from pantheon.report import overview

    return overview.fixes()


def _fix(call: Call, name: str, **choices: Any) -> int:
    from pantheon import repair
    from pantheon.incident import Choices

    return repair.fix(call.host, name, Choices(**choices), options=call.options, report=call.report)


def fix_task(name: str) -> Task[Any]:
    """The task `fix.NAME`."""
    texts = {"now": NOW}
    if name in OWN:
        option, texts[OWN[name][0]] = OWN[name]
        if option == "reboot":

            def body(call: Call, now: bool = False, reboot: bool = False) -> int:
                return _fix(call, name, now=now, reboot=reboot)
        else:

            def body(call: Call, now: bool = False, end: bool = False) -> int:  # type: ignore[misc]
                return _fix(call, name, now=now, end=end)
    elif name == "wrong-version-number":
        texts["url"] = URL

        def body(call: Call, url: str = "", now: bool = False) -> int:  # type: ignore[misc]
            return _fix(call, name, now=now, url=url)
    else:

        def body(call: Call, now: bool = False) -> int:  # type: ignore[misc]
            return _fix(call, name, now=now)

    body.__doc__ = f"Mend: {SYMPTOMS[name]}."
    return command(looks=True, changes=True, json=True, name=name, help=texts)(body)


fix = Collection("fix", **{name: fix_task(name) for name in SYMPTOMS})
fix.add_task(overview, default=True)
