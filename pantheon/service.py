"""What the sections comfy, ollama and openwebui share: from a service as it must be to the changes that make it so.

Procedure §4 to §6.
"""

from __future__ import annotations

from dataclasses import replace

from pantheon import advice, firstrun, foreign, layout, owners, stack
from pantheon.facts import Container, Docker, Entry, Facts, Image, TextFile, Unknown, digest
from pantheon.finding import Finding
from pantheon.inventory import SERVICES, Host
from pantheon.plan import Change, Guard, MakeSecret, Run, SectionPlan, Step, Write
from pantheon.takeover import moves

SOURCE = "procedure §4-§6"
PULL_S = 2 * 3600
UP_S = 600
ASKED = (0, 130, 143)  # exit codes of a process that was asked to end
KILLED = 137  # `docker kill`, or a stop that took too long; for want of memory, Docker says so besides
LAST_WORDS = 20  # lines of a log that say why a container has stopped
FOLLOWS = {"ollama": ("openwebui-ollama.down",)}  # findings that follow from a service that is not up
JSON_PROGRESS = (2, 29)  # the first Compose with `--progress json`


def plan(
    host: Host, facts: Facts, name: str, *, before: tuple[str, ...] = (), after: tuple[str, ...] = (), anew: str = ""
) -> SectionPlan:
    """The changes for one service. `before` and `after` name the sections that are applied ahead of it and behind it in
    the same run. `anew` says why its container is made anew in any case, for a fix that mends what lies under it."""
    blocked = foreign.stack_findings(host, facts)
    port = foreign.port_finding(host, facts, name)
    if port and not blocked:
        blocked.append(port)
    holder = foreign.port_holder(host, facts, name)
    if holder and holder.labels.get("pantheon.service") not in (*before, *after):
        blocked.append(_port_is_held(host, name, holder))
    blocked += moves.blocking(host, facts, name) if not blocked else []
    blocked += _not_ready(host, facts, name, before)
    if blocked:
        return SectionPlan(name, blocked=tuple(blocked))
    want = stack.wanted(host, name)
    changes = [*_files(host, facts, want), *_half_made(host, facts, name)]
    made = _container(host, facts, want, anew=anew)
    if made and holder and holder.labels.get("pantheon.service") in after:
        changes.append(_free_port(holder, want.port))
    changes += made
    return SectionPlan(name, tuple(changes), reason=f"127.0.0.1:{want.port}, as in hosts.toml")


def _port_is_held(host: Host, name: str, holder: Container) -> Finding:
    text = f"port {host.service(name).port} is still held by {holder.name}, which has another one in hosts.toml"
    return Finding(f"{name}.port", "fail", text, mend=f"invoke bringup --host {host.name}", source="procedure §5")


def _free_port(holder: Container, port: int) -> Change:
    """Two services change places: the one that holds the port stops, and is made anew on its own a little later."""
    guard = Guard("container", holder.name, holder.id)
    step = Run(("docker", "stop", holder.name), guards=(guard,), timeout_s=UP_S)
    return Change(f"stop {holder.name}, which frees port {port}", "ports change places", (step,), stops=(holder.name,))


def _not_ready(host: Host, facts: Facts, name: str, before: tuple[str, ...]) -> list[Finding]:
    """The service that this one needs and that is neither healthy now nor brought up ahead of it."""
    needs = stack.wanted(host, name).needs
    if not needs or needs in before:
        return []
    container = foreign.named(facts, needs)
    if container is not None and container.state == "running" and container.health == "healthy":
        return []
    state = f"{container.state}, {container.health}" if container else "no container"
    return [
        Finding(f"{name}.needs", "fail", f"{needs} is not healthy", state, f"invoke {needs} --host {host.name}", SOURCE)
    ]


def anew(host: Host, facts: Facts, name: str, *, why: str) -> SectionPlan:
    """What `plan` gives, the shared files ahead of it, and the container made anew in any case: for one that is as
    hosts.toml says and yet does not work. Nothing is kept in a container, and the image is the one that is there."""
    shared, own = common(host, facts), plan(host, facts, name)
    if shared.blocked or own.blocked:
        return SectionPlan(name, blocked=tuple(dict.fromkeys((*shared.blocked, *own.blocked))))
    changes = (*shared.changes, *_called(name, own.changes))
    started = any(isinstance(step, Run) and "up" in step.argv for change in changes for step in change.steps)
    return replace(own, changes=changes if started else (*changes, _recreate(host, facts, name, why)))


def _recreate(host: Host, facts: Facts, name: str, why: str) -> Change:
    container = foreign.named(facts, name)
    is_up = container is not None and container.state in ("running", "restarting", "paused")
    return Change(
        f"recreate {name}", why, (start(host, facts, name, "--force-recreate"),), stops=(name,) if is_up else ()
    )


