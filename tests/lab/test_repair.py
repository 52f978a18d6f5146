"""Fixes on a host at work: a job is waited for, and a run that is stuck half-way is ended and leaves nothing odd."""

from __future__ import annotations

import re
import signal
import time

import pytest
from conftest import World

from lab import breakages

pytestmark = pytest.mark.lab
SPREAD = True

ENQUEUE = """
for _ in $(seq "$1"); do
    curl -fsS -o /dev/null -H 'Content-Type: application/json' \
        -d '{"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}' http://127.0.0.1:8188/prompt
done
"""
LEFT = "curl -fsS http://127.0.0.1:8188/prompt | tr -dc 0-9"
PICTURES = "find /mnt/local/ssd/ai/outputs -name '*.png' | wc -l"


def lose_the_card(world: World) -> None:
    """What fix.gpu-lost mends by making ComfyUI's container anew, while ComfyUI itself goes on working."""
    breakages.get("gpu-lost.container").plant(world.lab)


class TestAJobInWhatIsStopped:
    def test_it_is_waited_for(self, brought_up: World) -> None:
        lose_the_card(brought_up)
        before, pictures = brought_up.ids(), int(brought_up.sh(PICTURES))
        brought_up.sh(ENQUEUE, "80")
        done = brought_up.invoke("fix.gpu-lost", "--yes")
        assert done.code == 0, done.seen
        assert re.search(r"running there: comfy: 1 job running, \d+ waiting", done.out), done.seen
        assert re.search(r"comfy has \d+ jobs to finish; --now does not wait", done.out), done.seen
        assert int(brought_up.sh(PICTURES)) == pictures + 80, "no job was lost"
        assert brought_up.ids()["comfy"] != before["comfy"]

    def test_now_does_not_wait(self, brought_up: World) -> None:
        lose_the_card(brought_up)
        before, pictures = brought_up.ids(), int(brought_up.sh(PICTURES))
        brought_up.sh(ENQUEUE, "60")
        done = brought_up.invoke("fix.gpu-lost", "--yes", "--now")
        assert done.code == 0, done.seen
        assert "to finish" not in done.out, done.seen
        assert brought_up.ids()["comfy"] != before["comfy"]
        assert int(brought_up.sh(PICTURES)) < pictures + 60

    def test_ctrl_c_while_it_waits_changes_nothing(self, brought_up: World) -> None:
        lose_the_card(brought_up)
        before = brought_up.ids()
        brought_up.sh(ENQUEUE, "60")
        with brought_up.running("fix.gpu-lost", "--yes") as running:
            running.wait_for("to finish", 30)
            running.signal(signal.SIGINT)
            ended = running.end(15)
        assert ended.code == 130, ended
        assert "nothing was changed" in ended.all, ended
        assert brought_up.ids() == before
        assert brought_up.sh("cat /run/pantheon/lock") == ""
        assert int(brought_up.sh(LEFT)) > 0, "the jobs go on"
        done = brought_up.invoke("fix.gpu-lost", "--yes", "--now")
        assert done.code == 0, done.seen


ODD = "docker ps -a --format '{{.Names}}' | grep -E '^[0-9a-f]{12}_'"
# In one piece on the host: half-way is a moment, which is over by the time that a second command is there.
STOP_HALF_WAY = """
end=$(($(date +%s) + 50))
while [ "$(date +%s)" -lt "$end" ]; do
    docker ps -a --format '{{.Names}}' | grep -qE '^[0-9a-f]{12}_' || continue
    compose=$(pgrep -f '[d]ocker-compose .* up ' | head -n 1)
    runner=$(tr -dc '{}a-z0-9:", ' </run/pantheon/lock | sed 's/.*"pid": //; s/[^0-9].*//')
    [ -z "$compose" ] || { kill -STOP "$runner" "$compose" && exit; }
done
exit 1
"""


def test_a_run_stuck_in_the_middle_of_a_recreate(spare: World) -> None:
    """Its containers get their names back, and the same command again finishes the work."""
    spare.inventory(comfy={"env": {"CUT": str(time.time())}})
    with spare.running("bringup", "--yes") as running:
        spare.sh(STOP_HALF_WAY)
        running.signal(signal.SIGKILL)
    assert spare.sh(ODD, check=False), "stopped half-way"
    for command in (("fix.stuck-apply",), ("fix.stuck-apply", "--yes")):
        shown = spare.invoke(*command)
        assert shown.code == 2, shown.seen
        assert "bringup of " in shown.out, shown.seen
        assert "Nothing on lab was touched." in shown.out, shown.seen
    other = spare.invoke("bringup", "--yes")
    assert other.code == 1, other.seen
    assert "is being changed by" in other.err, other.seen
    ended = spare.invoke("fix.stuck-apply", "--end", "--yes", timeout=120)
    assert ended.code in (0, 2), ended.seen  # ComfyUI may be down by now: then that is said
    assert "is being changed by" not in ended.all, ended.seen
    assert spare.sh(ODD, check=False) == ""
    assert spare.sh("cat /run/pantheon/lock") == ""
    assert "ended by" in spare.invoke("history").out
    again = spare.invoke("bringup", "--yes", timeout=120)
    assert again.code == 0, again.seen
    assert sorted(spare.ids()) == ["comfy", "ollama", "openwebui"]
