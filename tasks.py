"""The command line: one task per section of the procedure and the few verbs around them. No logic here."""

from invoke import Collection

from lab.tasks import ns as lab
from pantheon.access import tunnel
from pantheon.cli import Call, command
from pantheon.incidents import diagnose, fix


@command(looks=True, changes=True, json=True)
def bringup(call: Call) -> int:
    """All sections, in order: from a host with driver and Docker to three validated services."""
    from pantheon import engine, procedure

    return engine.bring(call.host, procedure.ORDER, what="bringup", options=call.options, report=call.report)


@command(looks=True, json=True)
def prereqs(call: Call) -> int:
    """OS, GPU, driver, Docker, toolkit (section 2). Looks and judges, changes nothing."""
    from pantheon import engine

    return engine.prerequisites(call.host, options=call.options, report=call.report)


@command(looks=True, changes=True, json=True)
def storage(call: Call) -> int:
    """Directories, owners, mounts (section 3)."""
    return _section(call, "storage")


@command(looks=True, changes=True, json=True)
def comfy(call: Call) -> int:
    """ComfyUI (sections 4-7): start it, or go on watching its first run."""
    return _section(call, "comfy")


@command(looks=True, changes=True, json=True)
def ollama(call: Call) -> int:
    """Ollama (sections 4, 5)."""
    return _section(call, "ollama")


@command(looks=True, changes=True, json=True)
def openwebui(call: Call) -> int:
    """Open WebUI (sections 4, 5)."""
    return _section(call, "openwebui")


def _section(call: Call, name: str) -> int:
    from pantheon import engine

    return engine.bring(call.host, (name,), what=name, options=call.options, report=call.report)


@command(looks=True, json=True)
def validate(call: Call) -> int:
    """The validation checklist (section 8)."""
    from pantheon import engine

    return engine.validate(call.host, options=call.options, report=call.report)


@command(looks=True, json=True, help={"toml": "as a section of hosts.toml, filled from what was found"})
def facts(call: Call, toml: bool = False) -> int:
    """Everything one look sees."""
    from pantheon import verbs

    return verbs.facts(call.host, toml=toml, as_json=call.given["json"], options=call.options, report=call.report)


@command(json=True, help={"last": "how many runs (default 20)"})
def history(call: Call, last: str = "20") -> int:
    """Who changed this host, when, with what result."""
    from pantheon import verbs

    return verbs.history(call.host, last=last, as_json=call.given["json"], options=call.options, report=call.report)


@command(host=False, json=True, help={"hosts_file": "another hosts.toml ($PANTHEON_HOSTS does the same)"})
def hosts(call: Call, hosts_file: str = "") -> int:
    """The hosts in hosts.toml."""
    from pantheon import verbs

    call.given["hosts_file"] = hosts_file
    return verbs.hosts(call.inventory, as_json=call.given["json"], report=call.report)


@command(
    help={
        "fingerprint": "trust exactly this SHA256:... without being asked, for scripts",
        "replace": "replace the old keys of a rebuilt host, in the user's known_hosts too",
        "yes": "agree to the key that is shown, without being asked",
    }
)
def trust(call: Call, fingerprint: str = "", replace: bool = False, yes: bool = False) -> int:
    """Fetch a host's key without logging in, show it, and record it after a yes."""
    from pantheon import verbs

    return verbs.trust(call.host, fingerprint=fingerprint, new_key=replace, yes=yes, report=call.report)


@command(host=False, help={"name": "a section or a fix, such as comfy; `list` shows all"})
def runbook(_: Call, name: str) -> int:
    """Read the page of a section in the terminal."""
    from pantheon.report import runbooks

    return runbooks.show(name)


@command(host=False)
def overview(_: Call) -> int:
    """What there is to type (this is what bare `invoke` prints)."""
    from pantheon.report import overview

    return overview.show()


ns = Collection(bringup, prereqs, storage, comfy, ollama, openwebui, validate)
for each in (diagnose, facts, history, hosts, trust, runbook):
    ns.add_task(each)
ns.add_task(overview, default=True)
ns.add_collection(tunnel)
ns.add_collection(fix)
ns.add_collection(lab, name="lab")
