"""Every container on the host as facts.Container, from the Docker Engine's inspections."""

from __future__ import annotations

import time
from collections.abc import Iterable

from pantheon.looks import work
from pantheon.looks.engine import Engine, Images, Missing, pairs_of
from pantheon.looks.logs import read_log
from pantheon.looks.text import (
    LABEL_CHARS,
    SECRET_NAME,
    Json,
    Object,
    keyed_digest,
    masked_argv,
    plain,
    unknown,
    why,
    without_login,
)

SHM = 64 << 20  # bytes, where nobody said how much
LOGS = 40  # containers whose log is read, those that were asked about first

BLANK: Object = {  # facts.Container of which nothing is known yet
    **dict.fromkeys(("id", "name", "image", "image_id", "state", "error", "started_at", "finished_at", "user"), ""),
    **dict.fromkeys(("restart_policy", "gpus", "log_driver", "unread", "network_mode", "workdir"), ""),
    **dict.fromkeys(("health", "log_markers", "gpu_seen")),
    **dict.fromkeys(("exit_code", "restarts", "memory", "restart_retries"), 0),
    **dict.fromkeys(("oom_killed", "privileged", "init", "log_complete", "auto_remove"), False),
    **dict.fromkeys(
        ("ports", "mounts", "command", "entrypoint", "networks", "cap_add", "cap_drop", "security_opt", "settings"), ()
    ),
    "env": {},
    "labels": {},
    "log_options": {},
    "log": (),
}


