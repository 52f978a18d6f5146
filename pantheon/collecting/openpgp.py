"""Keys in a file, armored or not, without gpg, which writes into a home directory even to read (RFC 9580).

Goes with the programs that mend as well, and so needs nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import re


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
