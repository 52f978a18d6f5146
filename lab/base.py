"""The file system a lab host is built on: Ubuntu 24.04, or Debian 13 where Ubuntu cannot be had.

Ubuntu comes from its own archive through mmdebstrap, which needs no image registry, only apt and the archive's key;
from an image registry where mmdebstrap cannot do it. Signatures are checked on every way, and no mirror's address is
written here: mmdebstrap knows the archives, and the key comes through the package sources this machine trusts anyway.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.outer import LabError, Say, docker, run

UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
RELEASES = Path("/usr/share/distro-info/ubuntu.csv")  # by which mmdebstrap tells Ubuntu's releases from Debian's
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Ubuntu Archive Automatic Signing Key (2018). Publicly documented; checked before the keyring is used.
UBUNTU_FINGERPRINT = "F6ECB3762474EDA9D21B7022871920D1991BC93C"
KEYRING_SUITE = "trixie"  # the Debian release whose archive carries Ubuntu's keyring
REGISTRY_IMAGE = "ubuntu:24.04"
REGISTRY_PATIENCE_S = 20
RETRY_UBUNTU_S = 24 * 3600
MMDEBSTRAP = ("mmdebstrap", "--variant=apt")
APT_PATIENCE = ("--aptopt=Acquire::http::Timeout 15", "--aptopt=Acquire::Retries 1")


@dataclass(frozen=True)
class Base:
    """A base image on the engine, and what it is."""

    image: str
    key: str
    os_id: str
    os_version: str

    @property
    def title(self) -> str:
        return {"ubuntu": "Ubuntu", "debian": "Debian"}.get(self.os_id, self.os_id) + " " + self.os_version


class Unavailable(Exception):
    """A way to a base did not work; the text says why, on one line."""


def ensure(wanted: str, say: Say) -> Base:
    """The base image for `wanted`: auto, ubuntu, debian, or the name of an image to start from.

    auto prefers Ubuntu and says so in a line when it has to be Debian. Raises LabError when nothing works.
    """
    if wanted not in ("auto", "ubuntu", "debian"):
        return from_image(wanted, say)
    with cache.locked("base", say):
        if wanted == "debian":
            return debian(say)
        if wanted == "auto" and (known := debian_until_retry(say)):
            return known
        reasons = []
        for way in (ubuntu_from_archive, ubuntu_from_registry):
            try:
                return way(say)
            except Unavailable as error:
                reasons.append(str(error))
        why = "; ".join(reasons)
        if wanted == "ubuntu":
            raise LabError(
                f"the Ubuntu 24.04 base could not be fetched: {why}. Next: check the network, or invoke lab.up "
                "--base debian."
            )
        say(f"BASE IS DEBIAN 13, NOT UBUNTU 24.04: {why}")
        found = debian(say)
        unavailable_marker().touch()
        return found


def ubuntu_from_archive(say: Say) -> Base:
    key = cache.digest("ubuntu noble main universe", *MMDEBSTRAP)
    base = Base(f"pantheon-lab-base:ubuntu-{key}", key, "ubuntu", "24.04")

    def make(target: Path) -> None:
        say("fetching Ubuntu 24.04 from its archive (mmdebstrap)")
        with tempfile.TemporaryDirectory(prefix="pantheon-lab-") as scratch:
            # apt reads the keyring as a user of its own, who may not enter a folder that is closed to others.
            Path(scratch).chmod(0o755)
            keyring = ubuntu_keyring(Path(scratch))
            bootstrap("noble", target, f"--keyring={keyring}", "--components=main,universe")

    import_tarball(base, make)
    return base


def debian(say: Say) -> Base:
    key = cache.digest("debian trixie main", *MMDEBSTRAP)
    base = Base(f"pantheon-lab-base:debian-{key}", key, "debian", "13")

    def make(target: Path) -> None:
        if not DEBIAN_KEYRING.exists():
            raise Unavailable("Debian's archive key is not on this machine (apt-get install debian-archive-keyring)")
        say("fetching Debian 13 from its archive (mmdebstrap)")
        bootstrap("trixie", target, "--components=main")

    try:
        import_tarball(base, make)
    except Unavailable as error:
        raise LabError(
            f"no base file system could be fetched, neither Ubuntu 24.04 nor Debian 13: {error}. Next: check the "
            "network (apt-get update), or give an image that this machine has: invoke lab.up --base IMAGE."
        ) from None
    return base


def debian_until_retry(say: Say) -> Base | None:
    """The Debian base again while the last failure to get Ubuntu is fresh; asking anew each time would cost seconds."""
    marker = unavailable_marker()
    if not marker.exists() or time.time() - marker.stat().st_mtime > RETRY_UBUNTU_S:
        return None
    say("BASE IS DEBIAN 13, NOT UBUNTU 24.04: Ubuntu could not be fetched in the last day (--base ubuntu tries again)")
    return debian(say)


def unavailable_marker() -> Path:
    return cache.directory() / "ubuntu-was-unavailable"


def import_tarball(base: Base, make: cache.Make) -> None:
    if not image_exists(base.image):
        tarball = cache.file(f"base-{base.os_id}", base.key, ".tar", make)
        label = f"LABEL {cache.IMAGE_LABEL}=base"
        docker("import", "--change", label, str(tarball), base.image, timeout=180)


def bootstrap(suite: str, target: Path, *options: str) -> None:
    """Run mmdebstrap into a tar file. Raises Unavailable with its last words."""
    if not shutil.which("mmdebstrap") or not RELEASES.exists():
        raise Unavailable("this machine lacks mmdebstrap or its data (apt-get install mmdebstrap distro-info-data)")
    # mmdebstrap takes the archive format from the name's end, and ours ends in .partial: give it the stream.
    with target.open("wb") as stream:
        done = run([*MMDEBSTRAP, *APT_PATIENCE, "--format=tar", *options, suite, "-"], timeout=600, stdout=stream)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")
        if "No space left on device" in said:
            raise LabError(
                f"a disk of this machine is full; {suite} could not be unpacked. Next: df -h /tmp {target.parent}"
            )
        raise Unavailable(last_words("mmdebstrap", said))


def last_words(command: str, said: str) -> str:
    """The line of a failed command that tells most: the first errors, since what follows are their consequences."""
    telling = [line.strip() for line in said.splitlines() if re.match(r"\s*(E:|Err:|W: GPG|Error)", line)]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{command} said: {' / '.join((telling or lines[-2:])[:2]) or 'nothing'}"


def ubuntu_keyring(scratch: Path) -> Path:
    """The archive's keyring: this machine's, or out of a Debian package that this machine's apt verifies."""
    keyring = UBUNTU_KEYRING if UBUNTU_KEYRING.exists() else keyring_from_debian(scratch)
    if shutil.which("gpg"):
        # A home of its own: without one gpg fails on a machine where it has never run.
        home = scratch / "gnupg"
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--batch", "--no-options", "--homedir", str(home), "--show-keys", "--with-colons", str(keyring)]
        shown = run(gpg, timeout=20)
        if shown.returncode != 0:
            raise Unavailable(last_words("gpg", shown.stderr.decode(errors="replace")))
        if UBUNTU_FINGERPRINT.encode() not in shown.stdout:
            raise Unavailable(f"{keyring} does not hold the Ubuntu archive's key {UBUNTU_FINGERPRINT}")
    return keyring


