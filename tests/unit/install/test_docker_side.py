"""What `--install` plans for Docker's side of section 2: repositories, engine, snap, daemon.json, holds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pantheon import install
from pantheon.evidence import Dockerd, Evidence
from pantheon.facts import Docker, Facts, OsRelease, Unknown
from pantheon.install import apt, daemon_json, docker, snap
from pantheon.install.vendors import CONFLICTING, DOCKER, DOCKER_PACKAGES, TOOLKIT
from pantheon.inventory import Install
from pantheon.options import Options
from pantheon.packages import DaemonJson, Key, Package, Packages, Source
from pantheon.plan import Change, Mend, Run, SectionPlan, Write
from tests.unit import world

HOST = world.HOST
INSTALL = Options(install=True)
GOOD = json.dumps(
    {
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "5"},
        "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}},
    }
)
DRIVER = ("nvidia-driver-590-server", "libnvidia-compute-590-server", "nvidia-utils-590-server")
ALL = {
    **{name: Package("5:29.1.3-1~ubuntu.24.04~noble", "installed") for name in DOCKER_PACKAGES},
    **{name: Package("590.48.01-0ubuntu0.24.04.1", "installed") for name in DRIVER},
    "nvidia-container-toolkit": Package("1.18.1-1", "installed"),
    "ca-certificates": Package("20240203", "installed"),
}


def packages(installed: dict[str, Package] | None = None, **more: Any) -> Packages:
    made = {"arch": "amd64", "codename": "noble", "daemon_json": DaemonJson(GOOD, "0" * 64), **more}
    return Packages(installed=ALL if installed is None else installed, **made)


def without(*names: str, **more: Package) -> dict[str, Package]:
    return {name: about for name, about in ALL.items() if name not in names} | more


def bare(facts: Facts) -> Facts:
    """No driver, no engine, no toolkit."""
    none: dict[str, Any] = dict.fromkeys(("nvml", "nvidia_smi", "module_version", "library_version", "toolkit"))
    return replace(facts, docker=None, containers=None, **none)


def having(facts: Facts, **about: Any) -> Facts:
    assert isinstance(facts.docker, Docker)
    return replace(facts, docker=replace(facts.docker, **about))


def plan(facts: Facts, found: Packages, host: Any = HOST, options: Options = INSTALL, **more: Any) -> SectionPlan:
    return install.plan(host, facts, Evidence(packages=found, **more), options)


def docker_changes(facts: Facts, found: Packages, options: Options = INSTALL, host: Any = HOST) -> list[Change]:
    return docker.changes(host, facts, Evidence(packages=found), options)


def mends(changes: list[Change] | tuple[Change, ...]) -> list[tuple[str, list[str]]]:
    """(verb, packages) of each step that is apt's work."""
    steps = [step for change in changes for step in change.steps]
    return [(s.arguments["do"], s.arguments["packages"]) for s in steps if isinstance(s, Mend) and s.name == "apt"]  # type: ignore[misc]


FINISHED = having(world.finished(), cdi=("/etc/cdi/nvidia.yaml",))
FRESH = bare(world.fresh())
BARE = packages({"ca-certificates": ALL["ca-certificates"]}, daemon_json=None)


# ---- the whole


def test_an_installed_host_plans_nothing_and_says_why() -> None:
    made = plan(FINISHED, packages())
    assert made.is_ready, made
    assert "Docker 29.1" in made.reason


