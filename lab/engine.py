"""A Docker engine for the lab: looked for, and on Debian and Ubuntu installed and started when there is none.

`python3 -m lab.engine` is what `make demo` and `make test` run first, with whatever Python the machine has: standard
library only. Status 0 when an engine answers; 1, with one paragraph, when it does not and the next step is the user's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lab.base import os_release
from lab.outer import LabError, Say, as_program, run

PACKAGES = (
    "docker.io", "iptables", "mmdebstrap", "distro-info-data", "uidmap", "gpg", "openssh-client", "ca-certificates",
)  # fmt: skip
# A package and a file that tells whether it is there. mmdebstrap takes a release it does not know for one of Debian's,
# and knows Ubuntu's by distro-info-data; it needs uidmap to work for a user who is not root.
TOOLS = {
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "distro-info-data": "/usr/share/distro-info/ubuntu.csv",
    "openssh-client": "/usr/bin/ssh",
}
SERVER = ("docker", "version", "--format", "{{.Server.Version}}")
START_S = 60
LOG = Path("/var/log/dockerd-by-pantheon.log")


def ensure(say: Say) -> None:
    """Return when a Docker engine answers and what the lab's base needs is there. Raises LabError."""
    version, said = answer()
    if version:
        say(f"Docker Engine {version} answers")
        add_tools(say)
        return
    if "permission denied" in said.lower():
        raise LabError(
            "a Docker engine runs but does not let this user in. Next: sudo usermod -aG docker $USER, log in again."
        )
    if os.environ.get("DOCKER_HOST"):
        raise LabError(f"DOCKER_HOST is {os.environ['DOCKER_HOST']} and no engine answers there. Docker said: {said}")
    if sys.platform != "linux":
        raise LabError("no Docker engine answers. Next: start Docker Desktop (or colima start), then the same again.")
    if os.geteuid() != 0:
        raise LabError(f"no Docker engine answers. Next, once: {by_hand()}")
    if not is_debian():
        raise LabError("no Docker engine answers. Next: install it as docs.docker.com/engine/install says for this OS.")
    if not shutil.which("dockerd"):
        install(PACKAGES, say)
    start(say)
    add_tools(say)


def answer() -> tuple[str, str]:
    """The version of the engine that answers, and what the client said if none does."""
    if not shutil.which("docker"):
        return "", "there is no docker command"
    try:
        done = run(SERVER, timeout=10)
    except LabError as error:
        return "", str(error)
    version = done.stdout.decode().strip() if done.returncode == 0 else ""
    return version, " ".join(done.stderr.decode(errors="replace").split())


def is_debian() -> bool:
    release = os_release()
    return bool({"debian", "ubuntu"} & {release.get("ID"), *release.get("ID_LIKE", "").split()})


def by_hand() -> str:
    """The one command for a user who is not root."""
    if not is_debian():
        return "install Docker Engine as docs.docker.com/engine/install says for this OS"
    background = f"sudo sh -c 'setsid dockerd >{LOG} 2>&1 &'"
    started = "sudo systemctl start docker" if has_systemd() else background
    return (
        f"sudo apt-get update && sudo apt-get install -y {' '.join(PACKAGES)} && sudo usermod -aG docker $USER && "
        f"{started}   (log in again for the group)"
    )


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def add_tools(say: Say) -> None:
    """Install what the lab uses besides the engine, where we may; a lab that finds its base in the cache needs none."""
    missing = [package for package, file in TOOLS.items() if not Path(file).exists()]
    if missing and is_debian() and os.geteuid() == 0:
        install(missing, say)
    elif missing and is_debian():
        say(f"not installed: {', '.join(missing)} (the lab says so if it comes to need them)")


def install(packages: tuple[str, ...] | list[str], say: Say) -> None:
    """apt-get install, announced before it happens."""
    wanted = list(packages)
    if "docker.io" in wanted:
        say("no Docker engine answers")
    say(f"installing with apt-get: {' '.join(wanted)}")
    apt("update")
    if "docker.io" in wanted and known("docker-cli"):
        wanted.append("docker-cli")  # Debian 13 ships the client apart and only recommends it
    apt("install", "-y", "--no-install-recommends", *wanted)
    say("installed")


def known(package: str) -> bool:
    done = run(["apt-cache", "policy", package], timeout=30)
    return bool(re.search(rb"Candidate: (?!\(none\))", done.stdout))


def apt(*argv: str) -> None:
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    done = run([*environment, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=60", *argv], timeout=600)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        errors = [line for line in said if line.startswith("E:")][:3] or said[-3:]  # one for each package else
        raise LabError(f"apt-get {argv[0]} failed: {' / '.join(errors)}. Next: apt-get {' '.join(argv)}")


def start(say: Say) -> None:
    """Start dockerd, by systemd or, on a machine without it, by hand; return when it answers."""
    version, _ = answer()  # the package's own scripts may have started it
    if not version:
        if has_systemd():
            say("starting Docker (systemctl start docker)")
            done = run(["systemctl", "start", "docker"], timeout=90)
            if done.returncode != 0:
                raise LabError("Docker did not start. Next: journalctl -u docker -n 30 --no-pager")
            process = None
        else:
            say(f"starting dockerd in the background (no systemd here); its log: {LOG}")
            process = spawn()
        version = wait_for_engine(process)
    say(f"Docker Engine {version} answers")


def spawn() -> subprocess.Popen[bytes]:
    """dockerd in a session of its own, so that it outlives this terminal. It writes /var/run/docker.pid itself."""
    with LOG.open("ab") as log:
        return subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )


def wait_for_engine(process: subprocess.Popen[bytes] | None) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        version, _ = answer()
        if version:
            return version
        if process and process.poll() is not None:
            raise LabError(f"dockerd ended with status {process.returncode}: {log_tail()}. Next: less {LOG}")
        time.sleep(0.2)
    raise LabError(f"dockerd did not answer within {START_S} s: {log_tail()}. Next: less {LOG}")


def log_tail() -> str:
    lines = LOG.read_text(errors="replace").splitlines() if LOG.exists() else []
    return " / ".join(lines[-3:]) or "its log is empty"


if __name__ == "__main__":
    sys.exit(as_program(ensure))
