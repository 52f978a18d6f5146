"""The NVIDIA Container Toolkit (procedure §2) from NVIDIA's repository, and its CDI specification.

Docker's side of it, the nvidia runtime in daemon.json, is daemon_json.py's: nvidia-ctk says what it would add, and that
is merged into what is there.
"""

from __future__ import annotations

from pantheon.circumstances import CdiSpec
from pantheon.evidence import Evidence, Unit
from pantheon.facts import Docker, Facts, Nvml, Unknown
from pantheon.finding import Finding
from pantheon.install import apt
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.packages import Packages
from pantheon.plan import Change, Run

PACKAGE = "nvidia-container-toolkit"
BASE = "nvidia-container-toolkit-base"
CDI = "/etc/cdi/nvidia.yaml"
FIRST = "/var/run/cdi/"  # what lies there goes before what lies in /etc/cdi
REFRESH = "nvidia-cdi-refresh.service"


def missing(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages to install; () when the toolkit is there. Its -base alone has nvidia-ctk, and not the hook that
    Docker looks for."""
    del host
    if not isinstance(evidence.packages, Packages):
        return (PACKAGE,) if facts.toolkit is None else ()
    known = {name for name, about in evidence.packages.installed.items() if about.status == "installed"}
    if PACKAGE in known or (isinstance(facts.toolkit, str) and BASE not in known):
        return ()  # the latter: installed in some other way
    return (PACKAGE,)


def blocked(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Finding]:
    """Whether the toolkit is there: not known."""
    del options
    if not isinstance(facts.toolkit, Unknown) or missing(host, facts, evidence):
        return []
    text, mend = "NVIDIA Container Toolkit: not known", host.ssh("nvidia-ctk --version")
    return [Finding("prereqs.toolkit", "unknown", text, facts.toolkit.reason, mend, "procedure §2")]


def changes(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """Its package."""
    del options
    names = missing(host, facts, evidence)
    if not names:
        return []
    why = "containers get the GPU through it (§2)"
    return [Change("NVIDIA Container Toolkit", why, (apt.install(names),), sign="+")]


def present(host: Host, facts: Facts, evidence: Evidence) -> bool:
    """Whether it is there, or will be after `changes`."""
    return isinstance(facts.toolkit, str) or bool(missing(host, facts, evidence))


def holds(host: Host, facts: Facts, evidence: Evidence) -> tuple[str, ...]:
    """The packages whose upgrade changes what containers get."""
    return (PACKAGE,) if present(host, facts, evidence) else ()


def after(host: Host, facts: Facts, evidence: Evidence, options: Options) -> list[Change]:
    """The CDI specification, once the driver is loaded: it names the driver's files and devices, and one of an earlier
    driver names files that are gone. Where the toolkit keeps one itself (nvidia-cdi-refresh, from 1.18 on, in /run/cdi,
    which goes before /etc/cdi) that is left to it."""
    del options
    loaded = isinstance(facts.nvml, Nvml) and bool(facts.nvml.gpus) and facts.module_version == facts.library_version
    if not loaded or not isinstance(facts.toolkit, str) or missing(host, facts, evidence):
        return []
    if not isinstance(facts.docker, Docker):
        return []
    old = outdated(facts, evidence)
    if not old and (evidence.cdi if isinstance(evidence.cdi, tuple) else facts.docker.cdi):
        return []
    what, why = "CDI specification of the GPU", "what a container gets with the GPU (§2)"
    if old:
        why = f"{old[0].path} is of driver {', '.join(old[0].drivers)}, and {facts.library_version} is loaded (§2)"
    unit = evidence.units.get(REFRESH)
    if isinstance(unit, Unit) and not unit.enabled.startswith("masked"):
        steps = [Run(("systemctl", "restart", REFRESH), timeout_s=120)]
    else:
        steps = [step for path in [one.path for one in old] or [CDI] for step in _generate(path, keep=bool(old))]
    return [Change(what, why, tuple(steps), sign="~" if old else "+")]


def _generate(path: str, *, keep: bool) -> list[Run]:
    """What was there is kept under a name that no engine reads."""
    kept = [Run(("cp", "-a", "--backup=numbered", "-T", "--", path, path + apt.KEPT))] if keep else []
    return [*kept, Run(("nvidia-ctk", "cdi", "generate", f"--output={path}"), timeout_s=120)]


def used(specs: tuple[CdiSpec, ...]) -> tuple[CdiSpec, ...]:
    """Those that engines go by."""
    return tuple(one for one in specs if one.path.startswith(FIRST)) or specs


def outdated(facts: Facts, evidence: Evidence) -> tuple[CdiSpec, ...]:
    """The CDI specifications that engines go by, and that name another driver's libraries than those installed."""
    specs = used(evidence.cdi) if isinstance(evidence.cdi, tuple) else ()
    library = facts.library_version
    return tuple(one for one in specs if isinstance(library, str) and one.drivers and library not in one.drivers)
