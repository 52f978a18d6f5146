"""The Compose file: what it must say, and that nothing in hosts.toml can turn into something else in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pantheon import stack
from pantheon.facts import Image
from pantheon.inventory import SERVICES
from tests.unit.world import HOST, NONCE, container

TEXT = stack.compose_text(HOST)

HOSTILE = {
    "DOLLAR": "$HOME ${PATH} $$ $(id)",
    "QUOTES": 'it\'s "quoted" \\ backslash',
    "YAML": "yes: [no, {a: b}] # comment",
    "UNICODE": "grüße ✓ 你好",
    "SPACES": "  kept  ",
    "EMPTY": "",
    "NUMBER": "0123",
    "NULL": "null",
    "DASH": "- x",
}


def service(text: str, name: str) -> str:
    """The block of one service."""
    return re.split(r"^  \w", text.split(f"\n  {name}:\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_port_is_on_loopback() -> None:
    ports = re.findall(r'- "([^"]*:\d+:\d+)"', TEXT)
    assert ports == ["127.0.0.1:8188:8188", "127.0.0.1:11434:11434", "127.0.0.1:3000:8080"]


def test_comfy_has_one_mount_at_comfy_mnt_and_models_outside_it() -> None:
    targets = re.findall(r"target: (\S+)", service(TEXT, "comfy"))
    assert [target for target in targets if target.startswith("/comfy/mnt")] == ["/comfy/mnt"]
    assert "target: /models\n        read_only: true" in service(TEXT, "comfy")


@pytest.mark.parametrize("name", SERVICES)
def test_least_privilege_restart_rotation_and_no_directory_made_by_docker(name: str) -> None:
    block = service(TEXT, name)
    for part in ("cap_drop:\n      - ALL", '"no-new-privileges:true"', "init: true", "restart: unless-stopped",
                 'max-size: "10m"', "healthcheck:"):  # fmt: skip
        assert part in block.replace("max-size: 10m", 'max-size: "10m"')
    assert block.count("type: bind") == block.count("create_host_path: false")


def test_comfy_user_and_the_documented_way_back() -> None:
    assert 'user: "1024:1024"' in service(TEXT, "comfy")
    switched = stack.compose_text(replace(HOST, comfy=replace(HOST.comfy, image_user_switch=True)))
    block = service(switched, "comfy")
    assert "user:" not in block
    assert "no-new-privileges" not in block
    assert re.findall(r"- (CHOWN|DAC_OVERRIDE|SETGID|SETUID)\n", block) == ["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"]


def test_openwebui_waits_for_a_healthy_ollama_and_gets_its_key_as_a_file() -> None:
    block = service(TEXT, "openwebui")
    assert "depends_on:\n      ollama:\n        condition: service_healthy" in block
    assert "WEBUI_SECRET_KEY_FILE" in block
    assert "WEBUI_SECRET_KEY:" not in block


def test_secret_environment_is_kept_out_of_the_file() -> None:
    host = replace(HOST, ollama=replace(HOST.ollama, env={"OLLAMA_API_KEY": "sesame", "OLLAMA_NUM_PARALLEL": "2"}))
    text = stack.compose_text(host)
    assert "sesame" not in text
    assert "/opt/stacks/ai/secrets/ollama.env" in text
    assert stack.env_text(stack.wanted(host, "ollama")) == 'OLLAMA_API_KEY="sesame"\n'


def test_compose_reads_nothing_into_a_secret() -> None:
    host = replace(HOST, ollama=replace(HOST.ollama, env={"A_KEY": """a'b"c\\d $(e) ${F} \\' \\"""}))
    assert stack.env_text(stack.wanted(host, "ollama")) == 'A_KEY="' + r"""a'b\"c\\d \$(e) \${F} \\' \\""" + '"\n'


def test_the_same_inventory_gives_the_same_file_and_another_gives_another_label() -> None:
    assert stack.compose_text(HOST) == TEXT
    want = stack.wanted(HOST, "ollama")
    other = stack.wanted(replace(HOST, ollama=replace(HOST.ollama, env={"OLLAMA_KEEP_ALIVE": "1h"})), "ollama")
    assert stack.config_hash(HOST, want) != stack.config_hash(HOST, other)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_made_from_the_file_does_not_differ(name: str) -> None:
    want = stack.wanted(HOST, name)
    made = container(HOST, name)
    assert stack.differences(HOST, want, made, nonce=NONCE, image=Image(made.image_id, (), 1, "")) == []


def test_the_images_own_user_is_no_difference() -> None:
    """Docker writes it into a container that was told of none."""
    host = replace(HOST, comfy=replace(HOST.comfy, image_user_switch=True))
    want = stack.wanted(host, "comfy")
    image = Image("sha256:comfy", (), 1, "", user="comfytoo")
    assert stack.differences(host, want, container(host, "comfy", user="comfytoo"), nonce=NONCE, image=image) == []
    by_hand = stack.differences(host, want, container(host, "comfy", user="root"), nonce=NONCE, image=image)
    assert by_hand == ["user: root → comfytoo"]


def test_newer_engines_write_capabilities_with_a_prefix() -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, image_user_switch=True))
    made = container(host, "comfy", cap_add=("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID"))
    assert stack.differences(host, stack.wanted(host, "comfy"), made, nonce=NONCE, image=None) == []


@pytest.mark.parametrize("gpus", ["all", "2", "0,1", "GPU-aaaa"])
def test_gpu_requests(gpus: str) -> None:
    expected: dict[str, dict[str, Any]] = {
        "all": {"count": "all"},
        "2": {"count": 2},
        "0,1": {"device_ids": ["0", "1"]},
        "GPU-aaaa": {"device_ids": ["GPU-aaaa"]},
    }
    assert stack.gpu_request(gpus) == {"driver": "nvidia", **expected[gpus], "capabilities": ["gpu"]}


def test_scalars_mean_what_they_say() -> None:
    """JSON strings are YAML; words that YAML could take for something else are quoted."""
    for value in HOSTILE.values():
        scalar = stack.yaml(value).strip("\n")
        assert scalar.startswith('"') or re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", scalar)
        if scalar.startswith('"'):
            assert json.loads(scalar).replace("$$", "$") == value
