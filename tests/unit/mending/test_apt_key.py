"""Keys as gpg makes them, over https, compared by fingerprint before anything is written."""

from __future__ import annotations

import functools
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pantheon.collecting import openpgp
from pantheon.mending import apt_key
from tests.unit import programs


@dataclass
class Keys:
    """A vendor's key with a subkey, and somebody else's."""

    vendor: str
    subkey: str
    other: str
    files: dict[str, bytes]


def gpg(home: Path, *words: str) -> bytes:
    argv = ["gpg", "--homedir", str(home), "--batch", "-q", "--passphrase", "", *words]
    return subprocess.run(argv, check=True, capture_output=True).stdout


@pytest.fixture(name="keys", scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    for name in ("vendor", "other"):
        gpg(home, "--quick-gen-key", f"{name} <{name}@invalid>", "ed25519", "sign", "never")
    rows = [line.split(":") for line in gpg(home, "--list-keys", "--with-colons").decode().splitlines()]
    names = [row[9] for row in rows if row[0] == "fpr"]
    gpg(home, "--quick-add-key", names[0], "cv25519", "encr", "never")
    rows = [line.split(":") for line in gpg(home, "--list-keys", "--with-colons", names[0]).decode().splitlines()]
    both = [row[9] for row in rows if row[0] == "fpr"]
    files = {
        "armored": gpg(home, "--armor", "--export", names[0]),
        "binary": gpg(home, "--export", names[0]),
        "several": gpg(home, "--armor", "--export"),
        "blocks": gpg(home, "--armor", "--export", names[1]) + b"\n" + gpg(home, "--armor", "--export", names[0]),
        "other": gpg(home, "--armor", "--export", names[1]),
        "private": gpg(home, "--armor", "--export-secret-keys", names[0]),
    }
    files["dos"] = files["armored"].replace(b"\n", b"\r\n")
    files["headers"] = files["armored"].replace(b"BLOCK-----\n", b"BLOCK-----\nVersion: GnuPG v1\nComment: x\n", 1)
    yield Keys(both[0], both[1], names[1], files)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)


@pytest.mark.parametrize("name", ["armored", "binary", "dos", "headers"])
def test_fingerprints_are_those_that_gpg_tells(keys: Keys, name: str) -> None:
    found = openpgp.keys(openpgp.dearmored(keys.files[name]))
    assert [(primary, subkeys) for primary, subkeys, _ in found] == [(keys.vendor, [keys.subkey])]
    assert found[0][2] == keys.files["binary"]


def test_every_key_of_a_file_is_seen(keys: Keys) -> None:
    for name, order in (("several", [keys.vendor, keys.other]), ("blocks", [keys.other, keys.vendor])):
        found = openpgp.keys(openpgp.dearmored(keys.files[name]))
        assert [primary for primary, _, _ in found] == order
    assert openpgp.keys(openpgp.dearmored(keys.files["private"])) == []


