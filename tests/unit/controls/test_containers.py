"""How containers are run: each judge on ours, on somebody's, and on what is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon.control import Status, Verdict
from pantheon.controls import containers
from pantheon.facts import Container, ContainerMount, Docker, Image, Unknown
from pantheon.incident import Case
from pantheon.inventory import Host
from pantheon.upkeep import Namespaces
from tests.unit.world import HOST, case, container, finished, having

DIGEST = "sha256:" + "a" * 64


def judged(name: str, given: Case) -> Verdict:
    return next(c for c in containers.CONTROLS if c.id == f"containers.{name}").judge(given)


def other(name: str, **changes: Any) -> Container:
    """One of somebody's, safe by itself."""
    return replace(container(HOST, "ollama", labels={}, mounts=(), **changes), name=name)


def theirs(**changes: Any) -> Case:
    """Ours as they should be, and one of somebody's."""
    made = {"image": "grafana/grafana:11.4.0", "image_id": "sha256:" + "9" * 64, "ports": (), **changes}
    return case(having(finished(), grafana=other("grafana", **made)), namespaces=())


NAMES = [c.id.partition(".")[2] for c in containers.CONTROLS if c.id != "containers.image-pinned"]


@pytest.mark.parametrize("name", NAMES)
def test_ours_are_fine(name: str) -> None:
    assert judged(name, case(finished(), namespaces=())).status == "pass"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_there(name: str) -> None:
    verdict = judged(name, case(replace(finished(), containers=()), namespaces=()))
    assert verdict.status == "not applicable"


@pytest.mark.parametrize("name", [*NAMES, "image-pinned"])
def test_not_known(name: str) -> None:
    host = pinned()
    verdict = judged(name, case(replace(finished(host), containers=Unknown("denied")), host=host, namespaces=()))
    assert (verdict.status, verdict.evidence) == ("unknown", "denied")
    assert verdict.mend == "invoke diagnose --host prometheus"


@pytest.mark.parametrize("name", NAMES)
def test_one_that_could_not_be_inspected(name: str) -> None:
    verdict = judged(name, theirs(unread="no answer"))
    assert (verdict.status, verdict.evidence) == ("unknown", "grafana: no answer")


@pytest.mark.parametrize(
    ("name", "changes", "status", "says"),
    [
        ("log-rotation", {"log_options": {}}, "fail", "json-file without max-size"),
        ("log-rotation", {"log_options": {"max-size": "-1"}}, "fail", "json-file without max-size"),
        ("log-rotation", {"log_options": {"max-size": "10m"}}, "pass", ""),
        ("log-rotation", {"log_options": {"max-size": "500g"}}, "fail", "its log may take 500 GiB"),
        ("log-rotation", {"log_options": {"max-size": "5g", "max-file": "10"}}, "fail", "its log may take 50 GiB"),
        ("log-rotation", {"log_driver": "", "log_options": {}}, "fail", "its log without max-size"),
        ("log-rotation", {"log_driver": "local", "log_options": {}}, "pass", ""),
        ("log-rotation", {"log_driver": "journald", "log_options": {}}, "pass", ""),
        ("restart", {"restart_policy": "no"}, "fail", "restart policy no: it does not come back"),
        ("restart", {"restart_policy": ""}, "fail", "restart policy no"),
        ("restart", {"restart_policy": "on-failure"}, "fail", "restart policy on-failure"),
        ("restart", {"restart_policy": "always"}, "pass", ""),
        ("restart", {"restart_policy": "no", "state": "exited"}, "pass", ""),
        ("privileged", {"privileged": True}, "fail", "it runs privileged"),
        ("capabilities", {"cap_add": ("SYS_ADMIN",)}, "fail", "has SYS_ADMIN, which it was given besides"),
        ("capabilities", {"cap_add": ("NET_ADMIN", "ALL")}, "fail", "has ALL, NET_ADMIN"),
        ("capabilities", {"cap_add": ("CHOWN", "SETUID")}, "pass", ""),
        ("new-privileges", {"security_opt": ()}, "fail", "a setuid program in it can gain privileges"),
        ("new-privileges", {"security_opt": ("no-new-privileges:false",)}, "fail", "can gain privileges"),
        ("new-privileges", {"security_opt": ("no-new-privileges",)}, "pass", ""),
        ("new-privileges", {"security_opt": ("no-new-privileges=true",)}, "pass", ""),
        ("namespaces", {"networks": ("host",)}, "fail", "shares the host's network"),
    ],
)
def test_somebody_s(name: str, changes: dict[str, Any], status: Status, says: str) -> None:
    verdict = judged(name, theirs(**changes))
    assert verdict.status == status
    assert says in verdict.evidence
    if status == "fail":
        assert verdict.evidence.startswith("grafana: ")
        assert verdict.mend == "make grafana again without that, by whatever it was made with"


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("/var/run/docker.sock", "fail"), ("/run/docker.sock", "fail"), ("/var/run", "fail"), ("/run/", "fail"),
        ("/", "fail"), ("/run/containerd/containerd.sock", "fail"), ("/srv/run", "pass"), ("/var/running", "pass"),
        ("/var/run/docker.sock.old", "pass"),
    ],
)  # fmt: skip
def test_the_engine_s_socket(source: str, status: Status) -> None:
    made = replace(other("portainer"), mounts=(ContainerMount("bind", source, "/s", False, ""),))
    assert judged("docker-socket", case(having(finished(), portainer=made))).status == status


