"""What ComfyUI's log says of its start (§7): which stage it is in, and whether it can still succeed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

# In the order of the image's start-up script; the texts are the image's own (DOMAIN.md).
STAGES = (
    ("Starting script", "starting"),
    ("== Confirming we have the NVIDIA driver loaded", "checking the GPU"),
    ("== Testing write access", "checking /comfy/mnt"),
    ("== Cloning ComfyUI", "cloning ComfyUI"),
    ("== Creating virtualenv", "creating the virtual environment"),
    ("== Pre-installing/Upgrading torch", "installing torch"),
    ("== Installing/Updating from ComfyUI's requirements", "installing requirements"),
    ("== Installing Huggingface Hub", "installing Huggingface Hub"),
    ("== Running ComfyUI", "starting the server"),
)
READY = ("Starting server", "To see the GUI go to:")

# What a log must not lose when it is shortened.
MARKERS = (*(marker for marker, _ in STAGES), *READY, "!! ERROR: ", "fatal: ")

# A line that says why the start cannot succeed, and the command that mends it.
OWNERSHIP, FIRST_RUN, GPU = "invoke fix.comfy-ownership", "invoke fix.comfy-first-run", "invoke fix.gpu-lost"
FATAL = (
    ("owned by unexpected user/group", OWNERSHIP),
    ("MUST be running as UID", OWNERSHIP),
    ("not writeable", OWNERSHIP),
    ("not readable", OWNERSHIP),
    ("Directory /comfy/mnt not found", OWNERSHIP),
    ("detected dubious ownership", OWNERSHIP),
    ("nvidia-smi not found", GPU),
    ("Failed to run nvidia-smi", GPU),
    ("Driver CUDA version", GPU),
    ("!! ERROR: User script (", "invoke runbook comfy"),
    ("!! ERROR: BASE_DIRECTORY", "invoke runbook comfy"),
    ("fatal: not a git repository", FIRST_RUN),
    ("clone failed", FIRST_RUN),
    ("uv not found", FIRST_RUN),
    ("Virtualenv", FIRST_RUN),
    ("virtualenv not created", FIRST_RUN),
    ("Torch installation failed", FIRST_RUN),
    ("install/upgrade failed", FIRST_RUN),
    ("Pip upgrade failed", FIRST_RUN),
    ("Failed to install", FIRST_RUN),
    ("!! ERROR: ", "invoke runbook comfy"),
)
# Said on the way to such a line, and nearer to the cause than what the script makes of it.
HINTS = (
    (re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE), "invoke fix.disk-pressure"),
    (re.compile(r"stale file handle", re.IGNORECASE), "invoke fix.mounts-missing"),
    (re.compile(r"permission denied.*/comfy/mnt|/comfy/mnt.*permission denied", re.IGNORECASE), OWNERSHIP),
    (re.compile(r"read-only file system.*/comfy/mnt|/comfy/mnt.*read-only file system", re.IGNORECASE), OWNERSHIP),
    (re.compile(r"out of memory|DefaultCPUAllocator", re.IGNORECASE), "invoke fix.out-of-memory"),
    (re.compile(r"^(?!.*custom_nodes).*No module named|compiled with different CUDA major versions"), FIRST_RUN),
    (re.compile(r"driver on your system is too old|no CUDA-capable device|No CUDA GPUs are"), GPU),
)
# What the script prints after the cause, whatever the cause was.
_CONSEQUENCES = ("!! ERROR: subscript failed", "!! Exiting script")


@dataclass(frozen=True)
class Progress:
    """`stage` counts from 1 to len(STAGES), 0 before the first; `detail` is the newest line worth showing."""

    stage: int = 0
    detail: str = ""
    ready: bool = False
    fatal: str = ""
    mend: str = ""
    hint: str = ""  # the command for what was said last of its cause

    @property
    def label(self) -> str:
        return STAGES[self.stage - 1][1] if self.stage else "starting"


def follow(progress: Progress, line: str) -> Progress:
    """`progress` after one more line of the log."""
    text = line.strip()
    if any(marker in text for marker in READY):
        return replace(progress, stage=len(STAGES), ready=True, detail="")
    if not progress.fatal and not text.startswith(_CONSEQUENCES):
        for pattern, mend in FATAL:
            if pattern in text and (text.startswith("!!") or "fatal:" in text):
                nearer = progress.hint if mend in (FIRST_RUN, FATAL[-1][1]) else ""
                return replace(progress, fatal=text.removeprefix("!! ERROR: "), mend=nearer or mend)
        hint = next((mend for pattern, mend in HINTS if pattern.search(text)), "")
        progress = replace(progress, hint=hint or progress.hint)
    for number, (marker, _) in enumerate(STAGES, 1):
        if marker in text:
            if number == 1:  # a new start: what went before does not count
                return Progress(stage=1)
            # The script starts itself again as another user and passes its first stages twice.
            return replace(progress, stage=max(number, progress.stage), detail="")
    return replace(progress, detail=text) if text and not text.startswith(("==", "--")) else progress


def read(lines: Iterable[str]) -> Progress:
    """What a whole log says."""
    progress = Progress()
    for line in lines:
        progress = follow(progress, line)
    return progress


def last_words(lines: Iterable[str]) -> list[str]:
    """The lines that stand right above what the script says at its end: at most five, the newest last. Without such an
    end (`set -e` says nothing) they are the last of the log."""
    words: list[str] = []
    for line in lines:
        text = line.strip()
        if "Starting script" in text:
            words = []
        if text.startswith("!! ERROR: "):
            if not text.startswith(_CONSEQUENCES):
                words.append(text)
            break
        if text and not text.startswith(_CONSEQUENCES):
            words.append(text)
    return words[-5:]
