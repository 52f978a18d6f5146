"""The chain from a container to a browser: which link breaks, and what is said of it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from pantheon import diagnosis
from pantheon.circumstances import SshdLine
from pantheon.evidence import Sshd
from pantheon.facts import EnvValue, Facts, Http, Unknown, digest
from pantheon.finding import Finding
from pantheon.fixes import browser_access
from pantheon.here import NOT_ALLOWED, NOTHING_LISTENS, Here, LocalPort
from pantheon.incident import Case
from pantheon.inventory import SERVICES, Host
from tests.unit.world import HOST, NONCE, case, container, finished, fresh, having

OPEN = {"allowtcpforwarding": "yes", "disableforwarding": "no", "permitopen": "any"}
DROP_IN = "/etc/ssh/sshd_config.d/10-hardening.conf"


def answer(status: int = 200, error: str = "", reason: str = "OK") -> Http:
    return Http("http://127.0.0.1/", status, "" if error else reason, "", error, 1.0)


def here(**changes: Any) -> Here:
    """All works; `changes` by the fields of Here, merged."""
    whole: dict[str, dict[str, Any]] = {
        "http": {name: answer() for name in SERVICES},
        "browser": {name: answer() for name in browser_access.BROWSED},
        "websocket": {name: answer(101) for name in browser_access.BROWSED},
        "ports": {name: LocalPort(HOST.service(name).port, "", HOST.service(name).port) for name in SERVICES},
    }
    return Here(**{name: {**table, **changes.get(name, {})} for name, table in whole.items()})


def refused(*names: str) -> Here:
    return here(http={name: answer(0, NOT_ALLOWED) for name in names or SERVICES})


def settings(**changes: str) -> Sshd:
    return Sshd({**OPEN, **changes}, user="ops")


def told(made: Case) -> list[str]:
    return [finding.id for finding in browser_access.diagnose(made)]


def broken(made: Case) -> list[str]:
    return [finding.id.removeprefix("browser-access.") for finding in browser_access.steps(made) if not finding.is_good]


def with_env(host: Host, name: str, **values: str) -> Facts:
    ours = container(host, name)
    env = {key: EnvValue(value, digest(NONCE, value), False) for key, value in values.items()}
    return having(finished(host), **{name: replace(ours, env={**ours.env, **env})})


def test_a_whole_chain_is_told_link_by_link_and_says_the_way_in() -> None:
    made = case(finished(), here=here(), sshd=settings())
    assert told(made) == []
    steps = browser_access.steps(made)
    assert {finding.level for finding in steps} == {"ok"}
    assert len(steps) == 2 + 6 * len(browser_access.BROWSED)
    section = browser_access.plan(made)
    assert section.is_ready
    assert "invoke tunnel comfy --host prometheus, then http://127.0.0.1:8188/ (http, not https)" in section.reason


def test_the_way_in_is_where_a_tunnel_would_come_out() -> None:
    made = case(finished(), here=here(ports={"comfy": LocalPort(8188, "ssh (pid 7)", 8189)}))
    assert "http://127.0.0.1:8189/" in browser_access.plan(made).reason
    step = next(finding for finding in browser_access.steps(made) if finding.id == "browser-access.comfy.local-port")
    assert step.level == "warn"
    assert step.text == "comfy: port 8188 here is held by ssh (pid 7): a tunnel takes 8189 instead"
    assert told(made) == []


def test_a_tunnel_that_is_open_is_the_way_in() -> None:
    local = LocalPort(8188, "a tunnel to comfy of prometheus (pid 7)", 8189,
                      close="invoke tunnel.close comfy --host prometheus")  # fmt: skip
    made = case(finished(), here=here(ports={"comfy": local}))
    step = next(finding for finding in browser_access.steps(made) if finding.id == "browser-access.comfy.local-port")
    assert (step.level, step.text) == ("ok", "comfy: a tunnel to it is open here: http://127.0.0.1:8188/")
    reason = browser_access.plan(made).reason
    assert "The way in: http://127.0.0.1:8188/ (http, not https), where a tunnel is open" in reason
    waits = case(finished(), here=here(ports={"comfy": replace(local, silent="closed without an answer")}))
    assert browser_access.diagnose(waits) == []


def test_the_links_stand_in_the_order_of_the_way() -> None:
    ids = [
        finding.id.removeprefix("browser-access.") for finding in browser_access.steps(case(finished(), here=here()))
    ]
    assert (
        ids.index("comfy.host") < ids.index("forwarding") < ids.index("comfy.local-port") < ids.index("comfy.browser")
    )


@pytest.mark.parametrize(
    ("holder", "close", "says"),
    [
        ("ssh (pid 7)", "", "kill 7"),
        ("another program", "", "ss -ltnp 'sport = :8188'"),
        ("postgres (pid 7)", "", "ss -ltnp 'sport = :8188'"),  # it may be well, and speak no HTTP
        (
            "a tunnel to comfy of zeus (pid 7)",
            "invoke tunnel.close comfy --host zeus",
            "tunnel.close comfy --host zeus",
        ),
    ],
)
def test_a_dead_tunnel_on_this_side_is_a_warning_of_the_diagnosis_too(holder: str, close: str, says: str) -> None:
    local = LocalPort(8188, holder, 8189, silent="no answer within 2 s", close=close)
    made = case(finished(), here=here(ports={"comfy": local}))
    (warning,) = browser_access.diagnose(made)
    assert (warning.level, warning.id) == ("warn", "browser-access.comfy.local-port")
    assert "nothing answers there" in warning.text
    assert "no answer within 2 s; a tunnel takes 8189 instead" in warning.evidence
    assert says in warning.mend
    assert ("dead ssh" in warning.text, "kill" in warning.mend) == (holder == "ssh (pid 7)",) * 2
    assert browser_access.plan(made).is_ready
    assert diagnosis.diagnose(made).is_good


@pytest.mark.parametrize("facts", [fresh(), having(finished(), comfy=None)], ids=["bare", "one missing"])
def test_a_service_that_does_not_run_is_no_fault_of_this_chain(facts: Facts) -> None:
    made = case(facts, here=here(http={"comfy": answer(0, NOTHING_LISTENS)}))
    assert told(made) == []
    assert broken(made)[0] == "comfy.container"
    section = browser_access.plan(made)
    assert not section.changes
    assert section.blocked[0].mend == "invoke comfy --host prometheus"


@pytest.mark.parametrize("state", [{"health": "starting"}, {"health": "unhealthy"}, {"state": "restarting"}])
def test_a_container_that_is_not_ready_is_left_to_others(state: dict[str, str]) -> None:
    facts = having(finished(), comfy=container(HOST, "comfy", **state))
    facts = replace(facts, http={**facts.http, "comfy": answer(0, "Connection refused")})
    bad = here(http={"comfy": answer(0, NOTHING_LISTENS)}, websocket={"comfy": answer(0, NOTHING_LISTENS)})
    made = case(facts, here=bad)
    assert told(made) == []
    assert broken(made) == ["comfy.container"]


def test_containers_that_are_not_known_are_said_so() -> None:
    made = case(replace(finished(), containers=Unknown("no answer")), here=here())
    assert told(made) == []
    assert {finding.level for finding in browser_access.steps(made) if not finding.is_good} == {"unknown"}
    assert browser_access.plan(made).blocked


# ---- sshd


def lines(*given: tuple[str, str, str]) -> tuple[SshdLine, ...]:
    return tuple(SshdLine(DROP_IN, number, *line) for number, line in enumerate(given, 1))


FORBIDDEN: list[tuple[str, Sshd, str]] = [
    (
        "a drop-in",
        replace(settings(allowtcpforwarding="no"), lines=lines(("allowtcpforwarding", "no", ""))),
        "1s/.*/AllowTcpForwarding local/",
    ),
    (
        "the first line wins",
        replace(
            settings(allowtcpforwarding="no"),
            lines=lines(("allowtcpforwarding", "no", ""), ("allowtcpforwarding", "yes", "")),
        ),
        "1s/.*/AllowTcpForwarding local/",
    ),
    (
        "a Match block beats it",
        replace(
            settings(allowtcpforwarding="no"),
            lines=lines(("allowtcpforwarding", "yes", ""), ("allowtcpforwarding", "no", "User ops")),
        ),
        "2s/.*/AllowTcpForwarding local/",
    ),
    (
        "everything off",
        replace(settings(disableforwarding="yes"), lines=lines(("disableforwarding", "yes", ""))),
        "1s/.*/DisableForwarding no/",
    ),
    (
        "other places only",
        replace(settings(permitopen="10.0.0.1:80"), lines=lines(("permitopen", "10.0.0.1:80", ""))),
        "1s/.*/PermitOpen 10.0.0.1:80 127.0.0.1:8188 127.0.0.1:11434 127.0.0.1:3000/",
    ),
]


@pytest.mark.parametrize(("sshd", "edit"), [row[1:] for row in FORBIDDEN], ids=[row[0] for row in FORBIDDEN])
def test_sshd_that_forbids_forwarding_is_a_humans_to_change(sshd: Sshd, edit: str) -> None:
    made = case(finished(), here=refused(), sshd=sshd)
    (finding,) = browser_access.diagnose(made)
    assert finding.mend == "invoke fix.browser-access --host prometheus"
    assert DROP_IN in finding.evidence
    section = browser_access.plan(made)
    assert not section.changes
    (blocked,) = section.blocked
    assert edit in blocked.mend
    assert blocked.mend.startswith("ssh -t ops@10.0.99.10 ")
    assert "sudo sshd -t && sudo systemctl reload ssh" in blocked.mend


def test_forwarding_that_is_forbidden_is_the_one_cause() -> None:
    made = case(finished(), here=refused(), sshd=settings(allowtcpforwarding="no"))
    found = diagnosis.diagnose(made)
    assert [cause.entry for cause in found.causes] == ["browser-access"]
    assert {finding.id for finding in found.causes[0].consequences} == {f"{name}.http-here" for name in SERVICES}
    assert not found.unknown


def test_a_single_port_that_is_refused_is_named() -> None:
    (finding,) = browser_access.diagnose(case(finished(), here=refused("openwebui"), sshd=settings()))
    assert "refuses to forward to openwebui" in finding.text
    assert finding.explains == ("openwebui.http-here",)


def test_a_restricted_key() -> None:
    sshd = replace(settings(), keys=("/home/ops/.ssh/authorized_keys:2: no-port-forwarding",))
    (blocked,) = browser_access.plan(case(finished(), here=refused(), sshd=sshd)).blocked
    assert "/home/ops/.ssh/authorized_keys:2" in blocked.mend


@pytest.mark.parametrize("sshd", [settings(), Unknown("sshd -T: exit 255"), None])
def test_a_refusal_that_the_files_do_not_tell_of(sshd: Any) -> None:
    (blocked,) = browser_access.plan(case(finished(), here=refused(), sshd=sshd)).blocked
    assert "systemctl reload ssh" in blocked.mend


def test_files_that_forbid_what_still_works_are_a_warning() -> None:
    made = case(finished(), here=here(), sshd=settings(allowtcpforwarding="no"))
    assert told(made) == []
    levels = {finding.id: finding.level for finding in browser_access.steps(made)}
    assert levels["browser-access.forwarding"] == "warn"
    assert browser_access.plan(made).is_ready


def test_a_command_for_a_human_holds_any_path() -> None:
    line = SshdLine("/etc/ssh/sshd_config.d/it's $(odd).conf", 1, "allowtcpforwarding", "no")
    sshd = replace(settings(allowtcpforwarding="no"), lines=(line,))
    (blocked,) = browser_access.plan(case(finished(), here=refused(), sshd=sshd)).blocked
    inner = shlex.split(shlex.split(blocked.mend)[-1])
    assert line.path in inner


# ---- healthy, and out of reach


def silent(facts: Facts, error: str = "Connection reset by peer", status: int = 0) -> Case:
    facts = replace(facts, http={**facts.http, "comfy": answer(status, error)})
    through = answer(status, error)
    bad = here(http={"comfy": through}, websocket={"comfy": through}, browser={"comfy": through})
    return case(facts, here=bad)


def test_a_healthy_container_that_listens_inside_only() -> None:
    facts = with_env(HOST, "comfy", COMFY_CMDLINE_EXTRA="--listen 127.0.0.1")
    made = silent(facts)
    (finding,) = browser_access.diagnose(made)
    assert finding.id == "browser-access.comfy.silent"
    assert "COMFY_CMDLINE_EXTRA=--listen 127.0.0.1" in finding.evidence
    found = diagnosis.diagnose(made)
    assert [cause.entry for cause in found.causes] == ["browser-access"]
    section = browser_access.plan(made)
    assert [change.stops for change in section.changes if change.stops] == [("comfy",)]
    assert "recreate" in section.changes[-1].what


def test_no_published_port_is_mended_by_a_new_container() -> None:
    made = silent(having(finished(), comfy=container(HOST, "comfy", ports=())), "Connection refused")
    assert "it publishes no port" in browser_access.diagnose(made)[0].evidence
    assert browser_access.plan(made).changes


def test_hosts_toml_that_says_so_itself_is_named() -> None:
    env = {**HOST.comfy.env, "COMFY_CMDLINE_EXTRA": "--listen 127.0.0.1"}
    host = replace(HOST, comfy=replace(HOST.comfy, env=env))
    facts = replace(finished(host), http={**finished(host).http, "comfy": answer(0, "Connection reset by peer")})
    made = case(facts, host=host, here=here(http={"comfy": answer(0, "closed")}))
    section = browser_access.plan(made)
    assert not section.changes
    assert "comfy.env.COMFY_CMDLINE_EXTRA in hosts.toml" in section.blocked[0].mend


@pytest.mark.parametrize(("status", "error"), [(500, ""), (0, "no answer within 2 s")])
def test_a_service_with_troubles_of_its_own_is_not_this(status: int, error: str) -> None:
    made = silent(finished(), error, status)
    assert told(made) == []
    assert broken(made) == ["comfy.host"]
    assert "docker logs" in browser_access.plan(made).blocked[0].mend


# ---- websocket, Host and Origin


def test_an_origin_that_is_refused() -> None:
    facts = with_env(HOST, "openwebui", CORS_ALLOW_ORIGIN="https://ai.example.org")
    made = case(facts, here=here(websocket={"openwebui": answer(403, reason="Forbidden")}))
    (finding,) = browser_access.diagnose(made)
    assert finding.id == "browser-access.openwebui.websocket"
    assert "CORS_ALLOW_ORIGIN=https://ai.example.org" in finding.evidence
    assert browser_access.plan(made).changes
    assert [cause.entry for cause in diagnosis.diagnose(made).causes] == ["browser-access"]


def test_websockets_that_somebody_switched_off_are_no_fault() -> None:
    facts = with_env(HOST, "openwebui", ENABLE_WEBSOCKET_SUPPORT="False")
    made = case(facts, here=here(websocket={"openwebui": answer(403, reason="Forbidden")}))
    assert told(made) == []
    assert [finding.id for finding in browser_access.steps(made) if finding.level == "warn"] == [
        "browser-access.openwebui.websocket"
    ]


def test_what_its_log_says_of_it_is_evidence() -> None:
    said = "WARNING: request with non matching host and origin 127.0.0.1:8188 != evil, returning 403"
    facts = having(finished(), comfy=container(HOST, "comfy", log_markers=("Starting server", said)))
    made = case(facts, here=here(browser={"comfy": answer(403, reason="Forbidden")}))
    (finding,) = browser_access.diagnose(made)
    assert finding.id == "browser-access.comfy.browser"
    assert said in finding.evidence
    # The container is as hosts.toml says: nothing here can mend it, and its log is the next place.
    assert "docker logs" in browser_access.plan(made).blocked[0].mend


@pytest.mark.parametrize("what", ["websocket", "browser"])
def test_a_try_that_was_cut_off_is_not_known_and_no_fault(what: str) -> None:
    made = case(finished(), here=here(**{what: {"comfy": answer(0, "no answer within 5 s")}}))
    assert told(made) == []
    unsure = [finding for finding in browser_access.steps(made) if finding.level == "unknown"]
    assert [finding.id for finding in unsure] == [f"browser-access.comfy.{what}"]


def test_nothing_publishes_a_port() -> None:
    """Whatever is wrong: what is offered never opens the network."""
    made = [case(finished(), here=refused(), sshd=s) for _, s, _ in FORBIDDEN]
    made += [silent(with_env(HOST, "comfy", COMFY_CMDLINE_EXTRA="--listen 127.0.0.1"))]
    texts: list[Finding] = [f for one in made for f in (*browser_access.plan(one).blocked, *browser_access.steps(one))]
    said = " ".join(f"{f.text} {f.mend}" for f in texts)
    assert "0.0.0.0" not in said
    assert "GatewayPorts" not in said
