"""What ComfyUI's log says of its start (§7): which stage it is in, and whether it can still succeed."""

from __future__ import annotations

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

# A line that says why the start cannot succeed, and the command that mends it.
FATAL = (
    ("owned by unexpected user/group", "invoke storage"),
    ("MUST be running as UID", "invoke comfy"),
    ("not writeable", "invoke storage"),
    ("not readable", "invoke storage"),
    ("nvidia-smi not found", "invoke prereqs"),
    ("Failed to run nvidia-smi", "invoke prereqs"),
    ("Driver CUDA version", "invoke prereqs"),
    ("fatal: not a git repository", "invoke runbook comfy"),
    ("detected dubious ownership", "invoke storage"),
    ("!! ERROR: ", "invoke runbook comfy"),
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
                return replace(progress, fatal=text.removeprefix("!! ERROR: "), mend=mend)
    for number, (marker, _) in enumerate(STAGES, 1):
        if marker in text:
            if number == 1:  # a new start: what went before does not count
                return Progress(stage=1)
            # The script starts itself again as another user and passes its first stages twice.
            return replace(progress, stage=max(number, progress.stage), detail="")
    return replace(progress, detail=text) if text and not text.startswith(("==", "--")) else progress
