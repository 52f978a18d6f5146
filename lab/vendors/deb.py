"""Makes Debian packages: control fields, maintainer scripts in debhelper's ways, files. Runs in a container."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

WORK = Path("/var/tmp/pack")  # noqa: S108 - in a container of one program

START = """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
{before}
for unit in {units}; do
    deb-systemd-helper unmask "$unit" >/dev/null || true
    deb-systemd-helper enable "$unit" >/dev/null || true
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    for unit in {units}; do deb-systemd-invoke {action} "$unit" >/dev/null || true; done
fi
"""
STOP = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    for unit in {units}; do deb-systemd-invoke stop "$unit" >/dev/null || true; done
fi
"""
GONE = """#!/bin/sh
set -e
if [ "$1" = remove ] || [ "$1" = purge ]; then
    for unit in {units}; do deb-systemd-helper "$1" "$unit" >/dev/null || true; done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
fi
"""


@dataclass
class Package:
    """One package to make: its control fields, and below `tree` what it installs."""

    name: str
    version: str
    depends: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # path to install -> where it lies
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        return WORK / "trees" / self.name / self.version.replace(":", "%")

    def make(self, pool: Path) -> Path:
        """Write the .deb into a folder and return its path."""
        control = self.tree / "DEBIAN"
        shutil.rmtree(control, ignore_errors=True)
        control.mkdir(parents=True)
        for target, source in self.files.items():
            place(source, self.tree / target)
        for target, text in self.texts.items():
            (self.tree / target).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / target).write_text(text)
        lines = {"Package": self.name, "Version": self.version, "Architecture": "amd64", "Section": "admin"}
        lines |= {"Priority": "optional", "Maintainer": "pantheon lab <lab@invalid>"}
        lines |= {"Depends": self.depends} if self.depends else {}
        lines |= {**self.fields, "Description": f"lab stand-in for {self.name}"}
        (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        for name, text in self.scripts.items():
            (control / name).write_text(text)
            (control / name).chmod(0o755 if name != "triggers" else 0o644)
        configured = [f"/{path.relative_to(self.tree)}" for path in self.tree.glob("etc/**/*") if path.is_file()]
        if configured:
            (control / "conffiles").write_text("".join(f"{path}\n" for path in sorted(configured)))
        pool.mkdir(parents=True, exist_ok=True)
        name = f"{self.name}_{self.version.partition(':')[2] or self.version}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "-b", self.tree, pool / name)
        return pool / name


def run(*argv: object) -> str:
    """What a program said; when it fails, this ends with its words."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def instead_of(*names: str) -> dict[str, str]:
    return {"Conflicts": ", ".join(names), "Replaces": ", ".join(names)}


def service(units: str, *, before: str = "", action: str = "start") -> dict[str, str]:
    return {
        "postinst": START.format(units=units, before=before, action=action),
        "prerm": STOP.format(units=units),
        "postrm": GONE.format(units=units),
    }
