"""What a look asks, made from the inventory. Apart from facts.py, whose dataclasses take 25 ms to import: the question
goes out before there is anything to read an answer into.
"""

from __future__ import annotations

from pantheon import layout
from pantheon.inventory import SERVICES, AtlasMount, Host

SCHEMA = 1
NFS_PORT = 2049

# Environment whose values may be shown: none of them can hold a secret. Everything else is compared by digest.
PLAIN_ENV = (
    *("WANTED_UID", "WANTED_GID", "SECURITY_LEVEL", "USE_UV", "UPDATE_UV", "USE_PIPUPGRADE", "DISABLE_UPGRADES"),
    *("TORCH_LOCK", "UMASK", "FORCE_CHOWN", "BASE_DIRECTORY", "COMFY_CMDLINE_EXTRA", "HF_HOME", "TZ"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OLLAMA_HOST", "OLLAMA_NO_CLOUD", "OLLAMA_KEEP_ALIVE"),
    *("OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_FLASH_ATTENTION"),
    *(
        "OLLAMA_NOPRUNE",
        "OLLAMA_BASE_URL",
        "OLLAMA_BASE_URLS",
        "ENABLE_OLLAMA_API",
        "WEBUI_SECRET_KEY_FILE",
        "ENABLE_OPENAI_API",
        "ENABLE_PERSISTENT_CONFIG",
    ),
    *("ENABLE_VERSION_UPDATE_CHECK", "ENABLE_COMMUNITY_SHARING", "ENABLE_IMAGE_GENERATION", "IMAGE_GENERATION_ENGINE"),
    *("OLLAMA_MODELS", "DATA_DIR", "COMFYUI_PATH", "HOME"),  # where a stack that is taken over keeps its data
    *("COMFYUI_BASE_URL", "COMFY_CMDLINE_BASE", "CORS_ALLOW_ORIGIN", "ENABLE_WEBSOCKET_SUPPORT"),
)

# Lines worth finding in a whole log, by container name (DOMAIN.md: first-run markers, fatal lines, proof of the GPU)
LOG_MARKERS = {
    "comfy": [
        "== Running as comfy",
        "== Cloning ComfyUI",
        "== Running ComfyUI",
        "Starting server",
        "To see the GUI go to:",
        "!! ERROR",
        "!! Exiting script",
        "ermission denied",
        "Read-only file system",
        "No module named",
        "fatal: ",
        "owned by unexpected user/group",
        "MUST be running as UID",
        "out of memory",
        "Allocation on device",
        "non matching host and origin",
    ],
    "ollama": ["Listening on", "inference compute", "Error: ", "out of memory", "requires more system memory"],
    "openwebui": [
        "Application startup complete",
        "Uvicorn running on",
        "ERROR",
        "Running upgrade",
        "Cannot connect to host",
        "WEBUI_SECRET_KEY",
        "is not an accepted origin",
    ],
}

# Directories in comfy-mnt whose owner and mode the image checks at each start, where they are there (DOMAIN.md); of the
# last git does, and the image may not let it say so.
COMFY_CHECKS = ("ComfyUI", "HF", "venv", "pip_cache", "tmp", "uv_cache", "ComfyUI/.git")


def questions(host: Host, *, nonce: str) -> dict[str, object]:
    """The spec of one look at `host`, JSON-ready: every directory of procedure §3 with its parents, our files, images
    and addresses. `nonce` keys the digests of this look."""
    directories = layout.directories(host)
    secrets = layout.secret_key(host)
    files = [layout.compose_file(host), layout.userscript(host), layout.kept_script(host), layout.TAKEOVER]
    secret_files = [secrets, *(layout.env_file(host, service) for service in SERVICES)]
    places = [directory.path for directory in directories]
    places += [host.storage.nvme, host.storage.ssd, host.stack_dir, layout.userscripts(host), *files, *secret_files]
    places += layout.other_compose_files(host)
    places += [f"{layout.comfy_mnt(host)}/{name}" for name in COMFY_CHECKS]
    comfy, ollama, openwebui = (f"http://127.0.0.1:{host.service(name).port}/" for name in SERVICES)
    return {
        "schema": SCHEMA,
        "nonce": nonce,
        "paths": sorted({ancestor for place in places for ancestor in layout.ancestors(place)}),
        "spaces": sorted({host.storage.nvme, host.storage.ssd}),
        "trees": [
            {"path": directory.path, "uid": directory.tree_owner[0], "gid": directory.tree_owner[1]}
            for directory in directories
            if directory.tree_owner
        ],
        "files": [{"path": path, "secret": False} for path in files]
        + [{"path": path, "secret": True} for path in secret_files],
        "images": sorted({host.service(name).image for name in SERVICES}),
        "http": {
            "comfy": comfy,
            "comfy/system_stats": f"{comfy}system_stats",
            "ollama": ollama,
            "openwebui": openwebui,
            "openwebui/ready": f"{openwebui}ready",
        },
        "groups": ["docker"],
        "plain_env": list(PLAIN_ENV),
        "log_tail": 50,
        "log_markers": {name: list(markers) for name, markers in LOG_MARKERS.items()},
        "gpu_in": ["comfy", "ollama"],
        "root": "",
        "deadline_s": 10,
    }


def matters(host: Host, *, nonce: str) -> dict[str, object]:
    """The spec of the evidence for a diagnosis (pantheon/collect.py), JSON-ready."""
    from pantheon.install import vendors
    from pantheon.symptoms import CLUES

    return {
        "schema": SCHEMA,
        "nonce": nonce,
        "root": "",
        "deadline_s": 10,
        "project": host.project,
        "stack_dir": host.stack_dir,
        "services": list(SERVICES),
        "ports": {name: host.service(name).port for name in SERVICES},
        "images": {name: host.service(name).image for name in SERVICES},
        "units": ["docker.service", "docker.socket", "containerd.service", "nvidia-cdi-refresh.service"],
        "installed": ["docker-ce", "docker.io", "containerd.io", "containerd", "nvidia-container-toolkit"],
        "key_files": [vendor.key_path for vendor in vendors.VENDORS],
        "driver": {"branch": host.gpu.driver, "variant": host.gpu.variant},
        "disks": {"nvme": host.storage.nvme, "ssd": host.storage.ssd},
        "beneath": sorted({host.storage.nvme, host.storage.ssd}),
        "stacked": sorted({host.storage.nvme, host.storage.ssd}),
        "touched": sorted({host.storage.nvme, host.storage.ssd, *(mount.mount for mount in host.atlas)}),
        "sources": [source for source in (host.storage.nvme_source, host.storage.ssd_source) if source],
        "atlas": [_share(mount) for mount in host.atlas],
        "comfy_mnt": layout.comfy_mnt(host),
        "overrides": list(layout.override_files(host)),
        "ollama_data": layout.ollama_data(host),
        "openwebui_data": layout.openwebui_data(host),
        "login_key": layout.secret_key(host),
        "outputs": layout.comfy_outputs(host),
        "models": layout.models(host),
        "open_trees": sorted({f"{host.storage.nvme}/ai", f"{host.storage.ssd}/ai", host.stack_dir}),
        "clues": [{"text": clue.text, "where": list(clue.where), "pattern": clue.pattern} for clue in CLUES],
    }


def _share(wanted: AtlasMount) -> dict[str, object]:
    """What is asked about a mount of Atlas: the place, and how its server is reached; port 0 where that is not TCP."""
    options = dict(option.partition("=")[::2] for option in wanted.options.split(","))
    version = options.get("nfsvers") or options.get("vers") or ("4" if wanted.type == "nfs4" else "3")
    server = wanted.export.partition(":/")[0].removeprefix("[").removesuffix("]")
    port = int(options["port"]) if options.get("port", "").isdecimal() else NFS_PORT
    if options.get("proto", "tcp") not in ("tcp", "tcp6") or {"udp", "rdma"} & options.keys():
        port = 0
    return {"mount": wanted.mount, "server": server, "port": port, "version": 3 if version.startswith("3") else 4}
