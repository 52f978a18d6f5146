"""The verbs around the procedure: hosts, facts, history, trust. Exit codes as in PRODUCT.md."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pantheon import engine
from pantheon.errors import Declined, LookFailed, NotTrusted, UsageError
from pantheon.inventory import SERVICES, Host, Inventory, as_data, to_toml
from pantheon.options import Options
from pantheon.report import data
from pantheon.report.text import count

if TYPE_CHECKING:
    from pantheon.report.console import Console

MOST_HISTORY = 10_000


def hosts(inventory: Inventory, *, as_json: bool, report: Console) -> int:
    """List the inventory; nothing is contacted."""
    if as_json:
        data.write({"path": inventory.path, "default": inventory.default,
                    "hosts": {name: as_data(host) for name, host in inventory.hosts.items()}})  # fmt: skip
        return 0
    report.headline(inventory.path)
    for name, host in inventory.hosts.items():
        port = f":{host.port}" if host.port else ""
        where = f"{host.user}@{host.address}{port}" if host.user else f"{host.address}{port}"
        mark = "  (default)" if name == inventory.default else ""
        ports = ", ".join(f"{service} {host.service(service).port}" for service in SERVICES)
        report.line(" ", name, f"{where}{mark}  {host.gpu.name}, driver {host.gpu.driver}; {ports}")
    return 0


def facts(host: Host, *, toml: bool, as_json: bool, options: Options, report: Console) -> int:
    """Show one look, or print the host's section of hosts.toml filled from it."""
    from pantheon import survey
    from pantheon.facts import to_data

    began = engine.began_at(options)
    report.connecting(host, "facts")
    with engine.connected(host, options) as connection:
        seen = engine.look(connection, host)
    report.settled()
    if as_json:
        # Without the nonce nobody who is shown the document can try values against its digests.
        data.write(to_data(replace(seen, nonce="")))
    elif toml:
        data.write_text(to_toml(survey.as_found(host, seen)))
    else:
        report.headline(f"{host.name}: facts", f"looked {time.monotonic() - began:.1f} s")
        for sign, name, text in survey.sheet(host, seen):
            report.line(sign, name, text)
    return 0


def history(host: Host, *, last: str, as_json: bool, options: Options, report: Console) -> int:
    """The audit log of the host, newest last: when, who, from where, version, plan, result."""
    if not last.isdecimal() or not 1 <= int(last) <= MOST_HISTORY:
        raise UsageError(f"--last must be a number from 1 to {MOST_HISTORY}, not {last!r}")
    report.connecting(host, "history")
    with engine.connected(host, options) as connection:
        file = "/var/log/pantheon/history.jsonl"
        found = connection.run(f"env LC_ALL=C tail -n {int(last)} {file}", warn=True, timeout=15)
    report.settled()
    if found.exited and "No such file" not in found.stderr:
        raise LookFailed(
            f"{connection.endpoint.label}: {file} cannot be read",
            details=[line for line in (found.stderr or found.stdout).splitlines() if line.strip()][-10:],
            next_commands=[f"invoke facts --host {host.name}"],
        )
    runs = [run for line in found.stdout.splitlines() if (run := _object(line))]
    if as_json:
        data.write({"host": host.name, "runs": runs})
        return 0
    report.headline(f"{host.name}: history")
    if not runs:
        report.say("nothing was ever changed here by pantheon")
    for run in runs:
        sign = {"done": "✓", "interrupted": "!"}.get(str(run.get("result")), "✗")
        when, who, what, result, plan = (run.get(key) or "?" for key in ("when", "who", "what", "result", "plan"))
        steps = f", {count(run['steps'], 'step')}" if isinstance(run.get("steps"), int) else ""
        result = f"{result} by {run['by']}" if run.get("by") else result
        report.prose(f"{sign} ", f"{when}  {who}  {what}{steps}: {result}")
        report.prose("    ", f"plan {plan}, version {run.get('version') or '?'}", "dim")
    return 0


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def trust(host: Host, *, fingerprint: str, new_key: bool, yes: bool, report: Console) -> int:
    """Fetch the host's key without logging in, show it, and record it after a yes. A gateway on the way whose key is
    not known comes first."""
    from pantheon.remote import known_hosts
    from pantheon.remote import trust as keys

    if fingerprint and not known_hosts.valid_fingerprint(fingerprint):
        raise UsageError(
            f"--fingerprint takes SHA256: and 43 characters, not {fingerprint!r}",
            next_commands=["on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"],
        )
    found = keys.examine(host)
    compare = f"on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_{found.key.kind}_key.pub"
    report.headline(f"TRUST {found.label}")
    report.say(f"  shown now: {found.key.type}  {found.key.fingerprint}")
    for old in found.old:
        report.say(f"  recorded:  {old.key.type}  {old.key.fingerprint}  in {old.file}:{old.line}")
    if found.state == "revoked":
        keys.record(found)  # raises the error that says who revoked it
    if fingerprint and fingerprint.rstrip("=") != found.key.fingerprint:
        raise NotTrusted(
            f"{found.label}: it shows {found.key.fingerprint}, not the fingerprint given; nothing was recorded",
            next_commands=[compare],
        )
    if found.state == "known":
        report.line("✓", host.name, "this key is known already")
        return 0
    if found.state == "changed" and not new_key:
        raise NotTrusted(
            f"{found.label}: another key is recorded for it (rebuilt, or somebody in between)",
            next_commands=[f"invoke trust --host {host.name} --replace"],
        )
    report.say(f"  Compare it {compare}", "dim")
    doing = "Replace the old entries with" if found.state == "changed" else "Trust"
    instead = f"invoke trust --host {host.name} --fingerprint SHA256:... with what the host's own console says"
    if not (fingerprint or yes or report.ask(f"{doing} this key for {host.name}?", instead=instead)):
        raise Declined(f"{host.name}: nothing was recorded")
    (keys.replace if found.state == "changed" else keys.record)(found)
    report.line("✓", host.name, f"recorded in {found.file}")
    report.next([f"invoke {'trust' if found.is_gateway else 'prereqs'} --host {host.name}"])
    return 0
