"""The services made by hand, each in a way that the procedure forbids. The real ones run on, under other names."""

from __future__ import annotations

from collections.abc import Callable

from lab import planting
from lab.machine import Lab
from lab.planting import sh
from lab.violations import Violation

COMPOSE = "/opt/stacks/ai/compose.yaml"
VENV = "/mnt/local/nvme/ai/services/comfy-mnt/venv/bin"
ROUND = "by-hand"

# The names change places; nothing that runs is stopped, nor are the new ones started.
REPLACE = """
for name in comfy ollama openwebui; do docker rename "$name" "v-kept-$name"; done
image() { docker inspect -f '{{.Config.Image}}' "v-kept-$1"; }
docker create --name comfy -e WANTED_UID=1000 -v /srv/v-comfy:/comfy/mnt \
    -v /mnt/local/nvme/ai/models:/comfy/mnt/models "$(image comfy)"
docker create --name ollama -v v-ollama:/root/.ollama "$(image ollama)"
docker create --name openwebui -v v-webui:/app/backend/data "$(image openwebui)"
"""
PUT_BACK = """
for name in comfy ollama openwebui; do
    docker inspect "v-kept-$name" >/dev/null 2>&1 || continue
    docker rm -fv "$name" >/dev/null 2>&1 || true
    docker rename "v-kept-$name" "$name"
done
docker volume rm v-ollama v-webui >/dev/null 2>&1 || true
rmdir /srv/v-comfy/models /srv/v-comfy 2>/dev/null || true
"""


# On all addresses; the second Ollama has the shared models, writable, and a directory of Atlas besides.
OPTIONS = {
    "comfy": ("-p", "18188:8188"),
    "ollama": ("-p", "21434:11434", "-v", "/mnt/local/nvme/ai/models:/m", "-v", "/mnt/atlas/v-used:/a"),
    "openwebui": ("-p", "13000:8080"),
}


def publish(name: str) -> Callable[[Lab], None]:
    return lambda lab: planting.run(lab, name, f"v-{name}", *OPTIONS[name])


def unpublish(name: str) -> Callable[[Lab], None]:
    def undo(lab: Lab) -> None:
        planting.away(lab, f"v-{name}")
        lab.sh("rmdir /mnt/atlas/v-used /mnt/atlas 2>/dev/null || true")

    return undo


def native(lab: Lab) -> None:
    """An Ollama that somebody has installed on the host: a program of that name that listens."""
    lab.sh("mkdir -p /run/v; ln -sf /usr/bin/python3 /run/v/ollama")
    planting.listen(lab, "v-native", "127.0.0.1", 11500, program="/run/v/ollama")


def no_native(lab: Lab) -> None:
    planting.stop(lab, "v-native")
    lab.sh("rm -rf /run/v")


VIOLATIONS = (
    *(Violation(f"stack.{name}-bind", f"v-{name} is reachable", publish(name), unpublish(name)) for name in OPTIONS),
    Violation("stack.containerised", "ollama listens on 127.0.0.1:11500", native, no_native),
    Violation("stack.alone", "container v-comfy was started by hand"),
    Violation("stack.compose-file", COMPOSE, sh('echo "# edited" >>"$1"', COMPOSE),
              sh('sed -i "/^# edited$/d" "$1"', COMPOSE)),
    Violation("stack.declared", "comfy: restart policy", sh("docker update --restart=no comfy"),
              sh("docker update --restart=unless-stopped comfy")),
    Violation("stack.comfy-first-run", "venv/ is", sh('mv "$1" "$1.away"', VENV),
              sh('[ ! -e "$1.away" ] || mv "$1.away" "$1"', VENV)),
    Violation("stack.comfy-mount", "/comfy/mnt is /srv/v-comfy", sh(REPLACE), sh(PUT_BACK), round=ROUND),
    Violation("stack.comfy-sub-mounts", "/comfy/mnt/models", round=ROUND),
    Violation("stack.comfy-models", "is mounted inside /comfy/mnt", round=ROUND),
    Violation("stack.comfy-uid", "WANTED_UID is 1000", round=ROUND),
    Violation("stack.comfy-outputs", "nothing is mounted at /outputs", round=ROUND),
    Violation("stack.ollama-data", "/root/.ollama is", round=ROUND),
    Violation("stack.ollama-local", "OLLAMA_NO_CLOUD", round=ROUND),
    Violation("stack.openwebui-data", "/app/backend/data is", round=ROUND),
    Violation("stack.openwebui-ollama", "Open WebUI", round=ROUND),
)  # fmt: skip
