"""One exec that runs our modules on the host, and every way in which it does not come to that."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pantheon.errors import HostError, LinkLost, LookFailed, NotAllowed, PantheonError
from pantheon.inventory import Host
from pantheon.remote import session, shipped, transport
from pantheon.remote.connection import HostConnection
from tests.unit.remote.server import SshServer, write_sudo

Ship = Callable[[str], str]

ECHO = """
import json, pantheon
def main(spec, stdin, stdout):
    print(json.dumps({"frame": "facts", "spec": spec, "sent": sorted(pantheon.sent)}), file=stdout, flush=True)
    return spec.get("status", 0)
"""

# Asks as sudo does: -n never, else our prompt on stderr after a lecture, three tries.
ASKING = """#!/bin/sh
while [ "$1" != -- ]; do
  case "$1" in -n) no=1;; -p) prompt=$2; shift;; esac; shift
done; shift
if [ "$no" ]; then echo "sudo: a password is required" >&2; exit 1; fi
echo "We trust you have received the usual lecture from the local System Administrator." >&2
for try in 1 2 3; do
  printf %s "$prompt" >&2
  read -r word || exit 1
  if [ "$word" = "s3cret pässword" ]; then exec "$@"; fi
  echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2; exit 1
"""


def run(
    connection: HostConnection, main: str, spec: dict[str, Any] | None = None, **options: Any
) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    options = {"deadline_s": 10.0, "on_frame": frames.append, **options}
    frames.append({"frame": "status", "status": session.run_module(connection, main, spec or {}, **options)})
    return frames


def refusal(connection: HostConnection, main: str = "pantheon.errors", **options: Any) -> PantheonError:
    with pytest.raises(PantheonError) as caught:
        run(connection, main, **options)
    assert caught.value.next_commands
    assert str(caught.value).startswith("box (ops@127.0.0.1:")
    return caught.value


# -- it works


def test_one_exec_and_the_status(server: SshServer, connection: HostConnection, ship: Ship) -> None:
    frames = run(connection, ship(ECHO), {"status": 7, "word": "ä $(touch /tmp/no) '"})
    assert frames[0]["spec"]["word"] == "ä $(touch /tmp/no) '"
    assert frames[0]["sent"] == ["shipped"]
    assert frames[-1]["status"] == 7
    assert len(server.commands) == 1
    assert server.commands[0].startswith("env LC_ALL=C sudo -n -- python3 -IBS -c ")
    assert "touch" not in server.commands[0]


def test_root_needs_no_sudo(server: SshServer, host: Host, ship: Ship) -> None:
    with HostConnection.to(Host("box", "127.0.0.1", "root", host.port, host.identity)) as connection:
        assert run(connection, ship(ECHO))[-1]["status"] == 0
    assert server.commands[0].startswith("python3 -IBS")


def test_frames_come_one_by_one_whole_and_in_order(connection: HostConnection, ship: Ship) -> None:
    text = """
import json
def main(spec, stdin, stdout):
    for n in range(200):
        line = json.dumps({"frame": "n", "n": n, "text": "äöü€" * n}, ensure_ascii=False) + "\\n"
        data = line.encode()
        for at in range(0, len(data), 777):
            stdout.buffer.write(data[at : at + 777]); stdout.buffer.flush()
"""
    frames = run(connection, ship(text))[:-1]
    assert [frame["n"] for frame in frames] == list(range(200))
    assert frames[199]["text"] == "äöü€" * 199


def test_a_login_script_that_talks(connection: HostConnection, bin: Path, ship: Ship) -> None:
    write_sudo(bin, '#!/bin/sh\necho Welcome; echo 12; while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    assert run(connection, ship(ECHO))[-1]["status"] == 0


def test_heartbeats_reach_the_host(connection: HostConnection, ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.6)
    text = """
import json
def main(spec, stdin, stdout):
    beats = [stdin.readline() for _ in range(3)]
    print(json.dumps({"frame": "beats", "all": beats == [b"\\n"] * 3}), file=stdout)
"""
    assert run(connection, ship(text), heartbeat=True)[0]["all"] is True


def test_heartbeats_do_not_wait_for_who_watches(
    connection: HostConnection, ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal held with Ctrl-S stops on_frame; the work on the host must not end for it."""
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.6)
    text = """
import json, os, select
def main(spec, stdin, stdout):
    print(json.dumps({"frame": "held"}), file=stdout, flush=True)
    beats = 0
    while beats < 5 and select.select([stdin], [], [], 2)[0] and os.read(0, 1):
        beats += 1
    print(json.dumps({"frame": "beats", "count": beats}), file=stdout)
"""
    frames: list[dict[str, Any]] = []

    def held(frame: dict[str, Any]) -> None:
        frames.append(frame)
        if frame["frame"] == "held":
            time.sleep(3)

    session.run_module(connection, ship(text), {}, deadline_s=20, heartbeat=True, on_frame=held)
    assert frames[-1] == {"frame": "beats", "count": 5}


def test_many_on_one_connection(server: SshServer, connection: HostConnection, ship: Ship) -> None:
    main = ship(ECHO)
    for _ in range(3):
        run(connection, main)
    assert len(server.transports) == 1


