"""pantheon/facts.py: questions from an inventory, the probe's document read strictly, and back to data."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pantheon import facts, layout, questions
from pantheon.errors import LookFailed
from pantheon.facts import Unknown
from pantheon.inventory import SERVICES, Comfy, Host, Storage

ENTRY = {
    "path": "/a", "kind": "dir", "uid": 0, "gid": 0, "owner": "root", "group": "root", "mode": 493, "real": "/a",
    "is_mount": True, "mount": {"target": "/a", "source": "/dev/sda1", "fstype": "ext4", "options": "rw"},
}  # fmt: skip
FILE = {"path": "/f", "sha256": "ab", "uid": 0, "gid": 0, "mode": 420, "size": 2, "text": "hi", "digest": ""}
CONTAINER: dict[str, Any] = {
    "id": "f" * 64, "name": "comfy", "image": "a:b", "image_id": "sha256:1", "state": "running", "health": None,
    "exit_code": 0, "oom_killed": False, "error": "", "restarts": 0, "started_at": "", "finished_at": "", "user": "",
    "ports": [{"container_port": "8188/tcp", "address": "127.0.0.1", "port": 8188}],
    "mounts": [{"type": "bind", "source": "/a", "target": "/b", "writable": True, "name": ""}],
    "env": {"HF_TOKEN": {"value": None, "digest": "00", "from_image": False}},
    "labels": {"com.docker.compose.project": "ai"}, "command": ["x"], "entrypoint": [], "networks": ["ai"],
    "restart_policy": "no", "cap_add": [], "cap_drop": ["ALL"], "security_opt": [], "privileged": False, "init": True,
    "memory": 0, "gpus": "all", "log_driver": "json-file", "log_options": {}, "log": ["one"],
    "log_markers": {"unknown": "Docker answered 501"}, "log_complete": False,
    "gpu_seen": {"status": 0, "output": "GPU 0"},
}  # fmt: skip
GPU = {
    "index": 0, "name": "NVIDIA RTX 4000 Ada Generation", "uuid": "GPU-1", "memory_total_mib": 20475,
    "memory_used_mib": 1, "memory_free_mib": 2, "utilisation": None, "temperature_c": 38, "power_w": 11,
    "power_limit_w": None, "ecc": "off", "ecc_uncorrected": None, "event_reasons": ["gpu_idle"],
    "processes": [{"pid": 7, "name": "python3", "memory_mib": None, "container": "comfy"}],
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "schema": 1, "nonce": "00ff", "took_s": 0.1, "os": {"unknown": "no os-release"},
    "nvml": {"driver": "590.48.01", "library": "13.590", "cuda": "13.1", "gpus": [GPU]},
    "nvidia_smi": None, "module_version": "590.48.01", "library_version": {"unknown": "x"},
    "docker": {"client": "29", "engine": {"unknown": "refused"}, "api": None, "compose": None, "snap": None,
               "root": None, "driver": None, "runtimes": [], "cdi": [], "daemon_json": None, "tcp": []},
    "toolkit": None, "paths": {"/a": ENTRY, "/b": None, "/c": {"unknown": "no answer"}},
    "spaces": {"docker": {"free_bytes": 1, "total_bytes": 2, "free_inodes": 3, "total_inodes": 4}},
    "trees": {"/a": {"path": "/a", "looked": 1, "complete": True, "wrong": 0, "examples": []}},
    "files": {"/f": FILE, "/s": {**FILE, "sha256": "", "digest": "0123"}, "/n": None},
    "containers": [CONTAINER],
    "images": {"a:b": {"id": "sha256:1", "digests": [], "size_bytes": 1, "created": ""}, "c": None},
    "listeners": [{"address": "::", "port": 22, "pid": None, "process": "", "container": ""}],
    "http": {"comfy": {"url": "u", "status": 200, "reason": "OK", "body": "", "error": "", "ms": 1}},
    "groups": {"docker": 104, "x": None}, "state": None, "mounts": [], "lock": '{"who": "ops"}',
}  # fmt: skip


def changed(path: str, value: object) -> dict[str, Any]:
    """DOCUMENT with one value replaced; "" as the last key removes nothing and adds nothing."""
    document = copy.deepcopy(DOCUMENT)
    *way, last = path.split(".")
    place: Any = document
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return document


# ---- reading the document --------------------------------------------------------------------------------------------


def test_every_value_is_known_absent_or_unknown() -> None:
    found = facts.parse(DOCUMENT)
    assert found.os == Unknown("no os-release")
    assert found.nvidia_smi is None
    assert found.paths["/c"] == Unknown("no answer")
    assert isinstance(found.nvml, facts.Nvml)
    assert found.nvml.gpus[0].power_w == 11.0
    assert isinstance(found.nvml.gpus[0].power_w, float)
    container = found.container("comfy")
    assert isinstance(container, facts.Container)
    assert container.project == "ai"
    assert container.log_markers == Unknown("Docker answered 501")
    assert container.env == {"HF_TOKEN": facts.EnvValue(None, "00", False)}
    assert found.container("nope") is None
    assert facts.parse(changed("containers", {"unknown": "why"})).container("comfy") == Unknown("why")
    assert not Unknown("why")


def test_facts_become_data_and_come_back() -> None:
    found = facts.parse(DOCUMENT)
    data = facts.to_data(found)
    assert facts.parse(json.loads(json.dumps(data))) == found
    assert isinstance(data, dict)
    assert data["os"] == {"unknown": "no os-release"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("took_s", "soon", "facts.took_s: str 'soon' where float belongs"),
        ("paths./a.uid", "0", "facts.paths['/a'].uid: str '0' where int belongs"),
        ("paths./a.uid", True, "facts.paths['/a'].uid: bool True where int belongs"),
        ("paths./a.is_mount", 1, "facts.paths['/a'].is_mount: int 1 where bool belongs"),
        ("paths./a.uid", None, "facts.paths['/a'].uid: NoneType None where int belongs"),
        ("paths./a.uid", {"unknown": "x"}, "facts.paths['/a'].uid: dict"),
        ("paths./a.surprise", 1, "facts.paths['/a'].surprise: nothing of that name is known"),
        ("paths", [], "facts.paths: list [] where object belongs"),
        ("os", "linux", "facts.os: str 'linux' where OsRelease belongs"),
        ("os", {"unknown": 5}, "facts.os.unknown: int 5 where str belongs"),
        ("os", {"unknown": "x", "id": "y"}, "facts.os."),
        ("containers.0.ports", {"a": 1}, "facts.containers[0].ports: dict"),
        ("containers.0.ports.0.port", 1.5, "facts.containers[0].ports[0].port: float 1.5 where int belongs"),
        ("lock", "x" * 1000, ""),
        ("nvml.gpus.0.name", 7, "facts.nvml.gpus[0].name: int 7 where str belongs"),
        ("surprise", 1, "facts.surprise: nothing of that name is known"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(path: str, value: object, message: str) -> None:
    document = changed(path, value)
    if not message:
        facts.parse(document)
        return
    with pytest.raises(LookFailed) as caught:
        facts.parse(document)
    assert message in caught.value.message
    assert len(caught.value.message) < 250


def test_what_is_missing_is_named_with_its_path() -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["containers"][0]["state"]
    with pytest.raises(LookFailed, match=r"facts\.containers\[0\]\.state is not there"):
        facts.parse(document)
    del document["schema"]
    with pytest.raises(LookFailed, match="does not say its schema"):
        facts.parse(document)


@pytest.mark.parametrize("document", [None, [], "facts", 5])
def test_no_document_at_all(document: object) -> None:
    with pytest.raises(LookFailed, match="not a document"):
        facts.parse(document)


def test_a_document_of_another_version_says_which_pantheon_is_older() -> None:
    with pytest.raises(LookFailed, match="has schema 2, this pantheon reads 1: this pantheon is older") as caught:
        facts.parse({"schema": 2, "anything": "else"})
    assert caught.value.next_commands == ("make setup",)
    with pytest.raises(LookFailed, match="has schema 0, this pantheon reads 1: this pantheon is newer"):
        facts.parse({"schema": 0})


# ---- readings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target", "expect"),
    [
        ("path", "/a", "dir 0:0 0755"),
        ("path", "/b", "missing"),
        ("mount", "/a", "/dev/sda1 ext4"),
        ("mount", "/b", "not a mount point"),
        ("sha256", "/f", "ab"),
        ("sha256", "/n", "missing"),
        ("container", "comfy", "f" * 64),
        ("container", "x", "missing"),
        ("image", "a:b", "sha256:1"),
        ("image", "c", "missing"),
    ],
)
def test_readings(kind: str, target: str, expect: str) -> None:
    assert facts.parse(DOCUMENT).reading(kind, target) == expect


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("path", "/c", "path /c is not known: no answer"),
        ("path", "/never/asked", "did not ask about path /never/asked"),
        ("sha256", "/s", "/s is secret"),
        ("size", "/a", "no such kind of reading: size"),
    ],
)
def test_no_reading_of_what_is_not_known(kind: str, target: str, message: str) -> None:
    with pytest.raises(LookFailed, match=message):
        facts.parse(DOCUMENT).reading(kind, target)


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        ({"kind": "symlink", "real": "/x"}, "symlink -> /x"),
        ({"real": "/x/a"}, "elsewhere: /x/a"),
        ({"kind": "other", "uid": 1, "gid": 2, "mode": 0o7}, "other 1:2 0007"),
    ],
)
def test_readings_of_paths(change: dict[str, object], expect: str) -> None:
    assert facts.parse(changed("paths./a", {**ENTRY, **change})).reading("path", "/a") == expect


# ---- questions -------------------------------------------------------------------------------------------------------


def test_every_directory_is_asked_about_with_all_its_parents() -> None:
    host = Host(name="h", address="a", stack_dir="/opt/my stacks/ai", storage=Storage(nvme="/mnt/n v", ssd="/ssd"))
    asked: Any = questions.questions(host, nonce="1")
    paths = set(asked["paths"])
    assert {directory.path for directory in layout.directories(host)} <= paths
    assert {"/mnt", "/mnt/n v", "/ssd", "/opt", "/opt/my stacks", "/opt/my stacks/ai/secrets"} <= paths
    assert {layout.userscripts(host), layout.secret_key(host), layout.compose_file(host)} <= paths
    assert f"{layout.comfy_mnt(host)}/venv" in paths
    assert all(path.rpartition("/")[0] in paths | {""} for path in paths)
    assert asked["spaces"] == ["/mnt/n v", "/ssd"]


def test_secrets_are_asked_about_as_secrets() -> None:
    host = Host(name="h", address="a")
    asked: Any = questions.questions(host, nonce="1")
    secret = {file["path"] for file in asked["files"] if file["secret"]}
    assert secret == {layout.secret_key(host), *(layout.env_file(host, service) for service in SERVICES)}
    assert not {name for name in asked["plain_env"] if "TOKEN" in name or "PASSWORD" in name or name.endswith("_KEY")}


def test_images_and_addresses_follow_the_inventory() -> None:
    host = Host(name="h", address="a", comfy=Comfy(port=9000, image="my/comfy:1"))
    asked: Any = questions.questions(host, nonce="1")
    assert "my/comfy:1" in asked["images"]
    assert asked["http"]["comfy"] == "http://127.0.0.1:9000/"
    assert asked["http"]["comfy/system_stats"] == "http://127.0.0.1:9000/system_stats"
    assert asked["http"]["openwebui/ready"] == "http://127.0.0.1:3000/ready"
    assert [tree["uid"] for tree in asked["trees"]] == [1024, 1024]
    assert json.loads(json.dumps(asked)) == asked


def test_digests_tell_equal_values_and_nothing_else() -> None:
    assert facts.digest("00ff", "value") == facts.digest("00ff", "value")
    assert facts.digest("00ff", "value") != facts.digest("00fe", "value")
    assert facts.digest("00ff", "value") != facts.digest("00ff", "Value")
    assert len(facts.digest("1", "\udcff")) == 16
