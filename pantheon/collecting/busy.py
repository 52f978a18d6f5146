"""What runs in the services now: ComfyUI's queue, and the models that Ollama holds in memory."""

from __future__ import annotations

import json

from pantheon.looks.http import http_get
from pantheon.looks.text import Json, Object, plain

QUEUE_BYTES = 4 << 20  # a queue holds whole workflows
MODELS_BYTES = 256 << 10
MOST_MODELS = 20
MIB = 1 << 20


def busy(spec: Object, root: str) -> Json:
    """evidence.Evidence.busy"""
    del root
    ports = spec.get("ports") or {}
    running, pending = comfy(ports["comfy"]) if ports.get("comfy") else (None, None)
    return {
        "comfy_running": running,
        "comfy_pending": pending,
        "ollama": ollama(ports["ollama"]) if ports.get("ollama") else None,
    }


def comfy(port: int) -> tuple[int | None, int | None]:
    """Jobs running and jobs waiting; None each where it does not answer as ComfyUI does."""
    found = get(port, "queue", QUEUE_BYTES)
    if isinstance(found, dict) and isinstance(found.get("queue_running"), list):
        pending = found.get("queue_pending")
        return len(found["queue_running"]), len(pending) if isinstance(pending, list) else 0
    # A queue that is too large to read: it tells the number of its jobs apart, and works on one at a time.
    found = get(port, "prompt", MODELS_BYTES)
    info = found.get("exec_info") if isinstance(found, dict) else None
    left = number(info.get("queue_remaining"), -1) if isinstance(info, dict) else -1
    return (min(left, 1), max(0, left - 1)) if left >= 0 else (None, None)


def ollama(port: int) -> list[Object] | None:
    """evidence.Loaded of each model in memory; None where it does not answer as Ollama does."""
    found = get(port, "api/ps", MODELS_BYTES)
    models = found.get("models") if isinstance(found, dict) else None
    if not isinstance(models, list):
        return None
    return [
        {
            "name": plain(str(model.get("name") or model.get("model") or "?"))[:200],
            "size_mib": number(model.get("size")) // MIB,
            "vram_mib": number(model.get("size_vram")) // MIB,
            "until": plain(str(model.get("expires_at") or ""))[:60],
        }
        for model in models[:MOST_MODELS]
        if isinstance(model, dict)
    ]


def get(port: int, path: str, limit: int) -> Json:
    """The JSON at that path; None for anything else. One that was published on other addresses only is asked too."""
    answer = http_get(f"http://127.0.0.1:{port}/{path}", limit)
    if not answer["status"] and not answer["error"].startswith("no answer"):
        answer = http_get(f"http://[::1]:{port}/{path}", limit)
    try:
        return json.loads(answer["body"]) if answer["status"] == 200 else None
    except (ValueError, RecursionError):
        return None


def number(value: Json, otherwise: int = 0) -> int:
    """A count or size that was answered; `otherwise` for what is none."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 60
    return int(value) if is_one else otherwise
