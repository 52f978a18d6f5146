"""What too many may write or read, and containers that share the host's namespaces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import exposure
from pantheon.facts import decode
from pantheon.upkeep import Namespaces, OpenTree, SecretFile
from tests.unit.looks.fakes import FakeHost

NVME = "/mnt/local/nvme/ai"


def trees(host: FakeHost, *paths: str) -> dict[str, OpenTree | None]:
    found: Any = exposure.open_trees({"open_trees": list(paths)}, str(host.root))
    return {path: one and decode(OpenTree, one, path) for path, one in found.items()}  # type: ignore[misc]


class TestOpenTrees:
    def test_what_everybody_may_write(self, host: FakeHost) -> None:
        host.write(f"{NVME}/a b/x", "", 0o666)
        host.write(f"{NVME}/closed", "", 0o664)
        host.at(f"{NVME}/open").mkdir()
        host.at(f"{NVME}/open").chmod(0o777)
        host.at(f"{NVME}/tmp").mkdir()
        host.at(f"{NVME}/tmp").chmod(0o1777)
        host.at(f"{NVME}/link").symlink_to("/nowhere")
        (found,) = trees(host, NVME).values()
        assert found == OpenTree(NVME, 6, True, 2, (f"{NVME}/a b/x (0666)", f"{NVME}/open (0777)"))

    def test_the_root_of_it_counts(self, host: FakeHost) -> None:
        host.write(f"{NVME}/x", "")
        host.at(NVME).chmod(0o777)
        (found,) = trees(host, NVME).values()
        assert found is not None
        assert found.examples == (f"{NVME} (0777)",)

    def test_not_there(self, host: FakeHost) -> None:
        assert trees(host, NVME, "/opt/stacks/ai") == {NVME: None, "/opt/stacks/ai": None}

    def test_what_is_mounted_in_it_is_another_s(self, host: FakeHost) -> None:
        host.write(f"{NVME}/mounted/x", "", 0o666)
        host.mount(f"{NVME}/mounted")
        (found,) = trees(host, NVME).values()
        assert found is not None
        assert found.count == 0

    def test_a_network_mount_is_not_entered(self, host: FakeHost) -> None:
        host.write("/mnt/far/x", "", 0o666)
        host.mount("/mnt/far", "nfs4")
        found: Any = exposure.open_trees({"open_trees": ["/mnt/far"]}, str(host.root))
        assert "leads to the network mount /mnt/far" in found["/mnt/far"]["unknown"]

    def test_a_large_one(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exposure, "WALK_ENTRIES", 5)
        for number in range(10):
            host.write(f"{NVME}/{number}", "")
        host.write("/opt/stacks/ai/x", "")
        one, two = trees(host, NVME, "/opt/stacks/ai").values()
        assert one is not None
        assert two is not None
        assert (one.looked, one.complete, two.looked, two.complete) == (5, False, 0, False)

    def test_many_are_counted_and_few_told(self, host: FakeHost) -> None:
        for number in range(25):
            host.write(f"{NVME}/{number}", "", 0o666)
        (found,) = trees(host, NVME).values()
        assert found is not None
        assert (found.count, len(found.examples)) == (25, exposure.EXAMPLES)

    def test_a_hostile_name(self, host: FakeHost) -> None:
        host.write(f"{NVME}/a\x1b[2J\n", "", 0o666)
        (found,) = trees(host, NVME).values()
        assert found is not None
        assert found.examples == (f"{NVME}/a\\x1b[2J\\x0a (0666)",)


PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
ops:x:1000:1000::/home/o ps:/bin/bash
odd:x:1001:1001::/home/*:/bin/sh
short:x:1002
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
"""
SPEC: dict[str, Any] = {
    "stack_dir": "/opt/stacks/ai",
    "comfy_mnt": f"{NVME}/comfy-mnt",
    "ollama_data": f"{NVME}/ollama",
}


def secrets(host: FakeHost) -> list[SecretFile]:
    found: Any = exposure.secret_files(SPEC, str(host.root))
    return [decode(SecretFile, one, "secret") for one in found]  # type: ignore[misc]