class Containers:
    """Every container on the host: one list, then inspections side by side, then logs: a log that hangs must not keep
    an inspection waiting."""

    def __init__(self, engine: Engine, images: Images, spec: Object) -> None:
        self.engine = engine
        self.images = images
        self.spec = spec
        self.root = str(spec.get("root") or "")
        self.end = time.monotonic() + work.PART_S
        self.markers: dict[str, list[str]] = spec.get("log_markers") or {}
        self.asked = {*self.markers, *(spec.get("gpu_in") or ())}
        self.addresses: dict[str, str] = {}  # address on a Docker network -> name

    def look(self) -> list[Object]:
        summaries = self.engine.get("/containers/json?all=1", self.end)
        summaries.sort(key=lambda summary: (own_name(summary) not in self.asked, own_name(summary)))
        out: dict[str, Object] = {}
        logs: list[tuple[Object, Object]] = []

        def inspect(summary: Object) -> None:
            try:
                found = self.engine.get(f"/containers/{summary['Id']}/json", self.end)
                out[summary["Id"]] = self.inspected(found)
                logs.append((out[summary["Id"]], found))
            except Missing:
                pass  # removed between the list and now
            except Exception as error:
                out[summary["Id"]] = self.summarised(summary, why(error))

        def read(pair: tuple[Object, Object]) -> None:
            container, found = pair
            markers, keep = self.markers.get(container["name"]), int(self.spec.get("log_tail") or 50)
            try:
                container |= read_log(self.engine, found, markers, keep=keep, end=self.end, root=self.root)
            except Exception as error:
                container.update(log=unknown(why(error)), log_markers=unknown(why(error)))

        work.each(summaries, inspect)
        logs.sort(key=lambda pair: (pair[0]["name"] not in self.asked, pair[0]["name"]))
        for container, _ in logs[LOGS:]:
            container["log"] = unknown(f"not read: only the logs of the first {LOGS} containers are")
        work.each(logs[:LOGS], read)
        return [out[summary["Id"]] for summary in summaries if summary["Id"] in out]

    def inspected(self, found: Object) -> Object:
        """facts.Container, its log still to come."""
        state, config, host = found["State"], found["Config"], found["HostConfig"]
        log_config = host.get("LogConfig") or {}
        networks = found["NetworkSettings"].get("Networks") or {}
        name = found["Name"].lstrip("/")
        for network in networks.values():
            for key in ("IPAddress", "GlobalIPv6Address"):
                if network.get(key):
                    self.addresses[network[key]] = name
        return {
            **BLANK,
            **condition(found),
            "id": found["Id"],
            "name": name,
            "image": config.get("Image") or "",
            "image_id": found.get("Image") or "",
            "oom_killed": bool(state.get("OOMKilled")),
            "started_at": state.get("StartedAt") or "",
            "finished_at": state.get("FinishedAt") or "",
            "user": config.get("User") or "",
            "ports": ports(found["NetworkSettings"].get("Ports"), host.get("PortBindings")),
            "mounts": mounts_of(found.get("Mounts") or [], host.get("Tmpfs") or {}, host.get("Mounts") or ()),
            "env": self.environment(pairs_of(config), found.get("Image") or "", config.get("Image") or ""),
            "labels": labels(config.get("Labels") or {}),
            "command": masked_argv(config.get("Cmd") or ()),
            "entrypoint": masked_argv(config.get("Entrypoint") or ()),
            "networks": sorted(networks),
            "restart_policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
            "restart_retries": (host.get("RestartPolicy") or {}).get("MaximumRetryCount") or 0,
            "auto_remove": bool(host.get("AutoRemove")),
            "network_mode": host.get("NetworkMode") or "",
            "workdir": config.get("WorkingDir") or "",
            "cap_add": [capability.removeprefix("CAP_") for capability in host.get("CapAdd") or ()],
            "cap_drop": [capability.removeprefix("CAP_") for capability in host.get("CapDrop") or ()],
            "security_opt": host.get("SecurityOpt") or [],
            "privileged": bool(host.get("Privileged")),
            "init": bool(host.get("Init")),
            "memory": host.get("Memory") or 0,
            "gpus": gpus(host.get("DeviceRequests") or ()),
            "settings": settings(host),
            "log_driver": log_config.get("Type") or "",
            "log_options": log_config.get("Config") or {},
        }

    def summarised(self, summary: Object, reason: str) -> Object:
        """facts.Container from the list's entry alone, when its inspection failed."""
        published = [at for at in summary.get("Ports") or () if at.get("PublicPort")]
        return {
            **BLANK,
            "id": summary["Id"],
            "name": own_name(summary),
            "image": summary.get("Image") or "",
            "image_id": summary.get("ImageID") or "",
            "state": summary.get("State") or "",
            "ports": [port(f"{at['PrivatePort']}/{at['Type']}", at.get("IP"), at["PublicPort"]) for at in published],
            "mounts": mounts_of(summary.get("Mounts") or [], {}),
            "labels": labels(summary.get("Labels") or {}),
            "networks": sorted((summary.get("NetworkSettings") or {}).get("Networks") or {}),
            "log": unknown(reason),
            "log_markers": unknown(reason),
            "unread": " ".join(reason.split()) or "not inspected",
        }

    def environment(self, pairs: list[tuple[str, str]], image: str, reference: str) -> Object:
        """facts.EnvValue by name: in the clear only what was asked for, everything else as a keyed digest."""
        in_image = self.images.environment(image, reference) if pairs else set()
        clear, nonce = set(self.spec.get("plain_env") or ()), str(self.spec.get("nonce", ""))
        return {
            name: {
                "value": without_login(value) if name in clear else None,
                "digest": keyed_digest(nonce, value.encode("utf-8", "surrogatepass")),
                "from_image": f"{name}={value}" in in_image,
            }
            for name, value in pairs
        }


def own_name(summary: Object) -> str:
    """A container's own name: the others in the list are aliases that links gave it."""
    names = [name for name in summary.get("Names") or () if name.count("/") == 1]
    return names[0].lstrip("/") if names else str(summary["Id"])[:12]


def condition(found: Object) -> Object:
    """What changes about a container while it comes up: of facts.Container, and of a frame of the watch."""
    state = found["State"]
    health = (state.get("Health") or {}).get("Status")
    return {
        "state": state.get("Status") or "",
        "health": None if health in (None, "", "none") else str(health),
        "restarts": found.get("RestartCount") or 0,
        "exit_code": state.get("ExitCode") or 0,
        "error": plain(state.get("Error") or ""),
    }


