"""What a workstation sees of the services, through the SSH connection that is open anyway."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pantheon.errors import UsageError
from pantheon.facts import Maybe, Unknown
from pantheon.here import Here, LocalPort
from pantheon.inventory import SERVICES, Host
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import head_through, http_through
from pantheon.remote.ports import find_holder, free_port
from pantheon.remote.wire import WEBSOCKETS, upgrade

ANSWER_S = 5.0
LOCAL_S = 2.0  # a tunnel that is alive, to a service that is, answers sooner

Try = Callable[[], Any]


def look_from_here(connection: HostConnection, host: Host) -> Here:
    """Each service tried from this side, everything at once: each try is a channel of the one connection. Raises
    LinkLost when the connection itself is gone."""
    ports: dict[str, Any] = {name: local_port(host.service(name).port) for name in SERVICES}
    tries: dict[tuple[str, str], Try] = {}
    for name in SERVICES:
        port = host.service(name).port
        tries["http", name] = partial(http_through, connection, f"http://127.0.0.1:{port}/", timeout_s=ANSWER_S)
        if name in WEBSOCKETS:
            browser = as_browser(ports[name], port)
            tries["browser", name] = partial(head_through, connection, port, "/", browser, timeout_s=ANSWER_S)
            opening = {**browser, **upgrade()}
            path = WEBSOCKETS[name]
            tries["websocket", name] = partial(head_through, connection, port, path, opening, timeout_s=ANSWER_S)
        held = ports[name]
        if isinstance(held, LocalPort) and held.holder and name in WEBSOCKETS:
            tries["silent", name] = partial(silent, port)
    found: dict[str, dict[str, Any]] = {"http": {}, "browser": {}, "websocket": {}, "https": {}, "silent": {}}
    for (what, name), answer in at_once(tries).items():
        found[what][name] = answer
    for name, why in found.pop("silent").items():
        ports[name] = replace(ports[name], silent=why)
    return Here(ports=ports, **found)


def silent(port: int) -> str:
    """Why whoever listens on that port of this machine does not answer a browser; "" for an answer of any kind."""
    end = time.monotonic() + LOCAL_S
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=LOCAL_S) as link:
            link.settimeout(max(0.1, end - time.monotonic()))
            link.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return "" if link.recv(1) else "the connection is closed without an answer"
    except TimeoutError:
        return f"no answer within {LOCAL_S:g} s"
    except OSError as error:
        return str(error.strerror or error)


def at_once(tries: Mapping[tuple[str, str], Try]) -> dict[tuple[str, str], Any]:
    """What each try gave, in the order given. The first error of any of them is raised when all have ended."""
    answers: dict[tuple[str, str], Any] = {}
    failed: list[BaseException] = []

    def run(key: tuple[str, str]) -> None:
        try:
            answers[key] = tries[key]()
        except BaseException as error:  # raised again in the thread that can handle it
            failed.append(error)

    threads = [threading.Thread(target=run, args=(key,), name="pantheon-here", daemon=True) for key in tries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return {key: answers[key] for key in tries}


def as_browser(local: Maybe[LocalPort], port: int) -> dict[str, str]:
    """The headers by which a server tells where a browser thinks it is: at the tunnel's own end, on this machine."""
    free = local.free if isinstance(local, LocalPort) else 0
    place = f"127.0.0.1:{free or port}"
    return {"Host": place, "Origin": f"http://{place}", "User-Agent": "pantheon", "Connection": "close"}


def local_port(port: int) -> Maybe[LocalPort]:
    """That port on this machine's loopback: who holds it, and which one a tunnel would take."""
    try:
        free = free_port(port)
    except UsageError:
        free = 0
    except OSError as error:
        return Unknown(str(error))
    if free == port:
        return LocalPort(port, "", free)
    held = find_holder(port)
    return LocalPort(port, held.text, free, close=held.see if held.see.startswith("invoke ") else "")
