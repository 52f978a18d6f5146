"""What the entries about Open WebUI share: which addresses are in force, what they lead to, and how they are put right.

After the first start the database beats the environment, unless ENABLE_PERSISTENT_CONFIG is false (DOMAIN.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pantheon import foreign, layout
from pantheon.evidence import WebuiSettings
from pantheon.facts import Command, Container, Facts, Http
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.inventory import SERVICES, Host
from pantheon.plan import Change, Guard, Mend
from pantheon.stack import wanted

NAME = "openwebui"
OLLAMA = "http://ollama:11434"
URL_CHARS = 300  # of an address, as it is shown
UPGRADE, READY = "Running upgrade", "Application startup complete"
HERE = ("localhost", "host.docker.internal", "::1", "0.0.0.0")  # noqa: S104 - an address that is met, not bound

_URL = re.compile(
    r"\s*(?:(?P<scheme>[a-z][a-z0-9+.-]*):/+)?(?:[^@/?#\s]*@)?"
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<host>[^:/?#\s\[\]@]+))(?::(?P<port>\d{1,5}))?(?P<rest>[/?#]\S*)?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """A URL taken apart. `port` 0: none given."""

    scheme: str
    host: str
    port: int
    rest: str


def address(url: str) -> Address | None:
    """None for what is no URL, or one of a port that there cannot be."""
    found = _URL.fullmatch(url) if len(url) <= 2000 and url.isprintable() else None
    if not found or int(found["port"] or 0) > 65535:
        return None
    host = (found["six"] or found["host"]).lower().rstrip(".")
    return Address((found["scheme"] or "").lower(), host, int(found["port"] or 0), found["rest"] or "")


def leads_to(host: Host, url: str) -> str:
    """The service of ours that is meant by a URL, as a container, this host or a workstation may write it; "" for none:
    names without a port count for a service's own name alone."""
    found = address(url)
    if found is None:
        return ""
    if found.host in SERVICES:
        return found.host
    if found.host in (*HERE, host.address.lower(), host.name.lower()) or found.host.startswith("127."):
        ports = {host.service(name).port: name for name in SERVICES}
        ports |= {wanted(host, name).container_port: name for name in SERVICES if name != NAME}
        return ports.get(found.port, "")
    return ""


def is_right(url: str) -> bool:
    """Whether it is the address at which Open WebUI has our Ollama."""
    return address(url) in [Address("http", "ollama", 11434, rest) for rest in ("", "/")]


def container(case: Case) -> Container | None:
    """Open WebUI's, if it is ours."""
    found = foreign.named(case.facts, NAME)
    return found if found is not None and foreign.is_ours(case.host, found) else None


def is_ready(facts: Facts) -> bool:
    answer = facts.http.get("openwebui/ready")
    return isinstance(answer, Http) and answer.status == 200


def is_starting(case: Case, webui: Container) -> bool:
    """It is not that far yet: nothing can be said of it."""
    answer = case.facts.http.get("openwebui/ready")
    busy = isinstance(answer, Http) and answer.status == 503
    return webui.state == "running" and not is_ready(case.facts) and (busy or webui.health == "starting")


def migration(case: Case) -> str:
    """The log's word of a migration that runs now: to stop Open WebUI in it would break its database."""
    webui = container(case)
    if webui is None or webui.state != "running" or is_ready(case.facts) or not isinstance(webui.log_markers, tuple):
        return ""
    last = next((line for line in reversed(webui.log_markers) if UPGRADE in line or READY in line), "")
    return last if UPGRADE in last else ""


def not_now(case: Case, entry: str) -> Finding:
    """What forbids to stop Open WebUI while it migrates its database."""
    text = "openwebui is migrating its database, and must not be stopped in it"
    look = case.host.ssh(f"docker logs --tail=20 {NAME}")
    mend = f"wait until it is ready ({look}), then the same command again"
    return Finding(f"{entry}.migration", "fail", text, migration(case), mend)


def broke_off(case: Case, entry: str) -> Finding | None:
    """What a run of this fix left that was cut short after it had stopped Open WebUI, or taken its container away."""
    found, containers = foreign.named(case.facts, NAME), case.facts.containers
    if case.evidence.unfinished != f"fix.{entry}" or not isinstance(containers, tuple):
        return None
    if not foreign.is_down(case.host, found):
        return None
    evidence = f"{found.state}, exit code {found.exit_code}" if found else "there is no container"
    text = f"openwebui was not started again: the last fix.{entry} broke off"
    follow = ("openwebui.*", "browser-access.openwebui*")
    return Finding(f"{entry}.stopped", "fail", text, evidence, command(case, entry), explains=follow)


