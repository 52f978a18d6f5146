"""Stacks that somebody made by hand, with real data in them: what a takeover meets.

`plant` makes one of three kinds on a lab host, as its owner would have, and gives what is there. `Tree.read` tells
everything of a directory, on the host or inside a container, so that before and after can be compared name by name.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.machine import Lab
from lab.outer import LabError

COMFY = "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest"
OLLAMA = "ollama/ollama:latest"
WEBUI = "ghcr.io/open-webui/open-webui:main"
MODEL = "smollm2"
KEY = "somebody's own k3y"
LOGIN = {"name": "Ada", "email": "ada@example.invalid", "password": "secret"}
READY_S = 60

# Everything of a tree, one JSON object a line: what lstat tells, a hash of the content, where a link leads.
READ = r"""
import hashlib, json, os, stat, sys
top = os.fsencode(sys.argv[1])
first = {}
for folder, folders, files in os.walk(top):
    for name in [b"."] * (folder == top) + folders + files:
        path = os.path.join(folder, name)
        found, rel = os.lstat(path), os.path.relpath(path, top)
        kind = stat.S_IFMT(found.st_mode)
        content = os.readlink(path).decode("utf-8", "backslashreplace") if kind == stat.S_IFLNK else ""
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        twin = first.setdefault(found.st_ino, rel) if kind == stat.S_IFREG and found.st_nlink > 1 else rel
        print(json.dumps({
            "name": rel.decode("utf-8", "backslashreplace"), "kind": kind, "mode": stat.S_IMODE(found.st_mode),
            "uid": found.st_uid, "gid": found.st_gid, "mtime": found.st_mtime_ns, "content": content,
            "twin": twin.decode("utf-8", "backslashreplace"),
        }))
"""

# What lies in a stopped container's own layer, as the engine packs it: whole seconds.
READ_LAYER = r"""
import hashlib, json, stat, subprocess, sys, tarfile
kinds = {tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}
with subprocess.Popen(["docker", "cp", sys.argv[1], "-"], stdout=subprocess.PIPE) as packing:
    with tarfile.open(fileobj=packing.stdout, mode="r|") as packed:
        for one in packed:
            file = packed.extractfile(one) if one.isreg() else None
            print(json.dumps({
                "name": "/".join(one.name.rstrip("/").split("/")[1:]) or ".", "kind": kinds.get(one.type, 0),
                "mode": one.mode & 0o7777, "uid": one.uid, "gid": one.gid, "mtime": int(one.mtime) * 10**9,
                "content": hashlib.sha256(file.read()).hexdigest() if file else one.linkname,
                "twin": "/".join(one.name.rstrip("/").split("/")[1:]) or ".",
            }))
"""


@dataclass(frozen=True)
class Entry:
    name: str
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int  # ns
    content: str
    twin: str  # the first name of the same file


def read_tree(lab: Lab, path: str) -> dict[str, Entry]:
    """Everything in a directory on the host, by name."""
    return _entries(lab.exec("python3", "-I", "-c", READ, path).stdout)


def read_layer(lab: Lab, container: str, path: str) -> dict[str, Entry]:
    """Everything in a directory inside a container."""
    return _entries(lab.exec("python3", "-I", "-c", READ_LAYER, f"{container}:{path}").stdout)


def _entries(lines: str) -> dict[str, Entry]:
    found = [Entry(**json.loads(line)) for line in lines.splitlines()]
    return {entry.name: entry for entry in found}


@dataclass(frozen=True)
class Place:
    """A directory with somebody's data: on the host, or in the layer of `container`."""

    path: str
    container: str = ""

    def read(self, lab: Lab) -> dict[str, Entry]:
        return read_layer(lab, self.container, self.path) if self.container else read_tree(lab, self.path)


@dataclass(frozen=True)
class Stack:
    """What was planted: the containers by service, where their data lies, and a session at Open WebUI."""

    kind: str
    containers: dict[str, str]
    ports: dict[str, int]
    places: dict[str, Place]
    compose_file: str = ""
    foreign: str = ""  # a container of the same file that is none of the three
    key: str = KEY
    session: dict[str, str] = field(default_factory=dict)

    def who(self, lab: Lab, port: int) -> str:
        """Whose session the cookie is that was got before, as the Open WebUI on that port sees it; "" for nobody's."""
        cookie = ("--cookie", f"token={self.session['token']}")
        done = lab.exec("curl", "-sS", *cookie, f"http://127.0.0.1:{port}/api/v1/auths/", check=False)
        found = json.loads(done.stdout or "{}")
        return str(found.get("email", ""))


