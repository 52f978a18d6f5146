"""What judges have in common: findings of the sections and fixes as verdicts, and what to say of what is not known."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from pantheon import foreign
from pantheon.circumstances import Address
from pantheon.control import Status, Verdict
from pantheon.facts import Container, Unknown
from pantheon.finding import Finding, Level
from pantheon.incident import Case

STATUS: dict[Level, Status] = {"fail": "fail", "unknown": "unknown", "warn": "pass", "ok": "pass"}
WORST: tuple[Level, ...] = ("fail", "unknown", "warn", "ok")


def passed(evidence: str = "") -> Verdict:
    return Verdict("pass", evidence)


def unknown(value: object, *, mend: str = "") -> Verdict:
    """What could not be looked at: an Unknown says why; nothing at all was never asked for."""
    return Verdict("unknown", value.reason if isinstance(value, Unknown) else "it was not looked at", mend)


def missing(value: object, text: str) -> object:
    """The reason of an Unknown, or `text` where nothing is there. (An Unknown is false: `or` would lose it.)"""
    return Unknown(text) if value is None else value


def not_applicable(evidence: str) -> Verdict:
    return Verdict("not applicable", evidence)


def not_checkable(evidence: str, look: str) -> Verdict:
    """`look` is the place where a human sees it."""
    return Verdict("not checkable", evidence, look)


def of(case: Case, findings: Iterable[Finding], *ids: str, otherwise: Verdict | None = None) -> Verdict:
    """The worst of the findings with these ids; several as bad are told together. `otherwise` where there is none of
    them: a fix has no finding on what is fine."""
    found = [finding for finding in findings if finding.id in ids]
    if not found:
        return otherwise or Verdict("unknown", f"nothing was found out about {', '.join(ids)}", diagnose(case))
    level = next(level for level in WORST if any(finding.level == level for finding in found))
    worst = [finding for finding in found if finding.level == level]
    evidence = "\n".join(dict.fromkeys(filter(None, (told(finding) for finding in worst))))
    mend = next((finding.mend for finding in worst if finding.mend), "")
    if level in ("fail", "unknown") and not mend:
        mend = diagnose(case)
    return Verdict(STATUS[level], evidence, on_host(case, mend) if level in ("fail", "unknown") else "")


def told(finding: Finding) -> str:
    if finding.level == "ok" and finding.text in finding.evidence:
        return finding.evidence
    return f"{finding.text}\n{finding.evidence}" if finding.evidence else finding.text


def on_host(case: Case, mend: str) -> str:
    """A command for the host, said so: an audit is read elsewhere."""
    return f"on {case.host.name}: {mend}" if mend.startswith("sudo ") else mend


def on(case: Case, *argv: str) -> str:
    """What to type to run that on the host by ssh."""
    return case.host.ssh(shlex.join(argv))


def diagnose(case: Case) -> str:
    return f"invoke diagnose --host {case.host.name}"


def command(case: Case, name: str, *options: str) -> str:
    """`invoke NAME --host HOST`"""
    return " ".join(["invoke", name, *options, "--host", case.host.name])


def remade(case: Case, wrong: Iterable[Container]) -> str:
    """What makes these containers anew, as they should be: ours by a bring-up, a service's that is not ours by taking
    it over; of any other it is whoever made it."""
    these = list(wrong)
    if any(foreign.is_ours(case.host, one) for one in these):
        return command(case, "bringup")
    if foreign.service_of(case.host, case.facts, these[0]):
        return command(case, "bringup", "--adopt")
    return f"make {these[0].name} again without that, by whatever it was made with"


def containers(case: Case) -> tuple[Container, ...] | None:
    """All containers but those that are kept, stopped, from a takeover; none without a Docker; None where they are not
    known."""
    if not isinstance(case.facts.containers, tuple):
        return () if case.facts.containers is None and case.facts.docker is None else None
    kept = foreign.kept(case.facts)
    return tuple(one for one in case.facts.containers if one.id not in kept)


def container(case: Case, name: str) -> Container | Verdict:
    """The service's container, or the verdict where there is none to judge."""
    found = case.facts.container(name)
    if isinstance(found, Container):
        return unknown(Unknown(f"{name}: {found.unread}"), mend=diagnose(case)) if found.unread else found
    if containers(case) is not None:
        return not_applicable(f"there is no container {name}")
    return unknown(found if isinstance(found, Unknown) else Unknown("Docker is not there"), mend=diagnose(case))


# ---- addresses

Network = IPv4Network | IPv6Network


def network(text: str) -> Network | None:
    """A network of hosts.toml; None for what is none."""
    try:
        return ip_network(text, strict=False) if text else None
    except ValueError:
        return None


def is_in(address: str, wanted: Network | None) -> bool:
    try:
        return wanted is not None and ip_address(address) in wanted
    except ValueError:
        return False


def beyond(address: str) -> bool:
    """Whether who listens there can be reached from another machine; "" is every address."""
    return not (address.startswith(("127.", "::ffff:127.")) or address in ("::1", "localhost"))


def everywhere(address: str) -> bool:
    return address in ("", "*", "::", "0.0.0.0", "::ffff:0.0.0.0")  # noqa: S104


def outward(addresses: Iterable[Address]) -> list[Address]:
    """Those of interfaces that others reach: not loopback, nor a bridge without a NIC in it (Docker's, libvirt's)."""
    return [one for one in addresses if one.kind not in ("lo", "bridge")]


def place(address: str, port: int) -> str:
    shown = address or "*"
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
