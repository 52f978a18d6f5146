"""known_hosts files as OpenSSH writes them: read, judged, changed. No network, nothing but the standard library.

One rule for two kinds of files: the user's (~/.ssh/known_hosts, then /etc/ssh/ssh_known_hosts) come first and win over
the project's wherever they say something about the host. A revoked key is refused wherever it stands.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pantheon.errors import NotTrusted
from pantheon.remote.endpoint import Endpoint

REVOKED = "do not connect; ask who revoked it, and give the host a new key"

SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}  # how a key of that type may sign, where not by its own name

State = Literal["known", "unknown", "changed", "revoked"]


@dataclass(frozen=True)
class Key:
    """A public key: its type and its wire form."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:...` as ssh-keygen shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def kind(self) -> str:
        """As in the name of sshd's own file, /etc/ssh/ssh_host_KIND_key: ed25519, ecdsa or rsa."""
        return self.type.removeprefix("sk-").removeprefix("ssh-").partition("-")[0].partition("@")[0]

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True)
class Entry:
    """One usable line. `marker` is "", "@revoked" or "@cert-authority"; `names` the first field as it stands."""

    file: Path
    line: int
    marker: str
    names: str
    key: Key

    def about(self, name: str) -> bool:
        """Whether the line speaks of this name (lower case, `[host]:port` for another port than 22)."""
        if self.names.startswith("|1|"):
            return _hashed(self.names, name)
        found = False
        for pattern in self.names.lower().split(","):
            # Only * and ? are special to OpenSSH: fnmatch must not take the brackets of [host]:port for a set.
            if fnmatch.fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
                if pattern.startswith("!"):
                    return False
                found = True
        return found

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.key.type} {self.key.fingerprint}"


