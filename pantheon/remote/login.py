"""Which keys are offered to a server, and the login with them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentSSH

from pantheon.errors import LoginRefused
from pantheon.remote.endpoint import DEFAULT_IDENTITIES, Endpoint
from pantheon.remote.known_hosts import Key
from pantheon.remote.transport import Transport

# sshd hangs up at the sixth refusal (MaxAuthTries), and paramiko then reports a "No existing session".
MOST_KEYS = 6
AGENT_S = 60.0  # an agent may ask its owner before it signs


class Agent(AgentSSH):  # type: ignore[misc]
    """The agent of SSH_AUTH_SOCK or of ssh_config's IdentityAgent. Without one it holds no keys."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if path.startswith("$"):
            path = os.environ.get(path.strip("${}"), "")
        path = (
            str(Path(path).expanduser()) if path not in ("", "SSH_AUTH_SOCK") else os.environ.get("SSH_AUTH_SOCK", "")
        )
        if not path or path == "none":
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(AGENT_S)
        try:
            sock.connect(path)
            self._connect(sock)
        except (OSError, paramiko.SSHException):
            sock.close()  # a variable that outlived its agent
            self._conn = None

    def close(self) -> None:
        self._close()


def log_in(transport: Transport, endpoint: Endpoint) -> None:
    """Offers the keys one after the other until one is accepted: one round trip a key.

    Raises LoginRefused, saying which keys were offered and which could not be; lets errors of a dead link pass."""
    offered: list[str] = []
    notes: list[str] = []
    agent = Agent(endpoint.identity_agent)
    try:
        for key, where in _keys(endpoint, agent, notes):
            if len(offered) == MOST_KEYS:
                notes.append(f"more keys were not tried: a server hangs up after {MOST_KEYS}. Name one: `identity`")
                break
            offered.append(f"offered {key.get_name()} {Key('', _blob(key)).fingerprint} ({where})")
            try:
                more = transport.auth_publickey(endpoint.user, key)
            except paramiko.BadAuthenticationType:
                notes.append("the server takes no keys")
                break
            except paramiko.AuthenticationException:
                if transport.is_active():
                    continue
                notes.append(f"the server hung up after {len(offered)} key{'s' if len(offered) > 1 else ''}")
                break
            except paramiko.SSHException as error:
                if not transport.is_active():
                    raise
                notes.append(f"{where}: {error}")
                continue
            if not more:
                return
            notes.append(f"the key was accepted, but the server also asks for {' and '.join(more)}")
            break
    finally:
        agent.close()
    raise _refused(endpoint, offered, notes, transport)


def _refused(endpoint: Endpoint, offered: list[str], notes: list[str], transport: Transport) -> LoginRefused:
    locked = [note for note in notes if note.endswith(("no ssh-agent holds it", "no ssh-agent holds the private one"))]
    if not offered and locked:
        path = locked[0].partition(" is protected by")[0].partition(" is a public key")[0]
        return LoginRefused(
            f"{endpoint.label}: {locked[0]}",
            details=notes,
            next_commands=[shlex.join(["ssh-add", path.removesuffix(".pub")])],
        )
    what = "there is no key to offer" if not offered else f"the server refused to let {endpoint.user} in"
    if methods := ", ".join(filter(None, transport.login_methods)):
        notes = [*notes, f"the server accepts: {methods}"]
    port = "" if endpoint.port == 22 else f"-p {endpoint.port} "
    identity = f"-i {shlex.quote(str(endpoint.identities[0]))} " if endpoint.identities else ""
    return LoginRefused(
        f"{endpoint.label}: {what}",
        details=[*offered, *notes],
        next_commands=[
            f"ssh-copy-id {identity}{port}{endpoint.user}@{endpoint.hostname}",
            "set `user` or `identity` in hosts.toml",
        ],
    )


def _keys(endpoint: Endpoint, agent: Agent, notes: list[str]) -> Iterator[tuple[Any, str]]:
    """The keys that make sense, the likeliest first; `notes` says which could not be used."""
    held = {_blob(key): key for key in agent.get_keys()}
    done: set[bytes] = set()
    for path in endpoint.identities:
        key, where = _load(path, held, notes)
        if key is not None:
            done.add(_blob(key))
            yield key, where
    if endpoint.identities_only and endpoint.identities:
        return
    for blob, key in held.items() if not endpoint.identities_only else ():
        if blob not in done:
            done.add(blob)
            yield key, f"agent: {key.comment}" if getattr(key, "comment", "") else "agent"
    for path in (Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES) if not endpoint.identities else ():
        key, where = _load(path, held, notes) if path.exists() else (None, "")
        if key is not None and _blob(key) not in done:
            done.add(_blob(key))
            yield key, where


def _load(path: Path, held: dict[bytes, Any], notes: list[str]) -> tuple[Any, str]:
    try:
        return paramiko.PKey.from_path(path), str(path)
    except OSError as error:
        notes.append(f"{path} cannot be read: {error.strerror}")
    except (TypeError, paramiko.PasswordRequiredException):
        blob = public_part(path)
        if blob in held:
            return held[blob], f"{path}, through the agent"
        notes.append(f"{path} is protected by a passphrase and no ssh-agent holds it")
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException) as error:
        blob = public_part(path)
        if blob in held:
            return held[blob], f"{path}, through the agent"
        if _public(path):
            notes.append(f"{path} is a public key, and no ssh-agent holds the private one")
        else:
            notes.append(f"{path} is no key that can be used here: {error}")
    return None, ""


def public_part(path: Path) -> bytes:
    """The public key of a private key file, which OpenSSH leaves readable in it or beside it, or of a public one, which
    names a key that an agent holds; b"" if none."""
    for file in (path, Path(f"{path}.pub")):
        if found := _public(file):
            return found
    with contextlib.suppress(OSError, ValueError, IndexError, binascii.Error):
        body = base64.b64decode("".join(path.read_text().split("-----")[2].split()))
        if body.startswith(b"openssh-key-v1\0"):
            message = paramiko.Message(body[15:])
            for _ in ("cipher", "kdf", "kdf options"):
                message.get_string()
            message.get_int()
            return bytes(message.get_string())
    return b""


def _public(path: Path) -> bytes:
    with contextlib.suppress(OSError, ValueError, IndexError):
        kind, text = path.read_text().split()[:2]
        if kind.startswith(("ssh-", "ecdsa-", "sk-")):
            return base64.b64decode(text, validate=True)
    return b""


def _blob(key: Any) -> bytes:
    return bytes(key.asbytes())
