"""The stand-in images against the contracts in DOMAIN.md, on whatever engine answers; and NVML as pynvml sees it.

The cases of ComfyUI's start-up are data: how the mount is prepared, how the container is started, what it must say. All
of them run before the first is judged, several at a time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from lab import base, faults, machine
from lab.gpu import build as gpu
from lab.machine import Lab
from lab.services import build as services

pytestmark = pytest.mark.lab

LIBRARY = "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01"
COMFY = "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest"
OLLAMA = "ollama/ollama:latest"
OPENWEBUI = "ghcr.io/open-webui/open-webui:main"
LEAST = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init")
HARDENED = (*LEAST, "--user", "1024:1024", "--read-only", "--tmpfs", "/tmp")


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stderr}"
    return done


def until(true: Callable[[], object], seconds: float = 20, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


@dataclass
class Bench:
    """The built images and driver, a folder that containers mount from, and the containers to remove at the end."""

    images: dict[str, str]
    driver: Path
    folder: Path
    prefix: str = field(default_factory=lambda: f"stand-in-{uuid.uuid4().hex[:8]}")

    def gpu_mounts(self, state: Path) -> list[str]:
        """What the toolkit's hook would mount; `state` stands for the host's /run/lab."""
        settings = self.folder / "stand-in.json"
        pairs = {
            self.driver / "usr/bin/nvidia-smi": "/usr/bin/nvidia-smi",
            self.driver / LIBRARY: "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
            settings: "/etc/lab/stand-in.json",
            state: "/run/lab",
        }
        return [word for source, target in pairs.items() for word in ("--volume", f"{source}:{target}:ro")]

    def as_root(self, script: str) -> None:
        """Prepares the folder from a container: the tests' user need not be root."""
        mount = f"{self.folder}:/w"
        docker("run", "--rm", "--volume", mount, "--entrypoint", "bash", self.images[OLLAMA], "-ec", f"cd /w; {script}")

    def start(self, name: str, reference: str, *arguments: str, command: tuple[str, ...] = ()) -> str:
        container = f"{self.prefix}-{name}"
        docker("run", "--detach", "--name", container, *arguments, self.images[reference], *command)
        return container

    def remove(self) -> None:
        names = docker("ps", "--all", "--quiet", "--filter", f"name={self.prefix}").stdout.split()
        if names:
            docker("rm", "--force", "--volumes", *names)
        self.as_root("rm -rf /w/*")


def logs(container: str) -> str:
    done = docker("logs", container)
    return done.stdout + done.stderr


def is_running(container: str) -> bool:
    return docker("inspect", "--format", "{{.State.Running}}", container).stdout.strip() == "true"


def address(container: str, port: int) -> str:
    return docker("port", container, str(port)).stdout.split()[0]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    base_image = base.ensure("auto", lambda text: None).image
    driver = tmp_path_factory.mktemp("driver")
    gpu.build(driver, base_image)
    folder = tmp_path_factory.mktemp("mounts")
    (folder / "stand-in.json").write_text(json.dumps({"comfy_step_seconds": 0.01, "openwebui_first_seconds": 0.5}))
    (folder / "state").mkdir()
    for path in (driver, folder, folder.parent, folder.parent.parent):
        path.chmod(path.stat().st_mode | 0o055)  # the containers' users must get through
    found = Bench(services.build(base_image), driver, folder)
    yield found
    found.remove()


# ---- ComfyUI's start-up ----


@dataclass(frozen=True)
class Case:
    """A start of the image. `prepare` runs as root in the folder that is mounted at /comfy/mnt ({m} is its path)."""

    name: str
    says: tuple[str, ...]  # on stdout, in this order
    code: int | None = 1  # None: it runs
    warns: str = ""  # on stderr, which the engine keeps apart
    prepare: str = "chown 1024:1024 ."
    run: tuple[str, ...] = ("--volume", "{m}:/comfy/mnt")
    never: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    state: str = ""  # written to gpu.conf
    gpu: bool = True