@pytest.mark.parametrize("size", [1, 2, 3, 10, 60, 200])
def test_half_a_key_is_none(keys: Keys, size: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        openpgp.keys(keys.files["binary"][:-size])


@pytest.mark.parametrize(
    "data",
    [b"<html>no</html>", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!\n-----END PGP PUBLIC KEY BLOCK-----\n", b"\x99"],
)
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        openpgp.keys(openpgp.dearmored(data))


def test_other_versions_have_no_fingerprint_that_could_be_asked_for() -> None:
    assert openpgp.keys(b"\x98\x02\x06\x00")[0][0] == "version 6"
    assert openpgp.keys(b"") == []


def test_what_is_armored_again_is_what_gpg_reads(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "key.asc"
    file.write_bytes(apt_key.armored(keys.files["binary"]))
    shown = gpg(tmp_path, "--show-keys", "--with-colons", str(file)).decode()
    assert f":{keys.vendor}:" in shown
    assert file.read_bytes().splitlines()[-3:] == keys.files["armored"].splitlines()[-3:]


# ---- the program


class Site:
    """An https site with its own certificate authority, and apt's configuration to trust that."""

    def __init__(self, folder: Path) -> None:
        self.files, self.folder = folder / "www", folder
        self.files.mkdir()
        certificate, private = folder / "site.crt", folder / "site.key"
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        argv += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*argv, "-keyout", private, "-out", certificate], check=True, capture_output=True)
        handler = functools.partial(Quiet, directory=str(self.files))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        (folder / "apt.conf").write_text(f'Acquire::https::CaInfo "{certificate}";\n')
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def run(self, name: str, path: Path, fingerprint: str, *, trusted: bool = True) -> tuple[int, str]:
        told: dict[str, object] = {
            "vendor": "Docker",
            "url": f"{self.url}/{name}",
            "path": str(path),
            "fingerprint": fingerprint,
        }
        told |= {"setting": "install.docker_key", "docs": "https://docs.example/", "fetch_s": 30}
        environment = dict(os.environ) | ({"APT_CONFIG": str(self.folder / "apt.conf")} if trusted else {})
        done = subprocess.run(
            programs.argv(apt_key, told),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(name="site", scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    for name, data in keys.files.items():
        (site.files / name).write_bytes(data)
    (site.files / "page").write_text("<html>sign in</html>")
    (site.files / "large").write_bytes(b"\0" * (2 << 20))
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.mark.parametrize("name", ["armored", "binary", "several", "blocks"])
def test_the_right_key_is_written_and_no_other(site: Site, keys: Keys, tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "a/keyrings/docker.asc", tmp_path / "b/docker.gpg"):
        status, output = site.run(name, path, keys.vendor)
        assert status == 0, output
        found = openpgp.keys(openpgp.dearmored(path.read_bytes()))
        assert [primary for primary, _, _ in found] == [keys.vendor]
        assert path.stat().st_mode & 0o777 == 0o644
        assert (b"-----BEGIN" in path.read_bytes()) is (path.suffix == ".asc")
        assert (f"left out: {keys.other}" in output) is (name in ("several", "blocks"))
        assert site.run(name, path, keys.vendor)[1].splitlines()[-1] == f"{path}: there already"
        assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["other", "armored"])
def test_another_key_is_refused_and_both_fingerprints_are_named(
    site: Site, keys: Keys, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "docker.asc"
    wanted = keys.vendor if name == "other" else keys.subkey
    status, output = site.run(name, path, wanted)
    assert status == 1
    assert "install.docker_key" in output
    assert f"hosts.toml: {wanted}" in output
    assert f"fetched:    {keys.other if name == 'other' else keys.vendor}" in output
    assert ("that of a subkey" in output) is (name == "armored")
    assert output.splitlines()[-1] == f"{path} was not written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page", "gave no OpenPGP key"),
        ("private", "gave no OpenPGP key"),
        ("nonesuch", "404"),
        ("large", "larger than any key"),
    ],
)
def test_what_is_no_key_is_named(site: Site, keys: Keys, tmp_path: Path, name: str, said: str) -> None:
    status, output = site.run(name, tmp_path / "docker.asc", keys.vendor)
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert said in output


def test_a_site_with_another_certificate_is_not_believed(site: Site, keys: Keys, tmp_path: Path) -> None:
    status, output = site.run("armored", tmp_path / "docker.asc", keys.vendor, trusted=False)
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "ertificate" in output


def test_the_key_before_is_kept(site: Site, keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "docker.asc"
    path.write_text("mine")
    (tmp_path / "docker.asc.before-pantheon").write_text("older")
    status, output = site.run("armored", path, keys.vendor)
    assert status == 0
    assert (tmp_path / "docker.asc.before-pantheon").read_text() == "older"
    assert (tmp_path / "docker.asc.before-pantheon.~1~").read_text() == "mine"
    assert "kept as" in output