def test_a_bare_host_gets_everything_in_order() -> None:
    made = plan(FRESH, BARE)
    assert not made.blocked
    steps = [step for change in made.changes for step in change.steps if isinstance(step, Mend)]
    kinds = [f"apt.{step.arguments['do']}" if step.name == "apt" else step.name for step in steps]
    assert kinds[:3] == ["apt_key", "apt_key", "apt.update"]
    assert kinds[-1] == "daemon_json"
    assert kinds.count("apt.update") == 1
    writes = [step.path for change in made.changes for step in change.steps if isinstance(step, Write)]
    assert writes == [DOCKER.source_path, TOOLKIT.source_path]
    installs = [names for verb, names in mends(made.changes) if verb == "install"]
    assert installs[0][0].startswith("nvidia-driver-590-server"), "refused before anything else comes"
    assert installs[1:] == [list(DOCKER_PACKAGES), ["nvidia-container-toolkit"]]
    update = next(s for c in made.changes for s in c.steps if isinstance(s, Mend) and s.arguments.get("do") == "update")
    assert update.arguments["need"] == [
        "https://download.docker.com/linux/ubuntu",
        "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)",
    ]


def test_packages_that_are_not_known_block() -> None:
    for found in (Unknown("denied"), None):
        made = install.plan(HOST, FRESH, Evidence(packages=found), INSTALL)
        assert [each.level for each in made.blocked] == ["unknown"]
        assert not made.changes


def test_another_distribution_blocks() -> None:
    assert isinstance(FRESH.os, OsRelease)
    other = replace(FRESH, os=replace(FRESH.os, id="fedora", version="43"))
    assert [each.id for each in plan(other, BARE).blocked] == ["prereqs.os"]


def test_what_was_cut_short_is_finished_first() -> None:
    for found in (packages(broken=("docker-ce",)), packages(interrupted=True)):
        made = plan(FINISHED, found)
        assert mends(made.changes) == [("configure", [])]
    assert plan(FINISHED, packages(broken=("docker-ce",), holder="dpkg (pid 3)")).is_ready


def test_whoever_has_the_lock_is_in_the_plan() -> None:
    made = plan(FRESH, replace(BARE, holder="unattended-upgrade (pid 812, since 05:10:11 UTC)"))
    assert any("waits for unattended-upgrade (pid 812" in change.why for change in made.changes)


def test_https_needs_its_certificates() -> None:
    first = plan(FRESH, replace(BARE, installed={})).changes[0]
    assert mends([first]) == [("update", []), ("install", ["ca-certificates"])]


# ---- the engine


UBUNTUS = {
    "docker.io": Package("29.1.3-0ubuntu3~24.04.2", "installed"),
    "docker-compose-v2": Package("2.40.3+ds1-0ubuntu1~24.04.1", "installed"),
    "containerd": Package("2.2.1-0ubuntu1~24.04.4", "installed"),
    "runc": Package("1.3.4-0ubuntu1~24.04.1", "installed"),
}
EMPTY = replace(FINISHED, containers=())
STOPPED = world.having(EMPTY, old=replace(world.container(HOST, "comfy"), name="old", state="exited", labels={}))
DOWN = having(replace(FINISHED, containers=Unknown("no answer")), engine=Unknown("Cannot connect"))
OLD_ENGINE = {"docker.io": Package("24.0.7-0ubuntu4", "installed")}
HELD = {"docker.io": Package("29.1.3-0ubuntu3~24.04.2", "installed", held=True)}
HOLDS = replace(HOST, install=Install(hold=True))