def test_modules_that_import_each_other(connection: HostConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "pynvml": b"NAME = 'gpu'",
        "pantheon.probe": b"import pynvml\ndef main(spec, i, o):\n o.write("
        b'\'{"frame":"%s"}\\n\' % pynvml.NAME); return 0',
    }
    real = shipped.source
    monkeypatch.setattr(shipped, "MODULES", {"pantheon.probe": tuple(texts)})
    monkeypatch.setattr(shipped, "source", lambda name: texts.get(name) or real(name))
    shipped.digest.cache_clear()
    assert run(connection, "pantheon.probe")[0] == {"frame": "gpu"}
    shipped.digest.cache_clear()


# -- sudo


def asking(host: Host, bin: Path, *answers: str) -> tuple[HostConnection, list[str]]:
    write_sudo(bin, ASKING)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return answers[len(asked) - 1]

    return HostConnection.to(host, ask_password=ask), asked


def test_the_password_is_asked_once_and_never_on_the_command_line(
    server: SshServer, host: Host, bin: Path, ship: Ship
) -> None:
    connection, asked = asking(host, bin, "s3cret pässword")
    with connection:
        main = ship(ECHO)
        assert run(connection, main)[-1]["status"] == 0
        assert run(connection, main)[-1]["status"] == 0
        assert "s3cret" not in repr(connection)
    assert asked == ["sudo password of ops on box: "]
    assert not any("s3cret" in command for command in server.commands)


def test_a_wrong_password_ends_at_the_second_prompt(server: SshServer, host: Host, bin: Path) -> None:
    connection, asked = asking(host, bin, "wrong", "never asked for")
    with connection:
        began = time.monotonic()
        assert "sudo did not accept the password of ops" in str(refusal(connection))
        assert time.monotonic() - began < 2
    assert len(asked) == 1
    assert connection.sudo_password is None


def test_no_password_is_sent_to_a_sudo_that_wants_none(host: Host, ship: Ship) -> None:
    def never(prompt: str) -> str:
        raise AssertionError(prompt)

    with HostConnection.to(host, ask_password=never) as connection:
        assert run(connection, ship(ECHO))[-1]["status"] == 0


def test_the_time_that_a_human_takes_does_not_count(host: Host, bin: Path, ship: Ship) -> None:
    write_sudo(bin, ASKING)

    def slow(_: str) -> str:
        time.sleep(1.2)
        return "s3cret pässword"

    with HostConnection.to(host, ask_password=slow) as connection:
        assert run(connection, ship(ECHO), deadline_s=1)[-1]["status"] == 0


def test_a_password_is_needed(connection: HostConnection, bin: Path) -> None:
    write_sudo(bin, ASKING)
    error = refusal(connection)
    assert isinstance(error, NotAllowed)
    assert "sudo asks for the password of ops" in str(error)
    assert any("--ask-sudo-password" in command for command in error.next_commands)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ops is not in the sudoers file.  This incident will be reported.", "ops may not use sudo there"),
        ("Sorry, user ops is not allowed to execute 'x' as root on box.", "ops may not use sudo there"),
        ("sudo: sorry, you must have a tty to run sudo", "sudo demands a terminal (requiretty)"),
        ("sudo: python3: command not found", "python3 is missing on the host"),
        ("This account is currently not available.", "python3 was not started as root (exit status 1"),
    ],
)
def test_what_sudo_says(connection: HostConnection, bin: Path, text: str, expected: str) -> None:
    write_sudo(bin, f'#!/bin/sh\necho "{text}" >&2; exit 1\n')
    error = refusal(connection)
    assert isinstance(error, NotAllowed)
    assert expected in str(error)
    assert error.details == (text.rstrip(),)


def test_no_sudo(connection: HostConnection, bin: Path) -> None:
    (bin / "sudo").unlink()
    error = refusal(connection)
    assert "sudo is missing on the host" in str(error)
    words = shlex.split(error.next_commands[0])  # ssh joins what this shell has split, and the host's splits it again
    assert shlex.split(words[-1]) == ["su", "-c", "apt-get install -y sudo"]


def test_no_python3(connection: HostConnection, bin: Path) -> None:
    (bin / "python3").unlink()
    error = refusal(connection)
    assert "python3 is missing on the host" in str(error)
    assert "apt-get install -y python3-minimal" in error.next_commands[0]


def test_an_old_python3(connection: HostConnection, bin: Path) -> None:
    (bin / "python3").unlink()
    (bin / "python3").write_text(
        '#!/bin/sh\necho \'{"frame":"start"}\'; echo \'{"frame":"python","version":"3.8.10"}\'\n'
    )
    (bin / "python3").chmod(0o755)
    assert "its python3 is 3.8.10; pantheon needs 3.10 or later" in str(refusal(connection))


