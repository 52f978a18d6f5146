"""Has ComfyUI and Ollama let go of the card's memory, over their own APIs on loopback; says who held what before and
what is left. Runs on the host, alone.

argv[1]: {"ports": {"comfy": 8188, "ollama": 11434}, "ids": {CONTAINER_ID: NAME}, "patience_s": 900}. A job that runs in
ComfyUI is not ended: it lets go when the job is done, which is waited for. Nothing else that holds the card is touched.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time

ANSWER_S = 30
POLL_S = 0.5
SETTLE_S = 10.0
MOST_BYTES = 4 << 20


class Failed(Exception):
    """The message is the one clear line."""


def ask(port: int, method: str, path: str, body: object = None) -> object:
    """The JSON of a 2xx answer, None for an empty one. Raises OSError, or Failed with the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        text = answer.read(MOST_BYTES)
    except http.client.HTTPException as error:
        raise Failed(f"{method} {path}: {type(error).__name__}") from None
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise Failed(f"{method} {path}: {answer.status} {answer.reason}")
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return None


def why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S} s"
    return str(getattr(error, "strerror", None) or error)


# ---- who holds what


def smi(query: str) -> list[list[str]]:
    """Rows of nvidia-smi's answer; [] where it gives none."""
    argv = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return rows if done.returncode == 0 else []


def number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def holder(pid: str, name: str, ids: dict[str, str]) -> str:
    """The container's name for one of ours, else the process."""
    try:
        with open(f"/proc/{number(pid)}/cgroup", encoding="utf-8", errors="replace") as file:
            text = file.read(65536)
    except OSError:
        text = ""
    for found in reversed(re.findall(r"[0-9a-f]{64}", text)):
        if found in ids:
            return ids[found]
    clean = "".join(c if c.isprintable() else "?" for c in name)[:60]
    return f"{clean} (pid {number(pid)}, not ours, left alone)"


def holders(ids: dict[str, str]) -> str:
    """`used 19800, free 251 MiB: ollama 19400 MiB, comfy 312 MiB`."""
    card = smi("--query-gpu=memory.used,memory.free")
    apps = smi("--query-compute-apps=pid,process_name,used_memory")
    total = "; ".join(f"used {number(row[0])}, free {number(row[1])} MiB" for row in card if len(row) > 1)
    rows = [(row[0], ",".join(row[1:-1]), row[-1]) for row in apps if len(row) > 2]
    shares = [
        f"{holder(pid, name, ids)} {size if size.isdigit() else '?'} MiB"
        for pid, name, size in sorted(rows, key=lambda row: -number(row[2]))
    ]
    return f"{total or 'nvidia-smi gives no figures'}: {', '.join(shares) or 'nobody holds any'}"


# ---- letting go


def free_comfy(port: int, end: float) -> None:
    """POST /free, which takes effect between two jobs; until no job runs any more."""
    ask(port, "POST", "/free", {"unload_models": True, "free_memory": True})
    told = False
    while (jobs := running(port)) and time.monotonic() < end:
        if not told:
            print(f"comfy: {jobs} running; it unloads when that is done", flush=True)
            told = True
        time.sleep(POLL_S)
    if jobs:
        raise Failed("comfy's job is still running; it unloads its models when that is done")
    print("comfy: models unloaded", flush=True)


def running(port: int) -> int:
    queue = ask(port, "GET", "/queue")
    jobs = queue.get("queue_running") if isinstance(queue, dict) else None
    return len(jobs) if isinstance(jobs, list) else 0


def loaded(port: int) -> list[str]:
    answer = ask(port, "GET", "/api/ps")
    models = answer.get("models") if isinstance(answer, dict) else None
    names = [model.get("name") or model.get("model") for model in models or () if isinstance(model, dict)]
    return [str(name) for name in names if name]


def free_ollama(port: int, end: float) -> None:
    """keep_alive 0 for each loaded model: Ollama ends what it is answering first."""
    for name in loaded(port):
        ask(port, "POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        print("ollama: asked to unload " + "".join(c if c.isprintable() else "?" for c in name)[:80], flush=True)
    while (left := loaded(port)) and time.monotonic() < end:
        time.sleep(POLL_S)
    if left:
        raise Failed(f"ollama still holds {len(left)} of its models: it is answering with them")
    print("ollama: no model loaded", flush=True)


def settle(ids: dict[str, str]) -> str:
    """What is held, once it does not change any more: the driver needs a moment to take memory back."""
    end, before = time.monotonic() + SETTLE_S, ""
    while (now := holders(ids)) != before and time.monotonic() < end:
        before = now
        time.sleep(POLL_S)
    return now


def main(told: dict[str, object]) -> int:
    ports, ids = dict(told.get("ports") or {}), dict(told.get("ids") or {})  # type: ignore[call-overload]
    end = time.monotonic() + float(told.get("patience_s") or 900)  # type: ignore[arg-type]
    before = holders(ids)
    print(f"before: {before}", flush=True)
    failed = []
    for name, free in (("ollama", free_ollama), ("comfy", free_comfy)):
        if name not in ports:
            continue
        try:
            free(int(ports[name]), end)
        except Failed as error:
            failed.append(f"{name}: {error}")
        except OSError as error:
            failed.append(f"{name} on 127.0.0.1:{ports[name]}: {why(error)}")
    after = settle(ids)
    if failed:
        print(f"after: {after}", flush=True)
        print("; ".join(failed), flush=True)
        return 1
    print(f"after: {after} (before: {before})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
