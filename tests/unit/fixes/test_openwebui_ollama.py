"""Why Open WebUI misses its Ollama: told apart by what curl says inside it, and nothing said while all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis, webui
from pantheon.evidence import WebuiSettings
from pantheon.facts import Command, Container, EnvValue, Facts, Http, Unknown, digest
from pantheon.finding import Finding
from pantheon.fixes import openwebui_logins, wrong_version_number
from pantheon.fixes import openwebui_ollama as entry
from pantheon.incident import Case
from pantheon.plan import Mend, Run, SectionPlan
from tests.unit import world

RIGHT = "http://ollama:11434"
HOST_DOCKER = "http://host.docker.internal:11434"
REMOTE = "http://10.0.0.7:11434"
KEPT = WebuiSettings("/db", bytes=1 << 20, ollama_enabled=True, ollama_urls=(RIGHT,), openai_enabled=False)
GOOD = Command(0, "200 \n")
NO_NAME = Command(6, "curl: (6) Could not resolve host: x\n000 \n")
SLOW = Command(28, "curl: (28) Operation timed out after 2001 milliseconds with 0 bytes received\n000 \n")
UPGRADE = "INFO  [alembic.runtime.migration] Running upgrade 374d2f66af06 -> 8452d01d26d7, Add chat_message table"


def having(name: str = "openwebui", env: dict[str, str] | None = None, **changes: Any) -> Facts:
    facts = world.finished()
    ready = {"openwebui/ready": Http("", 200, "OK", "", "", 1.0)}
    facts = replace(facts, http={**facts.http, **ready})
    made = facts.container(name)
    assert isinstance(made, Container)
    told = {key: EnvValue(value, digest(world.NONCE, value), False) for key, value in (env or {}).items()}
    return world.having(facts, **{name: replace(made, env={**made.env, **told}, **changes)})


def case(facts: Any = None, *, kept: Any = KEPT, **answers: Any) -> Case:
    """`answers` by address: what curl said in there."""
    inside = {f"openwebui {url}": answer for url, answer in answers.items()}
    return world.case(facts or having(), webui=kept, inside=inside)


def ids(found: list[Finding]) -> list[str]:
    return [f"{finding.id.removeprefix('openwebui-ollama.')} {finding.level}" for finding in found]


def having_urls(*urls: str, **more: Any) -> WebuiSettings:
    return replace(KEPT, ollama_urls=urls, **more)


@pytest.mark.parametrize(
    ("kept", "answers", "found"),
    [
        (KEPT, {RIGHT: GOOD}, []),
        (KEPT, {}, []),
        (None, {RIGHT: GOOD}, []),
        (KEPT, {RIGHT: Unknown("no answer within 3.5 s")}, []),
        (having_urls("http://ollama:11434/"), {"http://ollama:11434/": GOOD}, []),
        # somebody's own, which answers
        (having_urls(REMOTE), {REMOTE: GOOD}, []),
        (having_urls(HOST_DOCKER), {HOST_DOCKER: GOOD}, []),
        (having_urls("https://ollama.example.com"), {"https://ollama.example.com": Command(0, "401 \n")}, []),
        (having_urls("http://***@ollama.lan"), {"http://***@ollama.lan": Unknown("a login")}, []),
        # one of several
        (having_urls(RIGHT, REMOTE), {RIGHT: GOOD, REMOTE: NO_NAME}, ["other warn"]),
        (having_urls(RIGHT, HOST_DOCKER), {RIGHT: GOOD, HOST_DOCKER: NO_NAME}, ["other warn"]),
        (having_urls(REMOTE, HOST_DOCKER), {REMOTE: GOOD, HOST_DOCKER: NO_NAME}, ["database fail"]),
        # all wrong
        (having_urls(HOST_DOCKER), {HOST_DOCKER: NO_NAME}, ["database fail"]),
        (having_urls("https://ollama:11434"), {"https://ollama:11434": NO_NAME}, ["database fail"]),
        (having_urls("http://localhost:11434"), {}, ["database fail"]),
        (having_urls(REMOTE), {REMOTE: NO_NAME}, ["database fail"]),
        (having_urls(REMOTE), {REMOTE: Command(0, "404 \n")}, ["database fail"]),
        (having_urls("ü x"), {"ü x": Command(3, "000 it is no http address\n")}, ["database fail"]),
        # switched off
        (replace(KEPT, ollama_enabled=False), {RIGHT: GOOD}, ["switched-off fail"]),
        (replace(KEPT, ollama_enabled=False, openai_enabled=True), {RIGHT: GOOD}, ["switched-off warn"]),
        (replace(KEPT, ollama_off=(RIGHT,)), {RIGHT: GOOD}, ["switched-off fail"]),
        (having_urls(), {}, ["switched-off fail"]),
        (having_urls(HOST_DOCKER, RIGHT, ollama_off=(HOST_DOCKER,)), {RIGHT: GOOD, HOST_DOCKER: NO_NAME}, []),
        (having_urls("", " "), {}, ["switched-off fail"]),
        (having_urls("http://ollama:11434\\x1b"), {"http://ollama:11434\\x1b": NO_NAME}, ["database fail"]),
        # one that could not be tried may be the one in use
        (having_urls(REMOTE, "http://***@ollama.lan"), {REMOTE: NO_NAME}, ["other warn"]),
        (having_urls(RIGHT, "http://***@ollama.lan"), {RIGHT: SLOW}, ["unreachable fail"]),
        # the database decides, and cannot be read
        (Unknown("webui.db: file is not a database"), {RIGHT: NO_NAME}, ["settings unknown"]),
    ],
)
def test_what_its_settings_say(kept: Any, answers: dict[str, Any], found: list[str]) -> None:
    assert ids(entry.diagnose(case(kept=kept, **answers))) == found


@pytest.mark.parametrize(
    ("facts", "answer", "found"),
    [
        (having(networks=()), NO_NAME, ["network fail"]),
        (having("ollama", networks=("bridge",)), NO_NAME, ["network fail"]),
        (having("ollama", state="exited", exit_code=1), NO_NAME, ["down fail"]),
        (world.having(having(), ollama=None), NO_NAME, ["down fail"]),
        (having("ollama", health="starting"), SLOW, []),
        (having("ollama", health="unhealthy"), SLOW, ["hangs fail"]),
        (having(), SLOW, ["unreachable fail"]),
    ],
)
def test_the_address_is_right_and_nothing_answers(facts: Facts, answer: Command, found: list[str]) -> None:
    assert ids(entry.diagnose(case(facts, **{RIGHT: answer}))) == found


def test_the_environment_counts_where_the_database_does_not() -> None:
    env = {"OLLAMA_BASE_URL": HOST_DOCKER}
    assert ids(entry.diagnose(case(having(env=env), **{RIGHT: GOOD, HOST_DOCKER: NO_NAME}))) == []
    wrong = {HOST_DOCKER: NO_NAME, RIGHT: GOOD}
    assert ids(entry.diagnose(case(having(env=env), kept=None, **wrong))) == ["environment fail"]
    off = {**env, "ENABLE_PERSISTENT_CONFIG": "false"}
    assert ids(entry.diagnose(case(having(env=off), **wrong))) == ["environment fail"]
    several = {"OLLAMA_BASE_URLS": f"{REMOTE};{RIGHT}", "ENABLE_PERSISTENT_CONFIG": "False"}
    assert ids(entry.diagnose(case(having(env=several), **wrong, **{REMOTE: GOOD}))) == []
    postgres = {**env, "DATABASE_URL": "postgresql://db"}
    assert ids(entry.diagnose(case(having(env=postgres), **wrong))) == ["environment fail"]


@pytest.mark.parametrize(
    "facts",
    [
        world.fresh(),
        world.having(having(), openwebui=None),
        having(labels={}),
        having(health="starting"),
    ],
)
def test_nothing_is_said_where_it_cannot_be(facts: Facts) -> None:
    if (made := facts.container("openwebui")) and isinstance(made, Container) and made.health == "starting":
        facts = replace(facts, http={**facts.http, "openwebui/ready": Http("", 503, "", "", "", 1.0)})
    bad = case(facts, kept=having_urls(HOST_DOCKER), **{HOST_DOCKER: NO_NAME})
    assert entry.diagnose(bad) == []
    section = entry.plan(bad)
    assert (section.changes, section.blocked, bool(section.reason)) == ((), (), True)


def test_its_log_makes_settings_that_cannot_be_read_a_question() -> None:
    complaint = "Connection error: Cannot connect to host x:11434 ssl:default [Name or service not known]"
    (finding,) = entry.diagnose(case(having(log_markers=(complaint,)), kept=Unknown("no sqlite3")))
    assert (finding.level, complaint in finding.evidence, "no sqlite3" in finding.evidence) == ("unknown", True, True)


def changes_of(section: SectionPlan) -> list[Any]:
    steps = [step for change in section.changes for step in change.steps if isinstance(step, Mend)]
    return [one for step in steps for one in step.arguments["changes"]]  # type: ignore[attr-defined]


def test_only_the_wrong_addresses_change() -> None:
    kept = having_urls(REMOTE, HOST_DOCKER, "http://127.0.0.1:11434")
    bad = case(kept=kept, **{REMOTE: GOOD, HOST_DOCKER: NO_NAME, "http://127.0.0.1:11434": NO_NAME})
    section = entry.plan(bad)
    assert changes_of(section) == [
        {"key": "ollama.base_urls", "from": HOST_DOCKER, "to": RIGHT},
        {"key": "ollama.base_urls", "from": "http://127.0.0.1:11434", "to": RIGHT},
    ]
    (change,) = section.changes
    assert change.stops == ("openwebui",)
    assert "1.0 MiB" in change.steps[0].show()


@pytest.mark.parametrize(
    ("kept", "changes"),
    [
        (having_urls(REMOTE), [{"key": "ollama.base_urls", "from": REMOTE, "to": RIGHT}]),
        (replace(KEPT, ollama_enabled=False), [{"key": "ollama.enable", "to": True}]),
        (having_urls(), [{"key": "ollama.base_urls", "to": [RIGHT]}]),
        (replace(KEPT, ollama_off=(RIGHT,)), [{"key": "ollama.api_configs", "to": {RIGHT: True}}]),
        (having_urls(""), [{"key": "ollama.base_urls", "to": [RIGHT]}]),
        # switched off, and wrong besides: both at once
        (
            having_urls(HOST_DOCKER, ollama_enabled=False),
            [{"key": "ollama.base_urls", "from": HOST_DOCKER, "to": RIGHT}, {"key": "ollama.enable", "to": True}],
        ),
        (
            having_urls(HOST_DOCKER, ollama_off=(HOST_DOCKER,)),
            [
                {"key": "ollama.base_urls", "from": HOST_DOCKER, "to": RIGHT},
                {"key": "ollama.api_configs", "to": {RIGHT: True}},
            ],
        ),
    ],
)
def test_what_is_changed_in_the_database(kept: WebuiSettings, changes: list[Any]) -> None:
    answers = {REMOTE: NO_NAME, HOST_DOCKER: NO_NAME, RIGHT: GOOD}
    assert changes_of(entry.plan(case(kept=kept, **answers))) == changes


def test_an_ollama_of_somebody_elses_that_is_down_is_called_so() -> None:
    (finding,) = entry.diagnose(case(kept=having_urls(REMOTE), **{REMOTE: NO_NAME}))
    assert "that does not answer" in finding.text
    assert "not the one of this host" in finding.evidence


def test_a_certificate_that_open_webui_does_not_check() -> None:
    url = "https://proxy.lan"
    said = Command(60, "curl: (60) SSL certificate problem: self-signed certificate\n000 \n")
    assert ids(entry.diagnose(case(kept=having_urls(url), **{url: said}))) == ["database fail"]
    facts = having(env={"AIOHTTP_CLIENT_SESSION_SSL": "False"})
    assert entry.diagnose(case(facts, kept=having_urls(url), **{url: said})) == []


def test_the_environment_is_made_anew_and_the_database_with_it() -> None:
    env = {"OLLAMA_BASE_URL": HOST_DOCKER, "ENABLE_PERSISTENT_CONFIG": "false"}
    section = entry.plan(case(having(env=env), kept=having_urls(HOST_DOCKER), **{HOST_DOCKER: NO_NAME, RIGHT: GOOD}))
    steps = [step for change in section.changes for step in change.steps]
    assert [type(step) for step in steps] == [Mend, Run]
    assert "--force-recreate" in steps[1].show()
    assert section.starts == ("openwebui",)


def test_what_hosts_toml_says_is_the_users_to_change() -> None:
    host = replace(world.HOST, openwebui=replace(world.HOST.openwebui, env={"OLLAMA_BASE_URLS": HOST_DOCKER}))
    facts = replace(world.finished(host), http={"openwebui/ready": Http("", 200, "", "", "", 1.0)})
    bad = replace(case(facts, kept=None, **{HOST_DOCKER: NO_NAME}), host=host)
    section = entry.plan(bad)
    assert section.changes == ()
    assert "[hosts.prometheus.openwebui.env] OLLAMA_BASE_URLS" in section.blocked[0].text


def test_networks_and_a_hanging_ollama_are_mended() -> None:
    apart = entry.plan(case(having("ollama", networks=("bridge",)), **{RIGHT: NO_NAME}))
    assert apart.starts == ("ollama",)
    assert any("ollama" in step.show() for change in apart.changes for step in change.steps)
    hangs = entry.plan(case(having("ollama", health="unhealthy"), **{RIGHT: SLOW}))
    (change,) = hangs.changes
    assert (change.stops, change.steps[0].show()) == (("ollama",), "docker restart -t 5 ollama")
    down = entry.plan(case(having("ollama", state="exited"), **{RIGHT: NO_NAME}))
    assert (down.changes, down.blocked[0].mend) == ((), "invoke ollama --host prometheus")


def test_never_in_a_migration() -> None:
    facts = having(log_markers=(UPGRADE,))
    facts = replace(facts, http={**facts.http, "openwebui/ready": Http("", 503, "", "", "", 1.0)})
    moving = case(facts, kept=having_urls(HOST_DOCKER), **{HOST_DOCKER: NO_NAME})
    assert ids(entry.diagnose(moving)) == ["migration warn"]
    section = entry.plan(moving)
    assert (section.changes, [finding.evidence for finding in section.blocked]) == ((), [UPGRADE])
    assert entry.diagnose(case(facts)) == []
    over = having(log_markers=(UPGRADE, "INFO:     Application startup complete."))
    assert webui.migration(case(over)) == ""


def test_cut_short_it_goes_on() -> None:
    """Stopped, and not started again: what is certain is certain without curl."""
    stopped = case(having(state="exited"), kept=having_urls(HOST_DOCKER))
    assert ids(entry.diagnose(stopped)) == ["database fail"]
    assert changes_of(entry.plan(stopped)) == [{"key": "ollama.base_urls", "from": HOST_DOCKER, "to": RIGHT}]
    assert entry.diagnose(case(having(state="exited"), kept=having_urls(REMOTE))) == []


def test_cut_short_after_its_change_it_is_started() -> None:
    gone = world.having(having(), openwebui=None)
    for facts in (having(state="exited", exit_code=0), having(state="created"), gone):
        for name in (entry, openwebui_logins, wrong_version_number):
            left = replace(case(facts), evidence=replace(case(facts).evidence, unfinished=f"fix.{name.ID}"))
            (finding,) = name.diagnose(left)
            assert (finding.id, finding.level) == (f"{name.ID}.stopped", "fail")
            section = name.plan(left)
            assert ([c.what for c in section.changes] != [], section.name, section.starts) == (
                True,
                name.ID,
                ("openwebui",),
            )
            (cause,) = [c for c in diagnosis.diagnose(left).causes if "openwebui" in c.finding.id or c.entry]
            assert cause.finding == finding
    # Of another fix, or by somebody's own hand: `invoke openwebui` starts it
    for unfinished in (None, "openwebui", "fix.gpu-lost"):
        by_hand = case(having(state="exited", exit_code=0))
        assert entry.diagnose(replace(by_hand, evidence=replace(by_hand.evidence, unfinished=unfinished))) == []
    runs = case(**{RIGHT: GOOD})
    assert entry.diagnose(replace(runs, evidence=replace(runs.evidence, unfinished=f"fix.{entry.ID}"))) == []
    theirs = case(having(state="exited", labels={}))
    assert entry.diagnose(replace(theirs, evidence=replace(theirs.evidence, unfinished=f"fix.{entry.ID}"))) == []


def test_one_cause_for_a_network_that_is_missing() -> None:
    facts = having("ollama", networks=())
    closed = Http("http://127.0.0.1:11434/", 0, "", "", "connection refused", 1.0)
    facts = replace(facts, http={**facts.http, "ollama": closed})
    found = diagnosis.diagnose(case(facts, **{RIGHT: NO_NAME}))
    assert [cause.finding.id for cause in found.causes] == ["openwebui-ollama.network"]
    assert {finding.id for finding in found.causes[0].consequences} >= {"ollama.http", "ollama.http-here"}


def test_an_ollama_that_is_down_is_its_own_cause() -> None:
    found = diagnosis.diagnose(case(having("ollama", state="exited"), **{RIGHT: NO_NAME}))
    assert "openwebui-ollama.down" not in [cause.finding.id for cause in found.causes]


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://ollama:11434", "ollama"),
        ("https://OLLAMA", "ollama"),
        ("http://localhost:11434/", "ollama"),
        ("http://[::1]:11434", "ollama"),
        ("http://127.0.0.53:8188/x?y", "comfy"),
        ("http://host.docker.internal:3000", "openwebui"),
        ("10.0.99.10:8188", "comfy"),
        ("http://me:pw@comfy:1", "comfy"),
        ("localhost:8188", "comfy"),
        ("http:/comfy", "comfy"),
        ("http://localhost", ""),
        ("http://localhost:8080", ""),
        ("http://ollama.example.com:11434", ""),
        ("http://ollama:99999999", ""),
        ("http://10.0.0.7:11434", ""),
        ("", ""),
        ("http://", ""),
        ("http://ollama:11434\x1b[2J", ""),
        ("https://ollama :11434", ""),
        ("x" * 100_000, ""),
        ("http://" + "a@" * 5000, ""),
    ],
)
def test_what_an_address_means(url: str, service: str) -> None:
    assert webui.leads_to(world.HOST, url) == service
