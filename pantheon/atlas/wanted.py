"""The units that hosts.toml wants: for each mount one that mounts, and one that does so at its first use."""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.inventory import AtlasMount
from pantheon.looks.text import unit_name

PLACE = "/etc/systemd/system"
HEADER = "# Written by pantheon"
LONGEST = 255  # a unit's name; systemd gives longer ones another name
MOUNT_S = 30  # how long mounting may take: the unit's TimeoutSec
# How a server that does not answer is borne. Read-only: an error after half a minute, since nothing can be lost.
# Read-write: `hard`, which asks again until the server is back: with `soft` a write that timed out is lost, and most
# programs do not look. What hangs there can be killed (SIGKILL); the kernel says `not responding` after about a minute.
# One attempt to mount, not two minutes of them.
PATIENCE = {
    "ro": ("soft", "timeo=100", "retrans=2", "retry=0"),
    "rw": ("hard", "timeo=150", "retrans=3", "retry=0"),
}
SAFE = ("nosuid", "nodev", "_netdev")
OPPOSITES = {"hard": "soft", "soft": "hard", "softerr": "hard", "suid": "nosuid", "dev": "nodev"}


@dataclass(frozen=True)
class Unit:
    """A unit that pantheon writes."""

    name: str
    text: str

    @property
    def path(self) -> str:
        return f"{PLACE}/{self.name}"


def options(want: AtlasMount) -> str:
    """All mount options: those of hosts.toml beat ours of the same name or of the opposite sense."""
    given = [option for option in want.options.split(",") if option]
    names = {option.partition("=")[0] for option in given}
    names |= {OPPOSITES[name] for name in names if name in OPPOSITES}
    ours = [option for option in (*PATIENCE[want.mode], *SAFE) if option.partition("=")[0] not in names]
    return ",".join([want.mode, *ours, *given])


def units(want: AtlasMount) -> tuple[Unit, Unit]:
    """Its mount and its automount. Neither is required by anything, and only the automount is part of a boot."""
    about = _escaped(f"Atlas {want.export} at {want.mount} ({want.mode})")
    head = f"{HEADER} from hosts.toml: `invoke atlas` overwrites what is changed here.\n[Unit]\nDescription={about}\n"
    mount = [
        "After=network-online.target nss-lookup.target",
        "Wants=network-online.target",
        # Else some who look while Atlas is down make systemd give the automount up, until somebody starts it again.
        "StartLimitIntervalSec=0",
        "",
        "[Mount]",
        f"What={_escaped(want.export)}",
        f"Where={_escaped(want.mount)}",
        f"Type={want.type}",
        f"Options={options(want)}",
        f"TimeoutSec={MOUNT_S}",
    ]
    # No TimeoutIdleSec: a container that was given the directory would find an empty one when it has been unmounted.
    automount = ["", "[Automount]", f"Where={_escaped(want.mount)}", "DirectoryMode=0755", ""]
    automount += ["[Install]", "WantedBy=remote-fs.target"]
    return (
        Unit(unit_name(want.mount), head + "\n".join(mount) + "\n"),
        Unit(unit_name(want.mount, "automount"), head + "\n".join(automount) + "\n"),
    )


def _escaped(text: str) -> str:
    """A value of a unit's file: % begins a specifier, a backslash at the end would go on with the next line."""
    return text.replace("%", "%%")


def stem(want: AtlasMount | str) -> str:
    path = want if isinstance(want, str) else want.mount
    return unit_name(path).removesuffix(".mount")