@pytest.mark.parametrize(
    ("facts", "more", "host", "kept", "mend"),
    [
        (EMPTY, {}, HOST, "", ""),
        (EMPTY, OLD_ENGINE, HOST, "", ""),
        (FINISHED, {}, HOST, "it has 3 containers", "sudo apt-get remove docker.io docker-compose-v2 containerd runc"),
        (STOPPED, {}, HOST, "it has 1 container", "sudo apt-get remove docker.io"),
        (having(FINISHED, engine="24.0.7"), OLD_ENGINE, HOST, "", ""),
        (DOWN, {}, HOST, "its containers could not be listed: no answer", "sudo apt-get remove docker.io"),
        (DOWN, OLD_ENGINE, HOST, "", ""),
        (replace(EMPTY, containers=None), {}, HOST, "its containers could not be listed", "sudo apt-get remove"),
        (EMPTY, HELD, HOST, "docker.io is on hold", "sudo apt-mark unhold docker.io"),
        (FINISHED, HELD, HOST, "docker.io is on hold", "sudo apt-mark unhold docker.io"),
        (EMPTY, HELD, HOLDS, "", ""),
        (FINISHED, HELD, HOLDS, "it has 3 containers", "sudo apt-get remove docker.io"),
    ],
)  # fmt: skip
def test_when_the_distributions_engine_gives_way(
    facts: Facts, more: dict[str, Package], host: Any, kept: str, mend: str
) -> None:
    found = packages(without(*DOCKER_PACKAGES, **{**UBUNTUS, **more}))
    evidence = Evidence(packages=found)
    assert docker.missing(host, facts, evidence) == (() if kept else DOCKER_PACKAGES)
    notes = install.notes(host, facts, evidence)
    assert [note.level for note in notes] == (["warn"] if kept else [])
    for note in notes:
        assert note.text.startswith("docker.io 29.1.3")
        assert kept in note.text
        assert mend in note.mend
        assert note.mend.endswith(" && invoke prereqs --install --host prometheus")
    if not kept:
        going = ["docker.io", "docker-compose-v2", "containerd", "runc"]
        made = docker_changes(facts, found, host=host)
        assert [step for step in mends(made) if step[0] != "unhold"] == [
            ("fetch", list(DOCKER_PACKAGES)), ("remove", going), ("install", list(DOCKER_PACKAGES)),
        ]  # fmt: skip
        assert made[0].stops == docker.running(facts)
        assert "docs.docker.com" in made[0].why
        assert "/var/lib/docker is kept" in made[0].why
        assert ("could not be listed" in made[0].why) == (not isinstance(facts.containers, tuple))
        assert not plan(facts, found, host).blocked


def test_only_what_was_agreed_to_goes_for_what_comes() -> None:
    """Asked of apt before anything is removed."""
    made = docker_changes(EMPTY, packages(without(*DOCKER_PACKAGES, **UBUNTUS)))
    step = made[0].steps[0]
    assert isinstance(step, Mend)
    assert step.arguments["may_remove"] == ["docker.io", "docker-compose-v2", "containerd", "runc"]


@pytest.mark.parametrize(
    ("there", "going"),
    [
        (("containerd",), ["containerd"]),
        (("runc",), ["runc"]),
        (("docker-doc",), ["docker-doc"]),
        (("docker-compose",), ["docker-compose"]),
        (("podman-docker",), ["podman-docker"]),
        (("docker-buildx", "docker-cli"), ["docker-buildx", "docker-cli"]),
        (("docker-registry", "docker2aci", "golang-docker-credential-helpers"), []),
    ],
)
def test_what_conflicts_goes_where_there_is_no_engine(there: tuple[str, ...], going: list[str]) -> None:
    found = packages(without(*DOCKER_PACKAGES, **{name: Package("1.0", "installed") for name in there}))
    facts = having(FINISHED, engine=None, compose=None) if "podman-docker" in there else FRESH
    made = docker_changes(facts, found)
    assert [names for verb, names in mends(made) if verb == "remove"] == ([going] if going else [])
    assert mends(made)[-1] == ("install", list(DOCKER_PACKAGES))
    assert ("Kubernetes" in made[0].why) == ("containerd" in there), "what else runs on it cannot be seen"
    assert install.notes(HOST, facts, Evidence(packages=found)) == []


