"""Words and numbers as an operator reads them. No terminal here: plain strings in, plain strings out."""

from __future__ import annotations

import json
import re
import shlex

from pantheon.looks.text import ESCAPES

STYLE = {"✓": "green", "✗": "red", "~": "yellow", "+": "green", "-": "red", "!": "yellow", "?": "magenta"}
NAME_WIDTH = 10

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_TO_HOST = re.compile(r"\binvoke (?!tunnel\.)[a-z][a-z.-]*(?: [\w./:\[\]=-]+){0,4}? --host [\w.-]*\w")


def clean(text: str) -> str:
    """What comes from a host is hostile text: no control or direction sequence of it reaches the terminal."""
    return _CONTROLS.sub("", ESCAPES.sub("", text))


def typed(text: str, hosts_file: str) -> str:
    """A text that names commands to type, made to reach the same host: with the --hosts-file that was given, since
    the project's own hosts.toml may know another host by the same name."""
    if not hosts_file:
        return text
    return _TO_HOST.sub(lambda found: f"{found[0]} --hosts-file {shlex.quote(hosts_file)}", text)


def seconds(took_s: float) -> str:
    """0.6 s, 14:02 (minutes and seconds), 1:02:03."""
    if took_s < 60:
        return f"{took_s:.1f} s"
    minutes, rest = divmod(int(took_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def clock(elapsed_s: float) -> str:
    """Always minutes and seconds: 00:07."""
    return f"{int(elapsed_s) // 60:02}:{int(elapsed_s) % 60:02}"


def lasted(took_s: float) -> str:
    """Roughly, in words: 12 s, 4 min, 2 h 14 min, 3 d 4 h."""
    minutes, rest = divmod(int(max(0.0, took_s)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    for parts in (((days, "d"), (hours, "h")), ((hours, "h"), (minutes, "min")), ((minutes, "min"),)):
        if parts[0][0]:
            return " ".join(f"{number} {unit}" for number, unit in parts if number)
    return f"{rest} s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Pull:
    """Compose's JSON progress, summed over the layers of a pull."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def line(self, line: str) -> str:
        """The line in words; "" when it says nothing new. Lines that are not Compose's progress pass as they are."""
        if not line.startswith("{"):
            return clean(line)
        try:
            event = json.loads(line)
        except ValueError:
            return clean(line)
        if event.get("error") or event.get("message"):
            return clean(str(event.get("message") or event.get("error")))
        status = str(event.get("text") or event.get("status") or "")
        if event.get("total"):
            name = f"{event.get('parent_id')}/{event.get('id')}"
            self._layers[name] = (int(event.get("current") or 0), int(event["total"]))
            done, total = (sum(part) for part in zip(*self._layers.values(), strict=True))
            return f"{status} {_size(done)}/{_size(total)}"
        return clean(f"{event.get('id', '')} {status}".strip())


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
