"""HTTPS spoken to services that speak HTTP: who does it, the right address, and what is none of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.evidence import WebuiSettings
from pantheon.facts import Command, Container, EnvValue, Facts, Http, digest
from pantheon.finding import Finding
from pantheon.fixes import wrong_version_number as entry
from pantheon.here import Here
from pantheon.incident import Case, Choices
from pantheon.inventory import Host
from pantheon.plan import Mend
from tests.unit import world

KEPT = WebuiSettings("/db", ollama_enabled=True, ollama_urls=("http://ollama:11434",), openai_enabled=False)
HTTPS = "https://ollama:11434"


def having(env: dict[str, str] | None = None, *, name: str = "openwebui", host: Host = world.HOST) -> Facts:
    facts = world.finished(host)
    made = facts.container(name)
    assert isinstance(made, Container)
    told = {key: EnvValue(value, digest(world.NONCE, value), False) for key, value in (env or {}).items()}
    facts = replace(facts, http={**facts.http, "openwebui/ready": Http("", 200, "OK", "", "", 1.0)})
    return world.having(facts, **{name: replace(made, env={**made.env, **told})})


def case(
    facts: Facts | None = None, *, kept: Any = KEPT, url: str = "", host: Host = world.HOST, here: Here | None = None
) -> Case:
    here = here or Here(http={name: Http("", 200, "OK", "", "", 1.0) for name in ("comfy", "ollama", "openwebui")})
    return world.case(facts or having(), host=host, webui=kept, here=here, choices=Choices(url=url))


def ids(found: list[Finding]) -> list[str]:
    return [f"{finding.id.removeprefix('wrong-version-number.')} {finding.level}" for finding in found]


OFF = {"ENABLE_PERSISTENT_CONFIG": "false"}


@pytest.mark.parametrize(
    ("facts", "kept", "found"),
    [
        (having(), KEPT, []),
        (having(), None, []),
        (world.fresh(), None, []),
        (having(), replace(KEPT, ollama_urls=(HTTPS,)), ["database fail"]),
        (having(), replace(KEPT, comfyui_url="https://comfy:8188"), ["database fail"]),
        (having(), replace(KEPT, comfyui_url="https://10.0.99.10:8188"), ["database fail"]),
        (having(), replace(KEPT, openai_urls=(f"{HTTPS}/v1",), openai_enabled=True), ["database fail"]),
        (having(), replace(KEPT, openai_urls=(f"{HTTPS}/v1",)), []),  # not switched on
        (having(), replace(KEPT, openai_urls=("https://api.openai.com/v1",), openai_enabled=True), []),
        (having(), replace(KEPT, ollama_urls=("https://ollama.example.com",)), []),
        (having(), replace(KEPT, ollama_urls=("https://10.0.99.10",)), []),  # a proxy with TLS, on 443
        (having(OFF), replace(KEPT, ollama_urls=(HTTPS,)), []),  # it does not count
        (having({"OLLAMA_BASE_URL": HTTPS}), KEPT, []),
        (having({"OLLAMA_BASE_URL": HTTPS}), None, ["environment fail"]),
        (having({"OLLAMA_BASE_URL": HTTPS, **OFF}), KEPT, ["environment fail"]),
        (having({"OLLAMA_BASE_URLS": f"http://a;{HTTPS}", **OFF}), KEPT, ["environment fail"]),
        (having({"COMFYUI_BASE_URL": "https://comfy:8188", **OFF}), KEPT, ["environment fail"]),
        (having({"X": "https://comfy:8188"}, name="comfy"), KEPT, ["environment fail"]),
    ],
)
def test_who_speaks_https(facts: Facts, kept: Any, found: list[str]) -> None:
    assert ids(entry.diagnose(case(facts, kept=kept))) == found


def test_hosts_toml_is_the_users_to_change() -> None:
    env = {"COMFYUI_BASE_URL": "https://comfy:8188"}
    host = replace(world.HOST, openwebui=replace(world.HOST.openwebui, env=env))
    bad = case(having(host=host), kept=None, host=host)
    (finding,) = entry.diagnose(bad)
    assert (finding.id, finding.level) == ("wrong-version-number.inventory", "fail")
    assert '[hosts.prometheus.openwebui.env] COMFYUI_BASE_URL = "http://comfy:8188"' in finding.mend
    section = entry.plan(bad)
    assert (section.changes, [f.id for f in section.blocked]) == ((), [finding.id])
    # The database has another one, which counts: no fault, and worth a word
    warned = case(having(host=host), kept=replace(KEPT, comfyui_url="http://comfy:8188"), host=host)
    assert ids(entry.diagnose(warned)) == ["inventory warn"]
    assert entry.plan(warned).blocked == ()


def test_hosts_toml_is_known_again_by_an_address_with_a_login() -> None:
    """Which is shown without it, of a container as of hosts.toml."""
    host = replace(
        world.HOST, openwebui=replace(world.HOST.openwebui, env={"COMFYUI_BASE_URL": "https://me:pw@comfy:8188"})
    )
    facts = having({"COMFYUI_BASE_URL": "https://***@comfy:8188"}, host=host)
    bad = case(facts, kept=None, host=host)
    (finding,) = entry.diagnose(bad)
    assert finding.id == "wrong-version-number.inventory"
    assert "pw" not in finding.mend + finding.evidence
    assert [f.id for f in entry.plan(bad).blocked] == [finding.id]


def test_a_secret_is_not_looked_through() -> None:
    env = {"COMFY_TOKEN": "https://comfy:8188"}
    host = replace(world.HOST, comfy=replace(world.HOST.comfy, env=env))
    assert entry.diagnose(case(having(host=host), host=host)) == []


def test_somebody_put_tls_in_front_of_it() -> None:
    said = [Http("", 200, "it speaks TLS", "", "", 1.0), Http("", 0, "", "", "tlsv1 alert unknown ca", 1.0)]
    for answer in (*said, replace(said[1], error="sslv3 alert handshake failure")):
        here = Here(https={"ollama": answer})
        assert entry.diagnose(case(kept=replace(KEPT, ollama_urls=(HTTPS,)), here=here)) == []


def test_what_is_changed() -> None:
    kept = replace(KEPT, ollama_urls=(HTTPS, "https://far.example.com"), comfyui_url="https://comfy:8188/x")
    section = entry.plan(case(kept=kept))
    (change,) = section.changes
    (step,) = change.steps
    assert isinstance(step, Mend)
    assert step.arguments["changes"] == [
        {"key": "ollama.base_urls", "from": HTTPS, "to": "http://ollama:11434"},
        {"key": "image_generation.comfyui.base_url", "from": "https://comfy:8188/x", "to": "http://comfy:8188/x"},
    ]
    # As another container reaches it, and without what is hidden of the address that was there.
    seen = {
        "https://***@comfy:8188/?***": "http://comfy:8188",
        "https://127.0.0.1:8188/": "http://comfy:8188",
        "https://host.docker.internal:8188/x": "http://comfy:8188/x",
        "https://comfy": "http://comfy:8188",
    }
    for url, right in seen.items():
        (change,) = entry.plan(case(kept=replace(KEPT, comfyui_url=url))).changes
        (step,) = change.steps
        assert isinstance(step, Mend)
        assert step.arguments["changes"] == [{"key": "image_generation.comfyui.base_url", "from": url, "to": right}]
    made_by_hand = entry.plan(case(having({"OLLAMA_BASE_URL": HTTPS, **OFF})))
    assert made_by_hand.starts == ("openwebui",)
    assert "recreate" in made_by_hand.changes[-1].what


def test_one_cause_where_it_is_ollama_that_is_missed() -> None:
    bad = case(kept=replace(KEPT, ollama_urls=(HTTPS,)))
    said: dict[str, Any] = {f"openwebui {HTTPS}": Command(35, "curl: (35) OpenSSL: wrong version number\n000 \n")}
    found = diagnosis.diagnose(replace(bad, evidence=replace(bad.evidence, inside=said)))
    (cause,) = found.causes
    assert cause.finding.id == "wrong-version-number.database"
    assert [finding.id for finding in cause.consequences] == ["openwebui-ollama.database"]


TLS = "wrong version number"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://127.0.0.1:8188", "http://127.0.0.1:8188"),
        (" https://localhost:8188/ ", "http://127.0.0.1:8188/"),
        ("HTTPS://prometheus:3000/c/1?a=b", "http://127.0.0.1:3000/c/1"),
        ("https://[::1]:11434", "http://127.0.0.1:11434"),
        ("https://10.0.99.10:8188", "http://127.0.0.1:8188"),
        ("https://comfy:8188", "http://127.0.0.1:8188"),
        ("https://me:pw@127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("https://127.0.0.1:8188/x#pw", "http://127.0.0.1:8188/x"),
        ("wss://127.0.0.1:8188/ws?clientId=1", "ws://127.0.0.1:8188/ws"),
    ],
)
def test_a_given_address_of_ours(url: str, right: str) -> None:
    name = {"8188": "comfy", "3000": "openwebui", "11434": "ollama"}[right.split(":")[2].split("/")[0]]
    here = Here(http={name: Http("", 200, "OK", "", "", 1.0)}, https={name: Http("", 0, "", "", TLS, 1.0)})
    asked = case(url=url, here=here)
    (finding,) = entry.diagnose(asked)
    assert (finding.level, f"use {right}," in finding.text, TLS in finding.evidence) == ("fail", True, True)
    assert "pw" not in finding.text + finding.evidence + finding.mend
    section = entry.plan(asked)
    assert (section.changes, section.blocked) == ((), ())
    assert entry.https_to(asked.host, asked.facts, asked.evidence, url) == (name,)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://huggingface.co/models", "none of the services of prometheus"),
        ("https://127.0.0.1:9999", "none of the services"),
        ("https://127.0.0.1", "none of the services"),
        ("http://127.0.0.1:8188", "spoken to with http, which is right"),
        ("127.0.0.1:8188", "spoken to with http, which is right"),
        ("https://", "no address"),
        ("https://127.0.0.1:8188\x1b[2J", "no address"),
        ("https://a b", "no address"),
        ("x" * 5000, "no address"),
        ("https://me:pw@example.com", "https://example.com is none"),
        ("https://127.0.0.1:99999", "no address"),
        ("$(reboot)", "none of the services"),
        ("ftp://127.0.0.1:8188", "no address"),
        ("javascript://127.0.0.1:8188", "no address"),
        ("https://me:a/pw@example.com/?k=pw", "no address"),
        ("   ", "no address"),
    ],
)
def test_a_given_address_that_is_none_of_ours(url: str, says: str) -> None:
    asked = case(url=url)
    assert entry.diagnose(asked) == []
    section = entry.plan(asked)
    assert (section.changes, section.blocked) == ((), ())
    assert says in section.reason
    assert section.reason.isprintable()
    assert len(section.reason) < 400
    assert "pw" not in section.reason
    assert entry.https_to(asked.host, asked.facts, asked.evidence, url) == ()


def test_without_an_address_the_option_is_named() -> None:
    assert "--url" in entry.plan(case()).reason