@pytest.mark.parametrize(
    ("compose", "more", "comes"),
    [
        (None, {}, "docker-compose-v2"),
        ("2.10.0", {"docker-compose-v2": Package("2.10", "installed")}, "docker-compose-v2"),
        # As this program had it once: beside docker.io, from Docker
        ("2.10.0", {"docker-compose-plugin": Package("2.10", "installed")}, "docker-compose-plugin"),
        ("2.40.3", {}, None),
    ],
)
def test_compose_comes_from_where_the_engine_came_from(
    compose: Any, more: dict[str, Package], comes: str | None
) -> None:
    theirs = {name: UBUNTUS[name] for name in ("docker.io", "containerd", "runc")}
    found = packages(without(*DOCKER_PACKAGES, **theirs, **more))
    made = plan(having(FINISHED, compose=compose), found)
    steps = mends(made.changes)
    assert [names for verb, names in steps if verb == "install"] == ([[comes]] if comes else [])
    asked = [verb for verb, _ in steps]
    assert asked == (["update", "install"] if comes else []), "the lists are asked for first"
    docker_is_asked = any("Docker's" in change.what for change in made.changes)
    assert docker_is_asked == (comes == "docker-compose-plugin")


def test_compose_on_debian() -> None:
    assert isinstance(FINISHED.os, OsRelease)
    facts = having(replace(FINISHED, os=replace(FINISHED.os, id="debian", version="13")), compose=None)
    found = packages(without(*DOCKER_PACKAGES, **{"docker.io": UBUNTUS["docker.io"]}))
    assert docker.missing(HOST, facts, Evidence(packages=found)) == ("docker-compose",)


def test_the_old_compose_gives_way_to_the_plugin() -> None:
    """Docker's plugin conflicts with it, and brings its own buildx along."""
    others = {name: Package("1.29", "installed") for name in ("docker-compose", "docker-buildx")}
    made = docker_changes(having(FINISHED, compose=None), packages(without("docker-compose-plugin", **others)))
    assert mends(made) == [
        ("fetch", ["docker-compose-plugin"]), ("remove", ["docker-compose", "docker-buildx"]),
        ("install", ["docker-compose-plugin"]),
    ]  # fmt: skip
    assert [change.stops for change in made] == [(), ()]


@pytest.mark.parametrize(
    ("installed", "said"),
    [({}, "it was put there by hand"), ({"moby-engine": Package("29.0", "installed")}, "it is from moby-engine")],
)
def test_an_engine_of_another_make_is_left_and_said(installed: dict[str, Package], said: str) -> None:
    found = packages(without(*DOCKER_PACKAGES, **installed))
    assert plan(FINISHED, found).is_ready
    [note] = install.notes(HOST, FINISHED, Evidence(packages=found))
    assert said in note.text
    assert "29.1.3" in note.text
    made = plan(having(FINISHED, engine="20.10.7"), found)
    assert said in made.blocked[0].text


def test_what_docker_s_own_pages_have_removed_by_hand_is_no_engine() -> None:
    """`apt-get remove docker.io` leaves its socket, with nobody behind it; the next engine does not start beside it."""
    left = having(replace(FINISHED, containers=Unknown("no answer")), client=None, engine=Unknown("no answer"))
    found = packages(without(*DOCKER_PACKAGES))
    assert not plan(left, found).blocked
    made = docker_changes(left, found)
    assert mends(made) == [("install", list(DOCKER_PACKAGES))]
    last = made[-1].steps[-1]
    assert isinstance(last, Mend)
    assert last.arguments["stop"] == ["docker.socket"]


def test_an_engine_of_the_distribution_that_is_too_old_is_replaced() -> None:
    old = {
        name: Package("24.0.7-0ubuntu4", "installed") for name in ("docker.io", "containerd", "runc", "docker-buildx")
    }
    found = packages(without(*DOCKER_PACKAGES, **old))
    made = docker_changes(having(FINISHED, engine="24.0.7"), found)
    going = [name for name in CONFLICTING if name in old]
    assert mends(made) == [("fetch", list(DOCKER_PACKAGES)), ("remove", going), ("install", list(DOCKER_PACKAGES))]
    assert made[0].sign == "-"
    assert made[0].steps[-1] == apt.remove(going, stop=("docker.socket", "docker.service"))
    assert made[0].stops == ("comfy", "ollama", "openwebui")
    assert made[1].stops == ()
    assert all(name in made[0].what for name in going)


