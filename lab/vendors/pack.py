"""Packs and signs the repositories that a bare lab host installs from. Runs in a container of the lab's os image.

usage: python3 -m lab.vendors.pack DEBS GPU OUT

DEBS has the distribution's own engine as it was downloaded, GPU a folder for each driver version as lab/gpu built it.
OUT gets www/SITE/.. as the sites serve it, archive.gpg (the stand-in archive's key) and keys.json (fingerprints). The
private keys stay in the container, which is thrown away.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.vendors.deb import WORK, Package, names_in, run, service
from lab.vendors.docker import docker_packages, originals, os_release

LIBRARIES = "usr/lib/x86_64-linux-gnu"
TOOLKIT_VERSION = "1.18.1-1"
# One for all: apt takes an index that is older than the one it has for a replay, and keeps what it has.
DATE = datetime.datetime.now(tz=datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
VARIANTS = ("", "-open", "-server", "-server-open")
ASKED, OTHER = "590", "595"  # the branch that is wanted, and one that comes under its name when a fault says so
# What Docker's documentation has removed first, beside the packages of the distribution's engine: empty, but there.
STUBS = ("docker-doc", "podman-docker", "docker-compose")

# A driver that is loaded goes on; the new library does not go with it. One that is not loaded comes with the next boot.
BUILD_MODULE = """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
for kernel in /lib/modules/*; do
    echo "Building initial module nvidia/{version} for ${{kernel##*/}}"
done
/usr/lib/lab/kernel drivers
loaded=$(cat /sys/module/nvidia/version 2>/dev/null || true)
if [ "$loaded" != {version} ]; then
    mkdir -p /run/lab
    if [ -n "$loaded" ]; then echo mismatch; else echo nocomm; fi >/run/lab/gpu-fault
    echo '*** System restart required ***' >/run/reboot-required
    echo {package} >>/run/reboot-required.pkgs
fi
"""
FORGET_MODULE = """#!/bin/sh
set -e
if [ "$1" = remove ]; then /usr/lib/lab/kernel forget; fi
"""
CDI_UNIT = "usr/lib/systemd/system/nvidia-cdi-refresh.service"


# ---- NVIDIA's packages, out of the stand-ins


def toolkit_packages(gpu: Path) -> list[Package]:
    programs = {name: gpu / "usr/bin" / name for name in names_in(gpu / "usr/bin")}
    same = f"(= {TOOLKIT_VERSION})"
    return [
        Package(
            "libnvidia-container1", TOOLKIT_VERSION, "libc6", texts={"usr/share/doc/libnvidia-container1/README": "\n"}
        ),
        Package(
            "libnvidia-container-tools",
            TOOLKIT_VERSION,
            f"libnvidia-container1 {same}",
            files={"usr/bin/nvidia-container-cli": programs["nvidia-container-cli"]},
        ),
        Package(
            "nvidia-container-toolkit-base",
            TOOLKIT_VERSION,
            "python3",
            scripts=service("nvidia-cdi-refresh.service", action="restart"),
            files={f"usr/bin/{name}": programs[name] for name in ("nvidia-ctk", "nvidia-container-runtime")}
            | {CDI_UNIT: gpu / CDI_UNIT},
        ),
        Package(
            "nvidia-container-toolkit",
            TOOLKIT_VERSION,
            f"nvidia-container-toolkit-base {same}, libnvidia-container-tools {same}",
            files={"usr/bin/nvidia-container-runtime-hook": programs["nvidia-container-runtime-hook"]},
        ),
    ]


def revision(version: str) -> str:
    return f"{version}-0ubuntu0.24.04.1"


def driver_packages(branch: str, version: str, gpu: Path) -> list[Package]:
    """The driver in its four variants. One driver at a time can be installed: each part provides and refuses a name."""
    made = []
    full = revision(version)
    for server in ("", "-server"):
        compute, utils = f"libnvidia-compute-{branch}{server}", f"nvidia-utils-{branch}{server}"
        made.append(
            Package(
                compute,
                full,
                "libc6",
                only_one("libnvidia-compute"),
                {"triggers": "activate-noawait ldconfig\n"},
                {f"{LIBRARIES}/{name}": gpu / LIBRARIES / name for name in names_in(gpu / LIBRARIES)},
            )
        )
        made.append(
            Package(
                utils,
                full,
                f"{compute} (= {full})",
                only_one("nvidia-utils"),
                files={"usr/bin/nvidia-smi": gpu / "usr/bin/nvidia-smi"},
            )
        )
        for kind in ("", "-open"):
            name, module = f"nvidia-driver-{branch}{server}{kind}", f"nvidia-dkms-{branch}{server}{kind}"
            made.append(
                Package(
                    module,
                    full,
                    "kmod",
                    only_one("nvidia-dkms-kernel"),
                    {"postinst": BUILD_MODULE.format(version=version, package=name), "prerm": FORGET_MODULE},
                    texts={"usr/lib/lab/gpu/driver": f"{version} {'open' if kind else 'closed'}\n"},
                )
            )
            parts = ", ".join(f"{part} (= {full})" for part in (compute, utils, module))
            made.append(Package(name, full, parts, only_one("nvidia-driver-binary")))
    return made


def only_one(name: str) -> dict[str, str]:
    return {"Provides": name, "Conflicts": name, "Replaces": name}


def renamed_packages(version: str) -> list[Package]:
    """The wanted branch's packages, at a version of the other branch, which they bring."""
    full = revision(version)
    return [
        Package(f"nvidia-driver-{ASKED}{variant}", full, f"nvidia-driver-{OTHER}{variant} (= {full})")
        for variant in VARIANTS
    ]


