"""What a service answers at a local port: HTTP and a websocket's opening, asked as a browser there would."""

from __future__ import annotations

import http.client
import time

from pantheon.facts import Http
from pantheon.remote.wire import CLOSE_FRAME, MOST_BYTES, SWITCHING, upgrade


def get(port: int, path: str, *, timeout_s: float) -> Http:
    """The answer to one GET; `error` says why there was none. The body's first bytes are read and thrown away."""
    return _ask(port, path, {}, timeout_s)


def websocket(port: int, path: str, *, timeout_s: float) -> Http:
    """The answer to a browser's request for a websocket, which is closed again at once: 101 is right."""
    return _ask(port, path, upgrade(), timeout_s)


def _ask(port: int, path: str, headers: dict[str, str], timeout_s: float) -> Http:
    began, url, place = time.monotonic(), f"http://127.0.0.1:{port}{path}", f"127.0.0.1:{port}"
    web = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    browser = {"Host": place, "User-Agent": "pantheon", "Connection": "close"}
    try:
        web.request("GET", path, headers=browser | ({"Origin": f"http://{place}"} | headers if headers else {}))
        answer = web.getresponse()
        if answer.status == SWITCHING:
            web.sock.sendall(CLOSE_FRAME)
        else:
            answer.read(MOST_BYTES)
        return Http(url, answer.status, answer.reason, "", "", round((time.monotonic() - began) * 1000, 1))
    except TimeoutError:
        error = f"no answer within {timeout_s:g} s"
    except http.client.RemoteDisconnected:
        error = "closed without an answer"
    except (OSError, http.client.HTTPException) as problem:
        error = str(getattr(problem, "strerror", "") or problem or type(problem).__name__)
    finally:
        web.close()
    return Http(url, 0, "", "", error, round((time.monotonic() - began) * 1000, 1))
