"""Docker itself: client, Compose, engine and what is configured of it (DOMAIN.md, Docker and Compose)."""

from __future__ import annotations

import json
import os
import re
import time

from pantheon.looks import work
from pantheon.looks.files import Ground, read_text, which
from pantheon.looks.text import Json, Object, Unread, shown, unknown, without_login
from pantheon.looks.work import attempt, is_unknown

PLUGINS = (  # where the client looks for plugins, in its order
    *("/root/.docker/cli-plugins", "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins"),
    *("/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins"),
)


def compose(root: str) -> str | None:
    """The version of Compose v2; None when the client has no such plugin. The plugin itself is asked, which takes a
    third of the time; where that does not work, `docker compose version` has the word."""
    if not which("docker"):
        return None
    plugins = [path for path in (f"{root}{folder}/docker-compose" for folder in PLUGINS) if os.access(path, os.X_OK)]
    end = time.monotonic() + work.PART_S - 0.1
    result: Object = {"status": 1, "output": ""}
    for argv in ([plugins[0]] if plugins else [], ["docker", "compose"]):
        if argv:
            result = work.command([*argv, "version", "--short"], end - time.monotonic())
            found = re.search(r"^v?(\d[\w.+~-]*)\s*$", result["output"], re.MULTILINE)
            if result["status"] == 0 and found:
                return found[1]
    if not plugins:
        return None
    raise Unread(f"docker compose version: exit {result['status']}: {result['output'][:200]}")


def snap(root: str, docker_root: Json) -> str | None:
    """What shows that Docker is the snap (DOMAIN.md, Docker and Compose); None when nothing does."""
    if isinstance(docker_root, str) and docker_root.startswith("/var/snap/"):
        return f"Docker's root directory is {docker_root}"
    path = which("docker")
    real = os.path.realpath(path) if path else ""
    if path and ("/snap/" in path or "/snap/" in real or real.endswith("/bin/snap")):
        return f"the docker command is {path}"
    if os.path.lexists(f"{root}/snap/bin/docker"):
        return "/snap/bin/docker exists"
    return None


def daemon_json(root: str) -> str | None:
    """The text of daemon.json without the passwords of its proxies; None when there is no such file."""
    text = read_text(f"{root}/etc/docker/daemon.json")
    return None if text is None else without_login(text)


def configured_tcp(root: str, daemon_json: Json) -> list[str]:
    """TCP addresses of the API in daemon.json, in the systemd unit and in its socket, each with its place."""
    out = []
    if isinstance(daemon_json, str):
        try:
            hosts = json.loads(daemon_json or "{}").get("hosts") or []
            out += [f"{host} (/etc/docker/daemon.json)" for host in hosts if is_tcp(str(host))]
        except (ValueError, AttributeError, TypeError):
            pass  # daemon.json itself is in the facts: judging it is not the probe's work
    for unit, key in (("docker.service", "ExecStart"), ("docker.socket", "ListenStream")):
        for value, place in unit_values(root, unit, key):
            if key == "ListenStream":
                if not value.startswith("/") and value:
                    out.append(f"{value} ({place})")
                continue
            words = value.split()
            for index, word in enumerate(words):
                address = words[index + 1] if word in ("-H", "--host") and index + 1 < len(words) else ""
                if word.startswith(("-H", "--host=")) and not address:
                    address = word.removeprefix("--host=").removeprefix("-H").lstrip("=")
                address = address.strip("\"'")
                if is_tcp(address):
                    out.append(f"{address} ({place})")
    return out


def is_tcp(address: str) -> bool:
    return address.startswith(("tcp://", "http://")) or (bool(address) and "://" not in address and address[0] != "/")


def unit_values(root: str, unit: str, key: str) -> list[tuple[str, str]]:
    """The values of `key` as systemd would take them, with the file of each: /etc before /run before /usr/lib, then
    drop-ins by name; an empty value forgets the earlier ones."""
    places = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
    files = [f"{place}/{unit}" for place in (*places, "/lib/systemd/system")]
    files = [path for path in files if os.path.exists(root + path)][:1]
    drop_ins: dict[str, str] = {}
    for place in places:
        try:
            for name in os.listdir(f"{root}{place}/{unit}.d"):
                if name.endswith(".conf"):
                    drop_ins.setdefault(name, f"{place}/{unit}.d/{name}")
        except OSError:
            continue
    out: list[tuple[str, str]] = []
    for path in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        try:
            text = read_text(root + path) or ""
        except (OSError, Unread):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and name.strip() == key:
                out = [*out, (value.strip(), path)] if value.strip() else []
    return out


