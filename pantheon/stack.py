"""The Compose project: the three services as they must be, and the file that says so.

`wanted` gives one service as data; `compose_text` renders all three for a human and for Compose; `differences` holds a
running container against it, property by property. Procedure §4 to §6; DOMAIN.md for what each image needs.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass

from pantheon import layout
from pantheon.facts import Container, Image, digest
from pantheon.grammar import memory_bytes
from pantheon.inventory import SERVICES, Host, is_secret_name

HEADER = "# Written by pantheon from hosts.toml."
OURS = "pantheon.project"  # a container with this label was started by us
CONFIG = "pantheon.config"  # a hash of everything that it was started from

LOG_OPTIONS = {"max-size": "10m", "max-file": "5"}
SECRET_IN_CONTAINER = "/run/secrets/webui_secret_key"  # noqa: S105 - a path, not a secret
NO_NEW_PRIVILEGES = "no-new-privileges:true"

# What the image's own user switch needs at least (tried with its real script, DOMAIN.md).
USER_SWITCH_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID")

USERSCRIPT_TEXT = """\
#!/bin/bash
# Shows the shared models (/models, read-only) inside ComfyUI: models/KIND/shared -> /models/KIND.
# The image runs this at every start, as the comfy user, and takes a non-zero exit as fatal.
shopt -s nullglob
inside=/comfy/mnt/ComfyUI/models

for link in "$inside"/*/shared; do
    [ -L "$link" ] && [ ! -e "$link" ] && rm -f -- "$link"
done

for kind in /models/*/; do
    name=$(basename -- "$kind")
    link=$inside/$name/shared
    if [ -e "$link" ] && [ ! -L "$link" ]; then
        echo "shared models: $link is in the way and was left alone"
        continue
    fi
    mkdir -p -- "$inside/$name" && ln -sfn -- "/models/$name" "$link" && echo "shared models: $link"
