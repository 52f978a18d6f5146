"""The key of a package repository, fetched, compared with the fingerprint that it must have, and only then written.

arguments: vendor; url; path (.gpg: binary, else armored); fingerprint; setting (the key of hosts.toml that has it);
docs (where the vendor tells it); fetch_s. Of several keys in what was fetched only the one that was asked for is
written: apt trusts every key in the file. It is fetched by apt's own program, through the proxy that apt uses.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile

from pantheon.collecting.openpgp import dearmored, keys
from pantheon.mending.commands import run
from pantheon.mending.words import Failed, say

HELPER = "/usr/lib/apt/apt-helper"
MOST_BYTES = 1 << 20
KEPT = ".before-pantheon"


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        key = chosen(fetched(told["url"], told["fetch_s"]), told)
        say(put(told["path"], key))
    except Failed as refused:
        say("\n".join((*refused.args, f"{told['path']} was not written")))
        return 1
    except OSError as error:
        say(f"{told['path']} was not written: {error}")
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
            done = run(argv, deadline_s, os.environ | {"LC_ALL": "C.UTF-8"})
        except subprocess.TimeoutExpired:
            raise Failed(f"{url}: no answer within {deadline_s:.0f} s") from None
        if done.returncode or not os.path.isfile(path):
            said = [
                line.strip() for line in (done.stdout + done.stderr).splitlines() if re.match(r"\s*(E:|Err:)", line)
            ]
            raise Failed(f"{url} could not be had", *said[-4:])
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise Failed(f"{url}: larger than any key")
        return data


def chosen(data: bytes, told: dict[str, str]) -> bytes:
    """The packets of the key that has the fingerprint. Raises Failed."""
    try:
        found = keys(dearmored(data))
    except (ValueError, IndexError) as error:
        raise Failed(f"{told['url']} gave no OpenPGP key: {error}") from None
    if not found:
        raise Failed(f"{told['url']} gave no OpenPGP key")
    wanted = told["fingerprint"]
    mine = [packets for name, _, packets in found if name == wanted]
    if mine:
        others = [name for name, _, _ in found if name != wanted]
        if others:
            say(f"left out: {', '.join(others)}, which {told['url']} has as well")
        return mine[0]
    lines = [f"{told['vendor']}'s key has another fingerprint than hosts.toml says ({told['setting']})"]
    lines += [f"  hosts.toml: {wanted}", *(f"  fetched:    {name}" for name, _, _ in found[:4])]
    if any(wanted in subkeys for _, subkeys, _ in found):
        lines.append("hosts.toml has that of a subkey; it must be the key's own")
    lines.append(f"nothing was trusted; compare with what the vendor says: {told['docs']}")
    raise Failed(*lines)


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


if __name__ == "__main__":
    sys.exit(main())