COMPOSE = f"""\
# the house's own. ask Ada before you touch it
name: homelab
services:
  comfyui:
    image: {COMFY}
    container_name: my-comfy
    restart: always
    init: true
    environment:
      - WANTED_UID=1000
      - WANTED_GID=1000
      - COMFY_CMDLINE_EXTRA=--preview-method auto
    ports: ["8188:8188"]
    volumes: ["comfy_data:/comfy/mnt"]
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: all, capabilities: [gpu]}}]}}}}}}
  llm:
    image: {OLLAMA}
    restart: unless-stopped
    environment: {{OLLAMA_KEEP_ALIVE: 24h}}
    ports: ["11434:11434"]
    volumes: ["llm:/root/.ollama"]
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: all, capabilities: [gpu]}}]}}}}}}
  webui:
    image: {WEBUI}
    container_name: open-webui
    restart: unless-stopped
    environment:
      OLLAMA_BASE_URL: http://llm:11434
      WEBUI_SECRET_KEY: {json.dumps(KEY)}
      WEBUI_NAME: House
    ports: ["8080:8080"]
    volumes: ["webui:/app/backend/data"]
  notes:
    image: house/notes:1
    restart: unless-stopped
    entrypoint: ["sleep", "infinity"]
    init: true
    volumes: ["./notes:/notes"]
volumes: {{comfy_data: {{}}, llm: {{}}, webui: {{}}}}
"""

IN_PLACE = f"""\
services:
  comfy:
    image: {COMFY}
    container_name: comfyui
    restart: always
    init: true
    environment: {{WANTED_UID: 1000, WANTED_GID: 1000, COMFY_CMDLINE_EXTRA: --output-directory /outputs}}
    ports: ["8188:8188"]
    volumes:
      - /mnt/local/nvme/ai/services/comfy-mnt:/comfy/mnt
      - /mnt/local/ssd/ai/outputs/comfy:/outputs
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: all, capabilities: [gpu]}}]}}}}}}
  ollama:
    image: {OLLAMA}
    container_name: ollama
    restart: always
    ports: ["11434:11434"]
    volumes: ["/mnt/local/nvme/ai/services/ollama:/root/.ollama"]
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: all, capabilities: [gpu]}}]}}}}}}
  openwebui:
    image: {WEBUI}
    container_name: openwebui
    restart: always
    environment: {{OLLAMA_BASE_URL: "http://ollama:11434"}}
    ports: ["3000:8080"]
    volumes: ["/mnt/local/ssd/ai/projects/openwebui:/app/backend/data"]
"""


def plant(lab: Lab, kind: str) -> Stack:
    """Make a hand-made stack of that kind ("compose", "run", "in-place"), wait for it and put data into it."""
    makers: dict[str, Callable[[Lab], Stack]] = {"compose": _compose, "run": _run, "in-place": _in_place}
    stack = makers[kind](lab)
    _wait_ready(lab, stack)
    fill(lab, stack)
    return stack


def clear(lab: Lab) -> None:
    """Take everything away again, ours and theirs, but for the images: the next stack is planted in a moment."""
    lab.sh(
        "docker ps -aq | xargs -r docker rm -f >/dev/null; docker volume ls -q | xargs -r docker volume rm >/dev/null\n"
        "docker network prune -f >/dev/null; rm -rf /srv/* /home/ops/ai /opt/stacks /var/lib/pantheon/* /mnt/local/*/*",
        timeout=120,
    )


def _compose(lab: Lab) -> Stack:
    lab.exec("docker", "pull", "-q", WEBUI)
    lab.sh(
        f"mkdir -p /srv/ai/notes && cat >/srv/ai/docker-compose.yml <<'EOF'\n{COMPOSE}EOF\n"
        f"echo 'buy milk' >/srv/ai/notes/today && cd /srv/ai && made=$(docker create {WEBUI})\n"
        "docker commit --change 'LABEL house=notes' $made house/notes:1 && docker rm $made\n"
        "docker compose create -y -q 2>/dev/null || docker compose create\n"
        "chown 1000:1000 /var/lib/docker/volumes/homelab_comfy_data/_data\n"
        "docker compose up -d",
        timeout=120,
    )
    volumes = {"comfy": "comfy_data", "ollama": "llm", "openwebui": "webui"}
    return Stack(
        "compose",
        {"comfy": "my-comfy", "ollama": "homelab-llm-1", "openwebui": "open-webui"},
        {"comfy": 8188, "ollama": 11434, "openwebui": 8080},
        {name: Place(f"/var/lib/docker/volumes/homelab_{volume}/_data") for name, volume in volumes.items()},
        compose_file="/srv/ai/docker-compose.yml",
        foreign="homelab-notes-1",
    )


def _run(lab: Lab) -> Stack:
    comfy = (
        "--init --gpus all --restart unless-stopped -e WANTED_UID=1000 -e WANTED_GID=1000 -e BASE_DIRECTORY=/basedir"
    )
    lab.sh(
        "mkdir -p /home/ops/ai/run /home/ops/ai/basedir /home/ops/ai/webui && chown -R 1000:1000 /home/ops/ai\n"
        f"docker run -d --name my-comfyui {comfy} -p 8188:8188 "
        f"-v /home/ops/ai/run:/comfy/mnt -v /home/ops/ai/basedir:/basedir {COMFY}\n"
        f"docker run -d --name my-ollama --gpus all -p 11434:11434 {OLLAMA}\n"
        "docker run -d --name my-webui --restart on-failure:3 --add-host=host.docker.internal:host-gateway "
        f"-e OLLAMA_BASE_URL=http://host.docker.internal:11434 -p 3000:8080 -v /home/ops/ai/webui:/app/backend/data "
        f"{WEBUI}",
        timeout=120,
    )
    return Stack(
        "run",
        {"comfy": "my-comfyui", "ollama": "my-ollama", "openwebui": "my-webui"},
        {"comfy": 8188, "ollama": 11434, "openwebui": 3000},
        {
            "comfy": Place("/home/ops/ai/run"),
            "base": Place("/home/ops/ai/basedir"),
            # By its id: it may get another name.
            "ollama": Place("/root/.ollama", container=lab.sh("docker inspect -f '{{.Id}}' my-ollama").strip()),
            "openwebui": Place("/home/ops/ai/webui"),
        },
        key="",
    )


