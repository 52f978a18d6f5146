"""The mounts of Atlas as files and sockets have them: who serves a place, and whether a server answers."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pantheon.collecting import nfs
from pantheon.evidence import parse
from pantheon.nfs import Atlas, Line
from tests.unit.looks.fakes import FakeHost

APPDATA, MEDIA = "/mnt/atlas/appdata", "/mnt/atlas/a b"
UNIT = "# Written by pantheon from hosts.toml\n[Mount]\nWhat=atlas:/a%%b\nWhere=/mnt/atlas/a b\nType=nfs4\nOptions=ro\n"


def look(host: FakeHost, *paths: str, server: str = "127.0.0.1", port: int = 1) -> Atlas:
    wanted = [{"mount": path, "server": server, "port": port, "version": 4} for path in paths or (APPDATA, MEDIA)]
    found = parse({"schema": 1, "atlas": nfs.atlas({"atlas": wanted}, str(host.root))}).atlas
    assert isinstance(found, Atlas)
    return found


# ---- the places


def test_nothing_is_there(host: FakeHost) -> None:
    found = look(host)
    assert [share.at for share in found.shares] == ["missing", "missing"]
    assert found.parents == {"/mnt": "missing", "/mnt/atlas": "missing"}
    assert found.servers == {"127.0.0.1": "connection refused"}
    assert (found.ours, found.tried, found.autofs) == ((), (), False)


def test_what_lies_in_the_place(host: FakeHost) -> None:
    host.write(f"{APPDATA}/one", "")
    (share,) = look(host, APPDATA).shares
    assert share.at.startswith("dir ")
    assert share.beneath == 1


def test_links_are_seen_and_not_followed(host: FakeHost) -> None:
    host.write("/srv/data/one", "")
    host.at("/mnt").mkdir()
    host.at("/mnt/atlas").symlink_to("/srv/data")
    found = look(host, APPDATA)
    assert found.parents["/mnt/atlas"] == "symlink -> /srv/data"
    assert found.shares[0].at == "missing"


def test_what_is_mounted_is_not_looked_behind(host: FakeHost) -> None:
    host.mount(APPDATA, "nfs4", "atlas:/appdata")
    (share,) = look(host, APPDATA).shares
    assert share.at == "mounted"
    assert [(row.source, row.fstype) for row in share.rows] == [("atlas:/appdata", "nfs4")]
    assert share.beneath is None


def test_an_automount_that_waits_is_not_woken(host: FakeHost) -> None:
    host.mount(APPDATA, "autofs", "systemd-1")
    (share,) = look(host, APPDATA).shares
    assert (share.rows, share.waits, share.answers) == ((), True, None)
    host.mount(APPDATA, "nfs4", "atlas:/appdata")
    assert not look(host, APPDATA).shares[0].waits


def test_lines_of_fstab_have_their_numbers(host: FakeHost) -> None:
    host.write(
        "/etc/fstab", "# comment\n\natlas:/x\t/mnt/atlas/a\\040b/ nfs ro,nofail 0 0\nx y\n# atlas:/y /mnt/atlas/a\n"
    )
    (share,) = look(host, MEDIA).shares
    assert share.lines == (Line(3, "atlas:/x", "nfs", "ro,nofail"),)


# ---- units


def test_our_own_units(host: FakeHost) -> None:
    path = r"/etc/systemd/system/mnt-atlas-a\x20b.mount"
    host.write(path, UNIT)
    found = look(host, MEDIA)
    (unit,) = found.shares[0].units
    assert (unit.path, unit.ours, unit.where, unit.what, unit.text) == (path, True, MEDIA, "atlas:/a%b", UNIT)
    assert found.ours == (unit,)


def test_ours_are_found_when_nobody_asks_for_them(host: FakeHost) -> None:
    host.write("/etc/systemd/system/mnt-old.mount", UNIT)
    host.write("/etc/systemd/system/mnt-theirs.mount", "[Mount]\nWhat=x\n")
    host.write("/etc/systemd/system/x.service", UNIT)
    assert [unit.name for unit in look(host, APPDATA).ours] == ["mnt-old.mount"]


@pytest.mark.parametrize("place", ["/run/systemd/system", "/usr/lib/systemd/system"])
def test_a_unit_elsewhere_is_not_ours_whatever_it_says(host: FakeHost, place: str) -> None:
    host.write(f"{place}/mnt-atlas-appdata.mount", UNIT)
    (unit,) = look(host, APPDATA).shares[0].units
    assert not unit.ours


def test_a_unit_that_is_a_link_is_not_ours(host: FakeHost) -> None:
    host.write("/opt/x.mount", UNIT)
    host.at("/etc/systemd/system").mkdir(parents=True)
    host.at("/etc/systemd/system/mnt-atlas-appdata.mount").symlink_to(host.at("/opt/x.mount"))
    (unit,) = look(host, APPDATA).shares[0].units
    assert not unit.ours


def test_the_one_that_systemd_goes_by_is_taken(host: FakeHost) -> None:
    host.write("/usr/lib/systemd/system/mnt-atlas-appdata.mount", "[Mount]\nWhat=vendor\n")
    host.write("/etc/systemd/system/mnt-atlas-appdata.mount", "[Mount]\nWhat=admin\n")
    (unit,) = look(host, APPDATA).shares[0].units
    assert unit.what == "admin"


@pytest.mark.parametrize("text", ["", "{}", "null", "[", '[{"mount": "/x", "source": "a:/", "uid": 0, "error": ""}]'])
def test_what_the_last_attempt_left(host: FakeHost, text: str) -> None:
    host.write("/run/pantheon/atlas.json", text)
    assert len(look(host, APPDATA).tried) == (1 if "/x" in text else 0)


# ---- servers


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Takes one connection and gives that answer; None: none at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            link, _ = listening.accept()
            with link:
                link.recv(4096)
                if answer is None:
                    time.sleep(3)
                else:
                    link.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


REPLY = struct.pack(">IIIIIII", 0x80000018, 1, 1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (REPLY, ""),
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers there is no NFS server"),
    ],
)
def test_a_server_is_asked_by_an_empty_call(answer: bytes, said: str) -> None:
    with server(answer) as port:
        assert nfs.ask("127.0.0.1", port, 4) == said


def test_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs, "CALL_S", 0.2)
    with server(None) as port:
        assert nfs.ask("127.0.0.1", port, 4) == "no answer within 0.2 s"


def test_a_name_that_takes_for_ever(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        time.sleep(5)

    monkeypatch.setattr(nfs, "CALL_S", 0.1)
    monkeypatch.setattr(socket, "create_connection", slow)
    began = time.monotonic()
    assert look(host, APPDATA, server="nowhere").servers == {"nowhere": "its name gave no address within 0.2 s"}
    assert time.monotonic() - began < 2
