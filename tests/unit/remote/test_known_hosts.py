"""known_hosts as data: what the file says, which key the server shows, what is made of it."""

from __future__ import annotations

import base64
import hmac
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pantheon.errors import NotTrusted
from pantheon.remote import known_hosts
from pantheon.remote.known_hosts import Key, State


def key(kind: str, number: int) -> Key:
    """A key's wire form as far as known_hosts is concerned: its type, then anything."""
    return Key(kind, len(kind).to_bytes(4, "big") + kind.encode() + bytes([0, 0, 0, 1, number]))


OLD, NEW = key("ssh-ed25519", 1), key("ssh-ed25519", 2)
ECDSA, RSA = key("ecdsa-sha2-nistp256", 3), key("ssh-rsa", 4)


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), "sha1").digest()
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


@dataclass
class Case:
    """`user` and `project` are the two files' texts; the server shows `shown`."""

    name: str
    user: str = ""
    project: str = ""
    shown: Key = NEW
    state: State = "unknown"
    names: tuple[str, ...] = ("box",)
    types: tuple[str, ...] | None = None


PORT = ("[box]:2222", "box")
CASES = [
    Case("nothing anywhere"),
    Case("known to the project", project=f"box {NEW}", state="known"),
    Case("known to the user", user=f"box {NEW}", state="known"),
    Case("changed", project=f"box {OLD}", state="changed"),
    Case("the user's file wins: it has the old key", user=f"box {OLD}", project=f"box {NEW}", state="changed"),
    Case("the user's file wins: it has the new key", user=f"box {NEW}", project=f"box {OLD}", state="known"),
    Case("each file knows another type", user=f"box {ECDSA}", project=f"box {NEW}", state="known",
         types=("ecdsa-sha2-nistp256", "ssh-ed25519")),
    Case("only another type is known", project=f"box {ECDSA}", state="changed", types=("ecdsa-sha2-nistp256",)),
    Case("two keys of a type, either will do", project=f"box {OLD}\nbox {NEW}", state="known"),
    Case("revoked", user=f"@revoked box {NEW}", state="revoked"),
    Case("revoked in the project's file, known to the user", user=f"box {NEW}", project=f"@revoked * {NEW}",
         state="revoked"),
    Case("another key is revoked", user=f"@revoked * {OLD}", project=f"box {NEW}", state="known"),
    Case("a revoked key of another host", user=f"@revoked other {NEW}", state="unknown"),
    Case("an authority is no key of the host", user=f"@cert-authority * {NEW}", state="unknown"),
    Case("an unknown marker", user=f"@odd box {NEW}", state="unknown"),
    Case("hashed", user=f"{hashed('box')} {NEW}", state="known"),
    Case("hashed, changed", user=f"{hashed('box')} {OLD}", state="changed"),
    Case("hashed with a port", user=f"{hashed('[box]:2222')} {NEW}", names=PORT, state="known"),
    Case("hashed, of another", user=f"{hashed('other')} {NEW}"),
    Case("hashed, broken", user=f"|1|abc {NEW}\n|1|*|* {NEW}"),
    Case("with a port", project=f"[box]:2222 {NEW}", names=PORT, state="known"),
    Case("with another port", project=f"[box]:2223 {NEW}", names=PORT),
    Case("the bare name, an equal key", project=f"box {NEW}", names=PORT, state="known"),
    Case("the bare name, another key: another server", project=f"box {OLD}", names=PORT, state="unknown"),
    Case("revoked under the bare name", project=f"@revoked box {NEW}", names=PORT, state="revoked"),
    Case("several names", project=f"a,box,10.0.0.1 {NEW}", state="known"),
    Case("a pattern", project=f"b?x* {NEW}", state="known"),
    Case("a pattern with an exception", project=f"*,!box {NEW}"),
    Case("brackets are no set of characters", project=f"[box] {OLD}\nb[o]x {OLD}"),
    Case("capitals", project=f"BOX {NEW}", state="known"),
    Case("IPv6", project=f"[::1]:2222 {NEW}", names=("[::1]:2222", "::1"), state="known"),
    Case("CRLF", project=f"# x\r\nbox {NEW}\r\n", state="known"),
    Case("tabs and a comment", project=f"box\t{NEW}  root@box at home", state="known"),
    Case("no newline at the end", project=f"other {OLD}\nbox {NEW}", state="known"),
    Case("garbage before and after", project=f"\x00\x01\n@\nbox\nbox ssh-ed25519\nbox ssh-ed25519 !!!\nbox {NEW}\n{{}}",
         state="known"),
    Case("a type that contradicts its key", project=f"box ssh-rsa {str(NEW).split()[1]}"),
    Case("a commented line", project=f"#box {OLD}\n # box {OLD}"),
    Case("not UTF-8", project=f"caf\udce9 {OLD}\nbox {NEW}", state="known"),
    Case("rsa", project=f"box {RSA}", shown=RSA, state="known", types=("ssh-rsa",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_judgement(case: Case, tmp_path: Path) -> None:
    user, project = tmp_path / "user", tmp_path / "project"
    user.write_bytes(case.user.encode(errors="surrogateescape"))
    project.write_bytes(case.project.encode(errors="surrogateescape"))
    found = known_hosts.lookup(case.names, user_files=[user, tmp_path / "none"], project_file=project)
    assert found.judge(case.shown) == case.state
    assert (case.shown in found.accepted()) == (case.state == "known")
    if case.types is not None:
        assert found.types == case.types


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case.user and case.state in ("known", "unknown") and "bare name" not in case.name
     and "authority" not in case.name],
    ids=lambda case: case.name,
)  # fmt: skip
def test_ssh_keygen_agrees(case: Case, tmp_path: Path) -> None:
    """OpenSSH itself, asked for the same name in the same file, finds an entry where we do."""
    file = tmp_path / "known"
    file.write_bytes(case.project.encode(errors="surrogateescape"))
    done = subprocess.run(["ssh-keygen", "-F", case.names[0], "-f", file], capture_output=True, check=False)
    if "contradicts" in case.name or "garbage" in case.name or not case.project:
        return  # ssh-keygen -F does not look at the key's own type, and gives up on some garbage
    assert bool(done.stdout) == (case.state == "known")


def test_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert known_hosts.read([tmp_path / "empty", tmp_path / "missing", Path(os.devnull)]) == []
    assert known_hosts.read([tmp_path / "empty" / "under"]) == []


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(NotTrusted, match="cannot be read, so no host key can be judged: Is a directory") as caught:
        known_hosts.read([tmp_path])
    assert caught.value.next_commands == (f"ls -l {tmp_path}",)


def test_a_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True)
    kind, text, _ = (tmp_path / "k.pub").read_text().split(" ", 2)
    shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "k.pub"], capture_output=True, text=True, check=True)
    fingerprint = Key(kind, base64.b64decode(text)).fingerprint
    assert shown.stdout.split()[1] == fingerprint
    assert known_hosts.valid_fingerprint(fingerprint)
    assert not known_hosts.valid_fingerprint("MD5:00")