def keyring_from_debian(scratch: Path) -> Path:
    """Fetch Ubuntu's keyring packages with a private apt configuration: this machine's sources, suite changed.

    Bookworm's archive has no Ubuntu keyring and trixie's has; the same mirror and the same Debian key serve both.
    """
    if not shutil.which("apt-get"):
        raise Unavailable("this machine has neither Ubuntu's archive key nor apt to fetch it with")
    sources = scratch / "sources"
    for folder in ("sources", "lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    written = write_sources(sources)
    if not written:
        raise Unavailable("this machine has no Debian package source to fetch Ubuntu's archive key from")
    config = scratch / "apt.conf"
    config.write_text(
        f'Dir::State "{scratch}"; Dir::State::lists "{scratch}/lists"; Dir::State::status "/dev/null";\n'
        f'Dir::Cache "{scratch}/cache"; Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{sources}";\n'
        'Acquire::Languages "none"; Acquire::http::Timeout "15"; APT::Sandbox::User "";\n'
    )
    apt = ["env", f"APT_CONFIG={config}", "LC_ALL=C", "apt-get", "-q"]
    update = ["-o", "APT::Update::Error-Mode=any", "update"]
    for step in (update, ["download", "ubuntu-archive-keyring", "ubuntu-keyring"]):
        done = run(["env", "-C", str(scratch), *apt, *step], timeout=120)
        if done.returncode != 0:
            raise Unavailable(last_words("apt-get", done.stderr.decode(errors="replace")))
    for package in scratch.glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")], timeout=30)
    keyring = scratch / "unpacked" / UBUNTU_KEYRING.relative_to("/")
    if not keyring.exists():
        raise Unavailable("Debian's ubuntu-keyring packages hold no archive keyring")
    return keyring


def write_sources(target: Path, *, apt: Path = Path("/etc/apt"), codename: str = "") -> int:
    """Copy this machine's Debian sources to `target` with the suite that carries the keyring. Returns how many."""
    codename = codename or os_release().get("VERSION_CODENAME", "")
    count = 0
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            suites = re.search(r"^Suites:\s*(.*)$", stanza, re.MULTILINE)
            if suites and codename and codename in suites.group(1).split():
                changed = re.sub(r"^Suites:.*$", f"Suites: {KEYRING_SUITE}", stanza, flags=re.MULTILINE)
                (target / f"{count}.sources").write_text(changed.strip() + "\n")
                count += 1
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            found = re.match(rf"(deb\s+(?:\[[^]]*\]\s+)?\S+\s+){re.escape(codename)}\s+(.*\bmain\b.*)$", line)
            if found and codename:
                (target / f"{count}.list").write_text(f"{found.group(1)}{KEYRING_SUITE} main\n")
                count += 1
    return count


def os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name: value.strip('"') for name, value in pairs}


