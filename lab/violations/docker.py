"""Docker as it should not be: the snap, half-installed, elsewhere, with its API on the network."""

from __future__ import annotations

from lab.machine import Lab
from lab.violations import Violation

COMPOSE = "docker-compose"
STATUS = "/var/lib/dpkg/status"
API = "v-docker-api"


def hide_compose(lab: Lab) -> None:
    lab.sh('for path in /usr/libexec/docker/cli-plugins/$1 /usr/lib/docker/cli-plugins/$1; do '
           '[ ! -e "$path" ] || mv "$path" "$path.away"; done', COMPOSE)  # fmt: skip


def show_compose(lab: Lab) -> None:
    lab.sh('for path in /usr/libexec/docker/cli-plugins/$1 /usr/lib/docker/cli-plugins/$1; do '
           '[ ! -e "$path.away" ] || mv "$path.away" "$path"; done', COMPOSE)  # fmt: skip


def snap(lab: Lab) -> None:
    lab.sh("mkdir -p /snap/bin; echo '#!/bin/sh' >/snap/bin/docker; chmod 755 /snap/bin/docker")


def no_snap(lab: Lab) -> None:
    lab.sh("rm -f /snap/bin/docker; rmdir /snap/bin /snap 2>/dev/null || true")


def record(lab: Lab, before: str, after: str) -> None:
    """The state of the engine's package in dpkg's record: `half-configured` is what an interrupted dpkg leaves."""
    change = f"/^Package: docker(-ce|.io)$/,/^$/s/^Status: install ok {before}$/Status: install ok {after}/"
    lab.sh('sed -i -E "$2" "$1"', STATUS, change)


def half_configured(lab: Lab) -> None:
    record(lab, "installed", "half-configured")


def configured(lab: Lab) -> None:
    record(lab, "half-configured", "installed")


def open_api(lab: Lab) -> None:
    """A relay to the engine's socket, by systemd itself."""
    lab.sh(
        """
        systemctl reset-failed "$1" "$1.socket" 2>/dev/null || true
        systemd-run -q --unit="$1" --socket-property=ListenStream=0.0.0.0:2375 \
            /usr/lib/systemd/systemd-socket-proxyd /run/docker.sock
        for _ in $(seq 100); do ss -ltn | grep -qF 0.0.0.0:2375 && exit; sleep 0.05; done; exit 1
        """,
        API,
    )


def close_api(lab: Lab) -> None:
    lab.sh('systemctl stop "$1.socket" "$1.service" 2>/dev/null || true', API)


def take_socket(lab: Lab) -> None:
    """Somebody has tidied up /run: the engine runs, and nobody can ask it anything."""
    lab.sh("mv /run/docker.sock /run/docker.sock.away")


def give_socket(lab: Lab) -> None:
    lab.sh("[ ! -e /run/docker.sock.away ] || mv /run/docker.sock.away /run/docker.sock")


VIOLATIONS = (
    Violation("docker.compose", "Docker Compose v2 is not installed", hide_compose, show_compose),
    Violation("docker.snap", "/snap/bin/docker", snap, no_snap),
    Violation("docker.apt", "half-configured", half_configured, configured, round="no-socket"),
    Violation("docker.api", "2375", open_api, close_api),
    Violation("docker.engine", "Docker Engine does not answer", take_socket, give_socket, round="no-socket"),
)

IMPOSSIBLE = {"docker.neighbours": "it wants an engine older than 28, and the lab has none"}
