"""Who has the number that ComfyUI's files belong to, and who is root by another name."""

from __future__ import annotations

from pantheon.looks.files import read_text
from pantheon.looks.text import Json, Object, Unread, plain

COMFY = "1024"


def accounts(spec: Object, root: str) -> Json:
    """evidence.Evidence.accounts. The files alone are read, since a name service may hang."""
    del spec
    people, groups = read_text(f"{root}/etc/passwd", 4 << 20), read_text(f"{root}/etc/group", 4 << 20)
    if people is None or groups is None:
        raise Unread("/etc/passwd or /etc/group is not there")
    out: list[Object] = []
    for row in (line.split(":") for line in people.splitlines()):
        if len(row) > 6 and (row[2] == COMFY or (row[2] == "0" and row[0] != "root")):
            out.append({"name": plain(row[0]), "number": int(row[2]), "shell": plain(row[6]), "group": False})
    for row in (line.split(":") for line in groups.splitlines()):
        if len(row) > 2 and row[2] == COMFY:
            out.append({"name": plain(row[0]), "number": int(row[2]), "shell": "", "group": True})
    return out
