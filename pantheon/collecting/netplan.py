"""netplan's YAML, as much of it as says where an interface has its address from. The host need not have a parser of
YAML, and of what this one does not understand it says nothing."""

from __future__ import annotations

import re

from pantheon.looks.text import Json, Object

KINDS = ("ethernets", "wifis", "bonds", "bridges", "vlans", "modems", "tunnels", "dummy-devices", "vrfs")
LINE = re.compile(
    r"""^(?P<pad>\s*)(?P<dash>-\s+)?(?:(?P<key>"[^"]*"|'[^']*'|[^\s:#"'-][^:#]*?|[\w.-]+)\s*:(?=\s|$))?
                      \s*(?P<value>.*?)\s*$""",
    re.VERBOSE,
)


def interfaces(text: str) -> list[Object]:
    """{names, macs, dhcp, addresses} for each interface of a file."""
    tree = parse(text)
    network = tree.get("network")
    out: list[Object] = []
    network = network if isinstance(network, dict) else {}
    for kind in KINDS:
        table = network.get(kind)
        for name, about in table.items() if isinstance(table, dict) else ():
            if isinstance(about, dict):
                out.append(interface(str(name), about))
    return out


def interface(name: str, about: Object) -> Object:
    match = about.get("match")
    match = match if isinstance(match, dict) else {}
    names = {name} if not match else {str(one) for one in (match.get("name"), about.get("set-name")) if one}
    mac = str(match.get("macaddress") or "").lower()
    listed = about.get("addresses")
    found = {str(one) for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
    dhcp = str(about.get("dhcp4", "")).lower() in ("true", "yes", "on")
    return {"names": names, "macs": {mac} if mac else set(), "dhcp": dhcp, "addresses": found}


def parse(text: str) -> Object:
    """Maps, lists and plain scalars by their indentation; {} where there is nothing."""
    rows = []
    for line in text.splitlines()[:5000]:
        bare = strip_comment(line)
        if bare.strip() and not bare.startswith("---"):
            rows.append(bare.replace("\t", "    "))
    tree, _ = block(rows, 0, -1, 0)
    return tree if isinstance(tree, dict) else {}


def strip_comment(line: str) -> str:
    return re.sub(r"""^((?:[^"'#]|"[^"]*"|'[^']*')*?)(?:(?<=\s)|^)#.*$""", r"\1", line).rstrip()


def block(rows: list[str], at: int, above: int, depth: int) -> tuple[Json, int]:
    """What stands deeper than `above` from row `at` on, and the row behind it."""
    table: Object = {}
    items: list[Json] = []
    indent = None
    while at < len(rows) and depth < 30:
        found = LINE.match(rows[at])
        pad = len(rows[at]) - len(rows[at].lstrip())
        if found is None or pad <= above or (indent is not None and pad < indent):
            break
        indent = pad if indent is None else indent
        dash, key, value = found["dash"], found["key"], found["value"]
        if rows[at].lstrip() == "-":
            dash, key, value = "- ", None, ""
        if items and pad == indent and dash is None:
            break  # the list stood as deep as the key that it belongs to
        at += 1
        if items and pad > indent:
            continue  # the rest of an item that is a map
        if dash is not None:
            items.append(scalar(f"{key}: {value}" if key else value))
            continue
        if key is None:
            continue
        if value:
            table[unquoted(key)] = scalar(value)
        else:
            same = at < len(rows) and rows[at].lstrip().startswith("- ") and leading(rows[at]) == pad
            table[unquoted(key)], at = block(rows, at, pad - 1 if same else pad, depth + 1)
    return (items if items and not table else table), at


def leading(row: str) -> int:
    return len(row) - len(row.lstrip())


def scalar(value: str) -> Json:
    if value.startswith("[") and value.endswith("]"):
        return [unquoted(part.strip()) for part in value[1:-1].split(",") if part.strip()]
    if value.startswith("{") and value.endswith("}"):
        pairs = (part.partition(":") for part in value[1:-1].split(","))
        return {unquoted(name.strip()): unquoted(said.strip()) for name, _, said in pairs if name.strip()}
    return unquoted(value)


def unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