def test_compose_alone_stops_nothing() -> None:
    made = docker_changes(having(FINISHED, compose=None), packages(without("docker-compose-plugin")))
    assert mends(made) == [("install", ["docker-compose-plugin"])]
    assert made[0].stops == ()


def test_an_old_engine_of_dockers_is_upgraded_and_what_stops_is_said() -> None:
    theirs = replace(world.container(HOST, "comfy"), name="somebodys", labels={})
    off = replace(world.container(HOST, "comfy"), name="off", state="exited", labels={})
    facts = world.having(having(FINISHED, engine="24.0.9"), somebodys=theirs, off=off)
    made = docker_changes(facts, packages())
    assert mends(made) == [("install", ["docker-ce", "docker-ce-cli", "containerd.io"])]
    assert made[0].stops == ("comfy", "ollama", "openwebui", "somebodys")


def test_an_engine_that_is_down_is_not_installed_again() -> None:
    facts = having(FINISHED, engine=Unknown("Cannot connect to the Docker daemon"))
    assert docker.missing(HOST, facts, Evidence(packages=packages())) == ()


def test_daemon_json_waits_for_an_engine_that_is_down() -> None:
    facts = having(FINISHED, engine=Unknown("Cannot connect to the Docker daemon"))
    assert plan(facts, packages(daemon_json=None)).is_ready


def test_a_release_without_a_name() -> None:
    assert [each.id for each in plan(FRESH, replace(BARE, codename="")).blocked] == ["prereqs.codename"]


def test_podmans_docker_is_none() -> None:
    found = packages(without(*DOCKER_PACKAGES, **{"podman-docker": Package("4.9", "installed")}))
    made = docker_changes(having(FINISHED, engine=None, compose=None), found)
    assert ("remove", ["podman-docker"]) in mends(made)


@pytest.mark.parametrize("engine", [Unknown("no answer"), "20.10.7"])
def test_an_engine_that_no_package_has_is_named_and_left(engine: Any) -> None:
    found = packages(without(*DOCKER_PACKAGES))
    made = plan(having(FINISHED, engine=engine), found)
    assert [each.id for each in made.blocked] == ["prereqs.docker"]
    assert "by hand" in made.blocked[0].text


def test_a_hold_is_somebodys_decision_unless_hosts_toml_holds() -> None:
    held = without(**{"docker-ce": Package("5:24.0.9", "installed", held=True)})
    facts = having(FINISHED, engine="24.0.9")
    made = plan(facts, packages(held))
    assert [each.id for each in made.blocked] == ["prereqs.held"]
    assert "apt-mark unhold docker-ce" in made.blocked[0].mend
    ours = replace(HOST, install=Install(hold=True))
    assert mends(docker_changes(facts, packages(held), host=ours))[0] == ("unhold", ["docker-ce"])
    assert not plan(facts, packages(held), host=ours).blocked


def test_holds_come_last_and_once() -> None:
    host = replace(HOST, install=Install(hold=True))
    made = plan(FRESH, BARE, host=host)
    verb, names = mends(made.changes)[-1]
    assert verb == "hold"
    assert {"docker-ce", "containerd.io", "nvidia-container-toolkit", "nvidia-driver-590-server"} <= set(names)
    assert "libnvidia-compute-590-server" in names, "it comes with the driver, and no second plan is needed for it"
    held = {name: replace(about, held=True) for name, about in ALL.items()}
    assert plan(FINISHED, packages(held), host=host).is_ready
    assert plan(FINISHED, packages(held)).is_ready, "what somebody holds stays held"


# ---- the snap


