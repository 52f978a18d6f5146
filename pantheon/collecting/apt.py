"""Packages as dpkg and apt have them: packages.Packages. Reads their files; takes no lock and writes nothing."""

from __future__ import annotations

import hashlib
import os
import re

from pantheon.collecting import openpgp
from pantheon.collecting.dpkg import HALF_WAY, holder
from pantheon.looks import docker
from pantheon.looks.files import read_bytes, read_text
from pantheon.looks.text import Json, Object, Unread, plain
from pantheon.looks.work import attempt

STATUS = "/var/lib/dpkg/status"
STATUS_BYTES = 64 << 20
KEY_BYTES = 1 << 20
MOST_BROKEN = 50
# What concerns the stack: engines, the toolkit, the driver, kernels and what builds modules for them.
LIKE = re.compile(
    r"(?:docker|containerd|podman-docker|runc|nvidia|libnvidia|linux-(?:modules-nvidia|objects-nvidia|signatures-nvidia|"
    r"image|headers|generic)|dkms|ca-certificates|dcgm|datacenter-gpu-manager|moby)[\w.+-]*|xserver-xorg-video-nvidia[\w-]*"
)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SOURCE_FILE = re.compile(r"[\w.-]+\.(list|sources)")  # others apt does not read
NO = ("no", "false", "without", "off", "disable", "0")


def packages(spec: Object, root: str) -> Json:
    """evidence.Evidence.packages; None: dpkg is not there."""
    record = read_bytes(root + STATUS, STATUS_BYTES)
    if record is None:
        return None
    installed, broken = _installed(record)
    sources, files = _sources(root)
    names = {word for source in sources for word in source["signed_by"].split() if word.startswith("/")}
    found = {path: _key(root, path) for path in sorted({*names, *(spec.get("key_files") or ())})}
    os_release = read_text(f"{root}/etc/os-release") or ""
    codename = re.search(r"^(?:UBUNTU|VERSION)_CODENAME=[\"']?([\w-]+)", os_release, re.MULTILINE)
    return {
        "installed": installed,
        "arch": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "codename": codename[1] if codename else "",
        "broken": broken[:MOST_BROKEN],
        "interrupted": any(name.isdigit() for name in _names(f"{root}/var/lib/dpkg/updates")),
        "holder": attempt(holder, root),
        "sources": sources,
        "files": files,
        "keys": {path: key for path, key in found.items() if key is not None},
        "snap": attempt(_snap, root),
        "daemon_json": attempt(_daemon_json, root),
    }


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _installed(record: bytes) -> tuple[Object, list[str]]:
    """Packages that concern us, and the names of all that are half-way."""
    installed: Object = {}
    broken = []
    for stanza in record.split(b"\n\n"):
        words = _field(stanza, b"Status").split()
        if len(words) != 3 or words[2] not in ("installed", *HALF_WAY):
            continue
        name = _field(stanza, b"Package")
        if words[2] != "installed" or words[1] != "ok":
            broken.append(name)
        if LIKE.fullmatch(name):
            about = {"version": _field(stanza, b"Version"), "status": words[2], "held": words[0] == "hold"}
            installed.setdefault(name, about)
    return installed, broken


def _field(stanza: bytes, name: bytes) -> str:
    _, found, rest = (b"\n" + stanza).partition(b"\n" + name + b": ")
    return plain(rest.partition(b"\n")[0].decode("utf-8", "replace").strip()) if found else ""


# ---- where packages come from


def _sources(root: str) -> tuple[list[Object], Object]:
    """apt's sources, and the SHA-256 of each file of them."""
    paths = ["/etc/apt/sources.list"]
    folder = "/etc/apt/sources.list.d"
    paths += [f"{folder}/{name}" for name in _names(root + folder) if SOURCE_FILE.fullmatch(name)]
    sources: list[Object] = []
    files: Object = {}
    for path in paths:
        data = read_bytes(root + path)
        if data is None:
            continue
        files[path] = hashlib.sha256(data).hexdigest()
        text = data.decode("utf-8", "replace")
        sources += _deb822(path, text) if path.endswith(".sources") else _lines(path, text)
    return sources, files


