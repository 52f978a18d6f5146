"""Disks without room: when it is said, what goes, and what never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import Piece, Room, Usage
from pantheon.facts import Facts, Unknown
from pantheon.fixes import disk_pressure
from pantheon.incident import Case
from pantheon.plan import Guard, Mend, Run
from tests.unit.world import GIB, HOST, case, container, finished, fresh, having

MIB = 1 << 20
NVME, SSD = HOST.storage.nvme, HOST.storage.ssd
MNT, OLLAMA = f"{NVME}/ai/services/comfy-mnt", f"{NVME}/ai/services/ollama"


def room(mount: str = NVME, *holds: str, free: float = 200 * GIB, total: float = 1000 * GIB, **more: int) -> Room:
    inodes = {"free_inodes": 900_000, "total_inodes": 1_000_000} | more
    return Room(
        mount, "/dev/x", "ext4", int(free), int(total), holds=holds or ("nvme", "comfy", "ollama", "models"), **inodes
    )


OTHERS = (room("/", "images", "docker", "logs", "stack", "root"), room(SSD, "ssd", "outputs", "openwebui"))
FULL = room(free=0)
IMAGE = Usage("image", "ollama/ollama:0.9", "sha256:old", 4 * GIB, "/", remade=True, names=("ollama/ollama:0.9", "o:1"))
IN_USE = Usage("image", "ollama/ollama:latest", "sha256:new", 5 * GIB, "/", remade=False, detail="used by ollama")
OURS = Usage("image", "my/tool:1", "sha256:my", 6 * GIB, "/", remade=False, detail="built or loaded here")
CACHE = Usage("build-cache", "build cache", "build cache", 12, "/", remade=True)
APT = Usage("apt", "apt's cache", "/var/cache/apt/archives", 90 * MIB, "/", remade=True)
VENV = Usage("venv", "venv-old", MNT, 6 * GIB, NVME, remade=True, pieces=(Piece("venv-old", 6 * GIB, 17),))
PARTIAL = Usage(
    "partial",
    "Ollama's partial downloads",
    OLLAMA,
    9 * GIB,
    NVME,
    remade=True,
    complete=False,
    pieces=(Piece("models/blobs/sha256-x-partial", 9 * GIB, 18),),
)
MODELS = Usage("models", "shared models", f"{NVME}/ai/models", 400 * GIB, NVME, remade=False)
JOURNAL = Usage("journal", "the journal", "/var/log/journal", 4 * GIB, "/", remade=False)
LOG = Usage("container-log", "hand", "/var/lib/docker/containers/a b/x-json.log", 50 * GIB, "/", remade=False)
ALL = (MODELS, LOG, PARTIAL, OURS, VENV, IN_USE, IMAGE, JOURNAL, APT, CACHE)


def made(*rooms: Room, facts: Facts | None = None, usage: Any = ALL, **evidence: Any) -> Case:
    return case(facts or finished(), rooms=(*rooms, *OTHERS[: 3 - len(rooms)]), usage=usage, **evidence)


def removed(one: Case) -> list[str]:
    section = disk_pressure.plan(one)
    assert all(change.sign == "-" and not change.stops for change in section.changes)
    return [change.what for change in section.changes]


@pytest.mark.parametrize(
    "one",
    [
        made(room()),
        made(room(), facts=fresh()),
        made(room(free=30 * GIB)),  # 3 %, and more than any pull needs
        made(room(free_inodes=0, total_inodes=0)),  # Btrfs counts none
        made(room(free=5 * GIB, total=60 * GIB)),
        case(finished()),
        case(finished(), rooms=Unknown("denied")),
    ],
)
def test_nothing_to_say(one: Case) -> None:
    assert disk_pressure.diagnose(one) == []
    assert disk_pressure.plan(one).is_ready
    assert disk_pressure.plan(one).reason


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (room(free=0), "fail"),
        (room(free=255 * MIB), "fail"),
        (room(free=257 * MIB), "warn"),
        (room(free=300 * 1024, total=48 * MIB), "fail"),
        (room(free=1 * MIB, total=48 * MIB), "warn"),
        (room(free_inodes=999), "fail"),
        (room(free_inodes=20_000), "warn"),
        (room(free=19 * GIB), "warn"),
    ],
)
def test_when_it_is_said(found: Room, level: str) -> None:
    (finding,) = disk_pressure.diagnose(made(found))
    assert (finding.id, finding.level) == ("disk-pressure.nvme", level)
    assert "Ollama's partial downloads at least 9.0 GiB" in finding.evidence
    assert "my/tool" not in finding.evidence, "it lies on another disk"


def test_a_warning_is_no_fault() -> None:
    assert diagnosis.diagnose(made(room(free=19 * GIB))).is_good


def test_a_disk_that_is_nearly_full_and_where_a_write_failed() -> None:
    facts = having(
        finished(), comfy=container(HOST, "comfy", log=("ok", "OSError: [Errno 28] No space left on device"))
    )
    (finding,) = disk_pressure.diagnose(made(room(free=4 * GIB), facts=facts))
    assert finding.level == "fail"
    assert "comfy: OSError: [Errno 28]" in finding.evidence
    assert disk_pressure.diagnose(made(room(), facts=facts)) == [], "long ago: there is room again"
    (finding,) = disk_pressure.diagnose(made(OTHERS[0], room(SSD, "ssd", free=4 * GIB), room(), facts=facts))
    assert finding.id == "disk-pressure.ssd"


def test_what_the_engine_says_is_about_its_own_disk() -> None:
    log = ("failed to register layer: write /x: no space left on device",)
    tight = room("/", "images", "docker", "root", free=4 * GIB)
    assert [f.level for f in disk_pressure.diagnose(made(room(), tight, OTHERS[1], engine_log=log))] == ["fail"]
    assert [f.level for f in disk_pressure.diagnose(made(room(free=4 * GIB), engine_log=log))] == ["warn"]


def test_too_little_room_for_what_is_still_to_be_pulled() -> None:
    small = room("/", "images", "docker", "root", free=10 * GIB, total=100 * GIB)
    one = made(room(), small, OTHERS[1], facts=fresh())
    (finding,) = disk_pressure.diagnose(one)
    assert finding.text.endswith("has too little room")
    assert "22.0 GiB are needed" in finding.evidence
    assert "storage.docker-room" in finding.explains
    assert disk_pressure.diagnose(made(room(), small, OTHERS[1])) == [], "all of it is there"


@pytest.mark.parametrize("state", ["exited", "restarting"])
def test_it_is_the_one_cause(state: str) -> None:
    down = container(HOST, "ollama", state=state, health=None, log=("write /root/.ollama/x: no space left on device",))
    facts = having(finished(), ollama=down, openwebui=container(HOST, "openwebui"))
    found = diagnosis.diagnose(made(FULL, facts=facts))
    assert [cause.finding.id for cause in found.causes] == ["disk-pressure.nvme"]
    assert found.unknown == ()


def test_only_on_the_disk_that_is_full_and_largest_first() -> None:
    assert removed(made(FULL)) == [
        f"Ollama's partial downloads: 1 file, such as {OLLAMA}/{PARTIAL.pieces[0].path} (at least 9.0 GiB on {NVME})",
        f"{MNT}/venv-old (6.0 GiB on {NVME})",
    ]
    full_root = replace(OTHERS[0], free_bytes=0)
    assert removed(made(room(), full_root, OTHERS[1])) == [
        "image ollama/ollama:0.9 o:1 (4.0 GiB on /)",
        "apt's cache of packages (90 MiB on /)",
        "unused build cache (0 KiB on /)",
    ]


def test_the_commands() -> None:
    one = made(replace(FULL, mount=NVME), replace(OTHERS[0], free_bytes=0), OTHERS[1])
    steps = [step for change in disk_pressure.plan(one).changes for step in change.steps]
    assert [step.show() for step in steps if isinstance(step, Run)] == [
        "docker image rm -- ollama/ollama:0.9 o:1",
        "apt-get clean",
        "docker builder prune --all --force",
    ]
    assert "--force" not in steps[2].show(), "the engine itself refuses an image that is in use"
    (image,) = [step for step in steps if isinstance(step, Run) and "image" in step.argv]
    assert image.guards == (Guard("image", "ollama/ollama:0.9", "sha256:old"), Guard("image", "o:1", "sha256:old"))
    assert [step.arguments for step in steps if isinstance(step, Mend)] == [
        {"rule": "partial", "root": OLLAMA, "items": [{"path": "models/blobs/sha256-x-partial", "mtime": 18}]},
        {"rule": "venv", "root": MNT, "items": [{"path": "venv-old", "mtime": 17}]},
    ]


def test_an_image_without_a_name_goes_by_its_id() -> None:
    one = made(room(), replace(OTHERS[0], free_bytes=0), OTHERS[1], usage=(replace(IMAGE, names=(), name="no name"),))
    (step,) = disk_pressure.plan(one).changes[0].steps
    assert step.show() == "docker image rm -- sha256:old"


@pytest.mark.parametrize("kind", ["models", "outputs", "journal", "log", "container-log", "other", "unread", "strange"])
def test_what_is_a_users_never_goes(kind: str) -> None:
    """Not even where the evidence should say that it can be made again."""
    one = made(FULL, usage=(replace(MODELS, kind=kind, remade=True),))
    assert removed(one) == []


def test_nothing_can_be_made_again() -> None:
    root = room("/", "images", "docker", "logs", "root", free=0)
    section = disk_pressure.plan(made(room(), root, OTHERS[1], usage=(LOG, OURS, IN_USE, JOURNAL)))
    assert section.changes == ()
    (blocked,) = section.blocked
    assert "hand 50.0 GiB" in blocked.evidence
    assert "sudo truncate -s 0 '/var/lib/docker/containers/a b/x-json.log'" in blocked.mend
    assert "sudo docker image rm my/tool:1" in blocked.mend
    assert "ollama:latest" not in blocked.mend
    assert "sudo journalctl --vacuum-size=200M" in blocked.mend


def test_nearly_full_with_nothing_to_remove_is_nothing_to_do() -> None:
    assert disk_pressure.plan(made(room(free=19 * GIB), usage=(MODELS,))).is_ready


@pytest.mark.parametrize("usage", [Unknown("no answer within 5 s"), None])
def test_what_fills_it_is_not_known(usage: Any) -> None:
    one = made(FULL, usage=usage)
    assert disk_pressure.diagnose(one)[0].level == "fail"
    assert disk_pressure.plan(one).blocked


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 KiB"), (1536, "2 KiB"), (40 * MIB, "40 MiB"), (GIB, "1.0 GiB"), (2**50, "1048576.0 GiB")]
)
def test_size(count: int, text: str) -> None:
    assert disk_pressure.size(count) == text