def test_a_snap_goes_only_on_the_operators_word() -> None:
    facts = having(FINISHED, snap="/snap/bin/docker exists", root="/var/snap/docker/common/var-lib-docker")
    found = packages(without(*DOCKER_PACKAGES), snap="28.4.0")
    made = plan(facts, found)
    assert [each.id for each in made.blocked] == ["prereqs.docker-snap"]
    assert "--remove-snap" in made.blocked[0].mend
    agreed = plan(facts, found, options=Options(install=True, remove_snap=True, yes=True))
    assert not agreed.blocked
    change = next(change for change in agreed.changes if change.sign == "-")
    last = change.steps[-1]
    assert isinstance(last, Mend)
    assert (last.name, last.arguments["name"]) == ("remove_snap", "docker")
    assert change.steps[0] == apt.fetch(DOCKER_PACKAGES), "first what needs the network"
    assert change.stops == ("comfy", "ollama", "openwebui")


def test_a_snap_that_only_its_files_show() -> None:
    assert snap.is_there(FRESH, replace(BARE, snap="28.4.0"))
    assert not snap.is_there(FRESH, BARE)


# ---- sources and keys


def source(path: str, **more: Any) -> Source:
    about = {
        "types": ("deb",),
        "uris": ("https://download.docker.com/linux/ubuntu",),
        "suites": ("noble",),
        "components": ("stable",),
        "signed_by": "/etc/apt/keyrings/docker.gpg",
        **more,
    }
    return Source(path=path, line=1, **about)


RIGHT = Key((HOST.install.docker_key,))
OLD = "/etc/apt/sources.list.d/docker.list"
OURS = source(DOCKER.source_path, signed_by=DOCKER.key_path)


def vendor_changes(found: Packages, *, wanted: bool = True) -> list[Change]:
    keys = apt.keys(HOST, FRESH, found, DOCKER) if wanted else []
    return keys + apt.sources(HOST, FRESH, found, DOCKER, wanted=wanted)


def test_the_source_is_as_docker_documents_it() -> None:
    key, there = vendor_changes(BARE)
    write = there.steps[0]
    assert isinstance(write, Write)
    assert write.text == (
        "Types: deb\nURIs: https://download.docker.com/linux/ubuntu\nSuites: noble\nComponents: stable\n"
        "Architectures: amd64\nSigned-By: /etc/apt/keyrings/docker.asc\n"
    )
    step = key.steps[0]
    assert isinstance(step, Mend)
    assert step.arguments["fingerprint"] == HOST.install.docker_key
    assert step.arguments["setting"] == "install.docker_key"
    assert apt.source_text(FRESH, BARE, TOOLKIT) == (
        "deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg]"
        " https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n"
    )


def test_an_older_form_with_the_right_key_is_used_as_it_is() -> None:
    found = replace(BARE, sources=(source(OLD),), keys={"/etc/apt/keyrings/docker.gpg": RIGHT}, files={OLD: "1"})
    assert vendor_changes(found) == []
    slash = replace(found, sources=(source(OLD, uris=("https://download.docker.com/linux/ubuntu/",)),))
    assert vendor_changes(slash) == []


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({"signed_by": ""}, {}),
        ({}, {}),
        ({}, {"/etc/apt/keyrings/docker.gpg": Key(("F" * 40,))}),
        ({}, {"/etc/apt/keyrings/docker.gpg": Key((HOST.install.docker_key, "F" * 40))}),
        ({"signed_by": "embedded"}, {}),
        ({"signed_by": "/etc/apt/keyrings/docker.gpg /etc/x.gpg"}, {"/etc/apt/keyrings/docker.gpg": RIGHT}),
        ({"signed_by": "/etc/apt/keyrings/docker.gpg /etc/x.gpg"},
         {"/etc/apt/keyrings/docker.gpg": RIGHT, "/etc/x.gpg": Key(("F" * 40,))}),
    ],
)  # fmt: skip
def test_an_older_form_that_is_not_right_is_renamed_never_deleted(more: dict[str, Any], keys: dict[str, Key]) -> None:
    found = replace(BARE, sources=(source(OLD, **more),), keys=keys, files={OLD: "abc"})
    key, there = vendor_changes(found)
    rename, write = there.steps
    assert isinstance(key.steps[0], Mend)
    assert isinstance(rename, Run)
    assert rename.argv == ("mv", "--backup=numbered", "-T", "--", OLD, f"{OLD}.before-pantheon")
    assert [(guard.target, guard.reading) for guard in rename.guards] == [(OLD, "abc")]
    assert isinstance(write, Write)
    assert write.path == DOCKER.source_path