def port(inside: str, address: str | None, number: int) -> Object:
    """facts.Port"""
    return {"container_port": inside, "address": address or "", "port": number}


def ports(published: Json, bindings: Json) -> list[Object]:
    """facts.Port: what is published now, or what would be if the container ran."""
    out = []
    for source in (published, bindings):
        for inside, places in sorted((source or {}).items()):
            for place in places or ():
                number = place.get("HostPort") or "0"
                out.append(port(inside, place.get("HostIp"), int(number) if number.isdigit() else 0))
        if out:
            break
    return out


def mounts_of(mounts: Iterable[Object], tmpfs: Object, asked: Iterable[Object] = ()) -> list[Object]:
    """facts.ContainerMount. Of a volume the engine tells where it lies, and not which part of it was asked for."""
    parts = {mount.get("Target"): (mount.get("VolumeOptions") or {}).get("Subpath") for mount in asked}
    out = [
        {
            "type": mount.get("Type") or "",
            "source": "/".join(filter(None, (mount.get("Source"), parts.get(mount.get("Destination"))))),
            "target": mount.get("Destination") or "",
            "writable": bool(mount.get("RW")),
            "name": mount.get("Name") or "",
        }
        for mount in mounts
    ]
    there = {mount["target"] for mount in out}
    for target, options in sorted(tmpfs.items()):
        if target not in there:
            writable = "ro" not in str(options).split(",")
            out.append({"type": "tmpfs", "source": "", "target": target, "writable": writable, "name": ""})
    return sorted(out, key=lambda mount: str(mount["target"]))


def labels(found: dict[str, str]) -> dict[str, str]:
    return {
        name: "***" if SECRET_NAME.search(name) else without_login(value)[:LABEL_CHARS] for name, value in found.items()
    }


def settings(host: Object) -> list[str]:
    """facts.Container.settings, of what has no field of its own."""
    found = []
    if (size := host.get("ShmSize") or 0) not in (0, SHM):
        found.append(f"shm_size {size >> 20} MiB")
    for key, name in (("IpcMode", "ipc"), ("PidMode", "pid"), ("UTSMode", "uts"), ("UsernsMode", "userns")):
        if (mode := host.get(key) or "") not in ("", "private", "shareable"):
            found.append(f"{name} {mode}")
    if cpus := host.get("NanoCpus") or 0:
        found.append(f"cpus {cpus / 1e9:g}")
    if host.get("CpusetCpus"):
        found.append(f"cpuset {host['CpusetCpus']}")
    if (most := host.get("PidsLimit") or 0) > 0:
        found.append(f"pids_limit {most}")
    if (runtime := host.get("Runtime") or "") not in ("", "runc", "nvidia"):
        found.append(f"runtime {runtime}")
    lists = {
        "devices": [device.get("PathOnHost") for device in host.get("Devices") or ()],
        "ulimits": [limit.get("Name") for limit in host.get("Ulimits") or ()],
        "sysctls": sorted(host.get("Sysctls") or ()),
        **{
            name: host.get(key)
            for key, name in (("ExtraHosts", "extra_hosts"), ("Dns", "dns"), ("GroupAdd", "group_add"))
        },
    }
    found += [f"{name} {', '.join(map(str, values))}" for name, values in lists.items() if values]
    return [plain(one) for one in found]


def gpus(requests: Iterable[Object]) -> str:
    """facts.Container.gpus"""
    for request in requests:
        capabilities = [name for group in request.get("Capabilities") or () for name in group]
        if request.get("Driver") in ("nvidia", "cdi") or "gpu" in capabilities:
            ids = request.get("DeviceIDs") or ()
            count = request.get("Count") or 0
            return f"ids:{','.join(ids)}" if ids else "all" if count < 0 else f"count:{count}"
    return ""