def test_another_prompt_than_ours(host: Host, bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A one-time-password module asks in its own words: nothing is sent, and the wait is bounded."""
    monkeypatch.setattr(session, "START_S", 0.3)
    write_sudo(bin, "#!/bin/sh\nprintf 'Token: ' >&2; read -r x; exec sleep 30\n")

    def never(prompt: str) -> str:
        raise AssertionError(prompt)

    with HostConnection.to(host, ask_password=never) as connection:
        error = refusal(connection)
    assert "python3 was not started within" in str(error)
    assert error.details == ("Token:",)


# -- sessions


def test_no_further_session(server: SshServer, connection: HostConnection) -> None:
    server.sessions_left = 0
    error = refusal(connection)
    assert isinstance(error, NotAllowed)
    assert "opens no further session (MaxSessions)" in str(error)


def test_no_exec(server: SshServer, connection: HostConnection) -> None:
    server.executes = False
    assert "the server runs no command for this login" in str(refusal(connection))


def test_another_command_is_forced(connection: HostConnection, bin: Path) -> None:
    write_sudo(bin, "#!/bin/sh\necho 'This host is for backups only.'\n")
    error = refusal(connection)
    assert "ForceCommand" in str(error)
    assert error.details == ("This host is for backups only.",)


# -- while it runs


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise RuntimeError('boom')", "shipped died there: RuntimeError: boom"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "shipped was killed there"),
        ("print('not a frame', file=stdout, flush=True)", "not a frame: 'not a frame'"),
        ("print('[1]', file=stdout, flush=True)", "not a frame: '[1]'"),
        ("import time; time.sleep(30)", "no answer within 1 s"),
    ],
)
def test_a_module_that_misbehaves(connection: HostConnection, ship: Ship, body: str, expected: str) -> None:
    main = ship(f"def main(spec, stdin, stdout):\n    {body}\n")
    error = refusal(connection, main, deadline_s=1)
    assert isinstance(error, LookFailed)
    assert expected in str(error)


def test_a_traceback_is_shown(connection: HostConnection, ship: Ship) -> None:
    error = refusal(connection, ship("def main(*_):\n    raise KeyError('odd')\n"))
    assert any("Traceback" in line for line in error.details)
    assert error.details[-1] == "KeyError: 'odd'"


def test_the_last_lines_are_shown(connection: HostConnection, ship: Ship) -> None:
    text = """
import os, sys
def main(*_):
    for n in range(9000):
        print("line", n, file=sys.stderr)
    os.kill(os.getpid(), 9)
"""
    error = refusal(connection, ship(text))
    assert error.details[-1] == "line 8999"
    assert len(error.details) == 10


def test_a_flood_is_bounded(connection: HostConnection, ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_BYTES", 1 << 20)
    for stream in ("stdout", "sys.stderr"):
        text = f"import sys\ndef main(spec, stdin, stdout):\n while True: {stream}.write('x' * 65536)\n"
        assert "more than 1 MB of output" in str(refusal(connection, ship(text)))


def test_what_comes_after_a_session_was_left_harms_nothing(
    connection: HostConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way when a channel is closed is still fed to it; it must not reach for a pipe that goes away."""
    channel = connection.execute("echo ready; cat")
    assert channel.recv(16) == b"ready\n"
    channel.fileno()
    touched: list[str] = []
    monkeypatch.setattr(channel._pipe, "set", lambda: touched.append("the pipe"))
    transport.close_channel(channel)
    channel.in_buffer.feed(b"late")
    channel.in_stderr_buffer.feed(b"late")
    assert not touched


def test_a_child_that_keeps_stdout_open(connection: HostConnection, ship: Ship) -> None:
    # The test's server, unlike sshd, waits for the end of output: only sshd shows this for real (tests/lab).
    text = "import subprocess\ndef main(*_):\n subprocess.Popen(['sleep', '1'])\n return 4\n"
    assert run(connection, ship(text))[-1]["status"] == 4


def test_a_drop_while_it_runs(server: SshServer, connection: HostConnection, ship: Ship) -> None:
    threading.Timer(0.4, server.drop).start()
    error = refusal(connection, ship("import time\ndef main(*_): time.sleep(20)\n"))
    assert isinstance(error, LinkLost)
    assert isinstance(error, HostError)


def test_a_freeze_while_it_runs(
    server: SshServer, connection: HostConnection, ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BEAT_S", 0.1)
    monkeypatch.setattr(transport, "SILENCE_S", 0.5)

    def freeze() -> None:
        server.frozen = True

    threading.Timer(0.4, freeze).start()
    began = time.monotonic()
    error = refusal(connection, ship("import time\ndef main(*_): time.sleep(20)\n"))
    assert isinstance(error, LinkLost)
    assert time.monotonic() - began < 4


def test_the_callers_own_error_passes_and_closes_the_channel(connection: HostConnection, ship: Ship) -> None:
    def full(_: dict[str, Any]) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(connection, ship(ECHO), on_frame=full)


def test_ctrl_c_closes_the_channel_at_once(server: SshServer, connection: HostConnection, ship: Ship) -> None:
    def interrupt(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    text = """
import sys
def main(spec, stdin, stdout):
    print('{"frame":"x"}', file=stdout, flush=True)
    stdin.read()
    sys.exit(9)
"""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(connection, ship(text), on_frame=interrupt)
    assert time.monotonic() - began < 2
    assert server.children[-1].wait(5) == 9, "the host's side did not see the end of its input"