def start(host: Host, facts: Facts, name: str, *flags: str) -> Run:
    """`docker compose up` of one service and of nothing that it depends on."""
    return _up_step(host, facts, name, Guard("container", name, facts.reading("container", name)), *flags)


def _up_step(host: Host, facts: Facts, name: str, guard: Guard, *flags: str) -> Run:
    wait = ("--wait", "--wait-timeout", "300") if name == "ollama" else ()
    argv = _compose(host, facts, "up", "-d", "--no-deps", *wait, *flags, name)
    return Run(argv, guards=(guard,), timeout_s=UP_S, progress="compose")


def common(host: Host, facts: Facts) -> SectionPlan:
    """What the three services share: the Compose file, and the secret environment files that it names. Compose reads
    all of them whichever service is started. Blocked where a stack of somebody else's is in the way."""
    blocked = foreign.stack_findings(host, facts)
    if blocked:
        return SectionPlan("stack", blocked=tuple(blocked))
    steps = _directory(facts, host.stack_dir, 0o755) + _directory(facts, layout.secrets(host), 0o700)
    steps += _text(facts, layout.compose_file(host), stack.compose_text(host), 0o644)
    for want in (stack.wanted(host, name) for name in SERVICES):
        if want.secret_env:
            steps += _secret_env(facts, layout.env_file(host, want.name), stack.env_text(want))
    new = facts.files.get(layout.compose_file(host)) is None
    why = f"the Compose project in {host.stack_dir} (§5)"
    changes = (Change("compose.yaml", why, tuple(steps), sign="+" if new else "~"),) if steps else ()
    return SectionPlan("stack", changes, reason="compose.yaml is as hosts.toml says")


def as_in_hosts_toml(host: Host, facts: Facts, *names: str) -> SectionPlan:
    """For a fix: these services made as hosts.toml says, the Compose file first. Empty when their containers are so."""
    chosen = [name for name in SERVICES if name in names]
    plans = [plan(host, facts, name, before=tuple(chosen[:i])) for i, name in enumerate(chosen)]
    if not any(section.changes or section.blocked for section in plans):
        return SectionPlan("stack", reason="the containers are as hosts.toml says")
    plans.insert(0, common(host, facts))
    named = [_called(section.name, section.changes) for section in plans]
    changes = tuple(change for several in named for change in several)
    blocked = tuple(dict.fromkeys(finding for section in plans for finding in section.blocked))
    return SectionPlan("stack", () if blocked else changes, blocked=blocked, starts=tuple(chosen))


