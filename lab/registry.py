"""Fill an image registry's storage directly, from images on the workstation's engine.

The lab's registry reads its files afresh for each request, so images are put there by writing the files that a push
would have written (distribution's storage layout, version 2). That needs no running registry and no network, and the
same images always give the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from lab.outer import docker

ROOT = "docker/registry/v2"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def write(target: Path, images: Mapping[str, str]) -> None:
    """Write a tar file of the storage that serves `images`: the reference to answer for -> the local image."""
    with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as saved:
        docker("save", "-o", saved.name, *dict.fromkeys(images.values()), timeout=600)
        with tarfile.open(saved.name) as source, tarfile.open(target, "w") as out:
            Storage(out).add(source, images)


def repository(reference: str) -> tuple[str, str]:
    """The repository and tag under which a registry is asked for a reference.

    >>> repository("ghcr.io/open-webui/open-webui:main")
    ('open-webui/open-webui', 'main')
    >>> repository("ubuntu")
    ('library/ubuntu', 'latest')
    """
    first, _, rest = reference.partition("/")
    path = rest if rest and ("." in first or ":" in first) else reference
    name, _, tag = path.partition(":")
    return (name if "/" in name else f"library/{name}"), tag or "latest"


class Storage:
    """Writes registry storage into an open tar, each blob once."""

    def __init__(self, out: tarfile.TarFile) -> None:
        self.out = out
        self.written: set[str] = set()
        self.layers: dict[str, dict[str, object]] = {}  # path in the saved tar -> its descriptor

    def add(self, source: tarfile.TarFile, images: Mapping[str, str]) -> None:
        listed = json.loads(read(source, "manifest.json"))
        by_tag = {tag: entry for entry in listed for tag in entry["RepoTags"] or []}
        for reference, image in images.items():
            full = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
            self.add_image(source, by_tag[full], *repository(reference))

    def add_image(self, source: tarfile.TarFile, entry: dict[str, object], name: str, tag: str) -> None:
        config = read(source, str(entry["Config"]))
        layers = entry["Layers"]
        assert isinstance(layers, list)
        descriptors = [self.layer(source, str(path)) for path in layers]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "size": len(config), "digest": self.blob(config)},
                "layers": descriptors,
            },
            indent=3,
        ).encode()
        digest = self.blob(manifest)
        here = f"{ROOT}/repositories/{name}"
        for held in [sha256(config), *(str(descriptor["digest"]) for descriptor in descriptors)]:
            self.link(f"{here}/_layers", held)
        self.link(f"{here}/_manifests/revisions", digest)
        self.link(f"{here}/_manifests/tags/{tag}/index", digest)
        self.file(f"{here}/_manifests/tags/{tag}/current/link", digest.encode())

    def layer(self, source: tarfile.TarFile, path: str) -> dict[str, object]:
        if path not in self.layers:
            data = read(source, path)
            if data[:2] != b"\x1f\x8b":  # some engines save layers as they were pulled, compressed
                data = gzip.compress(data, compresslevel=1, mtime=0)
            self.layers[path] = {"mediaType": LAYER, "size": len(data), "digest": self.blob(data)}
        return self.layers[path]

    def blob(self, data: bytes) -> str:
        digest = sha256(data)
        plain = digest.removeprefix("sha256:")
        self.file(f"{ROOT}/blobs/sha256/{plain[:2]}/{plain}/data", data)
        return digest

    def link(self, folder: str, digest: str) -> None:
        self.file(f"{folder}/sha256/{digest.removeprefix('sha256:')}/link", digest.encode())

    def file(self, path: str, data: bytes) -> None:
        if path not in self.written:
            self.written.add(path)
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = 0o644
            self.out.addfile(info, io.BytesIO(data))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def read(source: tarfile.TarFile, path: str) -> bytes:
    member: IO[bytes] | None = source.extractfile(path)
    if member is None:
        raise KeyError(path)
    return member.read()
