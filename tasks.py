"""The command line: one task per section of the procedure and the few verbs around them. No logic here."""

from dataclasses import replace

from invoke import Collection

from lab.tasks import ns as lab
from pantheon.access import tunnel
from pantheon.cli import Call, command
from pantheon.incidents import diagnose, fix

INSTALL = {
    "install": "install what is missing: Docker Engine, NVIDIA driver, NVIDIA Container Toolkit",
    "remove_snap": "with --install: remove a Docker that came as a snap",
    "reboot": "reboot the host where the driver needs it",
}


@command(
    looks=True,
    changes=True,
    json=True,
    help=INSTALL
    | {
        "adopt": "take over a stack that somebody made by hand; its data is used in place or copied, never moved",
        "take": "with --adopt: which containers, where several are of one service: NAME,NAME",
        "undo": "bring back the stack that was taken over",
        "now": "do not wait for a job that runs in what will be stopped",
    },
)
def bringup(
    call: Call,
    install: bool = False,
    remove_snap: bool = False,
    reboot: bool = False,
    adopt: bool = False,
    take: str = "",
    undo: bool = False,
    now: bool = False,
) -> int:
    """All sections, in order: from whatever the host is to three validated services."""
    from pantheon import engine, procedure

    names = tuple(name.strip() for name in take.split(",") if name.strip())
    options = replace(
        call.options,
        install=install,
        remove_snap=remove_snap,
        reboot=reboot,
        adopt=adopt,
        take=names,
        undo=undo,
        now=now,
    )
    return engine.bring(call.host, procedure.ORDER, what="bringup", options=options, report=call.report)


@command(
    looks=True,
    changes=True,
    json=True,
    help=INSTALL | {"now": "do not wait for a job that runs in what will be stopped"},
)
def prereqs(
    call: Call, install: bool = False, remove_snap: bool = False, reboot: bool = False, now: bool = False
) -> int:
    """OS, GPU, driver, Docker, toolkit (section 2). Looks and judges; with --install, brings them about."""
    from pantheon import engine

    options = replace(call.options, install=install, remove_snap=remove_snap, reboot=reboot, now=now)
    return engine.prerequisites(call.host, options=options, report=call.report)


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


@command(
    looks=True,
    json=True,
    help={
        "format": "junit or html, on stdout",
        "compare": "an earlier audit (--json): show what has changed since",
        "fail_on": "exit 2 from this severity on: low (default), medium, high or critical",
    },
)
def audit(call: Call, format: str = "", compare: str = "", fail_on: str = "low") -> int:
    """Whether the host is what the procedure and the system page say it is, line by line."""
    from pantheon import auditing

    return auditing.audit(
        call.host,
        form=format,
        compare=compare,
        fail_on=fail_on,
        as_json=call.given["json"],
        options=call.options,
        report=call.report,
    )


@command(looks=True, changes=True, json=True, help={"now": "do not wait for a job that runs"})
def reboot(call: Call, now: bool = False) -> int:
    """Reboot the host in order: show what runs, wait for it, reboot, wait, validate."""
    from pantheon import rebooting

    return rebooting.reboot(call.host, options=replace(call.options, now=now), report=call.report)


@command(looks=True, changes=True, json=True, help={"verify": "try to write, and whose the files are, too"})
def atlas(call: Call, verify: bool = False) -> int:
    """The NFS mounts of Atlas: planned, applied, checked."""
    from pantheon import mounting

    return mounting.atlas(call.host, verify=verify, options=call.options, report=call.report)


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
for each in (diagnose, audit, atlas, reboot, facts, history, hosts, trust, runbook):
    ns.add_task(each)
ns.add_task(overview, default=True)
ns.add_collection(tunnel)
ns.add_collection(fix)
ns.add_collection(lab, name="lab")
