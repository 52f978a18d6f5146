# ruff: noqa: E501 - cases are tables
"""What a takeover does, and what forbids it: facts and figures in, sections out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import layout, procedure
from pantheon.belongings import Layer, Place, Volume
from pantheon.facts import Container, Facts, Port, TextFile, Unknown
from pantheon.plan import Change, Mend, Plan, Run, Write
from pantheon.takeover import record
from pantheon.takeover.plan import Taking
from tests.unit import world
from tests.unit.takeover.olds import (
    GIB,
    TARGETS,
    bind,
    comfy_source,
    hand_made,
    place,
    seen,
    taking,
    tmpfs,
    volume,
)
from tests.unit.world import HOST, entry, finished, fresh, having

MNT, OUT = TARGETS["comfy"], TARGETS["outputs"]
FILE = "/srv/ai/docker-compose.yml"


def comfy(**more: Any) -> Container:
    return hand_made("comfy", bind("/srv/run", "/comfy/mnt"), **more)


def ollama(**more: Any) -> Container:
    return hand_made("ollama", bind("/srv/ollama", "/root/.ollama"), **more)


def webui(**more: Any) -> Container:
    return hand_made("openwebui", volume("webui", "/app/backend/data"), **more)


HAD = (
    comfy_source("/srv/run"),
    place("/srv/run/ComfyUI/output", GIB),
    place("/srv/ollama", 8 * GIB),
    place("/var/lib/docker/volumes/webui/_data", GIB),
)


def changes(it: Taking) -> list[Change]:
    return [change for section in it.sections for change in section.changes]


def told(it: Taking) -> str:
    """Every command and Mend, in order."""
    return "\n".join(step.show() for change in changes(it) for step in change.steps)


def notes(it: Taking) -> str:
    return "\n".join(note for section in it.sections for note in section.notes)


def why_not(it: Taking) -> str:
    return " | ".join(f"{f.id}: {f.text} ({f.evidence}) → {f.mend}" for f in it.blocked)


def mends(it: Taking, name: str) -> list[dict[str, Any]]:
    steps = (step for change in changes(it) for step in change.steps)
    return [step.arguments for step in steps if isinstance(step, Mend) and step.name == name]


def whole(facts: Facts, it: Taking) -> Plan:
    return procedure.plan(HOST, facts, procedure.ORDER, taking=it)


def test_everything_in_order() -> None:
    facts = seen(comfy(compose=FILE), ollama(compose=FILE), webui(compose=FILE))
    it = taking(facts, *HAD, place(FILE, kind="file", reading="file 0:0 0644"))
    assert not it.blocked, why_not(it)
    text = told(it)
    order = ["install -d", "write /var/lib/pantheon/takeover.json", "begin to copy",
             f"rename {FILE} → {FILE}.before-pantheon", "docker update --restart=no", "open-webui-before-pantheon",
             "docker stop -t 120", "comfyui-before-pantheon", "my-ollama-before-pantheon", "copy, and compare",
             "login key"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places), text
    last = changes(it)[-1].steps[0]
    assert isinstance(last, Write)
    assert '"stage": "ready"' in last.text
    assert f"/srv/run → {MNT}: copied (20.0 GiB, 400.0 GiB free)" in notes(it)
    assert "down meanwhile: open-webui, comfyui, my-ollama" in notes(it)


def test_the_services_behind_it_are_planned_on_what_it_leaves() -> None:
    facts = seen(comfy(name="comfy"), ollama(name="ollama"), webui(name="openwebui", compose=FILE))
    it = taking(facts, *HAD)
    plan = whole(facts, it)
    assert not plan.blocked, plan.blocked
    text = "\n".join(step.show() for change in plan.changes for step in change.steps)
    assert "make a random key" not in text
    assert "first run" not in " ".join(change.what for change in plan.changes)
    for name in ("ollama", "openwebui", "comfy"):
        assert f"up -d --no-deps {'--wait --wait-timeout 300 ' if name == 'ollama' else ''}{name}" in text.replace(
            "--progress json ", ""
        )
    assert set(plan.stops) == {"comfy", "ollama", "openwebui"}


def test_guards_hold_step_by_step() -> None:
    """Each guard of a stop reads what the steps before it leave. The name goes first: whoever keeps it running by that
    name finds it no more."""
    facts = seen(comfy())
    it = taking(facts, *HAD)
    stop = next(change for change in changes(it) if change.what.startswith("stop and keep"))
    assert [step.argv[1] for step in stop.steps if isinstance(step, Run)] == ["update", "rename", "stop"]
    rename, end = stop.steps[1:]
    assert [(g.kind, g.target, g.reading) for g in rename.guards] == [
        ("container", "comfyui", comfy().id),
        ("container", "comfyui-before-pantheon", "missing"),
    ]
    assert [(g.kind, g.target, g.reading) for g in end.guards] == [("container", "comfyui-before-pantheon", comfy().id)]


def test_without_adopt_a_strangers_stack_is_nobodys_to_touch() -> None:
    facts = seen(comfy())
    plan = procedure.plan(HOST, facts, procedure.ORDER)
    assert "bringup --adopt" in plan.blocked[0].mend
    assert not taking(facts, adopt=False).record.containers


# ---- what forbids it

BLOCKED: dict[str, tuple[list[Container], tuple[Place, ...], dict[str, Any], str]] = {
    "no room": ([comfy()], (comfy_source("/srv/run", 500 * GIB),), {}, "500.0 GiB are needed and 400.0 GiB are free"),
    "a target that is not empty": ([comfy()], (*HAD, place(MNT, GIB, entries=("ComfyUI", "x"))), {},
                                   f"{MNT} is not empty, and nothing in it is replaced (ComfyUI, x)"),
    "--rm": ([comfy(auto_remove=True)], HAD, {}, "was started with --rm"),
    "swarm": ([comfy(labels={"com.docker.swarm.service.name": "x"})], HAD, {}, "is run by Docker Swarm"),
    "our project's name": ([comfy(compose=FILE, project=HOST.project)], HAD, {}, "a Compose project that has our name"),
    "not inspected": ([comfy(unread="no answer")], HAD, {}, "comfyui: not known (no answer)"),
    "two of one kind": ([comfy(), comfy(name="comfy-test", state="exited")], HAD, {}, "invoke bringup --adopt --take"),
    "a name that is none": ([comfy()], HAD, {"take": ("comfyy",)}, "there is no container comfyy"),
    "the other writes there, too": ([comfy(), comfy(name="comfy-2", ports=())], HAD, {"take": ("comfyui",)},
                                    "comfy-2 is to stay, and writes to /srv/run, too"),
    "the other holds our port": ([comfy(), hand_made("comfy", bind("/z", "/comfy/mnt"), name="comfy-2")], HAD,
                                 {"take": ("comfyui",)}, "comfy-2 is to stay, and holds port 8188"),
    "a source on the network": ([comfy()], (), {"places": {"/srv/run": Unknown("lies on the network mount /srv")}},
                                "lies on another machine, and is not copied from there (/srv/run: lies on the network mount /srv)"),
    "a target that cannot be read": ([comfy()], HAD, {"places": {MNT: Unknown("I/O error")}}, "I/O error"),
    "a database elsewhere": ([webui(env={"DATABASE_URL": "postgres://x"})], HAD, {}, "keeps its data elsewhere (DATABASE_URL)"),
    "an old name in the way": ([comfy(compose=FILE)], (*HAD, place(FILE, kind="file"), place(f"{FILE}.before-pantheon", kind="file")),
                               {}, ".before-pantheon is there already"),
    "a volume that is gone": ([webui()], HAD, {"volumes": {"webui": None}}, "volume webui: it is gone"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked_with_the_reason(name: str) -> None:
    containers, places, more, reason = BLOCKED[name]
    it = taking(seen(*containers), *places, **more)
    assert reason in why_not(it)
    assert not changes(it)


def test_the_mount_root_is_asked_about_first() -> None:
    facts = seen(comfy())
    facts = replace(facts, paths={**facts.paths, "/mnt/local/nvme": entry("/mnt/local/nvme")})
    it = taking(facts, *HAD)
    assert "is not a mount point" in " ".join(f.text for f in whole(facts, it).blocked)


def test_one_that_is_none_of_the_three_blocks_as_ever() -> None:
    proxy = hand_made("comfy", name="nginx", image="nginx:1", image_id="sha256:n", ports=(Port("80/tcp", "", 3000),))
    facts = seen(comfy(), proxy)
    it = taking(facts, *HAD)
    assert not it.blocked
    plan = whole(facts, it)
    assert [f.id for f in plan.blocked] == ["stack.foreign.nginx"]
    assert "--adopt" not in plan.blocked[0].mend


def test_ours_beside_theirs() -> None:
    it = taking(having(finished(), comfyui=comfy(ports=())), *HAD)
    assert "comfy is ours already" in why_not(it)


# ---- the ways of data


def test_used_in_place() -> None:
    facts = seen(hand_made("comfy", bind(MNT, "/comfy/mnt"), bind(OUT, "/outputs"), name="comfy",
                           env={"COMFY_CMDLINE_EXTRA": "--output-directory /outputs"}))  # fmt: skip
    mine = {"1024:1024": 9}
    it = taking(facts, comfy_source(MNT, owners=mine), place(OUT, GIB, owners=mine))
    assert not it.blocked, why_not(it)
    assert not mends(it, "copy_tree")
    assert not mends(it, "own_tree")
    assert f"{MNT}: used in place" in notes(it)


def test_owners_in_place_are_noted_changed_and_given_back() -> None:
    facts = seen(hand_made("comfy", bind(MNT, "/comfy/mnt")))
    it = taking(facts, comfy_source(MNT, owners={"1000:1000": 9, "0:0": 1}))
    (noted,), (given,) = mends(it, "keep_owners"), mends(it, "own_tree")
    assert noted["path"] == given["path"] == MNT
    assert given["uid"] == 1024
    assert it.record.owners == (record.Moved(MNT, noted["list"]),)
    text = told(it)
    assert text.index("note who owns what") < text.index("everything in it to 1024:1024")
    assert text.index("docker stop") < text.index("note who owns what")


def test_in_place_with_parts_elsewhere_sets_aside_what_was_not_shown() -> None:
    facts = seen(
        hand_made("comfy", bind(MNT, "/comfy/mnt"), bind("/b", "/basedir"), env={"BASE_DIRECTORY": "/basedir"})
    )
    shadowed = place(f"{MNT}/ComfyUI/user", 1000, entries=("default",))
    it = taking(facts, comfy_source(MNT), place("/b/user", 5000), place("/b/models", GIB), shadowed)
    assert not it.blocked, why_not(it)
    assert it.record.aside == (record.Moved(f"{MNT}/ComfyUI/user", f"{MNT}/ComfyUI/user.before-pantheon"),)
    assert {copy["target"] for copy in mends(it, "copy_tree")} == {f"{MNT}/ComfyUI/user", f"{MNT}/ComfyUI/models"}
    text = told(it)
    assert text.index("user.before-pantheon") < text.index("copy, and compare")


def test_parts_go_with_the_whole_in_one_copy() -> None:
    facts = seen(
        hand_made("comfy", bind("/run1", "/comfy/mnt"), bind("/b", "/basedir"), env={"BASE_DIRECTORY": "/basedir"})
    )
    it = taking(
        facts, comfy_source("/run1", GIB // 2), place("/b/user", 5000), place("/b/models", GIB), place("/b/output", 7)
    )
    copy = next(c for c in mends(it, "copy_tree") if c["target"] == MNT and c["mode"] == "final")
    assert [(part["source"], part["into"]) for part in copy["parts"]] == [
        ("/run1", ""), ("/b/user", "ComfyUI/user"), ("/b/models", "ComfyUI/models"),
    ]  # fmt: skip
    assert copy["owner"] == [1024, 1024]
    assert "ComfyUI/custom_nodes" in copy["parts"][0]["skip"]


def test_parts_of_a_comfyui_that_is_not_there_yet_would_keep_it_from_being_installed() -> None:
    facts = seen(
        hand_made("comfy", bind("/run1", "/comfy/mnt"), bind("/b", "/basedir"), env={"BASE_DIRECTORY": "/basedir"})
    )
    it = taking(facts, place("/run1", 10, entries=("HF",)), place("/b/models", GIB))
    assert "ComfyUI itself is not there yet" in notes(it)
    assert [c["target"] for c in mends(it, "copy_tree")] == [MNT]


def test_out_of_the_layer_after_it_has_stopped() -> None:
    it = taking(seen(hand_made("ollama")), layers={hand_made("ollama").id: Layer(3 * GIB, {"/root/.ollama": "dir"})})
    (copy,) = mends(it, "copy_tree")
    assert copy["mode"] == "final"
    assert copy["parts"][0]["container"] == hand_made("ollama").id
    assert "/root/.ollama in the container" in notes(it)
    assert "at most 3.0 GiB" in notes(it)


def test_nothing_there_is_nothing_to_copy() -> None:
    it = taking(seen(hand_made("ollama")), layers={hand_made("ollama").id: Layer(0, {})})
    assert not it.blocked
    assert not mends(it, "copy_tree")


def test_a_library_that_does_not_fit_stays_and_is_said_to() -> None:
    it = taking(seen(hand_made("comfy", bind("/srv/run", "/comfy/mnt"), bind("/lib", "/models", ro=True))), *HAD,
                place("/lib", 900 * GIB))  # fmt: skip
    assert not it.blocked, why_not(it)
    assert "/lib: stays where it is, and is not used: 900.0 GiB do not fit into the 400.0 GiB that are free" in notes(
        it
    )


def test_what_is_kept_in_memory_is_said_to_be() -> None:
    it = taking(seen(hand_made("ollama", tmpfs("/root/.ollama"))))
    assert "kept in memory" in notes(it)


def test_a_database_in_place_is_kept_before_a_newer_image_migrates_it() -> None:
    data = TARGETS["openwebui"]
    old = hand_made(
        "openwebui", bind(data, "/app/backend/data"), image="ghcr.io/open-webui/open-webui:v0.5.0", image_id="sha256:5"
    )
    facts = replace(seen(old), images=finished().images)
    it = taking(facts, place(data, GIB), place(f"{data}/webui.db", kind="file"))
    (kept,) = mends(it, "copy_files")
    assert kept["files"] == [{"from": f"{data}/webui.db", "to": f"{data}/webui.db.before-pantheon"}]
    assert "one way" in " ".join(f.evidence for f in it.warnings)


def test_large_copies_are_begun_while_the_old_ones_run() -> None:
    running = taking(seen(comfy()), *HAD)
    assert [c["mode"] for c in mends(running, "copy_tree") if c["target"] == MNT] == ["ahead", "final"]
    stopped = taking(seen(comfy(state="exited")), *HAD)
    assert [c["mode"] for c in mends(stopped, "copy_tree") if c["target"] == MNT] == ["final"]
    assert not any(change.stops for change in changes(stopped))


# ---- containers in other states


def test_a_stopped_one_is_kept_and_nothing_stops() -> None:
    it = taking(seen(comfy(state="exited", restart_policy="no")), *HAD)
    assert "docker stop" not in told(it)
    assert "docker update" not in told(it)
    assert "docker rename" in told(it)
    assert not it.record.containers[0].running


def test_a_paused_one_is_woken_to_be_stopped() -> None:
    text = told(taking(seen(comfy(state="paused")), *HAD))
    assert text.index("docker unpause") < text.index("docker stop")


def test_policies_are_noted_as_docker_takes_them() -> None:
    it = taking(
        seen(comfy(restart_policy="on-failure", restart_retries=3), ollama(restart_policy="unless-stopped")), *HAD
    )
    assert {kept.name: kept.policy for kept in it.record.containers} == {
        "comfyui": "on-failure:3",
        "my-ollama": "unless-stopped",
    }


def test_the_one_that_is_chosen_is_taken_and_the_other_left() -> None:
    other = hand_made("comfy", bind("/z", "/comfy/mnt"), name="comfy-test", state="exited")
    facts = seen(comfy(), other)
    it = taking(facts, *HAD, take=("comfyui",))
    assert not it.blocked, why_not(it)
    assert it.record.left == (other.id,)
    assert not whole(facts, it).blocked


def test_one_that_runs_is_named_before_one_that_has_ended() -> None:
    pull = hand_made("ollama", name="ai-pull-1", state="exited", ports=(), compose=FILE)
    it = taking(seen(pull, ollama(compose=FILE)), *HAD)
    assert "--take my-ollama" in why_not(it)
    it = taking(seen(pull, ollama(compose=FILE)), *HAD, place(FILE, kind="file"), take=("my-ollama",))
    assert not [f for f in it.warnings if "ai-pull-1" in f.text], "it does not run"


def test_the_other_one_may_be_chosen_after_an_undo() -> None:
    other = hand_made("comfy", bind("/z", "/comfy/mnt"), name="comfy-test", state="exited", ports=())
    facts = seen(comfy(), other)
    undone = cut(taking(facts, *HAD, take=("comfyui",)), facts, "undone")
    assert taking(undone, *HAD).record.containers[0].name == "comfyui"
    again = taking(
        replace(undone, containers=(replace(comfy(), state="exited"), other)), comfy_source("/z"), take=("comfy-test",)
    )
    assert not again.blocked, why_not(again)
    assert [kept.name for kept in again.record.containers] == ["comfy-test"]
    assert again.record.left == (comfy().id,)


def test_what_an_earlier_takeover_keeps_stays_known() -> None:
    kept = replace(comfy(), name="comfyui-before-pantheon", state="exited", restart_policy="no")
    first = taking(seen(comfy()), *HAD)
    for stage in ("ready", "undone"):
        it = replace(first.record, left=("x" * 64,)).at(stage)
        assert "x" * 64 in it.kept_ids()
    after = cut(first, having(finished(), comfyui_before_pantheon=kept), "ready")
    again = taking(having(after, ollama=ollama(name="ollama")), *HAD)
    assert not again.blocked, why_not(again)
    assert kept.id in again.record.left
    assert again.record.earlier == record.known(after), "it can be undone in its turn"


def test_an_earlier_one_that_is_undone_leaves_its_copies_and_nothing_to_undo() -> None:
    first = taking(seen(comfy()), *HAD)
    undone = cut(first, seen(comfy()), "undone")
    again = taking(having(undone, ollama=ollama(name="ollama"), comfyui=None), *HAD)
    assert again.record.earlier is None
    assert TARGETS["comfy"] in again.record.strays


@pytest.mark.parametrize(
    ("state", "restarts", "started", "noted"),
    [
        ("running", 0, "2026-11-22T04:59:50.5Z", "running"),
        ("running", 7, "2026-11-22T04:59:50.5Z", "restarting"),
        ("running", 7, "2026-11-20T04:59:50.5Z", "running"),
        ("running", 7, "", "running"),
        ("restarting", 1, "2026-11-22T04:59:50.5Z", "restarting"),
        ("paused", 0, "2026-11-22T04:59:50.5Z", "paused"),
        ("exited", 9, "2026-11-22T04:59:50.5Z", "exited"),
    ],
)
def test_how_it_ran_is_noted(state: str, restarts: int, started: str, noted: str) -> None:
    it = taking(seen(replace(comfy(), state=state, restarts=restarts, started_at=started)), *HAD)
    assert it.record.containers[0].state == noted


def test_a_plan_with_changes_gives_no_reason_why_there_are_none() -> None:
    section = next(section for section in taking(seen(comfy()), *HAD).sections if section.name == "takeover")
    assert section.changes
    assert not section.reason


def test_a_name_from_an_earlier_day_is_not_taken_twice() -> None:
    before = hand_made(
        "comfy", name="comfyui-before-pantheon", image="busybox", image_id="sha256:b", ports=(), state="exited"
    )
    it = taking(seen(comfy(), before), *HAD)
    assert it.record.containers[0].kept == "comfyui-before-pantheon-2"


# ---- the file, and the neighbours


def test_a_file_with_other_services_is_kept_too_and_says_how_they_are_managed() -> None:
    other = hand_made("comfy", name="notes", image="notes:1", image_id="sha256:n", ports=(), compose=FILE)
    it = taking(seen(comfy(compose=FILE), other), *HAD, place(FILE, kind="file"))
    assert it.record.files == (record.Moved(FILE, f"{FILE}.before-pantheon"),)
    (said,) = [f for f in it.warnings if f.id.startswith("takeover.shared")]
    assert "notes of the same Compose file keeps running" in said.text
    assert f"-f {FILE}.before-pantheon up -d --no-deps notes" in said.mend


def test_a_unit_that_starts_it_is_kept_under_another_name() -> None:
    unit = "/etc/systemd/system/ai.service"
    there = {unit: place(unit, kind="file"), f"{unit}.before-pantheon": place(f"{unit}.before-pantheon")}
    it = taking(seen(comfy()), *HAD, units=(unit,), places=there)
    assert not it.blocked, why_not(it)
    assert it.record.files == (record.Moved(unit, f"{unit}.before-pantheon"),)
    said = told(it)
    assert said.index(f"rename {unit} → ") < said.index("systemctl daemon-reload") < said.index("docker stop")
    assert "takeover.unit.ai.service" in [finding.id for finding in it.warnings]
    there[f"{unit}.before-pantheon"] = place(f"{unit}.before-pantheon", kind="file")
    assert "is there already, from an earlier day" in why_not(taking(seen(comfy()), *HAD, units=(unit,), places=there))


def test_a_watchtower_beside_it_is_told_of() -> None:
    tower = hand_made("comfy", name="tower", image="containrrr/watchtower:1.7", image_id="sha256:w", ports=())
    (said,) = [f for f in taking(seen(comfy(), tower), *HAD).warnings if f.id == "takeover.beside.tower"]
    assert "docker stop tower" in said.mend
    asleep = replace(tower, state="exited")
    assert not [f for f in taking(seen(comfy(), asleep), *HAD).warnings if f.id == "takeover.beside.tower"]


def test_the_others_are_managed_with_the_environment_that_they_had() -> None:
    labels = {
        "com.docker.compose.project.environment_file": "/srv/prod.env",
        "com.docker.compose.project.working_dir": "/srv/a b",
    }
    old = comfy(compose=FILE)
    old = replace(old, labels={**old.labels, **labels})
    other = hand_made("comfy", name="notes", image="notes:1", image_id="sha256:n", ports=(), compose=FILE)
    it = taking(seen(old, other), *HAD, place(FILE, kind="file"))
    (said,) = [f for f in it.warnings if f.id.startswith("takeover.shared")]
    assert f"--project-directory '/srv/a b' -f {FILE}.before-pantheon --env-file /srv/prod.env up -d" in said.mend
    assert it.record.containers[0].env == "/srv/prod.env"


def test_a_file_where_ours_goes_makes_room_whoever_uses_it() -> None:
    mine = layout.compose_file(HOST)
    facts = seen(comfy(compose=mine))
    facts = replace(facts, files={**facts.files, mine: TextFile(mine, "ab", 0, 0, 0o644, 9, "services:")})
    it = taking(facts, *HAD, place(mine, kind="file"))
    assert [m["moves"][0]["to"] for m in mends(it, "rename_path")] == [f"{mine}.before-pantheon"]
    plan = whole(facts, it)
    assert not plan.blocked, plan.blocked
    write = next(s for c in plan.changes for s in c.steps if isinstance(s, Write) and s.path == mine)
    assert [(g.kind, g.reading) for g in write.guards] == [("sha256", "missing")]


def test_a_file_that_compose_1_noted_is_found_in_its_directory() -> None:
    old = comfy(compose=FILE)
    folder, _, name = FILE.rpartition("/")
    labels = {"com.docker.compose.project.config_files": name, "com.docker.compose.project.working_dir": folder}
    it = taking(seen(replace(old, labels={**old.labels, **labels})), *HAD, place(FILE, kind="file"))
    assert it.record.files == (record.Moved(FILE, f"{FILE}.before-pantheon"),)
    assert it.record.containers[0].files == FILE


def test_others_of_several_files_are_managed_by_all_of_them() -> None:
    files = "/srv/a i/c.yml,/srv/a i/gpu.yml"
    other = hand_made("comfy", name="notes", image="notes:1", image_id="sha256:n", ports=(), compose=files)
    there = [place(path, kind="file") for path in files.split(",")]
    (said,) = [
        f
        for f in taking(seen(comfy(compose=files), other), *HAD, *there).warnings
        if f.id.startswith("takeover.shared")
    ]
    assert "-f '/srv/a i/c.yml.before-pantheon' -f '/srv/a i/gpu.yml.before-pantheon' up -d" in said.mend


def test_a_file_that_the_host_does_not_have_is_said_to_be_elsewhere() -> None:
    it = taking(seen(comfy(compose="/data/compose/3/docker-compose.yml")), *HAD)
    assert not it.record.files
    assert [f.text for f in it.warnings if "is not on the host" in f.text]


def test_several_files_are_all_kept() -> None:
    files = f"{FILE},/srv/ai/gpu.yml"
    it = taking(seen(comfy(compose=files)), *HAD, place(FILE, kind="file"), place("/srv/ai/gpu.yml", kind="file"))
    assert {moved.old for moved in it.record.files} == {FILE, "/srv/ai/gpu.yml"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"network_mode": f"container:{comfy().id}"}, "uses the network of comfyui"),
        (
            {"labels": {"com.docker.compose.depends_on": "comfyui:service_started:false"}, "compose": FILE},
            "depends on comfyui",
        ),
    ],
)
def test_who_needs_an_old_one_is_named(more: dict[str, Any], said: str) -> None:
    other = hand_made("comfy", name="vpn", image="vpn:1", image_id="sha256:v", ports=(), **more)
    it = taking(seen(comfy(compose=FILE), other), *HAD)
    assert said in " ".join(f.text for f in it.warnings)


def test_a_proxy_on_their_network_is_named() -> None:
    proxy = hand_made("comfy", name="nginx", image="nginx:1", image_id="sha256:n", networks=("ai_web",),
                      ports=(Port("80/tcp", "0.0.0.0", 80),))  # fmt: skip
    alone = replace(proxy, id="f" * 64, name="other", networks=("bridge",))
    it = taking(seen(comfy(networks=("ai_web",)), ollama(), proxy, alone), *HAD)
    (said,) = [f.text for f in it.warnings if f.id.startswith("takeover.needs")]
    assert said == "nginx keeps running, and finds comfyui on its network no more"


def test_an_ollama_inside_open_webui_is_taken_along_unless_there_is_another() -> None:
    both = (volume("w", "/app/backend/data"), volume("o", "/root/.ollama"))
    old = hand_made("openwebui", *both)
    source = "/var/lib/docker/volumes/o/_data"
    it = taking(seen(old), *HAD, place(source, 4 * GIB))
    assert source in told(it)
    assert "ollama" in it.settled
    assert not [f for f in it.warnings if "/root/.ollama" in f.evidence]
    it = taking(seen(old, ollama()), *HAD, place(source, 4 * GIB))
    assert source not in told(it)
    assert [f for f in it.warnings if "/root/.ollama" in f.evidence]


def test_settings_that_do_not_come_along_are_listed_and_secrets_are_not_shown() -> None:
    old = ollama(env={"OLLAMA_KEEP_ALIVE": "24h", "MY_API_KEY": "s3cret", "TZ": "Europe/Oslo"}, memory=1 << 30, privileged=True,
                 user="1000:1000", gpus="ids:1", settings=("shm_size 8192 MiB", "extra_hosts nas:10.0.0.2"),
                 ports=(Port("11434/tcp", "0.0.0.0", 8080),))  # fmt: skip
    (said,) = [f for f in taking(seen(old), *HAD).warnings if f.id == "takeover.settings.my-ollama"]
    for part in ("OLLAMA_KEEP_ALIVE=24h (becomes 5m)", "MY_API_KEY", "TZ=Europe/Oslo", "memory limit 1024 MiB", "privileged",
                 "port 8080 on 0.0.0.0", "user 1000:1000", "GPU 1", "shm_size 8192 MiB", "extra_hosts nas:10.0.0.2"):  # fmt: skip
        assert part in said.evidence
    assert "s3cret" not in said.evidence


def test_one_on_the_hosts_network_is_told_of_its_tunnel() -> None:
    old = ollama(network_mode="host", networks=("host",), ports=())
    (said,) = [f for f in taking(seen(old), *HAD).warnings if f.id == "takeover.settings.my-ollama"]
    assert said.evidence == "the host's network, on all its addresses (becomes 127.0.0.1:11434: use a tunnel)"


# ---- from the middle of it


def cut(it: Taking, facts: Facts, stage: str = "begun") -> Facts:
    """The host after the record was written."""
    text = it.record.at(stage).text()
    return replace(facts, files={**facts.files, layout.TAKEOVER: world.text_file(layout.TAKEOVER, text, 0o600)})


def test_nothing_else_starts_in_the_middle() -> None:
    facts = seen(comfy())
    half = cut(taking(facts, *HAD), facts)
    for names in (procedure.ORDER, ("ollama",), ("comfy",)):
        plan = procedure.plan(HOST, half, names)
        assert any("has not come to its end" in f.text and "--undo" in f.mend for f in plan.blocked)


def test_it_goes_on_where_it_stopped() -> None:
    facts = seen(comfy(compose=FILE), ollama(compose=FILE))
    first = taking(facts, *HAD, place(FILE, kind="file"))
    stopped = replace(comfy(compose=FILE), name="comfyui-before-pantheon", state="exited", restart_policy="no")
    half = cut(first, having(facts, comfyui=None, comfyui_before=stopped))
    again = taking(half, *HAD, place(f"{FILE}.before-pantheon", kind="file"))
    assert not again.blocked, why_not(again)
    assert again.record == first.record
    text = told(again)
    assert "docker rename" in text
    assert comfy().id not in text.replace("container:", "").split("docker rename")[0]
    assert not mends(again, "rename_path")
    assert {c["target"] for c in mends(again, "copy_tree")} == {c["target"] for c in mends(first, "copy_tree")}


def test_a_copy_that_is_complete_is_not_in_its_own_way() -> None:
    facts = seen(ollama())
    first = taking(facts, *HAD)
    done = place(TARGETS["ollama"], 8 * GIB)
    again = taking(cut(first, facts), *HAD, done, copied={TARGETS["ollama"]: ("/srv/ollama",)})
    assert not again.blocked, why_not(again)
    foreign = taking(facts, *HAD, done)
    assert "is not empty" in why_not(foreign)


def test_what_was_staged_counts_as_room() -> None:
    places = (comfy_source("/srv/run", 300 * GIB), place(MNT, disk="1", free=150 * GIB, staged_bytes=200 * GIB))
    it = taking(seen(comfy()), *places)
    assert not it.blocked, why_not(it)


def test_ready_is_an_ordinary_day() -> None:
    facts = seen(comfy())
    it = taking(facts, *HAD)
    kept = replace(comfy(), name="comfyui-before-pantheon", state="exited", restart_policy="no")
    after = cut(it, having(finished(), comfyui_before_pantheon=kept), "ready")
    assert procedure.plan(HOST, after, procedure.ORDER).is_empty
    assert not taking(after).record.containers


def test_after_an_undo_old_copies_make_room() -> None:
    facts = seen(ollama())
    undone = cut(taking(facts, *HAD), facts, "undone")
    target = TARGETS["ollama"]
    it = taking(undone, *HAD, place(target, 9 * GIB), copied={target: ("/srv/ollama",)})
    assert not it.blocked, why_not(it)
    assert it.record.aside == (record.Moved(target, f"{target}.before-pantheon"),)
    (room,) = [change for change in changes(it) if change.what.startswith("set ")]
    assert "install -d" in room.steps[1].show()


def test_the_tenth_takeover_finds_no_name_that_is_taken() -> None:
    facts = seen(ollama())
    undone = cut(taking(facts, *HAD), facts, "undone")
    target = TARGETS["ollama"]
    names = [f"{target}.before-pantheon", *(f"{target}.before-pantheon-{n}" for n in range(2, 10))]
    for taken in range(len(names) + 1):
        there = [place(name, GIB) for name in names[:taken]]
        it = taking(undone, *HAD, place(target, GIB), *there, copied={target: ("/srv/ollama",)})
        if taken < len(names):
            assert it.record.aside == (record.Moved(target, names[taken]),)
        else:
            assert "no name is left" in why_not(it)


def test_what_makes_room_is_not_mended_first() -> None:
    """Its mode is of no interest any more, and changing it would belie the plan."""
    facts = seen(ollama())
    undone = cut(taking(facts, *HAD), facts, "undone")
    target = TARGETS["ollama"]
    undone = replace(undone, paths={**undone.paths, target: entry(target, mode=0o777)})
    it = taking(undone, *HAD, place(target, 9 * GIB), copied={target: ("/srv/ollama",)})
    assert "chmod" not in told(it)


def test_a_record_that_cannot_be_read_stops_everything() -> None:
    facts = finished()
    for text in ("", "{", "[]", '{"schema": 9}', '{"schema": 1, "kind": "adopt", "stage": "ready", "containers": [3]}'):
        file = world.text_file(layout.TAKEOVER, text, 0o600)
        plan = procedure.plan(HOST, replace(facts, files={**facts.files, layout.TAKEOVER: file}), procedure.ORDER)
        assert [f.id for f in plan.blocked] == ["takeover.record"]


def test_no_secret_is_in_the_record() -> None:
    it = taking(seen(webui(env={"WEBUI_SECRET_KEY": "hush hush"}), comfy(env={"MY_TOKEN": "hush hush"})), *HAD)
    assert "hush" not in it.record.text()
    assert "hush" not in told(it) + notes(it)


def test_hostile_names_stay_arguments() -> None:
    path = "/srv/a b; rm -rf ~ 'ü\"$(x)"
    it = taking(seen(hand_made("ollama", bind(path, "/root/.ollama"))), place(path, GIB))
    assert mends(it, "copy_tree")[0]["parts"][0]["source"] == path
    assert record.read(cut(it, fresh())) == it.record


def test_a_volume_of_a_driver_is_copied_through_the_engine() -> None:
    it = taking(seen(webui()), volumes={"webui": Volume("/x", plain=False)})
    (copy,) = mends(it, "copy_tree")
    assert copy["parts"][0] == {
        "source": "/app/backend/data", "container": webui().id, "into": "", "skip": [], "optional": False,
    }  # fmt: skip


def test_ours_are_left_alone() -> None:
    assert not taking(finished()).record.containers


# ---- images and mounts of all sorts


def test_the_comfyui_of_another_author_with_what_comes_along_and_what_does_not() -> None:
    mounts = (
        bind("/s/models", "/opt/ComfyUI/models"),
        bind("/s/nodes", "/opt/ComfyUI/custom_nodes"),
        bind("/c", "/cache"),
    )
    other = hand_made("comfy", *mounts, image="somebody/comfyui:2", image_id="sha256:x")
    layer = Layer(0, {"/opt/ComfyUI/output": "dir"})
    it = taking(seen(other), place("/s/models", GIB), place("/s/nodes", GIB), layers={other.id: layer})
    assert not it.blocked, why_not(it)
    said = "\n".join(line for section in it.sections for line in section.notes)
    assert f"/s/models → {TARGETS['models']}: copied" in said
    assert f"→ {TARGETS['outputs']}: copied" in said
    assert "/s/nodes: stays where it is, and is not used: ComfyUI itself is not there yet" in said
    (unknown,) = [finding for finding in it.warnings if finding.id == "takeover.unknown.comfyui"]
    assert "what it has in /cache does not come along" in unknown.text


def test_a_mount_around_the_data_is_told_of() -> None:
    around = hand_made("openwebui", bind("/srv/app", "/app"), bind("/srv/data", "/app/backend/data"))
    (said,) = [f for f in taking(seen(around), place("/srv/data", 9)).warnings if f.id.startswith("takeover.settings")]
    assert said.evidence.startswith("mount /srv/app on /app; ")


def test_a_database_that_is_mounted_by_itself() -> None:
    file = bind("/srv/webui.db", "/app/backend/data/webui.db")
    it = taking(seen(hand_made("openwebui", file)), place("/srv/webui.db", 100, kind="file"))
    assert "would start on an empty database" in why_not(it)