def test_a_file_with_entries_of_others_is_nobodys_to_rename() -> None:
    others = source("/etc/apt/sources.list", uris=("https://archive.example/ubuntu",), signed_by="")
    theirs = source("/etc/apt/sources.list", signed_by="")
    found = replace(BARE, sources=(others, theirs), files={"/etc/apt/sources.list": "1"})
    findings = apt.source_findings(HOST, FRESH, found, DOCKER, wanted=True)
    assert ["/etc/apt/sources.list:1" in each.text for each in findings] == [True]
    assert "sudoedit /etc/apt/sources.list" in findings[0].mend
    assert not [step for change in vendor_changes(found) for step in change.steps if isinstance(step, Run)]


def test_two_keys_for_one_repository_are_mended_even_if_nothing_else_is_wanted() -> None:
    keys = {DOCKER.key_path: RIGHT}
    found = packages(sources=(OURS, source(OLD)), keys=keys, files={OLD: "1", DOCKER.source_path: "2"})
    made = plan(FINISHED, found)
    assert [step.argv[4] for change in made.changes for step in change.steps if isinstance(step, Run)] == [OLD]
    assert len(made.changes) == 1
    alone = packages(sources=(OURS, source(OLD, suites=("jammy",))), keys=keys)
    assert plan(FINISHED, alone).is_ready, "another suite is no contradiction"
    off = packages(sources=(OURS, source(OLD, enabled=False)), keys=keys)
    assert plan(FINISHED, off).is_ready


def test_a_key_that_is_there_is_not_fetched_again() -> None:
    found = replace(BARE, keys={DOCKER.key_path: RIGHT})
    assert [change.what for change in vendor_changes(found)] == ["Docker's package repository"]


def test_a_key_file_with_another_key_besides_is_fetched_again() -> None:
    found = replace(BARE, keys={DOCKER.key_path: Key((HOST.install.docker_key, "F" * 40))})
    assert [change.what for change in vendor_changes(found)] == ["Docker's key", "Docker's package repository"]


@pytest.mark.parametrize(
    "more", [{"enabled": False}, {"suites": ("jammy",)}, {"types": ("deb-src",)}, {"components": ("test",)}]
)
def test_a_source_that_gives_none_of_these_packages_is_none(more: dict[str, Any]) -> None:
    keys = {"/etc/apt/keyrings/docker.gpg": RIGHT}
    found = replace(BARE, sources=(source(OLD),), keys=keys, files={OLD: "1"})
    assert apt.has_source(HOST, FRESH, found, DOCKER)
    assert not apt.has_source(HOST, FRESH, replace(found, sources=(source(OLD, **more),)), DOCKER)


