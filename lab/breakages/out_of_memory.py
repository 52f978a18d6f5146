"""fix.out-of-memory: a container's limit, and the card's memory."""

from __future__ import annotations

from lab.breakages import Breakage, Proof
from lab.machine import Lab

LIMIT = "8m"  # too little for ComfyUI's start-up script and Python
MODEL = "llama3.3"  # larger than the card: it takes what is free
PID_FILE = "/run/lab/foreign.pid"
PROMPT = '{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "lab"}}}}'
HAS_SAID = ("docker", "logs", "--tail", "20", "comfy")
VRAM_TEXT = "CUDA out of memory"


def limit(lab: Lab) -> None:
    """Somebody gave ComfyUI a limit by hand: the kernel kills it at every start."""
    lab.sh(
        """
        docker stop -t 2 comfy >/dev/null
        docker update --memory "$1" --memory-swap "$1" comfy >/dev/null
        docker start comfy >/dev/null
        until [ "$(docker inspect --format '{{.RestartCount}}' comfy)" -ge 2 ]; do sleep 0.2; done
        """,
        LIMIT,
    )


def unlimit(lab: Lab) -> None:
    """Where the fix did not get so far."""
    lab.sh(
        """
        if [ "$(docker inspect --format '{{.HostConfig.Memory}}' comfy)" != 0 ]; then
            docker update --memory 0 --memory-swap -1 comfy >/dev/null; docker restart comfy >/dev/null
        fi
        """,
        check=False,
    )


def prompt(lab: Lab) -> None:
    """A job for ComfyUI that finds no room on the card."""
    lab.exec(
        *("curl", "-fsS", "-o", "/dev/null", "-H", "Content-Type: application/json", "-d", PROMPT),
        "http://127.0.0.1:8188/prompt",
    )


def fill_card(lab: Lab) -> None:
    """Ollama holds nearly all of the card, for half an hour, and ComfyUI wants some."""
    generate = f'{{"model": "{MODEL}", "keep_alive": "30m", "stream": false}}'
    lab.sh(f"docker exec ollama ollama pull {MODEL} >/dev/null 2>&1")
    lab.exec("curl", "-fsS", "-o", "/dev/null", "-d", generate, "http://127.0.0.1:11434/api/generate")
    prompt(lab)


def forget_model(lab: Lab) -> None:
    lab.sh(f"docker exec ollama ollama stop {MODEL}; docker exec ollama ollama rm {MODEL} >/dev/null", check=False)


def foreign_job(lab: Lab) -> None:
    """A process that is nobody's of ours holds the card."""
    lab.sh(
        f"""
        mkdir -p /run/lab
        setsid sleep 3600 </dev/null >/dev/null 2>&1 & pid=$!
        echo $pid >{PID_FILE}
        printf 'process = %s,19000\\nmemory_used_mib = 19002\\n' $pid >/run/lab/gpu.conf
        """
    )
    prompt(lab)


def end_foreign_job(lab: Lab) -> None:
    """What fix.out-of-memory asks a human to do."""
    lab.sh(f"[ ! -e {PID_FILE} ] || kill $(cat {PID_FILE}) || true; rm -f {PID_FILE} /run/lab/gpu.conf")


BREAKAGES = (
    Breakage(
        "out-of-memory",
        "limit",
        "a memory limit that somebody set by hand has ComfyUI killed at every start",
        limit,
        Proof(("docker", "inspect", "--format", "OOMKilled={{.State.OOMKilled}}", "comfy"), "OOMKilled=true"),
        heal=unlimit,
    ),
    Breakage(
        "out-of-memory",
        "card",
        "Ollama's model fills the card, and ComfyUI runs out of its memory",
        fill_card,
        Proof(HAS_SAID, VRAM_TEXT),
        heal=forget_model,
        slow=True,
    ),
    Breakage(
        "out-of-memory",
        "foreign",
        "a process of somebody else's fills the card",
        foreign_job,
        Proof(HAS_SAID, VRAM_TEXT),
        by_hand=True,
        heal=end_foreign_job,
        slow=True,
    ),
)