def stub_packages() -> list[Package]:
    return [Package(name, "1.0-1", texts={f"usr/share/doc/{name}/README": "empty\n"}) for name in STUBS]


# ---- repositories


@dataclass(frozen=True)
class Key:
    """A signing key of the container's keyring."""

    fingerprint: str

    @classmethod
    def make(cls, name: str) -> Key:
        run(
            "gpg",
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--quick-gen-key",
            f"{name} <lab@invalid>",
            "ed25519",
            "sign",
            "never",
        )
        listed = run("gpg", "--batch", "--with-colons", "--list-keys", f"={name} <lab@invalid>")
        return cls(next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:")))

    def export(self, target: Path, *, armored: bool = True) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        run("gpg", "--batch", *(["--armor"] if armored else []), "--output", target, "--export", self.fingerprint)

    def sign(self, release: Path, target: Path) -> None:
        run("gpg", "--batch", "--yes", "--local-user", self.fingerprint, "--clearsign", "--output", target, release)


def index(debs: Iterable[Path], root: Path) -> str:
    """The text of a Packages file; the files' names are relative to `root`."""
    stanzas = []
    for deb in sorted(debs):
        data = deb.read_bytes()
        stanza = run("dpkg-deb", "-f", deb).rstrip("\n")
        stanza += f"\nFilename: {deb.relative_to(root)}\nSize: {len(data)}\n"
        md5, sha256 = hashlib.md5(data, usedforsecurity=False), hashlib.sha256(data)
        stanzas.append(f"{stanza}MD5sum: {md5.hexdigest()}\nSHA256: {sha256.hexdigest()}\n")
    return "\n".join(stanzas)


def publish(dists: Path, packages: Mapping[str, str], about: Mapping[str, str], key: Key, stranger: Key) -> None:
    """Write Packages files (below `dists`), the Release that lists them, and its signature: ours, and a stranger's."""
    sums = []
    for name, text in packages.items():
        for suffix, data in (("", text.encode()), (".gz", gzip.compress(text.encode(), mtime=0))):
            path = dists / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sums.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}{suffix}")
    lines = [f"{key}: {value}" for key, value in {**about, "Date": DATE}.items()]
    (dists / "Release").write_text("\n".join([*lines, "SHA256:", *sums]) + "\n")
    key.sign(dists / "Release", dists / "InRelease")
    stranger.sign(dists / "Release", dists / "InRelease.stranger")


def suite(release: Mapping[str, str], origin: str, component: str) -> dict[str, str]:
    name = release["VERSION_CODENAME"]
    return {
        "Origin": origin, "Label": origin, "Suite": name, "Codename": name,
        "Architectures": "amd64", "Components": component,
    }  # fmt: skip


def main(debs: Path, gpu: Path, out: Path) -> None:
    release = os_release()
    os.environ["GNUPGHOME"] = str(WORK / "gnupg")
    (WORK / "gnupg").mkdir(parents=True, mode=0o700)
    keys = {name: Key.make(f"pantheon lab {name}") for name in ("docker", "toolkit", "archive", "stranger")}
    stranger = keys["stranger"]

    site = out / "www/download.docker.com/linux" / release["ID"]
    made = [package.make(site / "pool") for package in docker_packages(originals(debs), release)]
    where = {"stable/binary-amd64/Packages": index(made, site)}
    dists = site / "dists" / release["VERSION_CODENAME"]
    publish(dists, where, suite(release, "Docker", "stable"), keys["docker"], stranger)
    keys["docker"].export(site / "gpg")
    stranger.export(site / "gpg.stranger")

    versions = {path.name.partition(".")[0]: path.name for path in gpu.iterdir()}
    site = out / "www/nvidia.github.io/libnvidia-container"
    flat = site / "stable/deb/amd64"
    made = [package.make(flat) for package in toolkit_packages(gpu / versions[ASKED])]
    publish(flat, {"Packages": index(made, flat)}, {"Origin": "NVIDIA"}, keys["toolkit"], stranger)
    base = "https://nvidia.github.io/libnvidia-container"
    listed = f"deb {base}/stable/deb/$(ARCH) /\n#deb {base}/experimental/deb/$(ARCH) /\n"
    (site / "stable/deb/nvidia-container-toolkit.list").write_text(listed)
    keys["toolkit"].export(site / "gpgkey")
    stranger.export(site / "gpgkey.stranger")

    site = out / "www/archive.lab.test" / release["ID"]
    packages = [*stub_packages()]
    for branch in (ASKED, OTHER):
        packages += driver_packages(branch, versions[branch], gpu / versions[branch])
    have = {path.name.partition("_")[0] for path in debs.glob("*.deb")}
    made = [package.make(site / "pool") for package in packages if package.name not in have]
    for deb in debs.glob("*.deb"):
        shutil.copy(deb, site / "pool" / deb.name.replace("%3a", "."))
    pool = list((site / "pool").glob("*.deb"))
    renamed = [package.make(site / "pool") for package in renamed_packages(versions[OTHER])]
    gone = [deb for deb in pool if f"_{versions[ASKED]}-" not in deb.name]
    # `dists` is what is served; a fault puts one of the others in its place.
    offers = {"dists": pool, "dists.renamed": [*pool, *renamed], "dists.alone": [*gone, *renamed]}
    for name, debs_of_it in offers.items():
        dists = site / name / release["VERSION_CODENAME"]
        where = {"main/binary-amd64/Packages": index(debs_of_it, site)}
        publish(dists, where, suite(release, release["NAME"], "main"), keys["archive"], stranger)
    keys["archive"].export(out / "archive.gpg", armored=False)
    (out / "keys.json").write_text(json.dumps({name: key.fingerprint for name, key in keys.items()}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