MOUNT = ("--volume", "{m}:/comfy/mnt")
SCRIPTS = (*MOUNT, "--volume", "{m}/scripts:/userscripts_dir:ro")
BASE = (*MOUNT, "--volume", "{m}/base:/base", "--env", "BASE_DIRECTORY=/base")
USER = ("--user", "1024:1024")
LEAST_CAPABILITIES = tuple(f"--cap-add={name}" for name in ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE"))
SWITCHED = "!! ERROR: subscript failed\n!! Exiting script (ID: 1)\n"
OWNED = "owned by unexpected user/group, expected 1024:1024, actual"
ROOTS = f"!! ERROR: Directory /comfy/mnt {OWNED} 0:0"
NOT_COMFY = "!! ERROR: comfy MUST be running as UID 1024 GID 1024, current UID"
NO_SWITCH = "!! ERROR: Failed to set GID of comfy user"
READY = ("Starting server", "To see the GUI go to: http://0.0.0.0:8188")
FIRST_RUN = (
    "Starting script", "-- WANTED_UID:", "-- Running as comfytoo", "-- Restarting as comfy user",
    "Starting script", "== Running as comfy", "== Confirming we have the NVIDIA driver loaded", "CUDA Version: 13.1",
    "== Testing write access", "== Cloning ComfyUI", "== Creating virtualenv", "== Environment details:",
    "Installing comfy-cli", "== Pre-installing/Upgrading torch", "Downloading torch-2.9.1", "MB)",
    "== Installing/Updating from ComfyUI's requirements", "== Installing Huggingface Hub",
    "== Using new ComfyUI Manager", "== Running ComfyUI", *READY,
)  # fmt: skip
THREE_SCRIPTS = (
    "++ Running user script: /userscripts_dir/10-first.sh", "first as comfy",
    "!! /userscripts_dir/20-off.sh not executable, skipping it",
    "++ Running user script: /userscripts_dir/30-last.sh", "last",
    "++ Running user script: /comfy/mnt/user_script.bash", "mine", *READY,
)  # fmt: skip
WRITE_THREE = """mkdir scripts
echo 'echo first as $(whoami)' >scripts/10-first.sh
echo 'echo off' >scripts/20-off.sh
echo 'echo last' >scripts/30-last.sh
echo 'echo mine' >user_script.bash
sed -i '1i #!/bin/bash' scripts/*.sh user_script.bash
chmod 755 scripts/10* scripts/30*; chown -R 1024:1024 ."""


def write_script(text: str) -> str:
    return f"mkdir scripts; printf '{text}' >scripts/10.sh; chmod 755 scripts/10.sh; chown 1024:1024 ."


def made_by_root(name: str) -> str:
    return f"mkdir {name}; chown 1024:1024 ."


CASES = (
    # what works
    Case("first-run", FIRST_RUN, None, "usermod: no changes"),
    Case("least-privilege", ("== Running as comfy", "== Cloning ComfyUI", *READY), None, run=(*MOUNT, *HARDENED),
         never=("comfytoo", "subscript")),
    Case("least-capabilities", READY, None, run=(*MOUNT, "--cap-drop", "ALL", *LEAST_CAPABILITIES)),
    Case("command", ("== Running provided command line override", "hello from comfy"), 0,
         command=("echo", "hello", "from", "comfy"), never=("== Running ComfyUI",)),
    Case("venv-of-another-cuda", ("venv (ubuntu24_cuda12.8) is not for this", "== Creating virtualenv", *READY), None,
         prepare="mkdir venv; echo ubuntu24_cuda12.8 >venv/.build_base.txt; chown -R 1024:1024 ."),
    # who owns /comfy/mnt, and its mode
    Case("root-owned", (ROOTS, SWITCHED), prepare="true"),
    Case("root-owned-direct", (ROOTS, "!! Exiting script (ID: "), prepare="true", run=(*MOUNT, *HARDENED),
         never=(SWITCHED,)),
    Case("sub-mount-only", (ROOTS, SWITCHED), run=("--volume", "{m}:/comfy/mnt/models")),
    Case("named-volume", (ROOTS, SWITCHED), run=("--volume", "/comfy/mnt")),
    Case("no-mount", ("Directory /comfy/mnt not found (or not a directory)", SWITCHED), run=()),
    Case("other-wanted", ("expected 1500:1500, actual 1024:1024",),
         run=(*MOUNT, "--env", "WANTED_UID=1500", "--env", "WANTED_GID=1500")),
    Case("read-only", ("Directory /comfy/mnt not writeable", SWITCHED), run=("--volume", "{m}:/comfy/mnt:ro")),
    Case("mode-555", ("Directory /comfy/mnt not writeable",), prepare="chown 1024:1024 .; chmod 555 ."),
    Case("mode-666", ("Directory /comfy/mnt not executable",), prepare="chown 1024:1024 .; chmod 666 ."),
    Case("mode-377", ("Directory /comfy/mnt not readable",), prepare="chown 1024:1024 .; chmod 377 ."),
    # what is inside it
    *(Case(f"root-{name}", (f"Directory /comfy/mnt/{name} {OWNED} 0:0 -- recommended",), prepare=made_by_root(name),
           run=(*MOUNT, "--env", "USE_UV=true")) for name in ("pip_cache", "tmp", "uv_cache", "ComfyUI", "HF", "venv")),
    Case("root-link", (f"Directory /comfy/mnt/HF {OWNED} 0:0",),
         prepare="mkdir real; chown 1024:1024 . real; ln -s real HF"),
    Case("empty-comfyui", (SWITCHED,), warns="fatal: not a git repository",
         prepare="mkdir ComfyUI; chown 1024:1024 . ComfyUI", never=("== Cloning", "!! ERROR: C", "!! ERROR: D")),
    Case("empty-comfyui-direct", (), 128, "fatal: not a git repository",
         prepare="mkdir ComfyUI; chown 1024:1024 . ComfyUI", run=(*MOUNT, *USER), never=("!! ERROR",)),
    Case("root-git", (SWITCHED,), warns="fatal: detected dubious ownership in repository at '/comfy/mnt/ComfyUI'",
         prepare="mkdir -p ComfyUI/.git; echo 'ref: refs/heads/master' >ComfyUI/.git/HEAD; chown 1024:1024 . ComfyUI"),
    Case("models-bound-early", (f"Directory /comfy/mnt/ComfyUI {OWNED} 0:0",),
         run=(*MOUNT, "--volume", "{m}/models:/comfy/mnt/ComfyUI/models"), never=("== Cloning ComfyUI",)),
    # who runs it, with what rights
    Case("as-root", (f"{NOT_COMFY} 0 GID 0",), run=(*MOUNT, "--user", "0:0")),
    Case("as-another", (f"{NOT_COMFY} 1000 GID 1000",), run=(*MOUNT, "--user", "1000:1000")),
    Case("no-capabilities", (NO_SWITCH,), warns="sudo: ", run=(*MOUNT, "--cap-drop", "ALL")),
    Case("no-new-privileges", (NO_SWITCH,), warns='sudo: The "no new privileges" flag is set',
         run=(*MOUNT, "--security-opt", "no-new-privileges")),
    Case("read-only-root", (NO_SWITCH,), warns="groupmod: cannot lock /etc/group; try again later.",
         run=(*MOUNT, "--read-only", "--tmpfs", "/tmp")),
    # the card
    Case("no-gpu", ("!! ERROR: nvidia-smi not found", SWITCHED), gpu=False),
    Case("gpu-lost", ("Failed to initialize NVML: Unknown Error", "!! ERROR: Failed to run nvidia-smi"),
         prepare="echo unknown >gpu-fault; chown 1024:1024 .",
         run=(*MOUNT, "--volume", "{m}/gpu-fault:/etc/lab/gpu-fault:ro")),
    Case("old-driver", ("Driver CUDA version 11.8 is below minimum version 12",), state="cuda = 11.8"),
    Case("newer-driver", ("FYSA: The Driver CUDA supports a more recent version", *READY), None, state="cuda = 13.2"),
    # scripts, environment, options
    Case("user-scripts", THREE_SCRIPTS, None, run=SCRIPTS, prepare=WRITE_THREE, never=("\noff\n",)),
    Case("failing-user-script", ("!! ERROR: User script (/userscripts_dir/10.sh) failed", SWITCHED), run=SCRIPTS,
         prepare=write_script("#!/bin/bash\\nexit 3\\n")),
    Case("crlf-user-script", ("!! ERROR: User script (/userscripts_dir/10.sh)", SWITCHED), run=SCRIPTS,
         warns="cannot execute: required file not found", prepare=write_script("#!/bin/bash\\r\\ntrue\\r\\n")),
    Case("dotted-name", (SWITCHED,), warns="invalid variable name", run=(*MOUNT, "--env", "my.name=1")),
    Case("two-line-value", (SWITCHED,), warns="invalid variable name", run=(*MOUNT, "--env", "NOTE=one\ntwo words")),
    Case("unknown-option", ("!! ERROR: ComfyUI failed or exited with an error",),
         warns="main.py: error: unrecognized arguments: --nonsense",
         run=(*MOUNT, "--env", "COMFY_CMDLINE_EXTRA=--nonsense")),
    Case("base-directory", ("== Setting base_directory: /base", "++ Moving /comfy/mnt/ComfyUI/models to", *READY), None,
         prepare="mkdir base; chown 1024:1024 . base", run=BASE),
    Case("base-directory-read-only-models", ("!! ERROR: Directory /base/models", "not writeable"), run=(*BASE, *(
        "--volume", "{m}/models:/base/models:ro")), prepare="mkdir -p base models; chown 1024:1024 . base models"),
    Case("base-directory-missing", ("BASE_DIRECTORY requested but not found or not a directory (/nowhere)",),
         run=(*MOUNT, "--env", "BASE_DIRECTORY=/nowhere")),
)  # fmt: skip


@dataclass
class Outcome:
    said: str
    code: int | None


def finish(bench: Bench, case: Case) -> Outcome:
    """Starts the case's container and waits until it serves or ends."""
    folder = bench.folder / "cases" / case.name
    state = bench.folder / "states" / case.name
    words = [word.replace("{m}", str(folder)) for word in case.run]
    if case.gpu:
        words += bench.gpu_mounts(state)
    container = bench.start(case.name, COMFY, *words, command=case.command)

    if case.code is None:
        until(lambda: "To see the GUI" in logs(container) or not is_running(container), 60)
    else:
        docker("wait", container)
    running, code = docker("inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", container).stdout.split()
    said = logs(container)
    docker("rm", "--force", "--volumes", container)
    return Outcome(said, None if running == "true" else int(code))


@pytest.fixture(scope="module")
def outcomes(bench: Bench) -> dict[str, Outcome]:
    lines = ["umask 022; mkdir cases states"]
    for case in CASES:
        lines.append(f"mkdir -p states/{case.name} cases/{case.name}; cd cases/{case.name}; {case.prepare}; cd /w")
        lines.append(f"echo {case.state!r} >states/{case.name}/gpu.conf")
    bench.as_root("\n".join(lines))
    with ThreadPoolExecutor(6) as pool:
        return dict(zip([case.name for case in CASES], pool.map(lambda case: finish(bench, case), CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_comfy_starts_as_the_real_image_does(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    at = 0
    for text in case.says:
        found = outcome.said.find(text, at)
        assert found >= 0, f"{text!r} is missing or out of order in:\n{outcome.said}"
        at = found + len(text)
    assert case.warns in outcome.said
    for text in case.never:
        assert text not in outcome.said
    assert outcome.code == case.code


# ---- the services while they run ----


@pytest.fixture(scope="module")
def network(bench: Bench) -> Iterator[str]:
    docker("network", "create", bench.prefix)
    yield bench.prefix
    names = docker("ps", "--all", "--quiet", "--filter", f"network={bench.prefix}").stdout.split()
    docker("rm", "--force", "--volumes", *names)
    docker("network", "rm", bench.prefix)


@pytest.fixture(scope="module")
def comfy(bench: Bench) -> str:
    """ComfyUI as the toolkit runs it: models outside its mount, shown by links that a user script makes."""
    bench.as_root(
        "mkdir -p comfy outputs models/checkpoints links; chown 1024:1024 comfy outputs; "
        "echo x >models/checkpoints/sd.safetensors; "
        "printf '#!/bin/bash\\nln -sfn /models/checkpoints models/checkpoints/shared\\n"
        "ln -sfn /models/gone models/checkpoints/gone\\n' >links/10.sh; chmod 755 links/10.sh"
    )
    mounts = {"comfy": "/comfy/mnt", "outputs": "/outputs", "models": "/models:ro", "links": "/userscripts_dir:ro"}
    words = [word for name, target in mounts.items() for word in ("--volume", f"{bench.folder}/{name}:{target}")]
    extra = ("--env", "COMFY_CMDLINE_EXTRA=--output-directory /outputs", "--publish", "127.0.0.1::8188")
    container = bench.start("comfy", COMFY, *words, *extra, *HARDENED, *bench.gpu_mounts(bench.folder / "state"))
    until(lambda: "To see the GUI" in logs(container), what="ComfyUI is up")
    return container


@pytest.fixture
def comfy_url(comfy: str) -> str:  # a restart gives another port
    return f"http://{address(comfy, 8188)}"


class TestComfy:
    def test_pages(self, comfy_url: str) -> None:
        assert requests.get(comfy_url, timeout=5).status_code == 200
        assert requests.head(comfy_url, timeout=5).status_code == 200
        stats = requests.get(f"{comfy_url}/system_stats", timeout=5).json()
        assert "RTX 4000 Ada" in stats["devices"][0]["name"]
        assert stats["devices"][0]["vram_total"] == 20475 << 20
        assert requests.get(f"{comfy_url}/queue", timeout=5).json() == {"queue_running": [], "queue_pending": []}
        assert requests.post(f"{comfy_url}/free", json={"unload_models": True}, timeout=5).status_code == 200

    @pytest.mark.parametrize(
        ("host", "origin", "status"),
        [
            ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
            ("127.0.0.1:8188", "http://localhost:8188", 403),
            ("127.0.0.1:8188", "http://127.0.0.1:9000", 403),
            ("127.0.0.1:8188", "https://evil.example", 403),
            ("localhost:8188", "http://localhost:8188", 200),
            ("comfy:8188", "https://evil.example", 200),
        ],
    )
    def test_origin(self, comfy_url: str, host: str, origin: str, status: int) -> None:
        headers = {"Host": host, "Origin": origin}
        assert requests.get(f"{comfy_url}/system_stats", headers=headers, timeout=5).status_code == status

    def test_shared_models_are_seen_through_links(self, comfy: str, comfy_url: str) -> None:
        info = requests.get(f"{comfy_url}/object_info/CheckpointLoaderSimple", timeout=5).json()
        assert info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == ["shared/sd.safetensors"]

    def test_a_prompt_writes_a_picture(self, bench: Bench, comfy: str, comfy_url: str) -> None:
        client = websocket.create_connection(f"{comfy_url.replace('http', 'ws')}/ws?clientId=me", timeout=10)
        assert json.loads(client.recv())["data"]["sid"] == "me"
        client.ping("x")
        nodes = {"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "test"}}}
        requests.post(f"{comfy_url}/prompt", json={"prompt": nodes, "client_id": "me"}, timeout=5).raise_for_status()
        while json.loads(client.recv())["type"] != "executed":
            pass
        client.close()
        picture = bench.folder / "outputs/test_00001_.png"
        assert picture.read_bytes()[1:4] == b"PNG"
        found = picture.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1024, 1024, 0o644)
        assert picture.parent.joinpath("..", "comfy", "ComfyUI").resolve().stat().st_mode & 0o777 == 0o755

    def test_everything_it_made_is_1024(self, bench: Bench, comfy: str) -> None:
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (bench.folder / "comfy").rglob("*")}
        assert owners == {(1024, 1024)}

    def test_a_stop_is_obeyed_and_a_restart_clones_nothing(self, comfy: str) -> None:
        docker("stop", "--time", "9", comfy)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", comfy).stdout.strip() != "137", "it was killed"
        docker("start", comfy)
        until(lambda: logs(comfy).count("To see the GUI") == 2, what="ComfyUI is up again")
        assert logs(comfy).count("== Cloning ComfyUI") == 1

    def test_without_an_init_it_does_not_hear_a_stop(self, bench: Bench) -> None:
        bench.as_root("mkdir deaf; chown 1024:1024 deaf")
        mounts = ("--volume", f"{bench.folder}/deaf:/comfy/mnt", *bench.gpu_mounts(bench.folder / "state"))
        container = bench.start("deaf", COMFY, *mounts)
        until(lambda: "To see the GUI" in logs(container))
        docker("stop", "--time", "1", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "137"


@pytest.fixture(scope="module")
def ollama(bench: Bench, network: str) -> str:
    bench.as_root("mkdir ollama")
    words = (
        "--network",
        network,
        "--network-alias",
        "ollama",
        "--publish",
        "127.0.0.1::11434",
        "--env",
        "OLLAMA_NO_CLOUD=1",
    )
    data = ("--volume", f"{bench.folder}/ollama:/root/.ollama", *LEAST, *bench.gpu_mounts(bench.folder / "state"))
    container = bench.start("ollama", OLLAMA, *words, *data)
    until(lambda: "inference compute" in logs(container))
    return container


@pytest.fixture(scope="module")
def ollama_url(ollama: str) -> str:
    return f"http://{address(ollama, 11434)}"


def pull(url: str, name: str) -> tuple[int, list[dict[str, Any]]]:
    answer = requests.post(f"{url}/api/pull", json={"model": name}, stream=True, timeout=30)
    return answer.status_code, [json.loads(line) for line in answer.iter_lines()]


class TestOllama:
    def test_log(self, ollama: str) -> None:
        said = logs(ollama)
        assert re.search(
            r'Listening on \[::\]:11434 \(version 0\.13\.5\)".*inference compute.*library=CUDA', said, re.DOTALL
        )

    def test_without_a_gpu_it_says_cpu(self, bench: Bench) -> None:
        container = bench.start("cpu", OLLAMA)
        until(lambda: "library=cpu" in logs(container))

    def test_answers(self, ollama_url: str) -> None:
        assert requests.get(ollama_url, timeout=5).text == "Ollama is running"
        assert requests.head(ollama_url, timeout=5).status_code == 200
        assert requests.get(f"{ollama_url}/api/version", timeout=5).json() == {"version": "0.13.5"}
        assert requests.get(f"{ollama_url}/api/status", timeout=5).json()["cloud"]["disabled"] is True

    def test_pull_run_unload_delete(self, ollama: str, ollama_url: str) -> None:
        status, lines = pull(ollama_url, "llama3.2:1b")
        assert status == 200
        assert lines[-1] == {"status": "success"}
        assert lines[-4]["completed"] == lines[-4]["total"]
        assert "llama3.2:1b" in docker("exec", ollama, "ollama", "list").stdout
        ask = {"model": "llama3.2:1b", "prompt": "hi", "stream": False}
        assert requests.post(f"{ollama_url}/api/generate", json=ask, timeout=5).json()["done"]
        (loaded,) = requests.get(f"{ollama_url}/api/ps", timeout=5).json()["models"]
        assert loaded["size_vram"] == loaded["size"] > 0
        assert "100% GPU" in docker("exec", ollama, "ollama", "ps").stdout
        unload = {"model": "llama3.2:1b", "keep_alive": 0}
        assert requests.post(f"{ollama_url}/api/generate", json=unload, timeout=5).json()["done_reason"] == "unload"
        assert requests.get(f"{ollama_url}/api/ps", timeout=5).json() == {"models": []}
        assert requests.delete(f"{ollama_url}/api/delete", json={"model": "llama3.2:1b"}, timeout=5).status_code == 200
        assert requests.get(f"{ollama_url}/api/tags", timeout=5).json() == {"models": []}

    def test_a_pull_that_fails_says_so_inside_a_200(self, ollama_url: str) -> None:
        status, lines = pull(ollama_url, "no-such-model")
        assert (status, lines[-1]) == (200, {"error": "pull model manifest: file does not exist"})

    def test_a_full_disk_is_named_in_the_stream(self, bench: Bench) -> None:
        words = ("--tmpfs", "/root/.ollama:size=4m", "--publish", "127.0.0.1::11434")
        container = bench.start("full", OLLAMA, *words)
        until(lambda: "inference compute" in logs(container))
        status, lines = pull(f"http://{address(container, 11434)}", "smollm2")
        assert status == 200
        assert lines[-1]["error"].endswith("no space left on device")

    def test_command_without_a_server(self, bench: Bench) -> None:
        image = bench.images[OLLAMA]
        listed = docker("run", "--rm", image, "list", check=False)
        assert listed.returncode == 1
        assert listed.stderr == "Error: could not connect to ollama server, run 'ollama serve' to start it\n"
        version = docker("run", "--rm", image, "--version")
        assert "Warning: could not connect to a running Ollama instance" in version.stdout


@pytest.mark.parametrize(
    ("reference", "has", "lacks"),
    [
        (COMFY, "bash sudo curl python3", "wget jq"),
        (OLLAMA, "bash ollama", "curl wget python3 sudo jq"),
        (OPENWEBUI, "bash curl jq python3", "wget sudo"),
    ],
)
def test_an_image_has_the_tools_of_the_real_one_and_no_more(bench: Bench, reference: str, has: str, lacks: str) -> None:
    script = f"for t in {has}; do command -v $t >/dev/null || echo no $t; done; "
    script += f"for t in {lacks} git; do command -v $t; done; true"
    assert docker("run", "--rm", "--entrypoint", "bash", bench.images[reference], "-c", script).stdout == ""


@dataclass
class WebUi:
    """An Open WebUI on the network of the tests."""

    bench: Bench
    network: str

    def start(self, name: str, *arguments: str) -> str:
        words = (
            "--network",
            self.network,
            "--env",
            "OLLAMA_BASE_URL=http://ollama:11434",
            "--publish",
            "127.0.0.1::8080",
        )
        settings = f"{self.bench.folder}/stand-in.json:/etc/lab/stand-in.json:ro"
        container = self.bench.start(name, OPENWEBUI, *words, *LEAST, "--volume", settings, *arguments)
        url = f"http://{address(container, 8080)}"
        until(lambda: answers(f"{url}/health"), what="Open WebUI listens")
        return url


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def webui(bench: Bench, network: str, ollama: str) -> WebUi:
    return WebUi(bench, network)


class TestOpenWebui:
    def test_sessions_die_with_the_key(self, bench: Bench, webui: WebUi, ollama_url: str) -> None:
        bench.as_root("mkdir webui; echo key-of-a-file >key")
        data = ("--volume", f"{bench.folder}/webui:/app/backend/data")
        url = webui.start("webui-a", *data, "--env", "WEBUI_SECRET_KEY=one")
        assert requests.get(f"{url}/ready", timeout=5).status_code == 503  # the first start takes longer
        until(lambda: answers(f"{url}/ready"))
        form = {"name": "A", "email": "a@b.c", "password": "x"}
        account = requests.post(f"{url}/api/v1/auths/signup", json=form, timeout=5).json()
        assert account["role"] == "admin"
        assert (
            requests.post(f"{url}/api/v1/auths/signup", json={**form, "email": "d@e.f"}, timeout=5).status_code == 403
        )
        session = {"Authorization": f"Bearer {account['token']}"}
        assert requests.get(f"{url}/api/v1/auths/", headers=session, timeout=5).json()["email"] == "a@b.c"
        pull(ollama_url, "all-minilm")
        models = requests.get(f"{url}/api/models", headers=session, timeout=5).json()["data"]
        assert [model["id"] for model in models] == ["all-minilm:latest"]
        assert requests.get(f"{url}/api/models", timeout=5).status_code == 401
        docker("rm", "--force", f"{bench.prefix}-webui-a")

        key = ("--volume", f"{bench.folder}/key:/run/secrets/key:ro", "--env", "WEBUI_SECRET_KEY_FILE=/run/secrets/key")
        url = webui.start("webui-b", *data, *key)
        until(lambda: answers(f"{url}/ready"))
        assert requests.get(f"{url}/api/v1/auths/", headers=session, timeout=5).status_code == 401
        again = requests.post(f"{url}/api/v1/auths/signin", json=form, timeout=5).json()
        assert again["id"] == account["id"]
        assert requests.post(f"{url}/api/v1/auths/signin", json={**form, "password": "y"}, timeout=5).status_code == 400

    def test_pages_and_sockets(self, bench: Bench, webui: WebUi) -> None:
        url = webui.start("webui-c")
        assert "Generating WEBUI_SECRET_KEY" in logs(f"{bench.prefix}-webui-c")
        assert requests.head(url, timeout=5).status_code == 200
        assert requests.get(f"{url}/health", timeout=5).json() == {"status": True}
        assert requests.get(f"{url}/api/version", timeout=5).json()["version"] == "0.12.4"
        path = "/ws/socket.io/?EIO=4&transport="
        assert requests.get(f"{url}{path}polling", timeout=5).status_code == 400
        client = websocket.create_connection(f"{url.replace('http', 'ws')}{path}websocket", timeout=5)
        assert json.loads(client.recv()[1:])["upgrades"] == []
        client.send("40")
        assert str(client.recv()).startswith("40{")
        client.send('42["heartbeat",{}]42')  # what is no event is passed over
        client.send('421["user-join",{"auth":{}}]')
        assert client.recv() == "431[]"
        until(lambda: answers(f"{url}/ready"))
        form = {"name": "A", "email": "a@b.c", "password": "x"}
        account = requests.post(f"{url}/api/v1/auths/signup", json=form, timeout=5).json()
        client.send(f'422["user-join",{json.dumps({"auth": {"token": account["token"]}})}]')
        assert json.loads(str(client.recv())[3:]) == [{"id": account["id"], "name": "A"}]
        client.close()
        page = requests.get(url, timeout=5).text
        (script,) = re.findall(r'script type="module" src="([^"]+)"', page)
        assert requests.get(f"{url}{script}", timeout=5).headers["Content-Type"] == "text/javascript"

    def test_health_check(self, bench: Bench) -> None:
        test = docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", bench.images[OPENWEBUI]).stdout
        assert "curl --silent --fail http://localhost:${PORT:-8080}/health" in test


# ---- NVML ----

ALONE = "services = 0\n"  # without what the services of the other tests hold on the card
READ = """
import json
from pynvml import *
def maybe(call, *arguments):
    try:
        return call(*arguments)
    except NVMLError as error:
        return str(error)
nvmlInit()
d = nvmlDeviceGetHandleByIndex(0)
m = nvmlDeviceGetMemoryInfo(d, version=nvmlMemory_v2)
pci = nvmlDeviceGetPciInfo(d)
print(json.dumps({
    "driver": nvmlSystemGetDriverVersion(),
    "nvml": nvmlSystemGetNVMLVersion(),
    "cuda": nvmlSystemGetCudaDriverVersion_v2(),
    "count": nvmlDeviceGetCount(),
    "name": nvmlDeviceGetName(d),
    "uuid": nvmlDeviceGetUUID(d),
    "pci": [hex(pci.pciDeviceId), pci.busId if isinstance(pci.busId, str) else pci.busId.decode()],
    "memory": [m.total >> 20, m.used >> 20, m.total - m.reserved - m.used - m.free],
    "memory_v1": nvmlDeviceGetMemoryInfo(d).total >> 20,
    "load": nvmlDeviceGetUtilizationRates(d).gpu,
    "celsius": [nvmlDeviceGetTemperature(d, 0), nvmlDeviceGetTemperatureV(d, 0)],
    "power": [nvmlDeviceGetPowerUsage(d), nvmlDeviceGetEnforcedPowerLimit(d), nvmlDeviceGetPowerManagementLimit(d)],
    "ecc": maybe(nvmlDeviceGetEccMode, d),
    "errors": maybe(nvmlDeviceGetTotalEccErrors, d, 1, 0),
    "rows": nvmlDeviceGetRemappedRows(d),
    "reasons": [nvmlDeviceGetCurrentClocksEventReasons(d), nvmlDeviceGetCurrentClocksThrottleReasons(d)],
    "modes": [nvmlDeviceGetPersistenceMode(d), nvmlDeviceGetComputeMode(d)],
    "fan": nvmlDeviceGetFanSpeed(d),
    "state": nvmlDeviceGetPerformanceState(d),
    "capability": nvmlDeviceGetCudaComputeCapability(d),
    "processes": [[p.pid, p.usedGpuMemory] for p in nvmlDeviceGetComputeRunningProcesses(d)],
    "programs": [nvmlSystemGetProcessName(p.pid) for p in nvmlDeviceGetComputeRunningProcesses(d)],
    "graphics": len(nvmlDeviceGetGraphicsRunningProcesses(d)),
    "text": nvmlErrorString(18),
}))
nvmlShutdown()
"""


@pytest.fixture
def card(bench: Bench, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command against the built library, with a state folder of its own (tmp_path)."""
    (tmp_path / "gpu.conf").write_text(ALONE)
    environment = {**os.environ, "LD_LIBRARY_PATH": str((bench.driver / LIBRARY).parent), "LAB_GPU_DIR": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=10, check=False)

    return run


class TestNvml:
    def test_pynvml_reads_it_all(self, card: Callable[..., Any], tmp_path: Path) -> None:
        me, parent = os.getpid(), os.getppid()
        lines = ["# a busy card", "memory_used_mib = 2048", "temperature=71", "utilization = 99"]
        lines += [f"process = {holder}" for holder in (f"{me},1024", f"{parent},na", "4194303,5", f"{me},7,G")]
        (tmp_path / "gpu.conf").write_text(ALONE + "\n".join(lines))
        done = card(sys.executable, "-c", READ)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["processes"] == [[me, 1 << 30], [parent, None]]  # a process that is gone is not listed
        assert "python" in said["programs"][0]
        expected = {
            "driver": "590.48.01", "nvml": "13.590.48.01", "cuda": 13010, "count": 1, "memory": [20475, 2048, 0],
            "name": "NVIDIA RTX 4000 Ada Generation", "pci": ["0x27b210de", "00000000:01:00.0"], "memory_v1": 20475,
            "load": 99, "celsius": [71, 71], "power": [11520, 130000, 130000], "ecc": [0, 0], "rows": [0, 0, 0, 0],
            "errors": "Not Supported", "reasons": [1, 1], "modes": [0, 0], "fan": 30, "state": 8, "capability": [8, 9],
            "graphics": 1, "text": "Driver/library version mismatch",
        }  # fmt: skip
        assert {key: said[key] for key in expected} == expected

    def test_ecc(self, card: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "gpu.conf").write_text(f"{ALONE}ecc = on\necc_uncorrected = 3\nremap_pending = 1\n")
        said = json.loads(card(sys.executable, "-c", READ).stdout)
        assert (said["ecc"], said["errors"], said["rows"]) == ([1, 1], 3, [0, 0, 1, 0])

    @pytest.mark.parametrize(
        ("fault", "code", "text", "error"),
        [
            (
                "mismatch",
                18,
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 590.48\n",
                18,
            ),
            ("nocomm", 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
            ("nodevice", 6, "No devices were found\n", 2),
            ("lost", 15, "GPU is lost.  Reboot the system to recover this GPU", 15),
            ("unknown", 255, "Failed to initialize NVML: Unknown Error\n", 999),
        ],
    )
    def test_faults(
        self, bench: Bench, card: Callable[..., Any], tmp_path: Path, fault: str, code: int, text: str, error: int
    ) -> None:
        (tmp_path / "gpu-fault").write_text(f"{fault}\n")
        done = card(str(bench.driver / "usr/bin/nvidia-smi"))
        assert (done.returncode, text in done.stdout) == (code, True), done.stdout
        script = "from pynvml import *\ntry: nvmlInit(); nvmlDeviceGetHandleByIndex(0)\n"
        script += "except NVMLError as error: print(error.value)"
        assert card(sys.executable, "-c", script).stdout.strip() == str(error)

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["-L"], 0, r"GPU 0: NVIDIA RTX 4000 Ada Generation \(UUID: GPU-[0-9a-f-]{36}\)\n"),
            (
                ["--query-gpu=name,memory.total", "--format=csv"],
                0,
                r"name, memory.total \[MiB\]\n.* Generation, 20475 MiB\n",
            ),
            (["--query-gpu=driver_version", "--format=csv,noheader"], 0, r"590\.48\.01\n"),
            (["--query-gpu=power.draw,memory.used", "--format=csv,noheader,nounits"], 0, r"11\.52, 2\n"),
            (["--query-compute-apps=pid,used_memory", "--format=csv"], 0, r"pid, used_memory \[MiB\]\n"),
            (["--query-gpu=nonsense", "--format=csv"], 2, r'Field "nonsense" is not a valid field to query\.\n\n'),
            (["--nonsense"], 2, r"Invalid combination of input arguments.*\n"),
            (["--version"], 0, r"NVIDIA-SMI version  : 590\.48\.01\n(.*\n)+CUDA Version        : 13\.1\n"),
            (["-i", "3"], 6, r"No devices were found\n"),
        ],
    )
    def test_nvidia_smi(
        self, bench: Bench, card: Callable[..., Any], arguments: list[str], code: int, said: str
    ) -> None:
        done = card(str(bench.driver / "usr/bin/nvidia-smi"), *arguments)
        assert re.fullmatch(said, done.stdout), done.stdout
        assert done.returncode == code

    def test_the_table_has_the_real_width(self, bench: Bench, card: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "gpu.conf").write_text(f"{ALONE}process = {os.getpid()},1234\necc = on\n")
        lines = card(str(bench.driver / "usr/bin/nvidia-smi")).stdout.splitlines()
        assert {len(line) for line in lines[1:] if line} == {91}

    def test_what_a_service_holds_is_seen_on_the_host(
        self, comfy_url: str, card: Callable[..., Any], tmp_path: Path
    ) -> None:
        (tmp_path / "gpu.conf").write_text("")
        nodes = {"1": {"class_type": "SaveImage"}}
        until(lambda: answers(comfy_url), what="ComfyUI after its restart")
        requests.post(f"{comfy_url}/prompt", json={"prompt": nodes}, timeout=5).raise_for_status()
        held = (312 + 6144) << 20
        until(lambda: held in [row[1] for row in json.loads(card(sys.executable, "-c", READ).stdout)["processes"]])


# ---- the toolkit, on a lab host with an engine that calls its hook ----

RUN_COMFY = f"docker run --rm --gpus all {' '.join(HARDENED)} --entrypoint nvidia-smi {COMFY}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    name = f"t-gpu-{os.getpid()}"
    known_hosts = tmp_path_factory.mktemp("known-hosts") / "known_hosts"
    try:
        yield machine.up(name, port=machine.free_port(), known_hosts=known_hosts)
    finally:
        machine.down(name, forget=True, known_hosts=known_hosts)


class TestToolkit:
    def test_a_container_without_rights_sees_the_card_change(self, lab: Lab) -> None:
        lab.ssh(f"docker run -d --name long --gpus all {' '.join(HARDENED)} --entrypoint sleep {COMFY} 600")
        assert "RTX 4000 Ada" in lab.ssh("docker exec long nvidia-smi -L").stdout
        with faults.card(lab, name="Another Card"):
            assert "Another Card" in lab.ssh("docker exec long nvidia-smi -L").stdout
        with faults.gpu(lab, "lost"):
            assert lab.ssh("docker exec long nvidia-smi -L", check=False).returncode == 15
        lab.ssh("docker exec long nvidia-smi -L")

    def test_one_container_loses_its_card_until_it_starts_anew(self, lab: Lab) -> None:
        lab.ssh(f"docker run -d --init --name one --gpus all --entrypoint sleep {OLLAMA} 600")
        lab.sh("echo unknown >/run/lab/containers/$(docker inspect -f '{{.Id}}' one)/gpu-fault")
        assert lab.ssh("docker exec one nvidia-smi", check=False).stdout == (
            "Failed to initialize NVML: Unknown Error\n"
        )
        lab.ssh("nvidia-smi")
        lab.ssh("docker restart -t 0 one && docker exec one nvidia-smi")

    def test_requirements_and_devices_are_refused_in_the_real_words(self, lab: Lab) -> None:
        with faults.card(lab, cuda="13.0"):
            refused = lab.ssh(RUN_COMFY, check=False).stderr
            assert (
                "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.1, please update" in refused
            )
            assert lab.ssh(RUN_COMFY.replace("--rm", "--rm -e NVIDIA_DISABLE_REQUIRE=1")).returncode == 0
        refused = lab.ssh(RUN_COMFY.replace("--gpus all", "--gpus device=3"), check=False).stderr
        assert "nvidia-container-cli: device error: 3: unknown device" in refused

    def test_the_other_two_ways_to_a_card(self, lab: Lab) -> None:
        lab.sh("nvidia-ctk runtime configure --runtime=docker; nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
        assert "nvidia.com/gpu=all" in lab.sh("nvidia-ctk cdi list")
        lab.sh("systemctl restart docker")
        for way in ("--runtime=nvidia", "--device nvidia.com/gpu=all"):
            lab.ssh(f"docker run --rm {way} --entrypoint nvidia-smi {OLLAMA} -L")

    def test_the_driver_leaves_its_traces(self, lab: Lab) -> None:
        assert lab.ssh("cat /sys/module/nvidia/version").stdout == "590.48.01\n"
        assert lab.ssh("cat /proc/driver/nvidia/version").stdout.startswith(
            "NVRM version: NVIDIA UNIX Open Kernel Module"
        )
        assert "GPU UUID:       GPU-" in lab.ssh("nvidia-container-cli info").stdout
