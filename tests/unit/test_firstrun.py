from __future__ import annotations

from functools import reduce

import pytest

from pantheon.firstrun import STAGES, Progress, follow, last_words, read

FIRST_RUN = [marker for marker, _ in STAGES]


def after(*lines: str) -> Progress:
    return reduce(follow, lines, Progress())


def test_stages_in_order() -> None:
    progress = Progress()
    seen = []
    for line in FIRST_RUN:
        progress = follow(progress, line)
        seen.append(progress.stage)
    assert seen == list(range(1, len(STAGES) + 1))
    assert not progress.ready
    assert follow(progress, "Starting server").ready


def test_the_second_pass_as_another_user_does_not_go_back() -> None:
    assert after(*FIRST_RUN[:3], "== Confirming we have the NVIDIA driver loaded").stage == 3


def test_a_restart_begins_again() -> None:
    assert after(*FIRST_RUN, "!! ERROR: ComfyUI clone failed", "== Starting script").fatal == ""


@pytest.mark.parametrize(
    ("line", "mend"),
    [
        (
            "!! ERROR: Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0",
            "invoke fix.comfy-ownership",
        ),
        ("!! ERROR: comfy MUST be running as UID 1024", "invoke fix.comfy-ownership"),
        ("!! ERROR: Directory /comfy/mnt not writeable", "invoke fix.comfy-ownership"),
        ("fatal: detected dubious ownership in repository at '/comfy/mnt/ComfyUI'", "invoke fix.comfy-ownership"),
        ("!! ERROR: Failed to run nvidia-smi", "invoke fix.gpu-lost"),
        ("fatal: not a git repository (or any of the parent directories): .git", "invoke fix.comfy-first-run"),
        ("!! ERROR: Torch installation failed", "invoke fix.comfy-first-run"),
        ("!! ERROR: ComfyUI failed or exited with an error", "invoke runbook comfy"),
        ("!! ERROR: User script (/comfy/mnt/user_script.bash) failed", "invoke runbook comfy"),
    ],
)
def test_fatal_lines_name_what_mends_them(line: str, mend: str) -> None:
    progress = after("== Starting script", line, "!! ERROR: subscript failed", "!! Exiting script (ID: 1)")
    assert progress.fatal
    assert progress.mend == mend
    assert "subscript" not in progress.fatal


@pytest.mark.parametrize(
    "line",
    [
        "!! integer expression expected",
        "usermod: no changes",
        "!! NOT_FOUND not found--",
        "FYSA: something is not writeable elsewhere",
        "Directory /x not readable, skipping it",
        "",
        "\x00\x1b[31m",
    ],
)
def test_benign_lines(line: str) -> None:
    assert not after("== Starting script", line).fatal


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("OSError: [Errno 28] No space left on device", "invoke fix.disk-pressure"),
        ("PermissionError: [Errno 13] Permission denied: '/comfy/mnt/venv/lib'", "invoke fix.comfy-ownership"),
        ("touch: cannot touch '/comfy/mnt/x': Read-only file system", "invoke fix.comfy-ownership"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "invoke fix.out-of-memory"),
        ("PermissionError: [Errno 13] Permission denied: '/models/x'", "invoke fix.comfy-first-run"),
        ("ModuleNotFoundError: No module named 'torch'", "invoke fix.comfy-first-run"),
    ],
)
def test_what_was_said_before_it_is_nearer_to_the_cause(said: str, mend: str) -> None:
    assert read(["== Starting script", said, "!! ERROR: ComfyUI requirements install/upgrade failed"]).mend == mend


def test_a_hint_alone_is_no_failure() -> None:
    assert not after("== Starting script", "OSError: [Errno 28] No space left on device").fatal


def test_last_words() -> None:
    log = ["No module named 'old'", "== Starting script", "", *"abcdef", "!! ERROR: ComfyUI failed or exited", "later"]
    assert last_words(log) == ["c", "d", "e", "f", "!! ERROR: ComfyUI failed or exited"]
    assert last_words(["fatal: not a git repository", "!! ERROR: subscript failed"]) == ["fatal: not a git repository"]
    assert last_words([]) == []
