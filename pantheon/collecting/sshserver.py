"""sshd as a whole, not for this login alone: what holds for everybody, for root, and what Match blocks say besides."""

from __future__ import annotations

from pantheon.collecting import sshd
from pantheon.looks import work
from pantheon.looks.files import which
from pantheon.looks.text import Json, Object, Unread, plain

KEYWORDS = (
    *("permitrootlogin", "passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication"),
    *("pubkeyauthentication", "authenticationmethods", "permitemptypasswords", "listenaddress", "port"),
    *("allowtcpforwarding", "disableforwarding"),
)


def server(spec: Object, root: str) -> Json:
    """circumstances.SshServer; None where there is no sshd of OpenSSH's."""
    del spec
    program = which("sshd")
    if not program:
        return None
    # laddr and the rest are left out: a Match that names them is shown as a line.
    return {
        "settings": said_by(program, sshd.NO_PORT),
        "root": said_by(program, f"user=root,host=localhost,addr=127.0.0.1,{sshd.NO_PORT}"),
        "lines": sshd.lines(root, sshd.CONFIG, keywords=KEYWORDS)[: sshd.MOST_LINES],
    }


def said_by(program: str, about: str) -> dict[str, str]:
    """What `sshd -T` prints of KEYWORDS; of several lines with one key the first, of ListenAddress all."""
    result = work.command([program, "-T", "-C", about], sshd.SSHD_S)
    if result["status"]:
        said = result["output"].strip().splitlines() or [""]
        raise Unread(f"sshd -T: exit {result['status']}: {said[-1]}")
    found: dict[str, str] = {}
    for line in result["output"].splitlines():
        key, _, value = plain(line).strip().partition(" ")
        key = key.lower()
        if key == "listenaddress" and key in found:
            found[key] += f" {value}"
        elif key in KEYWORDS:
            found.setdefault(key, value)
    return found
