# ruff: noqa: E501 - cases are tables
"""Facts in, plans out: fresh, finished and drifted hosts, and what must stop a run before it touches anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pantheon import layout, procedure, stack
from pantheon.facts import ContainerMount, Docker, Facts, Image, Listener, Port, Space, Tree, Unknown
from pantheon.inventory import Host
from pantheon.plan import MakeSecret, Plan, Run, Write
from pantheon.sections import validate
from tests.unit import world
from tests.unit.world import HOST, container, entry, finished, fresh, having

ALL = procedure.ORDER


def commands(plan: Plan) -> list[str]:
    return [step.show() for change in plan.changes for step in change.steps]


def blocked(plan: Plan) -> str:
    return " | ".join(f"{finding.text} ({finding.evidence}) → {finding.mend}" for finding in plan.blocked)


def test_fresh_host_gets_everything_in_order() -> None:
    plan = procedure.plan(HOST, fresh(), ALL)
    assert not plan.blocked
    text = "\n".join(commands(plan))
    order = ["install -d -m0755 -o0 -g0 -- /mnt/local/nvme/ai\n", "-m0775 -o1024 -g1024 -- /mnt/local/nvme/ai/services/comfy-mnt",
             "write /opt/stacks/ai/compose.yaml", "pull ollama", "up -d --no-deps --wait --wait-timeout 300 ollama",
             "make a random key", "pull openwebui", "up -d --no-deps openwebui", "pull comfy", "up -d --no-deps comfy"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert plan.stops == ()


def test_fresh_host_never_gets_the_directories_that_the_image_makes() -> None:
    text = "\n".join(commands(procedure.plan(HOST, fresh(), ALL)))
    assert "ComfyUI" not in text
    assert "venv" not in text
    assert "comfy-mnt/user" not in text


def test_finished_host_has_nothing_to_do() -> None:
    plan = procedure.plan(HOST, finished(), ALL)
    assert plan.is_empty, commands(plan)
    assert all(section.reason for section in plan.sections)


@pytest.mark.parametrize("name", ["storage", "ollama", "openwebui", "comfy"])
def test_each_section_alone_on_a_finished_host(name: str) -> None:
    assert procedure.plan(HOST, finished(), (name,)).is_empty


@pytest.mark.parametrize("name", ["ollama", "openwebui", "comfy"])
def test_a_service_alone_touches_only_itself(name: str) -> None:
    facts = having(finished(), **{name: None})
    plan = procedure.plan(HOST, facts, (name,))
    ups = [step.argv for change in plan.changes for step in change.steps if isinstance(step, Run) and "up" in step.argv]
    assert [argv[-1] for argv in ups] == [name]
    assert all("--no-deps" in argv for argv in ups)


def test_a_service_alone_wants_the_storage_first() -> None:
    plan = procedure.plan(HOST, fresh(), ("comfy",))
    assert "invoke storage" in blocked(plan)


def test_a_service_alone_needs_no_room_for_the_others() -> None:
    host = replace(HOST, openwebui=replace(HOST.openwebui, image_gib=9000))
    gone = {**finished().images, host.openwebui.image: None}
    facts = replace(finished(), images=gone)
    assert not procedure.plan(host, facts, ("ollama",)).blocked
    assert "Docker's image store has too little room" in blocked(procedure.plan(host, facts, ("openwebui",)))


def test_openwebui_alone_wants_a_healthy_ollama() -> None:
    facts = having(finished(), ollama=container(HOST, "ollama", health="unhealthy"), openwebui=None)
    assert "ollama is not healthy" in blocked(procedure.plan(HOST, facts, ("openwebui",)))


def with_path(path: str, **changes: Any) -> Facts:
    facts = finished()
    return replace(facts, paths={**facts.paths, path: entry(path, **changes)})


COMFY_MNT = layout.comfy_mnt(HOST)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (with_path(COMFY_MNT, mode=0o775), ["chown -h 1024:1024 -- " + COMFY_MNT]),
        (with_path(COMFY_MNT, uid=1024, gid=1024, mode=0o755), ["chmod 0775 -- " + COMFY_MNT]),
        (with_path(COMFY_MNT, uid=1024, gid=1024, mode=0o775), []),
        (with_path(layout.models(HOST), gid=0, mode=0o775), ["chown -h 0:999 -- " + layout.models(HOST)]),
        (with_path(layout.ollama_data(HOST), mode=0o777), ["chmod 0755 -- " + layout.ollama_data(HOST)]),
        (with_path(layout.ollama_data(HOST), mode=0o700), []),
    ],
)
def test_owner_and_mode(facts: Facts, expected: list[str]) -> None:
    assert commands(procedure.plan(HOST, facts, ("storage",))) == expected


def test_wrong_owner_inside_is_one_bounded_walk() -> None:
    facts = finished()
    facts = replace(facts, trees={**facts.trees, COMFY_MNT: Tree(COMFY_MNT, 900, False, 3, ("venv/lib",))})
    (command,) = commands(procedure.plan(HOST, facts, ("storage",)))
    assert command.startswith(f"{COMFY_MNT}: everything in it to 1024:1024, in one walk")


DRIFT: list[tuple[str, dict[str, Any], str]] = [
    ("comfy", {"image": "mmartial/comfyui-nvidia-docker:latest"}, "image: "),
    ("comfy", {"image_id": "sha256:older"}, "image: the tag points to another image now"),
    (
        "comfy",
        {"ports": (Port("8188/tcp", "0.0.0.0", 8188),)},
        "ports: 0.0.0.0:8188:8188/tcp → 127.0.0.1:8188:8188/tcp",
    ),
    ("comfy", {"mounts": ()}, "mounts: none → "),
    ("comfy", {"user": ""}, "user: none → 1024:1024"),
    ("comfy", {"cap_drop": ()}, "capabilities dropped: none → ALL"),
    ("ollama", {"privileged": True}, "privileged: True → False"),
    ("ollama", {"memory": 2 << 30}, "memory limit: 2048 MiB → none"),
    ("ollama", {"gpus": ""}, "GPU: none → all"),
    ("ollama", {"restart_policy": "no"}, "restart policy: no → unless-stopped"),
    ("openwebui", {"networks": ("bridge",)}, "networks: bridge → pantheon-ai_llm"),
    ("openwebui", {"log_options": {}}, "log rotation: none → max-size=10m, max-file=5"),
    ("openwebui", {"env": {}}, "environment ENABLE_OPENAI_API: missing → "),
]


@pytest.mark.parametrize(("name", "changes", "expected"), DRIFT)
def test_drift_names_the_property(name: str, changes: dict[str, Any], expected: str) -> None:
    facts = having(finished(), **{name: container(HOST, name, **changes)})
    plan = procedure.plan(HOST, facts, ALL)
    (change,) = plan.changes
    assert expected in change.what
    assert change.stops == (name,)
    assert any("--force-recreate" in step.argv for step in change.steps if isinstance(step, Run))


def test_drift_shows_only_the_mounts_that_differ() -> None:
    made = container(HOST, "comfy")
    moved = replace(made.mounts[2], source="/elsewhere")
    facts = having(finished(), comfy=replace(made, mounts=(*made.mounts[:2], moved, made.mounts[3])))
    (change,) = procedure.plan(HOST, facts, ALL).changes
    assert change.what == f"recreate: mounts: /elsewhere:/outputs:rw → {layout.comfy_outputs(HOST)}:/outputs:rw"


def test_a_command_set_by_hand_is_drift() -> None:
    """`command:` in an edited Compose file replaces ComfyUI, and our label stays what it was."""
    image = Image("sha256:comfy", (), 1, "", command=("/comfyui-nvidia_init.bash",), entrypoint=())
    images = {**finished().images, HOST.comfy.image: image}
    facts = replace(having(finished(), comfy=container(HOST, "comfy", command=("sleep", "infinity"))), images=images)
    (change,) = procedure.plan(HOST, facts, ALL).changes
    assert "command: sleep infinity → /comfyui-nvidia_init.bash" in change.what
    same = replace(having(finished(), comfy=container(HOST, "comfy", command=image.command)), images=images)
    assert procedure.plan(HOST, same, ALL).is_empty


def test_drift_by_label_alone() -> None:
    made = container(HOST, "comfy")
    facts = having(finished(), comfy=replace(made, labels={**made.labels, stack.CONFIG: "other"}))
    assert "definition" in procedure.plan(HOST, facts, ALL).changes[0].what


@pytest.mark.parametrize(
    ("state", "command"),
    [("exited", "up -d"), ("created", "up -d"), ("dead", "up -d"), ("paused", "docker unpause comfy")],
)
def test_a_container_that_does_not_run_is_started(state: str, command: str) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", state=state))
    assert any(command in text for text in commands(procedure.plan(HOST, facts, ALL)))


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"state": "restarting", "restarts": 1}, True),
        ({"restarts": 5, "health": "starting"}, True),
        ({"restarts": 5, "health": "healthy"}, False),
        ({"restarts": 1, "health": "starting"}, False),
    ],
)
def test_a_crash_loop_is_started_anew(changes: dict[str, Any], anew: bool) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", **changes))
    assert any("--force-recreate" in text for text in commands(procedure.plan(HOST, facts, ALL))) is anew


def test_a_crash_loop_over_a_large_tree_puts_all_its_owners_right() -> None:
    facts = finished()
    facts = replace(facts, trees={**facts.trees, COMFY_MNT: Tree(COMFY_MNT, 20000, False, 0, ())})
    plan = procedure.plan(HOST, facts, ALL)
    assert plan.is_empty
    assert "comfy-mnt: too large to be looked through whole" in plan.sections[1].reason
    texts = commands(procedure.plan(HOST, having(facts, comfy=container(HOST, "comfy", state="restarting")), ALL))
    assert texts[0].startswith(f"{COMFY_MNT}: everything in it to 1024:1024")
    assert texts[1].endswith("--force-recreate comfy")


def test_half_made_containers_go_first() -> None:
    odd = replace(container(HOST, "comfy"), name="0123456789ab_comfy", state="created")
    plan = procedure.plan(HOST, having(finished(), comfy=None, odd=odd), ALL)
    texts = commands(plan)
    assert texts[0] == f"docker rm -f {odd.id}"
    assert texts[1].endswith("comfy")


def missing_mount() -> Facts:
    facts = fresh()
    return replace(facts, paths={**facts.paths, "/mnt/local/nvme": entry("/mnt/local/nvme")})


def snap() -> Facts:
    facts = fresh()
    return replace(facts, docker=replace(facts.docker, snap="/snap/bin/docker"))  # type: ignore[type-var]


def gpu(name: str = HOST.gpu.name, memory: int = 20475, driver: str = "590.48.01") -> Facts:
    facts = fresh()
    one = replace(world.GPU, name=name, memory_total_mib=memory)
    return replace(facts, nvml=replace(facts.nvml, gpus=(one,), driver=driver))  # type: ignore[type-var]


def with_paths(kinds: dict[str, str]) -> Facts:
    facts = fresh()
    made = {path: entry(path, kind=kind, real="/srv" if kind == "symlink" else path) for path, kind in kinds.items()}
    return replace(facts, paths={**facts.paths, **made})


def engine(value: Unknown) -> Docker:
    docker = fresh().docker
    assert isinstance(docker, Docker)
    return replace(docker, engine=value)


def foreign(**changes: Any) -> Facts:
    made = replace(container(HOST, "comfy"), labels={}, **changes)
    return having(fresh(), other=made)


LABELS = {
    "com.docker.compose.project": "ai",
    "com.docker.compose.project.config_files": "/home/ops/ai/docker-compose.yml",
}
OURS = {"com.docker.compose.project": HOST.project, "com.docker.compose.project.config_files": "/opt/stacks/ai/x.yml"}
PLAIN: dict[str, Any] = {"image": "busybox", "ports": (), "mounts": ()}

STOPS: list[tuple[Callable[[], Facts], str]] = [
    (missing_mount, "/mnt/local/nvme is not a mount point"),
    (missing_mount, "→ invoke fix.mounts-missing --host prometheus"),
    (snap, "Docker is the snap"),
    (lambda: gpu(name="NVIDIA RTX A4000"), "GPU is NVIDIA RTX A4000, not NVIDIA RTX 4000 Ada Generation"),
    (lambda: gpu(memory=8000), "GPU has 8000 MiB, less than 20000"),
    (lambda: gpu(driver="595.10"), "driver is 595.10, not 590.x"),
    (lambda: gpu(driver="5901.1"), "driver is 5901.1, not 590.x"),
    (lambda: replace(fresh(), nvml=Unknown("Driver/library version mismatch")), "invoke fix.driver-mismatch --host"),
    (lambda: replace(fresh(), module_version="590.44.01"), "kernel module and its library differ"),
    (lambda: replace(fresh(), docker=None), "Docker Engine is not installed"),
    (lambda: replace(fresh(), docker=Unknown("denied")), "Docker: not known (denied)"),
    (lambda: replace(fresh(), nvml=Unknown("NVML: GPU is lost (code 15)")), "look for Xid on the host"),
    (lambda: replace(fresh(), nvml=Unknown("NVML: Driver Not Loaded"), module_version=None), "invoke prereqs --install"),
    (lambda: replace(fresh(), docker=engine(Unknown("no answer within 5 s"))), "invoke fix.docker-down --host"),
    (lambda: replace(fresh(), docker=engine(Unknown("refused"))), "→ invoke fix.docker-down --host prometheus"),
    (lambda: replace(fresh(), toolkit=None), "NVIDIA Container Toolkit is not installed"),
    (lambda: replace(fresh(), containers=Unknown("no answer")), "containers: not known (no answer)"),
    (lambda: replace(fresh(), spaces={**fresh().spaces, "images": Space(1, 2, 3, 4)}), "Docker's image store has too little room"),
    (lambda: replace(fresh(), spaces={**fresh().spaces, "images": Space(1, 2, 3, 4)}), "→ invoke fix.disk-pressure --host"),
    (lambda: foreign(), "container comfy was started by hand (started with docker run)"),
    (lambda: foreign(name="ai-comfyui-1", **PLAIN), "container ai-comfyui-1 was started by hand"),
    (lambda: foreign(name="x", image="ollama/ollama:0.5", ports=(), mounts=()), "it runs ollama/ollama:0.5"),
    (lambda: foreign(name="x", image="docker.io/ollama/ollama", ports=(), mounts=()), "container x was started by hand"),
    (lambda: foreign(name="x", image="busybox", mounts=()), "it publishes port 8188"),
    (lambda: foreign(name="x", image="busybox", ports=()), "it mounts /mnt/local/nvme/ai/"),
    (lambda: having(fresh(), other=replace(container(HOST, "comfy"), labels=LABELS)), "/home/ops/ai/docker-compose.yml"),
    (lambda: having(fresh(), other=replace(container(HOST, "comfy"), name="x", labels=OURS, **PLAIN)), "Compose project"),
    (lambda: replace(fresh(), listeners=(Listener("0.0.0.0", 8188, 77, "python3", ""),)), "taken by python3 (pid 77)"),
    (lambda: replace(fresh(), listeners=(Listener("127.0.0.1", 3000, None, "", ""),)), "taken by an unknown process"),
    (lambda: foreign(name="x", image="mirror.lan:5000/ollama/ollama:0.9", ports=(), mounts=()), "it runs mirror.lan:5000"),
    (lambda: foreign(name="x", image="ghcr.nju.edu.cn/open-webui/open-webui@sha256:1", ports=(), mounts=()), "it runs ghcr.nju"),
    (lambda: replace(foreign(name="x", image="sha256:" + 64 * "a", image_id="sha256:" + 64 * "a", ports=(), mounts=()), images={
        HOST.ollama.image: Image("sha256:" + 64 * "a", (), 1, "")}), "it runs ollama/ollama:latest"),
    (lambda: with_paths({"/opt/stacks/ai/docker-compose.yml": "file"}), "/opt/stacks/ai/docker-compose.yml is there"),
    (lambda: with_paths({"/opt/stacks": "symlink"}), "/opt/stacks is a symlink"),
    (lambda: with_paths({"/opt/stacks": "file"}), "/opt/stacks is a file"),
    *((lambda path=path: replace(finished(), files={**finished().files, path: Unknown(f"not a regular file but a dir: {path}")}),
       f"not a regular file but a dir: {path}")
      for path in ("/opt/stacks/ai/compose.yaml", layout.secret_key(HOST),
                   layout.userscript(HOST))),
    (lambda: replace(fresh(), files={**fresh().files, "/opt/stacks/ai/compose.yaml": world.text_file(
        "/opt/stacks/ai/compose.yaml", "services: {}", 0o644)}), "was not written by pantheon"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"), STOPS, ids=[f"{number}-{case[1][:30]}" for number, case in enumerate(STOPS)]
)
def test_what_stops_a_bringup(make: Callable[[], Facts], expected: str) -> None:
    plan = procedure.plan(HOST, make(), ALL)
    assert expected in blocked(plan)


def test_an_unrelated_container_is_no_concern_of_ours() -> None:
    other = replace(
        container(HOST, "comfy"), name="grafana", labels=LABELS, image="grafana/grafana", ports=(), mounts=()
    )
    assert not procedure.plan(HOST, having(fresh(), other=other), ALL).blocked


def test_our_image_under_another_name_is_no_concern_of_ours() -> None:
    facts = foreign(name="x", image="tools/unrelated:1", image_id="sha256:1", ports=(), mounts=())
    facts = replace(facts, images={**facts.images, HOST.ollama.image: Image("sha256:1", (), 1, "")})
    assert not procedure.plan(HOST, facts, ALL).blocked


def test_others_may_have_models_and_results() -> None:
    shared = tuple(
        ContainerMount("bind", path, "/srv", path != "/mnt/local/nvme/ai", "")
        for path in ("/mnt/local/ssd/ai/outputs", layout.models(HOST), "/mnt/local/nvme/ai")
    )
    facts = foreign(name="files", image="busybox", image_id="sha256:2", ports=(), mounts=shared)
    assert not procedure.plan(HOST, facts, ALL).blocked


@pytest.mark.parametrize(
    ("name", "labels", "mends"),
    [
        ("comfyui", {}, ["docker stop comfyui", ""]),
        ("comfy", {}, ["docker stop comfy", "docker rename comfy comfy-old"]),
        ("x", OURS, ["hosts.toml (project", "hosts.toml (project"]),
    ],
)
def test_what_is_told_to_do_about_a_stranger_helps(name: str, labels: dict[str, str], mends: list[str]) -> None:
    for state, mend in zip(("running", "exited"), mends, strict=True):
        other = replace(container(HOST, "comfy"), name=name, labels=labels, image="yanwk/comfyui-boot:cu130", mounts=(),
                        image_id="sha256:3", state=state)  # fmt: skip
        found = [f for f in procedure.plan(HOST, having(fresh(), other=other), ALL).blocked if "foreign" in f.id]
        assert (mend in found[0].mend) if mend else not found, found


def test_each_finding_is_shown_once() -> None:
    plan = procedure.plan(HOST, foreign(), ALL)
    ids = [finding.id for finding in plan.blocked]
    assert len(ids) == len(set(ids))


def test_unknown_is_never_taken_for_absent() -> None:
    facts = fresh()
    unknown = replace(facts, paths={**facts.paths, COMFY_MNT: Unknown("permission denied")})
    assert "permission denied" in blocked(procedure.plan(HOST, unknown, ("storage",)))


def test_a_symlink_in_the_tree_is_named_and_left_alone() -> None:
    facts = with_path(COMFY_MNT, uid=1024, gid=1024, mode=0o777, kind="symlink", real="/home/ops/comfy")
    plan = procedure.plan(HOST, facts, ("storage",))
    assert "is a symlink to /home/ops/comfy" in blocked(plan)
    assert not plan.changes


def test_secrets_stay_out_of_what_is_shown() -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, env={"HF_TOKEN": "hf_sesame"}))
    plan = procedure.plan(host, fresh(host), ALL)
    assert "hf_sesame" not in str(plan.as_data())
    shown = [step.diff() if isinstance(step, Write) else step.show() for c in plan.changes for step in c.steps]
    assert "hf_sesame" not in "".join(shown)
    assert "hf_sesame" in str(plan.as_data(reveal=True))
    assert any(isinstance(step, MakeSecret) for change in plan.changes for step in change.steps)
    assert procedure.plan(host, finished(host), ALL).is_empty


HOSTILE = ["/mnt/a b", "/mnt/it's", '/mnt/"q"', "/mnt/$(touch x)", "/mnt/;rm -rf", "/mnt/ü", "/mnt/`id`"]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_stay_one_argument(path: str) -> None:
    host: Host = replace(HOST, storage=replace(HOST.storage, nvme=path), stack_dir=path + "/stack")
    plan = procedure.plan(host, fresh(host), ALL)
    runs = [step for change in plan.changes for step in change.steps if isinstance(step, Run)]
    assert any(argument.startswith(path) for run in runs for argument in run.argv)
    import shlex

    assert all(tuple(shlex.split(run.show())) == run.argv for run in runs)
    assert procedure.plan(host, finished(host), ALL).is_empty


@pytest.mark.parametrize(("state", "process", "taken"), [
    ("restarting", "", False), ("restarting", "docker-proxy", False), ("running", "docker-proxy", False),
    ("restarting", "python3", True), ("exited", "", True), ("exited", "docker-proxy", True),
])  # fmt: skip
def test_the_proxy_of_a_restarting_container_is_its_own(state: str, process: str, taken: bool) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", state=state))
    facts = replace(facts, listeners=(Listener("127.0.0.1", 8188, 77 if process else None, process, ""),))
    assert ("port 8188 on 127.0.0.1 is taken" in blocked(procedure.plan(HOST, facts, ALL))) is taken


def ports(**given: int) -> Host:
    changed = {name: replace(HOST.service(name), port=port) for name, port in given.items()}
    return replace(HOST, **changed)  # type: ignore[arg-type]


def test_ports_change_places() -> None:
    """What holds a port that another service gets stops first, and starts again on its own new one."""
    plan = procedure.plan(ports(ollama=3000, openwebui=11434), finished(), ALL)
    assert not plan.blocked
    texts = commands(plan)
    stopped = texts.index("docker stop openwebui")
    assert texts[stopped + 1].endswith("--force-recreate ollama")
    assert texts[stopped + 2].endswith("--force-recreate openwebui")
    assert set(plan.stops) == {"ollama", "openwebui"}


def test_a_service_alone_never_stops_another_for_its_port() -> None:
    plan = procedure.plan(ports(ollama=3000, openwebui=11434), finished(), ("ollama",))
    assert "port 3000 is still held by openwebui" in blocked(plan)


def test_a_container_renamed_by_hand_gets_its_name_back() -> None:
    old = replace(container(HOST, "comfy"), name="comfy-old")
    plan = procedure.plan(HOST, having(finished(), comfy=None, other=old), ALL)
    assert commands(plan) == [f"docker rename {old.id} comfy"]
    assert plan.stops == ()
    drifted = replace(old, restart_policy="no")
    texts = commands(procedure.plan(HOST, having(finished(), comfy=None, other=drifted), ALL))
    assert texts[0] == f"docker rename {old.id} comfy"
    assert texts[1].endswith("--force-recreate comfy")


def test_another_compose_file_beside_ours_is_no_stack() -> None:
    path = "/opt/stacks/ai/docker-compose.yml"
    facts = finished()
    assert procedure.plan(HOST, replace(facts, paths={**facts.paths, path: entry(path, kind="file")}), ALL).is_empty


def no_command_without_its_host() -> list[Facts]:
    states = ("exited", "running", "restarting")
    stopped = [having(finished(), ollama=container(HOST, "ollama", state=state, health="starting")) for state in states]
    wide = container(HOST, "comfy", ports=(Port("8188/tcp", "0.0.0.0", 8188),), log_markers=("!! ERROR: x",))
    taken = replace(fresh(), listeners=(Listener("127.0.0.1", 11434, 700, "ollama", ""),))
    drifted = with_path(layout.models(HOST), mode=0o700)
    return [fresh(), *stopped, having(finished(), comfy=wide), having(finished(), comfy=None), taken, drifted]


@pytest.mark.parametrize("facts", no_command_without_its_host())
def test_every_command_to_type_names_the_host(facts: Facts) -> None:
    """The default host of hosts.toml may be another one than the one that was looked at."""
    found = [*procedure.check(HOST, facts, procedure.ORDER), *validate.check(HOST, facts, {})]
    found += [one for name in procedure.ORDER for one in procedure.plan(HOST, facts, (name,)).blocked]
    commands = [re.split(r"[,;)]", part)[0] for one in found for part in one.mend.split("invoke ")[1:]]
    assert [one for one in commands if "--host prometheus" not in one and not one.startswith("runbook")] == []


def test_ssh_as_hosts_toml_reaches_the_host() -> None:
    host = replace(HOST, user="ops", port=2222, identity="~/my key", gateway="jump")
    assert host.ssh("docker ps") == "ssh -p 2222 -i '~/my key' -J jump ops@10.0.99.10 docker ps"
    assert replace(HOST, user="", port=0).ssh("docker ps") == "ssh 10.0.99.10 docker ps"


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_login_key_that_only_the_running_server_has_is_not_replaced(state: str) -> None:
    """A new key beside a server that signs with the old one would log everybody out at its next start."""
    facts = world.having(world.finished(), openwebui=world.container(HOST, "openwebui", state=state))
    gone = replace(facts, files={**facts.files, layout.secret_key(HOST): None})
    plan = procedure.plan(HOST, gone, procedure.ORDER)
    mends = [finding.mend for finding in plan.blocked]
    assert mends == (["invoke fix.openwebui-logins --host prometheus"] if state == "running" else [])
