"""From a base file system to the image that lab hosts start from, in steps that are each cached by what goes in.

- base: what mmdebstrap fetched; a tar file in the cache
- os: os.Dockerfile on the base, and engine.Dockerfile on that, with Docker's packages as lab/vendors makes them; two
  images, saved in the cache as well (apt takes the longest)
- gpu: lab/gpu, compiled; a tar file in the cache
- registry: lab/services, built on the base; a tar file in the cache
- vendors: package repositories, packed and signed by lab/vendors; a tar file in the cache. For bare hosts only
- host: host/Dockerfile, from the engine's image with gpu and registry; vendors/Dockerfile, from the os image with
  registry and vendors, for a bare host. An image on the engine, a second or two to make
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab import base as bases
from lab import cache, registry
from lab.outer import LabError, Say, docker, explain, run
from lab.vendors import build as vendors

LAB = Path(__file__).resolve().parent
HOST = LAB / "host"
VENDORS = LAB / "vendors"
READY, BARE = "pantheon-lab-host", "pantheon-lab-bare"
BUILD_S = 900
KEPT_HOSTS = 4


@dataclass(frozen=True)
class Image:
    """The image a lab host starts from."""

    tag: str
    os_id: str
    os_version: str
    bare: bool = False


def ensure(wanted_base: str, say: Say, *, bare: bool = False) -> Image:
    """The host image on that base, ready or bare, built as far as the cache does not have it."""
    base = bases.ensure(wanted_base, say)
    tag = host_tag(base, bare=bare)
    if not bases.image_exists(tag):
        with cache.locked("image", say):
            if not bases.image_exists(tag):
                (build_bare if bare else build_host)(tag, base, say)
    return Image(tag, base.os_id, base.os_version, bare)


def host_tag(base: bases.Base, *, bare: bool = False) -> str:
    """The host image's name. It ends in the sources' digest, so that a name shows whether the sources have moved on."""
    return f"{BARE if bare else READY}:{base.os_id}-{base.key}-{sources_digest(bare=bare)}"


def sources_digest(*, bare: bool = False) -> str:
    further = [VENDORS] if bare else vendors.REPACK
    return cache.digest_files([HOST, LAB / "gpu", LAB / "services", LAB / "registry.py", *further])


def is_current(tag: str) -> bool:
    """Whether a host image was made from the sources as they are now."""
    return tag.endswith(f"-{sources_digest(bare=tag.startswith(BARE))}")


def build_host(tag: str, base: bases.Base, say: Say) -> None:
    system = ensure_os(base, say)
    gpu = ensure_gpu(system.plain, say)
    images = ensure_registry(base, say)
    say("building the lab host's image")
    with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as context:
        with tarfile.open(fileobj=context, mode="w") as out:
            add_tree(out, HOST / "Dockerfile", "Dockerfile")
            add_tree(out, HOST / "rootfs", "rootfs")
            add_tree(out, HOST / "steps", "steps")
            add_tar(out, gpu, "gpu")
            add_tar(out, images, "registry")
        finish(context, tag, system.engine, base)


def build_bare(tag: str, base: bases.Base, say: Say) -> None:
    system = ensure_os(base, say)
    images = ensure_registry(base, say)
    packed = vendors.ensure(system.plain, say)
    say("building the bare lab host's image")
    with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as context:
        with tarfile.open(fileobj=context, mode="w") as out:
            add_tree(out, VENDORS / "Dockerfile", "Dockerfile")
            add_tree(out, HOST / "rootfs", "rootfs")
            add_tree(out, HOST / "steps", "steps")
            add_tree(out, VENDORS / "rootfs", "bare")
            # The card is there, and what its driver does to the kernel's file systems once it is loaded.
            add_tree(out, LAB / "gpu/toolkit/plant.sh", "bare/usr/lib/lab/gpu/plant.sh", mode=0o755)
            add_tar(out, images, "registry")
            add_tar(out, packed.repositories, "vendors")
        labels = [f"--label={name}={value}" for name, value in packed.labels().items()]
        finish(context, tag, system.plain, base, *labels)


def finish(context: IO[bytes], tag: str, start: str, base: bases.Base, *options: str) -> None:
    """Build a host's image from its context, and drop old ones. Other clones on this machine may be at other sources,
    so a few earlier ones stay."""
    context.seek(0)
    label = f"{cache.IMAGE_LABEL}=host"
    build(["-t", tag, "--build-arg", f"OS={start}", "--label", label, *options, "-"], context)
    cache.prune_images(f"{tag.partition(':')[0]}:{base.os_id}-*", keep=KEPT_HOSTS, never=[tag])


@dataclass(frozen=True)
class System:
    """The images with the operating system's packages."""

    plain: str
    engine: str  # the same with Docker's packages, and with what plays Atlas


