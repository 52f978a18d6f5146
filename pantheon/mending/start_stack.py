"""Waits until the engine answers, then starts the containers of the stack that were up and did not come back.

Arguments: {"project": NAME, "names": [NAME, ...] or null, "deadline_s": SECONDS, "calm_s": SECONDS}. `names` are
started, Ollama first; null means every container with the label pantheon.project=NAME. A container that runs, or that
the engine is just starting by itself, is left alone, and so is whatever has not our label.
"""

from __future__ import annotations

import json
import sys
import time

from pantheon.mending.commands import docker
from pantheon.mending.words import Failed

CALM_S = 2.0  # how long the engine is given to start its containers by itself
POLL_S = 0.3
ORDER = ("ollama", "comfy", "openwebui")  # Open WebUI asks Ollama


def wait(deadline_s: float) -> None:
    """Until the engine answers."""
    end, said = time.monotonic() + deadline_s, ""
    while time.monotonic() < end:
        status, said = docker("version", "--format", "{{.Server.Version}}", timeout_s=10)
        if status == 0:
            print(f"Docker Engine {said} answers", flush=True)
            return
        time.sleep(POLL_S)
    raise Failed(f"Docker does not answer after {deadline_s:g} s: {said.splitlines()[-1] if said else 'no word'}")


def ours(project: str) -> dict[str, str]:
    """State by name of the containers of the stack."""
    status, text = docker(
        *("ps", "-a", "--no-trunc", "--filter", f"label=pantheon.project={project}"),
        *("--format", '{"name": {{json .Names}}, "state": {{json .State}}}'),
    )
    if status:
        raise Failed(f"docker ps: {text.splitlines()[-1] if text else status}")
    rows = [json.loads(line) for line in text.splitlines()]
    return {str(row["name"]): str(row["state"]) for row in rows}


def place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def start(project: str, names: list[str] | None, calm_s: float) -> None:
    """Raises Failed with the engine's own words for the containers that it cannot start."""
    end = time.monotonic() + calm_s
    while True:
        states = ours(project)
        wanted = sorted(states if names is None else [name for name in names if name in states], key=place)
        down = [name for name in wanted if states[name] not in ("running", "restarting")]
        if not down or time.monotonic() > end:
            break
        time.sleep(POLL_S)
    wrong = []
    for name in down:
        status, said = docker("unpause" if states[name] == "paused" else "start", name, timeout_s=120)
        print(f"{name}: started" if status == 0 else f"{name}: {said}", flush=True)
        if status:
            wrong.append(f"{name}: {said.splitlines()[0] if said else status}")
    for name in wanted:
        if name not in down:
            print(f"{name}: is up", flush=True)
    if wrong:
        raise Failed("cannot be started: " + "; ".join(wrong))


def main(arguments: dict[str, object]) -> int:
    names, calm_s = arguments.get("names"), float(str(arguments.get("calm_s", CALM_S)))
    try:
        wait(float(str(arguments.get("deadline_s") or 60)))
        start(str(arguments["project"]), [str(name) for name in names] if isinstance(names, list) else None, calm_s)
    except Failed as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
