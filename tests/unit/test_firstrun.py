from __future__ import annotations

from functools import reduce

import pytest

from pantheon.firstrun import STAGES, Progress, follow

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
            "invoke storage",
        ),
        ("!! ERROR: comfy MUST be running as UID 1024", "invoke comfy"),
        ("!! ERROR: Directory /comfy/mnt not writeable", "invoke storage"),
        ("fatal: not a git repository (or any of the parent directories): .git", "invoke runbook comfy"),
        ("!! ERROR: Torch installation failed", "invoke runbook comfy"),
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
