"""What sshd says of this very login: its settings, and which lines forbid a forward (DOMAIN.md, Host)."""

from __future__ import annotations

import glob
import os
import re

from pantheon.looks import work
from pantheon.looks.files import Ground, read_bytes, read_text, which
from pantheon.looks.text import Json, Object, Unread, plain, shown, why

CONFIG = "/etc/ssh/sshd_config"
KEYWORDS = ("allowtcpforwarding", "disableforwarding", "permitopen")
# Options in front of a key in authorized_keys, whole words, outside quotes.
KEY_OPTIONS = re.compile(r'(?i)(?:^|,)(restrict|no-port-forwarding|port-forwarding|permitopen="[^"]*")(?=,|\s|$)')
MOST_FILES, MOST_DEPTH, MOST_LINES = 100, 8, 50
FILE_BYTES = 256 * 1024
SSHD_S = 4.0
NO_PORT = "lport=1"  # for which no Match LocalPort is; without any, sshd -T ends where there is one


def settings(spec: Object, root: str) -> Json:
    """evidence.Sshd; None where there is no sshd of OpenSSH's."""
    del spec
    program = which("sshd")
    if not program:
        return None
    user, place = login(root)
    asked = f"user={user},{place}" if user and place else NO_PORT
    result = work.command([program, "-T", "-C", asked], SSHD_S)
    if result["status"]:
        said = result["output"].strip().splitlines() or [""]
        raise Unread(f"sshd -T: exit {result['status']}: {said[-1]}")
    found: dict[str, str] = {}
    for line in result["output"].splitlines():
        key, _, value = line.strip().partition(" ")
        if key:
            found.setdefault(key.lower(), value)
    return {
        "settings": found,
        "user": user,
        "lines": lines(root, CONFIG)[:MOST_LINES],
        "keys": keys(root, user, found.get("authorizedkeysfile", ".ssh/authorized_keys")),
    }


def login(root: str) -> tuple[str, str]:
    """Who is logged in, and from where as `sshd -T -C` wants it. sudo forgets SSH_CONNECTION, a parent has it still."""
    place = os.environ.get("SSH_CONNECTION", "")
    user = os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or os.environ.get("USER") or ""
    pid = os.getppid()
    for _ in range(16):
        if place or pid < 2 or root:
            break
        place = environment_of(pid).get("SSH_CONNECTION", "")
        pid = parent_of(pid)
    words = place.split()
    if len(words) != 4 or not re.fullmatch(r"[\w.@$-]+", user):
        return user, ""
    return user, f"host={words[0]},addr={words[0]},laddr={words[2]},lport={words[3]}"


def environment_of(pid: int) -> dict[str, str]:
    try:
        text = read_text(f"/proc/{pid}/environ", 256 * 1024) or ""
    except (OSError, Unread):
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def parent_of(pid: int) -> int:
    try:
        found = re.search(r"^PPid:\s+(\d+)", read_text(f"/proc/{pid}/status", 65536) or "", re.MULTILINE)
    except (OSError, Unread):
        return 0
    return int(found[1]) if found else 0


def lines(
    root: str, path: str, depth: int = 0, seen: list[str] | None = None, *, keywords: tuple[str, ...] = KEYWORDS
) -> list[Object]:
    """circumstances.SshdLine for each line with one of the keywords, in the order in which sshd reads them: of two in
    the global part the first wins."""
    seen = [] if seen is None else seen
    if depth > MOST_DEPTH or len(seen) >= MOST_FILES:
        return []
    seen.append(path)
    try:
        text = (read_bytes(root + path, FILE_BYTES) or b"").decode("utf-8", "replace")
    except (OSError, Unread):
        return []
    out: list[Object] = []
    match = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*$", line)
        if not found:
            continue
        keyword, value = found[1].lower(), found[2]
        if keyword == "match":
            match = plain(value)
        elif keyword == "include":
            for pattern in value.replace('"', " ").split():
                whole = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for name in sorted(glob.glob(root + whole)):
                    inside = lines(root, name[len(root) :], depth + 1, seen, keywords=keywords)
                    out += [{**one, "match": one["match"] or match} for one in inside]
        elif keyword in keywords:
            said = plain(re.sub(r"\s+#.*", "", value)).strip('"')
            out.append({"path": shown(path), "line": number, "keyword": keyword, "value": said, "match": match})
    return out


def keys(root: str, user: str, patterns: str) -> list[str]:
    """Options of the user's keys that bear on forwarding, as `FILE:LINE: options`; no key is shown."""
    home = home_of(root, user)
    if not home or patterns == "none":
        return []
    out = []
    ground = Ground(root)
    for pattern in patterns.split()[:10]:
        path = pattern.replace("%h", home).replace("%u", user).replace("%%", "%")
        path = path if path.startswith("/") else f"{home}/{path}"
        try:
            real, found = ground.walk(path, follow_last=True)
            text = (read_bytes(root + real, FILE_BYTES) or b"").decode("utf-8", "replace") if found else ""
        except (OSError, Unread) as error:
            out.append(f"{shown(path)}: not read ({why(error)})")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            options = "" if line.lstrip().startswith("#") else before_the_key(line)
            told = [plain(option[1]) for option in KEY_OPTIONS.finditer(options)]
            if told:
                out.append(f"{shown(path)}:{number}: {', '.join(told)}")
    return out[:MOST_LINES]


def before_the_key(line: str) -> str:
    """The options of a line of authorized_keys: what stands before the key's type."""
    found = re.match(r"\s*((?:[^\s\"]|\"(?:\\.|[^\"\\])*\")+)\s", line)
    first = found[1] if found else ""
    return "" if re.fullmatch(r"(ssh-|ecdsa-|sk-)[\w@.-]+", first) else first


def home_of(root: str, user: str) -> str:
    for line in (read_text(f"{root}/etc/passwd", 4 << 20) or "").splitlines():
        fields = line.split(":")
        if len(fields) > 6 and fields[0] == user:
            return fields[5]
    return ""
