"""Everybody is logged out of Open WebUI: the key that signs its sessions is missing, was changed, or lies in the
container and goes with it.

Whose sessions count is a question of time. A key file that is older than the container is the one that sessions were
signed with before somebody made the container by hand: it stays. One that is newer, missing or empty gets the key that
the running server signs with, so that nobody is logged out.
"""

from __future__ import annotations

from dataclasses import replace

from pantheon import layout, service, stack, webui
from pantheon.evidence import LoginKey
from pantheon.facts import Container, TextFile, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.plan import Change, Guard, Mend, SectionPlan

ID = "openwebui-logins"
CAUSE = "the key of Open WebUI's sessions is missing, was changed, or is kept inside the container"
RISK = (
    "Open WebUI stops for about a minute. Accounts and chats are not touched, and no key is shown. A session that was "
    "signed with another key than the one that is kept ends: its user logs in once more."
)
SOURCE = "DOMAIN.md"
FILE = "WEBUI_SECRET_KEY_FILE"
KEY = "WEBUI_SECRET_KEY"


def diagnose(case: Case) -> list[Finding]:
    found = webui.container(case)
    file = case.facts.files.get(layout.secret_key(case.host))
    if found is None:
        stopped = webui.broke_off(case, ID)
        return [stopped] if stopped else []
    findings = [_missing(case, file)] if _is_missing(case, file) else []
    if kept_inside := _kept_inside(case, found):
        findings.append(kept_inside)
    elif not findings and _is_newer(case):
        findings.append(_changed(case))
    if not findings and (stopped := webui.broke_off(case, ID)):
        findings.append(stopped)
    return findings


def _is_missing(case: Case, file: object) -> bool:
    """Not there, without a key in it, or no file at all (Docker makes a directory where it finds nothing to mount)."""
    login = case.evidence.login
    if isinstance(file, TextFile):
        return not file.size or (isinstance(login, LoginKey) and not login.changed_at)
    return file is None or (isinstance(file, Unknown) and "not a regular file but a directory" in file.reason)


def _missing(case: Case, file: object) -> Finding:
    path = layout.secret_key(case.host)
    evidence = f"{path}: no such file" if file is None else f"{path} is empty"
    if isinstance(file, Unknown):
        evidence = file.reason
    if _in_use(case) in ("same", "other"):
        evidence += "; the running server still has the key, and loses it with its container"
    text = "the key of Open WebUI's sessions is missing"
    follow = ("openwebui.up", "openwebui.http", "openwebui.http-here", "browser-access.openwebui*")
    return Finding(f"{ID}.missing", "fail", text, evidence, command(case, ID), SOURCE, follow)


def _kept_inside(case: Case, found: Container) -> Finding | None:
    """A container that signs with a key of its own: everybody is logged out whenever it is made anew."""
    path = layout.secret_key(case.host)
    mounted = any(m.target == stack.SECRET_IN_CONTAINER and m.source == path for m in found.mounts)
    by_hand = found.env.get(KEY)
    lines = []
    if isinstance(case.facts.images.get(case.host.openwebui.image), Unknown):
        by_hand = None  # what the image sets by itself cannot be told from what somebody set
    if by_hand is not None and not by_hand.from_image and KEY not in case.host.openwebui.env:
        lines.append(f"{KEY} is set by hand, where `docker inspect` shows it")
    elif webui.told(found, FILE) != stack.SECRET_IN_CONTAINER:
        lines.append(f"{FILE} is {webui.told(found, FILE) or 'not set'}")
    elif not mounted:
        lines.append(f"{path} is not mounted at {stack.SECRET_IN_CONTAINER}")
    if not lines:
        return None
    markers = found.log_markers if isinstance(found.log_markers, tuple) else ()
    made = [line for line in markers if "Generating" in line and KEY in line]
    lines += [f"its log says: {made[-1]}"] if made else []
    text = "Open WebUI signs its sessions with a key that is lost with its container"
    return Finding(f"{ID}.inside", "fail", text, "; ".join(lines), command(case, ID), SOURCE)