def ensure_os(base: bases.Base, say: Say) -> System:
    """The images with the packages. They are a file in the cache too, since an engine's images are easily lost."""
    recipes = {"os": HOST / "os.Dockerfile", "engine": HOST / "engine.Dockerfile"}
    key = cache.digest(base.key, recipes["os"].read_bytes())
    keys = {"os": key, "engine": cache.digest(key, recipes["engine"].read_bytes(), cache.digest_files(vendors.REPACK))}
    tags = {name: f"pantheon-lab-{name}:{base.os_id}-{keys[name]}" for name in recipes}
    missing = {"os": "packages", "engine": "Docker's packages"}

    def make(target: Path) -> None:
        start = {"os": f"BASE={base.image}", "engine": f"OS={tags['os']}"}
        for name, tag in tags.items():
            if not bases.image_exists(tag):
                say(f"installing {missing[name]} on {base.title}")
                options = ["-t", tag, "--build-arg", start[name], "--label", f"{cache.IMAGE_LABEL}={name}", "-"]
                with recipe_context(recipes[name], vendors.REPACK if name == "engine" else ()) as context:
                    build(options, context)
        docker("save", "-o", str(target), *tags.values(), timeout=300)

    saved = cache.file(f"os-{base.os_id}", keys["engine"], ".tar", make)
    for name, tag in tags.items():
        cache.prune_images(f"pantheon-lab-{name}:{base.os_id}-*", keep=cache.KEPT, never=[tag])
    if not all(bases.image_exists(tag) for tag in tags.values()):
        say("loading the packages' images from the cache")
        docker("load", "-q", "-i", str(saved), timeout=300)
    return System(tags["os"], tags["engine"])


@contextlib.contextmanager
def recipe_context(recipe: Path, modules: tuple[Path, ...]) -> Iterator[IO[bytes]]:
    """A build context of a Dockerfile, and modules of lab/vendors that it runs."""
    with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as context:
        with tarfile.open(fileobj=context, mode="w") as out:
            add_tree(out, recipe, "Dockerfile")
            for module in modules:
                add_tree(out, module, f"lab/vendors/{module.name}")
        context.seek(0)
        yield context


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
    """Run `docker build` with the context (a tar) on stdin. Its output is shown if it fails."""
    argv = ["docker", "build", *options]
    done = run(argv, timeout=BUILD_S, stdin=context)
    if done.returncode != 0:
        raise LabError(f"an image of the lab could not be built. {explain(argv[1:], done)}")


def add_tree(out: tarfile.TarFile, source: Path, name: str, *, mode: int | None = None) -> None:
    """Add source files with modes of our own, so that a clone's umask makes no difference."""
    for path in cache.source_files(source):
        below = path.relative_to(source) if path != source else Path()
        info = tarfile.TarInfo(str(Path(name) / below))
        data = path.read_bytes()
        info.size = len(data)
        info.mode = mode or (0o755 if path.stat().st_mode & 0o100 else 0o644)
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
