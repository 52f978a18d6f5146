"""`invoke reboot`: a job is waited for, the host goes and comes back, and so does the stack; what forbids it."""

from __future__ import annotations

import re

import pytest
from conftest import World

from lab import install_faults

pytestmark = pytest.mark.lab
SPREAD = True

ENQUEUE = """
for _ in $(seq "$1"); do
    curl -fsS -o /dev/null -H 'Content-Type: application/json' \
        -d '{"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}' http://127.0.0.1:8188/prompt
done
"""
PICTURES = "find /mnt/local/ssd/ai/outputs -name '*.png' | wc -l"


def test_a_job_is_waited_for_and_all_of_it_is_back(brought_up: World) -> None:
    boot, pictures, before = brought_up.lab.boot_id(), int(brought_up.sh(PICTURES)), brought_up.ids()
    brought_up.sh(ENQUEUE, "60")
    done = brought_up.invoke("reboot", "--yes", timeout=120)
    assert done.code == 0, done.seen
    assert re.search(r"running there: comfy: 1 job running, \d+ waiting", done.out), done.seen
    assert re.search(r"comfy has \d+ jobs? to finish", done.out), done.seen
    assert "has its module for kernel" in done.out, done.seen
    assert "comfy, ollama, openwebui come back by themselves" in done.out, done.seen
    assert "all good" in done.out, done.seen
    assert brought_up.lab.boot_id() != boot
    assert int(brought_up.sh(PICTURES)) == pictures + 60, "no job was lost"
    assert brought_up.ids() == before, "no container was made anew"


def test_what_would_not_be_back_forbids_it(spare: World) -> None:
    """A new kernel for which the driver's module was not built boots next."""
    boot = spare.lab.boot_id()
    install_faults.new_kernel(spare.lab, module=False)
    done = spare.invoke("reboot", "--yes")
    assert done.code == 2, done.seen
    assert "kernel 6.8.0-999-generic, which boots next, has no NVIDIA module" in done.out, done.seen
    assert "invoke prereqs --install --host lab" in done.out, done.seen
    assert spare.lab.boot_id() == boot
    with spare.unchanged():
        shown = spare.invoke("reboot", "--plan", "--json")
    assert shown.code == 2, shown.seen
    levels = {finding["id"]: finding["level"] for finding in shown.json["survival"]["findings"]}
    assert levels["reboot.module"] == "fail"
    assert shown.json["result"] == "blocked"