def test_ours_are_mended_by_a_bringup() -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", privileged=True))
    verdict = judged("privileged", case(facts))
    assert verdict == Verdict("fail", "comfy: it runs privileged", "invoke bringup --host prometheus")


def test_ours_need_no_capability_at_all() -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", cap_add=("CHOWN",)))
    assert judged("capabilities", case(facts)).status == "fail"


def test_the_image_s_own_user_switch_needs_four_and_sudo() -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, image_user_switch=True))
    given = case(finished(host), host=host)
    assert judged("capabilities", given).status == "pass"
    assert judged("new-privileges", given).status == "pass"


@pytest.mark.parametrize(
    ("text", "status"),
    [('{"no-new-privileges": true}', "pass"), ('{"no-new-privileges": false}', "fail"), ("{", "fail"), ("[]", "fail"),
     (None, "fail"), (Unknown("denied"), "fail")],
)  # fmt: skip
def test_the_engine_s_default_counts(text: Any, status: Status) -> None:
    given = theirs(security_opt=())
    assert isinstance(given.facts.docker, Docker)
    facts = replace(given.facts, docker=replace(given.facts.docker, daemon_json=text))
    assert judged("new-privileges", replace(given, facts=facts)).status == status


def test_namespaces_by_the_engine_s_own_files() -> None:
    given = case(finished(), namespaces=(Namespaces("ollama", ("pid", "ipc")), Namespaces("gone", ("network",))))
    verdict = judged("namespaces", given)
    assert (verdict.status, verdict.evidence) == ("fail", "ollama: shares the host's pid, ipc")


def test_namespaces_not_known() -> None:
    assert judged("namespaces", case(finished(), namespaces=Unknown("denied"))).status == "unknown"


@pytest.mark.parametrize(
    ("reference", "pinned"),
    [
        ("ollama/ollama:latest", False),
        ("ollama/ollama", False),
        ("ollama/ollama:0.13.1", True),
        (f"ollama/ollama:latest@{DIGEST}", True),
        (f"ollama/ollama@{DIGEST}", True),
        ("ghcr.io/open-webui/open-webui:main", False),
        ("ghcr.io/open-webui/open-webui:v0.12.4", True),
        ("mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest", False),
        ("mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.0-20251006", True),
        ("localhost:5000/x", False),
        ("localhost:5000/x:1", True),
        ("localhost:5000/x:dev", False),
        ("a/b:mainline", True),
        ("a/b:nightly", False),
        (DIGEST, True),
        ("a" * 64, True),
    ],
)
def test_what_is_pinned(reference: str, pinned: bool) -> None:
    assert containers.is_pinned(reference) is pinned


def pinned() -> Host:
    return replace(
        HOST,
        comfy=replace(HOST.comfy, image="a/comfy:1.0"),
        ollama=replace(HOST.ollama, image="a/ollama:1.0"),
        openwebui=replace(HOST.openwebui, image="a/openwebui:1.0"),
    )


def test_images_as_shipped_are_not() -> None:
    facts = finished()
    image = Image("sha256:x", (f"ollama/ollama@{DIGEST}",), 1, "")
    facts = replace(facts, images={**facts.images, HOST.ollama.image: image})
    verdict = judged("image-pinned", case(facts))
    assert verdict.status == "fail"
    assert verdict.evidence.splitlines() == [
        "comfy: mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest is another image tomorrow",
        "ollama: ollama/ollama:latest is another image tomorrow",
        "openwebui: ghcr.io/open-webui/open-webui:main is another image tomorrow",
    ]
    assert verdict.mend == f'in hosts.toml:\n[hosts.prometheus.ollama]\nimage = "ollama/ollama:latest@{DIGEST}"'


def test_pinned_images_and_somebody_s_that_is_not() -> None:
    host = pinned()
    assert judged("image-pinned", case(finished(host), host=host)).status == "pass"
    made = other("grafana", image="grafana/grafana")
    verdict = judged("image-pinned", case(having(finished(host), grafana=made), host=host))
    assert (verdict.status, verdict.evidence) == ("fail", "grafana: grafana/grafana is another image tomorrow")


def test_ours_come_first_then_by_name() -> None:
    facts = finished()
    for name in ("zeta", "alpha"):
        facts = having(facts, **{name: other(name, privileged=True)})
    facts = having(facts, openwebui=container(HOST, "openwebui", privileged=True))
    lines = judged("privileged", case(facts)).evidence.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["openwebui", "alpha", "zeta"]
