"""Containers run as they should not be: by hand, in the way that people do."""

from __future__ import annotations

from lab.machine import Lab
from lab.violations import Violation


def run(lab: Lab, name: str, *options: str) -> None:
    """A container of somebody's own, which only sleeps."""
    lab.sh(
        """
        name=$1; shift
        image=$(docker inspect -f '{{.Config.Image}}' ollama)
        docker run -d --name "$name" --entrypoint sleep "$@" "$image" infinity
        """,
        name,
        *options,
    )


def remove(lab: Lab, name: str) -> None:
    lab.sh('docker rm -f "$1" 2>/dev/null || true', name)


BOUNDED = ("--log-opt", "max-size=1m", "--restart", "always")


def own(control: str, name: str, says: str, *options: str) -> Violation:
    """A violation by a container of its own, made with these options of `docker run`."""
    return Violation(control, f"{name}: {says}", lambda lab: run(lab, name, *options), lambda lab: remove(lab, name))


VIOLATIONS = (
    own(
        "containers.log-rotation",
        "v-log",
        "json-file without max-size",
        "--log-driver",
        "json-file",
        "--restart",
        "always",
    ),
    own("containers.restart", "v-restart", "restart policy 'no'", "--log-opt", "max-size=1m"),
)
