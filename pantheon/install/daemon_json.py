"""Docker's daemon.json: bounded logs, and the nvidia runtime (procedure §2), merged into what is there."""

from __future__ import annotations

import json
from typing import Any

from pantheon.evidence import Dockerd, Evidence
from pantheon.facts import Docker, Facts, Unknown
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.inventory import Host
from pantheon.packages import DaemonJson, Packages
from pantheon.plan import Change, Guard, Mend

PATH = "/etc/docker/daemon.json"
BOM = "\ufeff"  # dockerd takes one
ANSWER_S = 60  # until the engine answers after a restart
TIMEOUT_S = 2 * (150 + ANSWER_S) + 120


def blocked(host: Host, evidence: Evidence) -> list[Finding]:
    """A file that is not JSON, or that could not be read, or one that cannot be rewritten as it is: it is never
    overwritten."""
    packages = evidence.packages
    found = packages.daemon_json if isinstance(packages, Packages) else None
    mend = f"mend it, then the same command again: {host.ssh(f'sudoedit {PATH}')}"
    if isinstance(found, Unknown):
        return [Finding("prereqs.daemon-json", "unknown", f"{PATH}: not known", found.reason, mend, apt.WHY)]
    if not isinstance(found, DaemonJson):
        return []
    try:
        config = _config(found)
    except json.JSONDecodeError as error:
        lines = found.text.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        text = f"{PATH} is broken: line {error.lineno}, column {error.colno}: {error.msg}"
        return [Finding("prereqs.daemon-json", "fail", text, line[:200], mend, apt.WHY)]
    if not isinstance(config, dict):
        return [Finding("prereqs.daemon-json", "fail", f"{PATH} holds no object", "", mend, apt.WHY)]
    return []


def left_alone(host: Host, evidence: Evidence, planned: list[Change]) -> list[Finding]:
    """A file that dockerd may well take, and that is not rewritten, where `planned` wants something put into it."""
    packages = evidence.packages
    found = packages.daemon_json if isinstance(packages, Packages) else None
    steps = [step for change in planned for step in change.steps if isinstance(step, Mend)]
    writes = any(step.arguments["log"] or step.arguments["nvidia"] for step in steps)
    if not writes or not isinstance(found, DaemonJson) or not (why := found.odd or _twice(found)):
        return []
    text = f"{PATH} is to be changed ({', '.join(change.what.partition(';')[0] for change in planned)}), and {why}"
    mend = f"make it a plain file, then the same command again: {host.ssh(f'ls -l {PATH}')}"
    return [Finding("prereqs.daemon-json", "fail", text, "pantheon leaves it alone", mend, apt.WHY)]


def _twice(found: DaemonJson) -> str:
    """A key that is in one object twice: one of both would get lost."""
    seen: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        seen.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    json.loads(found.text.removeprefix(BOM).strip() or "{}", object_pairs_hook=note)
    return f"has {seen[0]} twice" if seen else ""


def _config(found: DaemonJson) -> Any:
    text = found.text.removeprefix(BOM)
    return json.loads(text) if text.strip() else {}


def changes(
    facts: Facts, evidence: Evidence, *, toolkit: bool, is_new: bool, stops: tuple[str, ...] = ()
) -> list[Change]:
    """The file merged and the engine restarted, if either is needed. `toolkit`: the toolkit is there, or will be by
    then; `is_new`: it, or the engine, is installed in this run, and the engine finds its hook only when it starts.
    `stops` is what runs in containers. With an engine that is down it would not be known whether the file is to blame:
    ask only where it answers, or is about to come."""
    packages = evidence.packages
    found = packages.daemon_json if isinstance(packages, Packages) else None
    config = _config(found) if isinstance(found, DaemonJson) else {}
    options = _options(evidence)
    log = _wants_rotation(config) and not {"--log-driver", "--log-opt"} & options
    runtimes = config.get("runtimes")
    known = isinstance(runtimes, dict) and "nvidia" in runtimes
    nvidia = toolkit and not known and "--add-runtime" not in options
    restart = toolkit and (is_new or _is_stale(facts, evidence))
    if not (log or nvidia or restart):
        return []
    about = (["log rotation"] if log else []) + (["the nvidia runtime"] if nvidia else [])
    what = f"daemon.json: {', '.join(about)}; the engine restarts" if about else "restart Docker's engine"
    why = "merged, and checked by dockerd first (§2)"
    if not about:
        why = "it looks for the NVIDIA Container Toolkit when it starts (§2)"
    arguments = {"path": PATH, "log": log, "nvidia": nvidia, "restart": restart, "answer_s": ANSWER_S}
    parts = [*about, "checked by dockerd --validate"] if about else []
    says = f"merge into {PATH}: {', '.join(parts)}; restart Docker" if about else "restart Docker"
    reading = found.sha256 if isinstance(found, DaemonJson) else "missing"
    step = Mend("daemon_json", arguments, says, guards=(Guard("sha256", PATH, reading),), timeout_s=TIMEOUT_S)
    is_there = isinstance(found, DaemonJson)
    return [Change(what, why, (step,), stops=stops, sign="~" if is_there or not about else "+")]


def _wants_rotation(config: dict[str, Any]) -> bool:
    """Logs of containers grow without bound: json-file, the default, has none of itself."""
    options = {} if config.get("log-opts") is None else config["log-opts"]
    return (
        config.get("log-driver", "json-file") == "json-file" and isinstance(options, dict) and "max-size" not in options
    )


def _options(evidence: Evidence) -> set[str]:
    """Options of the dockerd that runs: what is said there may not be said in the file as well."""
    argv = evidence.dockerd.argv if isinstance(evidence.dockerd, Dockerd) else ()
    return {word.partition("=")[0] for word in argv if word.startswith("--")}


def _is_stale(facts: Facts, evidence: Evidence) -> bool:
    """The engine that runs has not read the file, or started before the toolkit was there."""
    docker = facts.docker
    if not isinstance(docker, Docker) or not isinstance(docker.engine, str) or not isinstance(docker.root, str):
        return False
    return "nvidia" not in docker.runtimes or evidence.engine_has_hook is False
