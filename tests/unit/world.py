"""Hosts as the probe would have seen them: fresh, finished, and whatever a test makes of these."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from pantheon import layout, stack
from pantheon.evidence import Evidence
from pantheon.facts import (
    Command,
    Container,
    ContainerMount,
    Docker,
    Entry,
    EnvValue,
    Facts,
    GpuDevice,
    Http,
    Image,
    Listener,
    Mount,
    Nvml,
    OsRelease,
    Port,
    Space,
    TextFile,
    Tree,
    digest,
)
from pantheon.here import Here, LocalPort
from pantheon.incident import Case, Choices
from pantheon.inventory import SERVICES, Host
from pantheon.questions import questions
from pantheon.takeover import moves

NONCE = "00ff"
GIB = 1 << 30
HOST = Host(name="prometheus", address="10.0.99.10", user="ops")
DISK = {"/mnt/local/nvme": "/dev/nvme0n1p1", "/mnt/local/ssd": "/dev/sda1"}


def entry(
    path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755, kind: str = "dir", real: str = "", **more: Any
) -> Entry:
    return Entry(
        path=path,
        kind=kind,
        uid=uid,
        gid=gid,
        owner=str(uid),
        group=str(gid),
        mode=mode,
        real=real or path,
        is_mount=more.get("is_mount", False),
        mount=more.get("mount"),
    )


def root(path: str) -> Entry:
    return entry(path, is_mount=True, mount=Mount(path, DISK.get(path, "/dev/sdz1"), "ext4", "rw,relatime"))


GPU = GpuDevice(0, HOST.gpu.name, "GPU-1", 20475, 2, 20473, 0, 38, 11.5, 130.0, "off", None, (), ())


def fresh(host: Host = HOST) -> Facts:
    """Driver, Docker and toolkit are there, both disks are mounted; nothing of the stack is."""
    roots = (host.storage.nvme, host.storage.ssd)
    asked: Any = questions(host, nonce=NONCE)
    paths: dict[str, Any] = dict.fromkeys(asked["paths"]) | {path: root(path) for path in roots}
    space = Space(200 * GIB, 400 * GIB, 1000, 2000)
    return Facts(
        schema=1,
        nonce=NONCE,
        took_s=0.2,
        os=OsRelease("ubuntu", "24.04", "Ubuntu 24.04.1 LTS", "6.8.0", "boot", 3600.0, "prometheus"),
        nvml=Nvml("590.48.01", "13.590.48.01", "13.1", (GPU,)),
        nvidia_smi=Command(0, "NVIDIA-SMI 590.48.01"),
        module_version="590.48.01",
        library_version="590.48.01",
        docker=Docker(
            "29.1.3",
            "29.1.3",
            "1.52",
            "2.40.3",
            None,
            "/var/lib/docker",
            "overlay2",
            ("io.containerd.runc.v2", "nvidia", "runc"),
            (),
            "{}",
            (),
        ),
        toolkit="1.18.1",
        paths=paths,
        spaces={"docker": space, "images": space, **dict.fromkeys(roots, space)},
        trees={d.path: None for d in layout.directories(host) if d.tree_owner},
        files={file["path"]: None for file in asked["files"]},
        containers=(),
        images={host.service(name).image: None for name in SERVICES},
        listeners=(Listener("0.0.0.0", 22, 700, "sshd", ""),),
        http={
            name: Http(f"http://127.0.0.1:{host.service(name).port}/", 0, "", "", "connection refused", 1.0)
            for name in SERVICES
        },
        groups={"docker": 999},
        state=None,
        mounts=(),
        lock=None,
    )


def text_file(path: str, text: str, mode: int) -> TextFile:
    return TextFile(path, hashlib.sha256(text.encode()).hexdigest(), 0, 0, mode, len(text.encode()), text)


def container(host: Host, name: str, **changes: Any) -> Container:
    """The service as Compose would have made it from our file."""
    want = stack.wanted(host, name)
    mounts = [ContainerMount("bind", m.source, m.target, m.writable, "") for m in want.mounts]
    if want.secret:
        mounts.append(ContainerMount("bind", layout.secret_key(host), stack.SECRET_IN_CONTAINER, False, ""))
    env = {key: EnvValue(value, digest(NONCE, value), False) for key, value in want.env.items()}
    env |= {key: EnvValue(None, digest(NONCE, value), False) for key, value in want.secret_env.items()}
    env["PATH"] = EnvValue("/usr/bin", digest(NONCE, "/usr/bin"), True)
    gpus = "all" if want.gpus == "all" else ""
    made = Container(
        id=hashlib.sha256(name.encode()).hexdigest(),
        name=name,
        image=want.image,
        image_id=f"sha256:{name}",
        state="running",
        health="healthy",
        exit_code=0,
        oom_killed=False,
        error="",
        restarts=0,
        started_at="2026-11-21T10:00:00Z",
        finished_at="",
        user=want.user,
        ports=(Port(f"{want.container_port}/tcp", "127.0.0.1", want.port),),
        mounts=tuple(mounts),
        env=env,
        labels={
            stack.OURS: host.project,
            "pantheon.service": name,
            stack.CONFIG: stack.config_hash(host, want),
            "com.docker.compose.project": host.project,
            "com.docker.compose.service": name,
            "com.docker.compose.project.config_files": layout.compose_file(host),
        },
        command=(),
        entrypoint=(),
        networks=(f"{host.project}_{want.network}",),
        restart_policy="unless-stopped",
        cap_add=want.cap_add,
        cap_drop=("ALL",),
        security_opt=want.security_opt,
        privileged=False,
        init=True,
        memory=0,
        gpus=gpus,
        log_driver="json-file",
        log_options=dict(stack.LOG_OPTIONS),
        log=("ready",),
        log_markers=("Starting server",) if name == "comfy" else (),
        log_complete=True,
        gpu_seen=Command(0, "GPU 0: NVIDIA RTX 4000 Ada Generation (UUID: GPU-1)") if want.gpus else None,
    )
    return replace(made, **changes)


def finished(host: Host = HOST) -> Facts:
    """Brought up, as a second look sees it."""
    facts = fresh(host)
    paths = dict(facts.paths)
    for d in layout.directories(host):
        gid = 999 if d.group == "docker" else d.gid
        paths[d.path] = entry(d.path, uid=d.uid, gid=gid, mode=d.mode)
    paths |= {host.stack_dir: entry(host.stack_dir), layout.userscripts(host): entry(layout.userscripts(host))}
    paths[f"{host.stack_dir}/secrets"] = entry(f"{host.stack_dir}/secrets", mode=0o700)
    script = layout.userscript(host)
    key = layout.secret_key(host)
    files: dict[str, Any] = {
        **facts.files,
        layout.compose_file(host): text_file(layout.compose_file(host), stack.compose_text(host), 0o644),
        script: text_file(script, stack.USERSCRIPT_TEXT, 0o755),
        key: TextFile(key, "", 0, 0, 0o600, 64, None),
    }
    for name in SERVICES:
        want = stack.wanted(host, name)
        if want.secret_env:
            path = layout.env_file(host, name)
            text = stack.env_text(want)
            files[path] = TextFile(path, "", 0, 0, 0o600, len(text), None, digest(NONCE, text))
    return replace(
        facts,
        paths=paths,
        files=files,
        trees={d.path: Tree(d.path, 10, True, 0, ()) for d in layout.directories(host) if d.tree_owner},
        images={host.service(name).image: Image(f"sha256:{name}", (), GIB, "") for name in SERVICES},
        containers=tuple(container(host, name) for name in SERVICES),
        listeners=tuple(Listener("127.0.0.1", host.service(name).port, 900, "docker-proxy", name) for name in SERVICES),
        http={name: Http("", 200, "OK", "", "", 1.0) for name in SERVICES},
        state=json.dumps({"places": moves.wanted(host)}),
    )


def having(facts: Facts, **containers: Container | None) -> Facts:
    """`facts` with containers replaced by name (- becomes _), added, or removed where None."""
    kept = {c.name: c for c in facts.containers} if isinstance(facts.containers, tuple) else {}
    for name, made in containers.items():
        kept.pop(name, None)
        if made is not None:
            kept[made.name] = made
    listeners = facts.listeners if isinstance(facts.listeners, tuple) else ()
    heard = tuple(one for one in listeners if not one.container or one.container in kept)
    return replace(facts, containers=tuple(kept.values()), listeners=heard)


def case(facts: Facts, *, host: Host = HOST, here: Here | None = None, **evidence: Any) -> Case:
    """A case on these facts; `evidence` by the fields of evidence.Evidence, `choices` besides."""
    choices = evidence.pop("choices", Choices())
    return Case(host, facts, Evidence(**evidence), here or seen_here(host, facts), choices)


def seen_here(host: Host, facts: Facts) -> Here:
    """What a workstation sees where nothing but the services themselves decides: each answers as on the host."""
    http = {name: answer for name, answer in facts.http.items() if name in SERVICES}
    browser: dict[str, Any] = {name: http[name] for name in ("comfy", "openwebui") if name in http}
    websocket: dict[str, Any] = {
        name: replace(answer, status=101, reason="Switching Protocols")
        if isinstance(answer, Http) and answer.status == 200
        else answer
        for name, answer in browser.items()
    }
    ports = {name: LocalPort(host.service(name).port, "", host.service(name).port) for name in SERVICES}
    return Here(http=dict(http), browser=browser, websocket=websocket, ports=dict(ports))
