# ruff: noqa: E501 - cases are tables
"""What mounts mean: each datum of an old container, and where it goes."""

from __future__ import annotations

from typing import Any

import pytest

from pantheon.facts import Container, ContainerMount
from pantheon.takeover import data
from pantheon.takeover.old import Old
from tests.unit.takeover.olds import TARGETS, bind, hand_made, place, tmpfs, volume
from tests.unit.world import HOST

MNT, OUT, MODELS = TARGETS["comfy"], TARGETS["outputs"], TARGETS["models"]
OLLAMA, WEBUI = TARGETS["ollama"], TARGETS["openwebui"]
DOCKER = "/var/lib/docker/volumes"
LAYER = "(layer)"


def mapping(container: Container, service: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(source, target, what is left out) of each piece."""
    found = data.pieces(HOST, Old(container, service, "theirs", f"{container.name}-before-pantheon"))
    return [(LAYER + p.source.path if p.source.container else p.source.path, p.target, p.skip) for p in found]


Case = tuple[str, list[ContainerMount], dict[str, str], list[tuple[str, str, tuple[str, ...]]]]
OUTPUT = ("ComfyUI/output",)
CASES: dict[str, Case] = {
    "one bind": ("comfy", [bind("/srv/run", "/comfy/mnt")], {}, [("/srv/run", MNT, OUTPUT), ("/srv/run/ComfyUI/output", OUT, ())]),
    "a source with a slash at its end": ("comfy", [bind("/srv/run/", "/comfy/mnt")], {},
        [("/srv/run", MNT, OUTPUT), ("/srv/run/ComfyUI/output", OUT, ())]),
    "a volume": ("comfy", [volume("run", "/comfy/mnt")], {},
        [(f"{DOCKER}/run/_data", MNT, OUTPUT), (f"{DOCKER}/run/_data/ComfyUI/output", OUT, ())]),
    "nothing mounted": ("comfy", [], {}, [(f"{LAYER}/comfy/mnt", MNT, OUTPUT), (f"{LAYER}/comfy/mnt/ComfyUI/output", OUT, ())]),
    "base directory": ("comfy", [bind("/a/run", "/comfy/mnt"), bind("/b", "/basedir")], {"BASE_DIRECTORY": "/basedir"}, [
        ("/a/run", MNT, ("ComfyUI/custom_nodes", "ComfyUI/input", "ComfyUI/models", "ComfyUI/user")),
        ("/b/custom_nodes", f"{MNT}/ComfyUI/custom_nodes", ()), ("/b/input", f"{MNT}/ComfyUI/input", ()),
        ("/b/models", f"{MNT}/ComfyUI/models", ()), ("/b/output", OUT, ()), ("/b/user", f"{MNT}/ComfyUI/user", ())]),
    "base directory inside": ("comfy", [bind("/a/run", "/comfy/mnt")], {"BASE_DIRECTORY": "/comfy/mnt/base/"}, [
        ("/a/run", MNT, ("ComfyUI/custom_nodes", "ComfyUI/input", "ComfyUI/models", "ComfyUI/user", "base/custom_nodes",
                         "base/input", "base/models", "base/output", "base/user")),
        ("/a/run/base/custom_nodes", f"{MNT}/ComfyUI/custom_nodes", ()), ("/a/run/base/input", f"{MNT}/ComfyUI/input", ()),
        ("/a/run/base/models", f"{MNT}/ComfyUI/models", ()), ("/a/run/base/output", OUT, ()),
        ("/a/run/base/user", f"{MNT}/ComfyUI/user", ())]),
    "base directory in the layer, models on a disk of their own": ("comfy",
        [bind("/a/run", "/comfy/mnt"), bind("/big", "/base/models/loras", ro=True)], {"BASE_DIRECTORY": "/base"}, [
        ("/a/run", MNT, ("ComfyUI/custom_nodes", "ComfyUI/input", "ComfyUI/models", "ComfyUI/models/loras", "ComfyUI/user")),
        (f"{LAYER}/base/custom_nodes", f"{MNT}/ComfyUI/custom_nodes", ()), (f"{LAYER}/base/input", f"{MNT}/ComfyUI/input", ()),
        (f"{LAYER}/base/models", f"{MNT}/ComfyUI/models", ("loras",)), (f"{LAYER}/base/output", OUT, ()),
        (f"{LAYER}/base/user", f"{MNT}/ComfyUI/user", ()), ("/big", f"{MNT}/ComfyUI/models/loras", ())]),
    "mounts in the mount": ("comfy", [bind("/a/run", "/comfy/mnt"), bind("/a/nodes", "/comfy/mnt/ComfyUI/custom_nodes"),
                                      bind("/a/ck", "/comfy/mnt/ComfyUI/models/checkpoints"), volume("hf", "/comfy/mnt/HF")], {}, [
        ("/a/run", MNT, ("ComfyUI/custom_nodes", "ComfyUI/models/checkpoints", "ComfyUI/output", "HF")),
        (f"{DOCKER}/hf/_data", f"{MNT}/HF", ()), ("/a/nodes", f"{MNT}/ComfyUI/custom_nodes", ()),
        ("/a/run/ComfyUI/output", OUT, ()), ("/a/ck", f"{MNT}/ComfyUI/models/checkpoints", ())]),
    "a mount in a mount in the mount": ("comfy", [bind("/a", "/comfy/mnt"), bind("/b", "/comfy/mnt/x"), bind("/b/y", "/comfy/mnt/x/y")], {},
        [("/a", MNT, ("ComfyUI/output", "x")), ("/b", f"{MNT}/x", ()), ("/a/ComfyUI/output", OUT, ())]),
    "a mount beside it, whose name begins alike": ("comfy", [bind("/a", "/comfy/mnt"), bind("/z", "/comfy/mnt-old")], {},
        [("/a", MNT, OUTPUT), ("/a/ComfyUI/output", OUT, ())]),
    "a mount that is the same directory": ("comfy", [bind("/a/run", "/comfy/mnt"), bind("/a/run/HF", "/comfy/mnt/HF")], {},
        [("/a/run", MNT, OUTPUT), ("/a/run/ComfyUI/output", OUT, ())]),
    "output mounted": ("comfy", [bind("/a/run", "/comfy/mnt"), bind("/g", "/comfy/mnt/ComfyUI/output")], {},
        [("/a/run", MNT, OUTPUT), ("/g", OUT, ())]),
    "output by the command line": ("comfy", [bind("/a/run", "/comfy/mnt"), bind("/g", "/gallery")],
        {"COMFY_CMDLINE_EXTRA": "--lowvram --output-directory=/gallery/2026"}, [("/g/2026", OUT, ()), ("/a/run", MNT, ())]),
    "output by a relative path": ("comfy", [bind("/a", "/comfy/mnt")], {"COMFY_CMDLINE_EXTRA": "--output-directory out"},
        [("/a", MNT, OUTPUT), ("/a/ComfyUI/output", OUT, ())]),
    "a command line that is none": ("comfy", [bind("/a", "/comfy/mnt")], {"COMFY_CMDLINE_EXTRA": "--x 'open"},
        [("/a", MNT, OUTPUT), ("/a/ComfyUI/output", OUT, ())]),
    "libraries of models": ("comfy", [bind("/a", "/comfy/mnt"), bind("/lib", "/models", ro=True), bind("/lo", "/x/loras")], {},
        [("/lib", MODELS, ("loras",)), ("/a", MNT, OUTPUT), ("/lo", f"{MODELS}/loras", ()), ("/a/ComfyUI/output", OUT, ())]),
    "in place": ("comfy", [bind(MNT, "/comfy/mnt"), bind(OUT, "/outputs")], {"COMFY_CMDLINE_EXTRA": "--output-directory /outputs"},
        [(OUT, OUT, ()), (MNT, MNT, ())]),
    "a name with spaces": ("comfy", [bind("/a b/ü 'x'", "/comfy/mnt")], {},
        [("/a b/ü 'x'", MNT, OUTPUT), ("/a b/ü 'x'/ComfyUI/output", OUT, ())]),
    "memory": ("comfy", [bind("/a", "/comfy/mnt"), tmpfs("/comfy/mnt/tmp")], {},
        [("/a", MNT, ("ComfyUI/output", "tmp")), ("", f"{MNT}/tmp", ()), ("/a/ComfyUI/output", OUT, ())]),
    "base directory by the command line": ("comfy", [bind("/a", "/comfy/mnt"), bind("/b", "/b")],
        {"COMFY_CMDLINE_EXTRA": "--base-directory /b/./base/"}, [
        ("/a", MNT, ("ComfyUI/custom_nodes", "ComfyUI/input", "ComfyUI/models", "ComfyUI/user")),
        ("/b/base/custom_nodes", f"{MNT}/ComfyUI/custom_nodes", ()), ("/b/base/input", f"{MNT}/ComfyUI/input", ()),
        ("/b/base/models", f"{MNT}/ComfyUI/models", ()), ("/b/base/output", OUT, ()), ("/b/base/user", f"{MNT}/ComfyUI/user", ())]),
    "open webui's data by a relative path": ("openwebui", [bind("/d", "/app/backend/data")], {"DATA_DIR": "./data"}, [("/d", WEBUI, ())]),
    "open webui's data by an odd path": ("openwebui", [bind("/d", "/d")], {"DATA_DIR": "/d/../d//x/"}, [("/d/x", WEBUI, ())]),
    "ollama": ("ollama", [bind("/o", "/root/.ollama")], {}, [("/o", OLLAMA, ())]),
    "ollama without a mount": ("ollama", [], {}, [(f"{LAYER}/root/.ollama", OLLAMA, ())]),
    "ollama as a user": ("ollama", [bind("/o", "/home/ollama/.ollama")], {}, [("/o", OLLAMA, ())]),
    "ollama's models elsewhere": ("ollama", [volume("o", "/root/.ollama"), bind("/m", "/models")], {"OLLAMA_MODELS": "/models"},
        [("/m", f"{OLLAMA}/models", ()), (f"{DOCKER}/o/_data", OLLAMA, ("models",))]),
    "ollama's models where they are anyway": ("ollama", [bind("/o", "/root/.ollama")], {"OLLAMA_MODELS": "/root/.ollama/models"},
        [("/o", OLLAMA, ())]),
    "open webui": ("openwebui", [volume("w", "/app/backend/data")], {}, [(f"{DOCKER}/w/_data", WEBUI, ())]),
    "open webui's data elsewhere": ("openwebui", [bind("/d", "/data")], {"DATA_DIR": "/data/webui"}, [("/d/webui", WEBUI, ())]),
    "open webui's uploads elsewhere": ("openwebui", [bind("/d", "/app/backend/data"), bind("/u", "/app/backend/data/uploads")], {},
        [("/d", WEBUI, ("uploads",)), ("/u", f"{WEBUI}/uploads", ())]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_piece_has_its_place(name: str) -> None:
    service, mounts, env, expected = CASES[name]
    workdir = "/app/backend" if service == "openwebui" else ""
    found = mapping(hand_made(service, *mounts, env=env, workdir=workdir), service)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("mounts", "workdir", "command", "expected"),
    [
        (
            [bind("/s", "/opt/ComfyUI")],
            "",
            (),
            {MODELS: "/s/models", OUT: "/s/output", f"{MNT}/ComfyUI/user": "/s/user"},
        ),
        ([bind("/m", "/app/comfyui/models"), bind("/o", "/app/comfyui/output")], "", (), {MODELS: "/m", OUT: "/o"}),
        ([], "/workspace/ComfyUI", (), {MODELS: "/workspace/ComfyUI/models", OUT: "/workspace/ComfyUI/output"}),
        ([bind("/s", "/root")], "/root", (), {OUT: "/comfy/mnt/ComfyUI/output"}),
        (
            [bind("/s", "/opt/ComfyUI"), bind("/o", "/out")],
            "",
            ("python3", "main.py", "--output-directory", "/out"),
            {OUT: "/o"},
        ),
        ([bind("/s", "/comfy/mnt"), bind("/x", "/ComfyUI")], "", (), {OUT: "/s/ComfyUI/output", MNT: "/s"}),
    ],
)
def test_the_comfyui_of_another_author(
    mounts: list[ContainerMount], workdir: str, command: tuple[str, ...], expected: dict[str, str]
) -> None:
    container = hand_made("comfy", *mounts, image="somebody/comfyui:2", workdir=workdir, command=command)
    found = data.pieces(HOST, Old(container, "comfy", "theirs", "x"))
    sources = {piece.target: piece.source.path for piece in found}
    assert {target: sources[target] for target in expected} == expected


def test_a_volume_that_only_a_container_can_mount_is_read_through_the_engine() -> None:
    from pantheon.belongings import Belongings, Volume

    container = hand_made("ollama", volume("nfs", "/root/.ollama"))
    (piece,) = data.pieces(HOST, Old(container, "ollama", "theirs", "x"))
    path = "/var/lib/docker/volumes/nfs/_data"
    seen = Belongings({path: place(path, 7)}, volumes={"nfs": Volume(path, plain=False)})
    datum = data.judge(piece, seen, container=container.id)
    assert isinstance(datum, data.Datum)
    assert (datum.way, datum.piece.source) == ("copied", data.Source("/root/.ollama", container.id))
    assert (datum.bytes, datum.complete) == (7, False), "what is mounted there now counts for the room"


@pytest.mark.parametrize(("device", "way"), [("/data/ollama", "copied"), (OLLAMA, "in place")])
def test_a_volume_that_is_another_name_for_a_directory(device: str, way: str) -> None:
    from pantheon.belongings import Belongings, Volume

    container = hand_made("ollama", volume("o", "/root/.ollama"))
    (piece,) = data.pieces(HOST, Old(container, "ollama", "theirs", "x"))
    places: dict[str, Any] = {path: place(path, 7, real=path) for path in {device, OLLAMA}}
    seen = Belongings(places, volumes={"o": Volume(f"{DOCKER}/o/_data", plain=True, device=device)})
    datum = data.judge(piece, seen, container=container.id)
    assert isinstance(datum, data.Datum)
    assert (datum.way, datum.piece.source) == (way, data.Source(device))


@pytest.mark.parametrize(
    ("mounts", "env", "expected"),
    [
        ([volume("w", "/app/backend/data"), volume("o", "/root/.ollama")], {}, [(f"{DOCKER}/o/_data", OLLAMA)]),
        ([volume("w", "/app/backend/data")], {"USE_OLLAMA_DOCKER": "true"}, [("/root/.ollama", OLLAMA)]),
        ([volume("w", "/app/backend/data")], {"USE_OLLAMA_DOCKER": "false"}, []),
    ],
)
def test_an_ollama_inside_open_webui(
    mounts: list[ContainerMount], env: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    container = hand_made("openwebui", *mounts, env=env)
    found = data.bundled(HOST, Old(container, "openwebui", "theirs", "x"))
    assert [(piece.source.path, piece.target) for piece in found] == expected
    assert {piece.service for piece in found} <= {"ollama"}


def test_a_library_on_another_machine_stays_there() -> None:
    from pantheon.belongings import Belongings
    from pantheon.facts import Unknown

    container = hand_made("comfy", bind("/srv/run", "/comfy/mnt"), bind("/mnt/atlas/models", "/models", ro=True))
    found = data.pieces(HOST, Old(container, "comfy", "theirs", "x"))
    piece = next(piece for piece in found if piece.inside == "/models")
    away = Belongings(places={"/mnt/atlas/models": Unknown("/mnt/atlas/models lies on the network mount /mnt/atlas")})
    datum = data.judge(piece, away, container=container.id)
    assert isinstance(datum, data.Datum)
    assert (datum.way, "network mount" in datum.why) == ("stays", True)


def test_what_is_nowhere_is_nothing() -> None:
    from pantheon.belongings import Belongings, Layer

    container = hand_made("ollama", bind(OLLAMA, "/root/.ollama"))
    (piece,) = data.pieces(HOST, Old(container, "ollama", "theirs", "x"))
    datum = data.judge(piece, Belongings(places={OLLAMA: place(OLLAMA)}), container=container.id)
    assert isinstance(datum, data.Datum)
    assert datum.way == "nothing"
    container = hand_made("ollama")
    (piece,) = data.pieces(HOST, Old(container, "ollama", "theirs", "x"))
    for there, way in (({}, "nothing"), ({"/root/.ollama": "other"}, "nothing"), ({"/root/.ollama": "dir"}, "copied")):
        datum = data.judge(piece, Belongings(layers={container.id: Layer(5, there)}), container=container.id)
        assert isinstance(datum, data.Datum)
        assert datum.way == way


@pytest.mark.parametrize("ro", [True, False])
def test_a_library_that_is_only_read_may_stay(ro: bool) -> None:
    container = hand_made(
        "ollama", volume("o", "/root/.ollama"), bind("/m", "/models", ro=ro), env={"OLLAMA_MODELS": "/models"}
    )
    found = {p.inside: p.may_stay for p in data.pieces(HOST, Old(container, "ollama", "theirs", "x"))}
    assert found == {"/root/.ollama": False, "/models": ro}


def test_what_could_not_be_looked_at_is_not_nothing() -> None:
    from pantheon.belongings import Belongings
    from pantheon.facts import Unknown

    container = hand_made("ollama", bind("/o", "/root/.ollama"))
    (piece,) = data.pieces(HOST, Old(container, "ollama", "theirs", "x"))
    said = data.judge(piece, Belongings(places={"/o": Unknown("on the network mount /o")}), container=container.id)
    assert said == "/o: on the network mount /o"
