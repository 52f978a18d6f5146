"""Commands that are run in containers, where only the view from there tells: does Open WebUI reach its Ollama."""

from __future__ import annotations

import re

from pantheon.collecting import webui
from pantheon.looks import work
from pantheon.looks.engine import Engine, Missing, pairs_of
from pantheon.looks.text import Json, Object, Unread, unknown

MOST = 16
CURL_S = 2


def commands(spec: Object, root: str) -> Json:
    """evidence.Evidence.inside: "openwebui URL" -> what curl says in there about each Ollama that it is told of."""
    engine = Engine(root)
    try:
        found = engine.get(f"/containers/{webui.CONTAINER}/json")
    except Missing:
        return {}
    if not found["State"].get("Running") or found["State"].get("Paused"):
        return {}
    answers: Object = {}

    def ask(url: str) -> None:
        answers[f"{webui.CONTAINER} {url}"] = work.attempt(reach, engine, url)

    urls = dict.fromkeys(url for url in told(found["Config"]) + kept(spec, root) if url.strip())
    first = sorted(urls, key=lambda url: "//ollama" not in url.lower())  # of too many, those that are most likely ours
    work.each(first[:MOST], ask)
    return answers


def told(config: Object) -> list[str]:
    """What the environment says."""
    environment = dict(pairs_of(config))
    several = environment.get("OLLAMA_BASE_URLS") or environment.get("OLLAMA_BASE_URL") or ""
    return [clean(url.strip()) for url in several.split(";")]


def kept(spec: Object, root: str) -> list[str]:
    """What the database says."""
    try:
        found = webui.settings(spec, root)
    except Unread:
        return []
    return list(found["ollama_urls"] or ()) if found else []


def clean(url: str) -> str:
    """As collecting/webui.py shows it: without its login."""
    url = re.sub(r"(?is)^(\s*[a-z][a-z0-9+.-]*:/+)?.*@", r"\1***@", url)
    url = re.sub(r"(?s)([?#]).*", r"\1***", url)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in url)[: webui.URL_CHARS]


def reach(engine: Engine, url: str) -> Json:
    """facts.Command of curl in the container: 000 and the reason, or the status."""
    if "***" in url:
        return unknown("it has a login, which is not put on a command line")
    if not re.match(r"https?://", url, re.IGNORECASE):
        return {"status": 3, "output": "000 it is no http address\n"}
    argv = [
        "curl",
        "-gsS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} ",
        "--max-time",
        str(CURL_S),
        "--proto",
        "=http,https",
    ]
    done = engine.run_in(webui.CONTAINER, [*argv, "--", f"{url.rstrip('/')}/api/version"], CURL_S + 1.5)
    if done["status"] in (126, 127):
        raise Unread(f"curl does not run in there: {done['output'].strip()[:200]}")
    return done
