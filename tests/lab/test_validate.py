"""`invoke validate` on a stack in which something fails: what it says and with which evidence."""

from __future__ import annotations

import re

import pytest
from conftest import Ran, World, until

pytestmark = pytest.mark.lab

COMFY_MNT = "/mnt/local/nvme/ai/services/comfy-mnt"
OPENWEBUI = "ghcr.io/open-webui/open-webui:main"


def failing(world: World) -> Ran:
    done = world.invoke("validate")
    assert done.code == 2, done.seen
    return done


class TestFailures:
    def test_the_checklist_of_a_good_stack(self, brought_up: World) -> None:
        with brought_up.unchanged():
            done = brought_up.invoke("validate")
        assert done.code == 0, done.seen
        assert "validation checklist (§8)" in done.out
        assert not re.search(r"^[✗!?]", done.out, re.MULTILINE), done.seen
        assert re.search(r"^✓ lab +\d+ checks, all good$", done.out, re.MULTILINE), done.seen

    def test_a_stopped_service(self, brought_up: World) -> None:
        brought_up.docker("stop", "-t", "1", "comfy")
        done = failing(brought_up)
        assert re.search(r"^✗ comfy is exited \(exit code \d+\)$", done.out, re.MULTILINE), done.seen
        assert re.search(r"^    → invoke comfy", done.out, re.MULTILINE), done.seen
        assert "✗ comfy does not answer on the host" in done.out, done.seen
        assert "✗ comfy does not answer through SSH" in done.out, done.seen
        assert "✓ ollama is Up and healthy" in done.out, done.seen
        brought_up.docker("start", "comfy")
        brought_up.wait_healthy("comfy")

    def test_a_container_that_has_lost_its_card(self, brought_up: World) -> None:
        """As after a daemon-reload: the host has its GPU, the container has none any more."""
        folder = f"/run/lab/containers/{brought_up.ids()['ollama']}"
        brought_up.sh(f"echo unknown >{folder}/gpu-fault")
        try:
            inside = brought_up.docker("exec", "ollama", "nvidia-smi", "-L", check=False)
            assert "Failed to initialize NVML: Unknown Error" in inside
            done = failing(brought_up)
        finally:
            brought_up.sh(f"rm {folder}/gpu-fault")
        assert "✗ ollama does not see the GPU" in done.out, done.seen
        assert "Failed to initialize NVML: Unknown Error" in done.out, done.seen
        assert "✓ comfy sees the GPU" in done.out, done.seen

    def test_errors_of_this_start_count_and_those_of_earlier_ones_do_not(self, brought_up: World) -> None:
        world = brought_up
        world.sh(f"chown 0:0 {COMFY_MNT}; docker restart -t 1 comfy")
        until(lambda: int(world.docker("inspect", "-f", "{{.RestartCount}}", "comfy")) > 0, what="a restart")
        error = "owned by unexpected user/group, expected 1024:1024, actual 0:0"
        # In a restart loop a look may come before the current start has said anything.
        done = until(lambda: done if error in (done := failing(world)).out else None, what=error)
        assert re.search(r"^✗ comfy is (restarting|starting again)", done.out, re.MULTILINE), done.seen
        assert re.search(r"^✗ ComfyUI's log has errors since its start\n.*" + error, done.out, re.MULTILINE), done.seen
        world.sh(f"chown 1024:1024 {COMFY_MNT}; docker restart -t 1 comfy")
        world.wait_healthy("comfy")
        assert "owned by unexpected user/group" in world.docker("logs", "comfy", check=False)
        done = world.invoke("validate")
        assert done.code == 0, done.seen

    def test_a_service_that_listens_beyond_loopback(self, spare: World) -> None:
        """§5: published on all addresses, by hand, in the place of ours."""
        spare.docker("rm", "-f", "openwebui")
        spare.docker("run", "-d", "--name", "openwebui", "-p", "3000:8080", OPENWEBUI)
        done = failing(spare)
        assert "✗ the stack listens beyond loopback" in done.out, done.seen
        assert "openwebui 0.0.0.0:3000" in done.out, done.seen
        assert "container openwebui was started by hand" in done.out, done.seen
        assert spare.invoke("validate", "--json").json["good"] is False
        with spare.unchanged():
            refused = spare.invoke("bringup", "--yes")
        assert refused.code == 2, refused.seen