def ubuntu_from_registry(say: Say) -> Base:
    """ubuntu:24.04 as an image registry has it, if one answers soon."""
    if not image_exists(REGISTRY_IMAGE):
        say(f"asking the engine's image registry for {REGISTRY_IMAGE}")
        try:
            done = subprocess.run(
                ["docker", "pull", "-q", REGISTRY_IMAGE], capture_output=True, timeout=REGISTRY_PATIENCE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            raise Unavailable(f"no image registry answered within {REGISTRY_PATIENCE_S} s") from None
        if done.returncode != 0:
            raise Unavailable(last_words("docker pull", done.stderr.decode(errors="replace")))
    return from_image(REGISTRY_IMAGE, say)


def from_image(image: str, say: Say) -> Base:
    """A base out of an image that the engine has or can pull."""
    if not image_exists(image):
        say(f"pulling {image}")
        pulled = docker("pull", "-q", image, timeout=600, check=False)
        if pulled.returncode != 0:
            raise LabError(
                f"the base image {image} is not on this machine and could not be pulled: "
                f"{last_words('docker pull', pulled.stderr.decode(errors='replace'))}. Next: docker image ls, or "
                "--base ubuntu, --base debian."
            )
    identity = docker("image", "inspect", "--format", "{{.Id}}", image).stdout.decode().strip()
    release = docker("run", "--rm", "--entrypoint", "cat", image, "/etc/os-release", timeout=60).stdout.decode()
    pairs = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    os_id, version = (pairs.get(name, "unknown").strip('"') for name in ("ID", "VERSION_ID"))
    return Base(image, cache.digest("image", identity), os_id, version)


def image_exists(image: str) -> bool:
    """Whether the engine has the image."""
    done = docker("image", "inspect", "--format", "{{.Id}}", image, timeout=20, check=False)
    if done.returncode == 0:
        return True
    if b"o such image" in done.stderr:
        return False
    docker("version", "--format", "{{.Server.Version}}", timeout=20)  # says what is the matter with the engine
    return False
