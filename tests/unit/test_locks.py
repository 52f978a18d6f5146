"""Dependencies are pinned with hashes, and no file says where they come from: each machine has its own sources."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-tools.lock"]
PINNED = re.compile(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")
# Addresses of places that serve packages or images, the paths that mirrors of them usually have, and the options that
# point to one.
HOSTS = r"files\.pythonhosted|pypi\.org/simple|(?:[\w-]+\.)*debian\.org/debian|(?:archive|ports|security)\.ubuntu\.com"
OURS = r"docs\.|download\.docker\.com/"  # documentation, and a vendor whose packages a host is given
SOURCES = re.compile(
    rf"https?://(?:{HOSTS}|registry\.(?:npmjs|yarnpkg)|(?!{OURS})[\w.:@-]+/(?:[\w-]+/)*(?:simple|pypi|debian|ubuntu)/)"
    r"|^\s*--(?:extra-)?index-url|^\s*--find-links",
    re.MULTILINE,
)
EXEMPT = {"tests/unit/test_locks.py"}  # whose work it is to speak of these


def requirements(lock: str) -> dict[str, str]:
    """Name to version; fails on any line that is not a pinned requirement with hashes."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        line = re.sub(r"\s+", " ", line).strip()
        if line and not line.startswith("#"):
            match = PINNED.fullmatch(line)
            assert match, f"{lock}: {line[:80]}"
            found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_with_hashes(lock: str) -> None:
    assert requirements(lock)


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, dev = requirements("requirements.lock"), requirements("requirements-dev.lock")
    for wanted in project["dependencies"]:
        name, _, version = wanted.partition("==")
        assert name in runtime
        assert version in ("", runtime[name])
    assert set(project["optional-dependencies"]["dev"]) <= set(dev)
    # A .venv made for the gate serves the operator as well.
    assert runtime.items() <= dev.items()


def test_fabric_and_invoke_fit() -> None:
    # Fabric 3.2.3 wants Invoke below 3 (FABRIC.md).
    runtime = requirements("requirements.lock")
    assert (runtime["fabric"], runtime["invoke"]) == ("3.2.3", "2.2.1")


def test_no_file_names_a_package_source() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    found: list[str] = []
    for name in listed.split("\0"):
        path = ROOT / name
        if name and name not in EXEMPT and path.is_file() and not path.is_symlink():
            text = path.read_bytes().decode("utf-8", "replace")
            found.extend(f"{name}: {match[0]}" for match in SOURCES.finditer(text))
    assert found == []
