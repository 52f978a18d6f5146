"""Supervising ssh: which port, when it is ready, what is said when it is not. The real ssh is shown in tests/lab; here
a script stands for it that listens, or says what ssh would say."""

from __future__ import annotations

import http.client
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from pantheon.errors import LinkLost, LoginRefused, NotReached, NotTrusted, UsageError
from pantheon.inventory import Comfy, Host
from pantheon.remote.tunnel import open_tunnel
from tests.unit.remote.server import HOST_KEY, SshServer, ed25519_key, key_of

# `ssh -G` is the real one; otherwise a web server on the local side of -L, or whatever $SAY holds.
SSH = f"""import http.server, os, sys
if "-G" in sys.argv:
    os.execv("{shutil.which("ssh")}", sys.argv)
if os.environ.get("SAY"):
    sys.exit(os.environ["SAY"])
port = int(sys.argv[sys.argv.index("-L") + 1].split(":")[1])
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            print("Connection to box closed by remote host.", file=sys.stderr, flush=True)
            os._exit(255)
        self.send_response(404)
        self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", port), Web).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def box(tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "path").mkdir()
    (tmp_path / "path/ssh.py").write_text(SSH)
    # A shebang could not hold the spaces of a clone's path.
    words = shlex.join([sys.executable, "-I", str(tmp_path / "path/ssh.py")])
    (tmp_path / "path/ssh").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (tmp_path / "path/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    known.write_text(f"10.0.0.5 {key_of(HOST_KEY)}\n")
    return Host("box", "10.0.0.5", "ops", 22, comfy=Comfy(port=free_port()))


def test_ready_means_that_something_answers(box: Host) -> None:
    with open_tunnel(box, "comfy") as tunnel:
        assert tunnel.url == f"http://127.0.0.1:{box.comfy.port}/"
        assert not tunnel.moved
        process = tunnel.process
        assert process.poll() is None
    assert process.poll() is not None


def test_the_next_free_port(box: Host) -> None:
    with socket.create_server(("127.0.0.1", box.comfy.port)), open_tunnel(box, "comfy") as tunnel:
        assert tunnel.port > box.comfy.port
        assert tunnel.moved


def test_a_port_that_was_asked_for_is_taken_or_refused(box: Host) -> None:
    port = free_port()
    with open_tunnel(box, "comfy", port=port) as tunnel:
        assert (tunnel.port, tunnel.moved) == (port, False)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(UsageError, match=f"port {port} is taken"),
        open_tunnel(box, "comfy", port=port),
    ):
        pass


def test_a_tunnel_that_ends(box: Host) -> None:
    with open_tunnel(box, "comfy") as tunnel:
        web = http.client.HTTPConnection("127.0.0.1", tunnel.port, timeout=5)
        web.request("GET", "/end")
        with pytest.raises(LinkLost, match="the tunnel to comfy was lost") as caught:
            tunnel.wait()
        web.close()
    assert caught.value.details == ("Connection to box closed by remote host.",)


def test_what_ssh_says_when_it_alone_cannot(box: Host, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAY", "Bad configuration option: hostkeyalias")
    with pytest.raises(NotReached, match="could not open the tunnel to comfy") as caught, open_tunnel(host, "comfy"):
        pass
    assert caught.value.details == ("Bad configuration option: hostkeyalias",)


def test_what_stops_every_command_reads_as_it_does_there(
    box: Host, host: Host, server: SshServer, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAY", 'remove with: ssh-keygen -f known_hosts-box -R "pantheon-0"')
    server.accepts.clear()
    with pytest.raises(LoginRefused, match="refused to let ops in"), open_tunnel(host, "comfy"):
        pass
    known.write_text(f"[127.0.0.1]:{server.port} {key_of(ed25519_key())}\n")
    with pytest.raises(NotTrusted, match="host key has changed") as caught, open_tunnel(host, "comfy"):
        pass
    assert caught.value.next_commands == ("invoke trust --host box --replace",)


def test_an_unknown_key_opens_nothing(box: Host, known: Path) -> None:
    known.write_text("")
    with pytest.raises(NotTrusted, match="its host key is unknown"), open_tunnel(box, "comfy"):
        pass


def test_without_openssh(box: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotReached, match="ssh is not installed here"), open_tunnel(box, "comfy"):
        pass


def test_ctrl_c_leaves_nothing(box: Host) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_tunnel(box, "comfy") as tunnel:
        raise KeyboardInterrupt
    assert tunnel.process.poll() is not None
    assert time.monotonic() - began < 5
