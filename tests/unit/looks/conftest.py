"""A host made of files, and a Docker Engine on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.looks.fakes import FakeDocker, FakeHost


@pytest.fixture
def host() -> Iterator[FakeHost]:
    # Not tmp_path: the path of a unix socket has room for 107 bytes
    root = Path(tempfile.mkdtemp(prefix="p"))
    yield FakeHost(root)
    shutil.rmtree(root)


@pytest.fixture
def docker(host: FakeHost) -> Iterator[FakeDocker]:
    server = FakeDocker(host.at("/var/run/docker.sock"))
    yield server
    server.shutdown()
    server.server_close()
