"""ComfyUI's server: its pages, queue, web socket and its rule about Host and Origin. The start-up script runs it."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import signal
import sys
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

from lab.services.stand_in import gpu, pages
from lab.services.stand_in.sockets import WebSocket
from lab.services.stand_in.web import Answer, App, Request, listen

VERSION = "0.3.76"
MODEL_ENDINGS = (".ckpt", ".safetensors", ".sft", ".pt", ".pt2", ".bin", ".pth", ".pkl", ".gguf")
CONTEXT_MIB, MODEL_MIB = 312, 6144
FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104_857_600}
GIB = 1 << 30
LOADERS = {
    "CheckpointLoaderSimple": ("ckpt_name", "checkpoints"),
    "LoraLoader": ("lora_name", "loras"),
    "VAELoader": ("vae_name", "vae"),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """ComfyUI's command line, as much of it as people use; an option it does not know ends it with 2."""
    parser = argparse.ArgumentParser(prog="main.py", allow_abbrev=False)
    parser.add_argument("--listen", nargs="?", const="0.0.0.0,::", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188)
    for name in ("base", "output", "input", "temp", "user"):
        parser.add_argument(f"--{name}-directory", type=Path)
    parser.add_argument("--extra-model-paths-config", nargs="+", action="append")
    for name in ("reserve-vram", "cuda-device", "preview-method", "verbose", "front-end-version", "max-upload-size"):
        parser.add_argument(f"--{name}", nargs="?")
    parser.add_argument("--enable-cors-header", nargs="?", const="*")
    parser.add_argument("--fast", nargs="*")
    switches = (
        "auto-launch disable-auto-launch enable-manager enable-manager-legacy-ui lowvram highvram normalvram gpu-only "
        "cpu novram force-fp16 fp16-vae bf16-vae cuda-malloc disable-cuda-malloc use-sage-attention disable-metadata "
        "disable-smart-memory multi-user log-stdout disable-all-custom-nodes disable-api-nodes "
        "use-pytorch-cross-attention"
    )
    for name in switches.split():
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args(arguments)


def list_models(folder: Path) -> list[str]:
    """Model files below a folder, symbolic links followed; a link to nowhere is skipped with a line in the log."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        for name in files + folders:
            path = Path(root) / name
            if path.is_symlink() and not path.exists():
                print(f"WARNING {path} does not exist, skipping", flush=True)
            elif name.endswith(MODEL_ENDINGS) and path.is_file():
                found.append(str(path.relative_to(folder)))
    return sorted(found)


def is_loopback(host: str | None) -> bool:
    with contextlib.suppress(ValueError):
        return bool(host) and ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"


def origin_allowed(host: str | None, origin: str | None) -> bool:
    """ComfyUI's rule: on a loopback Host, the Origin must be the same place; a port counts only where both give one."""
    if not host or not origin:
        return True
    here, there = urllib.parse.urlsplit("//" + host.lower()), urllib.parse.urlsplit(origin.lower())
    ours = here.netloc if there.port is not None else here.hostname
    theirs = there.netloc if here.port is not None else there.hostname
    if there.port is None or here.port is None:
        ours, theirs = here.hostname, there.hostname
    return not (is_loopback(here.hostname) and ours and theirs and ours != theirs)


def is_feature_flags(text: str) -> bool:
    """What a client's first message may be; the real one passes over anything else."""
    with contextlib.suppress(ValueError):
        message = json.loads(text)
        return isinstance(message, dict) and message.get("type") == "feature_flags"
    return False