# -- changing a file


def test_add_makes_the_file_and_keeps_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "deep/known_hosts"
    known_hosts.add(file, "[box]:2222", NEW)
    assert file.read_text() == f"[box]:2222 {NEW}\n"
    file.chmod(0o600)
    file.write_bytes(b"caf\xe9 x\r\nlast line without end")
    known_hosts.add(file, "box", NEW)
    known_hosts.add(file, "box", NEW)
    assert file.read_bytes() == b"caf\xe9 x\r\nlast line without end\n" + f"box {NEW}\n".encode()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["known_hosts"]


def test_remove_keeps_the_rest_byte_for_byte(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_bytes(b"# top\r\nbox old\n\n\x85caf\xe9\nbox other\nlast")
    real.chmod(0o640)
    file = tmp_path / "known_hosts"
    file.symlink_to(real)
    known_hosts.remove(file, [2, 5])
    assert file.is_symlink()
    assert real.read_bytes() == b"# top\r\n\n\x85caf\xe9\nlast"
    assert real.stat().st_mode & 0o777 == 0o640
    old = tmp_path / "known_hosts.old"
    assert old.read_bytes() == b"# top\r\nbox old\n\n\x85caf\xe9\nbox other\nlast"
    assert old.stat().st_mode & 0o777 == 0o640
