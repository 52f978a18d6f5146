"""Docker: the engine from packages, not the snap, and nothing of its API on the network (procedure §2, system page)."""

from __future__ import annotations

from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import command, missing, not_applicable, of, passed, unknown
from pantheon.facts import Docker, Unknown
from pantheon.fixes import exposed_ports
from pantheon.incident import Case
from pantheon.sections import prereqs

ROOT = "/var/lib/docker"
PACKAGES = ("docker-ce", "docker.io")


def _docker(case: Case) -> Docker | Verdict:
    found = case.facts.docker
    if isinstance(found, Docker):
        return found
    if found is None:
        return Verdict("fail", "Docker Engine is not installed", command(case, "prereqs", "--install"))
    return unknown(found, mend=command(case, "prereqs"))


def engine(case: Case) -> Verdict:
    return of(case, prereqs.check(case.host, case.facts), "prereqs.docker")


def compose(case: Case) -> Verdict:
    docker = _docker(case)
    return docker if isinstance(docker, Verdict) else of(
        case, prereqs.check(case.host, case.facts), "prereqs.compose"
    )  # fmt: skip


def snap(case: Case) -> Verdict:
    docker = case.facts.docker
    if docker is None:
        return not_applicable("there is no Docker")
    if isinstance(docker, Unknown):
        return unknown(docker)
    return of(case, prereqs.check(case.host, case.facts), "prereqs.docker-snap", otherwise=passed("no snap of Docker"))


def apt(case: Case) -> Verdict:
    docker, installed = case.facts.docker, case.evidence.installed
    if docker is None:
        return not_applicable("there is no Docker")
    known = {name: installed.get(name, Unknown("not asked")) for name in PACKAGES}
    there = [f"{name} {version}" for name, version in known.items() if isinstance(version, str)]
    broken = [text for text in there if text.endswith(")")]  # half-installed, half-configured, unpacked
    mend = command(case, "prereqs", "--install")
    if broken:
        return Verdict("fail", "; ".join(broken), mend)
    if there:
        return passed(", ".join(there))
    unread = next((version for version in known.values() if isinstance(version, Unknown)), None)
    if unread is not None:
        return unknown(unread)
    text = "no package of Docker's engine is installed (docker-ce, docker.io)"
    if isinstance(docker, Docker) and isinstance(docker.snap, str):
        return Verdict("fail", f"{text}; it is the snap", command(case, "prereqs", "--install", "--remove-snap"))
    by_hand = f"remove it as it was installed ({case.host.ssh('which -a docker dockerd')}), then: {mend}"
    return Verdict("fail", f"{text}: it was put there by hand", by_hand)


def root(case: Case) -> Verdict:
    docker = case.facts.docker
    if docker is None:
        return not_applicable("there is no Docker")
    if not isinstance(docker, Docker):
        return unknown(docker)
    if not isinstance(docker.root, str):
        return unknown(missing(docker.root, "the engine does not say"), mend=command(case, "diagnose"))
    if docker.root == ROOT:
        return passed(docker.root)
    mend = 'take "data-root" out of /etc/docker/daemon.json, or waive it in hosts.toml: images are pulled again'
    return Verdict("fail", f"Docker's root is {docker.root}, not {ROOT}", mend)


def api(case: Case) -> Verdict:
    """Whoever reaches it is root on the host."""
    docker = case.facts.docker
    if docker is None:
        return not_applicable("there is no Docker")
    if isinstance(docker, Unknown):
        return unknown(docker)
    found = exposed_ports.diagnose(case)
    ids = {
        f.id for f in found if f.id == "exposed-ports.docker-api" or f.id.rpartition("-")[2] in exposed_ports.API_PORTS
    }
    ids |= {f.id for f in found if "passes Docker's API on" in f.text}
    if ids:
        return of(case, found, *ids)
    if not isinstance(case.facts.listeners, tuple):
        return unknown(case.facts.listeners)
    return passed("neither dockerd nor anything on its ports listens beyond loopback")


def neighbours(case: Case) -> Verdict:
    """Before 28, the engine's rules let machines of the same segment reach what is published on loopback."""
    docker = case.facts.docker
    if docker is None:
        return not_applicable("there is no Docker")
    version = docker.engine if isinstance(docker, Docker) else docker
    if not isinstance(version, str):
        return unknown(missing(version, "Docker is not there"))
    major = version.partition(".")[0]
    if not major.isdigit():
        return unknown(Unknown(f"the engine says that it is {version}"))
    if int(major) >= 28:
        return passed(f"engine {version}")
    text = f"engine {version}: neighbours on the same segment can reach ports on 127.0.0.1; 28 and later drop that"
    return Verdict("fail", text, _upgrade(case))


def _upgrade(case: Case) -> str:
    """By hand: `prereqs --install` upgrades an engine that is too old for the stack, and this one is not."""
    there = [name for name in PACKAGES if isinstance(case.evidence.installed.get(name), str)]
    if not there:
        return "upgrade it as it was installed"
    names = "docker-ce docker-ce-cli containerd.io" if there[0] == "docker-ce" else there[0]
    stops = "its containers stop and start"
    return f"{case.host.ssh(f'sudo apt-get update && sudo apt-get install --only-upgrade {names}')}  ({stops})"


CONTROLS = (
    Control("docker.engine", "Docker Engine is installed, answers and is recent enough", "high",
            "procedure §2; system page, Services Hosted", engine),
    Control("docker.compose", "The Compose plugin is installed", "high", "system page, Services Hosted", compose),
    Control("docker.snap", "Docker is not the snap", "high", "procedure §2; system page, Operating System", snap),
    Control("docker.apt", "Docker comes from an apt package", "medium", "system page, Operating System", apt),
    Control("docker.root", "Docker keeps images and layers in /var/lib/docker", "low", "system page, Storage Layout",
            root),
    Control("docker.api", "Docker's API is not on the network", "critical", "system page, Security Posture", api),
    Control("docker.neighbours", "The engine keeps neighbours away from what is published on loopback", "medium",
            "procedure §5", neighbours),
)  # fmt: skip
