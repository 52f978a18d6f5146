from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import layout
from pantheon.facts import ContainerMount, Entry, EnvValue, Facts, Mount, Tree, Unknown, digest
from pantheon.finding import Finding
from pantheon.fixes import comfy_ownership as fix
from pantheon.plan import SectionPlan
from tests.unit.world import HOST, NONCE, case, container, entry, finished, fresh, having, root, text_file

MNT = layout.comfy_mnt(HOST)
OUT = layout.comfy_outputs(HOST)
REFUSED = "!! ERROR: Directory /comfy/mnt owned by unexpected user/group, expected 1024:1024, actual 0:0"
DUBIOUS = "fatal: detected dubious ownership in repository at '/comfy/mnt/ComfyUI'"
FAILING: dict[str, Any] = {"state": "restarting", "health": "starting", "restarts": 7, "log_markers": (), "log": ()}
IMAGE = HOST.comfy.image


def at(facts: Facts, path: str = MNT, **changes: Any) -> Facts:
    found = facts.paths[path]
    assert isinstance(found, Entry)
    return replace(facts, paths={**facts.paths, path: replace(found, **changes)})


def on(fstype: str, options: str = "rw", *, facts: Facts | None = None, **changes: Any) -> Facts:
    mount = Mount("/mnt/local/nvme", "/dev/sdx1", fstype, options)
    return at(facts or finished(), mount=mount, **changes)


def inside(wrong: int, *, looked: int = 500, complete: bool = True, facts: Facts | None = None) -> Facts:
    facts = facts or finished()
    tree = Tree(MNT, looked, complete, wrong, (f"{MNT}/venv/lib (0:0)",) if wrong else ())
    return replace(facts, trees={**facts.trees, MNT: tree})


def comfy(facts: Facts | None = None, **changes: Any) -> Facts:
    return having(facts or finished(), comfy=container(HOST, "comfy", **changes))


def failing(*log: str, facts: Facts | None = None, **changes: Any) -> Facts:
    return comfy(facts, **{**FAILING, "log": log, "log_markers": log, **changes})


def bind(source: str, target: str, *, writable: bool = True, kind: str = "bind") -> ContainerMount:
    return ContainerMount(kind, source, target, writable, "data" if kind == "volume" else "")


def env(**values: str) -> dict[str, EnvValue]:
    made = container(HOST, "comfy").env
    return {**made, **{name: EnvValue(value, digest(NONCE, value), False) for name, value in values.items()}}


def ids(facts: Facts, **evidence: Any) -> list[str]:
    return [finding.id.partition(".")[2] for finding in fix.diagnose(case(facts, **evidence))]


def the(facts: Facts, **evidence: Any) -> Finding:
    (finding,) = fix.diagnose(case(facts, **evidence))
    return finding


def plan(facts: Facts) -> SectionPlan:
    return fix.plan(case(facts))


def steps(facts: Facts) -> list[str]:
    return [step.show() for change in plan(facts).changes for step in change.steps]


