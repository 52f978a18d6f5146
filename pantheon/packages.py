"""What a host's packages are, typed: what dpkg has, who is changing it now, where apt gets packages from and whose keys
it trusts for that. The host-side half is pantheon/collecting/apt.py; gathered for the commands that install or audit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.facts import Maybe

# States of a package in which dpkg stopped before it was done with it.
HALF_WAY = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")


def upstream(version: str) -> str:
    """The program's own version in a package's: 590.48.01 of 590.48.01-0ubuntu0.24.04.1, 29.1.3 of 5:29.1.3-1."""
    return version.rpartition(":")[2].partition("-")[0]


@dataclass(frozen=True)
class Package:
    """A package that dpkg has. `status`: installed, or one of HALF_WAY; `held`: it is kept from being upgraded."""

    version: str
    status: str
    held: bool = False


@dataclass(frozen=True)
class Source:
    """An entry of apt's sources. `signed_by` is what its Signed-By says: paths of key files or fingerprints, "embedded"
    for a key within the entry, "" for none (then any key that apt trusts will do)."""

    path: str
    line: int
    types: tuple[str, ...]  # deb, deb-src
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    enabled: bool = True


@dataclass(frozen=True)
class Key:
    """A file of keys: the fingerprints of the keys in it (not of their subkeys), upper case, without spaces. `reason`
    says why there are none."""

    fingerprints: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class DaemonJson:
    """/etc/docker/daemon.json: its text without the passwords of its proxies, and the SHA-256 of the file as it is.
    `odd` is why it is not rewritten, though dockerd may take it: it is a link, or in another encoding."""

    text: str
    sha256: str
    odd: str = ""


@dataclass(frozen=True)
class Packages:
    """`installed` has those that concern the stack (collecting/apt.py, LIKE), by name. `broken` are all packages that
    dpkg left half-way; `interrupted`: dpkg itself was ended in the middle of writing. Both are usual while `holder`
    works. `files` are apt's source files, with their SHA-256; `keys` those named by a source, or asked for."""

    installed: dict[str, Package]
    arch: str  # as dpkg names it: amd64
    codename: str  # noble; "" where os-release has none
    broken: tuple[str, ...] = ()
    interrupted: bool = False
    holder: Maybe[str] = None  # "unattended-upgrade (pid 812, since 05:10:11 UTC)"; None: nobody has a lock of apt's
    sources: tuple[Source, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    snap: Maybe[str] = None  # version of the Docker that came as a snap
    daemon_json: Maybe[DaemonJson] = None