def at_stake(case: Case) -> Finding | None:
    """Why Open WebUI must not be stopped now by anything but this entry: its server alone has the key."""
    login, found = case.evidence.login, webui.container(case)
    if found is None or found.state != "running" or not isinstance(login, LoginKey) or login.in_use != "other":
        return None
    if login.changed_at and not _is_newer(case):
        return None  # the container was made by hand, and its sessions end with it in any case
    text = "to stop openwebui now would log everybody out: its server alone has the key of the sessions"
    mend = f"{command(case, ID)}, then the same command again"
    return Finding(f"{ID}.at-stake", "fail", text, layout.secret_key(case.host), mend, SOURCE)


def _is_newer(case: Case) -> bool:
    """Whether the key file was written after the container was made, and the server signs with another key."""
    login = case.evidence.login
    return isinstance(login, LoginKey) and login.in_use == "other" and login.changed_at > _second(login.created_at)


def _second(iso: str) -> str:
    """To the second, as file times are: 2026-11-21T23:01:04Z"""
    return f"{iso[:19]}Z" if iso else ""


def _in_use(case: Case) -> str:
    return case.evidence.login.in_use if isinstance(case.evidence.login, LoginKey) else "none"


def _changed(case: Case) -> Finding:
    login = case.evidence.login
    assert isinstance(login, LoginKey)
    text = "the key of Open WebUI's sessions was changed: its next start logs everybody out"
    evidence = (
        f"{layout.secret_key(case.host)} was written at {login.changed_at}, the container made at "
        f"{_second(login.created_at)}, and its server signs with another key"
    )
    return Finding(f"{ID}.changed", "fail", text, evidence, command(case, ID), SOURCE)


def plan(case: Case) -> SectionPlan:
    findings, found = diagnose(case), webui.container(case)
    if not findings:
        return SectionPlan(ID, reason=_reason(case, found))
    if found is None or any(finding.id == f"{ID}.stopped" for finding in findings):
        return replace(service.as_in_hosts_toml(case.host, case.facts, webui.NAME), name=ID)
    if webui.migration(case):
        return SectionPlan(ID, blocked=(webui.not_now(case, ID),))
    key = [] if all(finding.id == f"{ID}.inside" for finding in findings) else [_key(case, found, findings)]
    section = service.as_in_hosts_toml(case.host, case.facts, "openwebui")
    # The login key that a first start makes is ours to put there, with the one that is in use.
    own = [change for change in section.changes if change.what != "login key"]
    if section.blocked:
        return replace(section, name=ID, changes=())
    if any(finding.id == f"{ID}.inside" for finding in findings) and key == []:
        own = [replace(change, why=f"{change.why}; {_who_logs_in(case)}") for change in own]
    return SectionPlan(ID, (*key, *own), starts=("openwebui",))


def _key(case: Case, found: Container, findings: list[Finding]) -> Change:
    """The key put back. With one in use, nobody is logged out."""
    path = layout.secret_key(case.host)
    carried = _in_use(case) in ("same", "other")
    says = f"write the key that the running server signs with to {path}, unseen"
    if not carried:
        says = f"make a random key in {path}"
    elif all(finding.id != f"{ID}.missing" for finding in findings):
        says += ", and keep the one that is there beside it"
    why = "nobody is logged out by it" if carried else "everybody logs in once more: the key that was in use is lost"
    arguments: dict[str, object] = {"container": webui.NAME, "path": path, "carry": True}
    guards = (Guard("container", webui.NAME, found.id),)
    return Change("the key of the sessions", why, (Mend("webui_key", arguments, says, guards=guards, timeout_s=60),))


def _who_logs_in(case: Case) -> str:
    if _in_use(case) != "other":
        return "nobody is logged out by it"
    return "who has logged in since it was made so logs in once more; older sessions are good again"


def _reason(case: Case, found: Container | None) -> str:
    if found is None:
        return "there is no Open WebUI of ours on this host"
    if _in_use(case) == "same":
        return "Open WebUI signs with the key that is kept outside its container; who is logged out logs in once more"
    return "the key of Open WebUI's sessions is kept outside its container"
