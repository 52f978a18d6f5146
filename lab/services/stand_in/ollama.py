"""`ollama serve`: the API, the log lines and the files under /root/.ollama of the real server."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.services.stand_in import gpu
from lab.services.stand_in.web import Answer, App, Request, listen, setting

VERSION = os.environ.get("STAND_IN_VERSION", "0.13.5")
GIB = 1 << 30
# The names that "the library" has, with the size a loaded model takes. Any other name is answered as a registry would.
LIBRARY = {
    "all-minilm": 0.05, "deepseek-r1": 4.9, "gemma3": 3.3, "llama3.1": 4.9, "llama3.2": 2.0, "llama3.3": 43.0,
    "mistral": 4.4, "nomic-embed-text": 0.3, "phi4": 9.1, "qwen2.5": 4.7, "qwen3": 5.2, "smollm2": 1.8,
    "tinyllama": 0.7,
}  # fmt: skip
NAME = re.compile(r"(?:registry\.ollama\.ai/)?(?:library/)?(?P<model>[\w.-]+)(?::(?P<tag>[\w.-]+))?", re.ASCII)


def say(source: str, text: str, level: str = "INFO") -> None:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    print(f"time={stamp}Z level={level} source={source} msg={text}", file=sys.stderr, flush=True)


def full_name(given: str) -> str:
    """NAME -> NAME:latest; an Answer(400) for what can be no name."""
    match = NAME.fullmatch(given)
    if not match:
        raise Answer({"error": "invalid model name"}, 400)
    return f"{match['model']}:{match['tag'] or 'latest'}"


class Store:
    """Manifests and blobs as the real server lays them out."""

    def __init__(self, root: Path) -> None:
        self.manifests = root / "manifests/registry.ollama.ai/library"
        self.blobs = root / "blobs"

    def path(self, name: str) -> Path:
        model, _, tag = name.partition(":")
        return self.manifests / model / tag

    def models(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.manifests.glob("*/*"), key=lambda path: path.stat().st_mtime, reverse=True):
            text = path.read_bytes()
            layers = json.loads(text)["layers"]
            name = f"{path.parent.name}:{path.name}"
            modified = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat()
            family = path.parent.name
            found.append(
                {
                    "name": name,
                    "model": name,
                    "modified_at": modified,
                    "size": sum(layer["size"] for layer in layers),
                    "digest": hashlib.sha256(text).hexdigest(),
                    "details": {"format": "gguf", "family": family, "families": [family], "parameter_size": "3.2B"},
                }
            )
        return found

    def require(self, given: str) -> dict[str, Any]:
        name = full_name(given)
        for model in self.models():
            if model["name"] == name:
                return model
        raise Answer({"error": f"model '{given}' not found"}, 404)

    def pull(self, given: str) -> Iterator[dict[str, object]]:
        """What /api/pull streams; a failure is the last line, inside a 200."""
        yield {"status": "pulling manifest"}
        name = full_name(given)
        if name.partition(":")[0] not in LIBRARY:
            yield {"error": "pull model manifest: file does not exist"}
            return
        content = random.Random(name).randbytes(1 << 20)  # noqa: S311 - the same bytes each time, not a secret
        parts = max(1, round(setting("ollama_pull_mib", 8)))
        total = parts << 20
        digest = hashlib.sha256(content * parts).hexdigest()
        line = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}
        blob = self.blobs / f"sha256-{digest}"
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                partial = self.blobs / f"sha256-{digest}-partial"
                yield line
                with partial.open("wb", buffering=0) as file:
                    for part in range(parts):
                        file.write(content)
                        time.sleep(setting("ollama_pull_seconds", 0.4) / parts)
                        yield {**line, "completed": (part + 1) << 20}
                partial.rename(blob)
            yield {**line, "completed": total}
            yield {"status": "verifying sha256 digest"}
            yield {"status": "writing manifest"}
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": total}
            path.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}), encoding="utf-8")
        except OSError as error:
            yield {"error": f"write {error.filename or blob}: {(error.strerror or '').lower()}"}
            return
        yield {"status": "success"}

    def delete(self, given: str) -> None:
        """Removes the manifest, and each blob that no other manifest names."""
        path = self.path(self.require(given)["name"])
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        self.prune()

    def prune(self) -> int:
        named = {
            layer["digest"].replace(":", "-")
            for path in self.manifests.glob("*/*")
            for layer in json.loads(path.read_text())["layers"]
        }
        unused = [blob for blob in self.blobs.glob("sha256-*") if blob.name not in named]
        for blob in unused:
            blob.unlink()
        return len(unused)


def duration(value: object, default: str) -> float:
    """Seconds of a keep_alive: a number, or 5m, 1h, 30s; below zero is for ever."""
    text = str(default if value is None else value)
    match = re.fullmatch(r"(-?[\d.]+)(ms|s|m|h)?", text)
    if not match:
        return 300.0
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}.get(match[2] or "s", 1)


class Ollama(App):
    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.loaded: dict[str, dict[str, Any]] = {}
        self.card = gpu.look()
        self.vram = gpu.Vram()
        super().__init__(
            {
                "GET /": lambda _: Answer(b"Ollama is running", kind="text/plain; charset=utf-8"),
                "GET /api/version": lambda _: Answer({"version": VERSION}),
                "GET /api/tags": lambda _: Answer({"models": self.store.models()}),
                "GET /api/ps": lambda _: Answer({"models": self.running()}),
                "GET /api/status": lambda _: Answer({"cloud": self.cloud()}),
                "POST /api/pull": self.pull,
                "DELETE /api/delete": self.delete,
                "POST /api/show": self.show,
                "POST /api/generate": self.generate,
                "POST /api/chat": self.generate,
            }
        )

    def unknown(self, request: Request) -> Answer:
        del request
        return Answer(b"404 page not found", 404, "text/plain")

    def log(self, request: Request, text: str) -> None:
        stamp = time.strftime("%Y/%m/%d - %H:%M:%S")
        status = text.split('" ')[-1].split()[0]
        who = request.client_address[0]
        asked = f'{request.command:<8} "{request.path.split("?")[0]}"'
        print(f"[GIN] {stamp} | {status} | {'55.1µs':>13} | {who:>15} | {asked}", flush=True)

    @staticmethod
    def cloud() -> dict[str, object]:
        given = os.environ.get("OLLAMA_NO_CLOUD", "")
        disabled = given.lower() in ("1", "true", "t")
        return {"disabled": disabled, "source": "env" if disabled else "none"}

    def running(self) -> list[dict[str, Any]]:
        self.expire()
        return [{key: value for key, value in model.items() if key != "until"} for model in self.loaded.values()]

    def expire(self) -> None:
        now = time.time()
        self.loaded = {name: model for name, model in self.loaded.items() if model["until"] > now}
        self.vram.hold(sum(model["size_vram"] for model in self.loaded.values()) >> 20)

    def load(self, model: dict[str, Any], keep: float) -> None:
        size = int(LIBRARY.get(model["name"].partition(":")[0], 1.0) * GIB)
        card = gpu.look()  # anew: what is free changes, and a container can lose its card
        room = card.free if card else 0
        until = time.time() + (keep if keep >= 0 else 10 * 365 * 86400)
        expires = datetime.datetime.fromtimestamp(until, datetime.UTC).isoformat()
        self.loaded[model["name"]] = {**model, "size": size, "size_vram": min(size, room), "expires_at": expires,
                                      "context_length": 4096, "until": until}  # fmt: skip
        self.expire()

    def pull(self, request: Request) -> Answer | None:
        body = request.json
        lines = self.store.pull(str(body.get("model") or body.get("name") or ""))
        if body.get("stream") is not False:
            request.stream(lines)
            return None
        last = list(lines)[-1]
        return Answer(last, 500 if "error" in last else 200)

    def delete(self, request: Request) -> Answer:
        body = request.json
        name = str(body.get("model") or body.get("name") or "")
        self.store.delete(name)
        self.loaded.pop(full_name(name), None)
        self.expire()
        return Answer(b"", kind="text/plain")

    def show(self, request: Request) -> Answer:
        body = request.json
        model = self.store.require(str(body.get("model") or body.get("name") or ""))
        return Answer(
            {"details": model["details"], "modified_at": model["modified_at"], "capabilities": ["completion"]}
        )

    def generate(self, request: Request) -> Answer | None:
        """/api/generate and /api/chat: no prompt only loads, keep_alive 0 with no prompt unloads."""
        body = request.json
        model = self.store.require(str(body.get("model", "")))
        keep = duration(body.get("keep_alive"), os.environ.get("OLLAMA_KEEP_ALIVE", "5m"))
        chat = request.path.startswith("/api/chat")
        empty = not (body.get("messages") if chat else body.get("prompt"))
        base = {"model": body["model"], "created_at": datetime.datetime.now(datetime.UTC).isoformat()}

        def line(text: str, reason: str = "") -> dict[str, object]:
            said: dict[str, object] = (
                {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
            )
            return {**base, **said, "done": bool(reason), **({"done_reason": reason} if reason else {})}

        if empty and keep == 0:
            self.loaded.pop(model["name"], None)
            self.expire()
            return Answer(line("", "unload"))
        self.load(model, keep)
        if empty:
            return Answer(line("", "load"))
        if body.get("stream") is False:
            return Answer(line("Hello from the lab.", "stop"))
        request.stream([line(word) for word in ("Hello", " from", " the", " lab.")] + [line("", "stop")])
        self.expire()
        return None


def describe_compute(card: gpu.Gpu | None) -> str:
    """The log line that proves where models will run."""
    if card is None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = int(total * 0.9)
        device = 'id=cpu library=cpu compute="" name=cpu description=cpu libdirs=ollama driver="" pci_id="" type=""'
    else:
        total, free = card.total, card.free
        device = (
            f'id={card.uuid} filter_id="" library=CUDA compute=8.9 name=CUDA0 description="{card.name}" '
            f"libdirs=ollama,cuda_v13 driver={card.cuda} pci_id=0000:01:00.0 type=discrete"
        )
    return f'"inference compute" {device} total="{total / GIB:.1f} GiB" available="{free / GIB:.1f} GiB"'


def serve() -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    root = Path(os.environ.get("OLLAMA_MODELS") or Path(os.environ.get("HOME", "/root")) / ".ollama/models")
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").removeprefix("http://").rpartition(":")
    settings = " ".join(f"{name}:{value}" for name, value in sorted(os.environ.items()) if name.startswith("OLLAMA_"))
    say("routes.go:1554", f'"server config" env="map[{settings}]"')
    try:
        (root / "blobs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"Error: mkdir {error.filename}: {(error.strerror or '').lower()}", file=sys.stderr)
        return 1
    store = Store(root)
    say("images.go:493", f'"total blobs: {sum(1 for _ in store.blobs.iterdir())}"')
    if not os.environ.get("OLLAMA_NOPRUNE"):
        say("images.go:500", f'"total unused blobs removed: {store.prune()}"')
    app = Ollama(root)
    server = listen(app, host or "127.0.0.1", int(port))
    shown = "[::]" if host in ("0.0.0.0", "::", "[::]") else host  # noqa: S104
    say("routes.go:1607", f'"Listening on {shown}:{port} (version {VERSION})"')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say("runner.go:67", '"discovering available GPUs..."')
    time.sleep(0.2)  # the server answers before it knows its card
    say("types.go:60" if app.card is None else "types.go:42", describe_compute(app.card))
    if app.card and app.card.total < 23 * GIB:
        say(
            "routes.go:1648",
            f'"entering low vram mode" "total vram"="{app.card.total / GIB:.1f} GiB" threshold="20.0 GiB"',
        )
    threading.Event().wait()
    return 0
