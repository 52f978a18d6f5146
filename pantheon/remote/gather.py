"""One look at a host, and watching services come up: the probe, run over the connection."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pantheon import firstrun
from pantheon.errors import LookFailed
from pantheon.inventory import Host
from pantheon.questions import matters, questions
from pantheon.remote.connection import HostConnection
from pantheon.remote.session import run_module

if TYPE_CHECKING:
    from pantheon.belongings import Belongings
    from pantheon.evidence import Busy, Evidence
    from pantheon.facts import Facts, Maybe

PROBE = "pantheon.probe"
COLLECT = "pantheon.collect"
COUNT_S = 26.0  # for counting large trees: above what collect.SLOW gives that part
LOOK_S = 60.0  # every part of the probe has a deadline of its own, well below


def look(connection: HostConnection, host: Host) -> Facts:
    """Everything that is known of the host, in one exec. Raises LookFailed, or a HostError when the link is lost."""
    begun, connection.first_look = connection.first_look, None
    answer = begun() if begun else ask(connection, host)
    from pantheon.facts import parse  # by now: ahead.py asks while it is not imported yet

    return parse(answer)


def ask(connection: HostConnection, host: Host, *, on_sent: Callable[[], None] | None = None) -> object:
    """The probe's document. `on_sent` is called when the question is on its way."""
    asked = questions(host, nonce=secrets.token_hex(8))
    status, facts = _answer(connection, PROBE, asked, "facts", on_sent)
    if not facts:
        raise LookFailed(f"{host.name}: the probe ended with status {status} and gave no facts")
    return facts[-1]


def _answer(
    connection: HostConnection,
    module: str,
    asked: dict[str, object],
    name: str,
    on_sent: Callable[[], None] | None = None,
) -> tuple[int, list[object]]:
    """The exit status of a module that looks, and what its frames of that name hold."""
    found: list[object] = []

    def on_frame(frame: dict[str, Any]) -> None:
        if frame.get("frame") == name:
            found.append(frame.get(name))

    status = run_module(connection, module, asked, deadline_s=LOOK_S, on_frame=on_frame, on_sent=on_sent)
    return status, found


def examine(connection: HostConnection, host: Host, *more: str) -> tuple[Facts, Evidence]:
    """A look and the evidence for a diagnosis, side by side: two execs on one connection. `more` are those parts of the
    evidence that only some commands need (collect.MORE)."""
    return _side_by_side(connection, host, more=more)


def look_with(connection: HostConnection, host: Host, *parts: str) -> tuple[Facts, Evidence]:
    """A look, and of the evidence those parts alone, side by side."""
    return _side_by_side(connection, host, *parts)


def parts(connection: HostConnection, host: Host, *names: str) -> Evidence:
    """Those parts of the evidence alone. Raises LookFailed, and LinkLost."""
    from pantheon import evidence

    return evidence.parse(_collect(connection, host, *names))


def belongings(connection: HostConnection, host: Host, asked: dict[str, object]) -> Belongings:
    """What a takeover asks about (takeover/data.py). Raises LookFailed where the host could not tell, and LinkLost."""
    from pantheon import evidence
    from pantheon.belongings import Belongings

    about = {"belongings": asked, "deadline_s": COUNT_S}
    found = evidence.parse(_collect(connection, host, "belongings", about=about)).belongings
    if not isinstance(found, Belongings):
        reason = getattr(found, "reason", "no answer")
        raise LookFailed(f"{host.name}: what is to be taken over could not be counted", details=[reason])
    return found


def _side_by_side(
    connection: HostConnection, host: Host, *parts: str, more: tuple[str, ...] = ()
) -> tuple[Facts, Evidence]:
    answers: list[object] = []
    failed: list[BaseException] = []

    def gather() -> None:
        try:
            answers.append(_collect(connection, host, *parts, more=more))
        except BaseException as error:  # raised again in the thread that can handle it
            failed.append(error)

    second = threading.Thread(target=gather, name="pantheon-evidence", daemon=True)
    second.start()
    facts = look(connection, host)
    second.join()
    if failed:
        raise failed[0]
    from pantheon import evidence

    return facts, evidence.parse(answers[0])


def busy(connection: HostConnection, host: Host) -> Maybe[Busy]:
    """What runs in the services now, asked on the host itself. Raises LookFailed, and LinkLost."""
    return parts(connection, host, "busy").busy


def _collect(
    connection: HostConnection,
    host: Host,
    *parts: str,
    more: tuple[str, ...] = (),
    about: dict[str, object] | None = None,
) -> object:
    asked = matters(host, nonce=secrets.token_hex(8)) | {"parts": list(parts), "more": list(more)} | (about or {})
    status, evidence = _answer(connection, COLLECT, asked, "evidence")
    if not evidence:
        raise LookFailed(f"{host.name}: gathering evidence ended with status {status} and gave none")
    return evidence[-1]


def watch(
    connection: HostConnection,
    services: dict[str, str],
    *,
    deadline_s: float,
    calm_s: float = 0.0,
    on_frame: Callable[[dict[str, Any]], bool],
) -> None:
    """Frames of the probe's watch mode until `on_frame` says True or `deadline_s` seconds have passed.

    `services` maps container names to the loopback URL that answers when they are ready. After `calm_s` seconds
    without news it looks less often, and there are fewer frames."""
    asked = {"containers": list(services), "deadline_s": deadline_s, "log": True, "http": services}
    spec = {"watch": asked | {"calm_s": calm_s, "markers": {"comfy": [*firstrun.MARKERS]}}}

    def until(frame: dict[str, Any]) -> None:
        if frame.get("frame") == "watch" and on_frame(frame):
            raise _Enough

    try:
        run_module(connection, PROBE, spec, deadline_s=deadline_s + 30, heartbeat=True, on_frame=until)
    except _Enough:
        return


class _Enough(Exception):
    """Ends a watch from inside its callback; the session closes its channel, and with it the probe."""
