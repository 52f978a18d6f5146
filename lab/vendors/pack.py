"""Packs and signs the repositories that a bare lab host installs from. Runs in a container of the lab's os image.

usage: pack.py DEBS GPU OUT

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
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

WORK = Path("/var/tmp/pack")  # noqa: S108 - in a container of one program
LIBRARIES = "usr/lib/x86_64-linux-gnu"
TOOLKIT_VERSION = "1.18.1-1"
# One for all: apt takes an index that is older than the one it has for a replay, and keeps what it has.
DATE = datetime.datetime.now(tz=datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
VARIANTS = ("", "-open", "-server", "-server-open")
ASKED, OTHER = "590", "595"  # the branch that is wanted, and one that comes under its name when a fault says so
# What Docker's documentation has removed first, beside the packages of the distribution's engine: empty, but there.
STUBS = ("docker-doc", "podman-docker", "docker-compose")
ENGINE = {"docker.io", "docker-cli", "containerd", "runc", "docker-compose", "docker-compose-v2", "docker-buildx"}

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


# ---- Docker's packages, out of the distribution's


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
    found = {}
    for deb in sorted(debs.glob("*.deb")):
        name = run("dpkg-deb", "-f", deb, "Package").strip()
        if name in ENGINE:
            tree = WORK / "original" / name
            tree.parent.mkdir(parents=True, exist_ok=True)
            run("dpkg-deb", "-R", deb, tree)
            depends = run("dpkg-deb", "-f", deb, "Depends").strip()
            version = run("dpkg-deb", "-f", deb, "Version").strip()
            found[name] = Original(tree, version, [one.strip() for one in depends.split(",") if one.strip()])
    return found


def needs(*packages: Original) -> list[str]:
    """What those depend on, but for each other."""
    every = [one for package in packages for one in package.depends]
    return [one for one in dict.fromkeys(every) if re.split(r"[ (:|]", one)[0] not in ENGINE]


def docker_packages(found: Mapping[str, Original], release: Mapping[str, str]) -> list[Package]:
    suffix = f"-1~{release['ID']}.{release['VERSION_ID']}~{release['VERSION_CODENAME']}"
    engine, containerd, runc = found["docker.io"], found["containerd"], found["runc"]
    compose = found.get("docker-compose-v2") or found["docker-compose"]
    version = f"5:{engine.upstream}{suffix}"
    units = "docker.socket docker.service"
    daemon = Package(
        "docker-ce",
        version,
        ", ".join([f"containerd.io (>= {containerd.upstream})", "docker-ce-cli", *needs(engine)]),
        {"Recommends": "docker-buildx-plugin, docker-compose-plugin", **instead_of("docker.io")},
        service(units, before="getent group docker >/dev/null || groupadd --system docker"),
    )
    client = Package("docker-ce-cli", version, "libc6", instead_of("docker.io", "docker-cli"))
    shim = Package(
        "containerd.io",
        f"{containerd.upstream}{suffix}",
        ", ".join(needs(containerd, runc)),
        {"Provides": "containerd, runc", **instead_of("containerd", "runc")},
        service("containerd.service"),
        texts={"etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n'},
    )
    plugins = [
        Package("docker-compose-plugin", f"{compose.upstream}{suffix}", "", instead_of("docker-compose-v2")),
        Package("docker-buildx-plugin", f"{found['docker-buildx'].upstream}{suffix}", "", instead_of("docker-buildx")),
    ]
    for package, sources in zip(
        [daemon, shim, *plugins], [[engine], [containerd, runc], [compose], [found["docker-buildx"]]], strict=True
    ):
        for source in sources:
            place(source.tree, package.tree)
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


def instead_of(*names: str) -> dict[str, str]:
    return {"Conflicts": ", ".join(names), "Replaces": ", ".join(names)}


def service(units: str, *, before: str = "", action: str = "start") -> dict[str, str]:
    return {
        "postinst": START.format(units=units, before=before, action=action),
        "prerm": STOP.format(units=units),
        "postrm": GONE.format(units=units),
    }


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


def os_release() -> dict[str, str]:
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


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
