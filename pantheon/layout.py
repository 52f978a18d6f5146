"""The storage model (procedure §3): every directory of the stack, who owns it, and why."""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.inventory import Host

WALK_S = 4 * 3600  # a tree of some millions of files on a slow disk
TAKEOVER = "/var/lib/pantheon/takeover.json"  # what was taken over, and how it was before (takeover/record.py)
COMFY = 1024  # the UID and GID that the ComfyUI image demands (procedure §6.1)


@dataclass(frozen=True)
class Directory:
    """`tree_owner` is who must own everything inside, None where the services own what they write.
    A `group` of None leaves the group as `gid`; "docker" is looked up on the host."""

    name: str
    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    group: str = ""
    tree_owner: tuple[int, int] | None = None


def directories(host: Host) -> tuple[Directory, ...]:
    """All directories that the stack needs, parents first. ComfyUI/, venv/ and user/ inside comfy-mnt are not among
    them: an empty ComfyUI/ makes the image skip its clone (DOMAIN.md)."""
    nvme, ssd = f"{host.storage.nvme}/ai", f"{host.storage.ssd}/ai"
    mine = (COMFY, COMFY)
    return (
        Directory("nvme", nvme, 0o755),
        Directory("cache", f"{nvme}/cache", 0o755),
        Directory("models", f"{nvme}/models", 0o775, group="docker"),
        Directory("services", f"{nvme}/services", 0o755),
        Directory("comfy-mnt", comfy_mnt(host), 0o775, *mine, tree_owner=mine),
        Directory("ollama", ollama_data(host), 0o755),
        Directory("ssd", ssd, 0o755),
        Directory("outputs", f"{ssd}/outputs", 0o755),
        Directory("outputs/comfy", comfy_outputs(host), 0o775, *mine, tree_owner=mine),
        Directory("projects", f"{ssd}/projects", 0o755),
        Directory("projects/openwebui", openwebui_data(host), 0o755),
    )


def models(host: Host) -> str:
    return f"{host.storage.nvme}/ai/models"


def comfy_mnt(host: Host) -> str:
    return f"{host.storage.nvme}/ai/services/comfy-mnt"


def ollama_data(host: Host) -> str:
    return f"{host.storage.nvme}/ai/services/ollama"


def comfy_outputs(host: Host) -> str:
    return f"{host.storage.ssd}/ai/outputs/comfy"


def openwebui_data(host: Host) -> str:
    return f"{host.storage.ssd}/ai/projects/openwebui"


def compose_file(host: Host) -> str:
    return f"{host.stack_dir}/compose.yaml"


def other_compose_files(host: Host) -> tuple[str, ...]:
    """Names under which Compose finds a project in our directory, and that we do not use."""
    return tuple(f"{host.stack_dir}/{name}" for name in ("compose.yml", "docker-compose.yaml", "docker-compose.yml"))


def override_files(host: Host) -> tuple[str, ...]:
    """Files in our directory that Compose lays over compose.yaml when it is called there by hand. Ours names its file,
    and reads none of them."""
    stems = ("compose", "docker-compose")
    return tuple(f"{host.stack_dir}/{stem}.override.{end}" for stem in stems for end in ("yaml", "yml"))


def ancestors(path: str) -> list[str]:
    """`path` and everything above it except the root directory."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts) + 1) if parts[count - 1]]


def secrets(host: Host) -> str:
    return f"{host.stack_dir}/secrets"


def secret_key(host: Host) -> str:
    return f"{secrets(host)}/webui_secret_key"


def userscripts(host: Host) -> str:
    return f"{host.stack_dir}/comfy-userscripts"


def userscript(host: Host) -> str:
    """The hook that shows the shared models inside ComfyUI (§6.2)."""
    return f"{userscripts(host)}/10-shared-models.sh"


def env_file(host: Host, service: str) -> str:
    return f"{secrets(host)}/{service}.env"


def kept_script(host: Host) -> str:
    """The hook with which a repaired ComfyUI gets back what was set aside with the broken one (fix.comfy-first-run)."""
    return f"{userscripts(host)}/05-kept-files.sh"