# ---- the settings in force


def persistent(webui: Container) -> bool:
    """Whether the database beats the environment."""
    value = told(webui, "ENABLE_PERSISTENT_CONFIG")
    elsewhere = webui.env.get("DATABASE_URL")
    return (value or "true").lower() == "true" and (elsewhere is None or elsewhere.from_image)


def told(webui: Container, name: str) -> str | None:
    """A value of the container's environment; None when it is not there or not shown."""
    found = webui.env.get(name)
    return found.value if found is not None else None


def told_urls(webui: Container) -> tuple[str, ...]:
    """Ollama's addresses in the environment. The image's own `/ollama` stands for host.docker.internal."""
    several = told(webui, "OLLAMA_BASE_URLS") or told(webui, "OLLAMA_BASE_URL") or "/ollama"
    several = several.replace("/ollama", "http://host.docker.internal:11434") if several == "/ollama" else several
    return tuple(clean(url.strip()) for url in several.split(";") if url.strip())


def clean(url: str) -> str:
    """As the evidence shows it (collecting/webui.py): without its login and what may be a key, controls as escapes."""
    url = re.sub(r"(?is)^(\s*[a-z][a-z0-9+.-]*:/+)?.*@", r"\1***@", url)
    url = re.sub(r"(?s)([?#]).*", r"\1***", url)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in url)[:URL_CHARS]


@dataclass(frozen=True)
class InForce:
    """Ollama's addresses as Open WebUI uses them, and where they stand: "database" or "environment"."""

    where: str
    enabled: bool
    urls: tuple[str, ...]
    off: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(url for url in self.urls if url.strip() and url not in self.off) if self.enabled else ()


def in_force(case: Case, webui: Container) -> InForce | None:
    """None when the database decides and could not be read."""
    enabled = (told(webui, "ENABLE_OLLAMA_API") or "true").lower() == "true"
    environment = InForce("environment", enabled, told_urls(webui))
    if not persistent(webui):
        return environment
    kept = case.evidence.webui
    if kept is None:
        return environment
    if not isinstance(kept, WebuiSettings):
        return None
    if kept.ollama_urls is None:
        return environment
    switched = environment.enabled if kept.ollama_enabled is None else kept.ollama_enabled
    return InForce("database", switched, kept.ollama_urls, kept.ollama_off)


def answer(case: Case, url: str) -> tuple[bool | None, str]:
    """Whether something answers at a URL as seen from inside Open WebUI (None: not known), and curl's own words."""
    seen = case.evidence.inside.get(f"{NAME} {url}")
    if not isinstance(seen, Command):
        return None, ""
    said = " ".join(seen.output.split())
    code = re.search(r"(?<!\d)(\d{3})$|^(\d{3})\b", said)
    number = (code[1] or code[2]) if code else "000"
    if number[0] == "2" or number in ("401", "403"):  # it wants a login of its own: somebody set that up
        return True, f"HTTP {number}"
    webui = container(case)
    if "curl: (60)" in said and webui and (told(webui, "AIOHTTP_CLIENT_SESSION_SSL") or "").lower() == "false":
        return True, "it answers, with a certificate that Open WebUI does not check"
    words = re.search(r"curl: \(\d+\).*?(?= 000\b|$)", said)
    if words or number != "000":
        return False, words[0] if words else f"HTTP {number}"
    return False, said.removeprefix("000").strip() or "no answer"


# ---- putting them right


def change(case: Case, changes: Sequence[dict[str, object]], why: str) -> Change:
    """Open WebUI stopped, its database kept beside itself, the settings changed, and started."""
    webui, kept = container(case), case.evidence.webui
    assert webui is not None
    assert isinstance(kept, WebuiSettings)
    words = "; ".join(_in_words(one) for one in changes)
    says = (
        f"stop openwebui, keep a copy of webui.db beside it ({kept.bytes / 1024**2:.1f} MiB), "
        f"change {words}; start openwebui"
    )
    database = f"{layout.openwebui_data(case.host)}/webui.db"
    arguments: dict[str, object] = {"container": NAME, "database": database, "changes": [*changes]}
    step = Mend("webui_settings", arguments, says, guards=(Guard("container", NAME, webui.id),), timeout_s=900)
    return Change(f"Open WebUI's settings: {words}", why, (step,), stops=(NAME,))


def _in_words(one: dict[str, object]) -> str:
    to = one["to"]
    if "from" in one:
        return f"{one['key']}: {one['from']} → {to}"
    if isinstance(to, dict):
        return f"{one['key']}: {', '.join(to)} switched on"
    return f"{one['key']}: {', '.join(to) if isinstance(to, list) else str(to).lower()}"
