"""Open WebUI cannot reach Ollama."""

from __future__ import annotations

from lab import webui
from lab.breakages import Breakage, Proof
from lab.machine import Lab

ENTRY = "openwebui-ollama"
DATA = "/mnt/local/ssd/ai/projects/openwebui"
LOG = ("docker", "logs", "--tail", "50", "openwebui")
CURL = ("docker", "exec", "openwebui", "curl", "-sS", "--max-time", "2", "http://ollama:11434/api/version")


def wrong_in_the_database(lab: Lab) -> None:
    webui.setting(lab, "ollama.base_urls", ["http://host.docker.internal:11434"])
    webui.ask_for_models(lab)


def wrong_in_the_environment(lab: Lab) -> None:
    webui.with_other_environment(lab, OLLAMA_BASE_URL="http://localhost:11434", ENABLE_PERSISTENT_CONFIG="false")
    webui.ask_for_models(lab)


def another_network(lab: Lab) -> None:
    networks = lab.exec(
        "docker", "inspect", "-f", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}", "ollama"
    )
    for network in networks.stdout.split():
        lab.exec("docker", "network", "disconnect", network, "ollama")


def it_hangs(lab: Lab) -> None:
    lab.sh("kill -STOP $(docker top ollama -eo pid,comm | awk 'NR > 1 && $2 !~ /init|tini/ { print $1 }')")


def old_database(lab: Lab) -> None:
    """A release of before the settings had a row each."""
    webui.stand_in(lab, openwebui_old_schema=1)
    lab.sh(f"docker stop openwebui; rm -f {DATA}/webui.db*; docker start openwebui")
    webui.wait_ready(lab)
    wrong_in_the_database(lab)


def new_release(lab: Lab) -> None:
    """It starts again as today's release, and migrates."""
    webui.stand_in(lab, openwebui_old_schema=0)
    lab.sh("docker restart openwebui")
    webui.wait_ready(lab)


BREAKAGES = (
    Breakage(
        ENTRY,
        "database",
        "its database has host.docker.internal for Ollama, which beats the environment",
        wrong_in_the_database,
        Proof(LOG, "Cannot connect to host host.docker.internal:11434 ssl:default"),
    ),
    Breakage(
        ENTRY,
        "environment",
        "the container was made by hand, with localhost for Ollama",
        wrong_in_the_environment,
        Proof(LOG, "Cannot connect to host localhost:11434 ssl:default"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "network",
        "Ollama was taken off the network of the two",
        another_network,
        Proof(CURL, "Could not resolve host: ollama"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "hangs",
        "Ollama's server runs and answers nobody",
        it_hangs,
        Proof(CURL, "timed out"),
        slow=True,
    ),
    Breakage(
        ENTRY,
        "old-database",
        "the same in the database of an older release, which has one document for all settings",
        old_database,
        Proof(LOG, "Cannot connect to host host.docker.internal:11434 ssl:default"),
        heal=new_release,
        slow=True,
    ),
)