def _called(name: str, changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Changes of one service as they read among those of others, under a fix's name: of which container."""
    if name not in SERVICES:
        return changes

    def is_said(change: Change) -> bool:
        of_docker = any(isinstance(step, Run) and step.argv[0] == "docker" for step in change.steps)
        return name in change.what or not of_docker

    return tuple(change if is_said(change) else replace(change, what=f"{name}: {change.what}") for change in changes)


def _files(host: Host, facts: Facts, want: stack.Wanted) -> list[Change]:
    """The files of one service's own beside the Compose file."""
    if want.name == "comfy":
        folder = layout.userscripts(host)
        steps = _directory(facts, folder, 0o755)
        steps += _text(facts, layout.userscript(host), stack.USERSCRIPT_TEXT, 0o755)
        what, why = "model links", "the script that links the shared models into ComfyUI (§6.2)"
    elif want.secret:
        steps = _login_key(facts, layout.secret_key(host))
        what, why = "login key", "made once, so that nobody is logged out by a new container"
    else:
        steps, what, why = [], "", ""
    return [Change(what, why, tuple(steps), sign="+")] if steps else []


def _directory(facts: Facts, path: str, mode: int) -> list[Step]:
    entry = facts.paths.get(path)
    if isinstance(entry, Entry) and entry.kind == "dir" and entry.mode == mode and entry.uid == 0:
        return []
    guard = Guard("path", path, facts.reading("path", path))
    return [Run(("install", "-d", f"-m{mode:04o}", "-o0", "-g0", "--", path), guards=(guard,))]


def _text(facts: Facts, path: str, text: str, mode: int) -> list[Step]:
    file = facts.files.get(path)
    before = ""
    if isinstance(file, TextFile):
        if file.text == text and file.mode == mode and (file.uid, file.gid) == (0, 0):
            return []
        before = file.text or ""
    return [Write(path, text, mode, before=before, guards=(Guard("sha256", path, facts.reading("sha256", path)),))]


def _secret_env(facts: Facts, path: str, text: str) -> list[Step]:
    """Compared by a digest keyed for this look: its content is never read back from the host."""
    file = facts.files.get(path)
    if isinstance(file, TextFile) and file.mode == 0o600 and file.uid == 0 and file.digest == digest(facts.nonce, text):
        return []
    return [Write(path, text, 0o600, secret=True, guards=(Guard("path", path, facts.reading("path", path)),))]


def _login_key(facts: Facts, path: str) -> list[Step]:
    file = facts.files.get(path)
    if isinstance(file, TextFile) and file.mode == 0o600 and file.uid == 0 and file.size > 0:
        return []
    return [MakeSecret(path, guards=(Guard("path", path, facts.reading("path", path)),))]


def _half_made(host: Host, facts: Facts, name: str) -> list[Change]:
    changes = []
    for container in foreign.half_made(host, facts):
        if container.name.endswith(f"_{name}"):
            guard = Guard("container", container.name, container.id)
            step = Run(("docker", "rm", "-f", container.id), guards=(guard,))
            why = "left by an interrupted recreate; nothing is kept in a container"
            changes.append(Change(f"remove half-made container {container.name}", why, (step,), sign="-"))
    return changes


def _container(host: Host, facts: Facts, want: stack.Wanted, *, anew: str = "") -> list[Change]:
    container, back = foreign.named(facts, want.name), []
    if renamed := foreign.renamed(host, facts, want.name):
        rename = Run(
            ("docker", "rename", renamed.id, want.name), guards=(Guard("container", renamed.name, renamed.id),)
        )
        back = [Change(f"rename {renamed.name} → {want.name}", "it was renamed by hand", (rename,))]
        container = renamed
    return back + _as_wanted(host, facts, want, container, anew=anew)


def _as_wanted(host: Host, facts: Facts, want: stack.Wanted, container: Container | None, *, anew: str) -> list[Change]:
    found = facts.images.get(want.image)
    image = found if isinstance(found, Image) else None
    image_guard = Guard("image", want.image, facts.reading("image", want.image))
    guard = Guard("container", want.name, container.id if container else "missing")
    pull: tuple[Step, ...] = ()
    if not image:
        pull = (
            Run(_compose(host, facts, "pull", want.name), guards=(image_guard,), timeout_s=PULL_S, progress="compose"),
        )
    pulled = f", pull about {host.service(want.name).image_gib:g} GiB" if pull else ""

    def up(*flags: str) -> Run:
        return _up_step(host, facts, want.name, guard, *flags)

    if container is None:
        first = ", first run 10-20 min (§7)" if want.name == "comfy" and not _installed(facts, host) else ""
        what = f"127.0.0.1:{want.port}{pulled}{first}"
        return [Change(what, "it is not there", (*pull, up()), sign="+")]
    differences = stack.differences(host, want, container, nonce=facts.nonce, image=image)
    if differences:
        stops = (want.name,) if container.state == "running" else ()
        steps = (*pull, up("--force-recreate"))
        return [Change(f"recreate{pulled}: {'; '.join(differences)}", "it differs from hosts.toml", steps, stops=stops)]
    if anew:
        stops = (want.name,) if container.state in ("running", "restarting", "paused") else ()
        return [Change(f"start anew{pulled}", anew, (*pull, up("--force-recreate")), stops=stops)]
    if is_crash_loop(container):
        # What made it fail may have been put right by now; Docker itself tries again ever more rarely.
        what = f"start anew (restarted {container.restarts} times, exit code {container.exit_code})"
        steps = (*_own_all(host, facts, want), *pull, up("--force-recreate"))
        return [Change(what, "it restarts over and over", steps, stops=(want.name,))]
    if container.state == "paused":
        return [Change("unpause", "it is paused", (Run(("docker", "unpause", want.name), guards=(guard,)),))]
    if container.state != "running":
        return [
            Change(f"start ({container.state}, exit code {container.exit_code})", "it is not running", (*pull, up()))
        ]
    return []


def stop(container: Container) -> Change:
    """Stops it, so that nothing happens in its directories, and Docker does not start it again by itself."""
    guard = Guard("container", container.name, container.id)
    step = Run(("docker", "stop", container.name), guards=(guard,), timeout_s=UP_S)
    return Change(f"stop {container.name}", "nothing may run in what is mended", (step,), stops=(container.name,))


def stopped_by_hand(container: Container) -> bool:
    """Whether it was ended from outside, and by nothing that went wrong: it would have been restarted otherwise."""
    asked = container.exit_code in (*ASKED, KILLED)
    return container.state == "exited" and asked and not container.error and not container.oom_killed


def is_crash_loop(container: Container) -> bool:
    """Docker says Running, too, in the middle of a restart loop (DOMAIN.md): the count tells."""
    return container.state == "restarting" or (
        container.restarts >= 3 and container.health in ("starting", "unhealthy")
    )


def _own_all(host: Host, facts: Facts, want: stack.Wanted) -> tuple[Step, ...]:
    """A wrong owner deep inside may be why ComfyUI fails (§6.1), and a look sees the beginning of a large tree only."""
    trees = [d for d in layout.directories(host) if want.name == "comfy" and facts.partly_seen(d.path)]
    guards = {d: Guard("path", d.path, f"dir {layout.COMFY}:{layout.COMFY} {d.mode:04o}") for d in trees}
    return tuple(owners.own_tree(d, guards=(guards[d],)) for d in trees)


def _installed(facts: Facts, host: Host) -> bool:
    venv = facts.paths.get(f"{layout.comfy_mnt(host)}/venv")
    return isinstance(venv, Entry)


def _compose(host: Host, facts: Facts, *arguments: str) -> tuple[str, ...]:
    progress = ("--progress", "json") if _compose_version(facts) >= JSON_PROGRESS else ()
    return ("docker", "compose", "-p", host.project, "-f", layout.compose_file(host), *progress, *arguments)


def _compose_version(facts: Facts) -> tuple[int, ...]:
    text = facts.docker.compose if isinstance(facts.docker, Docker) else None
    if not isinstance(text, str):
        return (0, 0)
    return tuple(int(part) for part in text.removeprefix("v").split(".")[:2] if part.isdigit())


def check(host: Host, facts: Facts, name: str) -> list[Finding]:
    """Up and healthy; a stack of somebody else's, a stopped or a failing container is a fail."""
    if not isinstance(facts.containers, tuple):
        reason = facts.containers.reason if isinstance(facts.containers, Unknown) else "Docker is not there"
        docker = facts.docker
        is_down = isinstance(docker, Docker) and docker.snap is None and isinstance(docker.engine, Unknown)
        mend = advice.fix(host.name, "docker-down") if is_down else f"invoke prereqs --host {host.name}"
        return [Finding(f"{name}.up", "unknown", f"{name}: not known", reason, mend, "procedure §8")]
    container = foreign.named(facts, name)
    if container is None:
        text, mend = f"{name} is not there", f"invoke {name} --host {host.name}"
        return [Finding(f"{name}.up", "fail", text, "", mend, "procedure §8", FOLLOWS.get(name, ()))]
    if not foreign.is_ours(host, container):
        return [f for f in foreign.stack_findings(host, facts) if f.id == f"stack.foreign.{name}"]
    return [_up(host, container)]


def _up(host: Host, container: Container) -> Finding:
    name = container.name
    health = container.health or "no healthcheck"
    evidence = f"{container.state}, {health}, {container.restarts} restarts since {container.started_at}"
    key, source = f"{name}.up", "procedure §8"
    if container.state == "running" and container.health == "healthy":
        return Finding(key, "ok", f"{name} is Up and healthy", evidence, source=source)
    if container.state == "running" and container.health == "starting" and container.restarts:
        text = f"{name} is starting again, after {container.restarts} restarts of its own"
        mend = advice.command(host.name, _last_words(container))
    elif container.state == "running" and container.health == "starting":
        text, mend = f"{name} is still starting{_stage(container)}", f"wait for it: invoke {name} --host {host.name}"
    elif container.state == "running" and container.health == "unhealthy":
        text, mend = f"{name} is Up but unhealthy", advice.command(host.name, _last_words(container))
    elif container.state == "running":
        return Finding(key, "ok", f"{name} is Up", evidence, source=source)
    else:
        text = f"{name} is {container.state} (exit code {container.exit_code})"
        mend = _gone(host, container)
        last = container.log[-1] if isinstance(container.log, tuple) and container.log else container.error
        evidence = f"{evidence}; {last}" if last else evidence
    return Finding(key, "fail", text, evidence, mend, source, FOLLOWS.get(name, ()))


def _stage(container: Container) -> str:
    """How far ComfyUI's first run is (§7)."""
    said = [lines for lines in (container.log_markers, container.log) if isinstance(lines, tuple)]
    at = firstrun.read(line for lines in said for line in lines) if container.name == "comfy" else firstrun.Progress()
    return f": {at.stage}/{len(firstrun.STAGES)} {at.label}; a first run takes 10-20 min (§7)" if at.stage else ""


def _gone(host: Host, container: Container) -> str:
    """What mends a container that does not run: the fix of what it died of, or its start where somebody stopped it."""
    if container.oom_killed:
        return advice.fix(host.name, "out-of-memory")
    if container.state == "restarting" or container.exit_code not in ASKED or container.error:
        return advice.command(host.name, (*_last_words(container), container.error))
    return f"invoke {container.name} --host {host.name}"


def _last_words(container: Container) -> tuple[str, ...]:
    return container.log[-LAST_WORDS:] if isinstance(container.log, tuple) else ()