OTHERS = tuple(m for m in container(HOST, "comfy").mounts if m.target != "/comfy/mnt")
CAUSES: dict[str, tuple[Facts, list[str]]] = {
    "healthy": (finished(), []),
    "fresh": (fresh(), []),
    "the directory": (failing(REFUSED, facts=at(finished(), uid=0, gid=0)), ["owner"]),
    "its group only": (at(finished(), gid=0), ["owner"]),
    "inside": (inside(3), ["inside"]),
    "inside, and large": (inside(3, looked=20_000, complete=False), ["inside"]),
    "too large to be seen whole, and well": (inside(0, looked=20_000, complete=False), []),
    "both": (inside(3, facts=at(finished(), uid=0)), ["owner"]),
    "outputs": (at(finished(), OUT, uid=0), ["outputs-comfy-owner"]),
    "mode 555": (failing("!! ERROR: Directory /comfy/mnt not writeable", facts=at(finished(), mode=0o555)), ["mode"]),
    "mode 755": (at(finished(), mode=0o755), []),
    "mode of the venv": (
        at(
            replace(
                finished(),
                paths={**finished().paths, f"{MNT}/venv": entry(f"{MNT}/venv", uid=1024, gid=1024, mode=0o555)},
            ),
            mode=0o775,
        ),
        ["mode"],
    ),
    "a link": (at(finished(), kind="symlink", real="/srv/comfy", uid=0), ["link"]),
    "behind a link": (at(finished(), real="/srv/nvme/ai/services/comfy-mnt"), ["link"]),
    "read-only disk": (on("ext4", "ro,relatime"), ["read-only"]),
    "rootflags that only look so": (on("ext4", "rw,errors=remount-ro"), []),
    "exfat": (on("exfat", uid=0), ["file-system"]),
    "exfat that was given to it": (on("exfat"), []),
    "nfs": (on("nfs4", uid=65534, gid=65534), ["file-system"]),
    "sub-mounts": (failing(REFUSED, mounts=(bind(f"{MNT}/models", "/comfy/mnt/models"), *OTHERS)), ["sub-mounts"]),
    "no mount at all": (failing(mounts=OTHERS), ["sub-mounts"]),
    "mounted inside, failing": (
        failing(mounts=(bind(MNT, "/comfy/mnt"), bind("/srv/l", "/comfy/mnt/ComfyUI/models"), *OTHERS)),
        ["sub-mounts"],
    ),
    "mounted inside, well": (comfy(mounts=(bind(MNT, "/comfy/mnt"), bind("/srv/l", "/comfy/mnt/l"), *OTHERS)), []),
    "a neighbour's name": (comfy(mounts=(bind(MNT, "/comfy/mnt"), bind("/srv/l", "/comfy/mnt2/l"), *OTHERS)), []),
    "volume": (failing(REFUSED, mounts=(bind("/var/lib/docker/v", "/comfy/mnt", kind="volume"), *OTHERS)), ["volume"]),
    ":ro": (failing(mounts=(bind(MNT, "/comfy/mnt", writable=False), *OTHERS)), ["read-only-mount"]),
    "user": (failing(user="0:0"), ["user"]),
    "user by name, well": (comfy(user="comfy"), []),
    "WANTED_UID": (failing(env=env(WANTED_UID="1000")), ["wanted"]),
    "WANTED_GID": (failing(env=env(WANTED_GID="1000")), ["wanted"]),
    "mended, not started since": (failing(REFUSED), ["stopped"]),
    "deep beyond the look": (failing(DUBIOUS, facts=inside(0, looked=20_000, complete=False)), ["stopped"]),
    "another reason": (failing("!! ERROR: Failed to run nvidia-smi"), []),
    "a custom node that may not write": (
        failing("Cannot import /comfy/mnt/ComfyUI/custom_nodes/x: [Errno 13] Permission denied: '/comfy/mnt/x'"),
        [],
    ),
    "a model that may not be read": (failing("[Errno 13] Permission denied: '/models/checkpoints'"), []),
    "python may not write": (failing("[Errno 13] Permission denied: '/comfy/mnt/venv/x'"), ["stopped"]),
    "a first run under way": (comfy(state="running", health="starting", log=("== Cloning ComfyUI",)), []),
    "stopped by somebody": (comfy(state="exited", health=None, exit_code=137), []),
    "not shown by Docker": (failing(user="", mounts=(), unread="no answer"), []),
}


@pytest.mark.parametrize(("facts", "expected"), CAUSES.values(), ids=CAUSES)
def test_causes_are_told_apart(facts: Facts, expected: list[str]) -> None:
    assert ids(facts) == expected
    section = plan(facts)
    assert bool(section.changes or section.blocked) is bool(expected), section
    assert bool(section.reason) is not bool(expected)


@pytest.mark.parametrize("change", [{"is_mount": False, "mount": None}, {"kind": "file"}])
def test_a_disk_that_is_not_mounted_is_another_entrys(change: dict[str, Any]) -> None:
    facts = failing(REFUSED, facts=at(at(inside(5), uid=0, gid=0), HOST.storage.nvme, **change))
    assert ids(facts) == []
    facts = replace(facts, paths={**facts.paths, HOST.storage.nvme: Unknown("hangs")})
    assert ids(facts) == []


def test_a_host_without_mount_points_of_its_own() -> None:
    host = replace(HOST, storage=replace(HOST.storage, require_mounts=False))
    facts = at(at(finished(host), uid=0), HOST.storage.nvme, is_mount=False, mount=None)
    assert [finding.id for finding in fix.diagnose(case(facts, host=host))] == ["comfy-ownership.owner"]


def test_evidence_has_the_counts_and_says_when_it_is_not_all() -> None:
    finding = the(inside(3, looked=20_000, complete=False))
    assert "3 entries of 20000 in comfy-mnt" in finding.text
    assert "not all of it was looked at" in finding.text
    assert f"{MNT}/venv/lib (0:0)" in finding.evidence
    assert "not all" not in the(inside(1)).text
    assert "1 entry of 500" in the(inside(1)).text


