"""The way back, from the end of a takeover and from the middle of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pantheon import layout, stack
from pantheon.belongings import Belongings, Place
from pantheon.facts import Container, Facts, TextFile
from pantheon.inventory import Storage
from pantheon.plan import Mend, Run, SectionPlan, Write
from pantheon.takeover import kept, record, undo
from pantheon.takeover.record import Kept, Moved, Record
from tests.unit import world
from tests.unit.takeover.olds import TARGETS, bind, hand_made, place, seen
from tests.unit.world import HOST, finished, having

FILE = "/srv/ai/docker-compose.yml"
UNNAMED = f"/var/lib/docker/volumes/{64 * 'd'}/_data"
OLD = hand_made("comfy", bind("/srv/run", "/comfy/mnt"), compose=FILE)
KEPT = replace(OLD, name="comfyui-before-pantheon", state="exited", restart_policy="no")


def noted(**more: Any) -> Record:
    kept = Kept(
        OLD.id,
        "comfyui",
        KEPT.name,
        "comfy",
        True,
        "on-failure:3",
        OLD.image,
        OLD.image_id,
        "home",
        "comfyui",
        "/srv/ai",
        FILE,
    )
    given: dict[str, Any] = {
        "kind": "adopt",
        "stage": "ready",
        "when": "yesterday",
        "containers": (kept,),
        "files": (Moved(FILE, f"{FILE}.before-pantheon"),),
        "data": (record.Place("comfy", "/srv/run", TARGETS["comfy"], "copied"),),
    }
    return Record(**{**given, **more})


def there(it: Record, *containers: Container, facts: Facts | None = None) -> Facts:
    facts = having(facts or finished(), **{c.name.replace("-", "_"): c for c in containers})
    file = world.text_file(layout.TAKEOVER, it.text(), 0o600)
    return replace(facts, files={**facts.files, layout.TAKEOVER: file})


def answer(it: Record, *places: Place) -> Belongings:
    given = {one.path: one for one in places}
    asked: Any = undo.ask(it)["paths"]
    return Belongings(places={path: given.get(path) or place(path) for path in asked})


def text(section: SectionPlan) -> str:
    assert not section.blocked, section.blocked
    return "\n".join(step.show() for change in section.changes for step in change.steps)


HERE = place(f"{FILE}.before-pantheon", kind="file")


def test_everything_as_it_was_in_order() -> None:
    it = noted()
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, HERE))
    ours = world.container(HOST, "comfy").id
    said = text(section)
    order = ["write /var/lib/pantheon/takeover.json", f"docker stop -t 10 {ours}", f"docker rm -f {ours}",
             f"rename {FILE}.before-pantheon → {FILE}", f"docker rename {OLD.id} comfyui",
             f"docker update --restart=on-failure:3 {OLD.id}", f"docker start {OLD.id}"]  # fmt: skip
    places = [said.index(part) for part in order]
    assert places == sorted(places), said
    assert world.container(HOST, "ollama").id not in said, "what was ours from the beginning stays"
    assert f"{TARGETS['comfy']}: the copy stays, with what was written since" in section.notes
    assert undo.started(it) == ("comfyui",)


def test_from_the_middle_only_what_was_done_is_undone() -> None:
    it = noted(stage="begun")
    section = undo.plan(HOST, there(it, facts=seen(OLD)), it, answer(it))
    said = text(section)
    assert "docker start" not in said
    assert "docker rename" not in said
    assert "rename_path" not in said
    stopped = replace(OLD, state="exited", restart_policy="no")
    said = text(undo.plan(HOST, there(it, facts=seen(stopped)), it, answer(it)))
    assert f"docker start {OLD.id}" in said
    assert "docker rename" not in said


def test_cut_short_it_goes_on() -> None:
    it = noted(stage="undoing")
    facts = having(there(it, replace(OLD, state="exited")), comfy=None)
    said = text(undo.plan(HOST, facts, it, answer(it)))
    assert said.splitlines()[0].startswith("docker update")
    assert "docker start" in said


def test_nothing_to_undo() -> None:
    assert undo.plan(HOST, finished(), None, Belongings()).is_ready
    it = noted(stage="undone")
    assert undo.plan(HOST, there(it, OLD), it, answer(it)).is_ready


def test_pruned_containers_are_made_again_by_their_file() -> None:
    it = noted()
    section = undo.plan(HOST, there(it), it, answer(it, HERE))
    assert f"docker compose -p home -f {FILE} up -d --no-deps comfyui" in text(section)
    elsewhere = replace(it, containers=(replace(it.containers[0], folder="/srv", env="/srv/prod.env"),))
    said = text(undo.plan(HOST, there(elsewhere), elsewhere, answer(elsewhere, HERE)))
    assert f"docker compose -p home --project-directory /srv -f {FILE} --env-file /srv/prod.env up -d" in said
    assert "comfyui is made again, on the data that it had" in section.notes
    for source, also in (("container:abc:/comfy/mnt", ""), (UNNAMED, f", and may be in {UNNAMED}")):
        it = noted(data=(record.Place("comfy", source, TARGETS["comfy"], "copied"),))
        said = " ".join(undo.plan(HOST, there(it), it, answer(it, HERE)).notes)
        assert f"comfyui is made again, and starts without what it had: that is in {TARGETS['comfy']}{also}" in said


def test_pruned_ones_of_a_file_that_kept_its_name_too() -> None:
    it = noted(files=())
    assert FILE in undo.ask(it)["paths"]  # type: ignore[operator]
    section = undo.plan(HOST, there(it), it, answer(it, place(FILE, kind="file")))
    assert "up -d --no-deps comfyui" in text(section)


def test_pruned_ones_of_docker_run_cannot() -> None:
    it = noted(files=())
    it = replace(it, containers=(replace(it.containers[0], files="", project="", label=""),))
    section = undo.plan(HOST, there(it), it, answer(it))
    assert "has been removed" in section.blocked[0].text
    assert not section.changes


def test_pruned_ones_of_files_of_which_one_is_gone_cannot() -> None:
    it = noted(files=())
    it = replace(it, containers=(replace(it.containers[0], files=f"{FILE},/srv/ai/more.yml"),))
    section = undo.plan(HOST, there(it), it, answer(it, place(FILE, kind="file")))
    assert "has been removed" in section.blocked[0].text


def test_one_that_did_not_run_is_not_started() -> None:
    it = noted()
    it = replace(it, containers=(replace(it.containers[0], running=False),))
    said = text(undo.plan(HOST, there(it, KEPT), it, answer(it, HERE)))
    assert f"docker rename {OLD.id} comfyui" in said
    assert "docker start" not in said


def test_an_old_one_that_is_ours_is_not_taken_for_the_new_one() -> None:
    """Moved from one project to another, and hosts.toml says the former again."""
    labels = {stack.OURS: HOST.project, "pantheon.service": "comfy", "com.docker.compose.project": HOST.project}
    it = noted(kind="move", files=())
    said = text(undo.plan(HOST, there(it, replace(KEPT, labels=labels)), it, answer(it)))
    assert f"docker rm -f {OLD.id}" not in said
    assert f"docker rename {OLD.id} comfyui" in said


def test_a_name_that_somebody_else_has_by_now() -> None:
    it = noted()
    other = hand_made("ollama", name="comfyui", ports=())
    section = undo.plan(HOST, there(it, KEPT, replace(other, id="f" * 64)), it, answer(it, HERE))
    assert [finding.id for finding in section.blocked] == ["undo.comfyui"]


def test_owners_are_given_back() -> None:
    data = (record.Place("comfy", TARGETS["comfy"], TARGETS["comfy"], "in place"),)
    it = noted(owners=(Moved(TARGETS["comfy"], "/var/lib/pantheon/owners/x.gz"),), data=data)
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, HERE))
    mends = [step for change in section.changes for step in change.steps if isinstance(step, Mend)]
    assert [mend.arguments for mend in mends if mend.name == "give_owners"] == [
        {"path": TARGETS["comfy"], "list": "/var/lib/pantheon/owners/x.gz", "uid": 1024, "gid": 1024}
    ]


def test_a_migrated_database_makes_room_for_the_one_that_was_kept() -> None:
    db = f"{TARGETS['openwebui']}/webui.db"
    kept = Kept(
        "w" * 64, "open-webui", "open-webui-before-pantheon", "openwebui", True, "always", "webui:old", "sha256:old"
    )
    it = noted(containers=(kept,), files=(), databases=(Moved(db, f"{db}.before-pantheon"),))
    old = hand_made("openwebui", id="w" * 64, name=kept.kept, state="exited", restart_policy="no")
    places = (place(db, kind="file"), place(f"{db}.before-pantheon", kind="file"))
    said = text(undo.plan(HOST, there(it, old), it, answer(it, *places)))
    assert said.index(f"rename {db} → {db}.of-pantheon") < said.index(f"rename {db}.before-pantheon → {db}")
    begun = replace(it, stage="begun")
    assert "of-pantheon" not in text(undo.plan(HOST, there(begun, old), begun, answer(begun, *places)))
    same = replace(it, containers=(replace(kept, image_id="sha256:openwebui"),))
    assert "of-pantheon" not in text(undo.plan(HOST, there(same, old), same, answer(same, *places)))


def test_our_file_beside_the_old_one_would_be_taken_first() -> None:
    old = f"{HOST.stack_dir}/docker-compose.yml"
    it = noted(files=(Moved(old, f"{old}.before-pantheon"),))
    facts = there(it, KEPT)
    mine = layout.compose_file(HOST)
    file = facts.files[mine]
    assert isinstance(file, TextFile)
    said = text(undo.plan(HOST, facts, it, answer(it, place(f"{old}.before-pantheon", kind="file"))))
    assert said.index(f"mv -f -T -- {mine} {mine}.of-pantheon") < said.index(f"→ {old}")
    assert stack.HEADER in (file.text or "")


def test_a_file_that_somebody_has_put_there_is_not_replaced_half_way() -> None:
    it = noted()
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, HERE, place(FILE, kind="file")))
    assert [finding.id for finding in section.blocked] == [f"undo.{FILE}"]
    assert not section.changes
    begun = noted(stage="begun")
    assert undo.plan(HOST, there(begun, KEPT), begun, answer(begun, place(FILE, kind="file"))).changes


def test_a_unit_that_started_it_has_its_name_back() -> None:
    unit = "/etc/systemd/system/ai.service"
    it = noted(files=(Moved(unit, f"{unit}.before-pantheon"),))
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, place(f"{unit}.before-pantheon", kind="file")))
    said = text(section)
    assert said.index(f"→ {unit}") < said.index("systemctl daemon-reload") < said.index("docker start")
    assert any(line.startswith("ai.service: as it was") for line in section.notes)


def test_a_paused_one_is_paused_again() -> None:
    it = noted()
    it = replace(it, containers=(replace(it.containers[0], state="paused"),))
    said = text(undo.plan(HOST, there(it, KEPT), it, answer(it, HERE)))
    assert said.index(f"docker start {OLD.id}") < said.index(f"docker pause {OLD.id}")


# ---- one after the other


MOVED = Kept("b" * 64, "comfy", "comfy-before-pantheon", "comfy", True, "unless-stopped", project=HOST.project)
MOVE = noted(kind="move", files=(), containers=(MOVED,), left=(OLD.id,), strays=("/srv/stray",), earlier=noted(),
             data=(record.Place("comfy", TARGETS["comfy"], "/srv/fast/comfy", "copied"),))  # fmt: skip


def test_a_record_keeps_the_one_before_it() -> None:
    assert record.known(there(MOVE)) == MOVE
    for wrong in ('{"kind": "x"}', "3", '{"stage": "ready", "kind": "adopt", "files": 3}'):
        broken = '{"schema": 1, "kind": "move", "stage": "ready", "earlier": ' + wrong + "}"
        facts = there(MOVE)
        file = world.text_file(layout.TAKEOVER, broken, 0o600)
        assert record.known(replace(facts, files={**facts.files, layout.TAKEOVER: file})) is None


def test_undone_it_gives_way_to_the_one_before() -> None:
    was = replace(KEPT, id=MOVED.id, name=MOVED.kept)
    section = undo.plan(HOST, there(MOVE, KEPT, was), MOVE, answer(MOVE))
    last = section.changes[-1].steps[-1]
    assert isinstance(last, Write)
    facts = there(MOVE)
    file = world.text_file(layout.TAKEOVER, last.text, 0o600)
    after = record.known(replace(facts, files={**facts.files, layout.TAKEOVER: file}))
    assert after == replace(noted(), strays=("/srv/stray", "/srv/fast/comfy"))
    assert after is not None
    assert after.kept_ids() == {OLD.id}
    assert after.copies_left == ("/srv/stray", "/srv/fast/comfy")
    assert any("--undo once more" in line for line in section.notes)
    (copies, earlier) = kept.after_undo(HOST, there(MOVE, KEPT), MOVE)
    assert copies.id == "takeover.copies"
    assert earlier.text == "the takeover of yesterday can be undone, too"
    assert KEPT.name in earlier.evidence
    assert "invoke bringup --undo" in earlier.mend


def test_what_the_one_before_keeps_is_named_too() -> None:
    was = replace(KEPT, id=MOVED.id, name=MOVED.kept)
    said = kept.after(HOST, there(MOVE, KEPT, was), MOVE)
    assert said[0].text.endswith(f": {MOVED.kept}, {KEPT.name}")
    assert said[-1].text.endswith(f": {TARGETS['comfy']}, /srv/run")


def test_ours_make_room_by_whatever_name_hosts_toml_has_now() -> None:
    """The move is undone, and hosts.toml still names the new project and the new place."""
    host = replace(HOST, project="house", stack_dir="/srv/stacks/house")
    file = f"{HOST.stack_dir}/docker-compose.yml"
    mine = layout.compose_file(HOST)
    it = noted(files=(Moved(file, f"{file}.before-pantheon"),))
    facts = there(it, KEPT)
    ours = world.container(HOST, "comfy")
    ours = replace(ours, labels={**ours.labels, "com.docker.compose.project.config_files": mine})
    facts = having(facts, comfy=ours)
    where = (place(f"{file}.before-pantheon", kind="file"), place(mine, kind="file"))
    section = undo.plan(host, facts, it, answer(it, *where))
    said = text(section)
    assert f"docker rm -f {ours.id}" in said
    assert said.index(f"mv -f -T -- {mine} {mine}.of-pantheon") < said.index(f"→ {file}")
    assert world.container(HOST, "ollama").id not in said


def test_what_an_earlier_one_keeps_is_none_of_ours() -> None:
    """Moved twice: the containers of the first move carry our label, and stay."""
    labels = {stack.OURS: "first", "pantheon.service": "comfy"}
    first = replace(KEPT, id="c" * 64, name="comfy-before-pantheon-2", labels=labels)
    second = replace(KEPT, id=MOVED.id, name=MOVED.kept, labels={**labels, stack.OURS: "second"})
    it = replace(MOVE, left=(first.id,))
    said = text(undo.plan(HOST, there(it, first, second), it, answer(it)))
    assert first.id not in said
    assert f"docker rename {second.id} comfy" in said


def test_a_move_says_that_hosts_toml_still_has_the_new_place() -> None:
    it = noted(kind="move")
    assert any("hosts.toml still says" in line for line in undo.plan(HOST, there(it, KEPT), it, answer(it, HERE)).notes)
    data = (record.Place("comfy", TARGETS["comfy"], "/srv/fast/ai/services/comfy-mnt", "copied"),)
    ours = replace(MOVED, kept="", folder=HOST.stack_dir)
    it = noted(kind="move", files=(), containers=(ours,), data=data)
    said = undo.plan(HOST, there(it), it, answer(it)).notes
    assert not [line for line in said if "hosts.toml still says" in line], "it is as before already"
    assert "comfy: ours, the next bringup puts it on its old data" in said
    away = replace(HOST, storage=Storage(nvme="/srv/fast", ssd="/srv/large"))
    said = undo.plan(away, there(it), it, answer(it)).notes
    assert "comfy: ours, stays where it is until hosts.toml is as before" in said
    assert [line for line in said if "hosts.toml still says" in line]


def test_steps_on_containers_are_guarded() -> None:
    it = noted()
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, HERE))
    runs = [s for c in section.changes for s in c.steps if isinstance(s, Run) and s.argv[1] in ("rm", "stop", "rename")]
    assert runs
    assert all(run.guards for run in runs)


def test_a_service_that_was_inside_another_container_goes_with_it() -> None:
    inside = record.Place("ollama", "/srv/o", TARGETS["ollama"], "copied")
    it = noted(data=(*noted().data, inside))
    section = undo.plan(HOST, there(it, KEPT), it, answer(it, HERE))
    assert f"docker rm -f {world.container(HOST, 'ollama').id}" in text(section)
    assert not [note for note in section.notes if note.startswith("ollama: ours")]


# ---- what stays, said


def test_what_is_kept_is_named_as_long_as_it_is_there() -> None:
    it = noted()
    said = [finding.text for finding in kept.after(HOST, there(it, KEPT), it)]
    assert said == [f"kept, stopped, for the way back: {KEPT.name}", "copied, and still where it was: /srv/run"]
    assert [finding.id for finding in kept.after(HOST, there(it), it)] == ["takeover.sources"], "it was removed"
    assert kept.after(HOST, there(it, KEPT), replace(it, stage="undone")) == []
