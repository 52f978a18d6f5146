"""An SSH server inside the test: it can show any key, refuse, freeze, drop, and runs commands with `sh -c` in a PATH
that holds only what a test puts there."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from paramiko.packet import Packetizer

from pantheon.remote.known_hosts import Key


def ed25519_text(passphrase: str = "") -> str:
    """A new private key in OpenSSH's own form."""
    lock = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, lock)
    return ed25519.Ed25519PrivateKey.generate().private_bytes(*encoding).decode()


def ed25519_key() -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(ed25519_text()))


def key_of(key: paramiko.PKey) -> Key:
    return Key(key.get_name(), key.asbytes())


def write_sudo(folder: Path, text: str) -> None:
    (folder / "sudo").write_text(text)
    (folder / "sudo").chmod(0o755)


HOST_KEY = ed25519_key()
LOGIN_TEXT = ed25519_text()
LOGIN_KEY = paramiko.Ed25519Key.from_private_key(io.StringIO(LOGIN_TEXT))


class Gated(Packetizer):  # type: ignore[misc]
    """Reads nothing while the server is frozen."""

    def __init__(self, server: SshServer, sock: Any) -> None:
        super().__init__(sock)
        self.server = server

    def read_message(self) -> Any:
        message = super().read_message()
        while self.server.frozen:
            time.sleep(0.01)
        return message


class SshServer(paramiko.ServerInterface):  # type: ignore[misc]
    """`accepts` are the public keys that may log in. `bin` is the PATH of commands. Counts what came in."""

    def __init__(self, *host_keys: paramiko.PKey, accepts: list[paramiko.PKey], bin: Path) -> None:
        self.host_keys, self.bin = host_keys, bin
        self.accepts = [key.asbytes() for key in accepts]
        self.sessions_left, self.forwards, self.executes, self.tries_left = 10, True, True, 6
        self.offered: list[bytes] = []
        self.commands: list[str] = []
        self.frozen = False
        self.transports: list[paramiko.Transport] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                transport = paramiko.Transport(sock, packetizer_class=functools.partial(Gated, self))
                for key in self.host_keys:
                    transport.add_server_key(key)
                self.transports.append(transport)
                with contextlib.suppress(Exception):
                    transport.start_server(server=self, event=threading.Event())

    def drop(self) -> None:
        """The cable, cut: all connections end without a word."""
        for transport in self.transports:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
            transport.close()

    def close(self) -> None:
        self.frozen = False
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop()
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        for thread in self.threads:
            thread.join(5)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.offered.append(key.asbytes())
        if key.asbytes() in self.accepts:
            return int(paramiko.AUTH_SUCCESSFUL)
        self.tries_left -= 1
        if not self.tries_left:
            self.drop()
        return int(paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.sessions_left -= 1
        return int(paramiko.OPEN_SUCCEEDED if self.sessions_left >= 0 else 2)

    def check_channel_direct_tcpip_request(self, chanid: int, origin: Any, destination: tuple[str, int]) -> int:
        if not self.forwards:
            return 1
        try:
            far = socket.create_connection(destination, timeout=5)
        except OSError:
            return 2
        threading.Thread(target=self._forward, args=(chanid, far), daemon=True).start()
        return int(paramiko.OPEN_SUCCEEDED)

    def _forward(self, chanid: int, far: socket.socket) -> None:
        far.settimeout(None)
        channel = None
        while channel is None:
            time.sleep(0.003)
            channel = next((c for t in reversed(self.transports) if (c := t._channels.get(chanid)) is not None), None)

        def pump(source: Any, sink: Any) -> None:
            with contextlib.suppress(OSError, EOFError):
                while data := source.recv(1 << 15):
                    sink.sendall(data)
            with contextlib.suppress(OSError, EOFError):
                sink.shutdown(socket.SHUT_WR)

        threading.Thread(target=pump, args=(channel, far), daemon=True).start()
        pump(far, channel)
        with contextlib.suppress(OSError, EOFError):
            channel.close()
        far.close()

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.commands.append(command.decode())
        if self.executes:
            self.threads.append(threading.Thread(target=self._execute, args=(channel, command.decode()), daemon=True))
            self.threads[-1].start()
        return self.executes

    def _execute(self, channel: paramiko.Channel, command: str) -> None:
        time.sleep(0.003)  # or the answer to the exec races the close
        pipes: dict[str, Any] = {
            "start_new_session": True,
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        env = {"PATH": str(self.bin), "HOME": os.environ["HOME"]}
        child = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}" if command.startswith(("env ", "python3 ")) else command],
            env=env,
            **pipes,
        )
        self.children.append(child)
        assert child.stdin and child.stdout and child.stderr  # noqa: PT018 - for the types
        stdin, stdout, stderr = child.stdin, child.stdout, child.stderr

        def feed() -> None:
            with contextlib.suppress(OSError, EOFError):
                while data := channel.recv(1 << 15):
                    stdin.write(data)
                    stdin.flush()
            with contextlib.suppress(OSError):
                stdin.close()

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()

        def drain(source: Any, send: Any) -> None:
            with contextlib.suppress(OSError, EOFError):
                while data := source.read1(1 << 15):
                    send(data)

        errors = threading.Thread(target=drain, args=(stderr, channel.sendall_stderr), daemon=True)
        errors.start()
        drain(stdout, channel.sendall)
        errors.join()
        status = child.wait()
        with contextlib.suppress(OSError, EOFError):
            if status >= 0:
                channel.send_exit_status(status)
            channel.close()
        feeder.join(5)
        stdout.close()
        stderr.close()