class TestSecrets:
    @pytest.fixture(autouse=True)
    def people(self, host: FakeHost) -> None:
        host.write("/etc/passwd", PASSWD)

    def test_none(self, host: FakeHost) -> None:
        assert secrets(host) == []

    def test_where_they_lie(self, host: FakeHost) -> None:
        mine = {"uid": os.getuid(), "gid": os.getgid()}
        host.write("/opt/stacks/ai/secrets/webui_secret_key", "x", 0o600)
        host.write("/opt/stacks/ai/my.env", "x", 0o640)
        host.write("/opt/stacks/ai/.env", "x", 0o644)
        host.write("/opt/stacks/ai/compose.yaml", "x", 0o644)
        host.write(f"{NVME}/comfy-mnt/HF/token", "x", 0o644)
        host.write("/root/.netrc", "x", 0o644)
        host.at("/root").chmod(0o700)
        host.write("/home/o ps/.ssh/id_ed25519", "x", 0o600)
        host.write("/home/o ps/.ssh/id_ed25519.pub", "x", 0o644)
        host.write("/etc/ssh/ssh_host_rsa_key", "x", 0o640)
        host.write("/etc/ssh/ssh_host_rsa_key.pub", "x", 0o644)
        assert secrets(host) == [
            SecretFile("/opt/stacks/ai/secrets/webui_secret_key", "stack", mode=0o600, to_all=False, **mine),
            SecretFile("/opt/stacks/ai/my.env", "stack", mode=0o640, to_all=False, **mine),
            SecretFile("/opt/stacks/ai/.env", "stack", mode=0o644, to_all=True, **mine),
            SecretFile(f"{NVME}/comfy-mnt/HF/token", "token", mode=0o644, to_all=True, **mine),
            SecretFile("/root/.netrc", "token", mode=0o644, to_all=False, **mine),
            SecretFile("/home/o ps/.ssh/id_ed25519", "token", mode=0o600, to_all=False, **mine),
            SecretFile("/etc/ssh/ssh_host_rsa_key", "host key", mode=0o640, to_all=False, **mine),
        ]

    @pytest.mark.parametrize(("text", "counts"), [('{"auths": {"x": {"auth": "abc"}}}', 1), ('{"credsStore": "x"}', 0)])
    def test_docker_s_configuration_only_with_a_login_in_it(self, host: FakeHost, text: str, counts: int) -> None:
        host.write("/root/.docker/config.json", text, 0o600)
        assert len(secrets(host)) == counts

    def test_a_home_on_a_network_mount_is_left_alone(self, host: FakeHost) -> None:
        host.write("/home/o ps/.netrc", "x", 0o644)
        host.mount("/home", "nfs4")
        assert secrets(host) == []

    def test_what_is_no_file(self, host: FakeHost) -> None:
        host.at("/root").mkdir()
        os.mkfifo(host.at("/root/.netrc"))
        host.at("/opt/stacks/ai/secrets/x").mkdir(parents=True)
        host.at("/root/.git-credentials").symlink_to("/nowhere")
        assert secrets(host) == []


class TestNamespaces:
    def put(self, host: FakeHost, number: str, name: str, **config: Any) -> None:
        folder = f"/var/lib/docker/containers/{number * 64}"
        host.write(f"{folder}/config.v2.json", json.dumps({"Name": f"/{name}"}))
        host.write(f"{folder}/hostconfig.json", json.dumps(config))

    def read(self, root: Path) -> list[Namespaces]:
        found: Any = exposure.namespaces({}, str(root))
        return [decode(Namespaces, one, "one") for one in found]  # type: ignore[misc]

    def test_those_that_share(self, host: FakeHost) -> None:
        self.put(host, "a", "zeta", NetworkMode="host", PidMode="host", IpcMode="private")
        self.put(host, "b", "comfy", NetworkMode="ai", PidMode="", IpcMode="private", UTSMode="", UsernsMode="")
        self.put(host, "c", "alpha", Devices=[{"PathOnHost": "/dev/fuse"}], UTSMode="host")
        host.write(f"/var/lib/docker/containers/{'d' * 64}/config.v2.json", "{")
        host.write("/var/lib/docker/containers/other/config.v2.json", "{}")
        assert self.read(host.root) == [
            Namespaces("alpha", ("uts",), ("/dev/fuse",)), Namespaces("zeta", ("network", "pid")),
        ]  # fmt: skip

    def test_no_engine(self, host: FakeHost) -> None:
        assert self.read(host.root) == []