def test_what_follows_from_it() -> None:
    finding = the(CAUSES["the directory"][0])
    assert {"comfy.*", "comfy-first-run.*", "storage.comfy-mnt"} <= set(finding.explains)
    assert REFUSED in finding.evidence
    assert finding.mend == "invoke fix.comfy-ownership --host prometheus"
    assert "comfy.*" not in the(inside(3)).explains  # it is well: what else is wrong with it has another cause


def test_what_ended_over_something_else_has_a_fault_besides() -> None:
    deep = inside(1)
    assert "comfy.*" in the(failing(DUBIOUS, facts=deep)).explains
    assert "comfy.*" in the(failing(facts=deep)).explains
    other = failing(
        "ERROR: No matching distribution found for torch", "!! ERROR: Torch installation failed", facts=deep
    )
    assert the(other).explains == ("storage.comfy-mnt",)
    checked = replace(other, paths={**other.paths, f"{MNT}/venv": entry(f"{MNT}/venv")})
    assert "comfy.*" in the(checked).explains  # the image looks at this one
    top = at(other, uid=0)
    assert "comfy.*" in the(top).explains
    assert the(at(failing("!! ERROR: Failed to run nvidia-smi"), OUT, uid=0)).explains == ("storage.outputs/comfy",)


def test_what_git_says_to_nobody() -> None:
    """Newer images throw away what git says; the tree may be too large to be seen whole, or not at all."""
    git = f"{MNT}/ComfyUI/.git"
    facts = failing("== Confirm the ComfyUI directory is present and we can write to it", "!! ERROR: subscript failed")
    facts = replace(facts, paths={**facts.paths, git: entry(git)})
    for tree in (Tree(MNT, 20_000, False, 0, ()), Unknown("no answer")):
        finding = the(replace(facts, trees={**facts.trees, MNT: tree}))
        assert finding.id == "comfy-ownership.inside"
        assert f"{git} (0:0)" in finding.evidence
        assert "comfy.*" in finding.explains
        assert any("everything in it" in text for text in steps(replace(facts, trees={**facts.trees, MNT: tree})))
    behind = replace(facts, paths={**facts.paths, git: replace(entry(git), real="/srv/ComfyUI/.git")})
    assert ids(behind) == []


def test_a_failing_one_is_stopped_mended_and_made_anew() -> None:
    facts = failing(REFUSED, facts=inside(3, facts=at(finished(), uid=0, gid=0)))
    section = plan(facts)
    shown = steps(facts)
    assert shown[0] == "docker stop comfy"
    assert shown[1].startswith(f"{MNT}: everything in it to 1024:1024, in one walk")
    assert "--force-recreate comfy" in shown[2]
    assert len(shown) == 3
    assert section.starts == ("comfy",)
    assert section.changes[0].stops == ("comfy",)


def test_one_that_is_well_goes_on() -> None:
    (change,) = plan(inside(3)).changes
    assert not change.stops
    assert not plan(inside(3)).starts


def test_the_walk_goes_where_the_look_did_not() -> None:
    facts = failing(DUBIOUS, facts=inside(0, looked=20_000, complete=False))
    assert sum("everything in it" in text for text in steps(facts)) == 1
    facts = replace(facts, trees={**facts.trees, MNT: Unknown("no answer")})
    assert sum("everything in it" in text for text in steps(facts)) == 1


def test_our_file_is_put_back() -> None:
    path = layout.compose_file(HOST)
    facts = failing(REFUSED, mounts=(bind("/srv", "/comfy/mnt/x"), *OTHERS))
    changed = replace(
        facts, files={**facts.files, path: text_file(path, "# Written by pantheon from hosts.toml.\n", 0o644)}
    )
    assert f"by {path}, which was changed by hand" in the(changed).evidence
    shown = steps(changed)
    assert shown[0] == "docker stop comfy"
    assert shown[1].startswith(f"write {path}")
    assert "--force-recreate comfy" in shown[2]


def test_an_override_is_named_and_left_alone() -> None:
    path = "/opt/stacks/ai/compose.override.yaml"
    labels = {
        **container(HOST, "comfy").labels,
        "com.docker.compose.project.config_files": f"{layout.compose_file(HOST)},{path}",
    }
    facts = failing(user="0:0", labels=labels)
    line = "- /srv/loras:/comfy/mnt/loras:ro"
    found = fix.diagnose(case(facts, overrides={path: (line,), "/x": None, "/y": Unknown("no")}))
    assert [finding.level for finding in found] == ["fail", "warn"]
    assert path in found[0].evidence
    assert line in found[1].mend
    assert not any(path in step for step in steps(facts))
    healthy = fix.diagnose(case(finished(), overrides={path: ("# /comfy/mnt itself",)}))
    assert healthy == []


