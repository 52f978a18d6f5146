"""Docker's packages under their own names, out of the distribution's. Runs in a container of the lab's os image.

usage: python3 -m lab.vendors.docker DEBS OUT

DEBS has the distribution's own engine as it was downloaded; OUT gets Docker's packages.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.vendors.deb import WORK, Package, instead_of, place, run, service

ENGINE = {"docker.io", "docker-cli", "containerd", "runc", "docker-compose", "docker-compose-v2", "docker-buildx"}


@dataclass(frozen=True)
class Original:
    """One of the distribution's packages, unpacked."""

    tree: Path
    version: str
    depends: list[str]

    @property
    def upstream(self) -> str:
        found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", self.version)
        return found[1] if found else self.version


def originals(debs: Path) -> dict[str, Original]:
    def unpacked(deb: Path) -> tuple[str, Original] | None:
        name, version, depends = (run("dpkg-deb", "-f", deb, key).strip() for key in ("Package", "Version", "Depends"))
        if name not in ENGINE:
            return None
        tree = WORK / "original" / name
        tree.mkdir(parents=True)
        run("dpkg-deb", "-x", deb, tree)
        return name, Original(tree, version, [one.strip() for one in depends.split(",") if one.strip()])

    with ThreadPoolExecutor() as pool:
        return dict(filter(None, pool.map(unpacked, sorted(debs.glob("*.deb")))))


def needs(*packages: Original) -> list[str]:
    """What those depend on, but for each other."""
    every = [one for package in packages for one in package.depends]
    return [one for one in dict.fromkeys(every) if re.split(r"[ (:|]", one)[0] not in ENGINE]


def docker_packages(found: Mapping[str, Original], release: Mapping[str, str]) -> list[Package]:
    """With the relations that Docker's own have: its buildx plugin declares none to the distribution's, so that dpkg
    stops where one would overwrite the other."""
    suffix = f"-1~{release['ID']}.{release['VERSION_ID']}~{release['VERSION_CODENAME']}"
    engine, containerd, runc = found["docker.io"], found["containerd"], found["runc"]
    compose = found.get("docker-compose-v2") or found["docker-compose"]
    version = f"5:{engine.upstream}{suffix}"
    units = "docker.socket docker.service"
    daemon = Package(
        "docker-ce",
        version,
        ", ".join([f"containerd.io (>= {containerd.upstream})", "docker-ce-cli", *needs(engine)]),
        instead_of("docker.io"),
        service(units, before="getent group docker >/dev/null || groupadd --system docker"),
    )
    relations = {"Recommends": "docker-buildx-plugin, docker-compose-plugin", **instead_of("docker.io", "docker-cli")}
    client = Package("docker-ce-cli", version, "libc6", relations)
    shim = Package(
        "containerd.io",
        f"{containerd.upstream}{suffix}",
        ", ".join(needs(containerd, runc)),
        {"Provides": "containerd, runc", **instead_of("containerd", "runc")},
        service("containerd.service"),
        texts={"etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n'},
    )
    relations = {"Recommends": "docker-buildx-plugin", **instead_of("docker-compose")}
    plugins = [
        Package("docker-compose-plugin", f"{compose.upstream}{suffix}", "", relations),
        Package("docker-buildx-plugin", f"{found['docker-buildx'].upstream}{suffix}"),
    ]
    for package, sources in zip(
        [daemon, shim, *plugins], [[engine], [containerd, runc], [compose], [found["docker-buildx"]]], strict=True
    ):
        for source in sources:
            shutil.copytree(source.tree, package.tree, symlinks=True, dirs_exist_ok=True, copy_function=os.link)
    if (daemon.tree / "usr/bin/docker").exists():
        place(daemon.tree / "usr/bin/docker", client.tree / "usr/bin/docker")
        (daemon.tree / "usr/bin/docker").unlink()
    else:
        place(found["docker-cli"].tree, client.tree)
    # Ubuntu and Debian have it in sbin (Debian with a link in bin), Docker's package in bin.
    theirs, ours = shim.tree / "usr/sbin/runc", shim.tree / "usr/bin/runc"
    if theirs.is_file() and not theirs.is_symlink():
        ours.unlink(missing_ok=True)
        place(theirs, ours)
        theirs.unlink()
    return [daemon, client, shim, *plugins]


def os_release() -> dict[str, str]:
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def main(debs: Path, out: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda package: package.make(out), docker_packages(originals(debs), os_release())))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