def test_our_own_file_with_something_else_in_it_is_kept() -> None:
    found = replace(BARE, sources=(replace(OURS, suites=("jammy",)),), files={DOCKER.source_path: "1"})
    _, there = vendor_changes(found)
    assert isinstance(there.steps[0], Run)
    assert there.steps[0].argv[-1] == f"{DOCKER.source_path}.before-pantheon"
    assert isinstance(there.steps[1], Write)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5:29.1.3-1~ubuntu.24.04~noble", (29, 1)),
        ("28.2.2-0ubuntu1~24.04.1", (28, 2)),
        ("2.40.3+ds1", (2, 40)),
        ("v2.20.0", (2, 20)),
        ("nonsense", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert apt.upstream(text) == version


# ---- daemon.json


def config(
    text: str | None, facts: Facts = FINISHED, *, toolkit: bool = True, is_new: bool = False, **more: Any
) -> Any:
    found = packages(daemon_json=None if text is None else DaemonJson(text, "a" * 64))
    changes = daemon_json.changes(facts, Evidence(packages=found, **more), toolkit=toolkit, is_new=is_new)
    if not changes:
        return None
    step = changes[0].steps[0]
    assert isinstance(step, Mend)
    return {name: step.arguments[name] for name in ("log", "nvidia", "restart")}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (GOOD, None),
        (None, {"log": True, "nvidia": True, "restart": False}),
        ("", {"log": True, "nvidia": True, "restart": False}),
        ('{"runtimes": {"nvidia": {}}}', {"log": True, "nvidia": False, "restart": False}),
        ('{"log-driver": "local"}', {"log": False, "nvidia": True, "restart": False}),
        ('{"log-driver": "journald", "runtimes": {"nvidia": {}}}', None),
    ],
)
def test_daemon_json_lacks(text: str | None, asked: Any) -> None:
    assert config(text) == asked


def test_the_engine_is_restarted_where_it_must_look_again() -> None:
    assert config(GOOD, is_new=True) == {"log": False, "nvidia": False, "restart": True}
    assert config(GOOD, engine_has_hook=False) == {"log": False, "nvidia": False, "restart": True}
    assert config(GOOD, having(FINISHED, runtimes=("runc",))) == {"log": False, "nvidia": False, "restart": True}
    assert config(GOOD, having(FINISHED, runtimes=(), root=Unknown("down"))) is None
    assert config(GOOD, toolkit=False, is_new=True) is None


def test_what_dockerds_own_options_say_is_not_said_twice() -> None:
    said = Dockerd(("/usr/bin/dockerd", "--log-driver=journald", "--add-runtime", "nvidia=/usr/bin/x"))
    assert config("{}", dockerd=said) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n    "log-driver": "json-file"\n    "log-opts": {}\n}\n', "line 3, column 5"),
        ("[]", "holds no object"),
        ("{", "line 1, column 2"),
    ],
)
def test_a_broken_daemon_json_blocks_with_the_place(text: str, said: str) -> None:
    made = plan(FINISHED, packages(daemon_json=DaemonJson(text, "1")))
    assert [each.id for each in made.blocked] == ["prereqs.daemon-json"]
    assert said in made.blocked[0].text
    assert not made.changes
    unknown = plan(FINISHED, packages(daemon_json=Unknown("denied")))
    assert [each.level for each in unknown.blocked] == ["unknown"]


@pytest.mark.parametrize(
    ("text", "odd", "said"),
    [
        ("{}", "it is a symbolic link to /srv/d.json", "it is a symbolic link to /srv/d.json"),
        ("\ufeff{}", "it begins with a byte order mark", "a byte order mark"),
        ('{"debug": true, "debug": false}', "", "has debug twice"),
    ],
)
def test_a_daemon_json_that_is_not_rewritten_is_said_before_anything_is_done(text: str, odd: str, said: str) -> None:
    made = plan(FINISHED, packages(daemon_json=DaemonJson(text, "1", odd)))
    assert [each.id for each in made.blocked] == ["prereqs.daemon-json"]
    assert said in made.blocked[0].text
    right = packages(daemon_json=DaemonJson(GOOD, "1", odd))
    assert plan(FINISHED, right).blocked == ()  # where nothing is to be put into it, it may be what it is
    stale = having(FINISHED, runtimes=("runc",))
    assert [change.what for change in plan(stale, right).changes] == ["restart Docker's engine"]


def test_a_daemon_json_that_could_not_be_read_blocks() -> None:
    unknown = plan(FINISHED, packages(daemon_json=Unknown("denied")))
    assert [each.level for each in unknown.blocked] == ["unknown"]
