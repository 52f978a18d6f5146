"""Makes the package repositories of a bare lab host, in two steps that are each cached: fetch (network), pack."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.gpu import build as gpu
from lab.outer import LabError, Say, docker, explain

HERE = Path(__file__).resolve().parent
OTHER_DRIVER = "595.45.04"
LABEL = "pantheon.lab.key"
# What makes Docker's packages, and what makes and signs the rest: they run in a container, as modules of `lab`.
REPACK = (HERE / "deb.py", HERE / "docker.py")
PACK = (*REPACK, HERE / "pack.py")
STEP_S = 600
# The distribution's engine with what it needs that the os image does not have.
FETCH = """set -e; . /etc/os-release
case "$ID" in
  ubuntu) engine="docker.io docker-compose-v2 docker-buildx" ;;
  *)      engine="docker.io docker-cli docker-compose docker-buildx" ;;
esac
apt-get update -qq
apt-get install -y -qq --no-install-recommends --download-only $engine
mkdir /out; cp /var/cache/apt/archives/*.deb /out/
"""


@dataclass(frozen=True)
class Packed:
    """The repositories as a tar file, and the fingerprints of the keys that sign them."""

    repositories: Path
    keys: dict[str, str]

    def labels(self) -> dict[str, str]:
        """For the image, so that a lab knows its own keys."""
        return {f"{LABEL}.{name}": fingerprint for name, fingerprint in self.keys.items()}


def ensure(os_image: str, say: Say) -> Packed:
    """The repositories, made if the cache has none. Raises LabError."""
    fetched = cache.digest(os_image, FETCH)
    packed = cache.digest(fetched, cache.digest_files([*PACK, HERE.parent / "gpu"]), OTHER_DRIVER)

    def fetch(target: Path) -> None:
        say("fetching the distribution's engine as packages")
        in_container(os_image, ["sh", "-c", FETCH], {}, target)

    def pack(target: Path) -> None:
        debs = cache.file("debs", fetched, ".tar", fetch)
        say("packing and signing the vendors' repositories")
        with tempfile.TemporaryDirectory(prefix="pantheon-lab-") as folder:
            source = Path(folder)
            source.chmod(0o755)
            for version in (gpu.VERSION, OTHER_DRIVER):
                try:
                    gpu.build(source / "gpu" / version, os_image, version)
                except subprocess.CalledProcessError as error:
                    raise LabError(f"the stand-in GPU could not be compiled: {error.stderr}") from None
            with tarfile.open(debs) as members:
                members.extractall(source / "debs", filter="data")
            modules = source / "lab/vendors"
            modules.mkdir(parents=True)
            for module in PACK:
                (modules / module.name).write_bytes(module.read_bytes())
            argv = ["env", "PYTHONPATH=/src", "python3", "-m", "lab.vendors.pack", "/src/debs", "/src/gpu", "/out"]
            in_container(os_image, argv, {"/src": source}, target)

    repositories = cache.file("vendors", packed, ".tar", pack)
    with tarfile.open(repositories) as members:
        file = members.extractfile("./keys.json")
        assert file is not None
        return Packed(repositories, json.load(file))


def in_container(image: str, argv: list[str], sources: dict[str, Path], target: Path) -> None:
    """Run a command in a container of `image` and write its /out as a tar file, its members named from './'.

    Through `docker cp`, not bind mounts: an engine in a virtual machine does not see the workstation's folders.
    """
    create = ["create", "--env", "DEBIAN_FRONTEND=noninteractive", "--label", f"{cache.IMAGE_LABEL}=work", image, *argv]
    container = docker(*create).stdout.decode().strip()
    try:
        for inside, source in sources.items():
            docker("cp", str(source), f"{container}:{inside}", timeout=STEP_S)
        done = docker("start", "--attach", container, timeout=STEP_S, check=False)
        if done.returncode != 0:
            raise LabError(f"a package repository could not be made. {explain(['start', '--attach', container], done)}")
        with tempfile.TemporaryDirectory(prefix="pantheon-lab-") as folder:
            docker("cp", f"{container}:/out/.", folder, timeout=STEP_S)
            with tarfile.open(target, "w") as out:
                out.add(folder, ".", filter=owned_by_root)
    finally:
        docker("rm", "-f", container, check=False)


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() else 0o644
    return member
