"""The key of a package repository, fetched, compared with the fingerprint that it must have, and only then written.

arguments: vendor; url; path (.gpg: binary, else armored); fingerprint; setting (the key of hosts.toml that has it);
docs (where the vendor tells it); fetch_s. Of several keys in what was fetched only the one that was asked for is
written: apt trusts every key in the file. It is fetched by apt's own program, through the proxy that apt uses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

HELPER = "/usr/lib/apt/apt-helper"
MOST_BYTES = 1 << 20
KEPT = ".before-pantheon"


class Refused(Exception):
    """Lines for people: why nothing was written."""


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        key = chosen(fetched(told["url"], told["fetch_s"]), told)
        print(put(told["path"], key), flush=True)
    except Refused as refused:
        print("\n".join((*refused.args, f"{told['path']} was not written")), flush=True)
        return 1
    except OSError as error:
        print(f"{told['path']} was not written: {error}", flush=True)
        return 1
    return 0


def fetched(url: str, deadline_s: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pantheon-key-") as folder:
        path = f"{folder}/key"
        options = ("Acquire::Retries=1", "Acquire::http::Timeout=20", "Acquire::https::Timeout=20")
        argv = [
            HELPER,
            *(f"-o{option}" for option in (*options, "APT::Sandbox::User=root")),
            "download-file",
            url,
            path,
        ]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=deadline_s,
                check=False,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"{url}: no answer within {deadline_s:.0f} s") from None
        if done.returncode or not os.path.isfile(path):
            said = [
                line.strip() for line in (done.stdout + done.stderr).splitlines() if re.match(r"\s*(E:|Err:)", line)
            ]
            raise Refused(f"{url} could not be had", *said[-4:])
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise Refused(f"{url}: larger than any key")
        return data


def chosen(data: bytes, told: dict[str, str]) -> bytes:
    """The packets of the key that has the fingerprint. Raises Refused."""
    try:
        found = keys(dearmored(data))
    except (ValueError, IndexError) as error:
        raise Refused(f"{told['url']} gave no OpenPGP key: {error}") from None
    if not found:
        raise Refused(f"{told['url']} gave no OpenPGP key")
    wanted = told["fingerprint"]
    mine = [packets for name, _, packets in found if name == wanted]
    if mine:
        others = [name for name, _, _ in found if name != wanted]
        if others:
            print(f"left out: {', '.join(others)}, which {told['url']} has as well", flush=True)
        return mine[0]
    lines = [f"{told['vendor']}'s key has another fingerprint than hosts.toml says ({told['setting']})"]
    lines += [f"  hosts.toml: {wanted}", *(f"  fetched:    {name}" for name, _, _ in found[:4])]
    if any(wanted in subkeys for _, subkeys, _ in found):
        lines.append("hosts.toml has that of a subkey; it must be the key's own")
    lines.append(f"nothing was trusted; compare with what the vendor says: {told['docs']}")
    raise Refused(*lines)


def put(path: str, packets: bytes) -> str:
    """What was done, in a line. What was there is kept under another name."""
    data = packets if path.endswith(".gpg") else armored(packets)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    kept = ""
    if os.path.lexists(path):
        with open(path, "rb") as file:
            if file.read(MOST_BYTES) == data:
                os.chmod(path, 0o644)
                return f"{path}: there already"
        kept = path + KEPT
        number = 1
        while os.path.lexists(kept):
            kept, number = f"{path}{KEPT}.~{number}~", number + 1
    handle, beside = tempfile.mkstemp(prefix=".key.", dir=os.path.dirname(path))
    try:
        with open(handle, "wb") as file:
            file.write(data)
            os.fchmod(handle, 0o644)
            file.flush()
            os.fsync(handle)
        if kept:
            os.link(path, kept, follow_symlinks=False)
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return f"{path}: written" + (f"; the one before is kept as {kept}" if kept else "")


def armored(packets: bytes) -> bytes:
    """The text form, which apt knows by the ending .asc."""
    check = 0xB704CE
    for byte in packets:
        check ^= byte << 16
        for _ in range(8):
            check = check << 1 ^ (0x1864CFB if check & 0x800000 else 0)
    text = base64.b64encode(packets).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    lines.append("=" + base64.b64encode((check & 0xFFFFFF).to_bytes(3, "big")).decode())
    begin, end = (f"-----{word} PGP PUBLIC KEY BLOCK-----" for word in ("BEGIN", "END"))
    return ("\n".join((begin, "", *lines, end)) + "\n").encode()


# ---- as in pantheon/collecting/openpgp.py


def dearmored(data: bytes) -> bytes:
    """The packets of a key file. Raises ValueError."""
    if b"-----BEGIN PGP" not in data:
        return data
    found = b""
    block = rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----"
    for text in re.findall(block, data, re.DOTALL):
        lines = re.sub(rb"[ \t\r]", b"", b"\n" + text).partition(b"\n\n")[2].split(b"\n")
        found += base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True)
    return found


def keys(data: bytes) -> list[tuple[str, list[str], bytes]]:
    """Of each key in these packets: its fingerprint, those of its subkeys, and its own packets. A key of a version
    other than 4 has "version N" in place of a fingerprint. Raises ValueError."""
    found: list[tuple[str, list[str], bytes]] = []
    at = 0
    while at < len(data):
        start, head, at = at, data[at], at + 1
        if not head & 0x80:
            raise ValueError("these are no OpenPGP packets")
        first = data[at] if at < len(data) else 0
        if head & 0x40:
            tag = head & 0x3F
            if 224 <= first < 255:
                raise ValueError("a packet without a length")
            wide = 1 if first < 192 else 2 if first < 224 else 5
            size = first if wide == 1 else (first - 192 << 8) + data[at + 1] + 192 if wide == 2 else -1
            size = int.from_bytes(data[at + 1 : at + 5], "big") if size < 0 else size
        else:
            tag, wide = head >> 2 & 0xF, (1, 2, 4, 0)[head & 3]
            size = int.from_bytes(data[at : at + wide], "big") if wide else len(data) - at
        body, at = data[at + wide : at + wide + size], at + wide + size
        if at > len(data) or not wide + len(body):
            raise ValueError("it ends in the middle of a packet")
        if tag in (6, 14):
            digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
            name = digest.hexdigest().upper() if body[:1] == b"\x04" else f"version {body[0] if body else 0}"
            if tag == 6:
                found.append((name, [], b""))
            elif found:
                found[-1][1].append(name)
        if found:
            found[-1] = (*found[-1][:2], found[-1][2] + data[start:at])
    return found


if __name__ == "__main__":
    sys.exit(main())