def cdi(root: str) -> list[str]:
    """Files that describe the cards to container engines."""
    out = []
    for folder in ("/etc/cdi", "/var/run/cdi"):
        try:
            names = sorted(os.listdir(root + folder))
        except OSError:
            continue
        out += [f"{folder}/{shown(name)}" for name in names if name.endswith((".yaml", ".json", ".yml"))]
    return out


def image_store(info: Object) -> str:
    """Where the layers of pulled images land: containerd's root where the engine keeps its images in containerd."""
    status = dict(pair for pair in info.get("DriverStatus") or () if isinstance(pair, list) and len(pair) == 2)
    if "containerd" in str(status.get("driver-type", "")):
        return "/var/lib/containerd"
    return str(info.get("DockerRootDir") or "")


def name_containers(root: str, document: Object, addresses: dict[str, str], daemon_json: Json) -> list[str]:
    """Puts containers' names where ids were found, and returns where Docker's own API listens on TCP: sockets of
    dockerd that are no container's published port, none of Swarm's and not the one for metrics."""
    starts = " ".join(value for value, _ in unit_values(root, "docker.service", "ExecStart"))
    text = f"{daemon_json if isinstance(daemon_json, str) else ''} {starts}"
    metrics = re.search(r'metrics-addr["\s:=]+[^"\s]*:(\d+)', text)
    others = {2377, 7946, int(metrics[1]) if metrics else 0}
    containers = document["containers"] if isinstance(document["containers"], list) else []
    names = {container["id"]: container["name"] for container in containers}
    published = {
        (port["address"] or "0.0.0.0", port["port"]): container["name"]  # noqa: S104 (compared, not bound)
        for container in containers
        if container["state"] in ("running", "restarting", "paused")
        for port in container["ports"]
    }
    if isinstance(document["nvml"], dict):
        for gpu in document["nvml"].get("gpus", ()):
            for process in gpu["processes"]:
                process["container"] = names.get(process["container"], "")
    api = []
    for row in document["listeners"] if isinstance(document["listeners"], list) else ():
        inside = re.search(r"-container-ip (\S+)", row.pop("argv"))
        row["container"] = names.get(row["container"], "")
        if inside:
            row["container"] = addresses.get(inside[1], "")
        if not row["container"] and row["process"] in ("dockerd", "docker-proxy"):
            row["container"] = published.get((row["address"], row["port"]), "")
        if row["process"] == "dockerd" and not row["container"] and row["port"] not in others:
            address = f"[{row['address']}]" if ":" in row["address"] else row["address"]
            api.append(f"tcp://{address}:{row['port']} (dockerd listens there)")
    return api


def join(root: str, answers: Object, api: list[str]) -> Object:
    """facts.Docker from what its parts said."""
    version, info = answers["version"], answers["info"]

    def pick(source: Json, key: str) -> Json:
        return source if is_unknown(source) or source is None else source.get(key)

    place = pick(info, "DockerRootDir")
    return {
        "client": answers["client"],
        "engine": pick(version, "Version"),
        "api": pick(version, "ApiVersion"),
        "compose": answers["compose"],
        "snap": snap(root, place),
        "root": place,
        "driver": pick(info, "Driver"),
        "runtimes": sorted((info or {}).get("Runtimes") or ()) if not is_unknown(info) else [],
        "cdi": answers["cdi"] if isinstance(answers["cdi"], list) else [],
        "daemon_json": answers["daemon_json"],
        "tcp": [*configured_tcp(root, answers["daemon_json"]), *api],
    }


def spaces(root: str, info: Json) -> Object:
    """Room where Docker keeps its data ("docker") and where the layers of pulled images land ("images"). `info` is None
    without Docker."""
    if is_unknown(info) or info is None:
        return {"docker": info, "images": info}
    ground = Ground(root)
    places = {"docker": str(info.get("DockerRootDir") or ""), "images": image_store(info)}
    return {
        name: attempt(ground.space, path) if path else unknown("Docker did not name its root")
        for name, path in places.items()
    }