def _source(path: str, line: int, **about: Json) -> Object:
    words = {name: [plain(word) for word in value] for name, value in about.items() if isinstance(value, list)}
    return {"path": path, "line": line, **about, **words}


def _lines(path: str, text: str) -> list[Object]:
    """Entries in the old form: deb [option=value ..] URI SUITE [COMPONENT ..]"""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = re.fullmatch(r"(deb|deb-src)\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)(.*)", line.partition("#")[0].strip())
        if entry:
            options = dict(word.split("=", 1) for word in (entry[2] or "").split() if "=" in word)
            found.append(
                _source(
                    path,
                    number,
                    types=[entry[1]],
                    uris=[entry[3]],
                    suites=[entry[4]],
                    components=entry[5].split(),
                    signed_by=plain(options.get("signed-by", "").replace(",", " ")),
                    enabled=True,
                )
            )
    return found


def _deb822(path: str, text: str) -> list[Object]:
    """Entries in the new form: paragraphs of fields."""
    found = []
    fields: dict[str, str] = {}
    last, began = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                found.append(_paragraph(path, began, fields))
            fields, last, began = {}, "", 0
        elif line[0] in " \t":
            fields[last] = f"{fields.get(last, '')} {line.strip()}"
        else:
            last, _, value = line.partition(":")
            last = last.strip().lower()
            fields[last], began = value.strip(), began or number
    return found


def _paragraph(path: str, line: int, fields: dict[str, str]) -> Object:
    signed = fields.get("signed-by", "").replace(",", " ").split()
    return _source(
        path,
        line,
        types=fields.get("types", "").split(),
        uris=fields.get("uris", "").split(),
        suites=fields.get("suites", "").split(),
        components=fields.get("components", "").split(),
        signed_by="embedded" if "-----BEGIN" in signed else plain(" ".join(signed)),
        enabled=fields.get("enabled", "yes").strip().lower() not in NO,
    )


def _key(root: str, path: str) -> Object | None:
    """packages.Key of a file; None where there is none."""
    try:
        data = read_bytes(root + path, KEY_BYTES)
        if data is None:
            return None
        names = [name for name, _, _ in openpgp.keys(openpgp.dearmored(data))]
        return {"fingerprints": names, "reason": "" if names else "there is no key in it"}
    except (OSError, ValueError, Unread, IndexError) as error:
        return {"fingerprints": [], "reason": plain(str(error))}


# ---- what else is asked of a host before Docker is put on it


def _snap(root: str) -> str | None:
    """The version of the Docker that is a snap."""
    kept = [name for name in _names(f"{root}/var/lib/snapd/snaps") if re.fullmatch(r"docker_\w+\.snap", name)]
    if not kept and not os.path.lexists(f"{root}/snap/docker"):
        return None
    about = read_text(f"{root}/snap/docker/current/meta/snap.yaml") or ""
    version = re.search(r"^version:\s*[\"']?([\w.+~-]+)", about, re.MULTILINE)
    return version[1] if version else "of a version that is not known"


def _daemon_json(root: str) -> Object | None:
    path = f"{root}/etc/docker/daemon.json"
    data = read_bytes(path, 1 << 20)
    if data is None:
        return None
    text = docker.daemon_json(root) or ""
    return {"text": text, "sha256": hashlib.sha256(data).hexdigest(), "odd": _odd(path, data)}


def _odd(path: str, data: bytes) -> str:
    """Why mending/daemon_json.py would leave the file alone."""
    if os.path.islink(path):
        return f"it is a symbolic link to {plain(os.readlink(path))}"
    try:
        return "it begins with a byte order mark" if data.decode().startswith("\ufeff") else ""
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