def _hashed(field: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in field[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def parse(data: bytes, file: Path) -> list[Entry]:
    """Every line that names a key; comments, garbage and unfinished lines are passed over, as OpenSSH does."""
    entries = []
    for number, line in enumerate(data.split(b"\n"), 1):
        entry = _entry(line.decode("utf-8", "replace"), file, number)
        if entry:
            entries.append(entry)
    return entries


def _entry(line: str, file: Path, number: int) -> Entry | None:
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked", "@cert-authority"):
        return None
    names, kind, text = fields[:3]
    try:
        blob = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    # The blob repeats its type; a line where the two differ holds no key that a server could show.
    if blob[4 : 4 + int.from_bytes(blob[:4], "big")] != kind.encode():
        return None
    return Entry(file, number, marker, names, Key(kind, blob))


def read(files: Iterable[Path]) -> list[Entry]:
    """The entries of all files in order; a file that does not exist holds none.

    Raises NotTrusted for a file that exists and cannot be read: it may be the one that says the key is revoked.
    """
    entries: list[Entry] = []
    for file in files:
        try:
            entries += parse(file.read_bytes(), file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if str(file) == os.devnull:
                continue
            raise NotTrusted(
                f"{file} cannot be read, so no host key can be judged: {error.strerror}",
                next_commands=[shlex.join(["ls", "-l", str(file)])],
            ) from error
    return entries


@dataclass(frozen=True)
class Known:
    """What the files say about one host. `theirs` are the user's entries, `ours` the project's; both hold keys only
    (no marked lines). `near` are the user's and the project's entries for the bare name of a host on another port:
    OpenSSH accepts an equal key there, and so does this, but nothing else follows from them."""

    theirs: tuple[Entry, ...]
    ours: tuple[Entry, ...]
    near: tuple[Entry, ...]
    revoked: tuple[Entry, ...]
    authorities: tuple[Entry, ...]

    @property
    def binding(self) -> tuple[Entry, ...]:
        """Where both kinds of file know the host, the user's alone count for each type that they name."""
        types = {entry.key.type for entry in self.theirs}
        return (*self.theirs, *(entry for entry in self.ours if entry.key.type not in types))

    @property
    def types(self) -> tuple[str, ...]:
        """Key types to ask the server for first, as OpenSSH does: those that can be checked."""
        return tuple(dict.fromkeys(entry.key.type for entry in (*self.binding, *self.near)))

    @property
    def notes(self) -> list[str]:
        """What an operator whose host is unknown should hear besides."""
        return [
            f"{entry.file}:{entry.line} trusts it through a certificate authority, which is not read here"
            for entry in self.authorities
        ]

    def judge(self, key: Key) -> State:
        """A server that shows a type nobody recorded while others are on record counts as changed: it was asked for
        the recorded ones first and does not have them any more."""
        if any(entry.key == key for entry in self.revoked):
            return "revoked"
        if any(entry.key == key for entry in self.binding):
            return "known"
        if self.binding:
            return "changed"
        return "known" if any(entry.key == key for entry in self.near) else "unknown"

    def accepted(self) -> tuple[Key, ...]:
        """The keys that `judge` calls known."""
        keys = dict.fromkeys(entry.key for entry in (self.binding or self.near))
        return tuple(key for key in keys if self.judge(key) == "known")


def lookup(names: Sequence[str], *, user_files: Sequence[Path], project_file: Path) -> Known:
    """What the files say of a host that goes by these names, the binding name first. Raises NotTrusted (see read)."""
    theirs, ours = read(user_files), read([project_file])

    def about(entries: list[Entry], marker: str, *wanted: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if entry.marker == marker and any(map(entry.about, wanted)))

    both = theirs + ours
    return Known(
        theirs=about(theirs, "", names[0]),
        ours=about(ours, "", names[0]),
        near=about(both, "", *names[1:]),
        revoked=about(both, "@revoked", *names),
        authorities=about(both, "@cert-authority", *names),
    )


def project_file() -> Path:
    """$PANTHEON_KNOWN_HOSTS, or known_hosts at the root of the repository."""
    given = os.environ.get("PANTHEON_KNOWN_HOSTS", "")
    return Path(given).expanduser() if given else Path(__file__).parents[2] / "known_hosts"


def of(endpoint: Endpoint) -> Known:
    """What is known about one endpoint, from all files that count for it. Raises NotTrusted (see read)."""
    files = (*endpoint.user_known_hosts, *endpoint.global_known_hosts)
    return lookup(endpoint.key_names, user_files=files, project_file=project_file())


def refuse(endpoint: Endpoint, known: Known, key: Key) -> None:
    """Raises NotTrusted unless the files know exactly this key for this host."""
    state = known.judge(key)
    shown = f"{key.type} {key.fingerprint}"
    trust = f"invoke trust --host {endpoint.inventory_host or endpoint.name}"
    if state == "known":
        return
    if state == "revoked":
        lines = [f"revoked by {entry.file}:{entry.line}" for entry in known.revoked if entry.key == key]
        raise NotTrusted(
            f"{endpoint.label}: its host key was revoked",
            details=[f"shown now: {shown}", *lines],
            next_commands=[REVOKED],
        )
    if state == "changed":
        old = [
            f"recorded:  {entry.key.type} {entry.key.fingerprint} in {entry.file}:{entry.line}"
            for entry in known.binding
        ]
        raise NotTrusted(
            f"{endpoint.label}: its host key has changed (rebuilt, or somebody in between)",
            details=[f"shown now: {shown}", *old],
            next_commands=[f"{trust} --replace"],
        )
    raise NotTrusted(
        f"{endpoint.label}: its host key is unknown",
        details=[f"shown now: {shown}", *known.notes],
        next_commands=[trust],
    )


def add(file: Path, name: str, key: Key) -> None:
    """Append one entry, unless the file has it. Makes the file (0644) where there is none. Raises OSError."""
    data = file.read_bytes() if file.exists() else b""
    if any(not entry.marker and entry.about(name) and entry.key == key for entry in parse(data, file)):
        return
    ending = b"" if not data or data.endswith(b"\n") else b"\n"
    write(file, data + ending + f"{name} {key}\n".encode(), mode=0o644)


def remove(file: Path, lines: Iterable[int]) -> None:
    """Remove lines (numbered from 1) and leave the file as it was in `FILE.old`, like ssh-keygen -R. All other lines
    keep their bytes and their order, the file its mode. Raises OSError."""
    gone = set(lines)
    data = file.read_bytes()
    write(file.with_name(file.name + ".old"), data, mode=file.stat().st_mode & 0o7777)
    kept = [line for number, line in enumerate(data.split(b"\n"), 1) if number not in gone]
    write(file, b"\n".join(kept), mode=0o644)


def write(file: Path, data: bytes, *, mode: int) -> None:
    """Whole or not at all: a reader never sees half a file. A symlink is followed, so that dotfiles stay linked."""
    target = file.resolve()
    if target.exists():
        mode = target.stat().st_mode & 0o7777
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def valid_fingerprint(text: str) -> bool:
    """Whether the text has the form of `SHA256:` and 43 characters."""
    return re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}=?", text) is not None
