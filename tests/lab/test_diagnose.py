"""`invoke diagnose` and the fixes on a real host, beyond what each drill proves: one look, nothing written, several
faults at once, and a fix that was cut short."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import SERVICES, Ran, World, until

from lab import breakages, faults

SPREAD = True
COMFY_MNT = "/mnt/local/nvme/ai/services/comfy-mnt"


def entries(done: Ran) -> list[str]:
    """The causes that a diagnosis names, in its order."""
    assert done.code == 2, done.seen
    return [cause["entry"] or cause["id"] for cause in done.json["causes"]]


def mended(world: World, *names: str) -> None:
    """Each of the fixes, in order, and nothing left."""
    for name in names:
        done = world.invoke(f"fix.{name}", "--yes", timeout=240)
        assert done.code in (0, 2), done.seen  # 2: mended, and another fault is still there
    done = world.invoke("diagnose")
    assert done.code == 0, done.seen


class TestHealthy:
    def test_one_connection_two_execs_and_nothing_written(self, brought_up: World) -> None:
        brought_up.invoke("diagnose")
        with brought_up.counting() as said, brought_up.unchanged():
            done = brought_up.invoke("diagnose")
        assert done.code == 0, done.seen
        assert re.fullmatch(r"✓ lab +nothing found \([\d.]+ s\)\n", done.out), done.seen
        assert done.err == ""
        assert sum(line.startswith("Accepted publickey for ops") for line in said) == 1, said
        assert 1 <= sum(line.startswith("Starting session: ") for line in said) <= 2, said

    def test_as_data(self, brought_up: World) -> None:
        document = brought_up.invoke("diagnose", "--json").json
        assert set(document) >= {"host", "result", "took_s", "good", "causes", "unknown", "warnings"}
        assert (document["host"], document["result"], document["good"]) == ("lab", "diagnosis", True)
        assert document["causes"] == document["unknown"] == []

    def test_no_fix_finds_anything_to_do(self, brought_up: World) -> None:
        with brought_up.unchanged():
            for entry in breakages.modules():
                done = brought_up.invoke(f"fix.{entry}", "--yes")
                assert done.code == 0, done.seen
                assert "nothing to fix: " in done.out, done.seen

    def test_a_first_run_is_no_incident(self, fresh: World) -> None:
        """Looked at over and over from its first moment to its last, and while the others start."""
        fresh.lab.set_stand_in(comfy_step_seconds=0.7, openwebui_first_seconds=2, openwebui_start_seconds=1)
        codes: list[tuple[int, str]] = []
        with fresh.running("bringup", "--yes") as bringup:
            until(lambda: "comfy" in fresh.ids(), 60, "comfy is made")
            while bringup.process.poll() is None:
                done = fresh.invoke("diagnose", "--json")
                codes.append((done.code, done.seen))
            ended = bringup.end()
        assert ended.code == 0, ended.seen
        assert len(codes) >= 3
        wrong = [seen for code, seen in codes if code not in (0, 2)]
        assert wrong == []
        for _, seen in codes:
            named = re.findall(r'"entry": "([a-z-]+)"', seen)
            assert named == [], seen
        done = fresh.invoke("diagnose")
        assert done.code == 0, done.seen


class TestBare:
    def test_a_host_on_which_nothing_is_has_one_cause(self, untouched: World) -> None:
        with untouched.unchanged():
            done = untouched.invoke("diagnose")
        assert done.code == 2, done.seen
        assert "Next: invoke bringup --host lab" in done.out, done.seen
        assert done.out.count("✗") == 1, done.seen


# ---- two at once, and one that looks like another


def plant(world: World, *names: str) -> list[breakages.Breakage]:
    chosen = [breakages.get(name) for name in names]
    for one in chosen:
        one.plant(world.lab)
    return chosen


@contextmanager
def broken(world: World, *names: str) -> Iterator[None]:
    chosen: list[breakages.Breakage] = []
    try:
        for name in names:
            chosen += plant(world, name)
        yield
    finally:
        for one in reversed(chosen):
            one.heal(world.lab)


class TestTwoAtOnce:
    def test_a_wrong_owner_and_an_open_port(self, brought_up: World) -> None:
        with broken(brought_up, "exposed-ports.published"):
            brought_up.sh(f"chown -R 0:0 {COMFY_MNT}/ComfyUI && docker restart -t 1 comfy >/dev/null", check=False)
            until(
                lambda: set(entries(brought_up.invoke("diagnose", "--json"))) >= {"exposed-ports", "comfy-ownership"},
                30,
            )
            found = entries(brought_up.invoke("diagnose", "--json"))
            assert found == ["exposed-ports", "comfy-ownership"]
            shown = brought_up.invoke("diagnose")
            assert re.search(r"^1 ✗ exposed-ports: ", shown.out, re.MULTILINE), shown.seen
            assert re.search(r"^2 ✗ comfy-ownership: ", shown.out, re.MULTILINE), shown.seen
            assert shown.out.rstrip().splitlines()[-1] == "Next: invoke fix.exposed-ports --host lab", shown.seen
            mended(brought_up, *found)

    def test_an_unmounted_disk_and_a_lost_gpu(self, brought_up: World) -> None:
        with broken(brought_up, "mounts-missing", "gpu-lost.container"):
            found = entries(brought_up.invoke("diagnose", "--json"))
            assert found[0] == "mounts-missing", found
            mended(brought_up, *found)
            assert "gpu-lost" in found or brought_up.invoke("validate").code == 0

    def test_what_it_names_next_is_enough(self, brought_up: World) -> None:
        """The engine down and the disk gone: each time the one command that a diagnosis ends with is typed."""
        with broken(brought_up, "mounts-missing"):
            faults.stop_engine(brought_up.lab)
            try:
                assert entries(brought_up.invoke("diagnose", "--json")) == ["mounts-missing", "docker-down"]
                for _ in range(6):
                    done = brought_up.invoke("diagnose")
                    if done.code == 0:
                        break
                    command = re.findall(r"^Next: invoke (\S+) --host lab$", done.out, re.MULTILINE)
                    assert len(command) == 1, done.seen
                    fixed = brought_up.invoke(command[0], "--yes", timeout=240)
                    assert fixed.code in (0, 2), fixed.seen
                assert done.code == 0, done.seen
                checked = brought_up.invoke("validate")
                assert checked.code == 0, checked.seen
            finally:
                faults.start_engine(brought_up.lab)


class TestLooksLikeAnother:
    def test_a_wrong_owner_because_the_disk_is_not_mounted(self, spare: World) -> None:
        """What Docker or a hand made in the place of the disk belongs to root; the disk itself is as it was."""
        world = spare
        owners = world.sh(f"stat -c %u:%g {COMFY_MNT}")
        world.sh("docker stop -t 1 comfy ollama >/dev/null; umount /mnt/local/nvme")
        world.sh(f"mkdir -p {COMFY_MNT} && chown 0:0 {COMFY_MNT}")
        found = world.invoke("diagnose", "--json")
        assert entries(found) == ["mounts-missing"], found.seen
        refused = world.invoke("fix.comfy-ownership", "--yes")
        assert refused.code in (0, 2), refused.seen
        assert world.sh(f"stat -c %u:%g {COMFY_MNT}") == "0:0", "the root disk was touched"
        if refused.code == 2:
            assert "invoke fix.mounts-missing --host lab" in refused.out, refused.seen
        mended(world, "mounts-missing")
        assert world.sh(f"stat -c %u:%g {COMFY_MNT}") == owners == "1024:1024"
        assert world.invoke("validate").code == 0

    def test_a_stopped_engine_is_not_a_missing_stack(self, spare: World) -> None:
        with faults.without_engine(spare.lab):
            found = spare.invoke("diagnose", "--json")
        assert entries(found) == ["docker-down"], found.seen

    def test_a_container_that_somebody_stopped_is_no_incident_of_an_entry(self, brought_up: World) -> None:
        brought_up.docker("stop", "-t", "1", "ollama")
        found = brought_up.invoke("diagnose", "--json")
        causes: list[dict[str, Any]] = found.json["causes"]
        assert [cause["entry"] for cause in causes if cause["entry"]] in ([], ["openwebui-ollama"]), found.seen
        assert causes[0]["mend"] in ("invoke ollama --host lab", "invoke fix.openwebui-ollama --host lab"), found.seen
        assert brought_up.invoke("bringup", "--yes").code == 0


# ---- a fix that was cut short


CUTS = 3


class TestCutShort:
    @pytest.mark.parametrize("entry", ["comfy-ownership", "docker-down"])
    def test_a_fix_whose_client_is_killed_can_be_run_again(self, brought_up: World, entry: str) -> None:
        """kill -9 of the client at a moment that a seed decides: the host ends by itself, and the same fix finishes."""
        chance = random.Random(f"{entry} cut short")
        chosen = breakages.get(entry)
        for _ in range(CUTS):
            try:
                chosen.plant(brought_up.lab)
                with brought_up.running(f"fix.{entry}", "--yes") as fix:
                    fix.wait_for("Stops ", 30)
                    time.sleep(chance.uniform(0.0, 3.0))
                    fix.signal(9)
                    fix.end()
                again = until(lambda: self._again(brought_up, entry), 60, f"fix.{entry} again")
                brought_up.wait_healthy(*SERVICES)  # an engine that has just come up starts them
                done = brought_up.invoke("diagnose")
                assert done.code == 0, again.seen + done.seen
                done = brought_up.invoke(f"fix.{entry}", "--yes")
                assert done.code == 0, done.seen
                assert "nothing to fix" in done.out, done.seen
            finally:
                chosen.heal(brought_up.lab)

    @staticmethod
    def _again(world: World, entry: str) -> Ran | None:
        """Until the host has freed its lock the fix says that somebody is at work there."""
        done = world.invoke(f"fix.{entry}", "--yes", timeout=240)
        if done.code == 1 and "is being changed by" in done.err:
            time.sleep(0.5)
            return None
        assert done.code == 0, done.seen
        return done