@pytest.mark.parametrize(
    "broken",
    [
        {"mounts": (bind("/srv/a b", "/comfy/mnt/models"),)},
        {"mounts": (bind("/srv/c", "/comfy/mnt"),), "log": (REFUSED,)},
        {"mounts": (bind("/srv/c", "/comfy/mnt"),), "log": (REFUSED,), "health": None},
    ],
)
@pytest.mark.parametrize(("name", "image"), [("comfy", "whatever/else"), ("ai-comfyui-1", IMAGE)])
def test_one_that_is_not_ours_is_explained_and_left_alone(broken: dict[str, Any], name: str, image: str) -> None:
    facts = finished()
    labels = {"com.docker.compose.project.config_files": "/home/op/stack.yml"}
    theirs = replace(container(HOST, "comfy", labels=labels, **{**FAILING, **broken}), name=name, image=image)
    facts = having(facts, comfy=None, theirs=theirs)
    finding = the(facts)
    assert finding.id == "comfy-ownership.foreign"
    assert f"stack.foreign.{name}" in finding.explains
    assert "/home/op/stack.yml" in finding.mend
    section = plan(facts)
    assert section.blocked == (finding,)
    assert not section.changes


def test_one_that_is_not_ours_between_two_starts() -> None:
    """Docker has started it again already, and its log says nothing yet."""
    now = {"state": "running", "health": None, "restarts": 6, "log": ("=== Starting script",), "log_markers": ()}
    mounts = (bind("/var/lib/docker/volumes/data/_data", "/comfy/mnt", kind="volume"),)
    theirs = replace(container(HOST, "comfy", labels={}, mounts=mounts, **now), name="my-comfyui", image=IMAGE)
    facts = having(finished(), comfy=None, theirs=theirs)
    before = {"my-comfyui": ("=== Starting script", "== Testing write access", REFUSED), "comfy": (REFUSED,)}
    assert ids(facts, others_before=before) == ["foreign"]
    finding = the(facts, others_before=before)
    assert "docker run" in finding.mend
    assert f"one -v {MNT}:/comfy/mnt" in finding.mend
    assert ids(facts, others_before={"my-comfyui": Unknown("no answer")}) == []


def test_a_link_is_not_said_to_be_judged_by_its_own_owner() -> None:
    finding = the(at(finished(), kind="symlink", real="/srv/comfy", uid=0))
    assert "own owner" not in finding.text
    assert finding.mend.endswith("then invoke fix.comfy-ownership --host prometheus")


def test_modes_are_those_of_what_is_shut() -> None:
    finding = the(CAUSES["mode of the venv"][0])
    assert finding.text == "comfy-mnt/venv: the mode keeps the owner out"
    assert finding.evidence == f"mode 0555 of {MNT}/venv"


def test_what_of_a_large_tree_was_not_seen_is_walked_where_its_top_is_wrong() -> None:
    facts = failing(REFUSED, facts=inside(0, looked=20_000, complete=False, facts=at(finished(), uid=0, gid=0)))
    assert sum("everything in it" in text for text in steps(facts)) == 1


def test_one_that_is_not_ours_and_runs_is_left_alone() -> None:
    theirs = container(HOST, "comfy", labels={}, mounts=(bind("/srv/a", "/comfy/mnt/models"),))
    assert ids(having(finished(), comfy=theirs)) == []


@pytest.mark.parametrize("name", ["a link", "read-only disk", "exfat", "nfs"])
def test_what_only_a_human_can_mend(name: str) -> None:
    facts, _ = CAUSES[name]
    section = plan(failing(REFUSED, facts=facts))
    assert not section.changes
    assert "sudo" in section.blocked[0].mend or "server" in section.blocked[0].mend or "ext4" in section.blocked[0].mend


def test_containers_that_are_not_known() -> None:
    facts = replace(at(finished(), uid=0), containers=Unknown("Docker gave no answer"))
    assert ids(facts) == ["owner"]
    assert len(plan(facts).changes) == 1


def test_the_root_of_a_disk_is_one() -> None:
    assert root("/mnt/local/nvme").is_mount