class Comfy(App):
    """State of the server: queue, history, connected clients, what lies on the card."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        base = options.base_directory or home
        self.output = options.output_directory or base / "output"
        self.models = base / "models"
        self.clients: dict[str, WebSocket] = {}
        self.pending: list[list[Any]] = []
        self.running: list[list[Any]] = []
        self.history: dict[str, object] = {}
        self.counter = 0
        self.work = threading.Condition()
        self.vram = gpu.Vram()
        self.vram.hold(CONTEXT_MIB)
        self.has_model = False
        super().__init__(
            {
                "GET /(index.html)?": lambda _: Answer(pages.COMFY),
                "GET /assets/index.js": lambda _: Answer(pages.COMFY_SCRIPT, kind="text/javascript"),
                "GET /assets/favicon.png": lambda _: Answer(pages.png(16), kind="image/png"),
                "GET (/api)?/system_stats": self.system_stats,
                "GET (/api)?/queue": lambda _: Answer(self.queue()),
                "GET (/api)?/prompt": lambda _: Answer(self.remaining()),
                "POST (/api)?/prompt": self.prompt,
                "POST (/api)?/free": self.free,
                "POST (/api)?/interrupt": lambda _: Answer(b"", kind="text/plain"),
                "GET (/api)?/history(/(?P<id>[^/]+))?": self.past,
                "GET (/api)?/view": self.view,
                "GET (/api)?/object_info(/(?P<node>[^/]+))?": self.object_info,
                "GET (/api)?/models(/(?P<kind>[^/]+))?": self.model_lists,
                "GET /ws": self.socket,
            }
        )
        threading.Thread(target=self.run_queue, daemon=True).start()

    def before(self, request: Request) -> None:
        headers = request.headers
        if headers.get("Sec-Fetch-Site") == "cross-site":
            raise Answer(b"403: Forbidden", 403, "text/plain; charset=utf-8")
        if not origin_allowed(headers.get("Host"), headers.get("Origin")):
            pair = f"{headers['Host']} != {headers['Origin']}"
            print(f"WARNING: request with non matching host and origin {pair}, returning 403", flush=True)
            raise Answer(b"403: Forbidden", 403, "text/plain; charset=utf-8")

    def queue(self) -> dict[str, object]:
        return {"queue_running": self.running, "queue_pending": self.pending}

    def remaining(self) -> dict[str, object]:
        return {"exec_info": {"queue_remaining": len(self.running) + len(self.pending)}}

    def system_stats(self, request: Request) -> Answer:
        del request
        card = gpu.look()
        devices = []
        if card:
            memory = {"vram_total": card.total, "vram_free": card.free, "torch_vram_total": 0, "torch_vram_free": 0}
            devices = [{"name": f"cuda:0 {card.name} : cudaMallocAsync", "type": "cuda", "index": 0, **memory}]
        system = {
            "os": "linux", "ram_total": 67_000_000_000, "ram_free": 60_000_000_000, "comfyui_version": VERSION,
            "python_version": sys.version, "pytorch_version": "2.9.1+cu130", "embedded_python": False, "argv": sys.argv,
        }  # fmt: skip
        return Answer({"system": system, "devices": devices})

    def prompt(self, request: Request) -> Answer:
        body = request.json
        nodes = body.get("prompt")
        if not isinstance(nodes, dict) or not nodes:
            error = {
                "type": "no_prompt",
                "message": "No prompt provided",
                "details": "No prompt provided",
                "extra_info": {},
            }
            return Answer({"error": error, "node_errors": {}}, 400)
        with self.work:
            number, identity = self.counter, str(uuid.uuid4())
            self.counter += 1
            self.pending.append([number, identity, nodes, {"client_id": body.get("client_id")}, []])
            self.work.notify()
        self.tell_status()
        return Answer({"prompt_id": identity, "number": number, "node_errors": {}})

    def free(self, request: Request) -> Answer:
        body = request.json
        if body.get("unload_models") or body.get("free_memory"):
            self.unload()
        return Answer(b"", kind="text/plain")

    def unload(self) -> None:
        self.has_model = False
        self.vram.hold(CONTEXT_MIB)

    def load(self) -> None:
        """Raises MemoryError with PyTorch's words where the card has no room for the model."""
        card = gpu.look()
        if card and not self.has_model and card.free < MODEL_MIB << 20:
            raise MemoryError(
                f"CUDA out of memory. Tried to allocate {MODEL_MIB / 1024:.2f} GiB. GPU 0 has a total capacity of "
                f"{card.total / GIB:.2f} GiB of which {card.free / (1 << 20):.2f} MiB is free. Including non-PyTorch "
                f"memory, this process has {CONTEXT_MIB:.2f} MiB memory in use."
            )
        self.has_model = True
        self.vram.hold(CONTEXT_MIB + MODEL_MIB)

    def run_queue(self) -> None:
        while True:
            with self.work:
                while not self.pending:
                    self.work.wait()
                self.running = [self.pending.pop(0)]
            self.execute(*self.running[0][1:3])
            self.running = []
            self.tell_status()

    def execute(self, identity: str, nodes: dict[str, Any]) -> None:
        """Puts a model on the card, writes one picture for each node that saves, and shows what others preview."""
        self.tell("execution_start", {"prompt_id": identity})
        outputs: dict[str, object] = {}
        try:
            self.load()
            time.sleep(0.2)
            for node, content in nodes.items():
                kind, inputs = str(content.get("class_type", "SaveImage")), content.get("inputs", {})
                if kind.startswith("SaveImage"):
                    outputs[node] = {"images": [self.save(str(inputs.get("filename_prefix", "ComfyUI")))]}
                elif kind == "PreviewAny":
                    outputs[node] = {"text": [str(inputs.get("source", ""))]}
                if node in outputs:
                    self.tell("executed", {"node": node, "output": outputs[node], "prompt_id": identity})
            status = {"status_str": "success", "completed": True}
        except OSError as error:
            print(f"!!! Exception during processing !!! {error}", flush=True)
            status = {"status_str": "error", "completed": False}
        except MemoryError as error:
            print(f"!!! Exception during processing !!! {error}\nTraceback (most recent call last):", flush=True)
            print(f"torch.OutOfMemoryError: {error}\n\nGot an OOM, unloading all loaded models.", flush=True)
            self.unload()
            status = {"status_str": "error", "completed": False}
        self.history[identity] = {"outputs": outputs, "status": status}
        self.tell("executing", {"node": None, "prompt_id": identity})

    def save(self, prefix: str) -> dict[str, str]:
        subfolder, _, stem = prefix.replace("..", "_").strip("/").rpartition("/")
        folder = self.output / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for path in folder.iterdir() if path.name.startswith(stem + "_"))
        name = f"{stem}_{number:05}_.png"
        (folder / name).write_bytes(pages.png())
        return {"filename": name, "subfolder": subfolder, "type": "output"}

    def past(self, request: Request) -> Answer:
        wanted = request.groups.get("id")
        return Answer({key: value for key, value in self.history.items() if wanted in (None, key)})

    def view(self, request: Request) -> Answer:
        path = (self.output / request.query.get("subfolder", "") / request.query.get("filename", "")).resolve()
        if not path.is_relative_to(self.output.resolve()) or not path.is_file():
            return Answer(b"404: Not Found", 404, "text/plain")
        return Answer(path.read_bytes(), kind="image/png")

    def object_info(self, request: Request) -> Answer:
        wanted = request.groups.get("node")
        return Answer(
            {
                name: {"input": {"required": {field: [list_models(self.models / kind)]}}, "name": name}
                for name, (field, kind) in LOADERS.items()
                if wanted in (None, name)
            }
        )

    def model_lists(self, request: Request) -> Answer:
        kind = request.groups.get("kind")
        if kind is None:
            return Answer(sorted(path.name for path in self.models.iterdir() if path.is_dir()))
        folder = self.models / kind
        return Answer(list_models(folder)) if folder.is_dir() else Answer(b"", 404, "text/plain")

    def socket(self, request: Request) -> None:
        identity = request.query.get("clientId") or uuid.uuid4().hex
        client = request.websocket()
        self.clients[identity] = client
        try:
            client.send_json({"type": "status", "data": {"status": self.remaining(), "sid": identity}})
            first = client.receive()
            if first is not None and is_feature_flags(first):
                client.send_json({"type": "feature_flags", "data": FEATURES})
            while first is not None and client.receive() is not None:
                pass
        except OSError:
            pass
        finally:
            if self.clients.get(identity) is client:  # and not one that came after it, under the same name
                del self.clients[identity]

    def tell(self, kind: str, data: dict[str, object]) -> None:
        for client in list(self.clients.values()):
            with contextlib.suppress(OSError):
                client.send_json({"type": kind, "data": data})

    def tell_status(self) -> None:
        self.tell("status", {"status": self.remaining()})


