"""hosts.toml: the shipped one, the cases in tests/cases/inventory, and files that are none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pantheon import grammar, hostsfile, inventory
from pantheon.errors import InventoryError, UsageError
from pantheon.inventory import AtlasMount, Comfy, Gpu, Host, Ollama, OpenWebui, Waiver

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((ROOT / "tests" / "cases" / "inventory").glob("*.toml"))
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def place(content: str | bytes) -> Path:
        path = tmp_path / "hosts.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return place


def problems(path: Path) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        inventory.load(path)
    assert caught.value.exit_code == 1
    return list(caught.value.problems)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    expected = re.findall(r"^#= (.*)$", case.read_text(encoding="utf-8"), re.MULTILINE)
    if expected:
        found = problems(case)
        assert (set(expected) - set(found), set(found) - set(expected)) == (set(), set())
        assert len(found) == len(expected)
    else:
        assert inventory.load(case).hosts


def test_hostile_values_survive() -> None:
    host = inventory.load(ROOT / "tests/cases/inventory/hostile-but-legal.toml").hosts["h.example-1"]
    assert host.stack_dir == '/opt/stacks/it\'s "the" stack $(touch /tmp/pwned) `id` ;&|<>*?[]{}!#~=%\\ $HOME'
    assert host.storage.nvme == "/mnt/é €/$(reboot)"
    assert host.comfy.env["_A1"] == "$(reboot) ${HOME} \"'`id`\\"
    assert host.user == "svc.deploy@corp"


def test_no_message_carries_control_characters(write: Write) -> None:
    path = write('[hosts."\\u001b[2J\\u202e"]\naddress = "\\u001b]0;x\\u0007"\n"\\u0000" = 1\nuser = "\\u2028"\n')
    assert not any(grammar.is_hidden(character) for line in problems(path) for character in line)


# The shipped file


def test_the_shipped_file_loads() -> None:
    shipped = inventory.load(ROOT / "hosts.toml")
    assert shipped.default == "prometheus"
    assert [(mount.mount, mount.mode) for mount in shipped.host(None).atlas] == [
        ("/mnt/atlas/appdata", "rw"),
        ("/mnt/atlas/datasets", "rw"),
        ("/mnt/atlas/managed-media", "ro"),
        ("/mnt/atlas/shared-media", "ro"),
    ]
    other = shipped.host("lab")
    assert (other.address, other.port, other.user) == ("127.0.0.1", 2222, "ops")


SHOWN = re.compile(r"^(?:# ?)?(\w+) = (.+?)(?:\s+#\s(.*))?$")


def shown() -> dict[str, dict[str, tuple[str, str, bool]]]:
    """Table to key to (value, remark, whether it is commented out), read as text: comments count."""
    tables: dict[str, dict[str, tuple[str, str, bool]]] = {}
    table = ""
    for line in (ROOT / "hosts.toml").read_text(encoding="utf-8").splitlines():
        if header := re.match(r"(?:# )?\[+([\w.]+)\]+", line):
            table = header[1]
        elif pair := SHOWN.match(line):
            tables.setdefault(table, {}).setdefault(pair[1], (pair[2], pair[3] or "", line.startswith("#")))
    return tables


def parsed(value: str) -> Any:
    return tomllib.loads(f"x = {value}")["x"]


def test_the_shipped_file_shows_every_key() -> None:
    tables = shown()
    for table, cls in hostsfile.TABLES.items():
        assert set(tables[f"defaults.{table}"]) == {each.name for each in fields(cls)}, table
    for name, cls in hostsfile.LISTS.items():
        assert set(tables[f"hosts.prometheus.{name}"]) == {each.name for each in fields(cls)}, name
    plain = {each.name for each in fields(Host)} - {"name", *hostsfile.TABLES, *hostsfile.LISTS}
    assert set(tables["defaults"]) | set(tables["hosts.prometheus"]) == plain


def test_the_shipped_file_shows_the_defaults() -> None:
    tables = shown()
    for table, cls in hostsfile.TABLES.items():
        builtin = cls()
        for key, (value, remark, _) in tables[f"defaults.{table}"].items():
            assert parsed(value) == getattr(builtin, key), (table, key, remark)
    bare = Host(name="x", address="x")
    for key, (value, remark, _) in {**tables["defaults"], **tables["hosts.prometheus"]}.items():
        if "REQUIRED" not in remark and "example" not in remark:
            default = getattr(bare, key)
            assert parsed(value) == (list(default) if isinstance(default, tuple) else default), key
    # A key that is REQUIRED is marked so, and no other.
    for where, cls in (("hosts.prometheus", Host), ("hosts.prometheus.atlas", AtlasMount)):
        for key, (_, remark, _) in tables[where].items():
            required = next(each.default is MISSING for each in fields(cls) if each.name == key)
            assert ("REQUIRED" in remark) == required, (where, key)


def test_the_shipped_defaults_are_the_built_in_ones(write: Write) -> None:
    bare = inventory.load(write('[hosts.prometheus]\naddress = "prometheus"\n')).host(None)
    full = inventory.load(ROOT / "hosts.toml").host("prometheus")
    assert replace(full, atlas=(), mgmt_network="") == bare


def test_every_field_is_a_key() -> None:
    for cls, keys in hostsfile.KEYS.items():
        inherited = {"name", *hostsfile.TABLES, *hostsfile.LISTS} if cls is Host else set()
        assert set(keys) == {each.name for each in fields(cls)} - inherited, cls


def test_every_default_passes_its_own_check() -> None:
    for cls in hostsfile.TABLES.values():
        for key, each in hostsfile.KEYS[cls].items():
            if key != "env":
                assert each.check(getattr(cls(), key)) == getattr(cls(), key), (cls, key)


# Merging


def test_defaults_are_merged_table_by_table_and_environments_name_by_name(write: Write) -> None:
    path = write(
        """
        [defaults]
        user = "ops"
        [defaults.ollama]
        port = 11500
        env = { OLLAMA_NUM_PARALLEL = "2", OLLAMA_KEEP_ALIVE = "1h" }
        [defaults.storage]
        nvme = "/data/nvme"
        [hosts.a]
        address = "a"
        [hosts.a.ollama]
        env = { OLLAMA_NUM_PARALLEL = "4" }
        memory = "8g"
        [hosts.b]
        address = "b"
        user = "root"
        storage.ssd = "/data/ssd"
        """
    )
    found = inventory.load(path)
    a, b = found.host("a"), found.host("b")
    assert a.ollama == Ollama(port=11500, memory="8g", env={"OLLAMA_KEEP_ALIVE": "1h", "OLLAMA_NUM_PARALLEL": "4"})
    assert (a.user, b.user) == ("ops", "root")
    assert (b.storage.nvme, b.storage.ssd) == ("/data/nvme", "/data/ssd")
    assert (a.comfy, a.openwebui) == (Comfy(), OpenWebui())


def test_a_mistake_in_defaults_is_told_once(write: Write) -> None:
    path = write('[defaults.comfy]\nport = 3000\n[hosts.a]\naddress = "a"\n[hosts.b]\naddress = "b"\n')
    assert problems(path) == ["defaults.comfy.port: 3000 is openwebui's port already"]


# Choosing a host


def test_a_single_host_needs_no_default(write: Write) -> None:
    assert inventory.load(write('[hosts.a]\naddress = "a"\n')).host(None).name == "a"


def test_several_hosts_without_default(write: Write) -> None:
    found = inventory.load(write('[hosts.a]\naddress = "a"\n[hosts.b]\naddress = "b"\n'))
    with pytest.raises(UsageError, match="names no default: say which host with --host"):
        found.host(None)
    assert found.host("b").address == "b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("promtheus", r'no host "promtheus" in .*hosts.toml \(did you mean prometheus\?\)'),
        ("zeus", r'no host "zeus" in .*hosts.toml \(there is prometheus, lab\)'),
        ("", r'no host "" in'),
        ("\x1b[2J", r'no host "\\u001b\[2J" in'),
    ],
)
def test_an_unknown_host(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        inventory.load(ROOT / "hosts.toml").host(name)
    assert caught.value.next_commands == ("invoke hosts",)


# Files that are none


def test_environment_points_elsewhere(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inventory.load().path == str(ROOT / "hosts.toml")
    monkeypatch.setenv("PANTHEON_HOSTS", str(write('[hosts.elsewhere]\naddress = "a"\n')))
    assert inventory.load().default == "elsewhere"
    monkeypatch.setenv("PANTHEON_HOSTS", "~/none.toml")
    assert problems(hostsfile.default_path()) == ["no such file (--hosts-file or $PANTHEON_HOSTS points elsewhere)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hosts = [", "is not TOML: "),
        (b"\xff\xfe[hosts.a]", "is not UTF-8 text (byte 0)"),
        (b"PK\x03\x04", "is not TOML: "),
        (b"x = " + b"[" * 20000, "is not TOML: nested too deeply"),
        (b"x = " + b"9" * 5000, "is not TOML: "),
        (b"#" * (1024 * 1024 + 1), "is larger than 1024 KiB: that is no hosts.toml"),
        (b'[hosts.a]\naddress = "a"\n[hosts.a]\n', "is not TOML: "),
    ],
    ids=["cut", "not-utf8", "zip", "deep", "digits", "huge", "twice"],
)
def test_a_file_that_is_no_inventory(write: Write, content: bytes, message: str) -> None:
    (only,) = problems(write(content))
    assert only.startswith(message)


def test_a_mark_at_the_beginning_is_no_mistake(write: Write) -> None:
    assert inventory.load(write(b'\xef\xbb\xbf[hosts.a]\r\naddress = "a"\r\n')).default == "a"


def test_a_directory_a_pipe_a_missing_file_a_loop(tmp_path: Path) -> None:
    assert problems(tmp_path) == ["is a directory, not a file"]
    os.mkfifo(tmp_path / "pipe")
    assert problems(tmp_path / "pipe") == ["is not a plain file"]
    assert problems(Path("/dev/zero")) == ["is not a plain file"]
    assert problems(tmp_path / "none" / "hosts.toml")[0].startswith("no such file")
    (tmp_path / "loop").symlink_to("loop")
    assert problems(tmp_path / "loop") == ["cannot be read: Too many levels of symbolic links"]


def test_a_file_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write("")
    monkeypatch.setattr(Path, "read_bytes", denied)  # the gate runs as root, whom no mode stops
    assert problems(path) == ["cannot be read: Permission denied"]


@pytest.mark.parametrize(
    "text",
    [
        '[hosts.a]\naddress = "' + "a" * 900_000 + '"',
        '[hosts.a]\naddress = "a"\ncomfy.image = "' + "a-" * 450_000 + '"',
        '[hosts.a]\naddress = "a"\ngateway = "' + "@" * 900_000 + '"',
        f'[hosts.a]\naddress = "a"\n{"x" * 900_000} = 1',
    ],
    ids=["address", "image", "gateway", "key"],
)
def test_long_values_do_not_take_long(write: Write, text: str) -> None:
    started = time.monotonic()
    assert all(len(line) < 500 for line in problems(write(text)))
    assert time.monotonic() - started < 5


# Writing


@pytest.mark.parametrize("path", [ROOT / "hosts.toml", ROOT / "tests/cases/inventory/hostile-but-legal.toml"])
def test_what_is_written_is_read_back_the_same(path: Path, write: Write) -> None:
    for host in inventory.load(path).hosts.values():
        assert inventory.load(write(inventory.to_toml(host))).hosts == {host.name: without_secrets(host)}


def without_secrets(host: Host) -> Host:
    services = {name: host.service(name) for name in inventory.SERVICES}
    for name, service in services.items():
        env = {key: text for key, text in service.env.items() if not inventory.is_secret_name(key)}
        services[name] = replace(service, env=env)
    return replace(host, **services)  # type: ignore[arg-type]


def test_a_secret_is_named_and_not_written(write: Write) -> None:
    host = Host("a", "a", comfy=Comfy(env={"HF_TOKEN": "hf_value", "USE_UV": "true"}))
    text = inventory.to_toml(host)
    assert "hf_value" not in text
    assert "HF_TOKEN: a secret, and not shown" in text
    assert inventory.load(write(text)).hosts["a"].comfy.env == {"USE_UV": "true"}


def test_a_full_host_is_written_and_read_back(write: Write) -> None:
    host = Host(
        name="a.b",
        address="a",
        user="ops",
        port=2222,
        atlas=(AtlasMount("atlas:/a b", "/mnt/a b", "ro"),),
        waivers=(Waiver("net.dhcp", 'a "reason"', date(2027, 1, 1)),),
        comfy=Comfy(image_gib=0.25, env={"A": "\\ \" ' $(x)"}),
    )
    assert inventory.load(write(inventory.to_toml(host))).hosts == {"a.b": host}


def test_what_a_host_says_cannot_reach_the_terminal() -> None:
    said = "a\x1b[2J\x7f\x9b\u202e\U000e0041\ud800é"
    text = inventory.to_toml(Host(name="a", address="a", gpu=Gpu(name=said)))
    assert not any(grammar.is_hidden(each) for line in text.splitlines() for each in line)
    assert tomllib.loads(text)["hosts"]["a"]["gpu"]["name"] == said.replace("\ud800", "?")


def test_data_is_json_and_masks_secrets() -> None:
    host = Host(
        name="a",
        address="a",
        comfy=Comfy(env={"HF_TOKEN": "hf_secret", "USE_UV": "true", "PROXY": "http://me:hf_secret@p:1"}),
        waivers=(Waiver("c", "r", date(2027, 1, 1)),),
    )
    text = json.dumps(inventory.as_data(host))
    assert "hf_secret" not in text
    shown = {"HF_TOKEN": inventory.MASK, "USE_UV": "true", "PROXY": f"http://{inventory.MASK}@p:1"}
    assert json.loads(text)["comfy"]["env"] == shown
    assert json.loads(text)["waivers"] == [{"control": "c", "reason": "r", "until": "2027-01-01"}]
    assert inventory.as_data(host, reveal=True)["comfy"]["env"]["HF_TOKEN"] == "hf_secret"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("WEBUI_SECRET_KEY", True),
        ("hf_token", True),
        ("OAUTH_CLIENT", True),
        ("db_passwd", True),
        ("AWS_CREDENTIALS", True),
        ("ADMIN_PASSWORD", True),
        ("OLLAMA_KEEP_ALIVE", False),
        ("USE_UV", False),
    ],
)
def test_secret_names(name: str, secret: bool) -> None:
    assert inventory.is_secret_name(name) is secret


@pytest.mark.parametrize(
    ("memory", "size"),
    [("", 0), ("16g", 16 * 1024**3), ("512M", 512 * 1024**2), ("1gb", 1024**3), ("2048k", 2048 * 1024)],
)
def test_memory_in_bytes(memory: str, size: int) -> None:
    assert grammar.memory_bytes(memory) == size


@pytest.mark.parametrize(
    "line",
    [
        "docker ps",
        "cat '/srv/a b/c'",
        "printf '%s\\n' '/srv/it'\"'\"'s here' | tr a-z A-Z",
        'printf "a\\nb\\n" | tail -n 1 && echo "$((1 + 1))"',
        "echo one; echo 'two  three' >&2; echo $0 `echo four` \\! *.nothing",
        "ss -ltnp 'sport = :8188'",
    ],
)
def test_a_line_for_the_host_arrives_there_as_it_is(line: str, tmp_path: Path) -> None:
    """Through the workstation's shell, as it is typed; ssh joins its words with blanks and gives them to another."""
    host = Host("h", "10.0.99.10", user="ops")
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = -t ] && shift\nshift\nprintf %s "$*"\n', encoding="utf-8")
    ssh.chmod(0o755)
    typed = subprocess.run(
        ["/bin/sh", "-c", host.ssh(line)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (typed.stdout, typed.stderr) == (line, "")