done
exit 0
"""


@dataclass(frozen=True)
class BindMount:
    source: str
    target: str
    writable: bool = True


@dataclass(frozen=True)
class Wanted:
    """One service as it must be. `secret_env` holds what must not stand in the Compose file; it goes into a file of
    mode 0600 beside it."""

    name: str
    image: str
    port: int
    container_port: int
    mounts: tuple[BindMount, ...]
    env: dict[str, str]
    secret_env: dict[str, str]
    healthcheck: dict[str, object]
    stop_grace: str
    network: str
    gpus: str = ""
    memory: str = ""
    user: str = ""
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = (NO_NEW_PRIVILEGES,)
    needs: str = ""  # the service that must be healthy first
    secret: bool = False  # gets the login key as a Compose secret


def wanted(host: Host, name: str) -> Wanted:
    """One of the three services as the inventory wants it."""
    return {"comfy": _comfy, "ollama": _ollama, "openwebui": _openwebui}[name](host)


def _comfy(host: Host) -> Wanted:
    service = host.comfy
    switch = service.image_user_switch
    plain, secret = _split(service.env)
    outputs = "--output-directory /outputs"
    plain["COMFY_CMDLINE_EXTRA"] = " ".join(part for part in (outputs, plain.get("COMFY_CMDLINE_EXTRA", "")) if part)
    return Wanted(
        name="comfy",
        image=service.image,
        port=service.port,
        container_port=8188,
        # One bind mount at /comfy/mnt, never sub-mounts (§6.1); models stay outside it and are linked in (§6.2).
        mounts=(
            BindMount(layout.comfy_mnt(host), "/comfy/mnt"),
            BindMount(layout.models(host), "/models", writable=False),
            BindMount(layout.comfy_outputs(host), "/outputs"),
            BindMount(layout.userscripts(host), "/userscripts_dir", writable=False),
        ),
        env={**plain, "WANTED_UID": str(layout.COMFY), "WANTED_GID": str(layout.COMFY)},
        secret_env=secret,
        healthcheck=_healthcheck(
            ["CMD", "curl", "-fsS", "-o", "/dev/null", "--max-time", "5", "http://127.0.0.1:8188/system_stats"],
            start_period=f"{service.first_run_minutes}m",  # §7: the first run takes 10 to 20 minutes
        ),
        stop_grace="30s",
        network="comfy",
        gpus=service.gpus,
        memory=service.memory,
        user="" if switch else f"{layout.COMFY}:{layout.COMFY}",
        cap_add=USER_SWITCH_CAPABILITIES if switch else (),
        security_opt=() if switch else (NO_NEW_PRIVILEGES,),  # sudo cannot work under it
    )


def _ollama(host: Host) -> Wanted:
    service = host.ollama
    plain, secret = _split(service.env)
    return Wanted(
        name="ollama",
        image=service.image,
        port=service.port,
        container_port=11434,
        mounts=(BindMount(layout.ollama_data(host), "/root/.ollama"),),
        env={**plain, "OLLAMA_NO_CLOUD": "1"},  # §4: local models only
        secret_env=secret,
        # The image has no curl, and `ollama --version` succeeds without a server.
        healthcheck=_healthcheck(["CMD", "ollama", "list"], start_period="2m"),
        stop_grace="30s",
        network="llm",
        gpus=service.gpus,
        memory=service.memory,
    )


def _openwebui(host: Host) -> Wanted:
    service = host.openwebui
    plain, secret = _split(service.env)
    return Wanted(
        name="openwebui",
        image=service.image,
        port=service.port,
        container_port=8080,
        mounts=(BindMount(layout.openwebui_data(host), "/app/backend/data"),),
        env={
            "ENABLE_OPENAI_API": "false",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "ENABLE_COMMUNITY_SHARING": "false",
            **plain,
            "OLLAMA_BASE_URL": "http://ollama:11434",
            "WEBUI_SECRET_KEY_FILE": SECRET_IN_CONTAINER,
        },
        secret_env=secret,
        # The first start downloads embedding models, and a database migration must not be cut short.
        healthcheck=_healthcheck(
            ["CMD", "curl", "-fsS", "-o", "/dev/null", "--max-time", "5", "http://127.0.0.1:8080/health"],
            start_period="10m",
        ),
        stop_grace="2m",
        network="llm",
        memory=service.memory,
        needs="ollama",
        secret=True,
    )


def _split(env: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    plain = {name: value for name, value in env.items() if not is_secret_name(name)}
    return plain, {name: value for name, value in env.items() if is_secret_name(name)}


def _healthcheck(test: list[str], *, start_period: str) -> dict[str, object]:
    # start_interval: asked every two seconds while starting, so that a service counts as healthy when it is.
    return {
        "test": test,
        "interval": "30s",
        "timeout": "10s",
        "retries": 3,
        "start_period": start_period,
        "start_interval": "2s",
    }


def gpu_request(gpus: str) -> dict[str, object]:
    """Compose's device reservation for the inventory's "all", a count, or ids."""
    device: dict[str, object] = {"driver": "nvidia"}
    if gpus == "all" or gpus.isdigit():
        device["count"] = gpus if gpus == "all" else int(gpus)
    else:
        device["device_ids"] = [part.strip() for part in gpus.split(",")]
    return {**device, "capabilities": ["gpu"]}


def config_hash(host: Host, want: Wanted) -> str:
    """A hash of all that the container is started from: the drift label."""
    definition = json.dumps(_service(host, want), sort_keys=True)
    extra = USERSCRIPT_TEXT if want.name == "comfy" else ""
    return hashlib.sha256((definition + env_text(want) + extra).encode()).hexdigest()[:16]


def env_text(want: Wanted) -> str:
    """The env file of a service. Every backslash, double quote and dollar is escaped, and Compose reads nothing into a
    value. Its single quotes would not do: in them `\\\\` stays two, so a backslash before a quote cannot be written."""

    def quoted(value: str) -> str:
        return re.sub(r'([\\"$])', r"\\\1", value)

    return "".join(f'{name}="{quoted(value)}"\n' for name, value in sorted(want.secret_env.items()))


def _service(host: Host, want: Wanted) -> dict[str, object]:
    service: dict[str, object] = {
        "container_name": want.name,
        "image": want.image,
        "ports": [f"127.0.0.1:{want.port}:{want.container_port}"],
        "volumes": [
            {
                "type": "bind",
                "source": mount.source,
                "target": mount.target,
                **({} if mount.writable else {"read_only": True}),
                # The short form would make a missing directory, as root, where a disk is not mounted.
                "bind": {"create_host_path": False},
            }
            for mount in want.mounts
        ],
        "environment": dict(sorted(want.env.items())),
    }
    if want.secret_env:
        service["env_file"] = [layout.env_file(host, want.name)]
    if want.user:
        service["user"] = want.user
    service["init"] = True
    service["cap_drop"] = ["ALL"]
    if want.cap_add:
        service["cap_add"] = list(want.cap_add)
    if want.security_opt:
        service["security_opt"] = list(want.security_opt)
    if want.secret:
        service["secrets"] = ["webui_secret_key"]
    if want.needs:
        service["depends_on"] = {want.needs: {"condition": "service_healthy"}}
    service["networks"] = [want.network]
    service["healthcheck"] = want.healthcheck
    service["restart"] = "unless-stopped"
    service["stop_grace_period"] = want.stop_grace
    service["logging"] = {"driver": "json-file", "options": dict(LOG_OPTIONS)}
    if want.memory:
        service["mem_limit"] = want.memory
    if want.gpus:
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu_request(want.gpus)]}}}
    return service


def compose_text(host: Host) -> str:
    """compose.yaml: readable, the same for the same inventory, without any secret in it."""
    services = {}
    for name in SERVICES:
        want = wanted(host, name)
        labels = {OURS: host.project, "pantheon.service": name, CONFIG: config_hash(host, want)}
        services[name] = {**_service(host, want), "labels": labels}
    document = {
        "name": host.project,
        "services": services,
        "networks": {"comfy": {}, "llm": {}},
        "secrets": {"webui_secret_key": {"file": layout.secret_key(host)}},
    }
    header = [
        HEADER,
        "# Change hosts.toml and run `invoke bringup`: what is changed here is found and put back.",
        "# Every service listens on 127.0.0.1 only (procedure §5); use `invoke tunnel SERVICE`.",
        "",
    ]
    return "\n".join(header) + yaml(document)


_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def yaml(value: object, indent: int = 0) -> str:
    """`value` as block-style YAML for Compose: every string that could mean anything else is quoted, `$` doubled."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                lines.append(f"{pad}{_scalar(key)}:\n{yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{_scalar(key)}: {_scalar(item)}\n")
        return "".join(lines)
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value) and indent:
            flow = f"{pad}- " + f"\n{pad}- ".join(_scalar(item) for item in value)
            return flow + "\n"
        return "".join(f"{pad}- {yaml(item, indent + 1).lstrip()}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _scalar(value: object) -> str:
    if isinstance(value, str):
        if _PLAIN.match(value) and value.lower() not in _NOT_TEXT:
            return value
        return json.dumps(value.replace("$", "$$"), ensure_ascii=False)
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else json.dumps(value)


def differences(host: Host, want: Wanted, container: Container, *, nonce: str, image: Image | None) -> list[str]:
    """How a container differs from what is wanted, a line for each property. Empty: it is as wanted.

    `image` is what the wanted reference leads to on the host now, None when that is not there or not known."""
    found: list[str] = []

    def compare(name: str, has: object, should: object) -> None:
        if has == should:
            return
        if isinstance(has, list) and isinstance(should, list):  # only what differs: four mounts are a line each
            has, should = [one for one in has if one not in should], [one for one in should if one not in has]
        found.append(f"{name}: {_show(has)} → {_show(should)}")

    compare("image", container.image, want.image)
    if image and container.image == want.image and container.image_id != image.id:
        found.append("image: the tag points to another image now")
    compare(
        "ports",
        sorted(f"{port.address or '0.0.0.0'}:{port.port}:{port.container_port}" for port in container.ports),  # noqa: S104
        [f"127.0.0.1:{want.port}:{want.container_port}/tcp"],
    )
    compare("mounts", sorted(_mounts_of(container)), sorted(_mounts_wanted(host, want)))
    found += _env_differences(want, container, nonce)
    if want.user or image:
        compare("user", container.user, want.user or (image.user if image else ""))
    if image and container.image_id == image.id:
        compare("entrypoint", shlex.join(container.entrypoint), shlex.join(image.entrypoint))
        compare("command", shlex.join(container.command), shlex.join(image.command))
    compare("memory limit", _mib(container.memory), _mib(memory_bytes(want.memory)))
    compare("capabilities added", _capabilities(container.cap_add), _capabilities(want.cap_add))
    compare("capabilities dropped", _capabilities(container.cap_drop), ["ALL"])
    compare("security options", sorted(container.security_opt), sorted(want.security_opt))
    compare("privileged", container.privileged, False)
    compare("init", container.init, True)
    compare("networks", list(container.networks), [f"{host.project}_{want.network}"])
    compare("restart policy", container.restart_policy, "unless-stopped")
    compare("GPU", container.gpus, _gpus_wanted(want.gpus))
    compare("log driver", container.log_driver, "json-file")
    compare("log rotation", container.log_options, LOG_OPTIONS)
    if not found and container.labels.get(CONFIG) != config_hash(host, want):
        found.append("definition: another than the one in hosts.toml")
    return found


def _mounts_of(container: Container) -> list[str]:
    return [f"{m.source}:{m.target}:{'rw' if m.writable else 'ro'}" for m in container.mounts if m.type != "tmpfs"]


def _mounts_wanted(host: Host, want: Wanted) -> list[str]:
    mounts = [f"{m.source}:{m.target}:{'rw' if m.writable else 'ro'}" for m in want.mounts]
    return [*mounts, f"{layout.secret_key(host)}:{SECRET_IN_CONTAINER}:ro"] if want.secret else mounts


def _env_differences(want: Wanted, container: Container, nonce: str) -> list[str]:
    found = []
    wanted_env = {**want.env, **want.secret_env}
    for name, value in sorted(wanted_env.items()):
        has = container.env.get(name)
        if has is None or has.digest != digest(nonce, value):
            hidden = name in want.secret_env or has is None or has.value is None
            before = "missing" if has is None else "another value" if hidden else _show(has.value)
            found.append(f"environment {name}: {before} → {'the one in hosts.toml' if hidden else _show(value)}")
    extra = [n for n, v in sorted(container.env.items()) if not v.from_image and n not in wanted_env]
    return found + [f"environment {name}: set by hand" for name in extra]


def _capabilities(names: tuple[str, ...]) -> list[str]:
    return sorted(name.removeprefix("CAP_") for name in names)  # newer engines add the prefix


def _gpus_wanted(gpus: str) -> str:
    if not gpus:
        return ""
    request = gpu_request(gpus)
    if "count" in request:
        return "all" if request["count"] == "all" else f"count:{request['count']}"
    return "ids:" + ",".join(str(part) for part in gpus.replace(" ", "").split(","))


def _mib(size: int) -> str:
    return f"{size / 1024**2:g} MiB" if size else "none"


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return str(value) if value not in ("", None) else "none"
