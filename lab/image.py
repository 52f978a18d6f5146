"""From a base file system to the image that lab hosts start from, in steps that are each cached by what goes in.

- base: what mmdebstrap fetched; a tar file in the cache
- os: os.Dockerfile on the base; an image, saved in the cache as well (apt takes the longest)
- gpu: lab/gpu, compiled; a tar file in the cache
- registry: lab/services, built on the base; a tar file in the cache
- host: Dockerfile, from the os image with gpu and registry; an image on the engine, a second or two to make
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab import base as bases
from lab import cache, registry
from lab.outer import LabError, Say, docker, explain, run

LAB = Path(__file__).resolve().parent
HOST = LAB / "host"
BUILD_S = 900
KEPT_HOSTS = 4


@dataclass(frozen=True)
class Image:
    """The image a lab host starts from."""

    tag: str
    os_id: str
    os_version: str


def ensure(wanted_base: str, say: Say) -> Image:
    """The host image on that base, built as far as the cache does not have it."""
    base = bases.ensure(wanted_base, say)
    tag = host_tag(base)
    if not bases.image_exists(tag):
        with cache.locked("image", say):
            if not bases.image_exists(tag):
                build_host(tag, base, say)
    return Image(tag, base.os_id, base.os_version)


def host_tag(base: bases.Base) -> str:
    """The host image's name. It ends in the sources' digest, so that a name shows whether the sources have moved on."""
    return f"pantheon-lab-host:{base.os_id}-{base.key}-{sources_digest()}"


def sources_digest() -> str:
    return cache.digest_files([HOST, LAB / "gpu", LAB / "services", LAB / "registry.py"])


def is_current(tag: str) -> bool:
    """Whether a host image was made from the sources as they are now."""
    return tag.endswith(f"-{sources_digest()}")


def build_host(tag: str, base: bases.Base, say: Say) -> None:
    os_image = ensure_os(base, say)
    gpu = ensure_gpu(os_image, say)
    images = ensure_registry(base, say)
    say("building the lab host's image")
    with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as context:
        with tarfile.open(fileobj=context, mode="w") as out:
            add_tree(out, HOST / "Dockerfile", "Dockerfile")
            add_tree(out, HOST / "rootfs", "rootfs")
            add_tar(out, gpu, "gpu")
            add_tar(out, images, "registry")
        context.seek(0)
        build(["-t", tag, "--build-arg", f"OS={os_image}", "--label", f"{cache.IMAGE_LABEL}=host", "-"], context)
    # Other clones on this machine may be at other sources, so a few earlier ones stay.
    cache.prune_images(f"pantheon-lab-host:{base.os_id}-*", keep=KEPT_HOSTS, never=[tag])


def ensure_os(base: bases.Base, say: Say) -> str:
    """The image with the packages. It is saved as a file too, since an engine's images are easily lost (a prune)."""
    recipe = HOST / "os.Dockerfile"
    key = cache.digest(base.key, recipe.read_bytes())
    tag = f"pantheon-lab-os:{base.os_id}-{key}"

    def make(target: Path) -> None:
        if not bases.image_exists(tag):
            say(f"installing packages on {base.title} (systemd, sshd, Docker Engine, ..)")
            with recipe.open("rb") as stream:
                label = f"{cache.IMAGE_LABEL}=os"
                build(["-t", tag, "--build-arg", f"BASE={base.image}", "--label", label, "-"], stream)
        docker("save", "-o", str(target), tag, timeout=300)

    saved = cache.file(f"os-{base.os_id}", key, ".tar", make)
    cache.prune_images(f"pantheon-lab-os:{base.os_id}-*", keep=cache.KEPT, never=[tag])
    if not bases.image_exists(tag):
        say("loading the packages' image from the cache")
        docker("load", "-q", "-i", str(saved), timeout=300)
    return tag


def ensure_gpu(os_image: str, say: Say) -> Path:
    """A tar file with the stand-in driver and toolkit, as they lie on the host."""
    from lab.gpu import build as gpu

    key = cache.digest(os_image, cache.digest_files([LAB / "gpu"]))

    def make(target: Path) -> None:
        say("compiling the stand-in GPU driver")
        with tempfile.TemporaryDirectory(prefix="pantheon-lab-") as folder:
            try:
                gpu.build(Path(folder), os_image)
            except subprocess.CalledProcessError as error:
                raise LabError(f"the stand-in GPU could not be compiled: {build_words(error)}") from None
            with tarfile.open(target, "w") as out:
                out.add(folder, ".", filter=owned_by_root)

    return cache.file("gpu", key, ".tar", make)


def ensure_registry(base: bases.Base, say: Say) -> Path:
    """A tar file with the registry's storage: the three services' images under their real names."""
    from lab.services import build as services

    key = cache.digest(base.key, cache.digest_files([LAB / "services", LAB / "registry.py"]))

    def make(target: Path) -> None:
        say("building the stand-in service images")
        try:
            made = services.build(base.image)
            registry.write(target, made)
            cache.prune_images("pantheon-lab/*", keep=0, never=made.values())
        except subprocess.CalledProcessError as error:
            raise LabError(f"a stand-in service image could not be built: {build_words(error)}") from None

    return cache.file("registry", key, ".tar", make)


def build(options: list[str], context: IO[bytes]) -> None:
    """Run `docker build` with the context (a tar or a lone Dockerfile) on stdin. Its output is shown if it fails."""
    argv = ["docker", "build", *options]
    done = run(argv, timeout=BUILD_S, stdin=context)
    if done.returncode != 0:
        raise LabError(f"an image of the lab could not be built. {explain(argv[1:], done)}")


def add_tree(out: tarfile.TarFile, source: Path, name: str) -> None:
    """Add source files with modes of our own, so that a clone's umask makes no difference."""
    for path in cache.source_files(source):
        below = path.relative_to(source) if path != source else Path()
        info = tarfile.TarInfo(str(Path(name) / below))
        data = path.read_bytes()
        info.size = len(data)
        info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
        out.addfile(info, io.BytesIO(data))


def add_tar(out: tarfile.TarFile, source: Path, name: str) -> None:
    """Add the members of a tar file below a folder (which is there even when the file is empty)."""
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    out.addfile(folder)
    with tarfile.open(source) as members:
        for member in members:
            content = members.extractfile(member) if member.isreg() else None
            member.name = f"{name}/{member.name.removeprefix('./')}"
            member.pax_headers = {}  # they hold the former name of a member with a long one
            out.addfile(member, content)


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    if member.isdir():
        member.mode = 0o755
    return member


def build_words(error: subprocess.CalledProcessError) -> str:
    """The end of what a builder said, on one line; a full disk is told as such."""
    said = error.stderr if isinstance(error.stderr, str) else (error.stderr or b"").decode(errors="replace")
    return explain(error.cmd[1:], subprocess.CompletedProcess(error.cmd, error.returncode, b"", said.encode()))
