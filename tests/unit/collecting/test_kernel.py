"""The kernel's words, from real texts: who was killed and whose cgroup it was, and in bounded memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pantheon.collecting import kernel
from pantheon.looks import work
from pantheon.looks.text import Unread
from pantheon.symptoms import CLUES

ID = "0e05ccbc67febac58744348b48d9c0f3f51ee479692d7336395e332ad4d481c0"
OUTER = "b" * 64
MEMCG = (
    "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    (
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={ID},mems_allowed=0,oom_memcg=/docker/{OUTER}/docker/"
        f"{ID},task_memcg=/docker/{OUTER}/docker/{ID},task=python3,pid=25755,uid=1024"
    ),
    (
        "Memory cgroup out of memory: Killed process 25755 (python3) total-vm:170432kB, anon-rss:10496kB, "
        "file-rss:7544kB, shmem-rss:0kB, UID:1024 pgtables:96kB oom_score_adj:0"
    ),
)
SYSTEMD = (
    (
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=docker-{ID}.scope,mems_allowed=0,"
        f"oom_memcg=/system.slice/docker-{ID}.scope,task_memcg=/system.slice/docker-{ID}.scope,task=ollama,pid=9,uid=0"
    ),
    "Memory cgroup out of memory: Killed process 9 (ollama) total-vm:1kB, anon-rss:2097152kB, file-rss:0kB",
)
WHOLE = (
    (
        f"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/docker/{ID},"
        "task=python3,pid=77,uid=1024"
    ),
    (
        "Out of memory: Killed process 77 (python3) total-vm:51234567kB, anon-rss:30720000kB, file-rss:1024kB,"
        " shmem-rss:0kB, UID:1024 pgtables:61234kB oom_score_adj:0"
    ),
    "oom_reaper: reaped process 77 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
)
OLD = ("Out of memory: Kill process 1234 (a (b) c) score 900 or sacrifice child",)
SESSION = (
    (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        "task_memcg=/user.slice/user-1000.slice/session-3.scope,task=chrome,pid=8,uid=1000"
    ),
    "Out of memory: Killed process 8 (chrome) total-vm:1kB, anon-rss:1048576kB, file-rss:0kB, shmem-rss:0kB",
)


def told(*lines: str) -> list[dict[str, Any]]:
    found = kernel.kills([(0.0, line) for line in lines])
    return [{key: one[key] for key in ("process", "pid", "rss_mib", "container", "limit")} for one in found]


@pytest.mark.parametrize(
    ("lines", "kill"),
    [
        (MEMCG, {"process": "python3", "pid": 25755, "rss_mib": 17, "container": ID, "limit": True}),
        (SYSTEMD, {"process": "ollama", "pid": 9, "rss_mib": 2048, "container": ID, "limit": True}),
        (WHOLE, {"process": "python3", "pid": 77, "rss_mib": 30001, "container": ID, "limit": False}),
        (OLD, {"process": "a (b) c", "pid": 1234, "rss_mib": 0, "container": "", "limit": False}),
        (SESSION, {"process": "chrome", "pid": 8, "rss_mib": 1024, "container": "", "limit": False}),
    ],
    ids=["cgroupfs", "systemd", "whole", "old", "session"],
)
def test_one_kill(lines: tuple[str, ...], kill: dict[str, Any]) -> None:
    assert told(*lines) == [kill]


def test_near_misses() -> None:
    assert (
        told("oom_reaper: reaped process 77 (python3)", "systemd-oomd: nothing", "Killed process", "out of memory")
        == []
    )


def test_two_kills_keep_their_own_groups() -> None:
    found = told(MEMCG[1], SESSION[0], MEMCG[2], SESSION[1])
    assert [one["container"] for one in found] == [ID, ""]


# ---- where it is read


def record(text: str, at: float = 1.0) -> str:
    return f"6,1234,{int(at * 1e6)},-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n"


def ring(root: Path, *lines: str) -> str:
    (root / "dev").mkdir()
    (root / "dev/kmsg").write_text("".join(record(line) for line in lines))
    return str(root)


def spec() -> dict[str, Any]:
    return {"clues": [{"text": clue.text, "where": list(clue.where), "pattern": clue.pattern} for clue in CLUES]}


def test_lines_that_match_a_clue_of_the_kernel(tmp_path: Path) -> None:
    xid = "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus."
    root = ring(
        tmp_path, "usb 1-1: new device", xid, "\x1b[31mNVRM: Xid (PCI:0000:01:00): 48, \x07x", "CUDA out of memory"
    )
    first, second = kernel.log(spec(), root)
    assert first.endswith(f"Z {xid}")
    assert "\x1b" not in second
    assert "\x07" not in second


def test_both_parts_read_once(tmp_path: Path) -> None:
    root, asked = ring(tmp_path, *MEMCG), spec()
    assert kernel.killed(asked, root)[0]["container"] == ID[:12]  # no engine there to name it
    (tmp_path / "dev/kmsg").unlink()
    assert len(kernel.log(asked, root)) == 3


def test_no_log_is_not_no_kill(tmp_path: Path) -> None:
    with pytest.raises(Unread, match="No such file"):
        kernel.log(spec(), str(tmp_path))
    with pytest.raises(Unread, match="No such file"):
        kernel.killed(spec(), str(tmp_path))
    root = ring(tmp_path)
    with pytest.raises(Unread, match="empty"):
        kernel.log(spec(), root)


def test_what_the_engine_heard_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    events = [{"Action": "oom", "Actor": {"ID": ID}, "time": now - 60}, {"Actor": {"ID": "f" * 64}, "time": now - 5}]

    class Engine:
        def __init__(self, root: str) -> None:
            assert root == str(tmp_path)

        def ask(self, method: str, path: str, **_: Any) -> bytes:
            assert method == "GET"
            assert path.startswith("/events?since=")
            return "\n".join(map(json.dumps, events)).encode()

        def get(self, path: str, end: float) -> Any:
            return [{"Id": ID, "Names": ["/comfy"]}]

    monkeypatch.setattr(kernel, "Engine", Engine)
    first, second = kernel.killed(spec(), str(tmp_path))
    assert (first["container"], first["pid"], first["limit"]) == ("comfy", 0, True)
    assert 55 <= first["ago_s"] <= 65
    assert second["container"] == "f" * 12


def test_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        f"2026-11-21T10:00:05+0000 kernel: {MEMCG[2]}\n2026-11-21T10:00:04+00:00 kernel: {MEMCG[1]}\n"
        "a line without a time\n2026-11-21T10:00:00Z no\n-- Boot 0 --\n"
    )
    argvs: list[list[str]] = []

    def command(argv: list[str], deadline_s: float, limit: int) -> dict[str, Any]:
        argvs.append(argv)
        return {"status": 0, "output": text}

    monkeypatch.setattr(work, "command", command)
    monkeypatch.setattr(kernel, "which", lambda name: f"/usr/bin/{name}")
    found = kernel.kills(kernel._read(""))
    assert [(one["when"], one["container"]) for one in found] == [("2026-11-21T10:00:05Z", ID)]
    assert argvs[0][:3] == ["journalctl", "-k", "-b"]
    assert "-n" in argvs[0]


def test_a_huge_log_in_bounded_memory_and_time(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    with (tmp_path / "dev/kmsg").open("w") as file:
        piece = record("x" * 400) * 100 + record(MEMCG[1]) + record(MEMCG[2])
        for _ in range(600):
            file.write(piece)
    tracemalloc.start()
    began = time.monotonic()
    found = kernel.killed(spec(), str(tmp_path))
    assert time.monotonic() - began < 8
    assert len(found) == kernel.KEPT_KILLS
    assert tracemalloc.get_traced_memory()[1] < 80 << 20
    tracemalloc.stop()


# ---- memory


def test_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc/meminfo"
    file.write_text("MemTotal: 2048 kB\nMemAvailable:    1024 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nHuge: 0\n")
    assert kernel.memory({}, str(tmp_path)) == {
        "total_mib": 2, "available_mib": 1, "swap_total_mib": 0, "swap_free_mib": 0,
    }  # fmt: skip
    file.write_text("MemTotal: 2048 kB\n")
    with pytest.raises(Unread, match="MemAvailable"):
        kernel.memory({}, str(tmp_path))
    file.unlink()
    with pytest.raises(Unread, match="cannot be read"):
        kernel.memory({}, str(tmp_path))