def missing(site: Path) -> str:
    """What the real one says when it cannot import what it needs; "" when it can. Python's words, and torchvision's."""
    for number, module in ((11, "torch"), (12, "torchvision"), (13, "numpy"), (14, "aiohttp")):
        if not (site / module).is_dir():
            where = f'  File "/comfy/mnt/ComfyUI/main.py", line {number}, in <module>\n    import {module}'
            return f"Traceback (most recent call last):\n{where}\nModuleNotFoundError: No module named '{module}'"
    cuda = {}
    for record in site.glob("torch*+cu*.dist-info"):
        name, _, version = record.name.removesuffix(".dist-info").partition("-")
        digits = version.rpartition("+cu")[2]
        cuda[name] = f"{digits[:-1]}.{digits[-1]}"
    torch, vision = cuda.get("torch", ""), cuda.get("torchvision", "")
    if torch and vision and torch.split(".")[0] != vision.split(".")[0]:
        return (
            "RuntimeError: Detected that PyTorch and torchvision were compiled with different CUDA major versions. "
            f"PyTorch has CUDA Version={torch} and torchvision has CUDA Version={vision}. "
            "Please reinstall the torchvision that matches your PyTorch install."
        )
    return ""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    options = parse(sys.argv[1:])
    home = Path.cwd()
    base = options.base_directory or home
    venv = os.environ.get("VIRTUAL_ENV")
    complaint = missing(Path(venv) / "lib/python3.12/site-packages") if venv else ""
    if complaint:
        print(complaint, file=sys.stderr, flush=True)
        return 1
    card = gpu.look()
    if card is None:
        print("RuntimeError: Unexpected error from cudaGetDeviceCount().", file=sys.stderr, flush=True)
        return 1
    for name in ("input", "output", "temp", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    settings = base / "user/__manager/config.ini"
    if options.enable_manager and not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(
            "[default]\nsecurity_level = normal\nnetwork_mode = personal_cloud\nuse_uv = False\n", encoding="utf-8"
        )
    app = Comfy(options, home)
    print(f"Total VRAM {card.total >> 20} MB, total RAM 64000 MB")
    print("pytorch version: 2.9.1+cu130\nSet vram state to: NORMAL_VRAM")
    print(f"Device: cuda:0 {card.name} : cudaMallocAsync\nComfyUI version: {VERSION}")
    print("[Prompt Server] web root: comfyui_frontend_package")
    server = listen(app, options.listen.split(",")[0], options.port)
    print("Starting server\n", flush=True)
    print(f"To see the GUI go to: http://{options.listen}:{options.port}", flush=True)
    server.serve_forever()
    return 0
