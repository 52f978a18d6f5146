"""Bring-ups that do not go through: two at once, a full disk, images and containers that fail, Ctrl-C.

Each failure is one clear error with its exit code, and after the cause is mended the same command goes on from there.
"""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
from conftest import World, until

from lab import faults

pytestmark = pytest.mark.lab

TINY: dict[str, Any] = {name: {"image_gib": 0, "data_gib": 0} for name in ("comfy", "ollama", "openwebui")}


class TestFreshHost:
    """From one failure to the next on one host, which ends validated all the same."""

    def test_full_disks_and_a_missing_image_are_told_and_gone_on_from(self, fresh: World) -> None:
        # Nothing can be written where the Compose file belongs.
        fresh.sh("mkdir -p /opt/stacks")
        with faults.small_disk(fresh.lab, "/opt/stacks", mib=1, full=True):
            full = fresh.invoke("bringup", "--yes")
        assert full.code == 1, full.seen
        assert "No space left on device" in full.err, full.seen
        assert "/opt/stacks/ai" in full.err, full.seen
        assert "Next: invoke fix.disk-pressure --host lab" in full.err, full.seen
        assert fresh.ids() == {}

        # Docker has no room for the image; what the registry's layers need is more than hosts.toml says.
        fresh.inventory(**TINY)
        with faults.small_image_store(fresh.lab, 6):
            full = fresh.invoke("ollama", "--yes")
        assert full.code == 1, full.seen
        assert "no space left on device" in full.err.lower(), full.seen
        assert "docker compose" in full.err, full.seen

        # A tag that does not exist: the registry's own words.
        fresh.inventory(ollama={"image": "ollama/ollama:no-such-tag"})
        missing = fresh.invoke("bringup", "--yes")
        assert missing.code == 1, missing.seen
        assert re.search(r"ollama/ollama:no-such-tag: not found|manifest .*unknown", missing.err), missing.seen
        assert fresh.ids() == {}

        fresh.inventory()
        done = fresh.invoke("bringup", "--yes", "--older")
        assert done.code == 0, done.seen
        assert "create 11 directories" not in done.out, done  # they are there from the first try
        assert fresh.invoke("validate").code == 0
        results = [run["result"] for run in fresh.invoke("history", "--json").json["runs"]]
        assert results == ["failed", "failed", "failed", "done"]
        fresh.state = "up"

    def test_a_container_that_cannot_start_is_told_in_seconds(self, spare: World) -> None:
        """With the reason that stands in its log, and while the container restarts over and over."""
        ids = spare.ids()
        spare.inventory(comfy={"env": {"COMFY_CMDLINE_EXTRA": "--no-such-option"}})
        failed = spare.invoke("comfy", "--yes")
        assert failed.code == 1, failed.seen
        assert failed.took_s < 45, failed.seen
        assert "lab: comfy cannot start: ComfyUI failed or exited with an error" in failed.err, failed.seen
        assert "Next: invoke runbook comfy" in failed.err, failed.seen
        until(lambda: int(spare.docker("inspect", "-f", "{{.RestartCount}}", "comfy")) > 0)
        checked = spare.invoke("validate")
        assert checked.code == 2, checked.seen
        again = spare.invoke("bringup", "--yes")
        assert again.code in (1, 2), again.seen
        assert "comfy" in again.all
        spare.inventory()
        assert spare.invoke("bringup", "--yes", "--older").code == 0
        assert {name: spare.ids()[name] for name in ("ollama", "openwebui")} == {
            name: ids[name] for name in ("ollama", "openwebui")
        }

        # A service without stages of its own: its last words are the reason.
        spare.inventory(openwebui={"env": {"PORT": "none"}})
        failed = spare.invoke("openwebui", "--yes")
        assert failed.code == 1, failed.seen
        assert "openwebui cannot start: " in failed.err, failed.seen
        assert "it restarts over and over" in failed.err, failed.seen
        assert "invalid literal for int() with base 10: 'none'" in failed.err, failed.seen
        spare.inventory()
        spare.bring_up("--older")
        spare.state = "up"

    def test_the_runtime_cannot_give_the_card(self, spare: World) -> None:
        spare.inventory(ollama={"env": {"OLLAMA_KEEP_ALIVE": "7m"}})
        with faults.gpu(spare.lab, "hookfail"):
            failed = spare.invoke("ollama", "--yes")
        assert failed.code == 1, failed.seen
        assert "nvidia-container-cli: " in failed.err, failed.seen
        done = spare.invoke("bringup", "--yes")
        assert done.code == 0, done.seen
        assert not [name for name in spare.ids() if re.match(r"[0-9a-f]{12}_", name)]


class TestTwoAtOnce:
    def test_the_second_says_who_is_at_it_and_the_first_ends_well(self, fresh: World) -> None:
        """The registry stands still in the middle of the first one's pull."""
        fresh.sh("systemctl kill -s STOP lab-registry")
        with fresh.running("bringup", "--yes") as first:
            try:
                first.wait_for("✓ storage")
                until(lambda: "pull" in fresh.sh("ps -eo args | grep '[d]ocker compose' || true"), what="a pull")
                second = fresh.invoke("bringup", "--yes")
                planned = fresh.invoke("bringup", "--plan")
            finally:
                fresh.sh("systemctl kill -s CONT lab-registry")
            done = first.end()
        assert second.code == 1, second.seen
        who = r"lab is being changed by \S+@\S+: bringup, since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(pid \d+ on the host\)"
        assert re.search(who, second.err), second.seen
        assert planned.code == 2, planned.seen
        assert done.code == 0, done.seen
        assert [run["result"] for run in fresh.invoke("history", "--json").json["runs"]] == ["done"]


class TestFirstRun:
    def test_stages_in_a_pipe_and_ctrl_c_leaves_the_container_at_work(self, fresh: World) -> None:
        fresh.lab.set_stand_in(comfy_step_seconds=0.5)
        with fresh.running("bringup", "--yes") as first:
            # The others do not wait for ComfyUI, which is far from ready.
            first.wait_for("cloning ComfyUI")
            first.wait_for("✓ ollama     ready")
            seen = first.wait_for("✓ openwebui  ready")
            assert "✓ comfy      ready" not in seen
            first.signal(signal.SIGINT)
            stopped = first.end(20)
        assert stopped.code == 130, stopped.seen
        assert "stopped watching; the services go on by themselves" in stopped.out, stopped.seen
        assert "Traceback" not in stopped.out, stopped.seen
        # §7 in words: what is normal, and where it is; a line each, when something has changed.
        assert stopped.out.count("10-20 min is normal") == 1, stopped.seen
        assert re.search(r"^· comfy +4/9 cloning ComfyUI \(\d\d:\d\d", stopped.out, re.MULTILINE), stopped.seen
        assert "\x1b" not in stopped.out
        until(lambda: fresh.sh("pgrep -fc '[p]antheon.(probe|runner)' || true") == "0", what="no watcher is left")

        container = fresh.ids()["comfy"]
        assert fresh.docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "comfy") == "true 0"
        # Resumed on a terminal: the stages as a live display, with the hint that is promised there.
        with fresh.running("comfy", terminal=True) as again:
            again.wait_for("Ctrl-C stops watching")
            resumed = again.end()
        assert resumed.code == 0, resumed.seen
        assert "installing torch" in resumed.out, resumed.seen
        assert "10-20 min is normal" in resumed.out, resumed.seen
        assert fresh.ids()["comfy"] == container
        assert fresh.invoke("bringup", "--yes").code == 0
        fresh.state = "up"
