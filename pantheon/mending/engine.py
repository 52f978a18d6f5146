"""The Docker Engine, asked over its socket."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pantheon.mending.words import Failed, shown

SOCKET = "/var/run/docker.sock"
ANSWER_S = 300  # the engine may have to read a large directory before its first byte


class Line(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(SOCKET)


@contextmanager
def answer(path: str) -> Iterator[http.client.HTTPResponse]:
    line = Line("docker")
    try:
        line.request("GET", path)
        response = line.getresponse()
        if response.status == 404:
            raise FileNotFoundError(errno.ENOENT, response.read(2000).decode("utf-8", "replace"))
        if response.status != 200:
            raise Failed(f"Docker answered {response.status}: {shown(response.read(500).decode('utf-8', 'replace'))}")
        yield response
    except TimeoutError:
        raise Failed(f"Docker gave no answer within {ANSWER_S} s") from None
    except http.client.HTTPException as error:
        raise Failed(f"Docker's answer broke off: {type(error).__name__}") from None
    finally:
        line.close()


def asked(path: str) -> dict[str, Any]:
    try:
        with answer(path) as response:
            found = json.loads(response.read())
    except FileNotFoundError:
        raise Failed(f"there is no such container: {shown(path.split('/')[2])}") from None
    except OSError as error:
        raise Failed(f"{SOCKET}: {error.strerror or error}") from None
    return found if isinstance(found, dict) else {}


@contextmanager
def archive(container: str, path: str) -> Iterator[http.client.HTTPResponse]:
    quoted = urllib.parse.quote(os.fsencode(path))
    with answer(f"/containers/{urllib.parse.quote(container)}/archive?path={quoted}") as response:
        yield response