def _in_place(lab: Lab) -> Stack:
    nvme, ssd = "/mnt/local/nvme/ai", "/mnt/local/ssd/ai"
    lab.sh(
        f"mkdir -p {nvme}/services/comfy-mnt {nvme}/services/ollama {ssd}/outputs/comfy {ssd}/projects/openwebui\n"
        f"chown 1000:1000 {nvme}/services/comfy-mnt {ssd}/outputs/comfy\n"
        f"mkdir -p /opt/stacks/ai && cat >/opt/stacks/ai/docker-compose.yml <<'EOF'\n{IN_PLACE}EOF\n"
        "cd /opt/stacks/ai && docker compose up -d",
        timeout=120,
    )
    return Stack(
        "in-place",
        {"comfy": "comfyui", "ollama": "ollama", "openwebui": "openwebui"},
        {"comfy": 8188, "ollama": 11434, "openwebui": 3000},
        {
            "comfy": Place(f"{nvme}/services/comfy-mnt"),
            "outputs": Place(f"{ssd}/outputs/comfy"),
            "ollama": Place(f"{nvme}/services/ollama"),
            "openwebui": Place(f"{ssd}/projects/openwebui"),
        },
        compose_file="/opt/stacks/ai/docker-compose.yml",
        key="",
    )


def _wait_ready(lab: Lab, stack: Stack) -> None:
    paths = {"comfy": "/system_stats", "ollama": "/api/tags", "openwebui": "/ready"}
    deadline = time.monotonic() + READY_S
    for name, path in paths.items():
        while lab.exec(
            "curl", "-fsS", "-o", "/dev/null", f"http://127.0.0.1:{stack.ports[name]}{path}", check=False
        ).returncode:
            if time.monotonic() > deadline:
                log = lab.exec("docker", "logs", "--tail=20", stack.containers[name], check=False)
                raise LabError(f"the hand-made {name} on lab {lab.name} does not answer: {log.stdout}{log.stderr}")
            time.sleep(0.5)


# What a year of use leaves: workflows, pictures, models, links, names with blanks and worse.
FILL_COMFY = r"""
cd "$1"
mkdir -p user/default/workflows output/2026 input models/checkpoints models/loras custom_nodes/house-node
printf '{"nodes": [1]}' >user/default/workflows/"my first one.json"
printf '{"nodes": []}' >user/default/workflows/"$(printf 'é \n\377')".json
for n in 1 2 3; do head -c 200000 /dev/urandom >output/2026/ComfyUI_0000${n}_.png; done
head -c 3000000 /dev/urandom >models/checkpoints/house.safetensors
ln models/checkpoints/house.safetensors models/loras/twin.safetensors
ln -s ../checkpoints/house.safetensors models/loras/link.safetensors
truncate -s 50M models/checkpoints/hollow.ckpt
echo 'print("house")' >custom_nodes/house-node/__init__.py
head -c 1000 /dev/urandom >input/photo.jpg
chmod 600 input/photo.jpg
chown -hR 1000:1000 user output input models custom_nodes
touch -d '2026-02-03 04:05:06.789' output/2026/*.png models/checkpoints/* user/default/workflows/*
"""


def fill(lab: Lab, stack: Stack) -> None:
    """Put somebody's data into a stack that answers, and open a session at its Open WebUI."""
    base = stack.places["base"].path if "base" in stack.places else f"{stack.places['comfy'].path}/ComfyUI"
    lab.sh(FILL_COMFY, base)
    if "outputs" in stack.places:
        lab.sh('cp -a "$1"/output/. "$2"/', base, stack.places["outputs"].path)
    lab.exec("docker", "exec", stack.containers["ollama"], "ollama", "pull", MODEL)
    url = f"http://127.0.0.1:{stack.ports['openwebui']}"
    body = ("-d", json.dumps(LOGIN), "-H", "Content-Type: application/json")
    answer: dict[str, Any] = json.loads(lab.exec("curl", "-sS", *body, f"{url}/api/v1/auths/signup").stdout)
    if "token" not in answer:
        raise LabError(f"no account at {url}: {answer}")
    stack.session["token"] = answer["token"]
    uploads = shlex.quote(f"{stack.places['openwebui'].path}/uploads")
    lab.sh(f"mkdir -p {uploads} && head -c 100000 /dev/urandom >{uploads}/'a letter.pdf'")
